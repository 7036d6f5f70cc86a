package companion

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"rmq-entrypoint/internal/formation"
	"rmq-entrypoint/internal/policy"
	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// A server behind the gate boots and looks for others, and finds none: RabbitMQ was given a list
// of a node that is never there. Meanwhile the formation goes on in the companion. It comes to
// the plan that it would have come to without a server, and that is what the server is told.
// Until then it can neither found nor join, and nobody knows of it.

// opensWithin bounds the first tries to open the gate: after that each heartbeat tries.
const (
	opensWithin  = 10 * time.Second
	betweenTries = 300 * time.Millisecond
)

// gate holds the server until the formation has come to a plan, and then becomes the companion
// of what that makes of the node. It is not passed when the server has ended, or the companion is
// to: then there is nothing left to do. The error is that the companion hangs.
func (c *companion) gate(ctx context.Context) (passed bool, hangs error) {
	formed, beat := make(chan error, 1), c.settings.Beat() // until the end of that work all the rest is its own
	c.working.start(ctx, func(ctx context.Context) { formed <- c.form(ctx) })
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		select {
		case <-c.Gone:
			c.turnAway(ctx, "the server is gone")
			return false, nil
		case <-ctx.Done():
			c.turnAway(ctx, "told to stop")
			return false, nil
		case <-c.Said: // it boots; whoever says READY was told whom to join
			c.Broker.Stay(rabbitconf.Gate(c.Runtime.Config.Node))
		case <-tick.C:
			if err := c.working.tick(beat); err != nil {
				return false, fmt.Errorf("%w: it ends, and a health check starts another", err)
			}
		case err := <-formed:
			switch {
			case err == nil:
				return true, nil
			case ctx.Err() != nil:
				c.turnAway(ctx, "told to stop")
			default:
				c.startAnew(ctx, err)
			}
			return false, nil
		}
	}
}

// turnAway ends what was begun for a server that ends at the gate: nobody is to wait for it.
func (c *companion) turnAway(ctx context.Context, why string) {
	c.leave(ctx, why, 2*time.Second, func(most time.Duration) {
		if held := c.lock.Load(); held != nil {
			within(most, func() { _ = held.Release(context.WithoutCancel(ctx)) })
		}
	})
}

// startAnew stops a server that cannot become what was decided, or came to no decision, and waits
// for its end.
func (c *companion) startAnew(ctx context.Context, why error) {
	c.Log.Error("stopping the server, its restart decides afresh", "why", why)
	c.show("stopping the server, its restart decides afresh: " + why.Error())
	c.Broker.Unhold()
	whole := context.WithoutCancel(ctx)
	again := time.NewTicker(c.settings.StopBound())
	defer again.Stop()
	for {
		if err := c.Broker.Halt(whole, c.Runtime.PID); err != nil {
			c.Log.Warn("cannot stop the server, trying again", "err", err)
		}
		select {
		case <-c.Gone:
			c.turnAway(ctx, "the server is gone")
			return
		case <-ctx.Done():
			c.turnAway(ctx, "told to stop")
			return
		case <-again.C:
		}
	}
}

// form has the formation come to a plan and the server told of it.
func (c *companion) form(ctx context.Context) error {
	rt := c.Runtime
	found, err := c.inspect(ctx)
	if err != nil {
		return err
	}
	with := c.Formation
	with.Log, with.Runtime, with.Found, with.Image = c.Log, rt, found, rt.RabbitMQ()
	with.Agents, with.CLI, with.IsDown, with.Hosts = c.Consul, c.Broker, c.IsDown, c.hosts
	with.SetWaiting = func(why string) { c.show("waiting for " + why) }
	if c.note != nil {
		note := c.note(ctx, rt)
		defer note.Close()
		with.SetWaiting = func(why string) {
			c.show("waiting for " + why)
			note.Says(why)
		}
	}
	decide := with.Decide
	with.Decide = func(o peers.Observation) peers.Decision {
		c.working.at("looking for the cluster", usual)
		c.board.look(time.Now())
		c.board.cluster.uses(c.Consul.Current)
		if decide != nil {
			return decide(o)
		}
		return peers.Decide(o)
	}
	if rt.Waiting != statedir.Replaced {
		c.show("waiting for " + rt.Waiting)
	}
	p, err := formation.Run(ctx, with)
	if err != nil {
		return err
	}
	if err := c.become(ctx, p); err != nil {
		if p.Lock != nil {
			err = errors.Join(err, p.Lock.Release(context.WithoutCancel(ctx)))
		}
		return err
	}
	return nil
}

