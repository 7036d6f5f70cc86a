package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
)

// A drained node is critical before its clients are sent away, stays that, and is
// back when RabbitMQ is revived, or started again.
func testDrain(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	s := n.serves()
	n.put(n.path("view"), fmt.Sprintf("view|id-of-%s|%[2]s,b@h,c@h|%[2]s,b@h,c@h||false|\n", n.service, n.name))
	done := make(chan struct{})
	var out string
	var code int
	go func() { out, code = n.run("drain", "--wait", "3s"); close(done) }()
	n.registered(soon, api.HealthCritical)
	eventually(t, time.Second, "/ready says so, too", func() error {
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
	says(t, out, "balancers get 3s", "drained: the server can be stopped")
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
	consistently(t, testBeat+time.Second, "it stays critical and registered", func() error {
		status, err := n.status(w.consul.Client)
		if err == nil && status != api.HealthCritical {
			err = fmt.Errorf("it is %q", status)
		}
		return err
	})

	_, code = n.run("rabbitmq-upgrade", "-q", "-n", n.name, "revive")
	n.tell("amqp up")
	n.registered(5*testBeat+soon, api.HealthPassing)
	if _, err := os.Stat(n.state("out")); code != 0 || err == nil {
		t.Errorf("the order is there: %v", err)
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
	must(t, os.Remove(n.path("check_if_node_is_quorum_critical")))
	late := n.command("drain", "--wait", "2s")
	must(t, late.Start())
	n.registered(soon, api.HealthCritical)
	n.put(n.path("view"), fmt.Sprintf(three, n.name, n.name+",b@h", true))
	if late.Wait() == nil || len(n.calls(" drain")) > 0 {
		t.Error("it became quorum-critical while balancers looked, and was drained")
	}
	n.registered(testBeat+soon, api.HealthPassing)
	// One that is out of service since before stays that.
	done := outFile{Done: true, At: time.Now()}
	must(t, volume{state: n.state("")}.writeOut(done))
	n.put(n.path("view"), fmt.Sprintf(three, n.name, n.name+",b@h,c@h", true))
	again := n.command("drain", "--wait", "2s")
	must(t, again.Start())
	eventually(t, soon, "it was allowed at first", func() error {
		if order, err := (volume{state: n.state("")}).out(); err != nil || order == nil || order.Done {
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
	must(t, stopped.Start())
	n.registered(soon, api.HealthCritical)
	must(t, stopped.Process.Signal(syscall.SIGTERM))
	if err := stopped.Wait(); err == nil {
		t.Error("drain was stopped and says that all went well")
	}
	n.registered(testBeat+soon, api.HealthPassing)
	n.put(n.path("drain.refused"), "")
	if out, code := n.run("drain", "--wait", "0s"); code != 1 || !strings.Contains(out, "not drained") {
		t.Errorf("drain: %d, %s", code, out)
	}
	n.reports(soon, api.HealthCritical, "maintenance: the drain did not end")
	must(t, os.Remove(n.path("drain.refused")))
	if out, code := n.run("drain", "--wait", "0s"); code != 0 || !strings.Contains(out, "drained: ") {
		t.Errorf("drain: %d, %s", code, out)
	}
}

// Killed, drain and leave cannot clean up: while nothing was given up, the node comes
// back into service by itself. Another command waits for its turn.
func testCommandKilled(t *testing.T, w *world) {
	n, _ := w.threeWith("b@localhost")
	drain := n.command("drain", "--wait", "1m")
	must(t, drain.Start())
	n.registered(soon, api.HealthCritical)
	must(t, drain.Process.Kill())
	_ = drain.Wait()
	n.registered(4*testBeat+soon, api.HealthPassing)

	n.put(n.path("move"), "queue|queue 'q' in vhost '/'|later|\n")
	leave := n.command("leave", "--wait", "0s")
	must(t, leave.Start())
	eventually(t, soon, "it moves replicas", func() error {
		if len(n.calls("ra:transfer_leadership")) == 0 {
			return errors.New("it does not")
		}
		return nil
	})
	second := n.command("drain")
	out, err := second.StdoutPipe()
	must(t, err)
	must(t, second.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.Contains(line, "waiting for the end of another drain or leave") {
		t.Errorf("drain beside leave: %q, %v", line, err)
	}
	must(t, second.Process.Signal(syscall.SIGTERM))
	if err := second.Wait(); err == nil {
		t.Error("drain beside leave says that all went well")
	}
	n.reports(0, api.HealthCritical, "leaving the cluster for good")
	must(t, leave.Process.Kill())
	_ = leave.Wait()
	n.registered(4*testBeat+soon, api.HealthPassing)
	says(t, n.log(), "leave was interrupted before the node was off the record: back in service")
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
	says(t, out, "out of service", "replicas moved: 1", "drained, and nothing", "off the record: cluster id-1 goes on with a@localhost, c@localhost", "forgotten by the cluster", "has left cluster id-1")
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

	n.start()
	n.refused(soon, "refusing to start: b@localhost left cluster id-1 for good", "empty volume", "remove this container")
	if strings.Contains(n.log(), "go back to this volume's cluster") {
		t.Error("it offers a way back that there is not")
	}
	reachable := n.env
	n.env = append(slices.Clone(n.env), "CONSUL_HTTP_ADDR="+n.ip+":1")
	n.start()
	n.refused(soon)
	if strings.Count(n.log(), "refusing to start: b@localhost left cluster id-1 for good") != 2 {
		t.Errorf("it is not refused without Consul:\n%s", n.log())
	}
	n.env = reachable
	must(t, os.Remove(n.state("out"))) // as of a leave that was killed before it wrote that
	n.start()
	n.refused(soon, "left cluster id-1 for good on", "told to (rmq-entrypoint leave)")
	must(t, os.RemoveAll(n.volume("mnesia")))
	n.start()
	n.server(soon)
	says(t, n.log(), "joining the cluster")
	if r := w.record(); r.Members[n.name] == "" || r.Gone[n.name].Left {
		t.Errorf("record %+v", r)
	}
}

// threeWith returns a verified member of a cluster of three, whose other members,
// the first of which is returned too, are stand-ins that answer.
func (w *world) threeWith(name string) (n, a *node) {
	w.t.Helper()
	n = w.node(name)
	n.hasData(&memberFile{ClusterID: "id-1", Volume: "vb", Members: []string{"a@localhost", name, "c@localhost"}})
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
	must(t, os.Remove(n.path("drain.refused")))

	// The last node on record, whatever RabbitMQ lists.
	w.putRecord(formed("id-1", map[string]string{"b@localhost": "vb"}))
	if out, code := n.run("leave", "--wait", "0s"); code != 1 || !strings.Contains(out, "is the last node of cluster id-1") {
		t.Errorf("the last on record: %d, %s", code, out)
	}
	// With force the classic queue is given up.
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
	n.put(n.state("out"), outFile{Leaving: true, At: time.Now()})
	w.putRecord(w.record().Left(n.name, "told to", time.Now()))
	n.reports(2*testBeat+soon, api.HealthCritical, "leaving the cluster for good")
	if strings.Contains(n.log(), "stopping the server") {
		t.Errorf("it stops beside the command:\n%s", n.log())
	}
	out, code := n.run("leave")
	if code != 0 || strings.Contains(out, "out of service") {
		t.Errorf("leave: %d, %s", code, out)
	}
	says(t, out, "forgotten by the cluster", "has left")
	if v, _ := os.ReadFile(a.path("view")); strings.Contains(string(v), n.name) {
		t.Errorf("the others see %s", v)
	}
	n.exit(soon)
}

// A node that is off the record for good, and whose command is gone, stops by
// itself, and the first of the others makes RabbitMQ forget it.
func testLeaveInterrupted(t *testing.T, w *world) {
	n, _ := w.threeWith("b@localhost")
	n.put(n.state("out"), outFile{Leaving: true, At: time.Now().Add(-time.Hour)})
	w.putRecord(w.record().Left(n.name, "told to", time.Now().Add(-leaveGrace)))
	n.exit(2*testBeat + soon)
	says(t, n.log(), "left the cluster for good: stopping the server")
}

// A peer's refusal counts only while it lists the node, and any peer will do.
func TestForgotten(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		forget map[string]string // peer → its refusal
		listed string            // members in the eyes of those that answer
		err    string
	}{
		{"the first one does it", map[string]string{"c@h": "down"}, "", ""},
		{"the second one does it", map[string]string{"a@h": "down"}, "", ""},
		{"it was done before", map[string]string{"a@h": "not a member", "c@h": "not a member"}, "a@h,c@h", ""},
		{"they refuse", map[string]string{"a@h": "still running", "c@h": "still running"}, "a@h,b@h,c@h", "still running"},
	} {
		run := func(_ context.Context, argv ...string) (string, error) {
			peer := argv[3]
			switch {
			case argv[4] == "forget_cluster_node" && argv[5] != "b@h":
				t.Errorf("%s: %q", c.name, argv)
			case argv[4] == "forget_cluster_node" && c.forget[peer] != "":
				return "", errors.New(c.forget[peer])
			case argv[4] == "eval" && c.listed != "":
				return fmt.Sprintf("view|id|%s|a@h,c@h||true|\n", c.listed), nil
			case argv[4] == "eval":
				return "", errors.New("no answer")
			}
			return "", nil
		}
		o := operator{broker: broker{"b@h", run}, patience: 200 * time.Millisecond}
		err := o.forgotten(t.Context(), peers.Record{Members: map[string]string{"a@h": "va", "c@h": "vc"}})
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestLeftBehind(t *testing.T) {
	t.Parallel()
	long, now := time.Now().Add(-2*leaveGrace), time.Now()
	r := peers.Record{State: peers.Formed, Members: map[string]string{"a": "va", "b": "vb", "c": "vc", "d": "vd"}}
	for _, c := range []struct {
		name          string
		r             peers.Record
		members, runs string
		node          string
		want          string
	}{
		{"left long ago, still listed", r.Left("c", "", long), "a,b,c,d", "a,b,d", "a", "c"},
		{"not mine to do", r.Left("c", "", long), "a,b,c,d", "a,b,d", "b", ""},
		{"the first one is down", r.Left("c", "", long), "a,b,c,d", "b,d", "b", "c"},
		{"the first one has left, too", r.Left("c", "", long).Left("a", "", now), "a,b,c,d", "a,b,d", "b", "c"},
		{"only just", r.Left("c", "", now), "a,b,c,d", "a,b,d", "a", ""},
		{"it runs", r.Left("c", "", long), "a,b,c,d", "a,b,c,d", "a", ""},
		{"forgotten", r.Left("c", "", long), "a,b,d", "a,b,d", "a", ""},
		{"came up blank", r.Without("c", "", long), "a,b,c,d", "a,b,d", "a", ""},
		{"came back", r.Left("c", "", long).With("c", "vnew"), "a,b,c,d", "a,b,d", "a", ""},
	} {
		got := leftBehind(c.r, peers.View{Members: list(c.members), Running: list(c.runs)}, c.node)
		if strings.Join(got, ",") != c.want {
			t.Errorf("%s: %q", c.name, got)
		}
	}
}

// Replicas that do not move are waited for, and then refused or, forced, given up.
func TestMoveReplicas(t *testing.T) {
	t.Parallel()
	const stuck = "queue|queue 'q' in vhost '/'|later|\n"
	for _, c := range []struct {
		name     string
		said     []string // of RabbitMQ, one after the other; the last one stays
		force    bool
		err, out string
		asked    int
	}{
		{name: "nothing here", said: []string{""}, asked: 1},
		{name: "one round and a look", said: []string{"queue|a|ok|\nqueue|b|ok|\n", ""}, out: "replicas moved: 2", asked: 2},
		{name: "stuck", said: []string{stuck}, err: "queue 'q' in vhost '/': later"},
		{name: "stuck and forced", said: []string{stuck}, force: true, out: "given up with this node: queue 'q'"},
		{name: "an error that passes", said: []string{"queue|a|{error,timeout}|\n", "queue|a|ok|\n", ""}, out: "replicas moved: 1", asked: 3},
		{name: "only here", said: []string{"queue|c|{only_here,0}|\n"}, err: "c (messages: 0)", asked: 1},
		{name: "no answer", said: nil, err: "no answer", asked: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			asked := 0
			run := func(context.Context, ...string) (string, error) {
				asked++
				if c.said == nil {
					return "", errors.New("no answer")
				}
				return c.said[min(asked, len(c.said))-1], nil
			}
			var out strings.Builder
			o := operator{broker: broker{"a", run}, out: &out, force: c.force, patience: 1500 * time.Millisecond}
			err := o.moveReplicas(t.Context())
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) || !strings.Contains(out.String(), c.out) {
				t.Errorf("%v, %s", err, out.String())
			}
			if c.asked > 0 && asked != c.asked || c.asked == 0 && asked < 2 {
				t.Errorf("asked %d times", asked)
			}
		})
	}
}

// What the order means to the companion, and when a revived node is believed.
func TestOutOfService(t *testing.T) {
	t.Parallel()
	const ttl = 15 * time.Second
	passing, critical := healthcheck.Result{State: healthcheck.Passing}, healthcheck.Result{State: healthcheck.Critical}
	long := time.Now().Add(-ttl)
	for _, c := range []struct {
		name  string
		order *outFile
		busy  bool // the command works on it
		r     healthcheck.Result
		want  string
		gone  bool // the order
	}{
		{"no order", nil, false, passing, "", true},
		{"being drained", &outFile{At: long}, true, passing, "being drained", false},
		{"drained", &outFile{Drained: true, Done: true, At: long}, false, critical, "drained since", false},
		{"revived", &outFile{Drained: true, Done: true, At: long}, false, passing, "", true},
		{"just drained, a first miss counts as passing", &outFile{Drained: true, Done: true, At: time.Now()}, false, passing, "drained since", false},
		{"no maintenance mode", &outFile{Done: true, At: long}, false, passing, "drained since", false},
		{"interrupted, listeners closed", &outFile{At: long}, false, critical, "the drain did not end: run rmq-entrypoint drain again", false},
		{"interrupted before that", &outFile{At: long}, false, passing, "", true},
	} {
		v := testVolume(t)
		if c.busy {
			seat, err := trySeat(v.state, operatorSeat)
			must(t, err)
			defer seat.Close()
		}
		if c.order != nil {
			must(t, v.writeOut(*c.order))
		}
		k := companion{log: slog.New(slog.DiscardHandler), serving: true, rt: runtimeFile{Config: config{Node: "a", TTL: ttl, Data: v.data, StateDir: v.state}}}
		got := k.outOfService(t.Context(), c.r)
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) || k.out != (c.want != "") {
			t.Errorf("%s: %q, out %v", c.name, got, k.out)
		}
		if left, err := v.out(); err != nil || (left == nil) != c.gone {
			t.Errorf("%s: the order is %+v, %v", c.name, left, err)
		}
	}
}

// Without this node no majority would be left, and those that go on only with one
// would stand still.
func TestCritical(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, running, handling string // "": no answer
		khepri                  bool
		want                    string
	}{
		{"all run", "a,b,c", "", false, ""},
		{"Khepri", "a,b", "{ok,ignore}", true, "without it there is no majority"},
		{"Mnesia that ignores", "a,b", "{ok,ignore}", false, ""},
		{"Mnesia that pauses", "a,b", "{ok,pause_minority}", false, "without it there is no majority"},
		{"Mnesia that does not tell", "a,b", "", false, "without it there is no majority"},
	} {
		run := func(_ context.Context, argv ...string) (string, error) {
			if argv[0] == "rabbitmqctl" && c.handling == "" {
				return "", errors.New("no answer")
			}
			return c.handling, nil
		}
		o := operator{broker: broker{"a", run}}
		got := o.critical(t.Context(), peers.View{Members: list("a,b,c"), Running: list(c.running), Khepri: c.khepri})
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q", c.name, got)
		}
	}
}

// A side of a partition may hold what the others lack.
func TestMayNotLeavePartitioned(t *testing.T) {
	t.Parallel()
	all := list("a,b,c")
	o := operator{broker: broker{node: "a"}, rt: runtimeFile{Volume: "va"}}
	if why := o.critical(t.Context(), peers.View{Members: all, Running: all, Partitions: list("b")}); !strings.Contains(why, "partitioned from b") {
		t.Errorf("drain says %q", why)
	}
	r := peers.Record{State: peers.Formed, ClusterID: "id", Members: map[string]string{"a": "va", "b": "vb", "c": "vc"}}
	if err := o.mayLeave(r, peers.View{ClusterID: "id", Members: all, Running: all}); err != nil {
		t.Error(err)
	}
	err := o.mayLeave(r, peers.View{ClusterID: "id", Members: all, Running: all, Partitions: list("b")})
	if err == nil || !strings.Contains(err.Error(), "partitioned from b") {
		t.Errorf("got %v", err)
	}
}

// Consul goes away as the node is taken off the record: where it cannot be told
// whether it is off, it must not serve again.
func TestLeaveUnheard(t *testing.T) {
	t.Parallel()
	c := consultest.Start(t)
	write := consultest.Request("PUT", "/v1/txn")
	for name, tt := range map[string]struct {
		fault   func(l *consultest.Link, read consultest.Match, touch func())
		err     string // of moveOut, "": it is off the record
		ordered bool   // it stays out of service
	}{
		"the answer is lost":     {func(l *consultest.Link, _ consultest.Match, _ func()) { l.LoseAnswer(1, write) }, "", true},
		"another node is faster": {func(_ *consultest.Link, _ consultest.Match, touch func()) { touch() }, "", true},
		"the write is refused":   {func(l *consultest.Link, _ consultest.Match, _ func()) { l.Answer(1, 500, "no", write) }, "write cluster record", false},
		"and it is seen at a second look": {func(l *consultest.Link, read consultest.Match, _ func()) {
			l.LoseAnswer(1, write)
			l.Answer(1, 500, "no", read)
		}, "", true},
		"and the record cannot be read": {func(l *consultest.Link, read consultest.Match, _ func()) {
			l.LoseAnswer(1, write)
			l.Answer(99, 500, "no", read)
		}, "stays out of service", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v, link := testVolume(t), consultest.Proxy(t, c.Addr)
			shows := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { must(t, json.NewEncoder(w).Encode(report{Out: true})) }))
			defer shows.Close()
			cfg := config{Consul: []string{link.Addr}, Service: "s", KeyPrefix: rand.Text(), Node: "b@h", TTL: 10 * time.Second, LockDelay: time.Millisecond,
				HTTP: strings.TrimPrefix(shows.URL, "http://"), Data: v.data, StateDir: v.state}
			r := peers.Record{State: peers.Formed, ClusterID: "id-1", Members: map[string]string{"a@h": "va", "b@h": "vb", "c@h": "vc"}}
			_, err := peers.WriteRecord(t.Context(), c.Client, cfg.recordKey(), r, 0, "", "")
			must(t, err)
			asked := 0
			run := func(_ context.Context, argv ...string) (string, error) {
				if !strings.Contains(argv[len(argv)-1], "persistent_cluster_id") {
					return "", nil
				}
				if asked++; asked == 2 { // the last thing before the write
					tt.fault(link, consultest.Request("GET", "/v1/kv/"+cfg.recordKey()), func() {
						now, index, err := peers.ReadRecord(t.Context(), c.Client, cfg.recordKey())
						must(t, err)
						_, err = peers.WriteRecord(t.Context(), c.Client, cfg.recordKey(), now, index, "", "")
						must(t, err)
					})
				}
				return "view|id-1|a@h,b@h,c@h|a@h,b@h,c@h||false|\n", nil
			}
			o := operator{rt: runtimeFile{Config: cfg, Volume: "vb"}, broker: broker{"b@h", run}, out: io.Discard, patience: time.Second}
			client, err := dialConsul(link.Addr)
			must(t, err)
			left, err := o.moveOut(t.Context(), client, r)
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) || err == nil && !left.HasLeft("b@h", "vb") {
				t.Errorf("record %+v, %v", left, err)
			}
			if order, err := v.out(); err != nil || (order != nil) != tt.ordered {
				t.Errorf("the order is %+v, %v", order, err)
			}
		})
	}
}
