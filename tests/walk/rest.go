package walk

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"rmq-entrypoint/peers"
)

// Verdict is how a world's story ended.
type Verdict struct {
	Broken   string // a promise that was broken
	Stuck    string // faults have ended, and there is not one cluster of all nodes
	Operator string // why only a person can go on, as designed
	Excused  string // why two clusters are nobody's fault
	Steps    int
	Took     time.Duration // of virtual time
	Did      map[string]int
}

// Failed reports whether something is wrong with what nodes decided.
func (v Verdict) Failed() bool { return v.Broken != "" || v.Stuck != "" }

// Kind is why only a person can go on, without what is this world's own.
func (v Verdict) Kind() string {
	for _, kind := range []string{"lost its majority", "has left for good", "is refused", "clients declared queues", "nobody pauses", "pauses for ever", "which stopped after it", "left with its last member", "operator gave up", "Consul forgot"} {
		if strings.Contains(v.Operator, kind) {
			return kind
		}
	}
	return v.Operator
}

// patience is how long, after the last fault, the nodes may take until they are one cluster:
// some timeouts of theirs must run out one after another.
const patience = 25 * time.Minute

// Walk lets the world live to the end of its story.
func (w *World) Walk() (v Verdict) {
	defer w.end()
	for end := w.disturb(); w.clock.now < end && w.law.broke == ""; {
		w.step()
	}
	if w.law.broke == "" {
		w.calm()
		v = w.settle()
	}
	v.Broken, v.Excused = w.law.broke, w.law.excused
	v.Steps, v.Took, v.Did = w.clock.steps, w.clock.now, w.law.did
	return v
}

// settle waits for one cluster of all nodes.
func (w *World) settle() (v Verdict) {
	quiet, settled, helps := w.clock.now, 0, w.rand.IntN(2) == 0
	for next := w.clock.now; w.law.broke == ""; {
		for next += time.Second; w.clock.now < next; {
			w.step()
		}
		late := w.clock.now - quiet
		why := w.unsettled()
		if settled++; why != "" {
			settled = 0
		}
		if settled >= 2 {
			return v
		}
		w.tidy(late)
		if !slices.ContainsFunc(w.nodes, func(n *node) bool { return !n.gone }) {
			v.Operator = "nobody is left"
			return v
		}
		if helps && late > 2*time.Minute {
			w.help()
		}
		if late > 7*time.Minute && int(late.Seconds())%15 == 0 || late > patience {
			if v.Operator = w.operator(); v.Operator == "" && w.law.excused != "" && late > patience/2 {
				v.Operator = w.law.excused
			}
			if v.Operator != "" {
				if w.law.excused == "" && !w.told() && !w.silent() {
					w.law.broken("only a person can go on (%s), and nobody says so: %s", v.Operator, why)
				}
				w.say("", "!! operator: %s; %s", v.Operator, why)
				return v
			}
		}
		if late > patience {
			v.Stuck = why
			w.say("", "!! stuck: %s", why)
			return v
		}
	}
	return v
}

// calm ends all faults.
func (w *World) calm() {
	w.say("", "** the faults end")
	w.quiet = true
	for _, n := range w.nodes {
		if n.twin == nil {
			continue
		}
		loser := n // somebody sees that there are two, and takes away the one that is no member
		if d := n.volume.data; d != nil && d.intact(n.name, d.cluster) && d.cluster.id == w.consul.record.ClusterID {
			loser, n.apart = n.twin, false
		}
		loser.down("taken away: its name is another's", false)
		loser.gone = true
	}
	w.consul.away = 0
	for _, n := range w.nodes {
		n.cut, n.token = 0, lack{}
		if !n.gone {
			n.turn()
		}
	}
}

// tidy is what people do who have begun something: they end it.
func (w *World) tidy(late time.Duration) {
	for _, n := range w.nodes {
		if n.gone {
			continue
		}
		// Consul may have lost that it left, or an operator have given it up meanwhile: it stays
		// out of service, and a person ends it.
		stays := n.volume.out != nil && n.volume.out.Leaving && late > 5*time.Minute
		if n.left() && n.server() == nil || stays {
			n.down("it left: taken away", false)
			n.gone = true
			continue
		}
		if n.box != nil && !n.box.commandRuns() {
			n.startApp()
			n.revive()
		}
		n.turn()
	}
}

