package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// One cluster of three through a day of its life: what is in the containers, and what happens in Consul when a node
// stops in each of the ways there are, loses its companion, its container or its volume, and when all of them stop.
func TestTour(t *testing.T) {
	on(t, []version{v43, v40}, func(c *cluster) {
		c.checked = true // its health checks have a lost companion replaced
		nodes := c.all(3)
		start(nodes...)
		id := c.one(nodes...)
		founder := c.record().Seed // whichever was first
		i := slices.IndexFunc(nodes, func(n *node) bool { return n.name == founder })
		nodes[0], nodes[i] = nodes[i], nodes[0]
		seed, n2, n3 := nodes[0], nodes[1], nodes[2]
		c.in("what runs in the container", func() { c.inside(nodes...) })
		c.in("secrets stay secret", func() { c.noSecrets(nodes...) })

		n2.declare("classic", classic)
		n2.declare("quorum", quorum)
		n2.publish("classic", 100)
		n2.publish("quorum", 100)
		kept := func() {
			c.Helper()
			n2.holds("classic", 100)
			n2.holds("quorum", 100)
		}

		c.in("stop_app withdraws, start_app brings back", func() {
			n3.ctl("stop_app")
			c.eventually(10*time.Second, "the node is out of Consul", c.is(n3, ""))
			n3.ctl("start_app")
			n3.said(60*time.Second, "verified: this node is a member")
			c.same(id, c.one(nodes...))
		})
		c.in("a drained node is critical", func() {
			n3.exec("rabbitmq-upgrade", "-q", "drain")
			c.eventually(2*ttl, "the node is critical", c.is(n3, "critical"))
			c.throughout(ttl, "it stays registered", func() error {
				if _, on := c.checks()[n3.name]; !on {
					return errors.New("it is deregistered")
				}
				return nil
			})
			n3.exec("rabbitmq-upgrade", "-q", "revive")
			c.same(id, c.one(nodes...))
		})
		c.in("a stopped node is out of Consul before it has stopped", func() {
			began := time.Now()
			stopped := make(chan error, 1)
			go func() { _, err := try("stop", "-t", "120", n3.container); stopped <- err }()
			c.eventually(30*time.Second, "the node is out of Consul", c.is(n3, ""))
			c.Logf("out of Consul %s after docker stop", time.Since(began).Round(time.Millisecond))
			select {
			case <-stopped:
				c.Error("it stopped first")
				stopped <- nil
			default:
			}
			for _, service := range []string{"rabbitmq-management", "rabbitmq-prometheus"} {
				if found := c.dig(service); slices.Contains(found, n3.ip) {
					c.Errorf("DNS gives %v as %s", found, service)
				}
			}
			if err := <-stopped; err != nil {
				c.Fatal(err)
			}
			c.throughout(2*time.Second, "it stays out", c.is(n3, ""))
			n3.start()
			c.same(id, c.one(nodes...))
		})
		killed := func() {
			n3.kill()
			c.eventually(ttl+2*time.Second, "the node is critical", c.is(n3, "critical"))
			if found := c.dig("rabbitmq"); len(found) != 2 || slices.Contains(found, n3.ip) {
				c.Errorf("DNS gives %v", found)
			}
			c.throughout(ttl/2, "it stays critical for more than a beat", c.is(n3, "critical"))
			n3.start()
			c.same(id, c.one(nodes...))
		}
		dead := func() {
			for _, pid := range n3.companions() {
				n3.exec("kill", "-9", pid)
			}
			n3.kill() // before a health check can replace the companion
			c.eventually(ttl+2*time.Second, "the node is critical", c.is(n3, "critical"))
			c.throughout(ttl/2, "it stays critical for more than a beat", c.is(n3, "critical"))
			n3.start()
			c.same(id, c.one(nodes...))
		}
		if full || c.version == v43 { // RabbitMQ has no part in these
			c.in("a killed node is critical within the TTL", killed)
			c.in("a killed companion is replaced", func() { c.companionKilled(n3); c.same(id, c.one(nodes...)) })
			c.in("a dead server never passes for a live one", dead)
		}
		kept()
		c.in("a wiped member rejoins while its stale entry passes", func() {
			c.wiped(id, n3, nodes...)
			kept()
		})
		c.in("the wiped seed rejoins", func() {
			seed.stop()
			seed.wipe()
			seed.start()
			c.same(id, c.one(nodes...))
			kept()
			c.replicatedAgain("quorum", seed, nodes...)
		})
		c.in("all stopped and started at once, one more comes meanwhile", func() {
			stop(nodes...)
			n4 := c.node(4)
			n4.start()
			line := n4.said(30*time.Second, "waiting.*members of cluster")
			for _, n := range nodes {
				if !strings.Contains(line, n.name) {
					c.Errorf("it does not say that it waits for %s: %s", n.host, line)
				}
			}
			start(nodes...)
			c.same(id, c.one(append(slices.Clone(nodes), n4)...))
			kept()
		})
		nodes = c.all(4)
		c.in("all killed and started in reverse, one at a time", func() {
			kill(nodes...)
			for _, n := range slices.Backward(nodes) {
				n.start()
				n.said(60*time.Second, "becoming the server")
			}
			c.same(id, c.one(nodes...))
		})
		c.in("no message is lost", func() {
			for _, queue := range []string{"classic", "quorum"} {
				if got := n2.drain(queue); got != 100 {
					c.Errorf("%s has %d messages of 100", queue, got)
				}
			}
			c.noSecrets(nodes...)
		})
	})
}

