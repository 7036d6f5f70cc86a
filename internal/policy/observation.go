package policy

import (
	"errors"
	"maps"
	"slices"
	"time"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/peers"
)

// Fact is [peers.Seen] with another zero: not asked. Unknown is never "no".
type Fact[T any] struct {
	Value T
	Err   error
	Asked bool
}

// Answer is the fact that a question has become.
func Answer[T any](value T, err error) Fact[T] { return Fact[T]{value, err, true} }

// Known reports whether there is an answer.
func (f Fact[T]) Known() bool { return f.Asked && f.Err == nil }

// Observation is what was looked at in this beat.
type Observation struct {
	Now   time.Time
	Began time.Time // when the look at the node began
	Glance

	Record  Fact[Record]
	Catalog Fact[[]peers.Peer]       // this node's own entries too
	Kept    bool                     // one of the two was read in an earlier beat
	Fresh   bool                     // they are to be read in this one
	Managed Fact[[]healthcheck.Node] // by the management port: has anything moved?
	Waits   Fact[Waits]
	Queues  Fact[int]
	Nodes   map[string]Node // that were asked, this one among them

	Did []Outcome // what this beat did, in order, and how it ended
}

// Glance is what is there without a question.
type Glance struct {
	Health    healthcheck.Result
	Rechecked bool // Health is of a check that knew where RabbitMQ listens
	Volume    Volume
	OldAgents bool   // entries may be left with Consul agents that this node moved away from
	ID        string // [peers.NewID], for a record that is published anew
	Made      string // id of the entry that was last made in Consul; "": not known, as where an earlier process made it
}

// Record is the cluster record and where it was read.
type Record struct {
	peers.Record
	Index   uint64
	Written bool // by this beat, and not read since
}

// Volume is what lies on the volume: read with each beat, and after each action.
type Volume struct {
	Maintenance peers.Seen[*Maintenance]
	CommandRuns bool // of an operator's, that works on the node; looked at where there is an order
	CarryOn     peers.Seen[*CarryOn]
	Marker      peers.Seen[*Marker]
	Database    peers.Seen[bool] // RabbitMQ has initialised its directory
	KhepriFlag  bool             // its feature flags say Khepri
}

// Left reports whether the node has left its cluster for good, and holds no name any more.
func (v Volume) Left() bool {
	order := v.Maintenance.Value
	return order != nil && order.Leaving && order.Done
}

// Maintenance is the order to take the node out of service.
type Maintenance struct {
	Leaving bool // for good
	Drained bool // RabbitMQ is in maintenance mode; when it serves again, the order is void
	Done    bool // drained, as far as this RabbitMQ can be; or off the record for good
	At      time.Time
}

// CarryOn is the order to carry on from this node's copy.
type CarryOn struct {
	ClusterID string
	Lost      []string // members whose data is given up
	Forced    bool     // the server was told; it comes up, or is up
}

// Marker says that this volume is a member's, and until when it served.
type Marker struct {
	ClusterID string
	Volume    string
	Members   []string
	At        time.Time
	Regrow    bool // replicas of quorum queues are still to be brought back
}

// NewMarker is the marker of a node whose RabbitMQ said what s.View holds.
func NewMarker(set Settings, s State, now time.Time) Marker {
	return Marker{ClusterID: s.View.ClusterID, Volume: set.Volume, Members: s.View.Members, At: now.UTC(), Regrow: s.Upkeep.GrowTries > 0}
}

// Pending says what a server is started as on a blank volume.
type Pending struct {
	Role   Role
	Claim  string
	Volume string
}

// Waits is what Mnesia knows while it waits, or is stopped.
type Waits struct {
	Members []string
	For     []string // those that still ran when this node stopped
	Paused  bool     // RabbitMQ paused in a minority
}

