package companion

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/peers"
)

// tellBeside reports them: each is as fit as the node while its port answers. One
// that never answered is not registered, as where the plugin is not enabled.
func (c *Companion) tellBeside(ctx context.Context, client *api.Client, status, reason string) {
	for _, e := range c.beside {
		status, reason := status, reason
		silent := e.Answers(ctx)
		if silent != nil {
			status, reason = api.HealthCritical, silent.Error()
		}
		err := peers.Report(ctx, client, e.Registration, status, reason)
		if errors.Is(err, peers.ErrUnregistered) && silent == nil {
			e.ClusterID = c.reg.ClusterID
			if err = peers.Announce(ctx, client, e.Registration, c.standing(), reason); err == nil {
				err = peers.Report(ctx, client, e.Registration, status, reason)
			}
		}
		if consul.Denied(err) {
			c.log.Warn("management and Prometheus are not registered", "err", err)
			c.beside = nil
			return
		}
	}
}

func (c *Companion) withdraw(ctx context.Context, why string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	c.withdrawn, c.stoppedAt = true, time.Now()
	c.show(Report{Status: api.HealthCritical, Reason: why})
	err := errors.New("no Consul in use")
	if c.consul.Current != nil {
		err = consul.Withdraw(ctx, c.consul.Current, c.rt)
	}
	if err != nil {
		c.log.Warn("cannot deregister, the TTL will tell", "why", why, "err", err)
		return
	}
	c.log.Info("withdrawn", "why", why)
}

// announce registers the node once its address is known: without one Consul would fill in
// the agent's.
func (c *Companion) announce(ctx context.Context, client *api.Client, note string) error {
	if err := c.locate(ctx); err != nil {
		return err
	}
	return peers.Announce(ctx, client, c.reg, c.standing(), note)
}

// standing is what this node may take its name from.
func (c *Companion) standing() peers.Standing {
	if !c.rt.Verified.IsZero() {
		return peers.Serving
	}
	return peers.Blank
}

// locate finds out what address to register, once Consul answers.
func (c *Companion) locate(ctx context.Context) error {
	if c.rt.Located {
		return nil
	}
	address, err := consul.Advertise(ctx, c.rt.Config, c.consul.Addr)
	if err != nil {
		return err
	}
	c.rt.Address, c.rt.Located, c.reg.Address = address, true, address
	for i := range c.beside {
		c.beside[i].Address = address
	}
	return c.rt.Write()
}

// register makes the entry of a node that serves again, so that it is verified once,
// and not once more when its first report finds no entry.
func (c *Companion) register(ctx context.Context) {
	if !c.anew {
		return
	}
	client, err := c.consul.Client(ctx)
	if err == nil {
		err = c.announce(ctx, client, "serves again, not verified yet")
	}
	if err == nil {
		c.log.Info("registered", "id", c.reg.ID())
		c.unlisted = time.Time{}
	}
	c.anew = false // what failed here fails in the report, too, which tells
}

// touch tells the log when Consul is lost and when it is back.
func (c *Companion) touch() {
	switch {
	case c.missed != nil && c.away.IsZero():
		c.away = time.Now()
		c.log.Warn("Consul cannot be asked or told: the server goes on, trying with each beat", "err", c.missed)
	case c.missed == nil && !c.away.IsZero():
		c.log.Info("Consul answers again", "after", time.Since(c.away).Round(time.Second))
		c.away = time.Time{}
	}
}
