package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

// TestConsulCluster shares a three-server Consul.
func TestConsulCluster(t *testing.T) {
	t.Parallel()
	// A machine that is busy takes seconds to make an agent anew, and the servers must not miss it meanwhile.
	servers := consultest.StartCluster(t, 3, consultest.HCL("gossip_lan { suspicion_mult = 20 }"))
	for name, scenario := range map[string]func(*testing.T, []*consultest.Consul){
		"first address is a black hole": testBlackHoleAtBoot,
		"another agent":                 testAnotherAgent,
		"agent recreated":               testAgentRecreated,
		"cold starts":                   testColdStarts,
		"five nodes":                    testFiveNodes,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			scenario(t, servers)
		})
	}
}

func testBlackHoleAtBoot(t *testing.T, servers []*consultest.Consul) {
	hole := consultest.Proxy(t, servers[0].Addr)
	hole.Blackhole()
	w := newWorld(t, servers[1])
	n := w.node("rabbit@localhost", "CONSUL_HTTP_ADDR="+hole.Addr+","+servers[1].Addr)
	n.serves()
	if r, err := n.report(); err != nil || r.Consul != servers[1].Addr {
		t.Errorf("it uses %s, %v", r.Consul, err)
	}
}

// An agent that stops answering is left for the next one, with a fresh
// registration there, and the old one goes when it can; and back.
func testAnotherAgent(t *testing.T, servers []*consultest.Consul) {
	first, second := consultest.Proxy(t, servers[0].Addr), consultest.Proxy(t, servers[1].Addr)
	w := newWorld(t, servers[2])
	n := w.node("rabbit@localhost", "CONSUL_HTTP_ADDR="+first.Addr+","+second.Addr)
	n.serves()

	first.Blackhole()
	n.registeredOn(servers[1], 10*testBeat+late, api.HealthPassing) // two calls time out, then patience ends
	n.registeredOn(servers[0], testTTL+testBeat+late, api.HealthCritical)
	first.Pass()
	n.registeredOn(servers[0], 2*testBeat+late, "")
	n.registeredOn(servers[1], 0, api.HealthPassing)

	first.Blackhole()
	second.Blackhole()
	first.Pass()
	n.registeredOn(servers[0], 10*testBeat+late, api.HealthPassing)
	second.Pass()
	n.registeredOn(servers[1], 2*testBeat+late, "")
	expect.Consistently(t, testBeat+time.Second, "what is registered with the agent in use stays", func() error {
		status, err := n.statusOn(servers[0])
		if err == nil && status != api.HealthPassing {
			err = fmt.Errorf("it is %q", status)
		}
		return err
	})
}

// serf is what a server thinks of an agent.
func serf(agent, server *consultest.Consul) (string, error) {
	checks, _, err := server.Client.Health().Node(agent.Node, &api.QueryOptions{RequireConsistent: true})
	for _, c := range checks {
		if c.CheckID == "serfHealth" {
			return c.Status, err
		}
	}
	return "", err
}

// missed ends an agent and waits until the servers have noticed.
func missed(t testing.TB, agent *consultest.Consul, servers []*consultest.Consul) {
	t.Helper()
	agent.Kill()
	expect.Eventually(t, soon, "the servers miss the agent", func() error {
		status, err := serf(agent, servers[0])
		if err == nil && status != api.HealthCritical {
			err = fmt.Errorf("it is %q", status)
		}
		return err
	})
}

