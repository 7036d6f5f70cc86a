package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

func TestVersions(t *testing.T) {
	t.Parallel()
	c := consultest.Start(t)
	for name, scenario := range map[string]func(*testing.T, *world){
		"jump":                             testJump,
		"jump of an adopted volume":        testJumpAdopted,
		"jump that is allowed":             testJumpAllowed,
		"start that came to nothing":       testDowngradeAfterNothing,
		"versions on record":               testVersionsOnRecord,
		"mix of a member":                  testMixOfMember,
		"mix, by an entry alone":           testMixByEntryAlone,
		"mix of a blank node":              testMixOfBlank,
		"mix with who comes later":         testMixWithLater,
		"mix of a blank node, allowed":     testMixAllowed,
		"blank beside a cluster on Mnesia": testBlankBesideMnesia,
		"flags left beside nothing":        testFlagsBesideNothing,
		"half migrated":                    testHalfMigrated,
		"unknown versions":                 testUnknownVersions,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); scenario(t, newWorld(t, c)) })
	}
}

// neighbourOf is a neighbour that runs a version.
func (w *world) neighbourOf(version, name, cluster string, members ...string) *node {
	w.t.Helper()
	n := w.node(name)
	n.sees(cluster, members...)
	n.becomes(version, cluster)
	return n
}

// becomes registers the neighbour as of that version.
func (n *node) becomes(version, cluster string) {
	n.t.Helper()
	r := peers.Registration{Service: n.service, Node: n.name, Address: n.ip, Port: 5672, TTL: time.Hour, DeregisterAfter: time.Hour, ClusterID: cluster, Version: version}
	expect.Must(n.t, peers.Enter(n.t.Context(), n.consul.Client, r, func() peers.Standing { return peers.Serving }, ""))
	expect.Must(n.t, peers.Report(n.t.Context(), n.consul.Client, r, api.HealthPassing, ""))
}

// unchanged starts the node, which must be refused within a second with the status and the words, and
// leave volume, record, catalog and sessions as they are.
func (n *node) unchanged(status int, words ...string) {
	n.t.Helper()
	n.own()
	before, record := expect.Tree(n.t, n.volume("")), n.record()
	began := time.Now()
	n.start()
	n.refusedWith(status, soon, append(words, "refusing to start, nothing was changed", "--allow-version-jump (RMQ_ALLOW_VERSION_JUMP=true)")...)
	n.t.Logf("refused in %s", time.Since(began))
	if after := expect.Tree(n.t, n.volume("")); !sameTree(before, after) {
		n.t.Errorf("it changed the volume: %v", after)
	}
	n.registered(0, "")
	if n.record().Revision != record.Revision {
		n.t.Error("it changed the record")
	}
	if n.sessions() != 0 {
		n.t.Error("it left a session")
	}
}

func (n *node) image(version string) { n.env = append(n.env, "RABBITMQ_VERSION="+version) }

func flagsOf(t *testing.T, version string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "rabbitconf", "testdata", "feature_flags", version))
	expect.Must(t, err)
	return string(b)
}

func (n *node) flags() string { return n.volume(filepath.Join("mnesia", n.name+"-feature_flags")) }

func testJump(t *testing.T, w *world) {
	r := formed("id-1", map[string]string{"rabbit@localhost": "v1", "b@localhost": "vb", "c@localhost": "vc", "d@localhost": "vd"})
	r.Versions = map[string]string{"c@localhost": "4.0.4"}
	w.putRecord(r)
	w.neighbourOf("4.0.6", "b@localhost", "id-1", "rabbit@localhost", "b@localhost", "c@localhost")
	n := w.node("rabbit@localhost", "RABBITMQ_VERSION=4.3.6")
	n.hasData(&statedir.Marker{ClusterID: "id-1", Volume: "v1", RabbitMQ: "4.0.5", Erlang: "27.3.4.1"})
	n.put(n.flags(), flagsOf(t, "4.0.5"))
	n.unchanged(78, "RabbitMQ 4.0.5 (Erlang 27.3.4.1) ran on this volume last", "this image has RabbitMQ 4.3.6", "takes only volumes of 4.2",
		"not enabled here: rabbitmq_4.1.0, rabbitmq_4.2.0, khepri_db", "the next version to go to is 4.2, then 4.3", "rabbitmqctl enable_feature_flag all",
		"rabbitmqctl enable_feature_flag khepri_db", "b@localhost runs 4.0.6", "c@localhost does not run, and had 4.0.4", "d@localhost does not run, its version is not known")
	if out, _ := n.run("status"); !strings.Contains(strings.Join(strings.Fields(out), " "), "upgrade refused: RabbitMQ 4.0.5 (Erlang 27.3.4.1) ran on this volume last") {
		t.Errorf("status says\n%s", out)
	}
	for version, words := range map[string][]string{
		"3.13.7": {"RabbitMQ supports no downgrade", "from an image of RabbitMQ 4.0.5"},
		"4.0.4":  {"from patch release to patch release often works", "or of a later 4.0"},
	} {
		n.image(version)
		n.unchanged(78, words...)
	}
	n.image("4.0.7")
	if out, _ := n.run("status"); !strings.Contains(strings.Join(strings.Fields(out), " "), "upgrade not refused: RabbitMQ 4.0.5 (Erlang 27.3.4.1) ran last, this image has RabbitMQ 4.0.7") {
		t.Errorf("status says\n%s", out)
	}
	n.start()
	n.server(soon)
	n.kill(n.cmd.Process.Pid)
}

