package policy

import (
	"fmt"
	"testing"
	"time"

	"rmq-entrypoint/peers"
)

// What this node's entry in the catalog tells it.
func TestEntry(t *testing.T) {
	t.Parallel()
	ago := func(d time.Duration) time.Time { return began.Add(-d) }
	other := func(change func(p *peers.Peer)) func(*world) {
		return func(w *world) {
			p := passes("a")
			p.Boot, p.Volume, p.ID = "theirs", "other", "rabbitmq-a"
			change(&p)
			w.listed(p, passes("b"), passes("c"))
		}
	}
	const well = quiet + "passing: answers"
	const lapsed = "ask record; ask catalog; ask view a within 7.5s; "
	named := func(want bool) func(w *world) string {
		return func(w *world) string {
			return check(want == w.logged("another container has this node's name, and an entry in Consul: give it another one why a at a:1*"), fmt.Sprint(w.log))
		}
	}
	missing := func(w *world) { w.catalog = Answer([]peers.Peer{passes("b"), passes("c")}, nil) }
	since := func(at time.Time) func(w *world) string {
		return func(w *world) string {
			return check(w.s.Entry.MissingSince.Equal(at), fmt.Sprint("missing since ", w.s.Entry.MissingSince))
		}
	}
	listed := func(change func(p *peers.Peer)) func(*world) {
		return func(w *world) {
			p := w.mine()
			change(&p)
			w.catalog = Answer([]peers.Peer{p, passes("b"), passes("c")}, nil)
		}
	}
	has := func(status string) func(p *peers.Peer) { return func(p *peers.Peer) { p.Status = status } }
	long := func(f func(*world)) func(*world) {
		return func(w *world) { f(w); w.s.Entry.MissingSince = ago(time.Minute) }
	}
	foreign := func(w *world) {
		p := w.mine()
		p.ClusterID = "old"
		w.catalog = Answer([]peers.Peer{p, passes("b"), passes("c")}, nil)
	}
	lost := func(w *world) { w.s = w.s.EntryLost(); w.listed(passes("b"), passes("c")) }
	busy := func(w *world) { w.views["a"] = Answer(peers.View{}, errNot) }
	const stays = "passing: answers; not checked against the record: no answer yet"
	run(t, []row{
		{"a namesake", other(func(*peers.Peer) {}), well, named(true)},
		{"a namesake that is critical", other(func(p *peers.Peer) { p.Passing = false }), well, named(true)},
		{"a namesake that lapsed", other(func(p *peers.Peer) { p.Beating = false }), well, named(false)},
		{"a namesake whose agent failed", other(func(p *peers.Peer) { p.AgentFailed = true }), well, named(false)},
		{"an earlier start on this volume", other(func(p *peers.Peer) { p.Volume = "va" }), well, named(false)},
		{"another node", other(func(p *peers.Peer) { p.Node = "d" }), "*", named(false)},

		{"listed", func(w *world) { w.s.Entry.MissingSince = ago(time.Minute) }, well, since(Never)},
		{"missing", missing, well, since(began)},
		{"missing for long", func(w *world) { missing(w); w.s.Entry.MissingSince = ago(time.Minute) }, well, since(ago(time.Minute))},
		{"never reported", func(w *world) { missing(w); w.s.Entry.ReportedAt = Never }, well, since(Never)},
		{"missing, and an earlier rule speaks", func(w *world) { missing(w); w.s.Entry.MissingSince = ago(time.Minute); w.recordErr = errNot }, "ask record; *", since(Never)},
		{"missing, and a write comes between", func(w *world) {
			missing(w)
			w.s.Entry.MissingSince = ago(time.Minute)
			w.record = formed("a,b")
		}, quiet + "WriteRecord(a running member was not on record: added c); passing: answers", since(ago(time.Minute))},
		{"missing, and an order is dropped first", func(w *world) {
			missing(w)
			w.s.Entry.MissingSince = ago(time.Minute)
			w.order(CarryOn{Lost: list("b")})
		}, "ask record; DropCarryOn; ask catalog; ask managed within 1s; passing: answers", since(ago(time.Minute))},

		{"another status than was told", listed(has(Critical)), well, since(began)},
		{"another status for long", long(listed(has(Warning))), well, since(ago(time.Minute))},
		{"no check of this start", listed(has("")), well, since(began)},
		{"passing, and critical was told", func(w *world) { w.s.Entry.Status = Critical }, well, since(began)},
		{"another status, told just now", func(w *world) { listed(has(Critical))(w); w.s.Entry.ReportedAt = ago(ttl/6 - 1) }, well, since(Never)},
		{"another status for long, told once more just now", long(func(w *world) { listed(has(Critical))(w); w.s.Entry.ReportedAt = ago(time.Second) }), well, since(ago(time.Minute))},
		{"missing, told just now", func(w *world) { missing(w); w.s.Entry.ReportedAt = ago(time.Second) }, well, since(began)},
		{"another status, never told", func(w *world) { listed(has(Critical))(w); w.s.Entry.ReportedAt = Never }, well, since(Never)},
		{"the status that was told, and its agent failed", long(listed(func(p *peers.Peer) { p.Passing, p.AgentFailed = false, true })), well, since(Never)},
		{"the status that was told, and another check fails", long(listed(func(p *peers.Peer) { p.Passing = false })), well, since(Never)},
		{"another status with an agent left behind", long(func(w *world) { listed(has(Critical))(w); w.catalog.Value = append(w.catalog.Value, w.mine()) }), well, since(Never)},
		{"an earlier entry of this start, from before the agent lost it", listed(func(p *peers.Peer) { p.Made = "earlier" }), well, since(began)},
		{"an earlier entry of this start, for long", long(listed(func(p *peers.Peer) { p.Made = "" })), well, since(ago(time.Minute))},
		{"another start's", listed(func(p *peers.Peer) { p.Boot = "earlier" }), well, since(began)},

		{"an older one came late", foreign, lapsed + enrolled, func(w *world) string {
			return check(w.s.Entry.ClusterID == "id" && w.s.Membership.Verified, fmt.Sprintf("%+v", w.s.Entry), w.seen.Did[0].Action.(Enroll).Enter, "not entered again", w.s.Entry.Lapse == Lapse{}, "it is verified anew each beat")
		}},
		{"an older one came late, and RabbitMQ does not say who its cluster is", func(w *world) { foreign(w); busy(w) }, lapsed + stays, func(w *world) string {
			return check(w.s.Membership.Verified && w.s.Entry.Lapse.Owed, "it is not verified anew with the next beat", w.s.Entry.ClusterID == "", "it is not entered again then")
		}},
		{"an older one is left with a dead agent", func(w *world) { foreign(w); w.catalog.Value = append(w.catalog.Value, w.mine()) }, well, nil},
		{"not entered yet", func(w *world) { foreign(w); w.s.Entry.ClusterID = "" }, lapsed + enrolled, nil},

		{"it was lost", lost, lapsed + enrolled, func(w *world) string {
			return check(w.s.Entry.Lapse == Lapse{}, "it is verified anew each beat", w.s.Membership.VerifiedSince.Equal(ago(50*time.Minute)), "since now", w.logged("Consul lost this node's entry, or had another one: verifying anew"), "the log does not say it")
		}},
		{"it was lost, and RabbitMQ does not say who its cluster is", func(w *world) { lost(w); busy(w) }, lapsed + stays, func(w *world) string {
			return check(w.s.Membership.Verified && w.s.Entry.Lapse.Owed, "it is not verified anew with the next beat", w.logged("Consul lost*verifying anew when RabbitMQ says who its cluster is*"), "the log does not say it")
		}},
		{"it was lost, and the record cannot be read", func(w *world) { lost(w); w.recordErr = errNot }, "ask record; ask managed within 1s; passing: *", nil},
		{"it was lost, and the catalog cannot be read", func(w *world) { lost(w); w.catalog.Err = errNot }, "ask record; ask catalog; ask managed within 1s; passing: *", nil},
		{"it was lost, and RabbitMQ is no longer in its cluster", func(w *world) { lost(w); w.views["a"] = Answer(viewOf("a,b,c", "b,c"), nil) }, lapsed + no + "RabbitMQ does not list this node as running", nil},
		{"it was lost, the name is another volume's, and RabbitMQ does not say", func(w *world) { lost(w); busy(w); w.record = w.record.With("a", "other") }, lapsed + "critical: this volume (va) was replaced*", nil},
		{"it was lost before it was verified", func(w *world) { w.s.Membership.Verified = false; lost(w) }, "ask record; ask catalog; ask view a; " + enrolled, func(w *world) string {
			return check(w.s.Entry.Lapse == Lapse{}, "it is verified anew each beat")
		}},

		{"no beat for longer than the TTL", func(w *world) { w.s.Entry.ReportedAt = ago(ttl + 1) }, lapsed + enrolled, func(w *world) string {
			return check(w.s.Entry.Lapse.Seen && !w.s.Entry.Lapse.Owed, "it is verified anew each beat", w.logged("no heartbeat reached Consul for longer than the TTL: verifying anew*"), "the log does not say it")
		}},
		{"no beat for longer, and RabbitMQ does not say who its cluster is", func(w *world) {
			w.s.Entry.ReportedAt = ago(ttl + 1)
			w.views["a"] = Answer(peers.View{}, errNot)
		}, lapsed + "passing: answers; not checked against the record: no answer yet", func(w *world) string {
			return check(w.s.Membership.Verified && w.s.Entry.Lapse.Owed, "it is not verified anew with the next beat", w.logged("*verifying anew when RabbitMQ says who its cluster is*"), "the log does not say it")
		}},
		{"the same, and it says so with the next beat", func(w *world) { w.s.Entry.Lapse = Lapse{Owed: true, EarnedAt: began} }, lapsed + enrolled, func(w *world) string {
			return check(!w.s.Entry.Lapse.Owed, "it is verified anew each beat")
		}},
		{"the same, and RabbitMQ is no longer in its cluster", func(w *world) {
			w.s.Entry.Lapse.Owed = true
			w.views["a"] = Answer(viewOf("a,b,c", "b,c"), nil)
		}, lapsed + no + "RabbitMQ does not list this node as running", nil},
		{"its check lapsed, as Consul says", listed(func(p *peers.Peer) { p.Passing, p.Beating, p.Status = false, false, Critical }), lapsed + enrolled, func(w *world) string {
			return check(w.s.Entry.Lapse.Seen, "it is verified anew each beat")
		}},
		{"the catalog has not heard yet that it beats again", func(w *world) {
			listed(func(p *peers.Peer) { p.Passing, p.Beating, p.Status = false, false, Critical })(w)
			w.s.Entry.Status = Critical
		}, well, nil},
		{"the catalog still has the words of a lapse that is over", listed(func(p *peers.Peer) { p.Beating = false }), well, nil},
		{"an earlier entry's check lapsed", listed(func(p *peers.Peer) { p.Made, p.Passing, p.Beating, p.Status = "earlier", false, false, Critical }), well, nil},
		{"no beat for the TTL", func(w *world) { w.s.Entry.ReportedAt = ago(ttl) }, well, nil},
		{"no beat for longer, and verified since", func(w *world) {
			w.s.Entry.ReportedAt, w.s.Entry.Lapse = ago(time.Minute), Lapse{Seen: true, EarnedAt: ago(ttl)}
		}, well, nil},
		{"no beat for longer, and verified a TTL ago", func(w *world) {
			w.s.Entry.ReportedAt, w.s.Entry.Lapse = ago(time.Minute), Lapse{Seen: true, EarnedAt: ago(ttl + 1)}
		}, lapsed + enrolled, nil},
		{"no beat yet", func(w *world) { w.s.Entry.ReportedAt = Never }, well, nil},
		{"no beat, and Consul is away", func(w *world) { w.s.Entry.ReportedAt, w.recordErr = ago(time.Minute), errNot }, "ask record; ask managed within 1s; passing: *", nil},
	})
}

