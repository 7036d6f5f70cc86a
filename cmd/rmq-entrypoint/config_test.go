package main

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/internal/admin"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/rabbitconf"
	"rmq-entrypoint/tests/expect"
)

// Every setting: what its default is, and that the variable overrules it and the
// flag overrules both.
func TestSettingsFlagOverEnvironmentOverDefault(t *testing.T) {
	field := func(cfg config.Config, name string) any { return reflect.ValueOf(cfg).FieldByName(name).Interface() }
	seen := map[string]bool{}
	for _, c := range []struct {
		flag, field string
		byDefault   any
		env         string // a value for each variable
		envValue    any
		arg         string
		argValue    any
		also        []string // more of the environment
		short       []string // the same, with the default and the flag
	}{
		{flag: "consul", field: "Consul", byDefault: []string{"127.0.0.1:8500"}, env: "a:1, b:2", envValue: []string{"a:1", "b:2"}, arg: "https://c:3", argValue: []string{"https://c:3"}},
		{flag: "service", field: "Service", byDefault: "rabbitmq", env: "a", envValue: "a", arg: "b", argValue: "b"},
		{flag: "dns-server", field: "DNSServer", byDefault: "", env: "a:53", envValue: "a:53", arg: "[::1]:53", argValue: "[::1]:53"},
		{flag: "dns-domain", field: "DNSDomain", byDefault: "consul", env: "a", envValue: "a", arg: "b", argValue: "b"},
		{flag: "node", field: "Node", byDefault: "rabbit@" + shortHost(t), env: "a@b", envValue: "a@b", arg: "c@d", argValue: "c@d"},
		{flag: "long-names", field: "LongNames", byDefault: false, env: "yes", envValue: true, arg: "false", argValue: false, also: []string{"RABBITMQ_NODENAME=a@127.0.0.1"}, short: []string{"RABBITMQ_NODENAME=a@b"}},
		{flag: "allow-version-jump", field: "AllowJump", byDefault: false, env: "true", envValue: true, arg: "false", argValue: false},
		{flag: "advertise", field: "Advertise", byDefault: "", env: "10.0.0.1", envValue: "10.0.0.1", arg: "::1", argValue: "::1"},
		{flag: "hosts", field: "Hosts", byDefault: "off", env: "consul", envValue: "consul", arg: "off", argValue: "off"},
		{flag: "tags", field: "Tags", byDefault: []string(nil), env: "a, b", envValue: []string{"a", "b"}, arg: "c", argValue: []string{"c"}},
		{flag: "meta", field: "Meta", byDefault: map[string]string(nil), env: "a=b,c=", envValue: map[string]string{"a": "b", "c": ""}, arg: "d=e=f", argValue: map[string]string{"d": "e=f"}},
		{flag: "ttl", field: "TTL", byDefault: 15 * time.Second, env: "10s", envValue: 10 * time.Second, arg: "24s", argValue: 24 * time.Second},
		{flag: "interval", field: "Interval", byDefault: 5 * time.Second, env: "1s", envValue: time.Second, arg: "4500ms", argValue: 4500 * time.Millisecond},
		{flag: "key-prefix", field: "KeyPrefix", byDefault: "rmq-entrypoint", env: "a/b", envValue: "a/b", arg: "c", argValue: "c"},
		{flag: "lock-delay", field: "LockDelay", byDefault: time.Second, env: "1ms", envValue: time.Millisecond, arg: "60s", argValue: time.Minute},
		{flag: "wait-timeout", field: "WaitTimeout", byDefault: 10 * time.Minute, env: "1m", envValue: time.Minute, arg: "1h", argValue: time.Hour},
		{flag: "join-timeout", field: "JoinTimeout", byDefault: 5 * time.Minute, env: "1m", envValue: time.Minute, arg: "1h", argValue: time.Hour},
		{flag: "claim-timeout", field: "ClaimTimeout", byDefault: 45 * time.Second, env: "31s", envValue: 31 * time.Second, arg: "9m", argValue: 9 * time.Minute},
		{flag: "stop-timeout", field: "StopTimeout", byDefault: 12 * time.Second, env: "8s", envValue: 8 * time.Second, arg: "1m", argValue: time.Minute},
		{flag: "amqp-url", field: "AMQPURL", byDefault: "", env: "amqp://u:p@a:1/v", envValue: "amqp://u@a:1/v", arg: "amqps://b", argValue: "amqps://b"},
		{flag: "admin", field: "Admin", byDefault: "127.0.0.1:15689", env: ":1", envValue: ":1", arg: "off", argValue: "off"},
		{flag: "http", field: "HTTP", byDefault: ":15690", env: "a:1", envValue: "a:1", arg: "127.0.0.1:2", argValue: "127.0.0.1:2"},
		{flag: "config", field: "ConfigFile", byDefault: "/var/lib/rabbitmq/mnesia/a@b-entrypoint/rabbitmq.config", env: "/a", envValue: "/a", arg: "/b", argValue: "/b", also: []string{"RABBITMQ_NODENAME=a@b"}},
		{flag: "state-dir", field: "StateDir", byDefault: "/var/lib/rabbitmq/mnesia/a@b-entrypoint", env: "/a", envValue: "/a", arg: "/b", argValue: "/b", also: []string{"RABBITMQ_NODENAME=a@b"}},
		{flag: "queues", field: "Queues", byDefault: "auto", env: "off", envValue: "off", arg: "auto", argValue: "auto"},
		{flag: "cluster-name", field: "ClusterName", byDefault: "", env: "a b", envValue: "a b", arg: "c", argValue: "c"},
		{flag: "single", field: "Single", byDefault: false, env: "yes", envValue: true, arg: "false", argValue: false},
		{flag: "force-boot", field: "ForceBoot", byDefault: false, env: "Yes", envValue: true, arg: "false", argValue: false},
		{flag: "log-level", field: "LogLevel", byDefault: slog.LevelInfo, env: "debug", envValue: slog.LevelDebug, arg: "error", argValue: slog.LevelError},
		{flag: "log-format", field: "LogFormat", byDefault: "text", env: "json", envValue: "json", arg: "text", argValue: "text"},
	} {
		seen[c.flag] = true
		var variables []string
		for _, s := range config.Settings(new(config.Config)) {
			if s.Flag == c.flag {
				variables = s.Env
			}
		}
		check := func(want any, args []string, env ...string) {
			t.Helper()
			also := c.also
			if c.short != nil && !reflect.DeepEqual(want, c.envValue) {
				also = c.short
			}
			cfg, cmd, err := parse(args, expect.Environ(append(env, also...)...))
			if err != nil {
				t.Errorf("%v with %v: %v", args, env, err)
				return
			}
			if got := field(cfg, c.field); !reflect.DeepEqual(got, want) || cmd.name != "start" {
				t.Errorf("%v with %v: %s is %v, want %v", args, env, c.field, got, want)
			}
		}
		check(c.byDefault, nil)
		for i, name := range variables {
			check(c.byDefault, nil, name+"=")
			check(c.envValue, nil, name+"="+c.env)
			check(c.argValue, []string{"--" + c.flag + "=" + c.arg}, name+"="+c.env)
			if i > 0 { // the first that is set counts
				check(c.envValue, nil, variables[0]+"="+c.env, name+"=nonsense")
			}
		}
	}
	for _, s := range config.Settings(new(config.Config)) {
		if !seen[s.Flag] {
			t.Errorf("--%s is not tested", s.Flag)
		}
	}
}

