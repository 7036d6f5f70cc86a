package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
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
	"rmq-entrypoint/tests/expect"
	"rmq-entrypoint/tests/sim"
)

// The simulator drives the real formation and the real companion, container by
// container, through the stories of package sim. What start and decide do around
// them is repeated here, because the real ones become another program.

// simSeeds is how many stories a run tells: RMQ_SIM_SEEDS, from RMQ_SIM_FIRST on.
func simSeeds(t *testing.T) (first, n uint64) {
	t.Helper()
	number := func(name string, def uint64) uint64 {
		text := os.Getenv(name)
		if text == "" {
			return def
		}
		v, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("%s=%q: %v", name, text, err)
		}
		return v
	}
	return number("RMQ_SIM_FIRST", 1), number("RMQ_SIM_SEEDS", 300)
}

func TestSimulation(t *testing.T) {
	first, n := simSeeds(t)
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	begun := time.Now()
	var next, told, asked, excused, faults, failed atomic.Uint64
	var mu sync.Mutex
	did := map[string]int{}
	prints := map[uint64]string{}
	t.Run("stories", func(t *testing.T) {
		for range runtime.GOMAXPROCS(0) {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				for {
					i := next.Add(1) - 1
					if i >= n || failed.Load() >= 5 {
						return
					}
					v, w := tellStory(t, first+i, nil, false)
					told.Add(1)
					faults.Add(uint64(v.Faults))
					if w.Excused() != "" {
						excused.Add(1)
					}
					mu.Lock()
					for what, times := range v.Did {
						did[what] += times
					}
					prints[first+i] = fmt.Sprintf("%s %q %q %q", w.Print(), v.Broken, v.Stuck, v.Operator)
					mu.Unlock()
					if v.Operator != "" && w.Excused() == "" {
						asked.Add(1)
					}
					if v.Broken == "" && v.Stuck == "" {
						continue
					}
					failed.Add(1)
					again, w := tellStory(t, first+i, nil, true)
					t.Errorf("seed %d: broken: %q; stuck: %q (told again: %q; %q). RMQ_SIM_FIRST=%d RMQ_SIM_SEEDS=1 tells it alone:\n%s",
						first+i, v.Broken, v.Stuck, again.Broken, again.Stuck, first+i, w.Story())
				}
			})
		}
	})
	if file := os.Getenv("RMQ_SIM_PRINTS"); file != "" { // to see that a change has changed no story
		var lines strings.Builder
		for _, seed := range slices.Sorted(maps.Keys(prints)) {
			fmt.Fprintln(&lines, seed, prints[seed])
		}
		expect.Must(t, os.WriteFile(file, []byte(lines.String()), 0o644))
	}
	t.Logf("%d stories with %d faults of their own in %s; %d ended where only an operator can go on, %d others after something that nobody can know or an operator did: Consul's data lost unseen, a name taken while its node was down, a cluster moved here too late or given up",
		told.Load(), faults.Load(), time.Since(begun).Round(time.Second), asked.Load(), excused.Load())
	t.Logf("what the nodes did: %v", did)
	// Below some hundred, chance alone is larger than what a bug would make of it.
	if few := operatorShare * float64(told.Load()); float64(asked.Load()) > max(1.3*few, few+4*math.Sqrt(few)) {
		t.Errorf("%d of %d stories ended with the operator, %.0f are usual: too many to prove progress", asked.Load(), told.Load(), few)
	}
	if told.Load() >= 500 {
		for _, what := range sim.Steps {
			if did[what] == 0 {
				t.Errorf("in %d stories no node ever did this: %s", told.Load(), what)
			}
		}
	}
}

// operatorShare is how many stories end where only an operator can go on: measured,
// 453 of the seeds 1 to 20,000.
const operatorShare = 0.0227

