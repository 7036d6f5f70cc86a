package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
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

// TestEntrypoint runs the whole program in scenarios that share one Consul, each
// under a service name of its own. The server is a stand-in: see playServer.
func TestEntrypoint(t *testing.T) {
	t.Parallel()
	c := consultest.Start(t)
	for name, scenario := range map[string]func(*testing.T, *world){
		"seed":                              testSeed,
		"seed that mirrors":                 testSeedMirrors,
		"services beside":                   testBeside,
		"nothing beside":                    testNothingBeside,
		"hosts":                             testHosts,
		"hosts of a member":                 testHostsOfMember,
		"hosts of a member without Consul":  testHostsWithoutConsul,
		"hosts by a user's inetrc":          testUsersInetrc,
		"tags and meta":                     testTagsAndMeta,
		"advertised interface":              testAdvertisedInterface,
		"joiner":                            testJoiner,
		"member":                            testMember,
		"signal while waiting for the lock": testSIGTERMWaitingForLock,
		"signal while waiting for members":  testSIGTERMWaitingForMembers,
		"server cannot be executed":         testExecFailure,
		"two on one volume":                 testTwoOnOneVolume,
		"volume refused":                    testVolumeRefused,
		"wait timeout":                      testWaitTimeout,
		"wait timeout behind the lock":      testWaitTimeoutBehindLock,
		"own claim goes on":                 testOwnClaimGoesOn,
		"dead seed's claim":                 testDeadSeedsClaim,
		"join timeout":                      testJoinTimeout,
		"came up alone":                     testCameUpAlone,
		"join came to nothing":              testJoinCameToNothing,
		"join on another volume":            testJoinOnAnotherVolume,
		"came up alone with queues":         testCameUpAloneWithQueues,
		"overtaken seed":                    testOvertakenSeed,
		"stop and ready again":              testStopAndReadyAgain,
		"status after ready":                testStatusAfterReady,
		"AMQP closed by a shutdown":         testAMQPShutdown,
		"server ends":                       testServerEnds,
		"two misses":                        testTwoMisses,
		"record lost":                       testRecordLost,
		"record of an earlier day":          testRecordOfEarlierDay,
		"signal while the companion starts": testSIGTERMWhileCompanionStarts,
		"Consul's name has no address":      testConsulsNameHasNoAddress,
		"other cluster on record":           testOtherClusterOnRecord,
		"companion killed":                  testCompanionKilled,
		"companion and server killed":       testCompanionAndServerKilled,
		"companion by hand":                 testCompanionByHand,
		"health of a node that waits":       testHealthWaiting,
		"notify socket of somebody else":    testNotifyForwarded,
		"configuration cannot be written":   testConfigNotWritable,
		"another command":                   testAnotherCommand,
		"drain":                             testDrain,
		"drain refused":                     testDrainRefused,
		"drain fails":                       testDrainFails,
		"drain and leave killed":            testCommandKilled,
		"leave":                             testLeave,
		"leave refused":                     testLeaveRefused,
		"leave goes on":                     testLeaveGoesOn,
		"leave interrupted":                 testLeaveInterrupted,
		"status":                            testStatus,
		"forget-cluster":                    testFound,
		"name alive":                        testNameAlive,
		"name seen running":                 testNameSeenRunning,
		"name taken back":                   testNameTakenBack,
		"name of data taken":                testNameOfDataTaken,
		"stopped node keeps its name":       testStoppedKeepsName,
		"name taken meanwhile":              testNameTakenMeanwhile,
		"name comes back":                   testComesBack,
		"name taken by another while alone": testAloneUnderTakenName,
		"loopback name":                     testLoopbackName,
		"adopted outranks founding":         testAdoptedOutranksFounding,
		"record nobody wrote":               testRecordNobodyWrote,
		"nobody on record but registered":   testNobodyOnRecordButRegistered,
		"foreign entries":                   testForeignEntries,
		"announcement waits":                testAnnouncementWaits,
		"given up while it serves":          testGivenUpWhileItServes,
		"given up while it boots":           testGivenUpWhileItBoots,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			scenario(t, newWorld(t, c))
		})
	}
}

