package companion

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
)

// beatEvery is a third of the TTL: two beats may be lost before Consul's check
// lapses.
func (c *Companion) beatEvery() time.Duration { return c.rt.Config.TTL / 3 }

// loop runs until the server is gone or ctx ends.
func (c *Companion) loop(ctx context.Context, said <-chan string, gone <-chan struct{}) error {
	var work sync.WaitGroup
	if c.lock != nil {
		kctx, done := context.WithCancel(ctx)
		defer work.Wait()
		defer done()
		keep := c.lock
		work.Go(func() {
			if err := keep.Keep(kctx); err != nil {
				c.log.Warn("lost the lock while founding the cluster: another node may take over", "err", err)
			}
		})
		defer func() {
			if c.lock != nil {
				_ = c.lock.Release(ctx)
			}
		}()
	}
	if c.hosts != nil {
		hctx, done := context.WithCancel(ctx)
		defer work.Wait()
		defer done()
		work.Go(func() { keepHosts(hctx, c.log, c.rt, c.hosts) })
	}
	tick := time.NewTicker(c.beatEvery())
	defer tick.Stop()
	idle := make(chan struct{}, 1) // holds a token while no beat runs
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
	stop := func() { cut(); <-idle; idle <- struct{}{} } // no beat runs when it returns
	beat()
	for {
		select {
		case <-gone:
			stop()
			c.withdraw(ctx, "the server is gone")
			return nil
		case <-ctx.Done():
			stop()
			c.withdraw(ctx, "told to stop")
			return nil
		case text := <-said:
			stop()
			switch ready, stopping, word := c.hear(text); {
			case ready:
				for old := true; old; { // what closed before is history
					select {
					case <-c.closed:
					default:
						old = false
					}
				}
				c.log.Info("RabbitMQ is ready, verifying")
				c.anew = c.withdrawn
				c.serving, c.verified, c.withdrawn, c.steady = true, false, false, healthcheck.Steady{}
				c.rejoining = ""
				c.whole()
			case stopping:
				c.stopped(ctx, word)
			default:
				c.booted = word
			}
			beat()
		case r := <-c.closed:
			stop()
			if r.Stopping && c.serving {
				c.stopped(ctx, r.Text)
			}
			beat()
		case <-tick.C:
			beat()
		}
	}
}

// beat looks at the server, judges it against the record and tells Consul.
func (c *Companion) beat(ctx context.Context) {
	if c.withdrawn && !c.serving {
		c.giveUp(ctx) // an explicit join may have failed after stop_app
		// One that paused in a minority may wait for nodes that came back blank.
		if why := cmp.Or(c.outOfService(ctx, healthcheck.Result{}), c.carryOn(ctx), c.waitsInVain(ctx), c.word()); ctx.Err() == nil {
			c.show(Report{Status: api.HealthCritical, Reason: why})
			c.present(ctx, why)
		}
		return
	}
	c.missed = nil
	r := c.steady.Next(c.check(ctx))
	if !c.serving && c.rt.Waiting == statedir.Replaced && r.State != healthcheck.Critical {
		c.serving = true // READY was said to the companion before this one
	}
	if _, err := c.consul.Client(ctx); err == nil {
		if err := c.locate(ctx); err != nil {
			c.story("not registered", err.Error())
			c.show(Report{Status: api.HealthCritical, Reason: "not registered: " + err.Error()})
			return
		}
	}
	c.register(ctx)
	status, reason := c.judge(ctx, r)
	if ctx.Err() != nil {
		return
	}
	var told *api.Client
	for range 2 { // an entry that Consul lost is made anew, and passing earned anew, in one beat
		client, err := c.consul.Client(ctx)
		if err == nil {
			err = peers.Report(ctx, client, c.reg, status, reason)
		}
		if errors.Is(err, peers.ErrUnregistered) {
			if err = c.announce(ctx, client, reason); err == nil {
				c.log.Info("registered", "id", c.reg.ID(), "status", status)
				c.verified, c.unlisted = false, time.Time{}
				status, reason = c.judge(ctx, r)
				continue
			}
		}
		if ctx.Err() != nil {
			return
		}
		if err == nil && !c.unlisted.IsZero() && time.Since(c.unlisted) > c.beatEvery()*3/2 {
			err = fmt.Errorf("the agent at %s takes %s, and never brings it into the catalog: was it recreated without its data? A name of its own for each agent, or leaving before it goes, avoids that", c.consul.Addr, c.reg.ID())
		}
		taken := consul.NameTaken(err) // Consul answered
		if client != nil && !taken {
			c.consul.Accepted(err)
		}
		if taken {
			reason = fmt.Sprintf("%s (not registered: %v)", reason, err)
			c.story("another node has this node's name", err.Error())
		} else if err != nil { // an agent cut off from its servers takes beats all the same: only reads clear it
			c.consul.Answered(err)
			c.missed = err
			reason = fmt.Sprintf("%s (not told to Consul: %v)", reason, err)
		} else {
			c.reported, c.lapsed, told = time.Now(), false, client
			c.keepEntry(ctx, client, status, reason)
		}
		break
	}
	c.touch()
	c.show(Report{Status: status, Reason: reason})
	if told != nil {
		c.tellBeside(ctx, told, status, reason)
	}
	if c.verified && !c.out {
		c.chores(ctx)
	}
}

// present keeps an entry, critical, of a node that stopped by itself and whose server
// lives: after stop_app, or paused in a minority, it holds its name and its data. It is
// back before a container of its name that saw the entry go takes that for its end.
func (c *Companion) present(ctx context.Context, why string) {
	if time.Since(c.stoppedAt) < c.rt.Config.TTL { // one that ends does so sooner, as a rule
		return
	}
	client, err := c.consul.Client(ctx)
	if err == nil {
		err = peers.Report(ctx, client, c.reg, api.HealthCritical, why)
	}
	if errors.Is(err, peers.ErrUnregistered) {
		if err = c.announce(ctx, client, why); err == nil {
			c.log.Info("registered as critical: it stopped by itself, and its server lives", "id", c.reg.ID())
		}
	}
	if err == nil {
		c.keepEntry(ctx, client, api.HealthCritical, why)
	}
	if err != nil && ctx.Err() == nil {
		c.log.Debug("cannot tell Consul that this node is there", "err", err)
	}
}

// keepEntry keeps Consul from removing the entry of a node that has been critical for long
// and lives: registered anew over itself, it is given that time again. Meanwhile others
// would take the node for gone.
func (c *Companion) keepEntry(ctx context.Context, client *api.Client, status, reason string) {
	switch {
	case status != api.HealthCritical:
		c.critical = time.Time{}
	case c.critical.IsZero():
		c.critical = time.Now()
	case time.Since(c.critical) > c.reg.DeregisterAfter/2:
		if err := peers.Enter(ctx, client, c.reg, reason); err != nil {
			c.log.Debug("cannot register this node over its entry", "err", err)
			return
		}
		c.critical = time.Now()
	}
}

// pause waits for d, or less when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