// TestSimulationFindsTheSplit is the test of the test: a node that seeds when it
// holds the lock and DNS is empty founds a second cluster, and that must be seen.
func TestSimulationFindsTheSplit(t *testing.T) {
	naive := func(ctx context.Context, d peers.DNS, byAddress map[string]string) func(peers.Observation) peers.Decision {
		return func(o peers.Observation) peers.Decision {
			if !o.Record.Known() {
				return peers.Decision{Action: peers.Wait, Why: "Consul"}
			}
			found, err := peers.Lookup(ctx, d, "rabbitmq")
			if err != nil {
				return peers.Decision{Action: peers.Wait, Why: "DNS"}
			}
			var join []string
			for _, address := range found {
				if name := byAddress[address]; name != o.Me {
					join = append(join, name)
				}
			}
			if len(join) == 0 {
				return peers.Decision{Action: peers.Claim, Why: "DNS is empty"}
			}
			return peers.Decision{Action: peers.Join, Peers: join, Why: "DNS"}
		}
	}
	for seed := uint64(1); seed <= 300; seed++ {
		if v, _ := tellStory(t, seed, naive, false); strings.Contains(v.Broken, "holds data of cluster") || strings.Contains(v.Broken, "two clusters") {
			t.Logf("seed %d: %s", seed, v.Broken)
			return
		}
	}
	t.Error("in 300 stories the simulator did not see DNS alone split a cluster: it proves nothing")
}

// A node that waits says for what at each change and every 10 s.
func TestWaitingIsTold(t *testing.T) {
	formed := peers.Record{State: peers.Formed, ClusterID: "id", Members: map[string]string{"x@y": "v"}}
	forming := peers.Record{State: peers.Forming, Claim: "c", Session: "lost", Seed: "x@y", Members: map[string]string{"x@y": "v"}}
	other := forming
	other.Claim, other.Seed, other.Members = "d", "z@y", map[string]string{"z@y": "w"}
	for name, tc := range map[string]struct {
		before, after     peers.Record
		waitsFor, thenFor string
		late              time.Duration // at most
	}{
		"for a cluster to be founded": {forming, other, "x@y to found the cluster", "z@y to found the cluster", 2*time.Second + 100*time.Millisecond},
		"for members":                 {formed, formed.With("z@y", "w"), "hold its data: x@y\"", "hold its data: x@y, z@y", 100 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := sim.New(t.Context(), sim.Options{Seed: 1, Dir: t.TempDir(), Service: "rabbitmq", RecordKey: config.Config{Service: "rabbitmq", KeyPrefix: "rmq-entrypoint"}.RecordKey(), TTL: 15 * time.Second})
				defer w.End()
				w.Nodes[0].On()
				box := w.Nodes[0].Open()
				var said tellTimes
				c := container{world: w, box: box, log: slog.New(slog.NewTextHandler(&said, nil))}
				cfg := c.config()
				expect.Must(t, os.MkdirAll(cfg.StateDir, 0o755))
				client, err := c.consul(box.Process("writer"), cfg).Client(t.Context())
				expect.Must(t, err)
				write := func(r peers.Record) {
					t.Helper()
					_, index, err := peers.ReadRecord(t.Context(), client, cfg.RecordKey())
					expect.Must(t, err)
					if ok, err := peers.WriteRecord(t.Context(), client, cfg.RecordKey(), r, index, "", ""); err != nil || !ok {
						t.Fatal(ok, err)
					}
				}
				write(tc.before)
				cfg.ClaimTimeout = time.Hour
				p := box.Process("entrypoint")
				began := time.Now()
				ended := make(chan error)
				go func() {
					_, err := c.choose(p.Context(), p, c.consul(p, cfg), statedir.Found{}, &statedir.Runtime{Config: cfg, Version: w.Version})
					ended <- err
				}()
				at := func(since time.Time, words string) (after []time.Duration) {
					for _, l := range said.lines() {
						if strings.Contains(l.text, "msg=waiting") && strings.Contains(l.text, words) && !l.at.Before(since) {
							after = append(after, l.at.Sub(since))
						}
					}
					return after
				}
				regular := func(got []time.Duration) bool {
					for i, d := range got {
						if usual := time.Duration(i) * 10 * time.Second; d < usual || d > usual+time.Duration(i)*tc.late+500*time.Millisecond {
							return false
						}
					}
					return true
				}
				time.Sleep(35 * time.Second)
				if got := at(began, tc.waitsFor); len(got) != 4 || !regular(got) {
					t.Errorf("it says what it waits for at %v", got)
				}
				changed := time.Now()
				write(tc.after)
				time.Sleep(15 * time.Second)
				if got := at(changed, tc.thenFor); len(got) != 2 || !regular(got) {
					t.Errorf("it says what it waits for now at %v after the change", got)
				}
				if got := at(began, ""); len(got) != 6 {
					t.Errorf("it says more: %v", got)
				}
				p.Kill()
				if err := <-ended; err == nil {
					t.Error("it has decided")
				}
			})
		})
	}
}

