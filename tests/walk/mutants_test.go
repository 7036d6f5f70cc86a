package walk

import (
	"maps"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/internal/policy"
	"rmq-entrypoint/peers"
)

// A mutant is a mind with a bug.
type mutant struct {
	sees   func(*policy.Settings, *policy.State, *policy.Observation) // what it takes what it sees for, before it decides
	does   func(policy.State, *policy.Verdict)                        // what it makes of the verdict
	takes  func(*peers.Observation)                                   // the same for a blank node
	found  string                                                     // what the walk is to say: one of these
	within int                                                        // steps
}

func (m mutant) minds() Minds {
	return Minds{
		Decide: func(set policy.Settings, s policy.State, seen policy.Observation) policy.Verdict {
			if m.sees != nil {
				m.sees(&set, &s, &seen)
			}
			v := policy.Decide(set, s, seen)
			if m.does != nil {
				m.does(s, &v)
			}
			return v
		},
		Choose: func(o peers.Observation) peers.Decision {
			if m.takes != nil {
				m.takes(&o)
			}
			return peers.Decide(o)
		},
	}
}

var mutants = map[string]mutant{
	"passing is not earned anew after the entry was lost": {
		sees: func(_ *policy.Settings, s *policy.State, seen *policy.Observation) {
			m := &s.Membership
			if s.Server.Phase == policy.Serving && seen.Health.State != healthcheck.Critical && m.Role == policy.Member && !m.VerifiedSince.IsZero() {
				m.Verified = true
			}
		},
		found: "was not verified since", within: 200_000,
	},
	"a joiner alone in its cluster joins although it has queues": {
		sees: func(_ *policy.Settings, _ *policy.State, seen *policy.Observation) {
			seen.Queues.Value = 0
		},
		found: "queues, and its data was given up by join_cluster", within: 500_000,
	},
	"a blank node takes a claim over whose session has only just ended": {
		takes: func(o *peers.Observation) {
			if o.Claim.Known() && o.Claim.Value > 0 {
				o.Claim.Value += o.ClaimTimeout
			}
		},
		found: "took over the claim", within: 500_000,
	},
	"a blank node does not wait for the session of a claim": {
		takes: func(o *peers.Observation) {
			if o.Claim.Known() && o.Record.Value.State == peers.Forming {
				o.Claim.Value = o.ClaimTimeout
			}
		},
		found: "took over the claim", within: 500_000,
	},
	"who took a node off the record is not looked at": {
		sees: func(set *policy.Settings, _ *policy.State, seen *policy.Observation) {
			r := &seen.Record.Value
			if g, gone := r.Gone[set.Node]; gone && g.Another(set.Node) {
				r.Gone = maps.Clone(r.Gone)
				g.By, g.Why = set.Node, "its volume came up blank"
				r.Gone[set.Node] = g
			}
		},
		found: "was stopped while it served|took itself off", within: 6_000_000,
	},
	"a seed that was overtaken is not stopped": {
		does: func(s policy.State, v *policy.Verdict) {
			if _, stops := v.Do.(policy.StopServer); stops && v.Rule == "membership" && s.Membership.Role == policy.Seeding {
				v.Do, v.Status, v.Reason = nil, policy.Critical, "overtaken"
			}
		},
		found: "is in another cluster|another node holds the lock", within: 500_000,
	},
	"an operator's order is not looked at": {
		sees: func(_ *policy.Settings, _ *policy.State, seen *policy.Observation) {
			seen.Volume.Maintenance.Value = nil
		},
		found: "out of service by an operator's order", within: 200_000,
	},
	"what Consul refuses to tell is taken for what is not there": {
		sees: func(_ *policy.Settings, _ *policy.State, seen *policy.Observation) {
			if denied(seen.Record.Err) {
				seen.Record = policy.Answer(policy.Record{}, nil)
			}
			if denied(seen.Catalog.Err) {
				seen.Catalog = policy.Answer[[]peers.Peer](nil, nil)
			}
		},
		found: "while its claim to found a cluster stands", within: 500_000,
	},
	"a member that Consul refuses takes itself for one that is out": {
		does: func(s policy.State, v *policy.Verdict) {
			if denied(v.Missed) && v.Do == nil && v.Ask == nil && s.Membership.Role == policy.Member {
				v.Do = policy.StopServer{}
			}
		},
		found: "was stopped while it served", within: 200_000,
	},
	"a blank node takes others for gone that are on record": {
		takes: func(o *peers.Observation) {
			if r := &o.Record.Value; r.State == peers.Formed && len(o.Peers.Value) == 0 {
				r.Members = maps.Clone(r.Members)
				maps.DeleteFunc(r.Members, func(name, _ string) bool { return name != o.Me })
			}
		},
		found: "replaced the record|off the record", within: 500_000,
	},
}
