package policy

import (
	"time"

	"rmq-entrypoint/peers"
)

// Action is one thing to do. It is done as a whole, and what it could not do is its
// error.
type Action interface{ action() }

type (
	// WriteRecord writes the record in place of the one read at Index. Somebody else who
	// was faster is [ErrChanged].
	WriteRecord struct {
		Record peers.Record
		Index  uint64
		What   string // for the log
	}

	// SetMirrors sets the policy that mirrors queues in each virtual host, and tells in
	// Said what RabbitMQ said of each.
	SetMirrors struct{}

	// Enroll makes a member of this node: it writes the marker, then the runtime file,
	// gives up the seed's lock, and, to Enter, puts the cluster's id into its entry.
	Enroll struct {
		Marker Marker
		Since  time.Time // of the first verification
		Enter  bool
	}

	// WritePending writes what the volume is to be taken for at the next start.
	WritePending struct{ Pending Pending }

	// StopServer stops this node's server with status 1.
	StopServer struct{}

	// EndStop ends this node's server at once if it is stopping; otherwise [ErrNotStopping].
	EndStop struct{}

	// OpenGate tells the server, which began behind the gate, whom to join. [ErrNotKnown]: it
	// had not been told before, and what it still reads may undo that. [ErrElder]: it was not told.
	OpenGate struct{}

	// FailJoin marks a volume on which a join is under way: it came to nothing.
	FailJoin struct{}

	// ForgetMember makes RabbitMQ on Asked forget Node.
	ForgetMember struct{ Asked, Node string }

	// JoinPeer has this node, which has nothing to lose, join Peer. An event does not cut
	// it short: stop_app and start_app inside say STOPPING and READY.
	JoinPeer struct{ Peer string }

	// RestartApp restarts RabbitMQ within its Erlang VM; what does not answer in time may
	// have heard it, [ErrNoAnswer]. The event that it stops does not cut it short.
	RestartApp struct {
		Survivors string    // members that go on
		Before    time.Time // when it was last restarted before
	}

	// ForceBoot tells RabbitMQ, which waits, to come up without the others. Paused, it
	// only gets what it must know before it is restarted. The event that the boot goes on
	// does not cut it short.
	ForceBoot struct {
		Node   string // this one
		Lost   []string
		Khepri bool
		Paused bool
		Begins bool // the order is to be noted as carried out so far
	}

	// Settle makes this copy's quorum queues usable again, has RabbitMQ forget the lost
	// members, asks for this node's view, which it leaves in the observation whether
	// it succeeds or not, and writes the marker.
	Settle struct {
		Lost            []string
		Shrink          bool // the queues to this copy
		NameUnavailable bool // queues, in the log: this version cannot shrink them
	}

	// WriteCarryOn leaves the order on the volume.
	WriteCarryOn struct {
		Order   CarryOn
		Restart bool // the server is to be restarted for it
	}

	// DropCarryOn removes the order from the volume.
	DropCarryOn struct {
		ClusterID  string
		CarriedOut bool
	}

	// EndMaintenance removes the operator's order, under the operator's flock where that
	// is to be had. Unwatched, it is only done if no command has begun meanwhile,
	// [ErrCommandRuns]. Revive ends RabbitMQ's maintenance mode before, if it is in that:
	// [NotRevivedError].
	EndMaintenance struct{ Revive, Unwatched bool }

	// LeaveAgents removes entries left with agents that this node moved away from.
	LeaveAgents struct{}

	// GrowReplicas brings replicas of quorum queues here, and tells in Said of each queue
	// what became of it. What was said before an error counts.
	GrowReplicas struct {
		Few    int  // replicas that are too few
		Refill bool // replace replicas that stay empty for good
	}

	// WriteMarker writes the marker.
	WriteMarker struct{ Marker Marker }

	// SetPauseMinority sets, or takes back, what RabbitMQ does in a minority.
	SetPauseMinority struct{ On bool }
)

