package formation

import (
	"testing"
	"time"

	"rmq-entrypoint/peers"
)

// Each case is a list of looks, a second apart, and what is known after each.
func TestNamesakes(t *testing.T) {
	type look struct {
		holder     string
		lapsed     bool
		held, free time.Duration
	}
	for name, looks := range map[string][]look{
		"never anybody":          {{}, {}},
		"one stays":              {{holder: "a"}, {holder: "a", held: time.Second}, {holder: "a", held: 2 * time.Second}},
		"one leaves in order":    {{holder: "a"}, {free: 1}, {free: time.Second}, {free: 2 * time.Second}},
		"one falls silent":       {{holder: "a"}, {lapsed: true}, {}},
		"silent from the first":  {{lapsed: true}, {}},
		"another one follows":    {{holder: "a"}, {holder: "a", held: time.Second}, {holder: "b"}, {holder: "b", held: time.Second}},
		"another one after free": {{holder: "a"}, {free: 1}, {holder: "b"}, {holder: "b", held: time.Second}, {free: 1}},
		"the same one again":     {{holder: "a"}, {free: 1}, {holder: "a"}, {holder: "a", held: time.Second}},
		"a lapsed one beside":    {{holder: "a", lapsed: true}, {holder: "a", lapsed: true, held: time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			var n namesakes
			now := time.Now()
			for i, l := range looks {
				n.saw(l.holder, l.lapsed, now)
				if held, free := n.held(now), n.free(now); held != l.held || free != l.free {
					t.Errorf("look %d: held %s, free %s; want %s, %s", i+1, held, free, l.held, l.free)
				}
				now = now.Add(time.Second)
			}
		})
	}
}

// Consul has answered since it first did, or since it was away for longer than a node takes to report.
func TestAnswers(t *testing.T) {
	var a answers
	now, s := time.Now(), time.Second
	for i, look := range []struct {
		after time.Duration
		ok    bool
		want  time.Duration
	}{
		{0, false, 0}, {9 * s, true, 0}, {s, true, s}, {20 * s, true, 21 * s}, // nobody looked meanwhile
		{s, false, 0}, {4 * s, true, 26 * s}, // one answer was lost
		{s, false, 0}, {4*s + 1, true, 0}, {s, true, s},
		{4 * s, false, 0}, {s, false, 0}, {1, true, 0}, {3 * s, true, 3 * s},
	} {
		now = now.Add(look.after)
		if got := a.saw(look.ok, 5*s, now); got != look.want {
			t.Errorf("look %d: has answered for %s, want %s", i+1, got, look.want)
		}
	}
}

// A session is gone from when it was first seen so, and anew for another claim.
func TestLostSession(t *testing.T) {
	one, two := peers.Record{Claim: "c", Session: "1"}, peers.Record{Claim: "c", Session: "2"}
	var l lostSession
	now := time.Now()
	for i, look := range []struct {
		record peers.Record
		gone   bool
		want   time.Duration
	}{
		{one, false, 0}, {one, true, 0}, {one, true, time.Second}, {two, true, 0}, {two, true, time.Second},
		{two, false, 0}, {two, true, 0}, {two, true, time.Second},
	} {
		if got := l.saw(look.record, look.gone, now); got != look.want {
			t.Errorf("look %d: gone for %s, want %s", i+1, got, look.want)
		}
		now = now.Add(time.Second)
	}
}

// What a node waits for is said at each change and when it has not been said for a while.
func TestSaid(t *testing.T) {
	var s said
	now := time.Now()
	for i, look := range []struct {
		after time.Duration
		why   string
		want  bool
		out   string
	}{
		{0, "a", true, ""}, {time.Second, "a", false, ""}, {time.Second, "b", true, ""}, {repeatEvery - 1, "b", false, ""}, {1, "b", true, ""}, {repeatEvery - 1, "b", false, ""},
		{0, "b", true, ": do"}, {time.Second, "b", false, ": do"}, {time.Second, "b", true, ""},
	} {
		now = now.Add(look.after)
		if got := s.due(look.why, look.out, now); got != look.want {
			t.Errorf("look %d: %t", i+1, got)
		}
	}
}
