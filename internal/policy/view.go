package policy

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"rmq-entrypoint/peers"
)

// viewEvery is how often RabbitMQ is asked for its members when nothing else gives a reason
// to. While the management port says that they are the same, it is asked every saidEvery:
// the cluster's id, Khepri and what it does in a minority may change as well.
const (
	viewEvery = 30 * time.Second
	saidEvery = 5 * time.Minute
)

// unknown is the word while something cannot be asked: a node that was verified stays what
// it was, one that was not stays out.
func unknown(t *turn, err error) Verdict {
	r, f := t.Seen.Health, t.State.Fault
	switch {
	case !t.State.Membership.Verified:
		return critical("not verified: %v", err)
	case f.Reason != "":
		v := critical("%s (not looked at again: %v)", f.Reason, err)
		if f.Degraded {
			v.Status = Warning
		}
		return v
	}
	v := critical("%s; not checked against the record: %v", r.Reason, err)
	v.Status = r.State.String()
	return v
}

// unasked is unknown because of Consul, which is not needed to heal a partition, nor to know
// that too few members run to decide anything.
func unasked(t *turn, err error) Verdict {
	v := partitionAnyway(t)
	if v.Reason == "" && !v.pending() && t.State.Membership.Verified {
		v = standsStill(t, nil)
	}
	if v.pending() {
		return v
	}
	if v.Reason == "" || !t.State.Membership.Verified {
		v = unknown(t, err)
	}
	v.Missed = err
	return v
}

func recordUnknown(t *turn) Verdict {
	_, q, err := t.record()
	switch {
	case q != nil:
		return ask(*q)
	case err != nil:
		return unasked(t, err)
	}
	return Verdict{}
}

// catalogUnknown: what the record says counts all the same. A member earns passing by the record and
// by RabbitMQ, so an answer that cannot be read, as who registers enough can make it, keeps none out.
func catalogUnknown(t *turn) Verdict {
	_, q, err := t.others()
	switch {
	case q != nil:
		return ask(*q)
	case err == nil:
		return Verdict{}
	}
	says := []func(*turn) Verdict{recordAgainst}
	if !t.State.Membership.Verified {
		says = []func(*turn) Verdict{viewUnknown, membershipAnyway, recordAgainst}
	}
	for _, says := range says {
		if v := says(t); v.pending() || v.Status != "" {
			v.Missed = err
			return v
		}
	}
	return unasked(t, err)
}

// membershipAnyway is membership of a node that is in the cluster on record already. One that founds
// looks in the catalog for others that may have, and one that came up alone for whom to join.
func membershipAnyway(t *turn) Verdict {
	r := t.Seen.Record.Value.Record
	if t.State.Membership.Role != Member && (r.State != peers.Formed || r.ClusterID != t.State.View.ClusterID) {
		return Verdict{}
	}
	return membership(t)
}

// viewUnknown: RabbitMQ was asked for its cluster, if that may have changed, and does not
// say.
func viewUnknown(t *turn) Verdict {
	q, err := refreshView(t, t.Seen.Record.Value.Index, t.passing())
	switch {
	case q != nil:
		return ask(*q)
	case err != nil:
		if v := listedFew(t); v.Status != "" {
			return v
		}
		return unknown(t, err)
	}
	return Verdict{}
}

// passing names the members, by the record or by RabbitMQ, that pass in the catalog. Whoever else
// registers is no reason to ask RabbitMQ, which takes an Erlang VM.
func (t *turn) passing() string {
	var names []string
	others, _, _ := t.others()
	for _, p := range others {
		if _, on := t.Seen.Record.Value.Members[p.Node]; p.Passing && (on || slices.Contains(t.State.View.Members, p.Node)) {
			names = append(names, p.Node)
		}
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ",")
}

// refreshView brings the view up to what RabbitMQ says, when it may have changed since it
// was judged against that record and those who pass.
func refreshView(t *turn, record uint64, passing string) (*Question, error) {
	v := &t.State.View
	seen := t.Seen.Nodes[t.Node].View
	// The management port answers in milliseconds where RabbitMQ's command line takes a
	// second of CPU.
	if (t.State.Membership.Verified || t.Seen.Managed.Asked) && len(v.Partitions) == 0 && !seen.Asked {
		if !t.Seen.Managed.Asked {
			return &Question{What: AskManaged, Within: time.Second}, nil
		}
		same, known := unchanged(t)
		due := v.At.IsZero() || t.State.Neighbours.FewListed || t.Seen.Now.Sub(v.SaidAt) >= saidEvery
		if known && same && !due {
			v.At, v.PassingPeers, v.RecordIndex = t.Seen.Now, passing, record
		}
		every := viewEvery
		if t.Seen.Record.Err != nil || t.Seen.Catalog.Err != nil { // nobody's check that lapses tells of a change
			every = min(every, t.TTL)
		}
		age := t.Seen.Now.Sub(v.At)
		asPassing := passing == v.PassingPeers || age < t.Patience() // a stranger's entry under a member's name may come and go
		if same && !due && (known || asPassing && record == v.RecordIndex && age < every) {
			return nil, nil
		}
	}
	if !seen.Asked {
		q := Question{What: AskView, Node: t.Node}
		if t.State.Membership.Verified { // a server that does not answer is not to cost the TTL
			q.Within = t.TTL / 2
		}
		return &q, nil
	}
	if seen.Err != nil {
		t.once("RabbitMQ does not say what it knows of its cluster, asking again", seen.Err.Error())
		return nil, seen.Err
	}
	*v = View{seen.Value, t.Seen.Now, t.Seen.Now, record, passing}
	t.State.Server.Located, t.State.Neighbours.FewListed = true, false
	return nil, nil
}

// listed are the members that the management port lists, and those of them that run.
func (t *turn) listed() (members, running []string) {
	for _, n := range t.Seen.Managed.Value {
		members = append(members, n.Name)
		if n.Running {
			running = append(running, n.Name)
		}
	}
	slices.Sort(members)
	slices.Sort(running)
	return members, running
}

// unchanged reports whether the management port lists the members, running nodes and
// partitions of the view; and whether they were known. Not knowing is no change: then the
// view is renewed by the clock.
func unchanged(t *turn) (same, known bool) {
	if !t.Seen.Managed.Known() {
		return true, false
	}
	members, running := t.listed()
	var partitions []string
	for _, n := range t.Seen.Managed.Value {
		if n.Name == t.Node {
			known, partitions = n.Known, slices.Clone(n.Partitions)
		}
	}
	slices.Sort(partitions)
	v := t.State.View
	same = slices.Equal(members, v.Members) && slices.Equal(running, v.Running) && (!known || slices.Equal(partitions, v.Partitions))
	return same, known
}

// takeView takes the view that RabbitMQ gave in this beat for what it is now, but not as
// judged.
func (t *turn) takeView(v peers.View) {
	v.ClusterID = cmp.Or(v.ClusterID, t.State.Membership.ClusterID) // the marker's, while it cannot be read
	t.State.View.View, t.State.View.At, t.State.View.SaidAt = v, t.Seen.Now, t.Seen.Now
}
