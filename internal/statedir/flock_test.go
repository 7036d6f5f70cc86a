package statedir

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"rmq-entrypoint/tests/expect"
)

// Who holds a lock is known by more than its PID, and is the only one that is ended for it.
func TestHolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if p, err := Holder(dir, CompanionLock); err == nil {
		t.Errorf("without a lock it is %v", p)
	}
	held, err := TryLock(dir, CompanionLock)
	expect.Must(t, err)
	defer held.Close()
	if p, err := Holder(dir, CompanionLock); err == nil {
		t.Errorf("without a word of its holder it is %v", p)
	}
	expect.Must(t, os.WriteFile(filepath.Join(dir, CompanionLock), []byte("12345678 99999999999999 and more\n"), 0o644))
	expect.Must(t, Sign(held))
	p, err := Holder(dir, CompanionLock)
	self, _ := Self()
	if err != nil || p != self || p.PID != os.Getpid() || p.Started == 0 {
		t.Errorf("it is %v, %v, and not %v", p, err, self)
	}
	startTime := func(pid int) uint64 {
		at, err := StartTime(pid)
		expect.Must(t, err)
		return at
	}

	cmd := exec.Command("sleep", "60")
	expect.Must(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	other := Process{cmd.Process.Pid, startTime(cmd.Process.Pid)}
	if age := p.OlderThan(other); age < 0 || age > time.Hour || other.OlderThan(p) != -age {
		t.Errorf("it is older by %s", age)
	}
	for _, stranger := range []Process{{other.PID, other.Started - 1}, {other.PID, other.Started + 1}, {0, 0}, {-1, 0}, {1, startTime(1)}} {
		if err := stranger.Kill(); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("%v is ended: %v", stranger, err)
		}
	}
	select {
	case err := <-ended:
		t.Errorf("the wrong one was ended: %v", err)
	default:
	}
	expect.Must(t, other.Kill())
	<-ended
	if err := other.Kill(); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("it was ended twice: %v", err)
	}
}
