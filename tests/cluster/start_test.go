package cluster

import (
	"errors"
	"fmt"
	"maps"
	"slices"
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
			if name := nodes[size-1].ctl("eval", "io:format(\"~s\", [rabbit_nodes:cluster_name()])."); !strings.HasPrefix(name, "rabbitmq") {
				c.Errorf("the cluster is called %q, not by its service", name)
			}
			c.bootedEarly(nodes...)
		}
	})
}

// bootedEarly expects that all but the founding node had booted when they were let in.
func (c *cluster) bootedEarly(nodes ...*node) {
	c.Helper()
	for _, n := range nodes {
		log := n.log()
		switch early, late := strings.Contains(log, "opening the gate"), strings.Contains(log, "its restart decides afresh"); {
		case n.name == c.record().Seed:
		case !early || late:
			c.Errorf("%s did not boot while another node founded the cluster (opened its gate: %t, stopped: %t)", n.name, early, late)
		case strings.Contains(n.exec("cat", "/var/lib/rabbitmq/mnesia/"+n.name+"-entrypoint/rabbitmq.config"), "gate-"):
			c.Errorf("rabbitmq.config of %s still has the gate", n.name)
		}
		c.eventually(20*time.Second, "the VM that answered "+n.name+" while it booted has ended", func() error {
			if left := n.exec("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c '[g]ate_is_shut' || true"); left != "0" {
				return fmt.Errorf("%s processes have its program", left)
			}
			return nil
		})
	}
}

// What waits behind the gate is let in by the companion that replaced a lost one, too. Whenever the founding node is killed,
// those that wait become one cluster, with it or without it.
func TestGate(t *testing.T) {
	on(t, newest, func(c *cluster) {
		if !c.version.khepri {
			c.Skip("nothing boots behind a gate before 4.2")
		}
		c.checked = true // its health checks have a lost companion replaced
		nodes := c.all(3)
		n1, n2, n3 := nodes[0], nodes[1], nodes[2]
		const boots = "booting while another node founds the cluster"
		for _, n := range nodes {
			n.env["RMQ_CLAIM_TIMEOUT"] = (2*ttl + time.Second).String()
		}
		c.in("its companion is lost", func() {
			n1.start()
			n1.said(60*time.Second, "becoming the server")
			start(n2, n3)
			n2.said(60*time.Second, boots)
			n2.said(60*time.Second, "becoming the server.*role=joining")
			n2.exec("sh", "-c", "kill -9 "+strings.Join(n2.companions(), " "))
			c.one(nodes...)
			c.bootedEarly(nodes...)
			if !strings.Contains(n2.log(), "a health check starts it again") {
				c.Error("no health check started another companion")
			}
		})
		if !full {
			return
		}
		for after := time.Duration(0); after <= 12*time.Second; after += 500 * time.Millisecond {
			c.anew()
			c.in("the founding node is killed after "+after.String(), func() {
				start(nodes...)
				n1.said(60*time.Second, "becoming the server|booting while")
				time.Sleep(after)
				seed := n1
				for _, n := range nodes {
					if n.name == c.record().Seed {
						seed = n
					}
				}
				seed.kill()
				rest := slices.DeleteFunc(slices.Clone(nodes), func(n *node) bool { return n == seed })
				formed := c.record().State == "formed"
				if !formed {
					c.one(rest...)
				}
				seed.start()
				c.one(nodes...)
			})
		}
	})
}

// anew makes everything blank: nodes, volumes and Consul.
func (c *cluster) anew() {
	c.Helper()
	remove := []string{"rm", "-f"}
	for _, n := range c.nodes {
		remove = append(remove, n.container)
		n.blankVolume()
	}
	_, _ = try(remove...) // some may not have been started
	c.wipeConsul()
	c.consulReady()
}

