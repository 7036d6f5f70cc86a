package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"rmq-entrypoint/peers"
)

// lost returns those of the members that took themselves off the record. One that left in
// good order is about to be forgotten: only if that fails for long, its vote is lost, too.
// One that somebody else gave up has its data.
func (t *turn) lost(r peers.Record, members []string) []string {
	return without(members, func(m string) bool {
		g, gone := r.Gone[m]
		// A companion that is new measures anew: for a node that waits the time on record will do.
		return !gone || g.Another(m) || g.Left && max(t.goneFor(m, g), t.Seen.Now.Sub(g.At)) < 2*leaveGrace
	})
}

// khepri reports whether this node's members decide by majority, also while it cannot be
// asked: from 4.3 on there is nothing else, before it is a feature flag.
func (t *turn) khepri() bool {
	return t.State.View.Khepri || t.rabbitMQ().KhepriOnly() || t.Seen.Volume.KhepriFlag
}

// A quorumLoss is what a node can never end by itself, because the members it needs have
// all taken themselves off the record.
type quorumLoss struct {
	lost        []string // they did, and RabbitMQ still counts on them; none: no loss
	otherCopies bool     // other members hold a copy, too, and wait like this one
	paused      bool     // in a minority that no majority will ever end
}

// quorumLost finds out whether there is one. An error means unknown, as while RabbitMQ
// boots. It is asked only when somebody is off the record.
func quorumLost(t *turn, r peers.Record) (quorumLoss, *Question, error) {
	_, on := r.Members[t.Node]
	serving := t.State.Server.Phase == Serving
	switch {
	case !on || len(r.Gone) == 0 || serving && !t.khepri():
		return quorumLoss{}, nil, nil
	case t.khepri():
		return quorumLostKhepri(t, r)
	}
	return quorumLostMnesia(t, r)
}

func quorumLostKhepri(t *turn, r peers.Record) (loss quorumLoss, q *Question, err error) {
	v := &t.State.View
	enough := func() bool {
		// One that runs is not lost, whatever an earlier day's record says.
		loss.lost = without(t.lost(r, v.Members), func(m string) bool { return slices.Contains(v.Running, m) })
		// What joins while there is no majority holds no copy.
		loss.otherCopies = slices.ContainsFunc(r.Names(), func(m string) bool { return m != t.Node && slices.Contains(v.Members, m) })
		return 2*len(loss.lost) < len(v.Members)
	}
	if t.State.Server.Phase != Serving || !t.State.Membership.Verified || !enough() {
		seen := t.Seen.Nodes[t.Node].View // it answers without a majority, too
		switch {
		case !seen.Asked:
			return quorumLoss{}, &Question{What: AskView, Node: t.Node}, nil
		case seen.Err != nil && len(seen.Value.Members) == 0:
			return quorumLoss{}, nil, seen.Err
		}
		t.takeView(seen.Value)
	}
	if enough() {
		return quorumLoss{}, nil, nil
	}
	return loss, nil, nil
}

func quorumLostMnesia(t *turn, r peers.Record) (loss quorumLoss, q *Question, err error) {
	if !t.Seen.Waits.Asked {
		return loss, &Question{What: AskWaits}, nil
	}
	w, err := t.Seen.Waits.Value, t.Seen.Waits.Err
	if err != nil {
		return loss, nil, err
	}
	missing := t.lost(r, w.Members)
	if len(t.lost(r, w.For)) == 0 && !(w.Paused && 2*len(missing) >= len(w.Members)) {
		return loss, nil, nil
	}
	// One that serves brings what this node waits for, and one that is not started may.
	if len(r.Members) > 1 {
		others, q, err := t.others()
		if q != nil || err != nil {
			return loss, q, err
		}
		for _, m := range r.Names() {
			if m != t.Node && !slices.ContainsFunc(others, func(p peers.Peer) bool { return p.Node == m && p.Alive() && !p.Passing }) {
				return loss, nil, nil
			}
		}
	}
	return quorumLoss{missing, len(r.Members) > 1, w.Paused}, nil, nil
}

