package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/expect"
)

// stop_app, a pause in a minority and docker stop say the same words; READY
// brings the node back, verified anew. The marker says then that it served until the stop.
func testStopAndReadyAgain(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.serves()
	stopped := time.Now()
	n.tell("notify STOPPING=1")
	n.registered(soon, "")
	expect.Eventually(t, soon, "the volume says when it stopped", func() error {
		if m, err := statedir.Of(config.Config{StateDir: n.state("")}).Marker(); err != nil || m.At.Before(stopped) {
			return fmt.Errorf("%+v, %w", m, err)
		}
		return nil
	})
	n.tell("amqp down")
	n.reports(soon, api.HealthCritical, "stopping")
	expect.Consistently(t, testBeat+time.Second, "a stopped node stays out", func() error {
		status, err := n.status(w.consul.Client)
		if err == nil && status != "" {
			err = fmt.Errorf("it is %q", status)
		}
		return err
	})
	verified := strings.Count(n.log(), "verified: this node")
	n.tell("amqp up")
	n.tell("notify READY=1")
	n.registered(soon, api.HealthPassing)
	if got := strings.Count(n.log(), "verified: this node") - verified; got != 1 { // each costs seconds of RabbitMQ's command line
		t.Errorf("verified %d times, want once", got)
	}

	n.tell("notify STOPPING=1")
	n.registered(soon, "")
	n.sees("id-of-another", n.name, "another@localhost")
	n.tell("notify READY=1")
	n.reports(soon, api.HealthCritical, "SPLIT")
	n.registered(soon, api.HealthCritical)
}

// RabbitMQ is asked what it does in a minority: with start_app it has read its files again.
func testPauseMinorityIsReadBack(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	pauses := func(want string) {
		t.Helper()
		expect.Eventually(t, soon, "RabbitMQ pauses in a minority: "+want, func() error {
			if b, err := os.ReadFile(n.path("pauses")); err != nil || strings.TrimSpace(string(b)) != want {
				return fmt.Errorf("%q, %w", b, err)
			}
			return nil
		})
	}
	n.put(n.path("pauses"), "true\n") // by its file, and the cluster has one member
	n.serves()
	pauses("false")
	n.tell("notify STOPPING=1")
	n.tell("amqp down")
	n.put(n.path("pauses"), "true\n")
	n.tell("amqp up")
	n.tell("notify READY=1")
	n.registered(soon, api.HealthPassing)
	pauses("false")
}

// unheardIn is how long it takes at most until a server that serves and was not heard to say so is verified.
const unheardIn = 4*testBeat + late

// AMQP that answers, on a node that RabbitMQ lists as running, serves: READY is one datagram, and may be lost.
func testReadyLost(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.hasData(nil)
	n.start()
	n.server(soon)
	n.put(n.path("view"), fmt.Sprintf("view|id-of-%s|%s|||false|\n", n.service, n.name)) // it boots
	n.tell("amqp up")
	expect.Consistently(t, 3*testBeat, "not before RabbitMQ lists it", func() error {
		r, err := n.report()
		if err == nil && (r.Ready() || strings.Contains(n.log(), "READY was not heard")) {
			err = fmt.Errorf("%s: %s", r.Status, r.Reason)
		}
		return err
	})
	n.sees("id-of-"+n.service, n.name)
	n.reports(unheardIn, api.HealthPassing, "")
	n.registered(testBeat+late, api.HealthPassing)
	expect.Says(t, n.log(), "READY was not heard", "verified: this node is a member")
	n.tell("notify STOPPING=1") // and is heard when it stops
	n.registered(soon, "")
}

// A joiner whose READY was lost has joined: the join timeout does not end it.
func testReadyOfJoinerLost(t *testing.T, w *world) {
	w.putRecord(formed("id-1", map[string]string{"b@localhost": "vb"}))
	w.neighbour("b@localhost", "id-1", "b@localhost")
	n := w.node("a@localhost", "RMQ_JOIN_TIMEOUT="+(6*testBeat+late).String())
	n.start()
	n.server(soon)
	n.sees("id-1", "a@localhost", "b@localhost")
	n.tell("amqp up")
	n.reports(unheardIn, api.HealthPassing, "")
	if r := n.reports(soon, api.HealthPassing, ""); r.Role != statedir.Member {
		t.Errorf("it is a %s", r.Role)
	}
}

