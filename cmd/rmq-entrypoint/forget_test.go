package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/expect"
)

const all3 = "a@localhost,b@localhost,c@localhost"

// deadOf returns b, which serves with a, and c, which is down: RabbitMQ lists it, its entry is gone.
func (w *world) deadOf(t *testing.T) (b, a, c *node) {
	t.Helper()
	b, a = w.threeWith("b@localhost")
	expect.Must(t, peers.Withdraw(t.Context(), w.consul.Client, peers.Registration{Service: w.service, Node: "c@localhost"}))
	c = &node{world: w, name: "c@localhost", dir: strings.Replace(a.dir, "a@", "c@", 1), ip: a.ip}
	c.env = append(c.env, a.env...)
	for i := range c.env {
		c.env[i] = strings.ReplaceAll(c.env[i], "a@localhost", "c@localhost")
	}
	expect.Must(t, os.Remove(c.path("view")))
	for _, n := range []*node{a, b} {
		n.running("a@localhost,b@localhost")
	}
	b.env = append(b.env, "ERL_EPMD_PORT="+epmd(t, "a", "b"), "RABBITMQ_DIST_PORT="+closed(t))
	return b, a, c
}

// running says that RabbitMQ lists all three, and who of them runs.
func (n *node) running(names string) {
	n.t.Helper()
	n.put(n.path("view"), fmt.Sprintf("view|id-1|%s|%s||false|\n", all3, names))
}

// A dead member is taken out from another one: off the record, forgotten, and refused at once when it starts on its old
// volume. A blank one joins.
func testForget(t *testing.T, w *world) {
	b, a, c := w.deadOf(t)
	out, code := b.run("forget", "c@localhost")
	if code != 0 {
		t.Fatalf("forget: %d, %s", code, out)
	}
	expect.Says(t, out, "c@localhost is down: epmd at", "does not list it", "off the record", "forgotten by the cluster, which goes on with a@localhost, b@localhost")
	g := w.record().Gone["c@localhost"]
	if r := w.record(); len(r.Members) != 2 || g.Volume != "vc" || !g.Left || !g.Forgotten || !strings.Contains(g.By, "b@localhost, rmq-entrypoint forget, on host ") {
		t.Errorf("record %+v", r)
	}
	if calls := strings.Join(append(a.calls("forget_cluster_node"), b.calls("forget_cluster_node")...), ""); strings.Count(calls, "forget_cluster_node c@localhost") != 1 {
		t.Errorf("RabbitMQ was told %q", calls)
	}
	if w.sessions() != 0 {
		t.Error("it left a session")
	}
	b.reports(soon, api.HealthPassing, "")

	for _, n := range []*node{a, b} {
		n.sees("id-1", "a@localhost", "b@localhost")
	}
	if out, code := b.run("forget", "c@localhost"); code != 0 || !strings.Contains(out, "nothing to do") {
		t.Errorf("forget again: %d, %s", code, out)
	}
	c.hasData(&statedir.Marker{ClusterID: "id-1", Volume: "vc", Members: strings.Split(all3, ",")})
	c.start()
	c.refusedForGood(soon, "refusing to start: c@localhost was taken off cluster id-1 on", "by b@localhost, rmq-entrypoint forget, on host", "goes on with a@localhost, b@localhost", "start with an empty volume")
	expect.Must(t, os.RemoveAll(c.volume("mnesia")))
	c.start()
	c.server(soon)
	if r := w.record(); r.Members[c.name] == "" || r.Members[c.name] == "vc" {
		t.Errorf("a blank one does not join: %+v", r)
	}
}

