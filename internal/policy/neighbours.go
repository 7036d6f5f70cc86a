package policy

import (
	"slices"
	"strings"
	"time"

	"rmq-entrypoint/peers"
)

// noMajority: too few members run to decide anything.
func noMajority(t *turn) Verdict {
	v, n := t.State.View, &t.State.Neighbours
	n.Newcomers = t.newcomers(v.Members, v.Running)
	if !v.Khepri || 2*(len(v.Running)+len(n.Newcomers)) > len(v.Members) {
		return Verdict{}
	}
	return stands(t, "no majority: "+t.fewRun())
}

// newcomers are members that the catalog shows on their way. A newcomer votes before it is listed
// as running, and has no cluster id before it is verified: a seed is not to flap while the second
// node joins.
func (t *turn) newcomers(members, running []string) (on []string) {
	others, _, _ := t.others()
	for _, p := range others {
		if p.Alive() && p.ClusterID == "" && slices.Contains(members, p.Node) && !slices.Contains(running, p.Node) {
			on = append(on, p.Node)
		}
	}
	return on
}

// listedFew is noMajority by what the management port lists, where RabbitMQ itself does not say what
// it knows: what takes the other members away may take the name away by which its command line
// finds this node. One look may show an election, so it takes two, one after the other. Who was a
// newcomer when the catalog was last seen counts as up.
func listedFew(t *turn) Verdict {
	n := &t.State.Neighbours
	members, running := t.listed()
	if !t.State.Membership.Verified || !t.State.View.Khepri || !slices.Contains(running, t.Node) {
		return Verdict{} // unknown, and what an earlier look showed stays
	}
	newcomers := without(n.Newcomers, func(m string) bool { return !slices.Contains(members, m) || slices.Contains(running, m) })
	if t.Seen.Catalog.Known() {
		newcomers = t.newcomers(members, running)
	}
	before := n.FewListed
	n.FewListed = 2*(len(running)+len(newcomers)) <= len(members)
	switch {
	case !n.FewListed:
		t.goesOn()
	case before:
		return stands(t, "no majority, says the management port: "+fewRun(members, running))
	}
	return Verdict{}
}

// standsStill is noMajority and noLeader by what RabbitMQ alone tells, for as long as the
// catalog is not to be had. A newcomer that votes is connected, or one of those given.
func standsStill(t *turn, newcomers []string) Verdict {
	v, n := t.State.View, &t.State.Neighbours
	seen := t.Seen.Nodes[t.Node].View
	if seen.Err != nil {
		return listedFew(t)
	}
	if !v.Khepri || 2*len(v.Running) > len(v.Members) {
		n.LeaderMissing = false
		t.goesOn()
		return Verdict{}
	}
	if !seen.Asked { // who is connected changes, and the management port does not tell
		return ask(Question{What: AskView, Node: t.Node, Within: t.TTL / 5})
	}
	up := without(v.Members, func(m string) bool {
		return !slices.Contains(v.Running, m) && !slices.Contains(v.Connected, m) && !slices.Contains(newcomers, m)
	})
	if 2*len(up) <= len(v.Members) {
		return stands(t, "no majority: "+t.fewRun())
	}
	word := noLeader(t)
	if led := t.Seen.Nodes[t.Node].Leader; led.Known() && led.Value {
		t.goesOn()
	}
	return word
}

// goesOn forgets what was wrong because the members could decide nothing.
func (t *turn) goesOn() {
	if t.State.Fault.Reason == t.State.Neighbours.StandsStill {
		t.State.Fault = Fault{}
	}
}

// stands has a verified node out of service because its cluster can decide nothing.
func stands(t *turn, why string) Verdict {
	t.State.Neighbours.StandsStill = why
	return recordWrong(t, why)
}

func (t *turn) fewRun() string { return fewRun(t.State.View.Members, t.State.View.Running) }

func fewRun(members, running []string) string {
	return "of the members " + peers.Some(members) + " only " + peers.Some(running) + " run"
}

