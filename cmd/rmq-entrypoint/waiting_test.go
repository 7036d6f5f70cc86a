package main

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/lock"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

// holdLock takes the world's lock in a session of the test's own.
func holdLock(t *testing.T, w *world) (session string, err error) {
	session, _, err = w.consul.Client.Session().CreateNoChecks(&api.SessionEntry{Name: "test", TTL: "1h", LockDelay: time.Millisecond}, nil)
	if err != nil {
		return "", err
	}
	t.Cleanup(func() { _, _ = w.consul.Client.Session().Destroy(session, nil) })
	taken, _, err := w.consul.Client.KV().Acquire(&api.KVPair{
		Key: w.lockKey(), Session: session, Value: []byte(`{"node":"rabbit@holder","host":"h1","since":"2026-01-02T03:04:05Z"}`),
	}, nil)
	if err == nil && !taken {
		err = errors.New("the lock is taken")
	}
	return session, err
}

func testSIGTERMWaitingForLock(t *testing.T, w *world) {
	_, err := holdLock(t, w)
	expect.Must(t, err)
	n := w.node("rabbit@localhost")
	n.start()
	n.logs("rabbit@holder")
	w.endsOnSIGTERM(n)
	if r := w.record(); r.State != peers.Absent {
		t.Errorf("it left a record: %+v", r)
	}
}

// A seed's companion may wait for a Consul that has stopped answering.
func testSIGTERMWhileCompanionStarts(t *testing.T, w *world) {
	link := consultest.Proxy(t, w.consul.Addr)
	n := w.node("rabbit@localhost", "CONSUL_HTTP_ADDR="+link.Addr)
	renewal := consultest.Request("PUT", "/v1/session/renew/")
	link.Answer(1000, 500, "rpc error", renewal)
	n.start()
	expect.Eventually(t, soon, "the companion asks for its session", func() error {
		if len(w.companions()) == 0 || link.Count(renewal) == 0 {
			return errors.New("it does not yet")
		}
		return nil
	})
	began := time.Now()
	expect.Must(t, n.cmd.Process.Signal(syscall.SIGTERM))
	n.refused(soon, "start the companion")
	if took := time.Since(began); took > late/2 {
		t.Errorf("it took %s", took)
	}
	if s := w.sessions(); s != 0 {
		t.Errorf("it left %d sessions", s)
	}
	n.registered(0, "")
}

// A member starts while Consul's container is gone, and its name with it: it must not
// be registered under Consul's own address later.
func testConsulsNameHasNoAddress(t *testing.T, w *world) {
	n := w.node("rabbit@localhost", "RMQ_ADVERTISE=", "CONSUL_HTTP_ADDR=consul.invalid:8500")
	n.hasData(&statedir.Marker{ClusterID: "id-1", Volume: "v1", Members: []string{n.name}})
	n.start()
	n.server(soon)
	rt, err := statedir.ReadRuntime(n.state(""))
	expect.Must(t, err)
	if rt.Located {
		t.Errorf("it claims to know its address: %+v", rt)
	}
}

func testSIGTERMWaitingForMembers(t *testing.T, w *world) {
	w.putRecord(formed("id-1", map[string]string{"a@localhost": "va"}))
	n := w.node("rabbit@localhost")
	n.start()
	n.logs("members of cluster id-1, which hold its data: a@localhost")
	w.endsOnSIGTERM(n)
}

// A node that waits for members says what to do if they are gone for good while it waits, though
// not in the first seconds, to the health check, too.
func testWayOutWhileWaiting(t *testing.T, w *world) {
	w.putRecord(formed("id-1", map[string]string{"a@localhost": "va"}))
	n := w.node("rabbit@localhost")
	began := time.Now()
	n.start()
	n.logs("which hold its data: a@localhost")
	says := "rmq-entrypoint forget-cluster --cluster-id id-1 gives that cluster up"
	n.logs(says)
	if took := time.Since(began); took < 20*time.Second {
		t.Errorf("it says so after %s", took)
	}
	if out, code := n.run("healthcheck"); code != 0 || !strings.Contains(out, "waiting for members of cluster id-1") || !strings.Contains(out, says) {
		t.Errorf("healthcheck: %d, %s", code, out)
	}
	w.endsOnSIGTERM(n)
}

// endsOnSIGTERM stops a node that waits: in far less than the 10 s that docker stop gives, and
// nothing is left.
func (w *world) endsOnSIGTERM(n *node) {
	w.t.Helper()
	began := time.Now()
	expect.Must(w.t, n.cmd.Process.Signal(syscall.SIGTERM))
	n.refused(soon, "stopped while waiting for", "terminated")
	if took := time.Since(began); took > late/2 {
		w.t.Errorf("it took %s to end", took)
	}
	if w.sessions() != 0 || len(w.companions()) != 0 {
		w.t.Errorf("left: %d sessions, companions %v", w.sessions(), w.companions())
	}
	n.registered(0, "")
}

