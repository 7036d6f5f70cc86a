package cluster

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	amqp "github.com/rabbitmq/amqp091-go"
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
		stop(n2, n3)
		for _, n := range []*node{n2, n3} {
			n.rm()
			n.blankVolume()
		}
		start(n1, n2, n3)
		c.in("the survivor waits and says what is lost and what to do", func() {
			line := n1.said(120*time.Second, "force-boot --cluster-id "+id)
			for _, n := range []*node{n2, n3} {
				if !strings.Contains(line, n.name) {
					c.Errorf("it does not name %s: %s", n.host, line)
				}
			}
			began := time.Now()
			for _, n := range []*node{n2, n3} {
				n.said(30*time.Second, "waiting.*members of cluster "+id+".*"+n1.name)
			}
			n1.refuses("is not this volume's cluster, which is "+id, "force-boot", "--cluster-id", "another")
			n2.refuses("is no member of any cluster: run force-boot on the node whose copy survives", "force-boot", "--cluster-id", id)
			c.throughout(2*ttl-time.Since(began), "nobody carries on unasked", func() error {
				checks, err := c.tryChecks()
				for name, s := range checks {
					if s == "passing" {
						return fmt.Errorf("%s passes", name)
					}
				}
				return err
			})
		})
		c.in("told to, it carries on and the others join", func() {
			// On Mnesia the container restarts once, and the command ends with it.
			out, err := n1.tryExec("rmq-entrypoint", "force-boot", "--cluster-id", id)
			c.Logf("force-boot: %s %v", out, err)
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
		// refused runs nodes that have no container on their old volumes, at once and each to its end.
		refused := func(ns ...*node) {
			c.Helper()
			ends := make([]chan error, len(ns))
			for i, n := range ns {
				fresh := n.volume
				n.volume = old[n]
				args := append([]string{"run", "--rm", "--name", n.container}, n.args()...)
				n.volume = fresh
				ends[i] = make(chan error, 1)
				go func() { _, err := try(args...); ends[i] <- err }()
			}
			for i, n := range ns {
				said, failed := "", false
				err := <-ends[i]
				if err != nil { // docker's command line, its exit status, what the program said
					_, said, failed = strings.Cut(err.Error(), "exit status 78:")
				}
				if !failed {
					c.Fatalf("the old volume of %s: want exit status 78, got %v", n.host, err)
				}
				refusal := regexp.MustCompile("refusing to start.*").FindString(said)
				for _, want := range []string{
					id, n1.name, `\d{4}-\d\d-\d\dT`, // what carried on, where, since when
					"delete the key rmq-entrypoint/rabbitmq/cluster", "empty volume",
				} {
					if !regexp.MustCompile(want).MatchString(refusal) {
						c.Errorf("the refusal of %s lacks %q: %q in\n%s", n.host, want, refusal, said)
					}
				}
			}
		}
		c.in("each of the old volumes is refused, the cluster up", func() {
			n2.rm()
			refused(n2)
			n2.start()
			c.same(id, c.one(n1, n2, n3))
			n3.rm()
			refused(n3)
		})
		c.in("both are refused at once, all else down", func() { // together they are a majority of what there was
			stop(n1, n2)
			n2.rm()
			refused(n2, n3)
			start(n1, n2, n3)
			c.same(id, c.one(n1, n2, n3))
			n1.emptied("classic", 50)
			if c.version != v310 {
				n1.emptied("quorum", 50)
			}
		})
	})
}

// Two ways in which Mnesia leaves a node waiting that has a copy of everything. It says so, and told to, it carries on.
func TestToldToCarryOn(t *testing.T) {
	on(t, []version{v40}, func(c *cluster) {
		nodes := c.all(3)
		n1, n2, n3 := nodes[0], nodes[1], nodes[2]
		start(nodes...)
		id := c.one(nodes...)
		if !c.version.khepri {
			for _, n := range nodes {
				n.said(60*time.Second, "cluster_partition_handling set.*pause_minority=true")
			}
		}
		// One of three volumes is lost, and it is the one of the node that stopped last: both others wait for it.
		c.in("the newest copy is lost, the newer one of two carries on", func() {
			n2.declare("newer", classic)
			n2.publish("newer", 20)
			n1.stop()
			n2.stop()
			n3.stop()
			n3.wipe()
			start(nodes...)
			if !c.version.khepri { // else two of three are a majority
				n2.said(120*time.Second, "hold a copy each.*carry on from the newest copy.*force-boot --cluster-id "+id)
				out := n2.exec("rmq-entrypoint", "force-boot", "--cluster-id", id)
				c.Logf("force-boot: %s", out)
			}
			c.same(id, c.oneWithin(240*time.Second, nodes...))
			n2.emptied("newer", 20)
		})
		// One runs while the two others lose their volumes. It pauses, in a minority that nobody will ever end.
		c.in("two are lost, the third has paused", func() {
			for name, kind := range map[string]amqp.Table{"classic": classic, "quorum": quorum} {
				n1.declare(name, kind)
				n1.publish(name, 20)
			}
			wipe(n2, n3)
			start(n2, n3)
			n1.said(120*time.Second, "carry on from this copy.*force-boot --cluster-id "+id) // not what it said before
			out, err := n1.tryExec("rmq-entrypoint", "force-boot", "--cluster-id", id)       // the container restarts, and the command ends with it
			c.Logf("force-boot: %s %v", out, err)
			c.same(id, c.oneWithin(240*time.Second, nodes...))
			n1.emptied("classic", 20)
			if c.version == v310 {
				n1.said(10*time.Second, "this quorum queue cannot be read.*quorum")
			} else {
				n1.emptied("quorum", 20)
			}
		})
	})
}