// A seed is killed while it forms. If it comes back, it goes on, with the cluster that its RabbitMQ may have made by then;
// if it does not, another node founds the cluster after the claim timeout, and the first one joins that when it returns
// at last.
func TestSeedKilledWhileForming(t *testing.T) {
	const ready = "RabbitMQ is ready, verifying"
	comesBack, staysAway := []string{ready}, []string{"Starting RabbitMQ"}
	if full {
		comesBack = []string{ready, "Starting RabbitMQ", "becoming the server"}
		staysAway = comesBack
	}
	on(t, newest, func(c *cluster) {
		nodes := c.all(3)
		n1, n2, n3 := nodes[0], nodes[1], nodes[2]
		claimTimeout := 2*ttl + time.Second // it must be over twice the TTL
		for _, n := range nodes {
			n.env["RMQ_CLAIM_TIMEOUT"] = claimTimeout.String()
		}
		// killed kills the seed at that moment and has the others wait for it. It returns the cluster id of RabbitMQ if that
		// was ready.
		killed := func(moment string) (id string) {
			c.Helper()
			n1.start()
			if moment == ready {
				n1.said(60*time.Second, "becoming the server")
				c.docker("pause", c.name("consul")) // or the cluster would be announced before the kill
			}
			n1.said(60*time.Second, moment)
			switch moment {
			case ready:
				id = strings.Trim(n1.ctl("eval", "rabbit_nodes:persistent_cluster_id()."), `<">`)
			case "Starting RabbitMQ": // Consul may hear of that a moment later, and the others go by it
				c.eventually(5*time.Second, "its entry says that its Erlang VM runs", func() error {
					all, _, err := c.consul.Catalog().Service("rabbitmq", "", nil)
					if err == nil && !slices.ContainsFunc(all, func(s *api.CatalogService) bool { return s.ServiceMeta["runs"] == "true" }) {
						err = errors.New("it does not")
					}
					return err
				})
			}
			n1.kill()
			if moment == ready {
				c.docker("unpause", c.name("consul"))
				c.consulReady()
			}
			if r := c.record(); r.State != "forming" || r.Seed != n1.name {
				c.Fatalf("the seed was killed too late: the record is %+v", r)
			}
			start(n2, n3)
			n2.said(60*time.Second, "waiting.*"+n1.name+" to found the cluster")
			return id
		}
		for i, moment := range comesBack {
			if i > 0 {
				c.anew()
			}
			c.in("and comes back/killed at "+moment, func() {
				was := killed(moment)
				n1.start()
				is := c.one(nodes...)
				if moment == ready {
					c.same(was, is)
				}
				if r := c.record(); r.Seed != n1.name {
					c.Errorf("%s founded the cluster", r.Seed)
				}
			})
		}
		for _, moment := range staysAway {
			c.anew()
			c.in("and does not come back/killed at "+moment, func() {
				killed(moment)
				c.eventually(2*ttl+10*time.Second, "its session is gone", func() error {
					if s := c.sessions(); s != 0 {
						return fmt.Errorf("%d sessions are open", s)
					}
					return nil
				})
				gone := time.Now()
				c.eventually(claimTimeout+15*time.Second, "another node claims the founding", func() error {
					r, err := c.tryRecord()
					if err == nil && (r.Seed == n1.name || r.Seed == "") {
						err = fmt.Errorf("the seed on record is %q", r.Seed)
					}
					return err
				})
				took := time.Since(gone)
				if moment != "becoming the server" { // its Erlang VM ran, so the others boot, and wait behind the gate
					n2.said(5*time.Second, "booting while another node founds the cluster")
				}
				c.Logf("claimed by another node %s after the session was gone", took.Round(100*time.Millisecond))
				if took < claimTimeout-time.Second { // nodes count from when they see it gone
					c.Errorf("the claim was taken over after %s, before the claim timeout of %s", took, claimTimeout)
				}
				id := c.one(n2, n3)
				n1.start()
				c.same(id, c.one(nodes...))
			})
		}
	})
}