// A blank node without neighbours founds the cluster: from the claim to the exec
// to the moment it passes.
func testSeed(t *testing.T, w *world) {
	n := w.node("rabbit@localhost", "CONSUL_HTTP_TOKEN=t0ken", "CONSUL_HTTP_AUTH=user:pa55word", "RABBITMQ_DEFAULT_PASS=wonder", "OTHER=kept")
	n.start("rabbitmq-server", "-detached?", "two words")
	s := n.server(soon)

	if s.PID != n.cmd.Process.Pid {
		t.Errorf("the server has PID %d, the entrypoint had %d", s.PID, n.cmd.Process.Pid)
	}
	if want := []string{"rabbitmq-server", "-detached?", "two words"}; !slices.Equal(s.Args, want) {
		t.Errorf("argv %q, want %q", s.Args, want)
	}
	for _, want := range []string{
		"RABBITMQ_NODENAME=rabbit@localhost", "RABBITMQ_ADVANCED_CONFIG_FILE=" + n.state("rabbitmq.config"),
		"NOTIFY_SOCKET=" + n.state("notify.sock"), "HOME=" + n.volume(""), "RABBITMQ_DEFAULT_PASS=wonder", "OTHER=kept",
	} {
		if !slices.Contains(s.Env, strings.TrimSuffix(want, "/")) {
			t.Errorf("the server's environment lacks %s", want)
		}
	}
	sessions, _, err := w.consul.Client.Session().List(nil)
	expect.Must(t, err)
	env := strings.Join(s.Env, "\n")
	for _, secret := range []string{"t0ken", "crumbs", "pa55word", "alice", "RABBITMQ_ERLANG_COOKIE", "SESSION"} {
		if strings.Contains(env, secret) {
			t.Errorf("the server's environment holds %s:\n%s", secret, env)
		}
		if strings.Contains(n.log(), secret) {
			t.Errorf("the log holds %s", secret)
		}
	}
	for _, session := range sessions {
		if strings.Contains(env, session.ID) {
			t.Error("the server's environment holds a session")
		}
	}
	if slices.ContainsFunc(s.Env, func(kv string) bool { return strings.HasPrefix(kv, "RABBITMQ_USE_LONGNAME") }) {
		t.Error("RABBITMQ_USE_LONGNAME is set: it would rename nodes")
	}

	config, err := os.ReadFile(n.state("rabbitmq.config"))
	expect.Must(t, err)
	if string(config) != seedConfig {
		t.Errorf("rabbitmq.config:\n%s\nwant:\n%s", config, seedConfig)
	}
	cookie, err := os.Stat(n.volume(".erlang.cookie"))
	if err != nil || cookie.Mode().Perm() != 0o400 {
		t.Errorf("cookie file: %v, %v", cookie, err)
	}
	n.registered(0, api.HealthCritical)
	pending, err := statedir.Dir{Data: n.data(""), State: n.state("")}.Pending()
	if err != nil || pending == nil || pending.Role != statedir.Seeding {
		t.Fatalf("pending: %+v, %v", pending, err)
	}
	r := w.record()
	if r.State != peers.Forming || r.Seed != n.name || r.Claim != pending.Claim || r.Members[n.name] != pending.Volume {
		t.Errorf("record: %+v, pending: %+v", r, pending)
	}
	if w.sessions() != 1 || len(w.companions()) != 1 {
		t.Errorf("%d sessions and companions %v, want one each", w.sessions(), w.companions())
	}

	n.tell("amqp up")
	n.sees("id-1", n.name)
	n.tell("notify STATUS=core ready, starting plugins")
	n.reports(soon, api.HealthCritical, "core ready, starting plugins")
	n.registered(0, api.HealthCritical)
	if code := n.ready(); code != 503 {
		t.Errorf("/ready answers %d before the server is ready", code)
	}

	n.tell("notify READY=1")
	// Record, marker, passing, in that order: once it passes, the others are there.
	expect.Eventually(t, 3*testBeat+soon, "the seed passes", func() error {
		status, err := n.status(w.consul.Client)
		if err == nil && status != api.HealthPassing {
			err = errors.New(status)
		}
		return err
	})
	if r := w.record(); r.State != peers.Formed || r.ClusterID != "id-1" || r.Members[n.name] != pending.Volume || r.Session != "" {
		t.Errorf("it passes with this record: %+v", r)
	}
	state, err := statedir.Dir{Data: n.data(""), State: n.state("")}.Marker()
	if err != nil || state == nil || state.ClusterID != "id-1" || state.Volume != pending.Volume {
		t.Errorf("it passes with this marker: %+v, %v", state, err)
	}
	if left, err := (statedir.Dir{Data: n.data(""), State: n.state("")}).Pending(); left != nil || err != nil {
		t.Errorf("it passes and is still pending: %+v, %v", left, err)
	}
	if w.sessions() != 0 {
		t.Error("it passes and still holds the lock")
	}
	n.reports(soon, api.HealthPassing, "")
	if code := n.ready(); code != 200 {
		t.Errorf("/ready answers %d", code)
	}
	if out, code := n.run("healthcheck", "--ready"); code != 0 || !strings.HasPrefix(out, "passing: ") || strings.Count(out, "\n") != 1 {
		t.Errorf("healthcheck --ready: %d, %q", code, out)
	}
	if lines := strings.Count(n.log(), "\n"); lines > 12 {
		t.Errorf("the story of a boot takes %d lines:\n%s", lines, n.log())
	}
}

const seedConfig = `%% Written by rmq-entrypoint at each start of this node: edits are lost.
%% Put settings into rabbitmq.conf, conf.d or advanced.config, which it respects.
[
 {rabbit,[
  {cluster_nodes,{['rabbit@localhost'],disc}},
  {default_queue_type,rabbit_quorum_queue},
  {quorum_membership_reconciliation_enabled,true},
  {quorum_membership_reconciliation_target_group_size,3}
 ]}
].
`

