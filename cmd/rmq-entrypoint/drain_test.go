package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/expect"
)

// A drained node is critical before its clients are sent away, stays that, and is
// back when RabbitMQ is revived, or started again.
func testDrain(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	s := n.serves()
	n.put(n.path("view"), fmt.Sprintf("view|id-of-%s|%[2]s,b@h,c@h|%[2]s,b@h,c@h||false|\n", n.service, n.name))
	n.listens()
	done := make(chan struct{})
	var out string
	var code int
	go func() { out, code = n.run("drain", "--wait", "3s"); close(done) }()
	n.registered(soon, api.HealthCritical)
	expect.Eventually(t, soon, "/ready says so, too", func() error {
		if code := n.ready(); code != 503 {
			return fmt.Errorf("it answers %d", code)
		}
		return nil
	})
	if len(n.calls(" drain")) > 0 {
		t.Error("clients were sent away before balancers had seen it")
	}
	<-done
	if code != 0 {
		t.Fatalf("drain: %d, %s", code, out)
	}
	expect.Says(t, out, "balancers get 3s", "drained: the server can be stopped")
	n.tell("amqp down")
	calls := n.calls("")
	quorum := slices.IndexFunc(calls, func(c string) bool { return strings.Contains(c, "check_if_node_is_quorum_critical") })
	if drained := slices.IndexFunc(calls, func(c string) bool { return strings.HasSuffix(strings.TrimSpace(c), " drain") }); quorum < 0 || drained < quorum {
		t.Errorf("it was not asked whether the node is quorum-critical, and then drained:\n%s", calls)
	}
	n.reports(soon, api.HealthCritical, "maintenance: drained since")
	if out, code := n.run("healthcheck"); code != 0 || !strings.Contains(out, "alive; critical: maintenance") {
		t.Errorf("a drained node is to be left alone: %d, %s", code, out)
	}
	if out, code := n.run("drain"); code != 0 || !strings.Contains(out, "drained already") {
		t.Errorf("drain again: %d, %s", code, out)
	}
	if again := n.calls(" drain "); len(again) != 1 {
		t.Errorf("drained %d times", len(again))
	}
	// Another user of the container takes the port that RabbitMQ has closed.
	expect.Must(t, os.Remove(n.path("login")))
	n.tell("amqp up")
	expect.Consistently(t, 3*testBeat, "it stays drained, critical and registered, and logs in to nobody", func() error {
		status, err := n.status(w.consul.Client)
		if err == nil && status != api.HealthCritical {
			err = fmt.Errorf("it is %q", status)
		}
		if _, gone := os.Stat(n.state("out")); err == nil {
			err = gone
		}
		if _, told := os.Stat(n.path("login")); err == nil && told == nil {
			err = errors.New("whoever listens got the password")
		}
		return err
	})
	n.tell("amqp down")

	_, code = n.run("rabbitmq-upgrade", "-q", "-n", n.name, "revive")
	n.tell("amqp up")
	n.registered(5*testBeat+soon, api.HealthPassing)
	if _, err := os.Stat(n.state("out")); code != 0 || err == nil {
		t.Errorf("the order is there: %v", err)
	}
	if _, err := os.Stat(n.path("login")); err != nil {
		t.Errorf("it passes without a login: %v", err)
	}

	if out, code := n.run("drain", "--wait", "0s"); code != 0 {
		t.Fatalf("drain: %d, %s", code, out)
	}
	n.kill(s.PID)
	n.exit(soon)
	if out, code := n.run("drain"); code != 1 || !strings.Contains(out, "does not run") {
		t.Errorf("drain of a dead server: %d, %s", code, out)
	}
	n.start()
	n.server(soon)
	n.tell("amqp up")
	n.tell("notify READY=1")
	n.registered(soon, api.HealthPassing)
}

