package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"rmq-entrypoint/peers"
)

// membership earns the right to pass: the record is formed, RabbitMQ's cluster id is the
// record's, and this node is in it with this volume. Then record, marker and passing, in
// that order.
func membership(t *turn) Verdict {
	m := &t.State.Membership
	if m.Verified {
		return Verdict{}
	}
	if e := did[Enroll](t); e.Done && e.Err != nil {
		return critical("not verified: %v", e.Err)
	}
	if proven, v := checkMembership(t); !proven {
		return v
	}
	wiped := m.Role == Joining && (!m.New || t.SurvivingQueues && !t.Adopted) // or new, where replicas are ours to grow
	// A marker that cannot be read may say that replicas are to be brought back: growing looks first.
	old := t.Seen.Volume.Marker
	if wiped || old.Err == nil && old.Value != nil && old.Value.Regrow || old.Err != nil && t.SurvivingQueues && !t.Adopted {
		t.State.Upkeep.GrowTries = growTries
	}
	since := m.VerifiedSince
	if since.IsZero() {
		since = t.Seen.Now
	}
	// Entered over the entry there is, which keeps its status: peers find a member by its
	// cluster id, and an entry of before it was known, or of another companion's, may
	// lack it.
	return do(Enroll{
		Marker: NewMarker(t.Settings, t.State, t.Seen.Now), Since: since,
		Enter: t.State.Entry.ClusterID != t.State.View.ClusterID,
	})
}

// enrolled is what an enrolment came to. With its marker on the volume the node is a
// member, whatever failed after that.
func (t *turn) enrolled(e Enroll, err error) {
	m, id := &t.State.Membership, e.Marker.ClusterID
	was := m.Role
	if on := t.Seen.Volume.Marker.Value; err == nil || on != nil && on.At.Equal(e.Marker.At) {
		m.Role, m.ClusterID, m.Claim, m.New, m.VerifiedSince = Member, id, "", false, e.Since
		t.State.Upkeep.Marker = e.Marker
	}
	if err == nil {
		t.State.Entry.ClusterID, m.Verified = id, true
		t.State.Entry.Lapse.Owed, t.State.Entry.Lapse.Lost = false, false
		t.say(Info, "verified: this node is a member and serves", "was", string(was), "cluster", id, "members", peers.SomeWith(t.State.View.Members, ","))
	}
}

// notVerified is what is still missing.
func notVerified(t *turn, format string, args ...any) (bool, Verdict) {
	why := fmt.Sprintf(format, args...)
	t.once("not verified", why)
	return false, critical("not verified: %s", why)
}

// mostWrites is how often the record is written in a beat at most: nodes that join at the
// same time write it at the same time.
const mostWrites = 4

