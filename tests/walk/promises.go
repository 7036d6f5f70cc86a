package walk

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"rmq-entrypoint/internal/policy"
	"rmq-entrypoint/peers"
)

// law is what is promised, and the first promise that was broken.
type law struct {
	w       *World
	adopted *cluster          // that was there before the program was
	claims  map[string]string // claim → node that founded under it
	claimed time.Duration     // when the claim on record was made
	ended   map[string]time.Duration
	givenUp string        // cluster that an operator gave up
	excused string        // why two clusters are nobody's fault in this story
	two     time.Duration // since when two clusters have been announced; 0: not
	broke   string
	did     map[string]int
	onClaim func(by *node) // is told of the next claim; nil: nobody is
}

// broken notes the first promise that was broken.
func (l *law) broken(format string, args ...any) {
	if l.broke == "" {
		l.broke = fmt.Sprintf("after %.3f s: ", l.w.clock.now.Seconds()) + fmt.Sprintf(format, args...)
		l.w.say("", "!! %s", l.broke)
	}
}

// Sights are what is to be seen in a thousand worlds: every action of the policy but the one
// on agents that a node moved away from, of which it has one here, and every rule that has a
// word.
var Sights = []string{
	"verified", "claimed the founding", "the record is formed", "took over a dead claim", "came up alone by accident",
	"stopped its server", "forgot a member", "went on by force", "gave up unfinished data",
	"policy.WriteRecord", "policy.SetMirrors", "policy.Enroll", "policy.WritePending", "policy.StopServer", "policy.FailJoin",
	"policy.ForgetMember", "policy.JoinPeer", "policy.RestartApp", "policy.ForceBoot", "policy.Settle", "policy.WriteCarryOn",
	"policy.DropCarryOn", "policy.EndMaintenance", "policy.EndStop", "policy.GrowReplicas", "policy.WriteMarker", "policy.SetPauseMinority",
	"rule carryOnOrder", "rule maintenance", "rule leaving", "rule checkFails", "rule recordUnknown", "rule majorityLost",
	"rule catalogUnknown", "rule viewUnknown", "rule recordChanged", "rule membership", "rule partition", "rule noMajority",
	"rule unseenMembers", "rule noLeader", "rule healthy", "rule waitsForMembers", "rule lastWord",
	"goes by what it kept", "asks afresh", "heard that Consul lost its data", "was refused for its token", "was told a filtered list",
}

// does counts what the world has seen, by its name.
func (l *law) does(what string) {
	if l.did == nil {
		l.did = map[string]int{}
	}
	l.did[what]++
}

// proof is what the world knows of how a companion earned what it reports.
type proof struct {
	record  peers.Record // that it last read or wrote
	at      time.Duration
	listed  time.Duration // when it last read the catalog
	viewed  time.Duration // when its RabbitMQ last said what it knows of its cluster
	foreign time.Duration
	took    time.Duration // when it last heard that Consul took a report

	glance, word, serves, entry, enrol time.Duration // when it last looked at the volume, decided, heard READY, made its entry, was verified
}

// read notes what the record says. Foreign is since when it is known that another cluster is
// on it: while something else cannot be asked, a node stays what it was.
func (p *proof) read(r peers.Record, id string, now time.Duration) {
	p.record, p.at = r, now
	switch {
	case r.State != peers.Formed || id == "" || r.ClusterID == id:
		p.foreign = 0
	case p.foreign == 0:
		p.foreign = now
	}
}

func (p *proof) ready(now time.Duration)    { p.serves = now }
func (p *proof) entered(now time.Duration)  { p.entry = now }
func (p *proof) enrolled(now time.Duration) { p.enrol = now }
func (p *proof) glanced(now time.Duration)  { p.glance = now }
func (p *proof) judged(now time.Duration)   { p.word = now }

// deaf notes that nobody speaks for the node's member for now.
func (l *law) deaf(n *node) {
	if n.box != nil {
		n.box.live = 0
	}
}

