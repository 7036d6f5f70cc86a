package main

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/statedir"
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

// mirrored are the policies that RabbitMQ took.
func (n *node) mirrored() []string {
	b, _ := os.ReadFile(n.path("mirrored"))
	return slices.Collect(strings.Lines(string(b)))
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
	n.put(n.path("mirror"), "queue|/|ok|\nqueue|two|ok|\n")
	expect.Must(t, os.Remove(n.path("mirror.exit")))
	n.registered(3*testBeat+soon, api.HealthPassing)
	expect.Says(t, n.log(), "queues are mirrored to all nodes", "vhosts=/,two")
	policies := n.mirrored()
	if len(policies) != 1 {
		t.Fatalf("the policy was set %d times:\n%s", len(policies), policies)
	}
	for _, key := range []string{`{<<"ha-mode">>, <<"all">>}`, `{<<"ha-sync-mode">>, <<"automatic">>}`, `{<<"ha-promote-on-failure">>, <<"when-synced">>}`, `{<<"ha-promote-on-shutdown">>, <<"when-synced">>}`} {
		if !strings.Contains(policies[0], key) {
			t.Errorf("the policy lacks %s: %s", key, policies[0])
		}
	}
	n.tell("notify STOPPING=1")
	n.registered(soon, "")
	n.tell("notify READY=1")
	n.registered(soon, api.HealthPassing)
	if again := n.mirrored(); len(again) != 1 {
		t.Errorf("it was set again:\n%s", again)
	}
}

// defaultQueues is what queues are that name no type, by what a node gave its server.
func (n *node) defaultQueues() string {
	n.t.Helper()
	b, err := os.ReadFile(n.state("rabbitmq.config"))
	expect.Must(n.t, err)
	switch typed, limit := strings.Contains(string(b), "{default_queue_type,rabbit_quorum_queue}"), strings.Contains(string(b), `{<<"delivery_limit">>,-1}`); {
	case typed && limit:
		return "quorum"
	case typed || limit:
		n.t.Errorf("half of it:\n%s", b)
	}
	return "classic"
}

// In a cluster that another program founded queues stay classic: on the node that was moved
// here, at each of its starts, without Consul too, and on those that join it.
func testAdoptedQueues(t *testing.T, w *world) {
	old := w.node("old@localhost")
	old.serves()
	if got := old.defaultQueues(); got != "classic" {
		t.Errorf("the adopted node has %s queues by default", got)
	}
	expect.Says(t, old.log(), "queues that name no type are classic")
	on := w.record()
	if on.Queues != statedir.Adopted {
		t.Errorf("on record queues are %q", on.Queues)
	}
	// What an entry says, which anybody may write who may register the service, is not believed.
	expect.Must(t, w.consul.Client.Agent().ServiceRegister(&api.AgentServiceRegistration{ID: "a-counterfeit", Name: old.service, Address: old.ip, Port: 5672, Meta: map[string]string{
		"node": old.name, "cluster_id": on.ClusterID, "volume": on.Members[old.name], "boot": "b", "default_queue_type": statedir.Quorum,
	}}))
	joiner := w.node("joiner@localhost")
	joiner.start()
	joiner.server(soon)
	if got := joiner.defaultQueues(); got != "classic" {
		t.Errorf("its joiner has %s queues by default", got)
	}
	old.kill(old.cmd.Process.Pid)
	old.exit(soon)
	away := w.node("away@localhost", "CONSUL_HTTP_ADDR=127.0.0.1:1") // the same volume, without Consul
	expect.Must(t, os.RemoveAll(away.volume("")))
	expect.Must(t, os.Rename(old.volume(""), away.volume("")))
	expect.Must(t, os.Rename(away.volume("mnesia/old@localhost"), away.volume("mnesia/away@localhost")))
	expect.Must(t, os.Rename(away.volume("mnesia/old@localhost-entrypoint"), away.volume("mnesia/away@localhost-entrypoint")))
	away.start()
	away.server(soon)
	if got := away.defaultQueues(); got != "classic" {
		t.Errorf("started again without Consul, the adopted node has %s queues by default", got)
	}
}