// Without Consul the volume refuses as well, and as fast.
func TestJumpWithoutConsul(t *testing.T) {
	w := newWorld(t, nil)
	n := w.node("rabbit@localhost", "RABBITMQ_VERSION=4.3.6", "CONSUL_HTTP_ADDR=10.255.255.1:8500,10.255.255.2:8500")
	n.hasData(nil)
	n.put(n.state("version"), statedir.Stamp{RabbitMQ: "4.1.0"})
	n.own()
	before := expect.Tree(t, n.volume(""))
	n.start()
	n.refusedForGood(soon, "RabbitMQ 4.1.0 ran on this volume last", "the next version to go to is 4.2", "cannot be told: no Consul answers")
	if !sameTree(before, expect.Tree(t, n.volume(""))) {
		t.Error("it changed the volume")
	}
}

func testJumpAdopted(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.hasData(nil)
	n.put(n.flags(), flagsOf(t, "3.10.8"))
	n.unchanged(78, "RabbitMQ 3.10.0 or a later one ran on this volume last, as its feature flags say ("+n.flags()+")", "direct_exchange_routing_v2",
		"the next version to go to is 3.11 (3.11.18 or later), then 3.12, then 3.13, then 4.0")
	n.put(n.flags(), flagsOf(t, "4.3.6"))
	n.unchanged(78, "RabbitMQ 4.3.1 or a later one", "no downgrade", "from the image that it had")
	// Ours ran 4.0.5, the official image 4.3.6 since: what RabbitMQ wrote down counts.
	n.put(n.state("member"), statedir.Marker{ClusterID: "id-1", Volume: "v1", RabbitMQ: "4.0.5"})
	n.unchanged(78, "RabbitMQ 4.3.1 or a later one", "no downgrade")
	n.image("4.3.6")
	n.start()
	n.server(soon)
	n.kill(n.cmd.Process.Pid)
}

func testJumpAllowed(t *testing.T, w *world) {
	n := w.node("rabbit@localhost", "RABBITMQ_VERSION=4.3.6")
	n.hasData(nil)
	n.put(n.state("version"), statedir.Stamp{RabbitMQ: "4.0.5"})
	n.start("--allow-version-jump")
	n.server(soon)
	expect.Says(t, n.log(), "A JUMP OF VERSIONS IS LET THROUGH", "RabbitMQ 4.0.5 ran on this volume last", "level=ERROR")
	n.kill(n.cmd.Process.Pid)
	n.exit(soon)
	n.registered(soon, "")
	// It may have changed the volume, though it came to nothing.
	n.image("4.0.5")
	n.unchanged(78, "RabbitMQ 4.3.6 ran on this volume last", "no downgrade")
	n.env = append(n.env, "RMQ_ALLOW_VERSION_JUMP=true")
	n.start()
	n.server(soon)
	n.kill(n.cmd.Process.Pid)
}

func testDowngradeAfterNothing(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.serves()
	n.kill(n.cmd.Process.Pid)
	n.exit(soon)
	n.registered(soon, "")
	n.image("4.2.3")
	n.start()
	n.server(soon)
	n.kill(n.cmd.Process.Pid)
	n.exit(soon)
	n.registered(soon, "")
	n.image("4.0.5")
	n.unchanged(78, "RabbitMQ 4.2.3 ran on this volume last", "no downgrade", "from an image of RabbitMQ 4.2.3")
}

func testVersionsOnRecord(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.serves()
	if r := w.record(); r.Versions[n.name] != "4.0.5" {
		t.Errorf("record %+v", r)
	}
	if m, err := (statedir.Dir{Data: n.data(""), State: n.state("")}).Marker(); err != nil || m.RabbitMQ != "4.0.5" {
		t.Errorf("marker %+v, %v", m, err)
	}
	n.kill(n.cmd.Process.Pid)
	n.exit(soon)
	n.registered(soon, "")
	n.image("4.2.3")
	n.start()
	n.server(soon)
	n.tell("amqp up")
	n.tell("notify READY=1")
	n.registered(soon, api.HealthPassing)
	if r := w.record(); r.Versions[n.name] != "4.2.3" {
		t.Errorf("record %+v", r)
	}
}