// checkMembership checks the node against the record by its role, and has the record brought up to
// what is true.
func checkMembership(t *turn) (proven bool, v Verdict) {
	m, r, node := t.State.Membership, t.Seen.Record.Value.Record, t.Node
	if m.Role == Member && r.State == peers.Formed && r.ClusterID != t.State.View.ClusterID {
		if q := t.viewNow(); q != nil {
			return false, ask(*q)
		}
	}
	v0 := t.State.View.View
	ours := r.State == peers.Formed && r.ClusterID == v0.ClusterID
	single := len(v0.Members) == 1
	publish := func(r peers.Record, what string) (bool, Verdict) { return false, t.write(r, what) }
	anew := func(what string) (bool, Verdict) {
		r := peers.Published(v0, node, t.Volume, t.Seen.Now)
		r.Claim = t.Seen.ID // not one that is drawn with each question
		return false, t.write(r, what)
	}
	switch w := did[WriteRecord](t); {
	case !slices.Contains(v0.Running, node): // Khepri answers while it still waits for its majority
		return notVerified(t, "RabbitMQ does not list this node as running")
	case w.Done && w.Err == nil && ours:
		return true, Verdict{}
	case w.Done && w.Err == nil: // RabbitMQ says otherwise by now
		return notVerified(t, "%s", split(v0, r))
	case w.Done && (!errors.Is(w.Err, ErrChanged) || t.writes() >= mostWrites):
		return notVerified(t, "%s", notWritten(t, w))
	}
	if r.State == peers.Formed && !ours {
		if v, applies := renamed(t, r); applies {
			return false, v
		}
	}
	switch {
	case m.Role == Seeding && r.State == peers.Forming && r.Seed == node && r.Claim == m.Claim:
		return found(t, r)
	case m.Role == Seeding && !ours && single: // a seed whose claim was taken over
		return mustStop(t, fmt.Sprintf("this node's claim to found the cluster was overtaken: the record is %s", describe(r)), "overtaken")
	case m.Role == Seeding && !ours:
		return notVerified(t, "%s", split(v0, r))
	case m.Role == Joining && single && !ours:
		return joinExplicitly(t, r)
	case m.Role == Joining && r.State == peers.Forming:
		return notVerified(t, "%s has not announced the cluster yet", r.Seed)
	case r.State == peers.Absent:
		return anew("the record was gone: published again")
	case r.State == peers.Forming && m.Role == Member: // with a marker, or adopted: both are data
		return anew("another node was founding a cluster beside this one: overruled")
	case r.State == peers.Forming:
		return notVerified(t, "%s is founding a cluster, and this volume never was verified as a member", r.Seed)
	case !ours:
		return notVerified(t, "%s", split(v0, r))
	}
	on, listed := r.Members[node]
	_, gone := r.Gone[node]
	switch mine := listed && on == t.Volume && on != ""; {
	case mine && (r.Joining[node] != "" || r.NeverVerified(node)):
		t.State.Membership.New = r.Joining[node] != ""
		return publish(r.With(node, on), "a member now")
	case mine && r.Versions[node] != t.Version:
		return publish(r, "on record with RabbitMQ "+t.Version)
	case mine:
		return true, Verdict{}
	case listed && on == "", !listed && !gone:
		return publish(r.With(node, t.Volume), "on record with this volume")
	}
	if v, applies := reclaim(t, r); applies {
		return false, v
	}
	return refused(t, r)
}

// writes counts how often this rule had the record written in this beat.
func (t *turn) writes() (n int) {
	for _, o := range t.Seen.Did {
		if _, ok := o.Action.(WriteRecord); ok && o.Rule == t.rule {
			n++
		}
	}
	return n
}

// found announces the cluster that this seed founded.
func found(t *turn, r peers.Record) (bool, Verdict) {
	// Members of a cluster whose record Consul lost get a heartbeat to say so first, of the
	// longest that they may be set to, and what it takes them to ask RabbitMQ who they are. That a
	// companion watches for the loss makes it sooner as a rule, and is nothing to rely on: behind a
	// client agent that lives on, whose servers came back empty, nobody hears of it.
	if left := min(t.TTL/3, LongestBeat) + 3*time.Second - t.Seen.Now.Sub(t.State.Server.Started); left > 0 {
		_, v := notVerified(t, "giving members of an earlier cluster %s more to speak", left.Round(time.Second))
		v.Again = left
		return false, v
	}
	if why, q := notOnRecord(t, r); q != nil {
		return false, ask(*q)
	} else if why != "" {
		return notVerified(t, "%s", why)
	}
	if t.SurvivingQueues && t.rabbitMQ().Mirrors() { // announced, it is the user's to change
		s := did[SetMirrors](t)
		if !s.Done {
			return false, do(SetMirrors{})
		}
		if s.Err != nil {
			return notVerified(t, "the policy that mirrors queues cannot be set (--queues, RMQ_QUEUES): %v", s.Err)
		}
	}
	v := t.State.View
	f := r.Founded(v.ClusterID, t.Seen.Now)
	for _, m := range v.Members {
		if _, on := f.Members[m]; !on {
			f = f.With(m, "")
		}
	}
	return false, t.write(f, "the cluster is founded")
}

