package policy

import (
	"fmt"
	"testing"
	"time"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/peers"
)

// A seed's first word says that its Erlang VM runs: others boot then. Nobody else's does, and no
// second one.
func TestFirstWord(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		role Role
		text []string
		boot []bool // whether the server is heard for the first time
	}{
		{Seeding, []string{"X=1", "STATUS=Startup in progress", "STATUS=more"}, []bool{false, true, false}},
		{Seeding, []string{"READY=1", "STATUS=Startup in progress"}, []bool{false, false}},
		{Joining, []string{"STATUS=Startup in progress", "STATUS=more"}, []bool{true, false}},
		{Member, []string{"STATUS=Startup in progress"}, []bool{true}},
	} {
		w := newWorld()
		w.boots(c.role)
		for i, text := range c.text {
			var e Event
			w.s, e = Heard(w.set, w.s, text, began)
			if e.Boots != c.boot[i] || e.Runs != (c.boot[i] && c.role == Seeding) {
				t.Errorf("%s, %q: %+v", c.role, text, e)
			}
		}
	}
}

// What RabbitMQ's words mean while it boots, serves and has stopped.
func TestHeard(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		phase    Phase
		text     string
		ready    bool
		withdraw bool
		phases   Phase // afterwards
		word     string
	}{
		{Booting, "READY=1", true, false, Serving, "before"},
		{Booting, "STATUS=Startup in progress", false, false, Booting, "Startup in progress"},
		{Booting, "STATUS=Startup in progress\nREADY=1\n", true, false, Serving, "before"},
		{Booting, "X=1", false, false, Booting, "before"},
		{Booting, "READY=0", false, false, Booting, "before"},
		{Booting, "STOPPING=1", false, true, Stopped, "stopped (stopping)"},
		{Booting, "STATUS=bye\nSTOPPING=1", false, true, Stopped, "stopped (bye)"},
		{Serving, "X=1", false, false, Serving, "before"},
		{Serving, "READY=1", true, false, Serving, "before"},
		{Serving, " STATUS=Standing by \n", false, true, Stopped, "stopped (Standing by)"},
		{Serving, "STATUS=Startup in progress", false, true, Stopped, "stopped (stopping)"},
		{Serving, "STOPPING=1", false, true, Stopped, "stopped (stopping)"},
		{Serving, "STOPPING=1\nREADY=1", true, false, Serving, "before"},
		{Stopped, "STATUS=Startup in progress", false, false, Stopped, "Startup in progress"},
		{Stopped, "STOPPING=1", false, false, Stopped, "stopped (stopping)"},
		{Stopped, "READY=1", true, false, Serving, "before"},
	} {
		w := newWorld()
		s := w.s
		s.Server.Phase, s.Server.LastStatus, s.Server.StoppedAt = c.phase, "before", began.Add(-time.Minute)
		s.Membership.Verified = c.phase == Serving
		s.Partition = Partition{Since: began, Restarting: "partitioned", RestartedAt: began}
		s.Fault = Fault{Reason: "partitioned"}
		next, e := Heard(w.set, s, c.text, began)
		stops := c.phases == Stopped && c.word[0] == 's'
		if e.Ready != c.ready || e.Withdraw != c.withdraw || next.Server.Phase != c.phases || next.Server.LastStatus != c.word || stops != (e.Why != "") {
			t.Errorf("%d, %q: %+v, %+v", c.phase, c.text, e, next.Server)
		}
		if marks := c.phase == Serving && stops; marks != (e.Mark != nil) || marks && (e.Mark.Volume != "va" || !e.Mark.At.Equal(began) || e.Mark.ClusterID != "id") {
			t.Errorf("%d, %q: marker %+v", c.phase, c.text, e.Mark)
		}
		if next.Server.Located == c.ready {
			t.Errorf("%d, %q: RabbitMQ is asked where it listens: %t", c.phase, c.text, !next.Server.Located)
		}
		if next.Membership.Verified != (c.phase == Serving && !c.ready && !stops) {
			t.Errorf("%d, %q: %+v", c.phase, c.text, next.Membership)
		}
		if c.ready != (next.Partition.Restarting == "") || c.ready != next.Partition.Since.IsZero() || c.ready != (next.Fault.Reason == "") || next.Partition.RestartedAt.IsZero() {
			t.Errorf("%d, %q: %+v, %+v", c.phase, c.text, next.Partition, next.Fault)
		}
		if next.Entry.Pending != (c.ready && c.phase == Stopped) || stops != next.Join.Deadline.Equal(began.Add(3*time.Minute)) || c.withdraw != next.Server.StoppedAt.Equal(began) {
			t.Errorf("%d, %q: %+v, %+v, stopped at %s", c.phase, c.text, next.Entry, next.Join, next.Server.StoppedAt)
		}
	}
	w := newWorld() // what was wrong for another reason stays
	w.s.Fault = Fault{Reason: "SPLIT"}
	if next, _ := Heard(w.set, w.s, "READY=1", began); next.Fault.Reason != "SPLIT" {
		t.Error("the fault is forgotten")
	}
}

