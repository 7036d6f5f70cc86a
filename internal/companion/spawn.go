package companion

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/lock"
)

// A Sign is what the starting process waits for: a byte once this companion is in charge, or why it
// will not be. Nobody waits for that of a companion that was started by hand, nil.
type Sign struct{ to *os.File }

// ready tells the starting process that this companion is in charge. One that has gone meanwhile,
// as a health check that took too long is killed, has handed all over: the companion goes on for as
// long as there is a server.
func (s *Sign) ready() error {
	if s == nil {
		return errors.New("tell the entrypoint: the companion is started by rmq-entrypoint alone")
	}
	if _, err := s.to.Write([]byte{inCharge}); err != nil && !errors.Is(err, syscall.EPIPE) {
		return fmt.Errorf("tell the entrypoint: %w: the companion is started by rmq-entrypoint alone", err)
	}
	return s.to.Close()
}

// Failed tells the starting process why this companion ends, unless it was told that it is in
// charge: then that waits no longer.
func (s *Sign) Failed(why error) {
	if s != nil && why != nil {
		text := config.OneLine(why)
		_, _ = io.WriteString(s.to, text[:min(len(text), mostWhy)])
		_ = s.to.Close()
	}
}

// The companion is this same binary, started as "rmq-entrypoint companion": by the entrypoint
// just before that becomes RabbitMQ, or by a health check that finds the companion gone. It
// inherits three descriptors:
//
//   - On readyFD it writes one byte once it is in charge, or why it fails.
//   - lockFD carries the flock that says who is the companion.
//   - From envFD it reads its environment, where envEnv says so: every process of its user can
//     read the environment that the kernel gives a process.
const (
	sessionEnv = "RMQ_ENTRYPOINT_SESSION"
	envEnv     = "RMQ_ENTRYPOINT_ENVIRONMENT"
	envEnd     = envEnv + "=whole" // the last entry: less than all is no environment
	readyFD    = 3
	lockFD     = 4
	envFD      = 5
	readyWait  = 15 * time.Second

	inCharge = 1    // no text begins so
	mostWhy  = 1000 // bytes of a reason: a pipe takes them at once, and gives them so
)

// Inherit takes the environment over that whoever started this companion hands to it. Another
// process keeps its own, and has nobody to give a sign to.
func Inherit() (*Sign, error) {
	if os.Getenv(envEnv) == "" {
		return nil, nil
	}
	r := os.NewFile(envFD, "environment")
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("take over the environment: %w: the companion is started by rmq-entrypoint alone", err)
	}
	handed, whole := strings.CutSuffix(string(text), "\x00"+envEnd)
	if !whole { // whoever started it has ended before it was to begin
		return nil, errors.New("nobody handed an environment over: the companion is started by rmq-entrypoint alone")
	}
	os.Clearenv()
	for kv := range strings.SplitSeq(handed, "\x00") {
		if name, value, _ := strings.Cut(kv, "="); name != "" {
			err = errors.Join(err, os.Setenv(name, value))
		}
	}
	return &Sign{os.NewFile(readyFD, "ready")}, err
}

// environments are what a companion gets of env: in the open what Go itself reads before the
// program begins, and to be handed over all of it, but for what it does not need. It works on one
// CPU, unless env says otherwise: Go holds memory for each that it may use.
func environments(env []string) (open, handed []string) {
	open = []string{envEnv + "=1", "GOMAXPROCS=1"} // of two the last one counts
	for _, kv := range env {
		switch name, _, _ := strings.Cut(kv, "="); name {
		case "RABBITMQ_ERLANG_COOKIE", "RMQ_BROKERS", envEnv:
			continue
		case "GODEBUG", "GOGC", "GOMAXPROCS", "GOMEMLIMIT", "GOTRACEBACK":
			open = append(open, kv)
		}
		handed = append(handed, kv)
	}
	return open, handed
}

// inherited reports whether this process inherited the lock.
func inherited(dir string) bool {
	var held, file syscall.Stat_t
	err := errors.Join(syscall.Fstat(lockFD, &held), syscall.Stat(filepath.Join(dir, statedir.CompanionLock), &file))
	return err == nil && held.Dev == file.Dev && held.Ino == file.Ino
}