// A blank node beside a healthy member joins it, and passes once it is in.
func testJoiner(t *testing.T, w *world) {
	w.putRecord(formed("id-1", map[string]string{"a@localhost": "va"}))
	w.neighbour("a@localhost", "id-1", "a@localhost")
	n := w.node("b@localhost")
	n.start()
	n.server(soon)

	config, err := os.ReadFile(n.state("rabbitmq.config"))
	expect.Must(t, err)
	if string(config) != joinerConfig {
		t.Errorf("rabbitmq.config:\n%s\nwant:\n%s", config, joinerConfig)
	}
	pending, err := statedir.Dir{Data: n.data(""), State: n.state("")}.Pending()
	if err != nil || pending == nil || pending.Role != statedir.Joining {
		t.Fatalf("pending: %+v, %v", pending, err)
	}
	if r := w.record(); r.State != peers.Formed || r.Members["a@localhost"] != "va" || r.Members[n.name] != pending.Volume || r.Joining[n.name] != pending.Volume {
		t.Errorf("its server started with this record: %+v", r)
	}
	if w.sessions() != 0 {
		t.Error("a joiner holds the lock while it boots: joiners could not join in parallel")
	}
	n.registered(0, api.HealthCritical)

	n.tell("amqp up")
	n.sees("id-1", "a@localhost", n.name)
	n.tell("notify READY=1")
	n.registered(soon, api.HealthPassing)
	if m, err := (statedir.Dir{Data: n.data(""), State: n.state("")}).Marker(); err != nil || m == nil || m.ClusterID != "id-1" || m.Volume != pending.Volume {
		t.Errorf("marker: %+v, %v", m, err)
	}
	if r := w.record(); r.Members[n.name] != pending.Volume || len(r.Joining) != 0 {
		t.Errorf("it passes with this record: %+v", r)
	}
}

const joinerConfig = `%% Written by rmq-entrypoint at each start of this node: edits are lost.
%% Put settings into rabbitmq.conf, conf.d or advanced.config, which it respects.
[
 {rabbit,[
  {cluster_nodes,{['a@localhost','b@localhost'],disc}},
  {cluster_formation,[{discovery_retry_limit,1000000},{discovery_retry_interval,500}]},
  {default_queue_type,rabbit_quorum_queue},
  {quorum_membership_reconciliation_enabled,true},
  {quorum_membership_reconciliation_target_group_size,3}
 ]}
].
`

// A node with data starts at once and takes no lock, and an adopted cluster gets
// its record from it.
func testMember(t *testing.T, w *world) {
	hold, err := holdLock(t, w)
	expect.Must(t, err)
	n := w.node("rabbit@localhost")
	n.serves()
	r := w.record()
	m, err := statedir.Dir{Data: n.data(""), State: n.state("")}.Marker()
	if err != nil || m == nil {
		t.Fatalf("no marker: %v", err)
	}
	if r.State != peers.Formed || r.ClusterID != "id-of-"+w.service || r.Members[n.name] != m.Volume || m.Volume == "" {
		t.Errorf("record %+v, marker %+v", r, m)
	}
	if kv, _, err := w.consul.Client.KV().Get(w.lockKey(), nil); err != nil || kv.Session != hold {
		t.Errorf("the lock was touched: %+v, %v", kv, err)
	}
}

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
	if took := time.Since(began); took > 2*time.Second {
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

// endsOnSIGTERM stops a node that waits: in less than 2 s, and nothing is left.
func (w *world) endsOnSIGTERM(n *node) {
	w.t.Helper()
	began := time.Now()
	expect.Must(w.t, n.cmd.Process.Signal(syscall.SIGTERM))
	n.refused(soon, "stopped while waiting for", "terminated")
	if took := time.Since(began); took > 2*time.Second {
		w.t.Errorf("it took %s to end", took)
	}
	if w.sessions() != 0 || len(w.companions()) != 0 {
		w.t.Errorf("left: %d sessions, companions %v", w.sessions(), w.companions())
	}
	n.registered(0, "")
}

func testExecFailure(t *testing.T, w *world) {
	server := filepath.Join(w.root, "bin", "rabbitmq-server")
	expect.Must(t, os.Remove(server))
	expect.Must(t, os.WriteFile(server, []byte("\x7fELFgarbage"), 0o755))
	n := w.node("rabbit@localhost")
	n.start()
	n.refused(soon, "exec "+server, "exec format error")
	// At once: as PID 1 it has no later.
	if w.sessions() != 0 || len(w.processes("")) != 0 {
		t.Errorf("left: %d sessions, processes %v", w.sessions(), w.processes(""))
	}
	n.registered(0, "")
}

func testTwoOnOneVolume(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.serves()
	before := expect.Tree(t, n.volume(""))
	out, code := n.run()
	if code != 1 {
		t.Errorf("exit status %d, want 1", code)
	}
	expect.Says(t, out, "another node runs on this volume", "give each node a volume of its own")
	if after := expect.Tree(t, n.volume("")); !sameTree(before, after) {
		t.Errorf("it changed the volume: %v, was %v", after, before)
	}
	n.registered(0, api.HealthPassing)
}

func sameTree(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false
		}
	}
	return true
}

// The record was not to be read when this node started, or was changed before it was ready:
// it serves by now, and what another process wrote stops it no more than one that is verified.
func testGivenUpWhileItBoots(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.hasData(&statedir.Marker{ClusterID: "id-1", Volume: "v1", Members: []string{n.name}})
	was := formed("id-1", map[string]string{n.name: "v1"})
	w.putRecord(was)
	n.start()
	s := n.server(soon)
	w.putRecord(was.Without(n.name, peers.GivenUp("rmq-entrypoint forget-cluster"), time.Now().Add(-time.Hour)).By(n.name, "rmq-entrypoint forget-cluster on host far-away"))
	n.sees("id-1", n.name)
	n.tell("amqp up")
	n.tell("notify READY=1")
	n.registered(soon, api.HealthPassing)
	w.recordBecomes(was)
	expect.Says(t, n.log(), "taken off the record all the same", "far-away")
	expect.Must(t, syscall.Kill(s.PID, 0))

	// What a process of its own wrote is another matter: there is a cluster without it.
	m := w.node("m@localhost")
	m.hasData(&statedir.Marker{ClusterID: "id-1", Volume: "vm", Members: []string{n.name, m.name}})
	w.putRecord(was.With(m.name, "vm"))
	m.start()
	m.server(soon)
	w.putRecord(was.With(m.name, "vm").Without(m.name, "its volume came up blank", time.Now().Add(-time.Hour)).By(m.name, m.name+", its volume blank, on host h"))
	m.sees("id-1", n.name, m.name)
	m.tell("amqp up")
	m.tell("notify READY=1")
	m.exit(soon)
	expect.Says(t, m.log(), "stopping the server", "m@localhost took itself off cluster id-1", "its volume came up blank")
}

