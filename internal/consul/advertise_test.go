package consul

import (
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
	for _, c := range []struct{ setting, want string }{
		{"", ""}, {"203.0.113.1", "203.0.113.1"}, {"fd00::1", "fd00::1"},
		{"127.0.0.0/8", "127.0.0.1"}, {"lo", "127.0.0.1"}, {"203.0.113.0/24", "error"},
	} {
		if got, err := AddressOf(c.setting); got != c.want && (c.want != "error" || err == nil) {
			t.Errorf("%q: %q, %v; want %q", c.setting, got, err, c.want)
		}
	}
}
