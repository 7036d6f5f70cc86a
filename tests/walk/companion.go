package walk

import (
	"errors"
	"fmt"
	"time"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/internal/policy"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
)

// companion is the process beside the server, as package companion has it.
type companion struct {
	p      *proc
	box    *box
	set    policy.Settings
	state  policy.State
	steady healthcheck.Steady
	reg    peers.Registration
	lock   string // session; a seed's, until its cluster is announced
	inbox  []message
	board  board
	proof  proof
	kept   kept

	beating bool
	idle    bool // it waits for the next heartbeat
	due     bool // which is to follow at once
	misses  int  // of the management port, in a row
}

// board is what /status shows.
type board struct {
	status, reason string
	lost           []string
	out            bool
}

// accompany starts a companion. One that is replaced goes by the runtime file.
func (b *box) accompany(rt started, lock string, replaced bool) {
	n := b.node
	c := &companion{box: b, reg: b.registration(&rt), lock: lock}
	c.set = policy.Settings{
		Node: n.name, Volume: rt.volume, Boot: rt.boot, Version: n.w.rabbit.version, TTL: ttl, DeregisterAfter: deregister,
		JoinTimeout: joinTimeout, RecordKey: "key", ForceBoot: n.w.rabbit.forceBoot, SurvivingQueues: true, Replaced: replaced,
	}
	now := epoch.Add(n.w.clock.now + n.skew)
	c.state = policy.Start(c.set, policy.Membership{
		Role: policy.Role(rt.role), ClusterID: rt.cluster, Claim: rt.claim, VerifiedSince: rt.verified,
	}, now)
	c.board = board{status: policy.Critical, reason: "booting"}
	b.companion = c
	n.w.law.deaf(n)
	c.p = n.w.start(b, "companion", func(*proc) { c.loop() })
	if lock != "" {
		n.w.start(b, "keeper", func(p *proc) { c.keep(p) })
	}
}

// keep renews the session of the seed's lock.
func (c *companion) keep(p *proc) {
	id, renewed := c.lock, p.w.clock.now
	for p.pause(ttl / 3); c.lock == id && !c.p.over && p.w.clock.now < renewed+ttl*9/10; {
		asked := p.w.clock.now
		switch alive, err := p.renew(id); {
		case err != nil:
			p.pause(time.Second)
		case !alive:
			return
		default:
			renewed = asked
			p.pause(ttl / 3)
		}
	}
}

// loop runs until its container is gone. A beat is cut short by an event, and follows on it.
func (c *companion) loop() {
	w, tick := c.p.w, c.p.w.clock.now
	for {
		if len(c.inbox) == 0 {
			c.beating, c.due = true, false
			if seen, ok := c.look(); ok {
				c.beat(seen)
			}
			c.beating, c.p.cut, c.p.whole, c.p.deadline = false, false, false, 0
		}
		for len(c.inbox) == 0 && tick <= w.clock.now {
			tick += beat
		}
		for len(c.inbox) == 0 && tick > w.clock.now && !c.due {
			c.idle = true
			c.p.pause(tick - w.clock.now)
			c.idle = false
		}
		if len(c.inbox) == 0 {
			continue
		}
		m := c.inbox[0]
		c.inbox = c.inbox[1:]
		var state policy.State
		var event policy.Event
		if m.closed != nil {
			state, event = policy.Closed(c.set, c.state, *m.closed, c.p.now())
		} else {
			state, event = policy.Heard(c.set, c.state, m.text, c.p.now())
		}
		c.follow(state, event)
	}
}

// hears has a heartbeat follow when Consul lost its data, for which the companion watches: at once,
// or within a second of when Consul answers.
func (c *companion) hears() {
	w, n := c.p.w, c.box.node
	w.after(w.seconds(0, 1.3), func() {
		switch now := w.clock.now; {
		case c.p.over:
		case n.cut > now, n.frozen > now, n.agent.down > now, w.consul.leaderless():
			c.hears()
		default:
			c.kept, c.due = kept{}, true
			if w.law.does("heard that Consul lost its data"); c.idle {
				w.wake(c.p, 0)
			}
		}
	})
}

