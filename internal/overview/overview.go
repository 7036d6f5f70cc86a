// Package overview makes one document of the whole cluster, for people and their programs, out of
// what a companion and Consul know. It asks nobody anything and decides nothing: [Of] is a
// function of plain values. What is not known is in it as unknown, never as "no".
package overview

import (
	"slices"
	"time"

	"rmq-entrypoint/peers"
)

// Answer is yes, no, or unknown.
type Answer string

const (
	Yes     Answer = "yes"
	No      Answer = "no"
	Unknown Answer = "unknown"
)

// State of a node.
type State string

const (
	Serves   State = "serves"  // its check passes, maybe with a warning
	Unfit    State = "unfit"   // it is up, a member, and does not serve
	Waits    State = "waits"   // it is up, and no member yet
	Refused  State = "refused" // its start was refused: a person has to act
	Down     State = "down"    // no heartbeat of it, or its start failed
	NotKnown State = "unknown" // Consul does not say, or says less than RabbitMQ
)

// Seen is what there is to make a document of.
type Seen struct {
	Now     time.Time
	Service string        // in Consul
	Name    string        // of the cluster
	Key     string        // of the cluster record
	TTL     time.Duration // of the nodes' checks
	ReadAt  time.Time     // when Consul was read; zero: never
	Own     *Own          // the node whose companion this is; nil: nobody was asked
	Record  peers.Seen[peers.Record]
	Catalog peers.Seen[[]peers.Peer] // all entries, foreign ones too
	Notes   peers.Seen[[]peers.Note]
	Lock    peers.Seen[string] // who holds it; "": nobody
	Spells  Spells             // since when nodes are as they are, as far as somebody watched
}

// Own is what a companion says of its node.
type Own struct {
	Node, Role string
	Word
	Volume, Version string
	Verified        bool       // since its server started
	Out             bool       // of service, by an operator's order
	View            peers.View // of RabbitMQ; no members: it said nothing yet
	Lost            []string   // members without which it goes on only by force-boot
	Warning         string     // of a cluster that is too small
}

// Word is what the check of a node says, and how old that is.
type Word struct {
	Status, Reason string
	Since          time.Time // of Status
	Beat           time.Time // the last heartbeat that Consul took; zero: none
	Looked         time.Time // at the node
}

// Spell is since when a node has been in a state. Whole: it was seen to begin.
type Spell struct {
	State State
	Since time.Time
	Whole bool
}

// Spells are of nodes by name.
type Spells map[string]Spell

// Watch returns the spells after nodes were looked at, and leaves the earlier ones as they are.
// What is not known ends no spell.
func (s Spells) Watch(nodes []Node, now time.Time) Spells {
	next := Spells{}
	for _, n := range nodes {
		was, known := s[n.Node]
		switch {
		case known && (n.State == was.State || n.State == NotKnown):
			next[n.Node] = was
		case n.State != NotKnown:
			next[n.Node] = Spell{n.State, now, known || len(s) > 0}
		}
	}
	return next
}

// Document is the cluster at one look.
type Document struct {
	At       time.Time `json:"at"`
	Read     time.Time `json:"consul_read_at,omitzero"`
	Asked    string    `json:"asked,omitempty"` // the node whose companion says this
	Cluster  Cluster   `json:"cluster"`
	Nodes    []Node    `json:"nodes"`
	Stop     Stop      `json:"may_stop_one"`
	Lock     Lock      `json:"lock"`
	Gone     []Gone    `json:"gone"`
	Problems []Problem `json:"problems"`
	Fit      Answer    `json:"fit"` // one cluster, and nothing is wrong
	Own      *Own      `json:"-"`
	Facts    Facts     `json:"-"`
}

// Facts are counts that are no row of the document, for metrics; -1: not known.
type Facts struct {
	OnRecord, Listed, Running, Passing, Partitions int

	States  map[State]int  // nodes, those that are not listed among them
	Refused map[string]int // starts, one after the other, of nodes that are refused now: by reason; nil: not known
}

// Cluster says which it is, and whether it is one.
type Cluster struct {
	One     Answer    `json:"one"`
	Why     string    `json:"why,omitempty"` // where it is not yes
	Name    string    `json:"name"`
	ID      string    `json:"id,omitempty"`
	Service string    `json:"service"`
	Key     string    `json:"record_key"`
	Record  string    `json:"record"` // formed, forming, none or unknown
	Since   time.Time `json:"since,omitzero"`
	More    int       `json:"more_nodes,omitempty"` // that are no members, and have no row
}

