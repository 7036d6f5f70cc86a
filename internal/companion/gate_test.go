package companion

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/formation"
	"rmq-entrypoint/internal/policy"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/lock"
	"rmq-entrypoint/rabbitconf"
	"rmq-entrypoint/tests/expect"
)

// gated is a companion whose server waits behind the gate on a volume of its own, and what it
// has said on its command line. The server answers with one word after the other, and then with
// the last one.
func gated(t *testing.T, answers ...string) (c *companion, said func() []string) {
	t.Helper()
	v := testVolume(t)
	cfg := config.Config{Node: "rabbit@a", Data: v.Data, StateDir: v.State, ConfigFile: v.State + "/rabbitmq.config", TTL: 15 * time.Second, WaitTimeout: time.Minute, JoinTimeout: time.Minute, Service: "mq"}
	var mu sync.Mutex
	var calls []string
	c = companionFor(cfg, statedir.Runtime{Config: cfg, Gated: true, Role: statedir.Joining, Claim: "before", Volume: "v", Queues: statedir.Quorum, Waiting: "somebody"}, func(_ context.Context, argv ...string) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		text := argv[len(argv)-1]
		switch {
		case strings.Contains(text, "cluster_nodes"):
			calls = append(calls, "open "+text)
			if len(answers) == 0 {
				return "gate|knew|", nil
			}
			answer := answers[0]
			if len(answers) > 1 {
				answers = answers[1:]
			}
			if answer == "" {
				return "", errors.New("no answer")
			}
			return "gate|" + answer + "|", nil
		case strings.HasPrefix(text, "init:stop"):
			calls = append(calls, "halt")
			return "ok", nil
		}
		return "", errors.New("what?")
	})
	conf, err := rabbitconf.Render(rabbitconf.Options{Version: rabbitconf.Version{Major: 4, Minor: 3}, Node: cfg.Node, Peers: []string{rabbitconf.Gate(cfg.Node)}, Joining: true})
	expect.Must(t, errors.Join(err, os.WriteFile(cfg.ConfigFile, conf, 0o600), c.Runtime.Write()))
	return c, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(calls)
	}
}

// resident writes down what it is told.
type resident struct{ told []string }

func (r *resident) Stay(gate string) { r.told = append(r.told, "stay "+gate) }
func (r *resident) Unhold()          { r.told = append(r.told, "unhold") }
func (r *resident) Retire()          { r.told = append(r.told, "retire") }

// The VM that answers stays from the first word of the boot until the node is verified, at the
// gate of one that has a gate. A lone broker needs none. RabbitMQ is to look again once it was told
// whom to join, and where it is to stop; not where it could not be told.
func TestResident(t *testing.T) {
	boots := func(c *companion) {
		expect.Must(t, c.follow(t.Context(), c.state, policy.Event{Boots: true}, time.NewTimer(time.Hour)))
	}
	for name, tc := range map[string]struct {
		happens func(c *companion)
		want    []string
	}{
		"boots": {boots, []string{"stay "}},
		"goes on": {func(c *companion) {
			expect.Must(t, c.follow(t.Context(), c.state, policy.Event{}, time.NewTimer(time.Hour)))
		}, nil},
		"lone broker": {func(c *companion) { c.settings.Single = true; boots(c) }, nil},
		"verified":    {func(c *companion) { c.upkeep(t.Context(), c.glance()) }, []string{"retire"}},
		"told":        {func(c *companion) { _, err := c.openGate(t.Context()); expect.Must(t, err) }, []string{"unhold"}},
		"cannot be told": {func(c *companion) {
			c.Broker.Run = func(context.Context, ...string) (string, error) { return "", errors.New("no answer") }
			if _, err := c.openGate(t.Context()); err == nil {
				t.Error("it was told")
			}
		}, nil},
		"at the gate": {func(c *companion) {
			said, gone := make(chan string), make(chan struct{})
			c.Said, c.Gone = said, gone
			go func() { said <- "STATUS=Startup in progress"; close(gone) }()
			_, err := c.gate(t.Context())
			expect.Must(t, err)
		}, []string{"stay gate-rabbit@a"}},
		"is to stop": {func(c *companion) {
			gone := make(chan struct{})
			c.Gone = gone
			c.Broker.Run = func(context.Context, ...string) (string, error) { close(gone); return "", nil }
			c.startAnew(t.Context(), errors.New("no plan"))
		}, []string{"unhold"}},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := gated(t)
			r := new(resident)
			c.Broker.Resident = r
			tc.happens(c)
			if !slices.Equal(r.told, tc.want) {
				t.Errorf("it is told %q, not %q", r.told, tc.want)
			}
		})
	}
}