func shortHost(t *testing.T) string {
	host, err := os.Hostname()
	expect.Must(t, err)
	host, _, _ = strings.Cut(host, ".")
	return host
}

func TestPathsFollowRabbitMQsVariables(t *testing.T) {
	for _, c := range []struct {
		env  []string
		data string
	}{
		{nil, "/var/lib/rabbitmq/mnesia/a@b"},
		{[]string{"RABBITMQ_DATA_DIR=/d"}, "/d/mnesia/a@b"},
		{[]string{"RABBITMQ_DATA_DIR=/d", "RABBITMQ_MNESIA_BASE=/m"}, "/m/a@b"},
		{[]string{"RABBITMQ_MNESIA_BASE=/m", "RABBITMQ_MNESIA_DIR=/x/y"}, "/x/y"},
		{[]string{"RABBITMQ_DATA_DIR=/d/"}, "/d/mnesia/a@b"},
		{[]string{"RABBITMQ_MNESIA_BASE=/m//"}, "/m/a@b"},
		{[]string{"MNESIA_DIR=/x/y/"}, "/x/y"}, // or the state directory would be in RabbitMQ's own
	} {
		cfg, _, err := parse([]string{"--node", "a@b"}, expect.Environ(c.env...))
		if err != nil || cfg.Data != c.data || cfg.StateDir != c.data+"-entrypoint" {
			t.Errorf("%v: data %s, state %s, %v; want %s", c.env, cfg.Data, cfg.StateDir, err, c.data)
		}
	}
	for _, set := range []string{"RABBITMQ_DATA_DIR=d", "RABBITMQ_MNESIA_BASE=./m", "MNESIA_BASE=m", "RABBITMQ_MNESIA_DIR=x/y", "RABBITMQ_MNESIA_DIR=/x/../y"} {
		name, value, _ := strings.Cut(set, "=")
		if cfg, _, err := parse(nil, expect.Environ(set)); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), value) || !strings.Contains(err.Error(), "whole path") {
			t.Errorf("%s: %v, data %s", set, err, cfg.Data)
		}
	}
}

