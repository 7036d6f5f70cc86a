package rabbitmq

import (
	"context"
	"strings"

	"rmq-entrypoint/rabbitconf"
)

// PauseMinority sets, or takes back, what a node does in a minority. RabbitMQ
// reads it when a node goes down, so it can follow the size of the cluster.
func (b CLI) PauseMinority(ctx context.Context, on bool) error {
	mode := rabbitconf.Atom("ignore")
	if on {
		mode = "pause_minority"
	}
	_, err := b.Ctl(ctx, b.Node, "eval", erlang("set_partition_handling", parameter{"Mode", mode}))
	return err
}

// Pauses reports whether RabbitMQ here pauses in a minority.
func (b CLI) Pauses(ctx context.Context) (bool, error) {
	out, err := b.Ctl(ctx, b.Node, "eval", erlang("partition_handling"))
	return strings.Contains(out, "pause_minority"), err
}

// RestartApp restarts RabbitMQ here within its Erlang VM. What does not answer in time may
// have heard it.
func (b CLI) RestartApp(ctx context.Context) error {
	_, err := b.Ctl(ctx, b.Node, "eval", erlang("rejoin"))
	return err
}
