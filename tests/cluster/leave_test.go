package cluster

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// ready returns what the companion's /ready answers.
func (n *node) ready() int {
	client := http.Client{Timeout: slow(3 * time.Second)}
	resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/ready", n.httpPort))
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

// refuses runs a command of ours that must exit 1 and say why.
func (n *node) refuses(want string, argv ...string) {
	n.Helper()
	out, err := n.tryExec(append([]string{"rmq-entrypoint"}, argv...)...)
	if err == nil || !strings.Contains(err.Error(), "exit status 1") || !strings.Contains(err.Error(), want) {
		n.Errorf("%v of %s: %s, %v; want exit status 1 and %q", argv, n.host, out, err, want)
	}
}

// One of three is drained before it is stopped: balancers see it first, its clients are sent away, those of the others
// notice nothing, and it is back after a restart, or when it is revived. What would stop a queue is refused.
func TestDrain(t *testing.T) {
	on(t, newest, func(c *cluster) {
		nodes := c.all(3)
		n1, n2, n3 := nodes[0], nodes[1], nodes[2]
		start(nodes...)
		id := c.one(nodes...)
		n1.declare("work", quorum)
		n1.declare("n1", classic)
		c.replicated("work", nodes...)
		elsewhere, here := n1.traffic("n1"), n3.traffic("work")

		c.in("drained", func() {
			done := make(chan error, 1)
			go func() { _, err := n3.tryExec("rmq-entrypoint", "drain", "--wait", "3s"); done <- err }()
			c.eventually(2*ttl, "the node is critical", c.is(n3, "critical"))
			c.eventually(time.Second, "/ready says so, too", func() error {
				if code := n3.ready(); code != http.StatusServiceUnavailable {
					return fmt.Errorf("it answers %d", code)
				}
				return nil
			})
			select {
			case err := <-here.done:
				c.Errorf("its clients were sent away before balancers had seen it: %v", err)
			default:
			}
			if err := <-done; err != nil {
				c.Fatal(err)
			}
			select {
			case err := <-here.done:
				c.Logf("a client of the drained node: %v", err)
			case <-time.After(slow(10 * time.Second)):
				c.Error("its clients are still connected")
			}
			if out := n3.exec("rmq-entrypoint", "drain"); !strings.Contains(out, "drained already") {
				c.Errorf("drain again: %s", out)
			}
			if out := n3.exec("rmq-entrypoint", "healthcheck"); !strings.Contains(out, "maintenance") {
				c.Errorf("the health check says %s", out)
			}
		})
		c.in("the next one is refused", func() {
			n2.refuses("quorum-critical", "drain")
			c.throughout(ttl, "it stays in service, and the drained one critical and registered", func() error {
				checks, err := c.tryChecks()
				if err == nil && (checks[n2.name] != "passing" || checks[n3.name] != "critical") {
					err = fmt.Errorf("the checks are %v", checks)
				}
				return err
			})
		})
		c.in("revived", func() {
			n3.exec("rabbitmq-upgrade", "-q", "revive")
			c.same(id, c.one(nodes...))
		})
		c.in("drained, stopped and started", func() {
			n3.exec("rmq-entrypoint", "drain", "--wait", "0s")
			n3.stop()
			n3.start()
			c.same(id, c.one(nodes...))
			c.replicated("work", nodes...)
		})
		c.in("a stopped node is refused", func() {
			n3.ctl("stop_app")
			n3.refuses("RabbitMQ is stopped here", "drain")
			n3.ctl("start_app")
			c.same(id, c.one(nodes...))
		})
		n1.undisturbed(elsewhere)
	})
}

// Nodes leave for good, down to one: with nothing lost, no ghost, and no harm to clients of the others. The name comes
// back on an empty volume only.
func TestLeave(t *testing.T) {
	on(t, newest, func(c *cluster) {
		nodes := c.all(3)
		n1, n2, n3 := nodes[0], nodes[1], nodes[2]
		start(nodes...)
		id := c.one(nodes...)
		n3.declare("work", nil)
		n3.declare("quorum", quorum)
		n3.declare("stream", stream)
		for _, queue := range []string{"work", "quorum", "stream"} {
			n3.publish(queue, 200)
		}
		n1.declare("n1", nil)
		traffic := n1.traffic("n1")

		if c.version != v310 { // where it is mirrored
			c.in("refused for what this node alone has", func() {
				n3.declare("only-here", classic)
				n3.publish("only-here", 7)
				n3.refuses("only-here", "leave", "--wait", "0s")
				n3.refuses("messages: 7", "leave", "--wait", "0s")
				c.same(id, c.one(nodes...))
				n3.emptied("only-here", 7)
				n3.ctl("delete_queue", "only-here")
			})
		}
		c.in("one of three", func() {
			c.leaves(n3)
			c.same(id, c.one(n1, n2))
			for _, queue := range []string{"work", "quorum", "stream"} {
				n1.holds(queue, 200)
			}
			n1.undisturbed(traffic)
		})
		c.in("two that need each other are warned of", func() {
			if c.version == v310 { // each of the two can do without the other
				c.throughout(3*ttl, "nobody warns", warned(n1, false))
				return
			}
			n1.said(5*ttl, "TWO NODES.*add a third node")
			c.eventually(ttl, "status warns, too", warned(n1, true))
		})
		c.in("its volume is refused, its name comes back blank", func() {
			n3.said(60*time.Second, "refusing to start: .*left cluster "+id+" for good")
			n3.rm()
			n3.blankVolume()
			n3.start()
			c.same(id, c.one(nodes...))
			n3.holds("quorum", 200)
			c.eventually(2*ttl, "nobody warns of two nodes", warned(n1, false))
		})
		c.in("refused without a majority", func() {
			n2.stop()
			n3.sees(30*time.Second, 2)
			n3.refuses("without a majority", "leave", "--wait", "0s")
			n2.start()
			c.same(id, c.one(nodes...))
		})
		c.in("a dead one is forgotten from outside", func() {
			n3.declare("there-alone", classic)
			n2.refuses("lives", "forget", "--force", n3.name)
			n3.kill()
			n3.rm()
			n2.sees(30*time.Second, 2)
			c.eventually(2*ttl, "its entry lapses", func() error {
				out, err := n2.tryExec("rmq-entrypoint", "forget", n3.name)
				if err == nil || strings.Contains(err.Error()+out, "lives") {
					return fmt.Errorf("%s, %w", out, err)
				}
				return nil
			})
			if c.version != v310 { // where it is mirrored
				n2.refuses("on it alone: queue 'there-alone'", "forget", n3.name)
			}
			n2.refuses("is no member", "forget", "rabbit@nobody")
			c.Log(n2.exec("rmq-entrypoint", "forget", "--force", n3.name))
			if r := c.record(); r.Members[n3.name] != "" || r.Gone[n3.name] == nil {
				c.Errorf("the record is %+v", r)
			}
			c.same(id, c.one(n1, n2))
			if out := n1.exec("rmq-entrypoint", "forget", n3.name); !strings.Contains(out, "nothing to do") {
				c.Errorf("forget again: %s", out)
			}
			n3.start()
			n3.said(60*time.Second, "refusing to start: .*was taken off cluster "+id+".*rmq-entrypoint forget")
			n3.rm()
			n3.blankVolume()
			n3.start()
			c.same(id, c.one(nodes...))
			n3.holds("quorum", 200)
		})
		c.in("down to one", func() {
			for _, n := range []*node{n3, n2} {
				c.leaves(n)
				n.rm()
			}
			c.same(id, c.one(n1))
			n1.refuses("is the last node", "leave")
			c.same(id, c.one(n1))
			for _, queue := range []string{"work", "quorum", "stream"} {
				n1.holds(queue, 200)
			}
			n1.declare("after", nil)
			n1.publish("after", 10)
		})
	})
}

// warned looks whether status warns of a cluster of two.
func warned(n *node, want bool) func() error {
	return func() error {
		if out, _ := n.tryExec("rmq-entrypoint", "status"); strings.Contains(out, "TWO NODES") != want {
			return errors.New(out)
		}
		return nil
	}
}

// leaves makes a node leave, and fails unless the command ends well and nothing of the node is left.
func (c *cluster) leaves(n *node) {
	c.Helper()
	began := time.Now()
	out := n.exec("rmq-entrypoint", "leave", "--wait", "1s")
	c.Logf("%s left in %s:\n%s", n.host, time.Since(began).Round(100*time.Millisecond), out)
	if r := c.record(); r.Members[n.name] != "" || r.Gone[n.name] == nil {
		c.Errorf("the record is %+v", r)
	}
	if checks := c.checks(); checks[n.name] != "" {
		c.Errorf("Consul knows %v", checks)
	}
	for _, service := range []string{"rabbitmq", "rabbitmq-management", "rabbitmq-prometheus"} {
		if found := c.dig(service); slices.Contains(found, n.ip) {
			c.Errorf("DNS gives %v as %s", found, service)
		}
	}
	c.eventually(30*time.Second, "its server ends", func() error {
		out := n.docker("inspect", "-f", "{{.State.Running}} {{.RestartCount}}", n.container)
		if out == "true 0" {
			return errors.New("it runs")
		}
		return nil
	})
	for _, other := range c.nodes {
		if slices.Contains(slices.Collect(maps.Keys(c.record().Members)), other.name) {
			if s, err := other.status(); err != nil || slices.Contains(s.disk, n.name) {
				c.Errorf("RabbitMQ on %s lists %v, %v", other.host, s.disk, err)
			}
		}
	}
}

// The container is gone right after its node was taken off the record: the others make RabbitMQ forget it.
func TestLeaveInterrupted(t *testing.T) {
	long(t)
	on(t, newest, func(c *cluster) {
		nodes := c.all(3)
		start(nodes...)
		id := c.one(nodes...)
		n3 := nodes[2]
		go func() { _, _ = n3.tryExec("rmq-entrypoint", "leave", "--wait", "0s") }()
		c.eventually(60*time.Second, "the node is off the record", func() error {
			if r := c.record(); r.Members[n3.name] != "" {
				return errors.New("it is on it")
			}
			return nil
		})
		n3.rm()
		c.same(id, c.oneWithin(4*time.Minute, nodes[:2]...))
	})
}
