package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"rmq-entrypoint/internal/companion"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
)

// A Question is what a health check asks.
type Question int

const (
	Alive   Question = iota // is this container worth keeping?
	Started                 // and was the node a member once since its start?
	Ready                   // is the node fit to serve?
)

// answersWithin is how long a health check takes at most: Docker, and whoever else runs it, gives it
// 10 s. Killed, it would count as failed, and three of those are the end of a server that serves.
const answersWithin = 8 * time.Second

// Healthcheck answers the question in one line and an exit status. It starts a companion
// that was lost again.
func Healthcheck(ctx context.Context, cfg config.Config, q Question, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, answersWithin)
	defer cancel()
	say := func(ok bool, format string, args ...any) error {
		fmt.Fprintln(out, peers.Plain(fmt.Sprintf(format, args...)))
		if !ok {
			return ErrSaid
		}
		return nil
	}
	stepped := AsServersUser() // Docker asks as root, who opens no file of another's
	rt, err := statedir.OfServer(cfg)
	switch {
	case statedir.Exhausted(err):
		return say(q == Alive, "it cannot be looked at: %v", err)
	case err != nil:
		return errors.Join(err, stepped)
	}
	if rt == nil || !rt.Alive() {
		if pid := aServer(); pid > 0 {
			if others, _ := statedir.Running(cfg); len(others) > 0 {
				return say(false, "%s does not run here, and %s does: say which one is meant, with RABBITMQ_NODENAME or --node", cfg.Node, statedir.Names(others))
			}
			return say(false, "RabbitMQ runs here (pid %d) and was not started by rmq-entrypoint: it is a broker of its own, in no cluster and not in Consul. To start it right, make rabbitmq-server the command of the container, without a shell or another entrypoint, and enable plugins in the image or in /etc/rabbitmq/enabled_plugins", pid)
		}
	}
	dir := statedir.Of(cfg)
	if rt != nil {
		dir = statedir.Of(rt.Config)
	}
	if refused, err := dir.Refused(); err == nil && refused != nil && (rt == nil || !rt.Alive()) {
		return say(false, "the start is refused, as the log says: %s", refused.Why)
	}
	if rt == nil {
		return say(q == Alive, "starting: nothing decided yet")
	}
	if !rt.Alive() {
		return say(false, "the server (pid %d) is gone", rt.PID)
	}
	if rt.Waits() {
		return say(q == Alive, "waiting for %s", rt.Waiting)
	}
	again, starts := revive(ctx, dir.State, stepped)
	switch {
	case starts == nil || errors.Is(starts, companion.ErrStarting):
		rt = again
	case errors.Is(starts, errLost):
		return say(false, "%v", starts)
	case statedir.Exhausted(starts):
		return say(q == Alive, "it cannot be looked at: %v", starts)
	case !errors.Is(starts, statedir.ErrLocked) && !errors.Is(starts, errStaysRoot):
		return starts
	}
	r, err := companion.Report{}, starts
	if !errors.Is(starts, companion.ErrStarting) {
		if r, err = ask(ctx, rt); err != nil {
			r, err = askAgain(ctx, rt, stepped)
		}
	}
	verified := !rt.Verified.IsZero()
	switch {
	case errors.Is(err, companion.ErrStarting):
		return say(q == Alive || q == Started && verified, "%v", err)
	case err != nil:
		return say(q == Alive || q == Started && verified, "the companion does not answer: %v", err)
	case q == Started && !verified && rt.Config.Single:
		return say(false, "has not served yet since this start; %s: %s", r.Status, r.Reason)
	case q == Started && !verified:
		return say(false, "no member yet since this start; %s: %s", r.Status, r.Reason)
	case q == Ready:
		return say(r.Ready(), "%s: %s", r.Status, r.Reason)
	}
	return say(true, "alive; %s: %s", r.Status, r.Reason)
}

var (
	errLost      = errors.New("the companion was gone and cannot be started again")
	errStaysRoot = errors.New("cannot step down from root")
)

// revive starts a companion that is gone again, as the runtime file says that the lost one left. An
// error of another kind than [errLost] and [companion.ErrStarting] is why its lock is not to be had.
func revive(ctx context.Context, dir string, stepped error) (*statedir.Runtime, error) {
	held, err := companionLock(dir, stepped)
	if err != nil {
		return nil, err
	}
	defer held.Close()
	rt, err := statedir.ReadRuntime(dir)
	if err == nil {
		err = stepped
	}
	if err == nil {
		err = replace(ctx, rt, held, "the companion was gone")
	}
	if err != nil && !errors.Is(err, companion.ErrStarting) {
		err = fmt.Errorf("%w: %w", errLost, err)
	}
	return rt, err
}

