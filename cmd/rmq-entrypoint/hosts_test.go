package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
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
	moved := peers.Registration{Service: w.service, Node: there, Address: "10.9.8.7", Port: 5672, TTL: time.Hour, DeregisterAfter: time.Hour, ClusterID: "id-1"}
	expect.Must(t, peers.Announce(t.Context(), w.consul.Client, moved, peers.Starting, ""))
	n.hosts(testBeat+late, n.ip+" here.invalid\n10.9.8.7 there.invalid\n")
	expect.Must(t, peers.Withdraw(t.Context(), w.consul.Client, moved))
	newcomer := w.neighbour(third, "id-1", third)
	w.joins(third, "v3")
	n.hosts(testBeat+late, n.ip+" here.invalid\n10.9.8.7 there.invalid\n"+newcomer.ip+" third.invalid\n")
	n.logs("third.invalid")

	// A companion that a health check starts knows of the file, too.
	n.kill(w.companions()[0])
	expect.Eventually(t, soon, "another companion", func() error { return w.replaced(n) }) // the lock of the killed one is not free at once
	expect.Must(t, peers.Announce(t.Context(), w.consul.Client, moved, peers.Starting, ""))
	moved.Address = "10.9.8.6"
	expect.Must(t, peers.Announce(t.Context(), w.consul.Client, moved, peers.Starting, ""))
	n.hosts(testBeat+soon, n.ip+" here.invalid\n10.9.8.6 there.invalid\n"+newcomer.ip+" third.invalid\n")
}

// joins puts a node on record, as it does before its server starts.
func (w *world) joins(name, volume string) {
	w.t.Helper()
	r, index, err := peers.ReadRecord(w.t.Context(), w.consul.Client, w.recordKey())
	expect.Must(w.t, err)
	ok, err := peers.WriteRecord(w.t.Context(), w.consul.Client, w.recordKey(), r.Joins(name, volume, time.Now()), index, "", "")
	if expect.Must(w.t, err); !ok {
		w.t.Fatal("the record changed meanwhile")
	}
}

// Whoever may only register a service renames no host for RabbitMQ, is asked nothing, and takes
// no member's name; what an earlier version of this program learned goes.
func testHostsOfStrangers(t *testing.T, w *world) {
	const there, here = "rabbit@there", "rabbit@here"
	w.putRecord(formed("id-1", map[string]string{there: "v1"}))
	for _, name := range []string{"rabbit@localhost", "rabbit@ldap.corp.example", "x@auth-service", "rabbit@consul", "rabbit@127.0.0.1", "evil@evilhost"} {
		w.neighbour(name, "id-1", name, there)
	}
	peer := w.neighbour(there, "id-1", there)
	expect.Must(t, w.consul.Client.Agent().ServiceRegister(&api.AgentServiceRegistration{ID: "taker", Name: w.service, Address: "10.6.6.6", Port: 5672, Meta: map[string]string{"node": there}}))
	n := w.node(here, "RMQ_HOSTS=consul")
	n.put(n.state("hosts"), "# old\n10.6.6.6 auth-service\n10.6.6.6 ldap.corp.example\n10.6.6.6 localhost\n")
	n.start()
	n.server(soon)
	n.hosts(0, n.ip+" here\n"+peer.ip+" there\n")
	expect.Says(t, n.log(), "their nodes are not on its record", "evil@evilhost at ")
	asked, err := os.ReadFile(n.path("ctl.hosts"))
	expect.Must(t, err)
	for line := range strings.Lines(string(asked)) {
		if !strings.HasPrefix(line, there+" ") {
			t.Errorf("a stranger was asked: %s", line)
		}
	}
}

// places are the keys by which this world's nodes say where they are.
func (w *world) places() peers.Places {
	return peers.Places{Prefix: "rmq-entrypoint/" + w.service + "/addresses/", Record: w.recordKey()}
}