// Node is a row.
type Node struct {
	Node    string    `json:"node"`
	State   State     `json:"state"`
	Since   time.Time `json:"since,omitzero"`    // of State
	AtLeast bool      `json:"at_least,omitzero"` // it may have begun before Since
	Why     string    `json:"why,omitempty"`     // what it waits for, warns of, or was refused for
	Role    string    `json:"role,omitempty"`    // member, joining or seeding, as far as is known
	Version string    `json:"rabbitmq_version,omitempty"`
	Address string    `json:"address,omitempty"`
	Beats   Answer    `json:"heartbeats"`              // within the TTL
	Beat    time.Time `json:"last_heartbeat,omitzero"` // of the node that was asked alone
	Started time.Time `json:"started,omitzero"`
	Volume  string    `json:"volume,omitempty"`
}

// Stop says whether one node may be stopped now, and which.
type Stop struct {
	May   Answer   `json:"may"`
	Nodes []string `json:"nodes,omitempty"`
	Why   string   `json:"why"`
}

// Lock says who holds the founding's lock.
type Lock struct {
	Held   Answer `json:"held"`
	Holder string `json:"holder,omitempty"`
}

// Gone is a node that is a member no more.
type Gone struct {
	Node string    `json:"node"`
	At   time.Time `json:"at"`
	How  string    `json:"how"` // left, taken off, or took itself off
	Why  string    `json:"why"`
	By   string    `json:"by,omitempty"`
}

// Problem is something that is wrong, or may become so, and what to do.
type Problem struct {
	Wrong bool   `json:"wrong"` // no: a warning
	What  string `json:"what"`
	Next  string `json:"next"` // a command, or where to read
}

// Of makes the document.
func Of(seen Seen) Document {
	d := Document{At: seen.Now.UTC(), Read: seen.ReadAt.UTC(), Own: seen.Own, Facts: facts(seen)}
	if seen.Own != nil {
		d.Asked = seen.Own.Node
	}
	all, refused := nodes(seen)
	rows, more := listed(seen, all)
	d.Nodes = rows
	d.Facts.States, d.Facts.Refused = states(all), refused
	d.Cluster = cluster(seen, d.Nodes)
	d.Cluster.More = more
	d.Stop = stop(seen, d.Cluster, d.Nodes)
	d.Lock = Lock{Held: Unknown}
	if seen.Lock.Known() {
		d.Lock = Lock{Held: No}
		if seen.Lock.Value != "" {
			d.Lock = Lock{Yes, seen.Lock.Value}
		}
	}
	d.Gone = gone(seen)
	d.Problems = problems(seen, d)
	d.Fit = fit(d)
	return d
}

// states counts the nodes in each.
func states(all []Node) map[State]int {
	count := map[State]int{}
	for _, n := range all {
		count[n.State]++
	}
	return count
}

// fit is yes where it is one cluster and nothing is wrong. What is wrong is so whatever else is
// not known.
func fit(d Document) Answer {
	for _, p := range d.Problems {
		if p.Wrong && p.What != d.Cluster.Why {
			return No
		}
	}
	return d.Cluster.One
}

// facts counts; nodes by their state [states] does, and those refused [nodes].
func facts(seen Seen) Facts {
	f := Facts{OnRecord: -1, Listed: -1, Running: -1, Passing: -1, Partitions: -1}
	if seen.Record.Known() {
		f.OnRecord = len(seen.Record.Value.Members)
	}
	if seen.Catalog.Known() {
		f.Passing = 0
		for _, p := range newest(seen.Record.Value, seen.Catalog.Value) {
			if p.Passing && !stranger(seen, p.Node) {
				f.Passing++
			}
		}
	}
	if seen.Own != nil && len(seen.Own.View.Members) > 0 {
		f.Listed, f.Running, f.Partitions = len(seen.Own.View.Members), len(seen.Own.View.Running), len(seen.Own.View.Partitions)
	}
	return f
}

// reason is the kind of a refusal as a label: others may have written it, so it is one of ours.
func reason(kind string) string {
	if slices.Contains(peers.Refusals, kind) {
		return kind
	}
	return "other"
}
