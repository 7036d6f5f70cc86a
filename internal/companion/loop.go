package companion

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/policy"
	"rmq-entrypoint/peers"
)

// loop runs until the server is gone or ctx ends.
func (c *companion) loop(ctx context.Context) error {
	defer c.background(ctx)()
	tick := time.NewTicker(c.settings.Beat())
	defer tick.Stop()
	idle := make(chan struct{}, 1) // holds a token while no heartbeat runs
	idle <- struct{}{}
	cut := func() {}
	beat := func() {
		select {
		case <-idle:
		default:
			return // the last one still works
		}
		bctx, cancel := context.WithCancel(ctx)
		cut = cancel
		go func() { c.beat(bctx); cancel(); idle <- struct{}{} }()
	}
	stop := func() { cut(); <-idle; idle <- struct{}{} } // no heartbeat runs when it returns
	beat()
	for {
		select {
		case <-c.Gone:
			stop()
			c.withdraw(ctx, "the server is gone")
			return nil
		case <-ctx.Done():
			stop()
			c.withdraw(ctx, "told to stop")
			return nil
		case text := <-c.Said:
			stop()
			state, event := policy.Heard(c.settings, c.state, text, time.Now())
			c.follow(ctx, state, event)
			beat()
		case r := <-c.Closed:
			stop()
			state, event := policy.Closed(c.settings, c.state, r, time.Now())
			c.follow(ctx, state, event)
			beat()
		case <-tick.C:
			beat()
		}
	}
}

// follow goes on from the state that an event has made.
func (c *companion) follow(ctx context.Context, s policy.State, e policy.Event) {
	c.state = s
	if e.Ready {
		for old := true; old; { // what closed before is history
			select {
			case <-c.Closed:
			default:
				old = false
			}
		}
		c.Log.Info("RabbitMQ is ready, verifying")
		c.steady = healthcheck.Steady{}
		c.ports.managed.pauses = healthcheck.Pauses{}
		if c.ports.ready != nil {
			if err := c.ports.ready(c.Runtime.Config); err != nil {
				c.Log.Warn("the check keeps the login it had", "err", err)
			}
		}
	}
	if e.Withdraw {
		c.withdraw(ctx, e.Why)
	}
	if e.Mark != nil {
		if err := c.writeMarker(*e.Mark); err != nil {
			c.Log.Warn("cannot write the marker", "err", err)
		} else {
			c.state.Upkeep.Marker = *e.Mark
		}
	}
}

// background keeps the seed's lock and the hosts file until the function that it returns is
// called, which releases the lock if it is still held.
func (c *companion) background(ctx context.Context) (end func()) {
	var work sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	if keep := c.lock; keep != nil {
		work.Go(func() {
			if err := keep.Keep(ctx); err != nil {
				c.Log.Warn("lost the lock while founding the cluster: another node may take over", "err", err)
			}
		})
	}
	if c.hosts != nil {
		rt := c.Runtime
		work.Go(func() { keepHosts(ctx, c.Log, rt, c.hosts) })
	}
	return func() {
		if c.lock != nil {
			_ = c.lock.Release(ctx)
		}
		cancel()
		work.Wait()
	}
}

// beat looks at the node, decides, acts until nothing is left to ask or to do, and tells
// Consul, /status and the log.
func (c *companion) beat(ctx context.Context) {
	seen := c.glance()
	if c.state.Server.Phase == policy.Stopped { // nothing is registered before long
		if v, ok := c.decide(ctx, &seen); ok {
			c.showVerdict(v, v.Reason)
			c.services.present(ctx, &c.state, v.Reason)
		}
		return
	}
	c.services.missed = nil
	seen.Health = c.steady.Next(c.Check(ctx))
	if err := c.services.ensure(ctx, &c.state); err != nil {
		c.say([]policy.Line{{Text: "not registered", Attrs: []any{"why", err.Error()}, Once: true}})
		c.show("not registered: " + err.Error())
		return
	}
	v, ok := c.decide(ctx, &seen)
	if !ok {
		return
	}
	reason, client := v.Reason, (*api.Client)(nil)
	for range 2 {
		var lost bool
		if reason, client, lost = c.tell(ctx, v); !lost {
			break
		}
		c.state = c.state.EntryLost()
		health := seen.Health
		seen = c.glance()
		seen.Health = health
		if v, ok = c.decide(ctx, &seen); !ok {
			return
		}
		reason = v.Reason
	}
	if client == nil && ctx.Err() != nil {
		return
	}
	c.services.logOutage()
	c.showVerdict(v, reason)
	if client != nil {
		c.services.reportPlugins(ctx, client, c.state.Membership.Standing(), v.Status, reason)
	}
	if c.state.Membership.Verified && !v.Out {
		c.upkeep(ctx, seen)
	}
}

