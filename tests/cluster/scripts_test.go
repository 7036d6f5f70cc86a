package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// A demo is the cluster of compose/docker-compose.yml, on a subnet and ports of its own.
type demo struct {
	*cluster
	project  string
	ports    map[string]int // by variable, without _PORT
	env      []string
	balancer string // whose ports clients use

	password string // of the user "operator"
}

// Two nodes from scripts/up to scripts/down --volumes: what is in the way is named, what is there is kept, and nothing
// is left.
func TestScripts(t *testing.T) {
	if testing.Short() {
		t.Skip("needs containers")
	}
	parallel(t)
	d := newDemo(t, "scripts")

	d.in("two nodes are one cluster", func() {
		if out := d.script("up", "2"); !strings.Contains(out, "rabbit@rabbitmq1   ready") || !strings.Contains(out, "rabbit@rabbitmq2   ready") {
			d.Errorf("scripts/up 2 said:\n%s", out)
		}
		d.together()
	})
	d.in("the balancer has the page, also of a node that does not serve", d.page)
	d.in("scripts/up again changes nothing", func() {
		was := d.containers()
		d.script("up", "2")
		if is := d.containers(); is != was {
			d.Errorf("the containers were\n%s\nand are\n%s", was, is)
		}
	})
	d.in("what is in use is named with its variable", func() {
		other := *d
		other.project += "-other"
		other.env = append(slices.Clip(d.env), "COMPOSE_PROJECT_NAME="+other.project)
		d.Cleanup(other.remove)
		other.refused("up", []string{"1"}, "CONSUL_PORT", "HAPROXY_PORT", "RABBITMQ1_PORT", "RABBITMQ1_MANAGEMENT_PORT", "SUBNET")
		if left := other.left(); left != "" {
			d.Errorf("a refused scripts/up made %s", left)
		}
	})
	d.in("Compose by hand stops and starts a node", func() {
		was := d.containers()
		d.compose("stop", "rabbitmq2")
		d.eventually(10*time.Second, "DNS does not name the stopped node", func() error {
			if n, err := d.servers(); err != nil || n > 1 {
				return fmt.Errorf("%d SRV records (%v)", n, err)
			}
			return nil
		})
		d.compose("up", "-d", "rabbitmq2")
		d.together()
		if is := d.containers(); ids(is) != ids(was) {
			d.Errorf("the containers were\n%s\nand are\n%s", was, is)
		}
	})
	d.in("scripts/down keeps the data, for the version that wrote it", func() {
		id := d.clusterID()
		d.script("down")
		if left := d.left(); strings.Contains(left, "container") || !strings.Contains(left, "rabbitmq1-data") || !strings.Contains(left, "rabbitmq2-data") {
			d.Errorf("scripts/down left %q, want the volumes and no container", left)
		}
		older := *d
		older.env = append(slices.Clip(d.env), "RABBITMQ_IMAGE=rmq-entrypoint/rabbitmq:trixie")
		older.refused("up", []string{"2"}, "RABBITMQ_IMAGE=rmq-entrypoint/rabbitmq:trixie", "scripts/down --volumes",
			"rabbitmq1: RabbitMQ 4.3", "rabbitmq2: RabbitMQ 4.3", "ran on this volume last", "RabbitMQ supports no downgrade")
		d.script("up", "2")
		d.together()
		d.same(id, d.clusterID())
	})
	d.in("scripts/down --volumes leaves nothing", func() {
		d.script("down", "--volumes")
		if left := d.left(); left != "" {
			d.Errorf("it left %s", left)
		}
	})
}

// page fails unless the balancer has the page of the whole cluster, as long as any companion runs.
func (d *demo) page() {
	d.Helper()
	d.docker("pause", d.node("rabbitmq1").container)
	d.eventually(time.Minute, "the page tells of both", func() error {
		resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/cluster", d.ports["HAPROXY_PAGE"]))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err == nil && (resp.StatusCode != http.StatusOK || !strings.Contains(string(text), `"rabbit@rabbitmq1"`) || !strings.Contains(string(text), `"rabbit@rabbitmq2"`)) {
			err = fmt.Errorf("%s: %s", resp.Status, text)
		}
		return err
	})
	d.docker("unpause", d.node("rabbitmq1").container)
	d.together()
}

