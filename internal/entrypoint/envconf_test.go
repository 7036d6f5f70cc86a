package entrypoint

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/tests/expect"
)

// What rabbit_env:get_context/0 of 3.10.8, 4.0.5 and 4.3.6 made of rabbitmq-env.conf, after
// RabbitMQ's script had read it: variables that are exported there win over the environment,
// others do not.
func TestServerEnvironment(t *testing.T) {
	path := filepath.Join(t.TempDir(), "env.conf")
	cfg := config.Config{Node: "rabbit@me", Data: "/d/mnesia/rabbit@me"}
	own := []string{"PATH=" + os.Getenv("PATH"), "RABBITMQ_CONF_ENV_FILE=" + path, "RABBITMQ_NODENAME=rabbit@me", "RABBITMQ_ADVANCED_CONFIG_FILE=/ours"}
	if e, err := serverEnvironment(t.Context(), cfg, own); err != nil || e["RABBITMQ_NODENAME"] != "rabbit@me" {
		t.Errorf("without a file: %v, %v", e, err)
	}
	for _, c := range []struct{ file, env, port, ip string }{
		{file: "NODE_PORT=5999", port: "5999"}, {file: "NODE_PORT=5999", env: "RABBITMQ_NODE_PORT=5888", port: "5888"}, {file: "NODE_PORT=5999", env: "NODE_PORT=5777", port: "5999"},
		{file: "RABBITMQ_NODE_PORT=5999", env: "RABBITMQ_NODE_PORT=5888", port: "5999"}, {file: "RABBITMQ_NODE_PORT=5999", env: "NODE_PORT=5777", port: "5999"},
		{file: "export RABBITMQ_NODE_IP_ADDRESS=127.0.0.5", ip: "127.0.0.5"}, {file: "NODE_IP_ADDRESS=\"127.0.0.5\" # x", ip: "127.0.0.5"},
		{file: "if true; then NODE_PORT=5998; fi", port: "5998"}, {file: "NODE_PORT=$((5000+3))", port: "5003"}, {file: "P=7\nNODE_PORT=600$P", port: "6007"},
		{file: "false\nNODE_PORT=5999"}, {file: "false\nexport NODE_PORT=5999", port: "5999"}, {file: "NODENAME=rabbit@me\nMNESIA_DIR=/d/mnesia/rabbit@me\nMNESIA_BASE=/d/mnesia\nUSE_LONGNAME=no"},
		{file: "MNESIA_BASE=/d/mnesia/"}, {file: "export RABBITMQ_MNESIA_DIR=/d/mnesia/rabbit@me//"}, // RabbitMQ takes the slashes off
		{file: "echo noise; cat; NODE_PORT=1", port: "1"}, {file: "# NODENAME=a@b\n: NODENAME=a@b"},
	} {
		expect.Must(t, os.WriteFile(path, []byte(c.file+"\n"), 0o644))
		list := own
		if c.env != "" {
			list = append(list[:len(list):len(list)], c.env)
		}
		e, err := serverEnvironment(t.Context(), cfg, list)
		if port, ip := config.RabbitMQs(e.Of, "RABBITMQ_NODE_PORT"), config.RabbitMQs(e.Of, "RABBITMQ_NODE_IP_ADDRESS"); err != nil || port != c.port || ip != c.ip {
			t.Errorf("%q, %s: port %q, address %q, %v; want %q, %q", c.file, c.env, port, ip, err, c.port, c.ip)
		}
	}
	expect.Must(t, os.WriteFile(path, []byte(": nothing\n"), 0o644))
	if e, err := serverEnvironment(t.Context(), cfg, append(own, "SYS_PREFIX=/ignored")); err != nil || e["SYS_PREFIX"] != "" {
		t.Errorf("in the environment RabbitMQ's script passes over SYS_PREFIX: %q, %v", e["SYS_PREFIX"], err)
	}
	expect.Must(t, os.WriteFile(path, []byte("export AMQP=1\nPLAIN=2\nexport QUOTED='a\nb'\n"), 0o644))
	e, err := serverEnvironment(t.Context(), cfg, own)
	if _, plain := e.Lookup("PLAIN"); err != nil || plain || e["AMQP"] != "1" || e["QUOTED"] != "a\nb" || e["RABBITMQ_ADVANCED_CONFIG_FILE"] != "/ours" || e["RABBITMQ_NODENAME"] != "rabbit@me" {
		t.Errorf("%v, %v", e, err)
	}
	for file, words := range map[string]string{
		"NODENAME=a@b": "sets NODENAME", "  export RABBITMQ_USE_LONGNAME=true": "sets USE_LONGNAME", "MNESIA_BASE=/x": "sets MNESIA_BASE", "MNESIA_DIR=d/mnesia/rabbit@me": "sets MNESIA_DIR", "if true; then NODENAME=a@b; fi": "sets NODENAME",
		"ADVANCED_CONFIG_FILE=/x": "sets ADVANCED_CONFIG_FILE", "export RABBITMQ_CLEANUP_ONLY_LOG_WARNING=false": "RABBITMQ_CLEANUP_ONLY_LOG_WARNING", "CLEANUP_INTERVAL=1": "RABBITMQ_CLEANUP_INTERVAL",
		"export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-rabbit cluster_formation [{node_cleanup,[]}]'": "node_cleanup", "export SERVER_START_ARGS=-detached": "SERVER_START_ARGS has -detached",
		// The script has these by the shell that read the file.
		"SERVER_START_ARGS=-detached": "SERVER_START_ARGS has -detached", "RABBITMQ_NODE_ONLY=1": "RABBITMQ_NODE_ONLY=",
		"SERVER_ADDITIONAL_ERL_ARGS='-rabbit cluster_formation [{node_cleanup,[]}]'": "node_cleanup",
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-mnesia dir x'":                        "-mnesia dir", "RABBITMQ_SERVER_ERL_ARGS='-ra data_dir x'": "RABBITMQ_QUORUM_DIR",
		"export RABBITMQ_NODE_ONLY=1": "RABBITMQ_NODE_ONLY", "exit 0": "take exit out",
		"SYS_PREFIX=/mnt": `sets SYS_PREFIX="/mnt"`, "false\nSYS_PREFIX=/mnt": "RABBITMQ_MNESIA_BASE", "export SYS_PREFIX=/mnt": `SYS_PREFIX="/mnt"`,
	} {
		expect.Must(t, os.WriteFile(path, []byte(file+"\n"), 0o644))
		if _, err := serverEnvironment(t.Context(), cfg, own); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), words) {
			t.Errorf("%q: %v; want %q", file, err, words)
		}
	}
}

