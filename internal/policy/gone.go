package policy

import (
	"maps"
	"time"

	"rmq-entrypoint/peers"
)

// clocksApart is how far the clocks of two hosts may be apart.
const clocksApart = time.Hour

// Sighting is since when this companion has seen a node off the record, by its own clock, and
// which of its goings that was.
type Sighting struct {
	Volume string
	At     time.Time // as the record has it, by the clock of whoever wrote it
	Since  time.Time
}

// seeGone notes who is off the record, and forgets who is back.
func (t *turn) seeGone() {
	if !t.Seen.Record.Known() {
		return
	}
	was, since := t.State.Neighbours.GoneSince, map[string]Sighting{}
	for n, g := range t.Seen.Record.Value.Gone {
		s := was[n]
		if s.Volume != g.Volume || !s.At.Equal(g.At) {
			s = Sighting{g.Volume, g.At, t.Seen.Now}
		}
		since[n] = s
	}
	if !maps.Equal(was, since) {
		t.State.Neighbours.GoneSince = since
	}
}

// goneFor returns for how long that node has been off the record, at least: as this companion
// measured it, or by the time on record, as far as clocks can be trusted.
func (t *turn) goneFor(node string, g peers.Gone) time.Duration {
	written := t.Seen.Now.Sub(g.At) - clocksApart
	if s, seen := t.State.Neighbours.GoneSince[node]; seen && s.Volume == g.Volume && s.At.Equal(g.At) {
		return max(written, t.Seen.Now.Sub(s.Since))
	}
	return max(written, 0)
}
