package cluster

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
)

// Blank nodes started at once are one cluster, every time. Every scenario that starts three is a round of it.
func TestBlankNodesAtOnce(t *testing.T) {
	on(t, newest, func(c *cluster) {
		sizes := []int{5}
		if full {
			sizes = []int{5, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3}
		}
		for i, size := range sizes {
			if i > 0 {
				c.anew()
			}
			nodes := c.all(size)
			start(nodes...)
			c.one(nodes...)
		}
	})
}

// anew makes everything blank: nodes, volumes and Consul.
func (c *cluster) anew() {
	c.Helper()
	for _, n := range c.nodes {
		_, _ = try("rm", "-f", n.container)
		n.blankVolume()
	}
	c.wipeConsul()
	c.consulReady()
}

// A seed is killed while it forms. If it comes back, it goes on; if it does not, another node founds the cluster after
// the claim timeout, and the first one joins that when it returns at last.
func TestSeedKilledWhileForming(t *testing.T) {
	on(t, newest, func(c *cluster) {
		n1, n2, n3 := c.node(1), c.node(2), c.node(3)
		kill := func(moment string) {
			c.Helper()
			n1.start()
			n1.said(60*time.Second, moment)
			n1.kill()
			if r := c.record(); r.State != "forming" || r.Seed != n1.name {
				c.Fatalf("the seed was killed too late: the record is %+v", r)
			}
			start(n2, n3)
			n2.said(60*time.Second, "waiting.*"+n1.name+" to found the cluster")
		}
		c.in("and comes back", func() {
			kill("becoming the server")
			n1.start()
			c.one(n1, n2, n3)
			if r := c.record(); r.Seed != n1.name {
				c.Errorf("%s founded the cluster", r.Seed)
			}
		})
		moments := []string{"Starting RabbitMQ", "becoming the server"}
		if !full {
			moments = moments[:1]
		}
		for _, moment := range moments {
			c.anew()
			c.in("and does not come back/killed at "+moment, func() {
				kill(moment)
				began := time.Now()
				id := c.one(n2, n3)
				if took := time.Since(began); took < 3*ttl {
					c.Errorf("the claim was taken over after %s, before the claim timeout", took)
				}
				n1.start()
				c.same(id, c.one(n1, n2, n3))
			})
		}
	})
}

// A joiner is killed in the middle of its join: of a one-node cluster, whose majority on Khepri then lacks its vote,
// and of two joining at once. Its restart makes everything whole.
func TestJoinerKilled(t *testing.T) {
	on(t, []version{v43, v40}, func(c *cluster) {
		n1, n2, n3 := c.node(1), c.node(2), c.node(3)
		n1.start()
		id := c.one(n1)
		n1.declare("before", classic)
		moments := []string{"Starting RabbitMQ", "becoming the server"}
		if !full {
			moments = moments[:1]
		}
		for i, moment := range moments {
			if i > 0 {
				n2.stop()
				n2.wipe()
			}
			c.in("of a one-node cluster, at "+moment, func() {
				n2.start()
				n2.said(90*time.Second, moment)
				n2.kill()
				if on := c.record().Members; on[n2.name] == "" {
					c.Errorf("a joiner is not on record before its server starts: %v", on)
				}
				n2.start()
				c.same(id, c.one(n1, n2))
				n2.declare("after", quorum)
				n1.publish("after", 10)
			})
		}
		n2.stop()
		n1.stop()
		c.anew()
		c.in("while another joins", func() {
			n1.start()
			id := c.one(n1)
			start(n2, n3)
			n2.said(90*time.Second, "Starting RabbitMQ")
			n2.kill()
			c.eventually(150*time.Second, "the others serve", func() error {
				m, err := c.tryChecks()
				if err == nil && (m[n1.name] != "passing" || m[n3.name] != "passing") && !c.version.khepri {
					err = fmt.Errorf("the checks are %v", m)
				}
				return err // on Khepri the cluster may wait for the killed one's vote
			})
			n2.start()
			c.same(id, c.one(n1, n2, n3))
		})
	})
}

