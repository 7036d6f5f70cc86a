package companion

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
)

// RabbitMQ on Mnesia pauses in a minority when it takes the others for down. A cut
// that ends just then, about 75 s after it began, is over before that: the others
// are down and up again within a millisecond, nobody pauses, and Mnesia keeps the
// two sides apart for good. Where pause_minority is set, what it missed is made up
// for here: the smaller side restarts, inside its Erlang VM as RabbitMQ itself
// would, and the larger one serves on.

// The sides of a partition, of each member that answers.
type sides map[string]peers.Side

func (s sides) runs(m string) bool { return len(s[m].With) > 0 }

// claims returns the members that count for m: those it runs with, and those that do
// not run, or do not answer, from which it was not partitioned. A majority of which
// one has stopped since is still what the others have to give way to.
func (s sides) claims(m string, members []string) []string {
	return slices.DeleteFunc(slices.Clone(members), func(o string) bool {
		return !slices.Contains(s[m].With, o) && (s.runs(o) || slices.Contains(s[m].From, o))
	})
}

// before reports whether a goes on when a and b are apart: its side is the larger
// one, or of two alike the one with the first name.
func (s sides) before(a, b string, members []string) bool {
	as, bs := s.claims(a, members), s.claims(b, members)
	return cmp.Or(cmp.Compare(len(bs), len(as)), slices.Compare(as, bs), strings.Compare(a, b)) < 0
}

// stronger returns the members that run apart from node and go before it. None: it
// goes on.
func (s sides) stronger(node string, members []string) []string {
	return slices.DeleteFunc(slices.Clone(members), func(m string) bool {
		apart := !slices.Contains(s[m].With, node) || !slices.Contains(s[node].With, m)
		return m == node || !s.runs(m) || !apart || !s.before(m, node, members)
	})
}

// winners returns the members that go on.
func (s sides) winners(members []string) []string {
	return slices.DeleteFunc(slices.Clone(members), func(m string) bool { return !s.runs(m) || len(s.stronger(m, members)) > 0 })
}

// rejoinEvery is how often RabbitMQ is restarted here at most: a network that comes
// and goes is not to be answered each time.
const rejoinEvery = time.Minute

// partitionedAnyway heals a partition where the rest of the node cannot be judged,
// or is no better. It returns "" when there is none.
func (c *Companion) partitionedAnyway(ctx context.Context, r healthcheck.Result) (status, reason string) {
	if c.rt.Role != statedir.Member || c.look(ctx, c.seen, nil) != "" {
		return "", ""
	}
	if len(c.view.Partitions) > 0 {
		return c.partitioned(ctx, r)
	}
	c.whole()
	return "", ""
}

// whole forgets what was wrong because of a partition.
func (c *Companion) whole() {
	if !c.partedAt.IsZero() {
		c.partedAt, c.wrong, c.mild = time.Time{}, "", false
	}
}

// partitioned returns the status of a node that is partitioned, and heals that if
// it is for this node to do.
func (c *Companion) partitioned(ctx context.Context, r healthcheck.Result) (status, reason string) {
	node, v, s := c.rt.Config.Node, c.view, sides(c.view.Sides)
	if c.partedAt.IsZero() {
		c.partedAt = time.Now()
	}
	c.wrong, c.mild = "partitioned from "+strings.Join(v.Partitions, ", "), false
	silent := slices.DeleteFunc(slices.Clone(v.Members), func(m string) bool { _, answers := s[m]; return answers })
	goesOn, majority := len(s.stronger(node, v.Members)) == 0, 2*len(s[node].With) > len(v.Members)
	rival := slices.ContainsFunc(v.Partitions, func(m string) bool { return slices.Contains(silent, m) }) // may be one
	winners := strings.Join(s.winners(v.Members), ", ")
	switch {
	case !v.Pauses:
		c.wrong += ": restart the smaller side, of two nodes one; or set cluster_partition_handling"
	case !s.runs(node):
		c.wrong += ": its Mnesia has stopped"
	// A network comes back in steps.
	case len(silent) > 0 && time.Since(c.partedAt) < 2*c.beatEvery(), goesOn && rival && !majority:
		c.wrong += fmt.Sprintf(", and %s do not answer", strings.Join(silent, ", "))
		c.mild = majority
	case goesOn: // a check that failed here, too, would leave clients without a node
		c.wrong += fmt.Sprintf(": %s go on, the others restart; if they do not, restart them", winners)
		c.mild = true
	case time.Since(c.rejoinAt) < rejoinEvery:
		c.wrong += fmt.Sprintf(": %s go on; RabbitMQ restarted here at %s for that already, and does again after %s", winners, c.rejoinAt.Format(time.TimeOnly), rejoinEvery)
	default:
		c.rejoin(ctx, winners)
	}
	c.story("partitioned", c.wrong)
	if c.mild {
		if r.State == healthcheck.Warning {
			return api.HealthWarning, r.Reason + "; " + c.wrong
		}
		return api.HealthWarning, c.wrong
	}
	return api.HealthCritical, c.wrong
}

// rejoin restarts RabbitMQ on this node as one of the members that go on.
func (c *Companion) rejoin(ctx context.Context, winners string) {
	c.wrong += fmt.Sprintf(": %s go on, RabbitMQ restarts here to be one of them", winners)
	was := c.rejoinAt
	c.rejoinAt, c.rejoining = time.Now(), c.wrong
	// Not cut short by the event that it stops, nor to keep the beat: the check is critical.
	_, err := c.broker.Ctl(context.WithoutCancel(ctx), c.rt.Config.Node, "eval", rabbitmq.Erlang("rejoin"))
	if err != nil && !errors.Is(err, context.DeadlineExceeded) { // then it may have been heard
		c.rejoinAt, c.rejoining = was, ""
		c.wrong += fmt.Sprintf(", which it cannot be told: %v", err)
		return
	}
	c.log.Warn("partitioned, and RabbitMQ did not pause: it restarts here", "from", strings.Join(c.view.Partitions, ","), "go_on", winners)
}
