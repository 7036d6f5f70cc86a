package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/consul"
)

// serverCount is how many servers Consul has.
const serverCount = 3

// settings are those of a server that are not Consul's default. raft_multiplier is what Consul recommends for production.
// Its limits are the default ones.
const settings = `
performance { raft_multiplier = 1 }
ports { dns = -1, grpc = -1, grpc_tls = -1, serf_wan = -1 }
telemetry { prometheus_retention_time = "1h", disable_hostname = true, prefix_filter = ["+consul.rpc.server.call"] }
`

// Servers are three servers of Consul on loopback addresses of their own. They keep their data, and die with this process.
type Servers struct {
	bin string
	all []*server
}

type server struct {
	host, dir, name string
	client          *api.Client
	mu              sync.Mutex
	process         *process // nil: none was started, or it was killed
}

type process struct {
	cmd   *exec.Cmd
	said  bytes.Buffer
	ended chan struct{}
}

// StartServers starts them with that program, and waits until they have a leader.
func StartServers(ctx context.Context, bin, dir string) (*Servers, error) {
	s := &Servers{bin: bin}
	for i := range serverCount {
		host, err := loopback()
		if err != nil {
			return nil, err
		}
		one := &server{host: host, name: fmt.Sprintf("consul-%d", i+1), dir: filepath.Join(dir, fmt.Sprintf("consul-%d", i+1))}
		if err := os.MkdirAll(one.dir, 0o700); err != nil {
			return nil, err
		}
		conf := api.DefaultConfig()
		conf.Address = one.addr()
		if one.client, err = api.NewClient(conf); err != nil {
			return nil, err
		}
		conf.HttpClient.CheckRedirect = consul.Stays
		s.all = append(s.all, one)
	}
	err := s.StartAll()
	if err == nil {
		err = s.form(ctx)
	}
	if err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

func (one *server) addr() string { return one.host + ":8500" }

// Addr is where that server's HTTP API is.
func (s *Servers) Addr(i int) string { return s.all[i%serverCount].addr() }

// List is the setting of a node: all servers, another one first for each of three nodes.
func (s *Servers) List(number int) string {
	var list []string
	for i := range serverCount {
		list = append(list, s.Addr(number+i))
	}
	return strings.Join(list, ",")
}

// StartAll starts those that do not run.
func (s *Servers) StartAll() error {
	for _, one := range s.all {
		if err := s.boot(one); err != nil {
			return fmt.Errorf("start %s: %w", s.bin, err)
		}
	}
	return nil
}

func (s *Servers) boot(one *server) error {
	one.mu.Lock()
	defer one.mu.Unlock()
	if one.process != nil {
		return nil
	}
	args := []string{"agent", "-server", "-node=" + one.name, "-bind=" + one.host, "-client=" + one.host, "-data-dir=" + one.dir,
		"-log-level=warn", "-bootstrap-expect=" + strconv.Itoa(serverCount), "-retry-interval=1s", "-hcl=" + settings}
	for _, other := range s.all {
		args = append(args, "-retry-join="+other.host)
	}
	p := &process{cmd: exec.Command(s.bin, args...), ended: make(chan struct{})} // #nosec G204 -- the program that the user names
	p.cmd.Stdout, p.cmd.Stderr = &p.said, &p.said
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	go func() { _ = p.cmd.Wait(); close(p.ended) }()
	one.process = p
	return nil
}

// kill is kill -9.
func (one *server) kill() {
	one.mu.Lock()
	defer one.mu.Unlock()
	if one.process != nil {
		_ = one.process.cmd.Process.Kill()
		<-one.process.ended
		one.process = nil
	}
}

// lost returns an error when the server's process has ended by itself.
func (one *server) lost() error {
	one.mu.Lock()
	defer one.mu.Unlock()
	if one.process == nil {
		return nil
	}
	select {
	case <-one.process.ended:
		said := strings.TrimSpace(one.process.said.String())
		return fmt.Errorf("%s has ended by itself (%s); it said: %s", one.name, one.process.cmd.ProcessState, said[max(0, len(said)-500):])
	default:
		return nil
	}
}

func (one *server) pid() int {
	one.mu.Lock()
	defer one.mu.Unlock()
	if one.process == nil {
		return 0
	}
	return one.process.cmd.Process.Pid
}

// Stop kills all.
func (s *Servers) Stop() {
	var work sync.WaitGroup
	for _, one := range s.all {
		work.Go(one.kill)
	}
	work.Wait()
}

// Kill is kill -9 of one, by its number.
func (s *Servers) Kill(i int) { s.all[i].kill() }

// Whole returns an error when a process has ended by itself, with what it said last.
func (s *Servers) Whole() (err error) {
	for _, one := range s.all {
		err = errors.Join(err, one.lost())
	}
	return err
}

// Leader returns the number of the server that the others hold for the leader.
func (s *Servers) Leader(ctx context.Context) (int, error) {
	err := errors.New("no server runs")
	for _, one := range s.all {
		if one.pid() == 0 {
			continue
		}
		var at string
		asking, done := context.WithTimeout(ctx, time.Second)
		at, err = one.client.Status().LeaderWithQueryOptions(new(api.QueryOptions).WithContext(asking))
		done()
		if err != nil {
			continue
		}
		host, _, _ := strings.Cut(at, ":")
		i := slices.IndexFunc(s.all, func(o *server) bool { return o.host == host })
		if i >= 0 && s.all[i].pid() != 0 {
			return i, nil
		}
		err = fmt.Errorf("%s says that the leader is %q", one.name, at)
	}
	return 0, err
}

// form waits until the servers have a leader, and each of them knows all three.
func (s *Servers) form(ctx context.Context) error {
	ctx, done := context.WithTimeout(ctx, time.Minute)
	defer done()
	for {
		_, err := s.Leader(ctx)
		for _, one := range s.all {
			if err == nil {
				err = one.knowsAll(ctx)
			}
		}
		if err == nil {
			return nil
		}
		if err := s.Whole(); err != nil {
			return err
		}
		if pause(ctx, 100*time.Millisecond) != nil {
			return fmt.Errorf("the servers of Consul come to no cluster: %w", err)
		}
	}
}

func (one *server) knowsAll(ctx context.Context) error {
	ctx, done := context.WithTimeout(ctx, time.Second)
	defer done()
	nodes, _, err := one.client.Catalog().Nodes(new(api.QueryOptions).WithContext(ctx))
	if err == nil && len(nodes) < serverCount {
		err = fmt.Errorf("%s knows %d servers", one.name, len(nodes))
	}
	return err
}

// client is the leader's, or that of another server that runs.
func (s *Servers) client(ctx context.Context) (*api.Client, error) {
	if leader, err := s.Leader(ctx); err == nil {
		return s.all[leader].client, nil
	}
	for _, one := range s.all {
		if one.pid() != 0 {
			return one.client, nil
		}
	}
	return nil, errors.New("no server runs")
}

// CPU is how many seconds of a CPU a server has used since its start.
func (s *Servers) CPU(i int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.all[i].pid()))
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])) // its name may have blanks
	if len(f) < 13 {
		return 0, fmt.Errorf("not what is known of a process: %.100q", text)
	}
	var ticks float64
	for _, field := range f[11:13] { // utime and stime: 14 and 15 in proc(5)
		n, err := strconv.ParseFloat(field, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return ticks / ticksPerSecond, nil
}

// ticksPerSecond is USER_HZ, which Linux has fixed at 100 for what it shows.
const ticksPerSecond = 100

// Memory is what a server holds, resident, in MiB.
func (s *Servers) Memory(i int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.all[i].pid()))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmRSS:" {
			kib, err := strconv.ParseFloat(f[1], 64)
			return kib / 1024, err
		}
	}
	return 0, errors.New("/proc/<pid>/status has no VmRSS")
}