func TestClosed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		phase Phase
		stops bool
		want  bool
	}{{Serving, true, true}, {Serving, false, false}, {Booting, true, false}, {Stopped, true, false}} {
		w := newWorld()
		w.s.Server.Phase = c.phase
		w.s.Membership.Verified = c.phase == Serving
		next, e := Closed(w.set, w.s, healthcheck.Reason{Stopping: c.stops, Text: "320 CONNECTION_FORCED"}, began)
		if e.Withdraw != c.want || e.Ready || (e.Mark != nil) != c.want || c.want && (next.Server.LastStatus != "stopped (320 CONNECTION_FORCED)" || e.Why != "320 CONNECTION_FORCED") {
			t.Errorf("%+v: %+v, %+v", c, e, next.Server)
		}
	}
}

// The check's own word, and who is asked for it.
func TestCheck(t *testing.T) {
	t.Parallel()
	boots := func(f func(*world)) func(*world) {
		return func(w *world) { w.boots(Seeding); w.s.Entry.MissingSince = began; f(w) }
	}
	elsewhere := func(w *world) { // than the files say
		w.serves(Seeding)
		w.s.Server.Located = false
		w.record, w.health = peers.Record{State: peers.Forming, Seed: "a", Claim: "claim", Members: volumes("a")}, healthcheck.Result{Reason: "127.0.0.1: refused"}
		v := viewOf("a", "a")
		v.Listeners = []peers.Listener{{IP: "10.0.0.7", Port: 5672}}
		w.known(v)
		w.listed()
	}
	drains := func(listens bool, fs ...func(*world)) func(*world) {
		return func(w *world) {
			w.health = healthcheck.Result{Reason: "in maintenance mode", Draining: true, Listens: listens}
			w.rechecked = &healthcheck.Result{State: healthcheck.Passing, Reason: "10.0.0.7 answers"}
			for _, f := range fs {
				f(w)
			}
		}
	}
	cleared := func(w *world) string { return check(w.s.Entry.MissingSince.IsZero(), "the entry is missed") }
	run(t, []row{
		{"an alarm", func(w *world) { w.health = healthcheck.Result{State: healthcheck.Warning, Reason: "low on memory"} }, quiet + "warning: low on memory", nil},
		{"a fault that is over", func(w *world) { w.s.Fault = Fault{Reason: "no majority"} }, quiet + "passing: answers", func(w *world) string { return check(w.s.Fault == Fault{}, "it is not forgotten") }},
		{"it fails", func(w *world) { w.health = healthcheck.Result{Reason: "refused"}; w.s.Entry.MissingSince = began }, "ask managed within 1s; critical: refused", cleared},
		{"RabbitMQ drains, by hand", drains(false), "ask managed within 1s; critical: in maintenance mode", nil},
		{"RabbitMQ drains, and somebody has its port", drains(true), "ask view a within 5s; critical: in maintenance mode", nil},
		{"RabbitMQ drains, somebody has its port, and it does not answer", drains(true, func(w *world) { w.views["a"] = Answer(peers.View{}, errNot) }), "ask view a within 5s; *critical: in maintenance mode", nil},
		{"RabbitMQ is revived, by hand", drains(true, listens), "ask view a within 5s; ask check; *passing: 10.0.0.7 answers", nil},
		{"RabbitMQ is revived, and the check does not get in", drains(true, listens, func(w *world) { w.rechecked = &healthcheck.Result{Reason: "no answer"} }), "ask view a within 5s; ask check; critical: no answer", nil},
		{"it fails, and RabbitMQ was not asked since READY where it listens", elsewhere, "ask view a within 5s; ask check; critical: 127.0.0.1: refused", func(w *world) string {
			return check(w.s.Server.Located, "it asks again with each beat")
		}},
		{"it gets in where RabbitMQ listens", func(w *world) {
			elsewhere(w)
			w.rechecked = &healthcheck.Result{State: healthcheck.Passing, Reason: "10.0.0.7 answers"}
		}, "ask view a within 5s; ask check; ask record; ask catalog; *passing: 10.0.0.7 answers", nil},
		{"it fails, and RabbitMQ does not say where it listens", func(w *world) {
			elsewhere(w)
			w.views["a"] = Answer(peers.View{}, errNot)
		}, "ask view a within 5s; critical: 127.0.0.1: refused", func(w *world) string {
			return check(!w.s.Server.Located, "it is not asked again")
		}},
		{"it fails, and RabbitMQ says where it listens and not its cluster's id", func(w *world) {
			elsewhere(w)
			w.views["a"] = Answer(w.views["a"].Value, errNot)
		}, "ask view a within 5s; ask check; critical: 127.0.0.1: refused", nil},
		{"it fails, and RabbitMQ listens nowhere", func(w *world) {
			elsewhere(w)
			w.known(viewOf("a", "a"))
		}, "ask view a within 5s; critical: 127.0.0.1: refused", func(w *world) string {
			return check(w.s.Server.Located, "it asks again with each beat")
		}},
		{"it boots", boots(func(*world) {}), "critical: Startup in progress", cleared},
		{"it answers, and READY was not said", boots(func(w *world) { w.health.State = healthcheck.Passing }), "critical: Startup in progress", nil},
		{"READY was said to an earlier companion", boots(func(w *world) { w.set.Replaced, w.health.State = true, healthcheck.Passing }), unheard, func(w *world) string {
			w.s.Entry.ClusterID, w.volume.Marker.Value = "", nil
			_, trace := w.beat(t)
			return check(w.s.Server.Phase == Serving, "it does not serve", matches(join(trace), anew+"*"), join(trace))
		}},
		{"it boots under a replaced companion", boots(func(w *world) { w.set.Replaced = true; w.views = nil }), "ask view a within 7.5s; critical: Startup in progress", func(w *world) string {
			_, trace := w.beat(t)
			return check(join(trace) == "critical: Startup in progress", "it asks again with each beat")
		}},
		{"stopped under a replaced companion", func(w *world) {
			w.set.Replaced = true
			w.stops()
			w.health.State = healthcheck.Passing
			w.s.Membership.Role = Seeding
		}, "critical: stopped (stopping)", nil},
	})
	w := newWorld()
	w.stops()
	w.s.Entry.MissingSince, w.recordErr = began, errNot
	if w.beat(t); w.s.Entry.MissingSince.IsZero() {
		t.Error("a node that stopped forgets since when its entry is missing")
	}
}