// companionLock takes the companion's lock. Root, where it could not step down, has none: it would write
// where rabbitmq may have put links, and the companion would be root's. It only asks.
func companionLock(dir string, stepped error) (*os.File, error) {
	if stepped != nil && os.Geteuid() == 0 {
		return nil, errStaysRoot
	}
	return statedir.TryLock(dir, statedir.CompanionLock)
}

// young is a companion that may not answer yet.
const young = 30 * time.Second

// longestStill is for how long the loop of a companion may stand still: each of its steps ends
// within half a minute.
const longestStill = 2 * time.Minute

var errStill = errors.New("its loop stands still")

// ask asks the companion. What it says while its loop stands still is no answer: nobody in there
// hears that RabbitMQ stops, or ends what hangs.
func ask(ctx context.Context, rt *statedir.Runtime) (companion.Report, error) {
	r, err := companion.Ask(ctx, rt.Config.StatusSocket())
	if age := time.Duration(r.Still) * time.Second; err == nil && age > max(rt.Config.TTL, longestStill) {
		err = fmt.Errorf("%w, for %s", errStill, age)
	}
	return r, err
}

// askAgain asks a companion that did not answer once more. One that hangs, or was stopped, is
// ended then, and another started in its place: it holds the node's word, and says nothing.
func askAgain(ctx context.Context, rt *statedir.Runtime, stepped error) (companion.Report, error) {
	dir := rt.Config.StateDir
	r, silent := ask(ctx, rt)
	if errors.Is(silent, errStill) { // one that was only stopped goes on at once
		pause(ctx, time.Second)
		r, silent = ask(ctx, rt)
	}
	if !errors.As(silent, new(*url.Error)) && !errors.Is(silent, errStill) || statedir.Exhausted(silent) || ctx.Err() != nil { // it answers, whatever it says, or nobody could ask
		return r, silent
	}
	hangs, err := statedir.Holder(dir, statedir.CompanionLock)
	self, serr := statedir.Self()
	if stepped != nil && os.Geteuid() == 0 {
		err = errors.Join(err, errStaysRoot, stepped)
	}
	if err = errors.Join(err, serr); err != nil || hangs.OlderThan(self) < young {
		return r, errors.Join(silent, err)
	}
	if err := hangs.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return r, fmt.Errorf("%w; it cannot be ended: %w", silent, err)
	}
	held, err := statedir.TryLock(dir, statedir.CompanionLock)
	for until := time.Now().Add(2 * time.Second); errors.Is(err, statedir.ErrLocked) && time.Now().Before(until) && ctx.Err() == nil; {
		pause(ctx, 20*time.Millisecond)
		held, err = statedir.TryLock(dir, statedir.CompanionLock)
	}
	switch {
	case errors.Is(err, statedir.ErrLocked): // by one that another health check started, or a disk keeps it
		return companion.Ask(ctx, rt.Config.StatusSocket())
	case err != nil:
		return r, errors.Join(silent, err)
	}
	defer held.Close()
	if rt, err = statedir.ReadRuntime(dir); err == nil {
		err = stepped
	}
	if err == nil {
		err = replace(ctx, rt, held, fmt.Sprintf("the companion (pid %d) did not answer and was ended", hangs.PID))
	}
	if errors.Is(err, companion.ErrStarting) {
		return r, err
	}
	if err != nil {
		return r, fmt.Errorf("%w; it was ended and cannot be started again: %w", silent, err)
	}
	return companion.Ask(ctx, rt.Config.StatusSocket())
}

// replace starts the companion again, with the server's own output.
func replace(ctx context.Context, rt *statedir.Runtime, held *os.File, why string) error {
	rt.Waiting = statedir.Replaced
	if err := rt.Write(); err != nil {
		return err
	}
	out, err := serversOutput(rt.PID, os.Stderr)
	if err != nil {
		return err
	}
	defer out.Close()
	fmt.Fprintf(out, "rmq-entrypoint: %s, a health check starts it again\n", why)
	return companion.Spawn(ctx, *rt, held, out)
}

// serversOutput opens what the server writes its log to. Where that is a socket, as systemd's journal is one, it cannot be
// opened by a name: then it is this command's own, if that is such a socket, too.
func serversOutput(pid int, own *os.File) (*os.File, error) {
	out, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/2", pid), os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		return out, nil
	}
	if info, err := own.Stat(); err == nil && info.Mode()&fs.ModeSocket != 0 {
		fd, err := unix.FcntlInt(own.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("take over the output: %w", err)
		}
		return os.NewFile(uintptr(fd), "journal"), nil
	}
	return os.OpenFile(os.DevNull, os.O_WRONLY, 0)
}
