package companion

import (
	"context"
	"net/http"
	"testing"
	"time"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/internal/policy"
)

// A heartbeat that an event cut short while Consul took its report knows less than the event: what
// that has published stays.
func TestCutHeartbeatSaysNothing(t *testing.T) {
	t.Parallel()
	ctx, cut := context.WithCancel(t.Context())
	defer cut()
	reports := 0
	c := told(t, func(http.ResponseWriter) { reports++; cut(); time.Sleep(100 * time.Millisecond) })
	c.state.Server.Phase = policy.Serving
	c.Broker.Run = func(context.Context, ...string) (string, error) {
		return "view|id|rabbit@a|rabbit@a||false|\n", nil
	}
	seen := c.glance()
	seen.Health = healthcheck.Result{State: healthcheck.Passing, Reason: "answers"}
	c.show("the event's word")
	c.beat(ctx, seen)
	if r := c.board.read(); reports != 1 || r.Reason != "the event's word" {
		t.Errorf("after %d reports it says %s: %s", reports, r.Status, r.Reason)
	}
}

// What the check saw before the server became ready is history: the first miss after it counts, and
// a connection that was closed before it does not.
func TestReadyIsCheckedAnew(t *testing.T) {
	t.Parallel()
	c := told(t, nil)
	closed := make(chan healthcheck.Reason, 1)
	closed <- healthcheck.Reason{Code: 320}
	c.Closed = closed
	c.steady.Next(healthcheck.Result{State: healthcheck.Passing})
	if err := c.follow(t.Context(), c.state, policy.Event{Ready: true}, time.NewTimer(time.Hour)); err != nil || len(closed) > 0 {
		t.Errorf("%d connections closed before count, %v", len(closed), err)
	}
	if r := c.steady.Next(healthcheck.Result{State: healthcheck.Critical}); r.Missed || r.State != healthcheck.Critical {
		t.Errorf("the first miss comes to %+v", r)
	}
}
