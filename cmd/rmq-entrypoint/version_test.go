package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
	"rmq-entrypoint/tests/consultest"
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
	r := peers.Registration{Service: n.service, Node: n.name, Address: n.ip, Port: 5672, TTL: time.Hour, Reap: time.Hour, ClusterID: cluster, Version: version}
	must(n.t, peers.Enter(n.t.Context(), n.consul.Client, r, ""))
	must(n.t, peers.Report(n.t.Context(), n.consul.Client, r, api.HealthPassing, ""))
}

// unchanged starts the node, which must be refused within a second with the words, and
// leave volume, record, catalog and sessions as they are.
func (n *node) unchanged(words ...string) {
	n.t.Helper()
	n.own()
	before, record := tree(n.t, n.volume("")), n.record()
	began := time.Now()
	n.start()
	n.refused(soon, append(words, "refusing to start, nothing was changed", "--allow-version-jump (RMQ_ALLOW_VERSION_JUMP=true)")...)
	n.t.Logf("refused in %s", time.Since(began))
	if after := tree(n.t, n.volume("")); !sameTree(before, after) {
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
	must(t, err)
	return string(b)
}

func (n *node) flags() string { return n.volume(filepath.Join("mnesia", n.name+"-feature_flags")) }

func testJump(t *testing.T, w *world) {
	r := formed("id-1", map[string]string{"rabbit@localhost": "v1", "b@localhost": "vb", "c@localhost": "vc", "d@localhost": "vd"})
	r.Versions = map[string]string{"c@localhost": "4.0.4"}
	w.putRecord(r)
	w.neighbourOf("4.0.6", "b@localhost", "id-1", "rabbit@localhost", "b@localhost", "c@localhost")
	n := w.node("rabbit@localhost", "RABBITMQ_VERSION=4.3.6")
	n.hasData(&memberFile{ClusterID: "id-1", Volume: "v1", RabbitMQ: "4.0.5", Erlang: "27.3.4.1"})
	n.put(n.flags(), flagsOf(t, "4.0.5"))
	n.unchanged("RabbitMQ 4.0.5 (Erlang 27.3.4.1) ran on this volume last", "this image has RabbitMQ 4.3.6", "takes only volumes of 4.2",
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
		n.unchanged(words...)
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
	n.put(n.state("version"), stampFile{RabbitMQ: "4.1.0"})
	n.own()
	before := tree(t, n.volume(""))
	n.start()
	n.refused(soon, "RabbitMQ 4.1.0 ran on this volume last", "the next version to go to is 4.2", "cannot be told: no Consul answers")
	if !sameTree(before, tree(t, n.volume(""))) {
		t.Error("it changed the volume")
	}
}

func testJumpAdopted(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.hasData(nil)
	n.put(n.flags(), flagsOf(t, "3.10.8"))
	n.unchanged("RabbitMQ 3.10.0 or a later one ran on this volume last, as its feature flags say ("+n.flags()+")", "direct_exchange_routing_v2",
		"the next version to go to is 3.11 (3.11.18 or later), then 3.12, then 3.13, then 4.0")
	n.put(n.flags(), flagsOf(t, "4.3.6"))
	n.unchanged("RabbitMQ 4.3.1 or a later one", "no downgrade", "from the image that it had")
	// Ours ran 4.0.5, the official image 4.3.6 since: what RabbitMQ wrote down counts.
	n.put(n.state("member"), memberFile{ClusterID: "id-1", Volume: "v1", RabbitMQ: "4.0.5"})
	n.unchanged("RabbitMQ 4.3.1 or a later one", "no downgrade")
	n.image("4.3.6")
	n.start()
	n.server(soon)
	n.kill(n.cmd.Process.Pid)
}

func testJumpAllowed(t *testing.T, w *world) {
	n := w.node("rabbit@localhost", "RABBITMQ_VERSION=4.3.6")
	n.hasData(nil)
	n.put(n.state("version"), stampFile{RabbitMQ: "4.0.5"})
	n.start("--allow-version-jump")
	n.server(soon)
	says(t, n.log(), "A JUMP OF VERSIONS IS LET THROUGH", "RabbitMQ 4.0.5 ran on this volume last", "level=ERROR")
	n.kill(n.cmd.Process.Pid)
	n.exit(soon)
	n.registered(soon, "")
	// It may have changed the volume, though it came to nothing.
	n.image("4.0.5")
	n.unchanged("RabbitMQ 4.3.6 ran on this volume last", "no downgrade")
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
	n.unchanged("RabbitMQ 4.2.3 ran on this volume last", "no downgrade", "from an image of RabbitMQ 4.2.3")
}

func testVersionsOnRecord(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.serves()
	if r := w.record(); r.Versions[n.name] != "4.0.5" {
		t.Errorf("record %+v", r)
	}
	if m, err := (volume{n.data(""), n.state("")}).member(); err != nil || m.RabbitMQ != "4.0.5" {
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
	n.hasData(&memberFile{ClusterID: "id-1", Volume: "v1", RabbitMQ: "4.2.3"})
	n.unchanged("RabbitMQ 4.3.6 in this image and RabbitMQ 4.0.5 of b@localhost cannot run in one cluster", "go back to an image of RabbitMQ 4.2.3 here",
		"bring b@localhost to a version that 4.3 takes first (4.2)", "b@localhost runs 4.0.5")
	// The others went on while it was down.
	b.becomes("4.3.6", "id-1")
	n.put(n.state("member"), memberFile{ClusterID: "id-1", Volume: "v1", RabbitMQ: "4.0.5"})
	n.image("4.0.5")
	n.unchanged("RabbitMQ 4.0.5 in this image and RabbitMQ 4.3.6 of b@localhost", "the next version to go to is 4.2")
	must(t, peers.Withdraw(t.Context(), w.consul.Client, peers.Registration{Service: w.service, Node: b.name}))
	n.put(n.state("member"), memberFile{ClusterID: "id-1", Volume: "v1", RabbitMQ: "4.2.3"})
	n.image("4.3.6")
	n.start()
	n.server(soon)
	n.kill(n.cmd.Process.Pid)
}

func testMixOfBlank(t *testing.T, w *world) {
	w.putRecord(formed("id-1", map[string]string{"rabbit@localhost": "v1", "b@localhost": "vb"}))
	w.neighbourOf("4.0.5", "b@localhost", "id-1", "b@localhost")
	n := w.node("rabbit@localhost", "RABBITMQ_VERSION=4.3.6")
	n.unchanged("RabbitMQ 4.3.6 in this image and RabbitMQ 4.0.5 of b@localhost cannot run in one cluster", "start this node from an image of RabbitMQ 4.0.5")
	if files := tree(t, n.volume("")); len(files) > 0 {
		t.Errorf("it wrote %v", files)
	}
}

// The members come up after the node has begun to wait for them.
func testMixWithLater(t *testing.T, w *world) {
	w.putRecord(formed("id-1", map[string]string{"b@localhost": "vb"}))
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
	w.putRecord(formed("id-1", map[string]string{"b@localhost": "vb"}))
	w.neighbourOf("4.0.5", "b@localhost", "id-1", "b@localhost")
	n := w.node("rabbit@localhost", "RABBITMQ_VERSION=4.3.6", "RMQ_ALLOW_VERSION_JUMP=1")
	n.start()
	n.server(soon)
	says(t, n.log(), "A JUMP OF VERSIONS IS LET THROUGH", "joining all the same", "role=joining")
	n.kill(n.cmd.Process.Pid)
}

// The stand-in's members answer that they are not on Khepri.
func testBlankBesideMnesia(t *testing.T, w *world) {
	w.putRecord(formed("id-1", map[string]string{"b@localhost": "vb"}))
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
	n.unchanged("RabbitMQ 4.2.0 or a later one ran on this volume last", "no downgrade", "an empty volume lets the node join its cluster again")
	n.put(n.state("member"), memberFile{ClusterID: "id-1", Volume: "v1", RabbitMQ: "4.0.5"})
	n.unchanged("RabbitMQ 4.2.0 or a later one ran on this volume last", "no downgrade", "an empty volume lets the node join its cluster again")
}

func testFlagsBesideNothing(t *testing.T, w *world) {
	n := w.node("rabbit@localhost", "RABBITMQ_VERSION=4.3.6")
	n.put(n.flags(), flagsOf(t, "3.10.8"))
	n.unchanged("holds no database", n.flags(), "remove that file")
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

// Only who is seen to run, in this cluster, binds others.
func TestWhoRuns(t *testing.T) {
	beats := func(name string) peers.Peer {
		return peers.Peer{Node: name, ClusterID: "id-1", Version: "4.0.5", Beating: true}
	}
	o := around{record: formed("id-1", nil)}
	for name, change := range map[string]func(*peers.Peer){
		"passes":          func(p *peers.Peer) { p.Passing = true },
		"boots":           func(p *peers.Peer) { p.ClusterID = "" },
		"silent":          func(p *peers.Peer) { p.Beating = false },
		"agent lost":      func(p *peers.Peer) { p.AgentFailed = true },
		"another cluster": func(p *peers.Peer) { p.ClusterID = "id-2" },
		"says nothing":    func(p *peers.Peer) { p.Version = "" },
		"says nonsense":   func(p *peers.Peer) { p.Version = "latest" },
	} {
		p := beats(name)
		change(&p)
		o.peers = append(o.peers, p)
	}
	moved, old := beats("passes"), beats("passes")
	moved.Version, moved.Passing, old.Version = "4.2.0", true, "3.13.7"
	o.peers = append([]peers.Peer{old, moved}, o.peers...)
	if got := slices.Sorted(maps.Keys(o.running())); !slices.Equal(got, []string{"boots", "passes"}) || o.running()["passes"].String() != "4.2.0" {
		t.Errorf("these run: %v", o.running())
	}
	if why := o.mix(runs{Version: rabbitconf.Version{Major: 4, Minor: 2}}, runs{}); why != "" {
		t.Error(why)
	}
	if why := (around{err: os.ErrDeadlineExceeded, peers: o.peers}).mix(runs{Version: rabbitconf.Version{Major: 4, Minor: 3}}, runs{}); why != "" {
		t.Error(why)
	}
}

func TestErlangAt(t *testing.T) {
	root := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, "releases", name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(text), 0o600))
	}
	want := func(version string) {
		t.Helper()
		if got := erlangAt(root); got != version {
			t.Errorf("Erlang %q, want %q", got, version)
		}
	}
	want("")
	put("start_erl.data", "15.2.7 27")
	want("27")
	put("26/OTP_VERSION", "26.2.5\n")
	put("27/OTP_VERSION", "27.3.4.1\n")
	want("27.3.4.1")
	put("27/OTP_VERSION", "27.3.4.1**\n")
	want("27.3.4.1")
	put("start_erl.data", "")
	want("")
	if erlangJump("27.3", "25.2.3") == "" || erlangJump("27.3", "27.1") != "" || erlangJump("", "25") != "" || erlangJump("25", "") != "" {
		t.Error("an older Erlang is told by its major version alone")
	}
}

// Witnesses that disagree: the highest counts.
func TestRanLast(t *testing.T) {
	dir := t.TempDir()
	vol := volume{filepath.Join(dir, "data"), dir}
	if got := vol.ranLast(); got != (runs{}) {
		t.Errorf("nothing: %v", got)
	}
	must(t, writeJSON(vol.file("member"), memberFile{ClusterID: "id", Volume: "v", RabbitMQ: "4.0.5", Erlang: "27"}))
	four := rabbitconf.Version{Major: 4, Minor: 0, Patch: 5}
	if got := vol.ranLast(); got != (runs{four, "27"}) {
		t.Errorf("marker: %v", got)
	}
	must(t, vol.stamp(rabbitconf.Version{Major: 4, Minor: 2}, "28", time.Now()))
	if got := vol.ranLast(); got.String() != "RabbitMQ 4.2.0 (Erlang 28)" {
		t.Errorf("stamp: %v", got)
	}
	must(t, vol.stamp(rabbitconf.Version{Major: 3, Minor: 13}, "26", time.Now()))
	if got := vol.ranLast(); got != (runs{four, "27"}) {
		t.Errorf("a jump down that was let through and has not served: %v", got)
	}
	must(t, os.WriteFile(vol.file("version"), []byte("{"), 0o600))
	if got := vol.ranLast(); got != (runs{four, "27"}) {
		t.Errorf("a stamp that is damaged: %v", got)
	}
	must(t, os.WriteFile(vol.file("version"), []byte(`{"rabbitmq":"of mine"}`), 0o600))
	if got := vol.ranLast(); !slices.Contains([]runs{{four, "27"}}, got) {
		t.Errorf("a stamp of no version: %v", got)
	}
}
