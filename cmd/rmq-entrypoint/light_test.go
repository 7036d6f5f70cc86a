package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/policy"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

// What an idle node of three may ask of Consul in the time of twelve of its reports, which is a
// minute with the default TTL of 15 s: with them, and of those what only the leader can answer.
const (
	idleReports  = 12
	idleRequests = 16
	idleLeader   = 2
)

var (
	isAny    = func(*http.Request) bool { return true }
	isLeader = func(r *http.Request) bool { return r.Method != "PUT" && r.URL.Query().Has("consistent") }
)

// three has a verified member of three with management and Prometheus, whose requests to Consul,
// at addr, go through the link.
func (w *world) three(addr string, env ...string) (*node, *consultest.Link) {
	w.t.Helper()
	link := consultest.Proxy(w.t, addr)
	n := w.node("a@localhost", append([]string{"CONSUL_HTTP_ADDR=" + link.Addr}, env...)...)
	id, all := "id-of-"+w.service, []string{n.name, "b@localhost", "c@localhost"}
	for _, name := range all[1:] {
		w.neighbour(name, id, all...)
	}
	n.put(n.path("rabbitmq.conf"), fmt.Sprintf("management.tcp.port = %d\nprometheus.tcp.port = %d\n", expect.Port(expect.Listen0(w.t)), expect.Port(expect.Listen0(w.t))))
	n.hasData(nil)
	n.start()
	n.server(soon)
	n.sees(id, all...)
	n.tell("amqp up")
	n.tell("notify READY=1")
	n.registered(soon, api.HealthPassing)
	n.reports(soon, api.HealthPassing, "")
	return n, link
}

// reported waits until the node itself, not what listens beside, has been reported so often more.
func (n *node) reported(l *consultest.Link, times int) {
	n.t.Helper()
	isReport := consultest.Request("PUT", "/v1/agent/check/update/"+n.service+"-a-localhost")
	until := l.Count(isReport) + times
	expect.Eventually(n.t, time.Duration(times)*10*time.Second+soon, "reports", func() error {
		if now := l.Count(isReport); now < until {
			return fmt.Errorf("%d of %d", now, until)
		}
		return nil
	})
}

// An idle node asks little of Consul, and next to nothing of its leader.
func TestIdleNodeAsksLittle(t *testing.T) {
	t.Parallel()
	servers := consultest.StartCluster(t, 1)
	for name, addr := range map[string]string{"of a server": servers[0].Addr, "of an agent": consultest.StartAgent(t, servers).Addr} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, link := newWorld(t, servers[0]).three(addr, "RMQ_TTL=15s")
			n.reported(link, 4) // what it did to become a member is over
			all, leader := link.Count(isAny), link.Count(isLeader)
			n.reported(link, idleReports)
			all, leader = link.Count(isAny)-all, link.Count(isLeader)-leader
			t.Logf("%d requests, %d of them to the leader", all, leader)
			if all > idleRequests || leader > idleLeader {
				t.Errorf("in the time of %d reports it sent %d requests, %d of them to the leader; at most %d and %d are allowed", idleReports, all, leader, idleRequests, idleLeader)
			}
			n.registered(0, api.HealthPassing)
		})
	}
}

// A change of the record, or of another member's check, is acted on when it is there, long before
// the next heartbeat: of each kind, whatever this node's Consul is.
func TestChangeWakes(t *testing.T) {
	t.Parallel()
	servers := consultest.StartCluster(t, 1)
	for name, addr := range map[string]string{"of a server": servers[0].Addr, "of an agent": consultest.StartAgent(t, servers).Addr} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, servers[0])
			second := time.Now().Add(policy.LongestBeat) // heartbeat, at the earliest
			n, link := w.three(addr, "RMQ_TTL=5m", "RMQ_CLAIM_TIMEOUT=11m", "RMQ_WAIT_TIMEOUT=1h", "RMQ_INTERVAL="+policy.LongestBeat.String())
			n.tell("notify READY=1") // a look more: then it is in its steady state
			news := func(path string) consultest.Match {
				return func(r *http.Request) bool {
					return strings.HasPrefix(r.URL.Path, path) && r.URL.Query().Has("stale")
				}
			}
			for _, path := range []string{"/v1/kv/", "/v1/health/service/"} {
				expect.Eventually(t, soon, "a query stands at "+path, func() error {
					if link.Count(news(path)) == 0 {
						return errors.New("none")
					}
					return nil
				})
			}
			began := time.Now()
			asked := func() int {
				b, _ := os.ReadFile(n.path("ctl"))
				return strings.Count(string(b), "persistent_cluster_id")
			}
			before := asked()
			expect.Must(t, peers.Report(t.Context(), w.consul.Client, peers.Registration{Service: w.service, Node: "b@localhost"}, api.HealthCritical, ""))
			expect.Eventually(t, soon, "the catalog has it", func() error {
				all, _, err := peers.Catalog(t.Context(), w.consul.Client, w.service, n.name)
				if err == nil && all[0].Status != api.HealthCritical {
					err = errors.New("not yet")
				}
				return err
			})
			t.Logf("in the catalog after %s", time.Since(began))
			expect.Eventually(t, time.Until(second), "RabbitMQ is asked about the member that does not pass", func() error {
				if asked() == before {
					return errors.New("not yet")
				}
				return nil
			})
			t.Logf("after %s", time.Since(began))
			_, err := w.consul.Client.KV().Delete(w.recordKey(), nil)
			expect.Must(t, err)
			began = time.Now()
			expect.Eventually(t, time.Until(second), "the record is published again", func() error {
				r, _, err := peers.ReadRecord(t.Context(), w.consul.Client, w.recordKey())
				if err == nil && r.State != peers.Formed {
					err = errors.New("it is gone")
				}
				return err
			})
			t.Logf("after %s", time.Since(began))
		})
	}
}
