package rabbitmq

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"time"
)

// Halt stops the server of this node with status 1, so that a restart policy
// starts it again; if it does not hear that, by SIGTERM, whose status is 0. As
// a container's PID 1 it cannot be killed from inside, but it can be told.
func (b CLI) Halt(ctx context.Context, pid int) error {
	if _, err := b.Ctl(ctx, b.Node, "eval", erlang("halt")); err == nil {
		return nil
	}
	return terminate(pid)
}

// DrainTimeout bounds each step that moves clients, leaders or replicas: it takes
// its time with many queues.
const DrainTimeout = 5 * time.Minute

// Drained reports whether this node is in maintenance mode.
func (b CLI) Drained(ctx context.Context) (bool, error) {
	out, err := b.Ctl(ctx, b.Node, "eval", erlang("is_drained"))
	return strings.Contains(out, "maintenance|true|"), err
}

// Revive ends RabbitMQ's maintenance mode, if it is in that.
func (b CLI) Revive(ctx context.Context) error {
	drained, err := b.Drained(ctx)
	if err == nil && drained {
		_, err = b.Tool(ctx, DrainTimeout, "rabbitmq-upgrade", "revive")
	}
	return err
}

// MarkDrained has RabbitMQ take this node for one in maintenance mode: it puts no replica
// here.
func (b CLI) MarkDrained(ctx context.Context) error {
	_, err := b.Ctl(ctx, b.Node, "eval", erlang("mark_drained"))
	return err
}

// HaltSoon stops the server of this node with status 0 in a moment, late enough for a
// command in its container to end before it does; if it does not hear that, by SIGTERM.
func (b CLI) HaltSoon(ctx context.Context, pid int) error {
	if _, err := b.Ctl(ctx, b.Node, "eval", erlang("halt_soon")); err == nil {
		return nil
	}
	return terminate(pid)
}

// EndStop ends the server of this node at once if it is stopping, and reports whether it is.
func (b CLI) EndStop(ctx context.Context) (bool, error) {
	out, err := b.Ctl(ctx, b.Node, "eval", erlang("end_stop"))
	return strings.Contains(out, "stopping|true|"), err
}

// terminate sends SIGTERM to one process: to kill(2) less than 1 would mean many.
func terminate(pid int) error {
	if pid < 1 {
		return fmt.Errorf("there is no process %d to stop", pid)
	}
	return syscall.Kill(pid, syscall.SIGTERM)
}