// help is what a person does who reads what nodes say.
func (w *World) help() {
	for _, n := range w.nodes {
		if n.gone {
			continue
		}
		n.forceBoot()
		if s := n.server(); s != nil && len(s.from) > 0 && !s.pauses && slices.Min(append(slices.Clone(s.from), n.name)) != n.name {
			n.down("partitioned: restarted by an operator", false)
			n.turn()
		}
		if n.server() == nil && strings.Contains(n.word, "refusing to start") && w.serves() && !n.left() {
			n.down("refused: emptied by an operator", true)
			n.word = ""
			n.turn()
		}
	}
}

// serves reports whether a node of the cluster on record passes.
func (w *World) serves() bool {
	return slices.ContainsFunc(w.nodes, func(n *node) bool { return w.passes(n) })
}

// unsettled says what is missing to one cluster of all nodes, verified.
func (w *World) unsettled() string {
	r := w.consul.record
	if r.State != peers.Formed {
		return "the record is " + r.String()
	}
	for _, n := range w.nodes {
		switch {
		case n.gone:
		case n.server() == nil:
			return fmt.Sprintf("%s has no server (%s)", n.who, n.says())
		case n.server().state != running:
			return fmt.Sprintf("%s's server does not run (%s)", n.who, n.says())
		case n.volume.data.cluster.id != r.ClusterID:
			return fmt.Sprintf("%s is in another cluster (%s)", n.who, n.says())
		case r.Members[n.name] == "":
			return fmt.Sprintf("%s is not on record (%s)", n.who, n.says())
		case !w.passes(n):
			return fmt.Sprintf("%s does not pass (%s)", n.who, n.says())
		}
	}
	return ""
}

// says is the node's word.
func (n *node) says() string {
	switch {
	case n.box == nil:
		return n.word
	case n.box.companion == nil:
		return n.box.waiting + "; " + n.word
	}
	return n.box.companion.board.reason
}

// told reports whether a node tells people what they can do about it, or did a moment ago.
func (w *World) told() bool {
	return slices.ContainsFunc(w.nodes, func(n *node) bool {
		return !n.gone && !w.passes(n) && n.asked > 0 && w.clock.now-n.asked < 2*time.Minute
	})
}

// silent is the one known case in which a node needs a person and does not say so: what its
// cluster needs is lost, and there is no record, because Consul lost it since or nobody had
// published it yet. Without one nobody can tell what the node waits for. It says "booting".
func (w *World) silent() bool { return w.consul.record.State == peers.Absent }

// speaks notes the word of a node that does not serve.
func (n *node) speaks(word string) {
	if slices.ContainsFunc(waysOut, func(way string) bool { return strings.Contains(word, way) }) {
		n.asked = n.w.clock.now
	}
}

// waysOut are the words by which a node asks for a person.
var waysOut = []string{
	"force-boot --cluster-id", "carrying on", "wipe all copies but the newest", "which hold its data", "refusing to start", "SPLIT",
	"not starting a second", "may wait for members that are not up", "restart the smaller side", "no majority: of the members",
	"this volume (", "this volume holds data of", "announcing no cluster",
	"may hold data of cluster", "(--join-timeout",
	"does not list this node as running", "the cluster does not know this data", // RabbitMQ says so
}

func (w *World) passes(n *node) bool {
	e := find(n.agent.listed, n.name)
	return n.runs() && e != nil && e.reg.Address == n.address() && e.status == "passing" &&
		e.reg.ClusterID == n.volume.data.cluster.id && e.reg.ClusterID == w.consul.record.ClusterID
}

