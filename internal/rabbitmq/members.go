package rabbitmq

import (
	"context"
	"fmt"
)

// Forget makes peer drop node's earlier incarnation, whose volume is blank now.
// Never for a node that still has data.
func (b CLI) Forget(ctx context.Context, peer, node string) error {
	_, err := b.Ctl(ctx, peer, "forget_cluster_node", node)
	return err
}

// Join makes this node, which came up alone by accident, join peer: that gives
// up its own data, so it must have none worth keeping.
func (b CLI) Join(ctx context.Context, peer string) error {
	for _, argv := range [][]string{{"stop_app"}, {"join_cluster", peer}, {"start_app"}} {
		if _, err := b.Ctl(ctx, b.Node, argv...); err != nil {
			return fmt.Errorf("%s: %w", argv[0], err)
		}
	}
	return nil
}
