package companion

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/lock"
)

// signalReady tells the starting process that this companion is in charge.
func signalReady() error {
	w := os.NewFile(readyFD, "ready")
	defer w.Close()
	if _, err := w.Write([]byte{1}); err != nil {
		return fmt.Errorf("tell the entrypoint: %w: the companion is started by rmq-entrypoint alone", err)
	}
	return nil
}

// The companion is this same binary, started as "rmq-entrypoint companion" just
// before the entrypoint becomes RabbitMQ, or by a health check that finds it
// gone. It inherits two descriptors: on readyFD it writes one byte once it is in
// charge (EOF instead means that it failed), and lockFD carries the flock that
// says who is the companion.
const (
	sessionEnv = "RMQ_ENTRYPOINT_SESSION"
	readyFD    = 3
	lockFD     = 4
	readyWait  = 15 * time.Second
)

// inherited reports whether this process inherited the lock.
func inherited(dir string) bool {
	var held, file syscall.Stat_t
	err := errors.Join(syscall.Fstat(lockFD, &held), syscall.Stat(filepath.Join(dir, statedir.CompanionLock), &file))
	return err == nil && held.Dev == file.Dev && held.Ino == file.Ino
}

// Spawn starts the companion and returns once it is in charge.
func Spawn(ctx context.Context, rt statedir.Runtime, l *lock.Lock, held, out *os.File) (*os.Process, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.Command(exe, "companion", "--state-dir", rt.Config.StateDir) // not CommandContext: it outlives this process image
	cmd.Env = os.Environ()
	if l != nil {
		cmd.Env = append(cmd.Env, sessionEnv+"="+l.Session())
	}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.ExtraFiles = []*os.File{w, held}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a terminal's or a health check's end is not its end
	err = cmd.Start()
	w.Close()
	if err != nil {
		return nil, err
	}
	_ = r.SetReadDeadline(time.Now().Add(readyWait))
	defer context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Now()) })()
	if _, err := r.Read(make([]byte, 1)); err != nil {
		_ = cmd.Process.Kill()
		return nil, fmt.Errorf("it gave no sign: %w (%v)", err, cmd.Wait())
	}
	return cmd.Process, nil
}