// Node is what a node of the cluster said when it was asked.
type Node struct {
	// View with an error and members is a node that knows them and cannot read its
	// data yet, the cluster's id among it.
	View   Fact[peers.View]
	Leader Fact[bool]      // whether the members that decide by majority have one
	Down   map[string]bool // by registered address: RabbitMQ positively does not run there
}

// See has f note what a node said when it was asked. Other copies of the observation keep
// what they had.
func (o *Observation) See(node string, f func(*Node)) {
	n := o.Nodes[node]
	n.Down = maps.Clone(n.Down)
	if f(&n); o.Nodes == nil {
		o.Nodes = map[string]Node{}
	}
	o.Nodes = maps.Clone(o.Nodes)
	o.Nodes[node] = n
}

// What there is to be asked, and who knows.
type What string

const (
	AskRecord  What = "record"  // Consul's leader; fills Record
	AskCatalog What = "catalog" // Consul's leader; fills Catalog
	AskAfresh  What = "afresh"  // nobody yet: what was kept is dropped, see Observation.Afresh
	AskManaged What = "managed" // this node's management port; fills Managed
	AskView    What = "view"    // RabbitMQ on Node; fills Nodes[Node].View
	AskCheck   What = "check"   // AMQP, where RabbitMQ says that it listens; fills Health and Rechecked
	AskLeader  What = "leader"  // RabbitMQ on Node; fills Nodes[Node].Leader
	AskDown    What = "down"    // who can tell that Node at Address is down; fills Nodes[Node].Down
	AskWaits   What = "waits"   // Mnesia on this node; fills Waits
	AskQueues  What = "queues"  // RabbitMQ on this node; fills Queues
)

// Question is what to look at next.
type Question struct {
	What    What
	Node    string
	Address string
	Within  time.Duration // so that no beat costs the TTL; 0: as long as it takes
	Kept    bool          // unless all is to be fresh, what an earlier beat read will do, while a blocking query stands that tells of a change
}

func ask(q Question) Verdict { return Verdict{Ask: &q} }

// Errors that an outcome may wrap.
var (
	// ErrChanged: somebody else has written the record since it was read.
	ErrChanged = errors.New("another node changed the record first, looking again")
	// ErrNoAnswer: the order may have been heard.
	ErrNoAnswer = errors.New("no answer")
	// ErrNotKnown: the server had not been told whom to join before.
	ErrNotKnown = errors.New("the server was not told before")

	// ErrElder: RabbitMQ would have the others join this node.
	ErrElder = errors.New("the elder node joins none")

	// ErrNotStopping: the server is not on its way to its end.
	ErrNotStopping = errors.New("the server is not stopping")
	// ErrCommandRuns: an operator's command has begun to work on the node.
	ErrCommandRuns = errors.New("a command works on this node")
)

// NotRevivedError says that RabbitMQ stays in maintenance mode.
type NotRevivedError struct{ Err error }

func (e *NotRevivedError) Error() string { return e.Err.Error() }
func (e *NotRevivedError) Unwrap() error { return e.Err }

// Outcome is how an action ended that a rule had done.
type Outcome struct {
	Rule   string
	Action Action
	Err    error
	Said   []Said // by RabbitMQ, of each queue or virtual host
}

// Said is RabbitMQ's word on a queue or a virtual host.
type Said struct{ Name, Word string }

// after returns the observation after an action: with how it ended, and without what it
// made out of date.
func (o Observation) after(out Outcome) Observation {
	o.Did = append(slices.Clip(o.Did), out)
	switch a := out.Action.(type) {
	case WriteRecord:
		switch {
		case out.Err == nil:
			o.Record.Value = Record{a.Record, o.Record.Value.Index, true}
		case errors.Is(out.Err, ErrChanged):
			o.Record = Fact[Record]{}
		}
	case ForceBoot:
		o.Waits = Fact[Waits]{}
		o.Nodes = maps.Clone(o.Nodes)
		delete(o.Nodes, a.Node)
	}
	return o
}
