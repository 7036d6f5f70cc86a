package config

import (
	"testing"
	"time"

	"rmq-entrypoint/tests/expect"
)

// What RabbitMQ takes for its node's name, its variables and its booleans, this program
// takes too: as rabbit_env:get_context/0 of 3.10.8, 4.0.5 and 4.3.6 had it.
func TestNamesAsRabbitMQ(t *testing.T) {
	host, err := hostName(false)
	expect.Must(t, err)
	for text, want := range map[string]bool{
		"yes": true, "YES": true, "tRue": true, "1": true, " 1 ": true, "true\n": true,
		"no": false, "false": false, "0": false, "on": false, "y": false, "t": false, "": false,
	} {
		node := "foo@127.0.0.1"
		if !want {
			node = "foo@bar"
		}
		for _, name := range []string{"RABBITMQ_USE_LONGNAME", "USE_LONGNAME"} {
			cfg, err := FromEnvironment(expect.Environ(name+"="+text, "RABBITMQ_NODENAME="+node))
			if err != nil || cfg.LongNames != want {
				t.Errorf("%s=%q: %v, %v; want %v", name, text, cfg.LongNames, err, want)
			}
		}
	}
	for _, c := range []struct{ env, want string }{
		{"", "rabbit@" + host}, {"RABBITMQ_NODENAME=foo", "foo@" + host}, {"NODENAME=foo", "foo@" + host}, {"NODENAME=foo@bar", "foo@bar"},
		{"RABBITMQ_NODENAME=f-o_1@H_x", "f-o_1@H_x"},
	} {
		if cfg, err := FromEnvironment(expect.Environ(c.env)); err != nil || cfg.Node != c.want {
			t.Errorf("%s: %q, %v; want %q", c.env, cfg.Node, err, c.want)
		}
	}
	const table = "127.0.0.1\tlocalhost\n# 10.0.0.1 no.example a\n172.17.0.2 long-1.q.example long-1 # own\n10.0.0.9 other\n10.0.0.8\n"
	for name, want := range map[string]string{"long-1": "long-1.q.example", "other": "other", "a": "a", "10.0.0.8": "10.0.0.8"} {
		if got := canonical(table, name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

// Where Consul is: what its own client would take, with its port where there is none.
func TestConsulAddresses(t *testing.T) {
	for a, want := range map[string]string{
		"consul": "consul:8500", "consul:1": "consul:1", "http://consul": "http://consul:8500", "http://consul/": "http://consul:8500", "http://consul:1/": "http://consul:1",
		"https://consul": "https://consul", "https://consul:8501/": "https://consul:8501", "[::1]": "[::1]:8500", "[::1]:1": "[::1]:1", "http://[::1]/": "http://[::1]:8500",
		"consul/": "consul:8500", "consul:8500/": "consul:8500", "unix:///run/consul.sock": "unix:///run/consul.sock", "10.0.0.1:": "10.0.0.1:8500",
	} {
		if got, err := consulAddress(a); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", a, got, err, want)
		}
	}
	for _, a := range []string{"", "unix://", "unix://a", "ftp://a", "http://", "http://a/b", "a:0", "a b", "https://a:x", "::1", "a?b"} {
		if got, err := consulAddress(a); err == nil {
			t.Errorf("%s: taken as %q", a, got)
		}
	}
	for a, want := range map[string]bool{
		"http://u:secret@a": true, "u@a": true, "b,http://u:sec,ret@a": true, "unix://u:secret@a": true, " http://u@a": true, "a,b:1": false, "unix:///run/@a.sock, b": false, "": false,
		"u:secret%40a:1": true, "[fe80::1%40]:53": false, `"unix:///run/@a.sock"`: false,
	} {
		if got := holdsUser(a); got != want {
			t.Errorf("%s holds a user: %t, want %t", a, got, want)
		}
	}
}

// The interval follows the TTL up to its most; what one setting leaves the others counts.
func TestIntervals(t *testing.T) {
	for env, want := range map[string]time.Duration{"RMQ_TTL=10s": 10 * time.Second / 3, "RMQ_TTL=30s": 10 * time.Second, "RMQ_TTL=2m": 10 * time.Second} {
		if cfg, err := FromEnvironment(expect.Environ(env)); err != nil || cfg.Interval != want {
			t.Errorf("%s: %s, %v; want %s", env, cfg.Interval, err, want)
		}
	}
	for _, env := range [][]string{
		{"RMQ_TTL=4m", "RMQ_WAIT_TIMEOUT=12m30s"}, {"RMQ_TTL=24h", "RMQ_WAIT_TIMEOUT=80h", "RMQ_JOIN_TIMEOUT=24h"},
		{"RMQ_WAIT_TIMEOUT=46s", "RMQ_CLAIM_TIMEOUT=31s"}, {"RMQ_TTL=10s", "RMQ_WAIT_TIMEOUT=40s"},
	} {
		if _, err := FromEnvironment(expect.Environ(env...)); err != nil {
			t.Errorf("%v: %v", env, err)
		}
	}
	for text, want := range map[string]bool{"": true, "5s": true, "10m": true, "4999ms": false, "0": false, "-1s": false, "601s": false} {
		switch cfg, err := FromEnvironment(expect.Environ("RMQ_STOP_TIMEOUT=" + text)); {
		case (err == nil) != want, text == "" && cfg.StopTimeout != 12*time.Second:
			t.Errorf("stop timeout %q: %s, %v", text, cfg.StopTimeout, err)
		case err != nil:
			expect.Says(t, err.Error(), "--stop-timeout", "RMQ_STOP_TIMEOUT", "5s", "10m", "stop_grace_period")
		}
	}
}

// A command's settings are those of the server, but for what it was given itself.
func TestSettingsOfTheServer(t *testing.T) {
	settings := func(flags map[string]string, env ...string) (cfg Config) {
		t.Helper()
		rows := Settings(&cfg)
		for _, s := range rows {
			if text, ok := flags[s.Flag]; ok {
				expect.Must(t, s.Value.Set(text))
			}
		}
		expect.Must(t, cfg.Complete(rows, func(f string) bool { _, ok := flags[f]; return ok }, expect.Environ(env...)))
		return cfg
	}
	type texts map[string]string
	for name, c := range map[string]struct {
		server, command texts
		env, here       []string
		service         string
		differs         bool
	}{
		"the server's flag":                                 {server: texts{"service": "x"}, service: "x"},
		"one variable for both":                             {env: []string{"RMQ_SERVICE=x"}, here: []string{"RMQ_SERVICE=x"}, service: "x"},
		"the server's flag over a variable that both have":  {server: texts{"service": "x"}, env: []string{"RMQ_SERVICE=y"}, here: []string{"RMQ_SERVICE=y"}, service: "x"},
		"a flag of the command's":                           {server: texts{"service": "x"}, command: texts{"service": "y"}, service: "y", differs: true},
		"a variable of the command's":                       {server: texts{"service": "x"}, here: []string{"RMQ_SERVICE=y"}, service: "y", differs: true},
		"the command says what the server has":              {server: texts{"service": "x"}, command: texts{"service": "x"}, service: "x"},
		"a variable that the command has not, the server's": {env: []string{"RMQ_SERVICE=x"}, service: "x"},
	} {
		t.Run(name, func(t *testing.T) {
			server := settings(c.server, append(c.env, "CONSUL_HTTP_ADDR=[::1]:1,b:2")...)
			server.Port = 7
			got, differs := settings(c.command, append(c.here, "CONSUL_HTTP_ADDR=[::1]:1,b:2")...).Of(server)
			if got.Service != c.service || got.Port != 7 || len(got.Consul) != 2 || got.Consul[0] != "[::1]:1" || (differs != nil) != c.differs {
				t.Errorf("service %q, port %d, Consul %q, %q", got.Service, got.Port, got.Consul, differs)
			}
		})
	}
	got, differs := settings(map[string]string{"consul": "[::2]:1,c", "meta": "a=b"}).Of(settings(nil))
	if len(got.Consul) != 2 || got.Consul[0] != "[::2]:1" || got.Meta["a"] != "b" || len(differs) != 2 {
		t.Errorf("Consul %q, meta %v, %q", got.Consul, got.Meta, differs)
	}
}

// The page of the whole cluster is for this host unless somebody says otherwise, and a lone broker has none.
func TestAdmin(t *testing.T) {
	t.Parallel()
	for env, want := range map[string]string{"": "127.0.0.1:15689", "RMQ_ADMIN=": "127.0.0.1:15689", "RMQ_ADMIN=off": "off", "RMQ_ADMIN=:1": ":1", "RMQ_SINGLE=true": "off"} {
		if cfg, err := FromEnvironment(expect.Environ(env, "RABBITMQ_NODENAME=rabbit@a")); err != nil || cfg.Admin != want {
			t.Errorf("%s: %q, %v, want %q", env, cfg.Admin, err, want)
		}
	}
}
