package companion

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/hosts"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

// A marker that cannot be read does not say that there are no members: with a record that is gone,
// the hosts file would lose all of their names.
func TestHostsWithoutMarker(t *testing.T) {
	t.Parallel()
	agent := consultest.Start(t)
	dir := testVolume(t)
	cfg := config.Config{Node: "rabbit@a", TTL: 15 * time.Second, Interval: time.Second, Consul: []string{agent.Addr}, Service: "rabbitmq", KeyPrefix: "rmq-entrypoint", Data: dir.Data, StateDir: dir.State, Hosts: "consul"}
	file := filepath.Join(dir.State, "hosts")
	expect.Must(t, os.WriteFile(file, []byte("10.0.0.2 b\n10.0.0.3 gone\n"), 0o644))
	expect.Must(t, os.WriteFile(filepath.Join(dir.State, "member"), []byte("{"), 0o644))
	said := &spoken{}
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	work.Go(func() {
		keepHosts(ctx, slog.New(slog.NewTextHandler(said, nil)), statedir.Runtime{Config: cfg}, hosts.Of(ctx, cfg, "127.0.0.1"))
	})
	has := func(word string) error {
		if b, err := os.ReadFile(file); err != nil || !strings.Contains(string(b), word) {
			return errors.Join(err, errors.New(string(b)))
		}
		return nil
	}
	expect.Eventually(t, expect.Soon, "it says so", func() error {
		if !said.contain("cannot keep the hosts file current") {
			return errors.New("it says nothing")
		}
		return nil
	})
	expect.Must(t, has("10.0.0.2 b"))
	expect.Must(t, dir.WriteMarker(statedir.Marker{ClusterID: "id", Volume: "v", Members: []string{"rabbit@a", "rabbit@b"}}))
	expect.Eventually(t, expect.Soon, "it goes on", func() error {
		if has("gone") == nil {
			return errors.New("it has not")
		}
		return has("10.0.0.2 b")
	})
}

// spoken is what a log was told.
type spoken struct {
	mu   sync.Mutex
	text strings.Builder
}

func (w *spoken) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(b)
}

func (w *spoken) contain(s string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Contains(w.text.String(), s)
}
