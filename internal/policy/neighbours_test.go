package policy

import (
	"testing"
	"time"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/peers"
)

const quiet = "ask record; ask catalog; ask managed within 1s; "

// What a node sees of its neighbours, and nobody else does.
func TestNeighbours(t *testing.T) {
	t.Parallel()
	ago := func(d time.Duration) time.Time { return began.Add(-d) }
	sees := func(w *world, khepri bool, members, running string, others ...peers.Peer) {
		v := viewOf(members, running)
		v.Khepri = khepri
		w.judged(v)
		w.record = formed(members)
		w.listed(others...)
		w.s.Neighbours.Met = map[string]Met{}
		for _, p := range others {
			w.s.Neighbours.Met[p.Node] = Met{Runs: true, Entries: []string{p.ID + " " + p.Agent + " " + p.Boot}}
		}
	}
	unseen := func(w *world, since map[string]time.Time) { w.s.Neighbours.UnseenSince = since }
	newcomer := passes("c")
	newcomer.ClusterID, newcomer.Passing = "", false
	silent, cutOff := newcomer, newcomer
	silent.Beating, cutOff.AgentFailed = false, true
	no, yes := Answer(false, nil), Answer(true, nil)
	leader := func(w *world, f Fact[bool], before bool) { w.leaders["a"], w.s.Neighbours.LeaderMissing = f, before }
	const noQuorum = "critical: no majority: of the members "
	const askLeader = quiet + "ask leader a within 4s; "
	run(t, []row{
		{"all run", func(w *world) {}, quiet + "passing: answers", func(w *world) string {
			return check(len(w.s.Neighbours.UnseenSince) == 0, "members are unseen")
		}},
		{"one of three is down", func(w *world) { sees(w, true, "a,b,c", "a,b", passes("b")) }, quiet + "passing: answers", nil},
		{"two of three are down", func(w *world) { sees(w, true, "a,b,c", "a") }, quiet + noQuorum + "a, b, c only a run", func(w *world) string {
			return check(w.s.Fault == Fault{Reason: "no majority: of the members a, b, c only a run"}, "it is not kept")
		}},
		{"two of three are down, on Mnesia", func(w *world) { sees(w, false, "a,b,c", "a") }, quiet + "passing: answers", nil},
		{"one of two is down", func(w *world) { sees(w, true, "a,b", "a") }, quiet + noQuorum + "a, b only a run", nil},
		{"a newcomer votes before it runs", func(w *world) { sees(w, true, "a,c", "a", newcomer); leader(w, yes, false) }, askLeader + "passing: answers", nil},
		{"a newcomer that is silent", func(w *world) { sees(w, true, "a,c", "a", silent) }, quiet + noQuorum + "*", nil},
		{"a newcomer whose agent is not reached", func(w *world) { sees(w, true, "a,c", "a", cutOff) }, quiet + noQuorum + "*", nil},
		{"a newcomer that RabbitMQ does not know", func(w *world) { sees(w, true, "a,b", "a", newcomer) }, quiet + noQuorum + "*", nil},
		{"a newcomer that runs counts once", func(w *world) { sees(w, true, "a,b,c,d", "a,c", newcomer) }, quiet + noQuorum + "*", nil},
		{"a member that beats is none", func(w *world) { sees(w, true, "a,c", "a", beats("c")) }, quiet + noQuorum + "*", nil},
		{"no leader, seen first", func(w *world) { sees(w, true, "a,c", "a", newcomer); leader(w, no, false) }, askLeader + "passing: answers", func(w *world) string {
			return check(w.s.Neighbours.LeaderMissing, "it is forgotten")
		}},
		{"no leader, seen before", func(w *world) { sees(w, true, "a,c", "a", newcomer); leader(w, no, true) }, askLeader + "critical: no leader: of the members a, c only a run", func(w *world) string {
			return check(w.s.Fault.Reason != "", "it is not kept")
		}},
		{"a leader again", func(w *world) { sees(w, true, "a,c", "a", newcomer); leader(w, yes, true) }, askLeader + "passing: answers", func(w *world) string {
			return check(!w.s.Neighbours.LeaderMissing, "it is still missing")
		}},
		{"whether there is one is unknown", func(w *world) { sees(w, true, "a,c", "a", newcomer); leader(w, Answer(false, errNot), false) }, askLeader + "passing: answers", func(w *world) string {
			return check(!w.s.Neighbours.LeaderMissing, "unknown is no")
		}},
		{"it is unknown after one look without", func(w *world) { sees(w, true, "a,c", "a", newcomer); leader(w, Answer(false, errNot), true) }, askLeader + "passing: answers", func(w *world) string {
			return check(w.s.Neighbours.LeaderMissing, "what was seen is forgotten")
		}},
		{"it is unknown after two", func(w *world) {
			sees(w, true, "a,c", "a", newcomer)
			leader(w, Answer(false, errNot), true)
			w.s.Fault, w.s.Neighbours.StandsStill = Fault{Reason: "no leader: x"}, "no leader: x"
		}, askLeader + "critical: no leader: x (not looked at again: *)", func(w *world) string {
			return check(w.s.Fault.Reason != "", "it is not kept")
		}},
		{"it is unknown, and something else was wrong", func(w *world) {
			sees(w, true, "a,c", "a", newcomer)
			leader(w, Answer(false, errNot), true)
			w.s.Fault, w.s.Neighbours.StandsStill = Fault{Reason: "a fault"}, "no leader: x"
		}, askLeader + "passing: answers", nil},
		{"a majority runs, and there was none", func(w *world) { leader(w, no, true) }, quiet + "passing: answers", func(w *world) string {
			return check(!w.s.Neighbours.LeaderMissing, "it is still missing")
		}},

		{"the other serves without this one", func(w *world) {
			sees(w, false, "a,b", "a", passes("b"))
			unseen(w, map[string]time.Time{"b": ago(time.Minute)})
		},
			quiet + "critical: b serve, but this node does not see them run", func(w *world) string {
				return check(w.s.View.PassingPeers == "", "it does not look again with the next beat", w.s.Neighbours.UnseenSince["b"].Equal(ago(time.Minute)), "it begins anew")
			}},
		{"at first", func(w *world) { sees(w, false, "a,b", "a", passes("b")) }, quiet + "passing: answers", func(w *world) string {
			return check(w.s.Neighbours.UnseenSince["b"].Equal(began), "it is not noted")
		}},
		{"a dead one passes for its TTL", func(w *world) {
			sees(w, false, "a,b", "a", passes("b"))
			unseen(w, map[string]time.Time{"b": ago(20 * time.Second)})
		}, quiet + "passing: answers", nil},
		{"and not longer", func(w *world) {
			sees(w, false, "a,b", "a", passes("b"))
			unseen(w, map[string]time.Time{"b": ago(21 * time.Second)})
		}, quiet + "critical: b serve,*", nil},
		{"two others do", func(w *world) {
			sees(w, false, "a,b,c", "a", passes("b"), passes("c"))
			unseen(w, map[string]time.Time{"b": ago(time.Minute), "c": ago(time.Minute)})
		}, quiet + "critical: b, c serve,*", nil},
		{"it does not pass any more", func(w *world) {
			sees(w, false, "a,b", "a", beats("b"))
			unseen(w, map[string]time.Time{"b": ago(time.Minute)})
		}, quiet + "passing: answers", func(w *world) string {
			return check(len(w.s.Neighbours.UnseenSince) == 0, "the next time does not count from its own beginning")
		}},
		{"seen long ago", func(w *world) {
			sees(w, false, "a,b", "a", passes("b"))
			unseen(w, map[string]time.Time{"b": ago(time.Minute)})
			w.managed, w.s.View.At, w.views["a"] = Answer([]healthcheck.Node(nil), errNot), ago(viewEvery), Answer(viewOf("a,b", "a,b"), nil)
		}, quiet + "ask view a within 7.5s; passing: answers", nil},
		{"it is of another cluster", func(w *world) {
			p := passes("b")
			p.ClusterID = "other"
			sees(w, false, "a,b", "a", p)
			unseen(w, map[string]time.Time{"b": ago(time.Minute)})
		}, quiet + "passing: answers", nil},
		{"it is not on record", func(w *world) {
			sees(w, false, "a,b", "a", passes("b"))
			w.record = formed("a")
			unseen(w, map[string]time.Time{"b": ago(time.Minute)})
		}, quiet + "passing: answers", nil},
		{"most see each other", func(w *world) {
			sees(w, false, "a,b,c", "a,c", passes("b"), passes("c"))
			unseen(w, map[string]time.Time{"b": ago(time.Minute)})
		}, quiet + "passing: answers", nil},
		{"only half do", func(w *world) {
			sees(w, false, "a,b,c,d", "a,c", passes("b"), passes("c"), passes("d"))
			unseen(w, map[string]time.Time{"b": ago(time.Minute), "d": ago(time.Minute)})
		}, quiet + "critical: b, d serve,*", nil},
		{"under another start's entry", func(w *world) {
			p := passes("b")
			p.Boot = "counterfeit"
			sees(w, false, "a,b", "a", passes("b"))
			w.listed(p)
			unseen(w, map[string]time.Time{"b": ago(time.Minute)})
		}, quiet + "passing: answers", func(w *world) string {
			return check(len(w.s.Neighbours.UnseenSince) == 0 && w.s.View.PassingPeers != "", "it is looked at again with each beat")
		}},
		{"one of its entries has gone", func(w *world) {
			sees(w, false, "a,b", "a", passes("b"))
			w.s.Neighbours.Met["b"] = Met{Entries: append(w.s.Neighbours.Met["b"].Entries, "own agent boot")}
			unseen(w, map[string]time.Time{"b": ago(time.Minute)})
		}, quiet + "passing: answers", nil},
		{"it was never seen to run", func(w *world) {
			sees(w, false, "a,b", "a", passes("b"))
			clear(w.s.Neighbours.Met)
			unseen(w, map[string]time.Time{"b": ago(time.Minute)})
		}, quiet + "passing: answers", nil},
		{"no majority comes first", func(w *world) {
			sees(w, true, "a,b", "a", passes("b"))
			unseen(w, map[string]time.Time{"b": ago(time.Minute)})
		}, quiet + noQuorum + "*", func(w *world) string {
			return check(len(w.s.Neighbours.UnseenSince) == 1, "what it saw is forgotten")
		}},
	})
}

