package formation

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

// A node that was to claim the cluster reads the catalog again under the lock: who registered
// meanwhile is waited for.
func TestClaimSeesWhoRegisteredMeanwhile(t *testing.T) {
	t.Parallel()
	agent := consultest.Start(t)
	lost := peers.Record{State: peers.Formed, ClusterID: "id", Members: map[string]string{}, Gone: map[string]peers.Gone{"rabbit@b": {Volume: "v1"}}}
	for name, c := range map[string]struct {
		record peers.Record
		status string // of another node; "": there is none
		says   string // its check
		want   error
	}{
		"nobody-and-no-record":      {},
		"another-and-no-record":     {status: api.HealthCritical, want: errRegistered},
		"nobody-and-all-are-gone":   {record: lost},
		"another-and-all-are-gone":  {record: lost, status: api.HealthPassing, want: errRegistered},
		"one-dead-and-all-are-gone": {record: lost, status: api.HealthCritical, says: "TTL expired"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config.Config{Service: name, Node: "rabbit@b", KeyPrefix: "rmq-entrypoint", TTL: 15 * time.Second, LockDelay: time.Millisecond, StateDir: t.TempDir(), Consul: []string{agent.Addr}}
			log := slog.New(slog.DiscardHandler)
			f := &formation{Options: Options{Log: log, Agents: consul.New(cfg, log), SetWaiting: func(string) {}, Runtime: statedir.Runtime{Config: cfg, Boot: "b2"}}, cfg: cfg, dir: statedir.Of(cfg)}
			var o observation
			if c.record.State != peers.Absent {
				_, err := peers.WriteRecord(t.Context(), agent.Client, cfg.RecordKey(), c.record, 0, "", "")
				expect.Must(t, err)
			}
			if c.status != "" {
				other := peers.Registration{Service: name, Node: "rabbit@a", Address: "10.0.0.1", TTL: time.Hour, DeregisterAfter: time.Hour, Start: peers.Start{Boot: "b1", Volume: "v0"}}
				expect.Must(t, peers.Announce(t.Context(), agent.Client, other, peers.Blank, ""))
				expect.Must(t, peers.Report(t.Context(), agent.Client, other, c.status, c.says))
			}
			var err error
			_, o.catalog, err = peers.Catalog(t.Context(), agent.Client, name, "") // what it saw was before that
			expect.Must(t, err)
			o.Record.Value, o.record, err = peers.ReadRecord(t.Context(), agent.Client, cfg.RecordKey())
			expect.Must(t, err)
			plan, err := f.act(t.Context(), o, peers.Decision{Action: peers.Claim})
			if !errors.Is(err, c.want) || (plan == nil) != (c.want != nil) {
				t.Fatalf("%+v, %v; want %v", plan, err, c.want)
			}
			if plan != nil {
				expect.Must(t, plan.Lock.Release(t.Context()))
			}
			r, _, err := peers.ReadRecord(t.Context(), agent.Client, cfg.RecordKey())
			if err != nil || (r.State == peers.Forming) != (c.want == nil) {
				t.Errorf("the record is %+v, %v", r, err)
			}
		})
	}
}
