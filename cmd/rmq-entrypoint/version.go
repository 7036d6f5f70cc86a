package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// A server of a version that RabbitMQ does not support on a volume, or beside the other
// members, takes more down than itself: one 4.3 node in a 4.0 cluster, and back, stopped
// the other nodes' virtual hosts (measured). So versions are judged before anything is
// touched, from files and one look at Consul, without starting an Erlang VM:
//
//   - The volume. What ran last is the highest that its witnesses say: the stamp, written
//     before each start of a server, because a start that came to nothing may have changed
//     the volume; the marker, so that a jump that was let through counts once it served;
//     and the feature flags that RabbitMQ wrote down as enabled, which tell for a volume
//     of the official image's, or one that it ran between two of our starts. These are a
//     bound, and no upgrade is refused for a bound, but for flags that are not enabled.
//   - The others. Only nodes that run, those whose check has not lapsed, bind this one: a
//     full stop may end in an upgrade of all. What is on record is told, and binds nobody.
//     A supported upgrade is a supported mix, so members never keep each other from starting.
//
// What is not known refuses nobody: a member starts, and the log says what is not known.
// Erlang's version is kept and told, and refuses nobody: of volumes that another one wrote
// RabbitMQ's documentation says nothing, and each release names those that it runs on.

// stampFile says what is about to run, or ran, on the volume.
type stampFile struct {
	RabbitMQ string    `json:"rabbitmq"`
	Erlang   string    `json:"erlang,omitempty"`
	At       time.Time `json:"at"` // when it was started
}

func (v volume) stamp(version rabbitconf.Version, erlang string, now time.Time) error {
	return writeJSON(v.file("version"), stampFile{version.String(), erlang, now.UTC()})
}

// A runs is what runs, or ran.
type runs struct {
	Version rabbitconf.Version // zero: not known
	Erlang  string             // empty: not known
}

func (r runs) String() string {
	if r.Erlang == "" {
		return "RabbitMQ " + r.Version.String()
	}
	return fmt.Sprintf("RabbitMQ %s (Erlang %s)", r.Version, r.Erlang)
}

// ranLast returns what ran on the volume by its stamp and marker. One that cannot be read
// is none: inspect tells of it.
func (v volume) ranLast() (last runs) {
	if s, err := readJSON[stampFile](v.file("version")); err == nil && s != nil {
		version, _ := rabbitconf.ParseVersion(s.RabbitMQ)
		last = runs{version, s.Erlang}
	}
	if m, err := v.member(); err == nil && m != nil {
		version, _ := rabbitconf.ParseVersion(m.RabbitMQ)
		if version.Compare(last.Version) > 0 {
			last = runs{version, m.Erlang}
		}
	}
	return last
}

// imageRuns returns what this image runs, from its variable and its files.
func imageRuns(getenv func(string) string) (r runs) {
	r.Version, _ = rabbitconf.ParseVersion(getenv("RABBITMQ_VERSION"))
	if r.Version == (rabbitconf.Version{}) { // the server's own application, as <root>/plugins/rabbit-4.3.6
		if path, err := exec.LookPath("rabbitmq-server"); err == nil {
			if path, err = filepath.EvalSymlinks(path); err == nil {
				found, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "..", "plugins", "rabbit-[0-9]*"))
				for _, f := range found {
					r.Version, _ = rabbitconf.ParseVersion(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(f), "rabbit-"), ".ez"))
				}
			}
		}
	}
	if path, err := exec.LookPath("erl"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			r.Erlang = erlangAt(filepath.Join(filepath.Dir(path), ".."))
		}
	}
	return r
}

// erlangAt returns the version of the Erlang whose root directory that is: the release
// that starts by default, to the patch.
func erlangAt(root string) string {
	b, _ := os.ReadFile(filepath.Join(root, "releases", "start_erl.data")) // "15.2.7 27"
	f := strings.Fields(string(b))
	if len(f) != 2 {
		return ""
	}
	b, err := os.ReadFile(filepath.Join(root, "releases", f[1], "OTP_VERSION"))
	if err != nil {
		return f[1]
	}
	return strings.TrimRight(strings.TrimSpace(string(b)), "*") // patched by hand
}

// flagsFile is where RabbitMQ writes down which feature flags are enabled.
func flagsFile(c config, getenv func(string) string) string {
	base := cmp.Or(getenv("RABBITMQ_MNESIA_BASE"), filepath.Join(c.Home, "mnesia"))
	return cmp.Or(getenv("RABBITMQ_FEATURE_FLAGS_FILE"), filepath.Join(base, c.Node+"-feature_flags"))
}

