package companion

import (
	"context"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/policy"
	"rmq-entrypoint/internal/statedir"
)

// The report says whether the loop goes on. A login that cannot be read to an end when RabbitMQ is
// ready again ends it.
func TestLoopStandsStill(t *testing.T) {
	t.Parallel()
	dir := testVolume(t)
	synctest.Test(t, func(t *testing.T) {
		cfg := config.Config{Node: "r@a", TTL: 15 * time.Second, Data: dir.Data, StateDir: dir.State, Consul: []string{"127.0.0.1:1"}}
		c := companionFor(cfg, statedir.Runtime{Config: cfg, Role: statedir.Member, Located: true}, func(context.Context, ...string) (string, error) { return "", io.EOF })
		said, free, ended := make(chan string), make(chan struct{}), make(chan error, 1)
		c.Said, c.Gone = said, make(chan struct{})
		c.Check = func(context.Context, bool) healthcheck.Result {
			return healthcheck.Result{State: healthcheck.Passing, Reason: "answers"}
		}
		c.ports.ready = func(config.Config) error { <-free; return nil }
		c.state.Server.Phase, c.state.Membership.Verified = policy.Serving, true
		go func() { ended <- c.loop(t.Context()) }()
		longest := 0
		for range 200 {
			time.Sleep(time.Second)
			longest = max(longest, c.board.read().Still)
		}
		if longest < 4 || longest > 5 {
			t.Errorf("it stands still for %d s, want a beat", longest)
		}
		said <- "STOPPING=1"
		said <- "READY=1"
		time.Sleep(25 * time.Second)
		if still := c.board.read().Still; still < 25 || still > 30 {
			t.Errorf("still for %d s after 25 s", still)
		}
		if err := <-ended; err == nil || !strings.Contains(err.Error(), "the companion hangs: reading the login for 30s") {
			t.Errorf("it ended with %v", err)
		}
		close(free)
		synctest.Wait()
	})
}
