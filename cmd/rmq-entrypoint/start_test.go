package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/statedir"
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
		"queues of an adopted cluster":      testAdoptedQueues,
		"services beside":                   testBeside,
		"nothing beside":                    testNothingBeside,
		"beside, where it listens":          testBesideElsewhere,
		"hosts":                             testHosts,
		"hosts of a member":                 testHostsOfMember,
		"hosts of strangers":                testHostsOfStrangers,
		"hosts of a copy":                   testHostsOfACopy,
		"own address":                       testOwnAddress,
		"hosts of a member without Consul":  testHostsWithoutConsul,
		"hosts by a user's inetrc":          testUsersInetrc,
		"tags and meta":                     testTagsAndMeta,
		"advertised interface":              testAdvertisedInterface,
		"advertised elsewhere":              testAdvertisedElsewhere,
		"joiner":                            testJoiner,
		"member":                            testMember,
		"signal while waiting for the lock": testSIGTERMWaitingForLock,
		"signal while waiting for members":  testSIGTERMWaitingForMembers,
		"server cannot be executed":         testExecFailure,
		"two on one volume":                 testTwoOnOneVolume,
		"volume refused":                    testVolumeRefused,
		"refused again and again":           testRefusedAgain,
		"health since the start":            testHealthStarted,
		"way out while it waits":            testWayOutWhileWaiting,
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
		"never claimed":                     testNeverClaimed,
		"stop and ready again":              testStopAndReadyAgain,
		"pause_minority is read back":       testPauseMinorityIsReadBack,
		"login of rabbitmq-env.conf":        testLoginOfEnvConf,
		"login under short names":           testLoginOfShortNames,
		"READY was lost":                    testReadyLost,
		"READY was lost, listens elsewhere": testReadyLostElsewhere,
		"READY of a joiner was lost":        testReadyOfJoinerLost,
		"listener restarts":                 testListenerRestarts,
		"status after ready":                testStatusAfterReady,
		"out at once":                       testOutAtOnce,
		"AMQP closed by a shutdown":         testAMQPShutdown,
		"server ends":                       testServerEnds,
		"listens elsewhere":                 testListensElsewhere,
		"shut out":                          testShutOut,
		"two misses":                        testTwoMisses,
		"out of descriptors":                testOutOfDescriptors,
		"login waits for READY":             testLoginWaitsForReady,
		"companion keeps secrets":           testCompanionKeepsSecrets,
		"seed with hosts ends":              testSeedWithHostsEnds,
		"commands inherit nothing":          testCommandsInheritNothing,
		"standby ends":                      testStandbyEnds,
		"record lost":                       testRecordLost,
		"forgotten by hand":                 testForgottenByHand,
		"cluster id changes":                testClusterIDChanges,
		"record of an earlier day":          testRecordOfEarlierDay,
		"signal while the companion starts": testSIGTERMWhileCompanionStarts,
		"Consul's name has no address":      testConsulsNameHasNoAddress,
		"other cluster on record":           testOtherClusterOnRecord,
		"companion killed":                  testCompanionKilled,
		"companion and server killed":       testCompanionAndServerKilled,
		"companion by hand":                 testCompanionByHand,
		"reason of the companion":           testReasonOfTheCompanion,
		"health of a node that waits":       testHealthWaiting,
		"notify socket of somebody else":    testNotifyForwarded,
		"configuration cannot be written":   testConfigNotWritable,
		"configuration of somebody else":    testConfigIsSomebodyElses,
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
		"a lone broker's volume":            testSingleBecomesCluster,
		"a lone broker's empty volume":      testSingleWithoutData,
		"doctor":                            testDoctor,
		"forget":                            testForget,
		"forget refused":                    testForgetRefused,
		"forget interrupted":                testForgetInterrupted,
		"one look":                          testOneLook,
		"one look at what is refused":       testLookAtRefused,
		"forget-cluster":                    testFound,
		"name alive":                        testNameAlive,
		"name lapsed with Consul away":      testNameLapsedWithConsulAway,
		"name seen running":                 testNameSeenRunning,
		"name taken back":                   testNameTakenBack,
		"name of data taken":                testNameOfDataTaken,
		"stopped node keeps its name":       testStoppedKeepsName,
		"node that left holds no name":      testLeftHoldsNoName,
		"name taken meanwhile":              testNameTakenMeanwhile,
		"name comes back":                   testComesBack,
		"name taken by another while alone": testAloneUnderTakenName,
		"loopback name":                     testLoopbackName,
		"adopted outranks founding":         testAdoptedOutranksFounding,
		"record nobody wrote":               testRecordNobodyWrote,
		"nobody on record but registered":   testNobodyOnRecordButRegistered,
		"foreign entries":                   testForeignEntries,
		"stranger in DNS":                   testStrangerInDNS,
		"words of others":                   testWordsOfOthers,
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
		"RABBITMQ_MNESIA_BASE=" + n.volume("mnesia"),
		// The stop timeout and a moment, and nothing unsent to hold it up.
		"ERL_ZFLAGS=-shutdown_time 14000 -kernel inet_dist_connect_options [{linger,{true,0}}] -kernel inet_dist_listen_options [{linger,{true,0}}]",
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
	if want := strings.Replace(seedConfig, "SERVICE", w.service, 1); string(config) != want {
		t.Errorf("rabbitmq.config:\n%s\nwant:\n%s", config, want)
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
  {default_policies,[{operator,[{<<"rmq-entrypoint-delivery-limit">>,[{<<"vhost_pattern">>,".*"},{<<"queue_pattern">>,<<".*">>},{<<"delivery_limit">>,-1}]}]}]},
  {quorum_membership_reconciliation_enabled,true},
  {quorum_membership_reconciliation_target_group_size,3},
  {cluster_name,<<"SERVICE">>}
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
  {default_policies,[{operator,[{<<"rmq-entrypoint-delivery-limit">>,[{<<"vhost_pattern">>,".*"},{<<"queue_pattern">>,<<".*">>},{<<"delivery_limit">>,-1}]}]}]},
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

// A volume that the record positively rules out is not started, and kept.
func testVolumeRefused(t *testing.T, w *world) {
	mine := &statedir.Marker{ClusterID: "id-1", Volume: "v1", Members: []string{"a@localhost"}}
	for name, c := range map[string]struct {
		record peers.Record
		words  []string
	}{
		"given up by hand": {formed("id-1", map[string]string{"a@localhost": "v1", "b@localhost": "vb"}).Without("a@localhost", "because", time.Now()).By("a@localhost", "alice"),
			[]string{"a@localhost was taken off cluster id-1 on", "by alice (because)", "b@localhost"}},
		"removed": {formed("id-1", map[string]string{"b@localhost": "vb"}).With("a@localhost", "v1").Without("a@localhost", "its volume came up blank", time.Now()),
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
			n.refusedForGood(soon, append(c.words, "refusing to start", "Its data is kept", "empty volume")...)
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