// mirrorPolicy is the name of the policy that mirrors queues.
const mirrorPolicy = "rmq-entrypoint-mirrors"

// mirrored tells the log where queues are mirrored. What RabbitMQ refuses, as where the
// user does not permit mirroring, holds nothing up.
func (t *turn) mirrored(out Outcome) {
	if out.Err != nil {
		return
	}
	var hosts []string
	for _, said := range out.Said {
		if said.Word == "ok" {
			hosts = append(hosts, said.Name)
		} else {
			t.say(Warn, "queues are not mirrored here: RabbitMQ refuses the policy", "vhost", said.Name, "policy", mirrorPolicy, "why", said.Word)
		}
	}
	slices.Sort(hosts)
	t.say(Info, "queues are mirrored to all nodes", "policy", mirrorPolicy, "vhosts", strings.Join(hosts, ","))
}

// notOnRecord says which registered node may have data of an earlier cluster, that it is
// about to publish: none is founded beside it. Joiners say that they began blank.
func notOnRecord(t *turn, r peers.Record) (string, *Question) {
	others, _, _ := t.others()
	for _, p := range others {
		if _, on := r.Members[p.Node]; on || p.Blank || slices.Contains(t.State.View.Members, p.Node) {
			continue
		}
		if !p.Alive() {
			down, asked := t.Seen.Nodes[p.Node].Down[p.Address]
			if !asked { // not by RabbitMQ's command line: a stranger would learn of the cookie
				return "", &Question{What: AskDown, Node: p.Node, Address: p.Address}
			}
			p.Down = down
		}
		if p.MayLive() {
			return fmt.Sprintf("announcing no cluster while a node that is not in it is registered, which may have data of an earlier one: %s; %s", p.Describe(), p.WayOut()), nil
		}
	}
	return "", nil
}

// backOnRecord is what the log calls putting a node back that serves.
const backOnRecord = "back on the record, from which this node was taken while it serves"

// reclaim is how this node's volume comes back on record, for whatever reason it is off it
// that does not end it.
func reclaim(t *turn, r peers.Record) (v Verdict, applies bool) {
	switch {
	case r.Returns(t.Node, t.Volume): // Consul was away when it started
		return t.write(r.With(t.Node, t.Volume), "this node's volume again: "+r.Gone[t.Node].Told(t.Node, "the record")), true
	// Of two that never were verified, the one counts that RabbitMQ lets in.
	case r.Displaced(t.Node, t.Volume) || t.State.Membership.Role != Member && r.NeverVerified(t.Node):
		return takeBack(t, r), true
	case takenOff(t, r):
		return putBack(t, r), true
	}
	return Verdict{}, false
}

// takeBack puts this node's volume on record again in the place of one that joined under
// its name and never was verified, as a second container of that name does while it cannot
// see this one. Only where others see this node run, or nobody else is a member: one that
// is cut off cannot know, and is not stopped either.
func takeBack(t *turn, r peers.Record) Verdict {
	others := without(r.Names(), func(n string) bool { return n == t.Node })
	if len(others) > 0 && !slices.ContainsFunc(others, func(n string) bool { return slices.Contains(t.State.View.Running, n) }) {
		_, v := notVerified(t, "another container joined as %s with volume %s, which never was verified, and no other member is seen running by this one, whose volume is %s", t.Node, r.Members[t.Node], t.Volume)
		return v
	}
	t.say(Warn, "another container joined under this node's name with a volume that never was verified: taking the name back; give it a host name of its own", "its_volume", r.Members[t.Node], "volume", t.Volume)
	return t.write(r.With(t.Node, t.Volume), "this node's volume again")
}

