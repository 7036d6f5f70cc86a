package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rmq-entrypoint/internal/workload"
	"rmq-entrypoint/tests/expect"
)

// Bad input that this program finds by itself: exit 1, one line that names the
// variable and the way out, and nothing was changed.
func TestRefusedBeforeConsulIsAsked(t *testing.T) {
	for name, c := range map[string]struct {
		env  []string
		prep func(n *node)
		args []string
		say  []string
	}{
		"flag": {args: []string{"--ttl", "1s"}, say: []string{"--ttl", "RMQ_TTL"}},
		"no cookie": {env: []string{"RABBITMQ_ERLANG_COOKIE="},
			say: []string{"RABBITMQ_ERLANG_COOKIE", "RABBITMQ_ERLANG_COOKIE_FILE", "same secret on every node"}},
		"two cookies": {env: []string{"RABBITMQ_ERLANG_COOKIE_FILE=/dev/null"}, say: []string{"both RABBITMQ_ERLANG_COOKIE and RABBITMQ_ERLANG_COOKIE_FILE"}},
		"no file of the cookie": {env: []string{"RABBITMQ_ERLANG_COOKIE=", "RABBITMQ_ERLANG_COOKIE_FILE=/nowhere/cookie"},
			say: []string{"RABBITMQ_ERLANG_COOKIE_FILE", "/nowhere/cookie"}},
		"another cookie": {prep: func(n *node) { n.putCookie("stale", 0o400) },
			say: []string{".erlang.cookie", "differs from RABBITMQ_ERLANG_COOKIE", "remove the file"}},
		"cookie for all to read": {prep: func(n *node) { n.putCookie("crumbs-of-a-cookie-for-all", 0o444) }, say: []string{".erlang.cookie", "0444", "chmod 400"}},
		"empty cookie": {env: []string{"RABBITMQ_ERLANG_COOKIE="}, prep: func(n *node) { n.putCookie("\n", 0o400) },
			say: []string{".erlang.cookie", "empty", "RABBITMQ_ERLANG_COOKIE"}},
		"host without address": {env: []string{"RABBITMQ_NODENAME=rabbit@nowhere-at-all"},
			say: []string{"RABBITMQ_NODENAME", "--node", "nowhere-at-all", "no address", "/etc/hosts"}},
		"no server":           {args: []string{"/nowhere/rabbitmq-server"}, say: []string{"/nowhere/rabbitmq-server", "find the server", "PATH"}},
		"no server on PATH":   {env: []string{"PATH=/nowhere"}, say: []string{"rabbitmq-server", "find the server", "PATH"}},
		"unknown subcommand":  {args: []string{"heathcheck"}, say: []string{"heathcheck", "neither a subcommand", "--help", "did you mean healthcheck?"}},
		"deprecated variable": {env: []string{"RABBITMQ_SSL_VERIFY=x", "RABBITMQ_VM_MEMORY_HIGH_WATERMARK=1"}, say: []string{"RABBITMQ_SSL_VERIFY, RABBITMQ_VM_MEMORY_HIGH_WATERMARK", "/etc/rabbitmq/conf.d"}},
		"no such version":     {env: []string{"RABBITMQ_VERSION=latest"}, say: []string{"RABBITMQ_VERSION", "latest"}},
		"another node's database": {prep: func(n *node) { n.put(n.volume("mnesia/rabbit@old/schema.DAT"), "") },
			say: []string{"rabbit@old", "rabbit@localhost", "silently start empty", "RABBITMQ_NODENAME", "empty volume"}},
		"damaged marker": {prep: func(n *node) { n.put(n.state("member"), "{") }, say: []string{"member", "damaged", "remove it"}},
		"volume of somebody else": {prep: func(n *node) { n.putSealed(n.data("")) },
			say: []string{"mnesia/rabbit@localhost", "permission denied", "chown"}},
		"volume that cannot be written": {prep: func(n *node) { n.putSealed(n.volume("mnesia")) }, say: []string{"mnesia", "permission denied", "chown"}},
		"a file of terms as main configuration": {prep: func(n *node) { n.put(n.path("rabbitmq.config"), "[].") },
			say: []string{"rabbitmq.config", "advanced.config"}},
		"advanced.config that does not parse": {prep: func(n *node) { n.put(n.path("advanced.config"), "[{rabbit") }, say: []string{"advanced.config"}},
		"node cleanup in rabbitmq.conf": {prep: func(n *node) {
			n.put(n.path("rabbitmq.conf"), "\ncluster_formation.node_cleanup.only_log_warning = false\n")
		},
			say: []string{"rabbitmq.conf:2: cluster_formation.node_cleanup.only_log_warning", "merely stopped", "rmq-entrypoint leave", "rmq-entrypoint forget"}},
		"node cleanup in advanced.config": {prep: func(n *node) {
			n.put(n.path("advanced.config"), "[{rabbit, [{cluster_formation, [{node_cleanup, [{cleanup_interval, 1}]}]}]}].")
		}, say: []string{"advanced.config: {rabbit, [{cluster_formation, [{node_cleanup, ", "merely stopped"}},
		"node cleanup by a variable":       {env: []string{"CLEANUP_ONLY_LOG_WARNING=false"}, say: []string{"CLEANUP_ONLY_LOG_WARNING=false: ", "merely stopped", "Remove this"}},
		"node cleanup by RabbitMQ's other": {env: []string{"RABBITMQ_CLEANUP_INTERVAL=60"}, say: []string{"RABBITMQ_CLEANUP_INTERVAL=60: ", "merely stopped"}},
		"node cleanup as an argument": {env: []string{"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-rabbit cluster_formation [{node_cleanup,[{cleanup_interval,1}]}]"},
			say: []string{"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "node_cleanup", "take it out"}},
		"detached":                           {args: []string{"rabbitmq-server", "-detached"}, say: []string{"rabbitmq-server -detached", "end at once", "take -detached out"}},
		"detached by the server's arguments": {env: []string{"RABBITMQ_SERVER_START_ARGS=+S 2 -detached"}, say: []string{"RABBITMQ_SERVER_START_ARGS", "end at once", "take -detached out"}},
		"detached by Erlang's flags":         {env: []string{"ERL_ZFLAGS=-detached"}, say: []string{"ERL_ZFLAGS", "take -detached out"}},
		"a node without RabbitMQ":            {env: []string{"RABBITMQ_NODE_ONLY=false"}, say: []string{"RABBITMQ_NODE_ONLY", `"false"`, "never gets ready", "take it out"}},
		"no registration": {prep: func(n *node) {
			n.put(n.path("conf.d/30.conf"), "cluster_formation.registration.enabled = false")
		}, say: []string{"conf.d/30.conf:1: cluster_formation.registration.enabled", "registers", "Remove this"}},
		"no certificates for the check": {env: []string{"RMQ_AMQP_URL=amqps://localhost?cacertfile=/nowhere/ca.pem"}, say: []string{"--amqp-url", "RMQ_AMQP_URL", "/nowhere/ca.pem"}},
		"an unknown way to log in":      {env: []string{"RMQ_AMQP_URL=amqp://localhost?auth_mechanism=kerberos"}, say: []string{"RMQ_AMQP_URL", "auth_mechanism", "kerberos"}},
		"a port that is taken": {prep: func(n *node) {
			l, err := net.Listen("tcp", n.ip+":15690")
			expect.Must(n.t, err)
			n.t.Cleanup(func() { _ = l.Close() })
		},
			say: []string{"--http", "RMQ_HTTP", ":15690", "address already in use", "another port"}},
		"a port that is taken, by name": {prep: func(n *node) { n.env = append(n.env, "RMQ_HTTP=localhost:"+listener(t, func(net.Conn) {})) },
			say: []string{"--http", "RMQ_HTTP", "localhost:", "address already in use"}},
		"a port of another host":       {env: []string{"RMQ_HTTP=192.0.2.1:15690"}, say: []string{"--http", "RMQ_HTTP", "192.0.2.1:15690", "an address of this host"}},
		"RabbitMQ's own port":          {env: []string{"RMQ_HTTP=:5672"}, say: []string{"--http", "RMQ_HTTP", ":5672", "AMQP", "listeners.tcp", "another port"}},
		"one port for two":             {env: []string{"RMQ_HTTP=:15689", "RMQ_ADMIN=127.0.0.1:15689"}, say: []string{"--http", "RMQ_HTTP", "--admin", "RMQ_ADMIN", "another port"}},
		"a path too long for a socket": {env: []string{"RMQ_STATE_DIR=/tmp/" + strings.Repeat("x", 100)}, say: []string{"--state-dir", "RMQ_STATE_DIR", "too long"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newWorld(t, nil).node("rabbit@localhost", c.env...)
			n.env = append(n.env, "CONSUL_HTTP_ADDR=127.0.0.1:1") // nobody is there, and nobody is asked
			if c.prep != nil {
				c.prep(n)
			}
			before := expect.Tree(t, n.dir)
			out, code := n.run(c.args...)
			if code != 1 {
				t.Errorf("exit status %d, want 1", code)
			}
			expect.Says(t, out, append(c.say, "rmq-entrypoint: ")...)
			if strings.Count(out, "\n") != 1 {
				t.Errorf("it takes more than a line:\n%s", out)
			}
			if name == "another node's database" { // found after the cookie was written
				expect.Must(t, os.Remove(n.volume(".erlang.cookie")))
			}
			after := expect.Tree(t, n.dir)
			for path := range after {
				if base := filepath.Base(path); base == "companion.lock" || base == ".erlang.cookie" && before[path] == "" {
					delete(after, path)
				}
			}
			if !sameTree(before, after) {
				t.Errorf("it changed files: %v, was %v", after, before)
			}
		})
	}
}

func (n *node) putCookie(text string, mode os.FileMode) {
	n.t.Helper()
	n.put(n.volume(".erlang.cookie"), text)
	expect.Must(n.t, os.Chmod(n.volume(".erlang.cookie"), mode))
}

// putSealed makes a directory that the node may look into and not write.
func (n *node) putSealed(dir string) {
	n.t.Helper()
	expect.Must(n.t, os.MkdirAll(dir, 0o755))
	n.own()
	expect.Must(n.t, os.Chmod(dir, 0o555))
	n.t.Cleanup(func() { _ = os.Chmod(dir, 0o755) })
}

// Docker and people start commands as root: each that works on a node steps down first, whichever is added.
func TestCommandsStepDown(t *testing.T) {
	for _, row := range subcommands {
		name, _, _ := strings.Cut(row.use, " ")
		if got := worksOnNode(command{name: name}); got != (name != "version") {
			t.Errorf("%s: %t", name, got)
		}
	}
	if worksOnNode(command{name: "start"}) || worksOnNode(command{name: "exec"}) || worksOnNode(command{name: "produce", client: new(workload.Options)}) {
		t.Error("what steps down in its own time, or is of no node, does so here, too")
	}
}