// What reports and registrations make of the entry.
func TestEntryTold(t *testing.T) {
	t.Parallel()
	e := Entry{Pending: true, ClusterID: "id", MissingSince: began, Lapse: Lapse{Seen: true, Owed: true}}
	if next := e.Tried(true); next.Pending || next.Status != Critical || !next.MissingSince.IsZero() {
		t.Errorf("%+v", next)
	}
	if next := e.Tried(false); next.Pending || next.MissingSince.IsZero() || next.Status != e.Status {
		t.Errorf("%+v", next)
	}
	if next := e.Reported(Warning, began); next.Lapse.Seen || !next.Lapse.Owed || next.Status != Warning || !next.ReportedAt.Equal(began) {
		t.Errorf("%+v", next)
	}
	for after, want := range map[time.Duration]bool{0: false, 7500 * time.Millisecond: false, 7501 * time.Millisecond: true} {
		if got := e.NeverListed(began.Add(after), 5*time.Second); got != want {
			t.Errorf("after %s: %t", after, got)
		}
	}
	if (Entry{}).NeverListed(began, time.Second) {
		t.Error("one that is listed")
	}
	w := newWorld()
	w.s.Entry.MissingSince = began
	if s := w.s.EntryLost(); !s.Membership.Verified || !s.Entry.Lapse.Owed || !s.Entry.MissingSince.IsZero() || s.Entry.Status != Critical {
		t.Errorf("%+v", s.Entry)
	}
}