// What the files of RabbitMQ's configuration say counts until RMQ_AMQP_URL says otherwise.
func TestListen(t *testing.T) {
	for _, c := range []struct {
		conf, env string
		port      int
		urls      []string // nil: refused
	}{
		{"", "", 5672, []string{"amqp://guest:guest@127.0.0.1:5672/%2F"}},
		{"listeners.tcp.default = 1", "RABBITMQ_NODE_PORT=5555", 1, []string{"amqp://guest:guest@127.0.0.1:1/%2F"}},
		{"listeners.tcp = none\nlisteners.ssl.default = 5671", "", 5671, []string{"amqps://guest:guest@127.0.0.1:5671/%2F"}},
		{"listeners.tcp.local = 127.0.0.1:1\nlisteners.ssl.default = 2", "", 2, []string{"amqp://guest:guest@127.0.0.1:1/%2F", "amqps://guest:guest@127.0.0.1:2/%2F"}},
		{"listeners.tcp.one = ::1:3", "", 3, []string{"amqp://guest:guest@[::1]:3/%2F"}},
		{"", "RABBITMQ_NODE_IP_ADDRESS=10.0.0.5;RABBITMQ_NODE_PORT=5999", 5999, []string{"amqp://guest:guest@10.0.0.5:5999/%2F"}},
		{"", "NODE_IP_ADDRESS=::1;NODE_PORT=05999", 5999, []string{"amqp://guest:guest@[::1]:5999/%2F"}},
		{"", "RABBITMQ_NODE_IP_ADDRESS=auto", 5672, []string{"amqp://guest:guest@127.0.0.1:5672/%2F"}},
		{"listeners.tcp.default = 1", "RABBITMQ_NODE_IP_ADDRESS=10.0.0.5", 1, []string{"amqp://guest:guest@127.0.0.1:1/%2F"}},
		{"listeners.tcp = none", "", 0, nil},
		{"listeners.tcp = none", "RMQ_AMQP_URL=amqp://h:4", 4, []string{"amqp://guest:guest@h:4"}},
		{"listeners.tcp.default = 1", "RMQ_AMQP_URL=amqp://h:4", 4, []string{"amqp://guest:guest@h:4"}},
	} {
		path := filepath.Join(t.TempDir(), "rabbitmq.conf")
		expect.Must(t, os.WriteFile(path, []byte(c.conf), 0o644))
		user, err := rabbitconf.ReadUser(rabbitconf.Files{Conf: path})
		expect.Must(t, err)
		getenv := expect.Environ(strings.Split(c.env, ";")...)
		cfg, _, err := parse(nil, getenv)
		expect.Must(t, err)
		if err = cfg.Listen(user, getenv); c.urls == nil {
			if err == nil || !strings.Contains(err.Error(), "RMQ_AMQP_URL") || !strings.Contains(err.Error(), "listeners.tcp") {
				t.Errorf("%q: %v", c.conf, err)
			}
			continue
		}
		urls, uerr := config.AMQPURLs(cfg, getenv)
		if err := errors.Join(err, uerr); err != nil || cfg.Port != c.port || !slices.Equal(urls, c.urls) {
			t.Errorf("%q %s: port %d, %q, %v; want %d, %q", c.conf, c.env, cfg.Port, urls, err, c.port, c.urls)
		}
	}
}

func TestPortToRegister(t *testing.T) {
	for _, c := range []struct {
		env  []string
		port int
	}{
		{nil, 5672},
		{[]string{"RABBITMQ_NODE_PORT=5555"}, 5555},
		{[]string{"RMQ_AMQP_URL=amqp://a"}, 5672},
		{[]string{"RMQ_AMQP_URL=amqp://a", "RABBITMQ_NODE_PORT=5555"}, 5555},
		{[]string{"RMQ_AMQP_URL=amqp://a:1"}, 1},
		{[]string{"RMQ_AMQP_URL=amqps://a"}, 5671},
		{[]string{"RMQ_AMQP_URL=amqps://a:1"}, 1},
	} {
		if cfg, _, err := parse(nil, expect.Environ(c.env...)); err != nil || cfg.Port != c.port {
			t.Errorf("%v: %d, %v; want %d", c.env, cfg.Port, err, c.port)
		}
	}
}

