package policy

import (
	"strings"
	"testing"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/peers"
)

// few is a view of members on Khepri of which few run.
func few(members, running, connected string) peers.View {
	v := viewOf(members, running)
	v.Khepri, v.Connected = true, list(connected)
	return v
}

// What is known to be wrong before Consul is asked, and what is asked for that: RabbitMQ here
// and nobody else.
func TestLocal(t *testing.T) {
	t.Parallel()
	const managed, view, leader = "ask managed within 1s; ", "ask view a within 3s; ", "ask leader a within 4s; "
	no, yes := Answer(false, nil), Answer(true, nil)
	led := func(w *world, f Fact[bool], before bool) { w.leaders["a"], w.s.Neighbours.LeaderMissing = f, before }
	for _, r := range []row{
		{"well", func(w *world) {}, managed + ": ", nil},
		{"no management port", func(w *world) {
			w.managed, w.s.View.PassingPeers = Answer([]healthcheck.Node(nil), errNot), "b,c"
		}, managed + ": ", nil},
		{"AMQP is dead", func(w *world) { w.health = healthcheck.Result{Reason: "refused"} }, "critical: refused", nil},
		{"AMQP is dead, not verified", func(w *world) { w.serves(Joining); w.health = healthcheck.Result{Reason: "refused"} }, "critical: refused", nil},
		{"an alarm", func(w *world) { w.health.State = healthcheck.Warning }, managed + ": ", nil},
		{"booting", func(w *world) { w.boots(Member) }, ": ", nil},
		{"stopped", (*world).stops, ": ", nil},
		{"not verified", func(w *world) { w.s.Membership.Verified = false }, ": ", nil},
		{"drained", func(w *world) { w.drained(Maintenance{Done: true, At: began}) }, managed + ": ", nil},
		{"two of three are gone", func(w *world) { w.judged(few("a,b,c", "a", "")) }, managed + view + "critical: no majority: of the members a, b, c only a run", nil},
		{"as the management port tells first", func(w *world) { w.known(few("a,b,c", "a", "")) }, managed + "ask view a within 7.5s; critical: no majority: of the members a, b, c only a run", nil},
		{"one of three is", func(w *world) { w.judged(few("a,b,c", "a,b", "b")) }, managed + ": ", nil},
		{"on Mnesia", func(w *world) { w.judged(viewOf("a,b,c", "a")) }, managed + ": ", nil},
		{"one that joins is connected, and there is a leader", func(w *world) { w.judged(few("a,b", "a", "b")); led(w, yes, true) }, managed + view + leader + ": ", nil},
		{"and there is none, seen first", func(w *world) { w.judged(few("a,b", "a", "b")); led(w, no, false) }, managed + view + leader + ": ", nil},
		{"and there is none, seen before", func(w *world) { w.judged(few("a,b", "a", "b")); led(w, no, true) }, managed + view + leader + "critical: no leader: of the members a, b only a run", nil},
		{"one that joins was seen in the catalog", func(w *world) {
			w.judged(few("a,b", "a", ""))
			w.s.Neighbours.Newcomers = list("b")
			led(w, yes, false)
		}, managed + view + leader + ": ", nil},
		{"RabbitMQ does not say", func(w *world) { w.judged(few("a,b,c", "a", "")); w.views["a"] = Answer(peers.View{}, errNot) }, managed + view + ": ", nil},
		{"a partition", func(w *world) { w.known(apart("a", "a,b,c", "", "a a, b bc, c bc", true)) }, managed + "*critical: partitioned from b, c: b, c go on, RabbitMQ restarts here to be one of them", nil},
		{"a partition of which this is the larger side", func(w *world) { w.known(apart("a", "a,b,c", "", "a ab, b ab, c c", true)) }, managed + "ask view a within 7.5s; : ", nil},
	} {
		w := newWorld()
		r.set(w)
		if _, trace := w.local(t); !matches(join(trace), r.want) || strings.Contains(join(trace), "record") || strings.Contains(join(trace), "catalog") {
			t.Errorf("%s:\n got %s\nwant %s", r.name, join(trace), r.want)
		}
	}
}

