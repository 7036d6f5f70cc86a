package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// cluster is one RabbitMQ cluster, as its members agree on it.
type cluster struct {
	id      string
	members map[string]*volume // by name; one whose volume is no longer mounted cannot run
	public  bool               // a member of it was passing in Consul

	recorded time.Time // when the record last came to name it as formed
}

type state int

const (
	booting state = iota
	discovering
	running
	appStopped
	ended
)

// Boot is how a server is started.
type Boot struct {
	Data  string   // RabbitMQ's directory
	Claim string   // of a seed
	Peers []string // cluster_nodes of a joiner, itself left out

	Pauses bool // in a minority, as its files say
}

// Server is RabbitMQ in a box.
type Server struct {
	Gone chan struct{} // closed when it has ended

	box   *Box
	boot  Boot
	state state
	since time.Time // start, for elections
	gone  sync.Once
	again chan struct{} // start_app

	pauses bool // in a minority, as it was told since the application started

	reads bool     // it has read its files
	told  []string // whom to look for, told since its start; nil: nobody told it
}

// started is when its virtual machine started, by its host's clock.
func (s *Server) started() time.Time { return s.since.Add(s.box.Node.skew) }

// gated reports whether it looks for a node that is never there.
func (s *Server) gated() bool {
	return len(s.boot.Peers) == 1 && strings.HasPrefix(s.boot.Peers[0], "gate-")
}

// tell is application:set_env(rabbit, cluster_nodes, …), by which it looks for others than its
// files say. It reports whether that was so already.
func (s *Server) tell(nodes []string) (already bool) {
	w, n := s.box.Node.w, s.box.Node
	already = s.told != nil && slices.Equal(s.told, nodes)
	s.told = nodes
	if !s.reads { // its files undo that
		return already
	}
	if s.gated() {
		w.did[Opened]++
		w.spring(Opened, n.Name)
	}
	s.boot.Peers = slices.DeleteFunc(slices.Clone(nodes), func(name string) bool { return name == n.Name })
	if r := w.record(); len(s.boot.Peers) == 0 && r.Seed == n.Name {
		s.boot.Claim = r.Claim
	}
	return already
}

// ear is where one companion hears the server.
type ear struct {
	ctx context.Context
	c   chan string
}

// Listen gives the process the server's words from now on.
func (p *Process) Listen() <-chan string {
	w := p.Box.Node.w
	w.mu.Lock()
	defer w.mu.Unlock()
	e := &ear{p.ctx, make(chan string, 64)}
	p.Box.ears = []*ear{e}
	return e.c
}

// Serve starts RabbitMQ in the box.
func (b *Box) Serve(boot Boot) *Server {
	w := b.Node.w
	w.mu.Lock()
	defer w.mu.Unlock()
	s := &Server{Gone: make(chan struct{}), box: b, boot: boot, since: time.Now(), again: make(chan struct{}, 1)}
	if b.ctx.Err() != nil {
		s.state = ended
		close(s.Gone)
		return s
	}
	b.server = s
	go s.run()
	return s
}

func (s *Server) say(words string) {
	for _, e := range s.box.ears {
		if e.ctx.Err() == nil {
			select {
			case e.c <- words:
			default:
			}
		}
	}
}

// stop is its death, under the world's lock.
func (s *Server) stop() {
	s.gone.Do(func() {
		w, v := s.box.Node.w, s.box.volume
		if w.Khepri && s.state == discovering && v.half != nil && w.drawLocked(s.box.Node.Who, "vote") < 0.9 {
			w.tell(s.box.Node.Who, "** the join was cut short before its vote was on disk")
			v.spoilt = true
		}
		if s.state == running && v.cluster != nil {
			v.seen = nil
			for _, n := range w.Nodes {
				// A member that died a moment ago was still seen running.
				if n != s.box.Node && v.cluster.members[n.Name] == n.volume && (n.runs() || n.box == nil && time.Since(n.lastRan) < time.Second) {
					v.seen = append(v.seen, n.Name)
				}
			}
			s.box.Node.lastRan = time.Now()
			if !w.Khepri { // where Mnesia keeps it; the name of this node is in it too
				must(os.WriteFile(filepath.Join(s.boot.Data, "nodes_running_at_shutdown"), fmt.Appendf(nil, "['%s'].\n", strings.Join(append(v.seen, s.box.Node.Name), "','")), 0o644))
			}
		}
		s.state = ended
		w.deaf(s.box.Node)
		close(s.Gone)
	})
}

// runs reports whether a running member of its cluster is on the node.
func (n *Node) runs() bool {
	return n.box != nil && n.box.server != nil && n.box.server.state == running && !n.frozen.After(time.Now())
}

