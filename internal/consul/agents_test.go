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
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/tests/expect"
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
	fail := func() { c.notAnsweringSince = time.Now().Add(-c.patience.now()) }
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

// Agents that have too much to do get no more by nodes that go from one to the next and back: each move takes twice the
// patience of the one before. Once an agent works for a while it is as it was.
func TestMovesLessAndLess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		answers := func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(`"127.0.0.1:8300"`))}, nil
		}
		c := New(config.Config{Consul: []string{"a:8500", "b:8500"}, TTL: 10 * time.Second}, slog.New(slog.DiscardHandler))
		c.Dial = func(addr string) (*api.Client, error) {
			return api.NewClient(&api.Config{Address: addr, HttpClient: &http.Client{Transport: roundTrip(answers)}})
		}
		// How long it stays with agents that take nothing, looked at each second.
		stays := func(moves int) (after []time.Duration) {
			_, err := c.Client(t.Context())
			expect.Must(t, err)
			for began, at := time.Now(), c.Addr; len(after) < moves; time.Sleep(time.Second) {
				c.Accepted(errors.New("too much to do"))
				if _, err := c.Client(t.Context()); err != nil {
					t.Fatal(err)
				}
				if c.Addr != at {
					after, began, at = append(after, time.Since(began)), time.Now(), c.Addr
				}
			}
			return after
		}
		s := time.Second
		if got, want := stays(6), []time.Duration{5 * s, 11 * s, 21 * s, 41 * s, 41 * s, 41 * s}; !slices.Equal(got, want) {
			t.Errorf("it moved after %v, want %v", got, want)
		}
		c.Accepted(nil)
		time.Sleep(158 * s)
		if got := stays(1); got[0] != 40*s {
			t.Errorf("after less than four times that it moved after %v", got)
		}
		c.Accepted(nil)
		time.Sleep(160 * s)
		if got := stays(2); !slices.Equal(got, []time.Duration{5 * s, 11 * s}) {
			t.Errorf("of an agent that works it moved after %v", got)
		}
	})
}

// An agent that was left, and takes too long to remove what is there, is asked for that less and less; one that refuses
// connections with each heartbeat, until it is back.
func TestLeavesLessAndLess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mode, asked := "hangs", 0
		client, err := api.NewClient(&api.Config{Address: "a:8500", HttpClient: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			asked++
			switch mode {
			case "hangs":
				<-r.Context().Done()
				return nil, r.Context().Err()
			case "refuses":
				return nil, errors.New("connection refused")
			}
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("{}"))}, nil // nothing is there
		})}})
		expect.Must(t, err)
		c := Agents{LeftBehind: []Agent{{addr: "a:8500", Client: client}}}
		heartbeats := func(n int) int {
			before := asked
			for range n {
				c.Leave(t.Context(), statedir.Runtime{Config: config.Config{Service: "rabbitmq", Node: "rabbit@a"}, Boot: "b"})
				time.Sleep(5 * time.Second)
			}
			return asked - before
		}
		if n := heartbeats(1); n != 1 {
			t.Errorf("asked %d times in the first heartbeat", n)
		}
		if n := heartbeats(120); n < 10 || n > 16 { // 10, 20, 40 s, then a minute, a quarter less at most, in over ten minutes
			t.Errorf("an agent that hangs is asked %d times in ten minutes", n)
		}
		mode = "refuses"
		if n := heartbeats(20); n < 8 {
			t.Errorf("one that refuses connections is asked %d times in 20 heartbeats", n)
		}
		if n := heartbeats(5); n != 5 {
			t.Errorf("and then %d times in five", n)
		}
		mode = "answers"
		if heartbeats(1); len(c.LeftBehind) > 0 {
			t.Error("nothing is left there, and it is remembered")
		}
	})
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
	time.Sleep(time.Until(c.noneUntil))
	if _, err := c.Client(t.Context()); err != nil || c.Addr != addrs[0] {
		t.Errorf("it uses %s of %v, %v", c.Addr, addrs, err)
	}
}

// Nobody is asked for a lone broker, whoever wants to.
func TestSingleAsksNobody(t *testing.T) {
	c := New(config.Config{Single: true, Consul: []string{"127.0.0.1:8500"}, TTL: time.Minute}, slog.New(slog.DiscardHandler))
	c.Dial = func(string) (*api.Client, error) { t.Error("it dials"); return nil, ErrSingle }
	if client, err := c.Client(t.Context()); client != nil || !errors.Is(err, ErrSingle) {
		t.Errorf("%v, %v", client, err)
	}
}
