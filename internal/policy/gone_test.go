package policy

import (
	"testing"
	"time"

	"rmq-entrypoint/peers"
)

// For how long a node is off the record is measured here: the time on record is by the clock of
// another host, which may be off by an hour.
func TestGoneFor(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		clock time.Duration // of the leaver, less this host's
		seen  time.Duration // for how long this companion has seen it; below 0: not yet
		gone  time.Duration // for how long it has been gone, really
		want  time.Duration // at least
	}{
		{"seen all the while", 0, 5 * time.Minute, 5 * time.Minute, 5 * time.Minute},
		{"seen all the while, by a clock an hour ahead", time.Hour, 5 * time.Minute, 5 * time.Minute, 5 * time.Minute},
		{"just left, by a clock an hour behind", -time.Hour, 0, 0, 0},
		{"left a minute ago, by a clock an hour behind", -time.Hour, 0, time.Minute, time.Minute},
		{"just left, and not seen yet", 0, -1, 0, 0},
		{"left for long, and this companion is new", 0, 0, 3 * time.Hour, 2 * time.Hour},
		{"the same, by a clock an hour ahead", time.Hour, 0, 3 * time.Hour, time.Hour},
	} {
		w := newWorld()
		g := peers.Gone{Volume: "vb", At: began.Add(c.clock - c.gone), Left: true}
		w.record = formed("a,c")
		w.record.Gone = map[string]peers.Gone{"b": g}
		at := &turn{Settings: w.set, State: w.s, Seen: Observation{Now: began, Record: Answer(Record{Record: w.record}, nil)}}
		if c.seen >= 0 {
			at.State.Neighbours.GoneSince = map[string]Sighting{"b": {"vb", g.At, began.Add(-c.seen)}}
			at.seeGone()
		}
		if got := at.goneFor("b", g); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	// Another going of the same node counts anew, one that is back is forgotten, and what was seen
	// stays while the record cannot be read.
	w := newWorld()
	see := func(now time.Duration, r peers.Record, err error) {
		at := &turn{Settings: w.set, State: w.s, Seen: Observation{Now: began.Add(now), Record: Answer(Record{Record: r}, err)}}
		at.seeGone()
		w.s = at.State
	}
	r := formed("a,b,c").Left("b", "told to", began)
	see(0, r, nil)
	see(time.Minute, r, nil)
	see(time.Minute, peers.Record{}, errNot)
	if s := w.s.Neighbours.GoneSince["b"].Since; !s.Equal(began) {
		t.Errorf("seen since %s", s)
	}
	see(time.Hour, r.With("b", "vb2").Left("b", "told to", began), nil)
	if s := w.s.Neighbours.GoneSince["b"].Since; !s.Equal(began.Add(time.Hour)) {
		t.Errorf("another volume is seen since %s", s)
	}
	if see(time.Hour, r.With("b", "vb"), nil); len(w.s.Neighbours.GoneSince) != 0 {
		t.Errorf("%v", w.s.Neighbours.GoneSince)
	}
}

// A clock that is off by an hour neither has a member forgotten while its own command does that,
// nor keeps it from being forgotten.
func TestLeaversClock(t *testing.T) {
	t.Parallel()
	for _, off := range []time.Duration{-time.Hour, 0, time.Hour} {
		w := newWorld()
		w.record = formed("a,b,c").Left("c", "told to", began.Add(off))
		w.known(viewOf("a,b,c", "a,b"))
		w.listed(passes("b"))
		w.s.Neighbours.GoneSince = map[string]Sighting{}
		for step := time.Duration(0); step <= leaveGrace+2*time.Second; step += time.Second {
			w.now = began.Add(step)
			w.s.Entry.ReportedAt = w.now
			w.beat(t)
			if due := len(w.s.Upkeep.ToForget) > 0; due != (step > leaveGrace) {
				t.Fatalf("a clock off by %s: to be forgotten after %s: %t", off, step, due)
			}
		}
	}
}
