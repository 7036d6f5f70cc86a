package config

import (
	"strings"
	"testing"

	"rmq-entrypoint/tests/expect"
)

// What is registered: the address as it is to be found out at the start, and the port.
func TestAdvertise(t *testing.T) {
	for setting, want := range map[string]struct {
		at   string
		port int
	}{
		"":                           {"", 5672},
		":35672":                     {"", 35672},
		"203.0.113.7":                {"203.0.113.7", 5672},
		"203.0.113.7:35672":          {"203.0.113.7", 35672},
		"2001:db8::7":                {"2001:db8::7", 5672},
		"[2001:db8::7]":              {"2001:db8::7", 5672},
		"[2001:db8::7]:35672":        {"2001:db8::7", 35672},
		"eth0":                       {"eth0", 5672},
		"eth0:35672":                 {"eth0", 35672},
		"10.0.0.0/24":                {"10.0.0.0/24", 5672},
		"10.0.0.0/24:35672":          {"10.0.0.0/24", 35672},
		"fd00::/64":                  {"fd00::/64", 5672},
		"[fd00::/64]:35672":          {"fd00::/64", 35672},
		"broker1.example.org":        {"broker1.example.org", 5672},
		"broker1.example.org.:35672": {"broker1.example.org.", 35672},
		"my_stack_rabbitmq1_1:35672": {"my_stack_rabbitmq1_1", 35672},
	} {
		cfg, err := FromEnvironment(expect.Environ("RMQ_ADVERTISE=" + setting))
		if err != nil || cfg.Advertise != want.at || cfg.RegisteredPort() != want.port || cfg.Port != 5672 {
			t.Errorf("%q: %q, port %d registered and %d here, %v; want %+v", setting, cfg.Advertise, cfg.RegisteredPort(), cfg.Port, err, want)
		}
	}
}

// Bad input is refused with the setting's name.
func TestBadAdvertise(t *testing.T) {
	for setting, words := range map[string]string{
		"10.0.0.1:65536":             "not a port",
		"broker1.example.org:amqp":   "not a port",
		"broker1.example.org:":       "no address with a port",
		":":                          "no address with a port",
		"[10.0.0.1]:5672":            "brackets",
		"[eth0]":                     "brackets",
		"[fd00::1:5672":              "no address with a port",
		"0.0.0.0:5672":               "the address of no host",
		"[::]":                       "the address of no host",
		"224.0.0.1":                  "the address of no host",
		"localhost:5672":             "what every host calls itself",
		"amqp://broker1.example.org": "not a port",
		"broker_1.example..org":      "none that it takes",
		"two words.example.org":      "none that it takes",
		"broker1.example.org/24":     "none that it takes",
		"fe80::1%eth0":               "no address with a port",
	} {
		_, err := FromEnvironment(expect.Environ("RMQ_ADVERTISE=" + setting))
		if err == nil || !strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), "--advertise (RMQ_ADVERTISE)") {
			t.Errorf("%q: %v, want %q", setting, err, words)
		}
	}
}
