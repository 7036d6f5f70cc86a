package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

// What is told of a node is true when it is told: whatever hangs, and whoever does not answer.
func TestToldIsTrueNow(t *testing.T) {
	t.Parallel()
	c := consultest.Start(t)
	for name, scenario := range map[string]func(*testing.T, *world){
		"volume hangs":             testVolumeHangs,
		"volume hangs at SIGTERM":  testVolumeHangsAtSIGTERM,
		"companion is stopped":     testCompanionStopped,
		"companion starts slowly":  testCompanionStartsSlowly,
		"Consul is a black hole":   testBlackHole,
		"Consul becomes one":       testBecomesBlackHole,
		"drained in a black hole":  testDrainInBlackHole,
		"no majority, no Consul":   testNoMajorityNoConsul,
		"RabbitMQ's tools hang":    testToolsHang,
		"stopped by a black hole":  testStopInBlackHole,
		"thawed after a long time": testThawed,
		"marker hangs":             testMarkerHangs,
		"server is stopped":        testServerStopped,
		"nobody reads the log":     testLogBlocks,
		"login hangs":              testLoginHangs,
		"loop stands still":        testLoopStandsStill,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			scenario(t, newWorld(t, c))
		})
	}
}

// hangs puts a file that cannot be opened to an end in the place of an operator's order, as
// on a disk that does not answer.
func (n *node) hangs() {
	n.t.Helper()
	expect.Must(n.t, syscall.Mkfifo(n.state("out"), 0o644))
	n.own()
	n.t.Cleanup(func() { _ = os.Remove(n.state("out")) })
}

// ends waits until the companion has ended.
func (n *node) ends(within time.Duration) {
	n.t.Helper()
	expect.Eventually(n.t, within, "the companion ends", func() error {
		if left := n.companions(); len(left) > 0 {
			return fmt.Errorf("%v is there", left)
		}
		return nil
	})
}

// unfit waits until /ready is 503.
func (n *node) unfit(within time.Duration) {
	n.t.Helper()
	expect.Eventually(n.t, within, "/ready is 503", func() error {
		if code := n.ready(); code != 503 {
			r, err := n.report()
			return fmt.Errorf("it is %d: %s: %s, %v", code, r.Status, r.Reason, err)
		}
		return nil
	})
}

func testVolumeHangs(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	s := n.serves()
	n.hangs()
	n.tell("amqp down")
	n.unfit(testTTL + testBeat + late)
	r, err := n.report()
	expect.Must(t, err)
	expect.Says(t, r.Reason, "not looked at for", "the companion hangs", "last: passing: ")
	if out, code := n.run("healthcheck", "--ready"); code != 1 || !strings.Contains(out, "critical: not looked at for") {
		t.Errorf("healthcheck --ready: %d, %q", code, out)
	}
	if out, code := n.run("healthcheck"); code != 0 || !strings.Contains(out, "alive; critical: not looked at for") {
		t.Errorf("healthcheck: %d, %q", code, out)
	}
	out, _ := n.run("status")
	expect.Says(t, out, "critical since", "not looked at for")

	n.ends(45*time.Second + late)
	n.logs("the companion hangs: reading the volume for ")
	expect.Must(t, os.Remove(n.state("out")))
	n.tell("amqp up")
	expect.Eventually(t, soon, "it is replaced", func() error { return w.replaced(n) })
	if r := n.reports(soon, api.HealthPassing, ""); r.PID != s.PID {
		t.Errorf("the server's PID is %d, was %d", r.PID, s.PID)
	}
	n.registered(soon, api.HealthPassing)
}

func testVolumeHangsAtSIGTERM(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.serves()
	n.hangs()
	time.Sleep(testBeat + time.Second) // within a beat it hangs
	was := w.companions()
	began := time.Now()
	for _, pid := range was {
		expect.Must(t, syscall.Kill(pid, syscall.SIGTERM))
	}
	n.ends(2*time.Second + late)
	t.Logf("it ended after %s", time.Since(began))
	expect.Says(t, n.log(), "a heartbeat does not end")
}

// freeze stops a process, and waits until all of its threads stand still: on a busy machine one may
// answer meanwhile.
func (n *node) freeze(pid int) {
	n.t.Helper()
	expect.Must(n.t, syscall.Kill(pid, syscall.SIGSTOP))
	expect.Eventually(n.t, soon, "the process stands still", func() error {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*/status", pid))
		for _, task := range tasks {
			status, rerr := os.ReadFile(task)
			if err = errors.Join(err, rerr); !strings.Contains(string(status), "\nState:\tT") {
				err = errors.Join(err, fmt.Errorf("%s runs", task))
			}
		}
		return err
	})
}

