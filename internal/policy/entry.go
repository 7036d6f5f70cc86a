package policy

import (
	"slices"
	"time"

	"rmq-entrypoint/peers"
)

// Entry is this node's entry in Consul. MissingSince is set only after Consul took a
// report, ReportedAt; CriticalSince is set while it takes reports that are critical.
type Entry struct {
	Pending       bool   // the node serves again and is not registered
	ClusterID     string // that this companion has put into it
	ReportedAt    time.Time
	Status        string // that Consul last took
	Lapse         Lapse
	MissingSince  time.Time // since when the catalog lacks the entry that the agent says it has, or the status that it took
	CriticalSince time.Time // since when Consul counts the time until it removes the entry
}

// Lapse is what a node owes whose check lapsed, so that others took it for gone, or whose entry was
// Lost. Owed is set until passing was earned anew for it; EarnedAt is when it was for the lapse that
// is Seen, which ends with the next report that Consul takes.
type Lapse struct {
	Seen     bool
	Owed     bool
	Lost     bool // the entry, or it was another cluster's; only while Owed
	EarnedAt time.Time
}

// Tried is the entry after the node that serves again was, or could not be, registered.
func (e Entry) Tried(done bool) Entry {
	e.Pending = false // what failed here fails in the report, too, which tells
	if done {
		e.MissingSince, e.Status = Never, Critical
	}
	return e
}

// Reported is the entry after Consul took a report that was sent at that time: its TTL began no
// earlier. What is owed for a lapse stays.
func (e Entry) Reported(status string, sent time.Time) Entry {
	e.ReportedAt, e.Status, e.Lapse.Seen = sent, status, false
	return e
}

// Slept is the entry after two reports were apart by more than the TTL, by Consul's clock: the check
// lapsed meanwhile, which the catalog does not say any more.
func (e Entry) Slept(now time.Time) Entry {
	e.Lapse = Lapse{Seen: true, Owed: true, EarnedAt: now}
	return e
}

// Due reports whether Consul is to be told that status though nothing else is new: a TTL check needs
// a word in a third of its TTL, so that two may be lost. A look that comes between two heartbeats
// needs none.
func (e Entry) Due(set Settings, status string, now time.Time) bool {
	return e.Status != status || now.Sub(e.ReportedAt) >= set.TTL/3-set.Beat()/2
}

// NeverListed reports whether the agent takes reports and does not bring the entry into
// the catalog.
func (e Entry) NeverListed(now time.Time, beat time.Duration) bool {
	return !e.MissingSince.IsZero() && now.Sub(e.MissingSince) > beat*3/2
}

// Renew is the entry after Consul took that status, and whether the node is to be
// registered over it: critical for long, a node that lives would lose it, and meanwhile
// others take it for gone. If that fails, the entry stays as it was.
func (e Entry) Renew(status string, now time.Time, deregisterAfter time.Duration) (next Entry, due bool) {
	switch {
	case status != Critical:
		e.CriticalSince = Never
	case e.CriticalSince.IsZero():
		e.CriticalSince = now
	case now.Sub(e.CriticalSince) > deregisterAfter/2:
		e.CriticalSince, due = now, true
	}
	return e, due
}

// Present reports whether a node that stopped by itself, and whose server lives, is to be
// registered as critical: after stop_app, or paused in a minority, it holds its name and its
// data. One that ends does so sooner, as a rule.
func (s Server) Present(now time.Time, ttl time.Duration) bool {
	return s.Phase == Stopped && now.Sub(s.StoppedAt) >= ttl
}

// EntryLost is the state after Consul had lost the entry and it was made anew: passing is
// earned anew, and ttlLapsed says when. Whoever may register the service can take entries out.
func (s State) EntryLost() State {
	s.Entry.MissingSince, s.Entry.Status = Never, Critical
	s.Entry.Lapse.Owed, s.Entry.Lapse.Lost = true, true
	return s
}

// mine reports whether this start of the node made the entry.
func (t *turn) mine(p peers.Peer) bool { return p.Node == t.Node && p.Boot == t.Boot }

