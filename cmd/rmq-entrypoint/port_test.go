package main

import (
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

// What is done to a node's port, and to its companion's descriptors.
func TestPort(t *testing.T) {
	t.Parallel()
	c := consultest.Start(t)
	t.Run("silent connections", func(t *testing.T) { t.Parallel(); testSilentConnections(t, newWorld(t, c)) })
	t.Run("no descriptor to look with", func(t *testing.T) { t.Parallel(); testLooksWithoutDescriptors(t, newWorld(t, c)) })
}

// Connections without a word, by the thousand, cost the node nothing: it passes, answers who asks,
// and its companion stays small.
func testSilentConnections(t *testing.T, w *world) {
	w.runs(released(t))
	n := w.node("rabbit@localhost")
	n.serves()
	many := 16500
	if testing.Short() {
		many = 2000
	}
	began := time.Now()
	for i := range many {
		conn, err := net.Dial("tcp", n.ip+":15690")
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		defer conn.Close()
		if i%500 == 0 {
			if code := n.ready(); code != 200 {
				t.Errorf("beside %d silent connections /ready answers %d", i, code)
			}
		}
	}
	t.Logf("%d connections in %s", many, time.Since(began).Round(time.Millisecond))
	time.Sleep(2 * testBeat)
	n.reports(late, api.HealthPassing, "")
	n.registered(late, api.HealthPassing)
	if log := n.log(); strings.Contains(log, "status=critical") || strings.Count(log, "port of /ready") > 1+int(time.Since(began)/time.Minute) {
		t.Errorf("the log of the node:\n%s", log)
	}
	peak := expect.Memory(t, w.companions()[0], "VmHWM")
	t.Logf("the companion came to %d KiB", peak)
	if peak == 0 || peak > 40<<10 {
		t.Errorf("the companion came to %d KiB", peak)
	}
}

// A companion that has no file descriptor left can look at nothing: what was known holds.
func testLooksWithoutDescriptors(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.serves()
	pid := w.companions()[0]
	limit := func(soft int) {
		t.Helper()
		cmd := exec.Command("prlimit", "--pid", fmt.Sprint(pid), fmt.Sprintf("--nofile=%d:", soft))
		cmd.SysProcAttr = n.command().SysProcAttr // its own user may, and root of a container may not
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s, %v", out, err)
		}
	}
	limit(3)
	n.tell("amqp down") // the check must connect anew, and cannot
	n.tell("amqp up")
	time.Sleep(testBeat + testBeat/2) // less than a TTL
	limit(1024)
	n.reports(late, api.HealthPassing, "answers")
	if log := n.log(); strings.Contains(log, "status=critical") || strings.Contains(log, "withdrawn") {
		t.Errorf("the node was given up:\n%s", log)
	}
	n.registered(late, api.HealthPassing)
	if now := w.companions(); len(now) != 1 || now[0] != pid {
		t.Errorf("the companion was %d, now %v", pid, now)
	}
}