// A joiner is killed in the middle of its join: of a one-node cluster, whose majority on Khepri then lacks its vote,
// and of two joining at once. Its restart makes everything whole.
func TestJoinerKilled(t *testing.T) {
	const (
		early  = "becoming the server"
		late   = "a member"
		before = "not a member yet"
		after  = "a member, not verified"
	)
	alone, beside := []string{early, late}, []string{"Starting RabbitMQ"}
	if full {
		alone = []string{early, "Starting RabbitMQ", late, "RabbitMQ is ready, verifying"}
		beside = []string{"Starting RabbitMQ", late}
	}
	on(t, []version{v43, v40}, func(c *cluster) {
		nodes := c.all(4)
		n1, n2, n3, n4 := nodes[0], nodes[1], nodes[2], nodes[3]
		// killed kills a joiner at that moment and shows how far it had come in the eyes of n1.
		killed := func(n *node, moment string) {
			c.Helper()
			if moment == late {
				n.said(90*time.Second, early)
				n1.counts(n)
			} else {
				n.said(90*time.Second, moment)
			}
			n.kill()
			if on := c.record().Members; on[n.name] == "" {
				c.Errorf("a joiner is not on record before its server starts: %v", on)
			}
			point := before
			c.eventually(30*time.Second, n1.host+" lists its members", func() error {
				s, err := n1.status()
				if slices.Contains(s.disk, n.name) {
					point = after
				}
				return err
			})
			if strings.Contains(n.log(), "verified: this node is a member") {
				point = "verified"
			}
			c.Logf("killed when it was %s", point)
			if want := map[string]string{early: before, late: after}[moment]; want != "" && point != want {
				c.Errorf("the kill came too late: it was to be %s", want)
			}
		}
		for i, moment := range alone {
			if i > 0 {
				c.anew()
			}
			c.in("of a one-node cluster, at "+moment, func() {
				n1.start()
				id := c.one(n1)
				n1.declare("before", classic)
				n1.publish("before", 10)
				n2.start()
				killed(n2, moment)
				n2.start()
				c.same(id, c.one(n1, n2))
				n1.holds("before", 10)
				n2.declare("after", quorum)
				n1.publish("after", 10)
			})
		}
		for _, moment := range beside {
			c.anew()
			c.in("while another joins, at "+moment, func() {
				start(n1, n2)
				id := c.one(n1, n2)
				start(n3, n4)
				killed(n3, moment)
				c.eventually(150*time.Second, "the others are one cluster", func() error { return c.united(n1, n2, n4) })
				c.same(id, c.record().ClusterID)
				n3.start()
				c.same(id, c.one(nodes...))
			})
		}
	})
}

// counts waits inside RabbitMQ until it lists another node as a member: asked from outside, it would tell too late.
func (n *node) counts(other *node) {
	n.Helper()
	n.ctl("eval", fmt.Sprintf(`Members = case erlang:function_exported(rabbit_nodes, list_members, 0) of true -> list_members; false -> all end,
(fun Wait(0) -> error(timeout); Wait(Left) -> lists:member('%s', rabbit_nodes:Members()) orelse begin timer:sleep(20), Wait(Left - 1) end end)(3000).`, other.name))
}

// united says what is missing for each of the nodes to pass and to run with the others, whoever else is a member.
func (c *cluster) united(nodes ...*node) error {
	if err := c.pass(nodes...); err != nil {
		return err
	}
	all, err := statuses(nodes...)
	for name, s := range all {
		for _, n := range nodes {
			if !slices.Contains(s.running, n.name) {
				err = fmt.Errorf("%s sees %v run", name, s.running)
			}
		}
	}
	return err
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
		var was string
		wiped := func() error {
			start(nodes...)
			was = c.one(nodes...)
			wipe(nodes...)
			if m := c.checks(); !slices.Contains(slices.Collect(maps.Values(m)), "passing") {
				return fmt.Errorf("no entry of the old cluster passes any more: %v", m)
			}
			return nil
		}
		if wiped() != nil { // a busy machine may be too slow once
			c.anew()
			if err := wiped(); err != nil {
				c.Fatal(err)
			}
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
