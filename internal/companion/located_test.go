package companion

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
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

// A node whose agent was on this host has no address of its own in the entry there. With another
// host's agent in use, Consul would send clients and other nodes to that host.
func TestLocatedAnewAtAnotherAgent(t *testing.T) {
	t.Parallel()
	servers := consultest.StartCluster(t, 1)
	here, elsewhere := consultest.StartAgent(t, servers), beyondLoopback(t, servers[0].Addr)
	own, _, err := net.SplitHostPort(elsewhere)
	expect.Must(t, err)
	cfg := config.Config{
		Service: "rabbitmq", Node: "rabbit@a", KeyPrefix: "rmq-entrypoint", Hosts: "consul", Port: 5672,
		TTL: 2 * time.Second, StateDir: t.TempDir(), Consul: []string{here.Addr, elsewhere},
	}
	c := companionFor(cfg, statedir.Runtime{Volume: "v", Boot: "boot", Since: time.Now()}, nil)
	registers := func(c *companion, want string) {
		t.Helper()
		expect.Eventually(t, expect.Soon, "it is registered at "+want, func() error {
			client, err := c.Consul.Client(t.Context())
			if err == nil && c.Consul.Addr != want {
				_, err = client.Status().Leader()
				c.Consul.Answered(err)
				return errors.Join(err, errors.New(c.Consul.Addr+" is in use"))
			}
			if err != nil {
				return err
			}
			return c.services.announce(t.Context(), client, peers.Serving, "")
		})
	}
	registers(c, here.Addr)
	if service, place := registeredAs(t, servers[0].Client, c.services.reg); service != "" || place == own {
		t.Fatalf("with an agent here: %q, and it says to be at %q", service, place)
	}
	before, err := statedir.ReadRuntime(cfg.StateDir)
	expect.Must(t, err)
	here.Kill()
	registers(c, elsewhere)
	if service, place := registeredAs(t, servers[0].Client, c.services.reg); service != own || place != own {
		t.Errorf("with an agent elsewhere: %q, and it says to be at %q, want %s", service, place, own)
	}
	after, err := statedir.ReadRuntime(cfg.StateDir)
	if expect.Must(t, err); after.Address != own {
		t.Errorf("the next companion begins at %q", after.Address)
	}
	// The file on the volume may be from before the move.
	next := companionFor(cfg, *before, nil)
	registers(next, elsewhere)
	if service, _ := registeredAs(t, servers[0].Client, next.services.reg); service != own {
		t.Errorf("by a companion that knew of the agent here: %q", service)
	}
	c.Consul.Addr = here.Addr // back again
	if err := c.services.locate(t.Context()); err != nil || c.services.reg.Address != own {
		t.Errorf("back with the agent here: %q, %v", c.services.reg.Address, err)
	}
}

// registeredAs returns the address in the node's entry, "" for its agent's own, and the one in its
// key. The agent brings an entry into the catalog in its own time.
func registeredAs(t *testing.T, client *api.Client, r peers.Registration) (service, place string) {
	t.Helper()
	expect.Eventually(t, expect.Soon, "the entry reaches the catalog", func() error {
		all, _, err := client.Catalog().Service(r.Service, "", nil)
		if err != nil {
			return err
		}
		for _, s := range all {
			if s.ServiceID == r.ID() && s.ServiceMeta["entry"] == r.Made {
				service = s.ServiceAddress
				return nil
			}
		}
		return errors.New("it is not there")
	})
	pair, _, err := client.KV().Get(r.Places.Prefix+r.Node, nil)
	expect.Must(t, err)
	if pair == nil {
		t.Fatal("it does not say where it is")
	}
	var p peers.Place
	expect.Must(t, json.Unmarshal(pair.Value, &p))
	return service, p.Address
}

// beyondLoopback has an agent answer at an address of this machine that others reach it at, as one
// of another host does.
func beyondLoopback(t *testing.T, agent string) string {
	t.Helper()
	address, err := consul.Advertise(context.Background(), config.Config{}, "198.51.100.1:8500")
	expect.Must(t, err)
	ln, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	expect.Must(t, err)
	front := &httptest.Server{Listener: ln, Config: &http.Server{
		Handler: httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: agent}), ReadHeaderTimeout: time.Minute,
	}}
	front.Start()
	t.Cleanup(front.Close)
	return ln.Addr().String()
}
