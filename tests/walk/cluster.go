package walk

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"rmq-entrypoint/peers"
)

// cluster is one RabbitMQ cluster, as its members agree on it.
type cluster struct {
	id      string
	members []member // in order
	public  bool     // a member of it was passing in Consul

	recorded time.Duration // when the record last came to name it as formed; 0: never
}

type member struct {
	name string
	data *data // one that is no longer mounted cannot run
}

func (c *cluster) of(name string) *data {
	for _, m := range c.members {
		if m.name == name {
			return m.data
		}
	}
	return nil
}

func (c *cluster) set(name string, d *data) {
	c.drop(name)
	c.members = append(c.members, member{name, d})
	slices.SortFunc(c.members, func(a, b member) int { return strings.Compare(a.name, b.name) })
}

func (c *cluster) drop(name string) {
	c.members = slices.DeleteFunc(slices.Clone(c.members), func(m member) bool { return m.name == name })
}

func (c *cluster) names() (names []string) {
	for _, m := range c.members {
		names = append(names, m.name)
	}
	return names
}

// data is RabbitMQ's directory.
type data struct {
	db      bool     // RabbitMQ has initialised it
	cluster *cluster // of which it is a copy
	half    *cluster // that a join was begun with
	spoilt  bool     // and cut short before it had what it takes to vote (Khepri)
	unread  bool     // killed soon after it joined: it has not applied its log (Khepri)
	seen    []string // members that ran when this one stopped (Mnesia)
	queues  int
	joined  time.Duration
}

// intact reports whether the data is a copy of c that c counts in.
func (d *data) intact(name string, c *cluster) bool {
	return d != nil && d.db && d.cluster == c && c != nil && c.of(name) == d
}

// cut is a network that is interrupted between a node and the others.
type cut struct {
	node   *node
	until  time.Duration
	ticked bool // Erlang has noticed: both sides take each other for down
}

// linked reports whether Erlang on two nodes can talk.
func (w *World) linked(a, b *node) bool {
	if a == b {
		return true
	}
	for _, c := range w.cuts {
		if c.until > w.clock.now && (c.node == a || c.node == b) {
			return false
		}
	}
	return !a.apart && !b.apart
}

// node returns whom the others reach under the name: of two, the one with a server.
func (w *World) node(name string) (found *node) {
	for _, n := range w.nodes {
		better := found == nil || found.gone && !n.gone || found.server() == nil && n.server() != nil && !n.gone
		if n.name == name && !n.apart && better {
			found = n
		}
	}
	return found
}

// reaches returns whom the node reaches under the name: itself, or nil.
func (n *node) reaches(name string) *node {
	if name == n.name {
		return n
	}
	to := n.w.node(name)
	if to == nil || !n.w.linked(n, to) {
		return nil
	}
	return to
}

func (n *node) isFrozen() bool { return n.frozen > n.w.clock.now }

// runs reports whether a running member of its cluster is on the node.
func (n *node) runs() bool {
	s := n.server()
	return s != nil && s.state == running && !n.isFrozen()
}

// up reports whether the member's server takes part in decisions.
func (n *node) up(c *cluster) bool {
	s := n.server()
	if s == nil || n.isFrozen() || n.volume.data == nil || c.of(n.name) != n.volume.data {
		return false
	}
	d := n.volume.data
	stopped := s.state == stopped && d.db && n.w.rabbit.khepri // Ra goes on where the application is stopped
	return s.state == running || stopped || s.state == booting && d.db || s.state == discovering && d.half == c && !d.spoilt
}

// majority reports whether the cluster can decide anything, as seen from a node.
func (w *World) majority(from *node, c *cluster) bool {
	if !w.rabbit.khepri {
		return true
	}
	up := 0
	for _, m := range c.members {
		if n := from.reaches(m.name); n != nil && n.up(c) {
			up++
		}
	}
	return 2*up > len(c.members)
}

// with returns the members that run with the one on the node.
func (n *node) with(c *cluster) (names []string) {
	s := n.server()
	for _, m := range c.members {
		o := n.reaches(m.name)
		if o == nil || !o.runs() || o.volume.data != m.data || o.volume.data.cluster != c {
			continue
		}
		if o == n || !slices.Contains(s.from, m.name) && !slices.Contains(o.server().from, n.name) {
			names = append(names, m.name)
		}
	}
	return names
}

var errDown = errors.New("unable to connect to the node")

// peer returns the server that a node's command line reaches under the name.
func (w *World) peer(from *node, name string) (*server, error) {
	n := from.reaches(name)
	if n == nil || n.server() == nil || n.isFrozen() {
		return nil, errDown
	}
	return n.server(), nil
}

var errBoots = errors.New("the application does not run on the node")