// Without Consul a node that can decide nothing is unfit all the same, and fit again when it
// can: RabbitMQ's own view tells both.
func TestStandsStillWithoutConsul(t *testing.T) {
	t.Parallel()
	const asks, unchecked = "ask record; ask managed within 1s; ", "passing: answers; not checked against the record: no answer yet"
	w := newWorld()
	w.recordErr = errNot
	beat := func(what string, v peers.View, want string) {
		t.Helper()
		if v.Members != nil {
			w.known(v)
		}
		if _, trace := w.beat(t); !matches(join(trace), want) {
			t.Errorf("%s:\n got %s\nwant %s", what, join(trace), want)
		}
		w.now = w.now.Add(w.set.Beat())
	}
	const noMajority = "critical: no majority: of the members a, b, c only a run"
	beat("all run", few("a,b,c", "a,b,c", "b,c"), asks+unchecked)
	beat("two are gone", few("a,b,c", "a", ""), asks+"*ask view a*"+noMajority)
	beat("still", peers.View{}, asks+"*"+noMajority)
	w.views["a"] = Answer(peers.View{}, errNot)
	beat("RabbitMQ does not say", peers.View{}, asks+"*"+noMajority+" (not looked at again: no answer yet)")
	beat("one is connected, and there is no leader", few("a,b,c", "a", "b"), asks+"*ask leader*"+noMajority+"*")
	w.leaders["a"] = Answer(false, nil)
	beat("at the first look", peers.View{}, asks+"*ask leader*critical: no majority*")
	beat("at the second", peers.View{}, asks+"*ask leader*critical: no leader: of the members a, b, c only a run")
	w.leaders["a"] = Answer(true, nil)
	beat("there is one", peers.View{}, asks+"*ask leader*"+unchecked)
	beat("gone again", few("a,b,c", "a", ""), asks+"*"+noMajority)
	beat("all run again", few("a,b,c", "a,b,c", "b,c"), asks+"*"+unchecked)

	w.s.Fault = Fault{Reason: "SPLIT"} // which only the record can end
	beat("split", peers.View{}, asks+"critical: SPLIT (not looked at again: no answer yet)")
	w.s.Fault, w.recordErr, w.catalog.Err = Fault{}, nil, errNot
	beat("no catalog", few("a,b,c", "a", ""), "ask record; ask catalog; *"+noMajority)
}

// What takes the network away may take the node's own name away, by which RabbitMQ is asked. The
// management port, on the loopback, still lists who runs.
func TestManagementPortSaysFew(t *testing.T) {
	t.Parallel()
	const says = "critical: no majority, says the management port: of the members a, b, c only a run"
	for _, c := range []struct {
		name           string
		set            func(*world)
		running        string
		first, second  string // look at it, and the last word
		known, thereby string // when the management port lists two again, and says nothing
	}{
		{"no Consul", func(w *world) { w.recordErr = errNot }, "a",
			"*passing: answers; not checked*", "*" + says, "*passing: answers; not checked*", "*" + says + " (not looked at again*"},
		{"no catalog", func(w *world) { w.catalog.Err = errNot }, "a",
			"*passing: answers; not checked*", "*" + says, "*passing: answers; not checked*", "*" + says + " (not looked at again*"},
		{"Consul answers", func(*world) {}, "a",
			"*passing: answers; not checked*", "*" + says, "*passing: answers; not checked*", "*" + says + " (not looked at again*"},
		{"one of three is gone", func(w *world) { w.recordErr = errNot }, "a,b",
			"*passing: answers; not checked*", "*passing: answers; not checked*", "*passing: answers; not checked*", "*passing: answers; not checked*"},
		{"a newcomer counts as up", func(w *world) { w.recordErr, w.s.Neighbours.Newcomers = errNot, list("b") }, "a",
			"*passing: answers; not checked*", "*passing: answers; not checked*", "*passing: answers; not checked*", "*passing: answers; not checked*"},
		{"on Mnesia", func(w *world) { w.recordErr, w.s.View.Khepri = errNot, false }, "a",
			"*passing: answers; not checked*", "*passing: answers; not checked*", "*passing: answers; not checked*", "*passing: answers; not checked*"},
		{"another fault", func(w *world) { w.recordErr, w.s.Fault = errNot, Fault{Reason: "SPLIT"} }, "a,b",
			"*critical: SPLIT (not*", "*critical: SPLIT (not*", "*critical: SPLIT (not*", "*critical: SPLIT (not*"},
	} {
		w := newWorld()
		w.judged(few("a,b,c", "a,b,c", "b,c"))
		c.set(w)
		beat := func(what, want string) {
			t.Helper()
			if _, trace := w.beat(t); !matches(join(trace), want) {
				t.Errorf("%s, %s:\n got %s\nwant %s", c.name, what, join(trace), want)
			}
			w.now = w.now.Add(w.set.Beat())
		}
		cut := func(running string) {
			w.known(few("a,b,c", running, ""))
			w.views["a"] = Answer(peers.View{}, errNot)
		}
		cut(c.running)
		beat("first", c.first)
		beat("second", c.second)
		beat("third", c.second)
		w.managed = Answer([]healthcheck.Node(nil), errNot)
		beat("the management port is silent, too", c.thereby)
		cut("a,b")
		beat("a majority is listed", c.known)
		cut(c.running)
		beat("lost again", c.first)
		w.known(few("a,b,c", "a,b,c", "b,c"))
		beat("RabbitMQ says", "*: "+strings.TrimPrefix(w.s.Fault.Reason+"*", "no majority*"))
		cut(c.running)
		beat("and is silent again", c.first)
	}
}

// While nobody's check that lapses tells of a change, RabbitMQ is asked more often.
func TestViewIsRenewedWithoutConsul(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.recordErr, w.managed = errNot, Answer([]healthcheck.Node(nil), errNot)
	asked := 0
	for range 13 { // a minute
		if _, trace := w.beat(t); strings.Contains(join(trace), "ask view") {
			asked++
		}
		w.now = w.now.Add(ttl / 3)
	}
	if asked != 4 {
		t.Errorf("it was asked %d times in a minute, want every TTL", asked)
	}
}
