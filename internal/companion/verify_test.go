package companion

import (
	"context"
	"fmt"
	"maps"
	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/policy"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
	"testing"
	"time"
)

// A record that is lost, or claimed by another, is published with every member that RabbitMQ knows, also one that has
// joined since it was last asked: one that is left out is refused when it is started again.
func TestLostRecordIsPublishedWhole(t *testing.T) {
	t.Parallel()
	agent := consultest.Start(t)
	for i, lost := range []peers.Record{{}, {State: peers.Forming, Claim: "r@c", Seed: "r@x", Session: "s", Members: map[string]string{"r@x": "v-r@x"}}} {
		v := testVolume(t)
		cfg := config.Config{Node: "r@a", TTL: 15 * time.Second, Consul: []string{agent.Addr}, Service: fmt.Sprint("whole", i), KeyPrefix: "rmq-entrypoint", Data: v.Data, StateDir: v.State}
		if lost.State != peers.Absent {
			_, err := peers.WriteRecord(t.Context(), agent.Client, cfg.RecordKey(), lost, 0, "", "")
			expect.Must(t, err)
		}
		c := companionFor(cfg, statedir.Runtime{Role: statedir.Member, Cluster: "id", Volume: "v-r@a", Version: "4.0.5", Located: true, Address: "127.0.0.1"}, func(context.Context, ...string) (string, error) {
			return "view|id|r@a,r@b,r@c|r@a,r@b||false|\n", nil
		})
		c.state.Server.Phase, c.state.Membership.Verified, c.state.Membership.VerifiedSince = policy.Serving, true, time.Now()
		c.state.View = policy.View{View: peers.View{ClusterID: "id", Members: []string{"r@a"}, Running: []string{"r@a"}}, At: time.Now(), RecordIndex: 1}
		seen := c.glance()
		seen.Health = healthcheck.Result{State: healthcheck.Passing, Reason: "answers"}
		verdict, _ := c.decide(t.Context(), &seen)
		status, why := verdict.Status, verdict.Reason
		r, _, err := peers.ReadRecord(t.Context(), agent.Client, cfg.RecordKey())
		if want := map[string]string{"r@a": "v-r@a", "r@b": "", "r@c": ""}; err != nil || r.State != peers.Formed || r.ClusterID != "id" || !maps.Equal(r.Members, want) {
			t.Errorf("in place of %q it published %s with %v, %v (%s, %s); want %v", lost.State, r.State, r.Members, err, status, why, want)
		}
	}
}
