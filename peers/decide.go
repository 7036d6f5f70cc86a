package peers

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Action is what a node with a blank volume does next.
type Action string

const (
	Wait   Action = "wait"                                  // nothing may be done yet; Why says for what
	Claim  Action = "claim"                                 // claim the founding by CAS, then seed
	Remove Action = "remove itself from the cluster record" // this volume came up blank
	Join   Action = "join"                                  // add myself to the record, then join Peers
)

// Observation is everything a blank node looks at before it decides.
type Observation struct {
	Me        string
	Joining   bool          // my volume says that a join was under way
	Volume    string        // id of my volume; "": it has none yet
	Record    Seen[Record]  // read through the Consul leader
	Peers     Seen[[]Peer]  // the catalog without me, the useful ones asked
	Namesakes Seen[[]Peer]  // entries of my name that another volume made
	TTL       time.Duration // of such a check
	Watched
	DNS   Seen[InDNS]         // what DNS gives that neither the catalog nor I have
	Claim Seen[time.Duration] // while another's claim is forming: for how long its session has been gone; 0: it is alive

	ClaimTimeout time.Duration // how long a dead claim is left alone
}

// Watched is for how long I have seen what I see.
type Watched struct {
	Beating  time.Duration // an entry of my name that another volume made, whose check does not lapse
	Freed    time.Duration // that my name is free, since one of them left it in order; 0: none did
	Answered time.Duration // that Consul answers me; 0: it has only begun to
}

// InDNS is what DNS gives and nobody else knows.
type InDNS struct {
	Addresses []string
	For       time.Duration // since DNS first gave such, and at each look since then
}