// tellTimes is a log that knows when each line was written.
type tellTimes struct {
	mu   sync.Mutex
	said []toldLine
}

type toldLine struct {
	at   time.Time
	text string
}

func (l *tellTimes) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said = append(l.said, toldLine{time.Now(), string(b)})
	return len(b), nil
}

func (l *tellTimes) lines() []toldLine {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.said)
}

type decider func(context.Context, peers.DNS, map[string]string) func(peers.Observation) peers.Decision

// tellStory lives one world from its start to its end.
func tellStory(t *testing.T, seed uint64, decide decider, tell bool) (v sim.Verdict, w *sim.World) {
	t.Helper()
	parent := ""
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		parent = "/dev/shm" // what is written is synced
	}
	dir, err := os.MkdirTemp(parent, "rmq-sim-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	synctest.Test(t, func(t *testing.T) {
		cfg := config.Config{Service: "rabbitmq", KeyPrefix: "rmq-entrypoint"}
		w = sim.New(context.Background(), sim.Options{Seed: seed, Dir: dir, Service: cfg.Service, RecordKey: cfg.RecordKey(), TTL: 15 * time.Second, Tell: tell})
		var nodes sync.WaitGroup
		for _, n := range w.Nodes {
			nodes.Go(func() {
				for b := n.Open(); b != nil; b = n.Open() {
					c := container{world: w, box: b, decide: decide, log: slog.New(slog.DiscardHandler)}
					if tell {
						c.log = slog.New(slog.NewTextHandler(teller{w, n.Who}, &slog.HandlerOptions{ReplaceAttr: untimed}))
					}
					err := c.run()
					b.Close(fmt.Sprint(err))
				}
			})
		}
		v = w.Play()
		w.End()
		nodes.Wait()
	})
	return v, w
}

type teller struct {
	world *sim.World
	who   string
}

func (t teller) Write(b []byte) (int, error) {
	t.world.Log(t.who, strings.TrimSpace(string(b)))
	return len(b), nil
}

