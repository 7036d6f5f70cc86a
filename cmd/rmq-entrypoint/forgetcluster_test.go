package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/expect"
)

// The record was not to be read when this node started, or was changed before it was ready:
// it serves by now, and what another process wrote stops it no more than one that is verified.
func testGivenUpWhileItBoots(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.hasData(&statedir.Marker{ClusterID: "id-1", Volume: "v1", Members: []string{n.name}})
	was := formed("id-1", map[string]string{n.name: "v1"})
	w.putRecord(was)
	n.start()
	s := n.server(soon)
	w.putRecord(was.Without(n.name, peers.GivenUp("rmq-entrypoint forget-cluster"), time.Now().Add(-time.Hour)).By(n.name, "rmq-entrypoint forget-cluster on host far-away"))
	n.sees("id-1", n.name)
	n.tell("amqp up")
	n.tell("notify READY=1")
	n.registered(soon, api.HealthPassing)
	w.recordBecomes(was)
	expect.Says(t, n.log(), "taken off the record all the same", "far-away")
	expect.Must(t, syscall.Kill(s.PID, 0))

	// What a process of its own wrote is another matter: there is a cluster without it.
	m := w.node("m@localhost")
	m.hasData(&statedir.Marker{ClusterID: "id-1", Volume: "vm", Members: []string{n.name, m.name}})
	w.putRecord(was.With(m.name, "vm"))
	m.start()
	m.server(soon)
	w.putRecord(was.With(m.name, "vm").Without(m.name, "its volume came up blank", time.Now().Add(-time.Hour)).By(m.name, m.name+", its volume blank, on host h"))
	m.sees("id-1", n.name, m.name)
	m.tell("amqp up")
	m.tell("notify READY=1")
	m.exit(soon)
	expect.Says(t, m.log(), "stopping the server", "m@localhost took itself off cluster id-1", "its volume came up blank")
}

func testFound(t *testing.T, w *world) {
	asleep, lost := epmd(t), closed(t)
	n := w.node("rabbit@localhost", "ERL_EPMD_PORT="+lost, "RABBITMQ_DIST_PORT="+closed(t)) // a RabbitMQ of this machine is another one
	w.putRecord(formed("id-1", map[string]string{"a@localhost": "va"}))
	a := w.neighbour("a@localhost", "id-1", "a@localhost")
	if out, code := n.run("forget-cluster", "--cluster-id", "id-1"); code != 1 || !strings.Contains(out, "a@localhost serves") {
		t.Errorf("forget-cluster beside a member that serves: %d, %q", code, out)
	}
	expect.Must(t, peers.Withdraw(t.Context(), w.consul.Client, peers.Registration{Service: w.service, Node: a.name}))
	if out, code := n.run("forget-cluster", "--cluster-id", "id-1"); code != 1 || !strings.Contains(out, "a@localhost answers") {
		t.Errorf("forget-cluster beside a member that runs unregistered: %d, %q", code, out)
	}
	// One that is off the record may serve the cluster all the same.
	w.putRecord(formed("id-1", map[string]string{a.name: "va"}).Without(a.name, "its volume came up blank", time.Now()))
	if out, code := n.run("forget-cluster", "--cluster-id", "id-1"); code != 1 || !strings.Contains(out, "a@localhost answers") {
		t.Errorf("forget-cluster beside a member that is off the record and runs: %d, %q", code, out)
	}
	w.putRecord(formed("id-1", map[string]string{"a@localhost": "va"}).With("blank@localhost", "vb").Without("blank@localhost", "its volume came up blank", time.Now()))
	expect.Must(t, os.Remove(a.path("view")))
	if out, code := n.run("forget-cluster", "--cluster-id", "id-9"); code != 1 || !strings.Contains(out, "id-1") {
		t.Errorf("forget-cluster for another cluster: %d, %q", code, out)
	}
	// That rabbitmqctl reaches nobody (69) is no evidence, nor is a connection refused.
	out, code := n.run("forget-cluster", "--cluster-id", "id-1")
	if code != 1 {
		t.Errorf("forget-cluster beside a member whose host has no epmd: %d", code)
	}
	expect.Says(t, out, "cannot be told", "a@localhost: no epmd listens at", ":"+lost, "Ask from a container that reaches these nodes", "--force")
	n.env = append(n.env, "ERL_EPMD_PORT="+asleep)
	// Nor is it down while its companion beats, whatever RabbitMQ's state.
	reg := peers.Registration{Service: w.service, Node: a.name, Address: a.ip, Port: 5672, TTL: time.Hour, DeregisterAfter: time.Hour, ClusterID: "id-1"}
	expect.Must(t, peers.Announce(t.Context(), w.consul.Client, reg, peers.Starting, "booting"))
	if out, code := n.run("forget-cluster", "--cluster-id", "id-1"); code != 1 || !strings.Contains(out, "a@localhost: its entry in Consul, at "+a.ip+":5672, has not lapsed") {
		t.Errorf("forget-cluster beside a member that starts: %d, %q", code, out)
	}
	expect.Must(t, peers.Withdraw(t.Context(), w.consul.Client, reg))
	// Not knowing is not "down". The answer takes longer than a session lives that nobody renews.
	a.put(a.path("deaf"), fmt.Sprint(2*testTTL.Seconds()))
	n.env = append(n.env, "ERL_EPMD_PORT="+epmd(t, "a"))
	if out, code := n.run("forget-cluster", "--cluster-id", "id-1"); code != 1 || !strings.Contains(out, "cannot be told") || !strings.Contains(out, "ask a@localhost") || !strings.Contains(out, "--force") {
		t.Errorf("forget-cluster beside a member that lets nobody in: %d, %q", code, out)
	}
	if r := w.record(); len(r.Members) != 1 {
		t.Fatalf("it was refused and changed the record: %+v", r)
	}
	host, err := os.Hostname()
	expect.Must(t, err)
	if out, code := n.run("forget-cluster", "--cluster-id", "id-1", "--force"); code != 0 || !strings.Contains(out, "given up") {
		t.Errorf("forget-cluster --force: %d, %q", code, out)
	}
	if g := w.record().Gone[a.name]; g.By != "rmq-entrypoint forget-cluster --force on host "+host {
		t.Errorf("on record is %+v", g)
	}
	w.putRecord(formed("id-1", map[string]string{"a@localhost": "va"}))
	expect.Must(t, os.Remove(a.path("deaf")))
	n.env = append(n.env, "ERL_EPMD_PORT="+asleep)
	out, code = n.run("forget-cluster", "--cluster-id", "id-1")
	if code != 0 {
		t.Errorf("forget-cluster: %d", code)
	}
	expect.Says(t, out, "a@localhost is down: epmd at", "does not list it", "given up")
	if w.sessions() != 0 {
		t.Error("it left a session")
	}
	out, _ = n.run("status")
	expect.Says(t, out, "a@localhost on ", "written by rmq-entrypoint forget-cluster on host "+host)

	// The volume is refused, and told by whom and when it was given up.
	a.hasData(&statedir.Marker{ClusterID: "id-1", Volume: "va", Members: []string{a.name}})
	a.start()
	a.refusedForGood(soon, "refusing to start", "a@localhost was taken off cluster id-1 on "+time.Now().UTC().Format("2006-01-02T"), "by rmq-entrypoint forget-cluster on host "+host,
		"nobody is on record any more", "Its data is kept", "delete the key "+w.recordKey())

	n.start()
	n.server(soon)
	if r := w.record(); r.State != peers.Forming || r.Seed != n.name || len(r.Previous) != 1 || r.Previous[0].ClusterID != "id-1" {
		t.Errorf("record %+v", r)
	}
	expect.Says(t, n.log(), "FOUNDING ANEW: the cluster on record was given up", "given_up_by=", "rmq-entrypoint forget-cluster on host "+host)
}

