package companion

import (
	"context"
	"fmt"
	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/policy"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
)

// A partition is found, and healed, whatever else cannot be asked.
func TestPartitionIsFound(t *testing.T) {
	t.Parallel()
	agent := consultest.Start(t)
	r := peers.Record{State: peers.Formed, ClusterID: "id", Members: map[string]string{"a": "va", "b": "vb", "c": "vc"}}
	passing := healthcheck.Result{State: healthcheck.Passing, Reason: "answers"}
	for _, tc := range []struct {
		name       string
		partitions string
		away       bool // Consul
		unverified bool
		critical   bool // the AMQP check
		drained    bool
		heals      bool
		status     string
		says       string
	}{
		{name: "partitioned", partitions: "a,b", heals: true, status: api.HealthCritical, says: "partitioned from a, b: a, b go on"},
		{name: "without Consul", partitions: "a,b", away: true, heals: true, status: api.HealthCritical, says: "partitioned from a, b: a, b go on"},
		{name: "without Consul, not verified", partitions: "a,b", away: true, unverified: true, heals: true, status: api.HealthCritical, says: "not verified"},
		{name: "AMQP fails, too", partitions: "a,b", critical: true, heals: true, status: api.HealthCritical, says: "answers; partitioned from a, b"},
		{name: "drained", partitions: "a,b", drained: true, heals: true, status: api.HealthCritical, says: "drained since"},
		{name: "over", status: api.HealthPassing, says: "answers"},
		{name: "over, without Consul", away: true, status: api.HealthPassing, says: "not checked against the record"},
		{name: "over, AMQP fails", critical: true, status: api.HealthCritical, says: "answers"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			asked := 0
			run := func(_ context.Context, argv ...string) (string, error) {
				if strings.Contains(argv[len(argv)-1], "view|") {
					return fmt.Sprintf("view|id|a,b,c|a,b,c|%s|false|\npauses|true|\nside|a|a,b|c|\nside|b|a,b|c|\nside|c|c|a,b|\n", tc.partitions), nil
				}
				asked++
				return "", nil
			}
			dir := testVolume(t)
			cfg := config.Config{Node: "c", TTL: 15 * time.Second, Consul: []string{agent.Addr}, KeyPrefix: "test", Service: strings.ReplaceAll(tc.name, " ", "-"), Data: dir.Data, StateDir: dir.State}
			if tc.away {
				cfg.Consul = []string{"127.0.0.1:1"}
			}
			if tc.drained {
				expect.Must(t, dir.WriteMaintenance(statedir.Maintenance{Drained: true, Done: true, At: time.Now()}))
			}
			_, err := peers.WriteRecord(t.Context(), agent.Client, cfg.RecordKey(), r, 0, "", "")
			expect.Must(t, err)
			c := companionFor(cfg, statedir.Runtime{Role: statedir.Member, Cluster: "id", Volume: "vc"}, run)
			c.state.Server.Phase, c.state.Membership.Verified, c.state.Membership.VerifiedSince = policy.Serving, !tc.unverified, time.Now()
			if tc.partitions == "" { // there was one
				c.state.Partition.Since, c.state.Fault.Reason, c.state.View.Partitions = time.Now(), "partitioned from a, b", names("a,b")
			}
			seen := c.glance()
			seen.Health = passing
			if tc.critical {
				seen.Health.State = healthcheck.Critical
			}
			v, ok := c.decide(t.Context(), &seen)
			if tc.heals != (asked == 1) || !ok || v.Status != tc.status || !strings.Contains(v.Reason, tc.says) {
				t.Errorf("asked %d times, %s, %q", asked, v.Status, v.Reason)
			}
			if over := tc.partitions == ""; over != c.state.Partition.Since.IsZero() || over != (c.state.Fault.Reason == "") {
				t.Errorf("partitioned since %s: %q", c.state.Partition.Since, c.state.Fault.Reason)
			}
		})
	}
}
