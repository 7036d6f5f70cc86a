// Package cluster holds the end-to-end tests: the derived images in real containers, with real Consul and real
// RabbitMQ, one cluster a scenario.
//
//	RMQ_TEST_IMAGE_3_10, _4_0, _4_3   derived images (default rmq-entrypoint:bookworm, :trixie, :forky of scripts/images --all)
//	RMQ_TEST_BASE_3_10, _4_0, _4_3    the images they derive from, with the official entrypoint (rmq-entrypoint/rabbitmq:…)
//	RMQ_TEST_CONSUL_IMAGE             Consul (default rmq-entrypoint/consul:latest)
//	RMQ_TEST_VERSIONS=all             a scenario whose outcome depends on the version runs on each that differs for it; without
//	                                  it on the newest of them
//	RMQ_TEST_FULL=1                   every scenario on every version, and the long variants
//	RMQ_TEST_SLOW=2                   multiplies every deadline, for a slow machine
//	RMQ_TEST_SWARM=no                 without the Swarm, for which no other container may run
//	RMQ_TEST_COMPOSE_2=DIR            Docker's configuration that has Compose 2 as a plugin (default ../../.cache/docker of
//	                                  scripts/test); no: without what needs both 1.29 and 2
//	RMQ_TEST_TTL=20s                  the nodes' TTL (default 10s), for one so busy that a beat takes longer
//	RMQ_TEST_REGISTRATOR=PROGRAM      Registrator of gliderlabs, as built for this machine; without it that scenario does not run
//	RMQ_TEST_UNTIL=SECONDS            no scenario begins after that time, in seconds since 1970
//	RMQ_TEST_LOGS=DIR                 keeps the whole logs of the nodes of a scenario that failed
//
// Everything that is made carries one label and goes at the end; the next run removes what an interrupted one left.
package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
)

const label = "rmq-entrypoint-test"

// ttl is that of the nodes' checks and sessions: the least Consul takes, unless RMQ_TEST_TTL says otherwise.
var ttl = func() time.Duration {
	d, err := time.ParseDuration(env("RMQ_TEST_TTL", "10s"))
	if err != nil {
		panic("RMQ_TEST_TTL: " + err.Error())
	}
	return d
}()

// A version is one RabbitMQ that the scenarios run on.
type version struct {
	name        string
	image, base string // derived, and what it derives from
	khepri      bool   // members decide by majority
}

var (
	v310 = version{name: "3.10", image: env("RMQ_TEST_IMAGE_3_10", "rmq-entrypoint:bookworm"), base: env("RMQ_TEST_BASE_3_10", "rmq-entrypoint/rabbitmq:bookworm")}
	v40  = version{name: "4.0", image: env("RMQ_TEST_IMAGE_4_0", "rmq-entrypoint:trixie"), base: env("RMQ_TEST_BASE_4_0", "rmq-entrypoint/rabbitmq:trixie")}
	v43  = version{name: "4.3", image: env("RMQ_TEST_IMAGE_4_3", "rmq-entrypoint:forky"), base: env("RMQ_TEST_BASE_4_3", "rmq-entrypoint/rabbitmq:forky"), khepri: true}

	full        = os.Getenv("RMQ_TEST_FULL") != ""
	allVersions = os.Getenv("RMQ_TEST_VERSIONS") == "all"
	consulImage = env("RMQ_TEST_CONSUL_IMAGE", "rmq-entrypoint/consul:latest")
)

// newest is where a scenario runs whose outcome does not depend on the version. The others name those that differ for
// them, one with Mnesia at least, the newest first: a plain run has that one alone.
var (
	newest     = []version{v43}
	everywhere = []version{v43, v40, v310}
)

// long leaves a scenario of many minutes to full runs.
func long(t *testing.T) {
	t.Helper()
	if !full {
		t.Skip("takes long: runs with RMQ_TEST_FULL=1 (scripts/test --full)")
	}
}

// on runs a scenario on the first of the versions, on each of them, or on all there are, as the run was asked to; each in a
// network of its own with a Consul, as many at a time as go test -parallel says.
func on(t *testing.T, versions []version, scenario func(c *cluster)) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs containers")
	}
	switch {
	case full:
		versions = everywhere
	case !allVersions:
		versions = versions[:1]
	}
	t.Parallel()
	for _, v := range versions {
		t.Run(v.name, func(t *testing.T) { parallel(t); scenario(newCluster(t, v)) })
	}
}

