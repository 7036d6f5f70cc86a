package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

// With Consul down a blank node waits and says for what, and a member starts at
// once; both go on by themselves when it is there.
func TestConsulDownAtBoot(t *testing.T) {
	t.Parallel()
	c := consultest.Start(t)
	c.Kill()
	blank := newWorld(t, c).node("rabbit@localhost", "CONSUL_HTTP_ADDR=127.0.0.1:1,"+c.Addr)
	blank.start()
	blank.logs("--consul, CONSUL_HTTP_ADDR")
	for _, addr := range []string{"127.0.0.1:1", c.Addr} {
		expect.Says(t, blank.log(), addr+": Get", "connect: connection refused")
	}
	if out, code := blank.run("healthcheck"); code != 0 || !strings.Contains(out, "waiting for") {
		t.Errorf("healthcheck: %d, %q", code, out)
	}

	m := newWorld(t, c).node("rabbit@localhost")
	m.hasData(&statedir.Marker{ClusterID: "id-1", Volume: "v1", Members: []string{"rabbit@localhost"}})
	m.start()
	m.server(soon)
	m.sees("id-1", m.name)
	m.tell("amqp up")
	m.tell("notify READY=1")
	m.reports(soon, api.HealthCritical, "no Consul answers")

	c.Boot()
	c.WaitReady()
	m.registered(testBeat+late, api.HealthPassing)
	if r := m.record(); r.State != peers.Formed || r.ClusterID != "id-1" || r.Members[m.name] != "v1" {
		t.Errorf("the member published %+v", r)
	}
	blank.server(soon)
	if r := blank.record(); r.State != peers.Forming || r.Seed != blank.name {
		t.Errorf("the blank node wrote %+v", r)
	}
}

// A Consul that lost everything has it all again within a beat.
func TestConsulLosesItsData(t *testing.T) {
	t.Parallel()
	c := consultest.Start(t)
	w := newWorld(t, c)
	n := w.node("rabbit@localhost")
	n.serves()
	was := w.record()
	c.Restart() // an agent in memory
	n.registered(testBeat+late, api.HealthPassing)
	if r := w.record(); r.State != peers.Formed || r.ClusterID != was.ClusterID || r.Members[n.name] != was.Members[n.name] {
		t.Errorf("record %+v, was %+v", r, was)
	}
}

// Consul may be away for longer than the TTL, and in any way: a node that serves
// stays ready, and its entry is back soon after Consul is.
func TestConsulAwayWhileServing(t *testing.T) {
	t.Parallel()
	c := consultest.Start(t)
	for name, away := range map[string]func(*consultest.Link) (end func()){
		"refuses":    func(l *consultest.Link) func() { l.Refuse(); return l.Pass },
		"black hole": func(l *consultest.Link) func() { l.Blackhole(); return l.Pass },
		"no leader": func(l *consultest.Link) func() {
			rule := l.Answer(16, 500, "No cluster leader", func(*http.Request) bool { return true })
			return func() { <-rule.Done() }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			link := consultest.Proxy(t, c.Addr)
			w := newWorld(t, c)
			n := w.node("rabbit@localhost", "CONSUL_HTTP_ADDR="+link.Addr)
			n.serves()
			end := away(link)
			n.registered(testTTL+testBeat+late, api.HealthCritical) // its TTL lapses
			expect.Consistently(t, 2*testBeat, "a node that serves stays ready", func() error {
				r, err := n.report()
				if err == nil && !r.Ready() {
					err = fmt.Errorf("%s: %s", r.Status, r.Reason)
				}
				return err
			})
			end()
			n.registered(2*testBeat+late, api.HealthPassing)
			if left := w.companions(); len(left) != 1 {
				t.Errorf("companions %v", left)
			}
		})
	}
}

// A Consul that takes a second for each answer costs a node that serves nothing,
// and lets one that starts in.
func TestConsulSlow(t *testing.T) {
	t.Parallel()
	c := consultest.Start(t)
	link := consultest.Proxy(t, c.Addr)
	w := newWorld(t, c)
	n := w.node("rabbit@localhost", "CONSUL_HTTP_ADDR="+link.Addr)
	n.serves()
	link.Delay(time.Second)
	joiner := w.node("b@localhost", "CONSUL_HTTP_ADDR="+link.Addr)
	joiner.start()
	expect.Consistently(t, 2*testTTL, "its check passes", func() error {
		status, err := n.status(c.Client)
		if err == nil && status != api.HealthPassing {
			err = fmt.Errorf("it is %q", status)
		}
		return err
	})
	joiner.server(2 * soon)
	if r := w.record(); r.Members[joiner.name] == "" {
		t.Errorf("it joins with the record %+v", r)
	}
}

