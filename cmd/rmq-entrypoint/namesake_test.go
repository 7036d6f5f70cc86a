package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/formation"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

// twin makes a second container with the name of a node, on a volume of its own.
func (w *world) twin(of *node, env ...string) *node {
	w.t.Helper()
	root := w.root
	w.root = filepath.Join(root, "twin")
	expect.Must(w.t, os.MkdirAll(w.root, 0o755))
	n := w.node(of.name, env...)
	w.root = root
	n.env = append(n.env, "RMQ_TEST_ROOT="+root, "PATH="+filepath.Join(root, "bin")+":/usr/bin:/bin") // the last one counts
	return n
}

// never fails when the node has become the server, or its volume got anything that
// speaks for a node.
func (n *node) never(t testing.TB) {
	t.Helper()
	if _, err := os.Stat(n.path("started")); err == nil {
		t.Error("its server was started")
	}
	for _, name := range []string{"pending", "member"} {
		if _, err := os.Stat(n.state(name)); err == nil {
			t.Errorf("it wrote %s to its volume", name)
		}
	}
}

// A blank node whose name is alive waits, says whose it is, and changes nothing. When
// that one has gone, it does what any blank node does.
func testNameAlive(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.serves()
	was := w.record()
	twin := w.twin(n)
	twin.start()
	twin.logs("an earlier container of this name, or of another one that has it: rabbit@localhost at " + n.ip + ":5672")
	expect.Says(t, twin.log(), "started "+time.Now().UTC().Format("2006-01-02T"), "volume "+was.Members[n.name], "its check passing", "lapses within 10s")
	expect.Consistently(t, testTTL+2*testBeat, "nothing is done in its name", func() error {
		if r := w.record(); r.Revision != was.Revision {
			return fmt.Errorf("record %+v", r)
		}
		if status, err := n.status(w.consul.Client); err != nil || status != api.HealthPassing {
			return fmt.Errorf("the node that serves is %q, %v", status, err)
		}
		return nil
	})
	twin.logs("which is alive: rabbit@localhost at " + n.ip + ":5672")
	expect.Says(t, twin.log(), "give this container a host name of its own (or RABBITMQ_NODENAME), or stop that one")
	twin.never(t)
	if out, code := twin.run("healthcheck"); code != 0 || !strings.Contains(out, "alive") {
		t.Errorf("its health check: %d, %s", code, out)
	}
	n.tell("exit") // and says nothing: its entry lapses
	n.exit(soon)
	twin.server(testTTL + soon)
	if r := w.record(); r.Seed != n.name || r.Members[n.name] == was.Members[n.name] || len(r.Previous) != 1 {
		t.Errorf("record %+v", r)
	}
}

// While Consul is away all checks lapse: one that lapsed says nothing of a node until Consul has
// answered for so long that a node that lives would have reported.
func testNameLapsedWithConsulAway(t *testing.T, w *world) {
	link := consultest.Proxy(t, w.consul.Addr)
	n := w.node("rabbit@localhost", "CONSUL_HTTP_ADDR="+link.Addr)
	n.serves()
	was := w.record()
	link.Refuse()
	expect.Eventually(t, testTTL+soon, "its check lapses", func() error {
		if status, err := n.status(w.consul.Client); err != nil || status != api.HealthCritical {
			return fmt.Errorf("%q, %v", status, err)
		}
		return nil
	})
	twin := w.twin(n)
	twin.start()
	twin.logs("Consul to have answered for 10s, in which an earlier container of this name, should it live, would report: rabbit@localhost at " + n.ip)
	link.Pass()
	twin.logs("an earlier container of this name, or of another one that has it")
	if r := w.record(); r.Revision != was.Revision {
		t.Errorf("record %+v", r)
	}
	twin.never(t)
	n.tell("exit")
	n.exit(soon)
	twin.server(2*testTTL + soon)
}

