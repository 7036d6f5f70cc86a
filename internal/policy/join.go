package policy

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"rmq-entrypoint/peers"
)

// heldFor is for how long a server may know whom to join and look for others all the same: a try
// takes about 2 s.
const heldFor = time.Minute

// gate tells a server that began behind the gate whom to join, until it has data. A seed founds by
// its claim alone, which somebody else may have taken over meanwhile. A joiner that is still alone
// after a while may not read what it is told: its restart has that in its files.
func gate(t *turn) Verdict {
	data := t.Seen.Volume.Database
	if !t.Gate || data.Err != nil || data.Value || t.State.Membership.Role == Member || did[StopServer](t).Done {
		return Verdict{}
	}
	if t.State.Membership.Role == Seeding {
		switch r, q, err := t.record(); {
		case q != nil:
			return ask(*q)
		case err != nil:
			return Verdict{}
		case r.State != peers.Forming || r.Claim != t.State.Membership.Claim:
			return startsAnew(t, "the founding on record is not the one that it claimed")
		}
	}
	told := did[OpenGate](t)
	switch own := t.Seen.Nodes[t.Node].View; {
	case !told.Done:
		return do(OpenGate{})
	case errors.Is(told.Err, ErrElder):
		return startsAnew(t, told.Err.Error())
	case t.State.Join.KnewSince.IsZero(), t.Seen.Now.Sub(t.State.Join.KnewSince) < heldFor:
		return Verdict{}
	case !own.Asked:
		return ask(Question{What: AskView, Node: t.Node, Within: t.TTL / 2})
	case len(own.Value.Members) != 1: // it joins, or cannot say
		return Verdict{}
	}
	return startsAnew(t, fmt.Sprintf("it was told whom to join, and has not begun to within %s", heldFor))
}

// startsAnew stops a server that has no data.
func startsAnew(t *turn, why string) Verdict {
	t.say(Error, "stopping the server, its restart decides afresh: "+why, "last_word", t.State.Server.LastStatus)
	return finish(StopServer{})
}

// joinTimeout stops a joiner that has not got ready in time. Timeouts never apply to a
// node with data.
func joinTimeout(t *turn) Verdict {
	if t.State.Membership.Role != Joining || !t.Seen.Now.After(t.State.Join.Deadline) && !anyDid[FailJoin](t) {
		return Verdict{}
	}
	return failJoin(t, "not ready within the join timeout (--join-timeout, RMQ_JOIN_TIMEOUT)")
}

// joinStalled stops a joiner that never will get ready.
func joinStalled(t *turn) Verdict {
	if t.State.Membership.Role != Joining {
		return Verdict{}
	}
	if !anyDid[FailJoin](t) {
		if stalled, q := joinNeverEnds(t); q != nil {
			return ask(*q)
		} else if !stalled {
			return Verdict{}
		}
	}
	return failJoin(t, "the cluster counts this node in since a join that came to nothing, and has no leader without its vote, which it cannot give any more")
}

// failJoin marks the volume and stops the server, once a beat.
func failJoin(t *turn, why string) Verdict {
	switch {
	case !anyDid[FailJoin](t):
		t.say(Error, "stopping the server, its restart decides afresh: "+why, "last_word", t.State.Server.LastStatus)
		t.State.Join = Join{Deadline: t.Seen.Now.Add(t.JoinTimeout)}
		return do(FailJoin{})
	case did[FailJoin](t).Done && !did[StopServer](t).Done:
		return finish(StopServer{})
	}
	return Verdict{}
}

// joinUsually is longer than a join takes. A joiner gives up when it was stalled for
// stalledFor at least and at so many looks.
const (
	joinUsually  = 20 * time.Second
	stalledFor   = 20 * time.Second
	stalledLooks = 4
)

