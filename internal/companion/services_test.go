package companion

import (
	"net"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/rabbitconf"
	"testing"
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
