package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/companion"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/expect"
)

// A node is what a container would be: a volume, addresses, an environment.
type node struct {
	*world
	name string // rabbit@localhost
	dir  string
	ip   string
	env  []string

	cmd   *exec.Cmd
	ended chan struct{} // closed once cmd has been waited for
}

// node makes a node with a blank volume; env is added to its environment.
func (w *world) node(name string, env ...string) *node {
	w.t.Helper()
	n := &node{world: w, name: name, dir: filepath.Join(w.root, name), ip: expect.Loopback(w.t)}
	for _, dir := range []string{n.dir, n.volume("")} {
		expect.Must(w.t, os.Mkdir(dir, 0o755))
	}
	n.env = append([]string{
		"PATH=" + filepath.Join(w.root, "bin") + ":/usr/bin:/bin", "RMQ_TEST_ROOT=" + w.root, "RMQ_TEST_DIR=" + n.dir,
		"RABBITMQ_DATA_DIR=" + n.volume(""), "RABBITMQ_NODENAME=" + name, "RABBITMQ_VERSION=4.0.5", "RABBITMQ_ERLANG_COOKIE=crumbs-of-a-cookie-for-all",
		"RABBITMQ_CONFIG_FILE=" + n.path("rabbitmq"), "RABBITMQ_CONFIG_FILES=" + n.path("conf.d"), "RABBITMQ_ADVANCED_CONFIG_FILE=" + n.path("advanced.config"),
		"RMQ_SERVICE=" + w.service, "RMQ_TTL=" + testTTL.String(), "RMQ_ADVERTISE=" + n.ip,
		"RMQ_TEST_AMQP=amqp://" + n.ip + ":5672", "RMQ_HTTP=" + n.ip + ":15690", "RMQ_ADMIN=off", "RMQ_AMQP_URL=amqp://alice:wonder@" + n.ip + ":5672",
	}, env...)
	if w.consul != nil {
		n.env = append([]string{"CONSUL_HTTP_ADDR=" + w.consul.Addr, "RMQ_DNS_SERVER=" + w.consul.DNSAddr}, n.env...)
	}
	n.own()
	return n
}

func (n *node) path(name string) string { return filepath.Join(n.dir, name) }

func (n *node) volume(name string) string { return filepath.Join(n.dir, "v", name) }

func (n *node) data(name string) string { return n.volume(filepath.Join("mnesia", n.name, name)) }

func (n *node) state(name string) string {
	return n.volume(filepath.Join("mnesia", n.name+"-entrypoint", name))
}

// own gives what the test wrote to the user the node runs as. Run by root, this
// program would step down to a user that a test machine does not have.
func (n *node) own() {
	n.t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	expect.Must(n.t, filepath.WalkDir(n.dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, nobody, nobody)
	}))
}

const nobody = 65534

func testUID() uint32 {
	if uid := os.Geteuid(); uid != 0 {
		return uint32(uid)
	}
	return nobody
}

// put writes a file that the node can read.
func (n *node) put(path string, content any) {
	n.t.Helper()
	b, ok := content.(string)
	if !ok {
		j, err := json.Marshal(content)
		expect.Must(n.t, err)
		b = string(j)
	}
	expect.Must(n.t, os.MkdirAll(filepath.Dir(path), 0o755))
	expect.Must(n.t, os.WriteFile(path+".part", []byte(b), 0o644))
	n.own()
	expect.Must(n.t, os.Rename(path+".part", path))
}

// hasData makes the volume that of a node whose database is initialised.
func (n *node) hasData(m *statedir.Marker) {
	n.t.Helper()
	n.put(n.data("schema.DAT"), "")
	if m != nil {
		n.put(n.state("member"), m)
	}
}

// sees says what RabbitMQ on this node knows of its cluster; all members run.
func (n *node) sees(cluster string, members ...string) {
	n.t.Helper()
	all := strings.Join(members, ",")
	n.put(n.path("view"), fmt.Sprintf("view|%s|%s|%s||false|\n", cluster, all, all))
	n.listens()
}

// listens has RabbitMQ say where it takes connections, for as long as it is not drained.
func (n *node) listens() {
	n.t.Helper()
	view, err := os.ReadFile(n.path("view"))
	expect.Must(n.t, err)
	n.put(n.path("view"), fmt.Sprintf("%slistener|amqp|%s|5672|false|\n", view, n.ip))
}

// command returns `rmq-entrypoint args...` in this node.
func (n *node) command(args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(n.root, "bin", "rmq-entrypoint"), args...)
	cmd.Env, cmd.Dir = n.env, n.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	return cmd
}

// start starts the node: args are rmq-entrypoint's.
func (n *node) start(args ...string) {
	n.t.Helper()
	// A file, not a pipe: Wait on a pipe would wait for the companion, too.
	log, err := os.OpenFile(n.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	expect.Must(n.t, err)
	defer func() { _ = log.Close() }()
	n.own()
	cmd := n.command(args...)
	cmd.Stdout, cmd.Stderr = log, log
	expect.Must(n.t, os.RemoveAll(n.path("started")))
	expect.Must(n.t, cmd.Start())
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	n.cmd, n.ended = cmd, ended
}

// run runs a subcommand to its end.
func (n *node) run(args ...string) (out string, code int) {
	n.t.Helper()
	cmd := n.command(args...)
	b, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		n.t.Fatal(err)
	}
	return string(b), cmd.ProcessState.ExitCode()
}

