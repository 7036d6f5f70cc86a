package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/healthcheck"
)

// RabbitMQ on Mnesia pauses in a minority when it takes the others for down. A cut
// that ends just then, about 75 s after it began, is over before that: the others
// are down and up again within a millisecond, nobody pauses, and Mnesia keeps the
// two sides apart for good. Where pause_minority is set, what it missed is made up
// for here: the smaller side restarts, inside its Erlang VM as RabbitMQ itself
// would, and the larger one serves on.

// A partitionMap says of members that answered from whom each is partitioned.
type partitionMap map[string][]string

// apart reports whether one of the two is partitioned from the other.
func (p partitionMap) apart(a, b string) bool {
	return slices.Contains(p[a], b) || slices.Contains(p[b], a)
}

// side returns the members that node is not apart from, in order, itself among them.
func (p partitionMap) side(node string, members []string) []string {
	return slices.DeleteFunc(slices.Sorted(slices.Values(members)), func(m string) bool { return p.apart(node, m) })
}

// before reports whether a goes on when a and b are apart: it has the larger side,
// or of two alike the one with the first name. Of any two exactly one does.
func (p partitionMap) before(a, b string, members []string) bool {
	as, bs := p.side(a, members), p.side(b, members)
	return cmp.Or(cmp.Compare(len(bs), len(as)), slices.Compare(as, bs), strings.Compare(a, b)) < 0
}

// outranks returns the members that node has to give way to: they are apart from
// it, go on, and answer.
func (p partitionMap) outranks(node string, members []string) (winners []string) {
	for _, m := range members {
		if _, answers := p[m]; answers && p.apart(node, m) && p.before(m, node, members) {
			winners = append(winners, m)
		}
	}
	return winners
}

// partitioned returns the status of a node that is partitioned, and heals that if
// it is for this node to do.
func (c *companion) partitioned(ctx context.Context, r healthcheck.Result) (status, reason string) {
	node, v, ps := c.rt.Config.Node, c.view, partitionMap(c.view.PartitionsOf)
	c.wrong = fmt.Sprintf("partitioned from %s", strings.Join(v.Partitions, ", "))
	if !v.Pauses {
		c.wrong += ": restart the smaller side, or set cluster_partition_handling"
		return api.HealthCritical, c.wrong
	}
	winners, side := ps.outranks(node, v.Members), ps.side(node, v.Members)
	silent := func(m string) bool { _, answers := ps[m]; return !answers }
	switch {
	case len(winners) > 0:
	case 2*len(side) <= len(v.Members) && slices.ContainsFunc(v.Partitions, silent): // who may be the one to go on
		c.wrong += ", not all of which answer"
		return api.HealthCritical, c.wrong
	default:
		// It is they who restart: this side is the cluster. A check that failed here, too,
		// would leave clients without a node.
		why := fmt.Sprintf("%s: %s go on, the others restart; if they do not, restart them", c.wrong, strings.Join(side, ", "))
		c.story("this side of the partition goes on", why)
		c.wrong = ""
		return min(r.State, healthcheck.Warning).String(), why
	}
	c.wrong += fmt.Sprintf(": %s go on, RabbitMQ restarts here to be one of them", strings.Join(winners, ", "))
	c.log.Warn("partitioned, and RabbitMQ did not pause: it restarts here", "from", strings.Join(v.Partitions, ","), "go_on", strings.Join(winners, ","))
	if err := c.broker.rejoin(ctx, winners); err != nil {
		return api.HealthCritical, fmt.Sprintf("%s: %v", c.wrong, err)
	}
	return api.HealthCritical, c.wrong
}

// rejoinExpr restarts RabbitMQ within its Erlang VM, by the process with which
// it pauses: one that was faster does the same. Those who go on forget a partition
// only when everybody on the other side has stopped, so that is waited for, up to a
// minute; and as in any minority, without an end for one of them to be there. What
// cannot start again ends the server, whose restart decides afresh. The process is
// linked to the one that starts it, which must not be the one that ends with an
// answer to rabbitmqctl.
const rejoinExpr = `Winners = [%s],
Answers = fun() -> element(1, gen_server:multi_call([N || N <- Winners, net_adm:ping(N) =:= pong], rabbit_node_monitor, partitions, 3000)) end,
Wait = fun W(Left) ->
  case Answers() of
    [] -> timer:sleep(500), W(Left);
    L ->
      case Left > 0 andalso lists:any(fun({_, P}) -> lists:member(node(), P) end, L) of
        true -> timer:sleep(500), W(Left - 1);
        false -> ok
      end
  end end,
Restart = fun() -> rabbit:stop(), Wait(120), case catch rabbit:start() of ok -> ok; _ -> init:stop(1) end end,
spawn(fun() -> rabbit_node_monitor:run_outside_applications(Restart, false) end), ok.`

// rejoin restarts RabbitMQ on this node as one of the members that go on. It
// returns when that has begun.
func (b broker) rejoin(ctx context.Context, winners []string) error {
	quoted := make([]string, len(winners))
	for i, w := range winners {
		quoted[i] = "'" + w + "'"
	}
	_, err := b.ctl(ctx, b.node, "eval", fmt.Sprintf(rejoinExpr, strings.Join(quoted, ", ")))
	return err
}