// operator says why only a person can go on: what the members of a cluster need has been
// wiped or has left for good, or a volume is refused.
func (w *World) operator() string {
	r := w.consul.record
	serves := slices.ContainsFunc(w.nodes, func(n *node) bool { return n.runs() && n.volume.data.cluster.id == r.ClusterID })
	for _, n := range w.nodes {
		d := n.volume.data
		_, on := r.Members[n.name]
		switch {
		case on && n.gone && r.State == peers.Formed && !serves:
			return fmt.Sprintf("%s is on record, and has left for good", n.who)
		case n.gone || d == nil || !d.db || d.cluster == nil:
		case n.server() != nil && len(n.server().from) > 0 && !n.server().pauses:
			return fmt.Sprintf("%s is partitioned, and nobody pauses", n.who)
		case w.consul.wiped > 0 && r.State == peers.Formed && d.cluster.id != r.ClusterID && len(d.cluster.members) > 1:
			return fmt.Sprintf("%s is in %s, which Consul forgot or never knew", n.who, d.cluster.id) // the model's one exception
		case w.law.givenUp == d.cluster.id && !serves:
			return fmt.Sprintf("%s holds data of %s, which an operator gave up", n.who, d.cluster.id)
		case d.queues > 0 && d.cluster.id != r.ClusterID && len(d.cluster.members) == 1:
			return fmt.Sprintf("%s came up alone, and clients declared queues there", n.who)
		case w.paired(n) && !d.intact(n.name, d.cluster) && n.runs():
			return fmt.Sprintf("%s runs, and its cluster went on without it while another had its name", n.who)
		case (n.mounted > 0 || w.paired(n)) && r.Refuses(n.name, n.volume.name(), d.cluster.id) != "":
			return fmt.Sprintf("%s is refused on a volume that was replaced", n.who)
		case strings.Contains(n.word, "refusing to start") && n.server() == nil && (n.mounted > 0 || w.paired(n)):
			return fmt.Sprintf("%s is refused on a volume that was replaced", n.who)
		}
	}
	for _, c := range w.clusters {
		if !c.public && c.id != r.ClusterID && c != w.law.adopted {
			continue
		}
		if why := w.lost(c, r); why != "" {
			return why
		}
	}
	return ""
}

// lost says what a cluster lost without which it does not go on.
func (w *World) lost(c *cluster, r peers.Record) string {
	// A join that came to nothing loses nothing, unless the record that knew that it was the
	// first one was lost.
	plainly := func(name string) bool {
		g, gone := r.Gone[name]
		_, on := r.Members[name]
		return gone && !g.Unjoined || !gone && !on && w.consul.wiped > 0
	}
	intact, left, half := 0, 0, 0
	var names []string
	for _, m := range c.members {
		n := w.node(m.name)
		switch {
		case n.volume.data == m.data && !n.gone && m.data.spoilt && !plainly(m.name):
			half++
		case n.volume.data == m.data && !n.gone && m.data.db && m.data.cluster == c:
			intact++
		case n.volume.data == m.data && m.data.db, n.away != nil && n.away.data == m.data:
			left++
			names = append(names, n.who)
		default:
			names = append(names, n.who)
		}
	}
	switch {
	case half > 0 && intact == 1 && intact+half == len(c.members): // of two copies a person must choose
		return ""
	case intact+left > 0 && w.rabbit.khepri && 2*intact <= len(c.members):
		return fmt.Sprintf("%s lost its majority for good: %s", c.id, strings.Join(names, ","))
	case left > 0 && intact == 0:
		return fmt.Sprintf("%s has left with its last member", c.id)
	case w.rabbit.khepri:
		return ""
	}
	for _, m := range c.members {
		n := w.node(m.name)
		if s := n.server(); n.volume.data == m.data && s != nil && s.paused && 2*intact <= len(c.members) {
			return fmt.Sprintf("%s pauses for ever: of %s a majority lost its data", n.who, c.id)
		}
		if n.volume.data != m.data || n.gone || n.server() == nil || n.server().state != booting {
			continue
		}
		for _, last := range m.data.seen {
			if o := w.node(last); c.of(last) != nil && (c.of(last) != o.volume.data || o.gone) {
				return fmt.Sprintf("%s waits for %s, which stopped after it and is lost", n.who, last)
			}
		}
	}
	return ""
}