// Files is how many files a server has open, its connections among them.
func (s *Servers) Files(i int) (int, error) {
	names, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.all[i].pid()))
	return len(names), err
}

// Connections is how many connections to the HTTP APIs there are.
func (s *Servers) Connections() (int, error) {
	text, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return 0, err
	}
	var at []string
	for _, one := range s.all {
		at = append(at, hexAddr(one.host, 8500))
	}
	return established(string(text), at), nil
}

// established counts in a table of /proc/net/tcp the connections that these local addresses have.
func established(table string, at []string) (n int) {
	for line := range strings.Lines(table) {
		if f := strings.Fields(line); len(f) > 3 && f[3] == "01" && slices.Contains(at, f[1]) {
			n++
		}
	}
	return n
}

// hexAddr is an IPv4 address with its port as /proc/net/tcp has it on a machine whose lowest byte comes first.
func hexAddr(host string, port int) string {
	ip := net.ParseIP(host).To4()
	return fmt.Sprintf("%02X%02X%02X%02X:%04X", ip[3], ip[2], ip[1], ip[0], port)
}

// loopback returns an address of 127.0.0.0/8 on which nothing listens at Consul's ports, and that is no node's.
func loopback() (string, error) {
search:
	for range 100 {
		host := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(150), rand.IntN(256), 1+rand.IntN(254))
		for _, port := range []string{"8300", "8301", "8500"} {
			l, err := net.Listen("tcp", host+":"+port)
			if err != nil {
				continue search
			}
			_ = l.Close()
		}
		return host, nil
	}
	return "", errors.New("found no address of 127.0.0.0/8 on which nothing listens at Consul's ports")
}