// On a loaded host a companion takes longer to begin than a health check may. The check says in time
// that the node is alive, and the companion goes on when it is gone.
func testCompanionStartsSlowly(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	begins, goOn := n.path("begins"), n.path("go-on")
	n.env = append(n.env, "RABBITMQ_NODE_IP_ADDRESS="+n.ip, "RABBITMQ_CONF_ENV_FILE="+n.path("env.conf"))
	n.put(n.path("env.conf"), fmt.Sprintf("until [ -e %s ]; do : >%s; sleep 0.05; done\n", goOn, begins)) // each companion reads it
	n.put(goOn, "")
	n.serves()
	expect.Must(t, os.Remove(goOn))
	for _, pid := range w.companions() {
		n.kill(pid)
	}
	expect.Eventually(t, soon, "the killed one has left its lock", func() error {
		f, err := statedir.TryLock(filepath.Dir(n.state("any")), statedir.CompanionLock)
		if err == nil {
			err = f.Close()
		}
		return err
	})
	check, said := n.command("healthcheck"), new(bytes.Buffer)
	check.Stdout = said
	expect.Must(t, check.Start())
	began := time.Now()
	expect.Eventually(t, soon, "another companion begins", func() error { _, err := os.Stat(begins); return err })
	slow := w.companions()
	if len(slow) != 1 {
		t.Fatalf("companions %v", slow)
	}
	n.freeze(slow[0])
	n.put(goOn, "")
	err := check.Wait()
	if took := time.Since(began); err != nil || took > 10*time.Second+late || said.String() != "the companion is being started\n" {
		t.Errorf("the health check took %s: %q, %v", took, said, err)
	}
	_ = syscall.Kill(slow[0], syscall.SIGCONT)
	n.registered(soon, api.HealthPassing)
	if r := n.reports(soon, api.HealthPassing, ""); r.Companion != slow[0] {
		t.Errorf("companion %d reports, want %v", r.Companion, slow)
	}
	if out, code := n.run("healthcheck"); code != 0 || !strings.Contains(out, "alive; passing") {
		t.Errorf("healthcheck: %d, %q", code, out)
	}
}

// The check on Docker's behalf ends a companion that says nothing, once it is old enough.
func testCompanionStopped(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	began := time.Now()
	s := n.serves()
	was := w.companions()
	for _, pid := range was {
		n.freeze(pid)
	}
	out, code := n.run("healthcheck")
	young := time.Since(began) < 30*time.Second // on a busy machine it may not be any more
	if code != 0 || young && (!strings.Contains(out, "does not answer") || fmt.Sprint(w.companions()) != fmt.Sprint(was)) {
		t.Errorf("healthcheck of a companion that has just begun: %d, %q, companions %v, %v were stopped", code, out, w.companions(), was)
	}
	expect.Eventually(t, 30*time.Second+late, "it is replaced", func() error {
		if out, code := n.run("healthcheck"); code != 0 {
			return errors.New(out)
		}
		if now := w.companions(); len(now) != 1 || now[0] == was[0] {
			return fmt.Errorf("companions %v, was %v", now, was)
		}
		return nil
	})
	if r := n.reports(soon, api.HealthPassing, ""); r.PID != s.PID || !processRuns(s.PID) {
		t.Errorf("the server's PID is %d, was %d", r.PID, s.PID)
	}
	n.registered(soon, api.HealthPassing)
	expect.Says(t, n.log(), fmt.Sprintf("the companion (pid %d) did not answer and was ended, a health check starts it again", was[0]))
}

func processRuns(pid int) bool { return syscall.Kill(pid, 0) == nil }

// holed is a node that serves, and has three addresses of Consul.
func (w *world) holed(env ...string) (*node, func()) {
	w.t.Helper()
	links := []*consultest.Link{consultest.Proxy(w.t, w.consul.Addr), consultest.Proxy(w.t, w.consul.Addr), consultest.Proxy(w.t, w.consul.Addr)}
	n := w.node("rabbit@localhost", append(env, "CONSUL_HTTP_ADDR="+links[0].Addr+","+links[1].Addr+","+links[2].Addr)...)
	n.serves()
	w.t.Cleanup(func() {
		for _, l := range links {
			l.Pass()
		}
	})
	return n, func() {
		for _, l := range links {
			l.Blackhole()
		}
	}
}