// Rights that are taken away from a node that serves are named, and given back
// it is registered again by itself. RabbitMQ goes on all the while.
func TestConsulDeniesWhileServing(t *testing.T) {
	t.Parallel()
	c := consultest.Start(t, consultest.ACL())
	w := newWorld(t, c)
	policy := func(rules string) *api.ACLPolicy {
		return &api.ACLPolicy{Name: "node", Rules: rules}
	}
	const all = `key_prefix "rmq-entrypoint/" { policy = "write" } session_prefix "" { policy = "write" } service_prefix "" { policy = "write" } node_prefix "" { policy = "read" }`
	made, _, err := c.Client.ACL().PolicyCreate(policy(all), nil)
	expect.Must(t, err)
	secret, _, err := c.Client.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{ID: made.ID}}}, nil)
	expect.Must(t, err)
	n := w.node("rabbit@localhost", "CONSUL_HTTP_TOKEN="+secret.SecretID)
	server := n.serves()
	change := func(rules string) {
		t.Helper()
		p := policy(rules)
		p.ID = made.ID
		_, _, err := c.Client.ACL().PolicyUpdate(p, nil)
		expect.Must(t, err)
	}
	change(`node_prefix "" { policy = "read" }`)
	n.reports(soon, api.HealthPassing, "key:read")
	expect.Says(t, n.log(), "Consul cannot be asked or told", "CONSUL_HTTP_TOKEN")
	atAgent := func() string { // the catalog hears nothing while the token is denied
		checks, err := c.Client.Agent().Checks()
		expect.Must(t, err)
		for _, check := range checks {
			if check.ServiceName == w.service {
				return check.Status
			}
		}
		return ""
	}
	expect.Eventually(t, testTTL+testBeat+late, "its beats are refused", func() error {
		if s := atAgent(); s != api.HealthCritical {
			return fmt.Errorf("it is %q", s)
		}
		return nil
	})
	if r, err := n.report(); err != nil || !r.Ready() {
		t.Errorf("a node that serves is %+v, %v", r, err)
	}
	change(all)
	n.registered(2*testBeat+late, api.HealthPassing)
	expect.Eventually(t, soon, "its beats are taken", func() error {
		if s := atAgent(); s != api.HealthPassing || !strings.Contains(n.log(), "Consul answers again") {
			return fmt.Errorf("it is %q:\n%s", s, n.log())
		}
		return nil
	})
	if err := syscall.Kill(server.PID, 0); err != nil || len(w.companions()) != 1 {
		t.Errorf("the server: %v; companions %v", err, w.companions())
	}
}

// stubServer replaces the server by a script, for where many are started.
func (w *world) stubServer(script string) {
	w.t.Helper()
	path := filepath.Join(w.root, "bin", "rabbitmq-server")
	expect.Must(w.t, os.Remove(path))
	expect.Must(w.t, os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755))
}

// Every right that is missing is named, before anything is begun.
func TestConsulDenies(t *testing.T) {
	t.Parallel()
	c := consultest.Start(t, consultest.ACL())
	const (
		key, keyRead       = `key_prefix "rmq-entrypoint/" { policy = "write" }`, `key_prefix "rmq-entrypoint/" { policy = "read" }`
		session            = `session_prefix "" { policy = "write" }`
		service, serviceRO = `service_prefix "" { policy = "write" }`, `service_prefix "" { policy = "read" }`
		nodes              = `node_prefix "" { policy = "read" }`
	)
	for name, test := range map[string]struct {
		rules []string
		right string // that is missing
	}{
		"nothing":       {nil, "key:read"},
		"no keys":       {[]string{session, service, nodes}, "key:read"},
		"keys to read":  {[]string{keyRead, session, service, nodes}, "key:write"},
		"no session":    {[]string{key, service, nodes}, "session:write"},
		"service read":  {[]string{key, session, serviceRO, nodes}, "service:write"},
		"no nodes":      {[]string{key, session, service}, "node:read"},
		"all it needs":  {[]string{key, session, service, nodes}, ""},
		"from the file": {[]string{key, session, service, nodes}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, c)
			secret := token(t, c, strings.Join(test.rules, "\n"))
			n := w.node("rabbit@localhost", "CONSUL_HTTP_TOKEN="+secret)
			if name == "from the file" {
				n.put(n.path("token"), secret+"\n")
				n.env = append(n.env, "CONSUL_HTTP_TOKEN=", "CONSUL_HTTP_TOKEN_FILE="+n.path("token"))
			}
			if test.right == "" {
				n.serves()
				return
			}
			// Somebody else serves, so that the catalog has something to hide.
			w.neighbour("a@localhost", "id-1", "a@localhost")
			if test.right != "node:read" {
				expect.Must(t, peers.Withdraw(t.Context(), c.Client, peers.Registration{Service: w.service, Node: "a@localhost"}))
			}
			n.start()
			n.refused(soon, test.right, "CONSUL_HTTP_TOKEN")
			if strings.Contains(n.log(), secret) {
				t.Error("the log holds the token")
			}
			if w.sessions() != 0 {
				t.Error("it left a session")
			}
			if r := w.record(); r.State != peers.Absent && test.right != "service:write" { // that one shows when it registers: the claim is its own at the next start
				t.Errorf("it left a record: %+v", r)
			}
		})
	}
}

func token(t *testing.T, c *consultest.Consul, rules string) string {
	t.Helper()
	policy, _, err := c.Client.ACL().PolicyCreate(&api.ACLPolicy{Name: strings.ReplaceAll(strings.ReplaceAll(t.Name(), "/", "-"), "_", "-"), Rules: rules}, nil)
	expect.Must(t, err)
	token, _, err := c.Client.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{ID: policy.ID}}}, nil)
	expect.Must(t, err)
	return token.SecretID
}
