package entrypoint

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/rabbitconf"
	"rmq-entrypoint/tests/expect"
)

// Where RabbitMQ listens, or the other of the two, neither --http nor --admin can: on one port, at
// one address or at all of them.
func TestPortsDiffer(t *testing.T) {
	t.Parallel()
	const off = ";RMQ_ADMIN=off"
	for _, c := range []struct {
		env, conf string
		say       []string // none: taken
	}{
		{}, {env: "RMQ_HTTP=127.0.0.1:15690"}, {env: "RMQ_SINGLE=true;RMQ_HTTP=:15689"},
		{env: "RMQ_HTTP=:5672", say: []string{`--http (RMQ_HTTP) ":5672"`, "AMQP", "listeners.tcp"}},
		{env: "RMQ_ADMIN=127.0.0.1:5672", say: []string{`--admin (RMQ_ADMIN) "127.0.0.1:5672"`, "AMQP"}},
		{env: "RMQ_HTTP=:5671"}, {env: "RMQ_HTTP=:5671", conf: "listeners.ssl.default = 5671", say: []string{"--http", "listeners.ssl"}},
		{env: "RMQ_HTTP=127.0.0.1:7", conf: "listeners.tcp.a = 10.0.0.1:7"}, {env: "RMQ_HTTP=127.0.0.1:7", conf: "listeners.tcp.a = 127.0.0.1:7", say: []string{"--http", "AMQP"}},
		{env: "RMQ_HTTP=0.0.0.0:7", conf: "listeners.tcp.a = 10.0.0.1:7", say: []string{"--http", "AMQP"}}, {env: "RMQ_HTTP=10.0.0.1:7", conf: "listeners.tcp.a = :::7", say: []string{"--http", "AMQP"}},
		{env: "RMQ_HTTP=[::]:7", conf: "listeners.tcp.a = 10.0.0.1:7", say: []string{"--http", "AMQP"}}, {env: "RMQ_HTTP=[::1]:7", conf: "listeners.tcp.a = ::1:7", say: []string{"--http"}},
		{env: "RMQ_HTTP=localhost:7", conf: "listeners.tcp.a = 127.0.0.1:7", say: []string{"--http", "AMQP"}}, {env: "RMQ_HTTP=127.0.0.1:5672", conf: "listeners.tcp = none\nlisteners.ssl.a = 1"},
		{env: "RMQ_HTTP=:7;RABBITMQ_NODE_PORT=7", say: []string{"RABBITMQ_NODE_PORT"}}, {env: "RMQ_HTTP=:5672;RABBITMQ_NODE_PORT=7"},
		{env: "RMQ_HTTP=:15672", say: []string{"--http", "rabbitmq_management", "management.tcp.port"}}, {env: "RMQ_HTTP=:15672", conf: "management.tcp.port = 7"},
		{env: "RMQ_HTTP=:15671"}, {env: "RMQ_HTTP=:15671", conf: "management.ssl.certfile = /x", say: []string{"rabbitmq_management"}},
		{env: "RMQ_HTTP=:7", conf: "management.tcp.port = 8\nmanagement.ssl.port = 7", say: []string{"management.ssl.port"}},
		{env: "RMQ_HTTP=127.0.0.1:15672", conf: "management.tcp.ip = 10.0.0.1"},
		{env: "RMQ_ADMIN=:15692", say: []string{"--admin", "rabbitmq_prometheus"}}, {env: "RMQ_ADMIN=:15691", conf: "prometheus.ssl.certfile = /x", say: []string{"--admin", "rabbitmq_prometheus"}},
		{env: "RMQ_HTTP=:25672", say: []string{"--http", "other nodes", "RABBITMQ_DIST_PORT"}}, {env: "RMQ_HTTP=:25672;RABBITMQ_DIST_PORT=7"}, {env: "RMQ_HTTP=:7;DIST_PORT=7", say: []string{"other nodes"}},
		{env: "RMQ_HTTP=:20007;RABBITMQ_NODE_PORT=7", say: []string{"other nodes"}}, {env: "RMQ_HTTP=:25672", conf: "distribution.listener.port_range.min = 7"},
		{env: "RMQ_HTTP=10.0.0.1:4369", say: []string{"epmd", "ERL_EPMD_PORT"}}, {env: "RMQ_HTTP=:4369;ERL_EPMD_PORT=7"},
		{env: "RMQ_HTTP=10.0.0.1:4369;ERL_EPMD_ADDRESS=10.0.0.2"}, {env: "RMQ_HTTP=10.0.0.1:4369;ERL_EPMD_ADDRESS=10.0.0.2,10.0.0.1", say: []string{"epmd"}}, {env: "RMQ_ADMIN=127.0.0.1:4369;ERL_EPMD_ADDRESS=10.0.0.2", say: []string{"--admin", "epmd"}},
		{env: "RMQ_HTTP=:15689", say: []string{`--http (RMQ_HTTP) ":15689"`, `--admin (RMQ_ADMIN) "127.0.0.1:15689"`}}, {env: "RMQ_HTTP=:15689" + off}, {env: "RMQ_HTTP=10.0.0.1:15689"},
		{env: "RMQ_ADMIN=127.0.0.1:15690", say: []string{"--http (RMQ_HTTP)", "--admin (RMQ_ADMIN)"}}, {env: "RMQ_HTTP=127.0.0.1:7;RMQ_ADMIN=localhost:7", say: []string{"--http", "--admin"}},
	} {
		path := filepath.Join(t.TempDir(), "rabbitmq.conf")
		expect.Must(t, os.WriteFile(path, []byte(c.conf), 0o644))
		user, err := rabbitconf.ReadUser(rabbitconf.Files{Conf: path})
		expect.Must(t, err)
		list := strings.Split(c.env, ";")
		cfg, err := config.FromEnvironment(expect.Environ(list...))
		expect.Must(t, err)
		env := config.EnvironmentOf(list)
		expect.Must(t, cfg.Listen(user, env.Of))
		switch err := portsDiffer(t.Context(), cfg, user, env); {
		case (err == nil) != (len(c.say) == 0):
			t.Errorf("%s, %q: %v", c.env, c.conf, err)
		case err != nil:
			expect.Says(t, err.Error(), append(c.say, "another port")...)
		}
	}
}
