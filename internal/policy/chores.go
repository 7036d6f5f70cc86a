package policy

import (
	"fmt"
	"slices"
	"strings"
)

// What a verified node does once it has told Consul how it is, in this order. A chore does
// one thing at a time, and nothing twice in a beat.
var chores = []rule{
	{"leaveAgents", leaveAgents},
	{"growReplicas", growReplicas},
	{"writeMarker", writeMarker},
	{"setPauseMinority", setPauseMinority},
	{"forgetMembers", forgetMembers},
	{"twoNodes", twoNodes},
}

// NextChore returns what a verified node that is not out of service does next; Do is nil
// when nothing is left. Seen is what was looked at in this beat, with nothing in Did at
// first. Chores together are bounded by 2/5 of the TTL, and none is left out for that: it
// fails.
func NextChore(set Settings, s State, seen Observation) Verdict {
	t := &turn{Settings: set, State: s, Seen: seen}
	for _, r := range chores {
		t.rule = r.name
		if v := r.says(t); v.Do != nil {
			v.Rule = r.name
			return t.verdict(v)
		}
	}
	return t.verdict(Verdict{})
}

// leaveAgents removes entries left with agents that this node moved away from.
func leaveAgents(t *turn) Verdict {
	if !t.Seen.OldAgents || did[LeaveAgents](t).Done {
		return Verdict{}
	}
	return do(LeaveAgents{})
}

// growTries is how often bringing replicas back may fail.
const growTries = 10

// growReplicas brings this node's replicas of quorum queues back, a few a beat, until there
// is nothing left to do or it has failed too often. A node that joins, or joins again with
// a blank volume, has none: RabbitMQ leaves them where they were declared, or lets them grow
// in its own time. A user who keeps the queues to himself, or whose cluster was founded by another
// program, still gets back what a wiped volume took, and nothing else.
func growReplicas(t *turn) Verdict {
	if t.State.Upkeep.GrowTries == 0 || did[GrowReplicas](t).Done {
		return Verdict{}
	}
	few := 1
	if t.SurvivingQueues && !t.Adopted {
		few = 3
	}
	return do(GrowReplicas{Few: few, Refill: !t.rabbitMQ().RefillsReplicas()})
}

// grown is what became of the queues.
func (t *turn) grown(out Outcome) {
	tries := &t.State.Upkeep.GrowTries
	var grown, failed []string
	left := out.Err != nil // busy, as a node that has just joined is
	for _, s := range out.Said {
		switch s.Word {
		case "ok":
			grown = append(grown, s.Name)
		case "later":
			left = true
		default:
			left, failed = true, append(failed, fmt.Sprintf("%s: %s", s.Name, s.Word))
		}
	}
	if len(grown) > 0 {
		t.say(Info, "quorum queues have a replica here again", "queues", len(grown), "names", strings.Join(grown, "; "))
	}
	if out.Err != nil || len(failed) > 0 {
		*tries--
	}
	if out.Err != nil {
		t.say(Info, "cannot look yet whether quorum queues lack a replica here", "tries_left", *tries, "why", out.Err)
	}
	if len(failed) > 0 {
		t.say(Warn, "quorum queues without a replica here", "tries_left", *tries, "why", strings.Join(failed, "; "))
	}
	if !left {
		if len(grown) == 0 && *tries < growTries { // an earlier try may have been cut short with its work done
			t.say(Info, "no quorum queue lacks a replica here any more")
		}
		*tries = 0
	}
}

// writeMarker keeps on the volume who the members are, and until when this one served, to
// half a minute. A marker that is not this node's, or not there any more, is written anew at
// once; one that cannot be read, in its time.
func writeMarker(t *turn) Verdict {
	m, on := t.State.Upkeep.Marker, t.Seen.Volume.Marker
	there := on.Err != nil || on.Value != nil && on.Value.ClusterID == t.State.View.ClusterID && on.Value.Volume == t.Volume
	if did[WriteMarker](t).Done || there && slices.Equal(m.Members, t.State.View.Members) && m.Regrow == (t.State.Upkeep.GrowTries > 0) && t.Seen.Now.Sub(m.At) <= viewEvery {
		return Verdict{}
	}
	return do(WriteMarker{NewMarker(t.Settings, t.State, t.Seen.Now)})
}

// setPauseMinority makes a node of three and more pause in a minority where Mnesia decides,
// unless the user said otherwise: the default left a lasting partition. RabbitMQ says what
// it has: with each start_app it reads its files again, and what it was told is gone.
func setPauseMinority(t *turn) Verdict {
	want := t.State.Upkeep.RecordSize >= 3
	if t.OwnPartitionHandling || t.State.View.Khepri || want == t.State.View.Pauses || did[SetPauseMinority](t).Done {
		return Verdict{}
	}
	return do(SetPauseMinority{want})
}

// forgetMembers makes RabbitMQ forget members that left for good.
func forgetMembers(t *turn) Verdict {
	up := &t.State.Upkeep
	if len(up.ToForget) == 0 {
		return Verdict{}
	}
	n := up.ToForget[0]
	t.say(Warn, "a member left for good and was not forgotten: forgetting it", "member", n)
	up.ToForget, t.State.View.At = up.ToForget[1:], Never
	return do(ForgetMember{Asked: t.Node, Node: n})
}

// twoNodes warns of what a cluster of two members cannot survive. Not at once: a third may
// be about to join.
func twoNodes(t *turn) Verdict {
	up := &t.State.Upkeep
	why := ""
	switch {
	case len(t.State.View.Members) != 2:
		up.PairSince = Never
	case up.PairSince.IsZero():
		up.PairSince = t.Seen.Now
	case t.Seen.Now.Sub(up.PairSince) < 2*t.TTL:
	case t.State.View.Khepri:
		why = "TWO NODES: this cluster does not survive the loss of either, because RabbitMQ 4.2 and later decide by majority: add a third node"
	case t.State.View.Paired, t.SurvivingQueues && t.QuorumQueues:
		why = "TWO NODES: quorum queues with a replica on both do not survive the loss of either: add a third node"
	}
	if why != up.Warning {
		if up.Warning = why; why != "" {
			t.say(Warn, why, "members", strings.Join(t.State.View.Members, ","))
		}
	}
	return Verdict{}
}
