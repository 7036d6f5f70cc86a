package main

import (
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

// epmd answers as the real one does for the nodes that it lists, until the test ends. It
// returns its port.
func epmd(t *testing.T, listed ...string) (port string) {
	t.Helper()
	return listener(t, func(conn net.Conn) {
		var head [3]byte
		if _, err := io.ReadFull(conn, head[:]); err != nil || head[2] != 122 {
			return
		}
		name := make([]byte, binary.BigEndian.Uint16(head[:])-1)
		if _, err := io.ReadFull(conn, name); err != nil {
			return
		}
		answer := []byte{119, 1}
		if slices.Contains(listed, string(name)) {
			answer = []byte{119, 0, 0x64, 0x48, 77, 0, 0, 6, 0, 5, 0, byte(len(name))}
		}
		_, _ = conn.Write(answer)
	})
}

// listener serves each connection on the loopback with do, and returns the port.
func listener(t *testing.T, do func(net.Conn)) (port string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	expect.Must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer conn.Close(); do(conn) }()
		}
	}()
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}

// closed returns a port on which nobody listens.
func closed(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	expect.Must(t, err)
	expect.Must(t, l.Close())
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// TestMain lets the test binary stand in for the programs of a container: under
// the name rmq-entrypoint it is that program, companion included, and under the
// name rabbitmq-server it is a server that does as a test tells it.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "rmq-entrypoint":
		main()
		return
	case "rabbitmq-server":
		os.Exit(playServer())
	}
	_ = flag.Set("test.parallel", "16") // scenarios wait far more than they work
	os.Exit(m.Run())
}

const (
	testTTL  = 10 * time.Second // Consul's least
	testBeat = testTTL / 3

	soon = expect.Soon      // ends a hang
	late = 10 * time.Second // what a busy machine adds to a time that is promised
)

// ctlScript is rabbitmqctl and its like: it notes how it was called, and what it
// knows of a node's cluster is in the file view of that node.
const ctlScript = `#!/bin/sh
node=$3
shift 3
dir=$RMQ_TEST_ROOT/$node
echo "$node $*" | tr '\n' ' ' >>"$RMQ_TEST_DIR/ctl"
echo >>"$RMQ_TEST_DIR/ctl"
ls -l /proc/$$/fd/ | sed -n 's/.*-> //p' >>"$RMQ_TEST_DIR/ctl.files"
hosts=$RABBITMQ_DATA_DIR/mnesia/$RABBITMQ_NODENAME-entrypoint/hosts
echo "$node ${ERL_INETRC:-none} $(grep -v '^#' "$hosts" 2>/dev/null | tr '\n' ';')" >>"$RMQ_TEST_DIR/ctl.hosts"
case "$*" in
*persistent_cluster_id*) [ ! -e "$dir/deaf" ] || { sleep "$(cat "$dir/deaf")"; echo 'Error: it does not let this one in' >&2; exit 1; }
    [ -e "$dir/view" ] || exit 69; if [ -e "$dir/drained" ]; then grep -v '^listener' "$dir/view"; else cat "$dir/view"; fi; echo "pauses|$(cat "$dir/pauses" 2>/dev/null || echo false)|" ;;
*'cluster_partition_handling, Mode'*) case "$*" in *'Mode = pause_minority'*) echo true ;; *) echo false ;; esac >"$dir/pauses" ;;
*ha-mode*) cat "$dir/mirror"
    if [ -e "$dir/mirror.exit" ]; then exit "$(cat "$dir/mirror.exit")"; fi
    echo "$*" | tr '\n' ' ' >>"$dir/mirrored"
    echo >>"$dir/mirrored" ;;
*'queues|'*) echo "queues|$(cat "$dir/queues" 2>/dev/null || echo 0)|" ;;
*'list_down(VH)'*) cat "$dir/lost" 2>/dev/null || : ;;
join_cluster*) exec mv "$dir/view.joined" "$dir/view" ;;
*ra:transfer_leadership*) cat "$dir/move" 2>/dev/null; mv "$dir/move.next" "$dir/move" 2>/dev/null || : ;;
*is_being_drained*) echo "maintenance|$(cat "$dir/drained" 2>/dev/null || echo false)|" ;;
*mark_as_being_drained*) echo true >"$dir/drained" ;;
drain) [ ! -e "$dir/drain.refused" ] && echo true >"$dir/drained" ;;
revive) rm -f "$dir/drained" ;;
check_if_node_is_*) [ ! -e "$dir/$*" ] || { printf 'Error:\n%s\n' "$(cat "$dir/$*")" >&2; exit 69; } ;;
stop_app) kill -USR1 "$(cat "$dir/pid")" ;;
start_app) kill -USR2 "$(cat "$dir/pid")" ;;
forget_cluster_node*) [ ! -e "$dir/forget.refused" ] && sed -i "s/,$2//g; s/$2,//g" "$dir/view" ;;
*init:stop*) kill -TERM "$(cat "$dir/pid")" ;;
esac
`