// From RabbitMQ 3.13 on the node that started first by its own clock wins: a joiner behind elects itself.
func TestClockSkew(t *testing.T) {
	on(t, []version{v43, v40}, func(c *cluster) {
		n1 := c.node(1)
		n1.start()
		id := c.one(n1)
		lib := strings.Fields(n1.exec("sh", "-c", "ls /usr/lib/*/faketime/libfaketimeMT.so.1"))
		together := []*node{n1}
		for i, skew := range []string{"-1h", "+1h"} {
			n := c.node(i + 2)
			n.env["LD_PRELOAD"], n.env["FAKETIME"] = lib[0], skew
			together = append(together, n)
			c.in("one hour "+skew, func() {
				n.start()
				c.eventually(30*time.Second, "its clock is off", func() error {
					out, err := n.tryExec("date", "+%s")
					var now int64
					if err == nil {
						_, err = fmt.Sscan(out, &now)
					}
					if off := time.Since(time.Unix(now, 0)).Abs(); err == nil && (off < 50*time.Minute || off > 70*time.Minute) {
						c.Fatalf("its clock is %s off: nothing is tested", off)
					}
					return err
				})
				c.same(id, c.one(together...))
			})
		}
	})
}

// A node that is told to stop while it waits is gone at once and leaves nothing behind.
func TestStopWhileWaiting(t *testing.T) {
	on(t, newest, func(c *cluster) {
		n1, n2 := c.node(1), c.node(2)
		stop := func(n *node, left int) {
			c.Helper()
			began := time.Now()
			n.stop()
			at, err := time.Parse(time.RFC3339Nano, n.docker("inspect", "-f", "{{.State.FinishedAt}}", n.container))
			if err != nil {
				c.Fatal(err)
			}
			c.Logf("gone after %s", at.Sub(began).Round(time.Millisecond))
			if took := at.Sub(began); took > slow(2*time.Second) {
				c.Errorf("it took %s", took)
			}
			if s := c.sessions(); s != left {
				c.Errorf("%d sessions are open, want %d", s, left)
			}
			if s, on := c.checks()[n.name]; on {
				c.Errorf("it is registered: %s", s)
			}
			if status := n.docker("inspect", "-f", "{{.State.ExitCode}}", n.container); status != "1" {
				c.Errorf("exit status %s, want 1", status)
			}
		}
		c.in("for the lock", func() {
			id, _, err := c.consul.Session().CreateNoChecks(&api.SessionEntry{TTL: "60s", Behavior: api.SessionBehaviorRelease}, nil)
			if err != nil {
				c.Fatal(err)
			}
			held, _, err := c.consul.KV().Acquire(&api.KVPair{Key: "rmq-entrypoint/rabbitmq/lock", Session: id, Value: []byte(`{"node":"rabbit@somebody"}`)}, nil)
			if err != nil || !held {
				c.Fatal(held, err)
			}
			n1.start()
			n1.said(30*time.Second, "waiting for the lock.*rabbit@somebody")
			c.eventually(10*time.Second, "it has a session to wait with", func() error {
				if s := c.sessions(); s != 2 {
					return fmt.Errorf("%d sessions", s)
				}
				return nil
			})
			stop(n1, 1)
			if _, err := c.consul.Session().Destroy(id, nil); err != nil {
				c.Fatal(err)
			}
		})
		c.in("for members", func() {
			n1.start()
			id := c.one(n1)
			n1.stop()
			n2.start()
			n2.said(30*time.Second, "waiting.*members of cluster.*"+n1.name)
			stop(n2, 0)
			start(n1, n2)
			c.same(id, c.one(n1, n2))
		})
	})
}

// Every node is removed with its volume and all are started again before Consul has noticed: there is one cluster, a
// new one, and the record and the log keep the old one's name.
func TestEveryVolumeWiped(t *testing.T) {
	on(t, newest, func(c *cluster) {
		nodes := c.all(3)
		start(nodes...)
		was := c.one(nodes...)
		for _, n := range nodes {
			n.kill()
		}
		for _, n := range nodes {
			n.wipe()
		}
		start(nodes...)
		is := c.one(nodes...)
		if is == was {
			c.Fatalf("the wiped cluster's id is back: %s", is)
		}
		if r := c.record(); len(r.Previous) != 1 || r.Previous[0].ClusterID != was {
			c.Errorf("the record does not keep the old cluster %s: %+v", was, r.Previous)
		}
		var founders []string
		for _, n := range nodes {
			if log := n.log(); strings.Contains(log, "FOUNDING ANEW") && strings.Contains(log, was) {
				founders = append(founders, n.host)
			}
		}
		if len(founders) != 1 {
			c.Errorf("these say that they found anew: %v", founders)
		}
	})
}
