package admin

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

func testVolume(t *testing.T) statedir.Dir {
	t.Helper()
	base := t.TempDir()
	v := statedir.Dir{Data: filepath.Join(base, "rabbit@a"), State: filepath.Join(base, "rabbit@a-entrypoint")}
	expect.Must(t, os.Mkdir(v.State, 0o755))
	return v
}

// A command works on a server that has started and was let in. Behind the gate it has started, and
// is no member yet.
func TestHasWork(t *testing.T) {
	self, err := statedir.Self()
	expect.Must(t, err)
	for name, c := range map[string]struct {
		rt   statedir.Runtime
		says string // "": it has
	}{
		"it runs":         {statedir.Runtime{PID: self.PID, Started: self.Started}, ""},
		"another watches": {statedir.Runtime{PID: self.PID, Started: self.Started, Waiting: statedir.Replaced}, ""},
		"it waits":        {statedir.Runtime{PID: self.PID, Started: self.Started, Waiting: "Consul"}, "nothing to drain: the server is not started, it waits for Consul"},
		"behind the gate": {statedir.Runtime{PID: self.PID, Started: self.Started, Waiting: "Consul", Gated: true}, "nothing to drain: the server has started, and waits behind the gate"},
		"it is gone":      {statedir.Runtime{PID: 999999999, Started: 1}, "nothing to drain: the server (pid 999999999) does not run"},
	} {
		err := hasWork(c.rt, "drain")
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}

// names are comma-separated.
func names(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

// Before the first time there is none.
func TestWhen(t *testing.T) {
	if got := when(time.Time{}); got != "never" {
		t.Errorf("%q", got)
	}
	if got := when(time.Unix(0, 0).UTC()); got != "1970-01-01T00:00:00Z" {
		t.Errorf("%q", got)
	}
}

// A command that a signal cannot stop any more keeps its lock.
func TestLockKeptAfterSignal(t *testing.T) {
	t.Parallel()
	c := consultest.Start(t)
	link := consultest.Proxy(t, c.Addr)
	cfg := config.Config{Consul: []string{link.Addr}, Service: "s", KeyPrefix: rand.Text(), Node: "b@h", TTL: 10 * time.Second, LockDelay: time.Millisecond}
	_, err := peers.WriteRecord(t.Context(), c.Client, cfg.RecordKey(), peers.Record{State: peers.Formed, ClusterID: "id-1", Members: map[string]string{"b@h": "vb"}}, 0, "", "")
	expect.Must(t, err)
	ctx, signal := context.WithCancel(t.Context())
	renew := consultest.Request("PUT", "/v1/session/renew/")
	expect.Must(t, underLock(ctx, cfg, "id-1", func(_ *api.Client, _ string, _ peers.Record, _ uint64) error {
		before := link.Count(renew)
		signal()
		for until := time.Now().Add(20 * time.Second); link.Count(renew) == before; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(until) {
				return errors.New("the lock is not kept")
			}
		}
		return nil
	}))
	if pair, _, err := c.Client.KV().Get(cfg.LockKey(), nil); err != nil || pair != nil && pair.Session != "" {
		t.Errorf("the lock is not given back: %+v, %v", pair, err)
	}
}