// takenOff reports whether this node, which serves, is off the record by another's doing,
// as when `forget-cluster` was told that nobody runs. Whoever wrote that did not know what
// this process knows, so it stops nobody: the node goes back on record. What a process of
// this node's own wrote before this start is another matter, and so is its own leave.
func takenOff(t *turn, r peers.Record) bool {
	g, gone := r.Gone[t.Node]
	_, on := r.Members[t.Node]
	switch {
	case !gone || on, r.State != peers.Formed || r.ClusterID != t.State.View.ClusterID:
		return false
	case g.Volume != "" && g.Volume != t.Volume: // of an earlier volume: nothing is said of this one
		return false
	case !slices.Contains(t.State.View.Running, t.Node):
		return false
	case g.Final: // the others went on without what this volume holds
		return false
	case g.Forgotten: // unless it was joined again by hand, this one is not in their cluster
		return slices.ContainsFunc(t.State.View.Running, func(n string) bool { _, on := r.Members[n]; return on })
	}
	// Under its own name, but not by this node, which has served since: a second container
	// with its host name, say.
	verified := t.State.Membership.VerifiedSince
	since := !verified.IsZero() && g.At.After(verified)
	if g.Left { // its own leave begins with an order on its volume
		order := t.Seen.Volume.Maintenance
		return since && order.Err == nil && (order.Value == nil || !order.Value.Leaving)
	}
	return g.Another(t.Node) || since
}

// putBack puts this node back on the record, and with it the other members that were given
// up: they have their data, and are refused otherwise.
func putBack(t *turn, r peers.Record) Verdict {
	g := r.Gone[t.Node]
	t.say(Warn, "this node serves, and was taken off the record all the same: putting it back",
		"written_by", cmp.Or(g.By, "not said"), "at", g.At.Format(time.RFC3339), "said", g.Why)
	return t.write(r.Reinstated(t.Node, t.Volume, t.State.View.Members), backOnRecord)
}

// notWritten says why the record was not written.
func notWritten(t *turn, w deed[WriteRecord]) string {
	if w.Action.What == backOnRecord && !errors.Is(w.Err, ErrChanged) {
		g := t.Seen.Record.Value.Gone[t.Node]
		return fmt.Sprintf("%s, and cannot be put back: %s", g.Told(t.Node, "the record"), wording(w.Err))
	}
	return wording(w.Err)
}

// refused: the record speaks against this node. One that has served since its start is in
// the cluster, whatever an earlier day's record says, to which Consul may have been put
// back. It stays out of service and is not stopped: when something was written the record says by
// the clock of another host, and an entry under this node's name, with the volume on record, anybody
// can make who may register the service.
func refused(t *turn, r peers.Record) (bool, Verdict) {
	why := r.Refuses(t.Node, t.Volume, t.State.View.ClusterID)
	why += fmt.Sprintf("; if this volume is the right one, delete the key %s in Consul while a member runs: it is published anew, and every node fills in its volume", t.RecordKey)
	if g := r.Gone[t.Node]; !g.Another(t.Node) && t.State.Membership.VerifiedSince.IsZero() {
		return mustStop(t, why, why)
	}
	return notVerified(t, "%s", why)
}

// mustStop stops a server that must not go on, so that its restart decides afresh. What a
// pending node alone in its cluster founded counts as blank then.
func mustStop(t *turn, why, word string) (bool, Verdict) {
	p, s := did[WritePending](t), did[StopServer](t)
	m, pending := t.State.Membership, len(t.State.View.Members) == 1
	pending = pending && m.Role != Member
	if !p.Done && !s.Done {
		t.say(Error, "stopping the server: its restart decides afresh", "why", why)
	}
	switch {
	case s.Done, p.Done && p.Err != nil:
		return notVerified(t, "%s", word)
	case pending && !p.Done:
		return false, do(WritePending{Pending{Role: Alone, Claim: m.Claim, Volume: t.Volume}})
	}
	return false, Verdict{Do: StopServer{}, Finish: p.Done}
}

