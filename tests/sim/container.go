package sim

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Node is one container's place: its name stays, its volume may not.
type Node struct {
	Name, Addr string
	Who        string // in the story: two may have one name

	w       *World
	twin    *Node         // that has the name, too: this one is a copied compose file's
	apart   bool          // in another network, or with another cookie
	skew    time.Duration // of its clock
	gone    bool          // for good
	on      bool          // it is to run
	volume  *volume
	box     *Box
	cut     time.Time // from Consul until
	refuse  bool      // cut means refused, not black-holed
	token   lack      // of its token for Consul
	frozen  time.Time // until
	boots   int
	lastRan time.Time
}

// Box is one run of a node's container. When it dies, nothing that its processes
// still do has any effect: their calls fail and their directory is elsewhere.
type Box struct {
	Node *Node
	Dir  string // where the volume is mounted

	ctx       context.Context
	kill      context.CancelFunc
	volume    *volume
	server    *Server
	ears      []*ear
	companion *Process
	live      time.Time // since when a companion has been there to speak for a running member
}

// Process is one process in a box.
type Process struct {
	Box  *Box
	name string
	ctx  context.Context
	kill context.CancelFunc
}

type volume struct {
	name    string
	dir     string // now
	moves   int
	cluster *cluster
	db      bool     // RabbitMQ has initialised it
	half    *cluster // a join was begun
	spoilt  bool     // and cut short before it had what it takes to vote (Khepri)
	seen    []string // members that ran when this one stopped
	ran     bool     // its server was a running member of an announced cluster
}

func (w *World) blank(n *Node) *volume {
	v := &volume{name: fmt.Sprintf("%s-%d", n.Who, n.boots)}
	n.boots++
	v.move(w)
	return v
}

func (v *volume) move(w *World) {
	to := filepath.Join(w.opts.Dir, fmt.Sprintf("%s.%d", v.name, v.moves))
	v.moves++
	var err error
	if v.dir == "" {
		err = os.MkdirAll(to, 0o755)
	} else {
		err = os.Rename(v.dir, to)
	}
	if err != nil {
		panic(err)
	}
	v.dir = to
}

// On lets the node's containers run, for a test that tells its own story: see [World.Play].
func (n *Node) On() {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	n.on = true
}

// Off is kill -9, for such a test.
func (n *Node) Off() {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	n.down("killed", false)
}

// Open waits until the node is to run and starts its container; nil means that
// the world has ended.
func (n *Node) Open() *Box {
	for {
		n.w.mu.Lock()
		if n.w.ctx.Err() != nil {
			n.w.mu.Unlock()
			return nil
		}
		if n.on && !n.gone {
			b := &Box{Node: n, volume: n.volume}
			n.volume.move(n.w)
			b.Dir = n.volume.dir
			b.ctx, b.kill = context.WithCancel(n.w.ctx)
			n.box = b
			n.w.tell(n.Who, "container starts")
			n.w.mu.Unlock()
			return b
		}
		n.w.mu.Unlock()
		n.w.sleep(n.w.ctx, 250*time.Millisecond)
	}
}

// Close ends a container whose main process has ended by itself.
func (b *Box) Close(why string) {
	w := b.Node.w
	w.mu.Lock()
	w.tell(b.Node.Who, "container ends: "+why)
	b.die()
	w.mu.Unlock()
	w.sleep(w.ctx, time.Second+time.Duration(w.draw(b.Node.Who, "restart")*4e9)) // the restart policy
}

// die is kill -9 of all that is in the box.
func (b *Box) die() {
	if b.ctx.Err() != nil {
		return
	}
	if b.server != nil {
		b.server.stop()
	}
	b.kill()
	b.Node.box = nil
	b.volume.move(b.Node.w)
}

// Process starts a process in the box.
func (b *Box) Process(name string) *Process {
	p := &Process{Box: b, name: name}
	p.ctx, p.kill = context.WithCancel(b.ctx)
	return p
}

// Context ends when the process is killed.
func (p *Process) Context() context.Context { return p.ctx }

// Name is for the story.
func (p *Process) Name() string { return p.Box.Node.Who + " " + p.name }

// Kill is kill -9.
func (p *Process) Kill() { p.kill() }

// await is what every call goes through first: here its container may die or
// freeze. A frozen one goes on with the call afterwards, whatever its deadline.
// It returns false when the process is dead.
func (p *Process) await(ctx context.Context, what string) bool {
	w, n := p.Box.Node.w, p.Box.Node
	if p.ctx.Err() != nil {
		return false
	}
	w.mu.Lock()
	key := n.Who + " " + p.name
	switch x := w.drawLocked(key, "fate "+what); {
	case w.quiet:
	case x < w.rates.crash:
		w.tell(n.Who, fmt.Sprintf("** killed at %s of the %s", what, p.name))
		p.Box.die()
	case x < w.rates.crash+w.rates.freeze && !n.frozen.After(time.Now()):
		n.frozen = time.Now().Add(time.Duration((0.3 + 2.7*w.drawLocked(key, "freeze")) * float64(w.opts.TTL)))
		w.tell(n.Who, fmt.Sprintf("** frozen at %s of the %s until %s", what, p.name, w.at(n.frozen)))
		w.deaf(n)
	}
	frozen := n.frozen
	delay := time.Millisecond + time.Duration(w.drawLocked(key, "travel "+what)*9e6)
	if !w.quiet && w.drawLocked(key, "slow "+what) < w.rates.slow {
		delay += time.Duration(w.drawLocked(key, "slower "+what) * 3e9)
	}
	w.mu.Unlock()
	if d := time.Until(frozen); d > 0 {
		w.sleep(p.ctx, d)
	}
	w.sleep2(ctx, p.ctx, delay)
	return p.ctx.Err() == nil
}

// chance draws for one call.
func (p *Process) chance(what string, rate float64) bool {
	w := p.Box.Node.w
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.quiet && w.drawLocked(p.Box.Node.Who+" "+p.name, what) < rate
}