// An agent that is recreated without its volume, before the servers have missed it,
// stays the one before to them: it takes reads, and what is registered with it never
// gets into the catalog (where the one before still has the entry, 1.22 hangs up on
// the registration). A node that serves goes on, says so, and is registered once the
// servers have missed the agent.
func testAgentRecreated(t *testing.T, servers []*consultest.Consul) {
	agent := consultest.StartAgent(t, servers)
	w := newWorld(t, servers[0])
	n := w.node("rabbit@localhost", "CONSUL_HTTP_ADDR="+agent.Addr)
	n.serves()
	find := func() (string, error) { // whose it is
		entries, _, err := servers[0].Client.Health().Service(w.service, "", false, &api.QueryOptions{RequireConsistent: true})
		if err == nil && len(entries) != 1 {
			err = fmt.Errorf("%d entries of %s", len(entries), w.service)
		}
		if err != nil {
			return "", err
		}
		return entries[0].Node.ID, nil
	}
	was, err := find()
	expect.Must(t, err)
	agent.Recreate()
	expect.Eventually(t, soon, "it says that Consul does not take its beats", func() error {
		r, err := n.report()
		if err == nil && (!r.Ready() || !strings.Contains(r.Reason, "not told to Consul") || strings.Contains(r.Reason, "refused")) { // there is no agent yet
			err = fmt.Errorf("%s: %s", r.Status, r.Reason)
		}
		return err
	})
	expect.Says(t, n.log(), "Consul cannot be asked or told")
	expect.Consistently(t, testTTL+testBeat, "it serves, and does not take itself for registered", func() error {
		r, err := n.report()
		if err == nil && (!r.Ready() || !strings.Contains(r.Reason, "not told to Consul")) {
			err = fmt.Errorf("%s: %s", r.Status, r.Reason)
		}
		return err
	})
	if now, err := find(); err != nil || now != was {
		t.Errorf("the servers take the agent for a new one, and the test is of no use: %s was %s, %v", now, was, err)
	}
	for line, most := range map[string]int{"verifying anew": 2, "msg=registered": 1, "cannot be asked or told": 2} { // for the entry and for the TTL, not with each beat
		if got := strings.Count(n.log(), line); got > most {
			t.Errorf("%q is in the log %d times", line, got)
		}
	}
	missed(t, agent, servers)
	agent.Recreate()
	expect.Eventually(t, soon, "it is registered anew", func() error {
		status, err := n.statusOn(agent)
		now, ferr := find() // the servers drop the former agent's before they have this one's
		if err = errors.Join(err, ferr); err == nil && (status != api.HealthPassing || now == was || !strings.Contains(n.log(), "Consul answers again")) {
			err = fmt.Errorf("it is %q", status)
		}
		return err
	})
	n.reports(2*testBeat+late, api.HealthPassing, "answers")
	expect.Eventually(t, soon, "it says no more that Consul does not take its beats", func() error { // with the next look
		r, err := n.report()
		if err == nil && strings.Contains(r.Reason, "not told") {
			err = fmt.Errorf("%+v", r)
		}
		return err
	})
}

// statusOn is the node's status at one agent.
func (n *node) statusOn(c *consultest.Consul) (string, error) {
	checks, _, err := n.consul.Client.Health().Node(c.Node, &api.QueryOptions{RequireConsistent: true})
	if err != nil {
		return "", err
	}
	for _, check := range checks {
		if check.ServiceName == n.service {
			return check.Status, nil
		}
	}
	return "", nil
}

func (n *node) registeredOn(c *consultest.Consul, within time.Duration, status string) {
	n.t.Helper()
	expect.Eventually(n.t, within, fmt.Sprintf("%s is %q at %s", n.name, status, c.Node), func() error {
		got, err := n.statusOn(c)
		if err == nil && got != status {
			err = fmt.Errorf("it is %q", got)
		}
		return err
	})
}

// coldStartsAtOnce is how many rounds run at a time: for most of one, nodes wait.
const coldStartsAtOnce = 8

// Five blank nodes at once against three servers: exactly one of them founds the
// cluster, every time. RMQ_TEST_ROUNDS sets how often.
func testColdStarts(t *testing.T, servers []*consultest.Consul) {
	rounds := 3
	if n, err := strconv.Atoi(os.Getenv("RMQ_TEST_ROUNDS")); err == nil {
		rounds = n
	}
	began := time.Now()
	var begun atomic.Int64
	var failed atomic.Bool
	t.Run("rounds", func(t *testing.T) {
		for range coldStartsAtOnce {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				for !failed.Load() {
					round := int(begun.Add(1))
					if round > rounds {
						return
					}
					if !t.Run(fmt.Sprintf("round %d", round), func(t *testing.T) { coldStart(t, servers, round) }) {
						failed.Store(true)
					}
				}
			})
		}
	})
	t.Logf("%d cold starts of 5 nodes in %s", min(int(begun.Load()), rounds), time.Since(began).Round(time.Second))
}

