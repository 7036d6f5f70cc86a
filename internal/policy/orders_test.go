package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/peers"
)

// listens has RabbitMQ say that it takes connections.
func listens(w *world) {
	v := w.views["a"].Value
	v.Listeners = []peers.Listener{{IP: "::", Port: 5672}}
	w.views["a"] = Answer(v, nil)
}

// What the order means to the companion, and when a revived node is believed.
func TestMaintenance(t *testing.T) {
	t.Parallel()
	long := began.Add(-ttl)
	order := func(o Maintenance, fs ...func(*world)) func(*world) {
		return func(w *world) {
			w.s.Membership.Verified = false // or a partition is looked for first
			w.catalog = Answer([]peers.Peer(nil), nil)
			w.drained(o)
			listens(w)
			for _, f := range fs {
				f(w)
			}
		}
	}
	says := func(f func(*peers.View)) func(*world) {
		return func(w *world) {
			v := w.views["a"].Value
			f(&v)
			w.views["a"] = Answer(v, nil)
		}
	}
	busy := func(w *world) { w.volume.CommandRuns = true }
	fails := func(w *world) { w.health.State = healthcheck.Critical }
	cannot := func(err error) func(*world) { return func(w *world) { w.fails["EndMaintenance"] = err } }
	done := Maintenance{Drained: true, Done: true, At: long}
	const drained, being = "critical: maintenance: drained since 2026-01-02T03:03:50Z", "critical: maintenance: being drained"
	const interrupted = "critical: maintenance: the drain did not end: run rmq-entrypoint drain again, or rabbitmq-upgrade revive"
	const asked = "ask view a within 5s; "
	const ends, endsUnwatched = asked + "EndMaintenance(revive=false unwatched=false); ", asked + "EndMaintenance(revive=false unwatched=true); "
	back := func(w *world) string {
		return check(w.logged("back in service: RabbitMQ serves, it was revived or never drained"), "the log does not say it")
	}
	run(t, []row{
		{"being drained", order(Maintenance{At: long}, busy), being, nil},
		{"drained", order(done, fails), drained, nil},
		{"drained, and the server stopped", order(done, (*world).stops), "*" + drained, nil},
		{"drained, and the server boots", order(done, func(w *world) { w.boots(Member) }), drained, nil},
		{"revived", order(done), ends + "ask check; ask record; *" + enrolled, back},
		{"somebody else has the port", order(done, says(func(v *peers.View) { v.Listeners = nil })), asked + drained, nil},
		{"somebody has it, and RabbitMQ does not answer", order(done, func(w *world) { w.views["a"] = Answer(peers.View{}, errNot) }), asked + drained, nil},
		{"somebody has it, and RabbitMQ runs here no more", order(done, says(func(v *peers.View) { v.Running = list("b,c") })), asked + drained, nil},
		{"somebody has it while the server stops", order(done, says(func(v *peers.View) { v.Stops = true })), asked + drained, nil},
		{"somebody has it, and the drain was interrupted", order(Maintenance{At: long}, says(func(v *peers.View) { v.Listeners = nil })), asked + interrupted, nil},
		{"revived, and the login fails", order(done, func(w *world) { w.rechecked = &healthcheck.Result{Reason: "no answer within 3s"} }), ends + "ask check; critical: no answer within 3s", nil},
		{"just drained, a first miss counts as passing", order(Maintenance{Drained: true, Done: true, At: began.Add(-10 * time.Second)}), "critical: maintenance: drained since *", nil},
		{"and a moment later", order(Maintenance{Drained: true, Done: true, At: began.Add(-11 * time.Second)}), ends + "*" + enrolled, nil},
		{"a miss that is forgiven", order(done, func(w *world) { w.health.Missed = true }), drained, nil},
		{"no maintenance mode", order(Maintenance{Done: true, At: long}), drained, nil},
		{"interrupted, listeners closed", order(Maintenance{At: long}, fails), interrupted, nil},
		{"interrupted before that", order(Maintenance{At: long}), endsUnwatched + "*" + enrolled, back},
		{"interrupted just now", order(Maintenance{At: began}), interrupted, nil},
		{"revived, and a command has begun", order(done, cannot(fmt.Errorf("taken: %w", ErrCommandRuns))), ends + drained, func(w *world) string { return check(len(w.log) == 0, fmt.Sprint(w.log)) }},
		{"interrupted, and a command has begun", order(Maintenance{At: long}, cannot(ErrCommandRuns)), endsUnwatched + being, nil},
		{"revived, and the order cannot be removed", order(done, cannot(errNot)), ends + "critical: no answer yet", func(w *world) string { return check(len(w.log) == 0, fmt.Sprint(w.log)) }},
		{"the order cannot be read", order(done, func(w *world) { w.volume.Maintenance = peers.Seen[*Maintenance]{Err: errNot} }), "critical: no answer yet", nil},
	})
	for _, r := range []struct {
		name string
		set  func(*world)
		out  bool
	}{
		{"drained", order(done, fails), true}, {"revived", order(done), false}, {"cannot be removed", order(done, cannot(errNot)), false},
		{"cannot be read", order(done, func(w *world) { w.volume.Maintenance = peers.Seen[*Maintenance]{Err: errNot} }), false}, {"none", func(*world) {}, false},
		{"leaving", order(Maintenance{Leaving: true}, busy), true},
		{"carrying on as well", order(done, func(w *world) { w.order(CarryOn{}); w.volume.CarryOn.Err = errNot }), true},
	} {
		w := newWorld()
		r.set(w)
		if v, _ := w.beat(t); v.Out != r.out {
			t.Errorf("%s: out of service %t", r.name, v.Out)
		}
	}
}

