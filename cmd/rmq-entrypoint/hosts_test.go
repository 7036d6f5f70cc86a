package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/peers"
)

// Two host names that nothing resolves: the Erlang VM gets them from the catalog,
// before a peer is first asked, and for as long as the node runs.
func testHosts(t *testing.T, w *world) {
	const there, here, third = "rabbit@there.invalid", "rabbit@here.invalid", "rabbit@third.invalid"
	w.putRecord(formed("id-1", map[string]string{there: "v1"}))
	peer := w.neighbour(there, "id-1", there)
	n := w.node(here, "RABBITMQ_USE_LONGNAME=true", "RMQ_HOSTS=consul")
	n.start()
	s := n.server(soon)

	if !slices.Contains(s.Env, "ERL_INETRC="+n.volume("inetrc")) {
		t.Errorf("the server's environment has no ERL_INETRC: %q", s.Env)
	}
	inetrc, err := os.ReadFile(n.volume("inetrc"))
	if err != nil || !strings.Contains(string(inetrc), fmt.Sprintf("{hosts_file,%q}.", n.state("hosts"))) {
		t.Errorf("inetrc: %s, %v", inetrc, err)
	}
	both := n.ip + " here.invalid\n" + peer.ip + " there.invalid\n"
	n.hosts(0, both)
	asked, err := os.ReadFile(n.path("ctl.hosts"))
	if want := there + " " + n.volume("inetrc") + " " + strings.ReplaceAll(both, "\n", ";") + "\n"; err != nil || !strings.HasPrefix(string(asked), want) {
		t.Errorf("the peer was asked with %s, %v; want %s", asked, err, want)
	}

	n.tell("amqp up")
	n.sees("id-1", there, here)
	n.tell("notify READY=1")
	n.registered(soon, api.HealthPassing)

	// It comes back elsewhere; and one that stops by itself has to be found as before.
	moved := peers.Registration{Service: w.service, Node: there, Address: "10.9.8.7", Port: 5672, TTL: time.Hour, Reap: time.Hour, ClusterID: "id-1"}
	must(t, peers.Announce(t.Context(), w.consul.Client, moved, peers.Starting, ""))
	n.hosts(testBeat, n.ip+" here.invalid\n10.9.8.7 there.invalid\n")
	must(t, peers.Withdraw(t.Context(), w.consul.Client, moved))
	newcomer := w.neighbour(third, "id-1", third)
	n.hosts(testBeat, n.ip+" here.invalid\n10.9.8.7 there.invalid\n"+newcomer.ip+" third.invalid\n")
	n.logs("third.invalid")

	// A companion that a health check starts knows of the file, too.
	n.kill(w.companions()[0])
	eventually(t, soon, "another companion", func() error { return w.replaced(n) }) // the seat of the killed one is not free at once
	must(t, peers.Announce(t.Context(), w.consul.Client, moved, peers.Starting, ""))
	moved.Address = "10.9.8.6"
	must(t, peers.Announce(t.Context(), w.consul.Client, moved, peers.Starting, ""))
	n.hosts(testBeat+soon, n.ip+" here.invalid\n10.9.8.6 there.invalid\n"+newcomer.ip+" third.invalid\n")
}

// hosts waits until the node's hosts file has these lines.
func (n *node) hosts(within time.Duration, want string) {
	n.t.Helper()
	eventually(n.t, within, "the hosts file of "+n.name, func() error {
		b, err := os.ReadFile(n.state("hosts"))
		if _, lines, _ := strings.Cut(string(b), "\n"); err == nil && lines != want {
			err = fmt.Errorf("it has\n%s\nwant\n%s", lines, want)
		}
		return err
	})
}

// A member that starts has the others' addresses when its server starts.
func testHostsOfMember(t *testing.T, w *world) {
	peer := w.neighbour("rabbit@there.invalid", "id-1", "rabbit@there.invalid")
	n := w.node("rabbit@here.invalid", "RABBITMQ_USE_LONGNAME=true", "RMQ_HOSTS=consul")
	n.hasData(nil)
	n.start()
	n.server(soon)
	n.hosts(0, n.ip+" here.invalid\n"+peer.ip+" there.invalid\n")
	n.reports(soon, api.HealthCritical, "booting")
	if strings.Contains(n.log(), "learned addresses") {
		t.Errorf("the companion had to learn them:\n%s", n.log())
	}
}