// The name's entry is gone, but a member sees the name run, or its Erlang VM after
// stop_app.
func testNameSeenRunning(t *testing.T, w *world) {
	for name, seen := range map[string]string{
		"running":   "view|id-1|a@localhost,b@localhost|a@localhost,b@localhost||false|a@localhost|\n",
		"connected": "view|id-1|a@localhost,b@localhost|a@localhost||true|b@localhost|\n",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, w.consul)
			was := formed("id-1", map[string]string{"a@localhost": "va", "b@localhost": "vb"})
			w.putRecord(was)
			a := w.neighbour("a@localhost", "id-1")
			a.put(a.path("view"), seen)
			n := w.node("b@localhost")
			n.start()
			n.logs("another node of this name: a@localhost is connected to b@localhost")
			if r := w.record(); r.Members["b@localhost"] != "vb" || len(r.Gone) != 0 {
				t.Errorf("record %+v", r)
			}
			n.never(t)
			calls, _ := os.ReadFile(n.path("ctl"))
			if strings.Contains(string(calls), "forget") {
				t.Errorf("it had the name forgotten:\n%s", calls)
			}
			a.put(a.path("view"), "view|id-1|a@localhost,b@localhost|a@localhost||false||\n")
			n.server(soon)
			if r := w.record(); r.Members["b@localhost"] == "vb" || !r.NeverVerified("b@localhost") {
				t.Errorf("record %+v", r)
			}
		})
	}
}

// A volume that never was verified took the place of one that serves: that one takes its
// name back, and is not refused after a restart either.
func testNameTakenBack(t *testing.T, w *world) {
	for name, c := range map[string]struct {
		others map[string]string
		runs   string // besides itself
		back   bool
	}{
		"alone":          {back: true},
		"seen to run":    {others: map[string]string{"a@localhost": "va"}, runs: "a@localhost", back: true},
		"seen by nobody": {others: map[string]string{"a@localhost": "va"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, w.consul)
			n := w.node("rabbit@localhost")
			s := n.serves()
			r := w.record()
			mine := r.Members[n.name]
			for m, v := range c.others {
				r = r.With(m, v)
			}
			n.sees(r.ClusterID, strings.TrimPrefix(c.runs+","+n.name, ","))
			w.putRecord(r.Joins(n.name, "v-twin", time.Now()))
			if !c.back {
				n.reports(soon, api.HealthCritical, "another container joined as rabbit@localhost with volume v-twin")
			} else {
				expect.Eventually(t, soon, "its volume is on record", func() error {
					if r := w.record(); r.Members[n.name] != mine || r.NeverVerified(n.name) {
						return fmt.Errorf("%+v", r)
					}
					return nil
				})
				n.registered(soon, api.HealthPassing)
				expect.Says(t, n.log(), "taking the name back", "v-twin")
			}
			expect.Consistently(t, 2*testBeat, "its server runs", func() error {
				started, err := statedir.StartTime(s.PID)
				if err == nil && started == 0 {
					err = errors.New("it has ended")
				}
				return err
			})
			// Nor is it refused if it is restarted before it could.
			n.kill(s.PID)
			n.exit(soon)
			w.putRecord(w.record().Joins(n.name, "v-twin", time.Now()))
			n.start()
			n.server(soon)
			n.tell("amqp up")
			n.tell("notify READY=1")
			if c.back {
				n.registered(soon, api.HealthPassing)
			} else {
				n.reports(soon, api.HealthCritical, "v-twin")
			}
			if strings.Contains(n.log(), "stopping the server") || strings.Contains(n.log(), "refusing") {
				t.Error("it was stopped")
			}
		})
	}
}

// Data that never was verified does not start under a name that is alive: a copy of a
// node's volume, or the official image's under a name that was given twice.
func testNameOfDataTaken(t *testing.T, w *world) {
	for name, pending := range map[string]*statedir.Pending{
		"adopted": nil, "a join under way": {Role: statedir.Joining, Claim: "c0", Volume: "v-twin"}, "a founding under way": {Role: statedir.Seeding, Claim: "c0", Volume: "v-twin"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, w.consul)
			n := w.node("rabbit@localhost")
			n.serves()
			was := w.record()
			twin := w.twin(n)
			twin.hasData(nil)
			if pending != nil {
				twin.put(twin.state("pending"), pending)
			}
			before := expect.Tree(t, twin.data(""))
			twin.start()
			twin.refused(soon, "not starting a second rabbit@localhost", n.ip+":5672", was.Members[n.name], "host name of its own")
			if !sameTree(before, expect.Tree(t, twin.data(""))) {
				t.Error("it changed the volume")
			}
			if left, err := (statedir.Dir{State: twin.state("")}).Pending(); err != nil || (left == nil) != (pending == nil) {
				t.Errorf("pending: %+v, %v", left, err)
			}
			n.registered(0, api.HealthPassing)
			if r := w.record(); r.Revision != was.Revision {
				t.Errorf("record %+v", r)
			}
		})
	}
}

