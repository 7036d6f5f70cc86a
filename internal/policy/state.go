package policy

import (
	"cmp"
	"time"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// Never is the time at which nothing happened yet.
var Never time.Time

// Settings do not change while a companion lives.
type Settings struct {
	Node            string
	Volume          string // id of this node's volume
	Boot            string // id of this start of the node
	Version         string // of RabbitMQ
	TTL             time.Duration
	Interval        time.Duration // between heartbeats; 0: a third of the TTL
	DeregisterAfter time.Duration // critical for longer, and Consul removes the entry
	JoinTimeout     time.Duration
	StopTimeout     time.Duration // after which a stop hangs; 0: 12 s
	RecordKey       string
	Queues          string // what queues are in its cluster that name no type

	ForceBoot            bool // the last copy carries on by itself
	SurvivingQueues      bool // queues are kept through the loss of a node
	Adopted              bool // another program founded the cluster: its queues are left as they are
	QuorumQueues         bool // queues that name no type are quorum queues
	OwnPartitionHandling bool // cluster_partition_handling is the user's own
	Replaced             bool // an earlier companion of this server was lost
	Single               bool // a lone broker, in no cluster: Consul is not asked
	Gate                 bool // the server began behind the gate, and is to be told whom to join
}

// LongestBeat is what a node may be set to at most, whatever its TTL: who founds a cluster waits for
// members of an earlier one for so long, and cannot know what they are set to.
const LongestBeat = time.Minute

// Beat is the time between heartbeats. By a third of the TTL two may be lost before Consul's
// check lapses.
func (set Settings) Beat() time.Duration { return cmp.Or(set.Interval, set.TTL/3) }

// Patience is what others get for what they do once in a heartbeat, and RabbitMQ and networks
// for what takes them a moment, however short the time between this node's heartbeats is set.
func (set Settings) Patience() time.Duration { return max(set.Beat(), min(set.TTL/3, 10*time.Second)) }

// StopBound is after how long a stop hangs. By default it is longer than RabbitMQ takes to stop: 2
// to 8 s on two cores.
func (set Settings) StopBound() time.Duration { return cmp.Or(set.StopTimeout, 12*time.Second) }

// rabbitMQ is the version of this node's RabbitMQ; unknown, it is the zero one.
func (set Settings) rabbitMQ() rabbitconf.Version {
	v, _ := rabbitconf.ParseVersion(set.Version)
	return v
}

// State is what a companion remembers from beat to beat.
type State struct {
	Server     Server
	Membership Membership
	Entry      Entry
	View       View
	Fault      Fault
	Partition  Partition
	Neighbours Neighbours
	Join       Join
	Majority   Majority
	Upkeep     Upkeep
}

// Start is the state of a companion whose server boots.
func Start(set Settings, m Membership, now time.Time) State {
	return State{
		Server:     Server{Started: now, LastStatus: "booting"},
		Membership: m,
		Join:       Join{Deadline: now.Add(set.JoinTimeout)},
	}
}

// Phase of the server, as it said by the notify protocol.
type Phase int

const (
	Booting Phase = iota
	Serving
	Stopped
)

// Server is what RabbitMQ said of itself. Stopped means that the node was withdrawn from
// Consul and has not served since; StoppedAt is when it last was. AnsweredSince is set only
// while it does not serve, as far as was heard, and AMQP answers.
type Server struct {
	Phase         Phase
	LastStatus    string // its last word while it does not serve
	Started       time.Time
	StoppedAt     time.Time
	AnsweredSince time.Time
	Located       bool      // RabbitMQ said since READY where it listens
	Heard         bool      // it has said something while it booted
	SoughtAt      time.Time // when RabbitMQ was last asked, while it boots, where it listens
}

// Role is what a node's server is started as.
type Role string

const (
	Seeding Role = "seeding" // founds the cluster under a claim
	Joining Role = "joining" // joins the members on record
	Alone   Role = "alone"   // came up alone by accident: blank for the next decision
	Member  Role = "member"  // has data
)

// Membership is what this node is to its cluster. Verified means that passing was earned:
// the node serves, its Role is Member, and ClusterID and VerifiedSince are set.
type Membership struct {
	Role          Role
	ClusterID     string // of the marker, or verified
	Claim         string // of the record it was started under, until it is verified
	New           bool   // it joined under a name that had no volume before
	Verified      bool
	VerifiedSince time.Time // the first time since the server started
}

// Standing is what this node may take its name from. A member that is not verified yet
// has what it had when it started: where its first registration failed, the entry of its
// earlier start is still there. Once Consul had an entry of this start, one in its place is
// not that: a copy of its volume may serve elsewhere.
func (s State) Standing() peers.Standing {
	m := s.Membership
	switch {
	case !m.VerifiedSince.IsZero():
		return peers.Serving
	case m.Role == Member && m.ClusterID != "" && s.Entry.ReportedAt.IsZero():
		return peers.Starting
	}
	return peers.Blank
}

// View is what RabbitMQ last said of its cluster, whole, and against what that was judged.
// An At of [Never] means that it is to be asked again. SaidAt is when RabbitMQ said it: the
// management port, by which At goes on, does not know all of it.
type View struct {
	peers.View
	At           time.Time
	SaidAt       time.Time
	RecordIndex  uint64
	PassingPeers string
}

// Fault is what the last look at a verified node found wrong, for as long as nothing can
// be looked at. Degraded, it is no reason not to serve, and there is a Reason.
type Fault struct {
	Reason   string
	Degraded bool
}

// Partition: Since is set while the last look showed one. Restarting is set from the order
// to RabbitMQ to restart until READY, and RestartedAt is when that was last given.
type Partition struct {
	Since       time.Time
	Restarting  string // why
	RestartedAt time.Time
}

// Neighbours is what only this node sees of the others. Nothing in it is critical at one
// look. By node, UnseenSince has the members that pass and are not seen running, UnlistedSince
// the members on record that RabbitMQ does not list, and GoneSince those off the record.
// LeaderMissing and FewListed are what the last look found: the latter at the management port,
// while RabbitMQ itself did not say. Newcomers are members that the last catalog showed on their
// way: they vote, and do not run yet. StandsStill is the Fault that RabbitMQ's own view tells of,
// or the management port, which can end it, too. Met has the members on record.
type Neighbours struct {
	Met           map[string]Met
	UnseenSince   map[string]time.Time
	UnlistedSince map[string]time.Time
	GoneSince     map[string]Sighting
	LeaderMissing bool
	FewListed     bool
	Newcomers     []string
	StandsStill   string
}

// Met is how a member was met in the catalog since RabbitMQ here lists it as running: Entries are
// those under its name that passed. While it does not Run, they stay.
type Met struct {
	Runs    bool
	Entries []string
}

// Join is read while the Role is Joining. StalledLooks is above 0 while StalledSince is
// set. KnewSince is when the server, which began behind the gate, was first seen to know whom to
// join.
type Join struct {
	KnewSince    time.Time
	Deadline     time.Time // when a joiner that does not serve gives up
	StalledSince time.Time // since when its vote is missed and not to be had
	StalledLooks int       // looks that showed so
}

// Majority is what the last look found missing for good, or why that cannot be told:
// never both.
type Majority struct {
	Lost    []string // members without which only force-boot goes on
	Unknown error
}

// Upkeep is what is left to do, and what the volume was last told. What RabbitMQ has is in
// the View, as it says itself. PairSince is set while the cluster has two members, and
// there is a Warning only then.
type Upkeep struct {
	Marker     Marker
	RecordSize int      // members on record
	GrowTries  int      // left to bring back replicas of quorum queues
	ToForget   []string // members that left for good and are not forgotten
	PairSince  time.Time
	Warning    string
}
