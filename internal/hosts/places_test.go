package hosts

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

// nowhere is what nodes say that write no addresses.
func nowhere(string) (*peers.Place, error) { return nil, nil }

// A member restarts, and whoever may register a service has a copy of its entry, which passes, at an
// address of its own: before, meanwhile and after, that is nobody's.
func TestCopyOfAMember(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	places := peers.Places{Prefix: "p/s/addresses/", Record: "p/s/cluster"}
	member := peers.Registration{
		Service: "rabbitmq", Node: "rabbit@b", Port: 5672, TTL: time.Hour, DeregisterAfter: time.Hour, ClusterID: "id",
		Labels: peers.Labels{Places: places}, Start: peers.Start{Volume: "volume of rabbit@b", Boot: "b1"},
	}
	known := on("rabbit@a", "rabbit@b")
	h := &File{path: t.TempDir() + "/hosts", self: "a", own: "10.0.0.1"}
	learns := func(h *File, when, want string, warns ...string) {
		t.Helper()
		catalog, _, err := peers.Catalog(t.Context(), consul.Client, member.Service, "")
		expect.Must(t, err)
		_, err = h.Learn(catalog, known, places.Reader(t.Context(), consul.Client))
		if is, rerr := h.read(); rerr != nil || is["b"] != want {
			t.Errorf("%s: it is at %q, %v; want %s", when, is["b"], rerr, want)
		}
		if (err != nil) != (len(warns) > 0) {
			t.Errorf("%s: %v", when, err)
		}
		for _, word := range warns {
			if err != nil && !strings.Contains(err.Error(), word) {
				t.Errorf("%s: %v, want %s", when, err, word)
			}
		}
	}
	listed := func(what string, want ...string) {
		t.Helper()
		expect.Eventually(t, expect.Soon, what, func() error {
			all, _, err := peers.Catalog(t.Context(), consul.Client, member.Service, "")
			have := fmt.Sprint(len(all))
			for _, p := range all {
				have += fmt.Sprintf(" %s %t", p.Address, p.Passing)
			}
			if is := fmt.Sprint(len(want), " ", strings.Join(want, " ")); err == nil && have != strings.TrimSpace(is) {
				err = fmt.Errorf("it has %s, want %s", have, is)
			}
			return err
		})
	}
	serve := func(address, boot string) {
		t.Helper()
		member.Address, member.Boot = address, boot
		expect.Must(t, peers.Announce(t.Context(), consul.Client, member, peers.Starting, ""))
		expect.Must(t, peers.Report(t.Context(), consul.Client, member, api.HealthPassing, ""))
	}
	copied := func(at string) {
		t.Helper()
		all, _, err := consul.Client.Health().Service(member.Service, "", false, nil)
		expect.Must(t, err)
		s := all[0].Service
		expect.Must(t, consul.Client.Agent().ServiceRegister(&api.AgentServiceRegistration{
			ID: "copy", Name: s.Service, Address: at, Port: s.Port, Meta: s.Meta, Check: &api.AgentServiceCheck{TTL: "1h", Status: api.HealthPassing},
		}))
	}
	serve("10.0.0.2", "b1")
	listed("the member serves", "10.0.0.2:5672 true")
	learns(h, "it serves", "10.0.0.2")
	copied("10.6.6.6")
	listed("a copy beside it", "10.6.6.6:5672 true", "10.0.0.2:5672 true")
	learns(h, "a copy passes beside it", "10.0.0.2")
	expect.Must(t, peers.Withdraw(t.Context(), consul.Client, member))
	listed("the copy alone", "10.6.6.6:5672 true")
	learns(h, "it stopped, a copy passes alone", "10.0.0.2", "rabbit@b passes in Consul at 10.6.6.6", "copy", "10.0.0.2")
	fresh := &File{path: t.TempDir() + "/hosts", self: "a", own: "10.0.0.1"}
	learns(fresh, "the same, for one who knew nothing", "10.0.0.2", "10.6.6.6")
	member.Address, member.Boot = "10.0.0.3", "b2"
	expect.Must(t, peers.Announce(t.Context(), consul.Client, member, peers.Starting, ""))
	listed("it boots elsewhere", "10.6.6.6:5672 true", "10.0.0.3:5672 false")
	learns(h, "it boots elsewhere, a copy passes", "10.0.0.3")
	copied("10.0.0.2") // somebody has the address that it had
	listed("a copy where it was", "10.0.0.2:5672 true", "10.0.0.3:5672 false")
	old := &File{path: t.TempDir() + "/hosts", self: "a", own: "10.0.0.1"}
	expect.Must(t, os.WriteFile(old.path, []byte("10.0.0.2 b\n"), 0o600))
	learns(old, "a copy passes where it was", "10.0.0.3")
	serve("10.0.0.3", "b2")
	listed("both pass", "10.0.0.2:5672 true", "10.0.0.3:5672 true")
	expect.Must(t, os.WriteFile(old.path, []byte("10.0.0.2 b\n"), 0o600))
	learns(old, "both pass", "10.0.0.3")
	learns(h, "both pass", "10.0.0.3")

	// A node that is not on record gets nobody to ask for it by its key, however it came to be there.
	stranger := member
	stranger.Node, stranger.Address = "rabbit@stranger", "10.6.6.6"
	expect.Must(t, peers.Announce(t.Context(), consul.Client, stranger, peers.Starting, ""))
	learns(h, "another node has a key and an entry", "10.0.0.3")
	if is, err := h.read(); err != nil || is["stranger"] != "" {
		t.Errorf("it learned %v, %v", is, err)
	}
}