// The seed is killed and wiped right after another has joined whose companion is dead: its entry lapses, so nobody
// passes, and still there is no second cluster.
func TestSeedWipedAndNobodyAnnounced(t *testing.T) {
	on(t, []version{v43, v40}, func(c *cluster) {
		n1, n2 := c.node(1), c.node(2)
		n2.flags = []string{"--no-healthcheck"} // nothing replaces its companion
		n1.start()
		id := c.one(n1)
		n2.start()
		c.same(id, c.one(n1, n2))
		for _, pid := range n2.companions() {
			n2.exec("kill", "-9", pid)
		}
		n1.wipe()
		if !c.version.khepri { // else its majority lacks the seed's vote, passing or not; here it is right to join while it passes
			c.eventually(3*ttl, "its entry lapses", c.is(n2, "critical"))
		}
		n1.start()
		n1.said(90*time.Second, "waiting.*members of cluster "+id+".*"+n2.name)
		only := func() error {
			if r := c.record(); r.ClusterID != id || r.State != "formed" {
				return fmt.Errorf("the record is %+v", r)
			}
			return nil
		}
		c.eventually(3*ttl, "its entry lapses", func() error {
			if err := only(); err != nil {
				c.Fatal(err)
			}
			return c.is(n2, "critical")()
		})
		c.throughout(ttl, "no second cluster", only)
		if strings.Contains(n1.log(), "becoming the server") {
			c.Fatal("the wiped seed started its server")
		}
		_, _ = n2.tryExec("rmq-entrypoint", "healthcheck") // brings the companion back
		if c.version.khepri {
			n2.said(60*time.Second, "force-boot --cluster-id "+id) // half of a two-node cluster is no majority
			n2.exec("rmq-entrypoint", "force-boot", "--cluster-id", id)
		}
		c.same(id, c.one(n1, n2))
	})
}

// The setting that allows it in advance carries on without being told.
func TestCarryOnAllowedInAdvance(t *testing.T) {
	on(t, newest, func(c *cluster) {
		nodes := c.all(3)
		n1 := nodes[0]
		n1.env["RMQ_FORCE_BOOT"] = "true"
		start(nodes...)
		id := c.one(nodes...)
		n1.declare("classic", classic)
		n1.publish("classic", 10)
		kill(nodes...)
		wipe(nodes[1:]...)
		start(nodes...)
		c.same(id, c.oneWithin(240*time.Second, nodes...))
		n1.emptied("classic", 10)
	})
}

// All members stopped and started again, in each order, one at a time or all at once: RabbitMQ's members wait for each
// other, and nothing of ours may be in between.
func TestRestartOrders(t *testing.T) {
	on(t, []version{v43, v310}, func(c *cluster) {
		nodes := c.all(3)
		start(nodes...)
		id := c.one(nodes...)
		queues := map[string]amqp.Table{"classic": classic, "quorum": quorum}
		for name, kind := range queues {
			nodes[0].declare(name, kind)
			nodes[0].publish(name, 20)
		}
		restart := func(name string, down, up func()) {
			c.in(name, func() {
				down()
				was := c.sessionIndex()
				up()
				c.same(id, c.one(nodes...))
				if s, is := c.sessions(), c.sessionIndex(); s != 0 || is != was {
					c.Errorf("%d sessions, and their index went from %d to %d: a member takes no lock", s, was, is)
				}
				for name := range queues {
					nodes[0].holds(name, 20)
				}
			})
		}
		orders := [][]int{{0, 1, 2}, {2, 0, 1}}
		if full {
			orders = [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}
		}
		for i, order := range orders {
			restart(fmt.Sprint(order), func() {
				if i%2 == 1 {
					kill(nodes...)
					return
				}
				for _, n := range nodes {
					n.stop()
				}
			}, func() {
				for _, k := range order {
					nodes[k].start()
					nodes[k].said(60*time.Second, "becoming the server")
				}
			})
		}
		restart("all at once", func() { kill(nodes...) }, func() { start(nodes...) })
		for name := range queues {
			nodes[0].emptied(name, 20)
		}
	})
}

// sessionIndex returns Consul's index of its sessions, which moves with each that is opened or ends, however short.
func (c *cluster) sessionIndex() uint64 {
	c.Helper()
	_, meta, err := c.consul.Session().List(&api.QueryOptions{RequireConsistent: true})
	if err != nil {
		c.Fatal(err)
	}
	return meta.LastIndex
}
