package companion

import (
	"net"
	"slices"
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

// What something registers over the entry of a plugin, or removes, comes right by itself, though
// Consul takes each report; and so does an entry of a port that RabbitMQ does not listen at.
func TestPluginsAreReadBack(t *testing.T) {
	t.Parallel()
	client := consultest.Start(t).Client
	port := func() int {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		expect.Must(t, err)
		t.Cleanup(func() { ln.Close() })
		return ln.Addr().(*net.TCPAddr).Port
	}
	configured, moved := port(), port()
	c := companionFor(config.Config{Service: "rabbitmq", Node: "rabbit@a", TTL: 10 * time.Second, StateDir: t.TempDir(), Management: rabbitconf.Listener{Port: configured}, Tags: []string{"x"}}, statedir.Runtime{Address: "127.0.0.1", Located: true, Boot: "boot"}, nil)
	id := c.services.plugins[0].ID()
	expect.Must(t, peers.Announce(t.Context(), client, c.services.reg, peers.Starting, ""))
	expect.Must(t, peers.Report(t.Context(), client, c.services.reg, api.HealthPassing, ""))
	has := func(when string, port int) {
		t.Helper()
		c.services.reportPlugins(t.Context(), client)
		s, _, err := client.Agent().Service(id, nil)
		if err != nil || s.Port != port || s.Meta["boot"] != "boot" || !slices.Equal(s.Tags, c.services.plugins[0].Tags) {
			t.Fatalf("%s: %+v, %v; want port %d", when, s, err, port)
		}
		if status, _, err := client.Agent().AgentHealthServiceByID(id); err != nil || status != api.HealthPassing {
			t.Errorf("%s: it is %s, %v", when, status, err)
		}
	}
	over := func() {
		expect.Must(t, client.Agent().ServiceRegister(&api.AgentServiceRegistration{ID: id, Name: "rabbitmq-management", Address: "127.0.0.1", Port: 1}))
	}
	ages := func() { // a quarter of its TTL passes
		last := c.services.told["rabbitmq-management"]
		last.at = last.at.Add(-c.services.plugins[0].TTL / 4)
		c.services.told["rabbitmq-management"] = last
	}
	has("first", configured)
	over()
	ages()
	has("registered over", configured)
	expect.Must(t, client.Agent().ServiceDeregister(id))
	ages()
	has("removed", configured)
	c.listensWeb([]peers.WebListener{{Plugin: "management", IP: "::", Port: moved}})
	has("moved", moved)
	if kept, err := statedir.ReadRuntime(c.Runtime.Config.StateDir); err != nil || kept.Config.Management.Port != moved {
		t.Errorf("the next companion reads %+v, %v", kept, err)
	}
}