func (WriteRecord) action()      {}
func (SetMirrors) action()       {}
func (Enroll) action()           {}
func (WritePending) action()     {}
func (StopServer) action()       {}
func (EndStop) action()          {}
func (OpenGate) action()         {}
func (FailJoin) action()         {}
func (ForgetMember) action()     {}
func (JoinPeer) action()         {}
func (RestartApp) action()       {}
func (ForceBoot) action()        {}
func (Settle) action()           {}
func (WriteCarryOn) action()     {}
func (DropCarryOn) action()      {}
func (EndMaintenance) action()   {}
func (LeaveAgents) action()      {}
func (GrowReplicas) action()     {}
func (WriteMarker) action()      {}
func (SetPauseMinority) action() {}

// Ended is what an action that was done makes of the state and of the observation, in which
// the volume was read again, and what it tells the log.
func Ended(set Settings, s State, seen Observation, out Outcome) (State, Observation, []Line) {
	t := &turn{Settings: set, State: s, Seen: seen.after(out)}
	up := &t.State.Upkeep
	switch a := out.Action.(type) {
	case WriteRecord:
		if out.Err == nil {
			t.say(Info, "record written", "what", a.What, "cluster", a.Record.ClusterID, "members", peers.SomeWith(a.Record.Names(), ","))
		}
	case SetMirrors:
		t.mirrored(out)
	case Enroll:
		t.enrolled(a, out.Err)
	case WritePending:
		if out.Err != nil && a.Pending.Role == Alone {
			t.say(Error, "cannot mark the volume, so the server is left running", "err", out.Err)
		}
	case OpenGate:
		if out.Err == nil && t.State.Join.KnewSince.IsZero() {
			t.State.Join.KnewSince = t.Seen.Now
		}
	case FailJoin:
		if out.Err != nil {
			t.say(Error, "cannot mark the volume", "err", out.Err)
		}
	case StopServer:
		if out.Err != nil {
			t.say(Error, "the server does not stop", "err", out.Err)
		}
	case EndStop:
		if out.Err == nil {
			t.say(Warn, "the server did not come to the end of its stop: ended, what it has confirmed is on disk", "after", t.Seen.Now.Sub(t.State.Server.StoppedAt).Round(time.Second))
		}
	case ForgetMember:
		switch {
		case out.Err == nil:
		case a.Node == t.Node:
			t.say(Warn, "the cluster does not forget this node's earlier volume", "err", out.Err)
		default:
			t.say(Warn, "it is not forgotten yet", "member", a.Node, "err", out.Err)
		}
	case RestartApp:
		t.restarts(a, out.Err)
	case ForceBoot:
		if out.Err != nil && !a.Begins {
			t.say(Debug, "cannot load the tables yet", "err", out.Err)
		}
	case Settle:
		t.settled(out.Err)
	case DropCarryOn:
		t.dropped(a, out.Err)
	case EndMaintenance:
		t.inService(a, out.Err)
	case GrowReplicas:
		t.grown(out)
	case WriteMarker:
		if out.Err != nil {
			t.say(Warn, "cannot write the marker", "err", out.Err)
		} else {
			up.Marker = a.Marker
		}
	case SetPauseMinority:
		if out.Err != nil {
			t.say(Warn, "cannot set cluster_partition_handling", "err", out.Err)
		} else {
			t.State.View.Pauses, t.State.View.At = a.On, Never // and it is asked whether it took that
			t.say(Info, "cluster_partition_handling set", "pause_minority", a.On, "members", up.RecordSize)
		}
	}
	return t.State, t.Seen, t.log
}

// write has the record written, with the version that this node runs, and what it knows of
// the cluster's queues.
func (t *turn) write(r peers.Record, what string) Verdict {
	return do(WriteRecord{r.WithQueues(t.Queues).Runs(t.Node, t.Version), t.Seen.Record.Value.Index, what})
}
