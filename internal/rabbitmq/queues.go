package rabbitmq

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Queues counts the queues on this node's cluster.
func (b CLI) Queues(ctx context.Context) (int, error) {
	out, err := b.Ctl(ctx, b.Node, "eval", Erlang("count_queues"))
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(out, "queues|")
	n, _, _ := strings.Cut(rest, "|")
	if !ok {
		return 0, fmt.Errorf("count queues: got %.200q", out)
	}
	return strconv.Atoi(n)
}

// Queues survive the loss of a node in two ways. Up to RabbitMQ 3.13 a policy
// mirrors them, which the seed sets before it announces its cluster: once, and
// what becomes of it then is the user's. From 4.0 they are quorum queues, by
// settings in rabbitmq.config (rabbitconf.Queues).

// MirrorPolicy is the name of the policy in each virtual host.
const MirrorPolicy = "rmq-entrypoint-mirrors"

// PerQueue runs an expression that prints one line a queue and returns what it
// said of each.
func (b CLI) PerQueue(ctx context.Context, expr string) (map[string]string, error) {
	return b.EvalPerQueue(ctx, CLITimeout, expr)
}

// EvalPerQueue is perQueue for what may take longer.
func (b CLI) EvalPerQueue(ctx context.Context, d time.Duration, expr string) (map[string]string, error) {
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
