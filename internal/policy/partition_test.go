package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/peers"
)

// Whoever runs with whom, of two that are apart one goes on, and somebody does: every way in which up to four members
// can see each other, alike or not, some of them stopped or silent.
func TestWhoGoesOn(t *testing.T) {
	t.Parallel()
	names := []string{"a", "b", "c", "d"}
	for n := 2; n <= len(names); n++ {
		members := names[:n]
		for seen := range 1 << (n * n) { // by i of j, and by i of itself when it runs
			for silent := range 1 << n {
				if n == 4 && silent > 1 {
					break
				}
				s := sides{}
				for i, a := range members {
					runs := seen&(1<<(i*n+i)) != 0
					if silent&(1<<i) != 0 && !runs {
						continue
					}
					var side peers.Side
					for j, b := range members {
						switch sees := seen&(1<<(i*n+j)) != 0; {
						case runs && !sees:
							side.From = append(side.From, b)
						case runs && seen&(1<<(j*n+j)) != 0:
							side.With = append(side.With, b)
						}
					}
					s[a] = side
				}
				goesOn := func(m string) bool { return s.runs(m) && len(s.outrankedBy(m, members)) == 0 }
				if winners := s.survivors(members); slices.ContainsFunc(members, s.runs) != (len(winners) > 0) || slices.ContainsFunc(winners, func(m string) bool { return !goesOn(m) }) {
					t.Fatalf("%v: %v go on", s, winners)
				}
				for i, a := range members {
					for _, b := range members[i+1:] {
						apart := !slices.Contains(s[a].With, b) || !slices.Contains(s[b].With, a)
						if s.outranks(a, b, members) == s.outranks(b, a, members) || apart && goesOn(a) && goesOn(b) {
							t.Fatalf("%v: of %s and %s both or neither go on", s, a, b)
						}
						if !apart && (slices.Contains(s.outrankedBy(a, members), b) || slices.Contains(s.outrankedBy(b, members), a)) {
							t.Fatalf("%v: %s and %s run together, and one gives way to the other", s, a, b)
						}
					}
				}
			}
		}
	}
}

func TestTheLargerSideGoesOn(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, sides, stopped, silent, goOn string }{
		{"one of three", "a bc", "", "", "bc"},
		{"two of five, with the first name", "ad bce", "", "", "bce"},
		{"a tie", "bc ad", "", "", "ad"},
		{"two nodes", "a b", "", "", "a"},
		{"three sides", "a be cd", "", "", "be"},
		{"the others have stopped", "b ac", "ac", "", "b"},
		{"one of the larger side has died since", "a bc", "", "b", "c"},
		{"one of the larger side has stopped since", "a bc", "b", "", "c"},
		{"one of the smaller side has stopped", "ab cde", "a", "", "cde"},
	} {
		members := strings.Split(strings.ReplaceAll(tc.sides, " ", ""), "")
		slices.Sort(members)
		s := sides{}
		for _, side := range strings.Fields(tc.sides) {
			for _, m := range strings.Split(side, "") {
				switch {
				case strings.Contains(tc.silent, m):
				case strings.Contains(tc.stopped, m):
					s[m] = peers.Side{}
				default:
					s[m] = peers.Side{
						With: slices.DeleteFunc(strings.Split(side, ""), func(o string) bool { return strings.Contains(tc.stopped+tc.silent, o) }),
						From: slices.DeleteFunc(slices.Clone(members), func(o string) bool { return strings.Contains(side, o) }),
					}
				}
			}
		}
		if got := strings.Join(s.survivors(members), ""); got != tc.goOn {
			t.Errorf("%s: %s go on", tc.name, got)
		}
	}
}

// The network comes back in steps: c is not connected to a yet, runs apart from it all the same, and does not count for it.
func TestPictureIsNotWhole(t *testing.T) {
	t.Parallel()
	s := sides{"a": {With: list("a"), From: list("b")}, "b": {With: list("b,c"), From: list("a")}, "c": {With: list("b,c")}}
	if got := s.survivors(list("a,b,c")); !slices.Equal(got, list("b,c")) {
		t.Errorf("%v go on", got)
	}
}

