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

// loop runs until the server is gone, ctx ends, or its work hangs. With each tick the node is
// looked at, and a heartbeat follows unless the last one goes on: so a heartbeat that waits
// for Consul keeps nobody from looking.
func (c *companion) loop(ctx context.Context) error {
	end := c.background(ctx)
	tick := time.NewTicker(c.settings.Beat())
	defer tick.Stop()
	late := time.NewTimer(c.settings.StopBound()) // of a server that stops
	late.Stop()
	soon := time.NewTimer(time.Hour) // before the next tick
	soon.Stop()
	defer soon.Stop()
	looked := make(chan policy.Observation, 1)
	known := c.state // by the last heartbeat that ended
	look := func() {
		if c.working.idle() {
			known = c.state
		}
		state := known
		c.looking.start(ctx, func(ctx context.Context) {
			if seen, ok := c.look(ctx, state); ok {
				select {
				case looked <- seen:
				case <-ctx.Done():
				}
			}
		})
	}
	var hangs error
	still := func() (ok bool) {
		if ok, hangs = c.still(ctx, tick.C); ok && len(looked) > 0 {
			<-looked // before the event
		}
		return ok
	}
	happens := func(event func() (policy.State, policy.Event)) {
		if !still() {
			return
		}
		state, e := event()
		if hangs = c.follow(ctx, state, e, late); hangs == nil {
			look()
		}
	}
	c.board.turn(time.Now())
	look()
	for hangs == nil {
		select {
		case <-c.Gone:
			c.leave(ctx, "the server is gone", 20*time.Second, end)
			return nil
		case <-ctx.Done():
			c.leave(ctx, "told to stop", 1200*time.Millisecond, end) // in all no more than 2 s
			return nil
		case text := <-c.Said:
			happens(func() (policy.State, policy.Event) { return policy.Heard(c.settings, c.state, text, time.Now()) })
		case r := <-c.Closed:
			happens(func() (policy.State, policy.Event) { return policy.Closed(c.settings, c.state, r, time.Now()) })
		case seen := <-looked:
			c.working.start(ctx, func(ctx context.Context) {
				if again := c.beat(ctx, seen); again > 0 {
					soon.Reset(again)
				}
			})
		case <-tick.C:
			if hangs = c.hangs(); hangs == nil && len(looked) == 0 {
				look()
			}
		case <-late.C:
			look()
		case <-c.kept.news:
			soon.Reset(c.kept.soon())
		case <-soon.C:
			if c.looking.idle() && c.working.idle() {
				look()
			} else {
				soon.Reset(mostSpread)
			}
		}
	}
	end(time.Second)
	return fmt.Errorf("%w: it ends, and a health check starts another", hangs)
}

func (c *companion) workers() []*worker { return []*worker{&c.looking, &c.working} }

// still cuts the work short and waits for its end. Not ok: it is not to be waited for, in the
// end because it hangs.
func (c *companion) still(ctx context.Context, tick <-chan time.Time) (ok bool, hangs error) {
	for _, w := range c.workers() {
		w.cut()
	}
	for _, w := range c.workers() {
		for !w.idle() {
			select {
			case <-w.done:
			case <-c.Gone:
				return false, nil
			case <-ctx.Done():
				return false, nil
			case <-tick:
				if hangs = c.hangs(); hangs != nil {
					return false, hangs
				}
			}
		}
	}
	return true, nil
}

// hangs is called with each tick.
func (c *companion) hangs() error {
	c.board.turn(time.Now())
	return errors.Join(c.looking.tick(c.settings.Beat()), c.working.tick(c.settings.Beat()))
}

// leave ends the work, and withdraws the node unless the work does not end in half that time:
// then it still has hold of Consul.
func (c *companion) leave(ctx context.Context, why string, most time.Duration, end func(time.Duration)) {
	until := time.Now().Add(most)
	defer func() { end(max(time.Until(until), most/8)) }()
	patience := time.After(most / 2)
	for _, w := range c.workers() {
		w.cut()
	}
	for _, w := range c.workers() {
		if w.idle() {
			continue
		}
		select {
		case <-w.done:
		case <-patience:
			c.Log.Warn("cannot deregister, the TTL will tell: a heartbeat does not end", "why", why)
			return
		}
	}
	c.withdraw(ctx, why, min(time.Until(until), 2*time.Second))
}

