package cluster

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// second is another container with the host name of a node, on a volume of its own, as a copied compose file makes it.
func (c *cluster) second(i int, of *node) *node {
	c.Helper()
	n := c.node(i)
	n.name, n.flags = of.name, []string{"--hostname", of.host}
	return n
}

// Second containers of nodes' names, with the cluster's cookie and with another one, do nothing while these live, are
// restarted, or are all down for a while. What they write on record while nobody runs ends nobody.
func TestSecondContainerOfAName(t *testing.T) {
	on(t, newest, func(c *cluster) {
		nodes := c.all(3)
		n1, n2 := nodes[0], nodes[1]
		start(nodes...)
		id := c.one(nodes...)
		n1.declare("quorum", quorum)
		n1.publish("quorum", 20)
		near, apart := c.second(11, n1), c.second(12, n2)
		apart.env["RABBITMQ_ERLANG_COOKIE"] = "another"
		revision := func() string {
			pair, _, err := c.consul.KV().Get("rmq-entrypoint/rabbitmq/cluster", nil)
			if err != nil || pair == nil {
				return fmt.Sprint(pair, err)
			}
			return string(pair.Value)
		}
		undisturbed := func(d time.Duration) {
			c.Helper()
			was := revision()
			c.throughout(d, "the cluster notices nothing", func() error {
				if is := revision(); is != was {
					return fmt.Errorf("the record was %s and is %s", was, is)
				}
				return c.pass(nodes...)
			})
		}
		c.in("while they live", func() {
			start(near, apart)
			undisturbed(ttl + 5*time.Second)
			// Docker gives the name two addresses now: who asks by name may get the other one.
			c.eventually(30*time.Second, "they see each other run", func() error { return c.united(nodes...) })
			for _, n := range []*node{near, apart} {
				line := n.said(30*time.Second, "which is alive: "+n.name)
				for _, words := range []string{c.subnet + ".2", "its check passing", "host name of its own"} {
					if !strings.Contains(line, words) {
						c.Errorf("it does not say %q: %s", words, line)
					}
				}
			}
		})
		c.in("while one is restarted", func() {
			for _, n := range []*node{n1, n2} {
				n.stop()
				n.start()
				c.same(id, c.one(nodes...))
			}
			undisturbed(5 * time.Second)
		})
		c.in("while one with another cookie could take the name of one that is down", func() {
			n2.stop()
			apart.said(2*ttl+20*time.Second, "pass, but cannot be asked")
			if r := c.record(); r.Members[n2.name] == "" {
				c.Errorf("it took the name off the record: %+v", r)
			}
			n2.start()
			c.same(id, c.one(nodes...))
		})
		c.in("while all are down", func() {
			stop(nodes...)
			for _, n := range []*node{near, apart} {
				n.said(3*ttl+20*time.Second, "taking this node off the record")
			}
			start(nodes...)
			c.same(id, c.one(nodes...))
			undisturbed(ttl)
		})
		n1.holds("quorum", 20)
		for _, n := range append([]*node{near, apart}, nodes...) {
			if log := n.log(); strings.Contains(log, "refusing to start") || strings.Contains(log, "stopping the server") {
				c.Errorf("%s was refused, or stopped", n.container)
			}
		}
	})
}

// Three nodes of the official image and a new blank one are changed over at once, the new one first: there is one
// cluster, the old one.
func TestMovedHereAtOnce(t *testing.T) {
	on(t, []version{v40}, func(c *cluster) {
		nodes := c.all(4)
		old, blank := nodes[:3], nodes[3]
		for _, n := range old {
			n.image, n.flags = c.version.base, []string{"--no-healthcheck"}
		}
		start(old...)
		for i, n := range old {
			c.eventually(120*time.Second, n.host+" is up", func() error {
				_, err := n.tryExec("rabbitmqctl", "-q", "await_startup", "--timeout", "30")
				return err
			})
			if i > 0 {
				n.ctl("stop_app")
				n.ctl("join_cluster", old[0].name)
				n.ctl("start_app")
			}
		}
		was := old[0].ctl("eval", `io:format("~s", [rabbit_nodes:persistent_cluster_id()]).`)
		old[1].declare("quorum", quorum)
		old[1].publish("quorum", 50)
		stop(old...)
		for _, n := range old {
			n.rm()
			n.image, n.flags = c.version.image, nil
		}
		blank.start()
		blank.said(30*time.Second, "founding the cluster")
		start(old...)
		id := c.one(nodes...)
		if !strings.Contains(was, id) {
			c.Fatalf("the cluster was %s and is %s", was, id)
		}
		old[0].holds("quorum", 50)
		blank.said(10*time.Second, "joining the cluster")
	})
}
