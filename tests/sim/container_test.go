package sim_test

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/internal/companion"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/entrypoint"
	"rmq-entrypoint/internal/formation"
	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
	"rmq-entrypoint/tests/sim"
)

// container is one start of the program. It drives the real decision, formation and companion
// through the stories of package sim. What [entrypoint.Start] and [companion.Main] do around
// them is repeated here, because the real ones become another program.
type container struct {
	world  *sim.World
	box    *sim.Box
	log    *slog.Logger
	decide decider
	gate   mutant        // of a companion whose server is behind the gate; nil: none
	wire   wire          // what it takes Consul's answers for; nil: for what they are
	ttl    time.Duration // of its check; 0: as that of others
	work   sync.WaitGroup
}

// A mutant changes what the companion of a node does and hears by its command line.
type mutant func(node string, run run) run

type run = func(ctx context.Context, argv ...string) (string, error)

func (c *container) config() config.Config {
	dir, n := c.box.Dir, c.box.Node
	cfg := config.Config{
		Consul: []string{"10.0.0.100:8500"}, Service: "rabbitmq", DNSServer: "10.0.0.100:8600", DNSDomain: "consul",
		Node: n.Name, Advertise: n.Addr, TTL: cmp.Or(c.ttl, 15*time.Second), KeyPrefix: "rmq-entrypoint", LockDelay: time.Second,
		WaitTimeout: 3 * time.Minute, JoinTimeout: 90 * time.Second, ClaimTimeout: 45 * time.Second,
		Data: filepath.Join(dir, n.Name), StateDir: filepath.Join(dir, n.Name+"-entrypoint"), Port: 5672,
	}
	cfg.ConfigFile = filepath.Join(cfg.StateDir, "rabbitmq.config")
	return cfg
}

func (c *container) consul(p *sim.Process, cfg config.Config) *consul.Agents {
	pinned := consul.New(cfg, c.log)
	var way http.RoundTripper = p
	if c.wire != nil {
		way = c.wire(p)
	}
	pinned.Dial = func(addr string) (*api.Client, error) {
		return api.NewClient(&api.Config{Address: addr, HttpClient: &http.Client{Transport: way}})
	}
	return pinned
}

// run returns when the server has ended, or never began.
func (c *container) run() (err error) {
	defer c.work.Wait()
	cfg := c.config()
	if err := os.MkdirAll(cfg.StateDir, 0o755); err != nil {
		return err
	}
	p := c.box.Process("entrypoint")
	ctx := p.Context()
	found, err := statedir.Of(cfg).Inspect()
	if err != nil {
		return err
	}
	rt := statedir.Runtime{Config: cfg, PID: 1, Version: c.world.Version, Boot: peers.NewID(), Since: time.Now(), Volume: found.Volume}
	agents := c.consul(p, cfg)
	plan, err := c.choose(ctx, p, agents, found, rt)
	if err != nil {
		return err
	}
	if plan.Blank {
		found = found.Blank()
	}
	begun := false
	defer func() {
		if !begun && plan.Lock != nil {
			_ = plan.Lock.Release(ctx)
		}
	}()
	if err := entrypoint.MakeWay(c.log, cfg, plan); err != nil {
		return err
	}
	rt.Role, rt.Claim, rt.Volume, rt.Cluster, rt.Consul = plan.Role, plan.Claim, plan.Volume, found.Cluster, agents.Addr
	rt.Gated, rt.Waiting = plan.Gated, plan.Waits
	client, cerr := agents.Client(ctx)
	if cerr == nil {
		rt.Address, rt.Located, rt.LocatedFor = cfg.Advertise, true, agents.Addr
	}
	if err := rt.Write(); err != nil {
		return err
	}
	if cerr == nil && !plan.Gated {
		if err := entrypoint.Announce(ctx, c.log, client, found, rt); err != nil {
			return err
		}
	}
	session := ""
	if plan.Lock != nil {
		session = plan.Lock.Session()
	}
	gone := make(chan struct{})
	first, err := c.companion(rt, session, gone)
	if err != nil {
		return fmt.Errorf("start the companion: %w", err)
	}
	begun = true // the lock is the companion's
	if ctx.Err() != nil {
		return ctx.Err()
	}
	claim := ""
	if plan.Role == statedir.Seeding {
		claim = plan.Claim
	}
	join := plan.Peers
	if plan.Gated {
		join = []string{rabbitconf.Gate(cfg.Node)}
	}
	server := c.box.Serve(sim.Boot{Data: cfg.Data, Claim: claim, Peers: join, Pauses: max(len(plan.Peers)+1, len(found.Members)) >= 3})
	c.work.Go(func() { c.healthchecks(ctx, cfg, first, gone) })
	<-server.Gone
	close(gone)
	return fmt.Errorf("the server has ended")
}

