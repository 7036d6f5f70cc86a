package rabbitmq

import (
	"context"
	"strings"
	"syscall"
	"time"
)

// Halt stops the server of this node with status 1, so that a restart policy
// starts it again; if it does not hear that, by SIGTERM, whose status is 0. As
// a container's PID 1 it cannot be killed from inside, but it can be told.
func (b CLI) Halt(ctx context.Context, pid int) error {
	if _, err := b.Ctl(ctx, b.Node, "eval", Erlang("halt")); err == nil {
		return nil
	}
	return syscall.Kill(pid, syscall.SIGTERM)
}

// DrainTimeout bounds each step that moves clients, leaders or replicas: it takes
// its time with many queues.
const DrainTimeout = 5 * time.Minute

// Drained reports whether this node is in maintenance mode.
func (b CLI) Drained(ctx context.Context) (bool, error) {
	out, err := b.Ctl(ctx, b.Node, "eval", Erlang("is_drained"))
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