// A volume that the record positively rules out is not started, and kept.
func testVolumeRefused(t *testing.T, w *world) {
	mine := &statedir.Marker{ClusterID: "id-1", Volume: "v1", Members: []string{"a@localhost"}}
	for name, c := range map[string]struct {
		record peers.Record
		words  []string
	}{
		"given up by hand": {formed("id-1", map[string]string{"a@localhost": "v1", "b@localhost": "vb"}).Without("a@localhost", "because", time.Now()).By("a@localhost", "alice"),
			[]string{"a@localhost was taken off cluster id-1 on", "by alice (because)", "b@localhost"}},
		"struck": {formed("id-1", map[string]string{"b@localhost": "vb"}).With("a@localhost", "v1").Without("a@localhost", "its volume came up blank", time.Now()),
			[]string{"took itself off cluster id-1", "its volume came up blank", "b@localhost"}},
		"replaced": {formed("id-1", map[string]string{"a@localhost": "v1"}).Without("a@localhost", "blank", time.Now()).With("a@localhost", "v2"),
			[]string{"was replaced on " + time.Now().UTC().Format("2006-01-02T"), "v2"}},
		"left":          {formed("id-1", map[string]string{"b@localhost": "vb"}), []string{"no longer on record"}},
		"other cluster": {formed("id-2", map[string]string{"b@localhost": "vb"}), []string{"id-1", "id-2", "b@localhost"}},
		"founded anew":  {formed("id-1", nil).Claimed("b@localhost", "vb", "", time.Now()), []string{"id-1", "replaced"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, w.consul)
			w.putRecord(c.record)
			n := w.node("a@localhost")
			n.hasData(mine)
			before := expect.Tree(t, n.data(""))
			n.start()
			n.refused(soon, append(c.words, "refusing to start", "Its data is kept", "empty volume")...)
			if !sameTree(before, expect.Tree(t, n.data(""))) || !strings.Contains(expect.Tree(t, n.state(""))[n.state("member")], "v1") {
				t.Error("it changed the volume")
			}
			n.registered(0, "")
			if w.sessions() != 0 {
				t.Error("it left a session")
			}
		})
	}
}

func testWaitTimeout(t *testing.T, w *world) {
	w.putRecord(formed("id-1", map[string]string{"a@localhost": "va"}))
	n := w.node("rabbit@localhost")
	began := time.Now()
	n.start("--wait-timeout", "12s")
	n.refused(40*time.Second, "waited 12s (--wait-timeout, RMQ_WAIT_TIMEOUT) for members of cluster id-1, which hold its data: a@localhost", "start them", "rmq-entrypoint forget-cluster --cluster-id id-1")
	if took := time.Since(began); took < 12*time.Second || took > 15*time.Second {
		t.Errorf("it waited %s with --wait-timeout 12s", took)
	}
	n.registered(0, "")
}

