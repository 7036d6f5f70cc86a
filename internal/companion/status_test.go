package companion

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/policy"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/tests/expect"
)

// What is answered is as old as the last look, and says so once that is too old.
func TestReportHasAnAge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := companionFor(config.Config{TTL: 15 * time.Second}, statedir.Runtime{}, nil)
		ask := func(path string) (int, string) {
			w := httptest.NewRecorder()
			h := map[string]http.Handler{"/ready": c.board.ready(), "/status": c.own()}[path]
			h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
			b, err := io.ReadAll(w.Body)
			expect.Must(t, err)
			return w.Code, string(b)
		}
		says := func(code int, words string) {
			t.Helper()
			if got, text := ask("/ready"); got != code || !strings.HasPrefix(text, words) {
				t.Errorf("/ready: %d, %q; want %d, %q", got, text, code, words)
			}
			if _, text := ask("/status"); !strings.Contains(text, strings.TrimSpace(words[strings.Index(words, " "):])) {
				t.Errorf("/status: %s; want %q", text, words)
			}
		}
		c.show("booting")
		says(503, "critical: booting")
		c.showVerdict(policy.Verdict{Status: policy.Passing}, "answers", time.Now())
		says(200, "passing: answers")
		time.Sleep(15 * time.Second)
		says(200, "passing: answers")
		time.Sleep(17 * time.Second)
		says(503, "critical: not looked at for 32s: the companion hangs; last: passing: answers")
		if r := c.board.read(); !r.Since.Equal(r.Looked.Add(15 * time.Second)) {
			t.Errorf("critical since %s, looked at %s", r.Since, r.Looked)
		}
		c.board.look(time.Now())
		says(200, "passing: answers")
		c.showVerdict(policy.Verdict{Status: policy.Warning}, "low on memory", time.Now())
		time.Sleep(20 * time.Second)
		says(503, "critical: not looked at for 20s: the companion hangs; last: warning: low on memory")
		c.show("stopping")
		says(503, "critical: stopping (not looked at for 20s)")
	})
}

// A heartbeat that was long on its way does not take back what was seen since.
func TestLaterLookCounts(t *testing.T) {
	t.Parallel()
	c := companionFor(config.Config{TTL: 15 * time.Second}, statedir.Runtime{}, nil)
	first := time.Now()
	later := first.Add(5 * time.Second)
	passes := policy.Verdict{Status: policy.Passing}
	at := func(status, reason string) {
		t.Helper()
		if r := c.board.read(); r.Status != status || r.Reason != reason {
			t.Errorf("it says %s: %s, want %s: %s", r.Status, r.Reason, status, reason)
		}
	}
	c.showVerdict(passes, "answers", first)
	c.board.found(later, "refused")
	at("critical", "refused")
	c.showVerdict(passes, "answers", first)
	at("critical", "refused")
	c.showVerdict(policy.Verdict{Status: policy.Critical}, "SPLIT", first) // that is no less true
	at("critical", "SPLIT")
	c.board.found(later.Add(time.Second), "refused")
	at("critical", "SPLIT")
	c.showVerdict(passes, "answers", later.Add(time.Second)) // by that look, and what it found is in it
	at("passing", "answers")
	c.board.found(later.Add(2*time.Second), "")
	at("passing", "answers")
}

// Work that does not get on is noticed once it had its time, in ticks: a process that was
// stopped had none.
func TestWorkerHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var w worker
		tick := func(n int) (err error) {
			for range n {
				if err = w.tick(5 * time.Second); err != nil {
					return err
				}
			}
			return nil
		}
		if !w.idle() || tick(100) != nil {
			t.Error("what never began hangs")
		}
		end := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w.start(ctx, func(context.Context) { w.at("reading the volume", disk); <-end })
		synctest.Wait()
		time.Sleep(time.Hour)
		if err := tick(6); err != nil || w.idle() {
			t.Errorf("after 30 s: %v", err)
		}
		w.at("asking: record", disk)
		time.Sleep(40 * time.Second)
		if err := tick(6); err != nil {
			t.Errorf("a step further it had no time of its own: %v", err)
		}
		if err := tick(1); err == nil || !strings.Contains(err.Error(), "asking: record for 40s") {
			t.Errorf("it hangs: %v", err)
		}
		close(end)
		synctest.Wait()
		if err := tick(1); err != nil || !w.idle() {
			t.Errorf("it has ended: %v", err)
		}
	})
}

// Whatever hangs, the loop ends: because of that, when it is told to, or with the server.
func TestLoopEnds(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		hang   func(s *Surroundings, until <-chan struct{})
		end    string
		within time.Duration
		err    string
	}{
		{"the check, by itself", hungCheck, "", 80 * time.Second, "the companion hangs: asking: AMQP for 1m"},
		{"the check, told to", hungCheck, "signal", 2 * time.Second, ""},
		{"the check, with the server", hungCheck, "server", 20 * time.Second, ""},
		{"the check, and an event comes", hungCheck, "event", 80 * time.Second, "the companion hangs: asking: AMQP"},
		{"RabbitMQ's tools, by themselves", hungTools, "", 100 * time.Second, "the companion hangs: asking: view"},
		{"RabbitMQ's tools, told to", hungTools, "signal", 2 * time.Second, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := testVolume(t)
			synctest.Test(t, func(t *testing.T) {
				cfg := config.Config{Node: "r@a", TTL: 15 * time.Second, Data: dir.Data, StateDir: dir.State, Consul: []string{"127.0.0.1:1"}}
				c := companionFor(cfg, statedir.Runtime{Config: cfg, Role: statedir.Member, Located: true}, nil)
				said, gone, free := make(chan string, 1), make(chan struct{}), make(chan struct{})
				c.Said, c.Gone = said, gone
				c.Check = func(context.Context, bool) healthcheck.Result {
					return healthcheck.Result{State: healthcheck.Passing, Reason: "answers"}
				}
				c.state.Server.Phase, c.state.Membership.Verified = policy.Serving, true
				c.Log = slog.New(slog.DiscardHandler)
				tc.hang(&c.Surroundings, free)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				time.AfterFunc(30*time.Second, func() {
					switch tc.end {
					case "signal":
						cancel()
					case "server":
						close(gone)
					case "event":
						said <- "STOPPING=1"
					}
				})
				began := time.Now()
				err := c.loop(ctx)
				took := time.Since(began)
				if tc.end == "signal" || tc.end == "server" {
					took -= 30 * time.Second
				}
				if took > tc.within || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
					t.Errorf("it ended after %s, %v; want within %s, %q", took, err, tc.within, tc.err)
				}
				close(free)
				synctest.Wait()
			})
		})
	}
}

// hungCheck is a check that no context ends.
func hungCheck(s *Surroundings, until <-chan struct{}) {
	s.Check = func(context.Context, bool) healthcheck.Result { <-until; return healthcheck.Result{} }
}

// hungTools are tools of RabbitMQ that no context ends.
func hungTools(s *Surroundings, until <-chan struct{}) {
	s.Broker.Run = func(context.Context, ...string) (string, error) { <-until; return "", io.EOF }
}
