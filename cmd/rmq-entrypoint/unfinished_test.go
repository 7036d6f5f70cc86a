package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/tests/expect"
)

// A joiner that does not get ready is stopped, and decides afresh.
func testJoinTimeout(t *testing.T, w *world) {
	w.putRecord(formed("id-1", map[string]string{"a@localhost": "va"}))
	w.neighbour("a@localhost", "id-1", "a@localhost")
	n := w.node("b@localhost")
	n.start("--join-timeout", "10s")
	n.server(soon)
	n.exit(10*time.Second + soon)
	expect.Says(t, n.log(), "--join-timeout, RMQ_JOIN_TIMEOUT")
	n.registered(soon, "")
}

// A joiner that elected itself, as one whose clock is behind does, is taken into
// the cluster.
func testCameUpAlone(t *testing.T, w *world) {
	w.putRecord(formed("id-1", map[string]string{"a@localhost": "va"}))
	w.neighbour("a@localhost", "id-1", "a@localhost")
	n := w.node("b@localhost")
	n.start()
	n.server(soon)
	n.tell("amqp up")
	n.sees("id-2", n.name)
	n.put(n.path("view.joined"), "view|id-1|a@localhost,b@localhost|a@localhost,b@localhost||false|\n")
	n.tell("notify READY=1")
	n.registered(2*testBeat+soon, api.HealthPassing)
	calls, err := os.ReadFile(n.path("ctl"))
	expect.Must(t, err)
	at := 0
	for _, call := range []string{n.name + " stop_app", n.name + " join_cluster a@localhost", n.name + " start_app"} {
		i := strings.Index(string(calls)[at:], call)
		if i < 0 {
			t.Fatalf("%s is missing or out of order:\n%s", call, calls)
		}
		at += i
	}
	if r := w.record(); r.ClusterID != "id-1" || len(r.Members) != 2 {
		t.Errorf("record %+v", r)
	}
}

// A join came to nothing, and the cluster counts the node in: without its vote it has
// no majority. The node takes itself off, as one with which nothing is lost, and
// joins anew when the cluster can do without it. So it does where it finds nobody
// that runs, after a restart of both.
func testJoinCameToNothing(t *testing.T, w *world) {
	for name, failed := range map[string]bool{"given up": true, "nobody runs": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, w.consul)
			n := w.node("b@localhost")
			r := formed("id-1", map[string]string{"a@localhost": "va"}).Joins(n.name, "vb", time.Now())
			w.putRecord(r)
			a := w.neighbour("a@localhost", "id-1")
			running := "a@localhost"
			if !failed {
				running = ""
			}
			a.put(a.path("view"), "view|id-1|a@localhost,b@localhost|"+running+"||true|\n")
			n.put(n.state("pending"), statedir.Pending{Role: statedir.Joining, Claim: r.Claim, Volume: "vb", Failed: failed})
			n.put(n.data("coordination/x"), "half of a join")
			n.start()
			n.logs("members of cluster id-1, which hold its data: a@localhost")
			if g, gone := w.record().Gone[n.name]; !gone || !g.Unjoined || g.Volume != "vb" {
				t.Errorf("record %+v", w.record())
			}
			if pending, err := (statedir.Dir{State: n.state("")}).Pending(); err != nil || pending == nil || !pending.Failed || pending.Volume != "vb" {
				t.Errorf("pending while it waits: %+v, %v", pending, err)
			}
			a.put(a.path("view"), "view|id-1|a@localhost|a@localhost||true|\n")
			n.server(soon)
			if r := w.record(); r.Members[n.name] != "vb" || r.Joining[n.name] != "vb" || len(r.Replaced) != 0 {
				t.Errorf("record %+v", r)
			}
			if pending, err := (statedir.Dir{State: n.state("")}).Pending(); err != nil || pending == nil || pending.Failed || pending.Role != statedir.Joining || pending.Volume != "vb" {
				t.Errorf("pending: %+v, %v", pending, err)
			}
			if _, err := os.Stat(n.data("coordination/x")); err == nil {
				t.Error("what was left of the join lies in the way of the next one")
			}
		})
	}
}

// A join was under way on this volume, and the one on record is another: whatever that
// holds, this one's vote is not what the cluster waits for.
func testJoinOnAnotherVolume(t *testing.T, w *world) {
	n := w.node("b@localhost")
	w.putRecord(formed("id-1", map[string]string{"a@localhost": "va"}).With(n.name, "v-unmounted"))
	a := w.neighbour("a@localhost", "id-1")
	a.put(a.path("view"), "view|id-1|a@localhost,b@localhost|a@localhost||true|\n")
	n.put(n.state("pending"), statedir.Pending{Role: statedir.Joining, Claim: "c0", Volume: "vb"})
	n.start()
	n.logs("members of cluster id-1, which hold its data: a@localhost")
	if g, gone := w.record().Gone[n.name]; !gone || g.Unjoined || g.Volume != "v-unmounted" {
		t.Errorf("record %+v", w.record())
	}
}

