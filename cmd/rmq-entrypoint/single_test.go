package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/expect"
)

// single is the environment of a lone broker.
var single = []string{"RMQ_SINGLE=true", "RMQ_ADVERTISE=", "CONSUL_HTTP_ADDR=", "RMQ_DNS_SERVER="}

// A lone broker starts where there is no Consul, says what it is, serves, and ends as any node.
func TestSingle(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	n := w.node("rabbit@localhost", single...)
	n.put(n.path("rabbitmq.conf"), "heartbeat = 42\n")
	n.start("rabbitmq-server", "-x")
	s := n.server(soon)
	if s.PID != n.cmd.Process.Pid || !slices.Equal(s.Args, []string{"rabbitmq-server", "-x"}) {
		t.Errorf("the server is %d, %q", s.PID, s.Args)
	}
	expect.Says(t, n.log(), "A LONE BROKER FOR DEVELOPMENT (--single, RMQ_SINGLE)")
	conf, err := os.ReadFile(n.state("rabbitmq.config"))
	expect.Must(t, err)
	expect.Says(t, string(conf), "{default_queue_type,rabbit_quorum_queue}", `{cluster_name,<<"`+w.service+`">>}`)
	if strings.Contains(string(conf), "cluster_nodes") || strings.Contains(string(conf), "cluster_formation") {
		t.Errorf("it looks for a cluster: %s", conf)
	}
	if strings.Contains(n.log(), "not known") {
		t.Errorf("it doubts what it does not ask: %s", n.log())
	}
	cookie, err := os.ReadFile(n.volume(".erlang.cookie"))
	if err != nil || string(cookie) != "crumbs-of-a-cookie-for-all" {
		t.Errorf("cookie %q, %v", cookie, err)
	}
	n.reports(soon, api.HealthCritical, "booting")
	if out, code := n.run("healthcheck", "--started"); code != 1 || !strings.Contains(out, "has not served yet") {
		t.Errorf("--started while it boots: %d, %s", code, out)
	}
	n.sees("id-1", n.name)
	n.put(n.data("schema.DAT"), "")
	n.tell("amqp up")
	n.tell("notify READY=1")
	r := n.reports(soon, api.HealthPassing, "a lone broker (--single), in no cluster")
	if r.Role != statedir.Lone || r.Consul != "" || !r.Beat.IsZero() || n.ready() != 200 {
		t.Errorf("it reports %+v, /ready %d", r, n.ready())
	}
	for args, says := range map[string]string{
		"healthcheck": "alive; passing: a lone broker", "healthcheck --started": "alive", "healthcheck --ready": "passing: a lone broker",
		"status": "not asked: a lone broker", "status --json": `"role": "single"`,
	} {
		if out, code := n.run(strings.Fields(args)...); code != 0 || !strings.Contains(out, says) {
			t.Errorf("%s: %d, %s", args, code, out)
		}
	}
	for _, args := range []string{"list", "drain", "leave", "forget rabbit@b", "forget-cluster --cluster-id X"} {
		if out, code := n.run(strings.Fields(args)...); code != 1 || !strings.Contains(out, "this node is a lone broker (--single, RMQ_SINGLE)") {
			t.Errorf("%s: %d, %s", args, code, out)
		}
	}
	if out, _ := n.run("doctor"); strings.Contains(out, "consul") || strings.Contains(out, "dns") || !strings.Contains(out, "a lone broker's (--single)") {
		t.Errorf("doctor: %s", out)
	}
	for _, pid := range w.companions() {
		n.kill(pid)
	}
	expect.Eventually(t, soon, "a health check replaces a companion", func() error {
		_, _ = n.run("healthcheck")
		_, err := n.report()
		return err
	})
	n.reports(3*testBeat+soon, api.HealthPassing, "a lone broker")
	n.tell("amqp down")
	n.reports(3*testBeat+soon, api.HealthCritical, "")
	if n.ready() != 503 {
		t.Errorf("/ready is %d", n.ready())
	}
	n.tell("amqp up")
	n.reports(3*testBeat+soon, api.HealthPassing, "")
	expect.Must(t, n.cmd.Process.Signal(syscall.SIGTERM))
	n.exit(soon)
	if log := n.log(); strings.Contains(log, "deregister") || strings.Contains(log, "Consul cannot be asked") {
		t.Errorf("it speaks of Consul: %s", log)
	}

	n.start() // again on its data
	n.server(soon)
	if said := strings.Count(n.log(), "A LONE BROKER"); said != 2 {
		t.Errorf("it says %d times what it is", said)
	}
}

// RabbitMQ that lists other members is no lone broker.
func TestSingleNotAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	n := w.node("rabbit@localhost", single...)
	n.start()
	n.server(soon)
	n.sees("id-1", n.name, "rabbit@b")
	n.tell("amqp up")
	n.tell("notify READY=1")
	n.reports(soon, api.HealthCritical, "NOT ALONE: RabbitMQ lists rabbit@b beside this node")
}