// unheard fails if a dead AMQP is not told within two heartbeats, and what one look takes.
func (n *node) unheard() {
	n.t.Helper()
	n.tell("amqp down")
	began := time.Now()
	n.unfit(2*testBeat + late)
	n.t.Logf("told after %s", time.Since(began))
	if r, err := n.report(); err != nil || strings.Contains(r.Reason, "not looked at") {
		n.t.Errorf("it says %s, %v", r.Reason, err)
	}
	n.tell("amqp up")
	n.reports(soon, api.HealthPassing, "not checked against the record")
}

func testBlackHole(t *testing.T, w *world) {
	n, hole := w.holed()
	hole()
	n.reports(soon, api.HealthPassing, "no Consul answers")
	n.unheard()
}

func testBecomesBlackHole(t *testing.T, w *world) {
	n, hole := w.holed()
	hole()
	n.unheard()
}

func testDrainInBlackHole(t *testing.T, w *world) {
	n, hole := w.holed()
	hole()
	out, code := n.run("drain", "--wait", "0s")
	if code != 0 {
		t.Errorf("drain: %d", code)
	}
	expect.Says(t, out, "Consul could not be told", "drained")
}

func testStopInBlackHole(t *testing.T, w *world) {
	n, hole := w.holed()
	hole()
	n.reports(soon, api.HealthPassing, "no Consul answers")
	for _, pid := range w.companions() {
		expect.Must(t, syscall.Kill(pid, syscall.SIGTERM))
	}
	began := time.Now()
	n.ends(2*time.Second + late)
	t.Logf("it ended after %s", time.Since(began))
}

// The view that RabbitMQ gives is enough to know that nothing can be decided, and that it can
// again.
func testNoMajorityNoConsul(t *testing.T, w *world) {
	n, hole := w.holed()
	view := func(running, connected string) {
		n.put(n.path("view"), fmt.Sprintf("view|id-of-%s|rabbit@b,rabbit@c,%s|%s||true|%s|\n", n.service, n.name, running, connected))
	}
	hole()
	n.reports(soon, api.HealthPassing, "no Consul answers")
	view(n.name, "")
	n.reports(soon, api.HealthCritical, "no majority: of the members rabbit@b, rabbit@c, "+n.name+" only "+n.name+" run")
	n.unfit(0)
	view("rabbit@b,"+n.name, "rabbit@b")
	n.reports(soon, api.HealthPassing, "not checked against the record")
}

// RabbitMQ's command line that does not come back is no reason to say that nobody looks.
func testToolsHang(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.serves()
	n.put(n.path("deaf"), "60")
	expect.Consistently(t, 3*testTTL, "it is looked at", func() error {
		if r, err := n.report(); err != nil || strings.Contains(r.Reason, "not looked at") {
			return fmt.Errorf("%s: %s, %v", r.Status, r.Reason, err)
		}
		return nil
	})
	n.tell("amqp down")
	n.unfit(2*testBeat + late)
}

// One that was only stopped for a while goes on, and hangs no more than it did.
func testThawed(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.serves()
	was := w.companions()
	expect.Must(t, syscall.Kill(was[0], syscall.SIGSTOP))
	time.Sleep(40 * time.Second)
	expect.Must(t, syscall.Kill(was[0], syscall.SIGCONT))
	n.reports(soon, api.HealthPassing, "")
	n.registered(soon, api.HealthPassing)
	if now := w.companions(); fmt.Sprint(now) != fmt.Sprint(was) {
		t.Errorf("companions %v, was %v", now, was)
	}
}

// Any file of the volume may be the one.
func testMarkerHangs(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.serves()
	marker, err := os.ReadFile(n.state("member"))
	expect.Must(t, err)
	expect.Must(t, syscall.Mkfifo(n.state("hole"), 0o644))
	n.own()
	expect.Must(t, os.Rename(n.state("hole"), n.state("member")))
	n.unfit(testTTL + testBeat + late)
	n.ends(45*time.Second + late)
	n.put(n.state("member"), string(marker))
	expect.Eventually(t, soon, "it is replaced", func() error { return w.replaced(n) })
	n.reports(soon, api.HealthPassing, "")
}

// A server that takes connections and says nothing, and a Consul that does the same.
func testServerStopped(t *testing.T, w *world) {
	n, hole := w.holed()
	r, err := n.report()
	expect.Must(t, err)
	hole()
	n.reports(soon, api.HealthPassing, "no Consul answers")
	expect.Must(t, syscall.Kill(r.PID, syscall.SIGSTOP))
	n.unfit(2*testBeat + 2*testTTL/5 + late)
	if r, err := n.report(); err != nil || strings.Contains(r.Reason, "not looked at") {
		t.Errorf("it says %s, %v", r.Reason, err)
	}
	expect.Must(t, syscall.Kill(r.PID, syscall.SIGCONT))
	n.reports(soon, api.HealthPassing, "not checked against the record")
}