// apart is the view of a node of which some see the others and some do not. Who is partitioned from whom is told by
// default from who does not run with whom.
func apart(node, members, from, who string, pauses bool) peers.View {
	v := viewOf(members, members)
	v.Pauses, v.Sides = pauses, map[string]peers.Side{}
	for _, s := range strings.Split(who, ", ") {
		m, side, _ := strings.Cut(s, " ")
		not := without(v.Members, func(m string) bool { return side == "" || strings.Contains(side, m) })
		if m == node && from == "" {
			from = strings.Join(not, "")
		}
		v.Sides[m] = peers.Side{With: strings.FieldsFunc(strings.Join(strings.Split(side, ""), ","), func(r rune) bool { return r == ',' }), From: not}
	}
	v.Partitions = strings.Split(from, "")
	return v
}

// A node says what becomes of the partition, restarts when it is for it to do, and touches nothing otherwise.
func TestPartition(t *testing.T) {
	t.Parallel()
	const later, again, third = 15 * time.Second, 50 * time.Second, 70 * time.Second // since it is partitioned, and from again on since RabbitMQ restarted
	const all = "a ab, b ab, c c"                                                    // who runs with whom
	const restarts = ": a, b go on, RabbitMQ restarts here to be one of them"
	for _, tc := range []struct {
		name    string
		node    string
		members string // default a,b,c
		from    string // whom it is partitioned from; default: who does not run with it
		ignores bool
		sides   string
		since   time.Duration
		alarm   bool
		busy    error // why RabbitMQ does not take the order
		says    string
		rejoins bool
	}{
		{name: "the smaller side", node: "c", sides: all, says: "critical: partitioned from a, b" + restarts, rejoins: true},
		{name: "it cannot be told to", node: "c", sides: all, busy: errors.New("not now"), says: "critical: partitioned from a, b" + restarts + ", which it cannot be told: not now", rejoins: true},
		{name: "it may have heard it", node: "c", sides: all, busy: fmt.Errorf("%w: deadline", ErrNoAnswer), says: "critical: partitioned from a, b" + restarts, rejoins: true},
		{name: "it was told to just now", node: "c", sides: all, since: again, says: "critical: partitioned from a, b: a, b go on; RabbitMQ restarted here at 03:03:15 for that already, and does again after 1m0s"},
		{name: "and again", node: "c", sides: all, since: third, says: "critical: partitioned from a, b" + restarts, rejoins: true},
		{name: "it cannot be told to again", node: "c", sides: all, since: third, busy: errors.New("not now"), says: "critical: *not now", rejoins: true},
		{name: "its own Mnesia has stopped", node: "c", from: "ab", sides: "a ab, b ab, c ", since: later, says: "critical: partitioned from a, b: its Mnesia has stopped"},
		{name: "one of the others does not answer yet", node: "c", sides: "b ab, c c", says: "critical: partitioned from a, b, and a do not answer"},
		{name: "one of the others does not answer for one heartbeat", node: "c", sides: "b ab, c c", since: 9 * time.Second, says: "critical: partitioned from a, b, and a do not answer"},
		{name: "one of the others does not answer", node: "c", sides: "b ab, c c", since: later, says: "critical: partitioned from a, b: b go on, RabbitMQ restarts*", rejoins: true},
		{name: "nobody answers", node: "c", sides: "c c", since: later, says: "critical: partitioned from a, b, and a, b do not answer"},
		{name: "the larger side", node: "a", sides: all, says: "warning: partitioned from c: a, b go on, the others restart; if they do not, restart them"},
		{name: "the larger side while the other does not answer", node: "a", sides: "a ab, b ab", from: "c", says: "warning: partitioned from c, and c do not answer"},
		{name: "the larger side while the other never answers", node: "a", sides: "a ab, b ab", from: "c", since: later, says: "warning: partitioned from c: a, b go on*"},
		{name: "while the other restarts", node: "b", from: "c", sides: "a ab, b ab, c ", says: "warning: partitioned from c: a, b go on*"},
		{name: "with an alarm", node: "a", sides: all, alarm: true, says: "warning: answers; partitioned from c: a, b go on*"},
		{name: "a tie, one of the losers has stopped", node: "a", members: "a,b,c,d", from: "cd", sides: "a ab, b ab, c , d d", says: "warning: partitioned from c, d: a, b go on*"},
		{name: "a tie, one of the others does not answer", node: "a", members: "a,b,c,d", from: "cd", sides: "a ab, b ab, d d", since: later, says: "critical: partitioned from c, d, and c do not answer"},
		{name: "a tie, one of the others does not answer yet", node: "a", members: "a,b,c,d", from: "cd", sides: "a ab, b ab, d d", says: "critical: partitioned from c, d, and c do not answer"},
		{name: "RabbitMQ is not to pause", node: "c", ignores: true, sides: all, says: "critical: partitioned from a, b: restart the smaller side, of two nodes one; or set cluster_partition_handling"},
		{name: "not to pause, the larger side", node: "a", ignores: true, sides: all, says: "critical: partitioned from c: restart the smaller side*"},
	} {
		w := newWorld()
		w.set.Node, w.set.Volume = tc.node, "v"+tc.node
		if tc.members == "" {
			tc.members = "a,b,c"
		}
		v := apart(tc.node, tc.members, tc.from, tc.sides, !tc.ignores)
		w.record, w.views[tc.node] = formed(tc.members), Answer(v, nil)
		w.record.Versions = nil
		w.s.View.View, w.catalog = v, Answer([]peers.Peer(nil), nil)
		w.s.Server.LastStatus = "stopped"
		if tc.since > 0 {
			w.s.Partition.Since = began.Add(-tc.since)
		}
		if tc.since >= again {
			w.s.Partition.RestartedAt = began.Add(-tc.since)
		}
		before := w.s.Partition
		if tc.alarm {
			w.health.State = healthcheck.Warning
		}
		w.fails["RestartApp"] = tc.busy
		got, trace := w.beat(t)
		want := "ask record; ask catalog; ask view " + tc.node + " within 7.5s; "
		if tc.rejoins {
			want += "RestartApp; "
		}
		if !matches(join(trace), want+tc.says) {
			t.Errorf("%s:\n got %s\nwant %s", tc.name, join(trace), want+tc.says)
		}
		heard := tc.rejoins && (tc.busy == nil || errors.Is(tc.busy, ErrNoAnswer))
		p := w.s.Partition
		if heard != (p.Restarting != "") || heard != p.RestartedAt.Equal(began) || !heard && !p.RestartedAt.Equal(before.RestartedAt) || heard != w.logged("partitioned, and RabbitMQ did not pause: it restarts here*") {
			t.Errorf("%s: %+v", tc.name, p)
		}
		if p.Since.IsZero() || tc.since > 0 && !p.Since.Equal(before.Since) || !w.logged("partitioned*partitioned from *") {
			t.Errorf("%s: since %s", tc.name, p.Since)
		}
		// While RabbitMQ does not run, and when it cannot be looked at again, it is what it was.
		s, _ := Heard(w.set, w.s, "STOPPING=1", began)
		if word := (&turn{State: s}).lastWord(); heard != strings.Contains(word, "go on") || !strings.HasSuffix(word, "stopped (stopping)") {
			t.Errorf("%s: while RabbitMQ does not run it says %q", tc.name, word)
		}
		if again := unknown(&turn{Settings: w.set, State: w.s, Seen: w.seen}, errNot); again.Status != got.Status || !strings.Contains(again.Reason, "partitioned from") {
			t.Errorf("%s: unknown is %+v", tc.name, again)
		}
	}
}