// told holds a report to Consul against what its companion may say.
func (l *law) told(p *proc, e *entry, status string) {
	b := p.box
	c, n, v := b.companion, b.node, b.volume
	if b.live == 0 && b.server != nil && b.server.state == running && v.ran {
		b.live = l.w.clock.now
	}
	if status == policy.Critical {
		return
	}
	pr, m := c.proof, c.state.Membership
	switch {
	case !m.Verified || m.Role != policy.Member || v.marker == nil:
		l.broken("%s passes and was not verified", n.who)
	case pr.enrol < pr.serves:
		l.broken("%s passes and was not verified since it was ready", n.who)
	case pr.enrol < pr.entry && min(pr.at, pr.listed, pr.viewed) > max(pr.entry, pr.glance): // it asked all in this beat
		l.broken("%s passes and was not verified since its entry was made", n.who)
	case e.silent && min(pr.at, pr.listed, pr.viewed) > max(e.silentAt+time.Second, pr.glance) && pr.enrol < e.silentAt: // it asked all in this beat
		l.broken("%s passes and was not verified since its check lapsed", n.who)
	case v.out != nil && v.outAt < pr.glance:
		l.broken("%s passes and is out of service by an operator's order", n.who)
	case v.marker.ClusterID != c.reg.ClusterID, b.server.state == running && v.data.cluster.id != c.reg.ClusterID:
		l.broken("%s passes in a cluster that it is not in", n.who)
	case pr.foreign != 0 && l.w.clock.now-pr.foreign > 2*beat:
		l.broken("%s passes in %s, and knows that %s is on record", n.who, c.reg.ClusterID, pr.record.ClusterID)
	}
}

// enrolls holds a verification against the record that the companion knows.
func (l *law) enrolls(c *companion, a policy.Enroll) {
	r, n := c.proof.record, c.box.node
	l.does("verified")
	if r.State != peers.Formed || r.ClusterID != a.Marker.ClusterID || r.Members[n.name] != c.set.Volume {
		l.broken("%s is verified, and the record does not say so", n.who)
	}
}

// stops holds a stop of the server against what it serves.
func (l *law) stops(c *companion) {
	n, v, r := c.box.node, c.box.volume, l.w.consul.record
	l.does("stopped its server")
	if m := c.state.Membership; m.Role == policy.Seeding && c.box.server.state == running && r.State == peers.Forming && r.Claim == m.Claim {
		l.broken("%s was stopped while its claim to found a cluster stands", n.who)
	}
	if s := c.box.server; s.state != running || !v.ran || n.twin != nil {
		return
	}
	since := c.state.Membership.VerifiedSince
	replaced := l.w.paired(n) && r.GaveUp(n.name, c.set.Volume).After(since)
	told := r // what the record said when it was decided, just now or before it was lost
	if l.w.consul.wiped > c.proof.at || l.w.clock.now-c.proof.at < 2*time.Second {
		told = c.proof.record
	}
	refused := (since.IsZero() || replaced) && told.Refuses(n.name, c.set.Volume, v.data.cluster.id) != ""
	left := told.HasLeft(n.name, c.set.Volume) || l.w.consul.wiped > 0 && l.done(n.name, v.name())
	if d := v.data; d.cluster.id == r.ClusterID && d.intact(n.name, d.cluster) && !left && !refused {
		l.broken("%s was stopped while it served %s", n.who, d.cluster.id)
	}
}

// onRecord returns the node that has the name's volume on record mounted, with the data.
func (l *law) onRecord(name string, c *cluster, d *data) *node {
	r := l.w.consul.record
	for _, o := range l.w.nodes {
		if o.name != name || o.gone || o.left() || o.volume.data != d || !d.intact(name, c) {
			continue
		}
		if on, listed := r.Members[name]; r.ClusterID == c.id && listed && (on == "" || on == o.volume.name()) {
			return o
		}
	}
	return nil
}

// forgotten: never a member whose volume is there.
func (l *law) forgotten(by *node, c *cluster, name string, d *data) {
	l.does("forgot a member")
	switch o := l.onRecord(name, c, d); {
	case o == nil:
	case l.w.paired(o):
		l.excused = "a second container took the name of a node that was down"
	default:
		l.broken("%s has %s forgotten, whose volume is there", by.who, o.who)
	}
}

// replaced: a node joins in the place of its name's data.
func (l *law) replaced(n *node, c *cluster, was, is *data) {
	if was == nil || was == is {
		return
	}
	switch o := l.onRecord(n.name, c, was); {
	case o == nil:
	case l.w.paired(o):
		l.excused = "a second container took the name of a node that was down"
	default:
		l.broken("%s joins in the place of %s, whose volume is there", n.who, o.who)
	}
}

// forced: a copy goes on without others, whose volumes must not be there.
func (l *law) forced(n *node, c *cluster, lost []string) {
	l.does("went on by force")
	for _, m := range c.members {
		if m.name == n.name || !l.w.rabbit.khepri && !slices.Contains(lost, m.name) {
			continue
		}
		if o := l.onRecord(m.name, c, m.data); o != nil {
			l.broken("%s carries on without %s, whose volume is there", n.who, o.who)
		}
	}
}

// discarded: the program gave up data.
func (l *law) discarded(n *node, d *data, how string) {
	l.does("gave up unfinished data")
	switch {
	case d.queues > 0:
		l.broken("%s held %d queues, and its data was %s", n.who, d.queues, how)
	case d.db && d.cluster.public && d.intact(n.name, d.cluster):
		l.broken("%s held data of the announced %s, and it was %s", n.who, d.cluster.id, how)
	}
}

