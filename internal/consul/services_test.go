package consul

import (
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

// start is one start of a node that has management, on a volume.
func start(volume, boot string) statedir.Runtime {
	return statedir.Runtime{Volume: volume, Boot: boot, Address: "10.0.0.1", Config: config.Config{
		Service: "rabbitmq", Node: "rabbit@a", TTL: 10 * time.Second, Management: rabbitconf.Listener{Port: 15672},
	}}
}

// left returns how many services the agent has.
func left(t *testing.T, client *api.Client) int {
	t.Helper()
	services, err := client.Agent().Services()
	expect.Must(t, err)
	return len(services)
}

// register registers what the start has, passing.
func register(t *testing.T, client *api.Client, rt statedir.Runtime) {
	t.Helper()
	expect.Must(t, peers.Announce(t.Context(), client, Registration(rt), peers.Starting, ""))
	expect.Must(t, peers.Report(t.Context(), client, Registration(rt), api.HealthPassing, ""))
	for _, e := range PluginServices(rt) {
		expect.Must(t, peers.Replace(t.Context(), client, e.Registration, ""))
		expect.Must(t, peers.Report(t.Context(), client, e.Registration, api.HealthPassing, ""))
	}
	if n := left(t, client); n != 2 {
		t.Fatalf("%d services are registered, want 2", n)
	}
}

// What an earlier start left goes with what is beside it, once nobody speaks for it: of another
// volume, too. Left alone, the one would pass.
func TestBuryTakesWhatIsBeside(t *testing.T) {
	t.Parallel()
	client := consultest.Start(t).Client
	register(t, client, start("v1", "b1"))
	if boot, err := Bury(t.Context(), client, start("v2", "b2"), peers.Blank); err != nil || boot != "" || left(t, client) != 2 {
		t.Errorf("of one that serves it buried %q, %v, and left %d services", boot, err, left(t, client))
	}
	expect.Eventually(t, expect.Soon, "its check lapses", func() error {
		return peers.NameFree(t.Context(), client, Registration(start("v2", "b2")), peers.Blank)
	})
	if boot, err := Bury(t.Context(), client, start("v2", "b2"), peers.Blank); err != nil || boot != "b1" || left(t, client) != 0 {
		t.Errorf("it buried %q, %v, and left %d services", boot, err, left(t, client))
	}
}

// A node withdraws its own entries, and those of no other start.
func TestWithdrawTakesWhatIsBeside(t *testing.T) {
	t.Parallel()
	client := consultest.Start(t).Client
	register(t, client, start("v1", "b1"))
	if err := Withdraw(t.Context(), client, start("v1", "b2")); err != nil || left(t, client) != 2 {
		t.Errorf("another start's: %v, %d services are left", err, left(t, client))
	}
	if err := Withdraw(t.Context(), client, start("v1", "b1")); err != nil || left(t, client) != 0 {
		t.Errorf("its own: %v, %d services are left", err, left(t, client))
	}
}

// Consul logs each report of a check that is not there: a node whose plugin is not enabled tells it
// nothing of that when it stops.
func TestWithdrawReportsWhatIsThere(t *testing.T) {
	t.Parallel()
	c := consultest.Start(t)
	link := consultest.Proxy(t, c.Addr)
	client, rt := consultest.Client(t, link.Addr, ""), start("v1", "b1")
	expect.Must(t, peers.Announce(t.Context(), client, Registration(rt), peers.Starting, ""))
	reports := consultest.Request("PUT", "/v1/agent/check/update/")
	if err := Withdraw(t.Context(), client, rt); err != nil || link.Count(reports) != 0 || left(t, client) != 0 {
		t.Errorf("%v, %d reports, %d services are left", err, link.Count(reports), left(t, client))
	}
	register(t, client, rt)
	before := link.Count(reports)
	if err := Withdraw(t.Context(), client, rt); err != nil || link.Count(reports) != before+1 || left(t, client) != 0 {
		t.Errorf("registered: %v, %d reports, %d services are left", err, link.Count(reports)-before, left(t, client))
	}
}

// The check of a plugin's service is over before Consul removes the node's own entry, of which it
// would say from then on that nothing is wrong.
func TestPluginServicesEndFirst(t *testing.T) {
	for _, ttl := range []time.Duration{10 * time.Second, time.Minute, time.Hour} {
		rt := start("v1", "b1")
		rt.Config.TTL = ttl
		node, beside := Registration(rt), PluginServices(rt)[0]
		if beside.TTL >= node.DeregisterAfter || beside.TTL < 2*node.TTL || beside.Beside != node.ID() || beside.DeregisterAfter != node.DeregisterAfter {
			t.Errorf("with a TTL of %s: %+v", ttl, beside)
		}
	}
}
