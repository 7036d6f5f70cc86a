package lock_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/lock"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

func options(node string, log *logged) lock.Options {
	opts := lock.Options{
		Key: key, Owner: lock.Owner{Node: "rabbit@" + node, Host: "host-" + node},
		TTL: 10 * time.Second, Delay: time.Millisecond,
	}
	if log != nil {
		opts.Log = slog.New(slog.NewJSONHandler(log, nil))
	}
	return opts
}

func acquire(t *testing.T, client *api.Client, opts lock.Options) *lock.Lock {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), expect.Soon)
	defer cancel()
	l, err := lock.Acquire(ctx, client, opts)
	must(t, err)
	return l
}

type acquired struct {
	l   *lock.Lock
	err error
}

func acquiring(ctx context.Context, client *api.Client, opts lock.Options) <-chan acquired {
	got := make(chan acquired, 1)
	go func() {
		l, err := lock.Acquire(ctx, client, opts)
		got <- acquired{l, err}
	}()
	return got
}

func sessions(t *testing.T, consul *consultest.Consul) (ids []string) {
	t.Helper()
	all, _, err := consul.Client.Session().List(nil)
	must(t, err)
	for _, s := range all {
		ids = append(ids, s.ID)
	}
	return ids
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(expect.Soon); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", expect.Soon, what)
		}
	}
}

// logged collects log lines.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// wait waits until all of parts were logged.
func (l *logged) wait(t *testing.T, parts ...string) {
	t.Helper()
	until(t, fmt.Sprintf("log %q", parts), func() bool {
		for _, part := range parts {
			if !strings.Contains(l.String(), part) {
				return false
			}
		}
		return true
	})
}