// founded: never twice under one claim.
func (l *law) founded(s *server) {
	if s.claim == "" {
		l.does("came up alone by accident")
		return
	}
	if l.claims == nil {
		l.claims = map[string]string{}
	}
	if by, twice := l.claims[s.claim]; twice {
		l.broken("%s and %s both founded a cluster under one claim", by, s.box.node.who)
	}
	l.claims[s.claim] = s.box.node.who
}

// wrote looks at a new version of the record.
func (l *law) wrote(by string, was, is peers.Record) {
	w := l.w
	w.say("consul", "record by %s: %s; gone %v, not verified yet %v", by, is.String(), slices.Sorted(maps.Keys(is.Gone)), is.Unverified)
	if was.State == peers.Formed {
		l.kept(by, was, is)
	}
	switch {
	case is.State == peers.Forming:
		l.claimedBy(by, was, is)
		l.beside("the founding of a cluster was claimed by "+by, "", was)
	case is.ClusterID != was.ClusterID || was.State != peers.Formed:
		l.does("the record is formed")
		l.beside("cluster "+is.ClusterID+" came on record", is.ClusterID, was)
		for _, c := range w.clusters {
			if c.id == is.ClusterID {
				c.recorded = max(1, w.clock.now)
			}
		}
	}
}

// kept: what is formed names the same cluster and all other members, whoever writes.
func (l *law) kept(by string, was, is peers.Record) {
	if is.ClusterID != was.ClusterID && (is.State != peers.Forming || len(was.Members) > 0) {
		l.broken("%s replaced the record of %s, with members %v, by %s", by, was.ClusterID, was.Names(), is.String())
	}
	if by == "operator" || is.ClusterID != was.ClusterID {
		return
	}
	name := "rabbit@" + by[:1]
	for m, volume := range was.Members {
		now, on := is.Members[m]
		if forgotten := !on && l.w.consul.wiped > 0 && !l.lists(is.ClusterID, m); m != name && (!on || now != volume) && !forgotten {
			l.broken("%s took %s off the record, or changed its volume", by, m)
		}
	}
	for m, g := range is.Gone {
		if _, on := was.Members[name]; m != name && g.Final && !was.Gone[m].Final && !on {
			l.broken("%s is not on record, and ruled out the volume of %s", by, m)
		}
	}
}

// lists reports whether RabbitMQ has the name in the cluster: who is put back on record once
// Consul lost it may be forgotten just then.
func (l *law) lists(id, name string) bool {
	return slices.ContainsFunc(l.w.clusters, func(c *cluster) bool { return c.id == id && c.of(name) != nil })
}

// done reports whether the volume of that name has left for good, as the record said before
// Consul lost it.
func (l *law) done(name, volume string) bool {
	return slices.ContainsFunc(l.w.nodes, func(n *node) bool {
		return n.name == name && n.volume.name() == volume && n.volume.out != nil && n.volume.out.Leaving && n.volume.out.Done
	})
}

// claimedBy: nobody takes a claim over whose seed may live.
func (l *law) claimedBy(by string, was, is peers.Record) {
	w := l.w
	l.claimed = w.clock.now
	if told := l.onClaim; told != nil {
		l.onClaim = nil
		told(w.at(by + ":5672"))
	}
	l.does("claimed the founding")
	if was.State != peers.Forming || was.Seed == is.Seed {
		return
	}
	l.does("took over a dead claim")
	if s := w.consul.session(was.Session); s != nil {
		l.broken("%s took over the claim of %s, whose session lives", by, was.Seed)
	} else if at := l.ended[was.Session]; w.clock.now-at < claimTimeout {
		l.broken("%s took over the claim of %s, whose session ended %s ago", by, was.Seed, w.clock.now-at)
	}
}

// over notes that a session has ended.
func (l *law) over(id string) {
	if l.ended == nil {
		l.ended = map[string]time.Duration{}
	}
	l.ended[id] = l.w.clock.now
}

// beside holds a founding against the volumes that are mounted. Beside one with data of a
// cluster that has been on record as formed none may be claimed. Only when Consul has lost
// its data since can nobody know: then one may be claimed, which a member that can speak
// overrules before it is announced.
func (l *law) beside(what, id string, was peers.Record) {
	for _, n := range l.w.nodes {
		if c := n.volume.data; c == nil || n.gone || c.cluster == nil || c.cluster.id == id || !c.intact(n.name, c.cluster) {
			continue
		}
		if why := l.mayFound(n, id, was); why != "" {
			if why != overruled && why != nothingLost {
				l.excused = why
			}
			continue
		}
		if id == "" && !n.volume.data.cluster.public && n.volume.data.cluster.recorded == 0 {
			continue
		}
		l.broken("%s while %s holds data of %s", what, n.who, n.volume.data.cluster.id)
	}
}

