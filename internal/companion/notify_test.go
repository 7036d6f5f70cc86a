package companion

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/tests/expect"
)

// The companion ends when its server has positively ended, and never before: with a pidfd,
// and on a kernel that has none.
func TestGone(t *testing.T) {
	t.Parallel()
	process := func() (*exec.Cmd, statedir.Runtime) {
		cmd := exec.Command("sleep", "1000")
		expect.Must(t, cmd.Start())
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		started, err := statedir.StartTime(cmd.Process.Pid)
		expect.Must(t, err)
		return cmd, statedir.Runtime{PID: cmd.Process.Pid, Started: started}
	}
	wait := func(ended <-chan struct{}, what string) {
		t.Helper()
		select {
		case <-ended:
		case <-time.After(expect.Soon):
			t.Errorf("%s: not noticed", what)
		}
	}
	server, rt := process()
	ended := gone(t.Context(), rt)
	select {
	case <-ended:
		t.Fatal("a server that runs is gone")
	case <-time.After(2 * time.Second):
	}
	expect.Must(t, server.Process.Kill())
	wait(ended, "a zombie that nobody reaps")

	_, rt = process()
	rt.Started--
	wait(gone(t.Context(), rt), "another process of that PID")

	server, rt = process()
	expect.Must(t, server.Process.Kill())
	_ = server.Wait()
	wait(gone(t.Context(), rt), "a server that ended before")

	_, rt = process()
	for _, none := range []bool{false, true} {
		w := watcher{rt: rt, fd: -1, none: none}
		defer w.close()
		if w.ended() || w.proven == none || (w.fd < 0) != none {
			t.Errorf("a server that runs: %+v", w)
		}
		// What nothing can be opened for any more, or was never the server's, is no end.
		w.rt.Started = 0
		if w.ended() != none {
			t.Errorf("/proc is asked where there is a pidfd, or not where there is none: %+v", w)
		}
	}
	if (&watcher{rt: statedir.Runtime{PID: os.Getpid()}, fd: -1}).ended() != true {
		t.Error("the pidfd of another process is taken for the server's")
	}
}