// A member's address is what its key says: whoever has a copy of its entry, which passes, is not taken
// for it, neither at this node's start, while the member is away, nor later.
func testHostsOfACopy(t *testing.T, w *world) {
	const there, here = "rabbit@there", "rabbit@here"
	w.putRecord(formed("id-1", map[string]string{there: "v1", here: "v0"}))
	member := peers.Registration{
		Service: w.service, Node: there, Address: "10.9.8.7", Port: 5672, TTL: time.Hour, DeregisterAfter: time.Hour, ClusterID: "id-1",
		Labels: peers.Labels{Places: w.places()}, Start: peers.Start{Volume: "v1", Boot: "b1"},
	}
	expect.Must(t, peers.Announce(t.Context(), w.consul.Client, member, peers.Starting, ""))
	expect.Must(t, w.consul.Client.Agent().ServiceRegister(&api.AgentServiceRegistration{
		ID: "copy-of-" + w.service, Name: w.service, Address: "10.6.6.6", Port: 5672, Meta: map[string]string{"node": there, "cluster_id": "id-1", "volume": "v1", "boot": "b1"},
		Check: &api.AgentServiceCheck{TTL: "1h", Status: api.HealthPassing},
	}))
	expect.Must(t, peers.Withdraw(t.Context(), w.consul.Client, member))
	n := w.node(here, "RMQ_HOSTS=consul")
	n.hasData(&statedir.Marker{ClusterID: "id-1", Volume: "v0", Members: []string{here, there}})
	n.start()
	n.server(soon)
	n.hosts(0, n.ip+" here\n10.9.8.7 there\n")
	expect.Says(t, n.log(), "rabbit@there passes in Consul at 10.6.6.6", "copy-of-"+w.service)
	own, err := w.places().Reader(t.Context(), w.consul.Client)(here)
	if err != nil || own == nil || *own != (peers.Place{Address: n.ip, Volume: "v0"}) {
		t.Errorf("its own key says %+v, %v", own, err)
	}
	member.Address, member.Boot = "10.9.8.6", "b2"
	expect.Must(t, peers.Announce(t.Context(), w.consul.Client, member, peers.Starting, ""))
	n.hosts(testBeat+late, n.ip+" here\n10.9.8.6 there\n")
}

// A blank node writes where it is before others can hear of it. Without RMQ_HOSTS nobody writes that.
func testOwnAddress(t *testing.T, w *world) {
	const there, here = "rabbit@there", "rabbit@here"
	w.putRecord(formed("id-1", map[string]string{there: "v1"}))
	w.neighbour(there, "id-1", there)
	n := w.node(here, "RMQ_HOSTS=consul")
	n.start()
	n.server(soon)
	own, err := w.places().Reader(t.Context(), w.consul.Client)(here)
	if volume := w.record().Members[here]; err != nil || own == nil || *own != (peers.Place{Address: n.ip, Volume: volume}) {
		t.Errorf("it says %+v, %v; it is at %s, on %s", own, err, n.ip, volume)
	}
	without := newWorld(t, w.consul)
	without.node("rabbit@localhost").serves()
	if keys, _, err := w.consul.Client.KV().Keys(without.places().Prefix, "", nil); err != nil || len(keys) > 0 {
		t.Errorf("these are written: %v, %v", keys, err)
	}
}

// A token that may not write where the node is is named with its key, and the node serves.
func TestAddressDenied(t *testing.T) {
	t.Parallel()
	c := consultest.Start(t, consultest.ACL())
	w := newWorld(t, c)
	n := w.node("rabbit@here", "RMQ_HOSTS=consul", "CONSUL_HTTP_TOKEN="+token(t, c, fmt.Sprintf(`key_prefix "rmq-entrypoint/" { policy = "write" } key_prefix %q { policy = "deny" }
session_prefix "" { policy = "write" } service_prefix "" { policy = "write" } node_prefix "" { policy = "read" }`, w.places().Prefix)))
	n.serves()
	expect.Says(t, n.log(), "or do not learn another one (--hosts consul, RMQ_HOSTS)", w.places().Prefix+n.name, "key:write")
	if said := strings.Count(n.log(), "or do not learn another one"); said != 2 { // at the start, and the companion
		t.Errorf("it says so %d times:\n%s", said, n.log())
	}
}