func untimed(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

// container is one start of the program, as start and companionMain have it.
type container struct {
	world  *sim.World
	box    *sim.Box
	log    *slog.Logger
	decide decider
	work   sync.WaitGroup
}

func (c *container) config() config.Config {
	dir, n := c.box.Dir, c.box.Node
	cfg := config.Config{
		Consul: []string{"10.0.0.100:8500"}, Service: "rabbitmq", DNSServer: "10.0.0.100:8600", DNSDomain: "consul",
		Node: n.Name, Advertise: n.Addr, TTL: 15 * time.Second, KeyPrefix: "rmq-entrypoint", LockDelay: time.Second,
		WaitTimeout: 3 * time.Minute, JoinTimeout: 90 * time.Second, ClaimTimeout: 45 * time.Second,
		Data: filepath.Join(dir, n.Name), StateDir: filepath.Join(dir, n.Name+"-entrypoint"), Port: 5672,
	}
	cfg.ConfigFile = filepath.Join(cfg.StateDir, "rabbitmq.config")
	return cfg
}

func (c *container) consul(p *sim.Process, cfg config.Config) *consul.Agents {
	pinned := consul.New(cfg, c.log)
	pinned.Dial = func(addr string) (*api.Client, error) {
		return api.NewClient(&api.Config{Address: addr, HttpClient: &http.Client{Transport: p}})
	}
	return pinned
}

// run returns when the server has ended, or never began.
func (c *container) run() error {
	defer c.work.Wait()
	cfg := c.config()
	if err := os.MkdirAll(cfg.StateDir, 0o755); err != nil {
		return err
	}
	p := c.box.Process("entrypoint")
	ctx := p.Context()
	state, err := statedir.Of(cfg).Inspect()
	if err != nil {
		return err
	}
	rt := statedir.Runtime{Config: cfg, PID: 1, Version: c.world.Version, Boot: peers.NewID(), Since: time.Now()}
	pinned := c.consul(p, cfg)
	chosen, err := c.choose(ctx, p, pinned, state, &rt)
	if err != nil {
		return err
	}
	release := func() {
		if chosen.Lock != nil {
			_ = chosen.Lock.Release(ctx)
		}
	}
	if chosen.Aside {
		if _, err := statedir.Of(cfg).MakeWay(statedir.Pending{Role: chosen.Role, Claim: chosen.Claim, Volume: chosen.Volume}, time.Now()); err != nil {
			release()
			return err
		}
	}
	rt.Role, rt.Claim, rt.Volume, rt.Cluster, rt.Waiting, rt.Consul = chosen.Role, chosen.Claim, chosen.Volume, state.Cluster, "", pinned.Addr
	client, cerr := pinned.Client(ctx)
	if cerr == nil {
		rt.Address, rt.Located = cfg.Advertise, true
	}
	if err := rt.Write(); err != nil {
		release()
		return err
	}
	if cerr == nil {
		standing := peers.Starting
		if state.Role == "" {
			standing = peers.Blank
		}
		err := peers.Announce(ctx, client, consul.Registration(rt), standing, "starting as "+string(chosen.Role))
		if consul.NameTaken(err) && state.Cluster == "" {
			release()
			return entrypoint.SecondOfName(cfg.Node, err)
		}
		if err != nil {
			c.log.Warn("not registered yet, the companion goes on trying", "err", err)
		}
	}
	session := ""
	if chosen.Lock != nil {
		session = chosen.Lock.Session()
	}
	gone := make(chan struct{})
	first, err := c.companion(rt, session, gone)
	if err != nil {
		release()
		return fmt.Errorf("start the companion: %w", err)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	claim := ""
	if chosen.Role == statedir.Seeding {
		claim = chosen.Claim
	}
	server := c.box.Serve(sim.Boot{Data: cfg.Data, Claim: claim, Peers: chosen.Peers})
	c.work.Go(func() { c.healthchecks(ctx, cfg, first, gone) })
	<-server.Gone
	close(gone)
	return fmt.Errorf("the server has ended")
}

// choose is decide with the world's broker and name server.
func (c *container) choose(ctx context.Context, p *sim.Process, pinned *consul.Agents, state statedir.Found, rt *statedir.Runtime) (formation.Plan, error) {
	cfg := rt.Config
	if state.Role != "" {
		rt.Volume = state.Volume
		return entrypoint.WithData(ctx, c.log, pinned, state, *rt)
	}
	version, err := rabbitconf.ParseVersion(rt.Version)
	if err != nil {
		return formation.Plan{}, err
	}
	f := formation.Formation{
		Log: c.log, Cfg: cfg, Consul: pinned, Volume: statedir.Of(cfg), State: state,
		Dns:    peers.DNS{Server: cfg.DNSServer, Domain: cfg.DNSDomain, Dial: p.Dial},
		Broker: rabbitmq.CLI{Node: cfg.Node, Run: p.Run},
		IsDown: func(_ context.Context, other peers.Peer) bool { return p.Gone(other.Node) },
		Dial:   func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no route to host") },
		Heals:  version.ForgetsFirst(),
		Say:    func(why string) { rt.Waiting = why },
	}
	if c.decide != nil {
		byAddress := map[string]string{}
		for _, n := range c.world.Nodes {
			byAddress[n.Addr+":5672"] = n.Name
		}
		f.Decide = c.decide(ctx, f.Dns, byAddress)
	}
	rt.Volume = state.Volume
	f.Reg = consul.Registration(*rt)
	return f.Run(ctx)
}

// companion starts one and returns its process once it is in charge.
func (c *container) companion(rt statedir.Runtime, session string, gone <-chan struct{}) (*sim.Process, error) {
	p := c.box.Process("companion")
	cfg := rt.Config
	around := companion.Surroundings{
		Log: c.log, Runtime: rt, Consul: c.consul(p, cfg), Broker: rabbitmq.CLI{Node: cfg.Node, Run: p.Run},
		IsDown: func(_ context.Context, other peers.Peer) bool { return p.Gone(other.Node) },
		Check: func(context.Context) healthcheck.Result {
			if c.box.Healthy() {
				return healthcheck.Result{State: healthcheck.Passing, Reason: "answers"}
			}
			return healthcheck.Result{Reason: "does not answer"}
		},
		Closed: make(chan healthcheck.Reason), Session: session, Said: p.Listen(), Gone: gone,
	}
	begun := make(chan error, 1)
	c.work.Go(func() {
		err := companion.Run(p.Context(), around, func(http.Handler) (io.Closer, error) { p.Companion(); begun <- nil; return nil, nil })
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
