package hosts

import (
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
	if changed, err := (*File)(nil).Learn([]peers.Peer{{Node: "rabbit@a", Address: "10.0.0.1:5672"}}); err != nil || changed != nil {
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
	changed, err := h.Learn([]peers.Peer{
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
	expect.Must(t, err)
	if changed, err = h.Learn([]peers.Peer{{Node: "rabbit@b", Address: "10.0.0.3:5672"}}); err != nil || changed != nil {
		t.Errorf("nothing new: %q, %v", changed, err)
	}
	if is, err := os.Stat(h.path); err != nil || !os.SameFile(was, is) {
		t.Errorf("written without need, and Erlang would read it again: %v", err)
	}
	h.own = "" // as the system resolves it now
	_, err = h.Learn(nil)
	if b, rerr := os.ReadFile(h.path); err != nil || rerr != nil || strings.Contains(string(b), "me") || !strings.Contains(string(b), "10.0.0.3 b\n") {
		t.Errorf("%v %v\n%s", err, rerr, b)
	}
}
