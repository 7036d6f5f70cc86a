package hosts

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/expect"
)

// Without the setting nothing of it is there.
func TestHostsOff(t *testing.T) {
	cfg, err := config.FromEnvironment(expect.Environ("RABBITMQ_DATA_DIR=/nowhere"))
	expect.Must(t, err)
	if h := Of(t.Context(), cfg, ""); h != nil || len(Environment(cfg)) > 0 {
		t.Errorf("%+v, %q", h, Environment(cfg))
	}
	if changed, err := (*File)(nil).Learn([]peers.Peer{{Node: "rabbit@a", Address: "10.0.0.1:5672"}}, on("rabbit@a"), nowhere); err != nil || changed != nil {
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
		cfg, err := config.FromEnvironment(expect.Environ("RMQ_HOSTS=consul", "RABBITMQ_USE_LONGNAME=true", "RABBITMQ_NODENAME=rabbit@given.invalid", "RMQ_ADVERTISE="+c.advertise))
		cfg.Node = c.node // which may be one that has an address here, as no other name has for sure
		expect.Must(t, err)
		own, err := consul.Advertise(t.Context(), cfg, "")
		expect.Must(t, err)
		if h := Of(t.Context(), cfg, own); h.own != c.own || "rabbit@"+h.self != c.node {
			t.Errorf("%+v: %+v", c, h)
		}
	}
}

// What stands in the catalog besides the nodes gets into no file.
func TestLearnHosts(t *testing.T) {
	h := &File{path: t.TempDir() + "/hosts", self: "me", own: "10.0.0.1"}
	known := on("rabbit@a", "rabbit@b", "rabbit@c", "rabbit@me", "rabbit@named")
	changed, err := h.Learn([]peers.Peer{
		{Node: "rabbit@b", Address: "10.0.0.3:5672", Passing: true}, {Node: "rabbit@b", Address: "10.0.0.4:5672"}, // with two agents
		{Node: "rabbit@c", Address: "10.0.0.5:5672"}, {Node: "rabbit@c", Address: "10.0.0.6:5672", Passing: true},
		{Node: "rabbit@a", Address: "[fd00::2]:5672"},
		{Node: "rabbit@me", Address: "10.0.0.9:5672"}, {Node: "rabbitmq-by-hand", Address: "10.0.0.9:5672"},
		{Node: "rabbit@named", Address: "named.example:5672"}, {Node: "rabbit@x\n10.0.0.9 y", Address: "10.0.0.9:5672"},
		{Node: "rabbit@stranger", Address: "10.0.0.9:5672", Passing: true, ClusterID: "id"},
	}, known, nowhere)
	b, rerr := os.ReadFile(h.path)
	want := "# Written by rmq-entrypoint from Consul's catalog: edits are lost.\nfd00::2 a\n10.0.0.3 b\n10.0.0.6 c\n10.0.0.1 me\n"
	if string(b) != want || err != nil || rerr != nil || !slices.Equal(changed, []string{"a", "b", "c", "me"}) {
		t.Errorf("%q %v %v\n%s\nwant\n%s", changed, err, rerr, b, want)
	}
	was, err := os.Stat(h.path)
	expect.Must(t, err)
	if changed, err = h.Learn([]peers.Peer{{Node: "rabbit@b", Address: "10.0.0.3:5672"}}, known, nowhere); err != nil || changed != nil {
		t.Errorf("nothing new: %q, %v", changed, err)
	}
	if is, err := os.Stat(h.path); err != nil || !os.SameFile(was, is) {
		t.Errorf("written without need, and Erlang would read it again: %v", err)
	}
	h.own = "" // as the system resolves it now
	expect.Must(t, h.Tidy())
	if b, err := os.ReadFile(h.path); err != nil || strings.Contains(string(b), "me") || !strings.Contains(string(b), "10.0.0.3 b\n") {
		t.Errorf("%v\n%s", err, b)
	}
	// One is off the record and a member of RabbitMQ's all the same; another one is gone.
	known = on("rabbit@b")
	known.Members = []string{"rabbit@a"}
	_, err = h.Learn(nil, known, nowhere)
	if known, rerr := h.read(); err != nil || rerr != nil || !maps.Equal(known, map[string]string{"a": "fd00::2", "b": "10.0.0.3"}) {
		t.Errorf("%v %v %v", known, err, rerr)
	}
}

// on is a record of these members, each on the volume that is named for it.
func on(nodes ...string) Known {
	r := peers.Record{State: peers.Formed, ClusterID: "id", Members: map[string]string{}}
	for _, n := range nodes {
		r.Members[n] = "volume of " + n
	}
	return Known{Record: r}
}