// follow goes on from the state that an event has made.
func (c *companion) follow(s policy.State, e policy.Event) {
	c.state = s
	if e.Ready {
		var left []message // what closed before is history
		for _, m := range c.inbox {
			if m.closed == nil {
				left = append(left, m)
			}
		}
		c.inbox = left
		c.steady = healthcheck.Steady{}
		c.proof.ready(c.p.w.clock.now)
	}
	if e.Withdraw {
		c.show(policy.Verdict{Status: policy.Critical, Lost: c.state.Majority.Lost, Out: c.board.out}, e.Why)
		c.p.whole, c.p.deadline = true, c.p.w.clock.now+2*time.Second
		_ = c.p.withdraw(c.reg)
		c.p.whole, c.p.deadline = false, 0
	}
	if e.Mark != nil {
		c.box.volume.mark(*e.Mark)
		c.state.Upkeep.Marker = *e.Mark
	}
}

func (c *companion) show(v policy.Verdict, reason string) {
	c.board = board{v.Status, reason, v.Lost, v.Out}
	if v.Status != policy.Passing {
		c.box.node.speaks(reason)
	}
	c.p.w.say(c.box.node.who, "is %s: %s", v.Status, reason)
}

// look looks at this node: at its volume, at AMQP, and at what RabbitMQ alone tells. It is not
// ok when an event cut it short.
func (c *companion) look() (seen policy.Observation, ok bool) {
	seen = c.glance()
	if c.state.Server.Phase != policy.Stopped {
		r := c.check()
		if c.p.cut {
			return seen, false
		}
		seen.Health = c.steady.Next(r)
	}
	for range policy.MostSteps {
		seen.Now = c.p.now()
		v := policy.Local(c.set, c.state, seen)
		if v.Ask == nil {
			if v.Reason != "" {
				c.show(policy.Verdict{Status: policy.Critical, Lost: c.board.lost, Out: c.board.out}, v.Reason)
			}
			break
		}
		after := seen
		c.ask(&after, *v.Ask)
		if n := after.Nodes[v.Ask.Node]; n.View.Err != nil || n.Leader.Err != nil {
			break // the heartbeat asks again
		}
		seen = after
	}
	return seen, !c.p.cut
}

func (c *companion) beat(seen policy.Observation) {
	if c.state.Server.Phase == policy.Stopped {
		if v, ok := c.decide(&seen); ok {
			c.show(v, v.Reason)
			c.present()
		}
		return
	}
	if c.state.Entry.Pending {
		err := c.announce()
		c.state.Entry = c.state.Entry.Tried(err == nil)
	}
	v, ok := c.decide(&seen)
	if !ok {
		return
	}
	reason, told := v.Reason, false
	for range 2 {
		var lost bool
		if reason, told, lost = c.tell(v); !lost {
			break
		}
		c.state = c.state.EntryLost()
		health, began := seen.Health, seen.Began
		seen = c.glance()
		seen.Health, seen.Began = health, began
		if v, ok = c.decide(&seen); !ok {
			return
		}
		reason = v.Reason
	}
	if !told && c.p.cut {
		return
	}
	c.show(v, reason)
	if c.state.Membership.Verified && !v.Out {
		c.upkeep(seen)
	}
}

// decide returns a verdict with nothing left to ask or to do, unless an event cut it short.
func (c *companion) decide(seen *policy.Observation) (v policy.Verdict, ok bool) {
	for range policy.MostSteps {
		seen.Now = c.p.now()
		v = c.p.w.Decide(c.set, c.state, *seen)
		if c.p.cut && !v.Finish {
			return v, false
		}
		if v.Ask != nil {
			c.ask(seen, *v.Ask)
			continue
		}
		c.state = v.State
		for _, l := range v.Log {
			if l.Level >= policy.Warn {
				c.box.node.speaks(l.Text + fmt.Sprint(l.Attrs...))
			}
		}
		if v.Do == nil {
			c.proof.judged(c.p.w.clock.now)
			c.p.w.law.does("rule " + v.Rule)
			return v, true
		}
		c.act(seen, v)
	}
	c.p.w.law.broken("%s: the rules come to no end, at %s", c.box.node.who, v.Rule)
	return v, false
}