// A node that is critical for long is registered over its entry before Consul removes it.
func TestRenew(t *testing.T) {
	t.Parallel()
	const reap = 4 * time.Minute
	for _, c := range []struct {
		status string
		since  time.Time
		want   time.Time
		due    bool
	}{
		{Passing, began, Never, false},
		{Warning, began, Never, false},
		{Critical, Never, began, false},
		{Critical, began.Add(-2 * time.Minute), began.Add(-2 * time.Minute), false},
		{Critical, began.Add(-2*time.Minute - 1), began, true},
	} {
		if e, due := (Entry{CriticalSince: c.since}).Renew(c.status, began, reap); due != c.due || !e.CriticalSince.Equal(c.want) {
			t.Errorf("%+v: %s, %t", c, e.CriticalSince, due)
		}
	}
}

// One that stopped by itself is there again after a TTL.
func TestPresent(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		phase Phase
		ago   time.Duration
		want  bool
	}{{Stopped, ttl, true}, {Stopped, ttl - 1, false}, {Serving, time.Hour, false}, {Booting, time.Hour, false}} {
		if got := (Server{Phase: c.phase, StoppedAt: began.Add(-c.ago)}).Present(began, ttl); got != c.want {
			t.Errorf("%+v: %t", c, got)
		}
	}
}