// hosts waits until the node's hosts file has these lines.
func (n *node) hosts(within time.Duration, want string) {
	n.t.Helper()
	expect.Eventually(n.t, within, "the hosts file of "+n.name, func() error {
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
	w.putRecord(formed("id-1", map[string]string{"rabbit@here.invalid": "v0", "rabbit@there.invalid": "v1"}))
	n := w.node("rabbit@here.invalid", "RABBITMQ_USE_LONGNAME=true", "RMQ_HOSTS=consul")
	n.hasData(&statedir.Marker{ClusterID: "id-1", Volume: "v0", Members: []string{n.name}})
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
	n := w.node("rabbit@here.invalid", "RABBITMQ_USE_LONGNAME=true", "RMQ_HOSTS=consul", "CONSUL_HTTP_ADDR="+expect.Loopback(t)+":1")
	n.env = slices.DeleteFunc(n.env, func(kv string) bool { return kv == "CONSUL_HTTP_ADDR="+w.consul.Addr })
	n.hasData(&statedir.Marker{ClusterID: "id-1", Volume: "v0", Members: []string{n.name}})
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
		expect.Says(t, n.log(), "the user set", name, "RMQ_HOSTS")
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

func testTagsAndMeta(t *testing.T, w *world) {
	management := expect.Listen0(t)
	n := w.node("rabbit@localhost", "RMQ_TAGS=production,ssd,"+w.service+"-management=urlprefix-/ui,"+w.service+"=amqp", "RMQ_META=zone=a,disk=ssd")
	n.put(n.path("rabbitmq.conf"), fmt.Sprintf("management.tcp.port = %d\n", expect.Port(management)))
	n.serves()
	for service, own := range map[string]string{w.service: "amqp", w.service + "-management": "urlprefix-/ui"} {
		expect.Eventually(t, testBeat+soon, "tags and meta of "+service, func() error {
			found, _, err := w.consul.Client.Catalog().Service(service, "ssd", &api.QueryOptions{RequireConsistent: true})
			if err == nil && (len(found) != 1 || !slices.Equal(found[0].ServiceTags, []string{"production", "ssd", own}) ||
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

// What others reach a node at is registered: an address, or a name, and the port that is forwarded
// to it, wherever RabbitMQ says that it listens here. The services of plugins keep their own ports.
func testAdvertisedElsewhere(t *testing.T, w *world) {
	for setting, want := range map[string]string{
		"Broker1.Invalid:35672":      "broker1.invalid:35672",
		"broker1.invalid":            "broker1.invalid:5999",
		"203.0.113.7:35672":          "203.0.113.7:35672",
		"[2001:db8::7]:35672":        "[2001:db8::7]:35672",
		"[2001:db8::7]":              "[2001:db8::7]:5999",
		"127.0.0.0/8:35672":          "127.0.0.1:35672",
		"lo:35672":                   "127.0.0.1:35672",
		"localhost.localdomain:1234": "",
	} {
		t.Run(setting, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, w.consul)
			n := w.node("rabbit@localhost", "RMQ_ADVERTISE="+setting, "RMQ_AMQP_URL=", "RABBITMQ_NODE_PORT="+closed(t))
			if want == "" {
				n.start()
				n.refused(soon, "--advertise (RMQ_ADVERTISE)", "every host")
				return
			}
			n.env = append(n.env, "RMQ_TEST_AMQP=amqp://"+n.ip+":5999")
			management := expect.Listen0(t)
			n.put(n.path("rabbitmq.conf"), fmt.Sprintf("management.tcp.port = %d\n", expect.Port(management)))
			n.start() // blank: it founds though DNS gives what is no IP address
			n.server(soon)
			n.put(n.data("schema.DAT"), "")
			n.put(n.path("view"), fmt.Sprintf("view|id|%s|%[1]s||false|\nlistener|amqp|%s|5999|false|\n", n.name, n.ip))
			n.tell("amqp up")
			n.tell("notify READY=1")
			n.registered(soon, api.HealthPassing)
			at := func(service, address string) func() error {
				return func() error {
					all, _, err := peers.Catalog(t.Context(), w.consul.Client, service, "")
					if err == nil && (len(all) != 1 || all[0].Address != address) {
						err = fmt.Errorf("%+v", all)
					}
					found, dnsErr := peers.Lookup(t.Context(), peers.DNS{Server: w.consul.DNSAddr, Domain: "consul"}, service)
					if dnsErr == nil && !slices.Equal(found, []string{address}) {
						dnsErr = fmt.Errorf("DNS gives %q", found)
					}
					return errors.Join(err, dnsErr)
				}
			}
			expect.Eventually(t, testBeat+soon, "its address is "+want, at(w.service, want))
			host, _, err := net.SplitHostPort(want)
			expect.Must(t, err)
			expect.Eventually(t, testBeat+soon, "management keeps its port", at(w.service+"-management", net.JoinHostPort(host, fmt.Sprint(expect.Port(management)))))
			stays := at(w.service, want)
			expect.Consistently(t, testBeat, "it stays so", func() error {
				err := stays()
				if silent := net.Error(nil); errors.As(err, &silent) && silent.Timeout() {
					err = nil // Consul's DNS, on a busy machine
				}
				return err
			})
		})
	}
}