// One of three loses its volume and is back before Consul has noticed: in the same cluster, with its replicas.
func TestMemberWiped(t *testing.T) {
	on(t, []version{v310}, func(c *cluster) { // the tour has it on the others
		nodes := c.all(3)
		n1, n3 := nodes[0], nodes[2]
		start(nodes...)
		id := c.one(nodes...)
		n1.declare("classic", classic)
		n1.declare("quorum", quorum)
		n1.publish("classic", 20)
		n1.publish("quorum", 20)
		c.wiped(id, n3, nodes...)
		n1.holds("classic", 20)
		n1.holds("quorum", 20)
	})
}

// wiped takes a node's volume so fast that its stale entry still passes when it starts again, and waits until it is back
// in its cluster, with its replica.
func (c *cluster) wiped(id string, n *node, nodes ...*node) {
	c.Helper()
	n.wipe()
	if c.is(n, "passing")() != nil { // a busy machine may be too slow once
		n.start()
		c.same(id, c.one(nodes...))
		n.wipe()
	}
	if err := c.is(n, "passing")(); err != nil {
		c.Fatalf("the stale entry of %s does not pass any more: %v", n.host, err)
	}
	n.start()
	c.same(id, c.one(nodes...))
	c.replicatedAgain("quorum", n, nodes...)
}

// is tells whether the node's check in Consul has that state; "" means that it is not registered.
func (c *cluster) is(n *node, want string) func() error {
	return func() error {
		m, err := c.tryChecks()
		if err == nil && m[n.name] != want {
			err = fmt.Errorf("it is %q", m[n.name])
		}
		return err
	}
}