// A node that stopped by itself and whose server lives, as after stop_app, keeps its name.
func testStoppedKeepsName(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.serves()
	was := w.record()
	twin := w.twin(n)
	twin.start()
	twin.logs("its check passing")
	n.tell("notify STOPPING=1")
	n.tell("amqp down")
	n.registered(soon, "")
	twin.logs("which has stopped and may start again")
	n.registered(testTTL+soon, api.HealthCritical)
	twin.logs("its check critical")
	expect.Consistently(t, testTTL+testBeat, "nothing is done in its name", func() error {
		if r := w.record(); r.Revision != was.Revision {
			return fmt.Errorf("record %+v", r)
		}
		return nil
	})
	twin.never(t)
	n.tell("amqp up")
	n.tell("notify READY=1")
	n.registered(soon, api.HealthPassing)
}

// One that has left for good holds none, while its server takes its time to end.
func testLeftHoldsNoName(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.serves()
	n.put(n.state("out"), &statedir.Maintenance{Leaving: true, Done: true, At: time.Now()})
	n.tell("notify STOPPING=1")
	n.tell("amqp down")
	n.registered(soon, "")
	expect.Consistently(t, testTTL+2*testBeat+late, "it is not registered again", func() error {
		status, err := n.statusOn(w.consul)
		if err == nil && status != "" {
			err = fmt.Errorf("it is %s", status)
		}
		return err
	})
}

// The name is taken while a node queues for the lock to act in it: it does not act.
func testNameTakenMeanwhile(t *testing.T, w *world) {
	for name, r := range map[string]peers.Record{
		"about to claim":     {},
		"about to remove it": formed("id-1", map[string]string{"rabbit@localhost": "v-old"}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, w.consul)
			if r.State != peers.Absent {
				w.putRecord(r)
			}
			session, err := holdLock(t, w)
			expect.Must(t, err)
			n := w.node("rabbit@localhost")
			n.start()
			n.logs("rabbit@holder")
			other := peers.Registration{Service: w.service, Node: n.name, Address: n.ip, Port: 5672, TTL: time.Hour, DeregisterAfter: time.Hour, Start: peers.Start{Volume: "v-other", Boot: "b-other"}}
			expect.Must(t, peers.Announce(t.Context(), w.consul.Client, other, peers.Starting, ""))
			_, err = w.consul.Client.Session().Destroy(session, nil)
			expect.Must(t, err)
			n.logs("v-other")
			if now := w.record(); now.State != r.State || len(now.Gone) != 0 {
				t.Errorf("it acted: %+v", now)
			}
			n.never(t)
			expect.Must(t, peers.Withdraw(t.Context(), w.consul.Client, other))
			n.server(2*testTTL + soon)
		})
	}
}

// A volume that a blank one under its node's name removed is on record again before its
// server starts, unless the cluster went on without it.
func testComesBack(t *testing.T, w *world) {
	r := formed("id-1", map[string]string{"a@localhost": "va", "b@localhost": "vb"})
	removed := r.RemovedItself("a@localhost", "", time.Now()).By("a@localhost", "a@localhost, its volume blank, on host h")
	gone, _ := removed.GoneOn([]string{"a@localhost"})
	givenUp := formed("id-1", map[string]string{"b@localhost": "vb"})
	givenUp.Gone = map[string]peers.Gone{"a@localhost": {Volume: "va", Why: peers.GivenUp("rmq-entrypoint forget-cluster"), By: "rmq-entrypoint forget-cluster on host h"}}
	for name, c := range map[string]struct {
		record peers.Record
		back   bool
		says   string
	}{
		"removed":                  {removed, true, "its volume blank, on host h"},
		"removed, gone on without": {gone, false, "took itself off cluster id-1"},
		"given up, and taken back": {givenUp, true, "by rmq-entrypoint forget-cluster on host h"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, w.consul)
			w.putRecord(c.record)
			n := w.node("a@localhost")
			n.hasData(&statedir.Marker{ClusterID: "id-1", Volume: "va", Members: []string{"a@localhost", "b@localhost"}})
			n.start()
			if !c.back {
				n.refusedForGood(soon, "refusing to start beside the cluster", c.says)
				return
			}
			n.server(soon)
			if r := w.record(); r.Members[n.name] != "va" || len(r.Gone) != 0 || len(r.Replaced) != 0 {
				t.Errorf("its server started with this record: %+v", r)
			}
			expect.Says(t, n.log(), "it is on record again, and starts", c.says)
		})
	}
}

