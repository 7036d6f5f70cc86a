package companion

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"rmq-entrypoint/internal/policy"
	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
)

// do does one thing that a rule asks for. What an event must not cut short goes on without
// its cancellation.
func (c *companion) do(ctx context.Context, seen *policy.Observation, a policy.Action) (said []policy.Said, err error) {
	dir, whole := statedir.Of(c.Runtime.Config), context.WithoutCancel(ctx)
	switch a := a.(type) {
	case policy.WriteRecord:
		return nil, c.writeRecord(ctx, a)
	case policy.SetMirrors:
		return c.setMirrors(ctx)
	case policy.Enroll:
		return nil, c.enroll(ctx, a)
	case policy.WritePending:
		return nil, dir.WritePending(statedir.Pending{Role: statedir.Role(a.Pending.Role), Claim: a.Pending.Claim, Volume: a.Pending.Volume})
	case policy.StopServer:
		return nil, c.Broker.Halt(whole, c.Runtime.PID)
	case policy.OpenGate:
		knew, err := c.openGate(ctx)
		if err == nil && !knew {
			err = policy.ErrNotKnown
		}
		return nil, err
	case policy.EndStop:
		stopping, err := c.Broker.EndStop(ctx)
		if err == nil && !stopping {
			err = policy.ErrNotStopping
		}
		return nil, err
	case policy.FailJoin:
		return nil, failJoin(dir)
	case policy.ForgetMember:
		return nil, c.Broker.Forget(ctx, a.Asked, a.Node)
	case policy.JoinPeer:
		return nil, c.Broker.Join(whole, a.Peer, c.mayJoin)
	case policy.RestartApp:
		err := c.Broker.RestartApp(whole)
		if errors.Is(err, context.DeadlineExceeded) {
			err = policy.ErrNoAnswer
		}
		return nil, err
	case policy.ForceBoot:
		return nil, c.Broker.ForceBoot(whole, rabbitmq.Boot{Lost: a.Lost, Khepri: a.Khepri, Mirrors: !c.Runtime.AtLeast(4, 0), Paused: a.Paused})
	case policy.Settle:
		return nil, c.settle(ctx, seen, a)
	case policy.WriteCarryOn:
		return nil, dir.WriteCarryOn(statedir.CarryOn{ClusterID: a.Order.ClusterID, Lost: a.Order.Lost, Forced: a.Order.Forced})
	case policy.DropCarryOn:
		return nil, dir.Remove("carry-on")
	case policy.EndMaintenance:
		return nil, c.endMaintenance(ctx, dir, a)
	case policy.LeaveAgents:
		c.Consul.Leave(ctx, c.Runtime)
		return nil, nil
	case policy.GrowReplicas:
		return c.growReplicas(ctx, a)
	case policy.WriteMarker:
		return nil, c.writeMarker(a.Marker)
	case policy.SetPauseMinority:
		return nil, c.Broker.PauseMinority(ctx, a.On)
	}
	return nil, fmt.Errorf("nobody knows how to do %T", a)
}

// mayJoin reads the record once more: meanwhile another container of this name may have been put
// on it, as when this one was frozen for longer than its TTL.
func (c *companion) mayJoin(ctx context.Context) error {
	client, err := c.Consul.Client(ctx)
	if err != nil {
		return err
	}
	r, _, err := peers.ReadRecord(ctx, client, c.Runtime.Config.RecordKey())
	switch on := r.Members[c.Runtime.Config.Node]; {
	case err != nil:
		return err
	case r.State != peers.Formed || on != "" && on != c.Runtime.Volume:
		return fmt.Errorf("the record names volume %q for this node by now, whose volume is %s, and is %s", on, c.Runtime.Volume, r.State)
	}
	return nil
}

func (c *companion) writeRecord(ctx context.Context, a policy.WriteRecord) error {
	client, err := c.Consul.Client(ctx)
	if err != nil {
		return err
	}
	c.kept.record.Drop()
	written, err := peers.WriteRecord(ctx, client, c.Runtime.Config.RecordKey(), a.Record, a.Index, "", "")
	c.board.cluster.wroteRecord()
	if err == nil && !written {
		err = policy.ErrChanged
	}
	return err
}

