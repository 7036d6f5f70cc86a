package cluster

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// Containers that cannot resolve each other find each other through Consul (RMQ_HOSTS), also when they come back with other
// addresses, with each other's, and all at once.
func TestNoSharedDNS(t *testing.T) {
	on(t, newest, func(c *cluster) {
		nodes := c.all(3)
		nowhere := filepath.Join(c.TempDir(), "resolv.conf") // Docker would resolve the containers' names
		if err := os.WriteFile(nowhere, []byte("nameserver 127.0.0.1\n"), 0o644); err != nil {
			c.Fatal(err)
		}
		for _, n := range nodes {
			n.flags = []string{"-v", nowhere + ":/etc/resolv.conf:ro"}
			n.env["RMQ_HOSTS"] = "consul"
			n.env["ERL_INETRC"] = "/var/lib/rabbitmq/inetrc" // for rabbitmqctl in docker exec
		}
		start(nodes...)
		id := c.one(nodes...)
		for _, n := range nodes[1:] {
			if out, err := nodes[0].tryExec("getent", "hosts", n.host); err == nil {
				c.Fatalf("%s is resolved without this program: %s", n.host, out)
			}
		}
		c.in("one comes back elsewhere", func() {
			n := nodes[1]
			n.rm()
			n.ip = c.subnet + ".41"
			n.start()
			// From the registration on: within a beat it is in the file, which Erlang reads again after 5 s at most.
			n.said(60*time.Second, "becoming the server")
			for _, other := range []*node{nodes[0], nodes[2]} {
				other.finds(n, ttl/3+5*time.Second)
			}
			c.same(id, c.one(nodes...))
		})
		c.in("killed, it comes back elsewhere before its check lapses", func() {
			n := nodes[2]
			n.kill()
			n.rm()
			n.ip = c.subnet + ".42"
			n.start()
			c.same(id, c.one(nodes...))
			nodes[0].finds(n, 0)
		})
		c.in("all stopped, two come back with each other's address, one elsewhere", func() {
			stop(nodes...)
			together(nodes, "rm")
			nodes[0].ip, nodes[1].ip, nodes[2].ip = nodes[1].ip, nodes[0].ip, c.subnet+".43"
			start(nodes...)
			c.same(id, c.one(nodes...))
			nodes[2].finds(nodes[0], 0)
			nodes[2].finds(nodes[1], 0)
		})
		c.in("Consul is away", func() {
			c.stopConsul()
			n := nodes[0]
			n.stop()
			n.start() // at the same address: it goes by what it knew
			c.eventually(60*time.Second, "the member is back with the others", func() error {
				s, err := n.status()
				if err == nil && len(s.running) != 3 {
					err = fmt.Errorf("it sees %v", s.running)
				}
				return err
			})
			c.startConsul()
			c.same(id, c.one(nodes...))
		})
	})
}

// finds waits until the Erlang VM of n resolves the host name of another node to its address.
func (n *node) finds(other *node, within time.Duration) {
	n.Helper()
	began := time.Now()
	n.eventually(within, fmt.Sprintf("%s finds %s at %s", n.host, other.host, other.ip), func() error {
		out, err := n.tryExec("rabbitmqctl", "-q", "eval", fmt.Sprintf("inet:getaddr(%q, inet).", other.host))
		if want := "{ok,{" + strings.ReplaceAll(other.ip, ".", ",") + "}}"; err == nil && strings.TrimSpace(out) != want {
			err = fmt.Errorf("it finds %s", out)
		}
		return err
	})
	n.Logf("%s finds %s after %s", n.host, other.host, time.Since(began).Round(100*time.Millisecond))
}

// A swarm is a single-node Swarm with compose/stack.yml on it.
type swarm struct {
	*cluster
	stack string
	args  []string // of docker stack deploy
	env   []string
	stats string // HAProxy's statistics page
}

