package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"time"

	"rmq-entrypoint/rabbitconf"
)

// Forget makes peer drop node's earlier incarnation, whose volume is blank now.
// Never for a node that still has data.
func (b CLI) Forget(ctx context.Context, peer, node string) error {
	_, err := b.Ctl(ctx, peer, "forget_cluster_node", node)
	return err
}

// Join makes this node, which came up alone by accident, join peer: that gives up its own data, so
// it must have none worth keeping. No client may add any meanwhile. To close and to stop takes
// seconds: may is asked once more whether it is still to join, and if not, it is as it was.
func (b CLI) Join(ctx context.Context, peer string, may func(context.Context) error) error {
	switch queues, err := b.CloseIfEmpty(ctx); {
	case err != nil:
		return fmt.Errorf("close to clients: %w", err)
	case queues > 0:
		return fmt.Errorf("clients have declared %d queues here meanwhile", queues)
	}
	if err := b.step(ctx, "stop_app"); err != nil {
		return err
	}
	if err := may(ctx); err != nil {
		return errors.Join(err, b.step(ctx, "start_app"))
	}
	if err := b.step(ctx, "join_cluster", peer); err != nil {
		return err
	}
	return b.step(ctx, "start_app")
}

func (b CLI) step(ctx context.Context, argv ...string) error {
	if _, err := b.Ctl(ctx, b.Node, argv...); err != nil {
		return fmt.Errorf("%s: %w", argv[0], err)
	}
	return nil
}

// forceTimeout bounds each step of going on without others: none is due within a heartbeat,
// since the node is out of service anyway, and each takes its time with many queues.
const forceTimeout = 2 * time.Minute

// A Boot is how RabbitMQ is to come up without others.
type Boot struct {
	Lost    []string // they are given up
	Khepri  bool     // members decide by majority
	Mirrors bool     // this version mirrors classic queues
	Paused  bool     // in a minority; a restart follows
}

// ForceBoot tells RabbitMQ, which waits, to come up without the others: it goes on
// with its boot (measured on 3.10, 4.0 and 4.3). One that paused only gets what it
// must know before it is restarted: it stopped last, so it comes up by itself.
func (b CLI) ForceBoot(ctx context.Context, how Boot) error {
	argv := []string{"eval", erlang("force_load")}
	switch {
	case how.Khepri:
		argv = []string{"force_standalone_khepri_boot"}
	case how.Paused && !how.Mirrors:
		return nil
	case how.Mirrors:
		var nodes rabbitconf.List
		for _, n := range how.Lost { // they come from the record
			if err := rabbitconf.ValidNode(n); err != nil {
				return err
			}
			nodes = append(nodes, rabbitconf.Atom(n))
		}
		home := erlang("home", parameter{"Lost", nodes})
		if how.Paused {
			argv[1] = inTurn(erlang("mnesia_start"), home, erlang("mnesia_stop"))
		} else {
			argv[1] = inTurn(home, argv[1])
		}
	}
	_, err := b.Within(ctx, forceTimeout, b.Node, argv...)
	return err
}

// ForgetLost makes RabbitMQ here forget a member whose data is given up. It may complain,
// and have done it all the same.
func (b CLI) ForgetLost(ctx context.Context, node string) error {
	_, err := b.Within(ctx, forceTimeout, b.Node, "forget_cluster_node", node)
	return err
}
