package policy

import (
	"fmt"
	"testing"
	"time"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/peers"
)

// A server that began behind the gate is told whom to join with each heartbeat until it has data, and stopped when it
// knows and does not look for them.
func TestGate(t *testing.T) {
	t.Parallel()
	gated := func(f func(*world)) func(*world) {
		return func(w *world) {
			w.boots(Joining)
			w.set.Gate, w.s.Join.Deadline, w.s.Server.Started = true, began.Add(time.Minute), began
			w.listed()
			if f != nil {
				f(w)
			}
		}
	}
	knew := func(since time.Time) func(*world) string {
		return func(w *world) string { return check(w.s.Join.KnewSince.Equal(since), fmt.Sprintf("%+v", w.s.Join)) }
	}
	alone := peers.View{Members: list("a"), Khepri: true}
	claimed := peers.Record{State: peers.Forming, Seed: "a", Claim: "claim", Members: volumes("a")}
	const word, asks = "critical: Startup in progress", "OpenGate; ask view a within 7.5s; "
	long := func(w *world) {
		w.s.Join.KnewSince = began.Add(-heldFor)
		w.views["a"] = Answer(alone, errNot)
	}
	seeds := func(r peers.Record) func(*world) {
		return gated(func(w *world) {
			w.s.Membership.Role, w.s.Membership.Claim, w.record = Seeding, "claim", r
		})
	}
	anew := func(why string) func(*world) string {
		return func(w *world) string {
			return check(w.logged("stopping the server, its restart decides afresh: "+why+"*"), "the log does not say it")
		}
	}
	other := claimed
	other.Claim = "another"
	run(t, []row{
		{"first told", gated(func(w *world) { w.fails["OpenGate"] = ErrNotKnown }), "OpenGate; " + word, knew(Never)},
		{"it knows", gated(nil), "OpenGate; " + word, knew(began)},
		{"it has known for a while", gated(func(w *world) { long(w); w.s.Join.KnewSince = began.Add(time.Second - heldFor) }), "OpenGate; " + word, knew(began.Add(time.Second - heldFor))},
		{"it has known for long", gated(long), asks + "StopServer!; " + word, anew("it was told whom to join, and has not begun to within 1m0s")},
		{"and joins", gated(func(w *world) {
			long(w)
			w.views["a"] = Answer(peers.View{Members: list("a,b"), Khepri: true}, errNot)
		}), asks + word, nil},
		{"and cannot be asked", gated(func(w *world) { long(w); w.views["a"] = Answer(peers.View{}, errNot) }), asks + word, nil},
		{"and does not stop", gated(func(w *world) { long(w); w.fails["StopServer"] = errNot }), asks + "StopServer!; " + word, nil},
		{"it cannot be told", gated(func(w *world) { w.fails["OpenGate"] = errNot }), "OpenGate; " + word, knew(Never)},
		{"it is the elder", gated(func(w *world) { w.fails["OpenGate"] = ErrElder }), "OpenGate; StopServer!; " + word, func(w *world) string {
			return check(w.logged("stopping the server, its restart decides afresh: "+ErrElder.Error()+"*"), "the log does not say it", w.s.Join.KnewSince.IsZero(), "it is taken to know")
		}},
		{"it has data", gated(func(w *world) { long(w); w.volume.Database.Value = true }), "ask record; ask catalog; " + word + "*", nil},
		{"whether it has data is unknown", gated(func(w *world) { long(w); w.volume.Database.Err = errNot }), word, nil},
		{"it is a member", gated(func(w *world) { long(w); w.s.Membership.Role = Member }), "ask record; ask catalog; " + word + "*", nil},
		{"there was no gate", gated(func(w *world) { long(w); w.set.Gate = false }), word, nil},
		{"a seed whose claim stands", seeds(claimed), "ask record; OpenGate; " + word, knew(began)},
		{"a seed whose claim was taken over", seeds(other), "ask record; StopServer!; " + word, anew("the founding on record is not the one that it claimed")},
		{"a seed beside a cluster", seeds(formed("b")), "ask record; StopServer!; " + word, anew("the founding on record is not the one that it claimed")},
		{"a seed without a record", seeds(peers.Record{}), "ask record; StopServer!; " + word, anew("the founding on record is not the one that it claimed")},
		{"a seed whose record cannot be read", func(w *world) { seeds(claimed)(w); w.recordErr = errNot }, "ask record; " + word, knew(Never)},
	})
}

