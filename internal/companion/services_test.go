package companion

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
	"rmq-entrypoint/tests/expect"
)

// Without an address of Consul's name there is none of the node's either: nothing is registered.
func TestLocate(t *testing.T) {
	cfg := config.Config{Service: "rabbitmq", Node: "rabbit@localhost", Consul: []string{"consul.invalid:8500"}, StateDir: t.TempDir(), Management: rabbitconf.Listener{Port: 15672}}
	c := companionFor(cfg, statedir.Runtime{}, nil)
	c.Consul.Addr = "consul.invalid:8500"
	rt, s := &c.Runtime, &c.services
	if err := s.locate(t.Context()); err == nil || rt.Located {
		t.Errorf("located at %q, %v", rt.Address, err)
	}
	c.Consul.Addr = "198.51.100.1:8500" // elsewhere: the source of the route there
	if err := s.locate(t.Context()); err != nil || !rt.Located || net.ParseIP(s.reg.Address) == nil || s.reg.Address != consul.Registration(*rt).Address || s.plugins[0].Address != s.reg.Address {
		t.Errorf("located at %q, registered at %q and %+v, %v", rt.Address, s.reg.Address, s.plugins, err)
	}
	if kept, err := statedir.ReadRuntime(cfg.StateDir); err != nil || kept.Address != s.reg.Address {
		t.Errorf("the next companion reads %+v, %v", kept, err)
	}
}

// A node whose address to register is not known is looked after all the same.
func TestHeartbeatWithoutAddress(t *testing.T) {
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }))
	defer agent.Close()
	client, err := api.NewClient(&api.Config{Address: agent.URL})
	expect.Must(t, err)
	dir := testVolume(t)
	cfg := config.Config{Service: "rabbitmq", Node: "rabbit@a", TTL: 15 * time.Second, JoinTimeout: time.Hour, Consul: []string{"consul.invalid:8500"}, Data: dir.Data, StateDir: dir.State}
	c := companionFor(cfg, statedir.Runtime{Boot: "boot", Role: statedir.Member}, nil)
	c.Consul.Current, c.Consul.Addr = client, "consul.invalid:8500"
	expect.Must(t, dir.WriteMaintenance(statedir.Maintenance{Done: true, At: time.Now()}))
	c.beat(t.Context(), c.glance())
	if reason := c.board.read().Reason; !strings.Contains(reason, "maintenance: drained since") || !strings.Contains(reason, "--advertise") {
		t.Errorf("it says %q", reason)
	}
}

// Consul is told nothing of a plugin's service that it does not have: it logs each such word. One
// that is registered turns critical when its port is silent.
func TestPluginsAreReported(t *testing.T) {
	var updates, unknown, registered atomic.Int32
	var has sync.Map // by id
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/v1/agent/check/update/"):
			if updates.Add(1); registered.Load() == 0 {
				unknown.Add(1)
				http.Error(w, "Unknown check ID", http.StatusNotFound)
			}
		case r.URL.Path == "/v1/agent/service/register":
			var s api.AgentServiceRegistration
			expect.Must(t, json.NewDecoder(r.Body).Decode(&s))
			has.Store(s.ID, &api.AgentService{ID: s.ID, Service: s.Name, Address: s.Address, Port: s.Port, Tags: s.Tags, Meta: s.Meta})
			registered.Add(1)
		case r.URL.Path == "/v1/agent/services":
			all := map[string]any{}
			has.Range(func(id, s any) bool { all[id.(string)] = s; return true })
			expect.Must(t, json.NewEncoder(w).Encode(all))
		case strings.HasPrefix(r.URL.Path, "/v1/agent/service/"):
			http.NotFound(w, r)
		case strings.HasPrefix(r.URL.Path, "/v1/agent/"):
			_, _ = w.Write([]byte("{}"))
		default:
			_, _ = w.Write([]byte("[]"))
		}
	}))
	defer agent.Close()
	client, err := api.NewClient(&api.Config{Address: agent.URL})
	expect.Must(t, err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	expect.Must(t, err)
	port := ln.Addr().(*net.TCPAddr).Port
	expect.Must(t, ln.Close())
	c := companionFor(config.Config{Service: "rabbitmq", Node: "rabbit@a", StateDir: t.TempDir(), Management: rabbitconf.Listener{Port: port}}, statedir.Runtime{Address: "127.0.0.1", Located: true, Boot: "boot"}, nil)
	report := func(wantUpdates, wantUnknown, wantRegistered int32) {
		t.Helper()
		ctx, done := context.WithTimeout(t.Context(), 10*time.Second)
		defer done()
		c.services.reportPlugins(ctx, client)
		if updates.Load() != wantUpdates || unknown.Load() != wantUnknown || registered.Load() != wantRegistered {
			t.Errorf("%d reports, %d of what is not there, %d registrations; want %d, %d, %d", updates.Load(), unknown.Load(), registered.Load(), wantUpdates, wantUnknown, wantRegistered)
		}
	}
	service := c.services.plugins[0].Service
	ages := func() { // half its TTL passes
		last := c.services.told[service]
		last.at = last.at.Add(-c.services.plugins[0].TTL / 2)
		c.services.told[service] = last
	}
	report(0, 0, 0) // its port is silent: it is not enabled
	report(0, 0, 0)
	ln, err = net.Listen("tcp", ln.Addr().String())
	expect.Must(t, err)
	report(1, 0, 1)
	report(1, 0, 1) // nothing is new
	ages()
	report(2, 0, 1)
	expect.Must(t, ln.Close())
	report(3, 0, 1) // it is told that it is silent
	report(3, 0, 1)
	ln, err = net.Listen("tcp", ln.Addr().String())
	expect.Must(t, err)
	report(4, 0, 1)
	expect.Must(t, c.services.announce(t.Context(), client, peers.Serving, "")) // its node had lost its entry
	report(5, 0, 2)
	if client, err = api.NewClient(&api.Config{Address: agent.URL}); err != nil {
		t.Error(err)
	}
	report(6, 0, 2) // another agent, as far as is known
	registered.Store(0)
	expect.Must(t, ln.Close())
	report(7, 1, 0) // Consul lost it
	report(7, 1, 0)
}

// A companion that replaces another one tells Consul at once what the other may have registered.
func TestPluginsOfAnEarlierCompanion(t *testing.T) {
	for waiting, want := range map[string]int{statedir.Replaced: 1, "": 0} {
		c := companionFor(config.Config{Service: "rabbitmq", Node: "rabbit@a", StateDir: t.TempDir(), Management: rabbitconf.Listener{Port: 1}}, statedir.Runtime{Waiting: waiting}, nil)
		if len(c.services.told) != want {
			t.Errorf("%q: it is to tell of %d services, want %d", waiting, len(c.services.told), want)
		}
	}
}
