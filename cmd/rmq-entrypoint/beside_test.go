package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

// Management and Prometheus are services of their own: in DNS while the node
// passes and their port answers, gone with it, and of no weight in the cluster.
func testBeside(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	management, prometheus := expect.Listen0(t), expect.Listen0(t)
	ports := map[string]int{"management": expect.Port(management), "prometheus": expect.Port(prometheus)}
	n.put(n.path("rabbitmq.conf"), fmt.Sprintf("management.tcp.port = %d\nprometheus.tcp.port = %d\n", ports["management"], ports["prometheus"]))
	in := func(name string, want bool) func() error {
		return func() error {
			found, err := peers.Lookup(t.Context(), peers.DNS{Server: w.consul.DNSAddr, Domain: "consul"}, w.service+"-"+name)
			if address := fmt.Sprintf("%s:%d", n.ip, ports[name]); err == nil && slices.Contains(found, address) != want {
				err = fmt.Errorf("DNS gives %q, want %s: %v", found, address, want)
			}
			return err
		}
	}
	n.serves()
	for name := range ports {
		expect.Eventually(t, testBeat+soon, name+" is in DNS", in(name, true))
	}
	all, _, err := peers.Catalog(t.Context(), w.consul.Client, w.service, "")
	if err != nil || len(all) != 1 || all[0].Node != n.name {
		t.Errorf("the node's own service has %+v, %v: others are to find the node once", all, err)
	}

	expect.Must(t, prometheus.Close())
	expect.Eventually(t, testBeat+soon, "prometheus is out of DNS", in("prometheus", false))
	expect.Eventually(t, soon, "management is there", in("management", true)) // the DNS of a busy machine may not answer at once
	n.registered(0, api.HealthPassing)

	n.tell("amqp down")
	n.registered(3*testBeat+late, api.HealthCritical)
	expect.Eventually(t, testBeat+soon, "management is out of DNS with its node", in("management", false))
	n.tell("amqp up")
	expect.Eventually(t, 3*testBeat+soon, "management is back", in("management", true))

	n.tell("notify STOPPING=1")
	expect.Eventually(t, soon, "all are deregistered", w.unregistered)
	n.tell("notify READY=1")
	expect.Eventually(t, testBeat+soon, "management is back", in("management", true))
	n.kill(n.cmd.Process.Pid)
	expect.Eventually(t, soon, "all are deregistered", w.unregistered)
}

// Management is registered where RabbitMQ says that it listens, whatever its files say: Erlang's
// arguments may say otherwise.
func testBesideElsewhere(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	moved := expect.Port(expect.Listen0(t))
	n.put(n.path("rabbitmq.conf"), "management.tcp.port = "+closed(t)+"\n")
	n.hasData(nil)
	n.start()
	n.server(soon)
	n.put(n.path("view"), fmt.Sprintf("view|id|%s|%[1]s||false|\nweb|http|::|%d|\n", n.name, moved))
	n.tell("amqp up")
	n.tell("notify READY=1")
	expect.Eventually(t, soon, "management is registered where it listens", func() error {
		found, _, err := w.consul.Client.Catalog().Service(w.service+"-management", "", nil)
		if err == nil && (len(found) != 1 || found[0].ServicePort != moved) {
			err = fmt.Errorf("%d entries, %+v", len(found), found)
		}
		return err
	})
}

// unregistered returns an error while a service of this world is in the catalog.
func (w *world) unregistered() error { return w.without(w.service) }

// without returns an error while a service whose name begins so is in the catalog.
func (w *world) without(prefix string) error {
	services, _, err := w.consul.Client.Catalog().Services(&api.QueryOptions{RequireConsistent: true})
	for name := range services {
		if strings.HasPrefix(name, prefix) {
			err = errors.Join(err, errors.New(name+" is there"))
		}
	}
	return err
}

// A node of which nothing but AMQP listens has one service; what an earlier start
// left goes when it starts.
func testNothingBeside(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	l := expect.Listen0(t)
	expect.Must(t, l.Close())
	n.put(n.path("rabbitmq.conf"), fmt.Sprintf("management.tcp.ip = 127.0.0.1\nprometheus.tcp.port = %d\n", expect.Port(l)))
	left := peers.Registration{Service: w.service + "-prometheus", Node: n.name, Address: n.ip, Port: 1, TTL: time.Hour, DeregisterAfter: time.Hour}
	expect.Must(t, peers.Announce(t.Context(), w.consul.Client, left, peers.Starting, ""))
	expect.Must(t, peers.Report(t.Context(), w.consul.Client, left, api.HealthPassing, ""))
	n.serves()
	alone := func() error { return w.without(w.service + "-") }
	expect.Eventually(t, soon, "there is one service", alone)
	expect.Consistently(t, testBeat+time.Second, "there is one service", alone)
}

// A token without the right to the services beside costs these, not the node.
func TestBesideDenied(t *testing.T) {
	t.Parallel()
	c := consultest.Start(t, consultest.ACL())
	w := newWorld(t, c)
	management := expect.Listen0(t)
	secret := token(t, c, fmt.Sprintf(`key_prefix "rmq-entrypoint/" { policy = "write" } session_prefix "" { policy = "write" }
		service %q { policy = "write" } service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }`, w.service))
	n := w.node("rabbit@localhost", "CONSUL_HTTP_TOKEN="+secret)
	n.put(n.path("rabbitmq.conf"), fmt.Sprintf("management.tcp.port = %d\n", expect.Port(management)))
	n.serves()
	n.logs("management and Prometheus are not registered")
	expect.Says(t, n.log(), "service:write", w.service+"-management")
	expect.Consistently(t, testBeat+time.Second, "the node passes", func() error {
		status, err := n.status(c.Client)
		if err == nil && status != api.HealthPassing {
			err = errors.New(status)
		}
		return err
	})
	if said := strings.Count(n.log(), "not registered"); said != 1 {
		t.Errorf("it says so %d times", said)
	}
}
