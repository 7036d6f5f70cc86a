package statedir

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/rabbitconf"
)

// flagsFile is where RabbitMQ writes down which feature flags are enabled, by the variables of its
// environment and of rabbitmq-env.conf. This one it does not take without RABBITMQ_ (measured on
// 3.10.8, 4.0.5 and 4.3.6).
func flagsFile(c config.Config, getenv func(string) string) string {
	return cmp.Or(getenv("RABBITMQ_FEATURE_FLAGS_FILE"), filepath.Join(c.Base(getenv), c.Node+"-feature_flags"))
}

// Jump says why this image must not start on the volume and what to do, or "", and then
// what of it is not known. Its getenv is of [config.ServersVariables].
func Jump(c config.Config, image Versions, getenv func(string) string) (why, unknown string) {
	state, err := Of(c).Inspect()
	if err != nil { // preflight says so
		return "", ""
	}
	file := flagsFile(c, getenv)
	flags, err := rabbitconf.ReadFlags(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		unknown = err.Error()
	}
	last := Of(c).LastRan()
	if state.Role == "" && !state.Alone {
		if j := rabbitconf.Judge(last.Version, flags, image.Version); j.Down && holdsSomething(c) {
			return explain(j, last, image, file), ""
		}
		return blankJump(image, file, flags), ""
	}
	asked := flags
	if state.Role == Joining || state.Alone { // not in the cluster yet, which brings its flags
		asked = nil
	}
	j := rabbitconf.Judge(last.Version, asked, image.Version)
	switch {
	case j.Verdict == rabbitconf.Unsupported:
		return explain(j, last, image, file), ""
	case j.From == (rabbitconf.Version{}):
		return "", cmp.Or(unknown, "nothing on the volume tells which RabbitMQ ran on it last")
	case j.Verdict == rabbitconf.Unknown && j.Bound:
		return "", fmt.Sprintf("RabbitMQ %s or a later one ran last, say its feature flags (%s), and this is %s", j.From, file, image)
	case j.Verdict == rabbitconf.Unknown:
		return "", fmt.Sprintf("%s ran last, and this is %s, which is newer than what this program knows of upgrades", last, image)
	}
	return "", cmp.Or(unknown, erlangJump(last.Erlang, image.Erlang))
}

// holdsSomething reports whether there is anything in RabbitMQ's directory. A volume that a
// newer version has begun to move into Khepri has no database that an older one would know. An
// older version that goes on with it takes the other nodes down (measured: 4.0.5 after 4.3.6).
func holdsSomething(c config.Config) bool {
	entries, err := os.ReadDir(c.Data)
	return err == nil && len(entries) > 0
}

// blankJump tells of feature flags that an older RabbitMQ left beside a directory that is
// gone: a newer server dies of them (measured: 4.3.6 of those of 3.10.8). From 4.1 on what
// became required after 4.0 is enabled by the server itself.
func blankJump(image Versions, file string, flags []string) string {
	least := rabbitconf.AtLeast(flags)
	if least == (rabbitconf.Version{}) || least.AtLeast(image.Version.Major, image.Version.Minor) {
		return ""
	}
	required := image.Version
	if hard := (rabbitconf.Version{Major: 4}); required.Compare(hard) > 0 {
		required = hard
	}
	missing := rabbitconf.Missing(flags, required)
	if len(missing) == 0 {
		return ""
	}
	return fmt.Sprintf("this volume holds no database, but %s, which RabbitMQ %s or a later one left: %s would end at once, for %s are not enabled there; remove that file, or use an empty volume", file, least, image, strings.Join(missing, ", "))
}

// erlangJump tells of an Erlang that is a major version older than the one that ran last.
func erlangJump(last, image string) string {
	major := func(v string) (n int) { _, _ = fmt.Sscanf(v, "%d", &n); return n }
	if a, b := major(last), major(image); a > 0 && b > 0 && b < a {
		return fmt.Sprintf("Erlang %s ran last, this image has Erlang %s", last, image)
	}
	return ""
}

// explain says what ran last, why this image must not follow, and the way to go.
func explain(j rabbitconf.Jump, last, image Versions, file string) string {
	ran := fmt.Sprintf("%s ran on this volume last", last)
	back := fmt.Sprintf("start this node from an image of RabbitMQ %s", j.From)
	if j.Bound {
		ran = fmt.Sprintf("RabbitMQ %s or a later one ran on this volume last, as its feature flags say (%s)", j.From, file)
		back = fmt.Sprintf("start this node from the image that it had, of RabbitMQ %s or later", j.From)
	}
	const empty = "if it does not serve there, an empty volume lets the node join its cluster again"
	switch {
	case j.Down && j.From.Major == j.To.Major && j.From.Minor == j.To.Minor:
		return fmt.Sprintf("%s, this image has %s, and RabbitMQ supports no downgrade, though one from patch release to patch release often works; %s, or of a later %s", ran, image, back, j.From.Series())
	case j.Down:
		return fmt.Sprintf("%s, this image has %s, and RabbitMQ supports no downgrade; %s; %s", ran, image, back, empty)
	case j.Store:
		return fmt.Sprintf("%s, with Khepri (feature flag khepri_db), which no later version reads as 3.13 had it, and this image has %s; %s; to 4.x leads only a new cluster beside this one, and moving over to it", ran, image, back)
	}
	why := fmt.Sprintf("%s, and this image has %s", ran, image)
	if from := rabbitconf.Froms(j.To); from != "" && !j.Bound && rabbitconf.Upgrade(j.From, j.To) == rabbitconf.Unsupported {
		why += ", which takes only volumes of " + from
	}
	if len(j.Missing) > 0 {
		why += fmt.Sprintf("; %s requires feature flags that are not enabled here: %s", j.To.Series(), strings.Join(j.Missing, ", "))
	}
	why += "; " + back
	if way := j.Path; len(way) > 1 {
		why += "; the next version to go to is " + rabbitconf.Least(way[0])
		for _, v := range way[1 : len(way)-1] {
			why += ", then " + rabbitconf.Least(v)
		}
		why += ", then " + j.To.Series() + ", node by node; before each step"
	} else {
		why += "; before it is upgraded"
	}
	why += ", while all members run, `rabbitmqctl enable_feature_flag all` is to be run in one of them"
	if slices.Contains(j.Missing, "khepri_db") { // where it is experimental, all does not enable it
		why += ", and for 4.3 `rabbitmqctl enable_feature_flag khepri_db`"
	}
	return why
}
