package config

import (
	"testing"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// What RabbitMQ says of its plugins counts, and what it does not list is as configured.
func TestListensWeb(t *testing.T) {
	t.Parallel()
	type at []peers.WebListener
	web := func(plugin, ip string, port int, tls bool) peers.WebListener {
		return peers.WebListener{Plugin: plugin, IP: ip, Port: port, TLS: tls}
	}
	by := func(m, p rabbitconf.Listener) Config { return Config{Management: m, Prometheus: p} }
	usual := by(rabbitconf.Listener{Port: 15672}, rabbitconf.Listener{Port: 15692})
	for name, c := range map[string]struct {
		cfg  Config
		at   at
		want Config
	}{
		"nothing is listed":  {usual, nil, usual},
		"as configured":      {usual, at{web("management", "::", 15672, false), web("prometheus", "0.0.0.0", 15692, false)}, usual},
		"by an address":      {usual, at{web("management", "10.0.0.7", 15672, false)}, usual},
		"one more":           {usual, at{web("management", "::", 1, false), web("management", "::", 15672, false)}, usual},
		"moved":              {usual, at{web("management", "::", 5, false), web("prometheus", "10.0.0.7", 6, true)}, by(rabbitconf.Listener{Port: 5}, rabbitconf.Listener{Host: "10.0.0.7", Port: 6, TLS: true})},
		"to this host alone": {usual, at{web("management", "127.0.0.1", 15672, false)}, by(rabbitconf.Listener{Host: "127.0.0.1", Port: 15672}, usual.Prometheus)},
		"open all the same":  {by(rabbitconf.Listener{Host: "127.0.0.1", Port: 7}, rabbitconf.Listener{}), at{web("management", "127.0.0.1", 9, false), web("management", "::", 8, true)}, by(rabbitconf.Listener{Port: 8, TLS: true}, rabbitconf.Listener{})},
	} {
		cfg := c.cfg
		if news := cfg.ListensWeb(c.at); news != (cfg.Management != c.cfg.Management || cfg.Prometheus != c.cfg.Prometheus) || cfg.Management != c.want.Management || cfg.Prometheus != c.want.Prometheus {
			t.Errorf("%s: news %t: %+v, %+v", name, news, cfg.Management, cfg.Prometheus)
		}
		if cfg.ListensWeb(c.at) {
			t.Errorf("%s: news twice", name)
		}
	}
}
