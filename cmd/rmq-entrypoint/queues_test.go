package main

import (
	"os"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/expect"
)

// calls are the command lines that a node's rabbitmqctl and its like were given.
func (n *node) calls(with string) (found []string) {
	b, _ := os.ReadFile(n.path("ctl"))
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, with) {
			found = append(found, line)
		}
	}
	return found
}

// A seed of a version that mirrors sets the policy before it announces its
// cluster, and never again: what becomes of it is the user's.
func testSeedMirrors(t *testing.T, w *world) {
	n := w.node("rabbit@localhost", "RABBITMQ_VERSION=3.10.8")
	n.start()
	n.server(soon)
	config, err := os.ReadFile(n.state("rabbitmq.config"))
	expect.Must(t, err)
	if strings.Contains(string(config), "queue") {
		t.Errorf("settings that 3.10 does not have: %s", config)
	}
	n.put(n.path("mirror"), "no line of a queue\n")
	n.put(n.path("mirror.exit"), "69") // RabbitMQ cannot be asked
	n.tell("amqp up")
	n.sees("id-1", n.name)
	n.tell("notify READY=1")
	n.reports(3*testBeat+soon, api.HealthCritical, "the policy that mirrors queues cannot be set (--queues, RMQ_QUEUES)")
	if r := w.record(); r.State != peers.Forming {
		t.Errorf("it announced a cluster without the policy: %+v", r)
	}
	before := len(n.calls("ha-mode"))
	n.put(n.path("mirror"), "queue|/|ok|\nqueue|two|ok|\n")
	expect.Must(t, os.Remove(n.path("mirror.exit")))
	n.registered(3*testBeat+soon, api.HealthPassing)
	expect.Says(t, n.log(), "queues are mirrored to all nodes", "vhosts=/,two")
	calls := n.calls("ha-mode")
	if len(calls) != before+1 {
		t.Fatalf("the policy was set %d times:\n%s", len(calls)-before, calls)
	}
	for _, key := range []string{`{<<"ha-mode">>, <<"all">>}`, `{<<"ha-sync-mode">>, <<"automatic">>}`, `{<<"ha-promote-on-failure">>, <<"when-synced">>}`, `{<<"ha-promote-on-shutdown">>, <<"when-synced">>}`} {
		if !strings.Contains(calls[0], key) {
			t.Errorf("the policy lacks %s: %s", key, calls[0])
		}
	}
	n.tell("notify STOPPING=1")
	n.registered(atOnce, "")
	n.tell("notify READY=1")
	n.registered(soon, api.HealthPassing)
	if again := n.calls("ha-mode"); len(again) != before+1 {
		t.Errorf("it was set again:\n%s", again)
	}
}
