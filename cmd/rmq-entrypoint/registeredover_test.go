package main

import (
	"errors"
	"fmt"
	"testing"

	"github.com/hashicorp/consul/api"

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
	t.Run("by another start that lives", func(t *testing.T) {
		t.Parallel()
		n := newWorld(t, c).node("rabbit@localhost")
		n.serves()
		id := over(n, map[string]string{"node": n.name, "volume": "v-other", "boot": "b-other"},
			&api.AgentServiceCheck{CheckID: n.service + "-other", TTL: "1h", Status: api.HealthPassing})
		n.reports(within, api.HealthPassing, "(not registered: the name is another's: ")
		expect.Consistently(t, 2*testBeat, "it is left alone", func() error {
			s, _, err := c.Client.Agent().Service(id, nil)
			if err == nil && s.Meta["boot"] != "b-other" {
				err = errors.New("it is gone")
			}
			return err
		})
	})
}
