package policy

import (
	"slices"
	"time"

	"rmq-entrypoint/peers"
)

// A node in a steady state need not ask Consul's leader with each beat: the record and the catalog
// as they were read last will do, while a blocking query stands that would have told of a change.
// Nothing is done, and no other word is said, by what was kept. Then both are read afresh, and the
// rules go through the beat again.

// settled reports whether the node is in such a state: it was verified, Consul took its word that it
// is fit, and nothing is about to become of what it sees of its entry or of the others.
func (s State) settled() bool {
	e := s.Entry
	return s.Server.Phase == Serving && s.Membership.Verified && (e.Status == Passing || e.Status == Warning) &&
		!e.Pending && !e.Lapse.Owed && e.MissingSince.IsZero() &&
		s.Partition.Since.IsZero() && len(s.Neighbours.UnseenSince)+len(s.Neighbours.UnlistedSince)+len(s.Upkeep.ToForget) == 0
}

// Keeps reports whether that catalog may be kept: a check that was critical already may lapse without
// a word in the catalog, and its entry is then looked up at the agent.
func Keeps(catalog []peers.Peer) bool {
	return !slices.ContainsFunc(catalog, func(p peers.Peer) bool { return !p.Passing && !p.AgentFailed })
}

// stands reports whether a verdict that rests on what was kept is one to go by: it leaves the node
// in its steady state, and its word is what Consul was told.
func (v Verdict) stands(was State) bool {
	return v.Do == nil && v.State.settled() && v.Status == was.Entry.Status && v.State.Upkeep.RecordSize == was.Upkeep.RecordSize
}

// Afresh is the observation without what was kept: it is to be read through Raft in this beat.
func (o Observation) Afresh() Observation {
	o.Record, o.Catalog, o.Kept, o.Fresh = Fact[Record]{}, Fact[[]peers.Peer]{}, false, true
	return o
}

// KeptFor is for how long the record and the catalog are kept at most, though nothing tells of a
// change: an agent that is cut off from its servers may not notice for long.
const KeptFor = time.Minute