// inspect reads the volume. What cannot be read now is read again, until the wait timeout: an
// error is no answer.
func (c *companion) inspect(ctx context.Context) (found statedir.Found, err error) {
	for until := time.Now().Add(c.Runtime.Config.WaitTimeout); ; pause(ctx, time.Second) {
		c.working.at("reading the volume", disk)
		if found, err = statedir.Of(c.Runtime.Config).Inspect(); err == nil || ctx.Err() != nil || time.Now().After(until) {
			return found, err
		}
		c.show("waiting for its own volume to be read: " + err.Error())
	}
}

// become makes this node what the plan says, as far as it is the companion's: first on the
// volume, so that a companion which replaces this one goes on from there, then in RabbitMQ.
func (c *companion) become(ctx context.Context, p formation.Plan) error {
	rt := c.Runtime
	if p.Queues != "" && p.Queues != rt.Queues {
		return fmt.Errorf("%w: queues are %s in this cluster where they name no type, and the server began with %s", formation.ErrStartAnew, p.Queues, rt.Queues)
	}
	if p.Role == statedir.Joining && p.Aside {
		return fmt.Errorf("%w: an earlier join of this volume came to nothing, and what it left is moved out of the way before a server starts", formation.ErrStartAnew)
	}
	rt.Gated, rt.Told, rt.Join, rt.After, rt.Waiting = false, true, p.Peers, p.After, ""
	rt.Role, rt.Claim, rt.Volume, rt.Consul = p.Role, p.Claim, p.Volume, c.Consul.Addr
	if err := rt.Write(); err != nil {
		return fmt.Errorf("the runtime file cannot be written: %w", err)
	}
	c.Runtime = rt
	c.lock.Store(p.Lock)
	c.begin()
	c.Log.Info("opening the gate", "role", p.Role, "peers", peers.SomeWith(p.Peers, ","))
	c.show("booting")
	if p.Role == statedir.Seeding { // the first heartbeat does: its lock is kept by then, and its claim looked at
		return nil
	}
	c.working.at("opening the gate", usual)
	ctx, done := context.WithTimeout(ctx, opensWithin)
	defer done()
	for ; ctx.Err() == nil; pause(ctx, betweenTries) {
		switch _, err := c.openGate(ctx); {
		case errors.Is(err, policy.ErrElder):
			return fmt.Errorf("%w: %w", formation.ErrStartAnew, err)
		case err == nil:
			return nil
		}
	}
	return nil // each heartbeat tries
}

// nameNodes writes into rabbitmq.config whom this node joins, in the gate's place: after a reset
// RabbitMQ reads it again.
func (c *companion) nameNodes() error {
	cfg := c.Runtime.Config
	conf, err := os.ReadFile(cfg.ConfigFile)
	if err != nil || !bytes.Contains(conf, []byte(rabbitconf.Gate(cfg.Node))) {
		return err
	}
	if conf, err = rabbitconf.Opened(conf, cfg.Node, c.Runtime.Join); err != nil {
		return err
	}
	return rabbitconf.Replace(cfg.ConfigFile, conf)
}

// openGate tells the server whom to join. It reports whether the server knew.
func (c *companion) openGate(ctx context.Context) (knew bool, err error) {
	rt := c.Runtime
	if err := c.nameNodes(); err != nil {
		c.Log.Warn("rabbitmq.config keeps the gate", "file", rt.Config.ConfigFile, "err", err)
	}
	knew, err = c.Broker.OpenGate(ctx, rt.Join, rt.After, rt.Config.Called(rt.Role == statedir.Seeding))
	if err == nil {
		c.Broker.Unhold()
	}
	if errors.Is(err, rabbitmq.ErrElder) {
		err = fmt.Errorf("%w: %w, at %s", policy.ErrElder, err, rt.After.Format(time.RFC3339Nano))
	}
	return knew, err
}
