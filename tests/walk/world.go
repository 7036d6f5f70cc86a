package walk

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"time"

	"rmq-entrypoint/internal/policy"
	"rmq-entrypoint/peers"
)

// The settings of all nodes.
const (
	ttl          = 15 * time.Second
	beat         = ttl / 3
	waitTimeout  = 3 * time.Minute
	joinTimeout  = 90 * time.Second
	claimTimeout = 45 * time.Second
	deregister   = 5 * time.Minute
	lockDelay    = time.Second
)

// Minds are what nodes decide by. A test of the test puts others in their place.
type Minds struct {
	Decide func(policy.Settings, policy.State, policy.Observation) policy.Verdict
	Choose func(peers.Observation) peers.Decision
}

// Product returns the minds of the product.
func Product() Minds { return Minds{policy.Decide, peers.Decide} }

// World is everything there is.
type World struct {
	Minds
	nodes    []*node
	clusters []*cluster
	rabbit   kind
	consul   *consul
	cuts     []*cut // of the network, between nodes
	rates    rates
	law      law
	clock    clock
	rand     *rand.Rand
	seed     uint64
	story    story
	quiet    bool // the faults have ended
}

// kind is the RabbitMQ of all nodes.
type kind struct {
	version string
	khepri  bool // members decide by majority; else by Mnesia, that is by who stopped last
	quirk   bool // a wiped node is refused under its old name until it is forgotten (3.13 to 4.2)
	elects  bool // a joiner with a clock that is behind elects itself (3.13 and later)

	forceBoot bool // the last copy carries on by itself
}

// rates are the chances of a fault at each step.
type rates struct{ crash, hot, lose, late, freeze, slow float64 }

// New makes a world of a seed.
func New(seed uint64, m Minds, tell bool) *World {
	w := &World{Minds: m, seed: seed, rand: rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15))}
	w.story.tell = tell
	w.law.w = w
	w.consul = &consul{w: w, index: 10}
	w.people()
	return w
}

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// clock is virtual time, and what is to happen in it.
type clock struct {
	now   time.Duration
	queue []event
	seq   uint64
	steps int
	doing *proc
	procs []*proc
}

// An event is to happen: a process goes on, or something is done to the world.
type event struct {
	at   time.Duration
	seq  uint64
	p    *proc
	turn uint64 // of p: an event of an earlier one is void
	do   func()
}

func (e event) before(f event) bool { return e.at < f.at || e.at == f.at && e.seq < f.seq }

func (c *clock) add(e event) {
	c.seq++
	e.seq = c.seq
	c.queue = append(c.queue, e)
	for i := len(c.queue) - 1; i > 0; {
		up := (i - 1) / 2
		if !c.queue[i].before(c.queue[up]) {
			break
		}
		c.queue[i], c.queue[up] = c.queue[up], c.queue[i]
		i = up
	}
}

func (c *clock) next() (e event) {
	q := c.queue
	e = q[0]
	last := len(q) - 1
	q[0] = q[last]
	q[last] = event{}
	q = q[:last]
	for i := 0; ; {
		least := i
		for _, child := range []int{2*i + 1, 2*i + 2} {
			if child < last && q[child].before(q[least]) {
				least = child
			}
		}
		if least == i {
			break
		}
		q[i], q[least] = q[least], q[i]
		i = least
	}
	c.queue = q
	return e
}

// after has something happen to the world.
func (w *World) after(d time.Duration, do func()) {
	w.clock.add(event{at: w.clock.now + max(0, d), do: do})
}

// step lets the next thing happen.
func (w *World) step() {
	c := &w.clock
	e := c.next()
	c.now = max(c.now, e.at)
	switch p := e.p; {
	case p == nil:
		e.do()
	case p.over || p.turn != e.turn:
		return
	case p.box != nil && p.box.node.frozen > c.now:
		p.turn++
		c.add(event{at: p.box.node.frozen, p: p, turn: p.turn})
		return
	default:
		c.doing = p
		if _, more := p.next(); !more {
			p.over = true
		}
		c.doing = nil
	}
	c.steps++
	w.law.compare()
}

// proc is one process: a coroutine that pauses between its steps.
type proc struct {
	w        *World
	box      *box
	name     string
	next     func() (struct{}, bool)
	stop     func()
	yield    func(struct{}) bool
	turn     uint64
	over     bool
	cut      bool          // an event wants to be heard: what is under way is cut short
	whole    bool          // what is under way is not
	deadline time.Duration // of what is under way; 0: none
}

// killed ends a coroutine from within.
type killed struct{}

func (w *World) start(b *box, name string, body func(*proc)) *proc {
	p := &proc{w: w, box: b, name: name}
	p.next, p.stop = iter.Pull(func(yield func(struct{}) bool) {
		p.yield = yield
		defer func() {
			p.over = true
			if r := recover(); r != nil && r != any(killed{}) {
				panic(fmt.Sprintf("%v\n%s", r, debug.Stack()))
			}
		}()
		body(p)
	})
	w.clock.procs = append(w.clock.procs, p)
	if b != nil {
		b.procs = append(b.procs, p)
	}
	w.wake(p, 0)
	return p
}

// wake has a process go on after d, whatever it waits for.
func (w *World) wake(p *proc, d time.Duration) {
	p.turn++
	w.clock.add(event{at: w.clock.now + d, p: p, turn: p.turn})
}

// kill is kill -9.
func (p *proc) kill() {
	if p == nil || p.over {
		return
	}
	p.over = true
	if p != p.w.clock.doing {
		p.stop()
	}
}

// pause ends a step. The next one comes after d, or when the process is woken.
func (p *proc) pause(d time.Duration) {
	p.alive()
	p.w.wake(p, max(0, d))
	if !p.yield(struct{}{}) {
		panic(killed{})
	}
	p.alive()
}

// alive ends a process that was killed by what it did itself.
func (p *proc) alive() {
	if p.over {
		panic(killed{})
	}
}

// now is the time by the clock of the node that the process runs on.
func (p *proc) now() time.Time { return epoch.Add(p.w.clock.now + p.box.node.skew) }

func (w *World) chance(rate float64) bool { return rate > 0 && !w.quiet && w.rand.Float64() < rate }

// seconds draws a duration.
func (w *World) seconds(least, most float64) time.Duration {
	return time.Duration((least + (most-least)*w.rand.Float64()) * 1e9)
}

func (w *World) id() string { return fmt.Sprintf("%016x", w.rand.Uint64()) }

// end stops all that is under way.
func (w *World) end() {
	for _, p := range w.clock.procs {
		p.kill()
	}
}

// story is what happened, for people.
type story struct {
	tell  bool
	lines []string
	told  map[string]string
}

// say adds a line to the story. What is still so is not said again.
func (w *World) say(who, format string, args ...any) {
	s := &w.story
	if !s.tell {
		return
	}
	line := fmt.Sprintf(format, args...)
	if s.told == nil {
		s.told = map[string]string{}
	}
	if s.told[who] == line {
		return
	}
	s.told[who] = line
	s.lines = append(s.lines, fmt.Sprintf("%9.3f %-10s %s", w.clock.now.Seconds(), who, line))
}

// Story is what happened, line by line.
func (w *World) Story() string { return strings.Join(w.story.lines, "\n") }
