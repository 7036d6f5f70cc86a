// Package consultest runs real Consul agents for tests, and puts faults in front of them.
//
// Every agent has a loopback address of its own (127.x.y.z) with Consul's usual ports on it, so nothing has to
// guess free ports and a restarted agent comes back where it was. Agents die with the test, and with its process.
package consultest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
)

// readyIn bounds how long an agent may take until it serves writes and sessions: three servers on a busy machine
// need about 10 s.
const readyIn = 60 * time.Second

// A Consul is one agent, as a rule a server.
type Consul struct {
	Client  *api.Client // talks to Addr, with Token
	Addr    string      // HTTP API, host:port
	DNSAddr string      // DNS, TCP and UDP, host:port
	Node    string      // its node name
	Token   string      // the management token under [ACL], else empty

	t    testing.TB
	bin  string
	host string
	dir  string // data of a persistent agent
	join string // the cluster's servers, for the command line
	of   int    // servers in its cluster; 0: it is none itself
	opts options
	cmd  *exec.Cmd
}

type options struct {
	persistent, acl, cold bool
	hcl                   []string
}

// An Option changes how an agent is started.
type Option func(*options)

// Persistent keeps the agent's data in a directory, so that it survives a restart. Such an agent takes about 3 s to
// become ready, one without data 1 s.
func Persistent() Option { return func(o *options) { o.persistent = true } }

// ACL denies everything that no token allows. [Consul.Token] is the management token. To restart such an agent, make
// it [Persistent] too.
func ACL() Option { return func(o *options) { o.acl = true } }

// Cold does not wait until the agent is ready. It excludes [ACL].
func Cold() Option { return func(o *options) { o.cold = true } }

// HCL adds a piece of agent configuration.
func HCL(conf string) Option { return func(o *options) { o.hcl = append(o.hcl, conf) } }

// Start runs a single server that lives as long as t, and waits until it is ready.
func Start(t testing.TB, opts ...Option) *Consul {
	t.Helper()
	return start(t, 1, opts)[0]
}

// StartCluster runs n servers that elect a leader among themselves and keep their data ([Persistent]).
func StartCluster(t testing.TB, n int, opts ...Option) []*Consul {
	t.Helper()
	return start(t, n, append(opts, Persistent()))
}

func start(t testing.TB, n int, opts []Option) []*Consul {
	t.Helper()
	bin := Program(t)
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	servers := make([]*Consul, n)
	var join []string
	for i := range servers {
		host := loopback(t, 8300, 8301, 8500, 8600)
		servers[i] = &Consul{
			Addr: host + ":8500", DNSAddr: host + ":8600", Node: fmt.Sprintf("consul-%d", i+1),
			t: t, bin: bin, host: host, dir: t.TempDir(), of: n, opts: o,
		}
		join = append(join, "-retry-join="+host)
	}
	for _, c := range servers {
		c.join = strings.Join(join, " ")
		c.connect()
		c.Boot()
		t.Cleanup(c.Kill)
	}
	if o.acl {
		servers[0].bootstrapACL(servers)
	}
	if !o.cold {
		for _, c := range servers {
			c.WaitReady()
		}
	}
	return servers
}

// StartAgent runs an agent in front of the servers, none itself, on an address of its own, and waits until it knows
// their leader. It keeps its data.
func StartAgent(t testing.TB, servers []*Consul) *Consul {
	t.Helper()
	host := loopback(t, 8301, 8500, 8600)
	c := &Consul{
		Addr: host + ":8500", DNSAddr: host + ":8600", Node: "client-" + host,
		t: t, bin: servers[0].bin, host: host, dir: t.TempDir(), join: servers[0].join, opts: options{persistent: true},
	}
	c.connect()
	c.Boot()
	t.Cleanup(c.Kill)
	c.WaitLeader()
	return c
}

// Recreate is what becomes of an agent whose container is removed with its data, and made again under its name.
func (c *Consul) Recreate() {
	c.t.Helper()
	c.Kill()
	for _, err := range []error{os.RemoveAll(c.dir), os.Mkdir(c.dir, 0o755)} {
		if err != nil {
			c.t.Fatal(err)
		}
	}
	c.Boot()
	c.WaitLeader()
}

// Boot starts the agent's process with the data it has, and does not wait for it.
func (c *Consul) Boot() {
	c.t.Helper()
	// Only flags that 1.8 and 1.22 both know.
	args := []string{"agent", "-node=" + c.Node, "-bind=" + c.host, "-client=" + c.host, "-log-level=warn",
		"-grpc-port=-1", "-serf-wan-port=-1"}
	switch {
	case !c.opts.persistent:
		args = append(args, "-dev")
	case c.of > 0:
		args = append(args, "-server", fmt.Sprintf("-bootstrap-expect=%d", c.of), "-hcl=performance { raft_multiplier = 1 }")
		fallthrough
	default:
		args = append(append(args, "-data-dir="+c.dir, "-retry-interval=1s"), strings.Fields(c.join)...)
	}
	if c.opts.acl {
		// An agent without a data directory would persist its tokens into the test's working directory.
		args = append(args, fmt.Sprintf(`-hcl=acl { enabled = true default_policy = "deny" enable_token_persistence = %t }`, c.opts.persistent))
	}
	args = append(args, "-hcl=limits { http_max_conns_per_client = 4000 }") // dozens of nodes have this machine's address
	for _, hcl := range c.opts.hcl {
		args = append(args, "-hcl="+hcl)
	}
	c.cmd = exec.Command(c.bin, args...)
	c.cmd.Dir = c.dir
	c.cmd.Stdout, c.cmd.Stderr = c.t.Output(), c.t.Output()
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.cmd.Start(); err != nil {
		c.cmd = nil
		c.t.Fatal(err)
	}
}

