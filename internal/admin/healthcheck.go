package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"rmq-entrypoint/internal/companion"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/statedir"
)

// Healthcheck answers Docker's question "is this container worth killing?",
// or with ready "is this node fit to serve?", in one line and an exit status. It
// starts a companion that was lost again.
func Healthcheck(ctx context.Context, cfg config.Config, ready bool, out io.Writer) error {
	say := func(ok bool, format string, args ...any) error {
		fmt.Fprintf(out, format+"\n", args...)
		if !ok {
			return ErrSaid
		}
		return nil
	}
	stepped := asServersUser() // Docker asks as root, who opens no file of another's
	rt, err := statedir.OfServer(cfg)
	if err != nil {
		return err
	}
	if rt == nil || !rt.Alive() {
		if pid := aServer(); pid > 0 {
			return say(false, "RabbitMQ runs here (pid %d) and was not started by rmq-entrypoint: it is a broker of its own, in no cluster and not in Consul. To start it right, make rabbitmq-server the command of the container, without a shell or another entrypoint, and enable plugins in the image or in /etc/rabbitmq/enabled_plugins", pid)
		}
	}
	if rt == nil {
		return say(!ready, "starting: nothing decided yet")
	}
	if !rt.Alive() {
		return say(false, "the server (pid %d) is gone", rt.PID)
	}
	if rt.Waiting != "" && rt.Waiting != statedir.Replaced {
		return say(!ready, "waiting for %s", rt.Waiting)
	}
	dir := rt.Config.StateDir
	seat, err := statedir.TryLock(dir, statedir.CompanionLock)
	if err == nil {
		defer seat.Close()
		if rt, err = statedir.ReadRuntime(dir); err == nil { // what the lost one wrote last
			err = stepped
		}
		if err == nil {
			err = replace(ctx, rt, seat)
		}
		if err != nil {
			return say(false, "the companion was gone and cannot be started again: %v", err)
		}
	} else if !errors.Is(err, statedir.ErrLocked) {
		return err
	}
	r, err := companion.Ask(ctx, rt.Config.HTTP)
	switch {
	case err != nil:
		return say(!ready, "the companion does not answer: %v", err)
	case ready:
		return say(r.Ready(), "%s: %s", r.Status, r.Reason)
	}
	return say(true, "alive; %s: %s", r.Status, r.Reason)
}

// replace starts the companion again, with the server's own output.
func replace(ctx context.Context, rt *statedir.Runtime, seat *os.File) error {
	rt.Waiting = statedir.Replaced
	if err := rt.Write(); err != nil {
		return err
	}
	out, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/2", rt.PID), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		if out, err = os.OpenFile(os.DevNull, os.O_WRONLY, 0); err != nil {
			return err
		}
	}
	defer out.Close()
	fmt.Fprintln(out, "rmq-entrypoint: the companion was gone, a health check starts it again")
	_, err = companion.Spawn(ctx, *rt, nil, seat, out)
	return err
}
