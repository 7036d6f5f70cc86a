package policy

import (
	"fmt"
	"slices"
	"time"

	"rmq-entrypoint/peers"
)

// bootsUsually is longer than a boot takes.
const bootsUsually = 30 * time.Second

// waitsForMembers: a node that has data and does not serve waits for nodes that will never
// bring what it waits for, or for which it may wait.
func waitsForMembers(t *turn) Verdict {
	data := t.Seen.Volume.Database
	joined := t.State.Membership.Role == Joining && data.Err == nil && data.Value
	if t.State.Membership.Role != Member && !joined {
		return Verdict{}
	}
	r, q, err := t.record()
	switch {
	case q != nil:
		return ask(*q)
	case err != nil:
		return waitsUnrecorded(t, fmt.Sprintf("once the record can be read again (%v)", err))
	}
	why, v := lossOf(t, r.Record)
	if v.pending() {
		return v
	}
	if why != "" {
		t.once("cannot go on alone", why)
		return critical("%s", why)
	}
	if r.State != peers.Formed {
		return waitsUnrecorded(t, fmt.Sprintf("once the key %s in Consul, which holds no cluster now, is restored from a backup", t.RecordKey))
	}
	others, q, err := t.others()
	switch {
	case q != nil:
		return ask(*q)
	case err != nil:
		return waitsUnrecorded(t, fmt.Sprintf("once the catalog can be read again (%v)", err))
	}
	down := without(r.Names(), func(m string) bool {
		return m == t.Node || slices.ContainsFunc(others, func(p peers.Peer) bool { return p.Node == m && p.Alive() })
	})
	switch {
	case len(down) > 0:
		v = critical("%s; RabbitMQ may wait for members that are not up: %s", t.lastWord(), peers.Some(down))
	case t.State.Majority.Unknown != nil:
		v = critical("%s; whether RabbitMQ waits for members that came up blank cannot be told yet: %v", t.lastWord(), t.State.Majority.Unknown)
	case joined: // nobody on record is missing; RabbitMQ may miss one that is not on it
		return waitsUnrecorded(t, "")
	case len(r.Names()) > 1:
		return bootDrags(t)
	default:
		return Verdict{}
	}
	return t.waits(v)
}

// bootDrags: everybody else is up, and the boot goes on for twice as long as one takes. So
// nothing that a start of theirs would mend: names that lead elsewhere, a port that is shut, another
// cookie, or much to recover.
func bootDrags(t *turn) Verdict {
	if t.State.Server.Phase != Booting || t.Seen.Now.Sub(t.State.Server.Started) <= 2*bootsUsually {
		return Verdict{}
	}
	_, absent, q := t.absent()
	if q != nil {
		return ask(*q)
	}
	why := "RabbitMQ's own log has how far it came"
	if len(absent) > 0 {
		why = fmt.Sprintf("RabbitMQ here lacks %s: its cookie may be another one than theirs, a port may be shut, or names may lead elsewhere", peers.Some(absent))
	}
	return t.waits(critical("%s, for over %s, while all other members are up; %s; rmq-entrypoint doctor looks for what is in the way", t.lastWord(), 2*bootsUsually, why))
}

// waits has the log told of a wait that is longer than a boot.
func (t *turn) waits(v Verdict) Verdict {
	if t.bootsLong() {
		t.once("not ready yet", v.Reason)
	}
	return v
}

func (t *turn) bootsLong() bool {
	return t.Seen.Now.Sub(t.State.Server.Started) > bootsUsually
}

// waitsUnrecorded says by RabbitMQ's own word for whom this node waits, where Consul does not
// tell who is a member: not before a boot would be over, and not of one that stopped. Missing is
// when a person can go on without those that are gone for good.
func waitsUnrecorded(t *turn, missing string) Verdict {
	if t.State.Server.Phase != Booting || !t.bootsLong() {
		return Verdict{}
	}
	all, absent, q := t.absent()
	if q != nil {
		return ask(*q)
	}
	if len(absent) == 0 {
		return Verdict{}
	}
	what, names := "RabbitMQ may wait for", peers.Some(absent)
	if n := t.Seen.Nodes[t.Node]; t.khepri() && len(n.View.Value.Members) > 0 {
		what = "no majority: RabbitMQ waits for"
	}
	way := "if they are gone for good, start blank nodes under their names: " + missing + ", the check here names rmq-entrypoint force-boot"
	if t.Seen.Volume.Marker.Value == nil { // and that command refuses
		way = "this copy joined and never was verified: if they are gone for good, start it with an empty volume"
	}
	return t.waits(critical("%s; %s %s, of the members %s: start them; %s", t.lastWord(), what, names, peers.Some(all), way))
}

// absent returns the members, as RabbitMQ itself or else the marker knows them, and those of
// them without which it does not come up; none: that is not so, or cannot be told.
func (t *turn) absent() (all, absent []string, q *Question) {
	if t.khepri() {
		seen := t.Seen.Nodes[t.Node].View // it answers without a majority, too
		if !seen.Asked {
			return nil, nil, &Question{What: AskView, Node: t.Node, Within: t.TTL / 2}
		}
		if all = seen.Value.Members; len(all) > 0 {
			absent = without(all, func(m string) bool {
				return m == t.Node || slices.Contains(seen.Value.Running, m) || slices.Contains(seen.Value.Connected, m)
			})
			if 2*len(absent) < len(all) {
				absent = nil
			}
			return all, absent, nil
		}
	} else {
		if !t.Seen.Waits.Asked {
			return nil, nil, &Question{What: AskWaits, Within: t.TTL / 2}
		}
		if t.Seen.Waits.Err == nil {
			return t.Seen.Waits.Value.Members, t.Seen.Waits.Value.For, nil
		}
	}
	if m := t.Seen.Volume.Marker.Value; m != nil {
		all = m.Members
		absent = without(all, func(m string) bool { return m == t.Node })
	}
	return all, absent, nil
}