// A joiner gives up when it is late, or where the cluster counts it in and has no leader without it, but not at once: it
// may be about to vote.
func TestJoinFails(t *testing.T) {
	t.Parallel()
	counted := viewOf("a,b", "b")
	counted.Khepri = true
	own := peers.View{Members: list("a"), Khepri: true}
	ago := func(d time.Duration) time.Time { return began.Add(-d) }
	joins := func(looks int, since time.Time, view peers.View, led Fact[bool], mine Fact[peers.View]) func(*world) {
		return func(w *world) {
			w.boots(Joining)
			w.s.Join = Join{Deadline: began.Add(time.Minute), StalledSince: since, StalledLooks: looks}
			w.listed(passes("b"))
			w.views["b"], w.leaders["b"], w.views["a"] = Answer(view, nil), led, mine
			if view.ClusterID == "" {
				w.views["b"] = Answer(view, errNot)
			}
		}
	}
	no, yes, boots := Answer(false, nil), Answer(true, nil), Answer(own, errNot)
	stuck := joins(stalledLooks, ago(time.Minute), counted, no, boots)
	with := func(f func(*world)) func(*world) { return func(w *world) { stuck(w); f(w) } }
	kept := func(w *world) string {
		return check(w.s.Join.StalledLooks == stalledLooks && w.s.Join.StalledSince.Equal(ago(time.Minute)), fmt.Sprintf("%+v", w.s.Join))
	}
	reset := func(w *world) string {
		return check(w.s.Join.StalledLooks == 0 && w.s.Join.StalledSince.IsZero(), fmt.Sprintf("%+v", w.s.Join))
	}
	given := func(why string) func(w *world) string {
		return func(w *world) string {
			return check(w.s.Join == Join{Deadline: began.Add(3 * time.Minute)}, fmt.Sprintf("%+v", w.s.Join), w.logged("stopping the server, its restart decides afresh: "+why+"*last_word *"), "the log does not say it")
		}
	}
	others := func(names ...string) peers.View {
		v := viewOf("a,b,c", "b,c")
		v.Khepri = true
		return v
	}
	const asks, word = "ask catalog within 7.5s; ask record within 7.5s; ask view b within 7.5s; ask leader b within 7.5s; ask view a within 7.5s; ", "critical: Startup in progress"
	const late, vain = "not ready within the join timeout (--join-timeout, RMQ_JOIN_TIMEOUT)", "the cluster counts this node in since a join that came to nothing, and has no leader without its vote, which it cannot give any more"
	two := "ask catalog within 7.5s; ask record within 7.5s; ask view b within 7.5s; "
	run(t, []row{
		{"late", with(func(w *world) { w.s.Join.Deadline = ago(time.Second) }), "FailJoin; StopServer!; " + word, given(late)},
		{"late, and cannot be marked", with(func(w *world) { w.s.Join.Deadline = ago(time.Second); w.fails["FailJoin"] = errNot }), "FailJoin; StopServer!; " + word, func(w *world) string {
			return check(w.logged("cannot mark the volume err no answer yet"), "the log does not say it", !w.logged("left running"), "it says that the server runs")
		}},
		{"late, stopped", with(func(w *world) { w.s.Join.Deadline = ago(time.Second); w.stops() }), "FailJoin; StopServer!; critical: stopped (stopping)", given(late)},
		{"on time to the second", with(func(w *world) { w.s.Join.Deadline = began; w.listed() }), "ask catalog within 7.5s; " + word, nil},
		{"a member is never late", with(func(w *world) {
			w.boots(Member)
			w.s.Join.Deadline = ago(time.Hour)
			w.listed(passes("b"), passes("c"))
		}), "ask record; ask catalog; " + word, nil},
		{"it serves", with(func(w *world) {
			w.s.Server.Phase, w.s.Join.Deadline = Serving, ago(time.Hour)
			w.health.State = healthcheck.Critical
		}), "ask view a within 5s; critical: refused", nil},
		{"stalled", stuck, asks + "FailJoin; StopServer!; " + word, given(vain)},
		{"stalled, stopped", with((*world).stops), asks + "FailJoin; StopServer!; critical: stopped (stopping)", given(vain)},
		{"few looks", joins(stalledLooks-2, ago(time.Minute), counted, no, boots), asks + word, func(w *world) string {
			return check(w.s.Join.StalledLooks == stalledLooks-1, "it is not counted")
		}},
		{"the last of them", joins(stalledLooks-1, ago(time.Minute), counted, no, boots), asks + "FailJoin*", nil},
		{"not for long", joins(stalledLooks, ago(stalledFor), counted, no, boots), asks + word, nil},
		{"at first", joins(0, Never, counted, no, boots), asks + word, func(w *world) string {
			return check(w.s.Join.StalledLooks == 1 && w.s.Join.StalledSince.Equal(began), fmt.Sprintf("%+v", w.s.Join))
		}},
		{"before a join takes longer than usual", with(func(w *world) { w.s.Server.Started = ago(joinUsually - time.Second) }), word, kept},
		{"it may have data", with(func(w *world) { w.volume.Database.Value = true }), "ask record; ask catalog; " + word + "; RabbitMQ may wait for members that are not up: c", kept},
		{"whether it has data is unknown", with(func(w *world) { w.volume.Database.Err = errNot }), word, kept},
		{"not counted in", with(func(w *world) { v := counted; v.Members = list("b"); w.views["b"] = Answer(v, nil) }), two + word, reset},
		{"a majority without it", with(func(w *world) { w.views["b"] = Answer(others(), nil) }), two + word, reset},
		{"Mnesia", with(func(w *world) { v := counted; v.Khepri = false; w.views["b"] = Answer(v, nil) }), two + word, reset},
		{"it has a leader", joins(stalledLooks, ago(time.Minute), counted, yes, boots), two + "ask leader b within 7.5s; " + word, reset},
		{"whether it has a leader is unknown", joins(stalledLooks, ago(time.Minute), counted, Answer(false, errNot), boots), two + "ask leader b within 7.5s; " + word, kept},
		{"it knows the others itself: slow", joins(stalledLooks, ago(time.Minute), counted, no, Answer(peers.View{Members: list("a,b")}, errNot)), asks + word, reset},
		{"it boots", joins(stalledLooks, ago(time.Minute), counted, no, Answer(peers.View{}, errNot)), asks + word, kept},
		{"nobody can be asked", joins(stalledLooks, ago(time.Minute), peers.View{}, no, boots), two + word, kept},
		{"the catalog is unknown", with(func(w *world) { w.catalog.Err = errNot }), "ask catalog within 7.5s; " + word, kept},
		{"nobody beats", with(func(w *world) { w.listed(peers.Peer{Node: "b"}) }), "ask catalog within 7.5s; " + word, kept},
		{"a second one answers", with(func(w *world) { w.listed(passes("c"), passes("b")) }), "ask catalog within 7.5s; ask record within 7.5s; ask view c within 7.5s; ask view b within 7.5s; ask leader b within 7.5s; ask view a within 7.5s; FailJoin*", nil},
		{"one look a beat", joins(1, ago(time.Minute), counted, no, boots), asks + word, func(w *world) string {
			w.s.Join.StalledLooks = 1
			w.stops()
			w.drained(Maintenance{Leaving: true, Done: true})
			w.record = formed("a,b").Left("a", "told to", ago(time.Hour))
			_, trace := w.beat(t)
			return check(join(trace) == asks+"StopServer; critical: leaving the cluster for good: it has left, and the server stops", join(trace), w.s.Join.StalledLooks == 2, fmt.Sprint(w.s.Join.StalledLooks, " looks"))
		}},
		{"it all takes too long", with(func(w *world) {
			w.lasts = map[string]time.Duration{"catalog": 4 * time.Second, "view": 4 * time.Second}
		}), "ask catalog within 7.5s; ask record within 3.5s; ask view b within 3.5s; " + word, kept},
		{"a stranger beats", with(func(w *world) { w.record = formed("c") }), "ask catalog within 7.5s; ask record within 7.5s; " + word, kept},
		{"the record is unknown", with(func(w *world) { w.recordErr = errNot }), "ask catalog within 7.5s; ask record within 7.5s; " + word, kept},
	})
}

