package entrypoint

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/rabbitconf"
	"rmq-entrypoint/tests/expect"
)

// Where volumes of a container are mounted, as its mountinfo says it (Docker 20.10): volumes
// of one host share a device, so that alone tells nothing.
func TestMountOf(t *testing.T) {
	const table = `1 0 0:50 / / rw - overlay overlay rw
2 1 8:1 /docker/volumes/a/_data /var/lib/rabbitmq rw - ext4 /dev/sda1 rw
3 2 8:1 /docker/volumes/b/_data /var/lib/rabbitmq/mnesia/rabbit@mq1 rw - ext4 /dev/sda1 rw
4 1 8:1 /docker/volumes/b/_data /other\040place rw - ext4 /dev/sda1 rw
5 1 8:1 /x /twice rw - ext4 /dev/sda1 rw
6 5 8:2 /y /twice rw - ext4 /dev/sda2 rw
`
	for path, want := range map[string]string{
		"/etc": "/", "/var/lib/rabbitmq/mnesia/rabbit@mq1-entrypoint": "/var/lib/rabbitmq", "/var/lib/rabbitmq/mnesia/rabbit@mq1": "/var/lib/rabbitmq/mnesia/rabbit@mq1",
		"/var/lib/rabbitmq2": "/", "/other place/x": "/other place", "/twice/x": "/twice",
	} {
		if got := mountOf(table, path); got.at != want {
			t.Errorf("%s: %+v, want %s", path, got, want)
		}
	}
	if one, two := mountOf(table, "/other place"), mountOf(table, "/var/lib/rabbitmq/mnesia/rabbit@mq1/x"); one.device != two.device || one.root != two.root {
		t.Errorf("one volume at two places: %+v, %+v", one, two)
	}
	if got := mountOf(table, "/twice"); got.device != "8:2" || got.root != "/y" {
		t.Errorf("the one on top: %+v", got)
	}
}

// A node whose data RabbitMQ wrote to its usual place is not taken for one that lost them.
func TestLeftBehind(t *testing.T) {
	dir := t.TempDir()
	home, usual := filepath.Join(dir, "data"), filepath.Join(dir, "usual", "mnesia", "a@b")
	cfg, err := config.FromEnvironment(expect.Environ("RABBITMQ_DATA_DIR="+home, "RABBITMQ_NODENAME=a@b"))
	expect.Must(t, err)
	others := cfg
	others.Data = filepath.Join(dir, "elsewhere")
	judged := func(what string, cfg config.Config, refused bool) {
		t.Helper()
		err := leftBehind(cfg, usual)
		if (err != nil) != refused {
			t.Errorf("%s: %v", what, err)
		}
		if refused && err != nil && (!strings.Contains(err.Error(), "RABBITMQ_DATA_DIR="+home) || !strings.Contains(err.Error(), usual) || !strings.Contains(err.Error(), filepath.Join(home, "mnesia")) || !strings.Contains(err.Error(), "move")) {
			t.Error(err)
		}
	}
	judged("nothing anywhere", cfg, false)
	expect.Must(t, os.MkdirAll(usual, 0o755))
	judged("an empty directory", cfg, false)
	expect.Must(t, os.WriteFile(filepath.Join(usual, "schema.DAT"), nil, 0o600))
	judged("data at the usual place", cfg, true)
	judged("a variable of RabbitMQ's says where they are", others, false)
	expect.Must(t, os.MkdirAll(cfg.Data, 0o755))
	judged("an empty directory here", cfg, true)
	expect.Must(t, os.WriteFile(filepath.Join(cfg.Data, "schema.DAT"), nil, 0o600))
	judged("data here, too", cfg, false)
}

