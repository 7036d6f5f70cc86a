package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

// An agent that takes no registration, or takes it and never brings it into the catalog, is left for the next
// address, like one that does not answer.
func TestAgentThatNeverSyncs(t *testing.T) {
	t.Parallel()
	servers := consultest.StartCluster(t, 3)
	failsOver := func(t *testing.T, n *node) {
		t.Helper()
		n.registeredOn(servers[1], 10*testBeat+late, api.HealthPassing)
		expect.Eventually(t, testBeat+late, "it says so itself", func() error { // just after Consul was told
			r, err := n.report()
			if err != nil || r.Consul != servers[1].Addr || !r.Ready() || strings.Contains(r.Reason, "not told") {
				return fmt.Errorf("it uses %s: %s, %w", r.Consul, r.Reason, err)
			}
			return nil
		})
		expect.Says(t, n.log(), "moving to another Consul agent")
	}
	t.Run("recreated while the node serves", func(t *testing.T) { // register: EOF, beats: 404, reads: 200
		t.Parallel()
		agent := consultest.StartAgent(t, servers)
		n := newWorld(t, servers[0]).node("rabbit@localhost", "CONSUL_HTTP_ADDR="+agent.Addr+","+servers[1].Addr)
		n.serves()
		agent.Recreate()
		failsOver(t, n)
	})
	starts := func(t *testing.T, n *node) {
		t.Helper()
		n.hasData(nil)
		n.start()
		n.server(soon)
		n.sees("id-of-"+n.service, n.name)
		n.tell("amqp up")
		n.tell("notify READY=1")
	}
	t.Run("recreated before the node starts", func(t *testing.T) { // register: 200, beats: 200, never in the catalog
		t.Parallel()
		agent := consultest.StartAgent(t, servers)
		agent.Recreate()
		n := newWorld(t, servers[0]).node("rabbit@localhost", "CONSUL_HTTP_ADDR="+agent.Addr+","+servers[1].Addr)
		starts(t, n)
		failsOver(t, n)
	})
	t.Run("recreated before the node starts, and there is no other", func(t *testing.T) {
		t.Parallel()
		agent := consultest.StartAgent(t, servers)
		agent.Recreate()
		n := newWorld(t, servers[0]).node("rabbit@localhost", "CONSUL_HTTP_ADDR="+agent.Addr)
		starts(t, n)
		expect.Eventually(t, testTTL+3*testBeat+late, "it knows that it is not registered", func() error {
			r, err := n.report()
			if err != nil {
				return err
			}
			if status, err := n.status(servers[0].Client); err != nil || status != "" {
				return fmt.Errorf("it is %q in the catalog, %v", status, err)
			}
			if r.Ready() && !strings.Contains(r.Reason, "not told") && !strings.Contains(r.Reason, "not registered") {
				return fmt.Errorf("%s: %s", r.Status, r.Reason)
			}
			if !strings.Contains(n.log(), "Consul cannot be asked or told") {
				return errors.New("its log does not say so")
			}
			return nil
		})
		missed(t, agent, servers)
		agent.Recreate()
		n.registered(2*testBeat+late, api.HealthPassing)
	})
}
