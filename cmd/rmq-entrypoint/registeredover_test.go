package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

// A node's entry that somebody registers over keeps its check, and Consul takes each report. It comes
// right by itself; one of another start that lives is left alone.
func TestRegisteredOver(t *testing.T) {
	t.Parallel()
	c := consultest.Start(t)
	const within = 6*testBeat + 2*late // the catalog lacks it for one and a half, and passing is earned anew
	over := func(n *node, meta map[string]string, checks ...*api.AgentServiceCheck) string {
		id := peers.Registration{Service: n.service, Node: n.name}.ID()
		expect.Must(n.t, c.Client.Agent().ServiceRegister(&api.AgentServiceRegistration{
			ID: id, Name: n.service, Address: n.ip, Port: 5672, Meta: meta, Checks: checks,
		}))
		return id
	}
	away := func(n *node) {
		n.t.Helper()
		s := n.serves()
		n.kill(s.PID)
		n.exit(soon)
	}
	again := func(n *node) {
		n.t.Helper()
		n.start()
		n.server(soon)
		n.tell("amqp up")
		n.tell("notify READY=1")
	}
	t.Run("by hand", func(t *testing.T) {
		t.Parallel()
		n := newWorld(t, c).node("rabbit@localhost")
		n.serves()
		id := over(n, nil)
		checks, err := c.Client.Agent().ChecksWithFilter(fmt.Sprintf("ServiceID == %q", id))
		if err != nil || len(checks) != 1 {
			t.Fatalf("%d checks, %v: want the node's own", len(checks), err)
		}
		n.registered(soon, "")
		n.registered(within, api.HealthPassing)
		r := n.reports(soon, api.HealthPassing, "")
		expect.Eventually(t, testBeat+late, "its reports count", func() error {
			if now, err := n.report(); err != nil || !now.Beat.After(r.Beat) {
				return fmt.Errorf("the last one was at %s, %w", now.Beat, err)
			}
			return nil
		})
	})
	// Who may only register the service says that the name is another's. The record has it for this node's volume.
	counterfeit := func(n *node, id string) {
		expect.Must(n.t, c.Client.Agent().ServiceRegister(&api.AgentServiceRegistration{
			ID: id, Name: n.service, Address: "127.0.0.9", Port: 5672, Meta: map[string]string{"node": n.name, "volume": "v-other", "boot": "b-other"},
			Check: &api.AgentServiceCheck{CheckID: id + "-other", TTL: "1h", Status: api.HealthPassing},
		}))
	}
	passes := func(n *node) {
		n.t.Helper()
		id := peers.Registration{Service: n.service, Node: n.name}.ID()
		expect.Eventually(n.t, within, "it is in Consul under its own id, and passes", func() error {
			s, _, err := c.Client.Agent().Service(id, nil)
			if on := n.record().Members[n.name]; err == nil && (on == "" || s.Meta["volume"] != on) {
				err = fmt.Errorf("%s is of volume %q, on record is %q", id, s.Meta["volume"], on)
			}
			r, rerr := n.report()
			if err = errors.Join(err, rerr); err == nil && (r.Status != api.HealthPassing || strings.Contains(r.Reason, "not registered")) {
				err = fmt.Errorf("%s: %s", r.Status, r.Reason)
			}
			return err
		})
		expect.Says(n.t, n.log(), "another container has this node's name")
	}
	t.Run("by another volume that passes", func(t *testing.T) {
		t.Parallel()
		n := newWorld(t, c).node("rabbit@localhost")
		n.serves()
		counterfeit(n, peers.Registration{Service: n.service, Node: n.name}.ID())
		passes(n)
	})
	// As where more is registered than an answer of Consul's may hold.
	t.Run("beside what cannot be read, when it is restarted", func(t *testing.T) {
		t.Parallel()
		link := consultest.Proxy(t, c.Addr)
		n := newWorld(t, c).node("rabbit@localhost", "CONSUL_HTTP_ADDR="+link.Addr)
		away(n)
		link.Answer(1<<30, 500, "too much", consultest.Request("GET", "/v1/health/service/"))
		again(n)
		n.reports(soon, api.HealthPassing, "not checked against the record")
		n.registered(soon, api.HealthPassing)
	})
	// Whoever may register any service at the agent may hold the id of a node that is away.
	t.Run("by an entry that cannot be read, while it is away", func(t *testing.T) {
		t.Parallel()
		n := newWorld(t, c).node("rabbit@localhost")
		away(n)
		id := peers.Registration{Service: n.service, Node: n.name}.ID()
		expect.Must(t, c.Client.Agent().ServiceDeregister(id))
		expect.Must(t, c.Client.Agent().ServiceRegister(&api.AgentServiceRegistration{ID: id, Name: n.service, Tags: []string{strings.Repeat("x", 17<<20)}}))
		again(n)
		n.reports(soon, api.HealthPassing, "")
		n.registered(soon, api.HealthPassing)
		if s, _, err := c.Client.Agent().Service(id, nil); err != nil || len(s.Tags) > 0 || s.Meta["cluster_id"] == "" {
			t.Errorf("it is %.200v, %v", s, err)
		}
	})
	t.Run("by another service while it is away", func(t *testing.T) {
		t.Parallel()
		c := consultest.Start(t, consultest.ACL())
		w := newWorld(t, c)
		n := w.node("rabbit@localhost", "CONSUL_HTTP_TOKEN="+token(t, c, fmt.Sprintf(`key_prefix "rmq-entrypoint/" { policy = "write" } session_prefix "" { policy = "write" }
			service %q { policy = "write" } service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }`, w.service)))
		away(n)
		id := peers.Registration{Service: n.service, Node: n.name}.ID()
		expect.Must(t, c.Client.Agent().ServiceDeregister(id))
		expect.Must(t, c.ClientFor(`service "evil" { policy = "write" }`).Agent().ServiceRegister(&api.AgentServiceRegistration{ID: id, Name: "evil"}))
		again(n)
		n.reports(soon, api.HealthPassing, "not told to Consul")
		expect.Says(t, n.log(), id+" as an entry of another service", "consul services deregister -id="+id)
		expect.Must(t, c.Client.Agent().ServiceDeregister(id))
		n.registered(within, api.HealthPassing)
	})
	t.Run("beside another volume that passes, before it was verified", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, c)
		n := w.node("rabbit@localhost")
		n.hasData(nil)
		n.put(n.state("pending"), &statedir.Pending{Role: statedir.Joining, Claim: "c0", Volume: "v-own"})
		counterfeit(n, n.service+"-counterfeit")
		n.start()
		n.refused(soon, "not starting a second rabbit@localhost", "v-other")
		w.putRecord(peers.Record{}.Claimed("rabbit@other", "v", "", time.Now()).Founded("id", time.Now()).Joins(n.name, "v-own", time.Now()))
		n.start()
		n.server(soon)
	})
	t.Run("beside another volume that passes, when it is restarted", func(t *testing.T) {
		t.Parallel()
		n := newWorld(t, c).node("rabbit@localhost")
		s := n.serves()
		counterfeit(n, n.service+"-counterfeit")
		n.kill(s.PID)
		n.exit(soon)
		again(n)
		passes(n)
	})
}
