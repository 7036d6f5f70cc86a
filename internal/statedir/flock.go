package statedir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Two flocks lie on the volume: one for the companion, one for an operator's
// command that works on the node.
const (
	CompanionLock = "companion.lock"
	OperatorLock  = "operator.lock"
)

// WaitLock takes the flock that makes its holder the one companion, or the
// entrypoint of this volume. It waits a moment for an earlier one to leave.
func WaitLock(ctx context.Context, dir string) (*os.File, error) {
	for deadline := time.Now().Add(5 * time.Second); ; {
		f, err := TryLock(dir, CompanionLock)
		if !errors.Is(err, ErrLocked) {
			return f, err
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return nil, fmt.Errorf("%w: another node runs on this volume (%s): give each node a volume of its own", err, dir)
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

var ErrLocked = errors.New("another rmq-entrypoint holds the volume")

// TryLock takes a lock in dir, or returns [ErrLocked]. Whoever can open a lock file can hold
// its lock: nobody but the owner can. A link in its place is not followed.
func TryLock(dir, name string) (*os.File, error) {
	path := filepath.Join(dir, name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, notALock(path, err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = syscall.EINVAL
	}
	if err != nil {
		f.Close()
		return nil, notALock(path, err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		_ = f.Chmod(0o600) // left open by an earlier version; a kubelet opens all files of a volume, as another uid's
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, ErrLocked
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return f, nil
}

// notALock says what to do about a lock file that cannot be opened, or is none.
func notALock(path string, err error) error {
	if info, lerr := os.Lstat(path); lerr == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no lock file of this program but a %s: remove it: %w", path, kindOf(info.Mode()), err)
	}
	return err
}

// kindOf names what lies there instead of a file.
func kindOf(mode fs.FileMode) string {
	switch {
	case mode&fs.ModeSymlink != 0:
		return "link"
	case mode.IsDir():
		return "directory"
	}
	return "pipe, socket or device"
}

// A Process is one process for good: another one may get its PID, and not its start time.
type Process struct {
	PID     int
	Started uint64 // in clock ticks since boot
}

// clockTick is what /proc counts in, on every Linux that Go knows.
const clockTick = time.Second / 100

// Self is the process that asks.
func Self() (Process, error) {
	started, err := StartTime(os.Getpid())
	return Process{os.Getpid(), started}, err
}

// OlderThan reports how much earlier than q the process was started.
func (p Process) OlderThan(q Process) time.Duration {
	return time.Duration(int64(q.Started)-int64(p.Started)) * clockTick // #nosec G115 -- ticks since boot
}

// Kill ends the process, if it is still there, and nobody who came after it.
func (p Process) Kill() error {
	if p.PID <= 1 {
		return os.ErrProcessDone
	}
	found, err := os.FindProcess(p.PID) // holds on to the process, not to its PID
	if err != nil {
		return err
	}
	defer found.Release()
	started, err := StartTime(p.PID)
	if err != nil {
		return fmt.Errorf("whether process %d is still the one it was cannot be told: %w", p.PID, err)
	}
	if started != p.Started {
		return os.ErrProcessDone
	}
	return found.Kill()
}

// Sign writes into a lock that this process holds it.
func Sign(held *os.File) error { return SignFor(held, os.Getpid()) }

// SignFor writes into a lock that pid holds it.
func SignFor(held *os.File, pid int) error {
	started, err := StartTime(pid)
	if err != nil {
		return err
	}
	text := fmt.Appendf(nil, "%d %d\n", pid, started)
	if _, err := held.WriteAt(text, 0); err != nil {
		return fmt.Errorf("write who holds the lock: %w", err)
	}
	return held.Truncate(int64(len(text)))
}

// Holder returns who signed the lock last.
func Holder(dir, name string) (p Process, err error) {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return p, err
	}
	defer f.Close()
	if _, err := fmt.Fscan(io.LimitReader(f, 100), &p.PID, &p.Started); err != nil {
		return p, fmt.Errorf("read who holds %s: %w", f.Name(), err)
	}
	return p, nil
}

// Exhausted reports whether an error says that this process, or this host, has no file
// descriptor left: it tells nothing of what was to be looked at.
func Exhausted(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}