// testReplicasBeside judges in the mounts of [TestOneVolume].
func testReplicasBeside(t *testing.T, base string) {
	path := filepath.Join(base, "env.conf")
	for _, c := range []struct {
		data, env, file string
		refused         []string // words
	}{
		{data: "mnesia/b"}, {data: "not/there"},
		{data: "mnesia/b", env: "RABBITMQ_QUORUM_DIR=BASE/mnesia/quorum/"}, {data: "mnesia/b", env: "STREAM_DIR=BASE/stream"},
		{data: "other/data", env: "RABBITMQ_QUORUM_DIR=BASE/third/quorum"}, // one volume at two places
		{data: "fast/b", env: "RABBITMQ_STREAM_DIR=BASE/fast/stream", file: "QUORUM_DIR=BASE/fast/q"},
		{data: "mnesia/b", env: "RABBITMQ_QUORUM_DIR=BASE/fast/q", refused: []string{"RABBITMQ_QUORUM_DIR=BASE/fast/q:", "quorum queues", "mounted at BASE/fast (tmpfs)", "BASE/mnesia/b on that at ", "into BASE/mnesia/b/quorum", "take RABBITMQ_QUORUM_DIR out"}},
		{data: "mnesia/b", env: "QUORUM_DIR=BASE/fast/q", refused: []string{"RABBITMQ_QUORUM_DIR=BASE/fast/q:"}},
		{data: "mnesia/b", env: "RABBITMQ_STREAM_DIR=BASE/fast/not/there", refused: []string{"RABBITMQ_STREAM_DIR=BASE/fast/not/there:", "streams", "mounted at BASE/fast (tmpfs)", "into BASE/mnesia/b/stream"}},
		{data: "mnesia/b", env: "RABBITMQ_QUORUM_DIR=BASE/other/q"}, // a volume of their own
		{data: "mnesia/b", file: "QUORUM_DIR=BASE/fast/q", refused: []string{"RABBITMQ_QUORUM_DIR=BASE/fast/q:"}},
		{data: "mnesia/b", file: "export RABBITMQ_STREAM_DIR=BASE/fast/s", refused: []string{"RABBITMQ_STREAM_DIR=BASE/fast/s:"}},
		{data: "mnesia/b", env: "RABBITMQ_QUORUM_DIR=BASE/q", file: "export RABBITMQ_QUORUM_DIR=BASE/fast/q", refused: []string{"RABBITMQ_QUORUM_DIR=BASE/fast/q:"}},
		{data: "fast/b", env: "RABBITMQ_QUORUM_DIR=BASE/q"}, // and nothing else stays
		{data: "mnesia/q", refused: []string{"RABBITMQ_QUORUM_DIR=BASE/mnesia/q/quorum:", "Mount nothing at BASE/mnesia/q/quorum"}},
		{data: "mnesia/s", refused: []string{"RABBITMQ_STREAM_DIR=BASE/mnesia/s/stream:", "Mount nothing at BASE/mnesia/s/stream"}},
		{data: "mnesia/b", env: "RABBITMQ_QUORUM_DIR=quorum", refused: []string{"RABBITMQ_QUORUM_DIR=", "whole path"}},
	} {
		under := func(text string) string { return strings.ReplaceAll(text, "BASE", base) }
		expect.Must(t, os.WriteFile(path, []byte(under(c.file)+"\n"), 0o644))
		cfg := config.Config{Node: "rabbit@me", Home: base, Data: filepath.Join(base, c.data)}
		e, err := serverEnvironment(t.Context(), cfg, []string{"PATH=" + os.Getenv("PATH"), "RABBITMQ_CONF_ENV_FILE=" + path, under(c.env)})
		expect.Must(t, err)
		err = directories(cfg, e)
		if (err != nil) != (c.refused != nil) {
			t.Errorf("%+v: %v", c, err)
		}
		for _, words := range c.refused {
			if err != nil && !strings.Contains(err.Error(), under(words)) {
				t.Errorf("%+v: %v; want %q", c, err, under(words))
			}
		}
	}
}

// testUsersDirectories judges in the mounts of [TestOneVolume] what files say.
func testUsersDirectories(t *testing.T, base string) {
	conf, advanced := filepath.Join(base, "rabbitmq.conf"), filepath.Join(base, "advanced.config")
	t.Setenv("RABBITMQ_ADVANCED_CONFIG_FILE", advanced)
	for _, c := range []struct {
		conf, advanced string
		refused        []string // words
	}{
		{}, {conf: "raft.data_dir = BASE/mnesia/q-elsewhere"}, {conf: "raft.wal_max_size_bytes = 64000000"},
		{advanced: `[{ra, [{data_dir, "BASE/q"}, {wal_data_dir, <<"BASE/w">>}]}, {osiris, [{data_dir, 'BASE/s'}]}].`},
		{advanced: `[{mnesia, [{dir, "BASE/mnesia/b/"}]}, {rabbit, [{data_dir, <<"BASE/mnesia/b">>}]}].`},
		{conf: "a = 1\nraft.data_dir = BASE/fast/q", refused: []string{"BASE/rabbitmq.conf:2: raft.data_dir = BASE/fast/q: RabbitMQ's quorum queues", "mounted at BASE/fast (tmpfs)", "move what is in BASE/fast/q into BASE/mnesia/b/quorum, and take raft.data_dir out"}},
		{conf: "raft.data_dir = BASE/fast/q", advanced: `[{ra, [{data_dir, "BASE/q"}]}].`, refused: []string{"raft.data_dir = BASE/fast/q:"}},
		{conf: "raft.data_dir = quorum", refused: []string{"rabbitmq.conf:1: raft.data_dir", "whole path"}},
		{conf: "raft.data_dir = $(Q)/q", refused: []string{"raft.data_dir = BASE/fast/q:"}},
		{advanced: `[{ra, [{data_dir, "BASE/fast/q"}]}].`, refused: []string{`BASE/advanced.config: {ra, [{data_dir, "BASE/fast/q"}]}: RabbitMQ's quorum queues`, "take {ra, [{data_dir, …}]} out"}},
		{advanced: `[{ra, [{wal_data_dir, <<"BASE/fast/q">>}]}].`, refused: []string{"{wal_data_dir, ", "into BASE/mnesia/b/quorum/rabbit@me,"}},
		{advanced: `[{osiris, [{data_dir, "BASE/fast/s"}]}].`, refused: []string{"RabbitMQ's streams", "into BASE/mnesia/b/stream"}},
		{advanced: `[{osiris, [{data_dir, {a, "b"}}]}].`, refused: []string{"osiris", "no name of a directory", "as a string"}},
		{advanced: `[{ra, [{data_dir, ""}]}].`, refused: []string{"no name of a directory"}},
		{advanced: `[{mnesia, [{dir, "BASE/mnesia/c"}]}].`, refused: []string{`BASE/advanced.config: {mnesia, [{dir, "BASE/mnesia/c"}]}: `, "looks for them in BASE/mnesia/b,", "take {mnesia, [{dir, …}]} out", "RABBITMQ_MNESIA_DIR"}},
		{advanced: `[{rabbit, [{data_dir, "BASE/mnesia/c"}]}].`, refused: []string{"{rabbit, [{data_dir, ", "RABBITMQ_MNESIA_DIR"}},
		{advanced: `[{rabbit, [{data_dir, "mnesia/b"}]}].`, refused: []string{"RABBITMQ_MNESIA_DIR"}},
	} {
		under := func(text string) string { return strings.ReplaceAll(text, "BASE", base) }
		expect.Must(t, os.WriteFile(conf, []byte(under(c.conf)+"\n"), 0o644))
		expect.Must(t, os.WriteFile(advanced, []byte(under(c.advanced)+"\n"), 0o644))
		cfg := config.Config{Node: "rabbit@me", Home: base, Data: filepath.Join(base, "mnesia/b")}
		_, err := usersFiles(cfg, config.Environment{"RABBITMQ_CONFIG_FILE": conf, "RABBITMQ_CONFIG_FILES": filepath.Join(base, "none"), "Q": base + "/fast"}, rabbitconf.Version{Major: 4, Minor: 3})
		if (err != nil) != (c.refused != nil) {
			t.Errorf("%+v: %v", c, err)
		}
		for _, words := range c.refused {
			if err != nil && !strings.Contains(err.Error(), under(words)) {
				t.Errorf("%+v: %v; want %q", c, err, under(words))
			}
		}
	}
}

