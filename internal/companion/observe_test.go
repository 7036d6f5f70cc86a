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
	"rmq-entrypoint/peers"
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

// web are ports of management.
func web(ports ...int) (all []peers.WebListener) {
	for _, port := range ports {
		all = append(all, peers.WebListener{Plugin: "management", IP: "::", Port: port})
	}
	return all
}