// A listener that closed with "shutdown" and is back: RabbitMQ did not stop.
func testListenerRestarts(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.serves()
	for i := range 2 {
		n.tell("amqp 320")
		n.tell("amqp up")
		n.registered(soon, "")
		n.registered(unheardIn, api.HealthPassing)
		n.reports(soon, api.HealthPassing, "")
		// On a busy machine it is out of Consul for longer than the TTL, and verified anew for that.
		lapsed := strings.Count(n.log(), "no heartbeat reached Consul for longer than the TTL")
		if got := strings.Count(n.log(), "verified: this node"); got < i+2 || got > i+2+lapsed {
			t.Errorf("verified %d times, want %d; its check lapsed %d times", got, i+2, lapsed)
		}
	}
	// One that stops is not taken for one that serves, though it answers to the last.
	n.put(n.path("view"), fmt.Sprintf("view|id-of-%s|%s|||false|\n", n.service, n.name))
	n.tell("notify STOPPING=1")
	n.registered(soon, "")
	expect.Consistently(t, 4*testBeat, "it stays out", func() error {
		if r, err := n.report(); err != nil || r.Ready() {
			return fmt.Errorf("%s: %s, %w", r.Status, r.Reason, err)
		}
		return nil
	})
}

func testStatusAfterReady(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.serves()
	n.tell("notify STATUS=Standing by")
	n.registered(soon, "")
	n.reports(soon, api.HealthCritical, "Standing by")
}

func testAMQPShutdown(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.serves()
	n.tell("amqp 320")
	n.registered(soon, "")
}

// The server's end is the companion's, however it came.
func testServerEnds(t *testing.T, w *world) {
	for name, end := range map[string]func(n *node, s started){
		"SIGTERM": func(n *node, s started) { expect.Must(n.t, syscall.Kill(s.PID, syscall.SIGTERM)) },
		"SIGKILL": func(n *node, s started) { n.kill(s.PID) },
		"exit":    func(n *node, _ started) { n.tell("exit") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, w.consul)
			n := w.node("rabbit@localhost")
			s := n.serves()
			end(n, s)
			n.registered(soon, "")
			n.exit(soon)
			n.companionEnds()
			if out, code := n.run("healthcheck"); code != 1 || !strings.Contains(out, "gone") {
				t.Errorf("healthcheck of a dead server: %d, %q", code, out)
			}
			if left := w.companions(); len(left) > 0 {
				t.Errorf("the health check started %v for a dead server", left)
			}
		})
	}
}

// RabbitMQ listens elsewhere than its files say: the check and the entry go there, the seed's
// cluster is announced, and a companion that is replaced knows it, too.
func testListensElsewhere(t *testing.T, w *world) {
	n := w.node("rabbit@localhost", "RMQ_AMQP_URL=")
	n.env = append(n.env, "RMQ_TEST_AMQP=amqp://"+n.ip+":5999", "RABBITMQ_NODE_PORT="+closed(t))
	n.put(n.path("rabbitmq.conf"), "default_user = walter\ndefault_pass = w4lt3r\n")
	n.start()
	n.server(soon)
	n.put(n.path("view"), fmt.Sprintf("view|id|%s|%[1]s||false|\nlistener|amqp|%s|5999|false|\n", n.name, n.ip))
	n.tell("amqp up")
	n.tell("notify READY=1")
	n.registered(soon, api.HealthPassing)
	expect.Says(t, n.reports(soon, api.HealthPassing, "").Reason, n.ip+":5999")
	expect.Eventually(t, soon, "its port is registered", func() error {
		all, _, err := w.consul.Client.Catalog().Service(w.service, "", &api.QueryOptions{RequireConsistent: true})
		if err == nil && (len(all) != 1 || all[0].ServicePort != 5999) {
			err = fmt.Errorf("%+v", all[0])
		}
		return err
	})
	n.kill(w.companions()[0])
	expect.Must(t, os.Remove(n.path("login")))
	expect.Eventually(t, soon, "another companion", func() error { return w.replaced(n) })
	expect.Says(t, n.reports(soon, api.HealthPassing, "").Reason, n.ip+":5999")
	login, err := os.ReadFile(n.path("login"))
	if expect.Must(t, err); !strings.Contains(string(login), "\x00walter\x00w4lt3r") {
		t.Errorf("it logged in with %q", login)
	}
	file, err := os.ReadFile(n.state("runtime.json"))
	if expect.Must(t, err); strings.Contains(string(file), "w4lt3r") {
		t.Error("the runtime file holds a password")
	}
}