// With queues of its own it is a split: said, failed, and not touched.
func testCameUpAloneWithQueues(t *testing.T, w *world) {
	w.putRecord(formed("id-1", map[string]string{"a@localhost": "va"}))
	w.neighbour("a@localhost", "id-1", "a@localhost")
	n := w.node("b@localhost")
	n.start()
	n.server(soon)
	n.tell("amqp up")
	n.sees("id-2", n.name)
	n.put(n.path("queues"), "7")
	n.tell("notify READY=1")
	n.reports(soon, api.HealthCritical, "holds 7 queues")
	expect.Consistently(t, testBeat+time.Second, "a split stays critical", func() error {
		status, err := n.status(w.consul.Client)
		if err == nil && status != api.HealthCritical {
			err = fmt.Errorf("it is %q", status)
		}
		return err
	})
	if calls, _ := os.ReadFile(n.path("ctl")); strings.Contains(string(calls), "reset") || strings.Contains(string(calls), "stop_app") {
		t.Errorf("it was touched:\n%s", calls)
	}
}

// A seed whose claim was taken over stops its server while that is alone, and
// its volume counts as blank.
func testOvertakenSeed(t *testing.T, w *world) {
	n := w.node("b@localhost")
	n.start()
	n.server(soon)
	w.putRecord(formed("id-1", map[string]string{"a@localhost": "va"}))
	n.tell("amqp up")
	n.sees("id-2", n.name)
	n.put(n.data("schema.DAT"), "")
	n.tell("notify READY=1")
	n.exit(testBeat + soon)
	expect.Says(t, n.log(), "overtaken")
	p, err := statedir.Dir{Data: n.data(""), State: n.state("")}.Pending()
	if err != nil || p == nil || p.Role != statedir.Alone {
		t.Errorf("pending: %+v, %v", p, err)
	}
	n.registered(soon, "")
	// Its restart waits for the cluster on record instead of starting beside it.
	n.start()
	n.logs("members of cluster id-1, which hold its data: a@localhost")
}

// A node that came up alone, put itself off the record and was killed before it claimed the
// founding instead counts as blank, not as a volume that was replaced: it joins who is on record,
// and founds where nobody is.
func testNeverClaimed(t *testing.T, w *world) {
	killed := func(t *testing.T, w *world) *node {
		n := w.node("b@localhost")
		n.put(n.state("pending"), statedir.Pending{Role: statedir.Seeding, Claim: "never-written", Volume: "vb", Alone: true})
		n.put(n.state("queues"), statedir.Queues{Default: statedir.Classic}) // of the cluster that it was to join
		n.put(n.data("schema.DAT"), "")
		return n
	}
	of := func(t *testing.T, n *node) (statedir.Pending, string) {
		t.Helper()
		dir := statedir.Dir{Data: n.data(""), State: n.state("")}
		p, err := dir.Pending()
		expect.Must(t, err)
		q, err := dir.Queues()
		expect.Must(t, err)
		if p == nil || q == nil {
			t.Fatalf("pending %v, queues %v", p, q)
		}
		return *p, q.Default
	}
	t.Run("a member is on record", func(t *testing.T) {
		w := newWorld(t, w.consul)
		n := killed(t, w)
		r := formed("id-1", map[string]string{"a@localhost": "va"}).Joins(n.name, "vb", time.Now())
		w.putRecord(r.RemovedItself(n.name, "vb", time.Now()).By(n.name, n.name+", its volume blank, on host h"))
		n.start()
		n.logs("members of cluster id-1, which hold its data: a@localhost")
		w.neighbour("a@localhost", "id-1", "a@localhost")
		n.server(soon)
		if r := w.record(); r.Members[n.name] != "vb" || r.ClusterID != "id-1" {
			t.Errorf("record %+v", r)
		}
		if p, queues := of(t, n); p.Role != statedir.Alone || queues != statedir.Quorum {
			t.Errorf("pending %+v, queues are %s", p, queues)
		}
	})
	t.Run("nobody is", func(t *testing.T) {
		w := newWorld(t, w.consul)
		n := killed(t, w)
		r := formed("id-1", map[string]string{n.name: "v0"}).Joins(n.name, "vb", time.Now())
		w.putRecord(r.RemovedItself(n.name, "vb", time.Now()).By(n.name, n.name+", its volume blank, on host h"))
		n.start()
		n.server(soon)
		p, queues := of(t, n)
		if want := (statedir.Pending{Role: statedir.Seeding, Claim: w.record().Claim, Volume: "vb", Alone: true}); p != want || queues != statedir.Quorum {
			t.Errorf("pending %+v, want %+v; queues are %s", p, want, queues)
		}
		if _, err := os.Stat(n.data("schema.DAT")); err != nil {
			t.Errorf("what it founded by accident is its cluster's: %v", err)
		}
	})
	t.Run("its claim is on record", func(t *testing.T) { // and it goes on with it, as with data
		w := newWorld(t, w.consul)
		n := killed(t, w)
		r := formed("id-1", nil).Claimed(n.name, "vb", "", time.Now())
		r.Claim = "never-written"
		w.putRecord(r)
		n.start()
		n.server(soon)
		if p, queues := of(t, n); p.Claim != r.Claim || w.record().Claim != r.Claim || queues != statedir.Classic {
			t.Errorf("pending %+v, queues are %s, record %+v", p, queues, w.record())
		}
	})
}