// newDemo says where it will be, and takes away what an interrupted run left there: one run of these tests is at work
// at a time, so the project's name can be the same in all.
func newDemo(t *testing.T, name string) *demo {
	t.Helper()
	for _, image := range []string{"rmq-entrypoint:4-management", "rmq-entrypoint:trixie", "rmq-entrypoint/dnsmasq:latest", "rmq-entrypoint/consul:latest", "rmq-entrypoint/haproxy:latest"} {
		if _, err := try("image", "inspect", image); err != nil {
			t.Fatalf("there is no image %s: scripts/images --all makes it", image)
		}
	}
	c := &cluster{T: t, id: fmt.Sprintf("%06x", rand.IntN(1<<24)), subnet: fmt.Sprintf("10.%d.%d", 200+rand.IntN(50), rand.IntN(256))}
	d := &demo{cluster: c, project: label + "-" + name, ports: map[string]int{}, balancer: "HAPROXY", password: "password" + c.id}
	override := labelled(t, "consul", "dnsmasq", "haproxy")
	d.env = append(os.Environ(), "COMPOSE_PROJECT_NAME="+d.project, "COMPOSE_FILE=docker-compose.yml:"+override, "SUBNET="+c.subnet, "BIND=127.0.0.1",
		"RABBITMQ_IMAGE=", "RMQ_ENTRYPOINT_IMAGE=", "RABBITMQ_ERLANG_COOKIE=cookie-that-is-long-enough-"+c.id,
		"RABBITMQ_DEFAULT_USER=operator", "RABBITMQ_DEFAULT_PASS="+d.password, fmt.Sprintf("UP_TIMEOUT=%.0f", slow(300*time.Second).Seconds()))
	ports := []string{"CONSUL", "HAPROXY", "HAPROXY_MANAGEMENT", "HAPROXY_STATS", "HAPROXY_PAGE"}
	for _, rabbit := range demoNodes {
		ports = append(ports, strings.ToUpper(rabbit), strings.ToUpper(rabbit)+"_MANAGEMENT")
	}
	for _, port := range ports {
		d.ports[port] = freePort(t)
		d.env = append(d.env, fmt.Sprintf("%s_PORT=%d", port, d.ports[port]))
	}
	d.remove()
	t.Cleanup(func() {
		if t.Failed() {
			d.dump()
		}
		d.remove()
	})
	return d
}

var demoNodes = []string{"rabbitmq1", "rabbitmq2", "rabbitmq3", "rabbitmq4", "rabbitmq5"}

// labelled is a file for Compose by which the services have the label that lets sweep take the containers and volumes of
// an interrupted run.
func labelled(t *testing.T, services ...string) string {
	t.Helper()
	override := filepath.Join(t.TempDir(), "label.yml")
	var b strings.Builder
	for _, kind := range []struct {
		name, suffix string
		of           []string
	}{{"services", "", append(services, demoNodes...)}, {"volumes", "-data", append([]string{"consul"}, demoNodes...)}} {
		fmt.Fprintf(&b, "%s:\n", kind.name)
		for _, name := range kind.of {
			fmt.Fprintf(&b, "  %s%s: {labels: [%s]}\n", name, kind.suffix, label)
		}
	}
	if err := os.WriteFile(override, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return override
}

// remove takes everything of the project away, without the scripts if these do not do it.
func (d *demo) remove() {
	_, _ = d.run("scripts", "./down", "--volumes")
	for _, kind := range [][2]string{{"ps -aq", "rm -fv"}, {"volume ls -q", "volume rm -f"}, {"network ls -q", "network rm"}} {
		out, _ := try(append(strings.Fields(kind[0]), "--filter", "label=com.docker.compose.project="+d.project)...)
		if ids := strings.Fields(out); len(ids) > 0 {
			_, _ = try(append(strings.Fields(kind[1]), ids...)...)
		}
	}
}

func (d *demo) dump() {
	for _, id := range strings.Fields(ids(d.containers())) {
		out, _ := exec.Command("docker", "logs", "--tail", "40", id).CombinedOutput()
		name, _ := try("inspect", "-f", "{{.Name}}: {{.State.Status}}", id)
		d.Logf("--- %s\n%s", name, out)
	}
}

// run runs a command in one of the module's directories, for at most ten minutes, and returns all that it says.
func (d *demo) run(dir, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), slow(10*time.Minute))
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = filepath.Join("..", "..", dir), d.env
	cmd.Cancel, cmd.WaitDelay = func() error { return cmd.Process.Signal(syscall.SIGTERM) }, 30*time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (d *demo) script(name string, args ...string) string {
	d.Helper()
	out, err := d.run("scripts", "./"+name, args...)
	if err != nil {
		d.Fatalf("scripts/%s %v: %v\n%s", name, args, err, out)
	}
	return out
}

