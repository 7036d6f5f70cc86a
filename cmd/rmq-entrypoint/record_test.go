package main

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/expect"
)

// A record that nobody of us wrote founds nothing and stops nobody: blank nodes wait and
// say how to mend it, members serve and start, and the key's end mends it.
func testRecordNobodyWrote(t *testing.T, w *world) {
	member := w.node("a@localhost")
	member.serves()
	was := w.record()
	for _, text := range []string{"{}", `{"state":"formed","cluster_id":"REAL","members":{}}`, `{"state":"forming"}`} {
		_, err := w.consul.Client.KV().Put(&api.KVPair{Key: w.recordKey(), Value: []byte(text)}, nil)
		expect.Must(t, err)
		blank := w.node(fmt.Sprintf("b%d@localhost", len(text)), "RMQ_CLAIM_TIMEOUT=21s")
		blank.start()
		blank.logs("which no program of this kind wrote")
		expect.Says(t, blank.log(), w.recordKey(), "restore it from a backup", "delete the key while a member with data runs")
		expect.Consistently(t, testBeat+time.Second, text+" stays, and the member serves", func() error {
			kv, _, err := w.consul.Client.KV().Get(w.recordKey(), nil)
			if err != nil || kv == nil || string(kv.Value) != text {
				return fmt.Errorf("%v, %v", kv, err)
			}
			if status, err := member.status(w.consul.Client); err != nil || status != api.HealthPassing {
				return fmt.Errorf("%q, %v", status, err)
			}
			return nil
		})
		blank.never(t)
		expect.Must(t, blank.cmd.Process.Signal(syscall.SIGTERM))
		blank.refused(soon, "stopped while waiting for")
	}
	expect.Says(t, member.reports(soon, api.HealthPassing, "not checked against the record").Reason, "no program of this kind")
	_, err := w.consul.Client.KV().Delete(w.recordKey(), nil)
	expect.Must(t, err)
	expect.Eventually(t, soon, "the member publishes it anew", func() error {
		if r := w.record(); r.ClusterID != was.ClusterID || r.Members[member.name] != was.Members[member.name] {
			return fmt.Errorf("record %+v", r)
		}
		return nil
	})
}

// Every member is off the record, and a node is registered that may have data: nobody
// founds anew.
func testNobodyOnRecordButRegistered(t *testing.T, w *world) {
	for name, c := range map[string]struct {
		status string
		ttl    time.Duration
		down   bool
		waits  bool
	}{
		"it passes":                     {api.HealthPassing, time.Hour, true, true},
		"it beats":                      {api.HealthCritical, time.Hour, true, true},
		"it lapsed and cannot be asked": {api.HealthPassing, time.Second, false, true},
		"it lapsed and does not run":    {api.HealthPassing, time.Second, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, w.consul)
			w.putRecord(formed("id-1", map[string]string{"a@localhost": "va"}).Without("a@localhost", "blank", time.Now()))
			r := peers.Registration{Service: w.service, Node: "c@localhost", Address: "127.0.0.1", Port: 1, TTL: c.ttl, DeregisterAfter: time.Hour, Start: peers.Start{Volume: "v", Boot: "b"}}
			expect.Must(t, peers.Announce(t.Context(), w.consul.Client, r, peers.Starting, ""))
			expect.Must(t, peers.Report(t.Context(), w.consul.Client, r, c.status, ""))
			asked := w.node("c@localhost")
			if !c.down {
				asked.put(asked.path("deaf"), "0")
			}
			n := w.node("b@localhost", "ERL_EPMD_PORT="+epmd(t), "RABBITMQ_DIST_PORT="+closed(t))
			if !c.down {
				n.env = append(n.env, "ERL_EPMD_PORT="+closed(t)) // the last one counts
			}
			n.start()
			if !c.waits {
				n.server(soon)
				return
			}
			n.logs("c@localhost at 127.0.0.1:1")
			expect.Says(t, n.log(), "is not on record and may hold data of cluster id-1", "consul services deregister -id=")
			expect.Consistently(t, 2*testBeat, "nothing is founded", func() error {
				if r := w.record(); r.State != peers.Formed {
					return fmt.Errorf("record %+v", r)
				}
				return nil
			})
			n.never(t)
			expect.Must(t, peers.Withdraw(t.Context(), w.consul.Client, r))
			n.server(soon)
		})
	}
}