func TestCommands(t *testing.T) {
	for _, c := range []struct {
		args string
		want command
		rest string // what is executed
	}{
		{"", command{name: "start"}, "rabbitmq-server"},
		{"rabbitmq-server", command{name: "start"}, "rabbitmq-server"},
		{"/opt/rabbitmq/sbin/rabbitmq-server -x --ttl 1s", command{name: "start"}, "/opt/rabbitmq/sbin/rabbitmq-server -x --ttl 1s"},
		{"--ttl 20s rabbitmq-server --help", command{name: "start"}, "rabbitmq-server --help"},
		{"rabbitmqctl status", command{name: "exec"}, "rabbitmqctl status"},
		{"bash -c --help", command{name: "exec"}, "bash -c --help"},
		{"rabbitmqctl --help", command{name: "exec"}, "rabbitmqctl --help"},
		{"--ttl 20s env drain --force --nonsense -- -h", command{name: "exec"}, "env drain --force --nonsense -- -h"},
		{"-- bash --ttl 1s", command{name: "exec"}, "bash --ttl 1s"},
		{"--tags --x drain --wait 1s", command{name: "drain", wait: time.Second}, ""},
		{"drian --force", command{name: "exec", meant: "drain"}, "drian --force"},
		{"helthcheck", command{name: "exec", meant: "healthcheck"}, "helthcheck"},
		{"healthcheck", command{name: "healthcheck"}, ""},
		{"healthcheck --started", command{name: "healthcheck", ask: admin.Started}, ""},
		{"healthcheck --ready", command{name: "healthcheck", ask: admin.Ready}, ""},
		{"--node a@b healthcheck --ready --ttl 20s", command{name: "healthcheck", ask: admin.Ready}, ""},
		{"status", command{name: "status"}, ""},
		{"status --json", command{name: "status", json: true}, ""},
		{"status --watch", command{name: "status", watch: true}, ""},
		{"list", command{name: "list"}, ""},
		{"list --json", command{name: "list", json: true}, ""},
		{"companion", command{name: "companion"}, ""},
		{"forget-cluster --cluster-id X", command{name: "forget-cluster", id: "X"}, ""},
		{"forget-cluster --cluster-id X --force", command{name: "forget-cluster", id: "X", ok: true}, ""},
		{"doctor", command{name: "doctor"}, ""},
		{"doctor --json", command{name: "doctor", json: true}, ""},
		{"forget rabbit@a", command{name: "forget", node: "rabbit@a"}, ""},
		{"--ttl 20s forget --force rabbit@a", command{name: "forget", node: "rabbit@a", ok: true}, ""},
		{"force-boot --cluster-id=X", command{name: "force-boot", id: "X"}, ""},
		{"drain", command{name: "drain", wait: 5 * time.Second}, ""},
		{"drain --force --wait 0s", command{name: "drain", ok: true}, ""},
		{"leave --wait=1m", command{name: "leave", wait: time.Minute}, ""},
		{"version", command{name: "version"}, ""},
		{"help", command{name: "help"}, ""},
		{"--help", command{name: "help"}, "rabbitmq-server"},
		{"-h", command{name: "help"}, "rabbitmq-server"},
		{"healthcheck --help", command{name: "help"}, ""},
		{"--help drain --wait=-1s", command{name: "help"}, ""},
		{"help drain", command{name: "help"}, ""},
		{"completion bash", command{name: "completion"}, ""},
		{"--ttl 1s --help", command{name: "help"}, "rabbitmq-server"},
	} {
		cfg, cmd, err := parse(strings.Fields(c.args), expect.Environ())
		cmd.text = ""
		if err != nil || cmd != c.want || strings.Join(cfg.Args, " ") != c.rest {
			t.Errorf("%q: %+v %q, %v; want %+v %q", c.args, cmd, cfg.Args, err, c.want, c.rest)
		}
	}
}

