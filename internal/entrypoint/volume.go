package entrypoint

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/rabbitconf"
)

// oneVolume refuses a state directory that does not share the fate of RabbitMQ's own: what
// this program knows of a volume is true of that volume only. Both must lie on one mount, and
// neither inside the other: RabbitMQ deletes what it finds in its directory at a reset, and
// takes a blank one with a stranger's entry for its own data.
func oneVolume(cfg config.Config) error {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil // it cannot be told here
	}
	data, state := resolved(cfg.Data), resolved(cfg.StateDir)
	dataOn, stateOn := mountOf(string(table), data), mountOf(string(table), state)
	if dataOn.device == stateOn.device && inside(stateOn.within(state), dataOn.within(data)) {
		return fmt.Errorf("the state directory %s (--state-dir, RMQ_STATE_DIR) lies in RabbitMQ's own, %s, which RabbitMQ deletes at a reset: put it beside that one, on the same volume", cfg.StateDir, cfg.Data)
	}
	if dataOn.device == stateOn.device && dataOn.root == stateOn.root {
		return nil
	}
	return fmt.Errorf("RabbitMQ's data in %s is on the volume mounted at %s, and what rmq-entrypoint knows of it would be in %s, on that at %s: whoever replaces one keeps the other, and the node would be refused or lose its cluster. "+
		"Mount one volume at %s for both (what was mounted at %s goes into %s on it), or set RMQ_STATE_DIR (--state-dir) to a directory beside RabbitMQ's, on the same mount",
		cfg.Data, dataOn.at, cfg.StateDir, stateOn.at, cfg.Home, dataOn.at, relative(cfg.Home, dataOn.at))
}

// directories judges where RabbitMQ's data lie, by the variables that it goes by.
func directories(cfg config.Config, env config.Environment) error {
	if err := replicasBeside(cfg, env.Of); err != nil {
		return err
	}
	return leftBehind(cfg, cfg.UsualData())
}

// replicasBeside refuses replicas of queues that go with the container while the rest of RabbitMQ's
// data stays. A new container would be a member with its marker and its queues, whose replicas have
// lost their log: they vote as if they never had confirmed anything. A volume of their own they may
// have, as a faster disk.
func replicasBeside(cfg config.Config, getenv func(string) string) error {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil // it cannot be told here
	}
	for _, of := range []struct{ queues, variable, below string }{{"quorum queues", "RABBITMQ_QUORUM_DIR", "quorum"}, {"streams", "RABBITMQ_STREAM_DIR", "stream"}} {
		usual := filepath.Join(cfg.Data, of.below)
		dir := cmp.Or(config.RabbitMQs(getenv, of.variable), usual)
		if err := config.WholePath(of.variable, dir); err != nil {
			return err
		}
		if err := beside(string(table), cfg, replicas{of.queues, dir, usual, of.variable, of.variable + "=" + dir}); err != nil {
			return err
		}
	}
	return nil
}

// replicas are those of a kind of queues, and where a setting has them.
type replicas struct {
	of, dir, usual string
	setting, says  string // by its name, and with its value
}

// beside refuses replicas that are, by a table as /proc/self/mountinfo, in the container or in memory,
// while the rest of the data is not.
func beside(table string, cfg config.Config, r replicas) error {
	on, dataOn := mountOf(table, resolved(r.dir)), mountOf(table, resolved(cfg.Data))
	if !on.passing() || dataOn.passing() {
		return nil
	}
	way := fmt.Sprintf("While the node is stopped, move what is in %s into %s, and take %s out", r.dir, r.usual, r.setting)
	if r.dir == r.usual {
		way = fmt.Sprintf("Mount nothing at %s (what was mounted there goes into that directory)", on.at)
	}
	return fmt.Errorf("%s: RabbitMQ's %s would be on what is mounted at %s (%s), which ends with the container, and its other data in %s on that at %s, which stays: a new container would be a member that forgot what it confirmed, and messages are lost while every check passes. %s, or mount a volume there",
		r.says, r.of, on.at, on.kind, cfg.Data, dataOn.at, way)
}