// The stack is one cluster of three, stays it over an update that replaces each task, and takes clients through the balancer.
func TestSwarm(t *testing.T) {
	if testing.Short() {
		t.Skip("needs containers")
	}
	long(t)
	if os.Getenv("RMQ_TEST_SWARM") == "no" {
		t.Skip("RMQ_TEST_SWARM is no")
	}
	// Not beside other tests: once, when the stack and the Swarm ended (20.10), every other container lost its network.
	const out = "or leave this test out with RMQ_TEST_SWARM=no"
	if state, err := try("info", "-f", "{{.Swarm.LocalNodeState}}"); err != nil || state != "inactive" {
		t.Fatalf("this Docker is part of a Swarm (%s, %v), which is not this test's to change: leave that, %s", state, err, out)
	}
	if others, err := try("ps", "--format", "{{.Names}}"); err != nil || others != "" {
		t.Fatalf("other containers run, which may lose their network when this test ends its Swarm (%s, %v): stop them, %s", strings.Fields(others), err, out)
	}
	s := newSwarm(t)

	var id string
	s.in("one cluster of three", func() { id = s.one() })
	s.in("each slot has a volume of its own", func() {
		for slot := 1; slot <= 3; slot++ {
			want := fmt.Sprintf("%s_rabbitmq-%d", s.stack, slot)
			if got := s.docker("inspect", "-f", `{{range .Mounts}}{{if eq .Type "volume"}}{{.Name}}{{end}}{{end}}`, s.task("rabbitmq", slot)); got != want {
				s.Errorf("slot %d has volume %s, want %s", slot, got, want)
			}
		}
	})
	s.in("labels are tags and meta", func() {
		out := s.exec(1, "bash", "-c", `exec 3<>/dev/tcp/consul1/8500; printf 'GET /v1/catalog/service/rabbitmq?tag=testing HTTP/1.0\r\n\r\n' >&3; cat <&3`)
		for _, want := range []string{`"zone":"here"`, `"disk":""`, `"slot":"3"`, `"host":"`} {
			if !strings.Contains(out, want) {
				s.Errorf("the catalog lacks %s: %s", want, out)
			}
		}
	})
	s.in("clients through the balancer", s.clients)
	s.in("every task is replaced", func() {
		was := s.addresses()
		s.docker("service", "update", "--force", "--detach", s.stack+"_rabbitmq")
		s.eventually(6*time.Minute, "the update is complete", func() error {
			out, err := try("service", "inspect", s.stack+"_rabbitmq", "-f", "{{.UpdateStatus.State}}")
			if err == nil && out != "completed" {
				err = errors.New(out)
			}
			return err
		})
		s.same(id, s.one())
		is := s.addresses()
		for slot := range is {
			if is[slot] == was[slot] {
				s.Errorf("slot %d still has the address %s: nothing was to be found", slot+1, is[slot])
			}
			for other := range is {
				// In the file alone: Docker knows the names, too, once their tasks are healthy.
				out := s.exec(slot+1, "rabbitmqctl", "-q", "eval", fmt.Sprintf(`inet_hosts:gethostbyname("rabbitmq-%d", inet).`, other+1))
				if want := "[{" + strings.ReplaceAll(is[other], ".", ",") + "}]"; !strings.Contains(out, want) {
					s.Errorf("slot %d finds slot %d at %s, want %s", slot+1, other+1, out, want)
				}
			}
		}
		s.clients()
	})
	s.in("a Consul server is lost and comes back elsewhere", func() {
		was := s.task("consul1", 1)
		s.docker("rm", "-f", was)
		s.eventually(time.Minute, "Swarm starts another task", func() error {
			if is := s.task("consul1", 1); is == "" || is == was {
				return errors.New("it has not")
			}
			return nil
		})
		s.eventually(2*time.Minute, "each node is registered, once", func() error {
			out, err := try("exec", s.task("rabbitmq", 2), "rmq-entrypoint", "status")
			if err == nil && (strings.Count(out, "\ncatalog ") != 3 || strings.Count(out, " passing at ") != 3) {
				err = errors.New(out)
			}
			return err
		})
		s.same(id, s.one())
	})
	s.in("the whole stack goes and comes back", func() {
		s.docker("stack", "rm", s.stack)
		s.eventually(3*time.Minute, "it is gone", func() error {
			left, err := try("ps", "-aq", "--filter", "name=^"+s.stack+"_")
			if networks, nerr := try("network", "ls", "-q", "--filter", "name=^"+s.stack+"_"); left+networks != "" {
				err = fmt.Errorf("containers %s, networks %s, %v", left, networks, nerr)
			}
			return err
		})
		s.deploy()
		s.same(id, s.one())
		s.clients()
	})
}