// Entries of the service's name that are no node's stop nobody, are named once, and their
// removal is told. Nobody connects to where they say.
func testForeignEntries(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	port, err := strconv.Atoi(listener(t, func(net.Conn) { t.Error("somebody connected to where an entry says that is no node's") }))
	expect.Must(t, err)
	for id, at := range map[string]api.AgentServiceRegistration{
		"_nomad-task-1":  {Address: n.ip, Port: 5672},
		"registrator-1":  {Address: "127.0.0.1", Port: port},
		"left-by-hand":   {Address: "127.0.0.1", Port: 1, Meta: map[string]string{"owner": "somebody"}},
		"of another one": {Address: "127.0.0.1", Port: 2},
	} {
		at.ID, at.Name = id, w.service
		if id == "registrator-1" { // which passes, and is in DNS
			at.Check = &api.AgentServiceCheck{TTL: "1h", Status: api.HealthPassing}
		}
		expect.Must(t, w.consul.Client.Agent().ServiceRegister(&at))
	}
	n.start()
	n.server(soon)
	log := n.log()
	expect.Says(t, log, "at this node's own address", "id=_nomad-task-1", "made by no RabbitMQ node and counts for nothing", "id=registrator-1", "passes=true", "consul services deregister -id=left-by-hand", "agent="+w.consul.Node)
	if strings.Count(log, "registrator-1") != 2 {
		t.Errorf("it is named more than once:\n%s", log)
	}
	n.sees("id-1", n.name)
	n.tell("amqp up")
	n.tell("notify READY=1")
	n.registered(2*testBeat+soon, api.HealthPassing)
	if out, code := n.run("status"); code != 0 || !strings.Contains(out, "no node's, counts for nothing; to remove it, on agent "+w.consul.Node+": consul services deregister -id=registrator-1") {
		t.Errorf("status %d: %s", code, out)
	}
	// Nor do they keep an operator from giving up the cluster.
	n.kill(n.server(soon).PID)
	n.exit(soon)
	expect.Must(t, os.Remove(n.path("view")))
	n.registered(soon, "")
	n.env = append(n.env, "ERL_EPMD_PORT="+epmd(t), "RABBITMQ_DIST_PORT="+closed(t)) // it is down
	if out, code := n.run("forget-cluster", "--cluster-id", "id-1"); code != 0 {
		t.Errorf("forget-cluster: %d, %s", code, out)
	}
	// One of RabbitMQ's own plugin speaks for a node: its cluster is waited for.
	w = newWorld(t, w.consul)
	expect.Must(t, w.consul.Client.Agent().ServiceRegister(&api.AgentServiceRegistration{ID: "rabbitmq:p", Name: w.service, Address: "127.0.0.1", Port: 1, Meta: map[string]string{"erlang-node-name": "p@localhost"}}))
	n = w.node("rabbit@localhost")
	n.start()
	n.logs("a member to publish the cluster record: p@localhost registered")
	n.never(t)
}

// A member publishes a record that Consul lost, and overrules a founding that
// began beside it.
func testRecordLost(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.serves()
	was := w.record()
	_, err := w.consul.Client.KV().Delete(w.recordKey(), nil)
	expect.Must(t, err)
	w.recordBecomes(was)
	w.putRecord(peers.Record{}.Claimed("b@localhost", "vb", "", time.Now()))
	w.recordBecomes(was)
}

