package cluster

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A node is one container with a named volume. What it is made with can be changed until it is started first, or
// after rm.
type node struct {
	*cluster
	host      string
	name      string // rabbit@host
	container string
	ip        string
	volume    string
	volumes   []string // all it ever had
	env       map[string]string
	flags     []string // of docker run
	image     string
	command   []string
	amqpPort  int
	httpPort  int
	began     time.Time // last start
}

// node returns the node of that number; it does not start it.
func (c *cluster) node(i int) *node {
	c.Helper()
	for _, n := range c.nodes {
		if n.host == fmt.Sprintf("rabbitmq%d", i) {
			return n
		}
	}
	host := fmt.Sprintf("rabbitmq%d", i)
	n := &node{
		cluster: c, host: host, name: "rabbit@" + host, container: c.name(host), ip: fmt.Sprintf("%s.%d", c.subnet, 20+i),
		image: c.version.image, amqpPort: freePort(c), httpPort: freePort(c),
		env: map[string]string{
			"CONSUL_HTTP_ADDR": c.subnet + ".10:8500", "RMQ_DNS_SERVER": c.subnet + ".10:8600", "RMQ_TTL": ttl.String(),
			"RABBITMQ_ERLANG_COOKIE": c.secrets[0], "CONSUL_HTTP_TOKEN": c.secrets[1], // without ACLs any token will do
		},
	}
	n.blankVolume()
	c.nodes = append(c.nodes, n)
	return n
}

// all returns the nodes numbered 1 to k.
func (c *cluster) all(k int) (ns []*node) {
	c.Helper()
	for i := range k {
		ns = append(ns, c.node(i+1))
	}
	return ns
}

// blankVolume gives the node another, empty volume for its next run, and keeps the one it had.
func (n *node) blankVolume() {
	n.volume = fmt.Sprintf("%s-%d", n.container, len(n.volumes))
	n.volumes = append(n.volumes, n.volume)
}

func (n *node) args() []string {
	args := []string{
		"--label", label, "--hostname", n.host, "--network", n.cluster.name("net"), "--network-alias", n.host, "--ip", n.ip,
		"-v", n.volume + ":/var/lib/rabbitmq",
	}
	mounts, err := programs(n.image)
	if err != nil {
		n.Error(err)
	}
	args = append(args, mounts...)
	if !n.checked && !slices.Contains(n.flags, "--no-healthcheck") {
		args = append(args, "--health-interval", "20s")
	}
	for _, k := range slices.Sorted(maps.Keys(n.env)) {
		args = append(args, "-e", k+"="+n.env[k])
	}
	return append(append(append(args, n.flags...), n.image), n.command...)
}

// start starts the node: its container as it is, or a new one.
func (n *node) start() { n.Helper(); start(n) }

// start starts the nodes at the same moment.
func start(ns ...*node) {
	errs := make(chan error, len(ns))
	for _, n := range ns {
		go func() { errs <- n.tryStart() }()
	}
	var err error
	for range ns {
		err = errors.Join(err, <-errs)
	}
	if err != nil {
		ns[0].Helper()
		ns[0].Fatal(err)
	}
}

func (n *node) tryStart() error {
	n.began = time.Now()
	if _, err := try("inspect", n.container); err == nil {
		_, err = try("start", n.container)
		return err
	}
	if _, err := try("volume", "create", "--label", label, n.volume); err != nil {
		return err
	}
	_, err := try(append([]string{
		"run", "-d", "--name", n.container, "--restart", "unless-stopped",
		"-p", fmt.Sprintf("127.0.0.1:%d:5672", n.amqpPort), "-p", fmt.Sprintf("127.0.0.1:%d:15690", n.httpPort),
	}, n.args()...)...)
	return err
}