// Docker may stop reading what a container says: what is known is told all the same, and a
// signal is heard.
func testLogBlocks(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	expect.Must(t, syscall.Mkfifo(n.path("log"), 0o644))
	t.Cleanup(func() { _ = os.Remove(n.path("log")) }) // before anybody reads it
	n.own()
	pipe, err := os.OpenFile(n.path("log"), os.O_RDWR, 0)
	expect.Must(t, err)
	defer pipe.Close()
	n.serves()
	full := make(chan struct{})
	go func() {
		defer close(full)
		_ = pipe.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = pipe.Write(make([]byte, 1<<20))
	}()
	<-full
	n.tell("amqp down")
	n.unfit(2*testBeat + late)
	time.Sleep(testBeat + time.Second) // it says so, and nobody listens
	for _, pid := range w.companions() {
		expect.Must(t, syscall.Kill(pid, syscall.SIGTERM))
	}
	began := time.Now()
	n.ends(2*time.Second + late)
	t.Logf("it ended after %s", time.Since(began))
}

// A secret may lie on a mount that hangs when RabbitMQ is ready again, and the login is read.
func testLoginHangs(t *testing.T, w *world) {
	n := w.node("rabbit@localhost", "RMQ_AMQP_URL=")
	secret, login := n.path("amqp-url"), "amqp://alice:wonder@"+n.ip+":5672"
	n.env = append(n.env, "RMQ_AMQP_URL_FILE="+secret)
	n.put(secret, login)
	s := n.serves()
	expect.Must(t, syscall.Mkfifo(n.path("hole"), 0o644))
	n.own()
	expect.Must(t, os.Rename(n.path("hole"), secret))
	n.tell("notify STOPPING=1")
	n.registered(soon, "")
	n.tell("notify READY=1")
	n.ends(45*time.Second + late)
	n.logs("the companion hangs: reading the login for 30s")
	n.put(secret, login)
	expect.Eventually(t, soon, "it is replaced", func() error { return w.replaced(n) })
	if r := n.reports(soon, api.HealthPassing, ""); r.PID != s.PID {
		t.Errorf("the server's PID is %d, was %d", r.PID, s.PID)
	}
}

// A companion that answers, and whose loop hears nothing any more, is replaced like one that says
// nothing: unless it goes on when it is asked again.
func testLoopStandsStill(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	s := n.serves()
	was := w.companions()
	n.kill(was[0])
	n.ends(soon)
	lock, err := statedir.TryLock(filepath.Dir(n.state("any")), statedir.CompanionLock)
	expect.Must(t, err)
	defer lock.Close()
	expect.Must(t, os.WriteFile(lock.Name(), fmt.Appendf(nil, "%d 1\n", was[0]), 0o600)) // it is old
	expect.Must(t, os.Remove(n.state("status.sock")))
	socket, err := net.ListenUnix("unix", &net.UnixAddr{Name: n.state("status.sock"), Net: "unix"})
	expect.Must(t, err)
	socket.SetUnlinkOnClose(false) // another is in its place then
	n.own()
	answers := make(chan int, 2)
	go func() {
		_ = http.Serve(socket, http.HandlerFunc(func(out http.ResponseWriter, _ *http.Request) {
			still := <-answers
			if still == 122 {
				_ = lock.Close() // it is ended
			}
			fmt.Fprintf(out, `{"status": "passing", "reason": "answers", "still_seconds": %d}`, still)
		}))
	}()
	defer socket.Close()
	for _, still := range [][]int{{120}, {121, 3}} {
		for _, seconds := range still {
			answers <- seconds
		}
		if out, code := n.run("healthcheck"); code != 0 || out != "alive; passing: answers\n" || len(answers) > 0 {
			t.Fatalf("still for %d s: %d, %q, and %d questions less", still, code, out, len(answers))
		}
	}
	answers <- 121
	answers <- 122
	expect.Must(t, w.replaced(n))
	expect.Says(t, n.log(), "did not answer and was ended, a health check starts it again")
	if r := n.reports(soon, api.HealthPassing, ""); r.PID != s.PID {
		t.Errorf("the server's PID is %d, was %d", r.PID, s.PID)
	}
}