// up reports whether the member's server takes part in decisions.
func (n *Node) up(c *cluster) bool {
	if n.box == nil || n.box.server == nil || n.frozen.After(time.Now()) || c.members[n.Name] != n.volume {
		return false
	}
	s := n.box.server.state
	return s == running || s == booting && n.volume.db || s == discovering && n.volume.half == c && !n.volume.spoilt
}

// node returns whom the others reach under the name: of two, the one with a server.
func (w *World) node(name string) (found *Node) {
	for _, n := range w.Nodes {
		better := found == nil || found.gone && !n.gone || (found.box == nil || found.box.server == nil) && n.box != nil && n.box.server != nil && !n.gone
		if n.Name == name && !n.apart && better {
			found = n
		}
	}
	return found
}

// reaches returns whom the node reaches under the name: itself, and if it is apart nobody
// else.
func (n *Node) reaches(name string) *Node {
	switch {
	case name == n.Name:
		return n
	case n.apart:
		return nil
	}
	return n.w.node(name)
}

// majority reports whether the cluster can decide anything.
func (w *World) majority(c *cluster) bool {
	if !w.Khepri {
		return true
	}
	up := 0
	for name := range c.members {
		if w.node(name).up(c) {
			up++
		}
	}
	return 2*up > len(c.members)
}

func (s *Server) run() {
	w, v, n := s.box.Node.w, s.box.volume, s.box.Node
	pause := func(least, most float64) bool {
		w.sleep(s.box.ctx, time.Duration((least+(most-least)*w.draw(n.Who, "boot"))*1e9))
		w.mu.Lock()
		defer w.mu.Unlock()
		return s.box.ctx.Err() == nil && s.state != ended
	}
	if !pause(1, 3) {
		return
	}
	s.say("STATUS=booting")
	w.mu.Lock()
	s.reads, s.told = true, nil
	if _, err := os.Stat(filepath.Join(s.boot.Data, "coordination")); err != nil {
		v.half, v.spoilt = nil, false // moved aside
	}
	if _, err := os.Stat(filepath.Join(s.boot.Data, "rabbit_serial")); err != nil && s.box.ctx.Err() == nil && v.db {
		w.tell(n.Who, "** RabbitMQ's database is not where it was")
		v.db, v.cluster = false, nil
	}
	w.mu.Unlock()
	for {
		w.mu.Lock()
		s.pauses = s.boot.Pauses // it reads its files
		blank := !v.db
		if blank && len(s.boot.Peers) == 0 {
			s.found()
			blank = false
		}
		if blank {
			s.state = discovering
			w.tell(n.Who, "RabbitMQ is blank and looks for "+strings.Join(s.boot.Peers, ","))
			if s.gated() {
				w.did[Gated]++
			}
		} else {
			s.state = booting
		}
		w.mu.Unlock()
		for blank {
			if !pause(0.5, 0.5) {
				return
			}
			w.mu.Lock()
			half := s.discover()
			blank = !v.db && !half
			w.mu.Unlock()
			if half {
				if !pause(0.05, 1) { // the mid-join window: a voter without a database
					return
				}
				w.mu.Lock()
				s.joined()
				w.mu.Unlock()
				blank = false
			}
		}
		for deadline := time.Now().Add(300 * time.Second); ; {
			w.mu.Lock()
			s.state = booting
			ready, why := s.members()
			if why != "" || time.Now().After(deadline) {
				w.tell(n.Who, "RabbitMQ gives up: "+why)
				s.stop()
				w.mu.Unlock()
				return
			}
			w.mu.Unlock()
			if !pause(0.5, 1.5) {
				return
			}
			if ready {
				break
			}
		}
		w.mu.Lock()
		s.state = running
		w.tell(n.Who, "RabbitMQ is ready in "+v.cluster.id+" of "+strings.Join(sorted(v.cluster.members), ","))
		s.say("STATUS=core ready")
		if w.quiet || w.drawLocked(n.Who, "unheard") > w.rates.unheard {
			s.say("READY=1")
		} else {
			w.tell(n.Who, "** nobody hears that")
			w.did[Unheard]++
		}
		w.mu.Unlock()
		select {
		case <-s.again:
		case <-s.Gone:
			return
		}
	}
}

// found makes a cluster of this node alone.
func (s *Server) found() {
	w, v, n := s.box.Node.w, s.box.volume, s.box.Node
	c := &cluster{id: fmt.Sprintf("cluster-%d", len(w.clusters)+1), members: map[string]*volume{n.Name: v}}
	w.clusters = append(w.clusters, c)
	v.cluster, v.half = c, nil
	s.initialise()
	w.tell(n.Who, "RabbitMQ founds "+c.id)
	if s.boot.Claim == "" {
		w.did[Alone]++
	} else {
		if by, twice := w.claims[s.boot.Claim]; twice {
			w.violation("%s and %s both founded a cluster under claim %s", by, n.Name, s.boot.Claim)
		}
		w.claims[s.boot.Claim] = n.Name
	}
}