// attempt runs the node once to its end, as for what must be refused, and returns its exit status and output.
func (n *node) attempt() (status int, out string) {
	n.Helper()
	n.docker("volume", "create", "--label", label, n.volume)
	ctx, cancel := context.WithTimeout(context.Background(), slow(90*time.Second))
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker", append([]string{"run", "--rm", "--name", n.container}, n.args()...)...)
	b, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		_, _ = try("rm", "-fv", n.container)
		n.Errorf("%s did not end:\n%s", n.host, b)
		return -1, string(b)
	case err != nil && !errors.As(err, &exit):
		n.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(b)
}

func (n *node) stop() { n.Helper(); stop(n) }

func (n *node) kill() { n.Helper(); kill(n) }

func (n *node) rm() {
	n.Helper()
	if _, err := try("rm", "-f", n.container); err != nil { // it ended just then
		n.docker("rm", "-f", n.container)
	}
}

func (n *node) wipe() { n.Helper(); wipe(n) }

// stop and kill end the nodes at the same moment.
func stop(ns ...*node) { ns[0].Helper(); together(ns, "stop", "-t", "120") }

func kill(ns ...*node) { ns[0].Helper(); together(ns, "kill") }

// wipe removes the containers, running or not, and their data; the next start is on an empty volume.
func wipe(ns ...*node) {
	ns[0].Helper()
	together(ns, "rm", "-f")
	volumes := []string{"volume", "rm"}
	for _, n := range ns {
		volumes = append(volumes, n.volume)
	}
	ns[0].docker(volumes...)
}

func together(ns []*node, command ...string) {
	ns[0].Helper()
	for _, n := range ns {
		command = append(command, n.container)
	}
	ns[0].docker(command...)
}

// cut takes the node off the network, join puts it back where it was.
func (n *node) cut() {
	n.Helper()
	n.docker("network", "disconnect", n.cluster.name("net"), n.container)
}

func (n *node) join() {
	n.Helper()
	n.docker("network", "connect", "--ip", n.ip, "--alias", n.host, n.cluster.name("net"), n.container)
}

func (n *node) exec(argv ...string) string {
	n.Helper()
	return n.docker(append([]string{"exec", n.container}, argv...)...)
}

func (n *node) tryExec(argv ...string) (string, error) {
	return try(append([]string{"exec", n.container}, argv...)...)
}

func (n *node) ctl(argv ...string) string {
	n.Helper()
	return n.exec(append([]string{"rabbitmqctl", "-q"}, argv...)...)
}

func (n *node) log() string {
	out, _ := exec.Command("docker", "logs", n.container).CombinedOutput()
	return string(out)
}

// said waits until the node's log since its last start has a line that matches, and returns it.
func (n *node) said(d time.Duration, pattern string) string {
	n.Helper()
	d = slow(d)
	re := regexp.MustCompile(pattern)
	began := time.Now()
	for time.Since(began) < d { // the log that is followed ends when the container does
		ctx, cancel := context.WithDeadline(context.Background(), began.Add(d))
		line, err := n.follow(ctx, re)
		cancel()
		if err != nil {
			n.Fatal(err)
		}
		if line != "" {
			return line
		}
		time.Sleep(200 * time.Millisecond)
	}
	n.Fatalf("not within %s: %s says %q", d, n.host, pattern)
	return ""
}

// follow returns the first line that matches, or "" when the log or ctx ends.
func (n *node) follow(ctx context.Context, re *regexp.Regexp) (string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	cmd := exec.CommandContext(ctx, "docker", "logs", "--follow", "--since", n.began.Format(time.RFC3339Nano), n.container)
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	w.Close()
	if err != nil {
		return "", err
	}
	defer cmd.Wait()
	defer cancel()
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if re.Match(lines.Bytes()) {
			return lines.Text(), nil
		}
	}
	return "", nil
}

// A view is what `status --json` says.
type view struct {
	Node      string    `json:"node"`
	Role      string    `json:"role"`
	Status    string    `json:"status"`
	Reason    string    `json:"reason"`
	ClusterID string    `json:"cluster_id"`
	Members   []string  `json:"members"`
	Running   []string  `json:"running"`
	Since     time.Time `json:"since"`
	Beat      time.Time `json:"last_beat"`
	Companion int       `json:"companion_pid"`
}