// lossOf says that this node can never again go on by itself, and what a person can do
// about it; or "". What is to be asked or done before that is in the verdict.
func lossOf(t *turn, r peers.Record) (why string, v Verdict) {
	t.State.Majority = Majority{}
	m := t.Seen.Volume.Marker
	if m.Err != nil || m.Value == nil || r.State != peers.Formed || !r.Is(m.Value.ClusterID) {
		return "", Verdict{}
	}
	loss, q, err := quorumLost(t, r)
	if q != nil {
		return "", ask(*q)
	}
	if t.State.Majority.Unknown = err; err != nil || len(loss.lost) == 0 {
		return "", Verdict{}
	}
	names := peers.Some(loss.lost)
	all := func(f func(peers.Gone) bool) bool {
		return !slices.ContainsFunc(loss.lost, func(n string) bool { return !f(r.Gone[n]) })
	}
	why = fmt.Sprintf("THE MAJORITY IS GONE FOR GOOD: %s came up blank, and what only they held is lost", names)
	mounted := fmt.Sprintf("if their volumes are only not mounted: stop all nodes, mount them, delete the key %s in Consul, start the nodes with data; otherwise ", t.RecordKey)
	if all(func(g peers.Gone) bool { return g.MayReturn }) {
		mounted = "if their volumes are only not mounted, or another container was started under their names: start them with their data, and they come back; otherwise "
	}
	if all(func(g peers.Gone) bool { return g.Left }) {
		why = fmt.Sprintf("THE MAJORITY IS GONE FOR GOOD: %s left with nothing lost, but RabbitMQ was not made to forget them in time", names)
		mounted = ""
	}
	if !loss.otherCopies && all(func(g peers.Gone) bool { return g.Unjoined }) {
		return carryOnWithout(t, loss.lost, fmt.Sprintf("the join of %s came to nothing, and nothing is lost with it, but RabbitMQ counts on its vote: going on without", names))
	}
	which := "this copy"
	if loss.otherCopies {
		which = "the newest copy"
		copies := without(r.Names(), func(n string) bool { return t.khepri() && !slices.Contains(t.State.View.Members, n) })
		why += fmt.Sprintf("; %s hold a copy each, this node's served until %s", peers.Some(copies), m.Value.At.Format(time.RFC3339))
		if t.khepri() {
			return why + "; " + mounted + "wipe all copies but the newest, which then says how to carry on", Verdict{}
		}
	}
	t.State.Majority.Lost = loss.lost
	if t.ForceBoot && !loss.otherCopies {
		return carryOnWithout(t, loss.lost, why+"; carrying on from this copy, as --force-boot (RMQ_FORCE_BOOT) allows")
	}
	return why + fmt.Sprintf("; %scarry on from %s: rmq-entrypoint force-boot --cluster-id %s", mounted, which, m.Value.ClusterID), Verdict{}
}

// carryOnWithout gives the order by itself. One that lies there is under way already.
func carryOnWithout(t *turn, lost []string, why string) (string, Verdict) {
	id, given := t.State.Membership.ClusterID, t.Seen.Volume.CarryOn.Value
	switch w := did[WriteCarryOn](t); {
	case !w.Done && (given == nil || given.ClusterID != id):
		return "", do(WriteCarryOn{Order: CarryOn{ClusterID: id, Lost: lost}})
	case w.Err != nil:
		return why + "; " + w.Err.Error(), Verdict{}
	}
	return why, Verdict{}
}

// majorityLost: this node can never again go on by itself.
func majorityLost(t *turn) Verdict {
	why, v := lossOf(t, t.Seen.Record.Value.Record)
	if v.pending() || why == "" {
		return v
	}
	t.once("cannot go on alone", why)
	t.State.Fault = Fault{Reason: why}
	return critical("%s", why)
}

// carryOnOrder carries out an order found on the volume, and says what it is at.
func carryOnOrder(t *turn) Verdict {
	m := t.State.Membership
	if slices.ContainsFunc(t.Seen.Did, func(o Outcome) bool { _, given := o.Action.(WriteCarryOn); return given && o.Rule != t.rule }) {
		return Verdict{} // it was given in this very beat
	}
	if d := did[DropCarryOn](t); d.Done && d.Err != nil {
		return critical("%s", d.Err.Error())
	} else if d.Done {
		return Verdict{}
	}
	order, err := t.Seen.Volume.CarryOn.Value, t.Seen.Volume.CarryOn.Err
	switch {
	case err != nil:
		return critical("%s", err.Error())
	case order == nil || m.Role != Member || order.ClusterID != m.ClusterID:
		return Verdict{}
	}
	if v, begun := carryOnBegun(t, *order); begun {
		return v
	}
	r, q, err := t.record()
	switch {
	case q != nil:
		return ask(*q)
	case err != nil:
		return critical("carry on: %v", err)
	}
	still := t.lost(r.Record, order.Lost)
	if r.State != peers.Formed || !r.Is(order.ClusterID) || len(still) == 0 {
		return dropOrder(t, *order, still)
	}
	serving := t.State.Server.Phase == Serving
	names := order.Lost
	if order.Forced {
		names = still
	} else {
		loss, q, err := quorumLost(t, r.Record)
		switch {
		case q != nil:
			return ask(*q)
		case err != nil:
			return critical("carry on: RabbitMQ does not say yet what it waits for: %v", err)
		case len(loss.lost) == 0 && serving && len(still) == len(order.Lost): // it was told, and that was not written down
		case !slices.Equal(loss.lost, order.Lost):
			return dropOrder(t, *order, loss.lost)
		default:
			return beginCarryOn(t, r.Record, *order, loss.paused)
		}
	}
	if serving {
		return settle(t, r.Record, names)
	}
	if !t.khepri() { // for this run of the server only, and not before Mnesia runs
		if f := did[ForceBoot](t); !f.Done {
			return do(ForceBoot{Node: t.Node, Lost: names})
		}
	}
	return comesUpWithout(names)
}