// A server that does not come to the end of its stop is ended, and none that is stopped otherwise.
func TestStopHangs(t *testing.T) {
	t.Parallel()
	stopped := func(d time.Duration, f func(*world)) func(*world) {
		return func(w *world) {
			w.stops()
			w.s.Membership.Role, w.s.Server.StoppedAt = Seeding, began.Add(-d)
			f(w)
		}
	}
	const word, bound = "critical: stopped (stopping)", 12 * time.Second
	said := func(want bool) func(*world) string {
		return func(w *world) string {
			return check(w.logged("the server did not come to the end of its stop: ended, what it has confirmed is on disk after*") == want, "what the log says of it")
		}
	}
	nothing := func(*world) {}
	run(t, []row{
		{"it may end yet", stopped(bound-1, nothing), word, said(false)},
		{"it hangs", stopped(bound, nothing), "EndStop; " + word, said(true)},
		{"it may be given longer", stopped(bound, func(w *world) { w.set.StopTimeout = bound + 1 }), word, said(false)},
		{"it hangs for as long as was set", stopped(5*time.Second, func(w *world) { w.set.StopTimeout = 5 * time.Second }), "EndStop; " + word, said(true)},
		{"its application alone was stopped", stopped(bound, func(w *world) { w.fails["EndStop"] = ErrNotStopping }), "EndStop; " + word, said(false)},
		{"it cannot be asked", stopped(bound+endStopFor-1, func(w *world) { w.fails["EndStop"] = errNot }), "EndStop; " + word, said(false)},
		{"it was stopped long ago", stopped(bound+endStopFor, nothing), word, said(false)},
		{"it boots", func(w *world) { w.boots(Seeding); w.s.Server.StoppedAt = began.Add(-bound) }, "critical: Startup in progress", nil},
	})
}