// A node that leaves is finished off when its command is gone: off the record it stops, on it it stays.
func TestLeaving(t *testing.T) {
	t.Parallel()
	order := func(o Maintenance, record peers.Record, fs ...func(*world)) func(*world) {
		return func(w *world) {
			w.s.Membership.Verified = false
			w.catalog = Answer([]peers.Peer(nil), nil)
			o.Leaving, o.At = true, began.Add(-time.Hour)
			w.drained(o)
			w.record = record
			for _, f := range fs {
				f(w)
			}
		}
	}
	busy := func(w *world) { w.volume.CommandRuns = true }
	left := func(ago time.Duration) peers.Record { return formed("a,b").Left("a", "told to", began.Add(-ago)) }
	cannot := func(err error) func(*world) { return func(w *world) { w.fails["EndMaintenance"] = err } }
	here, gone := Maintenance{}, Maintenance{Done: true}
	const went = "critical: leaving the cluster for good: it has left, and the server stops"
	const leaves, ends = "critical: leaving the cluster for good", "ask record; EndMaintenance(revive=true unwatched=true); "
	says := func(words string) func(w *world) string {
		return func(w *world) string { return check(w.logged(words), fmt.Sprint(w.log)) }
	}
	silent := func(w *world) string { return check(len(w.log) == 0, fmt.Sprint(w.log)) }
	run(t, []row{
		{"its command runs", order(here, formed("a,b"), busy), "ask record; " + leaves, nil},
		{"off the record just now", order(gone, left(leaveGrace-time.Second)), "ask record; " + went, silent},
		{"off the record for long", order(gone, left(leaveGrace)), "ask record; StopServer; " + went, says("this node left the cluster for good: stopping the server*")},
		{"off the record for long, stopped", order(gone, left(leaveGrace), (*world).stops), "ask record; StopServer; *" + went, nil},
		{"off the record for long, and its command runs", order(here, left(leaveGrace), busy), "ask record; StopServer; " + went, nil},
		{"it does not stop", order(gone, left(leaveGrace), func(w *world) { w.fails["StopServer"] = errNot }), "ask record; StopServer; " + went, says("the server does not stop err no answer yet")},
		{"another volume left", order(gone, func() peers.Record {
			r := left(time.Hour)
			r.Gone["a"] = peers.Gone{Volume: "other", Left: true}
			return r
		}()), "ask record; StopServer; " + went, nil},
		{"the volume says that it left, and the record cannot be read", order(gone, formed("a,b"), func(w *world) { w.recordErr = errNot }), "ask record; StopServer; " + went, nil},
		{"the volume says that it left, and Consul lost its data", order(gone, peers.Record{}), "ask record; StopServer; " + went, nil},
		{"the volume says that it left just now", order(gone, peers.Record{}, func(w *world) { w.volume.Maintenance.Value.At = began.Add(time.Second - leaveGrace) }), "ask record; " + went, silent},
		{"interrupted", order(here, formed("a,b")), ends + "*" + enrolled, says("leave was interrupted before the node was off the record: back in service*")},
		{"interrupted, published anew meanwhile", order(here, formed("b").With("a", "")), ends + "*" + enrolled, nil},
		{"interrupted, and its name is another's", order(here, formed("b").With("a", "other")), ends + "*critical: not verified: this volume (va) was replaced*", nil},
		{"interrupted, and not on record", order(here, formed("b")), ends + "*" + enrolled, nil},
		{"interrupted, and Consul lost its data", order(here, peers.Record{}), ends + "*WriteRecord(*" + enrolled, nil},
		{"interrupted, and the cluster was given up by force", order(here, formed("b").With("a", "va").Without("a", peers.GivenUp("rmq-entrypoint forget-cluster --force"), began).By("a", "rmq-entrypoint forget-cluster --force on host h")), ends + "*WriteRecord(*" + enrolled, nil},
		{"given up by force while it works on the node", order(here, peers.Record{State: peers.Formed, ClusterID: "id", Gone: map[string]peers.Gone{"a": {Volume: "va", By: "x on host h"}}}, busy), "ask record; " + leaves, nil},
		{"interrupted, stopped", order(here, formed("a,b"), (*world).stops), "ask record; *critical: leaving the cluster for good: the command was interrupted, and the node stays when RabbitMQ serves again", nil},
		{"done, and on record", order(gone, formed("a,b")), "ask record; StopServer; " + went, nil},
		{"interrupted, Consul is away", order(here, formed("a,b"), func(w *world) { w.recordErr = errNot }), "ask record; " + leaves + ": the command was interrupted, and whether the node is off the record cannot be told: no answer yet", nil},
		{"interrupted, and it cannot be revived", order(here, formed("a,b"), cannot(fmt.Errorf("x: %w", &NotRevivedError{errNot}))), ends + leaves, says("leave was interrupted, and RabbitMQ stays in maintenance mode err no answer yet")},
		{"interrupted, and the order cannot be removed", order(here, formed("a,b"), cannot(errNot)), ends + leaves, says("leave was interrupted, and its order cannot be removed err no answer yet")},
		{"interrupted, and a command has begun", order(here, formed("a,b"), cannot(ErrCommandRuns)), ends + leaves, silent},
	})
	w := newWorld()
	order(here, formed("a,b"), busy, func(w *world) {
		w.s.Membership.Verified = true
		v := apart("a", "a,b,c", "", "a a, b bc, c bc", true)
		w.managed.Err, w.s.View.View, w.views["a"] = errNot, v, Answer(v, nil)
	})(w)
	if _, trace := w.beat(t); join(trace) != "ask record; ask view a within 7.5s; RestartApp; "+leaves {
		t.Errorf("partitioned: %s", trace)
	}
}

