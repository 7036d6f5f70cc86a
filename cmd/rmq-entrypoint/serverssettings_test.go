package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

// A command in the container sees its variables, and not the flags that its server was
// started with: it goes by what the server runs with.
func TestCommandsUseTheServersSettings(t *testing.T) {
	t.Parallel()
	c := consultest.Start(t)
	w := newWorld(t, c)
	n := w.node("b@localhost")
	n.hasData(nil)
	n.env = append(n.env, "RABBITMQ_NODENAME=rabbit@localhost") // the last one counts; a flag overrules it
	was := w.service
	w.service += "x"
	n.start("--service", w.service, "--node", n.name, "--key-prefix", "elsewhere/keys")
	n.server(soon)
	n.sees("id-x", n.name)
	n.tell("amqp up")
	n.tell("notify READY=1")
	n.reports(soon, api.HealthPassing, "")

	says := func(code int, args []string, words ...string) {
		t.Helper()
		out, got := n.run(args...)
		if got != code {
			t.Errorf("%q: exit status %d, want %d", args, got, code)
		}
		expect.Says(t, out, words...)
	}
	says(0, []string{"status"}, "b@localhost", "formed since", "cluster id-x", "elsewhere/keys/"+w.service+"/cluster", "b@localhost passing")
	says(0, []string{"healthcheck", "--ready"}, "passing")
	says(1, []string{"force-boot", "--cluster-id", "id-x"}, "nothing to carry on without")
	says(1, []string{"forget-cluster", "--cluster-id", "id-x"}, "b@localhost serves")
	// What the command itself is given counts, and is told.
	says(0, []string{"--service", was, "status"}, "settings", "--service is "+was+" here, and "+w.service+" for the server", "none (elsewhere/keys/"+was+"/cluster)")
	n.env = append(n.env, "RMQ_SERVICE="+was+"y")
	says(1, []string{"forget-cluster", "--cluster-id", "id-x"}, "this command's settings are not those of the server", was+"y", "is not the cluster on record, which is none")
}

// Every way in which people write where Consul is ends in an entry that passes, at the agent's
// own address where that agent is on this host.
func TestConsulAddressForms(t *testing.T) {
	t.Parallel()
	c := consultest.Start(t)
	w := newWorld(t, c)
	socket := filepath.Join(w.root, "consul.sock")
	l, err := net.Listen("unix", socket)
	expect.Must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	expect.Must(t, os.Chmod(socket, 0o777))
	target, err := url.Parse("http://" + c.Addr)
	expect.Must(t, err)
	go func() { _ = http.Serve(l, httputil.NewSingleHostReverseProxy(target)) }()
	host, _, _ := net.SplitHostPort(c.Addr)
	for name, addr := range map[string]string{"a": "unix://" + socket, "b": "http://" + host + "/", "c": host, "d": "http://" + c.Addr + "/"} {
		n := newWorld(t, c).node(name+"@localhost", "CONSUL_HTTP_ADDR="+addr, "RMQ_ADVERTISE=")
		n.serves()
		entries, _, err := c.Client.Health().Service(n.service, "", true, nil)
		if expect.Must(t, err); len(entries) != 1 || entries[0].Service.Address != "" {
			t.Errorf("%s: %+v", addr, entries)
		}
	}
}

// A server that was given its state directory and its name as flags is found by what was not, by
// a health check that starts a lost companion again, too.
func TestStateDirAsAFlag(t *testing.T) {
	t.Parallel()
	w := newWorld(t, consultest.Start(t))
	n := w.node("b@localhost")
	n.env = append(n.env, "RABBITMQ_NODENAME=rabbit@localhost") // the last one counts
	n.hasData(nil)
	state := n.volume("elsewhere/state")
	n.start("--node", n.name, "--state-dir", state)
	n.server(soon)
	n.sees("id-x", n.name)
	says := func(code int, args []string, words ...string) {
		t.Helper()
		out, got := n.run(args...)
		if got != code {
			t.Errorf("%q: exit status %d, want %d: %s", args, got, code, out)
		}
		expect.Says(t, out, words...)
	}
	says(0, []string{"healthcheck"}, "alive; critical: booting")
	n.tell("amqp up")
	n.tell("notify READY=1")
	n.registered(soon, api.HealthPassing)
	says(0, []string{"healthcheck", "--ready"}, "passing")
	says(0, []string{"status"}, "b@localhost", "cluster id-x", "b@localhost passing")
	lost := w.companions()
	for _, pid := range lost {
		n.kill(pid)
	}
	expect.Eventually(t, soon, "a health check starts another companion", func() error {
		says(0, []string{"healthcheck"})
		if now := w.companions(); len(now) != 1 || slices.Equal(now, lost) {
			return fmt.Errorf("companions %v", now)
		}
		return nil
	})
	expect.Eventually(t, soon, "and that one answers", func() error {
		if out, code := n.run("healthcheck", "--ready"); code != 0 {
			return errors.New(out)
		}
		return nil
	})
	says(0, []string{"drain", "--wait", "0s"}, "drained: the server can be stopped")
	n.kill(n.cmd.Process.Pid)
	n.exit(soon)
	says(1, []string{"--node", n.name, "status"}, "not running (was pid")
	if _, err := os.Stat(filepath.Join(n.state(""), "runtime.json")); !os.IsNotExist(err) {
		t.Errorf("the state is at its default place, too: %v", err)
	}
}
