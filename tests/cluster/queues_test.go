package cluster

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

// A queue that a client declares without a word about its type, on the first node of a cluster, outlives that node:
// mirrored up to 3.13, as a quorum queue from 4.0 on, which grows onto the nodes that come later.
func TestQueuesSurvive(t *testing.T) {
	on(t, []version{v43, v310}, func(c *cluster) {
		nodes := c.all(3)
		n1, n2, n3 := nodes[0], nodes[1], nodes[2]
		if c.version == v310 {
			n3.mount("/etc/rabbitmq/conf.d/20-own.conf", "cluster_partition_handling = autoheal\n")
		}
		n1.start()
		c.one(n1)
		n1.declare("work", nil)
		n1.publish("work", 100)
		n1.declare("early", quorum)
		n1.publish("early", 50)
		start(n2, n3)
		id := c.one(nodes...)
		c.replicated("early", nodes...)
		if c.version == v310 {
			c.mirrored("work", nodes...)
			c.eventually(10*time.Second, "a joiner says that the queue has a replica there", func() error { // later versions grow it themselves
				if grown := regexp.MustCompile("quorum queues have a replica here again.*early|no quorum queue lacks a replica here any more"); !grown.MatchString(n2.log()) && !grown.MatchString(n3.log()) {
					return errors.New("none does")
				}
				return nil
			})
		} else {
			c.replicated("work", nodes...)
		}
		c.in("its node stops", func() {
			n1.stop()
			n2.holds("work", 100)
			n2.holds("early", 50)
			n2.publish("work", 10)
			n1.start()
			c.same(id, c.one(nodes...))
		})
		if c.version == v310 {
			c.mirrored("work", nodes...)
		}
		c.in("another one is killed", func() {
			n2.kill()
			n1.holds("work", 110)
			n2.start()
			c.same(id, c.one(nodes...))
		})
		n3.emptied("work", 110)
		if c.version == v310 { // what a user sets wins, also where this program would set it in a running node
			for n, want := range map[*node]string{n1: "{ok,pause_minority}", n3: "{ok,autoheal}"} {
				if got := n.ctl("eval", "application:get_env(rabbit, cluster_partition_handling)."); got != want {
					c.Errorf("%s has %s, want %s", n.host, got, want)
				}
			}
			if strings.Contains(n3.log(), "cluster_partition_handling set") {
				c.Errorf("%s says that it set what the user has set", n3.host)
			}
		}
	})
}

// mirrored waits until the classic queue has a synchronised mirror on each node but its own.
func (c *cluster) mirrored(queue string, nodes ...*node) {
	c.Helper()
	c.eventually(90*time.Second, queue+" has a synchronised mirror on each node", func() error {
		out, err := nodes[0].tryExec("rabbitmqctl", "-q", "eval", fmt.Sprintf(`{ok, Q} = rabbit_amqqueue:lookup({resource, <<"/">>, queue, <<%q>>}),
			io:format("~w", [[node(P) || P <- [amqqueue:get_pid(Q) | amqqueue:get_sync_slave_pids(Q)]]]).`, queue))
		if err != nil {
			return err
		}
		for _, n := range nodes {
			if !strings.Contains(out, n.name) {
				return fmt.Errorf("they are on %s", out)
			}
		}
		return nil
	})
}

// The setting is off, and nothing is done to queues; and whatever a user sets wins over what we would.
func TestUsersQueues(t *testing.T) {
	on(t, []version{v43, v310}, func(c *cluster) {
		n := c.node(1)
		env := func() string {
			c.Helper()
			out := n.ctl("eval", `io:format("~0p", [[application:get_env(rabbit, K, none) || K <- [default_queue_type, quorum_membership_reconciliation_enabled, quorum_membership_reconciliation_target_group_size]]]).`)
			out, _, _ = strings.Cut(out, "]")
			return out + "]"
		}
		want := func(what, got, want string) {
			c.Helper()
			if !strings.Contains(got, want) {
				c.Errorf("%s: %s, want %s", what, got, want)
			}
		}
		c.in("off", func() {
			n.env["RMQ_QUEUES"] = "off"
			n.start()
			c.one(n)
			if out := n.ctl("list_policies"); strings.Contains(out, "rmq-entrypoint") {
				c.Errorf("a policy of ours: %s", out)
			}
			if got := env(); strings.Contains(got, "rabbit_quorum_queue") || strings.Contains(got, "true") {
				c.Errorf("settings of ours: %s", got)
			}
		})
		n.rm()
		c.anew()
		delete(n.env, "RMQ_QUEUES")
		if c.version == v310 {
			c.in("a user's policy from definitions", func() {
				n.mount("/etc/rabbitmq/conf.d/20-own.conf", "load_definitions = /etc/rabbitmq/definitions.json\n")
				n.mount("/etc/rabbitmq/definitions.json", `{"vhosts": [{"name": "/"}, {"name": "two"}], "users": [{"name": "guest", "password": "guest", "tags": "administrator"}],
					"permissions": [{"user": "guest", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}],
					"policies": [{"vhost": "/", "name": "mine", "pattern": "^own", "apply-to": "queues", "definition": {"max-length": 5}, "priority": 0}]}`)
				n.start()
				c.one(n)
				n.declare("own", nil)
				n.declare("other", nil)
				want("policies of queues", strings.Join(strings.Fields(n.ctl("list_queues", "name", "policy")), " "), "own mine")
				want("policies of queues", strings.Join(strings.Fields(n.ctl("list_queues", "name", "policy")), " "), "other rmq-entrypoint-mirrors")
				want("policies of the other virtual host", n.ctl("list_policies", "-p", "two"), `"ha-promote-on-failure":"when-synced"`)

				// Ours, once deleted, stays deleted.
				n.ctl("clear_policy", "rmq-entrypoint-mirrors")
				n.stop()
				n.start()
				c.one(n)
				if out := n.ctl("list_policies"); strings.Contains(out, "rmq-entrypoint-mirrors") {
					c.Errorf("it is back: %s", out)
				}
			})
			return
		}
		c.in("a user's settings", func() {
			n.mount("/etc/rabbitmq/conf.d/20-own.conf", "default_queue_type = stream\nquorum_queue.continuous_membership_reconciliation.target_group_size = 5\n")
			n.mount("/etc/rabbitmq/advanced.config", "[{rabbit, [{quorum_membership_reconciliation_enabled, false}]}].\n")
			n.start()
			c.one(n)
			want("settings", env(), "[rabbit_stream_queue,false,5]")
		})
		n.rm()
		c.anew()
		c.in("a virtual host's own default", func() {
			n.flags = nil
			n.start()
			c.one(n)
			want("settings", env(), "[rabbit_quorum_queue,true,3]")
			n.ctl("add_vhost", "old", "--default-queue-type", "classic")
			want("the virtual hosts", strings.Join(strings.Fields(n.ctl("list_vhosts", "name", "default_queue_type")), " "), "old classic")
		})
	})
}
