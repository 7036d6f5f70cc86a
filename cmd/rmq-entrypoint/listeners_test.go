package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
	"rmq-entrypoint/tests/expect"
)

// Where RabbitMQ says that it listens counts from then on.
func TestListens(t *testing.T) {
	from := func(conf, env string) (config.Config, func(string) string) {
		path := filepath.Join(t.TempDir(), "rabbitmq.conf")
		expect.Must(t, os.WriteFile(path, []byte(conf), 0o644))
		user, err := rabbitconf.ReadUser(rabbitconf.Files{Conf: path, LookupEnv: func(name string) (string, bool) { value := expect.Environ(env)(name); return value, value != "" }})
		expect.Must(t, err)
		getenv := expect.Environ(env)
		cfg, _, err := parse(nil, getenv)
		expect.Must(t, err)
		expect.Must(t, cfg.Listen(user, getenv))
		return cfg, getenv
	}
	for _, c := range []struct {
		conf, env string
		at        []peers.Listener
		news      bool
		port      int
		urls      []string
	}{
		{"", "A=b", nil, false, 5672, []string{"amqp://guest:guest@127.0.0.1:5672/%2F"}},
		{"", "A=b", []peers.Listener{{IP: "::", Port: 5672}}, false, 5672, []string{"amqp://guest:guest@127.0.0.1:5672/%2F"}},
		{"", "A=b", []peers.Listener{{IP: "::", Port: 5672}, {IP: "0.0.0.0", Port: 5672}}, false, 5672, []string{"amqp://guest:guest@127.0.0.1:5672/%2F"}},
		{"", "RABBITMQ_NODE_IP_ADDRESS=10.0.0.7", []peers.Listener{{IP: "10.0.0.7", Port: 5672}}, false, 5672, []string{"amqp://guest:guest@10.0.0.7:5672/%2F"}},
		{"listeners.tcp.default = $(A)", "A=5677", []peers.Listener{{IP: "::", Port: 5677}}, false, 5677, []string{"amqp://guest:guest@127.0.0.1:5677/%2F"}},
		{"", "RABBITMQ_DEFAULT_PASS=p", []peers.Listener{{IP: "fd00::7", Port: 1, TLS: true}, {IP: "127.0.0.1", Port: 2}}, true, 1, []string{"amqp://guest:p@127.0.0.1:2/%2F", "amqps://guest:p@[fd00::7]:1/%2F"}},
		{"", "A=b", []peers.Listener{{IP: "10.0.0.7", Port: 1}, {IP: "10.0.0.7", Port: 5672}, {IP: "::1", Port: 9}}, true, 5672, []string{"amqp://guest:guest@[::1]:9/%2F", "amqp://guest:guest@10.0.0.7:1/%2F", "amqp://guest:guest@10.0.0.7:5672/%2F"}},
		{"", "A=b", []peers.Listener{{IP: "127.0.0.1", Port: 3}}, true, 3, []string{"amqp://guest:guest@127.0.0.1:3/%2F"}},
		{"", "RMQ_AMQP_URL=amqp://h:4", []peers.Listener{{IP: "::", Port: 5999}}, true, 4, []string{"amqp://guest:guest@h:4"}},
	} {
		cfg, getenv := from(c.conf, c.env)
		news := cfg.Listens(c.at)
		urls, err := config.AMQPURLs(cfg, getenv)
		if err != nil || news != c.news || cfg.Port != c.port || !slices.Equal(urls, c.urls) {
			t.Errorf("%q %s %v: news %t, port %d, %q, %v", c.conf, c.env, c.at, news, cfg.Port, urls, err)
		}
		if cfg.Listens(c.at) {
			t.Errorf("%q %s %v: news twice", c.conf, c.env, c.at)
		}
	}
}

// READY said to nobody, by a joiner that listens where no file says: it has joined all the same.
func testReadyLostElsewhere(t *testing.T, w *world) {
	w.putRecord(formed("id-1", map[string]string{"b@localhost": "vb"}))
	w.neighbour("b@localhost", "id-1", "b@localhost")
	n := w.node("a@localhost", "RMQ_AMQP_URL=", "RMQ_JOIN_TIMEOUT="+(6*testBeat+late).String())
	n.env = append(n.env, "RMQ_TEST_AMQP=amqp://"+n.ip+":5999", "RABBITMQ_NODE_PORT="+closed(t))
	n.start()
	n.server(soon)
	n.kill(w.companions()[0])
	n.put(n.path("view"), fmt.Sprintf("view|id-1|%s,b@localhost|%[1]s,b@localhost||false|\nlistener|amqp|%s|5999|false|\n", n.name, n.ip))
	n.tell("amqp up")
	expect.Eventually(t, soon, "another companion", func() error { return w.replaced(n) })
	n.registered(soon, api.HealthPassing)
	if r := n.reports(soon, api.HealthPassing, n.ip+":5999"); r.Role != statedir.Member {
		t.Errorf("it is a %s", r.Role)
	}
	expect.Says(t, n.log(), "READY was not heard")
}

// The default user of RabbitMQ's files is the check's, unless a variable or the URL says otherwise.
func TestDefaultsOfFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rabbitmq.conf")
	expect.Must(t, os.WriteFile(path, []byte("default_user = x\ndefault_pass = y@\ndefault_vhost = /v\n"), 0o644))
	for _, c := range []struct{ env, url string }{
		{"A=b", "amqp://x:y%40@127.0.0.1:5672/%2Fv"},
		{"RABBITMQ_DEFAULT_PASS=z", "amqp://x:z@127.0.0.1:5672/%2Fv"},
		{"RABBITMQ_DEFAULT_USER=u;RABBITMQ_DEFAULT_PASS=z;RABBITMQ_DEFAULT_VHOST=w", "amqp://u:z@127.0.0.1:5672/w"},
		{"RMQ_AMQP_URL=amqp://h:4", "amqp://x:y%40@h:4"},
		{"RMQ_AMQP_URL=amqp://a:b@h:4", "amqp://a:b@h:4"},
	} {
		getenv := expect.Environ(append(strings.Split(c.env, ";"), "RABBITMQ_CONFIG_FILE="+path, "RABBITMQ_CONFIG_FILES=/nonexistent", "RABBITMQ_ADVANCED_CONFIG_FILE=/nonexistent")...)
		cfg, _, err := parse(nil, getenv)
		expect.Must(t, err)
		user, err := config.UserFiles(getenv, rabbitconf.Version{})
		expect.Must(t, err)
		expect.Must(t, cfg.Listen(user, getenv))
		if urls, err := config.AMQPURLs(cfg, config.Defaults(getenv, user)); err != nil || !slices.Equal(urls, []string{c.url}) {
			t.Errorf("%s: %q, %v; want %s", c.env, urls, err, c.url)
		}
	}
}
