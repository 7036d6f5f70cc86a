package rabbitconf

import (
	"bytes"
	"errors"
	"fmt"
)

// Gate returns a node that is never in a cluster, on the host of node, with a name that no other
// node there has. RabbitMQ that looks for it and for itself looks again and again, and founds
// nothing: it is held until it is told whom to join. Its own host says at once where there is no
// such node.
func Gate(node string) string { return "gate-" + node }

// HoldsBack reports whether a gate holds that version: RabbitMQ reads the list of nodes at each
// try from 3.13 on, and from 4.2 on a try that finds nobody costs no more than 2 s.
func (v Version) HoldsBack() bool { return v.AtLeast(4, 2) }

// Opened returns conf, which [Render] made for a node behind the gate, with peers in its place.
func Opened(conf []byte, node string, peers []string) ([]byte, error) {
	list := func(names ...string) []byte {
		var nodes List
		for _, n := range names {
			nodes = append(nodes, Atom(n))
		}
		return []byte(Text(Tuple{nodes, Atom("disc")}))
	}
	for _, n := range peers {
		if err := ValidNode(n); err != nil {
			return nil, fmt.Errorf("rewrite rabbitmq.config: %w", err)
		}
	}
	gate := list(Gate(node), node)
	if bytes.Count(conf, gate) != 1 {
		return nil, errors.New("rewrite rabbitmq.config: it is not the one that was written for this start")
	}
	return bytes.Replace(conf, gate, list(append(append([]string{}, peers...), node)...), 1), nil
}
