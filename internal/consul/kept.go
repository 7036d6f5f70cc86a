package consul

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

// Kept is what was read through Raft last, for as long as a blocking query stands that would have
// told of a change. The query is answered by any server and costs the leader nothing. What it tells
// is news, and not the fact: that is to be read through Raft again. A query that fails, or an index
// that goes backwards, is no answer, and nothing is kept any more.
type Kept[T any] struct {
	// Block reads at any server once it is past the index, or has waited for long. It returns what is
	// there then and the index to go on from.
	Block   func(ctx context.Context, client *api.Client, index uint64) (T, uint64, error)
	Same    func(a, b T) bool
	Changed func() // is told of a change, from another goroutine
	For     time.Duration

	watching sync.WaitGroup
	mu       sync.Mutex
	closed   bool
	fall     context.CancelFunc // ends the query that stands; nil: none does
	client   *api.Client        // that asks it
	value    T
	until    time.Time
}

// Holds returns what was read with that client, if it still holds.
func (k *Kept[T]) Holds(client *api.Client) (value T, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fall == nil || k.client != client || time.Now().After(k.until) {
		return value, false
	}
	return k.value, true
}

// Keep keeps what was read through Raft with that client, at that index. A query that stands for it
// goes on.
func (k *Kept[T]) Keep(client *api.Client, value T, index uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return
	}
	k.until = time.Now().Add(k.For)
	if k.fall != nil && k.client == client && k.Same(k.value, value) {
		k.value = value
		return
	}
	k.drop()
	ctx, fall := context.WithCancel(context.Background()) // #nosec G118 -- drop calls it
	k.fall, k.client, k.value = fall, client, value
	k.watching.Go(func() { k.watch(ctx, client, value, index) })
}

// Drop forgets it.
func (k *Kept[T]) Drop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.drop()
}

func (k *Kept[T]) drop() {
	if k.fall != nil {
		k.fall()
	}
	k.fall = nil
}

// Close forgets it for good, and waits for the end of the query.
func (k *Kept[T]) Close() {
	k.mu.Lock()
	k.closed = true
	k.drop()
	k.mu.Unlock()
	k.watching.Wait()
}

// How long a query that came back early, and with nothing new, is not asked again: longer each
// time, so that what answers without waiting is not asked all the time.
const (
	early      = time.Second
	leastPause = 50 * time.Millisecond
	mostPause  = 2 * time.Second
)

// watch asks until ctx ends, there is a change, or nothing is known any more.
func (k *Kept[T]) watch(ctx context.Context, client *api.Client, value T, index uint64) {
	for pause := leastPause; ctx.Err() == nil; {
		began := time.Now()
		now, at, err := k.Block(ctx, client, index)
		unknown := err != nil || at < index
		if changed := !unknown && !k.Same(now, value); unknown || changed {
			k.mu.Lock()
			over := ctx.Err() != nil // and another query may stand
			if !over {
				k.drop()
			}
			k.mu.Unlock()
			if changed && !over {
				k.Changed()
			}
			return
		}
		index = at
		if time.Since(began) > early {
			pause = leastPause
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, mostPause)
	}
}