// follow goes on from the state that an event has made. late rings when a server that stops
// should have ended. The error is that this has no end: the loop would have none, and would not
// say so.
func (c *companion) follow(ctx context.Context, s policy.State, e policy.Event, late *time.Timer) error {
	c.state = s
	if e.Boots && !c.settings.Single { // a lone broker is asked for nothing
		c.Broker.Stay("")
	}
	if e.Withdraw {
		late.Reset(c.settings.StopBound())
	}
	var marked error
	for _, step := range []struct {
		due  bool
		what string
		do   func()
	}{
		{e.Ready, "reading the login", c.ready},
		{e.Runs, "telling Consul that RabbitMQ runs", func() { c.services.runs(ctx) }},
		{e.Withdraw, "withdrawing the node", func() { c.withdraw(ctx, e.Why, 2*time.Second) }},
		{e.Mark != nil, "writing the marker", func() { marked = c.mark(*e.Mark) }},
	} {
		if step.due && !within(disk, step.do) {
			return fmt.Errorf("the companion hangs: %s for %s, and without an end", step.what, disk) // it may go on
		}
	}
	if e.Mark != nil && marked == nil {
		c.state.Upkeep.Marker = *e.Mark
	}
	return nil
}

// ready is for a server that has just become ready: it may have another login.
func (c *companion) ready() {
	c.Log.Info("RabbitMQ is ready, verifying")
	c.checkAnew()
	c.ports.managed.begin()
	if c.ports.ready != nil {
		if err := c.ports.ready(c.Runtime.Config); err != nil {
			c.Log.Warn("the check keeps the login it had", "err", err)
		}
	}
}

func (c *companion) mark(m policy.Marker) error {
	err := c.writeMarker(m)
	if err != nil {
		c.Log.Warn("cannot write the marker", "err", err)
	}
	return err
}

// checkAnew is for a server that has just become ready: what the check saw before is history.
func (c *companion) checkAnew() {
	c.steady = healthcheck.Steady{}
	for {
		select {
		case _, open := <-c.Closed:
			if !open {
				return
			}
		default:
			return
		}
	}
}

// background keeps the seed's lock and the hosts file until the function that it returns is
// called. That releases the lock if it is still held, and waits for no longer than it is told.
func (c *companion) background(ctx context.Context) (end func(time.Duration)) {
	var work sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	if keep := c.lock.Load(); keep != nil {
		work.Go(func() {
			if err := keep.Keep(ctx); err != nil {
				c.Log.Warn("lost the lock while founding the cluster: another node may take over", "err", err)
			}
		})
	}
	if !c.settings.Single { // nobody asks Consul for it
		watch := c.watcher()
		work.Go(func() { watch(ctx) })
	}
	if c.hosts != nil {
		rt := c.Runtime
		work.Go(func() { keepHosts(ctx, c.Log, rt, c.hosts) })
	}
	return func(most time.Duration) {
		held := c.lock.Load()
		within(most, func() {
			if held != nil {
				_ = held.Release(ctx)
			}
			cancel()
			c.kept.close()
			work.Wait()
		})
		cancel()
	}
}

// within does something and waits for its end, but no longer than d. It reports whether that
// has come.
func within(d time.Duration, do func()) bool {
	done := make(chan struct{})
	go func() { defer close(done); do() }()
	select {
	case <-done:
		return true
	case <-time.After(d):
		return false
	}
}

// beat decides on what was seen, acts until nothing is left to ask or to do, and tells
// Consul, /status and the log. It returns after how long the node is to be looked at again, if
// that is before the next tick.
func (c *companion) beat(ctx context.Context, seen policy.Observation) (again time.Duration) {
	if c.settings.Single {
		c.beatAlone(ctx, seen)
		return 0
	}
	phase := c.state.Server.Phase
	if phase == policy.Stopped { // nothing is registered before long
		v, ok := c.decide(ctx, &seen)
		if !ok {
			return 0
		}
		c.showVerdict(v, v.Reason, seen.Began)
		if c.state.Server.Phase == phase && !seen.Volume.Left() {
			c.working.at("telling Consul", usual)
			c.services.present(ctx, &c.state, v.Reason)
		}
		return 0
	}
	c.services.outage.why = nil
	c.working.at("registering", usual)
	c.services.ensure(ctx, &c.state)
	v, ok := c.decide(ctx, &seen)
	if !ok {
		return 0
	}
	if c.state.Server.Phase != phase { // it serves and was not heard to say so
		c.showVerdict(v, v.Reason, seen.Began)
		return 0
	}
	reason, client := v.Reason, (*api.Client)(nil)
	for range 2 {
		var lost bool
		c.working.at("telling Consul", usual)
		if reason, client, lost = c.tell(ctx, v); !lost {
			break
		}
		c.state = c.state.EntryLost()
		health, began := seen.Health, seen.Began
		c.working.at("reading the volume", disk)
		seen = c.glance()
		seen.Health, seen.Began = health, began
		if v, ok = c.decide(ctx, &seen); !ok {
			return 0
		}
		reason = v.Reason
	}
	if client == nil && ctx.Err() != nil {
		return 0
	}
	c.services.logOutage()
	c.showVerdict(v, reason, seen.Began)
	if client != nil {
		c.working.at("telling Consul of plugins", usual)
		c.services.reportPlugins(ctx, client)
	}
	if c.state.Membership.Verified && !v.Out {
		c.upkeep(ctx, seen)
	}
	return v.Again
}

