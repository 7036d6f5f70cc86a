// Package formation takes a blank volume from "who is there?" to a plan: it observes, lets
// [peers.Decide] choose, and acts under the lock by compare-and-set.
package formation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/hosts"
	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/lock"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// storyEvery is how often a waiting node repeats what it waits for.
const storyEvery = 10 * time.Second

// Formation takes a blank node from "who is there?" to a plan: it observes,
// lets [peers.Decide] choose, and acts under the lock by compare-and-set. It
// waits without the lock, on blocking queries.
type Formation struct {
	Log    *slog.Logger
	Cfg    config.Config
	Consul *consul.Agents
	Dns    peers.DNS
	Broker rabbitmq.CLI
	Hosts  *hosts.File
	Volume statedir.Dir
	State  statedir.Found
	self   string                                 // own address as registered, once known
	Heals  bool                                   // RabbitMQ refuses a wiped node under its old name until it is forgotten
	Image  rabbitconf.Version                     // of this node's RabbitMQ; zero: not known, which refuses nobody
	Say    func(waiting string)                   // keeps the reason where a health check finds it
	IsDown func(context.Context, peers.Peer) bool // whether a registered node is positively down
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	Decide func(peers.Observation) peers.Decision // nil: peers.Decide; another is the simulator's, to see it fail

	gone     string // session of another's claim that was seen gone …
	goneFrom time.Time

	Reg       peers.Registration // as this start's entry would be
	announced bool               // it was made
	alive     string             // start of a namesake whose check has not lapsed …
	aliveFrom time.Time
	buried    []string  // starts whose entries this one removed; the catalog hears of it later
	freedAt   time.Time // when the last one left the name without having been silent for its TTL
	named     string    // foreign entries that the log has named
}

// Plan is the decision carried out: what the server is started as.
type Plan struct {
	Role   statedir.Role
	Claim  string
	Volume string
	Peers  []string   // to join
	Aside  bool       // what RabbitMQ left of an unfinished start is in the way
	Lock   *lock.Lock // held on: by a seed, until its cluster is announced
}

// Run returns the plan, or an error when ctx ended or the wait timeout passed.
func (f *Formation) Run(ctx context.Context) (p Plan, err error) {
	deadline := time.Now().Add(f.Cfg.WaitTimeout)
	told, toldAt := "", time.Time{}
	why, wayOut := "nothing yet", ""
	waited := func(err error) error {
		return fmt.Errorf("waited %s (--wait-timeout, RMQ_WAIT_TIMEOUT) for %w%s", f.Cfg.WaitTimeout, err, wayOut)
	}
	outer := ctx
	defer func() {
		if err != nil {
			f.withdraw(outer)
		}
	}()
	ctx, cancel := context.WithDeadline(ctx, deadline) // also behind another's lock
	defer cancel()
	for {
		if outer.Err() != nil {
			return p, context.Cause(outer)
		}
		if ctx.Err() != nil {
			return p, waited(errors.New(why))
		}
		o := f.observe(ctx)
		if ctx.Err() != nil {
			continue
		}
		if err := errors.Join(o.Record.Err, o.Peers.Err); consul.Denied(err) {
			return p, err
		}
		if err := Reachable(o.Observation); err != nil {
			return p, err
		}
		if err := f.cannotMix(o.Observation); err != nil { // before anything is said of this node in Consul
			return p, err
		}
		d := f.choose(o.Observation)
		wayOut = ""
		if r := o.Record.Value; d.Members {
			wayOut = fmt.Sprintf(": start them; if all of them are gone for good, rmq-entrypoint forget-cluster --cluster-id %s gives that cluster up, so that blank nodes found a new one", r.ClusterID)
		}
		if d.Action != peers.Wait {
			done, err := f.act(ctx, o, d, &p)
			if err != nil && outer.Err() == nil && ctx.Err() != nil {
				return p, waited(err)
			}
			if lock.Fatal(err) {
				err = fmt.Errorf("%w (CONSUL_HTTP_TOKEN, CONSUL_HTTP_TOKEN_FILE)", err)
			}
			if err != nil && (ctx.Err() != nil || consul.Denied(err)) {
				return p, err
			}
			if done {
				return p, nil
			}
			if err == nil {
				continue
			}
			d = peers.Decision{Action: peers.Wait, Why: fmt.Sprintf("Consul or a peer to let it %s: %v", d.Action, err)}
		}
		why = d.Why
		if why != told || time.Since(toldAt) >= storyEvery {
			f.Say(why) // first: who reads the log may ask the health check next
			f.Log.Info("waiting", "for", why, "exits_after", time.Until(deadline).Round(time.Second))
			told, toldAt = why, time.Now()
		}
		f.wait(ctx, o)
	}
}

func (f *Formation) choose(o peers.Observation) peers.Decision {
	if f.Decide != nil {
		return f.Decide(o)
	}
	return peers.Decide(o)
}

// wait returns when something has changed that could change the decision.
func (f *Formation) wait(ctx context.Context, o observation) {
	client, err := f.Consul.Client(ctx)
	if err != nil || !o.Record.Known() || !o.Peers.Known() {
		pause(ctx, time.Second)
		return
	}
	most := 2 * time.Second // a dead claim, a free lock, a peer that may answer now: nothing to block on
	if o.Record.Value.State == peers.Formed && len(o.Peers.Value)+len(o.Namesakes.Value) == 0 && o.Freed == 0 {
		most = storyEvery
	}
	peers.Changed(ctx, client, f.Cfg.RecordKey(), o.record, f.Cfg.Service, o.catalog, most)
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