// newSwarm makes this Docker a Swarm of one and deploys the stack, under the tests' label. All of it goes at the end.
func newSwarm(t *testing.T) *swarm {
	t.Helper()
	c := &cluster{T: t, id: fmt.Sprintf("%06x", rand.IntN(1<<24)), subnet: fmt.Sprintf("10.%d.%d", 60+rand.IntN(30), rand.IntN(256))}
	s := &swarm{cluster: c, stack: label + "-" + c.id}
	stats := freePort(t)
	s.stats = fmt.Sprintf("http://127.0.0.1:%d/;csv", stats)
	t.Cleanup(s.remove)
	// Swarm would take its bridge from the pool that Compose projects take theirs from, and leave it behind.
	gateway := fmt.Sprintf("10.%d.%d", 90+rand.IntN(9), rand.IntN(256))
	if _, err := try("network", "inspect", "docker_gwbridge"); err != nil {
		s.docker("network", "create", "--label", label, "--subnet", gateway+".0/24", "-o", "com.docker.network.bridge.name=docker_gwbridge",
			"-o", "com.docker.network.bridge.enable_icc=false", "-o", "com.docker.network.bridge.enable_ip_masquerade=true", "docker_gwbridge")
	}
	s.docker("swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", fmt.Sprintf("127.0.0.1:%d", freePort(t)),
		"--data-path-port", fmt.Sprint(freePort(t)))
	s.docker("node", "update", "--label-add", label+"=yes", s.docker("node", "inspect", "self", "-f", "{{.ID}}"))

	override := filepath.Join(t.TempDir(), "test.yml")
	var b strings.Builder
	b.WriteString("version: '3.8'\nservices:\n")
	for _, name := range []string{"consul1", "consul2", "consul3", "rabbitmq", "haproxy"} {
		fmt.Fprintf(&b, "  %s: {labels: [%s]}\n", name, label)
	}
	if err := os.WriteFile(override, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	s.args = []string{"stack", "deploy", "--resolve-image", "never", "-c", "../../compose/stack.yml", "-c", override, s.stack}
	s.env = append(os.Environ(), "SUBNET="+c.subnet, "RABBITMQ_ERLANG_COOKIE=cookie"+c.id, "ENVIRONMENT=testing", "ZONE=here",
		"CONSUL_IMAGE="+consulImage, "RMQ_ENTRYPOINT_IMAGE="+v43.image, fmt.Sprintf("HAPROXY_PORT=%d", freePort(t)),
		fmt.Sprintf("HAPROXY_MANAGEMENT_PORT=%d", freePort(t)), fmt.Sprintf("HAPROXY_STATS_PORT=%d", stats))
	s.deploy()
	return s
}

func (s *swarm) deploy() {
	s.Helper()
	cmd := exec.Command("docker", s.args...)
	cmd.Env = s.env
	if out, err := cmd.CombinedOutput(); err != nil {
		s.Fatalf("docker stack deploy: %v: %s", err, out)
	}
}

// remove shows what happened if the test failed, and takes everything away.
func (s *swarm) remove() {
	if s.Failed() {
		out, _ := try("service", "ps", "--no-trunc", "--format", "{{.Name}} {{.CurrentState}} {{.Error}}", s.stack+"_rabbitmq", s.stack+"_consul1", s.stack+"_haproxy")
		s.Logf("tasks:\n%s", out)
		for slot := 1; slot <= 3; slot++ {
			log, _ := try("logs", "--tail", "60", s.task("rabbitmq", slot))
			s.Logf("--- slot %d\n%s", slot, log)
		}
	}
	leaveSwarm()
}

// leaveSwarm ends the Swarm if it is one of these tests', and removes what it leaves: volumes have no label there, since
// one from here would take the place of the name that the stack gives them.
func leaveSwarm() {
	if ours, _ := try("node", "inspect", "self", "-f", `{{index .Spec.Labels "`+label+`"}}`); ours != "" {
		_, _ = try("swarm", "leave", "--force")
	}
	tasks := "name=^" + label + "-[0-9a-f]*_"
	for _, kind := range [][3]string{
		{"ps -aq --no-trunc", tasks, "rm -fv"}, {"volume ls -q", tasks, "volume rm -f"},
		{"network ls -q --filter name=docker_gwbridge", "label=" + label, "network rm"},
	} {
		out, _ := try(append(strings.Fields(kind[0]), "--filter", kind[1])...)
		if names := strings.Fields(out); len(names) > 0 {
			_, _ = try(append(strings.Fields(kind[2]), names...)...)
		}
	}
}

// task returns the container that runs a service's task in a slot, "" if none does.
func (s *swarm) task(service string, slot int) string {
	out, _ := try("ps", "-q", "--no-trunc", "--filter", "status=running", "--filter", fmt.Sprintf("name=^%s_%s.%d.", s.stack, service, slot))
	return out
}

func (s *swarm) exec(slot int, argv ...string) string {
	s.Helper()
	return s.docker(append([]string{"exec", s.task("rabbitmq", slot)}, argv...)...)
}

var (
	onRecord = regexp.MustCompile(`(?m)^record +formed since \S+, cluster (\S+),`)
	running  = regexp.MustCompile(`(?m)^running +rabbit@rabbitmq-1, rabbit@rabbitmq-2, rabbit@rabbitmq-3$`)
	passes   = regexp.MustCompile(`(?m)^check +passing `)
)

// one waits until all three tasks serve, in one cluster of three, and the balancer takes each. It returns the cluster's id.
func (s *swarm) one() (id string) {
	s.Helper()
	began := time.Now()
	s.eventually(5*time.Minute, "one cluster of three", func() error {
		id = ""
		for slot := 1; slot <= 3; slot++ {
			out, err := try("exec", s.task("rabbitmq", slot), "rmq-entrypoint", "status")
			if err != nil {
				return err
			}
			m := onRecord.FindStringSubmatch(out)
			if m == nil || !running.MatchString(out) || !passes.MatchString(out) || strings.Count(out, "\n  member ") != 3 || id != "" && m[1] != id {
				return fmt.Errorf("slot %d says:\n%s", slot, out)
			}
			id = m[1]
		}
		resp, err := http.Get(s.stats)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		up := slices.DeleteFunc(strings.Split(string(b), "\n"), func(l string) bool {
			f := strings.Split(l, ",")
			return len(f) < 18 || f[0] != "amqp" || !strings.HasPrefix(f[1], "rmq") || f[17] != "UP"
		})
		if err == nil && len(up) != 3 {
			err = fmt.Errorf("%d nodes are up for the balancer:\n%s", len(up), b)
		}
		return err
	})
	s.Logf("one cluster of three after %s", time.Since(began).Round(100*time.Millisecond))
	return id
}

// addresses returns each slot's in the stack's network.
func (s *swarm) addresses() (all [3]string) {
	s.Helper()
	for i := range all {
		all[i] = s.docker("inspect", "-f", `{{(index .NetworkSettings.Networks "`+s.stack+`_cluster").IPAddress}}`, s.task("rabbitmq", i+1))
	}
	return all
}

// clients sends a message through the balancer and receives it.
func (s *swarm) clients() {
	s.Helper()
	text := fmt.Sprintf("message %x", rand.Uint32())
	if out := s.exec(1, "rmq-entrypoint", "produce", "--brokers", "tasks.haproxy:5670", text); !strings.Contains(out, "confirmed: "+text) {
		s.Errorf("produce said %s", out)
	}
	if out := s.exec(3, "rmq-entrypoint", "consume", "--brokers", "tasks.haproxy:5670", "--count", "1"); !strings.Contains(out, "received: "+text) {
		s.Errorf("consume said %s", out)
	}
}