// Bounds of the look at the others, so that a refusal takes less than a second, and a
// member is not kept from starting by a Consul that is slow.
const (
	lookToTell  = 600 * time.Millisecond
	lookToJudge = 2 * time.Second
)

// refuseJump is the check of versions. It changes nothing anywhere, and returns what this
// image runs, and what of the check is not known, to be said once the node starts.
func refuseJump(ctx context.Context, log *slog.Logger, cfg config) (image runs, doubts []string, err error) {
	image = imageRuns(os.Getenv)
	if image.Version == (rabbitconf.Version{}) {
		return image, []string{"which RabbitMQ this image has is not known from its files (RABBITMQ_VERSION)"}, nil
	}
	why, unknown := jump(cfg, image, os.Getenv)
	bound := lookToJudge
	if why != "" {
		bound = lookToTell
	}
	look, done := context.WithTimeout(ctx, bound)
	defer done()
	o := lookAround(look, cfg, log)
	if why == "" {
		why = o.mix(image, volumeOf(cfg).ranLast())
	}
	if why == "" {
		if unknown != "" {
			doubts = append(doubts, unknown)
		}
		if o.err != nil {
			doubts = append(doubts, fmt.Sprintf("which versions the other members run: %v", o.err))
		}
		return image, doubts, nil
	}
	why += o.tell()
	if cfg.AllowJump {
		log.Error("A JUMP OF VERSIONS IS LET THROUGH (--allow-version-jump, RMQ_ALLOW_VERSION_JUMP): there may be no way back, and other nodes may be taken down", "why", why)
		return image, nil, nil
	}
	return image, nil, refusedJump(why)
}

func refusedJump(why string) error {
	return fmt.Errorf("refusing to start, nothing was changed: %s. To start all the same, where data and other nodes may be lost: --allow-version-jump (RMQ_ALLOW_VERSION_JUMP=true)", why)
}

// jump says why this image must not start on the volume and what to do, or "", and then
// what of it is not known.
func jump(c config, image runs, getenv func(string) string) (why, unknown string) {
	state, err := volumeOf(c).inspect()
	if err != nil { // preflight says so
		return "", ""
	}
	file := flagsFile(c, getenv)
	flags, err := rabbitconf.ReadFlags(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		unknown = err.Error()
	}
	last := volumeOf(c).ranLast()
	if state.role == "" && !state.alone {
		if j := rabbitconf.Judge(last.Version, flags, image.Version); j.Down && holdsSomething(c) {
			return explain(c, j, last, image, file), ""
		}
		return blankJump(image, file, flags), ""
	}
	asked := flags
	if state.role == joining || state.alone { // not in the cluster yet, which brings its flags
		asked = nil
	}
	j := rabbitconf.Judge(last.Version, asked, image.Version)
	switch {
	case j.Verdict == rabbitconf.Unsupported:
		return explain(c, j, last, image, file), ""
	case j.From == (rabbitconf.Version{}):
		return "", cmp.Or(unknown, "nothing on the volume tells which RabbitMQ ran on it last")
	case j.Verdict == rabbitconf.Unknown && j.Bound:
		return "", fmt.Sprintf("RabbitMQ %s or a later one ran last, say its feature flags (%s), and this is %s", j.From, file, image)
	case j.Verdict == rabbitconf.Unknown:
		return "", fmt.Sprintf("%s ran last, and this is %s, which is newer than what this program knows of upgrades", last, image)
	}
	return "", cmp.Or(unknown, erlangJump(last.Erlang, image.Erlang))
}

// holdsSomething reports whether there is anything in RabbitMQ's directory. What a newer
// version has begun to move into Khepri has no database that an older one would know, and
// an older one that goes on with it takes the others' down (measured: 4.0.5 after 4.3.6).
func holdsSomething(c config) bool {
	entries, err := os.ReadDir(c.Data)
	return err == nil && len(entries) > 0
}