// Bad input: the message names the flag and the variable, where there are both,
// and says what to do.
func TestBadSettings(t *testing.T) {
	for _, c := range []struct {
		args string
		env  string // ; separates
		say  []string
	}{
		{args: "--ttk 1s", say: []string{"--ttk", "--help"}},
		{args: "healthcheck --cluster-id X", say: []string{"healthcheck", "--cluster-id", "--help"}},
		{args: "healthcheck --ready --started", say: []string{"--started or --ready"}},
		{args: "healthcheck now", say: []string{"healthcheck", "now", "no argument"}},
		{args: "forget-cluster", say: []string{"forget-cluster", "--cluster-id", "status"}},
		{args: "drain --wait 5", say: []string{"drain", "--wait", "unit"}},
		{args: "leave --wait=-1s", say: []string{"--wait", "-1s", "0s or more"}},
		{args: "drain --forse", say: []string{"drain", "--forse", "rmq-entrypoint drain --help"}},
		{args: "help drian", say: []string{"drian", "did you mean drain?", "--help"}},
		{args: "help companion now", say: []string{"companion now", "--help"}},
		{args: "completion tcsh", say: []string{"bash, zsh or fish"}},
		{args: "completion", say: []string{"bash, zsh or fish"}},
		{args: "leave rabbit@a", say: []string{"leave", "rabbit@a", "no argument"}},
		{args: "doctor now", say: []string{"doctor", "now", "no argument"}},
		{args: "forget", say: []string{"forget", "name of one node", "status"}},
		{args: "forget rabbit@a rabbit@b", say: []string{"forget", "name of one node"}},
		{args: "list --json --watch", say: []string{"list", "--json", "--watch"}},
		{args: "--admin 15689", say: []string{"--admin", "RMQ_ADMIN", "15689", "off"}},
		{args: "force-boot", say: []string{"force-boot", "--cluster-id", "status"}},

		{args: "--ttl 9s", say: []string{"--ttl", "RMQ_TTL", "9s", "10s"}},
		{env: "RMQ_TTL=9999ms", say: []string{"--ttl", "RMQ_TTL", "9.999s", "10s"}},
		{args: "--ttl 25h", say: []string{"--ttl", "RMQ_TTL", "25h", "24h"}},
		{args: "--ttl=-1s", say: []string{"--ttl", "RMQ_TTL", "10s"}},
		{args: "--ttl 20", say: []string{"--ttl", `"20"`, "unit"}},
		{env: "RMQ_TTL=20", say: []string{"RMQ_TTL", `"20"`, "unit"}},
		{env: "RMQ_TTL=soon", say: []string{"RMQ_TTL", `"soon"`}},
		{args: "--lock-delay 0", say: []string{"--lock-delay", "RMQ_LOCK_DELAY", "1ms"}},
		{env: "RMQ_LOCK_DELAY=61s", say: []string{"--lock-delay", "RMQ_LOCK_DELAY", "60s"}},
		{args: "--stop-timeout 2s", say: []string{"--stop-timeout", "RMQ_STOP_TIMEOUT", "2s", "5s", "stop_grace_period"}},
		{args: "--claim-timeout 30s", say: []string{"--claim-timeout", "RMQ_CLAIM_TIMEOUT", "30s", "twice the TTL"}},
		{args: "--claim-timeout=-1s", say: []string{"--claim-timeout", "RMQ_CLAIM_TIMEOUT", "twice the TTL"}},
		{args: "--ttl 40s", env: "RMQ_CLAIM_TIMEOUT=60s", say: []string{"--claim-timeout", "RMQ_CLAIM_TIMEOUT", "1m20s"}},
		{args: "--wait-timeout 1s", say: []string{"--wait-timeout", "RMQ_WAIT_TIMEOUT", "1s", "TTL"}},
		{env: "RMQ_JOIN_TIMEOUT=0s", say: []string{"--join-timeout", "RMQ_JOIN_TIMEOUT", "TTL"}},

		{args: "--ttl 4m", say: []string{"--wait-timeout", "RMQ_WAIT_TIMEOUT", "10m0s", "--claim-timeout", "12m0s", "three times the TTL", "12m30s"}},
		{env: "RMQ_WAIT_TIMEOUT=30s", say: []string{"--wait-timeout", "RMQ_WAIT_TIMEOUT", "30s", "RMQ_CLAIM_TIMEOUT", "45s", "1m0s"}},
		{env: "RMQ_CLAIM_TIMEOUT=9m50s", say: []string{"RMQ_WAIT_TIMEOUT", "10m0s", "RMQ_CLAIM_TIMEOUT", "9m50s", "10m5s"}},
		{args: "--claim-timeout 2562047h", say: []string{"--wait-timeout", "--claim-timeout", "2562047h"}},
		{args: "--ttl 10s --lock-delay 60s --wait-timeout 65s", say: []string{"--wait-timeout", "1m5s"}},
		{args: "--interval 6s", say: []string{"--interval", "RMQ_INTERVAL", "6s", "--ttl", "5s"}},
		{env: "RMQ_INTERVAL=999ms", say: []string{"--interval", "RMQ_INTERVAL", "999ms", "1s"}},
		{args: "--ttl 24h --wait-timeout 80h --join-timeout 24h --interval 60001ms", say: []string{"--interval", "RMQ_INTERVAL", "1m0.001s", "1m0s at most", "founds a cluster"}},
		{args: "--interval=-1s", say: []string{"--interval", "1s"}},

		{args: "--consul unix://consul.sock", say: []string{"--consul", "CONSUL_HTTP_ADDR", "unix:///path"}},
		{args: "--consul http://a:8500/?dc=b", say: []string{"--consul", "CONSUL_HTTP_ADDR", "host:port"}},
		{env: "CONSUL_HTTP_ADDR=http://alice:pa55word@a:8500", say: []string{"--consul", "CONSUL_HTTP_ADDR", "CONSUL_HTTP_AUTH"}},
		{env: "CONSUL_HTTP_ADDR=alice:pa55word@a:8500", say: []string{"CONSUL_HTTP_AUTH"}},
		{env: "CONSUL_HTTP_ADDR=b:8500,http://alice:pa55,word@a:8500", say: []string{"CONSUL_HTTP_AUTH"}},
		{env: `CONSUL_HTTP_ADDR=http://alice:"pa55word@a:8500`, say: []string{"CONSUL_HTTP_AUTH"}},
		{env: "CONSUL_ADDRESS=unix://alice:pa55word@/consul.sock", say: []string{"CONSUL_HTTP_AUTH"}},
		{env: "CONSUL_HTTP_ADDR=http://alice:pa55word%40a:8500", say: []string{"CONSUL_HTTP_ADDR", "CONSUL_HTTP_AUTH"}},
		{env: "CONSUL_HTTP_ADDR=http:/alice:pa55word@a", say: []string{"CONSUL_HTTP_AUTH"}},
		{args: "--consul nonsense:port", say: []string{"--consul", "CONSUL_HTTP_ADDR", "nonsense:port", "host:port"}},
		{args: "--consul a:0", say: []string{"--consul", "CONSUL_HTTP_ADDR", "a:0", "65535"}},
		{args: "--consul a:65536", say: []string{"--consul", "CONSUL_HTTP_ADDR", "65535"}},
		{env: "CONSUL_HTTP_ADDR=a:8500,,b:8500", say: []string{"--consul", "CONSUL_HTTP_ADDR", "empty address", "comma"}},
		{env: "CONSUL_ADDRESS=ftp://a", say: []string{"--consul", "CONSUL_HTTP_ADDR", "ftp://a", "http"}},
		{env: "CONSUL_HTTP_ADDR=http://a:8500/ui", say: []string{"--consul", "CONSUL_HTTP_ADDR", "without a path"}},
		{env: "CONSUL_HTTP_ADDR=a b", say: []string{"--consul", "CONSUL_HTTP_ADDR", "a b"}},
		{env: "CONSUL_HTTP_SSL=yes", say: []string{`CONSUL_HTTP_SSL="yes"`, "true or false"}},
		{env: "CONSUL_HTTP_SSL_VERIFY=yes", say: []string{`CONSUL_HTTP_SSL_VERIFY="yes"`, "true or false"}},
		{env: "CONSUL_HTTP_SSL=1;CONSUL_HTTP_SSL_VERIFY=true ", say: []string{`CONSUL_HTTP_SSL_VERIFY="true "`, "true or false"}},
		{args: "--dns-server 10.0.0.1", say: []string{"--dns-server", "RMQ_DNS_SERVER", "10.0.0.1", "host:port"}},
		{env: "RMQ_DNS_SERVER=a:b", say: []string{"--dns-server", "RMQ_DNS_SERVER", "a:b", "host:port"}},
		{args: "--http 15690", say: []string{"--http", "RMQ_HTTP", "15690", "port"}},
		{env: "RMQ_HTTP=:99999", say: []string{"--http", "RMQ_HTTP", ":99999", "port"}},
		{args: "--advertise 10.0.0.0/33", say: []string{"--advertise", "RMQ_ADVERTISE", "10.0.0.0/33", "IP address", "10.0.0.0/24", "eth0"}},
		{args: "--single --consul a:8500 --ttl 20s", env: "RMQ_TAGS=a;RMQ_HOSTS=consul;RMQ_ADMIN=off;RMQ_SERVICE=s", say: []string{"--single", "RMQ_SINGLE", "--consul, RMQ_HOSTS, RMQ_TAGS.", "-e RMQ_HOSTS="}},
		{args: "--single --force-boot", say: []string{"--single", "--force-boot", "-e CONSUL_HTTP_ADDR="}},
		{env: "RMQ_SINGLE=true;CONSUL_HTTP_ADDR=a:8500", say: []string{"RMQ_SINGLE", "CONSUL_HTTP_ADDR or CONSUL_ADDRESS", "-e CONSUL_HTTP_ADDR="}},
		{env: "RMQ_SINGLE=maybe", say: []string{"RMQ_SINGLE", "maybe", "neither true nor false"}},
		{args: "--hosts on", say: []string{"--hosts", "RMQ_HOSTS", `"on"`, "off", "consul"}},
		{env: "RMQ_TAGS=a,,b", say: []string{"--tags", "RMQ_TAGS", "empty", "production,ssd"}},
		{args: "--meta zone", say: []string{"--meta", "zone", "key=value"}},
		{env: "RMQ_META=disk type=ssd", say: []string{"--meta", "RMQ_META", `"disk type"`, "letters", "zone=a"}},
		{args: "--meta cluster_id=x", say: []string{"--meta", "RMQ_META", "cluster_id", "own"}},
		{args: "--amqp-url amqp://alice:pa55word@a", say: []string{"--amqp-url", "RMQ_AMQP_URL", "RMQ_AMQP_URL_FILE", "password"}},
		{args: "--amqp-url 127.0.0.1:5672", say: []string{"--amqp-url", "RMQ_AMQP_URL", "amqp[s]://"}},
		{args: "--amqp-url amqp://a:65536", say: []string{"--amqp-url", "RMQ_AMQP_URL", "65535"}},
		{env: "RMQ_AMQP_URL=http://alice:pa55word@a", say: []string{"--amqp-url", "RMQ_AMQP_URL", "amqp[s]://"}},
		{env: "RMQ_AMQP_URL=amqp://alice:pa55%zzword@a", say: []string{"--amqp-url", "RMQ_AMQP_URL", "amqp[s]://"}},
		{env: "RABBITMQ_NODE_PORT=amqp", say: []string{"RABBITMQ_NODE_PORT", "amqp", "port"}},

		{args: "--node rab.bit", say: []string{"--node", "RABBITMQ_NODENAME", `"rab.bit@`, "name@host"}},
		{env: "RABBITMQ_NODENAME=rabbit@a;RABBITMQ_USE_LONGNAME=yes", say: []string{"RABBITMQ_USE_LONGNAME", "--long-names", `"rabbit@a"`, "without a domain", "--hostname"}},
		{env: "RABBITMQ_NODENAME=rabbit@", say: []string{"--node", "RABBITMQ_NODENAME", "name@host"}},
		{env: "RABBITMQ_NODENAME=a@b@c", say: []string{"--node", "RABBITMQ_NODENAME", "name@host"}},
		{env: "RABBITMQ_NODENAME=a b@c", say: []string{"--node", "RABBITMQ_NODENAME", "name@host"}},
		{env: "RABBITMQ_NODENAME=rabbit@a.example", say: []string{"--node", "RABBITMQ_NODENAME", "RABBITMQ_USE_LONGNAME", "--long-names"}},
		{args: "--service=", say: []string{"--service", "RMQ_SERVICE"}},
		{env: "RMQ_SERVICE=a/b", say: []string{"--service", "RMQ_SERVICE", "a/b"}},
		{env: "RMQ_CLUSTER_NAME=a\x01b", say: []string{"--cluster-name", "RMQ_CLUSTER_NAME", `"a\x01b"`}},
		{env: "RMQ_CLUSTER_NAME= orders", say: []string{"--cluster-name", "RMQ_CLUSTER_NAME", `" orders"`}},
		{env: "RMQ_CLUSTER_NAME=" + strings.Repeat("x", 256), say: []string{"--cluster-name", "255 bytes"}},
		{args: "--state-dir state", say: []string{"--state-dir", "RMQ_STATE_DIR", `"state"`, "whole path"}},
		{args: "--config rabbitmq.config", say: []string{"--config", "RMQ_CONFIG_FILE", `"rabbitmq.config"`, "whole path"}},
		{args: "--key-prefix=", say: []string{"--key-prefix", "RMQ_KEY_PREFIX"}},
		{env: "RMQ_KEY_PREFIX=/a", say: []string{"--key-prefix", "RMQ_KEY_PREFIX", "/a"}},
		{args: "--queues mirrored", say: []string{"--queues", "RMQ_QUEUES", "mirrored", "auto", "off"}},
		{env: "RMQ_QUEUES=on", say: []string{"--queues", "RMQ_QUEUES", "auto or off"}},
		{args: "--log-format xml", say: []string{"--log-format", "RMQ_LOG_FORMAT", "xml", "text", "json"}},
		{args: "--log-level loud", say: []string{"--log-level", "loud"}},
		{env: "RMQ_LOG_LEVEL=loud", say: []string{"RMQ_LOG_LEVEL", "loud"}},
		{args: "--force-boot=maybe", say: []string{"--force-boot", "maybe"}},
		{args: "--allow-version-jump=maybe", say: []string{"--allow-version-jump", "maybe"}},
	} {
		_, _, err := parse(strings.Fields(c.args), expect.Environ(strings.Split(c.env, ";")...))
		if err == nil {
			t.Errorf("%s %s: taken", c.args, c.env)
			continue
		}
		for _, w := range c.say {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s %s: it does not say %q: %v", c.args, c.env, w, err)
			}
		}
		if text := err.Error(); strings.Contains(text, "pa55") || strings.ContainsAny(text, "\n") || strings.HasPrefix(text, "failed") {
			t.Errorf("%s %s: %q", c.args, c.env, text)
		}
	}
}