// enroll makes a member of this node: marker, runtime file, lock and entry, in this order.
func (c *companion) enroll(ctx context.Context, a policy.Enroll) error {
	if err := c.writeMarker(a.Marker); err != nil {
		return fmt.Errorf("the marker cannot be written: %w", err)
	}
	rt := &c.Runtime
	rt.Role, rt.Cluster, rt.Claim, rt.Verified = statedir.Member, a.Marker.ClusterID, "", a.Since
	if err := rt.Write(); err != nil {
		return fmt.Errorf("the runtime file cannot be written: %w", err)
	}
	if held := c.lock.Load(); held != nil {
		if err := held.Release(ctx); err != nil {
			c.Log.Warn("cannot release the lock, its TTL will", "err", err)
		}
		c.lock.Store(nil)
	}
	if a.Enter {
		c.services.enter(ctx, a.Marker.ClusterID)
	}
	return nil
}

func (c *companion) writeMarker(m policy.Marker) error {
	return statedir.Of(c.Runtime.Config).WriteMarker(statedir.Marker{
		ClusterID: m.ClusterID, Volume: m.Volume, Members: m.Members, At: m.At, Regrow: m.Regrow, RabbitMQ: c.Runtime.Version, Erlang: c.Runtime.Erlang,
	})
}

// failJoin marks a volume on which a join is under way.
func failJoin(dir statedir.Dir) error {
	p, err := dir.Pending()
	if err != nil || p == nil || p.Role != statedir.Joining {
		return nil // nothing that could be marked
	}
	p.Failed = true
	return dir.WritePending(*p)
}

// endMaintenance removes the operator's order, while no command works on the node.
func (c *companion) endMaintenance(ctx context.Context, dir statedir.Dir, a policy.EndMaintenance) error {
	c.files.reading.Lock() // a look would take this for a command, and this a look
	held, err := statedir.TryLock(dir.State, statedir.OperatorLock)
	c.files.reading.Unlock()
	switch {
	case err == nil:
		defer held.Close()
	case a.Unwatched:
		return policy.ErrCommandRuns
	}
	if a.Revive {
		if err := c.Broker.Revive(ctx); err != nil {
			return &policy.NotRevivedError{Err: err}
		}
	}
	return dir.Remove("out")
}

func (c *companion) setMirrors(ctx context.Context) (said []policy.Said, err error) {
	by, err := c.Broker.MirrorQueues(ctx)
	for host, word := range by {
		said = append(said, policy.Said{Name: host, Word: word})
	}
	return said, err
}

func (c *companion) growReplicas(ctx context.Context, a policy.GrowReplicas) (said []policy.Said, err error) {
	all, err := c.Broker.GrowReplicas(ctx, a.Few, a.Refill)
	for _, s := range all {
		said = append(said, policy.Said(s))
	}
	return said, err
}

// settle makes this copy's quorum queues usable again and forgets the lost members: in this
// order, or forgetting takes half a minute and fails on 4.0.
func (c *companion) settle(ctx context.Context, seen *policy.Observation, a policy.Settle) error {
	node := c.settings.Node
	look := func() (peers.View, error) {
		v, err := c.Broker.View(ctx, node)
		if err == nil {
			seen.See(node, func(n *policy.Node) { n.View = policy.Answer(v, nil) })
		}
		return v, err
	}
	if a.Shrink {
		if err := c.Broker.ShrinkQuorumQueues(ctx); err != nil {
			return fmt.Errorf("shrink the quorum queues to this copy: %w", err)
		}
	}
	for _, n := range a.Lost {
		v, err := look()
		if err != nil {
			return err
		}
		if !slices.Contains(v.Members, n) { // Khepri forgot it when it was told to stand alone
			continue
		}
		if err := c.Broker.ForgetLost(ctx, n); err != nil {
			c.Log.Warn("RabbitMQ complains while forgetting a member, looking whether it did", "member", n, "err", err)
		}
	}
	v, err := look()
	if err != nil {
		return err
	}
	if left := slices.DeleteFunc(slices.Clone(a.Lost), func(n string) bool { return !slices.Contains(v.Members, n) }); len(left) > 0 {
		return fmt.Errorf("RabbitMQ still lists %s", strings.Join(left, ", "))
	}
	s := c.state
	s.View.View = v
	if err := c.writeMarker(policy.NewMarker(c.settings, s, seen.Now)); err != nil { // with the members there are now
		return err
	}
	if !a.NameUnavailable {
		return nil
	}
	unavailable, err := c.Broker.UnavailableQueues(ctx)
	for queue, needs := range unavailable {
		c.Log.Warn("this quorum queue cannot be read until a majority of its replicas is back: this version cannot shrink it", "queue", queue, "replicas", needs)
	}
	return err
}
