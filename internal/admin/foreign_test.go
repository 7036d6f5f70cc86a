package admin

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/tests/expect"
)

// A RabbitMQ that this program did not start is not healthy, and is told how it is to be
// started; RabbitMQ's command line is none. In a process namespace of the test's own, which
// needs root.
func TestServerOfAnotherStart(t *testing.T) {
	const child = "RMQ_TEST_FOREIGN"
	if os.Getenv(child) == "" {
		if os.Geteuid() != 0 {
			t.Skip("a process namespace needs root")
		}
		cmd := exec.Command("unshare", "--pid", "--fork", "--mount-proc", os.Args[0], "-test.run=^TestServerOfAnotherStart$", "-test.v")
		cmd.Env = append(os.Environ(), child+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	v := testVolume(t)
	cfg := config.Config{Data: v.Data, StateDir: v.State}
	run := func(argv ...string) func() {
		t.Helper()
		cmd := &exec.Cmd{Path: "/bin/sh", Args: append([]string{argv[0], "-c", "sleep 600; :"}, argv[1:]...)}
		expect.Must(t, cmd.Start())
		time.Sleep(100 * time.Millisecond) // until it has its own command line
		return func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	}
	says := func(healthy bool, words ...string) {
		t.Helper()
		for _, q := range []Question{Alive, Started, Ready} {
			var out bytes.Buffer
			err := Healthcheck(t.Context(), cfg, q, &out)
			if errors.Is(err, ErrSaid) == (healthy && q == Alive) || err != nil && !errors.Is(err, ErrSaid) {
				t.Errorf("%v: %v: %s", q, err, out.String())
			}
			expect.Says(t, out.String(), words...)
		}
	}
	const vm = "/usr/lib/erlang/erts-13/bin/beam.smp"
	defer run(vm, "-noshell", "-s", "elixir", "start_cli", "rabbitmqctl", "rabbit", "boot")()
	says(true, "nothing decided yet")
	end := run(vm, "-W", "w", "-noinput", "-s", "rabbit", "boot", "-boot", "start_sasl")
	words := []string{"was not started by rmq-entrypoint", "make rabbitmq-server the command", "enabled_plugins"}
	says(false, words...)
	// What an earlier start left on the volume does not change that.
	rt := statedir.Runtime{Config: cfg, PID: 999, Started: 1}
	expect.Must(t, rt.Write())
	says(false, words...)
	// Nor is one meant that this program started as another node.
	self, err := statedir.Self()
	expect.Must(t, err)
	beside := config.Config{Node: "b@host", Data: filepath.Join(filepath.Dir(v.Data), "b@host")}
	beside.StateDir = beside.Place()
	expect.Must(t, os.Mkdir(beside.StateDir, 0o755))
	expect.Must(t, statedir.Runtime{Config: beside, PID: self.PID, Started: self.Started}.Write())
	says(false, "b@host does", "say which one is meant")
	expect.Must(t, os.RemoveAll(beside.StateDir))
	end()
	says(false, "the server (pid 999) is gone")
	// Nor is a server meant that this program is: the container's own process.
	rt.PID, rt.Started, rt.Waiting = self.PID, self.Started, "Consul"
	expect.Must(t, rt.Write())
	says(true, "waiting for Consul")
	if left, _ := filepath.Glob(filepath.Join(v.State, "*.lock")); strings.Join(left, "") != "" {
		t.Errorf("it left %v", left)
	}
}
