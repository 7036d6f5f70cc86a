package statedir

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"rmq-entrypoint/rabbitconf"
)

// A server of a version that RabbitMQ does not support on a volume, or beside the other
// members, takes more down than itself: one 4.3 node in a 4.0 cluster, and back, stopped
// the other nodes' virtual hosts (measured). So versions are judged before anything but the
// volume's owner is touched, from files and one look at Consul, without starting an Erlang VM:
//
//   - The volume. Three witnesses say what ran last, and the highest counts. The stamp is
//     written before each start of a server, because a start that came to nothing may have
//     changed the volume. The marker has a jump that was let through count once it served.
//     The feature flags that RabbitMQ wrote down as enabled tell of a volume that the
//     official image ran, before our first start or between two of ours. Flags are a lower
//     bound: no upgrade is refused for that, but for flags that are not enabled.
//   - The others. Only nodes that run, those whose check has not lapsed, bind this one: a
//     full stop may end in an upgrade of all. What is on record is told, and binds nobody.
//     A supported upgrade is a supported mix, so members never keep each other from starting.
//
// What is not known refuses nobody: a member starts, and the log says what is not known.
// Erlang's version is kept and told, and refuses nobody. RabbitMQ's documentation says nothing of
// volumes that another Erlang wrote, and each release names the ones that it runs on.

// Stamp says what is about to run, or ran, on the volume.
type Stamp struct {
	RabbitMQ string    `json:"rabbitmq"`
	Erlang   string    `json:"erlang,omitempty"`
	At       time.Time `json:"at"` // when it was started
}

func (v Dir) Stamp(version rabbitconf.Version, erlang string, now time.Time) error {
	return writeJSON(v.file("version"), Stamp{version.String(), erlang, now.UTC()})
}

// A Versions is what runs, or ran.
type Versions struct {
	Version rabbitconf.Version // zero: not known
	Erlang  string             // empty: not known
}

func (r Versions) String() string {
	if r.Erlang == "" {
		return "RabbitMQ " + r.Version.String()
	}
	return fmt.Sprintf("RabbitMQ %s (Erlang %s)", r.Version, r.Erlang)
}

// LastRan returns what ran on the volume by its stamp and marker. One that cannot be read
// is none: inspect tells of it.
func (v Dir) LastRan() (last Versions) {
	if s, err := readJSON[Stamp](v.file("version")); err == nil && s != nil {
		version, _ := rabbitconf.ParseVersion(s.RabbitMQ)
		last = Versions{version, s.Erlang}
	}
	if m, err := v.Marker(); err == nil && m != nil {
		version, _ := rabbitconf.ParseVersion(m.RabbitMQ)
		if version.Compare(last.Version) > 0 {
			last = Versions{version, m.Erlang}
		}
	}
	return last
}

// VersionsOfImage returns what this image runs, from its variable and its files.
func VersionsOfImage(getenv func(string) string) (r Versions) {
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
