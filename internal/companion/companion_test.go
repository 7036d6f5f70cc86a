package companion

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/policy"
	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/expect"
)

func testVolume(t *testing.T) statedir.Dir {
	t.Helper()
	base := t.TempDir()
	v := statedir.Dir{Data: filepath.Join(base, "rabbit@a"), State: filepath.Join(base, "rabbit@a-entrypoint")}
	expect.Must(t, os.Mkdir(v.State, 0o755))
	return v
}

// companionFor is one that is handed a command line which answers as run does, and Consul by
// what cfg says.
func companionFor(cfg config.Config, rt statedir.Runtime, run func(context.Context, ...string) (string, error)) *companion {
	log := slog.New(slog.DiscardHandler)
	rt.Config = cfg
	return newCompanion(Surroundings{
		Log: log, Runtime: rt, Consul: consul.New(cfg, log), Broker: rabbitmq.CLI{Node: cfg.Node, Run: run},
		IsDown: func(context.Context, peers.Peer) bool { return false },
	})
}

// names are comma-separated.
func names(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

// A seed waits for as long as members may be set to, whatever their TTL.
func TestLongestBeat(t *testing.T) {
	for interval, want := range map[time.Duration]bool{policy.LongestBeat: true, policy.LongestBeat + time.Millisecond: false} {
		_, err := config.FromEnvironment(expect.Environ("RMQ_TTL=24h", "RMQ_WAIT_TIMEOUT=80h", "RMQ_JOIN_TIMEOUT=24h", "RMQ_INTERVAL="+interval.String()))
		if (err == nil) != want {
			t.Errorf("an interval of %s: %v", interval, err)
		}
	}
}
