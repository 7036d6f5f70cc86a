package walk

import (
	"slices"
	"strings"
	"time"

	"rmq-entrypoint/healthcheck"
)

type state int

const (
	loading state = iota // its VM
	booting
	discovering
	running
	stopped // the application is, in its VM
)

// server is RabbitMQ in a box.
type server struct {
	box    *box
	p      *proc
	state  state
	since  time.Duration // start, for elections
	claim  string        // of a seed
	peers  []string      // cluster_nodes of a joiner
	pauses bool          // in a minority
	paused bool
	forced bool // Mnesia was told not to wait
	drain  bool // in maintenance mode
	from   []string
	ending bool
}

// serve starts RabbitMQ in the box.
func (b *box) serve(claim string, peers []string, pauses bool) {
	s := &server{box: b, since: b.node.w.clock.now, claim: claim, peers: peers, pauses: pauses}
	b.server = s
	if b.volume.data == nil {
		b.volume.data = &data{}
	}
	s.p = b.node.w.start(b, "server", s.run)
}

// say is a word of the notify protocol.
func (s *server) say(words string) { s.box.hear(message{text: words}) }

// stops tells the companion that the server stops: by notify, by AMQP, or by both.
func (s *server) stops() {
	closed := message{closed: &healthcheck.Reason{Code: 320, Text: "shutdown", Stopping: true}}
	switch s.box.node.w.rand.IntN(3) {
	case 0:
		s.box.hear(closed)
		fallthrough
	case 1:
		s.say("STATUS=stopping")
		s.say("STOPPING=1")
	case 2:
		s.say("STATUS=stopping")
		s.say("STOPPING=1")
		s.box.hear(closed)
	}
}

// down notes what is left on the disk when RabbitMQ stops.
func (s *server) down() {
	n, d := s.box.node, s.box.volume.data
	if d == nil {
		return
	}
	w := n.w
	if w.rabbit.khepri && s.state == discovering && d.half != nil && w.rand.Float64() < 0.9 {
		w.say(n.who, "** the join was cut short before its vote was on disk")
		d.spoilt = true
	}
	if s.state == running && d.cluster != nil {
		d.seen = nil
		for _, m := range d.cluster.members {
			// A member that died a moment ago was still seen running.
			o := n.reaches(m.name)
			if o != nil && o != n && o.volume.data == m.data && (o.runs() && !slices.Contains(s.from, m.name) || o.box == nil && w.clock.now-o.lastRan < time.Second) {
				d.seen = append(d.seen, m.name)
			}
		}
		n.lastRan = w.clock.now
		d.unread = w.rabbit.khepri && w.clock.now-d.joined < 10*time.Second
	}
	w.law.deaf(n)
	s.unpart()
}

// unpart: a restart ends a partition.
func (s *server) unpart() {
	for _, o := range s.box.node.w.nodes {
		if t := o.server(); t != nil && slices.Contains(t.from, s.box.node.name) {
			t.from = slices.DeleteFunc(slices.Clone(t.from), func(n string) bool { return n == s.box.node.name })
		}
	}
	s.from = nil
}

// halt is a clean stop of the server; its container ends with it.
func (s *server) halt() {
	if s.ending {
		return
	}
	s.ending = true
	s.stops()
	b, w := s.box, s.box.node.w
	d := w.seconds(0.5, 2.5)
	if w.chance(0.1) { // it hangs, until it is killed
		d = w.seconds(60, 90)
	}
	w.after(d, func() { b.close("the server has ended") })
}

// stopApp stops the application, and leaves its VM.
func (s *server) stopApp() {
	s.down()
	s.state = stopped
	s.stops()
}

func (s *server) quorate() bool {
	n, c := s.box.node, s.box.volume.data.cluster
	alive := 0
	for _, m := range c.members {
		if o := n.reaches(m.name); o != nil && o.server() != nil && !o.isFrozen() {
			alive++
		}
	}
	return 2*alive > len(c.members)
}

func (s *server) pauseMinority() {
	s.box.node.w.say(s.box.node.who, "RabbitMQ pauses in a minority")
	s.stopApp()
	s.paused = true
	s.retry()
}

// retry brings a paused RabbitMQ back when it is in a majority.
func (s *server) retry() {
	w := s.box.node.w
	w.after(w.seconds(1, 3), func() {
		switch {
		case s.p.over || s.state != stopped || !s.paused:
		case s.box.node.isFrozen() || !s.quorate():
			s.retry()
		default:
			s.startApp()
		}
	})
}

func (s *server) startApp() {
	s.paused, s.forced, s.drain, s.state = false, false, false, booting
	s.box.node.w.wake(s.p, 0)
}

