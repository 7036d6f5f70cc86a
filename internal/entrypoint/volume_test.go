package entrypoint

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"rmq-entrypoint/internal/config"
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
		{data: "mnesia/b", env: "RABBITMQ_QUORUM_DIR=BASE/fast/q", refused: []string{"RABBITMQ_QUORUM_DIR=BASE/fast/q:", "quorum queues", "mounted at BASE/fast,", "BASE/mnesia/b on that at ", "into BASE/mnesia/b/quorum", "take RABBITMQ_QUORUM_DIR out"}},
		{data: "mnesia/b", env: "QUORUM_DIR=BASE/fast/q", refused: []string{"RABBITMQ_QUORUM_DIR=BASE/fast/q:"}},
		{data: "mnesia/b", env: "RABBITMQ_STREAM_DIR=BASE/other/not/there", refused: []string{"RABBITMQ_STREAM_DIR=BASE/other/not/there:", "streams", "mounted at BASE/other,", "into BASE/mnesia/b/stream"}},
		{data: "mnesia/b", file: "QUORUM_DIR=BASE/fast/q", refused: []string{"RABBITMQ_QUORUM_DIR=BASE/fast/q:"}},
		{data: "mnesia/b", file: "export RABBITMQ_STREAM_DIR=BASE/fast/s", refused: []string{"RABBITMQ_STREAM_DIR=BASE/fast/s:"}},
		{data: "mnesia/b", env: "RABBITMQ_QUORUM_DIR=BASE/q", file: "export RABBITMQ_QUORUM_DIR=BASE/fast/q", refused: []string{"RABBITMQ_QUORUM_DIR=BASE/fast/q:"}},
		{data: "fast/b", env: "RABBITMQ_QUORUM_DIR=BASE/q", refused: []string{"RABBITMQ_QUORUM_DIR=BASE/q:", "BASE/fast/b on that at BASE/fast"}},
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
		sh("mkdir -p mnesia/q/quorum mnesia/s/stream fast; mount --bind vol mnesia/q/quorum; mount --bind vol mnesia/s/stream; mount -t tmpfs none fast")
		testReplicasBeside(t, base)
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
