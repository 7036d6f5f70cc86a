package consul

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/tests/expect"
)

// A query is what a test has it say.
type query struct {
	value string
	index uint64
	err   error
}

// keeps returns what keeps "a", read with client at index 7, and where its query is to be answered.
func keeps(t *testing.T, client *api.Client) (k *Kept[string], answer chan query, asked, changes *atomic.Int64) {
	t.Helper()
	answer, asked, changes = make(chan query), new(atomic.Int64), new(atomic.Int64)
	k = &Kept[string]{
		For: time.Hour, Same: func(a, b string) bool { return a == b }, Changed: func() { changes.Add(1) },
		Block: func(ctx context.Context, _ *api.Client, index uint64) (string, uint64, error) {
			asked.Store(int64(index))
			select {
			case <-ctx.Done():
				return "", 0, ctx.Err()
			case q := <-answer:
				return q.value, q.index, q.err
			}
		},
	}
	t.Cleanup(k.Close)
	k.Keep(client, "a", 7)
	return k, answer, asked, changes
}

// What is kept holds until the query tells of a change, and when that tells nothing any more.
func TestKeptUntilThereIsNews(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		says    query
		changes int64
	}{
		"a change":                        {query{"b", 8, nil}, 1},
		"a query that fails":              {query{"a", 8, errors.New("refused")}, 0},
		"an index that goes backwards":    {query{"a", 6, nil}, 0},
		"a change, and it goes backwards": {query{"b", 6, nil}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := new(api.Client)
			k, answer, _, changes := keeps(t, client)
			if value, ok := k.Holds(client); !ok || value != "a" {
				t.Fatalf("at first: %q, %t", value, ok)
			}
			answer <- c.says
			expect.Eventually(t, expect.Soon, "it does not hold", func() error {
				if _, ok := k.Holds(client); ok || changes.Load() != c.changes {
					return errors.New("it holds, or was not told")
				}
				return nil
			})
			k.Keep(client, "c", 9)
			if value, ok := k.Holds(client); !ok || value != "c" {
				t.Errorf("read again: %q, %t", value, ok)
			}
		})
	}
}

// A query that comes back with nothing new is asked again, from the index that it came to; and one
// that stands goes on when the same is read again.
func TestKeptGoesOn(t *testing.T) {
	t.Parallel()
	client := new(api.Client)
	k, answer, asked, changes := keeps(t, client)
	answer <- query{"a", 9, nil}
	k.Keep(client, "a", 8)
	expect.Eventually(t, expect.Soon, "it is asked from there", func() error {
		if asked.Load() != 9 {
			return errors.New("not yet")
		}
		return nil
	})
	k.Keep(client, "a", 10)
	if value, ok := k.Holds(client); !ok || value != "a" || changes.Load() != 0 || asked.Load() != 9 {
		t.Errorf("%q, %t, %d changes, asked from %d", value, ok, changes.Load(), asked.Load())
	}
	k.Keep(client, "b", 12)
	expect.Eventually(t, expect.Soon, "another query stands", func() error {
		if asked.Load() != 12 {
			return errors.New("not yet")
		}
		return nil
	})
	if value, ok := k.Holds(client); !ok || value != "b" {
		t.Errorf("%q, %t", value, ok)
	}
}

// An answer without a wait is not asked for all the time.
func TestKeptIsNotAskedAllTheTime(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	k := &Kept[string]{For: time.Hour, Same: func(a, b string) bool { return true }, Block: func(context.Context, *api.Client, uint64) (string, uint64, error) {
		asked.Add(1)
		return "a", 7, nil
	}}
	k.Keep(nil, "a", 7)
	time.Sleep(2500 * time.Millisecond)
	k.Close()
	if n := asked.Load(); n > 8 { // at 0, 50, 150, 350, 750, 1550 and 3150 ms
		t.Errorf("it was asked %d times", n)
	}
}

// What another client read, what is old, and what was dropped do not hold; after Close nothing does.
func TestKeptNoLonger(t *testing.T) {
	t.Parallel()
	client := new(api.Client)
	k, _, _, changes := keeps(t, client)
	if _, ok := k.Holds(new(api.Client)); ok {
		t.Error("it holds for another client")
	}
	k.Drop()
	if _, ok := k.Holds(client); ok {
		t.Error("it holds and was dropped")
	}
	k.For = -1
	k.Keep(client, "a", 7)
	if _, ok := k.Holds(client); ok {
		t.Error("it holds for longer than it may")
	}
	k.For = time.Hour
	k.Keep(client, "a", 7)
	if _, ok := k.Holds(client); !ok {
		t.Error("read again, it does not hold")
	}
	k.Close()
	k.Keep(client, "a", 7)
	if _, ok := k.Holds(client); ok || changes.Load() != 0 {
		t.Errorf("closed, it holds: %t, %d changes", ok, changes.Load())
	}
}