// A partition is found and healed whether or not Consul answers, the node is verified, serves, or is drained; what was
// wrong because of it is forgotten when it has ended.
func TestPartitionIsFound(t *testing.T) {
	t.Parallel()
	is := func(fs ...func(*world)) func(*world) {
		return func(w *world) {
			w.set.Node, w.set.Volume = "c", "vc"
			v := apart("c", "a,b,c", "", "a ab, b ab, c c", true)
			w.views["c"], w.catalog = Answer(v, nil), Answer([]peers.Peer(nil), nil)
			w.managed = Answer([]healthcheck.Node{{Name: "a"}}, nil) // something moved
			for _, f := range fs {
				f(w)
			}
		}
	}
	over := func(w *world) {
		v := w.views["c"].Value
		w.s.Partition.Since, w.s.Fault, w.s.View.View = began, Fault{Reason: "partitioned from a, b"}, v
		v.Partitions = nil
		w.views["c"] = Answer(v, nil)
	}
	away := func(w *world) { w.recordErr = errNot }
	fails := func(w *world) { w.health.State = healthcheck.Critical }
	never := func(w *world) { w.s.Membership.Verified = false }
	drained := func(w *world) { w.drained(Maintenance{Drained: true, Done: true, At: began}) }
	const asks, whole = "ask managed within 1s; ask view c within 7.5s; ", "partitioned from a, b: a, b go on, RabbitMQ restarts here to be one of them"
	found := func(w *world) string { return check(w.s.Partition.Since.Equal(began), "it is not noted") }
	ended := func(w *world) string {
		return check(w.s.Partition.Since.IsZero() && w.s.Fault.Reason == "", "it is not forgotten")
	}
	run(t, []row{
		{"partitioned", is(), "ask record; ask catalog; " + asks + "RestartApp; critical: " + whole, found},
		{"without Consul", is(away), "ask record; " + asks + "RestartApp; critical: " + whole, found},
		{"without the catalog", is(func(w *world) { w.catalog.Err = errNot }), "ask record; ask catalog; " + asks + "RestartApp; critical: " + whole, found},
		{"without Consul, not verified", is(away, never), "ask record; ask view c; RestartApp; critical: not verified: no answer yet", found},
		{"AMQP fails, too", is(fails), asks + "RestartApp; critical: answers; " + whole, found},
		{"AMQP fails, not verified", is(fails, never), "critical: answers", nil},
		{"drained", is(drained), asks + "RestartApp; critical: maintenance: drained since 2026-01-02T03:04:05Z", found},
		{"drained, not verified", is(drained, never), "critical: maintenance: drained since *", nil},
		{"the order cannot be read", is(func(w *world) { w.volume.Maintenance.Err = errNot }), asks + "RestartApp; critical: no answer yet", found},
		{"RabbitMQ does not say", is(away, func(w *world) { w.views["c"] = Answer(peers.View{}, errNot) }), "ask record; " + asks + "passing: answers; not checked against the record: no answer yet", nil},
		{"over", is(over), "ask record; ask catalog; ask view c within 7.5s; *", ended},
		{"over, without Consul", is(over, away), "ask record; ask view c within 7.5s; passing: answers; not checked against the record: no answer yet", ended},
		{"over, AMQP fails", is(over, fails), "ask view c within 7.5s; critical: answers", ended},
		{"over, something else is wrong", is(away, func(w *world) { w.managed.Err = errNot; w.s.Fault.Reason, w.s.View.PassingPeers = "SPLIT", "" }), "ask record; ask managed within 1s; critical: SPLIT (not looked at again: no answer yet)", nil},
	})
	// While it lasts RabbitMQ is asked with each beat, though nothing stirs: those who did not answer may now.
	w := newWorld()
	is()(w)
	for i := range 3 {
		_, trace := w.beat(t)
		if asked := strings.Contains(join(trace), "ask managed"); asked != (i == 0) || !strings.Contains(join(trace), "ask view c") {
			t.Errorf("beat %d: %s", i, trace)
		}
	}
}