// The time spent behind somebody else's lock counts, too.
func testWaitTimeoutBehindLock(t *testing.T, w *world) {
	_, err := holdLock(t, w)
	expect.Must(t, err)
	n := w.node("rabbit@localhost")
	n.start("--wait-timeout", "12s")
	n.logs("rabbit@holder")
	if out, code := n.run("healthcheck"); code != 0 || !strings.Contains(out, "lock") {
		t.Errorf("healthcheck of a node that waits for the lock: %d, %q", code, out)
	}
	n.refused(30*time.Second, "--wait-timeout", "rabbit@holder")
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
	if w.sessions() != 1 {
		t.Errorf("%d sessions, want 1", w.sessions())
	}

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
	if w.sessions() != 0 {
		t.Errorf("%d sessions, want none", w.sessions())
	}
	if _, held, err := lock.Holder(t.Context(), w.consul.Client, w.lockKey()); err != nil || held {
		t.Errorf("the lock is held: %t, %v", held, err)
	}
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
	expect.Eventually(t, 3*testTTL, "its session ends", func() error {
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

// A joiner that does not get ready is stopped, and decides afresh.
func testJoinTimeout(t *testing.T, w *world) {
	w.putRecord(formed("id-1", map[string]string{"a@localhost": "va"}))
	w.neighbour("a@localhost", "id-1", "a@localhost")
	n := w.node("b@localhost")
	n.start("--join-timeout", "10s")
	n.server(soon)
	n.exit(20 * time.Second)
	expect.Says(t, n.log(), "--join-timeout, RMQ_JOIN_TIMEOUT")
	n.registered(soon, "")
}

// A joiner that elected itself, as one whose clock is behind does, is taken into
// the cluster.
func testCameUpAlone(t *testing.T, w *world) {
	w.putRecord(formed("id-1", map[string]string{"a@localhost": "va"}))
	w.neighbour("a@localhost", "id-1", "a@localhost")
	n := w.node("b@localhost")
	n.start()
	n.server(soon)
	n.tell("amqp up")
	n.sees("id-2", n.name)
	n.put(n.path("view.joined"), "view|id-1|a@localhost,b@localhost|a@localhost,b@localhost||false|\n")
	n.tell("notify READY=1")
	n.registered(2*testBeat+soon, api.HealthPassing)
	calls, err := os.ReadFile(n.path("ctl"))
	expect.Must(t, err)
	at := 0
	for _, call := range []string{n.name + " stop_app", n.name + " join_cluster a@localhost", n.name + " start_app"} {
		i := strings.Index(string(calls)[at:], call)
		if i < 0 {
			t.Fatalf("%s is missing or out of order:\n%s", call, calls)
		}
		at += i
	}
	if r := w.record(); r.ClusterID != "id-1" || len(r.Members) != 2 {
		t.Errorf("record %+v", r)
	}
}

// A join came to nothing, and the cluster counts the node in: without its vote it has
// no majority. The node takes itself off, as one with which nothing is lost, and
// joins anew when the cluster can do without it. So it does where it finds nobody
// that runs, after a restart of both.
func testJoinCameToNothing(t *testing.T, w *world) {
	for name, failed := range map[string]bool{"given up": true, "nobody runs": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, w.consul)
			n := w.node("b@localhost")
			r := formed("id-1", map[string]string{"a@localhost": "va"}).Joins(n.name, "vb", time.Now())
			w.putRecord(r)
			a := w.neighbour("a@localhost", "id-1")
			running := "a@localhost"
			if !failed {
				running = ""
			}
			a.put(a.path("view"), "view|id-1|a@localhost,b@localhost|"+running+"||true|\n")
			n.put(n.state("pending"), statedir.Pending{Role: statedir.Joining, Claim: r.Claim, Volume: "vb", Failed: failed})
			n.put(n.data("coordination/x"), "half of a join")
			n.start()
			n.logs("members of cluster id-1, which hold its data: a@localhost")
			if g, gone := w.record().Gone[n.name]; !gone || !g.Unjoined || g.Volume != "vb" {
				t.Errorf("record %+v", w.record())
			}
			if pending, err := (statedir.Dir{State: n.state("")}).Pending(); err != nil || pending == nil || !pending.Failed || pending.Volume != "vb" {
				t.Errorf("pending while it waits: %+v, %v", pending, err)
			}
			a.put(a.path("view"), "view|id-1|a@localhost|a@localhost||true|\n")
			n.server(soon)
			if r := w.record(); r.Members[n.name] != "vb" || r.Joining[n.name] != "vb" || len(r.Replaced) != 0 {
				t.Errorf("record %+v", r)
			}
			if pending, err := (statedir.Dir{State: n.state("")}).Pending(); err != nil || pending == nil || pending.Failed || pending.Role != statedir.Joining || pending.Volume != "vb" {
				t.Errorf("pending: %+v, %v", pending, err)
			}
			if _, err := os.Stat(n.data("coordination/x")); err == nil {
				t.Error("what was left of the join lies in the way of the next one")
			}
		})
	}
}

// A join was under way on this volume, and the one on record is another: whatever that
// holds, this one's vote is not what the cluster waits for.
func testJoinOnAnotherVolume(t *testing.T, w *world) {
	n := w.node("b@localhost")
	w.putRecord(formed("id-1", map[string]string{"a@localhost": "va"}).With(n.name, "v-unmounted"))
	a := w.neighbour("a@localhost", "id-1")
	a.put(a.path("view"), "view|id-1|a@localhost,b@localhost|a@localhost||true|\n")
	n.put(n.state("pending"), statedir.Pending{Role: statedir.Joining, Claim: "c0", Volume: "vb"})
	n.start()
	n.logs("members of cluster id-1, which hold its data: a@localhost")
	if g, gone := w.record().Gone[n.name]; !gone || g.Unjoined || g.Volume != "v-unmounted" {
		t.Errorf("record %+v", w.record())
	}
}

// With queues of its own it is a split: said, failed, and not touched.
func testCameUpAloneWithQueues(t *testing.T, w *world) {
	w.putRecord(formed("id-1", map[string]string{"a@localhost": "va"}))
	w.neighbour("a@localhost", "id-1", "a@localhost")
	n := w.node("b@localhost")
	n.start()
	n.server(soon)
	n.tell("amqp up")
	n.sees("id-2", n.name)
	n.put(n.path("queues"), "7")
	n.tell("notify READY=1")
	n.reports(soon, api.HealthCritical, "holds 7 queues")
	expect.Consistently(t, testBeat+time.Second, "a split stays critical", func() error {
		status, err := n.status(w.consul.Client)
		if err == nil && status != api.HealthCritical {
			err = fmt.Errorf("it is %q", status)
		}
		return err
	})
	if calls, _ := os.ReadFile(n.path("ctl")); strings.Contains(string(calls), "reset") || strings.Contains(string(calls), "stop_app") {
		t.Errorf("it was touched:\n%s", calls)
	}
}