// Without Consul a member goes by what it last knew, but for its own address.
func testHostsWithoutConsul(t *testing.T, w *world) {
	n := w.node("rabbit@here.invalid", "RABBITMQ_USE_LONGNAME=true", "RMQ_HOSTS=consul", "CONSUL_HTTP_ADDR="+loopback(t)+":1")
	n.env = slices.DeleteFunc(n.env, func(kv string) bool { return kv == "CONSUL_HTTP_ADDR="+w.consul.Addr })
	n.hasData(&memberFile{ClusterID: "id-1", Volume: "v0", Members: []string{n.name}})
	n.put(n.state("hosts"), "# old\n10.0.0.1 here.invalid\n10.0.0.2 there.invalid\n")
	n.start()
	n.server(soon)
	n.hosts(0, n.ip+" here.invalid\n10.0.0.2 there.invalid\n")
}

// A user's own inetrc wins, and that is said. The file is kept all the same.
func testUsersInetrc(t *testing.T, w *world) {
	for name, value := range map[string]string{"ERL_INETRC": "/etc/own", "RABBITMQ_SERVER_ERL_ARGS": "-kernel inetrc x", "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": `-kernel inetrc "/etc/own"`} {
		n := w.node(fmt.Sprintf("rabbit@h%d", len(name)), "RMQ_HOSTS=consul", name+"="+value)
		n.hasData(nil)
		n.start()
		s := n.server(soon)
		if !slices.Contains(s.Env, name+"="+value) {
			t.Errorf("the server lacks the user's %s: %q", name, s.Env)
		}
		if ours := slices.Contains(s.Env, "ERL_INETRC="+n.volume("inetrc")); ours != (name != "ERL_INETRC") {
			t.Errorf("%s=%s: ours in the server's environment: %t", name, value, ours)
		}
		says(t, n.log(), "the user set", name, "RMQ_HOSTS")
		if b, err := os.ReadFile(n.state("hosts")); err != nil || !strings.Contains(string(b), n.ip+" ") {
			t.Errorf("the hosts file: %s, %v", b, err)
		}
	}
	n := w.node("rabbit@ours", "RMQ_HOSTS=consul")
	n.env = append(n.env, "ERL_INETRC="+n.volume("inetrc")) // as compose/stack.yml has it, for docker exec
	n.hasData(nil)
	n.start()
	n.server(soon)
	if strings.Contains(n.log(), "the user set") {
		t.Errorf("taken for the user's own:\n%s", n.log())
	}
}

// Without the setting nothing of it is there.
func TestHostsOff(t *testing.T) {
	cfg, err := fromEnvironment(environ("RABBITMQ_DATA_DIR=/nowhere"))
	must(t, err)
	if h := newHosts(t.Context(), cfg, ""); h != nil || len(resolver(cfg)) > 0 {
		t.Errorf("%+v, %q", h, resolver(cfg))
	}
	if changed, err := (*hosts)(nil).learn([]peers.Peer{{Node: "rabbit@a", Address: "10.0.0.1:5672"}}); err != nil || changed != nil {
		t.Errorf("%q, %v", changed, err)
	}
}

// The node's own name: where others find it if that is here, else as the system
// resolves it, else this host.
func TestOwnAddress(t *testing.T) {
	for _, c := range []struct{ node, advertise, own string }{
		{"rabbit@localhost", "127.9.8.7", "127.9.8.7"},
		{"rabbit@localhost", "203.0.113.1", ""},
		{"rabbit@nowhere.invalid", "203.0.113.1", "127.0.0.1"},
		{"rabbit@nowhere.invalid", "", "127.0.0.1"}, // an agent on this host
	} {
		cfg, err := fromEnvironment(environ("RMQ_HOSTS=consul", "RABBITMQ_USE_LONGNAME=true", "RABBITMQ_NODENAME=rabbit@given.invalid", "RMQ_ADVERTISE="+c.advertise))
		cfg.Node = c.node // which may be one that has an address here, as no other name has for sure
		must(t, err)
		own, err := advertise(t.Context(), cfg, "")
		must(t, err)
		if h := newHosts(t.Context(), cfg, own); h.own != c.own || "rabbit@"+h.self != c.node {
			t.Errorf("%+v: %+v", c, h)
		}
	}
}