const unheard = "ask view a within 7.5s; critical: RabbitMQ serves, and READY was not heard: verifying"

// Whatever was not heard: AMQP that answers for longer than a beat, on a node that RabbitMQ lists as running, and that listens
// by its own word, serves.
func TestServesUnheard(t *testing.T) {
	t.Parallel()
	answers := func(since time.Duration) func(*world) {
		return func(w *world) {
			w.health, w.s.Server.AnsweredSince = healthcheck.Result{State: healthcheck.Passing, Reason: "answers"}, began.Add(-since)
		}
	}
	boots := func(role Role, f func(*world)) func(*world) { return func(w *world) { w.boots(role); f(w) } }
	stops := func(f func(*world)) func(*world) {
		return func(w *world) { w.stops(); w.s.Partition.Restarting = "x"; f(w) }
	}
	not := func(running string, f func(*world)) func(*world) {
		return func(w *world) { f(w); w.known(viewOf("a,b,c", running)) }
	}
	serves := func(pending bool) func(*world) string {
		return func(w *world) string {
			s := w.s
			return check(s.Server.Phase == Serving, "it does not serve", s.Server.AnsweredSince.IsZero(), "it answers as one that does not serve", s.Entry.Pending == pending, "whether it is to be registered",
				s.Partition.Restarting == "", "it restarts", !s.Membership.Verified, "verified", w.logged("READY was not heard"), "the log says nothing")
		}
	}
	out := func(phase Phase) func(*world) string {
		return func(w *world) string { return check(w.s.Server.Phase == phase, "it serves") }
	}
	beat := ttl / 3
	run(t, []row{
		{"booting, for a beat", boots(Seeding, answers(beat)), "critical: Startup in progress", out(Booting)},
		{"booting, for longer", boots(Seeding, answers(beat+1)), unheard, serves(false)},
		{"a member that waits for others", boots(Member, answers(beat+1)), unheard, serves(false)},
		{"with an alarm", boots(Member, func(w *world) { answers(beat + 1)(w); w.health.State = healthcheck.Warning }), unheard, serves(false)},
		{"a joiner out of time", boots(Joining, func(w *world) { answers(beat + 1)(w); w.s.Join.Deadline = began.Add(-time.Second) }), unheard, serves(false)},
		{"a joiner out of time that has just begun to answer", boots(Joining, func(w *world) { answers(beat)(w); w.s.Join.Deadline = began.Add(-time.Second) }), "FailJoin; StopServer!; *", out(Booting)},
		{"an order waits for the server", boots(Member, func(w *world) { answers(beat + 1)(w); w.order(CarryOn{Lost: list("b"), Forced: true}) }), unheard, serves(false)},
		{"booting, and RabbitMQ does not list it", not("b,c", boots(Seeding, answers(beat+1))), "ask view a within 7.5s; critical: Startup in progress", out(Booting)},
		{"booting, and RabbitMQ does not say", boots(Seeding, func(w *world) { answers(time.Hour)(w); w.views = nil }), "ask view a within 7.5s; critical: Startup in progress", out(Booting)},
		{"it cannot read its data yet", boots(Member, func(w *world) {
			answers(beat + 1)(w)
			v := viewOf("a,b,c", "a")
			v.Listeners = w.views["a"].Value.Listeners
			w.views["a"] = Answer(v, errNot)
		}), unheard, serves(false)},
		{"in maintenance mode, and somebody has its port", boots(Member, func(w *world) { answers(time.Hour)(w); w.views["a"] = Answer(viewOf("a,b,c", "a,b,c"), nil) }), "ask view a within 7.5s; *critical: Startup in progress", out(Booting)},
		{"drained under an earlier companion, and somebody has its port", boots(Member, func(w *world) {
			answers(time.Hour)(w)
			w.set.Replaced = true
			w.views["a"] = Answer(viewOf("a,b,c", "a,b,c"), nil)
		}), "ask view a within 7.5s; *critical: Startup in progress", out(Booting)},
		{"stopped, for a beat", stops(answers(beat)), "*critical: *stopped (stopping)*", out(Stopped)},
		{"stopped, for longer", stops(answers(beat + 1)), unheard, serves(true)},
		{"stopped, and drained", stops(func(w *world) { answers(beat + 1)(w); w.drained(Maintenance{Done: true, At: began}) }), unheard, serves(true)},
		{"it is being stopped, and never comes to its listeners", stops(func(w *world) {
			answers(time.Minute)(w)
			v := viewOf("a,b,c", "a,b,c")
			v.Stops = true
			w.views["a"] = Answer(v, nil)
		}), "ask view a within 7.5s; *critical: *stopped (stopping)*", out(Stopped)},
		{"paused", not("", stops(answers(beat+1))), "ask view a within 7.5s; *critical: *stopped (stopping)*", out(Stopped)},
	})
	// It has answered without a break.
	for name, set := range map[string]func(*world){"booting": boots(Seeding, func(*world) {}), "stopped": stops(func(w *world) { w.s.Membership.Role = Seeding })} {
		w := newWorld()
		set(w)
		phase, took := w.s.Server.Phase, ""
		for _, up := range []bool{true, true, false, true, true, true} {
			w.health.State = healthcheck.Critical
			if up {
				w.health.State = healthcheck.Passing
			}
			w.beat(t)
			took += fmt.Sprint(w.s.Server.Phase != phase, " ")
			w.now = w.now.Add(beat)
		}
		if want := "false false false false false true "; took != want {
			t.Errorf("%s: it serves %s, want %s", name, took, want)
		}
	}
	// A stop begins anew, and what answers then is looked at anew.
	w := newWorld()
	w.s.Server.Phase, w.s.Server.AnsweredSince = Booting, began.Add(-time.Hour)
	if s, _ := Heard(w.set, w.s, "STOPPING=1", began); !s.Server.AnsweredSince.IsZero() {
		t.Error("one that stops answers still")
	}
	if s, _ := Heard(w.set, w.s, "READY=1", began); !s.Server.AnsweredSince.IsZero() {
		t.Error("one that serves answers as one that does not")
	}
}

