package peers_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

// A service beside another is no fitter than that one, without a word of ours, also when the agent
// restarts, and when ours says nothing any more. Its own check says the rest.
func TestBeside(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t, consultest.Persistent())
	client := consul.Client
	node := boot("v1", "b1")
	node.TTL = 10 * time.Second
	beside := node
	beside.Service, beside.Beside, beside.TTL = node.Service+"-management", node.ID(), 2*node.TTL
	is := func(why, want string) {
		t.Helper()
		expect.Eventually(t, expect.Soon, why, func() error {
			found, _, err := client.Health().Service(beside.Service, "", false, &api.QueryOptions{RequireConsistent: true})
			if err != nil || len(found) != 1 {
				return fmt.Errorf("%d entries, %w", len(found), err)
			}
			if got := found[0].Checks.AggregatedStatus(); got != want {
				return fmt.Errorf("it is %s, want %s", got, want)
			}
			return nil
		})
	}
	mustAnnounce(t, client, node)
	expect.Must(t, peers.Replace(t.Context(), client, beside, ""))
	mustReport(t, client, beside, api.HealthPassing)
	is("its node is critical", api.HealthCritical)
	mustReport(t, client, node, api.HealthPassing)
	is("its node passes", api.HealthPassing)
	mustReport(t, client, node, api.HealthWarning)
	is("its node has a warning", api.HealthWarning)
	mustReport(t, client, node, api.HealthPassing)
	mustReport(t, client, beside, api.HealthCritical)
	is("its port is silent", api.HealthCritical)
	mustReport(t, client, beside, api.HealthPassing)
	is("its port answers", api.HealthPassing)

	expect.Must(t, peers.Reregister(t.Context(), client, beside))
	is("it is registered over itself", api.HealthPassing)
	mustReport(t, client, node, api.HealthCritical)
	is("its node is critical again", api.HealthCritical)
	mustReport(t, client, node, api.HealthPassing)
	consul.Restart()
	is("the agent was restarted", api.HealthPassing)
	is("nobody says anything for a TTL", api.HealthCritical)

	mustReport(t, client, node, api.HealthPassing)
	mustReport(t, client, beside, api.HealthPassing)
	is("it is told again", api.HealthPassing)
	expect.Must(t, peers.Withdraw(t.Context(), client, node))
	is("its node's entry is gone, and its TTL tells", api.HealthCritical)
}