// Beside members that run, whatever the volume allows; those that do not run bind nobody.
func testMixOfMember(t *testing.T, w *world) {
	r := formed("id-1", map[string]string{"rabbit@localhost": "v1", "b@localhost": "vb"})
	r.Versions = map[string]string{"b@localhost": "4.0.5"}
	w.putRecord(r)
	b := w.neighbourOf("4.0.5", "b@localhost", "id-1", "rabbit@localhost", "b@localhost")
	n := w.node("rabbit@localhost", "RABBITMQ_VERSION=4.3.6")
	n.hasData(&statedir.Marker{ClusterID: "id-1", Volume: "v1", RabbitMQ: "4.2.3"})
	n.unchanged(1, "RabbitMQ 4.3.6 in this image and RabbitMQ 4.0.5 of b@localhost cannot run in one cluster", "go back to an image of RabbitMQ 4.2.3 here",
		"bring b@localhost to a version that 4.3 takes first (4.2)", "b@localhost runs 4.0.5")
	// The others went on while it was down.
	b.becomes("4.3.6", "id-1")
	r.Versions["b@localhost"] = "4.3.6"
	w.putRecord(r)
	n.put(n.state("member"), statedir.Marker{ClusterID: "id-1", Volume: "v1", RabbitMQ: "4.0.5"})
	n.image("4.0.5")
	n.unchanged(1, "RabbitMQ 4.0.5 in this image and RabbitMQ 4.3.6 of b@localhost", "the next version to go to is 4.2")
	expect.Must(t, peers.Withdraw(t.Context(), w.consul.Client, peers.Registration{Service: w.service, Node: b.name}))
	n.put(n.state("member"), statedir.Marker{ClusterID: "id-1", Volume: "v1", RabbitMQ: "4.2.3"})
	n.image("4.3.6")
	n.start()
	n.server(soon)
	n.kill(n.cmd.Process.Pid)
}

// b is down, and somebody who may only register services says that it runs, with a version of long ago.
func testMixByEntryAlone(t *testing.T, w *world) {
	r := formed("id-1", map[string]string{"rabbit@localhost": "v1", "b@localhost": "vb"})
	r.Versions = map[string]string{"rabbit@localhost": "4.3.6", "b@localhost": "4.3.6"}
	w.putRecord(r)
	w.neighbourOf("3.8.1", "b@localhost", "id-1", "rabbit@localhost", "b@localhost")
	n := w.node("rabbit@localhost", "RABBITMQ_VERSION=4.3.6")
	n.hasData(&statedir.Marker{ClusterID: "id-1", Volume: "v1", RabbitMQ: "4.3.6"})
	n.start()
	n.server(soon)
	n.logs("b@localhost, which has RabbitMQ 4.3.6 on record, says RabbitMQ 3.8.1 in the entry")
}

func testMixOfBlank(t *testing.T, w *world) {
	r := formed("id-1", map[string]string{"rabbit@localhost": "v1", "b@localhost": "vb"})
	r.Versions = map[string]string{"b@localhost": "4.0.5"}
	w.putRecord(r)
	w.neighbourOf("4.0.5", "b@localhost", "id-1", "b@localhost")
	n := w.node("rabbit@localhost", "RABBITMQ_VERSION=4.3.6")
	n.unchanged(1, "RabbitMQ 4.3.6 in this image and RabbitMQ 4.0.5 of b@localhost cannot run in one cluster", "start this node from an image of RabbitMQ 4.0.5")
	if files := expect.Tree(t, n.volume("")); len(files) > 0 {
		t.Errorf("it wrote %v", files)
	}
}

// The members come up after the node has begun to wait for them.
func testMixWithLater(t *testing.T, w *world) {
	r := formed("id-1", map[string]string{"b@localhost": "vb"})
	r.Versions = map[string]string{"b@localhost": "4.0.5"}
	w.putRecord(r)
	n := w.node("rabbit@localhost", "RABBITMQ_VERSION=4.3.6")
	n.start()
	n.logs("waiting")
	before := w.record()
	w.neighbourOf("4.0.5", "b@localhost", "id-1", "b@localhost")
	n.refused(soon, "RabbitMQ 4.0.5 of b@localhost cannot run in one cluster", "b@localhost runs 4.0.5")
	n.registered(0, "")
	if w.record().Revision != before.Revision || w.sessions() != 0 {
		t.Errorf("it changed the record to %+v, or left one of %d sessions", w.record(), w.sessions())
	}
}