// recordChanged keeps the record true while the node serves, and names what must not be.
func recordChanged(t *turn) Verdict {
	if !t.State.Membership.Verified {
		return Verdict{}
	}
	w := did[WriteRecord](t) // one a beat, and only that this node is off the record matters
	if w.Done {
		if w.Err == nil || w.Action.What != backOnRecord || errors.Is(w.Err, ErrChanged) {
			return Verdict{}
		}
		return recordWrong(t, notWritten(t, w))
	}
	r := t.Seen.Record.Value.Record
	if r.State == peers.Formed && r.ClusterID != t.State.View.ClusterID {
		if q := t.viewNow(); q != nil {
			return ask(*q)
		}
	}
	v := t.State.View
	switch {
	case r.State == peers.Absent, r.State == peers.Forming: // publishing it again is verifying again
		t.State.Membership.Verified = false
		return Verdict{}
	case r.ClusterID != v.ClusterID:
		if v, applies := renamed(t, r); applies {
			return v
		}
		return recordWrong(t, split(v.View, r))
	case t.State.Membership.ClusterID != v.ClusterID: // the record follows already, the marker and the entry do not
		t.State.Membership.Verified = false
		return Verdict{}
	case takenOff(t, r): // it has served all the while
		return putBack(t, r)
	case r.Members[t.Node] != t.Volume:
		t.State.Membership.Verified = false
		return Verdict{}
	}
	for _, m := range v.Members {
		g, gone := r.Gone[m]
		if _, on := r.Members[m]; on || !slices.Contains(v.Running, m) {
			continue
		}
		switch long := t.goneFor(m, g) > 2*t.TTL; {
		case !gone:
			return t.write(r.With(m, ""), "a running member was not on record: added "+m)
		case g.Forgotten: // it was joined again by hand
			return t.write(r.With(m, ""), "a running member, which RabbitMQ had been made to forget: added "+m)
		case g.Left || !long:
		case g.MayReturn: // it will say itself on which volume
			return t.write(r.With(m, ""), "a running member, which a blank volume under its name removed: added "+m)
		default:
			return recordWrong(t, fmt.Sprintf("%s runs in this cluster, but %s", m, strings.TrimPrefix(g.Told(m, "the record"), m+" ")))
		}
	}
	return Verdict{}
}

// recordAgainst is what a verified node says, without looking further, of a record that speaks
// against it: that of another cluster, or one on which its volume was given up.
func recordAgainst(t *turn) Verdict {
	r := t.Seen.Record.Value.Record
	if !t.State.Membership.Verified || r.State != peers.Formed {
		return Verdict{}
	}
	if r.ClusterID != t.State.View.ClusterID {
		if q := t.viewNow(); q != nil {
			return ask(*q)
		}
	}
	if r.ClusterID == t.State.View.ClusterID {
		if why := r.Refuses(t.Node, t.Volume, r.ClusterID); why != "" && !takenOff(t, r) {
			return recordWrong(t, why)
		}
		return Verdict{}
	}
	if did[WriteRecord](t).Done { // looked at again with the next beat
		return Verdict{}
	}
	if v, applies := renamed(t, r); applies {
		return v
	}
	return recordWrong(t, split(t.State.View.View, r))
}

func recordWrong(t *turn, why string) Verdict {
	t.State.Fault = Fault{Reason: why}
	return critical("%s", why)
}

// membersOnRecord notes what upkeep goes by. A record that this node was taken off is put
// right meanwhile, and of no use.
func membersOnRecord(t *turn) Verdict {
	if r := t.Seen.Record.Value.Record; !takenOff(t, r) {
		t.State.Upkeep.RecordSize = len(r.Members)
		t.State.Upkeep.ToForget = t.membersToForget(r)
	}
	return Verdict{}
}

func split(v peers.View, r peers.Record) string {
	return fmt.Sprintf("SPLIT: this node is in cluster %s with %s, but the record is %s; nothing is touched: decide which to keep", v.ClusterID, peers.Some(v.Members), describe(r))
}

func describe(r peers.Record) string {
	if r.State == peers.Absent {
		return "gone"
	}
	return fmt.Sprintf("%s, cluster %q, members %s", r.State, r.ClusterID, peers.Some(r.Names()))
}