// beatAlone is the heartbeat of a lone broker: nobody is told but who asks.
func (c *companion) beatAlone(ctx context.Context, seen policy.Observation) {
	v, ok := c.decide(ctx, &seen)
	if !ok {
		return
	}
	c.showVerdict(v, v.Reason, seen.Began)
	if rt := &c.Runtime; v.Status != policy.Critical && rt.Verified.IsZero() {
		rt.Verified = time.Now() // as far as a broker can be that is in no cluster
		if err := rt.Write(); err != nil {
			c.Log.Warn("cannot write the runtime file", "err", err)
		}
	}
}

// decide returns a verdict with nothing left to ask or to do. It is not ok when an event,
// which knows better, cut it short.
func (c *companion) decide(ctx context.Context, seen *policy.Observation) (v policy.Verdict, ok bool) {
	for range policy.MostSteps {
		at := seen.Nodes[c.settings.Node].View.Value.Ports // the look may have asked
		c.listens(at.Listeners)
		c.listensWeb(at.Web)
		seen.Made = c.services.reg.Made
		seen.Now = time.Now()
		v = policy.Decide(c.settings, c.state, *seen)
		if ctx.Err() != nil && !v.Finish {
			return v, false
		}
		if v.Ask != nil {
			c.working.at(fmt.Sprint("asking: ", v.Ask.What, " ", v.Ask.Node), usual)
			c.ask(ctx, seen, *v.Ask) // what was only on the way to a question is forgotten
			continue
		}
		c.state = v.State
		c.say(v.Log)
		if v.Missed != nil {
			c.services.outage.why = v.Missed
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
	if v.Finish {
		ctx = context.WithoutCancel(ctx)
	}
	out := policy.Outcome{Rule: v.Rule, Action: v.Do}
	c.working.at(fmt.Sprintf("doing: %T", v.Do), bound(v.Do))
	out.Said, out.Err = c.do(ctx, seen, v.Do)
	c.working.at("reading the volume", disk)
	seen.Volume = c.volume()
	var log []policy.Line
	c.state, *seen, log = policy.Ended(c.settings, c.state, *seen, out)
	c.say(log)
}

// upkeep does what a verified node does once it has told Consul how it is.
func (c *companion) upkeep(ctx context.Context, seen policy.Observation) {
	c.Broker.Retire() // the boot has come to its end
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
	c.board.cluster.uses(client)
	if c.kept.resend.Swap(false) {
		s.own = telling{}
	}
	sent := time.Now()
	if word := (telling{client: client, status: v.Status, reason: v.Reason, at: s.own.at}); err == nil && !s.moved && !s.behind && word == s.own && !entry.Due(c.settings, v.Status, sent) {
		return v.Reason, client, false
	}
	var at time.Time
	s.own = telling{}
	if err == nil {
		err = s.catchUp(ctx, client, v.Reason)
	}
	if err == nil {
		err = peers.Report(consul.Dated(ctx, &at), client, s.reg, v.Status, v.Reason)
	}
	if err != nil {
		c.kept.drop()
		if fall := c.kept.fall.Load(); fall != nil {
			(*fall)() // it may wait at what will never answer
		}
	}
	unlisted := err == nil && entry.NeverListed(time.Now(), c.settings.Patience())
	if unlisted {
		err = peers.Held(ctx, client, s.reg) // which keeps the check, whoever registers over the entry
		if errors.Is(err, peers.ErrUnregistered) {
			c.say([]policy.Line{{Level: policy.Warn, Text: "something else registered over this node's entry in Consul, or removed it: it is made anew", Attrs: []any{"id", s.reg.ID(), "agent", c.Consul.Addr}}})
		}
	}
	if errors.Is(err, peers.ErrUnregistered) {
		s.ownAt = at // of an entry that is made anew
		if err = s.announce(ctx, client, c.state.Standing(), v.Reason); err == nil {
			c.Log.Info("registered", "id", s.reg.ID(), "status", v.Status)
			return v.Reason, nil, true
		}
	}
	if ctx.Err() != nil {
		return v.Reason, nil, false
	}
	if err == nil && unlisted {
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
		s.outage.why = err
		return fmt.Sprintf("%s (not told to Consul: %v)", v.Reason, err), nil, false
	}
	*entry, s.own = entry.Reported(v.Status, sent), telling{client: client, status: v.Status, reason: v.Reason, at: sent}
	if !at.IsZero() && !s.ownAt.IsZero() && at.Sub(s.ownAt) >= c.settings.TTL && c.state.Membership.Verified {
		*entry = entry.Slept(sent)
	}
	s.ownAt = at
	s.renew(ctx, client, entry, v.Status, v.Reason)
	return v.Reason, client, false
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
