package main

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/tests/expect"
)

// A volume that is refused at each start ends the program with a status of its own, at once
// the first time and later each time. SIGTERM ends the wait, and a start that is let through
// all of that.
func testRefusedAgain(t *testing.T, w *world) {
	w.putRecord(formed("id-2", map[string]string{"b@localhost": "vb"}))
	n := w.node("a@localhost")
	n.hasData(&statedir.Marker{ClusterID: "id-1", Volume: "v1", Members: []string{"a@localhost"}})
	n.start()
	n.refusedForGood(soon, "refusing to start beside the cluster")
	if strings.Contains(n.log(), "refused as at the last start") {
		t.Error("it waits the first time")
	}
	for i, least := range []time.Duration{2 * time.Second, 4 * time.Second} {
		began := time.Now()
		n.start()
		n.refusedForGood(soon, "refused as at the last start")
		if took := time.Since(began); took < least {
			t.Errorf("refused again, %d: it ended after %s, want %s at least", i+1, took, least)
		}
	}
	n.put(n.state("refused"), statedir.Refused{Why: "the volume is ruled out", Again: 20, At: time.Now()})
	n.start()
	n.logs("exits_in=1m0s")
	if out, code := n.run("healthcheck"); code != 1 || !strings.Contains(out, "refused, as the log says: the volume is ruled out") {
		t.Errorf("healthcheck meanwhile: %d, %s", code, out)
	}
	began := time.Now()
	expect.Must(t, n.cmd.Process.Signal(syscall.SIGTERM))
	n.refusedForGood(soon)
	if took := time.Since(began); took > late {
		t.Errorf("with SIGTERM it ended after %s", took)
	}
	w.putRecord(formed("id-1", map[string]string{"a@localhost": "v1"}))
	n.start()
	n.server(soon)
	if _, err := os.Stat(n.state("refused")); !os.IsNotExist(err) {
		t.Errorf("a start that was let through left word of the refusal: %v", err)
	}
}

// healthcheck --started says no until the node was verified, and yes from then on while it
// is alive, whatever becomes of its readiness; a restart begins anew.
func testHealthStarted(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	says := func(when string, code int, words string) {
		t.Helper()
		if out, got := n.run("healthcheck", "--started"); got != code || !strings.Contains(out, words) {
			t.Errorf("%s: %d, %q, want %d, %q", when, got, out, code, words)
		}
	}
	says("never started", 1, "nothing decided yet")
	n.hasData(nil)
	n.start()
	n.server(soon)
	n.reports(soon, api.HealthCritical, "booting")
	says("booting", 1, "no member yet since this start; critical: booting")
	n.sees("id-1", n.name)
	n.tell("amqp up")
	n.tell("notify READY=1")
	n.reports(soon, api.HealthPassing, "")
	says("a member", 0, "alive; passing")
	n.tell("amqp down")
	n.reports(soon, api.HealthCritical, "")
	says("AMQP is down", 0, "alive; critical")
	for _, pid := range w.companions() {
		n.kill(pid)
	}
	expect.Eventually(t, soon, "the companion is replaced, and still knows", func() error {
		says("its companion was killed", 0, "")
		_, err := n.report()
		return err
	})
	n.tell("notify STOPPING=1")
	n.reports(soon, api.HealthCritical, "")
	says("stopped", 0, "alive; critical")
	n.kill(n.cmd.Process.Pid)
	n.exit(soon)
	says("dead", 1, "is gone")
	expect.Must(t, os.Remove(n.path("view")))
	n.start()
	n.server(soon)
	n.reports(soon, api.HealthCritical, "booting")
	says("started again", 1, "no member yet since this start")
}