// Whoever registers under a member's name, before or after that dies, takes no other one out of service: what the member was met
// by is missing. A member that is cut off is missed by nothing.
func TestCounterfeitOfDeadMember(t *testing.T) {
	t.Parallel()
	real, beside, later := passes("b"), passes("b"), passes("b")
	real.ID, beside.ID, later.ID = "own", "beside", "later"
	lapsed := real
	lapsed.Passing, lapsed.Beating = false, false
	many := func(n int) (all []peers.Peer) {
		for i := range n {
			p := passes("b")
			p.ID = string(rune('A' + i))
			all = append(all, p)
		}
		return all
	}
	type look struct {
		running string
		listed  []peers.Peer
	}
	both := look{"a,b", []peers.Peer{real}}
	for name, c := range map[string]struct {
		looks []look
		fails bool
	}{
		"it is cut off":                              {[]look{both, {"a", []peers.Peer{real}}}, true},
		"it is cut off, and has a counterfeit":       {[]look{both, {"a,b", []peers.Peer{real, beside}}, {"a", []peers.Peer{real, beside}}}, true},
		"it died":                                    {[]look{both, {"a", []peers.Peer{lapsed}}}, false},
		"it died, counterfeit before":                {[]look{both, {"a,b", []peers.Peer{real, beside}}, {"a", []peers.Peer{lapsed, beside}}}, false},
		"it died, counterfeit after":                 {[]look{both, {"a", []peers.Peer{lapsed, later}}}, false},
		"it died, and its entry went":                {[]look{both, {"a,b", []peers.Peer{real, beside}}, {"a", []peers.Peer{beside}}}, false},
		"its host died: it lapses before it is seen": {[]look{both, {"a,b", []peers.Peer{real, beside}}, {"a,b", []peers.Peer{lapsed, beside}}, {"a", []peers.Peer{beside}}}, false},
		"it is cut off in its next run":              {[]look{both, {"a", nil}, {"a,b", []peers.Peer{later}}, {"a", []peers.Peer{later}}}, true},
		"as many entries as are remembered":          {[]look{both, {"a,b", many(mostMet)}, {"a", many(mostMet)}}, false},
		"more entries than are remembered":           {[]look{{"a,b", append(many(mostMet+1), real)}, {"a", append(many(mostMet+1), lapsed)}}, false},
		"so many, and it is cut off":                 {[]look{{"a,b", many(mostMet)}, {"a", many(mostMet)}}, true},
	} {
		w := newWorld()
		w.record = formed("a,b")
		var v Verdict
		for i, l := range c.looks {
			for range 8 {
				w.now = w.now.Add(5 * time.Second)
				w.judged(viewOf("a,b", l.running))
				w.s.View.At, w.s.Entry.ReportedAt = w.now, w.now
				w.listed(l.listed...)
				if v, _ = w.beat(t); v.Status == Critical && (i < len(c.looks)-1 || !c.fails) {
					t.Errorf("%s: %s: %s", name, v.Status, v.Reason)
				}
			}
		}
		if (v.Status == Critical) != c.fails {
			t.Errorf("%s: in the end %s: %s", name, v.Status, v.Reason)
		}
		if n := len(w.s.Neighbours.Met["b"].Entries); n > mostMet+1 {
			t.Errorf("%s: %d entries are remembered", name, n)
		}
	}
}
