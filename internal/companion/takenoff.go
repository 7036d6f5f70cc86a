package companion

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
)

// takenOff reports whether this node, which serves, is off the record by another's doing,
// as when `forget-cluster` was told that nobody runs. Whoever wrote that did not know what this
// process knows, so it stops nobody: the node goes back on record. What a process of this
// node's own wrote before this start is another matter, and so is its own leave.
func (c *Companion) takenOff(r peers.Record) bool {
	node := c.rt.Config.Node
	g, gone := r.Gone[node]
	_, on := r.Members[node]
	switch {
	case !gone || on, r.State != peers.Formed || r.ClusterID != c.view.ClusterID:
		return false
	case g.Volume != "" && g.Volume != c.rt.Volume: // of an earlier volume: nothing is said of this one
		return false
	case !slices.Contains(c.view.Running, node):
		return false
	case g.Final: // the others went on without what this volume holds
		return false
	}
	// Under its own name, but not by this node, which has served since: a second container
	// with its host name, say.
	since := !c.rt.Verified.IsZero() && g.At.After(c.rt.Verified)
	if g.Left { // its own leave begins with an order on its volume
		order, err := statedir.Of(c.rt.Config).Maintenance()
		return since && err == nil && (order == nil || !order.Leaving)
	}
	return g.Another(node) || since
}

// putBack puts this node back on the record if it was taken off by another's doing, and
// with it the other members that were given up: they have their data, and are refused
// otherwise. It reports whether it was for it to do, and why it is not done.
func (c *Companion) putBack(ctx context.Context, client *api.Client, r peers.Record, index uint64) (mine bool, why string) {
	if !c.takenOff(r) {
		return false, ""
	}
	node := c.rt.Config.Node
	g := r.Gone[node]
	c.log.Warn("this node serves, and was taken off the record all the same: putting it back",
		"written_by", cmp.Or(g.By, "not said"), "at", g.At.Format(time.RFC3339), "said", g.Why)
	back := r.Reinstated(node, c.rt.Volume, c.view.Members)
	if why := c.publish(ctx, client, back, index, "back on the record, from which this node was taken while it serves"); why != "" {
		if why == changedFirst {
			return true, why
		}
		return true, fmt.Sprintf("%s, and cannot be put back: %s", g.Told(node, "the record"), why)
	}
	return true, ""
}