// A seed whose claim was taken over stops its server while that is alone, and
// its volume counts as blank.
func testOvertakenSeed(t *testing.T, w *world) {
	n := w.node("b@localhost")
	n.start()
	n.server(soon)
	w.putRecord(formed("id-1", map[string]string{"a@localhost": "va"}))
	n.tell("amqp up")
	n.sees("id-2", n.name)
	n.put(n.data("schema.DAT"), "")
	n.tell("notify READY=1")
	n.exit(testBeat + soon)
	expect.Says(t, n.log(), "overtaken")
	p, err := statedir.Dir{Data: n.data(""), State: n.state("")}.Pending()
	if err != nil || p == nil || p.Role != statedir.Alone {
		t.Errorf("pending: %+v, %v", p, err)
	}
	n.registered(soon, "")
	// Its restart waits for the cluster on record instead of starting beside it.
	n.start()
	n.logs("members of cluster id-1, which hold its data: a@localhost")
}

// stop_app, a pause in a minority and docker stop say the same words; READY
// brings the node back, verified anew.
func testStopAndReadyAgain(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.serves()
	n.tell("notify STOPPING=1")
	n.registered(time.Second, "")
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
	n.registered(time.Second, "")
	n.sees("id-of-another", n.name)
	n.tell("notify READY=1")
	n.reports(soon, api.HealthCritical, "SPLIT")
	n.registered(soon, api.HealthCritical)
}

func testStatusAfterReady(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.serves()
	n.tell("notify STATUS=Standing by")
	n.registered(time.Second, "")
	n.reports(soon, api.HealthCritical, "Standing by")
}

func testAMQPShutdown(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.serves()
	n.tell("amqp 320")
	n.registered(time.Second, "")
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
			n.registered(2*time.Second, "")
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
	n.reports(2*testBeat, api.HealthPassing, "passing until a second check fails")
	n.registered(0, api.HealthPassing)
	n.registered(2*testBeat, api.HealthCritical)
	n.tell("amqp up")
	n.registered(2*testBeat, api.HealthPassing)
}

// A member publishes a record that Consul lost, and overrules a founding that
// began beside it.
func testRecordLost(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.serves()
	was := w.record()
	_, err := w.consul.Client.KV().Delete(w.recordKey(), nil)
	expect.Must(t, err)
	w.recordBecomes(was)
	w.putRecord(peers.Record{}.Claimed("b@localhost", "vb", "", time.Now()))
	w.recordBecomes(was)
}