// unseenMembers: members serve without this node, which does not see them run. A member
// that died goes on passing until its check lapses, so one look does not show it. Anybody may
// register under a member's name who may register the service: it takes every entry that it was
// met by while it ran.
func unseenMembers(t *turn) Verdict {
	v, r := &t.State.View, t.Seen.Record.Value
	was := t.State.Neighbours.UnseenSince
	since := map[string]time.Time{}
	var long []string
	for _, m := range t.meet() {
		if t.Seen.Now.Sub(v.At) >= viewEvery {
			continue
		}
		v.PassingPeers = "" // look again with the next beat
		at, seen := was[m]
		if !seen {
			at = t.Seen.Now
		}
		since[m] = at
		if t.Seen.Now.Sub(at) > t.TTL+t.Patience() { // the check of one that died would have lapsed
			long = append(long, m)
		}
	}
	t.State.Neighbours.UnseenSince = since
	if len(long) == 0 || 2*len(v.Running) > len(r.Members) {
		return Verdict{}
	}
	return recordWrong(t, peers.Some(long)+" serve, but this node does not see them run")
}

// mostMet is how many entries of one member are remembered. One that has more is met no more.
const mostMet = 32

// meet notes by which entries the members on record pass while RabbitMQ lists them as running, and
// returns those that it does not list and that pass by every one of them.
func (t *turn) meet() (unseen []string) {
	r := t.Seen.Record.Value
	passing := map[string][]string{}
	others, _, _ := t.others()
	for _, p := range others {
		if _, on := r.Members[p.Node]; on && p.Passing && p.ClusterID == r.ClusterID {
			passing[p.Node] = append(passing[p.Node], strings.Join([]string{p.ID, p.Agent, p.Boot}, " "))
		}
	}
	was := t.State.Neighbours.Met
	met := map[string]Met{}
	for _, m := range r.Names() {
		last, now := was[m], passing[m]
		missing := func(e string) bool { return !slices.Contains(now, e) }
		switch runs := slices.Contains(t.State.View.Running, m); {
		case m == t.Node:
			continue
		case !runs:
			last.Runs = false
			if n := len(last.Entries); n > 0 && n <= mostMet && !slices.ContainsFunc(last.Entries, missing) {
				unseen = append(unseen, m)
			}
		case !last.Runs:
			last = Met{Runs: true, Entries: now}
		default:
			last.Entries = append(slices.Clone(last.Entries), without(now, func(e string) bool { return slices.Contains(last.Entries, e) })...)
		}
		last.Entries = last.Entries[:min(len(last.Entries), mostMet+1)]
		met[m] = last
	}
	t.State.Neighbours.Met = met
	return unseen
}

// noLeader: by count too few run to decide, because one that joins may not have its vote,
// and RabbitMQ itself finds no leader. An election shows at one look alone. A look that comes to
// nothing leaves what was known.
func noLeader(t *turn) Verdict {
	v, n := t.State.View, &t.State.Neighbours
	if !v.Khepri || 2*len(v.Running) > len(v.Members) {
		n.LeaderMissing = false
		return Verdict{}
	}
	leader := t.Seen.Nodes[t.Node].Leader
	if !leader.Asked {
		return ask(Question{What: AskLeader, Node: t.Node, Within: t.leaderWithin()})
	}
	if leader.Err != nil {
		if f := t.State.Fault; f.Reason != "" && f.Reason == n.StandsStill {
			return unknown(t, leader.Err)
		}
		return Verdict{}
	}
	before := n.LeaderMissing
	if n.LeaderMissing = !leader.Value; !before || !n.LeaderMissing {
		return Verdict{}
	}
	return stands(t, "no leader: "+t.fewRun())
}

// leaderWithin is enough for the answer "none", which RabbitMQ takes 2 s for, and for the start of
// an Erlang VM before it.
func (t *turn) leaderWithin() time.Duration { return min(max(t.TTL/5, 4*time.Second), t.TTL/2) }