// A name that programs here look for is no node's, whoever registers it and even if it is on
// record; a file in which it stands heals.
func TestNamesThatAreNoNodes(t *testing.T) {
	refused := []string{
		"localhost", "LocalHost", "ip6-localhost", "localhost.localdomain", "db.localhost", "127.0.0.1", "127.1", "10", "0x7f000001", "0x7f.1",
		"ldap.corp.example", "consul", "CONSUL", "agent-2", "resolver",
	}
	c := config.Config{Hosts: "consul", Node: "rabbit@me", StateDir: t.TempDir(), Consul: []string{"http://consul:8500/prefix", "agent-2:8500", "unix:///run/consul.sock"}, DNSServer: "resolver:53"}
	h := Of(t.Context(), c, "")
	h.own = ""
	text := "10.0.0.2 here\n"
	var all []peers.Peer
	nodes := []string{"rabbit@here", "rabbit@012345678901", "rabbit@0xdeadbeef0123", "rabbit@1-2"}
	for _, host := range refused {
		text += "10.6.6.6 " + host + "\n"
		nodes = append(nodes, "rabbit@"+host)
	}
	for _, n := range nodes {
		all = append(all, peers.Peer{Node: n, Address: "10.6.6.6:5672", Passing: true, ClusterID: "id"})
	}
	expect.Must(t, os.WriteFile(h.path, []byte(text), 0o600))
	expect.Must(t, h.Tidy())
	if is, err := h.read(); err != nil || !maps.Equal(is, map[string]string{"here": "10.0.0.2"}) {
		t.Errorf("at the start it has %v, %v", is, err)
	}
	_, err := h.Learn(all, on(nodes...), nowhere)
	if is, rerr := h.read(); err != nil || rerr != nil || !slices.Equal(slices.Sorted(maps.Keys(is)), []string{"012345678901", "0xdeadbeef0123", "1-2", "here"}) {
		t.Errorf("it learned %v, %v %v", is, err, rerr)
	}
	c.LongNames, h = true, nil
	for host, ok := range map[string]bool{"ldap.corp.example": true, "127.0.0.1": false, "localhost.localdomain": false, "consul": false} {
		if err := namesOf(c).judge(host); (err == nil) != ok {
			t.Errorf("with long names, %s: %v", host, err)
		}
	}
}

// A later entry takes no live member's name.
func TestNameOfALiveMember(t *testing.T) {
	at := func(address string, change func(*peers.Peer)) peers.Peer {
		p := peers.Peer{Node: "rabbit@b", Address: address + ":5672", ClusterID: "id", Passing: true, Beating: true, Start: peers.Start{Volume: "volume of rabbit@b"}}
		if change != nil {
			change(&p)
		}
		return p
	}
	booting := func(p *peers.Peer) { p.Passing, p.ClusterID = false, "" }
	for name, c := range map[string]struct {
		file  string
		peers []peers.Peer
		want  string
	}{
		"another cluster's":            {"10.0.0.2", []peers.Peer{at("10.6.6.6", func(p *peers.Peer) { p.ClusterID = "other" }), at("10.0.0.2", nil)}, "10.0.0.2"},
		"no cluster's":                 {"10.6.6.6", []peers.Peer{at("10.6.6.6", func(p *peers.Peer) { p.ClusterID = "" }), at("10.0.0.2", nil)}, "10.0.0.2"},
		"another volume's":             {"10.6.6.6", []peers.Peer{at("10.0.0.2", nil), at("10.6.6.6", func(p *peers.Peer) { p.Volume = "other" })}, "10.0.0.2"},
		"an exact copy":                {"10.0.0.2", []peers.Peer{at("10.6.6.6", nil), at("10.0.0.2", nil)}, "10.0.0.2"},
		"an exact copy, behind":        {"10.0.0.2", []peers.Peer{at("10.0.0.2", nil), at("10.6.6.6", nil)}, "10.0.0.2"},
		"while it boots, no volume":    {"10.0.0.2", []peers.Peer{at("10.6.6.6", func(p *peers.Peer) { booting(p); p.Volume = "" }), at("10.0.0.3", booting)}, "10.0.0.3"},
		"it moved, its old entry lies": {"10.0.0.2", []peers.Peer{at("10.0.0.2", func(p *peers.Peer) { p.Passing, p.Beating = false, false }), at("10.0.0.3", booting)}, "10.0.0.3"},
		"it serves elsewhere":          {"10.0.0.2", []peers.Peer{at("10.0.0.2", func(p *peers.Peer) { p.Passing = false }), at("10.0.0.3", nil)}, "10.0.0.3"},
	} {
		for range 2 {
			h := &File{path: t.TempDir() + "/hosts", self: "me"}
			expect.Must(t, os.WriteFile(h.path, []byte(c.file+" b\n"), 0o600))
			_, err := h.Learn(c.peers, on("rabbit@b"), nowhere)
			if is, rerr := h.read(); err != nil || rerr != nil || is["b"] != c.want {
				t.Errorf("%s: %v, %v %v; want %s", name, is, err, rerr, c.want)
			}
			slices.Reverse(c.peers)
		}
	}
}