// Consul is put back to an earlier day, when this node had another volume, or none: the
// node that serves is named, and not stopped.
func testRecordOfEarlierDay(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	s := n.serves()
	was := w.record()
	lastWeek := time.Now().Add(-7 * 24 * time.Hour)
	for words, r := range map[string]peers.Record{
		"is on record with volume v-old": was.With(n.name, "v-old"),
		"its volume came up blank":       was.With("b@localhost", "vb").Without(n.name, "its volume came up blank", lastWeek),
	} {
		w.putRecord(r)
		n.reports(soon, api.HealthCritical, words)
		for range 2 { // companions: the second one knows it from the runtime file
			for _, pid := range w.companions() {
				n.kill(pid)
			}
			expect.Eventually(t, soon, "another companion", func() error { return w.replaced(n) })
			n.reports(soon, api.HealthCritical, words)
		}
		if now := n.server(soon); now.PID != s.PID || syscall.Kill(s.PID, 0) != nil {
			t.Errorf("the server was stopped because the record says that %s", words)
		}
		w.putRecord(was)
		n.registered(soon, api.HealthPassing)
	}
	if strings.Contains(n.log(), "stopping the server") {
		t.Error("the server was told to stop")
	}
	// What happened since it serves is no earlier day's: another one took its place.
	w.putRecord(was.Without(n.name, "its volume came up blank", time.Now()).With(n.name, "v-new"))
	n.exit(soon)
	expect.Says(t, n.log(), "stopping the server", "is on record with volume v-new")
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

func (w *world) recordBecomes(was peers.Record) {
	w.t.Helper()
	expect.Eventually(w.t, 2*testBeat, "the record is published again", func() error {
		if r := w.record(); r.State != peers.Formed || r.ClusterID != was.ClusterID || r.Members["rabbit@localhost"] != was.Members["rabbit@localhost"] {
			return fmt.Errorf("it is %+v", r)
		}
		return nil
	})
}

func testOtherClusterOnRecord(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.serves()
	w.putRecord(formed("id-2", map[string]string{"b@localhost": "vb"}))
	n.registered(2*testBeat, api.HealthCritical)
	n.reports(soon, api.HealthCritical, "id-2")
	if r := w.record(); r.ClusterID != "id-2" {
		t.Errorf("it replaced a record that is formed: %+v", r)
	}
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
	n.registered(time.Second, "")
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
	n.registered(testTTL+3*time.Second, api.HealthCritical)
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
	n.registered(time.Second, "")
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
	if left := w.companions(); len(left) > 0 {
		t.Errorf("the health check started %v for a node that waits", left)
	}
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

// What cannot be written is known before anything is claimed, and no half of it
// is left.
func testConfigNotWritable(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.put(n.path("taken/file"), "")
	n.put(n.path("sealed/file"), "")
	expect.Must(t, os.Chmod(n.path("sealed"), 0o555))
	for _, path := range []string{"/proc/rabbitmq.config", n.path("taken"), n.path("taken/file/rabbitmq.config"), n.path("sealed/rabbitmq.config")} {
		out, code := n.run("--config", path)
		if code != 1 || !strings.Contains(out, "--config") || !strings.Contains(out, "RMQ_CONFIG_FILE") {
			t.Errorf("--config %s: %d, %q", path, code, out)
		}
		if r := w.record(); r.State != peers.Absent {
			t.Errorf("--config %s: it claimed the founding first: %+v", path, r)
			_, err := w.consul.Client.KV().Delete(w.recordKey(), nil)
			expect.Must(t, err)
		}
	}
	if left, _ := filepath.Glob(n.path("*/*")); !slices.Equal(left, []string{n.path("sealed/file"), n.path("taken/file"), n.volume(".erlang.cookie"), n.volume("mnesia")}) &&
		!slices.Equal(left, []string{n.path("sealed/file"), n.path("taken/file"), n.volume("mnesia")}) {
		t.Errorf("left: %q", left)
	}
	n.registered(0, "")
}

// Any other command is executed as it is.
func testAnotherCommand(t *testing.T, w *world) {
	n := w.node("rabbit@localhost", "CONSUL_HTTP_TOKEN=t0ken")
	out, code := n.run("sh", "-c", `echo "$0|$@"; env | sort; exit 7`, "--ttl", "nonsense", "a b")
	want := slices.Clone(n.env)
	slices.Sort(want)
	if code != 7 || !strings.HasPrefix(out, "--ttl|nonsense a b\n") {
		t.Errorf("%d, %q", code, out)
	}
	for _, kv := range want {
		if !strings.Contains(out, kv+"\n") {
			t.Errorf("its environment lacks %s", kv)
		}
	}
	// The official image's own programs, too.
	if out, code := n.run("rabbitmqctl", "-q", "-n", n.name, "eval", "queues|"); code != 0 || out != "queues|0|\n" {
		t.Errorf("rabbitmqctl: %d, %q", code, out)
	}
	if files := expect.Tree(t, n.volume("")); len(files) > 0 {
		t.Errorf("it wrote %v", files)
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

func testFound(t *testing.T, w *world) {
	asleep, lost := epmd(t), closed(t)
	n := w.node("rabbit@localhost", "ERL_EPMD_PORT="+lost, "RABBITMQ_DIST_PORT="+closed(t)) // a RabbitMQ of this machine is another one
	w.putRecord(formed("id-1", map[string]string{"a@localhost": "va"}))
	a := w.neighbour("a@localhost", "id-1", "a@localhost")
	if out, code := n.run("forget-cluster", "--cluster-id", "id-1"); code != 1 || !strings.Contains(out, "a@localhost serves") {
		t.Errorf("forget-cluster beside a member that serves: %d, %q", code, out)
	}
	expect.Must(t, peers.Withdraw(t.Context(), w.consul.Client, peers.Registration{Service: w.service, Node: a.name}))
	if out, code := n.run("forget-cluster", "--cluster-id", "id-1"); code != 1 || !strings.Contains(out, "a@localhost answers") {
		t.Errorf("forget-cluster beside a member that runs unregistered: %d, %q", code, out)
	}
	// One that is off the record may serve the cluster all the same.
	w.putRecord(formed("id-1", map[string]string{a.name: "va"}).Without(a.name, "its volume came up blank", time.Now()))
	if out, code := n.run("forget-cluster", "--cluster-id", "id-1"); code != 1 || !strings.Contains(out, "a@localhost answers") {
		t.Errorf("forget-cluster beside a member that is off the record and runs: %d, %q", code, out)
	}
	w.putRecord(formed("id-1", map[string]string{"a@localhost": "va"}).With("blank@localhost", "vb").Without("blank@localhost", "its volume came up blank", time.Now()))
	expect.Must(t, os.Remove(a.path("view")))
	if out, code := n.run("forget-cluster", "--cluster-id", "id-9"); code != 1 || !strings.Contains(out, "id-1") {
		t.Errorf("forget-cluster for another cluster: %d, %q", code, out)
	}
	// That rabbitmqctl reaches nobody (69) is no evidence, nor is a connection refused.
	out, code := n.run("forget-cluster", "--cluster-id", "id-1")
	if code != 1 {
		t.Errorf("forget-cluster beside a member whose host has no epmd: %d", code)
	}
	expect.Says(t, out, "cannot be told", "a@localhost: no epmd listens at", ":"+lost, "Ask from a container that reaches these nodes", "--force")
	n.env = append(n.env, "ERL_EPMD_PORT="+asleep)
	// Nor is it down while its companion beats, whatever RabbitMQ's state.
	reg := peers.Registration{Service: w.service, Node: a.name, Address: a.ip, Port: 5672, TTL: time.Hour, DeregisterAfter: time.Hour, ClusterID: "id-1"}
	expect.Must(t, peers.Announce(t.Context(), w.consul.Client, reg, peers.Starting, "booting"))
	if out, code := n.run("forget-cluster", "--cluster-id", "id-1"); code != 1 || !strings.Contains(out, "a@localhost: its entry in Consul, at "+a.ip+":5672, has not lapsed") {
		t.Errorf("forget-cluster beside a member that starts: %d, %q", code, out)
	}
	expect.Must(t, peers.Withdraw(t.Context(), w.consul.Client, reg))
	// Not knowing is not "down". The answer takes longer than a session lives that nobody renews.
	a.put(a.path("deaf"), fmt.Sprint(2*testTTL.Seconds()))
	n.env = append(n.env, "ERL_EPMD_PORT="+epmd(t, "a"))
	if out, code := n.run("forget-cluster", "--cluster-id", "id-1"); code != 1 || !strings.Contains(out, "cannot be told") || !strings.Contains(out, "ask a@localhost") || !strings.Contains(out, "--force") {
		t.Errorf("forget-cluster beside a member that lets nobody in: %d, %q", code, out)
	}
	if r := w.record(); len(r.Members) != 1 {
		t.Fatalf("it was refused and changed the record: %+v", r)
	}
	host, err := os.Hostname()
	expect.Must(t, err)
	if out, code := n.run("forget-cluster", "--cluster-id", "id-1", "--force"); code != 0 || !strings.Contains(out, "given up") {
		t.Errorf("forget-cluster --force: %d, %q", code, out)
	}
	if g := w.record().Gone[a.name]; g.By != "rmq-entrypoint forget-cluster --force on host "+host {
		t.Errorf("on record is %+v", g)
	}
	w.putRecord(formed("id-1", map[string]string{"a@localhost": "va"}))
	expect.Must(t, os.Remove(a.path("deaf")))
	n.env = append(n.env, "ERL_EPMD_PORT="+asleep)
	out, code = n.run("forget-cluster", "--cluster-id", "id-1")
	if code != 0 {
		t.Errorf("forget-cluster: %d", code)
	}
	expect.Says(t, out, "a@localhost is down: epmd at", "does not list it", "given up")
	if w.sessions() != 0 {
		t.Error("it left a session")
	}
	out, _ = n.run("status")
	expect.Says(t, out, "a@localhost on ", "written by rmq-entrypoint forget-cluster on host "+host)

	// The volume is refused, and told by whom and when it was given up.
	a.hasData(&statedir.Marker{ClusterID: "id-1", Volume: "va", Members: []string{a.name}})
	a.start()
	a.refused(soon, "refusing to start", "a@localhost was taken off cluster id-1 on "+time.Now().UTC().Format("2006-01-02T"), "by rmq-entrypoint forget-cluster on host "+host,
		"nobody is on record any more", "Its data is kept", "delete the key "+w.recordKey())

	n.start()
	n.server(soon)
	if r := w.record(); r.State != peers.Forming || r.Seed != n.name || len(r.Previous) != 1 || r.Previous[0].ClusterID != "id-1" {
		t.Errorf("record %+v", r)
	}
	expect.Says(t, n.log(), "FOUNDING ANEW: the cluster on record was given up", "given_up_by=", "rmq-entrypoint forget-cluster on host "+host)
}

// A cluster is given up while it runs: the member that serves stops for nobody, takes that
// back with all who were given up, names who wrote it, and passes all the while.
func testGivenUpWhileItServes(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	s := n.serves()
	cluster := "id-of-" + w.service
	n.sees(cluster, n.name, "b@localhost")
	expect.Eventually(t, soon, "b is on record", func() error {
		if _, on := w.record().Members["b@localhost"]; !on {
			return fmt.Errorf("it is not: %+v", w.record())
		}
		return nil
	})
	was := w.record()
	r := was.With("b@localhost", "vb").With("c@localhost", "vc")
	gone := r
	for _, m := range r.Names() {
		gone = gone.Without(m, peers.GivenUp("rmq-entrypoint forget-cluster"), time.Now()).By(m, "rmq-entrypoint forget-cluster on host far-away")
	}
	w.putRecord(gone)
	w.recordBecomes(was)
	if back := w.record(); back.Members["b@localhost"] != "vb" || len(back.Gone) != 1 { // c is nobody that RabbitMQ knows
		t.Errorf("on record are %v, gone %v", back.Members, back.Gone)
	}
	n.reports(soon, api.HealthPassing, "")
	expect.Says(t, n.log(), "taken off the record all the same", "written_by=\"rmq-entrypoint forget-cluster on host far-away\"")

	for name, g := range map[string]peers.Gone{
		"by an earlier version":          {Why: "given up by an operator (rmq-entrypoint forget-cluster)", At: time.Now().Add(-24 * time.Hour)},
		"by hand":                        {Why: "because", By: "alice", At: time.Now().Add(-24 * time.Hour)},
		"that it left, by another, now":  {Why: "told to (rmq-entrypoint leave)", Left: true, At: time.Now().Add(time.Second)},
		"by another under its name, now": {Why: "its volume came up blank", By: n.name + ", its volume blank, on host other", At: time.Now().Add(time.Second)},
	} {
		g.Volume = was.Members[n.name]
		r := was.With("b@localhost", "vb")
		r.Members = map[string]string{"b@localhost": "vb"}
		r.Gone = map[string]peers.Gone{n.name: g}
		w.putRecord(r)
		w.recordBecomes(was)
		expect.Consistently(t, testBeat, name+" it passes", func() error {
			if status, err := n.status(w.consul.Client); err != nil || status != api.HealthPassing {
				return fmt.Errorf("it is %q, %v", status, err)
			}
			return nil
		})
	}

	// Another cluster was founded since: a split, which nobody ends but a person; and one
	// that is only being founded is overruled.
	w.putRecord(gone.Claimed("x@localhost", "vx", "", time.Now()))
	w.recordBecomes(was)
	w.putRecord(gone.Claimed("x@localhost", "vx", "", time.Now()).Founded("id-new", time.Now()))
	n.reports(soon, api.HealthCritical, "SPLIT")
	expect.Consistently(t, 2*testBeat, "it serves on", func() error { return syscall.Kill(s.PID, 0) })
	if strings.Contains(n.log(), "stopping the server") {
		t.Error("the server was told to stop")
	}
}