func coldStart(t *testing.T, servers []*consultest.Consul, round int) {
	w := newWorld(t, servers[round%len(servers)])
	w.stubServer(`echo '{"PID":'$$'}' >"$RMQ_TEST_DIR/started"; exec sleep 600`)
	nodes := w.five(servers)
	for _, n := range nodes {
		n.start()
	}
	seeds := w.settled(nodes)
	if len(seeds) != 1 {
		t.Fatalf("%d nodes found a cluster: %v", len(seeds), seeds)
	}
	seed := seeds[0]
	// Who queued for the lock looks at the record again: a second founder would be one then.
	expect.Eventually(t, soon, "all others wait for "+seed.name, func() error {
		for _, n := range nodes {
			if n != seed && !strings.Contains(n.log(), `msg=waiting program=rmq-entrypoint for="`+seed.name+" to found the cluster") {
				return fmt.Errorf("%s is at: %s", n.name, n.log())
			}
		}
		return nil
	})
	r := w.record()
	if r.State != peers.Forming || r.Seed != seed.name || len(r.Members) != 1 || len(r.Gone) != 0 || len(r.Previous) != 0 {
		t.Errorf("%s founds, on record is %+v", seed.name, r)
	}
	for _, n := range nodes {
		p, err := statedir.Dir{Data: n.data(""), State: n.state("")}.Pending()
		_, missing := os.Stat(n.state("rabbitmq.config"))
		if founds := p != nil && p.Role == statedir.Seeding && p.Claim == r.Claim && missing == nil; err != nil || founds != (n == seed) {
			t.Errorf("%s: pending %+v, %v; rabbitmq.config: %v; the seed is %s", n.name, p, err, missing, seed.name)
		}
		_, started := os.Stat(n.path("started"))
		if founded, once := strings.Count(n.log(), `msg="founding the cluster"`), map[bool]int{true: 1}[n == seed]; founded != once || (started == nil) != (n == seed) {
			t.Errorf("%s founded %d clusters, its server: %v; the seed is %s", n.name, founded, started, seed.name)
		}
		if strings.Contains(n.log(), "msg=\"founding") && !strings.Contains(n.log(), "claim="+r.Claim) {
			t.Errorf("%s founds by another claim than %s", n.name, r.Claim)
		}
	}
}

// five makes five nodes, each with an agent of the three first on its list.
func (w *world) five(servers []*consultest.Consul) (nodes []*node) {
	for i := range 5 {
		a, b := servers[i%3], servers[(i+1)%3]
		nodes = append(nodes, w.node(fmt.Sprintf("r%d@localhost", i+1), "CONSUL_HTTP_ADDR="+a.Addr+","+b.Addr, "RMQ_DNS_SERVER="+a.DNSAddr))
	}
	return nodes
}

// settled waits until each of the nodes is a server, or waits for one that
// founds the cluster, and returns the servers.
func (w *world) settled(nodes []*node) (servers []*node) {
	w.t.Helper()
	expect.Eventually(w.t, 2*soon, "every node has decided", func() error {
		servers = nil
		for _, n := range nodes {
			if _, err := os.Stat(n.path("started")); err == nil {
				servers = append(servers, n)
			} else if log := n.log(); !strings.Contains(log, "@localhost to found the cluster") && !strings.Contains(log, "holder=") {
				return fmt.Errorf("%s is at: %s", n.name, n.log())
			}
		}
		if len(servers) == 0 {
			return errors.New("nobody founds it")
		}
		return nil
	})
	return servers
}

// The same to its end: one founds, four join it in parallel, all pass.
func testFiveNodes(t *testing.T, servers []*consultest.Consul) {
	w := newWorld(t, servers[0])
	nodes := w.five(servers)
	for _, n := range nodes {
		n.start()
	}
	seed := w.settled(nodes)[0]
	seed.sees("id-1", seed.name)
	seed.tell("amqp up")
	seed.tell("notify READY=1")
	seed.registered(3*testBeat+soon, api.HealthPassing)
	members := []string{seed.name}
	for _, n := range nodes {
		n.server(soon)
		if n != seed {
			members = append(members, n.name)
		}
	}
	if r := w.record(); len(r.Members) != 5 || r.Seed != seed.name {
		t.Errorf("the servers run with this record: %+v", r)
	}
	for _, n := range nodes {
		n.sees("id-1", members...)
	}
	for _, n := range nodes {
		if n != seed {
			n.tell("amqp up")
			n.tell("notify READY=1")
		}
	}
	for _, n := range nodes {
		n.registered(2*testBeat+soon, api.HealthPassing)
	}
	expect.Eventually(t, soon, "the lock is free", func() error {
		if held := w.sessions(); held != 0 {
			return fmt.Errorf("%d sessions are there", held)
		}
		return nil
	})
}