// What is said by a key counts before the catalog, and what cannot be read, or is another volume's,
// changes nothing. Nobody is asked while the catalog has nothing new.
func TestPlacesAndTheCatalog(t *testing.T) {
	entry := func(node, address string) peers.Peer {
		return peers.Peer{Node: node, Address: address + ":5672", ClusterID: "id", Passing: true, Beating: true, Start: peers.Start{Volume: "volume of " + node}}
	}
	elsewhere := []peers.Peer{entry("rabbit@b", "10.6.6.6")}
	unread := errors.New("no answer")
	says := func(address, volume string) *peers.Place { return &peers.Place{Address: address, Volume: volume} }
	for name, c := range map[string]struct {
		file    string
		entries []peers.Peer
		said    *peers.Place
		err     error
		want    string
		asked   bool
	}{
		"no key":                          {"10.0.0.2", elsewhere, nil, nil, "10.6.6.6", true},
		"no key, not known before":        {"", elsewhere, nil, nil, "10.6.6.6", true},
		"its key":                         {"10.0.0.2", elsewhere, says("10.0.0.3", "volume of rabbit@b"), nil, "10.0.0.3", true},
		"its key, not known before":       {"", elsewhere, says("10.0.0.3", "volume of rabbit@b"), nil, "10.0.0.3", true},
		"unread":                          {"10.0.0.2", elsewhere, nil, unread, "10.0.0.2", true},
		"unread, not known before":        {"", elsewhere, nil, unread, "", true},
		"another volume's":                {"10.0.0.2", elsewhere, says("10.0.0.3", "v9"), nil, "10.0.0.2", true},
		"another's, not known before":     {"", elsewhere, says("10.0.0.3", "v9"), nil, "", true},
		"nothing new":                     {"10.0.0.2", []peers.Peer{entry("rabbit@b", "10.0.0.2")}, nil, unread, "10.0.0.2", false},
		"not registered":                  {"10.0.0.2", nil, says("10.0.0.3", "volume of rabbit@b"), nil, "10.0.0.2", false},
		"its own entry, and a stranger's": {"10.0.0.2", []peers.Peer{entry("rabbit@me", "10.0.0.9"), entry("rabbit@c", "10.0.0.9")}, nil, unread, "10.0.0.2", false},
	} {
		h := &File{path: t.TempDir() + "/hosts", self: "me"}
		if c.file != "" {
			expect.Must(t, os.WriteFile(h.path, []byte(c.file+" b\n"), 0o600))
		}
		asked := false
		_, err := h.Learn(c.entries, on("rabbit@b", "rabbit@me"), func(node string) (*peers.Place, error) {
			asked = true
			return c.said, c.err
		})
		is, rerr := h.read()
		if expect.Must(t, rerr); is["b"] != c.want || asked != c.asked || len(is) > 1 {
			t.Errorf("%s: it has %v, asked %t; want %s, %t", name, is, asked, c.want, c.asked)
		}
		if errors.Is(err, unread) != (c.asked && c.err != nil) {
			t.Errorf("%s: %v", name, err)
		}
	}
	h := &File{path: t.TempDir() + "/hosts", self: "me"}
	adopted := on("rabbit@b") // a record that another member published knows no volume
	adopted.Record.Members["rabbit@b"] = ""
	_, err := h.Learn(elsewhere, adopted, func(string) (*peers.Place, error) { return says("10.6.6.6", "v9"), nil })
	if is, rerr := h.read(); err != nil || rerr != nil || is["b"] != "10.6.6.6" {
		t.Errorf("it has %v, %v %v", is, err, rerr)
	}
}
