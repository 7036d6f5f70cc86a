package cluster

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
)

// counterfeit begins the id of an entry that a scenario registers under a node's name.
const counterfeit = "counterfeit-"

// counterfeits registers, under the node's name, what somebody may who may only register the service, and who has read the
// catalog: entries that pass, of another volume and of another start, of the node's own start without a cluster, of the
// cluster with a version of RabbitMQ that goes with none.
func (c *cluster) counterfeits(n *node) {
	c.Helper()
	own := map[string]string{}
	entries, _, err := c.consul.Catalog().Service("rabbitmq", "", &api.QueryOptions{RequireConsistent: true})
	for _, e := range entries {
		if e.ServiceMeta["node"] == n.name && !strings.HasPrefix(e.ServiceID, counterfeit) {
			own = e.ServiceMeta
		}
	}
	if err != nil || own["boot"] == "" {
		c.Fatalf("the entry of %s: %v, %v", n.host, own, err)
	}
	for kind, meta := range map[string]map[string]string{
		"volume":  {"volume": "x", "boot": "y"},
		"boot":    {"volume": own["volume"], "boot": own["boot"]},
		"version": {"volume": own["volume"], "boot": "y", "cluster_id": own["cluster_id"], "rabbitmq_version": "3.8.1"},
		"twin":    {"volume": own["volume"], "boot": own["boot"], "cluster_id": own["cluster_id"], "rabbitmq_version": own["rabbitmq_version"]},
	} {
		meta["node"] = n.name
		if err := c.consul.Agent().ServiceRegister(&api.AgentServiceRegistration{ID: counterfeit + kind + "-" + n.host, Name: "rabbitmq", Address: "192.0.2.9", Port: 5672, Meta: meta}); err != nil {
			c.Fatal(err)
		}
	}
}

// unstopped fails if a node says that it was stopped or refused.
func (c *cluster) unstopped(nodes ...*node) {
	c.Helper()
	for _, n := range nodes {
		for _, word := range []string{"stopping the server", "refusing to start", "not starting"} {
			if strings.Contains(n.log(), word) {
				c.Errorf("%s says %q", n.host, word)
			}
		}
	}
}

// serve says which of the nodes is not fit by its own /ready.
func serve(nodes ...*node) error {
	for _, n := range nodes {
		if got := n.ready(); got != 200 {
			return fmt.Errorf("/ready of %s answers %d", n.host, got)
		}
	}
	return nil
}

// Whoever may only register the service stops no member with it, and keeps none out: while all serve, while one is down or is
// restarted, and when all are.
func TestCounterfeits(t *testing.T) {
	on(t, newest, func(c *cluster) {
		nodes := c.all(3)
		start(nodes...)
		id := c.one(nodes...)
		for _, n := range nodes {
			c.counterfeits(n)
		}
		c.in("while they serve", func() {
			c.throughout(2*ttl, "each is fit", func() error { return serve(nodes...) })
			nodes[2].said(30*time.Second, "another container has this node's name")
		})
		c.in("while one is down", func() {
			nodes[2].kill()
			c.throughout(3*ttl, "the others are fit", func() error { return serve(nodes[:2]...) })
			nodes[2].start()
			c.same(id, c.one(nodes...))
		})
		c.in("when all are restarted", func() {
			stop(nodes...)
			start(nodes...)
			c.same(id, c.one(nodes...))
			c.throughout(ttl, "each is fit", func() error { return serve(nodes...) })
		})
		c.unstopped(nodes...)
	})
}

// On Mnesia, where one of two goes on alone, an entry under the dead one's name does not take it out of service.
func TestCounterfeitOfTheDead(t *testing.T) {
	on(t, []version{v40}, func(c *cluster) {
		nodes := c.all(2)
		start(nodes...)
		c.one(nodes...)
		c.counterfeits(nodes[1])
		nodes[1].kill()
		c.throughout(5*ttl, "the other one is fit", func() error { return serve(nodes[0]) })
		c.unstopped(nodes[0])
	})
}