// The settings may be wrong where they play no part.
func TestOtherCommandsIgnoreSettings(t *testing.T) {
	for _, args := range []string{"bash", "rabbitmqctl", "version", "help"} {
		if _, _, err := parse([]string{args}, expect.Environ("RMQ_TTL=1s")); err != nil {
			t.Errorf("%s: %v", args, err)
		}
	}
}

func TestAMQPURLs(t *testing.T) {
	for _, c := range []struct {
		args, env string
		want      []string
	}{
		{"", "", []string{"amqp://guest:guest@127.0.0.1:5672/%2F"}},
		{"", "RABBITMQ_DEFAULT_USER=al;RABBITMQ_DEFAULT_PASS=w/:@;RABBITMQ_DEFAULT_VHOST=a b;RABBITMQ_NODE_PORT=1",
			[]string{"amqp://al:w%2F%3A%40@127.0.0.1:1/a%20b"}},
		{"", "RMQ_AMQP_URL=amqp://h:1/v;RABBITMQ_DEFAULT_USER=al;RABBITMQ_DEFAULT_PASS=w", []string{"amqp://al:w@h:1/v"}},
		{"", "RMQ_AMQP_URL=amqp://bob:b@h:1/v;RABBITMQ_DEFAULT_USER=al", []string{"amqp://bob:b@h:1/v"}},
		{"--amqp-url amqp://h:1", "RABBITMQ_DEFAULT_USER=al;RABBITMQ_DEFAULT_PASS=w", []string{"amqp://al:w@h:1"}},
		{"--amqp-url amqp://h:1", "RMQ_AMQP_URL=amqp://bob:b@other:2", []string{"amqp://guest:guest@h:1"}},
		{"--amqp-url amqp://bob@h:1", "RMQ_AMQP_URL=amqp://bob:b@h:1", []string{"amqp://bob:b@h:1"}},
	} {
		getenv := expect.Environ(strings.Split(c.env, ";")...)
		cfg, _, err := parse(strings.Fields(c.args), getenv)
		expect.Must(t, err)
		expect.Must(t, cfg.Listen(rabbitconf.User{}, getenv))
		if got, err := config.AMQPURLs(cfg, getenv); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s %s: %q, %v; want %q", c.args, c.env, got, err, c.want)
		}
	}
}