// A joiner that came up alone joins by itself while it has nothing to lose, and stands down where nobody can be joined.
func TestJoinExplicitly(t *testing.T) {
	t.Parallel()
	alone := func(f func(*world)) func(*world) {
		return func(w *world) {
			w.serves(Joining)
			v := peers.View{ClusterID: "mine", Members: list("a"), Running: list("a")}
			w.known(v)
			w.record = formed("b,c").Joins("a", "va", began)
			w.queues = Answer(0, nil)
			w.views["b"] = Answer(viewOf("b,c", "b,c"), nil)
			f(w)
		}
	}
	same := func(*world) {}
	failing := func(a string) func(*world) { return func(w *world) { w.fails[a] = errNot } }
	const joins = anew + "ask queues; ask view b; WritePending(joining); "
	const stops = "WritePending(alone); StopServer!; " + no
	run(t, []row{
		{"nothing to lose", alone(same), joins + "JoinPeer(b)!; " + no + "joined b explicitly", func(w *world) string {
			return check(w.logged("came up alone by accident (is this host's clock behind?): joining explicitly peer b"), "the log does not say it")
		}},
		{"it is in the list", alone(func(w *world) { w.views["b"] = Answer(viewOf("a,b,c", "b,c"), nil) }), joins + "ForgetMember(a on b)!; JoinPeer(b)!; " + no + "joined b explicitly", nil},
		{"it is in the list, and not forgotten", alone(func(w *world) { w.views["b"] = Answer(viewOf("a,b,c", "b,c"), nil); w.fails["ForgetMember"] = errNot }), joins + "ForgetMember(a on b)!; JoinPeer(b)!; *", func(w *world) string {
			return check(w.logged("the cluster does not forget this node's earlier volume err no answer yet"), "the log does not say it")
		}},
		{"it cannot join", alone(failing("JoinPeer")), joins + "JoinPeer(b)!; " + no + "came up alone and cannot join b: no answer yet", nil},
		{"it cannot be marked", alone(failing("WritePending")), joins + no + "no answer yet", func(w *world) string { return check(!w.logged("left running"), "the log says more") }},
		{"it has queues", alone(func(w *world) { w.queues.Value = 7 }), anew + "ask queues; " + no + "SPLIT: came up alone beside cluster id, and holds 7 queues: move what is in them, then empty this volume", nil},
		{"it may have queues", alone(func(w *world) { w.queues.Err = errNot }), anew + "ask queues; " + no + "came up alone, and its queues cannot be counted: no answer yet", nil},
		{"the first peer does not answer", alone(func(w *world) { w.views["c"], w.views["b"] = w.views["b"], Answer(peers.View{}, errNot) }), anew + "ask queues; ask view b; ask view c; WritePending(joining); JoinPeer(c)!; *", nil},
		{"the first peer does not run", alone(func(w *world) { w.views["b"], w.views["c"] = Answer(viewOf("b,c", "c"), nil), w.views["b"] }), anew + "ask queues; ask view b; ask view c; WritePending(joining); JoinPeer(c)!; *", nil},
		{"the first peer is another cluster's", alone(func(w *world) {
			v := viewOf("b", "b")
			w.views["c"], v.ClusterID = w.views["b"], "other"
			w.views["b"] = Answer(v, nil)
		}), anew + "ask queues; ask view b; ask view c; WritePending(joining); JoinPeer(c)!; *", nil},
		{"the first peer says so", alone(func(w *world) {
			p := passes("b")
			p.ClusterID = "other"
			w.views["c"] = w.views["b"]
			w.listed(p, passes("c"))
		}), anew + "ask queues; ask view c; WritePending(joining); JoinPeer(c)!; *", nil},
		{"the first peer does not pass", alone(func(w *world) { w.views["c"] = w.views["b"]; w.listed(beats("b"), passes("c")) }), anew + "ask queues; ask view c; WritePending(joining); JoinPeer(c)!; *", nil},
		{"a stranger passes with the cluster's id", alone(func(w *world) {
			w.views["x"] = w.views["b"]
			w.listed(passes("x"))
		}), anew + "ask queues; " + stops + "alone", nil},
		{"nobody answers", alone(func(w *world) { w.listed() }), anew + "ask queues; " + stops + "alone", func(w *world) string {
			return check(w.logged("stopping the server: its restart decides afresh why came up alone, and no member answers to be joined"), "the log does not say it")
		}},
		{"nobody answers, and it cannot be marked", alone(func(w *world) { w.listed(); w.fails["WritePending"] = errNot }), anew + "ask queues; WritePending(alone); " + no + "alone", func(w *world) string {
			return check(w.logged("left running"), "the log does not say it")
		}},
		{"its name is another volume's", alone(func(w *world) { w.record.Members["a"] = "rightful" }), anew + stops + "alone", func(w *world) string {
			return check(w.logged("came up alone, and the record names volume rightful for this node, whose volume is va: nothing is done in its name"), "the log does not say it")
		}},
		{"nothing is founded yet", alone(func(w *world) { w.record = forming("b", "theirs"); w.s.Join.Deadline = began }), anew + no + "came up alone, and there is no formed cluster to join yet", nil},
		{"nothing is founded in time", alone(func(w *world) { w.record = forming("b", "theirs"); w.s.Join.Deadline = began.Add(-1) }), anew + stops + "came up alone, and there is no formed cluster to join yet", func(w *world) string {
			return check(w.logged("came up alone, and no cluster was formed to be joined within the join timeout (--join-timeout, RMQ_JOIN_TIMEOUT)"), "the log does not say it")
		}},
		{"the record is gone", alone(func(w *world) { w.record = peers.Record{}; w.s.Join.Deadline = began.Add(1) }), anew + no + "came up alone, and there is no formed cluster to join yet", nil},
	})
}