// Volumes that are a cluster's, or may be, are none for a lone broker: nothing is changed there.
func TestSingleRefused(t *testing.T) {
	t.Parallel()
	const khepri = "cannot be told"
	for name, c := range map[string]struct {
		holds func(n *node)
		says  string // "": it starts
		exit  int
	}{
		"blank":    {func(*node) {}, "", 0},
		"a member": {func(n *node) { n.hasData(&statedir.Marker{ClusterID: "id-1", Volume: "v1"}) }, "is a member of cluster id-1 on this volume", 78},
		"a member whose data are gone": {func(n *node) { n.put(n.state("member"), statedir.Marker{ClusterID: "id-1", Volume: "v1"}) },
			"is a member of cluster id-1", 78},
		"a joiner": {func(n *node) { n.put(n.state("pending"), statedir.Pending{Role: statedir.Joining, Volume: "v1"}) }, "was about to found a cluster or to join one", 78},
		"came alone": {func(n *node) {
			n.put(n.data("schema.DAT"), "")
			n.put(n.state("pending"), statedir.Pending{Role: statedir.Alone, Volume: "v1"})
		}, "was about to found a cluster", 78},
		"another program's lone broker": {func(n *node) {
			n.hasData(nil)
			n.put(n.data("cluster_nodes.config"), "{[rabbit@localhost],[rabbit@localhost]}.\n")
		}, "", 0},
		"another program's cluster": {func(n *node) {
			n.hasData(nil)
			n.put(n.data("cluster_nodes.config"), "{[rabbit@localhost,'rabbit@mq-2.example'],[rabbit@localhost]}.\n")
		}, "list the members rabbit@localhost, rabbit@mq-2.example", 78},
		"another program's, gone over to Khepri": {func(n *node) {
			n.hasData(nil)
			n.put(n.data("cluster_nodes.config"), "{[rabbit@localhost],[rabbit@localhost]}.\n")
			n.put(n.volume("mnesia/rabbit@localhost-feature_flags"), "[khepri_db].\n")
		}, khepri, 78},
		"another program's, on Khepri": {func(n *node) { n.hasData(nil) }, khepri, 78},
		"on Khepri, and said to be a lone broker's": {func(n *node) {
			n.hasData(nil)
			n.put(n.state("single"), "{}\n")
		}, "", 0},
		"another node's": {func(n *node) { n.put(n.volume("mnesia/rabbit@other/schema.DAT"), "") }, "holds the database of rabbit@other", 1},
		"damaged":        {func(n *node) { n.put(n.state("member"), "{") }, "is damaged", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			n := w.node("rabbit@localhost", single...)
			c.holds(n)
			before := expect.Tree(t, n.volume(""))
			n.start()
			if c.says == "" {
				n.server(soon)
				if s, err := (statedir.Dir{State: n.state("")}).Single(); err != nil || s == nil || s.Volume == "" {
					t.Errorf("the volume says %+v, %v", s, err)
				}
				return
			}
			n.refusedWith(c.exit, soon, c.says)
			if c.exit != 78 {
				return
			}
			if after := expect.Tree(t, n.volume("")); !sameTree(before, after) {
				t.Errorf("it changed the volume: %v, was %v", after, before)
			}
			if out, code := n.run("doctor"); code != 1 || !strings.Contains(out, c.says) {
				t.Errorf("doctor: %d, %s", code, out)
			}
		})
	}
}

// A lone broker's data are in no cluster unless a person says so, and then they found it.
func testSingleBecomesCluster(t *testing.T, w *world) {
	w.putRecord(formed("id-1", map[string]string{"b@localhost": "vb"}))
	n := w.node("rabbit@localhost")
	n.hasData(nil)
	n.put(n.state("single"), statedir.Single{Volume: "v1"})
	n.put(n.state("queues"), statedir.Queues{Default: statedir.Quorum})
	data := expect.Tree(t, filepath.Dir(n.data("schema.DAT")))
	n.start()
	n.refusedForGood(soon, "the volume of a lone broker, whose data is kept", "RMQ_SINGLE=true", n.state("single"))
	if r := w.record(); r.Members[n.name] != "" {
		t.Errorf("it is on record: %+v", r)
	}
	n.registered(0, "")
	if after := expect.Tree(t, filepath.Dir(n.data("schema.DAT"))); !sameTree(data, after) {
		t.Errorf("its data were changed: %v, were %v", after, data)
	}
	if _, err := w.consul.Client.KV().Delete(w.recordKey(), nil); err != nil {
		t.Fatal(err)
	}
	expect.Must(t, os.Remove(n.state("single")))
	n.start()
	n.server(soon)
	n.sees("id-2", n.name)
	n.tell("amqp up")
	n.tell("notify READY=1")
	n.registered(soon, api.HealthPassing)
	if r := w.record(); r.State != peers.Formed || r.ClusterID != "id-2" || r.Members[n.name] == "" {
		t.Errorf("record %+v", r)
	}
	if q, err := (statedir.Dir{State: n.state("")}).Queues(); err != nil || q == nil || q.Default != statedir.Quorum {
		t.Errorf("queues %+v, %v", q, err)
	}
}

// Where a lone broker came to no data, a node of a cluster starts as on any blank volume.
func testSingleWithoutData(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.put(n.state("single"), statedir.Single{Volume: "v1"})
	n.start()
	n.server(soon)
	if _, err := os.Stat(n.state("single")); !os.IsNotExist(err) {
		t.Errorf("the mark of the lone broker: %v", err)
	}
}

// A lone broker shares its cookie with nobody: where none is given it makes one, and keeps it.
func TestSingleMakesCookie(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	n := w.node("rabbit@localhost", append(single, "RABBITMQ_ERLANG_COOKIE=")...)
	made := ""
	for range 2 {
		if out, _ := n.run("doctor"); strings.Contains(out, "no shared cookie") {
			t.Errorf("doctor: %s", out)
		}
		n.start()
		n.server(soon)
		b, err := os.ReadFile(n.volume(".erlang.cookie"))
		if expect.Must(t, err); len(b) < 20 || made != "" && made != string(b) || strings.Contains(n.log(), "GUESSED") {
			t.Errorf("cookie %q, was %q: %s", b, made, n.log())
		}
		made = string(b)
		n.kill(n.cmd.Process.Pid)
		n.exit(soon)
	}
}