// The data and what is known of it are on one volume, or the start is refused with the ways
// out. Mounts of this test's own need root.
func TestOneVolume(t *testing.T) {
	const child = "RMQ_TEST_ONE_VOLUME"
	if os.Getenv(child) != "" {
		base := os.Getenv(child)
		sh := func(script string) {
			out, err := exec.Command("sh", "-ec", "cd "+base+"; "+script).CombinedOutput()
			if err != nil {
				t.Skipf("%v: %s", err, out)
			}
		}
		at := func(data, state string) error {
			return oneVolume(config.Config{Home: base, Data: filepath.Join(base, data), StateDir: filepath.Join(base, state)})
		}
		sh("mkdir -p vol mnesia/a mnesia/b mnesia/a-entrypoint state elsewhere/data; mount --bind vol mnesia/a; mkdir other third; mount --bind vol other; mkdir vol/data; mount --bind vol third; mount -t tmpfs none elsewhere; mkdir elsewhere/data; ln -s elsewhere/data linked")
		for name, err := range map[string]error{
			"volume at the data directory": at("mnesia/a", "mnesia/a-entrypoint"),
			"state elsewhere":              at("mnesia/b", "elsewhere/state"), "data elsewhere": at("elsewhere/data", "mnesia/b-entrypoint"), "data is a link": at("linked", "linked-entrypoint"),
		} {
			if err == nil || !strings.Contains(err.Error(), "RMQ_STATE_DIR") || !strings.Contains(err.Error(), "Mount one volume at "+base) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := at("mnesia/a", "mnesia/a/state"); err == nil || !strings.Contains(err.Error(), "lies in RabbitMQ's own") {
			t.Errorf("state in the data: %v", err)
		}
		if err := at("mnesia/a", "third/state"); err == nil || !strings.Contains(err.Error(), "lies in RabbitMQ's own") {
			t.Errorf("state in the data, by another mount of it: %v", err)
		}
		for name, err := range map[string]error{
			"both beside each other": at("mnesia/b", "mnesia/b-entrypoint"), "not there yet": at("mnesia/c/d", "mnesia/c/d-entrypoint"),
			"one volume": at("elsewhere/data", "elsewhere/state"), "state by the link's target": at("linked", "elsewhere/x"), "one volume at two places": at("other/data", "third/state"),
		} {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		sh("mkdir -p mnesia/q/quorum mnesia/s/stream fast; mount -t tmpfs none mnesia/q/quorum; mount -t tmpfs none mnesia/s/stream; mount -t tmpfs none fast")
		if table, err := os.ReadFile("/proc/self/mountinfo"); err != nil || mountOf(string(table), base).passing() {
			t.Skip("no directory here outlasts a container")
		}
		testReplicasBeside(t, base)
		testUsersDirectories(t, base)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", os.Args[0], "-test.run=^TestOneVolume$", "-test.v")
	dir, err := filepath.EvalSymlinks(t.TempDir())
	expect.Must(t, err)
	cmd.Env = append(os.Environ(), child+"="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	} else if strings.Contains(string(out), "SKIP") {
		t.Skip(string(out))
	}
}