// A cluster is given up while it runs: the member that serves stops for nobody, takes that
// back with all who were given up, names who wrote it, and passes all the while.
func testGivenUpWhileItServes(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	s := n.serves()
	cluster := "id-of-" + w.service
	n.sees(cluster, n.name, "b@localhost")
	expect.Eventually(t, soon, "b is on record", func() error {
		if _, on := w.record().Members["b@localhost"]; !on {
			return fmt.Errorf("it is not: %+v", w.record())
		}
		return nil
	})
	was := w.record()
	r := was.With("b@localhost", "vb").With("c@localhost", "vc")
	gone := r
	for _, m := range r.Names() {
		gone = gone.Without(m, peers.GivenUp("rmq-entrypoint forget-cluster"), time.Now()).By(m, "rmq-entrypoint forget-cluster on host far-away")
	}
	w.putRecord(gone)
	w.recordBecomes(was)
	if back := w.record(); back.Members["b@localhost"] != "vb" || len(back.Gone) != 1 { // c is nobody that RabbitMQ knows
		t.Errorf("on record are %v, gone %v", back.Members, back.Gone)
	}
	n.reports(soon, api.HealthPassing, "")
	expect.Says(t, n.log(), "taken off the record all the same", "written_by=\"rmq-entrypoint forget-cluster on host far-away\"")

	for name, g := range map[string]peers.Gone{
		"by an earlier version":          {Why: "given up by an operator (rmq-entrypoint forget-cluster)", At: time.Now().Add(-24 * time.Hour)},
		"by hand":                        {Why: "because", By: "alice", At: time.Now().Add(-24 * time.Hour)},
		"that it left, by another, now":  {Why: "told to (rmq-entrypoint leave)", Left: true, At: time.Now().Add(time.Second)},
		"by another under its name, now": {Why: "its volume came up blank", By: n.name + ", its volume blank, on host other", At: time.Now().Add(time.Second)},
	} {
		g.Volume = was.Members[n.name]
		r := was.With("b@localhost", "vb")
		r.Members = map[string]string{"b@localhost": "vb"}
		r.Gone = map[string]peers.Gone{n.name: g}
		w.putRecord(r)
		w.recordBecomes(was)
		expect.Consistently(t, testBeat, name+" it passes", func() error {
			if status, err := n.status(w.consul.Client); err != nil || status != api.HealthPassing {
				return fmt.Errorf("it is %q, %v", status, err)
			}
			return nil
		})
	}

	// Another cluster was founded since: a split, which nobody ends but a person; and one
	// that is only being founded is overruled.
	w.putRecord(gone.Claimed("x@localhost", "vx", "", time.Now()))
	w.recordBecomes(was)
	w.putRecord(gone.Claimed("x@localhost", "vx", "", time.Now()).Founded("id-new", time.Now()))
	n.reports(soon, api.HealthCritical, "SPLIT")
	expect.Consistently(t, 2*testBeat, "it serves on", func() error { return syscall.Kill(s.PID, 0) })
	if strings.Contains(n.log(), "stopping the server") {
		t.Error("the server was told to stop")
	}
}