// choose is what the container starts as, with the world's broker and name server.
func (c *container) choose(ctx context.Context, p *sim.Process, agents *consul.Agents, found statedir.Found, rt statedir.Runtime) (formation.Plan, error) {
	version, err := rabbitconf.ParseVersion(rt.Version)
	if err != nil {
		return formation.Plan{}, err
	}
	with := c.around(p, rt.Config)
	with.Log, with.Runtime, with.Found, with.Image, with.Agents = c.log, rt, found, version, agents
	with.CLI = rabbitmq.CLI{Node: rt.Config.Node, Run: p.Run}
	with.IsDown = func(_ context.Context, other peers.Peer) bool { return p.Gone(other.Node) }
	with.SetWaiting = func(string) {}
	return entrypoint.Decide(ctx, with)
}

// around is what a formation of the process has around it, and how it decides.
func (c *container) around(p *sim.Process, cfg config.Config) formation.Options {
	with := formation.Options{
		DNS: peers.DNS{Server: cfg.DNSServer, Domain: cfg.DNSDomain, Dial: p.Dial},
	}
	if c.decide != nil {
		byAddress := map[string]string{}
		for _, n := range c.world.Nodes {
			byAddress[n.Addr+":5672"] = n.Name
		}
		with.Decide = c.decide(p.Context(), with.DNS, byAddress)
	}
	return with
}

// companion starts one and returns its process once it is in charge.
func (c *container) companion(rt statedir.Runtime, session string, gone <-chan struct{}) (*sim.Process, error) {
	p := c.box.Process("companion")
	cfg := rt.Config
	ctl := p.Run
	if c.gate != nil && rt.Gated {
		ctl = c.gate(cfg.Node, ctl)
	}
	around := companion.Surroundings{
		Log: c.log, Runtime: rt, Consul: c.consul(p, cfg), Broker: rabbitmq.CLI{Node: cfg.Node, Run: ctl},
		IsDown: func(_ context.Context, other peers.Peer) bool { return p.Gone(other.Node) },
		Check: func(context.Context, bool) healthcheck.Result {
			if c.box.Healthy() {
				return healthcheck.Result{State: healthcheck.Passing, Reason: "answers"}
			}
			return healthcheck.Result{Reason: "does not answer"}
		},
		Session:   session,
		Formation: c.around(p, cfg),
		Events:    companion.Events{Closed: make(chan healthcheck.Reason), Said: p.Listen(), Gone: gone},
	}
	begun := make(chan error, 1)
	c.work.Go(func() {
		err := companion.Run(p.Context(), around, func(companion.Answers) (io.Closer, error) { p.Companion(); begun <- nil; return nil, nil })
		p.Kill()
		begun <- err
	})
	if err := <-begun; err != nil {
		return nil, err
	}
	return p, nil
}

// healthchecks replace a companion that was lost, as Docker's do.
func (c *container) healthchecks(ctx context.Context, cfg config.Config, running *sim.Process, gone <-chan struct{}) {
	for {
		select {
		case <-gone:
			return
		case <-ctx.Done():
			return
		case <-time.After(10 * time.Second):
		}
		if running.Context().Err() == nil {
			continue
		}
		rt, err := statedir.ReadRuntime(cfg.StateDir)
		if err != nil || rt == nil {
			continue
		}
		rt.Waiting = statedir.Replaced
		if rt.Write() != nil {
			continue
		}
		c.log.Warn("the companion was gone, a health check starts it again")
		if p, err := c.companion(*rt, "", gone); err == nil {
			running = p
		}
	}
}
