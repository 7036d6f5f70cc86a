package policy

import (
	"slices"
	"time"

	"rmq-entrypoint/peers"
)

// forgottenAfter is for how long RabbitMQ must not list a member: a list is behind for a
// moment while it changes.
func (t *turn) forgottenAfter() time.Duration { return 2 * t.Patience() }

// forgottenByHand follows RabbitMQ's list of members, which counts: a member that was
// verified, that no running member lists, and whose entry does not beat, was forgotten by
// hand, and goes off the record. It would count for the size of the cluster, and be waited
// for, for ever. A joiner is on record before RabbitMQ lists it. It is for the first of the
// running members to write.
func forgottenByHand(t *turn) Verdict {
	r, v := t.Seen.Record.Value.Record, t.State.View
	if did[WriteRecord](t).Done || t.Seen.Record.Value.Written {
		return Verdict{}
	}
	others, _, _ := t.others()
	was, since := t.State.Neighbours.UnlistedSince, map[string]time.Time{}
	t.State.Neighbours.UnlistedSince = since
	runOnRecord := without(v.Running, func(n string) bool { _, on := r.Members[n]; return !on })
	first := len(runOnRecord) > 0 && slices.Min(runOnRecord) == t.Node
	for _, m := range r.Names() {
		beating := slices.ContainsFunc(others, func(p peers.Peer) bool { return p.Node == m && p.Alive() })
		if m == t.Node || slices.Contains(v.Members, m) || beating || r.Joining[m] != "" || r.NeverVerified(m) {
			continue
		}
		if since[m] = was[m]; since[m].IsZero() {
			since[m] = t.Seen.Now
		}
		if !first || t.Seen.Now.Sub(since[m]) <= t.forgottenAfter() {
			continue
		}
		lacked, q := lackedByAll(t, m)
		switch {
		case q != nil:
			return ask(*q)
		case !lacked:
			since[m] = t.Seen.Now
		default:
			t.say(Warn, "RabbitMQ was made to forget a member by hand: taking it off the record", "member", m, "volume", r.Members[m])
			return t.write(r.ForgottenByHand(m, t.Seen.Now).By(m, t.Node), "RabbitMQ was made to forget "+m)
		}
	}
	return Verdict{}
}

// lackedByAll asks each running member, this one among them, for its own list. One that does
// not say may list m.
func lackedByAll(t *turn, m string) (bool, *Question) {
	for _, n := range t.State.View.Running {
		view, q := t.viewOf(n)
		if q != nil {
			return false, q
		}
		if view.Err != nil || view.Value.ClusterID != t.State.View.ClusterID || slices.Contains(view.Value.Members, m) {
			return false, nil
		}
	}
	return true, nil
}

// viewOf returns what a node says of its cluster in this beat, or the question for it. All
// such questions of a beat take half the TTL at most: what there is no time for is unknown.
func (t *turn) viewOf(node string) (Fact[peers.View], *Question) {
	view := t.Seen.Nodes[node].View
	within := t.TTL/2 - t.Seen.Now.Sub(t.Seen.Began)
	switch {
	case view.Asked:
	case within <= 0:
		view.Err = ErrNoAnswer
	default:
		return view, &Question{What: AskView, Node: node, Within: within}
	}
	return view, nil
}
