package statedir

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
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

// A lock is its owner's: another user of the container, who only has to open the file to hold it, cannot, also where an
// earlier version left it open to all.
func TestLocksAreTheOwners(t *testing.T) {
	t.Parallel()
	dir := Dir{State: filepath.Join(t.TempDir(), "mnesia", "rabbit@a-entrypoint")}
	modes := func(when string, most fs.FileMode) {
		t.Helper()
		expect.Must(t, dir.Make())
		held, err := TryLock(dir.State, CompanionLock)
		expect.Must(t, err)
		defer held.Close()
		for path, want := range map[string]fs.FileMode{dir.State: most, held.Name(): 0o600} {
			info, err := os.Stat(path)
			expect.Must(t, err)
			if got := info.Mode().Perm(); got&^want != 0 {
				t.Errorf("%s: %s has mode %04o, want %04o at most", when, path, got, want)
			}
		}
		if os.Geteuid() != 0 {
			return
		}
		nobody := exec.Command("sh", "-c", `exec 9<"$0"`, held.Name())
		nobody.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if out, err := nobody.CombinedOutput(); err == nil {
			t.Errorf("%s: another user opens the lock: %s", when, out)
		}
	}
	modes("made", 0o750)
	expect.Must(t, os.Chmod(dir.State, 0o755))
	expect.Must(t, os.Chmod(filepath.Join(dir.State, CompanionLock), 0o644))
	modes("left open", 0o750)
	expect.Must(t, os.Chmod(dir.State, 0o777|fs.ModeSticky|fs.ModeSetgid))
	modes("left open to all", 0o770)
	if info, err := os.Stat(dir.State); err != nil || info.Mode()&fs.ModeSetgid == 0 {
		t.Errorf("the group that a kubelet gave the directory is lost: %v, %v", info.Mode(), err)
	}
}

// What lies in a lock's place is not followed, not waited for, and not taken for it.
func TestLockIsAFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	outside := filepath.Join(t.TempDir(), "nologin")
	path := filepath.Join(dir, OperatorLock)
	for what, put := range map[string]func() error{
		"link":                   func() error { return os.Symlink(outside, path) },
		"directory":              func() error { return os.Mkdir(path, 0o755) },
		"pipe, socket or device": func() error { return syscall.Mkfifo(path, 0o600) },
	} {
		expect.Must(t, put())
		held, err := TryLock(dir, OperatorLock)
		if err == nil || errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), path+" is no lock file of this program but a "+what+": remove it") {
			t.Errorf("%s: %v, %v", what, held, err)
		}
		if _, err := Holder(dir, OperatorLock); err == nil {
			t.Errorf("%s: it says who holds the lock", what)
		}
		expect.Must(t, os.Remove(path))
	}
	if _, err := os.Lstat(outside); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file was made behind the link: %v", err)
	}
}