// The table of docs/settings.md is the program's: same rows, same order.
func TestREADMEsSettings(t *testing.T) {
	section, got := readmesFlags(t, "A node's settings")
	var want [][]string
	for _, s := range config.Settings(new(config.Config)) {
		want = append(want, []string{"`--" + s.Flag + "`", "`" + strings.Join(s.Env, "`, `") + "`", s.DefaultText(), s.Help})
	}
	sameRows(t, got, want)
	for _, s := range config.Secrets {
		if !strings.Contains(section, "| `"+s.Env+"` |") {
			t.Errorf("docs/settings.md has no row for %s", s.Env)
		}
	}
}

// readmesFlags returns a section of docs/settings.md and the cells of its rows that
// describe a flag.
func readmesFlags(t *testing.T, title string) (section string, rows [][]string) {
	t.Helper()
	b, err := os.ReadFile("../../docs/settings.md")
	expect.Must(t, err)
	_, rest, ok := strings.Cut(string(b), "\n## "+title+"\n")
	if !ok {
		t.Fatalf("docs/settings.md has no section %s", title)
	}
	section, _, _ = strings.Cut(rest, "\n## ")
	for line := range strings.Lines(section) {
		if !strings.HasPrefix(line, "| `--") {
			continue
		}
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i, c := range cells {
			cells[i] = strings.TrimSpace(c)
		}
		rows = append(rows, cells)
	}
	return section, rows
}

// sameRows compares a table of docs/settings.md with the program's, row by row.
func sameRows(t *testing.T, got, want [][]string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			t.Errorf("docs/settings.md lacks %q", want[i])
		case i >= len(want):
			t.Errorf("docs/settings.md has too much: %q", got[i])
		case !slices.Equal(got[i], want[i]):
			t.Errorf("row %d of docs/settings.md: %q, the program has %q", i+1, got[i], want[i])
		}
	}
}