// A check that does not get in where RabbitMQ listens is a warning, for a seed too: its cluster
// is announced. A companion that is replaced knows where RabbitMQ listens.
func testShutOut(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.start()
	n.server(soon)
	n.put(n.path("view"), fmt.Sprintf("view|id|%s|%[1]s||false|\nlistener|amqp|%s|5672|false|\n", n.name, n.ip))
	n.tell("amqp shut")
	n.tell("notify READY=1")
	n.registered(soon, api.HealthWarning)
	expect.Says(t, n.reports(soon, api.HealthWarning, "").Reason, "RMQ_AMQP_URL", "proxy_protocol")
	if r := w.record(); r.State != peers.Formed {
		t.Errorf("the record is %+v", r)
	}
	n.kill(w.companions()[0])
	expect.Eventually(t, soon, "another companion", func() error { return w.replaced(n) })
	n.reports(soon, api.HealthWarning, "proxy_protocol")
}

// Out of file descriptors a companion knows as little as before, and its server runs: it
// stays, and ends with it.
func testOutOfDescriptors(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	s := n.serves()
	companion := w.companions()[0]
	limit := exec.Command("prlimit", "--pid", fmt.Sprint(companion), "--nofile=3")
	limit.SysProcAttr = n.command().SysProcAttr // its own user may, and root of a container may not
	if out, err := limit.CombinedOutput(); err != nil {
		t.Fatalf("%s, %v", out, err)
	}
	expect.Consistently(t, 2*time.Second, "the companion stays", func() error {
		if now := w.companions(); len(now) != 1 || now[0] != companion {
			return fmt.Errorf("companions %v, was %d", now, companion)
		}
		return nil
	})
	if strings.Contains(n.log(), "the server is gone") {
		t.Error("it took its server for gone")
	}
	n.kill(s.PID)
	n.companionEnds()
}

// What the companion runs inherits nothing of its own: an orphan of RabbitMQ's command line would
// keep the lock that says who is the companion, and the next one could not start.
func testCommandsInheritNothing(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.serves()
	b, err := os.ReadFile(n.path("ctl.files"))
	expect.Must(t, err)
	held := strings.Fields(string(b))
	if !slices.Contains(held, "/dev/null") {
		t.Fatalf("what a command has open is not seen: %q", held)
	}
	for _, file := range held {
		if strings.HasPrefix(file, n.volume("")) || strings.HasPrefix(file, "socket:") {
			t.Errorf("a command inherited %s", file)
		}
	}
}

// A companion to which nobody hands an environment ends, though a server's runtime file is there:
// whoever started it has ended before it was to begin.
func testStandbyEnds(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.serves()
	r, hand, err := os.Pipe()
	expect.Must(t, err)
	held, err := os.Open(n.state(statedir.CompanionLock))
	expect.Must(t, err)
	cmd := n.command("companion", "--state-dir", n.state(""))
	cmd.Env = append(cmd.Env, "RMQ_ENTRYPOINT_ENVIRONMENT=1")
	hand.Close()
	cmd.ExtraFiles = []*os.File{os.Stderr, held, r}
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "nobody handed an environment over") {
		t.Errorf("%v: %s", err, out)
	}
}

// With RMQ_HOSTS the companion of a seed has a lock and a hosts file to keep, and ends all
// the same when its server does before the cluster is announced.
func testSeedWithHostsEnds(t *testing.T, w *world) {
	n := w.node("rabbit@here.invalid", "RABBITMQ_USE_LONGNAME=true", "RMQ_HOSTS=consul")
	n.start()
	s := n.server(soon)
	if w.sessions() != 1 {
		t.Fatalf("%d sessions, want the seed's", w.sessions())
	}
	n.kill(s.PID)
	n.exit(soon)
	n.companionEnds()
	if w.sessions() != 0 {
		t.Error("the session of its lock lives on")
	}
	f, err := statedir.TryLock(filepath.Dir(n.state("any")), statedir.CompanionLock)
	expect.Must(t, err)
	expect.Must(t, f.Close())
}

// companionEnds waits for the end of the companion, in seconds.
func (n *node) companionEnds() {
	n.t.Helper()
	expect.Eventually(n.t, late, "the companion ends", func() error {
		if left := n.companions(); len(left) > 0 {
			return fmt.Errorf("%v is there", left)
		}
		return nil
	})
}

// One missed check says nothing, the second one does, and the node comes back.
func testTwoMisses(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.serves()
	n.tell("amqp down")
	n.reports(2*testBeat+late, api.HealthPassing, "passing until a second check fails")
	n.registered(0, api.HealthPassing)
	n.registered(2*testBeat+late, api.HealthCritical)
	n.tell("amqp up")
	n.registered(2*testBeat+late, api.HealthPassing)
}

// replaced has a health check start the companion again.
func (w *world) replaced(n *node) error {
	if out, code := n.run("healthcheck"); code != 0 {
		return errors.New(out)
	}
	if len(w.companions()) != 1 {
		return fmt.Errorf("companions: %v", w.companions())
	}
	return nil
}

