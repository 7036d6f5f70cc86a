package consul

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"rmq-entrypoint/internal/config"
)

// An agent that was left and is in use again is not one where the registration
// is to be removed; one that another process of ours used before is.
func TestConsulRemembersWhereItRegistered(t *testing.T) {
	t.Parallel()
	answer := `"127.0.0.1:8300"`
	up := map[string]*atomic.Bool{}
	var addrs []string
	for range 2 {
		ok := new(atomic.Bool)
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !ok.Load() {
				w.WriteHeader(500)
				return
			}
			_, _ = io.WriteString(w, answer)
		}))
		t.Cleanup(s.Close)
		addr := strings.TrimPrefix(s.URL, "http://")
		up[addr], addrs = ok, append(addrs, addr)
	}
	a, b := addrs[0], addrs[1]
	c := New(config.Config{Consul: addrs, TTL: 10 * time.Second}, slog.New(slog.DiscardHandler))
	at := func(want string, left ...string) {
		t.Helper()
		if _, err := c.Client(t.Context()); err != nil || c.Addr != want {
			t.Fatalf("it uses %q, %v; want %q", c.Addr, err, want)
		}
		var got []string
		for _, l := range c.LeftBehind {
			got = append(got, l.addr)
		}
		if !slices.Equal(got, left) {
			t.Errorf("at %s it remembers %v, want %v", want, got, left)
		}
	}
	fail := func() { c.notAnsweringSince = time.Now().Add(-c.patience) }
	up[a].Store(true)
	at(a)
	up[a].Store(false)
	c.Answered(errors.New("no answer"))
	at(a) // one failure is no reason
	fail()
	up[b].Store(true)
	at(b, a)
	fail()
	up[a].Store(true)
	at(a, b)

	c = New(config.Config{Consul: addrs, TTL: 10 * time.Second}, slog.New(slog.DiscardHandler))
	up[b].Store(false)
	c.Prefer(b)
	at(a, b)

	up[a].Store(false)
	fail()
	if _, err := c.Client(t.Context()); err == nil || !strings.Contains(err.Error(), a) || !strings.Contains(err.Error(), b) || !strings.Contains(err.Error(), "CONSUL_HTTP_ADDR") {
		t.Errorf("with none there: %v", err)
	}
}

// Addresses that take connections and never answer cost one of them, once for a moment; the
// first of the list that answers is taken, however fast the others are.
func TestProbesAtOnce(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	var hold atomic.Bool
	hold.Store(true)
	hole := func(wait time.Duration) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			if hold.Load() {
				<-r.Context().Done()
				return
			}
			time.Sleep(wait)
			_, _ = io.WriteString(w, `"127.0.0.1:8300"`)
		}))
		t.Cleanup(s.Close)
		return strings.TrimPrefix(s.URL, "http://")
	}
	addrs := []string{hole(300 * time.Millisecond), hole(0), hole(0)}
	c := New(config.Config{Consul: addrs, TTL: 10 * time.Second}, slog.New(slog.DiscardHandler))
	began := time.Now()
	for range 5 {
		if _, err := c.Client(t.Context()); err == nil || strings.Count(err.Error(), "deadline exceeded") != 3 {
			t.Errorf("of three black holes one answers: %v", err)
		}
	}
	if took := time.Since(began); took < 2*time.Second || took > 4*time.Second || asked.Load() != 3 { // one address after the other takes 6 s
		t.Errorf("it took %s and asked %d times", took, asked.Load())
	}
	hold.Store(false)
	time.Sleep(time.Until(c.none.until))
	if _, err := c.Client(t.Context()); err != nil || c.Addr != addrs[0] {
		t.Errorf("it uses %s of %v, %v", c.Addr, addrs, err)
	}
}
