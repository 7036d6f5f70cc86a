package peers

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Action is what a node with a blank volume does next.
type Action string

const (
	Wait   Action = "wait"   // nothing may be done yet; Why says for what
	Claim  Action = "claim"  // claim the founding by CAS, then seed
	Strike Action = "strike" // take myself off the record: my volume came up blank
	Join   Action = "join"   // add myself to the record, then join Peers
)

// Observation is everything a blank node looks at before it decides.
type Observation struct {
	Me      string
	Joining bool                // my volume says that a join was under way
	Record  Seen[Record]        // read through the Consul leader
	Peers   Seen[[]Peer]        // the catalog without me, the useful ones asked
	DNS     Seen[[]string]      // addresses DNS gives that neither the catalog nor I have
	Claim   Seen[time.Duration] // while another's claim is forming: for how long its session has been gone; 0: it is alive

	ClaimTimeout time.Duration // how long a dead claim is left alone
}

// Decision is the one thing to do, and why.
type Decision struct {
	Action Action
	Peers  []string // to join
	Named  bool     // their member list already names me: heal first where the version needs it
	Why    string
}

// Decide is the heart of the promise "never two clusters": a pure function of
// what was seen. Every cell that founds a cluster goes through a claim on the
// record, and none does so while anything it needs to know is unknown.
func Decide(o Observation) Decision {
	if !o.Record.Known() {
		return waitFor("the cluster record, which cannot be read: %v", o.Record.Err)
	}
	if !o.Peers.Known() {
		return waitFor("the service catalog, which cannot be read: %v", o.Peers.Err)
	}
	switch r := o.Record.Value; r.State {
	case Absent:
		return decideAbsent(o)
	case Forming:
		return decideForming(o, r)
	default:
		return decideFormed(o, r)
	}
}

func decideAbsent(o Observation) Decision {
	if len(o.Peers.Value) > 0 {
		return waitFor("a member to publish the cluster record: %s registered, and none is on record", nodes(o.Peers.Value))
	}
	if len(o.DNS.Value) > 0 {
		return waitFor("DNS and the catalog to agree: DNS still gives %s, which the catalog does not know", strings.Join(o.DNS.Value, ", "))
	}
	return Decision{Action: Claim, Why: "no cluster on record and no node registered"}
}

func decideForming(o Observation, r Record) Decision {
	switch {
	case r.Seed == o.Me:
		return Decision{Action: Claim, Why: "the founding on record is my own"}
	case !o.Claim.Known():
		return waitFor("%s to found the cluster (whether it still lives is unknown: %v)", r.Seed, o.Claim.Err)
	case o.Claim.Value < o.ClaimTimeout || o.ClaimTimeout <= 0:
		return waitFor("%s to found the cluster, claimed %s", r.Seed, r.Since.Format(time.RFC3339))
	}
	return Decision{Action: Claim, Why: fmt.Sprintf("%s claimed the founding %s and has been gone for over %s", r.Seed, r.Since.Format(time.RFC3339), o.ClaimTimeout)}
}

func decideFormed(o Observation, r Record) Decision {
	d := Decision{Action: Join}
	deaf := ""        // a member that passes, but does not tell us what it sees
	var vote []string // running members that count me in: their majority lacks my vote
	for _, p := range o.Peers.Value {
		v := p.View.Value
		if p.Passing && !p.View.Known() && !errors.Is(p.View.Err, ErrNotAsked) && deaf == "" {
			deaf = fmt.Sprintf("; %s passes, but cannot be asked (the same cookie everywhere? ports 4369 and 25672 open?): %v", p.Node, p.View.Err)
		}
		if !p.View.Known() || v.ClusterID != r.ClusterID || !slices.Contains(v.Running, p.Node) {
			continue
		}
		named := slices.Contains(v.Members, o.Me)
		if _, member := r.Members[p.Node]; named && member {
			vote = append(vote, p.Node)
		}
		// Blank under a known name my vote is lost, and with it perhaps the majority that
		// it takes to join: the news may not have reached the check yet.
		if p.Passing && p.ClusterID == r.ClusterID && (o.Joining || v.DecidesWithout(o.Me)) {
			d.Peers, d.Named = append(d.Peers, p.Node), d.Named || named
		}
	}
	others := slices.DeleteFunc(r.Names(), func(n string) bool { return n == o.Me })
	_, listed := r.Members[o.Me]
	switch {
	case len(d.Peers) > 0:
		d.Why = fmt.Sprintf("cluster %s has healthy members", r.ClusterID)
		return d
	case o.Joining && len(vote) > 0:
		return Decision{Action: Join, Peers: vote, Why: fmt.Sprintf("%s counts me in and waits for my vote", strings.Join(vote, ", "))}
	case listed:
		return Decision{Action: Strike, Why: fmt.Sprintf("on record as a member of cluster %s, but this volume is blank%s", r.ClusterID, deaf)}
	case len(others) > 0:
		return waitFor("members of cluster %s, which hold its data: %s%s", r.ClusterID, strings.Join(others, ", "), deaf)
	}
	for n, g := range r.Gone {
		if g.Another(n) {
			return Decision{Action: Claim, Why: fmt.Sprintf("cluster %s was given up", r.ClusterID)}
		}
	}
	return Decision{Action: Claim, Why: fmt.Sprintf("every member of cluster %s came up with a blank volume and took itself off the record", r.ClusterID)}
}

func waitFor(format string, args ...any) Decision {
	return Decision{Action: Wait, Why: fmt.Sprintf(format, args...)}
}

func nodes(ps []Peer) string {
	var names []string
	for _, p := range ps {
		names = append(names, p.Node)
	}
	return strings.Join(names, ", ")
}