// A joiner that came up alone does nothing in a name that the record gives to another
// volume.
func testAloneUnderTakenName(t *testing.T, w *world) {
	w.putRecord(formed("id-1", map[string]string{"a@localhost": "va"}))
	w.neighbour("a@localhost", "id-1", "a@localhost", "b@localhost")
	b := w.node("b@localhost")
	b.env = append(b.env, "RABBITMQ_VERSION=4.0.5")
	a := filepath.Join(w.root, "a@localhost", "view")
	b.put(a, "view|id-1|a@localhost,b@localhost|a@localhost||false||\n")
	b.start()
	b.server(soon)
	r := w.record()
	w.putRecord(r.With(b.name, "v-rightful"))
	expect.Must(t, os.Remove(b.path("ctl")))
	b.tell("amqp up")
	b.sees("id-2", b.name)
	b.tell("notify READY=1")
	b.exit(2*testBeat + soon)
	expect.Says(t, b.log(), "the record names volume v-rightful for this node", "nothing is done in its name")
	if calls, _ := os.ReadFile(b.path("ctl")); strings.Contains(string(calls), "forget") || strings.Contains(string(calls), "join_cluster") {
		t.Errorf("it was done all the same:\n%s", calls)
	}
	if now := w.record(); now.Members[b.name] != "v-rightful" {
		t.Errorf("record %+v", now)
	}
}

// Two nodes without a name of their own, or one beside one that has it.
func testLoopbackName(t *testing.T, w *world) {
	for me, there := range map[string]string{"rabbit@localhost": "rabbit@mq2", "rabbit@mq2": "rabbit@localhost"} {
		for where, put := range map[string]func(*world){
			"on record":  func(w *world) { w.putRecord(formed("id-1", map[string]string{there: "v1"})) },
			"registered": func(w *world) { w.neighbour(there, "id-1", there) },
		} {
			t.Run(me+" with "+there+" "+where, func(t *testing.T) {
				w := newWorld(t, w.consul)
				put(w)
				was := w.record()
				n := w.node(me)
				n.env = append(n.env, "RABBITMQ_NODENAME="+me)
				if me == "rabbit@mq2" { // which has no address here
					n.env = append(n.env, "RMQ_HOSTS=consul")
				}
				n.start()
				n.refused(soon, me, there, "a name that every host takes for itself", "host name")
				if r := w.record(); r.Revision != was.Revision || len(r.Gone) != 0 {
					t.Errorf("record %+v", r)
				}
			})
		}
	}
	for _, name := range []string{"rabbit@localhost", "r@LOCALHOST", "rabbit@localhost.localdomain", "rabbit@127.0.0.1", "rabbit@x.localhost"} {
		_, err := config.FromEnvironment(expect.Environ("RMQ_HOSTS=consul", "RABBITMQ_USE_LONGNAME=true", "RABBITMQ_NODENAME="+name))
		if err == nil || !strings.Contains(err.Error(), "every host takes that name for itself") {
			t.Errorf("%s with RMQ_HOSTS=consul: %v", name, err)
		}
	}
	if err := formation.Reachable(peers.Observation{Me: "a@localhost", Record: peers.Seen[peers.Record]{Value: formed("id", map[string]string{"b@localhost": ""})}}); err != nil {
		t.Errorf("two on one host: %v", err)
	}
	for _, name := range []string{"rabbit@localhost1", "rabbit@mylocalhost", "rabbit@10.0.0.1", "localhost@mq1"} {
		if config.LoopbackName(name) {
			t.Errorf("%s counts as everybody's", name)
		}
	}
}
