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