// inside checks the processes and the cookie of each container.
func (c *cluster) inside(nodes ...*node) {
	c.Helper()
	for _, n := range nodes {
		if comm := n.exec("cat", "/proc/1/comm"); !strings.HasPrefix(comm, "beam") && !strings.HasPrefix(comm, "rabbitmq-server") {
			c.Errorf("PID 1 of %s is %s", n.host, comm)
		}
		if user := n.exec("stat", "-c", "%U", "/proc/1"); user != "rabbitmq" {
			c.Errorf("the server of %s runs as %s", n.host, user)
		}
		if pids := n.companions(); len(pids) != 1 {
			c.Errorf("%s has the companions %v, want one", n.host, pids)
		}
		if mode := n.exec("stat", "-c", "%a %U", "/var/lib/rabbitmq/.erlang.cookie"); mode != "400 rabbitmq" {
			c.Errorf("the cookie of %s is %s", n.host, mode)
		}
		if out, err := n.tryExec("rmq-entrypoint", "healthcheck", "--ready"); err != nil {
			c.Errorf("%s: healthcheck --ready: %s: %v", n.host, out, err)
		}
		out := n.exec("rmq-entrypoint", "status")
		for _, want := range []string{n.name, "passing", "lock", "free", "formed"} {
			if !strings.Contains(out, want) {
				c.Errorf("status of %s does not say %q:\n%s", n.host, want, out)
			}
		}
		c.eventually(60*time.Second, n.host+" is healthy for Docker", func() error {
			if s := n.docker("inspect", "-f", "{{.State.Health.Status}}", n.container); s != "healthy" {
				return errors.New(s)
			}
			return nil
		})
	}
	for _, service := range []string{"rabbitmq", "rabbitmq-management", "rabbitmq-prometheus"} {
		c.eventually(ttl+10*time.Second, "DNS gives all of them as "+service, func() error {
			if found := c.dig(service); len(found) != len(nodes) {
				return fmt.Errorf("it gives %v", found)
			}
			return nil
		})
	}
	if label := nodes[0].docker("inspect", "-f", `{{index .Config.Labels "SERVICE_IGNORE"}}`, nodes[0].container); label != "true" {
		c.Errorf("a registrator would register the container, too: SERVICE_IGNORE is %q", label)
	}
	if n := c.sessions(); n != 0 {
		c.Errorf("%d sessions are left in Consul", n)
	}
}

// noSecrets looks for the cookie and the token in every argument list, in the log and in the server's environment.
func (c *cluster) noSecrets(nodes ...*node) {
	c.Helper()
	for _, n := range nodes {
		places := map[string]string{
			"the log":                  n.log(),
			"an argument list":         n.exec("sh", "-c", `for p in /proc/[0-9]*; do tr '\0' ' ' <$p/cmdline; echo; done 2>/dev/null`),
			"the server's environment": n.docker("exec", "-u", "rabbitmq", n.container, "sh", "-c", `tr '\0' '\n' </proc/1/environ`),
			"the runtime file":         n.exec("sh", "-c", "find /var/lib/rabbitmq/mnesia/*-entrypoint -type f -exec cat {} +"),
			"the health log":           n.docker("inspect", "-f", "{{json .State.Health}}", n.container),
		}
		if !strings.Contains(places["the server's environment"], "RABBITMQ_") || !strings.Contains(places["an argument list"], "companion") {
			c.Fatalf("%s: what is searched for secrets is not what it should be: %.300q", n.host, places)
		}
		for _, place := range slices.Sorted(maps.Keys(places)) {
			for _, secret := range c.secrets {
				if strings.Contains(places[place], secret) {
					c.Errorf("%s of %s holds %s", place, n.host, secret)
				}
			}
		}
	}
}

// dig returns the addresses that Consul's DNS gives for a service, over TCP as UDP gives three of any number.
func (c *cluster) dig(service string) (ips []string) {
	c.Helper()
	q := new(dns.Msg)
	q.SetQuestion(service+".service.consul.", dns.TypeA)
	b, err := q.Pack()
	if err != nil {
		c.Fatal(err)
	}
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", c.dnsPort), slow(5*time.Second))
	if err != nil {
		c.Fatal(err)
	}
	defer conn.Close()
	wire := dns.Conn{Conn: conn}
	if _, err := wire.Write(b); err != nil {
		c.Fatal(err)
	}
	answer, err := wire.ReadMsg()
	if err != nil {
		c.Fatal(err)
	}
	for _, rr := range answer.Answer {
		if a, ok := rr.(*dns.A); ok {
			ips = append(ips, a.A.String())
		}
	}
	return ips
}

// healthEvery is the interval of the image's HEALTHCHECK.
const healthEvery = 5 * time.Second