// TestMain lets one run at a time use this machine's Docker, so that it can clear what an interrupted one left.
func TestMain(m *testing.M) {
	os.Exit(func() int {
		turn, err := os.OpenFile(filepath.Join(os.TempDir(), label+".lock"), os.O_CREATE|os.O_RDWR, 0o666)
		if err == nil {
			err = syscall.Flock(int(turn.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
			if errors.Is(err, syscall.EWOULDBLOCK) {
				fmt.Println("waiting for another run of these tests to end")
				err = syscall.Flock(int(turn.Fd()), syscall.LOCK_EX)
			}
		}
		if err != nil {
			fmt.Println(err)
			return 1
		}
		defer turn.Close()
		if _, err := exec.LookPath("docker"); err == nil {
			sweep()
			stop := make(chan os.Signal, 1)
			signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
			go func() {
				<-stop
				sweep()
				os.Exit(1)
			}()
			defer sweep()
		}
		return m.Run()
	}())
}

// sweep removes everything that carries the label; first the Swarm, which would make its containers anew.
func sweep() {
	leaveSwarm()
	for _, kind := range [][2]string{{"ps -aq --no-trunc", "rm -fv"}, {"volume ls -q", "volume rm -f"}, {"network ls -q", "network rm"}} {
		out, _ := exec.Command("docker", append(strings.Fields(kind[0]), "--filter", "label="+label)...).Output()
		if ids := strings.Fields(string(out)); len(ids) > 0 {
			_ = exec.Command("docker", append(strings.Fields(kind[1]), ids...)...).Run()
		}
	}
}

// A cluster is a private network with one Consul and the nodes that a scenario makes.
type cluster struct {
	*testing.T
	version version
	id      string // in the names of everything
	subnet  string // first three numbers
	consul  *api.Client
	port    int // Consul's HTTP, on the loopback
	dnsPort int // and its DNS, TCP alone
	nodes   []*node
	checked bool     // as often as the image says: what no scenario needs keeps one CPU in six busy
	secrets []string // must show up nowhere
}

func newCluster(t *testing.T, v version) *cluster {
	t.Helper()
	id := fmt.Sprintf("%06x", rand.IntN(1<<24))
	c := &cluster{T: t, version: v, id: id, port: freePort(t), dnsPort: freePort(t), secrets: []string{"cookie" + id, "token" + id}}
	for _, image := range []string{v.image, consulImage} {
		if _, err := try("image", "inspect", image); err != nil {
			t.Fatalf("there is no image %s: scripts/images --all makes it", image)
		}
	}
	t.Cleanup(c.remove)
	for range 50 {
		c.subnet = fmt.Sprintf("10.%d.%d", 100+rand.IntN(100), rand.IntN(256))
		if _, err := try("network", "create", "--label", label, "--subnet", c.subnet+".0/24", c.name("net")); err == nil {
			break
		} else if !strings.Contains(err.Error(), "overlap") {
			t.Fatal(err)
		}
	}
	var err error
	if c.consul, err = api.NewClient(&api.Config{Address: c.consulAddr()}); err != nil {
		t.Fatal(err)
	}
	c.runConsul()
	c.consulReady()
	return c
}

func (c *cluster) name(what string) string { return label + "-" + c.id + "-" + what }

// in runs f as a subtest that reports to it, and ends the scenario when it fails: later steps need this one.
func (c *cluster) in(name string, f func()) {
	c.Helper()
	outer := c.T
	ok := outer.Run(name, func(t *testing.T) { c.T = t; f() })
	c.T = outer
	if !ok {
		c.FailNow()
	}
}

// remove shows what happened if the scenario failed, and takes everything away.
func (c *cluster) remove() {
	if c.Failed() {
		c.dump()
	}
	containers, volumes := []string{"rm", "-fv", c.name("consul")}, []string{"volume", "rm", "-f"}
	for _, n := range c.nodes {
		containers, volumes = append(containers, n.container), append(volumes, n.volumes...)
	}
	_, _ = try(containers...)
	if len(c.nodes) > 0 {
		_, _ = try(volumes...)
	}
	_, _ = try("network", "rm", c.name("net"))
}

// story is what is worth reading of a container's log when a scenario failed.
var story = regexp.MustCompile(`rmq-entrypoint|\[error\]|BOOT FAILED|Error|CRASH`)

func (c *cluster) dump() {
	record, _, _ := c.consul.KV().Get("rmq-entrypoint/rabbitmq/cluster", nil)
	if record != nil {
		c.Logf("record: %s", record.Value)
	}
	for _, n := range c.nodes {
		log := n.log()
		lines := strings.Split(strings.TrimSpace(log), "\n")
		c.Logf("--- %s: last 30 lines\n%s", n.host, strings.Join(lines[max(0, len(lines)-30):], "\n"))
		lines = slices.DeleteFunc(lines, func(l string) bool { return !story.MatchString(l) })
		state, _ := try("inspect", "-f", "{{.State.Status}} exit {{.State.ExitCode}} restarts {{.RestartCount}}", n.container)
		c.Logf("--- %s (%s): its story\n%s", n.host, state, strings.Join(lines[max(0, len(lines)-60):], "\n"))
		if dir := os.Getenv("RMQ_TEST_LOGS"); dir != "" {
			_ = os.WriteFile(filepath.Join(dir, strings.ReplaceAll(c.Name(), "/", "-")+"-"+n.host+".log"), []byte(log), 0o644)
		}
	}
}

// --- Consul

func (c *cluster) consulAddr() string { return fmt.Sprintf("127.0.0.1:%d", c.port) }

func (c *cluster) runConsul(flags ...string) {
	c.docker(append([]string{"run", "-d", "--name", c.name("consul"), "--label", label, "--network", c.name("net"), "--ip", c.subnet + ".10",
		"-p", c.consulAddr() + ":8500", "-p", fmt.Sprintf("127.0.0.1:%d:8600", c.dnsPort), consulImage,
		"agent", "-server", "-bootstrap-expect=1", "-data-dir=/consul/data", "-client=0.0.0.0", "-bind=" + c.subnet + ".10", "-log-level=warn",
		"-hcl=performance { raft_multiplier = 1 }"}, flags...)...)
}

func (c *cluster) stopConsul()  { c.docker("kill", c.name("consul")) }
func (c *cluster) startConsul() { c.docker("start", c.name("consul")) }

// wipeConsul replaces a stopped or running Consul with one that has no data.
func (c *cluster) wipeConsul(flags ...string) {
	c.docker("rm", "-fv", c.name("consul"))
	c.runConsul(flags...)
}

func (c *cluster) consulReady() {
	c.Helper()
	c.eventually(60*time.Second, "Consul is ready", func() error {
		id, _, err := c.consul.Session().CreateNoChecks(&api.SessionEntry{TTL: "10s"}, nil)
		if err == nil {
			_, err = c.consul.Session().Destroy(id, nil)
		}
		return err
	})
}

// A record is the cluster record, as the README describes it.
type record struct {
	State     string            `json:"state"`
	ClusterID string            `json:"cluster_id"`
	Seed      string            `json:"seed"`
	Members   map[string]string `json:"members"`
	Gone      map[string]any    `json:"gone"`
	Previous  []struct {
		ClusterID string `json:"cluster_id"`
	} `json:"previous"`
}

func (c *cluster) record() record {
	c.Helper()
	r, err := c.tryRecord()
	if err != nil {
		c.Fatal(err)
	}
	return r
}

func (c *cluster) tryRecord() (r record, err error) {
	pair, _, err := c.consul.KV().Get("rmq-entrypoint/rabbitmq/cluster", &api.QueryOptions{RequireConsistent: true})
	if err != nil || pair == nil {
		return r, err
	}
	return r, json.Unmarshal(pair.Value, &r)
}

// checks returns the state of each node's TTL check, by node name; a node that is not registered is not in it.
func (c *cluster) checks() map[string]string {
	c.Helper()
	m, err := c.tryChecks()
	if err != nil {
		c.Fatal(err)
	}
	return m
}

func (c *cluster) tryChecks() (map[string]string, error) {
	entries, _, err := c.consul.Health().Service("rabbitmq", "", false, &api.QueryOptions{RequireConsistent: true})
	m := map[string]string{}
	for _, e := range entries {
		if strings.HasPrefix(e.Service.ID, counterfeit) {
			continue
		}
		m[e.Service.Meta["node"]] = "unregistered"
		for _, check := range e.Checks {
			if check.ServiceID == e.Service.ID {
				m[e.Service.Meta["node"]] = check.Status
			}
		}
	}
	return m, err
}

// sessions returns how many sessions are open in Consul, but for those of notes.
func (c *cluster) sessions() int {
	c.Helper()
	list, _, err := c.consul.Session().List(&api.QueryOptions{RequireConsistent: true})
	if err != nil {
		c.Fatal(err)
	}
	return len(slices.DeleteFunc(list, func(s *api.SessionEntry) bool { return strings.Contains(s.Name, "/notes/") }))
}

// --- nodes

// one waits until the nodes are one cluster, all of it, in everybody's eyes: each passes in Consul, each lists the
// same members and all of them running, and each has the cluster id of the record, which names them and nobody else.
// It returns that id.
func (c *cluster) one(nodes ...*node) string {
	c.Helper()
	return c.oneWithin(150*time.Second, nodes...)
}

func (c *cluster) oneWithin(d time.Duration, nodes ...*node) string {
	c.Helper()
	began := time.Now()
	var want []string
	for _, n := range nodes {
		want = append(want, n.name)
	}
	slices.Sort(want)
	var id string
	c.every(500*time.Millisecond, d, fmt.Sprintf("one cluster of %v", want), func() error {
		r, err := c.tryRecord()
		if err != nil {
			return err
		}
		id = r.ClusterID
		if on := slices.Sorted(maps.Keys(r.Members)); r.State != "formed" || !slices.Equal(on, want) {
			return fmt.Errorf("the record is %s with %v", r.State, on)
		}
		checks, err := c.tryChecks()
		if err != nil {
			return err
		}
		for _, n := range nodes {
			if checks[n.name] != "passing" {
				return fmt.Errorf("%s is %q in Consul", n.host, checks[n.name]) // why is in its log: to ask it each time takes CPU from those that boot
			}
		}
		for name, status := range checks { // one that was killed and did not come back stays, critical, until it is reaped
			if status != "critical" && !slices.Contains(want, name) {
				return fmt.Errorf("Consul knows %v", checks)
			}
		}
		for _, n := range nodes {
			v, err := n.view()
			if err != nil {
				return err
			}
			if v.ClusterID != id {
				return fmt.Errorf("%s is in cluster %q, the record says %q", n.host, v.ClusterID, id)
			}
		}
		all, err := statuses(nodes...)
		for _, name := range want {
			if s := all[name]; err == nil && (!slices.Equal(s.running, want) || !slices.Equal(s.disk, want) || len(s.partitions) > 0) {
				err = fmt.Errorf("%s sees %v running of %v, partitions %v", name, s.running, s.disk, s.partitions)
			}
		}
		return err
	})
	c.Logf("one cluster of %d after %s", len(nodes), time.Since(began).Round(100*time.Millisecond))
	return id
}

// same fails unless the id is the one the cluster had.
func (c *cluster) same(was, is string) {
	c.Helper()
	if was != is {
		c.Fatalf("the cluster was %s and is %s now", was, is)
	}
}

// --- waiting

// slow stretches a deadline by RMQ_TEST_SLOW.
func slow(d time.Duration) time.Duration {
	if f, err := strconv.ParseFloat(os.Getenv("RMQ_TEST_SLOW"), 64); err == nil {
		return time.Duration(float64(d) * f)
	}
	return d
}

// eventually waits until try succeeds, and ends the scenario when it does not within d.
func (c *cluster) eventually(d time.Duration, what string, try func() error) {
	c.Helper()
	c.every(200*time.Millisecond, d, what, try)
}

func (c *cluster) every(pause, d time.Duration, what string, try func() error) {
	c.Helper()
	d = slow(d)
	began := time.Now()
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Since(began) > d {
			c.Fatalf("not within %s: %s: %v", d, what, err)
		}
		time.Sleep(pause)
	}
}

// throughout holds try against every moment of d: for what must not happen.
func (c *cluster) throughout(d time.Duration, what string, try func() error) {
	c.Helper()
	for began := time.Now(); time.Since(began) < d; time.Sleep(200 * time.Millisecond) {
		if err := try(); err != nil {
			c.Fatalf("%s: after %s: %v", what, time.Since(began).Round(100*time.Millisecond), err)
		}
	}
}

// ports are those that freePort gave away: between that and their use, another scenario must not get them.
var ports sync.Map

// freePort returns a loopback port on which nothing listens, below those that outgoing connections get: a container
// keeps it over restarts.
func freePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		port := 20000 + rand.IntN(12000)
		if _, taken := ports.LoadOrStore(port, true); taken {
			continue
		}
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatal("found no free port")
	return 0
}

func env(name, def string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return def
}
