package companion

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/policy"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/expect"
)

// The management port that tells nothing is left alone, longer from one time to the next, and
// asked as before once it tells.
func TestManagementPortIsLeftAlone(t *testing.T) {
	t.Parallel()
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var asked []string
	refused := errors.New("401 Unauthorized")
	now := began
	m := managementPort{log: slog.New(slog.DiscardHandler), ask: func(context.Context) ([]healthcheck.Node, error) {
		asked = append(asked, fmt.Sprint(now.Sub(began)))
		return nil, refused
	}}
	beats := func(ctx context.Context, d time.Duration, fails bool, want ...string) {
		t.Helper()
		began, asked = now, nil
		for range d / (5 * time.Second) {
			m.listensAt(web(m.port))
			if _, err := m.nodes(ctx, now); (err != nil) != fails {
				t.Errorf("at %s: %v", now.Sub(began), err)
			}
			now = now.Add(5 * time.Second)
		}
		if !slices.Equal(asked, want) {
			t.Errorf("asked at %q, want %q", asked, want)
		}
	}
	beats(t.Context(), 3*time.Minute, true, "0s", "5s", "15s", "35s", "1m15s", "2m15s")
	refused = nil
	now = now.Add(15 * time.Second) // until then it is left alone
	beats(t.Context(), 20*time.Second, false, "0s", "5s", "10s", "15s")
	refused = errors.New("cut short")
	cut, cancel := context.WithCancel(t.Context())
	cancel()
	beats(cut, 10*time.Second, true, "0s", "5s") // by an event
}

// Nobody gets the password at the management port but RabbitMQ, which says that it listens there:
// again, where the port does not answer, and after a start.
func TestManagementPortIsRabbitMQs(t *testing.T) {
	t.Parallel()
	asked, err := 0, error(nil)
	m := &managementPort{port: 15672, log: slog.New(slog.DiscardHandler), ask: func(context.Context) ([]healthcheck.Node, error) {
		asked++
		return nil, err
	}}
	asks := func(want bool) {
		t.Helper()
		was := asked
		_, _ = m.nodes(t.Context(), time.Now().Add(time.Duration(asked)*time.Hour))
		if (asked > was) != want {
			t.Errorf("asked: %t, want %t", asked > was, want)
		}
	}
	asks(false)
	m.listensAt(append(web(5672), peers.WebListener{Plugin: "prometheus", IP: "::", Port: 15672}))
	asks(false)
	m.listensAt(web(15671, 15672))
	asks(true)
	err = errors.New("connection refused")
	asks(true)
	asks(false)
	m.listensAt(web(15672))
	err = nil
	asks(true)
	m.listensAt(nil)
	asks(false)
	m.listensAt(web(15672))
	m.begin()
	asks(false)
	(*managementPort)(nil).listensAt(web(1)) // there is none
}

// In maintenance mode RabbitMQ closes its ports: who listens there is told no password, and at the port of management
// nothing at all, until RabbitMQ is back by its own word.
func TestNoLoginInMaintenance(t *testing.T) {
	t.Parallel()
	none, order := (*statedir.Maintenance)(nil), &statedir.Maintenance{Drained: true, Done: true, At: time.Now()}
	for name, tt := range map[string]struct {
		phase    policy.Phase
		order    *statedir.Maintenance
		draining bool // as the check heard
		logsIn   bool
		managed  bool // is asked
	}{
		"it serves":                {policy.Serving, none, false, true, true},
		"it boots":                 {policy.Booting, none, false, false, true},
		"it stopped":               {policy.Stopped, none, false, false, true},
		"drained":                  {policy.Serving, order, false, false, false},
		"being drained":            {policy.Serving, &statedir.Maintenance{At: time.Now()}, false, false, false},
		"no maintenance mode":      {policy.Serving, &statedir.Maintenance{Done: true}, false, false, false},
		"leaving":                  {policy.Serving, &statedir.Maintenance{Leaving: true}, false, false, false},
		"drained by hand":          {policy.Serving, none, true, true, false}, // and the check itself does not log in
		"drained, and heard of it": {policy.Serving, order, true, false, false},
		"drained, and it boots":    {policy.Booting, order, false, false, false},
	} {
		dir := testVolume(t)
		cfg := config.Config{Node: "a", Data: dir.Data, StateDir: dir.State, TTL: 15 * time.Second}
		c := companionFor(cfg, statedir.Runtime{}, func(context.Context, ...string) (string, error) { return "", errors.New("no answer") })
		var logins []bool
		c.Check = func(_ context.Context, logIn bool) healthcheck.Result {
			logins = append(logins, logIn)
			return healthcheck.Result{Draining: tt.draining}
		}
		resumed, asked := 0, 0
		c.ports.resumed = func() { resumed++ }
		c.ports.managed = &managementPort{log: c.Log, open: true, ask: func(context.Context) ([]healthcheck.Node, error) { asked++; return nil, nil }}
		c.state.Server.Phase = tt.phase
		if tt.order != nil {
			expect.Must(t, dir.WriteMaintenance(*tt.order))
		}
		seen, _ := c.look(t.Context(), c.state)
		asked = 0 // by the look itself, or not
		c.ask(t.Context(), &seen, policy.Question{What: policy.AskManaged})
		if (asked > 0) != tt.managed || seen.Managed.Asked != true {
			t.Errorf("%s: the management port was asked %d times", name, asked)
		}
		c.ask(t.Context(), &seen, policy.Question{What: policy.AskCheck})
		if slices.Contains(logins, !tt.logsIn) || (resumed > 0) != tt.logsIn {
			t.Errorf("%s: logins %v, resumed %d times", name, logins, resumed)
		}
	}
	c := companionFor(config.Config{Node: "a"}, statedir.Runtime{}, nil)
	c.state.Server.Phase = policy.Serving
	if mayLogIn(c.state, policy.Volume{Maintenance: peers.Seen[*policy.Maintenance]{Err: errors.New("input/output error")}}) {
		t.Error("whether there is an order is not known, and it logs in")
	}
}

// web are ports of management.
func web(ports ...int) (all []peers.WebListener) {
	for _, port := range ports {
		all = append(all, peers.WebListener{Plugin: "management", IP: "::", Port: port})
	}
	return all
}
