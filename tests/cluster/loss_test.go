package cluster

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// Two of three volumes are not mounted. The survivor waits: what it lacks may be on them. Told to carry on from its
// copy it does, as the same cluster, and the blank ones join it. The old volumes come back and are refused.
func TestTwoOfThreeLost(t *testing.T) {
	on(t, []version{v43, v310}, func(c *cluster) {
		n1, n2, n3 := c.node(1), c.node(2), c.node(3)
		start(n1, n2, n3)
		id := c.one(n1, n2, n3)
		n1.declare("classic", classic)
		n1.publish("classic", 50)
		n1.declare("quorum", quorum)
		n1.publish("quorum", 50)
		old := map[*node]string{n2: n2.volume, n3: n3.volume}
		n1.stop() // not the last: it must wait for the others
		for _, n := range []*node{n2, n3} {
			n.stop()
			n.rm()
			n.blankVolume()
		}
		start(n1, n2, n3)
		c.in("the survivor waits and says what is lost and what to do", func() {
			line := n1.said(120*time.Second, "carry-on --cluster-id "+id)
			for _, n := range []*node{n2, n3} {
				if !strings.Contains(line, n.name) {
					c.Errorf("it does not name %s: %s", n.host, line)
				}
			}
			for _, n := range []*node{n2, n3} {
				n.said(30*time.Second, "waiting.*members of cluster "+id+".*"+n1.name)
			}
			c.throughout(2*ttl, "nobody carries on unasked", func() error {
				checks, err := c.tryChecks()
				for name, s := range checks {
					if s == "passing" {
						return fmt.Errorf("%s passes", name)
					}
				}
				return err
			})
			out, err := n1.tryExec("rmq-entrypoint", "carry-on", "--cluster-id", "another")
			if err == nil || !strings.Contains(err.Error(), id) {
				c.Errorf("carry-on with another id: %s, %v", out, err)
			}
			if out, err := n2.tryExec("rmq-entrypoint", "carry-on", "--cluster-id", id); err == nil {
				c.Errorf("carry-on on a blank node: %s", out)
			}
		})
		c.in("told to, it carries on and the others join", func() {
			// On Mnesia the container restarts once, and the command ends with it.
			out, err := n1.tryExec("rmq-entrypoint", "carry-on", "--cluster-id", id)
			c.Logf("carry-on: %s %v", out, err)
			if err != nil && c.version.khepri {
				c.Error(err)
			}
			c.same(id, c.oneWithin(240*time.Second, n1, n2, n3))
			n1.holds("classic", 50)
			if c.version == v310 { // cannot shrink a quorum queue to one member: the queues that are lost are named
				n1.said(10*time.Second, "this quorum queue cannot be read.*quorum")
			} else {
				n1.holds("quorum", 50)
			}
		})
		c.in("the old volumes are refused, the cluster up or down", func() {
			refused := func(n *node) {
				c.Helper()
				n.rm()
				fresh := n.volume
				n.volume = old[n]
				status, out := n.attempt()
				if status != 1 || !strings.Contains(out, id) || !strings.Contains(out, "refus") || !strings.Contains(out, "empty volume") {
					c.Errorf("the old volume of %s: exit %d, want a refusal that names the cluster:\n%s", n.host, status, out)
				}
				n.volume = fresh
			}
			refused(n2)
			n2.start()
			c.same(id, c.one(n1, n2, n3))
			n2.stop()
			n1.stop()
			refused(n3)
			start(n1, n2, n3)
			c.same(id, c.one(n1, n2, n3))
			n1.holds("classic", 50)
		})
	})
}

// The survivor runs while the two others lose their volumes. Where Mnesia decides it pauses, in a minority that nobody
// will ever end: it says so, and told to, it comes up again and the blank ones join.
func TestPausedSurvivor(t *testing.T) {
	on(t, []version{v40}, func(c *cluster) {
		nodes := c.all(3)
		n1 := nodes[0]
		start(nodes...)
		id := c.one(nodes...)
		n1.declare("classic", classic)
		n1.publish("classic", 20)
		if !c.version.khepri {
			for _, n := range nodes {
				n.said(60*time.Second, "cluster_partition_handling set.*pause_minority=true")
			}
		}
		for _, n := range nodes[1:] {
			n.kill()
			n.wipe()
		}
		start(nodes[1:]...)
		n1.said(120*time.Second, "carry-on --cluster-id "+id)
		out, err := n1.tryExec("rmq-entrypoint", "carry-on", "--cluster-id", id) // the container restarts, and the command ends with it
		c.Logf("carry-on: %s %v", out, err)
		c.same(id, c.oneWithin(240*time.Second, nodes...))
		n1.holds("classic", 20)
	})
}

