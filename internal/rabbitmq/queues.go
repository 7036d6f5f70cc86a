package rabbitmq

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"rmq-entrypoint/rabbitconf"
)

// Queues counts the queues on this node's cluster.
func (b CLI) Queues(ctx context.Context) (int, error) {
	return b.count(ctx, erlang("count_queues"))
}

// CloseIfEmpty closes this node to clients if its cluster has no queues, and returns how many it
// has: with some, it stays open, or is open again.
func (b CLI) CloseIfEmpty(ctx context.Context) (int, error) {
	return b.count(ctx, erlang("close_if_empty"))
}

func (b CLI) count(ctx context.Context, expr string) (int, error) {
	out, err := b.Ctl(ctx, b.Node, "eval", expr)
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(out, "queues|")
	text, _, _ := strings.Cut(rest, "|")
	n, err := strconv.Atoi(text)
	if !ok || err != nil || n < 0 {
		return 0, fmt.Errorf("count queues: got %.200q", out)
	}
	return n, nil
}

// Queues survive the loss of a node in two ways. Up to RabbitMQ 3.13 a policy
// mirrors them, which the seed sets before it announces its cluster: once, and
// what becomes of it then is the user's. From 4.0 they are quorum queues, by
// settings in rabbitmq.config (rabbitconf.Queues).

// MirrorPolicy is the name of the policy in each virtual host.
const MirrorPolicy = "rmq-entrypoint-mirrors"

// perQueue runs an expression that prints one line a queue, for at most d, and returns what
// it said of each.
func (b CLI) perQueue(ctx context.Context, d time.Duration, expr string) (map[string]string, error) {
	out, err := b.Within(ctx, d, b.Node, "eval", expr)
	if err != nil {
		return nil, err
	}
	said := map[string]string{}
	for line := range strings.Lines(out) {
		line, ok := strings.CutPrefix(strings.TrimSuffix(strings.TrimSpace(line), "|"), "queue|")
		if i := strings.LastIndex(line, "|"); ok && i >= 0 { // a name may hold what parts it from the word
			said[line[:i]] = line[i+1:]
		}
	}
	return said, nil
}

// Said is the word on one queue.
type Said struct{ Name, Word string }

// MirrorQueues sets the policy by which queues are mirrored to all nodes, and returns what
// RabbitMQ said of it by virtual host: ok, or why it refuses.
func (b CLI) MirrorQueues(ctx context.Context) (map[string]string, error) {
	return b.perQueue(ctx, CLITimeout, erlang("mirror", parameter{"Name", rabbitconf.Binary(MirrorPolicy)}))
}

// GrowReplicas brings replicas of quorum queues to this node, a few at a time: of each that
// has less than few members, and, with refill, in the place of one that would stay empty for
// good. It returns what became of each queue, ok, later, or why it fails, also beside an error.
func (b CLI) GrowReplicas(ctx context.Context, few int, refill bool) (all []Said, err error) {
	exprs := []string{erlang("grow", parameter{"Few", rabbitconf.Int(few)})}
	if refill {
		exprs = append(exprs, erlang("refill"))
	}
	for _, expr := range exprs {
		said, err := b.perQueue(ctx, CLITimeout, expr)
		if err != nil {
			return all, err
		}
		for queue, word := range said {
			all = append(all, Said{queue, word})
		}
	}
	return all, nil
}

// MoveReplicas moves what lies on this node to others, a few at a time, and returns what
// became of each queue. Forced, it moves also where classic queues are on this node alone.
func (b CLI) MoveReplicas(ctx context.Context, forced bool) (map[string]string, error) {
	return b.perQueue(ctx, DrainTimeout, erlang("move", parameter{"Forced", rabbitconf.Atom(strconv.FormatBool(forced))}))
}

// ShrinkQuorumQueues leaves quorum queues with their replica on this node alone.
func (b CLI) ShrinkQuorumQueues(ctx context.Context) error {
	_, err := b.Within(ctx, forceTimeout, b.Node, "eval", erlang("shrink"))
	return err
}

// UnavailableQueues returns the quorum queues without a majority of their replicas, and
// where these are.
func (b CLI) UnavailableQueues(ctx context.Context) (map[string]string, error) {
	return b.perQueue(ctx, CLITimeout, erlang("unavailable"))
}

// LostWith returns the queues that would be lost, or stand still, if the cluster forgot node,
// which is down: OnlyThere for those that are on it alone, or where their replicas run.
func (b CLI) LostWith(ctx context.Context, node string) (map[string]string, error) {
	if err := rabbitconf.ValidNode(node); err != nil { // it gets into Erlang
		return nil, err
	}
	return b.perQueue(ctx, DrainTimeout, erlang("lost_with", parameter{"Dead", rabbitconf.Atom(node)}))
}

// OnlyThere is the word of [CLI.LostWith] on a classic queue that no other node has.
const OnlyThere = "only_there"
