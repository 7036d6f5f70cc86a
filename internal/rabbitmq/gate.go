package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"rmq-entrypoint/rabbitconf"
)

// ErrElder: RabbitMQ would have the others join this node, which began before them.
var ErrElder = errors.New("RabbitMQ here began to boot before the one that it is to join, or its clock is behind, and so would have that one join it")

// OpenGate tells the server of this node, which waits behind the gate, to join the peers. Without
// peers the server founds a cluster, and calls it name unless that is "".
//
// RabbitMQ has the younger of nodes that are alone join the oldest one. So where the peer is alone,
// after is when it started, by its own clock; otherwise after is zero. [ErrElder] means that this
// server began before that, and was told nothing.
//
// OpenGate reports whether the server knew already. Until it does, it may still read its files,
// which undo what it was told.
func (b CLI) OpenGate(ctx context.Context, peers []string, after time.Time, name string) (knew bool, err error) {
	nodes, names, elder := rabbitconf.List{}, rabbitconf.List{}, rabbitconf.Int(0)
	for _, n := range append(slices.Clone(peers), b.Node) {
		if err := rabbitconf.ValidNode(n); err != nil {
			return false, err
		}
		nodes = append(nodes, rabbitconf.Atom(n))
	}
	if name != "" {
		names = append(names, rabbitconf.Binary(name))
	}
	if !after.IsZero() {
		elder = rabbitconf.Int(after.UnixMicro())
	}
	out, err := b.Ctl(ctx, b.Node, "eval", erlang("open_gate", parameter{"Nodes", nodes}, parameter{"After", elder}, parameter{"Names", names}))
	switch {
	case err != nil:
		return false, err
	case strings.Contains(out, "gate|elder|"):
		return false, ErrElder
	case strings.Contains(out, "gate|knew|"):
		return true, nil
	case strings.Contains(out, "gate|told|"):
		return false, nil
	}
	return false, fmt.Errorf("tell %s whom to join: got %.200q", b.Node, out)
}