// decide returns a verdict with nothing left to ask or to do. It is not ok when an event,
// which knows better, cut it short.
func (c *companion) decide(ctx context.Context, seen *policy.Observation) (v policy.Verdict, ok bool) {
	for range policy.MostSteps {
		seen.Now = time.Now()
		v = policy.Decide(c.settings, c.state, *seen)
		if ctx.Err() != nil && !v.Finish {
			return v, false
		}
		if v.Ask != nil {
			c.ask(ctx, seen, *v.Ask) // what was only on the way to a question is forgotten
			continue
		}
		c.state = v.State
		c.say(v.Log)
		if v.Missed != nil {
			c.services.missed = v.Missed
		}
		if v.Do == nil {
			return v, true
		}
		c.act(ctx, seen, v)
	}
	c.Log.Error("the rules come to no end: please report this", "rule", v.Rule)
	return v, false
}

// act does what the verdict asks for, and has its rules note what that came to.
func (c *companion) act(ctx context.Context, seen *policy.Observation, v policy.Verdict) {
	out := policy.Outcome{Rule: v.Rule, Action: v.Do}
	out.Said, out.Err = c.do(ctx, seen, v.Do)
	seen.Volume = c.volume()
	var log []policy.Line
	c.state, *seen, log = policy.Ended(c.settings, c.state, *seen, out)
	c.say(log)
}

// upkeep does what a verified node does once it has told Consul how it is.
func (c *companion) upkeep(ctx context.Context, seen policy.Observation) {
	ctx, done := context.WithTimeout(ctx, c.settings.TTL*2/5)
	defer done()
	seen.Did, seen.OldAgents = nil, len(c.Consul.LeftBehind) > 0
	for range policy.MostSteps {
		seen.Now = time.Now()
		v := policy.NextChore(c.settings, c.state, seen)
		c.state = v.State
		c.say(v.Log)
		if v.Do == nil {
			return
		}
		c.act(ctx, &seen, v)
	}
}

// tell reports the verdict to Consul. It returns the reason with what Consul made of it, the
// client if Consul took the report, and whether Consul had lost the entry, which is made
// anew: then passing is to be earned anew.
func (c *companion) tell(ctx context.Context, v policy.Verdict) (reason string, told *api.Client, lost bool) {
	s, entry := &c.services, &c.state.Entry
	client, err := c.Consul.Client(ctx)
	if err == nil {
		err = peers.Report(ctx, client, s.reg, v.Status, v.Reason)
	}
	if errors.Is(err, peers.ErrUnregistered) {
		if err = s.announce(ctx, client, c.state.Membership.Standing(), v.Reason); err == nil {
			c.Log.Info("registered", "id", s.reg.ID(), "status", v.Status)
			return v.Reason, nil, true
		}
	}
	if ctx.Err() != nil {
		return v.Reason, nil, false
	}
	if err == nil && entry.NeverListed(time.Now(), c.settings.Beat()) {
		err = fmt.Errorf("the agent at %s takes %s, and never brings it into the catalog: was it recreated without its data? A name of its own for each agent, or leaving before it goes, avoids that", c.Consul.Addr, s.reg.ID())
	}
	taken := consul.NameTaken(err) // Consul answered
	if client != nil && !taken {
		c.Consul.Accepted(err)
	}
	switch {
	case taken:
		c.say([]policy.Line{{Text: "another node has this node's name", Attrs: []any{"why", err.Error()}, Once: true}})
		return fmt.Sprintf("%s (not registered: %v)", v.Reason, err), nil, false
	case err != nil: // an agent cut off from its servers takes reports all the same: only reads clear it
		c.Consul.Answered(err)
		s.missed = err
		return fmt.Sprintf("%s (not told to Consul: %v)", v.Reason, err), nil, false
	}
	*entry = entry.Reported(time.Now())
	s.renew(ctx, client, entry, v.Status, v.Reason)
	return v.Reason, client, false
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