// The file is the one that RabbitMQ reads: RABBITMQ_CONF_ENV_FILE before CONF_ENV_FILE, and an empty
// one is none (read in rabbitmq-defaults and rabbitmq-env, and measured with rabbit_env:get_context/0,
// of 3.10.8, 4.0.5 and 4.3.6).
func TestServerEnvironmentOfWhichFile(t *testing.T) {
	dir := t.TempDir()
	one, other := filepath.Join(dir, "one.conf"), filepath.Join(dir, "other.conf")
	cfg := config.Config{Node: "rabbit@me", Data: "/d/mnesia/rabbit@me"}
	read := func(path, conf string, env ...string) (config.Environment, error) {
		t.Helper()
		expect.Must(t, os.WriteFile(path, []byte(conf+"\n"), 0o644))
		return serverEnvironment(t.Context(), cfg, append(env, "PATH="+os.Getenv("PATH")))
	}
	expect.Must(t, os.WriteFile(other, []byte("NODE_PORT=2\n"), 0o644))
	for _, env := range [][]string{
		{"CONF_ENV_FILE=" + one}, {"RABBITMQ_CONF_ENV_FILE=" + one}, {"RABBITMQ_CONF_ENV_FILE=", "CONF_ENV_FILE=" + one}, {"RABBITMQ_CONF_ENV_FILE=" + one, "CONF_ENV_FILE=" + other},
	} {
		if e, err := read(one, "NODE_PORT=1", env...); err != nil || e["NODE_PORT"] != "1" {
			t.Errorf("%q: port %q, %v", env, e["NODE_PORT"], err)
		}
		if _, err := read(one, "NODENAME=rabbit@other", env...); err == nil || !strings.Contains(err.Error(), one+" sets NODENAME") || !strings.Contains(err.Error(), "RABBITMQ_NODENAME") {
			t.Errorf("%q, a foreign node: %v", env, err)
		}
	}
	for _, conf := range []string{"CONF_ENV_FILE=" + other, "export RABBITMQ_CONF_ENV_FILE=" + other} { // RabbitMQ's Erlang would read that one
		if e, err := read(one, conf, "CONF_ENV_FILE="+one); err == nil || !strings.Contains(err.Error(), one) || !strings.Contains(err.Error(), other) || !strings.Contains(err.Error(), "in the environment") {
			t.Errorf("%q: %v, %v", conf, e, err)
		}
	}
}

