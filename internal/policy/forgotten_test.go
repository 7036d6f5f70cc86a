package policy

import (
	"fmt"
	"testing"
	"time"

	"rmq-entrypoint/peers"
)

// A member that RabbitMQ was made to forget goes off the record, once every running member has said that it does not list
// it, and nothing else.
func TestForgottenByHand(t *testing.T) {
	t.Parallel()
	const long = 2*ttl/3 + time.Second
	lacks := func(change func(*world)) func(*world) {
		return func(w *world) {
			w.record = formed("a,b,c")
			w.judged(viewOf("a,b", "a,b"))
			w.views["b"] = Answer(viewOf("a,b", "a,b"), nil)
			w.listed(passes("b"))
			w.s.View.PassingPeers = "b"
			w.s.Neighbours.UnlistedSince = map[string]time.Time{"c": began.Add(-long)}
			change(w)
		}
	}
	const (
		asks = quiet + "ask view a within 7.5s; ask view b within 7.5s; "
		well = "passing: answers"
		off  = asks + "WriteRecord(RabbitMQ was made to forget c); " + well
	)
	kept := func(again bool) func(*world) string {
		return func(w *world) string {
			since, counts := w.s.Neighbours.UnlistedSince["c"]
			return check(w.on("a,b,c"), fmt.Sprint(w.record.Members), !again || counts && since.Equal(began), fmt.Sprint("since ", since), again || counts == since.Equal(began.Add(-long)), fmt.Sprint("since ", since))
		}
	}
	run(t, []row{
		{"by hand", lacks(func(*world) {}), off, func(w *world) string {
			g := w.record.Gone["c"]
			refuses := w.record.Refuses("c", "vc", "id")
			return check(w.on("a,b"), fmt.Sprint(w.record.Members), g.Forgotten && g.Volume == "vc" && g.By == "a" && g.Another("c") && !g.MayReturn, fmt.Sprintf("%+v", g),
				matches(refuses, "c was taken off cluster id on * by a (RabbitMQ was made to forget it, by hand); the cluster goes on with a, b*"), refuses,
				!w.record.Returns("c", "vc") && w.record.Refuses("c", "another", "") == "", "who may come back", w.logged("RabbitMQ was made to forget a member by hand*member c volume vc"), "the log does not say so")
		}},
		{"its entry has lapsed", lacks(func(w *world) { p := beats("c"); p.Beating = false; w.listed(passes("b"), p) }), off, nil},
		{"its agent is not reached any more", lacks(func(w *world) { p := beats("c"); p.AgentFailed = true; w.listed(passes("b"), p) }), off, nil},
		{"published by somebody else", lacks(func(w *world) { w.record.Members["c"] = "" }), off, nil},
		{"just now", lacks(func(w *world) { w.s.Neighbours.UnlistedSince = nil }), quiet + well, kept(true)},
		{"for two beats", lacks(func(w *world) { w.s.Neighbours.UnlistedSince["c"] = began.Add(-2 * ttl / 3) }), quiet + well, nil},
		{"its entry beats", lacks(func(w *world) { w.listed(passes("b"), beats("c")) }), quiet + well, kept(false)},
		{"it is about to join", lacks(func(w *world) { w.record.Joining = map[string]string{"c": "vc"} }), quiet + well, kept(false)},
		{"it joins again, blank", lacks(func(w *world) { w.record.Unverified = map[string]string{"c": "vc"} }), quiet + well, kept(false)},
		{"another lists it", lacks(func(w *world) { w.views["b"] = Answer(viewOf("a,b,c", "a,b"), nil) }), asks + well, kept(true)},
		{"another does not say", lacks(func(w *world) { delete(w.views, "b") }), asks + well, kept(true)},
		{"another is in another cluster", lacks(func(w *world) { v := viewOf("a,b", "a,b"); v.ClusterID = "x"; w.views["b"] = Answer(v, nil) }), asks + well, kept(true)},
		{"it is listed after all", lacks(func(w *world) { w.views["a"] = Answer(viewOf("a,b,c", "a,b"), nil) }), quiet + "ask view a within 7.5s; " + well, kept(false)},
		{"it is listed again", lacks(func(w *world) { w.judged(viewOf("a,b,c", "a,b,c")); w.listed(passes("b"), passes("c")) }), quiet + well, kept(false)},
		{"for the first of those that run to write", lacks(func(w *world) {
			w.judged(viewOf("a,b", "a,b"))
			w.record = formed("A,a,b,c")
			w.judged(viewOf("A,a,b", "A,a,b"))
			w.listed(passes("A"), passes("b"))
			w.s.View.PassingPeers = "A,b"
		}), quiet + well, func(w *world) string { return check(w.on("A,a,b,c"), "written") }},
		{"there is no time to ask", lacks(func(w *world) { w.lasts = map[string]time.Duration{"catalog": ttl / 2} }), quiet + well, func(w *world) string { return check(w.on("a,b,c"), "it is off the record") }},
		{"one side of a partition", lacks(func(w *world) { w.known(apart("a", "a,b", "", "a a, b b", false)) }), "*critical: partitioned*", kept(false)},
		{"not verified", lacks(func(w *world) { w.s.Membership.Verified = false; w.views["a"] = Answer(peers.View{}, errNot) }), "ask record; ask catalog; ask view a; critical: not verified: *", kept(false)},
		{"its write fails", lacks(func(w *world) { w.fails["WriteRecord"] = errNot }), off, nil},

		{"joined again by hand", func(w *world) {
			w.record = formed("a,b,c").ForgottenByHand("c", began.Add(-time.Hour)).By("c", "a")
			w.judged(viewOf("a,b,c", "a,b,c"))
		}, quiet + "WriteRecord(a running member, which RabbitMQ had been made to forget: added c); " + well, func(w *world) string { return check(w.on("a,b,c"), "it is off the record") }},
		{"one that forget took for dead runs", func(w *world) {
			w.record = formed("a,b,c").ForgottenByOrder("c", "told to", began.Add(-time.Hour)).By("c", "b, rmq-entrypoint forget, on host h")
			w.judged(viewOf("a,b,c", "a,b,c"))
		}, quiet + "WriteRecord(a running member, which RabbitMQ had been made to forget: added c); " + well, func(w *world) string { return check(w.on("a,b,c"), "it is off the record") }},
		{"this one, which forget took for cut off, serves alone", func(w *world) {
			w.record = formed("a,b,c").ForgottenByOrder("a", "told to", began.Add(time.Second)).By("a", "b, rmq-entrypoint forget --force, on host h")
			w.judged(viewOf("a,b,c", "a"))
			w.s.Membership.Verified = false
		}, anew + no + "a was taken off cluster id on * by b, rmq-entrypoint forget --force, on host h (told to)*", nil},
		{"this one joined again by hand", func(w *world) {
			w.record = formed("a,b,c").ForgottenByHand("a", began.Add(-time.Hour)).By("a", "b")
			w.s.Membership.Verified = false
		}, anew + "WriteRecord(" + backOnRecord + "); " + enrolled, nil},
		{"this one serves alone", func(w *world) {
			w.record = formed("a,b,c").ForgottenByHand("a", began.Add(-time.Hour)).By("a", "b")
			w.judged(viewOf("a,b,c", "a"))
			w.s.Membership.Verified = false
		}, anew + no + "a was taken off cluster id on * by b (RabbitMQ was made to forget it, by hand)*", nil},
	})
}
