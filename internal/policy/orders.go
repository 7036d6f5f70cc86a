package policy

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/peers"
)

// leaveGrace is how long the leave command has, from when the node is off the record until
// it is forgotten and its server stopped, before others finish it.
const leaveGrace = 2 * time.Minute

// maintenance: the node is out of service by an operator's order. When RabbitMQ serves all
// the same, because it was revived, or because the command was interrupted before it was
// drained, the order is void. It says so itself: who listens at its port may be anybody.
func maintenance(t *turn) Verdict {
	order, err := t.Seen.Volume.Maintenance.Value, t.Seen.Volume.Maintenance.Err
	if err != nil {
		return outOfService(t, err.Error())
	}
	if order == nil || order.Leaving {
		return Verdict{}
	}
	interrupted := !t.Seen.Volume.CommandRuns && !order.Done // nobody works on it any more
	h := t.Seen.Health
	serves := t.State.Server.Phase == Serving && h.State != healthcheck.Critical && !h.Missed
	if (order.Drained || interrupted) && serves && t.Seen.Began.Sub(order.At) > 2*t.Patience() {
		open, q := takesClients(t)
		if q != nil {
			return ask(*q)
		}
		e := did[EndMaintenance](t)
		switch {
		case !e.Done && !open:
		case !e.Done:
			return do(EndMaintenance{Unwatched: !order.Drained})
		case errors.Is(e.Err, ErrCommandRuns):
			interrupted = false
		case e.Err != nil:
			t.out = false
			return outOfService(t, e.Err.Error())
		}
	}
	switch {
	case order.Done:
		return outOfService(t, "maintenance: drained since "+order.At.Format(time.RFC3339))
	case interrupted:
		return outOfService(t, "maintenance: the drain did not end: run rmq-entrypoint drain again, or rabbitmq-upgrade revive")
	}
	return outOfService(t, "maintenance: being drained")
}

// takesClients reports whether RabbitMQ itself says that it takes connections of clients, as it
// does not in maintenance mode, or whom to ask.
func takesClients(t *turn) (bool, *Question) {
	own := t.Seen.Nodes[t.Node].View
	if !own.Asked {
		return false, &Question{What: AskView, Node: t.Node, Within: t.Patience()}
	}
	v := own.Value
	return len(v.Listeners) > 0 && slices.Contains(v.Running, t.Node) && !v.Stops, nil
}

// leaving: the node goes for good. What is left to do when the command is gone is done
// here. Off the record, the server stops, and the others forget the node: the volume says so, too,
// when the record does not any more. Before that nothing is lost, and the node stays, whatever the
// record says of it: that somebody else took it off, or that Consul lost its data, is for the
// rules of membership.
func leaving(t *turn) Verdict {
	order := t.Seen.Volume.Maintenance.Value
	if t.Seen.Volume.Maintenance.Err != nil || order == nil || !order.Leaving {
		return Verdict{}
	}
	r, q, err := t.record()
	if q != nil {
		return ask(*q)
	}
	interrupted := !t.Seen.Volume.CommandRuns && !order.Done
	off := err == nil && r.HasLeft(t.Node, t.Volume)
	since := order.At
	if off {
		since = r.Gone[t.Node].At
	}
	switch {
	case off || order.Done:
		if t.Seen.Now.Sub(since) >= leaveGrace && !did[StopServer](t).Done {
			t.say(Warn, "this node left the cluster for good: stopping the server")
			return do(StopServer{})
		}
		return outOfService(t, "leaving the cluster for good: it has left, and the server stops")
	case interrupted && err != nil:
		return outOfService(t, fmt.Sprintf("leaving the cluster for good: the command was interrupted, and whether the node is off the record cannot be told: %v", err))
	case interrupted && t.State.Server.Phase == Serving:
		if !did[EndMaintenance](t).Done {
			return do(EndMaintenance{Revive: true, Unwatched: true})
		}
	case interrupted:
		return outOfService(t, "leaving the cluster for good: the command was interrupted, and the node stays when RabbitMQ serves again")
	}
	return outOfService(t, "leaving the cluster for good")
}

// outOfService says why the node is. A partition is healed all the same.
func outOfService(t *turn, why string) Verdict {
	if t.State.Membership.Verified && t.State.Server.Phase == Serving {
		if v := partitionAnyway(t); v.pending() {
			return v
		}
	}
	return critical("%s", why)
}

// inService is what the end of an order came to.
func (t *turn) inService(a EndMaintenance, err error) {
	var still *NotRevivedError
	switch {
	case err == nil && a.Revive:
		t.say(Warn, "leave was interrupted before the node was off the record: back in service")
	case err == nil:
		t.say(Info, "back in service: RabbitMQ serves, it was revived or never drained")
	case errors.Is(err, ErrCommandRuns) || !a.Revive:
	case errors.As(err, &still):
		t.say(Warn, "leave was interrupted, and RabbitMQ stays in maintenance mode", "err", still.Err)
	default:
		t.say(Warn, "leave was interrupted, and its order cannot be removed", "err", err)
	}
}

// membersToForget returns the members that left for good and that RabbitMQ still lists,
// where the command that was to have them forgotten is gone: scaling down is to leave no
// ghost. It is for the first of the running members to do.
func (t *turn) membersToForget(r peers.Record) (names []string) {
	v := t.State.View.View
	on := without(v.Running, func(n string) bool { _, on := r.Members[n]; return !on })
	if len(on) == 0 || slices.Min(on) != t.Node {
		return nil
	}
	for _, m := range v.Members {
		g := r.Gone[m]
		_, back := r.Members[m]
		// Of one that was published by others, the volume is not known.
		off := !back && g.Left && (g.Forgotten || r.HasLeft(m, g.Volume))
		if off && !slices.Contains(v.Running, m) && t.goneFor(m, g) > leaveGrace {
			names = append(names, m)
		}
	}
	return names
}