// Consul is put back to an earlier day, when this node had another volume, or none: the
// node that serves is named, and not stopped.
func testRecordOfEarlierDay(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	s := n.serves()
	was := w.record()
	lastWeek := time.Now().Add(-7 * 24 * time.Hour)
	for words, r := range map[string]peers.Record{
		"is on record with volume v-old": was.With(n.name, "v-old"),
		"is on record with volume v-ahd": was.Without(n.name, "by a clock that was ahead", time.Now().Add(time.Hour)).With(n.name, "v-ahd"),
		"its volume came up blank":       was.With("b@localhost", "vb").Without(n.name, "its volume came up blank", lastWeek),
	} {
		w.putRecord(r)
		n.reports(soon, api.HealthCritical, words)
		for range 2 { // companions: the second one knows it from the runtime file
			for _, pid := range w.companions() {
				n.kill(pid)
			}
			expect.Eventually(t, soon, "another companion", func() error { return w.replaced(n) })
			n.reports(soon, api.HealthCritical, words)
		}
		if now := n.server(soon); now.PID != s.PID || syscall.Kill(s.PID, 0) != nil {
			t.Errorf("the server was stopped because the record says that %s", words)
		}
		w.putRecord(was)
		n.registered(soon, api.HealthPassing)
	}
	if strings.Contains(n.log(), "stopping the server") {
		t.Error("the server was told to stop")
	}
	// Nor is it stopped for an entry of the volume on record: anybody can make one who may register.
	_, err := w.consul.Client.Catalog().Register(&api.CatalogRegistration{
		Node: "elsewhere", Address: "198.51.100.1",
		Service: &api.AgentService{ID: n.service + "-rabbit-localhost", Service: n.service, Meta: map[string]string{"node": n.name, "volume": "v-new", "boot": "b-new"}},
		Check:   &api.AgentCheck{Node: "elsewhere", CheckID: "new", ServiceID: n.service + "-rabbit-localhost", Status: api.HealthPassing},
	}, nil)
	expect.Must(t, err)
	w.putRecord(was.Without(n.name, "its volume came up blank", time.Now()).With(n.name, "v-new"))
	n.reports(soon, api.HealthCritical, "is on record with volume v-new")
	expect.Consistently(t, 4*testBeat, "the server runs", func() error { return syscall.Kill(s.PID, 0) })
	w.putRecord(was)
	n.reports(soon, api.HealthPassing, "")
	if strings.Contains(n.log(), "stopping the server") {
		t.Error("the server was told to stop")
	}
}

func (w *world) recordBecomes(was peers.Record) {
	w.t.Helper()
	expect.Eventually(w.t, 2*testBeat+late, "the record is published again", func() error {
		if r := w.record(); r.State != peers.Formed || r.ClusterID != was.ClusterID || r.Members["rabbit@localhost"] != was.Members["rabbit@localhost"] {
			return fmt.Errorf("it is %+v", r)
		}
		return nil
	})
}

func testOtherClusterOnRecord(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.serves()
	w.putRecord(formed("id-2", map[string]string{"b@localhost": "vb"}))
	n.registered(2*testBeat+late, api.HealthCritical)
	n.reports(soon, api.HealthCritical, "id-2")
	if r := w.record(); r.ClusterID != "id-2" {
		t.Errorf("it replaced a record that is formed: %+v", r)
	}
}