// run is a server's life until it is killed.
func (s *server) run(p *proc) {
	w, v, n := p.w, s.box.volume, s.box.node
	p.pause(w.seconds(1, 3))
	s.say("STATUS=booting")
	for {
		if v.data.db && v.data.cluster == nil {
			v.data.db = false
		}
		if !v.data.db && len(s.peers) == 0 {
			s.found()
		}
		s.state = booting
		if !v.data.db {
			s.state = discovering
			w.say(n.who, "RabbitMQ is blank and looks for %s", strings.Join(s.peers, ","))
			s.join(p)
		}
		s.state = booting
		for deadline := w.clock.now + 300*time.Second; ; {
			ready, never := s.ready()
			if never != "" || w.clock.now > deadline {
				w.say(n.who, "RabbitMQ gives up: %s", never)
				n.speaks(never)
				s.box.close("RabbitMQ gave up")
				p.alive()
			}
			p.pause(w.seconds(0.5, 1.5))
			if s.state != booting {
				break
			}
			if ready {
				break
			}
		}
		if s.state == booting {
			s.state = running
			v.data.unread = false
			w.say(n.who, "RabbitMQ is ready in %s of %s", v.data.cluster.id, strings.Join(v.data.cluster.names(), ","))
			s.say("STATUS=core ready")
			p.pause(w.seconds(0, 0.4))
			if s.state == running {
				s.say("READY=1")
			}
		}
		for s.state == running || s.state == stopped {
			p.pause(time.Hour) // until start_app
		}
	}
}

// join is discovery, until this node is a member or has founded a cluster by accident.
func (s *server) join(p *proc) {
	w, d := p.w, s.box.volume.data
	for !d.db {
		p.pause(500 * time.Millisecond)
		if !s.discover() {
			continue
		}
		p.hot("while it joins")
		p.pause(w.seconds(0.05, 1)) // the mid-join window: a voter without a database
		p.hot("while it joins")
		s.joined()
	}
}

// joined is the end of a join.
func (s *server) joined() {
	d := s.box.volume.data
	if d.half != nil {
		d.cluster, d.half, d.db, d.joined = d.half, nil, true, s.box.node.w.clock.now
	}
}

// found makes a cluster of this node alone.
func (s *server) found() {
	w, d, n := s.box.node.w, s.box.volume.data, s.box.node
	c := &cluster{id: "cluster-" + string(rune('A'+len(w.clusters)))}
	c.set(n.name, d)
	w.clusters = append(w.clusters, c)
	d.cluster, d.half, d.db = c, nil, true
	w.say(n.who, "RabbitMQ founds %s", c.id)
	w.law.founded(s)
	if s.claim == "" && w.rand.IntN(4) == 0 {
		d.queues = 1 + w.rand.IntN(5) // a client was faster
	}
}

// discover looks at the peers once, and reports whether a join has begun.
func (s *server) discover() bool {
	w, d, n := s.box.node.w, s.box.volume.data, s.box.node
	older := 0
	for _, name := range s.peers {
		o := n.reaches(name)
		if o == nil || o == n || o.server() == nil || o.isFrozen() {
			continue
		}
		t := o.server()
		switch {
		case t.state == discovering && w.rabbit.elects && n.skew >= 0 && t.since > s.since:
			older++ // elections are among those that boot: the oldest seeds
		case t.state != running:
		case w.rabbit.elects && n.skew < 0 && len(o.volume.data.cluster.members) == 1 && o.volume.data.cluster.of(n.name) == nil:
			w.say(n.who, "** RabbitMQ elects itself: its clock is behind")
			s.found()
			return false
		case s.take(o.volume.data.cluster):
			d.half = o.volume.data.cluster
			return true
		}
	}
	if older > 0 && older == len(s.peers) {
		w.say(n.who, "** RabbitMQ elects itself among joiners")
		s.found()
	}
	return false
}

// take makes this node a voter of c, if c can and will have it.
func (s *server) take(c *cluster) bool {
	w, d, n := s.box.node.w, s.box.volume.data, s.box.node
	was := c.of(n.name)
	if was != nil && was != d && w.rabbit.quirk {
		return false // inconsistent_cluster
	}
	for _, m := range w.nodes {
		if m != n && m.name == n.name && m.server() != nil && m.server().state == running && m.volume.data == was {
			return false // its members are connected to that one
		}
	}
	if was == d && d.half == c && !d.spoilt {
		return true
	}
	if !w.majority(n, c) {
		return false
	}
	d.spoilt = false
	w.law.replaced(n, c, was, d)
	c.set(n.name, d)
	w.say(n.who, "RabbitMQ begins to join %s", c.id)
	return true
}

// ready reports whether those that a member waits for are there, or why it can never start.
func (s *server) ready() (ready bool, never string) {
	w, d, n := s.box.node.w, s.box.volume.data, s.box.node
	c := d.cluster
	if c.of(n.name) != d && !s.comeBack(c) {
		return false, "the cluster does not know this data any more"
	}
	if w.rabbit.khepri {
		return w.majority(n, c), ""
	}
	all := true
	for _, name := range d.seen {
		if c.of(name) == nil {
			continue // forgotten
		}
		o := n.reaches(name)
		all = all && o != nil && o.up(c)
	}
	for _, m := range c.members {
		if o := n.reaches(m.name); o != nil && o != n && o.runs() && o.volume.data == m.data && m.data.cluster == c {
			return true, ""
		}
	}
	return all || s.forced, ""
}

// comeBack takes a member's earlier data for its own again: RabbitMQ knows members by their
// names. Only while nobody runs under this one.
func (s *server) comeBack(c *cluster) bool {
	n := s.box.node
	for _, o := range n.w.nodes {
		if o != n && o.name == n.name && o.server() != nil {
			return false
		}
	}
	if c.of(n.name) == nil {
		return false
	}
	n.w.law.replaced(n, c, c.of(n.name), s.box.volume.data)
	c.set(n.name, s.box.volume.data)
	return true
}
