package cluster

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// Consul is down when nodes start: a blank one waits and says so, a member starts at once and registers later.
func TestConsulDownAtBoot(t *testing.T) {
	on(t, newest, func(c *cluster) {
		n1, n2 := c.node(1), c.node(2)
		n1.start()
		id := c.one(n1)
		n1.kill()
		c.stopConsul()
		start(n1, n2)
		n1.said(60*time.Second, "becoming the server")
		n1.said(90*time.Second, "RabbitMQ is ready|Server startup complete")
		n2.said(60*time.Second, "waiting.*cannot be read.*no Consul answers")
		c.throughout(10*time.Second, "the blank node waits", func() error {
			if out, err := n2.tryExec("cat", "/proc/1/comm"); err != nil || out != "rmq-entrypoint" {
				return fmt.Errorf("PID 1 is %s %v", out, err)
			}
			return nil
		})
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
}

// Consul goes away for a minute under traffic: no message notices, and the nodes are registered again within a beat of
// its return.
func TestConsulDownWhileRunning(t *testing.T) {
	on(t, newest, func(c *cluster) {
		nodes := c.all(2)
		start(nodes...)
		id := c.one(nodes...)
		nodes[0].declare("quorum", quorum)
		busy := nodes[0].traffic("quorum")
		c.in("killed", func() {
			c.stopConsul()
			c.throughout(60*time.Second, "the nodes go on", func() error {
				for _, n := range nodes {
					if v, err := n.view(); err != nil || v.Status != "passing" {
						return fmt.Errorf("%s is %s: %s (%v)", n.host, v.Status, v.Reason, err)
					}
				}
				return nil
			})
			c.startConsul()
			c.consulReady()
			back := time.Now()
			c.eventually(ttl/3+5*time.Second, "all pass", func() error { return c.pass(nodes...) })
			c.Logf("passing %s after Consul's return", time.Since(back).Round(100*time.Millisecond))
		})
		c.in("black-holed", func() {
			c.docker("pause", c.name("consul"))
			began := time.Now()
			for time.Since(began) < 2*ttl {
				time.Sleep(time.Second)
			}
			c.docker("unpause", c.name("consul"))
			c.eventually(ttl+5*time.Second, "all pass", func() error { return c.pass(nodes...) })
		})
		nodes[0].undisturbed(busy)
		c.same(id, c.one(nodes...))
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

// Consul loses its data while the cluster runs, and a blank node starts at that moment: the members publish the record
// and register again, the blank node joins them, and never do two clusters pass.
func TestConsulWipedWhileRunning(t *testing.T) {
	on(t, newest, func(c *cluster) {
		n1, n2, n3 := c.node(1), c.node(2), c.node(3)
		start(n1, n2)
		id := c.one(n1, n2)
		n1.declare("quorum", quorum)
		busy := n1.traffic("quorum")
		rounds := 1
		if full {
			rounds = 3
		}
		for range rounds {
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
			if !full {
				break
			}
			n3.stop()
			n1.ctl("forget_cluster_node", n3.name)
			n3.wipe()
		}
		n1.undisturbed(busy)
	})
}
