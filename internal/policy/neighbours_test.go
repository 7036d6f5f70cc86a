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
		{"no majority comes first", func(w *world) {
			sees(w, true, "a,b", "a", passes("b"))
			unseen(w, map[string]time.Time{"b": ago(time.Minute)})
		}, quiet + noQuorum + "*", func(w *world) string {
			return check(len(w.s.Neighbours.UnseenSince) == 1, "what it saw is forgotten")
		}},
	})
}