func testWaitTimeout(t *testing.T, w *world) {
	w.putRecord(formed("id-1", map[string]string{"a@localhost": "va"}))
	n := w.node("rabbit@localhost")
	began := time.Now()
	n.start("--wait-timeout", "24s", "--claim-timeout", "21s", "--interval", "1s")
	n.refused(24*time.Second+soon, "waited 24s (--wait-timeout, RMQ_WAIT_TIMEOUT) for members of cluster id-1, which hold its data: a@localhost", "start them", "rmq-entrypoint forget-cluster --cluster-id id-1")
	if took := time.Since(began); took < 24*time.Second || took > 24*time.Second+late {
		t.Errorf("it waited %s with --wait-timeout 24s", took)
	}
	n.registered(0, "")
}

// The time spent behind somebody else's lock counts, too.
func testWaitTimeoutBehindLock(t *testing.T, w *world) {
	_, err := holdLock(t, w)
	expect.Must(t, err)
	n := w.node("rabbit@localhost")
	n.start("--wait-timeout", "24s", "--claim-timeout", "21s", "--interval", "1s")
	n.logs("rabbit@holder")
	if out, code := n.run("healthcheck"); code != 0 || !strings.Contains(out, "lock") {
		t.Errorf("healthcheck of a node that waits for the lock: %d, %q", code, out)
	}
	n.refused(24*time.Second+soon, "--wait-timeout", "rabbit@holder")
	if w.sessions() != 0 {
		t.Error("it left a session")
	}
}

// A seed that died while it founded the cluster goes on where it was, and need
// not wait for its own session to expire.
func testOwnClaimGoesOn(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.start()
	s := n.server(soon)
	claim := w.record()
	for _, pid := range w.companions() {
		n.kill(pid)
	}
	n.kill(s.PID)
	n.exit(soon)
	n.start()
	n.server(soon)
	r := w.record()
	if r.State != peers.Forming || r.Seed != n.name || r.Claim == claim.Claim || r.Members[n.name] != claim.Members[n.name] {
		t.Errorf("record %+v, was %+v", r, claim)
	}
	w.keeps(1)

	// With a database it goes on at once, under the same claim, and holds up nobody who is to join.
	for _, pid := range w.companions() {
		n.kill(pid)
	}
	n.kill(n.server(soon).PID)
	n.exit(soon)
	n.put(n.data("schema.DAT"), "")
	n.start()
	n.server(soon)
	if again := w.record(); again.Claim != r.Claim || again.Session != r.Session {
		t.Errorf("record %+v, was %+v", again, r)
	}
	w.keeps(0)
	if _, held, err := lock.Holder(t.Context(), w.consul.Client, w.lockKey()); err != nil || held {
		t.Errorf("the lock is held: %t, %v", held, err)
	}
}

// keeps waits until there are so many sessions. One of a start that was killed before it had handed
// its session over ends by its TTL, which takes up to twice that.
func (w *world) keeps(sessions int) {
	w.t.Helper()
	expect.Eventually(w.t, 2*testTTL+soon, "sessions", func() error {
		if now := w.sessions(); now != sessions {
			return fmt.Errorf("%d sessions, want %d", now, sessions)
		}
		return nil
	})
}

// Another's claim is left alone until its session has been gone for the claim
// timeout, whatever its registration says.
func testDeadSeedsClaim(t *testing.T, w *world) {
	a := w.node("a@localhost")
	a.start()
	s := a.server(soon)
	b := w.node("b@localhost", "RMQ_CLAIM_TIMEOUT=21s", "RMQ_LOCK_DELAY=10ms")
	b.start()
	b.logs("a@localhost to found the cluster")
	claim := w.record()
	for _, pid := range w.companions() {
		a.kill(pid)
	}
	a.kill(s.PID)
	a.exit(soon)
	expect.Eventually(t, 2*testTTL+soon, "its session ends", func() error {
		if w.sessions() != 0 {
			return errors.New("it is there")
		}
		return nil
	})
	gone := time.Now()
	b.server(21*time.Second + soon)
	if took := time.Since(gone); took < 20*time.Second {
		t.Errorf("b took over %s after a's session ended", took)
	}
	r := w.record()
	if r.State != peers.Forming || r.Seed != b.name || r.Claim == claim.Claim || len(r.Members) != 1 {
		t.Errorf("record %+v, was %+v", r, claim)
	}
	// a comes back: it must wait for b now.
	a.start()
	a.logs("b@localhost to found the cluster")
}

func testHealthWaiting(t *testing.T, w *world) {
	w.putRecord(formed("id-1", map[string]string{"a@localhost": "va"}))
	n := w.node("rabbit@localhost")
	if out, code := n.run("healthcheck"); code != 0 || !strings.Contains(out, "starting") {
		t.Errorf("healthcheck of a node that never started: %d, %q", code, out)
	}
	n.start()
	n.logs("members of cluster id-1")
	if out, code := n.run("healthcheck"); code != 0 || !strings.Contains(out, "waiting for members of cluster id-1") || strings.Count(out, "\n") != 1 {
		t.Errorf("healthcheck: %d, %q", code, out)
	}
	if out, code := n.run("healthcheck", "--ready"); code != 1 || !strings.Contains(out, "waiting for members of cluster id-1") {
		t.Errorf("healthcheck --ready: %d, %q", code, out)
	}
	if out, code := n.run("healthcheck", "--started"); code != 1 || !strings.Contains(out, "waiting for members of cluster id-1") {
		t.Errorf("healthcheck --started: %d, %q", code, out)
	}
	if left := w.companions(); len(left) > 0 {
		t.Errorf("the health check started %v for a node that waits", left)
	}
}