// One of three volumes is lost, and it is the one of the node that stopped last: on Mnesia both others wait for it.
// They say so, and told to, the newer copy carries on.
func TestNewestLost(t *testing.T) {
	on(t, []version{v40}, func(c *cluster) {
		nodes := c.all(3)
		n1, n2, n3 := nodes[0], nodes[1], nodes[2]
		start(nodes...)
		id := c.one(nodes...)
		n2.declare("classic", classic)
		n2.publish("classic", 20)
		n1.stop()
		n2.stop()
		n3.stop()
		n3.wipe()
		start(nodes...)
		if !c.version.khepri { // else two of three are a majority
			n2.said(120*time.Second, "hold a copy each.*carry on from the newest copy.*carry-on --cluster-id "+id)
			out := n2.exec("rmq-entrypoint", "carry-on", "--cluster-id", id)
			c.Logf("carry-on: %s", out)
		}
		c.same(id, c.oneWithin(240*time.Second, nodes...))
		n2.holds("classic", 20)
	})
}

// The seed is killed and wiped right after another has joined whose companion is dead: its entry lapses, so nobody
// passes, and still there is no second cluster.
func TestSeedWipedAndNobodyAnnounced(t *testing.T) {
	on(t, newest, func(c *cluster) {
		n1, n2 := c.node(1), c.node(2)
		n2.flags = []string{"--no-healthcheck"} // nothing replaces its companion
		n1.start()
		id := c.one(n1)
		n2.start()
		c.same(id, c.one(n1, n2))
		for _, pid := range n2.companions() {
			n2.exec("kill", "-9", pid)
		}
		n1.kill()
		n1.wipe()
		if !c.version.khepri { // else its majority lacks the seed's vote, passing or not; here it is right to join while it passes
			c.eventually(3*ttl, "its entry lapses", c.is(n2, "critical"))
		}
		n1.start()
		n1.said(90*time.Second, "waiting.*members of cluster "+id+".*"+n2.name)
		c.throughout(3*ttl, "no second cluster", func() error {
			if r := c.record(); r.ClusterID != id || r.State != "formed" {
				return fmt.Errorf("the record is %+v", r)
			}
			if log := n1.log(); strings.Contains(log, "becoming the server") {
				return errors.New("the wiped seed starts its server")
			}
			return nil
		})
		_, _ = n2.tryExec("rmq-entrypoint", "healthcheck") // brings the companion back
		if c.version.khepri {
			n2.said(60*time.Second, "carry-on --cluster-id "+id) // half of a two-node cluster is no majority
			n2.exec("rmq-entrypoint", "carry-on", "--cluster-id", id)
		}
		c.same(id, c.one(n1, n2))
	})
}

// The setting that allows it in advance carries on without being told.
func TestCarryOnAllowedInAdvance(t *testing.T) {
	on(t, newest, func(c *cluster) {
		nodes := c.all(3)
		n1 := nodes[0]
		n1.env["RMQ_CARRY_ON"] = "true"
		start(nodes...)
		id := c.one(nodes...)
		n1.declare("classic", classic)
		n1.publish("classic", 10)
		for _, n := range nodes {
			n.kill()
		}
		for _, n := range nodes[1:] {
			n.wipe()
		}
		start(nodes...)
		c.same(id, c.oneWithin(240*time.Second, nodes...))
		n1.holds("classic", 10)
	})
}

// whole says what is missing for every node to pass, and to see all of them run and no partition. RabbitMQ's command line
// is asked last: it costs more than what is tested.
func (c *cluster) whole(nodes ...*node) error {
	checks, err := c.tryChecks()
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if checks[n.name] != "passing" {
			return fmt.Errorf("%s is %q", n.host, checks[n.name])
		}
	}
	for _, n := range nodes {
		s, err := n.clusterStatus()
		if err != nil {
			return err
		}
		if len(s.Running) < len(nodes) || len(s.Partitions) > 0 {
			return fmt.Errorf("%s sees %v", n.host, s)
		}
	}
	return nil
}

// One of three is cut off and comes back: nobody needs an operator, and whoever is apart does not pass meanwhile.
func TestNetworkCut(t *testing.T) {
	on(t, []version{v43, v40}, func(c *cluster) {
		nodes := c.all(3)
		n3 := nodes[2]
		start(nodes...)
		id := c.one(nodes...)
		nodes[0].declare("quorum", quorum)
		cuts := []time.Duration{20 * time.Second}
		if full { // RabbitMQ gives up a node that is silent for 45 to 75 s
			cuts = append(cuts, 65*time.Second, 75*time.Second, 80*time.Second, 120*time.Second)
		}
		if !c.version.khepri {
			for _, n := range nodes {
				n.said(60*time.Second, "cluster_partition_handling set.*pause_minority=true")
			}
		}
		for _, d := range cuts {
			c.in("for "+d.String(), func() {
				n3.cut()
				began := time.Now()
				c.eventually(ttl+5*time.Second, "it is critical for the others", c.is(n3, "critical"))
				c.throughout(d-time.Since(began), "it stays critical", c.is(n3, "critical"))
				nodes[0].publish("quorum", 10)
				n3.join()
				back := time.Now()
				c.eventually(30*time.Second, "no partition, the same running nodes, all pass", func() error {
					err := c.whole(nodes...)
					if err != nil && strings.Contains(err.Error(), "sees") && time.Since(back) > ttl+5*time.Second {
						c.Fatalf("all pass, and %v", err)
					}
					return err
				})
				c.Logf("whole %s after its return", time.Since(back).Round(100*time.Millisecond))
				c.same(id, c.one(nodes...))
			})
		}
	})
}