func comesUpWithout(names []string) Verdict {
	return critical("carrying on: the server comes up without %s", strings.Join(names, ", "))
}

// dropOrder drops an order that may be old: the lost volumes were mounted since.
func dropOrder(t *turn, order CarryOn, now []string) Verdict {
	t.say(Warn, "the order to carry on no longer holds and is dropped", "was_lost", strings.Join(order.Lost, ","), "is_lost", strings.Join(now, ","), "record", describe(t.Seen.Record.Value.Record))
	return do(DropCarryOn{ClusterID: order.ClusterID})
}

// dropped: carried out, this copy is the cluster, and the node is to be verified in it.
func (t *turn) dropped(d DropCarryOn, err error) {
	if err == nil && d.CarriedOut {
		t.say(Info, "carried on: this copy is the cluster now", "cluster", d.ClusterID, "members", strings.Join(t.State.View.Members, ","))
		t.State.Membership.Verified = false
	}
}

// beginCarryOn tells RabbitMQ to come up without the others. Their volumes may not come
// back from here on: that is on record first.
func beginCarryOn(t *turn, r peers.Record, order CarryOn, paused bool) Verdict {
	w := did[WriteRecord](t)
	if on, changed := r.GoneOn(order.Lost); changed && !w.Done {
		return t.write(on, "going on without "+strings.Join(order.Lost, ", "))
	}
	t.say(Warn, "carrying on from this node's copy", "cluster", order.ClusterID, "given_up", strings.Join(order.Lost, ","))
	return do(ForceBoot{Node: t.Node, Lost: order.Lost, Khepri: t.khepri(), Paused: paused, Begins: true})
}

// carryOnBegun is what follows on a step of an order in the beat in which it was done,
// whatever has become of what it was for.
func carryOnBegun(t *turn, order CarryOn) (v Verdict, begun bool) {
	if w := did[WriteRecord](t); w.Done && w.Err != nil {
		return critical("carry on: %s", wording(w.Err)), true
	}
	if s := did[Settle](t); s.Done && s.Err != nil {
		return critical("carry on: %v", s.Err), true
	} else if s.Done {
		return finish(DropCarryOn{ClusterID: order.ClusterID, CarriedOut: true}), true
	}
	f := did[ForceBoot](t)
	if !f.Done || !f.Action.Begins {
		return Verdict{}, false
	}
	w := did[WriteCarryOn](t)
	switch {
	case f.Err != nil:
		return critical("carry on: %v", f.Err), true
	case !w.Done:
		order.Forced = true
		return finish(WriteCarryOn{Order: order, Restart: f.Action.Paused}), true
	case w.Err != nil:
		return critical("%s", w.Err.Error()), true
	case w.Action.Restart && !did[StopServer](t).Done:
		t.say(Warn, "restarting the server, which paused in a minority")
		return finish(StopServer{}), true
	}
	return comesUpWithout(f.Action.Lost), true
}

// settle makes this copy the cluster. Those that are back on record are not lost any more.
func settle(t *turn, r peers.Record, names []string) Verdict {
	names = without(names, func(n string) bool { _, on := r.Members[n]; return on })
	shrinks := t.rabbitMQ().ShrinksQuorumQueues()
	return do(Settle{Lost: names, Shrink: shrinks && len(r.Members) == 1, NameUnavailable: !shrinks})
}

// settled takes what there is after that, whether it succeeded or not.
func (t *turn) settled(err error) {
	if v := t.Seen.Nodes[t.Node].View; v.Known() {
		t.takeView(v.Value)
	}
	if m := t.Seen.Volume.Marker.Value; err == nil && m != nil {
		t.State.Upkeep.Marker = *m
	}
}

// wording is why the record was not written.
func wording(err error) string {
	if errors.Is(err, ErrChanged) {
		return ErrChanged.Error()
	}
	return err.Error()
}
