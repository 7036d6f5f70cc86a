package policy

import (
	"fmt"
	"slices"

	"rmq-entrypoint/peers"
)

// renamed writes the id that RabbitMQ has given its cluster into the record, and whether
// that is what happened: import_definitions sets it (internal_cluster_id), on all members at
// once. Nobody is in another cluster: this volume is on record, the members are those on
// record, and a majority of them says the same. Anything else is a split.
func renamed(t *turn, r peers.Record) (v Verdict, applies bool) {
	mine := t.State.View.View
	on := r.Members[t.Node]
	if t.State.Membership.Role != Member || r.State != peers.Formed || on != t.Volume || on == "" || !sameMembers(r, mine.Members) {
		return Verdict{}, false
	}
	same, unknown := 0, []string(nil)
	for _, n := range mine.Running {
		view, q := t.viewOf(n)
		if q != nil {
			return ask(*q), true
		}
		switch {
		case view.Err != nil:
			unknown = append(unknown, n)
		case view.Value.ClusterID == mine.ClusterID && sameMembers(r, view.Value.Members) && slices.Contains(view.Value.Running, n):
			same++
		}
	}
	switch {
	case 2*same > len(r.Members):
	case 2*(same+len(unknown)) > len(r.Members):
		return recordWrong(t, fmt.Sprintf("RabbitMQ here says that its cluster is %s, the record says %s, and %s cannot be asked: whether the id was changed, or these are two clusters, is not known", mine.ClusterID, r.ClusterID, peers.Some(unknown))), true
	default:
		return Verdict{}, false
	}
	t.say(Warn, "RabbitMQ CHANGED ITS CLUSTER'S ID, as import_definitions does: the members are the same, and the record and the markers follow",
		"was", r.ClusterID, "is", mine.ClusterID, "members_that_say_so", same)
	return t.write(r.Renamed(mine.ClusterID), "RabbitMQ changed its cluster's id"), true
}

// sameMembers reports whether RabbitMQ lists the members on record, but for those that are
// about to join.
func sameMembers(r peers.Record, listed []string) bool {
	joined := without(r.Names(), func(n string) bool {
		return !slices.Contains(listed, n) && (r.Joining[n] != "" || r.NeverVerified(n))
	})
	return slices.Equal(joined, slices.Sorted(slices.Values(listed)))
}

// viewNow has RabbitMQ asked in this beat, where what it said before does not fit the record.
func (t *turn) viewNow() *Question {
	view, q := t.viewOf(t.Node)
	if q == nil && view.Err == nil {
		t.takeView(view.Value)
	}
	return q
}