// blankJump tells of feature flags that an older RabbitMQ left beside a directory that is
// gone: a newer server dies of them (measured: 4.3.6 of those of 3.10.8). From 4.1 on what
// became required after 4.0 is enabled by the server itself.
func blankJump(image runs, file string, flags []string) string {
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
func explain(c config, j rabbitconf.Jump, last, image runs, file string) string {
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

// around is what Consul says of the other nodes.
type around struct {
	peers  []peers.Peer
	record peers.Record
	me     string
	err    error // not known, and why
}

// lookAround asks Consul once who is there.
func lookAround(ctx context.Context, c config, log *slog.Logger) (o around) {
	o.me = c.Node
	client, err := newConsul(c, log).use(ctx)
	if err == nil {
		o.peers, _, err = peers.Catalog(ctx, client, c.Service, c.Node)
	}
	if err == nil {
		o.record, _, err = peers.ReadRecord(ctx, client, c.recordKey())
	}
	o.err = err
	return o
}

// running returns the other nodes of the cluster on record that run, by the version they
// say they have.
func (o around) running() map[string]rabbitconf.Version {
	m, newest := map[string]rabbitconf.Version{}, map[string]peers.Peer{}
	for _, p := range o.peers {
		ours := p.ClusterID == "" || o.record.ClusterID == "" || p.ClusterID == o.record.ClusterID
		other, twice := newest[p.Node] // with the agent that it had before
		if !p.Beating || p.AgentFailed || !ours || twice && !p.Newer(other) {
			continue
		}
		newest[p.Node] = p
		if v, err := rabbitconf.ParseVersion(p.Version); err == nil {
			m[p.Node] = v
		}
	}
	return m
}

// mix says beside which nodes that run this image's server must not, and what to do, or "".
func (o around) mix(image, last runs) string {
	if o.err != nil {
		return ""
	}
	running := o.running()
	var against []string
	for _, n := range slices.Sorted(maps.Keys(running)) {
		if rabbitconf.Mix(image.Version, running[n]) == rabbitconf.Unsupported {
			against = append(against, n)
		}
	}
	if len(against) == 0 {
		return ""
	}
	first := running[against[0]]
	why := fmt.Sprintf("%s in this image and RabbitMQ %s of %s cannot run in one cluster", image, first, strings.Join(against, ", "))
	path := rabbitconf.Path(image.Version, first)
	switch {
	case last.Version == (rabbitconf.Version{}):
		return why + fmt.Sprintf("; start this node from an image of RabbitMQ %s", first)
	case len(path) > 1: // the others went on without it
		return why + fmt.Sprintf("; the next version to go to is %s: start this node from an image of it first", rabbitconf.Least(path[0]))
	case image.Version.Compare(first) > 0:
		return why + fmt.Sprintf("; go back to an image of RabbitMQ %s here, and bring %s to a version that %s takes first (%s)", last.Version, against[0], image.Version.Series(), rabbitconf.Froms(image.Version))
	}
	return why + fmt.Sprintf("; this volume is of RabbitMQ %s, from which there is no way to %s but an empty volume, on which the node joins again", last.Version, first)
}

// tell says what the other members run, or ran when they were last verified.
func (o around) tell() string {
	if o.err != nil {
		return fmt.Sprintf(". What the other members run cannot be told: %v", o.err)
	}
	running := o.running()
	said := map[string]string{}
	for n := range o.record.Members {
		said[n] = n + " does not run, its version is not known"
		if v := o.record.Versions[n]; v != "" {
			said[n] = fmt.Sprintf("%s does not run, and had %s", n, v)
		}
	}
	for n, v := range running {
		said[n] = fmt.Sprintf("%s runs %s", n, v)
	}
	delete(said, o.me)
	if len(said) == 0 {
		return ""
	}
	var all []string
	for _, n := range slices.Sorted(maps.Keys(said)) {
		all = append(all, said[n])
	}
	return ". The other members: " + strings.Join(all, ", ")
}

// cannotMix refuses a blank node that would join members beside which it cannot run,
// before it says anything of itself in Consul: also one whose cluster came up after it.
func (f *formation) cannotMix(o peers.Observation) error {
	if f.image == (rabbitconf.Version{}) || !o.Record.Known() || !o.Peers.Known() {
		return nil
	}
	a := around{peers: o.Peers.Value, record: o.Record.Value, me: f.cfg.Node}
	why := cmp.Or(a.mix(runs{Version: f.image}, runs{}), a.onMnesia(f.image))
	switch {
	case why == "":
		return nil
	case f.cfg.AllowJump: // refuseJump has said so, or does at the next start
		f.log.Warn("joining all the same (--allow-version-jump)", "why", why)
		f.image = rabbitconf.Version{}
		return nil
	}
	return refusedJump(why + a.tell())
}

// onMnesia says that a member of the cluster that was asked is not on Khepri, which this
// version requires of all.
func (o around) onMnesia(image rabbitconf.Version) string {
	if !image.AtLeast(4, 3) {
		return ""
	}
	for _, p := range o.peers {
		if p.View.Known() && p.ClusterID == o.record.ClusterID && !p.View.Value.Khepri {
			return fmt.Sprintf("RabbitMQ %s in this image runs in clusters on Khepri alone, and that of %s is not: run `rabbitmqctl enable_feature_flag khepri_db` there first, on 4.2", image, p.Node)
		}
	}
	return ""
}