// initialise leaves the evidence that the program looks for.
func (s *Server) initialise() {
	v := s.box.volume
	if s.box.ctx.Err() != nil {
		return
	}
	v.db = true
	must(os.MkdirAll(s.boot.Data, 0o755))
	must(os.WriteFile(filepath.Join(s.boot.Data, "rabbit_serial"), nil, 0o644))
}

// discover looks at the peers once, and reports whether a join has begun.
func (s *Server) discover() bool {
	w, v, n := s.box.Node.w, s.box.volume, s.box.Node
	if s.box.ctx.Err() != nil {
		return false
	}
	if len(s.boot.Peers) == 0 { // it was told so
		s.found()
		return false
	}
	older := 0
	for _, name := range s.boot.Peers {
		p := n.reaches(name)
		if p == nil || p == n || p.box == nil || p.box.server == nil || p.frozen.After(time.Now()) {
			continue
		}
		t := p.box.server
		switch {
		case t.state == discovering && w.Elects && s.started().Before(t.started()):
			older++ // elections are among those that boot: the oldest seeds
		case t.state != running:
		case w.Elects && s.started().Before(t.started()) && len(p.volume.cluster.members) == 1 && p.volume.cluster.members[n.Name] == nil:
			w.tell(n.Who, "** RabbitMQ elects itself: it is the older, by its clock")
			s.found()
			return false
		case s.take(p.volume.cluster):
			v.half = p.volume.cluster
			must(os.MkdirAll(filepath.Join(s.boot.Data, "coordination"), 0o755))
			return true
		}
	}
	if older > 0 && older == len(s.boot.Peers) {
		w.tell(n.Who, "** RabbitMQ elects itself among joiners")
		s.found()
	}
	return false
}

// pending is the id that the program gave the volume before it was to join.
func (v *volume) pending(node string) string {
	var p struct{ Volume string }
	if text, err := os.ReadFile(filepath.Join(v.dir, node+"-entrypoint", "pending")); err == nil {
		must(json.Unmarshal(text, &p))
	}
	return p.Volume
}

// take makes this node a voter of c, if c can and will have it.
func (s *Server) take(c *cluster) bool {
	w, v, n := s.box.Node.w, s.box.volume, s.box.Node
	was := c.members[n.Name]
	if was != nil && was != v && w.Quirk {
		return false // inconsistent_cluster
	}
	for _, m := range w.Nodes {
		if m != n && m.Name == n.Name && m.runs() && m.volume == was {
			return false // its members are connected to that one
		}
	}
	if was == v && v.half == c && !v.spoilt {
		w.did[WentOn]++
		return true
	}
	if !w.majority(c) {
		return false
	}
	if r := w.record(); (r.Members[n.Name] == "" || r.Members[n.Name] != v.pending(n.Name)) && w.wiped.IsZero() && w.spoiled == nil && w.givenUp == "" {
		w.violation("%s joins %s and is not on record with its volume (%s)", n.Name, c.id, r.State)
	}
	v.spoilt = false
	c.members[n.Name] = v
	w.tell(n.Who, "RabbitMQ begins to join "+c.id)
	w.spring(Listed, n.Name)
	return true
}

func (s *Server) joined() {
	v := s.box.volume
	if v.half == nil {
		return
	}
	v.cluster, v.half = v.half, nil
	s.initialise()
}

// members reports whether those that a member waits for are there, or why it can
// never start.
func (s *Server) members() (ready bool, never string) {
	w, v, n := s.box.Node.w, s.box.volume, s.box.Node
	c := v.cluster
	if s.box.ctx.Err() != nil {
		return false, ""
	}
	if c.members[n.Name] != v {
		return false, "the cluster does not know this volume any more"
	}
	if w.Khepri {
		return w.majority(c), ""
	}
	all := true
	for _, name := range v.seen {
		m := w.node(name)
		if c.members[name] == nil {
			continue // forgotten
		}
		all = all && m.up(c)
	}
	for name := range c.members {
		if m := w.node(name); m != n && m.runs() && m.volume.cluster == c && c.members[name] == m.volume {
			return true, ""
		}
	}
	return all, ""
}

// Gone reports whether the name server knows no such host any more: its container is gone.
func (p *Process) Gone(node string) bool {
	w := p.Box.Node.w
	w.mu.Lock()
	defer w.mu.Unlock()
	n := p.Box.Node.reaches(node)
	return n != nil && n.box == nil
}

// Healthy is the answer to the health check's AMQP.
func (b *Box) Healthy() bool {
	w := b.Node.w
	w.mu.Lock()
	defer w.mu.Unlock()
	return b.ctx.Err() == nil && b.server != nil && b.server.state == running
}