// companionKilled kills the companion, and holds what follows against: the next health check starts another, as one
// only, which writes to the same log, and Consul has the node pass all the while.
func (c *cluster) companionKilled(n *node) {
	c.Helper()
	was := n.companions()
	if len(was) != 1 {
		c.Fatalf("%s has the companions %v, want one", n.host, was)
	}
	n.beats() // so that the TTL leaves the health check its interval and the other companion some seconds
	began := time.Now()
	enough, lapse := make(chan struct{}), make(chan error)
	defer func() {
		close(enough)
		if err := <-lapse; err != nil {
			c.Errorf("%s did not pass all the while: %v", n.host, err)
		}
	}()
	go func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		var err error
		for err == nil {
			select {
			case <-enough:
				lapse <- nil
				return
			case <-tick.C:
				if err = c.is(n, "passing")(); err != nil {
					err = fmt.Errorf("after %s %w", time.Since(began).Round(100*time.Millisecond), err)
				}
			}
		}
		lapse <- err
	}()
	n.exec("kill", "-9", was[0])
	c.eventually(30*time.Second, "another companion has verified", func() error {
		if now := n.companions(); len(now) > 1 {
			c.Fatalf("%s has the companions %v at once", n.host, now)
		}
		v, err := n.view()
		if err == nil && (fmt.Sprint(v.Companion) == was[0] || v.Status != "passing") {
			err = fmt.Errorf("%s: %s", v.Status, v.Reason)
		}
		return err
	})
	c.Logf("another companion has verified after %s", time.Since(began).Round(100*time.Millisecond))
	c.throughout(2*healthEvery+2*time.Second, "two health checks start no other", func() error {
		if now := n.companions(); len(now) != 1 || now[0] == was[0] {
			return fmt.Errorf("%s has the companions %v, had %v", n.host, now, was)
		}
		return nil
	})
	logged, _ := exec.Command("docker", "logs", "--since", began.Format(time.RFC3339Nano), n.container).CombinedOutput()
	if !strings.Contains(string(logged), "verified") {
		c.Errorf("the log of %s does not show what the replaced companion did: %s", n.host, logged)
	}
}

// beats waits for a beat that Consul takes.
func (n *node) beats() {
	n.Helper()
	n.eventually(ttl, n.host+" beats", func() error {
		v, err := n.view()
		if age := time.Since(v.Beat); err == nil && age > 500*time.Millisecond {
			err = fmt.Errorf("the last one is %s old", age)
		}
		return err
	})
}

// replicatedAgain waits until the quorum queue has its replica on a node that came back blank. RabbitMQ 3.10 leaves that
// one empty, so the node has to bring it back and say so; later ones may be faster than the node.
func (c *cluster) replicatedAgain(queue string, blank *node, nodes ...*node) {
	c.Helper()
	if c.version == v310 {
		blank.said(60*time.Second, "quorum queues have a replica here again.*"+queue+"|no quorum queue lacks a replica here any more")
	}
	c.replicated(queue, nodes...)
}

// replicated waits until the quorum queue has a member on each node again, and all of them take part.
func (c *cluster) replicated(queue string, nodes ...*node) {
	c.Helper()
	c.eventually(90*time.Second, queue+" has a replica on each node", func() error {
		out, err := nodes[len(nodes)-1].tryExec("rabbitmqctl", "-q", "list_queues", "name", "members", "online", "--formatter", "json")
		if err != nil {
			return err
		}
		var queues []struct {
			Name            string
			Members, Online any // of a classic queue an empty string
		}
		if err := json.Unmarshal([]byte(out[max(0, strings.Index(out, "[")):]), &queues); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		for _, q := range queues {
			if q.Name != queue {
				continue
			}
			for _, n := range nodes {
				if !strings.Contains(fmt.Sprint(q.Members), n.name) || !strings.Contains(fmt.Sprint(q.Online), n.name) {
					return fmt.Errorf("not on %s: %+v", n.host, q)
				}
			}
			return nil
		}
		return fmt.Errorf("there is no such queue: %s", out)
	})
}
