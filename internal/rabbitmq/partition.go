package rabbitmq

import (
	"context"

	"rmq-entrypoint/rabbitconf"
)

// PauseMinority sets, or takes back, what a node does in a minority. RabbitMQ
// reads it when a node goes down, so it can follow the size of the cluster.
func (b CLI) PauseMinority(ctx context.Context, on bool) error {
	mode := rabbitconf.Atom("ignore")
	if on {
		mode = "pause_minority"
	}
	_, err := b.Ctl(ctx, b.Node, "eval", Erlang("set_partition_handling", Parameter{"Mode", mode}))
	return err
}