// usersDirectories judges where RabbitMQ's data lie by the user's files, which win over variables. All
// of them must be where this program looks whether there are any: elsewhere, each start would take
// the node for one whose volume was wiped.
func usersDirectories(cfg config.Config, user rabbitconf.User) error {
	table, unread := os.ReadFile("/proc/self/mountinfo")
	for _, d := range user.Directories() {
		if d.Holds == rabbitconf.Data {
			if filepath.IsAbs(d.Path) && filepath.Clean(d.Path) == cfg.Data {
				continue
			}
			return fmt.Errorf("%s: RabbitMQ would keep data there, and this program looks for them in %s, and would take the node for one that lost them: take %s out, and name the directory of all its data as environment variable RABBITMQ_MNESIA_DIR", d.At, cfg.Data, d.Key)
		}
		if d.Path == "" {
			return fmt.Errorf("%s: this is no name of a directory that this program can read: write it as a string, or take %s out", d.At, d.Key)
		}
		if err := config.WholePath(d.Key, d.Path); err != nil {
			return fmt.Errorf("%s: %w", d.At, err)
		}
		r := map[rabbitconf.Holds]replicas{
			rabbitconf.Quorum:  {of: "quorum queues", usual: "quorum"},
			rabbitconf.Journal: {of: "quorum queues", usual: filepath.Join("quorum", cfg.Node)},
			rabbitconf.Streams: {of: "streams", usual: "stream"},
		}[d.Holds]
		r.dir, r.usual, r.setting, r.says = d.Path, filepath.Join(cfg.Data, r.usual), d.Key, d.At
		if unread != nil {
			continue // it cannot be told here
		}
		if err := beside(string(table), cfg, r); err != nil {
			return err
		}
	}
	return nil
}

// leftBehind refuses a node without data whose data are where RabbitMQ keeps them by itself: with
// RABBITMQ_DATA_DIR it was not told otherwise before this program did so. Taken for one whose volume
// was wiped, the node would join or found a cluster without them.
func leftBehind(cfg config.Config, usual string) error {
	holds := func(dir string) bool {
		entries, err := os.ReadDir(dir) // what this user cannot read RabbitMQ did not write
		return err == nil && len(entries) > 0
	}
	if cfg.Data != filepath.Join(cfg.Home, "mnesia", cfg.Node) || cfg.Data == usual || holds(cfg.Data) || !holds(usual) {
		return nil
	}
	return fmt.Errorf("RABBITMQ_DATA_DIR=%s: RabbitMQ did not read it, so the data of %s are in %s, and %s has none: move that directory, and %s-feature_flags beside it, into %s; if those are no data of this node, remove them",
		cfg.Home, cfg.Node, usual, cfg.Data, usual, filepath.Dir(cfg.Data))
}

// relative is path below home, or as it is.
func relative(home, path string) string {
	if rel, err := filepath.Rel(home, path); err == nil && !strings.HasPrefix(rel, "..") {
		return rel
	}
	return path
}

// Mounted is where the data of a node lie.
type Mounted struct {
	At   string // mount point
	Kind string // of its file system, as ext4, overlay or tmpfs
	Root string // what of that file system is mounted there
}

// SeenVolume judges where the mounts of a node are as a start would, and returns the one that its
// data are on.
func SeenVolume(cfg config.Config) (on Mounted, err error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return on, nil // it cannot be told here
	}
	m := mountOf(string(table), resolved(cfg.Data))
	return Mounted{m.at, m.kind, m.root}, oneVolume(cfg)
}

// mount is where a directory of a file system, its root, is mounted. One volume may be so at
// several places, and several volumes of a host may be on one device.
type mount struct{ at, device, root, kind string }

// passing reports whether what is written there ends with the container, or with the machine, as far
// as the kind of its file system tells.
func (m mount) passing() bool {
	return slices.Contains([]string{"overlay", "fuse.fuse-overlayfs", "aufs", "tmpfs", "ramfs"}, m.kind)
}

// within is path as the file system has it.
func (m mount) within(path string) string {
	rel, err := filepath.Rel(m.at, path)
	if err != nil {
		return path
	}
	return filepath.Join(m.root, rel)
}

// mountOf finds the mount that path lies on in a table as /proc/self/mountinfo: of several at
// one place the last is on top.
func mountOf(table, path string) (m mount) {
	for line := range strings.Lines(table) {
		f := strings.Fields(line) // id, parent, device, root in the file system, mount point, …
		if len(f) < 5 {
			continue
		}
		if at := unescape(f[4]); inside(path, at) && len(at) >= len(m.at) {
			m = mount{at: at, device: f[2], root: unescape(f[3])}
			if _, after, ok := strings.Cut(line, " - "); ok { // then its kind, source, …
				m.kind, _, _ = strings.Cut(after, " ")
			}
		}
	}
	return m
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

func inside(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// resolved follows the links of a path, as far as it is there.
func resolved(path string) string {
	path, err := filepath.Abs(path)
	if err != nil {
		return path
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	dir := filepath.Dir(path)
	if dir == path {
		return path
	}
	return filepath.Join(resolved(dir), filepath.Base(path))
}