// What drain refuses changes nothing.
func testDrainRefused(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	if out, code := n.run("drain"); code != 1 || !strings.Contains(out, "no server was ever started") {
		t.Errorf("drain of a node that never started: %d, %s", code, out)
	}
	n.serves()
	three := fmt.Sprintf("view|id-of-%s|%%[1]s,b@h,c@h|%%s||%%v|\n", n.service)
	for _, c := range []struct {
		name, running, critical, why string
		khepri                       bool
	}{
		{name: "stop_app", running: "b@h,c@h", why: "RabbitMQ is stopped here"},
		{name: "quorum queues", running: n.name + ",b@h,c@h", critical: "queue 'q' in vhost '/' will become unavailable", why: "queue 'q' in vhost '/' will become unavailable"},
		{name: "Khepri", running: n.name + ",b@h", khepri: true, why: "without it there is no majority"},
	} {
		n.put(n.path("view"), fmt.Sprintf(three, n.name, c.running, c.khepri))
		if c.critical != "" {
			n.put(n.path("check_if_node_is_quorum_critical"), c.critical)
		}
		out, code := n.run("drain")
		if code != 1 || !strings.Contains(out, c.why) {
			t.Errorf("%s: %d, %s", c.name, code, out)
		}
		if _, err := os.Stat(n.state("out")); err == nil || len(n.calls(" drain")) > 0 {
			t.Errorf("%s: it was refused, and done", c.name)
		}
	}
	n.reports(soon, api.HealthPassing, "")
	// A neighbour stops while balancers look.
	n.put(n.path("view"), fmt.Sprintf(three, n.name, n.name+",b@h,c@h", true))
	expect.Must(t, os.Remove(n.path("check_if_node_is_quorum_critical")))
	late := n.command("drain", "--wait", "2s")
	expect.Must(t, late.Start())
	n.registered(soon, api.HealthCritical)
	n.put(n.path("view"), fmt.Sprintf(three, n.name, n.name+",b@h", true))
	if late.Wait() == nil || len(n.calls(" drain")) > 0 {
		t.Error("it became quorum-critical while balancers looked, and was drained")
	}
	n.registered(testBeat+soon, api.HealthPassing)
	// One that is out of service since before stays that.
	done := statedir.Maintenance{Done: true, At: time.Now()}
	expect.Must(t, statedir.Dir{State: n.state("")}.WriteMaintenance(done))
	n.put(n.path("view"), fmt.Sprintf(three, n.name, n.name+",b@h,c@h", true))
	again := n.command("drain", "--wait", "2s")
	expect.Must(t, again.Start())
	expect.Eventually(t, soon, "it was allowed at first", func() error {
		if order, err := (statedir.Dir{State: n.state("")}).Maintenance(); err != nil || order == nil || order.Done {
			return fmt.Errorf("the order is %+v, %v", order, err)
		}
		return nil
	})
	n.put(n.path("view"), fmt.Sprintf(three, n.name, n.name+",b@h", true))
	if again.Wait() == nil || len(n.calls(" drain")) > 0 {
		t.Error("it was drained again though it had become quorum-critical")
	}
	n.reports(testBeat+soon, api.HealthCritical, "maintenance: drained since")
	out, code := n.run("drain", "--force", "--wait", "0s")
	if code != 0 || !strings.Contains(out, "forced, though this node is quorum-critical") {
		t.Errorf("drain --force: %d, %s", code, out)
	}
	n.reports(soon, api.HealthCritical, "maintenance")
}

// Told to stop while balancers look, drain gives up and the node stays in service.
// RabbitMQ does not drain: the node stays out, and the command can be repeated.
func testDrainFails(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.serves()
	stopped := n.command("drain", "--wait", "1m")
	expect.Must(t, stopped.Start())
	n.registered(soon, api.HealthCritical)
	expect.Must(t, stopped.Process.Signal(syscall.SIGTERM))
	if err := stopped.Wait(); err == nil {
		t.Error("drain was stopped and says that all went well")
	}
	n.registered(testBeat+soon, api.HealthPassing)
	n.put(n.path("drain.refused"), "")
	if out, code := n.run("drain", "--wait", "0s"); code != 1 || !strings.Contains(out, "not drained") {
		t.Errorf("drain: %d, %s", code, out)
	}
	n.reports(soon, api.HealthCritical, "maintenance: the drain did not end")
	expect.Must(t, os.Remove(n.path("drain.refused")))
	if out, code := n.run("drain", "--wait", "0s"); code != 0 || !strings.Contains(out, "drained: ") {
		t.Errorf("drain: %d, %s", code, out)
	}
}