// Decision is the one thing to do, and why.
type Decision struct {
	Action Action
	Peers  []string // to join
	Named  bool     // their member list already names me: heal first where the version needs it
	Why    string

	Members  bool // waits for members that are not there: an operator may give them up
	Founding bool // waits for another node, which lives, to found the cluster
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
	if !o.Namesakes.Known() {
		return waitFor("the Consul agent to say who has this node's name: %v", o.Namesakes.Err)
	}
	if d, alive := nameAlive(o); alive {
		return d
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

// connected names a running member that is connected with my name; asked is whether one answered.
func (o Observation) connected() (sees string, asked bool) {
	for _, p := range o.Peers.Value {
		if v := p.View.Value; p.View.Known() && slices.Contains(v.Running, p.Node) {
			asked = true
			if slices.Contains(v.Running, o.Me) || slices.Contains(v.Connected, o.Me) {
				sees = p.Node
			}
		}
	}
	return sees, asked
}

// Gone returns what reports whether an entry of my name was seen to be gone. While Consul is away
// every check lapses: one that has lapsed tells only once Consul has answered for the TTL, in which a
// node that lives reports again. Before that a member that answers must say it, as where the Consul
// agent has failed, which says nothing.
//
// There may be as many namesakes as peers, which are gone through here, once for all of them.
func (o Observation) Gone() func(namesake Peer) bool {
	sees, asked := o.connected()
	return func(p Peer) bool {
		return p.Lapsed() && o.Answered >= o.TTL || (p.Lapsed() || p.AgentFailed) && asked && sees == ""
	}
}

// nameAlive is the rule that a name is no identity: nothing is done in the name of a
// predecessor that has not been seen to be gone, nor of one that a running member lists.
func nameAlive(o Observation) (Decision, bool) {
	sees, _ := o.connected()
	gone := o.Gone()
	for _, p := range o.Namesakes.Value {
		switch {
		case gone(p):
		case p.Lapsed():
			return waitFor("Consul to have answered for %s, in which an earlier container of this name, should it live, would report: %s; Consul was away, or this node has only begun to ask", o.TTL, p.Describe()), true
		case p.AgentFailed:
			return waitFor("word of %s: whether it lives cannot be told, for its Consul agent has failed and no member of the cluster answers; %s", p.Describe(), p.WayOut()), true
		case o.Beating > o.TTL:
			return waitFor("the end of another node of this name, which is alive: %s, and it has not lapsed for longer than its TTL of %s. Two nodes cannot have one name: give this container a host name of its own (or RABBITMQ_NODENAME), or stop that one; %s", p.Describe(), o.TTL, p.WayOut()), true
		default:
			return waitFor("the end of an earlier container of this name, or of another one that has it: %s; should it be gone, its check lapses within %s", p.Describe(), o.TTL), true
		}
	}
	if sees != "" {
		return waitFor("the end of another node of this name: %s is connected to %s, which runs; if that is another container, give this one a host name of its own (or RABBITMQ_NODENAME)", sees, o.Me), true
	}
	if o.Freed > 0 && o.Freed < 2*o.TTL { // a restart looks like that; one that lives on says so within a TTL and a beat
		return waitFor("another node of this name, which has stopped and may start again: its name is left alone for two TTLs, %s", 2*o.TTL), true
	}
	return Decision{}, false
}

func decideAbsent(o Observation) Decision {
	if len(o.Peers.Value) > 0 {
		return waitFor("a member to publish the cluster record: %s registered, and none is on record", nodes(o.Peers.Value))
	}
	const why = "no cluster on record and no node registered"
	dns := o.DNS.Value
	switch {
	case len(dns.Addresses) == 0:
		return Decision{Action: Claim, Why: why}
	case dns.For < o.ClaimTimeout || o.ClaimTimeout <= 0:
		return waitFor("DNS and the catalog to agree: DNS still gives %s, which the catalog does not know; after %s the catalog alone counts", Some(dns.Addresses), o.ClaimTimeout)
	}
	return Decision{Action: Claim, Why: fmt.Sprintf("%s; DNS has given %s for over %s, which the catalog does not know, and decides nothing", why, Some(dns.Addresses), o.ClaimTimeout)}
}

func decideForming(o Observation, r Record) Decision {
	switch {
	case r.Seed == o.Me && r.Has(o.Me, o.Volume):
		return Decision{Action: Claim, Why: "the founding on record is my own"}
	case r.Seed == o.Me && o.Claim.Known() && o.Claim.Value > 0: // nor does its entry beat
		return Decision{Action: Claim, Why: "the founding on record is that of an earlier volume of this node, and its session is gone"}
	case r.Seed == o.Me && o.Claim.Known():
		return waitFor("another container of this name, or an earlier one, to found the cluster: claimed %s, and its session lives; if it is gone, that ends within %s", r.Since.Format(time.RFC3339), 2*o.TTL)
	case !o.Claim.Known():
		return waitFor("%s to found the cluster (whether it still lives is unknown: %v)", r.Seed, o.Claim.Err)
	case o.Claim.Value < o.ClaimTimeout || o.ClaimTimeout <= 0:
		d := waitFor("%s to found the cluster, claimed %s", r.Seed, r.Since.Format(time.RFC3339))
		d.Founding = o.Claim.Value == 0
		return d
	}
	return Decision{Action: Claim, Why: fmt.Sprintf("%s claimed the founding %s and has been gone for over %s", r.Seed, r.Since.Format(time.RFC3339), o.ClaimTimeout)}
}

func decideFormed(o Observation, r Record) Decision {
	d := Decision{Action: Join}
	silent := unanswered(o.Peers.Value)
	var vote []string // running members that count me in: their majority lacks my vote
	for _, p := range o.Peers.Value {
		v := p.View.Value
		if !p.View.Known() || v.ClusterID != r.ClusterID || !slices.Contains(v.Running, p.Node) {
			continue
		}
		named := slices.Contains(v.Members, o.Me)
		if _, member := r.Members[p.Node]; named && member && !slices.Contains(vote, p.Node) { // it may have two entries
			vote = append(vote, p.Node)
		}
		// Blank under a known name my vote is lost, and with it perhaps the majority that
		// it takes to join: the news may not have reached the check yet.
		if p.Passing && p.ClusterID == r.ClusterID && (o.Joining || v.DecidesWithout(o.Me)) {
			d.Named = d.Named || named
			if !slices.Contains(d.Peers, p.Node) {
				d.Peers = append(d.Peers, p.Node)
			}
		}
	}
	others := slices.DeleteFunc(r.Names(), func(n string) bool { return n == o.Me })
	_, listed := r.Members[o.Me]
	switch {
	case len(d.Peers) > 0:
		d.Why = fmt.Sprintf("cluster %s has healthy members", r.ClusterID)
		return d
	case o.Joining && len(vote) > 0:
		return Decision{Action: Join, Peers: vote, Why: fmt.Sprintf("%s counts me in and waits for my vote", Some(vote))}
	case listed && silent != "": // nor can it tell whether this name runs
		return waitFor("members of cluster %s to answer, or their checks to lapse, before this node, whose volume is blank, takes itself off the record%s", r.ClusterID, silent)
	case listed:
		return Decision{Action: Remove, Why: fmt.Sprintf("on record as a member of cluster %s, but this volume is blank", r.ClusterID)}
	case len(others) > 0:
		d := waitFor("members of cluster %s, which hold its data: %s%s", r.ClusterID, Some(others), silent)
		d.Members = true
		return d
	}
	for _, p := range o.Peers.Value {
		if p.MayLive() {
			return waitFor("%s, which is not on record and may hold data of cluster %s; %s", p.Describe(), r.ClusterID, p.WayOut())
		}
	}
	for n, g := range r.Gone {
		if g.Another(n) {
			return Decision{Action: Claim, Why: fmt.Sprintf("cluster %s was given up", r.ClusterID)}
		}
	}
	return Decision{Action: Claim, Why: fmt.Sprintf("every member of cluster %s came up with a blank volume and took itself off the record", r.ClusterID)}
}

// unanswered says which members pass, but do not tell us what they see.
func unanswered(ps []Peer) string {
	var silent []string
	var why error
	for _, p := range ps {
		if p.Passing && !p.Down && !p.View.Known() && !errors.Is(p.View.Err, ErrNotAsked) {
			silent, why = append(silent, p.Node), cmp.Or(why, p.View.Err)
		}
	}
	if len(silent) == 0 {
		return ""
	}
	passes := "passes"
	if len(silent) > 1 {
		passes = "pass"
	}
	return fmt.Sprintf("; %s %s, but cannot be asked (the same cookie everywhere? ports 4369 and 25672 open?): %v", Some(silent), passes, why)
}

// Alive reports whether the entry passes or its companion beats. What an agent that failed
// last said is no news.
func (p Peer) Alive() bool { return p.Passing || p.Beating && !p.AgentFailed }

// MayLive reports whether the node of that entry may run: it is alive, or nobody could tell
// that RabbitMQ does not run there.
func (p Peer) MayLive() bool { return p.Alive() || !p.Down }

func waitFor(format string, args ...any) Decision {
	return Decision{Action: Wait, Why: fmt.Sprintf(format, args...)}
}

func nodes(ps []Peer) string {
	var names []string
	for _, p := range ps {
		names = append(names, p.Node)
	}
	return Some(names)
}
