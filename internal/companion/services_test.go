package companion

import (
	"net"
	"testing"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/rabbitconf"
)

// Without an address of Consul's name there is none of the node's either: nothing is registered.
func TestLocate(t *testing.T) {
	rt := &statedir.Runtime{Config: config.Config{Service: "rabbitmq", Node: "rabbit@localhost", Consul: []string{"consul.invalid:8500"}}}
	c := &Companion{rt: *rt, consul: &consul.Agents{Addr: "consul.invalid:8500"}}
	if err := c.locate(t.Context()); err == nil || c.rt.Located {
		t.Errorf("located at %q, %v", c.rt.Address, err)
	}
	c.rt.Config.StateDir = t.TempDir()
	c.rt.Config.Management = rabbitconf.Listener{Port: 15672}
	c.beside = consul.PluginServices(c.rt)
	c.consul.Addr = "198.51.100.1:8500" // elsewhere: the source of the route there
	if err := c.locate(t.Context()); err != nil || !c.rt.Located || net.ParseIP(c.reg.Address) == nil || c.reg.Address != consul.Registration(c.rt).Address || c.beside[0].Address != c.reg.Address {
		t.Errorf("located at %q, registered at %q and %+v, %v", c.rt.Address, c.reg.Address, c.beside, err)
	}
	if kept, err := statedir.ReadRuntime(c.rt.Config.StateDir); err != nil || kept.Address != c.reg.Address {
		t.Errorf("the next companion reads %+v, %v", kept, err)
	}
}