// Kill ends the agent's process at once (SIGKILL). A persistent agent keeps its data.
func (c *Consul) Kill() {
	if c.cmd == nil {
		return
	}
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
	c.cmd = nil
}

// Restart kills the agent, starts it again and waits until it is ready. Without [Persistent] it has lost its data.
func (c *Consul) Restart() {
	c.t.Helper()
	c.Kill()
	c.Boot()
	c.WaitReady()
}

// Pause stops the agent's process: its ports accept and never answer, as a black hole. Undo it with [Consul.Resume].
func (c *Consul) Pause() { c.signal(syscall.SIGSTOP) }

// Resume continues a paused agent.
func (c *Consul) Resume() { c.signal(syscall.SIGCONT) }

func (c *Consul) signal(sig syscall.Signal) {
	c.t.Helper()
	if err := c.cmd.Process.Signal(sig); err != nil {
		c.t.Fatal(err)
	}
}

// WaitReady waits until the agent has a leader, accepts writes, and opens sessions on its own node.
func (c *Consul) WaitReady() {
	c.t.Helper()
	c.eventually("become ready", func(ctx context.Context) error {
		w := new(api.WriteOptions).WithContext(ctx)
		id, _, err := c.Client.Session().CreateNoChecks(&api.SessionEntry{Name: "consultest", TTL: "10s", LockDelay: time.Millisecond}, w)
		if err != nil {
			return err
		}
		if _, err := c.Client.Session().Destroy(id, w); err != nil {
			return err
		}
		_, _, err = c.Client.Catalog().Node(c.Node, new(api.QueryOptions).WithContext(ctx))
		return err
	})
}

// WaitLeader waits until the agent knows of a leader, which is before it is ready.
func (c *Consul) WaitLeader() {
	c.t.Helper()
	c.eventually("know a leader", func(ctx context.Context) error {
		leader, err := c.Client.Status().LeaderWithQueryOptions(new(api.QueryOptions).WithContext(ctx))
		if err == nil && leader == "" {
			err = errors.New("there is none")
		}
		return err
	})
}

// ClientFor returns a client of c with a new token that has the given rules, in HCL.
func (c *Consul) ClientFor(rules string) *api.Client {
	c.t.Helper()
	policy, _, err := c.Client.ACL().PolicyCreate(&api.ACLPolicy{Name: fmt.Sprintf("p%d", rand.Uint64()), Rules: rules}, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	token, _, err := c.Client.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{ID: policy.ID}}}, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	return Client(c.t, c.Addr, token.SecretID)
}

// Client returns a client of the agent, or the [Link], at addr. Nothing is taken from the environment's token.
func Client(t testing.TB, addr, token string) *api.Client {
	t.Helper()
	client, err := api.NewClient(&api.Config{Address: addr, Scheme: "http", Token: cmp.Or(token, "anonymous")})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func (c *Consul) connect() { c.Client = Client(c.t, c.Addr, c.Token) }

func (c *Consul) bootstrapACL(servers []*Consul) {
	c.t.Helper()
	var token string
	c.eventually("bootstrap ACLs", func(context.Context) error {
		t, _, err := c.Client.ACL().Bootstrap()
		if err == nil {
			token = t.SecretID
		}
		return err
	})
	for _, c := range servers {
		c.Token = token
		c.connect()
		c.eventually("take an agent token", func(ctx context.Context) error {
			_, err := c.Client.Agent().UpdateAgentACLToken(token, new(api.WriteOptions).WithContext(ctx))
			return err
		})
	}
}

func (c *Consul) eventually(what string, try func(context.Context) error) {
	c.t.Helper()
	for deadline := time.Now().Add(readyIn); ; time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		err := try(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s at %s did not %s within %s: %v", c.Node, c.Addr, what, readyIn, err)
		}
	}
}

// Program returns the consul that tests run: that of RMQ_TEST_CONSUL, of the PATH, or of scripts/images.
// Without one a -short test is skipped, and any other fails.
func Program(t testing.TB) string {
	t.Helper()
	if bin := os.Getenv("RMQ_TEST_CONSUL"); bin != "" {
		return bin
	}
	if bin, err := exec.LookPath("consul"); err == nil {
		return bin
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); errors.Is(err, os.ErrNotExist) {
			continue
		}
		if bin := filepath.Join(dir, ".cache", "bin", "consul"); exec.Command(bin, "version").Run() == nil {
			return bin
		}
		break
	}
	if testing.Short() {
		t.Skip("no consul in RMQ_TEST_CONSUL, PATH or .cache/bin")
	}
	t.Fatal("no consul in RMQ_TEST_CONSUL, PATH or .cache/bin (-short skips what needs it)")
	return ""
}

// loopback returns an address of 127.0.0.0/8 on which nothing listens at ports.
func loopback(t testing.TB, ports ...int) string {
	t.Helper()
search:
	for range 100 {
		host := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
		for _, port := range ports {
			l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", host, port))
			if err != nil {
				continue search
			}
			_ = l.Close()
		}
		return host
	}
	t.Fatal("found no free loopback address")
	return ""
}
