package companion

import (
	"context"
	"log/slog"
	"time"

	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/peers"
)

// When Consul has lost its data, a blank node finds no record, and founds a cluster. It gives members
// of an earlier one a moment to object, which is shorter than the time between heartbeats. So each
// companion watches for that loss from its start to its end, whatever its node is at. A node that
// boots, is drained or has no majority has kept nothing of what Consul said: it objects by its entry
// alone.

// retryEvery is how often Consul is asked at most; one that does not answer less and less, to
// retryRarely, and not by all nodes at once.
const (
	retryEvery  = time.Second
	retryRarely = 5 * time.Second
)

// watch has a heartbeat follow when Consul answers again, when it lost something, and when the record
// of a formed cluster is gone. Whatever that heartbeat comes to, Consul is told.
//
// A query that waits for news returns when Consul is put back to a snapshot. The same query asked
// again would wait for an index that is far ahead, and hear of nothing. So watch reads what there is
// before each query.
func (c *companion) watch(ctx context.Context, agents *consul.Agents, key string, denied time.Duration) {
	var index uint64
	lost, was := true, peers.Formed // nobody knows what was before this companion
	wait := retryEvery
	for ctx.Err() == nil {
		began, again := time.Now(), retryEvery
		client, err := agents.Client(ctx)
		if err == nil {
			var is peers.State
			var at uint64
			if is, at, err = peers.StateNews(ctx, client, key, 0); err == nil {
				if lost || at < index || is == peers.Forming && at != index || is == peers.Absent && was != is {
					c.kept.resend.Store(true)
					c.kept.drop()
					c.kept.tell()
				}
				index, lost, was = at, false, is
				asks, fall := context.WithCancel(ctx)
				c.kept.fall.Store(&fall)
				_, _, err = peers.StateNews(asks, client, key, at)
				fall()
			}
			agents.Answered(err)
		}
		switch lost = err != nil; {
		case !lost:
			wait = retryEvery
		case consul.Denied(err): // which Consul logs each time
			again = denied
		default:
			again = wait + time.Duration(c.kept.spread*float64(time.Second))
			wait = min(2*wait, retryRarely)
		}
		pause(ctx, again-time.Since(began))
	}
}

// watcher returns the watch. Its client is its own: the heartbeat's must not be used by two.
func (c *companion) watcher() func(context.Context) {
	rt, beat := c.Runtime, c.settings.Beat()
	agents := consul.New(rt.Config, slog.New(slog.DiscardHandler)) // the heartbeat tells of a Consul that is away
	agents.Dial = c.Consul.Dial
	agents.Moves()
	agents.Prefer(rt.Consul)
	return func(ctx context.Context) { c.watch(ctx, agents, rt.Config.RecordKey(), beat) }
}