const (
	overruled   = "it is overruled before it is announced"
	nothingLost = "the node left for good"
)

// hasLeft reports whether the node left the cluster on record, or an earlier one, for good.
func hasLeft(r peers.Record, n *node) bool {
	return r.HasLeft(n.name, n.volume.name()) || slices.ContainsFunc(r.Previous, func(p peers.Previous) bool {
		g, gone := p.Gone[n.name]
		return gone && g.Left && g.Volume == n.volume.name()
	})
}

// mayFound says why a founding beside the node's data is nobody's fault, or "".
func (l *law) mayFound(n *node, id string, was peers.Record) string {
	w, c := l.w, n.volume.data.cluster
	switch {
	case !c.public && c.recorded == 0 && (c != l.adopted || id == ""):
		return overruled
	case !c.public && c.recorded == 0 && !l.registered(n):
		return "a cluster was moved here after another one had been founded"
	case c.id == l.givenUp && (!n.runs() || !l.registered(n) || n.volume.marker == nil): // or never was verified
		return "an operator gave the cluster up"
	case n.mounted > l.claimed && id != "", n.mounted > 0 && !l.registered(n):
		return "a volume was mounted again after its node had removed it"
	case hasLeft(was, n):
		return nothingLost
	case w.consul.wiped > 0 && n.volume.marker == nil && n.volume.pending != nil && n.volume.pending.Failed:
		return "its join came to nothing, and Consul had lost that it was on record"
	case w.paired(n) && id == "":
		return overruled
	case n.mounted > 0 && was.Refuses(n.name, n.volume.name(), c.id) != "":
		return overruled // it was decided before
	case w.paired(n) && (!n.runs() || !n.volume.ran || n.box.opened > l.claimed || w.unheard(n)):
		return "a second container took the name of a node that was down, out of reach, or never was verified"
	case w.consul.wiped == 0 || c.recorded > w.consul.wiped:
		return ""
	case id == "":
		return overruled
	}
	since := w.consul.wiped
	if n.box != nil && n.box.live > since {
		since = n.box.live
	}
	turn := 3 * time.Second // by then members have spoken; a seed gives them longer
	if w.rates.slow+w.rates.lose+w.rates.freeze > 0 {
		turn = ttl
	}
	if n.box == nil || n.box.live == 0 || w.clock.now-since < turn {
		return "Consul lost its data while no member could speak"
	}
	return ""
}

// paired reports whether another container has the node's name.
func (w *World) paired(n *node) bool {
	return slices.ContainsFunc(w.nodes, func(m *node) bool { return m != n && m.name == n.name })
}

// unheard reports whether nobody could tell that the node runs when the claim was made: it was
// cut off from Consul, and no other member that is in the same network runs.
func (w *World) unheard(n *node) bool {
	if n.box.live != 0 && n.box.live < w.law.claimed {
		return false
	}
	torn := slices.ContainsFunc(w.nodes, func(m *node) bool { return m.name == n.name && m.apart })
	return torn || !slices.ContainsFunc(w.nodes, func(m *node) bool {
		return m.name != n.name && m.runs() && m.volume.data.cluster == n.volume.data.cluster && w.linked(m, n)
	})
}

// registered reports whether the catalog has had the node's own entry for a moment.
func (l *law) registered(n *node) bool {
	for _, a := range l.w.consul.agents {
		for _, e := range a.listed {
			if e.reg.Address == n.address() && n.box != nil && l.w.clock.now-e.since > ttl/3 {
				return true
			}
		}
	}
	return false
}

// compare looks for two announced clusters.
func (l *law) compare() {
	w := l.w
	var first, second *cluster
	for _, a := range w.consul.agents {
		for _, e := range a.listed {
			if e.status == policy.Critical {
				continue
			}
			n := w.at(e.reg.Address)
			if s := n.server(); s == nil || s.state != running || n.volume.data.cluster.id != e.reg.ClusterID {
				continue // an entry from before this start
			}
			c := n.volume.data.cluster
			c.public, n.volume.ran = true, true
			switch {
			case first == nil:
				first = c
			case c != first:
				second = c
			}
		}
	}
	switch {
	case second == nil || l.excused != "":
		l.two = 0
	case l.two == 0:
		l.two = w.clock.now
	case w.clock.now-l.two > ttl/3+2*time.Second:
		l.broken("two clusters have been announced for %s: %s and %s", w.clock.now-l.two, first.id, second.id)
	}
}

func (n *node) address() string { return n.who + ":5672" }

func (w *World) at(address string) *node {
	for _, n := range w.nodes {
		if len(address) == len(n.who)+5 && address[:len(n.who)] == n.who {
			return n
		}
	}
	panic(address)
}
