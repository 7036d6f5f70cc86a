package consul

import (
	"log/slog"
	"strings"
	"testing"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/tests/expect"
)

// Before an agent is in use the route to the first one counts.
func TestAdvertiseBeforeConsulIsAsked(t *testing.T) {
	cfg, err := config.FromEnvironment(expect.Environ("CONSUL_HTTP_ADDR=198.51.100.1:8500"))
	expect.Must(t, err)
	before, err := Advertise(t.Context(), cfg, "")
	expect.Must(t, err)
	then, err := Advertise(t.Context(), cfg, "198.51.100.1:8500")
	if expect.Must(t, err); before != then {
		t.Errorf("%q before, %q then", before, then)
	}
	// Not knowing is not the agent's own address, with which others would look for the node there.
	if address, err := Advertise(t.Context(), cfg, "consul.invalid:8500"); err == nil || !strings.Contains(err.Error(), "RMQ_ADVERTISE") {
		t.Errorf("%q, %v", address, err)
	}
}

// However an agent on this host is addressed, its own address is registered.
func TestAdvertiseWithAnAgentHere(t *testing.T) {
	for _, agent := range []string{"unix:///run/consul.sock", "127.0.0.1:8500", "http://localhost:8500", "http://localhost/", "https://127.0.0.1", "[::1]:8500", "http://[::1]/"} {
		if address, err := Advertise(t.Context(), config.Config{}, agent); err != nil || address != "" {
			t.Errorf("%s: %q, %v", agent, address, err)
		}
	}
}

func TestAddressOf(t *testing.T) {
	for _, c := range []struct{ setting, hosts, want string }{
		{"", "", ""}, {"203.0.113.1", "", "203.0.113.1"}, {"fd00::1", "consul", "fd00::1"},
		{"127.0.0.0/8", "", "127.0.0.1"}, {"lo", "consul", "127.0.0.1"}, {"203.0.113.0/24", "", "error no such subnet"},
		{"Broker1.Invalid.", "", "broker1.invalid"}, // whoever has to know it may be elsewhere
		{"nonesuch0", "", "error no such interface, and no host of that name is known here"},
		{"10.0.0.300", "", "error it is no host name"}, {"eth0.100", "", "error it is no host name"},
		{"broker1.invalid", "consul", "error RMQ_HOSTS"},
	} {
		got, err := AddressOf(t.Context(), slog.New(slog.DiscardHandler), config.Config{Advertise: c.setting, Hosts: c.hosts})
		words, fails := strings.CutPrefix(c.want, "error ")
		if fails != (err != nil) || !fails && got != c.want || fails && (!strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), "--advertise (RMQ_ADVERTISE)")) {
			t.Errorf("%q: %q, %v; want %q", c.setting, got, err, c.want)
		}
	}
}
