package companion

import (
	"context"
	"slices"
	"time"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
)

// outOfService says why the node is out of service by an operator's order, or "".
// When RabbitMQ serves all the same, because it was revived, or because the command
// was interrupted before it was drained, the order is void.
func (c *Companion) outOfService(ctx context.Context, r healthcheck.Result) string {
	c.out = false
	v := statedir.Of(c.rt.Config)
	order, err := v.Maintenance()
	switch {
	case err != nil:
		return err.Error()
	case order == nil:
		return ""
	}
	seat, err := statedir.TryLock(c.rt.Config.StateDir, statedir.OperatorLock)
	interrupted := err == nil && !order.Done // nobody works on it any more
	if err == nil {
		defer seat.Close()
	}
	switch {
	case order.Leaving:
		if c.finishLeaving(ctx, interrupted) {
			return ""
		}
	// A miss shows with the second check.
	case (order.Drained || interrupted) && c.serving && r.State != healthcheck.Critical && time.Since(order.At) > 2*c.beatEvery():
		if err := v.Remove("out"); err != nil {
			return err.Error()
		}
		c.log.Info("back in service: RabbitMQ serves, it was revived or never drained")
		return ""
	}
	c.out = true
	switch {
	case order.Leaving:
		return "leaving the cluster for good"
	case order.Done:
		return "maintenance: drained since " + order.At.Format(time.RFC3339)
	case interrupted:
		return "maintenance: the drain did not end: run rmq-entrypoint drain again, or rabbitmq-upgrade revive"
	}
	return "maintenance: being drained"
}

// finishLeaving does what is left to do when the leave command is gone, and reports
// whether the node is back in service. Off the record, the server stops, and the
// others forget the node. Before that nothing is lost, and it stays.
func (c *Companion) finishLeaving(ctx context.Context, interrupted bool) (back bool) {
	_, r, _, err := c.record(ctx)
	node := c.rt.Config.Node
	_, on := r.Members[node]
	switch {
	case err != nil:
	case r.HasLeft(node, c.rt.Volume):
		if time.Since(r.Gone[node].At) >= LeaveGrace {
			c.log.Warn("this node left the cluster for good: stopping the server")
			c.halt(ctx)
		}
	case interrupted && c.serving && (r.Members[node] == c.rt.Volume || on && r.Members[node] == ""): // or published anew meanwhile
		if err := c.broker.Revive(ctx); err != nil {
			c.log.Warn("leave was interrupted, and RabbitMQ stays in maintenance mode", "err", err)
			return false
		}
		if err := statedir.Of(c.rt.Config).Remove("out"); err != nil {
			c.log.Warn("leave was interrupted, and its order cannot be removed", "err", err)
			return false
		}
		c.log.Warn("leave was interrupted before the node was off the record: back in service")
		return true
	}
	return false
}

// forgetLeft makes RabbitMQ forget members that left for good, where the command
// that was to do it is gone: scaling down is to leave no ghost. The first of the
// running members does it.
func (c *Companion) forgetLeft(ctx context.Context) {
	for _, n := range c.left {
		c.log.Warn("a member left for good and was not forgotten: forgetting it", "member", n)
		if err := c.broker.Forget(ctx, c.rt.Config.Node, n); err != nil {
			c.log.Warn("it is not forgotten yet", "member", n, "err", err)
		}
		c.viewAt = time.Time{}
	}
	c.left = nil
}

// leftBehind returns the members that forgetLeft is for, if it is for this node to do.
func leftBehind(r peers.Record, v peers.View, node string) (names []string) {
	on := slices.DeleteFunc(slices.Clone(v.Running), func(n string) bool { _, on := r.Members[n]; return !on })
	if len(on) == 0 || slices.Min(on) != node {
		return nil
	}
	for _, m := range v.Members {
		if g := r.Gone[m]; g.Left && r.HasLeft(m, g.Volume) && !slices.Contains(v.Running, m) && time.Since(g.At) > LeaveGrace {
			names = append(names, m)
		}
	}
	return names
}

// LeaveGrace is how long the leave command has, from when the node is off the
// record until it is forgotten and its server stopped, before others finish it.
const LeaveGrace = 2 * time.Minute