// What forget refuses changes nothing, and says what was seen and the way out. What is forced is not what lives.
func testForgetRefused(t *testing.T, w *world) {
	b, a, _ := w.deadOf(t)
	refused := func(name string, args, words []string, env ...string) {
		t.Helper()
		was, before := b.env, w.record().Revision
		b.env = append(append([]string{}, was...), env...)
		out, code := b.run(append([]string{"forget"}, args...)...)
		b.env = was
		if code != 1 {
			t.Errorf("%s: %d", name, code)
		}
		expect.Says(t, out, words...)
		r := w.record()
		if len(r.Members) != 3 || len(r.Gone) > 0 || r.Revision != before {
			t.Errorf("%s: the record is %+v", name, r)
		}
		if len(a.calls("forget_cluster_node"))+len(b.calls("forget_cluster_node")) > 0 {
			t.Errorf("%s: RabbitMQ was told %q", name, b.calls("forget_cluster_node"))
		}
	}
	c, force := []string{"c@localhost"}, []string{"--force", "c@localhost"}
	refused("no name", []string{"c"}, []string{"not a node name"})
	refused("a stranger", []string{"x@localhost"}, []string{"x@localhost is no member of cluster id-1", "RabbitMQ lists a@localhost, b@localhost, c@localhost"})
	refused("itself", []string{"b@localhost"}, []string{"this node itself", "rmq-entrypoint leave"})

	reg := peers.Registration{Service: w.service, Node: "c@localhost", Address: a.ip, Port: 5672, TTL: time.Hour, DeregisterAfter: time.Hour, ClusterID: "id-1"}
	expect.Must(t, peers.Announce(t.Context(), w.consul.Client, reg, peers.Starting, "booting"))
	refused("it beats", force, []string{"c@localhost lives: its entry in Consul, at " + a.ip + ":5672, has not lapsed", "rmq-entrypoint leave in it"})
	expect.Must(t, peers.Report(t.Context(), w.consul.Client, reg, api.HealthPassing, ""))
	refused("it passes", force, []string{"c@localhost lives: its entry in Consul, at " + a.ip + ":5672, passes", "deregister it"})
	expect.Must(t, peers.Withdraw(t.Context(), w.consul.Client, reg))

	// What an agent that is not reached any more last said is no news, and no sign of life.
	lost := &api.CatalogRegistration{
		Node: "lost-host", Address: a.ip,
		Service: &api.AgentService{ID: reg.ID(), Service: w.service, Address: a.ip, Port: 5672, Meta: map[string]string{"node": reg.Node, "cluster_id": "id-1"}},
		Checks: api.HealthChecks{
			{Node: "lost-host", CheckID: "serfHealth", Status: api.HealthCritical},
			{Node: "lost-host", CheckID: reg.ID() + "-ttl", ServiceID: reg.ID(), Status: api.HealthPassing, Output: "answers"},
		},
	}
	_, err := w.consul.Client.Catalog().Register(lost, nil)
	expect.Must(t, err)
	refused("its agent is lost", c, []string{"is what its agent lost-host last said", "consul force-leave lost-host", "--force"})
	_, err = w.consul.Client.Catalog().Deregister(&api.CatalogDeregistration{Node: "lost-host"}, nil)
	expect.Must(t, err)

	a.running(all3)
	refused("another sees it run", force, []string{"c@localhost lives: RabbitMQ on a@localhost lists it as running"})
	a.put(a.path("view"), fmt.Sprintf("view|id-1|%s|a@localhost,b@localhost||false|b@localhost,c@localhost|\n", all3))
	refused("another is connected with it", force, []string{"c@localhost lives: a@localhost is connected with it"})
	expect.Must(t, os.Remove(a.path("view")))
	refused("another does not say", c, []string{"whether c@localhost lives cannot be told", "a@localhost does not say", "--force"})
	a.running("a@localhost,b@localhost")
	refused("epmd lists it", force, []string{"c@localhost lives: it may run: epmd at", "lists it"}, "ERL_EPMD_PORT="+epmd(t, "a", "b", "c"))
	refused("no epmd", c, []string{"cannot be told", "no epmd listens at", "--force"}, "ERL_EPMD_PORT="+closed(t))

	b.put(b.path("lost"), "queue|queue 'q' in vhost '/'|only_there|\nqueue|queue 's' in vhost '/'|runs on b@localhost, of a@localhost, b@localhost, c@localhost|\n")
	refused("queues are there alone", c, []string{"queues would be lost with c@localhost", "on it alone: queue 'q'", "too few replicas run: queue 's' in vhost '/' (runs on b@localhost, of", "rmq-entrypoint leave in it", "--force"})

	for _, n := range []*node{a, b} {
		n.put(n.path("view"), fmt.Sprintf("view|id-1|%s|b@localhost||true|\n", all3))
	}
	refused("no majority", force, []string{"without a majority", "only b@localhost run", "force-boot"})
	for _, n := range []*node{a, b} {
		n.put(n.path("view"), fmt.Sprintf("view|id-1|%s|a@localhost,b@localhost|a@localhost|false|\n", all3))
	}
	refused("a partition", force, []string{"partitioned from a@localhost"})

	// Forced, where it only cannot be told, and queues are lost.
	for _, n := range []*node{a, b} {
		n.running("a@localhost,b@localhost")
	}
	b.env = append(b.env, "ERL_EPMD_PORT="+closed(t))
	out, code := b.run(append([]string{"forget"}, force...)...)
	if code != 0 {
		t.Errorf("forced: %d", code)
	}
	expect.Says(t, out, "forced, though it cannot be told whether c@localhost lives", "forced: given up with c@localhost: these classic queues are on it alone: queue 'q'", "forgotten by the cluster")
	if g := w.record().Gone["c@localhost"]; !strings.Contains(g.Why, "forget --force") {
		t.Errorf("on record is %+v", g)
	}
}

// RabbitMQ does not forget the node that is off the record already: the command says so, its repetition ends it.
func testForgetInterrupted(t *testing.T, w *world) {
	b, a, _ := w.deadOf(t)
	for _, n := range []*node{a, b} {
		n.put(n.path("forget.refused"), "")
	}
	cmd := b.command("forget", "c@localhost")
	expect.Must(t, cmd.Start())
	expect.Eventually(t, soon, "it is off the record", func() error {
		if r := w.record(); len(r.Members) != 2 {
			return fmt.Errorf("record %+v", r)
		}
		return nil
	})
	expect.Must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	for _, n := range []*node{a, b} {
		expect.Must(t, os.Remove(n.path("forget.refused")))
	}
	at := w.record().Gone["c@localhost"].At
	out, code := b.run("forget", "c@localhost")
	if code != 0 || !strings.Contains(out, "forgotten by the cluster") || strings.Contains(out, "off the record: its") {
		t.Errorf("forget again: %d, %s", code, out)
	}
	if g := w.record().Gone["c@localhost"]; !g.At.Equal(at) {
		t.Errorf("it is written anew: %+v", g)
	}
}