// A node takes its name by what it can show for it, whether the entrypoint or its
// companion registers it first.
func TestStanding(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		membership Membership
		want       peers.Standing
	}{
		{Membership{}, peers.Blank},
		{Membership{Role: Joining, ClusterID: "c"}, peers.Blank},
		{Membership{Role: Member}, peers.Blank}, // adopted data, which has no marker
		{Membership{Role: Member, ClusterID: "c"}, peers.Starting},
		{Membership{Role: Member, ClusterID: "c", VerifiedSince: began}, peers.Serving},
	} {
		if got := (State{Membership: c.membership}).Standing(); got != c.want {
			t.Errorf("%+v: %v, not %v", c.membership, got, c.want)
		}
	}
	reported := State{Membership: Membership{Role: Member, ClusterID: "c"}, Entry: Entry{ReportedAt: began}}
	if got := reported.Standing(); got != peers.Blank {
		t.Errorf("once Consul took a report: %v", got)
	}
}

// A report that says nothing new is sent once in a third of the TTL, however often the node is looked
// at, and with each heartbeat of that length, though it is a little early.
func TestReportIsDue(t *testing.T) {
	for name, c := range map[string]struct {
		interval, ago time.Duration
		status        string
		want          bool
	}{
		"with the next heartbeat":              {0, 5 * time.Second, Passing, true},
		"with one that is early":               {0, 4 * time.Second, Passing, true},
		"with a look between two":              {0, 2 * time.Second, Passing, false},
		"with another status":                  {0, 0, Warning, true},
		"with short heartbeats, in their time": {time.Second, 4500 * time.Millisecond, Passing, true},
		"with short heartbeats, before that":   {time.Second, 4 * time.Second, Passing, false},
	} {
		set := Settings{TTL: ttl, Interval: c.interval}
		if got := (Entry{Status: Passing, ReportedAt: began}).Due(set, c.status, began.Add(c.ago)); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