// RabbitMQ can miss the moment to pause, and then the two sides of a cut stay apart when the network is back. Here it is
// made to miss it: it ignores the others' silence until just before they are back.
func TestPauseMissed(t *testing.T) {
	on(t, []version{v40}, func(c *cluster) {
		if c.version.khepri {
			c.Skip("no partition can last where members decide by majority")
		}
		nodes := c.all(3)
		start(nodes...)
		id := c.one(nodes...)
		nodes[0].declare("quorum", quorum)
		nodes[0].declare("classic", classic)
		for _, n := range nodes {
			n.said(60*time.Second, "cluster_partition_handling set.*pause_minority=true")
			n.ctl("eval", "net_kernel:set_net_ticktime(8, 0).")
		}
		const deaf = 25 * time.Second // a node that is cut off cannot be asked by name
		sent := 0
		for _, tc := range []struct {
			name     string
			cut, set []*node // those who restart, and those who go on
		}{
			{"one of three", nodes[2:], nodes[:2]},
			{"one of three, with the first name", nodes[:1], nodes[1:]},
			{"each alone", nodes[1:], nodes[:1]},
		} {
			if len(tc.cut) > 1 && !full {
				continue
			}
			c.in(tc.name, func() {
				for _, q := range []string{"quorum", "classic"} {
					nodes[0].publish(q, 10)
				}
				sent += 10
				over := time.Now().Add(deaf)
				for _, n := range nodes {
					n.ctl("eval", fmt.Sprintf(`Handle = fun(How) -> application:set_env(rabbit, cluster_partition_handling, How) end,
						Handle(ignore), spawn(fun() -> timer:sleep(%d), Handle(pause_minority) end), ok.`, time.Until(over).Milliseconds()))
				}
				for _, n := range tc.cut {
					n.cut()
				}
				for _, n := range tc.set {
					c.eventually(deaf, n.host+" takes those who are cut off for down", func() error {
						s, err := n.clusterStatus()
						if err == nil && len(s.Running) > len(tc.set) {
							err = fmt.Errorf("it sees %v", s)
						}
						return err
					})
				}
				time.Sleep(time.Until(over) + time.Second)
				for _, n := range tc.cut {
					n.join()
				}
				back := time.Now()
				c.eventually(60*time.Second, "no partition, all pass", func() error {
					for _, n := range tc.set {
						if len(tc.set) > len(tc.cut) && c.is(n, "critical")() == nil { // a majority need not ask anybody
							v, _ := n.view()
							c.Fatalf("%s, which is to go on, is critical: %s", n.host, v.Reason)
						}
					}
					return c.whole(nodes...)
				})
				c.Logf("whole %s after the network was", time.Since(back).Round(100*time.Millisecond))
			})
		}
		c.same(id, c.one(nodes...))
		for _, q := range []string{"quorum", "classic"} {
			nodes[0].holds(q, sent)
			if got := nodes[0].drain(q); got != sent {
				c.Errorf("%s held %d of %d messages", q, got, sent)
			}
		}
		healed := 0 // the network is back in several steps, in which RabbitMQ may find a reason to pause after all
		for _, n := range nodes {
			healed += strings.Count(n.log(), "partitioned, and RabbitMQ did not pause")
			if out := n.docker("inspect", "-f", "{{.RestartCount}}", n.container); out != "0" {
				c.Errorf("the container of %s was restarted %s times", n.host, out)
			}
		}
		if healed == 0 {
			c.Error("no companion had to do anything")
		}
		for _, n := range nodes { // what is over is not told of another stop
			n.ctl("stop_app")
			c.eventually(10*time.Second, "it says why it is critical", func() error {
				v, err := n.view()
				if err == nil && (v.Status != "critical" || strings.Contains(v.Reason, "partition")) {
					err = fmt.Errorf("%s: %s", v.Status, v.Reason)
				}
				return err
			})
			n.ctl("start_app")
		}
		c.same(id, c.one(nodes...))
	})
}

// All members stopped and started again, in each order, one at a time: RabbitMQ's members wait for each other, and
// nothing of ours may be in between.
func TestRestartOrders(t *testing.T) {
	on(t, newest, func(c *cluster) {
		nodes := c.all(3)
		start(nodes...)
		id := c.one(nodes...)
		nodes[0].declare("classic", classic)
		nodes[0].publish("classic", 20)
		orders := [][]int{{0, 1, 2}, {2, 0, 1}}
		if full {
			orders = [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}
		}
		for i, order := range orders {
			c.in(fmt.Sprint(order), func() {
				for _, n := range nodes {
					if i%2 == 0 {
						n.stop()
					} else {
						n.kill()
					}
				}
				for _, k := range order {
					nodes[k].start()
					nodes[k].said(60*time.Second, "becoming the server")
					if s := c.sessions(); s != 0 {
						c.Errorf("%d sessions: a member takes no lock", s)
					}
				}
				c.same(id, c.one(nodes...))
				nodes[0].holds("classic", 20)
			})
		}
	})
}