// namesake tells the log of another container that is registered under this node's name.
func namesake(t *turn) Verdict {
	for _, p := range t.Seen.Catalog.Value {
		if p.Node == t.Node && !t.mine(p) && !p.Lapsed() && !p.AgentFailed && p.Volume != t.Volume {
			t.once("another container has this node's name, and an entry in Consul: give it another one", p.Describe())
		}
	}
	return Verdict{}
}

// missingFromCatalog notes since when the catalog lacks the entry that the agent has, or has
// another one of this start, or another status, than the agent took: what it took never got
// there. Consul holds the output alone of a check back for minutes, never its status.
func missingFromCatalog(t *turn) Verdict {
	e := &t.State.Entry
	t.sought = true
	told := func(p peers.Peer) bool {
		return t.mine(p) && p.Status == e.Status && (t.Seen.Made == "" || p.Made == t.Seen.Made)
	}
	switch {
	case slices.ContainsFunc(t.Seen.Catalog.Value, told), e.ReportedAt.IsZero():
		e.MissingSince = Never
	case slices.ContainsFunc(t.Seen.Catalog.Value, t.mine) && t.Seen.Now.Sub(e.ReportedAt) < t.Patience()/2: // it may be on its way
	case e.MissingSince.IsZero():
		e.MissingSince = t.Seen.Now
	}
	return Verdict{}
}

// foreignEntry: a registration that was given up may arrive late, over a newer one. One
// that is left with an agent that died stays beside it.
func foreignEntry(t *turn) Verdict {
	own := without(t.Seen.Catalog.Value, func(p peers.Peer) bool { return !t.mine(p) })
	if len(own) > 0 && !slices.ContainsFunc(own, func(p peers.Peer) bool { return p.ClusterID == t.State.Entry.ClusterID }) {
		e := &t.State.Entry
		e.ClusterID, e.Lapse.Owed, e.Lapse.Lost = "", true, true
	}
	return Verdict{}
}

// ttlLapsed: the check lapsed, or the entry was lost, so others took the node for gone, and passing is
// earned anew. By this node's clock no report reached Consul for a TTL, or Consul says so: a clock
// stands still while its machine sleeps. Not before Consul is back, and not before RabbitMQ says who
// its cluster is: a Consul that was away, or lost its data, makes this due on all nodes at once, and a
// node that was verified stays what it was, unless the record speaks against it.
func ttlLapsed(t *turn) Verdict {
	e := &t.State.Entry
	if !t.State.Membership.Verified {
		return Verdict{}
	}
	if now := t.Seen.Now; t.lapsed() && (!e.Lapse.Seen || now.Sub(e.Lapse.EarnedAt) > t.TTL) {
		e.Lapse = Lapse{Seen: true, Owed: true, Lost: e.Lapse.Lost, EarnedAt: now}
	}
	if !e.Lapse.Owed {
		return Verdict{}
	}
	what := "no heartbeat reached Consul for longer than the TTL"
	if e.Lapse.Lost {
		what = "Consul lost this node's entry, or had another one"
	}
	switch view, q := t.viewOf(t.Node); {
	case q != nil:
		return ask(*q)
	case view.Err != nil:
		t.once(what+": verifying anew when RabbitMQ says who its cluster is", view.Err.Error())
		return recordAgainst(t)
	}
	t.say(Info, what+": verifying anew")
	t.State.Membership.Verified = false
	return Verdict{}
}

// lapsed reports whether the check of this node's entry has lapsed since Consul last took a
// report that it is fit.
func (t *turn) lapsed() bool {
	e := t.State.Entry
	switch {
	case e.ReportedAt.IsZero():
		return false
	case t.Seen.Now.Sub(e.ReportedAt) > t.TTL:
		return true
	}
	// The catalog brings the words of a check that was critical before only minutes later.
	return e.Status != Critical && slices.ContainsFunc(t.Seen.Catalog.Value, func(p peers.Peer) bool {
		return t.mine(p) && (t.Seen.Made == "" || p.Made == t.Seen.Made) && p.Lapsed() && p.Status == Critical
	})
}
