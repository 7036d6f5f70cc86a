package healthcheck

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// RabbitMQ logs each login that it refuses: the check tries again after pauses that grow, at
// once when there is a reason to, and sees meanwhile whether somebody still listens.
func TestRefusedLoginIsLeftAlone(t *testing.T) {
	for name, refusal := range map[string]struct {
		at   call
		code uint16
	}{"login": {startOk, 403}, "virtual host": {open, 530}, "handshake": {open, 541}} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			var mu sync.Mutex
			now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
			var tried []time.Duration // since the beginning
			began, lets := now, false
			s := serve(t, nil, func(p *peer, c call) bool {
				mu.Lock()
				defer mu.Unlock()
				if c == header {
					tried = append(tried, now.Sub(began))
				}
				if lets || c != refusal.at {
					return false
				}
				p.Write(closing(0, refusal.code, "REFUSED"))
				return true
			})
			c := checker(t, Options{URLs: []string{s.url()}})
			c.now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
			move(t, c, lists(s.ln, Port{}))
			beats := func(d time.Duration, want State, words ...string) (logins []string) {
				t.Helper()
				mu.Lock()
				tried, began = nil, now
				mu.Unlock()
				for range d / (5 * time.Second) {
					r := look(t, c)
					if r.State != want {
						t.Fatalf("got %s: %s", r.State, r.Reason)
					}
					mu.Lock()
					now = now.Add(5 * time.Second)
					mu.Unlock()
				}
				mu.Lock()
				defer mu.Unlock()
				for _, d := range tried {
					logins = append(logins, fmt.Sprint(d))
				}
				return logins
			}
			says := func(got []string, want ...string) {
				t.Helper()
				if !slices.Equal(got, want) {
					t.Errorf("logins at %q, want %q", got, want)
				}
			}
			says(beats(5*time.Minute, Warning), "0s", "5s", "15s", "35s", "1m15s", "2m15s", "3m15s", "4m15s")
			c.Ready()
			says(beats(20*time.Second, Warning), "0s", "5s", "15s")
			if err := c.Move([]string{s.url() + "/other"}, lists(s.ln, Port{})); err != nil {
				t.Fatal(err)
			}
			says(beats(10*time.Second, Warning), "0s", "5s")
			mu.Lock()
			lets = true
			mu.Unlock()
			says(beats(5*time.Second, Warning)) // not yet
			says(beats(20*time.Second, Passing), "0s")
			s.stop()
			want(t, look(t, c), Critical)
		})
	}
}

// While a login is left alone, a node that goes is noticed at once, and one that comes back is
// tried at once.
func TestRefusedLoginGoes(t *testing.T) {
	noLeaks(t)
	refuse := func(p *peer, c call) bool {
		if c == startOk {
			p.Write(closing(0, 403, "ACCESS_REFUSED"))
		}
		return c == startOk
	}
	s := serve(t, nil, refuse)
	c := checker(t, Options{URLs: []string{s.url()}})
	want(t, look(t, c), Warning, "refused")
	want(t, look(t, c), Warning, "refused")
	s.stop()
	want(t, look(t, c), Critical, "refused")
	if !c.pauses.Over(c.now()) {
		t.Error("it is not tried at once when it is back")
	}
}
