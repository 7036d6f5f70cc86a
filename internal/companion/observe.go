package companion

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// record reads the cluster record through the Consul in use.
func (c *Companion) record(ctx context.Context) (*api.Client, peers.Record, uint64, error) {
	client, err := c.consul.Client(ctx)
	if err != nil {
		return nil, peers.Record{}, 0, err
	}
	r, index, err := peers.ReadRecord(ctx, client, c.rt.Config.RecordKey())
	c.consul.Answered(err)
	return client, r, index, err
}

// viewEvery is how often RabbitMQ is asked for its members when nothing else
// gives a reason to.
const viewEvery = 30 * time.Second

// look refreshes the view when it may have changed, and says why it cannot.
func (c *Companion) look(ctx context.Context, record uint64, others []peers.Peer) string {
	var passing []string
	for _, p := range others {
		if p.Passing {
			passing = append(passing, p.Node)
		}
	}
	now := strings.Join(passing, ",")
	if c.verified && len(c.view.Partitions) == 0 {
		same, known := c.unstirred(ctx)
		if known && same {
			c.viewAt, c.passing, c.seen = time.Now(), now, record
		}
		if same && (known || now == c.passing && record == c.seen && time.Since(c.viewAt) < viewEvery) {
			return ""
		}
	}
	if c.verified { // a server that does not answer is not to cost the TTL
		var done context.CancelFunc
		ctx, done = context.WithTimeout(ctx, c.rt.Config.TTL/2)
		defer done()
	}
	v, err := c.broker.View(ctx, c.rt.Config.Node)
	if err != nil {
		c.story("RabbitMQ does not say what it knows of its cluster, asking again", err.Error())
		return err.Error()
	}
	c.view, c.viewAt, c.passing, c.seen = v, time.Now(), now, record
	return ""
}

// unstirred reports whether the management port, which answers in milliseconds
// where RabbitMQ's command line takes a second of CPU, lists the members, running
// nodes and partitions of the view; and whether it was known. Not knowing is no
// stir: then the view is renewed by the clock.
func (c *Companion) unstirred(ctx context.Context) (same, known bool) {
	if c.nodes == nil {
		return true, false
	}
	nodes, err := c.nodes(ctx)
	if err != nil {
		// Disabled, or the login is refused, which RabbitMQ logs each time.
		if c.silent++; c.silent >= 3 {
			c.log.Debug("the management port tells nothing, not asking it any more", "err", err)
			c.nodes = nil
		}
		return true, false
	}
	c.silent = 0
	var members, running, partitions []string
	for _, n := range nodes {
		members = append(members, n.Name)
		if n.Running {
			running = append(running, n.Name)
		}
		if n.Name == c.rt.Config.Node {
			known, partitions = n.Known, n.Partitions
		}
	}
	slices.Sort(members)
	slices.Sort(running)
	slices.Sort(partitions)
	same = slices.Equal(members, c.view.Members) && slices.Equal(running, c.view.Running) && (!known || slices.Equal(partitions, c.view.Partitions))
	return same, known
}

// managementNodes asks this node's management port as the default user.
func managementNodes(getenv func(string) string, at rabbitconf.Listener) func(context.Context) ([]healthcheck.Node, error) {
	user := config.DefaultUser(getenv)
	base := "http://"
	if at.TLS {
		base = "https://"
	}
	base += net.JoinHostPort(cmp.Or(at.Host, "127.0.0.1"), fmt.Sprint(at.Port))
	password, _ := user.Password()
	return func(ctx context.Context) ([]healthcheck.Node, error) {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		return healthcheck.Nodes(ctx, base, user.Username(), password)
	}
}
