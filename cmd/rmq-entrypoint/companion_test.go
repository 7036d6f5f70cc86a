package main

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/tests/expect"
)

// stop_app, a pause in a minority and docker stop say the same words; READY
// brings the node back, verified anew.
func testStopAndReadyAgain(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.serves()
	n.tell("notify STOPPING=1")
	n.registered(atOnce, "")
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
	n.registered(atOnce, "")
	n.sees("id-of-another", n.name)
	n.tell("notify READY=1")
	n.reports(soon, api.HealthCritical, "SPLIT")
	n.registered(soon, api.HealthCritical)
}

func testStatusAfterReady(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.serves()
	n.tell("notify STATUS=Standing by")
	n.registered(atOnce, "")
	n.reports(soon, api.HealthCritical, "Standing by")
}

func testAMQPShutdown(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.serves()
	n.tell("amqp 320")
	n.registered(atOnce, "")
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
			n.registered(atOnce, "")
			n.exit(soon)
			expect.Eventually(t, soon, "the companion ends", func() error {
				if left := w.companions(); len(left) > 0 {
					return fmt.Errorf("%v is there", left)
				}
				return nil
			})
			if out, code := n.run("healthcheck"); code != 1 || !strings.Contains(out, "gone") {
				t.Errorf("healthcheck of a dead server: %d, %q", code, out)
			}
			if left := w.companions(); len(left) > 0 {
				t.Errorf("the health check started %v for a dead server", left)
			}
		})
	}
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
		expect.Eventually(t, soon, "the killed one has left its seat", func() error { // a check that comes earlier finds it alive
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
	n.registered(atOnce, "")
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
	n.registered(atOnce, "")
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
	out, code := n.run("status")
	if code != 0 {
		t.Errorf("exit status %d", code)
	}
	expect.Says(t, out, "rabbit@localhost", "never started", "blank", "none", "free")
	n.serves()
	_, err := holdLock(t, w)
	expect.Must(t, err)
	out, _ = n.run("status")
	expect.Says(t, out, "RabbitMQ 4.0.5", "role member", "passing since", "id-of-"+w.service, "formed since", "held by rabbit@holder on h1", n.ip+":5672")
	n.kill(n.cmd.Process.Pid)
	n.exit(soon)
	n.registered(soon, "")
	out, _ = n.run("status")
	expect.Says(t, out, "not running", "id-of-"+w.service)
}
