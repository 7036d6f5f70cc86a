package companion

import (
	"context"
	"fmt"
	"sync"
	"time"

	"rmq-entrypoint/internal/policy"
)

// A worker does one piece of work at a time, in a goroutine of its own, and says what it is
// at. One goroutine, loop, starts it and cuts it short.
type worker struct {
	done chan struct{} // closed once the work has ended; nil: it never began
	stop context.CancelFunc

	mu    sync.Mutex
	what  string        // it is at
	since time.Time     // when it began with that
	left  time.Duration // that it may take for it
}

// start begins with the work unless the last one goes on.
func (w *worker) start(ctx context.Context, work func(context.Context)) {
	if !w.idle() {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	w.done, w.stop = done, cancel
	w.at("beginning", usual)
	go func() { defer close(done); defer cancel(); work(ctx) }()
}

func (w *worker) idle() bool {
	if w.done == nil {
		return true
	}
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

func (w *worker) cut() {
	if w.stop != nil {
		w.stop()
	}
}

// at notes what the work is at from now on, and how long that takes at most.
func (w *worker) at(what string, most time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.what, w.since, w.left = what, time.Now(), most
}

// tick takes the time since the last tick off what is left, and returns an error once nothing
// is. Ticks are counted, not time: a process that was stopped for an hour does not hang.
func (w *worker) tick(d time.Duration) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.idle() {
		return nil
	}
	if w.left -= d; w.left >= 0 {
		return nil
	}
	return fmt.Errorf("the companion hangs: %s for %s, and without an end", w.what, time.Since(w.since).Round(time.Second))
}

// How long a step of a heartbeat takes at most. Each is bounded by itself, but for what waits
// for a disk: what takes longer than this will not end.
const (
	disk  = 30 * time.Second
	usual = time.Minute
	long  = 15 * time.Minute // several steps of minutes each
)

// bound is how long an action takes at most.
func bound(a policy.Action) time.Duration {
	switch a.(type) {
	case policy.WritePending, policy.FailJoin, policy.WriteCarryOn, policy.DropCarryOn, policy.WriteMarker:
		return disk
	case policy.JoinPeer, policy.ForceBoot, policy.Settle, policy.EndMaintenance, policy.ForgetMember:
		return long
	}
	return usual
}