// joinNeverEnds reports whether this node's join can never end. The cluster counts a joiner in
// before the joiner has its part of the log on disk. One that is killed in between comes back
// knowing nobody, with a vote that the cluster does not know. Where its vote made the majority,
// the cluster accepts no join any more (measured on 4.3.6, one member and the joiner). Killed a
// moment later it has what it takes to vote, and its next start heals the cluster. What cannot
// be seen shows neither.
func joinNeverEnds(t *turn) (bool, *Question) {
	data := t.Seen.Volume.Database
	if data.Err != nil || data.Value || t.Seen.Now.Sub(t.State.Server.Started) < joinUsually {
		return false, nil
	}
	within := t.TTL/2 - t.Seen.Now.Sub(t.Seen.Began) // for all questions: no beat is to cost the TTL
	q := func(q Question) (bool, *Question) {
		if q.Within = within; within <= 0 {
			return false, nil
		}
		return false, &q
	}
	others, ask, err := t.others()
	switch {
	case ask != nil:
		return q(*ask)
	case err != nil:
		return false, nil
	}
	for _, p := range others {
		if !p.Beating {
			continue
		}
		record := t.Seen.Record
		switch _, on := record.Value.Members[p.Node]; {
		case !record.Asked:
			return q(Question{What: AskRecord})
		case record.Err != nil:
			return false, nil
		case !on: // whoever else registers is asked nothing
			continue
		}
		n := t.Seen.Nodes[p.Node]
		v := n.View.Value
		switch {
		case !n.View.Asked:
			return q(Question{What: AskView, Node: p.Node})
		case n.View.Err != nil:
			continue
		case !v.Khepri, !slices.Contains(v.Members, t.Node), v.DecidesWithout(t.Node):
			t.State.Join.StalledSince, t.State.Join.StalledLooks = Never, 0
			return false, nil
		case !n.Leader.Asked:
			return q(Question{What: AskLeader, Node: p.Node})
		case n.Leader.Err != nil:
			return false, nil
		case n.Leader.Value:
			t.State.Join.StalledSince, t.State.Join.StalledLooks = Never, 0
			return false, nil
		}
		me := t.Seen.Nodes[t.Node].View
		switch {
		case !me.Asked:
			return q(Question{What: AskView, Node: t.Node})
		case me.Err != nil && len(me.Value.Members) == 0: // not yet, or between two attempts
			return false, nil
		}
		first := len(without(t.Seen.Did, func(o Outcome) bool { _, gate := o.Action.(OpenGate); return gate })) == 0 // with each beat
		return t.State.Join.stalled(len(me.Value.Members) == 1, t.Seen.Now, first), nil
	}
	return false, nil
}

// stalled counts a look that showed it, or not, and reports whether it was shown for long
// enough. Only the first look of a beat counts.
func (j *Join) stalled(shown bool, now time.Time, first bool) bool {
	if !shown {
		j.StalledSince, j.StalledLooks = Never, 0
		return false
	}
	if first {
		j.StalledLooks++
	}
	if j.StalledSince.IsZero() {
		j.StalledSince = now
	}
	return j.StalledLooks >= stalledLooks && now.Sub(j.StalledSince) > stalledFor
}

// joinExplicitly takes a joiner that came up alone by accident, as one whose clock is
// behind does, into the cluster: only while it is pending, alone and without a queue.
// Otherwise it is a split, which nothing may touch.
func joinExplicitly(t *turn, r peers.Record) (bool, Verdict) {
	if r.State != peers.Formed {
		const word = "came up alone, and there is no formed cluster to join yet"
		if t.Seen.Now.After(t.State.Join.Deadline) { // nor will there be one, if all that is left waits for this node
			return mustStop(t, "came up alone, and no cluster was formed to be joined within the join timeout (--join-timeout, RMQ_JOIN_TIMEOUT)", word)
		}
		return notVerified(t, "%s", word)
	}
	if on := r.Members[t.Node]; on != "" && on != t.Volume {
		return mustStop(t, fmt.Sprintf("came up alone, and the record names volume %s for this node, whose volume is %s: nothing is done in its name", on, t.Volume), "alone")
	}
	switch queues := t.Seen.Queues; {
	case !queues.Asked:
		return false, ask(Question{What: AskQueues})
	case queues.Err != nil:
		return notVerified(t, "came up alone, and its queues cannot be counted: %v", queues.Err)
	case queues.Value > 0:
		return notVerified(t, "SPLIT: came up alone beside cluster %s, and holds %d queues: move what is in them, then empty this volume", r.ClusterID, queues.Value)
	}
	others, _, _ := t.others()
	for _, p := range others {
		if _, on := r.Members[p.Node]; !on || !p.Passing || p.ClusterID != r.ClusterID {
			continue
		}
		switch v := t.Seen.Nodes[p.Node].View; {
		case !v.Asked:
			return false, ask(Question{What: AskView, Node: p.Node})
		case v.Err == nil && v.Value.ClusterID == r.ClusterID && slices.Contains(v.Value.Running, p.Node):
			return joinPeer(t, p.Node, slices.Contains(v.Value.Members, t.Node))
		}
	}
	return mustStop(t, "came up alone, and no member answers to be joined", "alone")
}

// joinPeer joins that peer, which is made to forget this node's earlier volume before.
func joinPeer(t *turn, peer string, forget bool) (bool, Verdict) {
	p, f, j := did[WritePending](t), did[ForgetMember](t), did[JoinPeer](t)
	switch {
	case !p.Done:
		t.say(Warn, "came up alone by accident (is this host's clock behind?): joining explicitly", "peer", peer)
		return false, do(WritePending{Pending{Role: Joining, Claim: t.State.Membership.Claim, Volume: t.Volume}})
	case p.Err != nil:
		return notVerified(t, "%s", p.Err.Error())
	case forget && !f.Done:
		return false, finish(ForgetMember{Asked: peer, Node: t.Node})
	case !j.Done:
		return false, finish(JoinPeer{peer})
	case j.Err != nil:
		return notVerified(t, "came up alone and cannot join %s: %v", peer, j.Err)
	}
	return notVerified(t, "joined %s explicitly", peer)
}