// Stopped, an order speaks, and what comes behind it acts all the same.
func TestOrdersOfOneThatStopped(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.stops()
	w.set.Version = "4.3.6"
	w.drained(Maintenance{Done: true, At: began})
	w.order(CarryOn{Lost: list("b")})
	w.record = formed("a")
	w.record.Gone = gone(peers.Gone{}, "b")
	v := viewOf("a,b", "")
	v.Khepri = true
	w.known(v)
	_, trace := w.beat(t)
	if got, want := join(trace), "ask record; ask view a; WriteRecord(*); ForceBoot(*); WriteCarryOn(*)!; ask view a; ask catalog; critical: maintenance: drained since *"; !matches(got, want) {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	// One that it gives itself is carried out with the next beat.
	w = newWorld()
	w.stops()
	w.set.Version, w.set.ForceBoot = "4.3.6", true
	w.record = formed("a")
	w.record.Gone = gone(peers.Gone{}, "b")
	w.known(v)
	for _, want := range []string{"ask record; ask view a; WriteCarryOn(b forced=false); critical: *as --force-boot (RMQ_FORCE_BOOT) allows", "ask record; ask view a; WriteRecord(*); ForceBoot(*); WriteCarryOn(b forced=true)!; *carrying on: the server comes up without b"} {
		if _, trace := w.beat(t); !matches(join(trace), want) {
			t.Errorf("\n got %s\nwant %s", join(trace), want)
		}
	}
}

func TestMembersToForget(t *testing.T) {
	t.Parallel()
	long, now := began.Add(-2*leaveGrace), began
	r := formed("a,b,c,d")
	both := r.ForgottenByOrder("c", "", long)
	both.Members = r.Members
	for _, c := range []struct {
		name          string
		r             peers.Record
		members, runs string
		node          string
		want          string
	}{
		{"left long ago, still listed", r.Left("c", "", long), "a,b,c,d", "a,b,d", "a", "c"},
		{"not mine to do", r.Left("c", "", long), "a,b,c,d", "a,b,d", "b", ""},
		{"the first one is down", r.Left("c", "", long), "a,b,c,d", "b,d", "b", "c"},
		{"the first one has left, too", r.Left("c", "", long).Left("a", "", now), "a,b,c,d", "a,b,d", "b", "c"},
		{"only just", r.Left("c", "", now), "a,b,c,d", "a,b,d", "a", ""},
		{"to the second", r.Left("c", "", began.Add(-leaveGrace)), "a,b,c,d", "a,b,d", "a", ""},
		{"it runs", r.Left("c", "", long), "a,b,c,d", "a,b,c,d", "a", ""},
		{"forgotten", r.Left("c", "", long), "a,b,d", "a,b,d", "a", ""},
		{"its forgetting was interrupted", r.ForgottenByOrder("c", "", long), "a,b,c,d", "a,b,d", "a", "c"},
		{"its forgetting was interrupted, its volume is not known", r.With("c", "").ForgottenByOrder("c", "", long), "a,b,c,d", "a,b,d", "a", "c"},
		{"and it is on record again", both, "a,b,c,d", "a,b,d", "a", ""},
		{"came up blank", r.Without("c", "", long), "a,b,c,d", "a,b,d", "a", ""},
		{"came back", r.Left("c", "", long).With("c", "vnew"), "a,b,c,d", "a,b,d", "a", ""},
		{"nobody runs", r.Left("c", "", long), "a,b,c,d", "", "a", ""},
	} {
		w := newWorld()
		w.set.Node, w.record, w.s.View.View = c.node, c.r, viewOf(c.members, c.runs)
		w.sawGone()
		at := &turn{Settings: w.set, State: w.s, Seen: Observation{Now: began}}
		if got := at.membersToForget(c.r); strings.Join(got, ",") != c.want {
			t.Errorf("%s: %q", c.name, got)
		}
	}
}