// act does what the verdict asks for, and has its rules note what that came to.
func (c *companion) act(seen *policy.Observation, v policy.Verdict) {
	out := policy.Outcome{Rule: v.Rule, Action: v.Do}
	c.p.w.say(c.box.node.who, "%s: %T", v.Rule, v.Do)
	c.p.w.law.does(fmt.Sprintf("%T", v.Do))
	c.p.fate("before an action")
	c.kept.index = 0 // of a record that may be written now
	out.Said, out.Err = c.do(seen, v.Do)
	c.p.whole = false
	seen.Volume = c.volume()
	c.state, *seen, _ = policy.Ended(c.set, c.state, *seen, out)
}

func (c *companion) upkeep(seen policy.Observation) {
	c.p.deadline = c.p.w.clock.now + ttl*2/5
	seen.Did, seen.OldAgents = nil, false
	for range policy.MostSteps {
		seen.Now = c.p.now()
		v := policy.NextChore(c.set, c.state, seen)
		c.state = v.State
		if v.Do == nil {
			break
		}
		c.act(&seen, v)
	}
	c.p.deadline = 0
}

// tell reports the verdict to Consul. Lost: the entry was made anew.
func (c *companion) tell(v policy.Verdict) (reason string, told, lost bool) {
	sent := c.p.now()
	err := c.p.report(c.reg, v.Status)
	if errors.Is(err, peers.ErrUnregistered) {
		if err = c.announce(); err == nil {
			return v.Reason, false, true
		}
	}
	if err != nil {
		c.kept = kept{}
	}
	if c.p.cut {
		return v.Reason, false, false
	}
	switch {
	case nameTaken(err):
		return v.Reason + " (not registered: " + err.Error() + ")", false, false
	case err != nil:
		return v.Reason + " (not told to Consul: " + err.Error() + ")", false, false
	}
	c.state.Entry = c.state.Entry.Reported(v.Status, sent)
	c.proof.took = c.p.w.clock.now
	c.renew(v.Status)
	return v.Reason, true, false
}

// announce registers the node anew: passing is to be earned from here on.
func (c *companion) announce() error {
	err := c.p.announce(c.reg, c.state.Standing())
	if err == nil {
		c.proof.entered(c.p.w.clock.now)
	}
	return err
}

// present keeps an entry, critical, of a node that stopped by itself and whose server lives.
func (c *companion) present() {
	if !c.state.Server.Present(c.p.now(), ttl) {
		return
	}
	err := c.p.report(c.reg, policy.Critical)
	if errors.Is(err, peers.ErrUnregistered) {
		err = c.announce()
	}
	if err == nil {
		c.renew(policy.Critical)
	}
}

// renew keeps Consul from removing the entry of a node that has been critical for long.
func (c *companion) renew(status string) {
	next, due := c.state.Entry.Renew(status, c.p.now(), deregister)
	if due && c.p.enter(c.reg) != nil {
		return
	}
	c.state.Entry = next
}

// glance looks at what costs nothing: the clock and the volume.
func (c *companion) glance() policy.Observation {
	now := c.p.now()
	return policy.Observation{Now: now, Began: now, Glance: policy.Glance{Volume: c.volume(), ID: c.p.w.id()}}
}

func (c *companion) volume() (v policy.Volume) {
	on := c.box.volume
	v.Maintenance.Value, v.CarryOn.Value, v.Marker.Value = on.out, on.order, on.marker
	v.CommandRuns = on.out != nil && c.box.commandRuns()
	v.Database.Value = on.data != nil && on.data.db
	v.KhepriFlag = c.p.w.rabbit.khepri
	c.proof.glanced(c.p.w.clock.now)
	return v
}

func (b *box) commandRuns() bool { return b.operator != nil && !b.operator.over }

// check is the health check, over AMQP.
func (c *companion) check() (r healthcheck.Result) {
	err := c.p.call("the check", 0.005, 0.05, func() error {
		s := c.box.server
		if s == nil || s.state != running {
			return errDown
		}
		r = healthcheck.Result{State: healthcheck.Passing, Reason: "answers"}
		if s.drain {
			r = healthcheck.Result{Reason: "maintenance mode", Draining: true}
		}
		return nil
	})
	if err != nil {
		r = healthcheck.Result{Reason: "does not answer"}
	}
	return r
}

// failJoin marks a volume on which a join is under way.
func (v *volume) failJoin() {
	if v.pending != nil && v.pending.Role == statedir.Joining {
		p := *v.pending
		p.Failed = true
		v.pending = &p
	}
}