func (n *node) view() (v view, err error) {
	out, err := n.tryExec("sh", "-c", "rmq-entrypoint status --json || [ $? = 1 ]") // 1: it is not fit
	if err != nil {
		return v, fmt.Errorf("%w: %s", err, out)
	}
	return v, json.Unmarshal([]byte(out), &v)
}

// companions returns the companions' PIDs inside the container, and fails if one runs as root.
func (n *node) companions() (pids []string) {
	n.Helper()
	out := n.exec("sh", "-c", `for p in /proc/[0-9]*; do
		[ "$(cat $p/comm 2>/dev/null)" = rmq-entrypoint ] || continue
		case $(tr '\0' ' ' <$p/cmdline 2>/dev/null) in *" companion "*) uid=$(sed -n "s/^Uid:\t\([0-9]*\).*/\1/p" $p/status) && [ "$uid" ] && echo ${p#/proc/} $(id -un $uid);; esac
	done`)
	for line := range strings.Lines(out) {
		pid, user, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			continue // ended meanwhile
		}
		if user != "rabbitmq" {
			n.Errorf("a companion of %s runs as %s", n.host, user)
		}
		pids = append(pids, pid)
	}
	return pids
}

// A status is what RabbitMQ on one node knows of its cluster, sorted.
type status struct{ disk, running, partitions []string }

// statusExpr asks each of the nodes itself. rabbitmqctl cluster_status says the same, but a call costs more than a
// second of CPU, and there would be hundreds.
const statusExpr = `[Kind, Me | Nodes] = init:get_plain_arguments(),
{ok, _} = net_kernel:start([list_to_atom(Me), list_to_atom(Kind)]),
Ask = fun(N, M, F) -> rpc:call(N, M, F, [], 10000) end,
Any = fun(N, [{M, F} | More]) -> case Ask(N, M, F) of L when is_list(L) -> L; _ -> hd([Ask(N, M2, F2) || {M2, F2} <- More]) end end,
Join = fun(L) -> string:join([atom_to_list(A) || A <- L], ",") end,
try
  [begin
    N = list_to_atom(Node),
    Partitions = case Ask(N, rabbit_node_monitor, partitions) of {badrpc, {'EXIT', {undef, _}}} -> []; P -> P end,
    io:format("status|~s|~s|~s|~s|~n", [N, Join(Any(N, [{rabbit_nodes, list_members}, {rabbit_nodes, all}])),
      Join(Any(N, [{rabbit_nodes, list_running}, {rabbit_nodes, all_running}])), Join(Partitions)])
  end || Node <- Nodes], halt(0)
catch _:Why -> io:format(standard_error, "~0p~n", [Why]), halt(1)
end.`

// statuses asks the nodes, from inside the first one's container.
func statuses(nodes ...*node) (map[string]status, error) {
	kind := "shortnames"
	if strings.Contains(nodes[0].host, ".") {
		kind = "longnames"
	}
	argv := []string{"erl", "+S", "1:1", "-noinput", "-hidden", "-eval", statusExpr, "-extra", kind, fmt.Sprintf("test-%d", rand.IntN(10000))}
	for _, n := range nodes {
		argv = append(argv, n.name)
	}
	out, err := nodes[0].tryExec(argv...)
	if err != nil {
		return nil, err
	}
	list := func(s string) []string {
		l := strings.FieldsFunc(s, func(r rune) bool { return r == ',' })
		slices.Sort(l)
		return l
	}
	m := map[string]status{}
	for line := range strings.Lines(out) {
		if f := strings.Split(line, "|"); f[0] == "status" && len(f) == 6 {
			m[f[1]] = status{list(f[2]), list(f[3]), list(f[4])}
		}
	}
	if len(m) != len(nodes) {
		return nil, fmt.Errorf("the nodes said %q", out)
	}
	return m, nil
}

func (n *node) status() (status, error) {
	m, err := statuses(n)
	return m[n.name], err
}