// RabbitMQ does not read RABBITMQ_DATA_DIR: where that alone says where the data are, the server is
// told.
func TestServerKeepsItsDataWhereWeLook(t *testing.T) {
	path := filepath.Join(t.TempDir(), "env.conf")
	for _, c := range []struct {
		env  []string
		file string
		want []string // of the variables that say it, what the server gets
	}{
		{},
		{env: []string{"RABBITMQ_DATA_DIR=/var/lib/rabbitmq/"}},
		{env: []string{"RABBITMQ_DATA_DIR=/data"}, want: []string{"RABBITMQ_MNESIA_BASE=/data/mnesia"}},
		{env: []string{"RABBITMQ_DATA_DIR=/data"}, file: "NODE_PORT=1", want: []string{"RABBITMQ_MNESIA_BASE=/data/mnesia"}},
		{env: []string{"RABBITMQ_DATA_DIR=/data", "RABBITMQ_MNESIA_BASE=/m"}, want: []string{"RABBITMQ_MNESIA_BASE=/m"}},
		{env: []string{"RABBITMQ_DATA_DIR=/data", "MNESIA_BASE=/m"}, want: []string{"MNESIA_BASE=/m"}},
		{env: []string{"RABBITMQ_DATA_DIR=/data", "MNESIA_DIR=/m/d"}, want: []string{"MNESIA_DIR=/m/d"}},
		{env: []string{"RABBITMQ_DATA_DIR=/data", "RABBITMQ_MNESIA_BASE="}, want: []string{"RABBITMQ_MNESIA_BASE=/data/mnesia"}},
		{env: []string{"RABBITMQ_DATA_DIR=/data"}, file: "MNESIA_DIR=/data/mnesia/rabbit@me"}, // which the file says to RabbitMQ
	} {
		t.Run(strings.Join(append(c.env, c.file), " "), func(t *testing.T) {
			for _, kv := range append(c.env, "RABBITMQ_NODENAME=rabbit@me", "RABBITMQ_CONF_ENV_FILE="+path) {
				name, value, _ := strings.Cut(kv, "=")
				t.Setenv(name, value)
			}
			expect.Must(t, os.WriteFile(path, []byte(c.file+"\n"), 0o644))
			cfg, err := config.FromEnvironment(os.Getenv)
			expect.Must(t, err)
			e, err := serverEnvironment(t.Context(), cfg, serverEnv(cfg, ""))
			expect.Must(t, err)
			var got []string
			for _, kv := range serverEnv(cfg, e.Of(mnesiaBase)) {
				if name, _, _ := strings.Cut(kv, "="); strings.Contains(name, "MNESIA") {
					got = append(got, kv)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}

// A reading that is cut short is unknown: it says nothing of the file.
func TestServerEnvironmentIsCutShort(t *testing.T) {
	path, begun := filepath.Join(t.TempDir(), "env.conf"), filepath.Join(t.TempDir(), "begun")
	expect.Must(t, os.WriteFile(path, []byte("NODENAME=a@b\nexport TIMES=x$TIMES\n[ $TIMES = x ] || { : >"+begun+"; exec sleep 60; }\n"), 0o644))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { // no longer than a reading may take
		for ctx.Err() == nil {
			if _, err := os.Stat(begun); err == nil {
				cancel()
			}
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	list := []string{"PATH=" + os.Getenv("PATH"), "RABBITMQ_CONF_ENV_FILE=" + path}
	if e, err := serverEnvironment(ctx, config.Config{Node: "rabbit@me"}, list); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "did not come to its end") {
		t.Errorf("%v, %v", e, err)
	}
}
