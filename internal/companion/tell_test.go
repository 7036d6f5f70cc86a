package companion

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/policy"
	"rmq-entrypoint/internal/statedir"
)

// Consul is told what is new at once, and what is not only when its check needs it.
func TestToldOnce(t *testing.T) {
	t.Parallel()
	var reports atomic.Int32
	c := told(t, func(http.ResponseWriter) { reports.Add(1) })
	tells := func(status, reason string, want int32) {
		t.Helper()
		if said, client, lost := c.tell(t.Context(), policy.Verdict{Status: status, Reason: reason}); said != reason || client == nil || lost || reports.Load() != want {
			t.Errorf("%s %s: %q, %v, %t, %d reports, want %d", status, reason, said, client, lost, reports.Load(), want)
		}
	}
	tells(policy.Passing, "answers", 1)
	tells(policy.Passing, "answers", 1)
	tells(policy.Passing, "answers slowly", 2)
	tells(policy.Warning, "answers slowly", 3)
	tells(policy.Warning, "answers slowly", 3)
	c.state.Entry.ReportedAt = time.Now().Add(-c.settings.Beat())
	tells(policy.Warning, "answers slowly", 4)
	c.services.listens(5999)
	c.services.moved = true
	_, _, _ = c.tell(t.Context(), policy.Verdict{Status: policy.Warning, Reason: "answers slowly"})
	if reports.Load() != 5 {
		t.Errorf("at another port: %d reports, want 5", reports.Load())
	}
}

// A machine that stood still for a TTL, clocks and all, hears of it by the dates of Consul's answers.
func TestSleptByConsulsClock(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		later    time.Duration
		verified bool
		want     bool
	}{
		"for a TTL":            {15 * time.Second, true, true},
		"for less":             {14 * time.Second, true, false},
		"its clock went back":  {-time.Hour, true, false},
		"it was not verified":  {time.Hour, false, false},
		"Consul says no dates": {0, true, false},
	} {
		date := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		companion := told(t, func(w http.ResponseWriter) {
			if w.Header()["Date"] = nil; c.later != 0 {
				w.Header().Set("Date", date.Format(http.TimeFormat))
			}
		})
		companion.state.Membership.Verified = c.verified
		companion.tell(t.Context(), policy.Verdict{Status: policy.Passing, Reason: "one"})
		if companion.state.Entry.Lapse.Owed {
			t.Errorf("%s: at the first report", name)
		}
		date = date.Add(c.later)
		companion.tell(t.Context(), policy.Verdict{Status: policy.Passing, Reason: "two"})
		if companion.state.Entry.Lapse.Owed != c.want {
			t.Errorf("%s: %+v", name, companion.state.Entry.Lapse)
		}
	}
}

// told is a companion whose Consul does something with each report that it takes.
func told(t *testing.T, takes func(http.ResponseWriter)) *companion {
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/v1/agent/check/update/"):
			takes(w)
		case r.URL.Path == "/v1/status/leader":
			_, _ = w.Write([]byte(`"10.0.0.1:8300"`))
		case strings.HasPrefix(r.URL.Path, "/v1/agent/"):
			_, _ = w.Write([]byte("{}"))
		default:
			_, _ = w.Write([]byte("[]"))
		}
	}))
	t.Cleanup(agent.Close)
	cfg := config.Config{Service: "rabbitmq", Node: "rabbit@a", StateDir: t.TempDir(), TTL: 15 * time.Second, Consul: []string{agent.Listener.Addr().String()}}
	return companionFor(cfg, statedir.Runtime{Address: "127.0.0.1", Located: true, Boot: "boot"}, nil)
}