// A companion that was killed is replaced by the next health check, once, however
// many of them run, and the registration stays.
func testCompanionKilled(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	s := n.serves()
	for range 2 { // a replaced one can be replaced, too
		was := w.companions()
		if len(was) != 1 {
			t.Fatalf("companions %v, want one", was)
		}
		n.kill(was[0])
		expect.Eventually(t, soon, "the killed one has left its held", func() error { // a check that comes earlier finds it alive
			f, err := statedir.TryLock(filepath.Dir(n.state("any")), statedir.CompanionLock)
			if err == nil {
				err = f.Close()
			}
			return err
		})
		var checks sync.WaitGroup
		for range 5 {
			checks.Go(func() {
				if out, code := n.run("healthcheck"); code != 0 {
					t.Errorf("healthcheck: %d, %q", code, out)
				}
			})
		}
		checks.Wait()
		if now := w.companions(); len(now) != 1 || now[0] == was[0] {
			t.Fatalf("companions %v, was %v: want one new one", now, was)
		}
		n.registered(0, api.HealthPassing)
		r := n.reports(soon, api.HealthPassing, "")
		if r.PID != s.PID || r.Companion == was[0] || r.Role != statedir.Member {
			t.Errorf("the new companion says %+v", r)
		}
	}
	expect.Consistently(t, testTTL+testBeat, "the registration is kept", func() error {
		status, err := n.status(w.consul.Client)
		if err == nil && status != api.HealthPassing {
			err = fmt.Errorf("it is %q", status)
		}
		return err
	})
	expect.Says(t, n.log(), "a health check starts it again")
	if strings.Count(n.log(), "verified: this node is a member") != 3 {
		t.Errorf("it was not verified again in the server's own log:\n%s", n.log())
	}
	n.tell("notify STOPPING=1") // the server's socket is the new one's
	n.registered(soon, "")
}

// With both gone nothing passes for longer than the TTL, whatever is asked.
func testCompanionAndServerKilled(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	s := n.serves()
	for _, pid := range w.companions() {
		n.kill(pid)
	}
	n.kill(s.PID)
	n.exit(soon)
	if out, code := n.run("healthcheck"); code != 1 || !strings.Contains(out, "gone") {
		t.Errorf("healthcheck: %d, %q", code, out)
	}
	n.registered(testTTL+late, api.HealthCritical)
	if left := w.companions(); len(left) > 0 {
		t.Errorf("companions %v for a dead server", left)
	}
}

// A companion is started by the entrypoint alone: one by hand says so and does
// no harm to the one there is.
func testCompanionByHand(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	out, code := n.run("companion")
	if code != 1 || strings.Contains(out, "%!") {
		t.Errorf("companion on a blank volume: %d, %q", code, out)
	}
	n.serves()
	if out, code := n.run("companion"); code != 1 || !strings.Contains(out, "rmq-entrypoint") {
		t.Errorf("companion by hand: %d, %q", code, out)
	}
	n.tell("notify STOPPING=1")
	n.registered(soon, "")
}

func testNotifyForwarded(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	socket := n.path("outer.sock")
	outer, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	expect.Must(t, err)
	defer func() { _ = outer.Close() }()
	n.own()
	n.env = append(n.env, "NOTIFY_SOCKET="+socket)
	n.serves()
	expect.Must(t, outer.SetReadDeadline(time.Now().Add(soon)))
	buf := make([]byte, 100)
	got, err := outer.Read(buf)
	if err != nil || string(buf[:got]) != "READY=1" {
		t.Errorf("the outer socket heard %q, %v", buf[:got], err)
	}
}

func testStatus(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	says := func(want int, args ...string) string {
		t.Helper()
		out, code := n.run(args...)
		if code != want {
			t.Errorf("%q: exit status %d, want %d:\n%s", args, code, want, out)
		}
		return out
	}
	says(1, "status", "--json")
	out := says(1, "status") // there is no cluster
	expect.Says(t, out, "rabbit@localhost", "never started", "blank", "none", "free")
	n.serves()
	_, err := holdLock(t, w)
	expect.Must(t, err)
	says(0, "status", "--json")
	out = says(0, "status")
	expect.Says(t, out, "RabbitMQ 4.0.5", "role member", "passing since", "id-of-"+w.service, "formed since", "held by rabbit@holder on h1", n.ip+":5672")
	n.kill(n.cmd.Process.Pid)
	n.exit(soon)
	n.registered(soon, "")
	says(1, "status", "--json")
	out = says(1, "status")
	expect.Says(t, out, "not running", "id-of-"+w.service)
}