// A member that RabbitMQ was made to forget by hand goes off the record. Its volume is refused, with what happened and
// the way out, and a blank one joins.
func testForgottenByHand(t *testing.T, w *world) {
	w.putRecord(formed("id-1", map[string]string{"a@localhost": "va", "b@localhost": "vb", "c@localhost": "vc"}))
	w.neighbour("b@localhost", "id-1", "a@localhost", "b@localhost")
	a := w.node("a@localhost")
	a.hasData(&statedir.Marker{ClusterID: "id-1", Volume: "va", Members: []string{"a@localhost", "b@localhost", "c@localhost"}})
	a.start()
	a.server(soon)
	a.sees("id-1", "a@localhost", "b@localhost", "c@localhost")
	a.tell("amqp up")
	a.tell("notify READY=1")
	a.registered(soon, api.HealthPassing)
	expect.Consistently(t, 3*testBeat, "a member that RabbitMQ lists stays on record", func() error {
		if r := w.record(); r.Members["c@localhost"] != "vc" {
			return fmt.Errorf("record %+v", r)
		}
		return nil
	})
	a.sees("id-1", "a@localhost", "b@localhost") // as after rabbitmqctl forget_cluster_node
	a.tell("notify READY=1")                     // nothing else tells the companion to look before long
	expect.Eventually(t, 4*testBeat+late, "it goes off the record", func() error {
		if r := w.record(); len(r.Members) != 2 || !r.Gone["c@localhost"].Forgotten {
			return fmt.Errorf("record %+v", r)
		}
		return nil
	})
	a.registered(soon, api.HealthPassing)

	c := w.node("c@localhost")
	c.hasData(&statedir.Marker{ClusterID: "id-1", Volume: "vc", Members: []string{"a@localhost", "b@localhost", "c@localhost"}})
	c.start()
	c.refusedForGood(soon, "refusing to start", "c@localhost was taken off cluster id-1", "by a@localhost", "RabbitMQ was made to forget it, by hand", "goes on with a@localhost, b@localhost", "start with an empty volume")
	expect.Must(t, os.RemoveAll(c.volume("mnesia")))
	c.start()
	c.server(soon)
	if r := w.record(); r.Members["c@localhost"] == "" || r.Members["c@localhost"] == "vc" {
		t.Errorf("a blank one does not join: %+v", r)
	}
}

// RabbitMQ's cluster id may change, as import_definitions does it: record, marker and entry follow, and nobody is split.
func testClusterIDChanges(t *testing.T, w *world) {
	w.putRecord(formed("id-1", map[string]string{"a@localhost": "va", "b@localhost": "vb", "c@localhost": "vc"}))
	all := []string{"a@localhost", "b@localhost", "c@localhost"}
	b := w.neighbour("b@localhost", "id-1", all...)
	a := w.node("a@localhost")
	a.hasData(&statedir.Marker{ClusterID: "id-1", Volume: "va", Members: all})
	a.start()
	a.server(soon)
	a.sees("id-1", all...)
	a.tell("amqp up")
	a.tell("notify READY=1")
	a.registered(soon, api.HealthPassing)

	a.sees("id-2", all...)
	a.tell("notify READY=1")
	a.reports(soon, api.HealthCritical, "RabbitMQ here says that its cluster is id-2, the record says id-1, and c@localhost cannot be asked") // alone with it
	b.sees("id-2", all...)
	a.reports(2*testBeat+late, api.HealthPassing, "")
	a.registered(testBeat+late, api.HealthPassing)
	if r := w.record(); r.ClusterID != "id-2" || len(r.Formerly) != 1 || r.Formerly[0] != "id-1" || r.Members["c@localhost"] != "vc" {
		t.Errorf("record %+v", r)
	}
	expect.Says(t, a.log(), "RabbitMQ CHANGED ITS CLUSTER'S ID")
	expect.Eventually(t, 2*testBeat+late, "the marker and the entry follow", func() error {
		m, err := os.ReadFile(a.state("member"))
		if r, rerr := a.report(); err != nil || rerr != nil || r.ClusterID != "id-2" || !strings.Contains(string(m), "id-2") {
			return fmt.Errorf("%s, %+v, %w, %w", m, r, err, rerr)
		}
		return nil
	})

	// One that was down meanwhile has the former id on its volume.
	c := w.node("c@localhost")
	c.hasData(&statedir.Marker{ClusterID: "id-1", Volume: "vc", Members: all})
	c.start()
	c.server(soon)
	c.sees("id-2", all...)
	c.tell("amqp up")
	c.tell("notify READY=1")
	c.registered(soon, api.HealthPassing)
	// Not so another volume, nor one of a third cluster.
	for id, volume := range map[string]string{"id-1": "other", "id-3": "vd"} {
		d := w.node("d" + id + "@localhost")
		d.hasData(&statedir.Marker{ClusterID: id, Volume: volume, Members: all})
		d.start()
		d.refusedForGood(soon, "refusing to start")
	}
}