// What stands in the catalog besides the nodes gets into no file.
func TestLearnHosts(t *testing.T) {
	h := &hosts{path: t.TempDir() + "/hosts", self: "me", own: "10.0.0.1"}
	changed, err := h.learn([]peers.Peer{
		{Node: "rabbit@b", Address: "10.0.0.3:5672", Passing: true}, {Node: "rabbit@b", Address: "10.0.0.4:5672"}, // with two agents
		{Node: "rabbit@c", Address: "10.0.0.5:5672"}, {Node: "rabbit@c", Address: "10.0.0.6:5672", Passing: true},
		{Node: "rabbit@a", Address: "[fd00::2]:5672"},
		{Node: "rabbit@me", Address: "10.0.0.9:5672"}, {Node: "rabbitmq-by-hand", Address: "10.0.0.9:5672"},
		{Node: "rabbit@named", Address: "named.example:5672"}, {Node: "rabbit@x\n10.0.0.9 y", Address: "10.0.0.9:5672"},
	})
	b, rerr := os.ReadFile(h.path)
	want := "# Written by rmq-entrypoint from Consul's catalog: edits are lost.\nfd00::2 a\n10.0.0.3 b\n10.0.0.6 c\n10.0.0.1 me\n"
	if string(b) != want || err != nil || rerr != nil || !slices.Equal(changed, []string{"a", "b", "c", "me"}) {
		t.Errorf("%q %v %v\n%s\nwant\n%s", changed, err, rerr, b, want)
	}
	was, err := os.Stat(h.path)
	must(t, err)
	if changed, err = h.learn([]peers.Peer{{Node: "rabbit@b", Address: "10.0.0.3:5672"}}); err != nil || changed != nil {
		t.Errorf("nothing new: %q, %v", changed, err)
	}
	if is, err := os.Stat(h.path); err != nil || !os.SameFile(was, is) {
		t.Errorf("written without need, and Erlang would read it again: %v", err)
	}
	h.own = "" // as the system resolves it now
	_, err = h.learn(nil)
	if b, rerr := os.ReadFile(h.path); err != nil || rerr != nil || strings.Contains(string(b), "me") || !strings.Contains(string(b), "10.0.0.3 b\n") {
		t.Errorf("%v %v\n%s", err, rerr, b)
	}
}

func testTagsAndMeta(t *testing.T, w *world) {
	management := listen0(t)
	n := w.node("rabbit@localhost", "RMQ_TAGS=production,ssd", "RMQ_META=zone=a,disk=ssd")
	n.put(n.path("rabbitmq.conf"), fmt.Sprintf("management.tcp.port = %d\n", port(management)))
	n.serves()
	for _, service := range []string{w.service, w.service + "-management"} {
		eventually(t, testBeat+soon, "tags and meta of "+service, func() error {
			found, _, err := w.consul.Client.Catalog().Service(service, "ssd", &api.QueryOptions{RequireConsistent: true})
			if err == nil && (len(found) != 1 || !slices.Equal(found[0].ServiceTags, []string{"production", "ssd"}) ||
				found[0].ServiceMeta["zone"] != "a" || found[0].ServiceMeta["disk"] != "ssd" || found[0].ServiceMeta["node"] != n.name) {
				err = fmt.Errorf("%+v", found)
			}
			return err
		})
	}
}

// An interface or a subnet stands for the address that is registered.
func testAdvertisedInterface(t *testing.T, w *world) {
	n := w.node("rabbit@localhost", "RMQ_ADVERTISE=127.0.0.0/8")
	n.serves()
	all, _, err := peers.Catalog(t.Context(), w.consul.Client, w.service, "")
	if err != nil || len(all) != 1 || all[0].Address != "127.0.0.1:5672" {
		t.Errorf("%+v, %v", all, err)
	}
	other := w.node("rabbit@other", "RMQ_ADVERTISE=nonesuch0")
	other.start()
	other.refused(soon, "--advertise", "RMQ_ADVERTISE", "nonesuch0", "127.0.0.1 on lo")
}

// Before an agent is in use the route to the first one counts.
func TestAdvertiseBeforeConsulIsAsked(t *testing.T) {
	cfg, err := fromEnvironment(environ("CONSUL_HTTP_ADDR=198.51.100.1:8500"))
	must(t, err)
	before, err := advertise(t.Context(), cfg, "")
	must(t, err)
	then, err := advertise(t.Context(), cfg, "198.51.100.1:8500")
	if must(t, err); before != then {
		t.Errorf("%q before, %q then", before, then)
	}
	// Not knowing is not the agent's own address, with which others would look for the node there.
	if address, err := advertise(t.Context(), cfg, "consul.invalid:8500"); err == nil || !strings.Contains(err.Error(), "RMQ_ADVERTISE") {
		t.Errorf("%q, %v", address, err)
	}
}

func TestAddressOf(t *testing.T) {
	for _, c := range []struct{ setting, want string }{
		{"", ""}, {"203.0.113.1", "203.0.113.1"}, {"fd00::1", "fd00::1"},
		{"127.0.0.0/8", "127.0.0.1"}, {"lo", "127.0.0.1"}, {"203.0.113.0/24", "error"},
	} {
		if got, err := addressOf(c.setting); got != c.want && (c.want != "error" || err == nil) {
			t.Errorf("%q: %q, %v; want %q", c.setting, got, err, c.want)
		}
	}
}