// What the formation came to is on the volume before RabbitMQ is told of it; rabbitmq.config names
// the peers. A server that does not answer yet is told again.
func TestGateOpens(t *testing.T) {
	after := time.UnixMicro(1700000000000001)
	for name, tc := range map[string]struct {
		plan    formation.Plan
		answers []string
		nodes   string
		rest    string
	}{
		"joins":             {formation.Plan{Role: statedir.Joining, Claim: "c", Volume: "v", Peers: []string{"rabbit@b"}, After: after, Queues: statedir.Quorum}, []string{"told"}, "['rabbit@b','rabbit@a']", "After = 1700000000000001, Names = [], "},
		"joins two":         {formation.Plan{Role: statedir.Joining, Claim: "c", Volume: "v", Peers: []string{"rabbit@b", "rabbit@c"}}, []string{"", "", "knew"}, "['rabbit@b','rabbit@c','rabbit@a']", "After = 0, Names = [], "},
		"founds in the end": {formation.Plan{Role: statedir.Seeding, Claim: "c", Volume: "v"}, nil, "['rabbit@a']", `After = 0, Names = [<<"mq">>], `},
	} {
		t.Run(name, func(t *testing.T) {
			c, said := gated(t, tc.answers...)
			if tc.plan.Role == statedir.Seeding {
				tc.plan.Lock = new(lock.Lock)
			}
			expect.Must(t, c.become(t.Context(), tc.plan))
			if c.lock.Load() != tc.plan.Lock {
				t.Error("it keeps another lock than that of the plan")
			}
			rt, err := statedir.ReadRuntime(c.Runtime.Config.StateDir)
			expect.Must(t, err)
			if rt.Gated || !rt.Told || !slices.Equal(rt.Join, tc.plan.Peers) || !rt.After.Equal(tc.plan.After) || rt.Role != tc.plan.Role || rt.Claim != "c" || rt.Waiting != "" {
				t.Errorf("the runtime file says %+v", rt)
			}
			if !c.settings.Gate || c.state.Membership.Role != policy.Role(tc.plan.Role) || c.state.Membership.Claim != "c" {
				t.Errorf("it goes on as %+v of %+v", c.state.Membership, c.settings)
			}
			if tc.answers == nil { // by its claim, which a heartbeat looks at
				if len(said()) > 0 {
					t.Errorf("it said %q", said())
				}
				_, err := c.do(t.Context(), nil, policy.OpenGate{})
				expect.Must(t, err)
				tc.answers = []string{"knew"}
			}
			calls := said()
			if len(calls) != len(tc.answers) || !strings.Contains(calls[0], "Nodes = "+tc.nodes+", "+tc.rest) {
				t.Errorf("it said %q", calls)
			}
			conf, err := os.ReadFile(c.Runtime.Config.ConfigFile)
			if expect.Must(t, err); strings.Contains(string(conf), "gate-") || !strings.Contains(string(conf), "{cluster_nodes,{"+tc.nodes+",disc}}") {
				t.Errorf("rabbitmq.config:\n%s", conf)
			}
		})
	}
}

// What the server that runs cannot become is left to its next start.
func TestGateStaysShut(t *testing.T) {
	joins := formation.Plan{Role: statedir.Joining, Claim: "c", Volume: "v", Peers: []string{"rabbit@b"}, After: time.UnixMicro(1), Queues: statedir.Quorum}
	classic := joins
	classic.Queues = statedir.Classic
	c, said := gated(t, "told")
	if err := c.become(t.Context(), classic); !errors.Is(err, formation.ErrStartAnew) || !strings.Contains(err.Error(), "queues are classic in this cluster") || len(said()) > 0 {
		t.Errorf("%v; it said %q", err, said())
	}
	if rt, err := statedir.ReadRuntime(c.Runtime.Config.StateDir); err != nil || !rt.Gated || rt.Told || !c.Runtime.Gated {
		t.Errorf("%v; the runtime file says %+v", err, rt)
	}
	again := joins
	again.Aside = true
	c, said = gated(t, "told")
	if err := c.become(t.Context(), again); !errors.Is(err, formation.ErrStartAnew) || len(said()) > 0 {
		t.Errorf("%v; it said %q", err, said())
	}
	c, said = gated(t, "", "elder")
	if err := c.become(t.Context(), joins); !errors.Is(err, formation.ErrStartAnew) || !strings.Contains(err.Error(), "or its clock is behind") || len(said()) != 2 {
		t.Errorf("%v; it said %q", err, said())
	}
	if _, err := c.do(t.Context(), nil, policy.OpenGate{}); !errors.Is(err, policy.ErrElder) {
		t.Error(err)
	}
	c, _ = gated(t, "told", "knew", "")
	for i, want := range []func(error) bool{
		func(err error) bool { return errors.Is(err, policy.ErrNotKnown) },
		func(err error) bool { return err == nil },
		func(err error) bool { return err != nil && !errors.Is(err, policy.ErrNotKnown) },
	} {
		if _, err := c.do(t.Context(), nil, policy.OpenGate{}); !want(err) {
			t.Errorf("%d: %v", i, err)
		}
	}
}

// A companion at the gate ends with its server, and when it is told to; a formation that comes to
// nothing ends the server.
func TestAtTheGate(t *testing.T) {
	for _, how := range []string{"the server ends", "told to stop", "no plan"} {
		t.Run(how, func(t *testing.T) {
			c, said := gated(t, "told")
			gone := make(chan struct{})
			c.Gone, c.Said = gone, make(chan string)
			if how == "no plan" {
				c.Runtime.Config.WaitTimeout = 50 * time.Millisecond // nobody answers
			}
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			passed := make(chan bool)
			go func() {
				ok, err := c.gate(ctx)
				if err != nil {
					t.Error(err)
				}
				passed <- ok
			}()
			switch how {
			case "the server ends":
				close(gone)
			case "told to stop":
				stop()
			default:
				expect.Eventually(t, 10*time.Second, "it stops the server", func() error {
					if !slices.Contains(said(), "halt") {
						return errors.New("not yet")
					}
					return nil
				})
				select {
				case <-passed:
					t.Error("it ends before its server")
				case <-time.After(50 * time.Millisecond):
				}
				if r := c.board.read(); r.Ready() || !strings.Contains(r.Reason, "waited 50ms (--wait-timeout, RMQ_WAIT_TIMEOUT)") {
					t.Errorf("it tells %+v", r)
				}
				close(gone)
			}
			if <-passed {
				t.Error("the gate is passed")
			}
		})
	}
}