// A server whose READY was lost may listen where no file says: RabbitMQ is asked after a boot's time,
// or at once where another companion may have heard it. What is unknown changes nothing.
func TestServesElsewhere(t *testing.T) {
	t.Parallel()
	boots := func(role Role, since time.Duration, f func(*world, *peers.View)) func(*world) {
		return func(w *world) {
			w.boots(role)
			w.s.Join.Deadline = began.Add(time.Second)
			w.s.Server.Started, w.rechecked = began.Add(-since), &healthcheck.Result{State: healthcheck.Passing, Reason: "10.0.0.7 answers"}
			v := viewOf("a,b,c", "a,b,c")
			v.Listeners = []peers.Listener{{IP: "10.0.0.7", Port: 5999}}
			f(w, &v)
			w.views["a"] = Answer(v, w.fails["view"])
		}
	}
	nothing := func(*world, *peers.View) {}
	replaced := func(w *world, _ *peers.View) { w.set.Replaced = true }
	const asked, word, soon = "ask view a within 7.5s; ", "critical: Startup in progress", time.Second
	serves := func(w *world) string { return check(w.s.Server.Phase == Serving, "it does not serve") }
	answers := func(w *world) string {
		return check(w.s.Server.Phase == Booting, "it serves at once", w.s.Server.AnsweredSince.Equal(began), "it does not answer")
	}
	run(t, []row{
		{"another companion may have heard it", boots(Seeding, soon, replaced), asked + "ask check; critical: RabbitMQ serves, and READY was not heard: verifying", serves},
		{"a joiner out of time", boots(Joining, soon, func(w *world, _ *peers.View) { w.set.Replaced, w.s.Join.Deadline = true, began.Add(-1) }), asked + "ask check; critical: RabbitMQ serves*", serves},
		{"an ordinary boot", boots(Seeding, soughtEvery, nothing), word, nil},
		{"one that takes long", boots(Seeding, soughtEvery+1, nothing), asked + "ask check; " + word, answers},
		{"a joiner with little time", boots(Joining, 10*time.Second+1, func(w *world, _ *peers.View) { w.set.JoinTimeout = 30 * time.Second }), asked + "ask check; " + word, answers},
		{"others have no such time", boots(Seeding, 10*time.Second+1, func(w *world, _ *peers.View) { w.set.JoinTimeout = 30 * time.Second }), word, nil},
		{"it was asked before", boots(Seeding, time.Hour, func(w *world, _ *peers.View) { w.set.Replaced, w.s.Server.SoughtAt = true, began.Add(-soughtEvery) }), word, nil},
		{"that was long ago", boots(Seeding, time.Hour, func(w *world, _ *peers.View) { w.s.Server.SoughtAt = began.Add(-soughtEvery - 1) }), asked + "ask check; " + word, answers},
		{"it does not answer there either", boots(Seeding, soon, func(w *world, _ *peers.View) { w.set.Replaced, w.rechecked = true, nil }), asked + "ask check; " + word, nil},
		{"RabbitMQ does not list it", boots(Seeding, soon, func(w *world, v *peers.View) { w.set.Replaced, v.Running = true, list("b,c") }), asked + word, nil},
		{"it is being stopped", boots(Seeding, soon, func(w *world, v *peers.View) { w.set.Replaced, v.Stops = true, true }), asked + word, nil},
		{"it listens nowhere", boots(Seeding, soon, func(w *world, v *peers.View) { w.set.Replaced, v.Listeners = true, nil }), asked + word, nil},
		{"RabbitMQ does not say", boots(Seeding, soon, func(w *world, v *peers.View) { w.set.Replaced, *v, w.fails["view"] = true, peers.View{}, errNot }), asked + word, nil},
		{"it stopped", boots(Seeding, time.Hour, func(w *world, _ *peers.View) { w.set.Replaced = true; w.stops() }), "critical: stopped (stopping)", nil},
	})
}

func TestStart(t *testing.T) {
	t.Parallel()
	set := newWorld().set
	s := Start(set, Membership{Role: Joining, Claim: "c"}, began)
	if s.Server != (Server{Phase: Booting, LastStatus: "booting", Started: began}) || s.Membership.Claim != "c" || !s.Join.Deadline.Equal(began.Add(set.JoinTimeout)) {
		t.Errorf("%+v", s)
	}
}