// exit waits for the end of the node's first process and returns its status.
func (n *node) exit(within time.Duration) int {
	n.t.Helper()
	select {
	case <-n.ended:
	case <-time.After(within):
		n.t.Fatalf("%s still runs after %s", n.name, within)
	}
	return n.cmd.ProcessState.ExitCode()
}

// refused waits for an exit with status 1 that says all the words.
func (n *node) refused(within time.Duration, words ...string) {
	n.t.Helper()
	n.refusedWith(1, within, words...)
}

// refusedForGood waits for an exit that says that no restart would end otherwise.
func (n *node) refusedForGood(within time.Duration, words ...string) {
	n.t.Helper()
	n.refusedWith(78, within, words...)
}

func (n *node) refusedWith(status int, within time.Duration, words ...string) {
	n.t.Helper()
	if code := n.exit(within); code != status {
		n.t.Errorf("exit status %d, want %d", code, status)
	}
	expect.Says(n.t, n.log(), words...)
}

func (n *node) log() string {
	b, _ := os.ReadFile(n.path("log"))
	return string(b)
}

// logs waits until the log says something.
func (n *node) logs(words string) {
	n.t.Helper()
	expect.Eventually(n.t, soon, "log "+words, func() error {
		if !strings.Contains(n.log(), words) {
			return errors.New("not in the log")
		}
		return nil
	})
}

// started is what the server found when it began.
type started struct {
	PID  int
	Args []string
	Env  []string
}

// server waits until the node has become the server.
func (n *node) server(within time.Duration) (s started) {
	n.t.Helper()
	expect.Eventually(n.t, within, n.name+" becomes the server", func() error {
		select {
		case <-n.ended:
			n.t.Fatalf("%s ended with status %d instead of becoming the server", n.name, n.cmd.ProcessState.ExitCode())
		default:
		}
		b, err := os.ReadFile(n.path("started"))
		if err != nil {
			return err
		}
		return json.Unmarshal(b, &s)
	})
	return s
}

// tell makes the server do something: see playServer.
func (n *node) tell(order string) {
	n.t.Helper()
	answer, err := order1(n.path("orders"), order)
	if err != nil || answer != "done" {
		n.t.Fatalf("%s: %s: %q, %v", n.name, order, answer, err)
	}
}

func (n *node) kill(pid int) {
	n.t.Helper()
	expect.Must(n.t, syscall.Kill(pid, syscall.SIGKILL))
}

// report is what the companion says of the node.
func (n *node) report() (r companion.Report, err error) {
	return companion.Ask(n.t.Context(), n.state("status.sock"))
}

// reports waits until the companion gives the status, for a reason with the words.
func (n *node) reports(within time.Duration, status, words string) (r companion.Report) {
	n.t.Helper()
	expect.Eventually(n.t, within, "the companion of "+n.name+" says "+status+" "+words, func() (err error) {
		if r, err = n.report(); err != nil {
			return err
		}
		if r.Status != status || !strings.Contains(r.Reason, words) {
			return fmt.Errorf("%s: %s", r.Status, r.Reason)
		}
		return nil
	})
	return r
}

// ready returns what /ready answers.
func (n *node) ready() int {
	n.t.Helper()
	resp, err := http.Get("http://" + n.ip + ":15690/ready")
	expect.Must(n.t, err)
	expect.Must(n.t, resp.Body.Close())
	return resp.StatusCode
}

// status is the best of the node in the catalog, "" if it is not registered.
func (n *node) status(client *api.Client) (string, error) {
	entries, _, err := client.Health().Service(n.service, "", false, &api.QueryOptions{RequireConsistent: true})
	if err != nil {
		return "", err
	}
	status := ""
	for _, e := range entries { // one per agent, where it moved from one to another
		if e.Service.Meta["node"] == n.name && status != api.HealthPassing {
			status = e.Checks.AggregatedStatus()
		}
	}
	return status, nil
}

// registered waits for a status in the catalog, "" for none at all.
func (n *node) registered(within time.Duration, status string) {
	n.t.Helper()
	n.registeredAt(n.consul.Client, within, status)
}

func (n *node) registeredAt(client *api.Client, within time.Duration, status string) {
	n.t.Helper()
	expect.Eventually(n.t, within, fmt.Sprintf("%s is %q in Consul", n.name, status), func() error {
		got, err := n.status(client)
		if err == nil && got != status {
			err = fmt.Errorf("it is %q", got)
		}
		return err
	})
}

// neighbour registers a member that passes, for as long as the test lasts, and
// that answers.
func (w *world) neighbour(name, cluster string, members ...string) *node {
	w.t.Helper()
	n := w.node(name)
	n.sees(cluster, members...)
	r := peers.Registration{Service: w.service, Node: name, Address: n.ip, Port: 5672, TTL: time.Hour, DeregisterAfter: time.Hour, ClusterID: cluster}
	expect.Must(w.t, peers.Announce(w.t.Context(), w.consul.Client, r, peers.Starting, ""))
	expect.Must(w.t, peers.Report(w.t.Context(), w.consul.Client, r, api.HealthPassing, ""))
	return n
}

// serves makes a blank node a verified member: an adopted volume, for that takes
// a second where founding takes a beat and more.
func (n *node) serves() started {
	n.t.Helper()
	n.hasData(nil)
	n.start()
	s := n.server(soon)
	n.sees("id-of-"+n.service, n.name)
	n.tell("amqp up")
	n.tell("notify READY=1")
	n.registered(soon, api.HealthPassing)
	n.reports(soon, api.HealthPassing, "")
	return s
}
