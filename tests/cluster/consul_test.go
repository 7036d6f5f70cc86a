package cluster

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// Consul is down when nodes start, goes away under traffic, accepts and never answers, and loses its data. RabbitMQ goes
// on, whoever may start does, and it is one cluster all the while.
func TestConsulFaults(t *testing.T) {
	on(t, newest, func(c *cluster) {
		n1, n2, n3 := c.node(1), c.node(2), c.node(3)
		n1.start()
		id := c.one(n1)
		c.in("down at boot: a blank node waits and says so, a member starts at once and registers later", func() {
			n1.kill()
			c.stopConsul()
			start(n1, n2)
			n1.said(20*time.Second, "becoming the server")
			took := time.Since(n1.began)
			c.Logf("the member's server started after %s", took.Round(100*time.Millisecond))
			if took > slow(20*time.Second) {
				c.Errorf("that is not at once: %s", took)
			}
			n2.said(60*time.Second, "waiting.*cannot be read.*no Consul answers")
			c.throughout(10*time.Second, "the blank node waits", func() error {
				if out, err := n2.tryExec("cat", "/proc/1/comm"); err != nil || out != "rmq-entrypoint" {
					return fmt.Errorf("PID 1 is %s %v", out, err)
				}
				return nil
			})
			n1.said(90*time.Second, "RabbitMQ is ready|Server startup complete")
			if out, err := n2.tryExec("rmq-entrypoint", "healthcheck"); err != nil || !strings.Contains(out, "waiting for") {
				c.Errorf("a node that waits is not worth killing, and should say so: %s %v", out, err)
			}
			if out, err := n2.tryExec("rmq-entrypoint", "healthcheck", "--ready"); err == nil {
				c.Errorf("a node that waits is not fit to serve: %s", out)
			}
			c.startConsul()
			c.consulReady()
			c.same(id, c.one(n1, n2))
		})

		n1.declare("quorum", quorum)
		busy := n1.traffic("quorum")
		serve := func() error {
			for _, n := range []*node{n1, n2} {
				if v, err := n.view(); err != nil || v.Status != "passing" {
					return fmt.Errorf("%s is %s: %s (%v)", n.host, v.Status, v.Reason, err)
				}
			}
			return nil
		}
		c.in("down for a minute: the nodes are registered again within a beat of its return", func() {
			c.stopConsul()
			c.throughout(60*time.Second, "the nodes go on", serve)
			c.startConsul()
			c.eventually(60*time.Second, "Consul has a leader", func() error {
				leader, err := c.consul.Status().Leader()
				if err == nil && leader == "" {
					err = errors.New("it has none")
				}
				return err
			})
			back := time.Now()
			// A beat, what it takes to verify anew, and the agent, which may take 3 s to tell a server that is back.
			c.eventually(ttl/3+3*time.Second, "all pass", func() error { return c.pass(n1, n2) })
			c.Logf("passing %s after Consul's return", time.Since(back).Round(100*time.Millisecond))
		})
		c.in("black-holed", func() {
			c.docker("pause", c.name("consul"))
			c.throughout(2*ttl, "the nodes go on", serve)
			c.docker("unpause", c.name("consul"))
			c.eventually(ttl+5*time.Second, "all pass", func() error { return c.pass(n1, n2) })
		})
		n1.undisturbed(busy)
		c.same(id, c.one(n1, n2))

		busy = n1.traffic("quorum")
		rounds := 1
		if full {
			rounds = 3
		}
		for round := range rounds {
			if round > 0 {
				n3.stop()
				n1.ctl("forget_cluster_node", n3.name)
				n3.wipe()
			}
			c.in("wiped while a blank node starts: it joins, and never do two clusters pass", func() {
				c.wipeConsul()
				n3.start()
				c.consulReady()
				c.eventually(150*time.Second, "the blank node joins", func() error {
					entries, _, err := c.consul.Health().Service("rabbitmq", "", true, nil)
					if err != nil {
						return err
					}
					for _, e := range entries {
						if other := e.Service.Meta["cluster_id"]; other != id {
							c.Fatalf("%s passes with cluster %s beside %s", e.Service.Meta["node"], other, id)
						}
					}
					if len(entries) < 3 {
						return errors.New("not all pass yet")
					}
					return nil
				})
				c.same(id, c.one(n1, n2, n3))
			})
		}
		n1.undisturbed(busy)
	})
}

// pass tells whether each of the nodes passes in Consul.
func (c *cluster) pass(nodes ...*node) error {
	m, err := c.tryChecks()
	for _, n := range nodes {
		if err == nil && m[n.name] != "passing" {
			err = fmt.Errorf("%s is %q", n.host, m[n.name])
		}
	}
	return err
}
