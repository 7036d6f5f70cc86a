package rabbitmq

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// Vitals is what a person looks at first in a RabbitMQ that runs. What it did not say is nil, or 0.
type Vitals struct {
	Alarms    []string          // as memory on rabbit@a
	DiskFree  uint64            // bytes
	DiskLimit uint64            // below it publishers are blocked
	Memory    uint64            // its limit
	Total     uint64            // of this host, or of the container's limit
	Versions  map[string]string // of each member that runs
	Disabled  int               // stable feature flags; -1: it does not say
	Critical  []string          // queues that would stand still without this node
	Leads     map[string]int    // of queues with a replica elsewhere, how many each member leads; none: it does not say
	Named     string            // "false": each node calls the cluster by its own name; "": it does not say
	Guest     string            // "true": guest gets in with the password that everybody knows; "": it does not say
}

// Vitals asks this node.
func (b CLI) Vitals(ctx context.Context) (Vitals, error) {
	out, err := b.Ctl(ctx, b.Node, "eval", erlang("vitals"))
	if err != nil {
		return Vitals{}, fmt.Errorf("ask %s how it is: %w", b.Node, err)
	}
	v := Vitals{Versions: map[string]string{}, Leads: map[string]int{}, Disabled: -1}
	for line := range strings.Lines(out) {
		what, rest, _ := strings.Cut(strings.TrimSuffix(strings.TrimSpace(line), "|"), "|")
		first, second, _ := strings.Cut(rest, "|")
		switch what {
		case "alarm":
			v.Alarms = append(v.Alarms, first+" on "+second)
		case "disk":
			v.DiskFree, v.DiskLimit = bytesOf(first), bytesOf(second)
		case "memory":
			v.Memory, v.Total = bytesOf(first), bytesOf(second)
		case "version":
			v.Versions[first] = second
		case "flags":
			if n, err := strconv.Atoi(first); err == nil {
				v.Disabled = n
			}
		case "critical":
			v.Critical = append(v.Critical, rest)
		case "leads":
			if n, err := strconv.Atoi(second); err == nil {
				v.Leads[first] = n
			}
		case "named":
			v.Named = first
		case "guest":
			v.Guest = first
		}
	}
	return v, nil
}

func bytesOf(text string) uint64 {
	n, _ := strconv.ParseUint(text, 10, 64) // what is no number was not said
	return n
}