// refused fails unless the script ends with status 1 and says each of these.
func (d *demo) refused(name string, args []string, says ...string) {
	d.Helper()
	out, err := d.run("scripts", "./"+name, args...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		d.Errorf("scripts/%s %v: want exit status 1, got %v\n%s", name, args, err, out)
	}
	for _, want := range says {
		if !strings.Contains(out, want) {
			d.Errorf("scripts/%s %v does not say %s:\n%s", name, args, want, out)
		}
	}
}

// compose runs Compose as the README's reader does, by hand.
func (d *demo) compose(args ...string) {
	d.Helper()
	argv := append([]string{"docker-compose"}, args...)
	if _, err := d.run("compose", "docker", "compose", "version"); err == nil {
		argv = append([]string{"docker", "compose"}, args...)
	}
	if out, err := d.run("compose", argv[0], argv[1:]...); err != nil {
		d.Fatalf("%v: %v\n%s", argv, err, out)
	}
}

// containers returns a line for each: its id, service, and when it was started.
func (d *demo) containers() string {
	d.Helper()
	out := strings.Fields(d.docker("ps", "-aq", "--no-trunc", "--filter", "label=com.docker.compose.project="+d.project))
	if len(out) == 0 {
		return ""
	}
	slices.Sort(out)
	return d.docker(append([]string{"inspect", "-f", `{{.Id}} {{index .Config.Labels "com.docker.compose.service"}} {{.State.StartedAt}}`}, out...)...)
}

// ids returns the first word of each line.
func ids(containers string) string {
	var words []string
	for line := range strings.Lines(containers) {
		words = append(words, strings.Fields(line)[0])
	}
	return strings.Join(words, " ")
}

// left names what there is of the project.
func (d *demo) left() string {
	d.Helper()
	var all []string
	for kind, list := range map[string]string{"container": "ps -a --format {{.Names}}", "volume": "volume ls -q", "network": "network ls --format {{.Name}}"} {
		for _, name := range strings.Fields(d.docker(append(strings.Fields(list), "--filter", "label=com.docker.compose.project="+d.project)...)) {
			all = append(all, kind+" "+name)
		}
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// node returns the service's node, for what is asked inside its container.
func (d *demo) node(service string) *node {
	d.Helper()
	id := d.docker("ps", "-q", "--filter", "label=com.docker.compose.project="+d.project, "--filter", "label=com.docker.compose.service="+service)
	return &node{cluster: d.cluster, host: service, name: "rabbit@" + service, container: id}
}

func (d *demo) clusterID() string {
	d.Helper()
	return d.node("rabbitmq1").ctl("eval", `io:format("~s", [rabbit_nodes:persistent_cluster_id()]).`)
}

// servers asks dnsmasq how many nodes there are.
func (d *demo) servers() (int, error) {
	q := new(dns.Msg)
	q.SetQuestion("rabbitmq.service.consul.", dns.TypeSRV)
	answer, _, err := (&dns.Client{Timeout: slow(2 * time.Second)}).Exchange(q, d.subnet+".11:53")
	if err != nil {
		return 0, err
	}
	return len(answer.Answer), nil
}

// together waits until the two nodes list each other, DNS names both, and Docker calls all five containers healthy.
func (d *demo) together() {
	d.Helper()
	want := []string{"rabbit@rabbitmq1", "rabbit@rabbitmq2"}
	d.eventually(120*time.Second, "two nodes are one cluster", func() error {
		if n, err := d.servers(); err != nil || n != 2 {
			return fmt.Errorf("dnsmasq gives %d SRV records (%v)", n, err)
		}
		healthy, err := try("ps", "-q", "--filter", "label=com.docker.compose.project="+d.project, "--filter", "health=healthy")
		if n := len(strings.Fields(healthy)); err != nil || n != 5 {
			return fmt.Errorf("%d of 5 containers are healthy (%v)", n, err)
		}
		all, err := statuses(d.node("rabbitmq1"), d.node("rabbitmq2"))
		for name, s := range all {
			if !slices.Equal(s.running, want) || !slices.Equal(s.disk, want) {
				err = fmt.Errorf("%s sees %v running of %v", name, s.running, s.disk)
			}
		}
		return err
	})
}