// A world is what the nodes of one test share: a service in Consul, programs on
// PATH, and a directory that an unprivileged user owns. When the test ends, none
// of its processes may be left.
type world struct {
	t       testing.TB
	consul  *consultest.Consul
	service string
	root    string
}

func newWorld(t testing.TB, c *consultest.Consul) *world {
	t.Helper()
	root, err := os.MkdirTemp("", "rmq") // shorter than t.TempDir: a socket's path takes 107 characters
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, consul: c, service: fmt.Sprintf("s%08x", rand.Uint32()), root: root}
	t.Cleanup(func() {
		w.endProcesses()
		if t.Failed() {
			w.printLogs()
		}
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(root, "bin")
	expect.Must(t, os.Mkdir(bin, 0o755))
	for _, name := range []string{"rmq-entrypoint", "rabbitmq-server"} {
		if err := os.Link(self, filepath.Join(bin, name)); err != nil { // another file system
			b, err := os.ReadFile(self)
			expect.Must(t, err)
			expect.Must(t, os.WriteFile(filepath.Join(bin, name), b, 0o755))
		}
	}
	for _, name := range []string{"rabbitmqctl", "rabbitmq-queues", "rabbitmq-upgrade"} {
		expect.Must(t, os.WriteFile(filepath.Join(bin, name), []byte(ctlScript), 0o755))
	}
	expect.Must(t, os.Chmod(root, 0o755))
	return w
}

// processes returns what runs in this world. Only the processes of its user are
// looked into: a foreign one may keep a reader waiting.
func (w *world) processes(name string) (pids []int) {
	found, _ := filepath.Glob("/proc/[0-9]*/status")
	for _, path := range found {
		status, _ := os.ReadFile(path) // gone meanwhile
		if !strings.Contains(string(status), fmt.Sprintf("\nUid:\t%d\t", testUID())) {
			continue
		}
		argv, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline")) // of a zombie: empty
		env, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "environ"))  // of our own program: not to be read
		if !strings.Contains(string(argv), w.root) && !slices.Contains(strings.Split(string(env), "\x00"), "RMQ_TEST_ROOT="+w.root) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil && strings.Contains(string(argv), name) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// companions returns the companions that run in this world.
func (w *world) companions() []int { return w.processes("\x00companion\x00") }

// endProcesses kills what is not a companion: those have to notice by themselves.
func (w *world) endProcesses() {
	w.t.Helper()
	left := []int{}
	for deadline := time.Now().Add(soon); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if left = w.processes(""); len(left) == 0 {
			return
		}
		companions := w.companions()
		for _, pid := range left {
			if !slices.Contains(companions, pid) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
	for _, pid := range left {
		argv, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		w.t.Errorf("process %d outlived its server: %q", pid, argv)
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

func (w *world) printLogs() {
	logs, _ := filepath.Glob(filepath.Join(w.root, "*", "log"))
	for _, path := range logs {
		b, _ := os.ReadFile(path)
		w.t.Logf("%s of %s:\n%s", w.service, filepath.Base(filepath.Dir(path)), b)
	}
}

// sessions counts the lock's in Consul.
func (w *world) sessions() (count int) {
	w.t.Helper()
	all, _, err := w.consul.Client.Session().List(&api.QueryOptions{RequireConsistent: true})
	expect.Must(w.t, err)
	for _, s := range all {
		if strings.Contains(s.Name, "/"+w.service+"/lock") {
			count++
		}
	}
	return count
}

func (w *world) lockKey() string { return "rmq-entrypoint/" + w.service + "/lock" }

func (w *world) recordKey() string { return "rmq-entrypoint/" + w.service + "/cluster" }

func (w *world) record() peers.Record {
	w.t.Helper()
	r, _, err := peers.ReadRecord(w.t.Context(), w.consul.Client, w.recordKey())
	expect.Must(w.t, err)
	return r
}

// putRecord replaces the record.
func (w *world) putRecord(r peers.Record) {
	w.t.Helper()
	b, err := json.Marshal(r)
	expect.Must(w.t, err)
	_, err = w.consul.Client.KV().Put(&api.KVPair{Key: w.recordKey(), Value: b}, nil)
	expect.Must(w.t, err)
}

// formed is the record of a cluster that serves.
func formed(cluster string, members map[string]string) peers.Record {
	return peers.Record{State: peers.Formed, ClusterID: cluster, Claim: "c0", Seed: "somebody@else", Since: time.Now().Add(-time.Hour), Members: members}
}