// view is what RabbitMQ under that name says of its cluster.
func (w *World) view(from *node, name string) (v peers.View, err error) {
	s, err := w.peer(from, name)
	if err != nil {
		return v, err
	}
	n, d := s.box.node, s.box.volume.data
	v.Khepri = w.rabbit.khepri
	switch {
	case s.state == running:
		c := d.cluster
		v.ClusterID, v.Members, v.Running, v.Pauses = c.id, c.names(), n.with(c), s.pauses
		for _, m := range v.Members {
			if o := n.reaches(m); o != nil && o != n && o.server() != nil { // a frozen one stays connected for a minute
				v.Connected = append(v.Connected, m)
			}
		}
		if !s.drain {
			v.Listeners = []peers.Listener{{IP: "::", Port: 5672}}
		}
		if len(s.from) > 0 {
			v.Partitions, v.Sides = slices.Clone(s.from), w.sides(n, c)
		}
		return v, nil
	case s.state == booting && v.Khepri && d.db && d.cluster != nil: // it waits for its majority
		v.ClusterID, v.Members = d.cluster.id, d.cluster.names()
		if d.unread {
			v.ClusterID = ""
			return v, errBoots
		}
		return v, nil
	case s.state == discovering && v.Khepri: // its store, of itself alone or of a join that goes on
		v.Members = []string{n.name}
		if d != nil && d.half != nil && !d.spoilt {
			v.Members = d.half.names()
		}
		return v, errBoots
	}
	return peers.View{}, errBoots
}

func (w *World) sides(n *node, c *cluster) map[string]peers.Side {
	sides := map[string]peers.Side{}
	for _, m := range c.names() {
		switch o := n.reaches(m); {
		case o == nil || o.server() == nil || o.isFrozen():
		case o.runs() && o.volume.data.cluster == c:
			sides[m] = peers.Side{With: o.with(c), From: slices.Clone(o.server().from)}
		default:
			sides[m] = peers.Side{}
		}
	}
	return sides
}

// leader reports whether the members have one, as RabbitMQ under that name finds.
func (w *World) leader(from *node, name string) (bool, error) {
	s, err := w.peer(from, name)
	if err != nil {
		return false, err
	}
	d := s.box.volume.data
	if !w.rabbit.khepri || d == nil || d.cluster == nil || s.state != running && s.state != booting {
		return false, errBoots
	}
	return w.majority(s.box.node, d.cluster), nil
}

// forget is forget_cluster_node, for the one who asks for it.
func (w *World) forget(from *node, at, name string) error {
	s, err := w.peer(from, at)
	if err != nil {
		return err
	}
	n := s.box.node
	if s.state != running || !w.majority(n, s.box.volume.data.cluster) {
		return errBoots
	}
	c := s.box.volume.data.cluster
	d := c.of(name)
	if d == nil {
		return fmt.Errorf("%s is not a member", name)
	}
	for _, o := range w.nodes {
		if o.name == name && o.runs() && o.volume.data == d {
			return fmt.Errorf("%s runs", name)
		}
	}
	w.say(n.who, "RabbitMQ forgets %s", name)
	w.law.forgotten(from, c, name, d)
	c.drop(name)
	return nil
}

// disconnect interrupts the network of a node for a while. On Mnesia both sides take each
// other for down after a minute; those that pause in a minority do, unless the network is
// back just then.
func (w *World) disconnect(n *node, d time.Duration, flash bool) {
	w.say(n.who, "** cut off from the other nodes for %s", d)
	c := &cut{node: n, until: w.clock.now + d}
	w.cuts = append(w.cuts, c)
	if !w.rabbit.khepri && !flash {
		w.after(w.seconds(60, 75), func() { w.tick(c) })
	}
	w.after(d, func() {
		w.cuts = slices.DeleteFunc(w.cuts, func(o *cut) bool { return o == c })
		if !w.rabbit.khepri && (c.ticked || flash) {
			w.part(n)
		}
	})
}

func (w *World) tick(c *cut) {
	if c.until <= w.clock.now {
		return
	}
	c.ticked = true
	for _, n := range w.nodes {
		s := n.server()
		if s == nil || s.state != running || !s.pauses || len(s.box.volume.data.cluster.members) < 2 {
			continue
		}
		if !s.quorate() {
			s.pauseMinority()
		}
	}
}

// part leaves the node partitioned from those with which it runs on.
func (w *World) part(n *node) {
	if !n.runs() {
		return
	}
	c := n.volume.data.cluster
	for _, m := range n.with(c) {
		o := n.reaches(m)
		if o != n {
			w.say(n.who, "** partitioned from %s", m)
			n.server().from = append(n.server().from, m)
			o.server().from = append(o.server().from, n.name)
		}
	}
	slices.Sort(n.server().from)
}