// Killed, drain and leave cannot clean up: while nothing was given up, the node comes
// back into service by itself. Another command waits for its turn.
func testCommandKilled(t *testing.T, w *world) {
	n, _ := w.threeWith("b@localhost")
	n.listens()
	drain := n.command("drain", "--wait", "1m")
	expect.Must(t, drain.Start())
	n.registered(soon, api.HealthCritical)
	expect.Must(t, drain.Process.Kill())
	_ = drain.Wait()
	n.registered(4*testBeat+soon, api.HealthPassing)

	n.put(n.path("move"), "queue|queue 'q' in vhost '/'|later|\n")
	leave := n.command("leave", "--wait", "0s")
	expect.Must(t, leave.Start())
	expect.Eventually(t, soon, "it moves replicas", func() error {
		if len(n.calls("ra:transfer_leadership")) == 0 {
			return errors.New("it does not")
		}
		return nil
	})
	second := n.command("drain")
	out, err := second.StdoutPipe()
	expect.Must(t, err)
	expect.Must(t, second.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.Contains(line, "waiting for the end of another drain or leave") {
		t.Errorf("drain beside leave: %q, %v", line, err)
	}
	expect.Must(t, second.Process.Signal(syscall.SIGTERM))
	if err := second.Wait(); err == nil {
		t.Error("drain beside leave says that all went well")
	}
	n.reports(0, api.HealthCritical, "leaving the cluster for good")
	expect.Must(t, leave.Process.Kill())
	_ = leave.Wait()
	n.registered(4*testBeat+soon, api.HealthPassing)
	expect.Says(t, n.log(), "leave was interrupted before the node was off the record: back in service")
	if revived := n.calls("revive"); len(revived) != 1 {
		t.Errorf("RabbitMQ was revived %d times", len(revived))
	}
	if r := w.record(); len(r.Members) != 3 || len(r.Gone) > 0 {
		t.Errorf("record %+v", r)
	}
}

// A node goes for good: out of service, its replicas moved, drained, off the
// record, forgotten, deregistered, stopped; its name may come back only blank.
func testLeave(t *testing.T, w *world) {
	n, a := w.threeWith("b@localhost")
	n.put(n.path("move"), "queue|queue 'q' in vhost '/'|ok|\nqueue|queue 's' in vhost '/'|later|\n")
	n.put(n.path("move.next"), "")
	out, code := n.run("leave", "--wait", "0s")
	if code != 0 {
		t.Fatalf("leave: %d, %s", code, out)
	}
	expect.Says(t, out, "out of service", "replicas moved: 1", "drained, and nothing", "off the record: cluster id-1 goes on with a@localhost, c@localhost", "forgotten by the cluster", "has left cluster id-1")
	n.exit(soon)
	calls := strings.Join(n.calls(""), "")
	at := 0
	for _, step := range []string{"mark_as_being_drained", "ra:transfer_leadership", n.name + " drain", n.name + " stop_app", "a@localhost forget_cluster_node " + n.name, "init:stop(0)"} {
		i := strings.Index(calls[at:], step)
		if i < 0 {
			t.Fatalf("%s is missing or out of order:\n%s", step, calls)
		}
		at += i
	}
	r := w.record()
	if g := r.Gone[n.name]; !g.Left || g.Volume == "" || len(r.Members) != 2 {
		t.Errorf("record %+v", r)
	}
	if v, _ := os.ReadFile(a.path("view")); strings.Contains(string(v), n.name) {
		t.Errorf("the others see %s", v)
	}
	n.registered(0, "")
	if w.sessions() != 0 {
		t.Error("it left a session")
	}
	if out, code := n.run("leave"); code != 1 || !strings.Contains(out, "does not run") {
		t.Errorf("leave of a dead server: %d, %s", code, out)
	}

	// Consul did not answer when it left.
	stale := peers.Registration{Service: w.service, Node: n.name, Address: n.ip, Port: 5672, TTL: time.Minute, DeregisterAfter: time.Hour, Start: peers.Start{Volume: r.Gone[n.name].Volume, Boot: "earlier"}}
	expect.Must(t, peers.Announce(t.Context(), w.consul.Client, stale, peers.Starting, ""))
	n.start()
	n.refusedForGood(soon, "refusing to start: b@localhost left cluster id-1 for good", "empty volume", "remove this container")
	n.registered(0, "")
	if strings.Contains(n.log(), "go back to this volume's cluster") {
		t.Error("it offers a way back that there is not")
	}
	reachable := n.env
	n.env = append(slices.Clone(n.env), "CONSUL_HTTP_ADDR="+n.ip+":1")
	n.start()
	n.refusedForGood(soon)
	if strings.Count(n.log(), "refusing to start: b@localhost left cluster id-1 for good") != 2 {
		t.Errorf("it is not refused without Consul:\n%s", n.log())
	}
	n.env = reachable
	expect.Must(t, os.Remove(n.state("out"))) // as of a leave that was killed before it wrote that
	n.start()
	n.refusedForGood(soon, "left cluster id-1 for good on", "told to (rmq-entrypoint leave)")
	expect.Must(t, os.RemoveAll(n.volume("mnesia")))
	n.start()
	n.server(soon)
	expect.Says(t, n.log(), "joining the cluster")
	if r := w.record(); r.Members[n.name] == "" || r.Gone[n.name].Left {
		t.Errorf("record %+v", r)
	}
}

// threeWith returns a verified member of a cluster of three, whose other members,
// the first of which is returned too, are stand-ins that answer.
func (w *world) threeWith(name string) (n, a *node) {
	w.t.Helper()
	n = w.node(name)
	n.hasData(&statedir.Marker{ClusterID: "id-1", Volume: "vb", Members: []string{"a@localhost", name, "c@localhost"}})
	w.putRecord(formed("id-1", map[string]string{"a@localhost": "va", name: "vb", "c@localhost": "vc"}))
	a = w.neighbour("a@localhost", "id-1", "a@localhost", name, "c@localhost")
	w.neighbour("c@localhost", "id-1", "a@localhost", name, "c@localhost")
	n.start()
	n.server(soon)
	n.sees("id-1", "a@localhost", name, "c@localhost")
	n.tell("amqp up")
	n.tell("notify READY=1")
	n.registered(soon, api.HealthPassing)
	n.reports(soon, api.HealthPassing, "")
	return n, a
}

// What leave refuses leaves the node where it was, in service.
func testLeaveRefused(t *testing.T, w *world) {
	n, _ := w.threeWith("b@localhost")
	all := "a@localhost,b@localhost,c@localhost"
	kept := w.record()
	stays := func(name, want string, args ...string) {
		t.Helper()
		out, code := n.run(append([]string{"leave", "--wait", "0s"}, args...)...)
		if code != 1 || !strings.Contains(out, "not left: ") || !strings.Contains(out, want) {
			t.Errorf("%s: %d, %s", name, code, out)
		}
		if r := w.record(); len(r.Members) != 3 || len(r.Gone) > 0 || r.ClusterID != kept.ClusterID {
			t.Errorf("%s: the record is %+v", name, r)
		}
		if _, err := os.Stat(n.state("out")); err == nil {
			t.Errorf("%s: the order is there", name)
		}
		if len(n.calls("stop_app"))+len(n.calls("forget_cluster_node")) > 0 {
			t.Errorf("%s: it went on:\n%s", name, n.calls(""))
		}
		n.registered(2*testBeat+soon, api.HealthPassing)
	}
	n.put(n.path("view"), fmt.Sprintf("view|id-1|%s|a@localhost,b@localhost||false|\n", all))
	stays("one of the others is down", "without a majority: of the nodes that stay (a@localhost, c@localhost) only a@localhost run")
	n.sees("id-1", "b@localhost")
	stays("alone in RabbitMQ's eyes", "is the last node")
	n.put(n.path("view"), fmt.Sprintf("view|id-1|%s|a@localhost,c@localhost||false|\n", all))
	stays("stop_app", "RabbitMQ is stopped here")
	n.sees("id-1", "a@localhost", "b@localhost", "c@localhost")

	n.put(n.path("move"), "queue|queue 'c' in vhost '/'|{only_here,7}|\n")
	stays("a queue that only this node has", "queue 'c' in vhost '/' (messages: 7)")
	if len(n.calls("revive")) != 1 {
		t.Error("the mark that it is drained was left")
	}
	n.put(n.path("move"), "")
	n.put(n.path("drain.refused"), "")
	stays("RabbitMQ does not drain", "drain: ")
	expect.Must(t, os.Remove(n.path("drain.refused")))

	// The last node on record, whatever RabbitMQ lists. None of the others runs, or the
	// companion would put it on record.
	n.put(n.path("view"), fmt.Sprintf("view|id-1|%s|b@localhost||false|\n", all))
	w.putRecord(formed("id-1", map[string]string{"b@localhost": "vb"}))
	if out, code := n.run("leave", "--wait", "0s"); code != 1 || !strings.Contains(out, "is the last node of cluster id-1") {
		t.Errorf("the last on record: %d, %s", code, out)
	}
	// With force the classic queue is given up.
	n.sees("id-1", "a@localhost", "b@localhost", "c@localhost")
	w.putRecord(kept)
	n.registered(3*testBeat+soon, api.HealthPassing)
	n.put(n.path("move"), "queue|queue 'c' in vhost '/'|{only_here,7}|\n")
	if out, code := n.run("leave", "--wait", "0s", "--force"); code != 0 || !strings.Contains(out, "forced: given up with this node: queue 'c' in vhost '/' (messages: 7)") {
		t.Errorf("leave --force: %d, %s", code, out)
	}
	n.exit(soon)
}

// Run again after an interruption, leave goes on where it was.
func testLeaveGoesOn(t *testing.T, w *world) {
	n, a := w.threeWith("b@localhost")
	command, err := statedir.TryLock(n.state(""), statedir.OperatorLock) // as long as one works, the companion leaves its order alone
	expect.Must(t, err)
	n.put(n.state("out"), statedir.Maintenance{Leaving: true, At: time.Now()})
	n.reports(2*testBeat+soon, api.HealthCritical, "leaving the cluster for good")
	w.putRecord(w.record().Left(n.name, "told to", time.Now()))
	expect.Must(t, command.Close())
	n.reports(2*testBeat+soon, api.HealthCritical, "leaving the cluster for good")
	if strings.Contains(n.log(), "stopping the server") {
		t.Errorf("it stops beside the command:\n%s", n.log())
	}
	out, code := n.run("leave")
	if code != 0 || strings.Contains(out, "out of service") {
		t.Errorf("leave: %d, %s", code, out)
	}
	expect.Says(t, out, "forgotten by the cluster", "has left")
	if v, _ := os.ReadFile(a.path("view")); strings.Contains(string(v), n.name) {
		t.Errorf("the others see %s", v)
	}
	n.exit(soon)
}

// A node that is off the record for good, and whose command is gone, stops by
// itself, and the first of the others makes RabbitMQ forget it.
func testLeaveInterrupted(t *testing.T, w *world) {
	n, _ := w.threeWith("b@localhost")
	n.put(n.state("out"), statedir.Maintenance{Leaving: true, At: time.Now().Add(-time.Hour)})
	w.putRecord(w.record().Left(n.name, "told to", time.Now().Add(-2*time.Minute)))
	n.exit(2*testBeat + soon)
	expect.Says(t, n.log(), "left the cluster for good: stopping the server")
}