func testMixAllowed(t *testing.T, w *world) {
	r := formed("id-1", map[string]string{"b@localhost": "vb"})
	r.Versions = map[string]string{"b@localhost": "4.0.5"}
	w.putRecord(r)
	w.neighbourOf("4.0.5", "b@localhost", "id-1", "b@localhost")
	n := w.node("rabbit@localhost", "RABBITMQ_VERSION=4.3.6", "RMQ_ALLOW_VERSION_JUMP=1")
	n.start()
	n.server(soon)
	expect.Says(t, n.log(), "A JUMP OF VERSIONS IS LET THROUGH", "joining all the same", "role=joining")
	n.kill(n.cmd.Process.Pid)
}

// The stand-in's members answer that they are not on Khepri.
func testBlankBesideMnesia(t *testing.T, w *world) {
	r := formed("id-1", map[string]string{"b@localhost": "vb"})
	r.Versions = map[string]string{"b@localhost": "4.0.5"}
	w.putRecord(r)
	w.neighbourOf("4.2.3", "b@localhost", "id-1", "b@localhost")
	n := w.node("rabbit@localhost", "RABBITMQ_VERSION=4.3.6")
	before := w.record()
	n.start()
	n.refused(soon, "runs in clusters on Khepri alone", "b@localhost", "rabbitmqctl enable_feature_flag khepri_db")
	n.registered(0, "")
	if w.record().Revision != before.Revision {
		t.Error("it changed the record")
	}
}

// What a start of 4.3.6 leaves of a member's volume of 4.0.5 that it could not migrate: the database is gone, and 4.0.5
// would take the others down.
func testHalfMigrated(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.put(n.data("coordination/rabbit@localhost/segment_name_upgrade_marker"), "")
	n.put(n.flags(), strings.Replace(flagsOf(t, "4.0.5"), "'rabbitmq_4.0.0'", "'rabbitmq_4.0.0', 'rabbitmq_4.1.0', 'rabbitmq_4.2.0', khepri_db", 1))
	n.unchanged(78, "RabbitMQ 4.2.0 or a later one ran on this volume last", "no downgrade", "an empty volume lets the node join its cluster again")
	n.put(n.state("member"), statedir.Marker{ClusterID: "id-1", Volume: "v1", RabbitMQ: "4.0.5"})
	n.unchanged(78, "RabbitMQ 4.2.0 or a later one ran on this volume last", "no downgrade", "an empty volume lets the node join its cluster again")
}

func testFlagsBesideNothing(t *testing.T, w *world) {
	n := w.node("rabbit@localhost", "RABBITMQ_VERSION=4.3.6")
	n.put(n.flags(), flagsOf(t, "3.10.8"))
	n.unchanged(78, "holds no database", n.flags(), "remove that file")
	expect.Must(t, os.Remove(n.flags()))
	n.put(n.path("flags"), flagsOf(t, "3.10.8"))
	n.put(n.path("env.conf"), "RABBITMQ_FEATURE_FLAGS_FILE="+n.path("flags")+"\n")
	n.env = append(n.env, "RABBITMQ_CONF_ENV_FILE="+n.path("env.conf"))
	n.unchanged(78, "holds no database", n.path("flags"), "remove that file")
	if out, _ := n.run("status"); !strings.Contains(out, n.path("flags")) {
		t.Errorf("status says\n%s", out)
	}
	expect.Must(t, os.Remove(n.path("env.conf")))
	n.put(n.flags(), flagsOf(t, "4.0.5")) // what it lacks, the server enables itself
	n.start()
	n.server(soon)
	n.kill(n.cmd.Process.Pid)
}

// What is not known refuses nobody, and is said.
func testUnknownVersions(t *testing.T, w *world) {
	for name, c := range map[string]struct {
		flags, version, word string
	}{
		"nothing tells":           {"", "4.0.5", "nothing on the volume tells"},
		"flags that are no flags": {"{", "4.0.5", "-feature_flags: line 1"},
		"newer than the table":    {flagsOf(t, "4.3.6"), "4.4.0", "RabbitMQ 4.3.1 or a later one ran last"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, w.consul)
			n := w.node("rabbit@localhost", "RABBITMQ_VERSION="+c.version)
			n.hasData(nil)
			if c.flags != "" {
				n.put(n.flags(), c.flags)
			}
			n.start()
			n.server(soon)
			if log := n.log(); strings.Count(log, "it starts") != 1 || !strings.Contains(log, c.word) {
				t.Errorf("it does not say once %q:\n%s", c.word, log)
			}
			n.kill(n.cmd.Process.Pid)
		})
	}
}
