package companion

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/rabbitconf"
)

// mirror has queues mirrored to all nodes, where the version mirrors, and says
// what keeps it from that. What RabbitMQ refuses, as where the user does not permit
// mirroring, is said in the log and holds nothing up.
func (c *Companion) mirror(ctx context.Context) string {
	if !c.rt.Config.SurvivingQueues() || c.atLeast(4, 0) {
		return ""
	}
	said, err := c.broker.PerQueue(ctx, rabbitmq.Erlang("mirror", rabbitmq.Parameter{Name: "Name", Value: rabbitconf.Binary(rabbitmq.MirrorPolicy)}))
	if err != nil {
		return fmt.Sprintf("the policy that mirrors queues cannot be set (--queues, RMQ_QUEUES): %v", err)
	}
	var hosts []string
	for host, word := range said {
		if word == "ok" {
			hosts = append(hosts, host)
		} else {
			c.log.Warn("queues are not mirrored here: RabbitMQ refuses the policy", "vhost", host, "policy", rabbitmq.MirrorPolicy, "why", word)
		}
	}
	slices.Sort(hosts)
	c.log.Info("queues are mirrored to all nodes", "policy", rabbitmq.MirrorPolicy, "vhosts", strings.Join(hosts, ","))
	return ""
}

// pair says what a cluster of two members cannot survive, or "". Not at once: a
// third may be about to join.
func (c *Companion) pair() string {
	if len(c.view.Members) != 2 {
		c.two = time.Time{}
		return ""
	}
	if c.two.IsZero() {
		c.two = time.Now()
	}
	if time.Since(c.two) < 2*c.rt.Config.TTL {
		return ""
	}
	switch {
	case c.view.Khepri:
		return "TWO NODES: this cluster does not survive the loss of either, because RabbitMQ 4.2 and later decide by majority: add a third node"
	case c.atLeast(4, 0) && c.rt.Config.SurvivingQueues():
		return "TWO NODES: quorum queues with a replica on both do not survive the loss of either: add a third node, or set --queues (RMQ_QUEUES) to off"
	}
	return ""
}

// A node that joins, or joins again with a blank volume, has no replica of the
// quorum queues there are: RabbitMQ leaves them where they were declared, or lets
// them grow in its own time (from 4.0, rabbitconf.Queues). What follows brings them
// here at once, and says so.

// regrowExprs are what brings replicas here on this version. A user who keeps the
// queues to himself still gets back what a wiped volume took.
func (c *Companion) regrowExprs() []string {
	few := rabbitconf.Int(1)
	if c.rt.Config.SurvivingQueues() {
		few = 3
	}
	exprs := []string{rabbitmq.Erlang("grow", rabbitmq.Parameter{Name: "Few", Value: few})}
	if !c.atLeast(3, 13) {
		exprs = append(exprs, rabbitmq.Erlang("refill"))
	}
	return exprs
}

// regrow brings this node's replicas of quorum queues back, a few a beat, until
// there is nothing left to do or it has failed ten times.
func (c *Companion) regrow(ctx context.Context) {
	if c.regrows == 0 {
		return
	}
	var grown, failed []string
	left, busy := false, error(nil)
	for _, expr := range c.regrowExprs() {
		said, err := c.broker.PerQueue(ctx, expr)
		if err != nil { // busy, as a node that has just joined is
			left, busy = true, err
			break
		}
		for queue, word := range said {
			switch word {
			case "ok":
				grown = append(grown, queue)
			case "later":
				left = true
			default:
				left, failed = true, append(failed, fmt.Sprintf("%s: %s", queue, word))
			}
		}
	}
	if len(grown) > 0 {
		c.log.Info("quorum queues have a replica here again", "queues", len(grown), "names", strings.Join(grown, "; "))
	}
	if busy != nil || len(failed) > 0 {
		c.regrows--
	}
	if busy != nil {
		c.log.Info("cannot look yet whether quorum queues lack a replica here", "tries_left", c.regrows, "why", busy)
	}
	if len(failed) > 0 {
		c.log.Warn("quorum queues without a replica here", "tries_left", c.regrows, "why", strings.Join(failed, "; "))
	}
	if !left {
		c.regrows = 0
	}
}
