package walk

import (
	"fmt"
	"time"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/internal/policy"
	"rmq-entrypoint/internal/statedir"
)

// node is one container's place: its name stays, its volume may not.
type node struct {
	name, who string // in the story: two may have one name
	w         *World
	twin      *node // that has the name, too: this one is a copied compose file's
	apart     bool  // in another network, or with another cookie
	gone      bool  // for good
	on        bool  // it is to run
	agent     *agent
	box       *box
	mounts
	voice
	trouble
}

// mounts are the volumes that a node had.
type mounts struct {
	volume  *volume
	away    *volume       // not mounted; another, blank one is in its place
	mounted time.Duration // when that last was mounted again
	blanks  int
}

// voice is what a node said for people.
type voice struct {
	word  string        // with which its last container ended
	asked time.Duration // when it last asked for a person
}

// trouble is what a node suffers, and until when.
type trouble struct {
	skew    time.Duration // of its clock
	cut     time.Duration // from Consul
	refuse  bool          // and that means refused, not black-holed
	token   lack          // of its token for Consul
	frozen  time.Duration
	lastRan time.Duration
}

// volume is what is mounted.
type volume struct {
	id      string // in the story
	pending *statedir.Pending
	marker  *policy.Marker
	out     *policy.Maintenance
	outAt   time.Duration
	order   *policy.CarryOn
	rt      *started
	data    *data // RabbitMQ's directory; nil: nothing is there
	ran     bool  // its server was a running member of an announced cluster
}

// started is what the runtime file says, for a companion that replaces another.
type started struct {
	role    statedir.Role
	cluster string
	claim   string
	volume  string
	boot    string
	since   time.Time
	pauses  bool

	verified time.Time
}

// box is one run of a node's container. When it dies, all its processes do.
type box struct {
	node      *node
	volume    *volume
	procs     []*proc
	server    *server
	companion *companion
	operator  *proc // the command that works on the node
	dead      bool
	opened    time.Duration
	live      time.Duration // since when a companion has been there to speak for a running member; 0: not
	waiting   string        // what the entrypoint waits for
}

// message is a word of the server to the companion.
type message struct {
	text   string
	closed *healthcheck.Reason
}

func (n *node) server() *server {
	if n.box == nil {
		return nil
	}
	return n.box.server
}

// open starts the node's container.
func (n *node) open() {
	if n.box != nil || !n.on || n.gone {
		return
	}
	b := &box{node: n, volume: n.volume, opened: n.w.clock.now}
	n.box = b
	n.w.say(n.who, "container starts on %s", n.volume.id)
	n.w.start(b, "entrypoint", func(p *proc) {
		if why := b.boot(p); why != nil {
			n.word = fmt.Sprint(why)
			n.speaks(n.word)
			b.close(n.word)
			p.alive()
		}
	})
}

// turn turns the node on.
func (n *node) turn() { n.on = true; n.open() }

// close is the end of a container whose main process has ended by itself.
func (b *box) close(why string) {
	if b.dead {
		return
	}
	b.node.w.say(b.node.who, "container ends: %s", why)
	b.die()
}

// die is kill -9 of all that is in the box. The restart policy starts another one.
func (b *box) die() {
	if b.dead {
		return
	}
	b.dead = true
	if b.server != nil {
		b.server.down()
	}
	b.node.box = nil
	b.node.w.law.deaf(b.node)
	for _, p := range b.procs {
		p.kill()
	}
	if b.node.on {
		n := b.node
		n.w.after(time.Second+n.w.seconds(0, 4), n.open)
	}
}

// hear brings a word to the companion, if there is one.
func (b *box) hear(m message) {
	c := b.companion
	if c == nil || c.p.over {
		return
	}
	c.inbox = append(c.inbox, m)
	if c.beating {
		c.p.cut = true
	}
	if !c.p.whole && c.p != b.node.w.clock.doing {
		b.node.w.wake(c.p, b.node.w.seconds(0, 0.005))
	}
}

// inspect is [statedir.Dir.Inspect].
func (v *volume) inspect() (c statedir.Found) {
	db := v.data != nil && v.data.db
	if v.marker != nil && !db {
		if db = v.data != nil; !db {
			c.Lost = v.marker.ClusterID
		}
	}
	p := v.pending
	switch {
	case db && v.marker != nil:
		c.Role, c.Volume, c.Cluster, c.Members = statedir.Member, v.marker.Volume, v.marker.ClusterID, v.marker.Members
	case p != nil && db && p.Role != statedir.Alone:
		c.Role, c.Volume, c.Claim, c.WasAlone = p.Role, p.Volume, p.Claim, p.Role == statedir.Seeding && p.Alone
	case p != nil:
		c.Volume, c.Claim, c.Alone = p.Volume, p.Claim, db
		c.Joining, c.Failed = p.Role == statedir.Joining && !p.Failed, p.Role == statedir.Joining && p.Failed && v.marker == nil
	case db:
		c.Role = statedir.Member
	}
	return c
}

// name is the volume's, as the program gave it.
func (v *volume) name() string {
	switch {
	case v.marker != nil:
		return v.marker.Volume
	case v.pending != nil:
		return v.pending.Volume
	}
	return ""
}

func (v *volume) pend(p statedir.Pending) { v.pending = &p }

// mark writes the marker: a member needs no pending file.
func (v *volume) mark(m policy.Marker) { v.marker, v.pending = &m, nil }

// moveAside moves what RabbitMQ left of an unfinished start out of the way.
func (b *box) moveAside() {
	v := b.volume
	if v.data == nil {
		return
	}
	b.node.w.say(b.node.who, "leftovers are moved aside")
	b.node.w.law.discarded(b.node, v.data, "moved aside")
	v.data = nil
}

// down is kill -9, and the volume's end if it is wiped.
func (n *node) down(why string, wipe bool) {
	n.w.say(n.who, "** %s", why)
	n.on = false
	if n.box != nil {
		n.box.die()
	}
	if wipe {
		n.wipe()
	}
}

func (n *node) wipe() {
	n.blanks++
	n.volume = &volume{id: fmt.Sprintf("%s-%d", n.who, n.blanks)}
}