// ErrStarting says that a companion was handed all that it needs, and is not in charge yet.
var ErrStarting = errors.New("the companion is being started")

// Spawn starts the companion and returns once it is in charge. One that is not when ctx ends is
// left to it, with [ErrStarting].
func Spawn(ctx context.Context, rt statedir.Runtime, held, out *os.File) error {
	s, err := Prepare(rt.Config.StateDir, held, out)
	if err != nil {
		return err
	}
	defer s.ready.Close()
	_ = statedir.SignFor(held, s.cmd.Process.Pid) // it does so, too, unless it hangs before
	handed := make(chan struct{})
	go func() { s.handOver(nil); close(handed) }()
	select {
	case <-handed:
	case <-ctx.Done(): // with less than all it cannot begin
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		<-handed
		return fmt.Errorf("it does not take its environment: %w", ctx.Err())
	}
	err = s.awaitSign(ctx)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ErrStarting
	}
	return err
}

// A Standby is the process of a companion that does nothing yet: it waits for its environment.
// Starting it takes as long as much of what an entrypoint does meanwhile.
type Standby struct {
	cmd   *exec.Cmd
	ready *os.File // it says there that it is in charge
	hand  *os.File // its environment goes there
}

// Prepare starts the process of a companion that [Standby.Begin] puts in charge, or
// [Standby.Drop] ends.
func Prepare(stateDir string, held, out *os.File) (*Standby, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	ready, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close()
	envR, hand, err := os.Pipe()
	if err != nil {
		ready.Close()
		return nil, err
	}
	defer envR.Close()
	s := &Standby{exec.Command(exe, "companion", "--state-dir", stateDir), ready, hand} // not CommandContext: it outlives this process image
	s.cmd.Env, _ = environments(os.Environ())
	s.cmd.Stdout, s.cmd.Stderr = out, out
	s.cmd.ExtraFiles = []*os.File{w, held, envR}
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a terminal's or a health check's end is not its end
	if err := s.cmd.Start(); err != nil {
		return nil, errors.Join(err, ready.Close(), hand.Close())
	}
	return s, nil
}

// Begin hands the companion its environment, and the lock's session, if l is not nil. It returns
// once the companion is in charge, which it is by the runtime file that is there by now.
func (s *Standby) Begin(ctx context.Context, l *lock.Lock) (*os.Process, error) {
	defer s.ready.Close()
	var handing sync.WaitGroup
	defer handing.Wait() // a child that has ended reads no more
	handing.Go(func() { s.handOver(l) })
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	if err := s.awaitSign(ctx); err != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		return nil, err
	}
	return s.cmd.Process, nil
}

// handOver gives it its environment, and the lock's session, if l is not nil.
func (s *Standby) handOver(l *lock.Lock) {
	_, handed := environments(os.Environ())
	if l != nil {
		handed = append(handed, sessionEnv+"="+l.Session())
	}
	_, _ = io.WriteString(s.hand, strings.Join(append(handed, envEnd), "\x00"))
	s.hand.Close()
}

// awaitSign returns why the companion will not be in charge, or [os.ErrDeadlineExceeded] where that
// is not known when ctx ends.
func (s *Standby) awaitSign(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { _ = s.ready.SetReadDeadline(time.Now()) })()
	sign := make([]byte, mostWhy)
	n, err := s.ready.Read(sign)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("it gave no sign: %w", err)
	case err != nil:
		_ = s.cmd.Process.Kill()
		return fmt.Errorf("it gave no sign: %w (%v)", err, s.cmd.Wait())
	case sign[0] != inCharge: // it ends by itself, and has told its log
		defer time.AfterFunc(time.Second, func() { _ = s.cmd.Process.Kill() }).Stop()
		_ = s.cmd.Wait()
		return errors.New(strings.ToValidUTF8(string(sign[:n]), ""))
	}
	return nil
}

// Drop ends a companion that is not to begin.
func (s *Standby) Drop() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.ready.Close()
	s.hand.Close()
}
