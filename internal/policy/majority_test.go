package policy

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/peers"
)

// Who is told that it can never go on by itself, who is offered to carry on, and who is left alone because a member that
// is still on record may bring what it waits for.
func TestMajorityLost(t *testing.T) {
	t.Parallel()
	blank := peers.Gone{At: began}
	unjoined := peers.Gone{At: began, Why: "its join came to nothing", Unjoined: true}
	left := func(ago time.Duration) peers.Gone { return peers.Gone{At: began.Add(-ago), Why: "told to", Left: true} }
	both := func(m, more map[string]peers.Gone) map[string]peers.Gone { maps.Copy(m, more); return m }
	const khepri, mnesia, offer = "4.3.6", "4.0.5", "rmq-entrypoint force-boot --cluster-id id"
	const lost, mount = "THE MAJORITY IS GONE FOR GOOD: ", "if their volumes are only not mounted: stop all nodes, mount them, delete the key the/key in Consul, start the nodes with data; otherwise "
	const nothing, joinless = "and nothing is lost with it, but RabbitMQ counts on its vote: going on without", "the join of b came to nothing, "
	for _, tc := range []struct {
		name    string
		version string
		serving bool
		members string // as RabbitMQ lists them; "" when it cannot be asked
		noID    bool   // it cannot read its data
		running string
		waits   string // whom Mnesia waits for
		paused  bool
		on      string
		gone    map[string]peers.Gone
		up      string // members that beat, with ! those that pass, with ? those whose agent is not reached
		says    string // "": nothing
		lost    string // force-boot is offered without these
		given   bool   // the order is given without asking anybody
	}{
		{name: "all on record", version: khepri, members: "a,b,c", on: "a,b,c"},
		{name: "one of three lost", version: khepri, members: "a,b,c", on: "a,b", gone: gone(blank, "c")},
		{name: "two of three lost", version: khepri, members: "a,b,c", on: "a", gone: gone(blank, "b", "c"), says: lost + "b, c came up blank, and what only they held is lost; " + mount + "carry on from this copy: " + offer, lost: "b,c"},
		{name: "they may come back", version: khepri, members: "a,b,c", on: "a", gone: gone(peers.Gone{At: began, MayReturn: true}, "b", "c"), lost: "b,c",
			says: lost + "b, c came up blank, and what only they held is lost; if their volumes are only not mounted, or another container was started under their names: start them with their data, and they come back; otherwise carry on from this copy: " + offer},
		{name: "one may come back", version: khepri, members: "a,b,c", on: "a", gone: both(gone(peers.Gone{At: began, MayReturn: true}, "b"), gone(blank, "c")), says: lost + "*" + mount + "*", lost: "b,c"},
		{name: "two of three lost while it serves", version: khepri, serving: true, members: "a,b,c", running: "a", on: "a", gone: gone(blank, "b", "c"), says: lost + "b, c*" + offer, lost: "b,c"},
		{name: "half lost", version: khepri, members: "a,b", on: "a", gone: gone(blank, "b"), says: lost + "b came up blank*carry on from this copy*", lost: "b"},
		{name: "RabbitMQ forgot them, or never knew them", version: khepri, serving: true, members: "a", running: "a", on: "a", gone: gone(blank, "b", "c")},
		{name: "it cannot be asked", version: khepri, on: "a", gone: gone(blank, "b", "c")},
		{name: "two copies of four", version: khepri, members: "a,b,c,d", on: "a,b", gone: gone(blank, "c", "d"), says: lost + "c, d came up blank, and what only they held is lost; a, b hold a copy each, this node's served until 2026-01-02T03:04:00Z; " + mount + "wipe all copies but the newest, which then says how to carry on"},
		{name: "two of three lost right after it joined", version: khepri, members: "a,b,c", noID: true, on: "a", gone: gone(blank, "b", "c"), says: lost + "b, c*" + offer, lost: "b,c"},
		{name: "a join came to nothing", version: khepri, serving: true, members: "a,b", running: "a", on: "a", gone: gone(unjoined, "b"), says: joinless + nothing, given: true},
		{name: "a join came to nothing, and another is about to join", version: khepri, serving: true, members: "a,b", running: "a", on: "a,c", gone: gone(unjoined, "b"), says: joinless + nothing, given: true},
		{name: "one of two lost, and another is about to join", version: khepri, members: "a,b", on: "a,c", gone: gone(blank, "b"), says: lost + "b came up blank*carry on from this copy*", lost: "b"},
		{name: "off an earlier day's record, and it runs", version: khepri, serving: true, members: "a,b", running: "a,b", on: "a", gone: gone(unjoined, "b")},
		{name: "a join came to nothing, and another one is lost", version: khepri, members: "a,b,c", on: "a", gone: both(gone(unjoined, "b"), gone(blank, "c")), says: lost + "b, c came up blank*", lost: "b,c"},
		{name: "joins came to nothing, and two hold a copy each", version: khepri, members: "a,b,c,d", on: "a,b", gone: gone(unjoined, "c", "d"), says: lost + "c, d*hold a copy each*"},
		{name: "off the record itself", version: khepri, members: "a,b,c", on: "b", gone: gone(blank, "a", "c")},
		{name: "given up by another", version: khepri, members: "a,b", on: "a", gone: gone(peers.Gone{At: began, By: "alice"}, "b")},
		{name: "half left in good order", version: khepri, serving: true, members: "a,b", running: "a", on: "a", gone: gone(left(time.Minute), "b")},
		{name: "half left, and others have begun to finish that", version: khepri, members: "a,b", on: "a", gone: gone(left(leaveGrace+time.Minute), "b")},
		{name: "half left long ago, and still has a vote", version: khepri, members: "a,b", on: "a", gone: gone(left(time.Hour), "b"), lost: "b",
			says: lost + "b left with nothing lost, but RabbitMQ was not made to forget them in time; carry on from this copy: " + offer},
		{name: "one just left", version: mnesia, members: "a,b", waits: "b", on: "a", gone: gone(left(time.Minute), "b")},
		{name: "serving goes on", version: mnesia, serving: true, members: "a,b,c", running: "a,b,c", waits: "b", on: "a", gone: gone(blank, "b", "c")},
		{name: "alone", version: mnesia, members: "a,b,c", waits: "b,c", on: "a", gone: gone(blank, "b", "c"), says: lost + "b, c*" + offer, lost: "b,c"},
		{name: "alone, stopped last", version: mnesia, members: "a,b,c", on: "a", gone: gone(blank, "b", "c")},
		{name: "paused, and no majority ever", version: mnesia, members: "a,b,c", paused: true, on: "a", gone: gone(blank, "b", "c"), says: lost + "b, c*" + offer, lost: "b,c"},
		{name: "paused, a majority may come", version: mnesia, members: "a,b,c", paused: true, on: "a,b", gone: gone(blank, "c"), up: "b"},
		{name: "Mnesia cannot be asked", version: mnesia, on: "a", gone: gone(blank, "b", "c")},
		{name: "another copy's agent is not reached", version: mnesia, members: "a,b,c", waits: "b,c", on: "a,b", gone: gone(blank, "c"), up: "b?"},
		{name: "another copy serves", version: mnesia, members: "a,b,c", waits: "b,c", on: "a,b", gone: gone(blank, "c"), up: "b!"},
		{name: "another copy is not started", version: mnesia, members: "a,b,c", waits: "b,c", on: "a,b", gone: gone(blank, "c")},
		{name: "another copy waits, too", version: mnesia, members: "a,b,c", waits: "b,c", on: "a,b", gone: gone(blank, "c"), up: "b", lost: "c",
			says: lost + "c came up blank, and what only they held is lost; a, b hold a copy each, this node's served until 2026-01-02T03:04:00Z; " + mount + "carry on from the newest copy: " + offer},
		{name: "another copy waits, this one for it alone", version: mnesia, members: "a,b,c", waits: "b", on: "a,b", gone: gone(blank, "c"), up: "b"},
		{name: "Khepri by its feature flag", version: mnesia, noID: true, members: "a,b,c", on: "a", gone: gone(blank, "b", "c"), says: lost + "b, c*" + offer, lost: "b,c"},
	} {
		build := func() *world {
			w := newWorld()
			w.set.Version = tc.version
			if !tc.serving {
				w.boots(Member)
			}
			w.marker(Marker{ClusterID: "id", Volume: "va", Members: list("a"), At: began.Add(-5 * time.Second)})
			w.volume.KhepriFlag = tc.noID
			w.record = formed(tc.on)
			w.record.Gone = tc.gone
			v := viewOf(tc.members, tc.running)
			v.Khepri = tc.version == khepri || tc.noID
			if w.s.View.View = v; !tc.serving {
				w.s.View = View{}
			}
			switch w.known(v); {
			case tc.noID:
				v.ClusterID = ""
				w.views["a"] = Answer(v, errNot)
			case tc.members == "":
				w.views["a"] = Answer(peers.View{}, errNot)
			}
			if tc.members != "" {
				w.waits = Answer(Waits{list(tc.members), list(tc.waits), tc.paused}, nil)
			}
			var up []peers.Peer
			for _, n := range list(tc.up) {
				if n, passing := strings.CutSuffix(n, "!"); passing {
					up = append(up, passes(n))
				} else if n, unheard := strings.CutSuffix(n, "?"); unheard {
					p := beats(n)
					p.AgentFailed = true
					up = append(up, p)
				} else {
					up = append(up, beats(n))
				}
			}
			w.listed(up...)
			return w
		}
		rule := "waitsForMembers"
		if tc.serving {
			rule = "majorityLost"
		}
		for _, force := range []bool{false, true} {
			w := build()
			w.set.ForceBoot = force
			v, trace := w.beat(t)
			spoke := v.Rule == rule && !strings.Contains(v.Reason, "may wait") && !strings.Contains(v.Reason, "cannot be told yet")
			want := tc.says
			copies := len(list(tc.on))
			if tc.version == khepri || tc.noID { // what joins without a majority has none
				copies = len(slices.DeleteFunc(list(tc.on), func(m string) bool { return !slices.Contains(list(tc.members), m) }))
			}
			given := tc.given
			if force && tc.lost != "" && copies == 1 {
				given, want = true, lost+"*; carrying on from this copy, as --force-boot (RMQ_FORCE_BOOT) allows"
			}
			if spoke != (want != "") || spoke && !matches(v.Reason, want) || strings.Join(v.Lost, ",") != tc.lost {
				t.Errorf("%s, force %t: %s by %s without %v\nwant %s, %s", tc.name, force, trace, v.Rule, v.Lost, want, tc.lost)
			}
			names := tc.lost
			if tc.given {
				names = "b"
			}
			order := w.volume.CarryOn.Value
			if (order != nil) != given || given && (order.ClusterID != "id" || strings.Join(order.Lost, ",") != names || order.Forced) {
				t.Errorf("%s, force %t: the order is %+v", tc.name, force, order)
			}
			if (w.s.Majority.Unknown != nil) != (tc.members == "") {
				t.Errorf("%s: unknown: %v", tc.name, w.s.Majority.Unknown)
			}
			if spoke && (!w.logged("cannot go on alone*") || tc.serving != (w.s.Fault.Reason == v.Reason)) {
				t.Errorf("%s: fault %+v, log %v", tc.name, w.s.Fault, w.log)
			}
		}
		for what, change := range map[string]func(w *world){
			"forming":                func(w *world) { w.record.State, w.record.Seed = peers.Forming, "b" },
			"another cluster's":      func(w *world) { w.record.ClusterID = "other" },
			"a volume of no cluster": func(w *world) { w.volume.Marker.Value = nil },
			"a marker that is none":  func(w *world) { w.volume.Marker.Err = errNot },
		} {
			w := build()
			change(w)
			w.s.Majority.Lost = list("x")
			if v, _ := w.beat(t); strings.Contains(v.Reason, "GONE FOR GOOD") || strings.Contains(v.Reason, "going on without") || v.Lost != nil {
				t.Errorf("%s, %s: %s, %v", tc.name, what, v.Reason, v.Lost)
			}
		}
		if w := build(); tc.given {
			w.fails["WriteCarryOn"] = errNot
			if v, _ := w.beat(t); !strings.HasSuffix(v.Reason, nothing+"; no answer yet") {
				t.Errorf("%s: %s", tc.name, v.Reason)
			}
		}
	}
}

// A node that waits, and does not say for whom, is said to: somebody may have to act.
func TestWaitsForMembers(t *testing.T) {
	t.Parallel()
	boots := func(version, on string, up ...peers.Peer) func(*world) {
		return func(w *world) {
			w.set.Version = version
			w.boots(Member)
			w.views["a"] = Answer(peers.View{}, errNot)
			w.record = formed(on)
			w.listed(up...)
		}
	}
	drags := func(version, on string, up ...peers.Peer) func(*world) {
		return func(w *world) { boots(version, on, up...)(w); w.s.Server.Started = began.Add(-61 * time.Second) }
	}
	off := func(w *world) { w.record.Gone = gone(peers.Gone{}, "b") }
	const progress = "critical: Startup in progress"
	const still = progress + ", for over 1m0s, while all other members are up; "
	away := func(version, members, running string) func(*world) {
		return func(w *world) {
			boots(version, members)(w)
			w.recordErr = errNot
			v := viewOf(members, running)
			v.Khepri = version == "4.3.6"
			w.views["a"] = Answer(v, nil)
		}
	}
	joined := func(w *world) {
		w.s.Membership.Role, w.volume.Database, w.s.Join.Deadline = Joining, peers.Seen[bool]{Value: true}, began.Add(time.Minute)
		w.volume.Marker = peers.Seen[*Marker]{}
	}
	run(t, []row{
		{"all are up", func(w *world) {
			drags("4.3.6", "a,b", beats("b"))(w)
			w.views["a"] = Answer(viewOf("a,b", "a,b"), nil)
		}, "ask view a within 7.5s; ask record; ask catalog; " + still + "RabbitMQ's own log has how far it came;*", nil},
		{"all are up, for less than two boots", boots("4.3.6", "a,b", beats("b")), "ask record; ask catalog; " + progress, nil},
		{"all are up, and RabbitMQ does not see them", func(w *world) {
			drags("4.3.6", "a,b,c", beats("b"), beats("c"))(w)
			w.views["a"] = Answer(viewOf("a,b,c", "a"), nil)
		}, "ask view a within 7.5s; ask record; ask catalog; " + still + "RabbitMQ here lacks b, c:*doctor*", func(w *world) string {
			return check(w.logged("not ready yet*lacks b, c"), "the log does not say it")
		}},
		{"all are up, and Mnesia waits for one", func(w *world) {
			drags(version, "a,b", beats("b"))(w)
			w.waits = Answer(Waits{Members: list("a,b"), For: list("b")}, nil)
		}, "ask view a within 7.5s; ask record; ask catalog; ask waits within 7.5s; " + still + "RabbitMQ here lacks b:*", nil},
		{"there are no others", drags("4.3.6", "a"), "ask view a within 7.5s; ask record; ask catalog; " + progress, nil},
		{"all are up, and it stopped", func(w *world) { drags("4.3.6", "a,b", beats("b"))(w); w.stops() }, "ask record; ask catalog; critical: stopped (stopping)", nil},
		{"one is not", boots("4.3.6", "a,b,c", beats("b")), "ask record; ask catalog; " + progress + "; RabbitMQ may wait for members that are not up: c", func(w *world) string {
			return check(w.logged("not ready yet*RabbitMQ may wait"), "the log does not say it")
		}},
		{"its check lapsed", boots("4.3.6", "a,b", peers.Peer{Node: "b"}), "ask record; ask catalog; " + progress + "; RabbitMQ may wait for members that are not up: b", nil},
		{"its agent is not reached any more", boots("4.3.6", "a,b", peers.Peer{Node: "b", Beating: true, Entry: peers.Entry{AgentFailed: true}}), "ask record; ask catalog; " + progress + "; RabbitMQ may wait for members that are not up: b", nil},
		{"not for long", func(w *world) { boots("4.3.6", "a,b")(w); w.s.Server.Started = began.Add(-30 * time.Second) }, "ask record; ask catalog; " + progress + "; RabbitMQ may wait*", func(w *world) string {
			return check(!w.logged("not ready yet"), "the log says it")
		}},
		{"somebody came up blank, and it does not say", func(w *world) { boots("4.3.6", "a")(w); off(w) }, "ask record; ask view a; ask catalog; " + progress + "; whether RabbitMQ waits for members that came up blank cannot be told yet: no answer yet", nil},
		{"the same, and another is not up", func(w *world) { boots("4.3.6", "a,c")(w); off(w) }, "ask record; ask view a; ask catalog; " + progress + "; RabbitMQ may wait for members that are not up: c", nil},
		{"Mnesia does not say", func(w *world) { boots(version, "a")(w); off(w) }, "ask record; ask waits; ask catalog; " + progress + "; whether RabbitMQ waits*", nil},
		{"Mnesia waits, and the catalog is unknown", func(w *world) {
			boots(version, "a,c")(w)
			off(w)
			w.waits, w.catalog = Answer(Waits{Members: list("a,b"), For: list("b")}, nil), Answer([]peers.Peer(nil), errNot)
		}, "ask record; ask waits; ask catalog; " + progress + "; RabbitMQ may wait for b, of the members a, b:*once the catalog can be read again*", nil},
		{"a joiner", func(w *world) { boots("4.3.6", "a,b")(w); w.s.Membership.Role = Seeding }, progress, nil},
		{"Consul is away", away("4.3.6", "a,b,c", "a"), "ask record; ask view a within 7.5s; " + progress + "; no majority: RabbitMQ waits for b, c, of the members a, b, c: start them; " +
			"if they are gone for good, start blank nodes under their names: once the record can be read again (no answer yet), the check here names rmq-entrypoint force-boot", func(w *world) string {
			return check(w.logged("not ready yet*no majority"), "the log does not say it")
		}},
		{"Consul is away, and a majority is up", away("4.3.6", "a,b,c", "a,b"), "ask record; ask view a within 7.5s; " + progress, nil},
		{"Consul is away, and a majority is connected", func(w *world) {
			away("4.3.6", "a,b,c", "a")(w)
			v := w.views["a"].Value
			v.Connected = list("b")
			w.views["a"] = Answer(v, nil)
		}, "ask record; ask view a within 7.5s; " + progress, nil},
		{"Consul is away, and half is up", away("4.3.6", "a,b,c,d", "a,b"), "ask record; ask view a within 7.5s; " + progress + "; no majority: RabbitMQ waits for c, d,*", nil},
		{"Consul is away, and RabbitMQ does not say", func(w *world) {
			away("4.3.6", "a,b", "a")(w)
			w.views["a"] = Answer(peers.View{}, errNot)
			w.volume.Marker = peers.Seen[*Marker]{Value: &Marker{ClusterID: "id", Volume: "va", Members: list("a,b,x")}}
		}, "ask record; ask view a within 7.5s; " + progress + "; RabbitMQ may wait for b, x, of the members a, b, x: start them;*", nil},
		{"Consul is away for less than a boot", func(w *world) {
			away("4.3.6", "a,b", "a")(w)
			w.s.Server.Started = began.Add(-30 * time.Second)
		}, "ask record; " + progress, nil},
		{"Consul is away, on Mnesia", func(w *world) {
			away(version, "a,b,c", "a")(w)
			w.waits = Answer(Waits{Members: list("a,b,c"), For: list("c")}, nil)
		}, "ask record; ask waits within 7.5s; " + progress + "; RabbitMQ may wait for c, of the members a, b, c: start them; if*force-boot", nil},
		{"Consul is away, and Mnesia waits for nobody", func(w *world) { away(version, "a,b,c", "a")(w); w.waits = Answer(Waits{Members: list("a,b,c")}, nil) }, "ask record; ask waits within 7.5s; " + progress, nil},
		{"the catalog cannot be read", func(w *world) { away("4.3.6", "a,b", "a")(w); w.recordErr, w.catalog.Err = nil, errNot }, "ask record; ask catalog; ask view a within 7.5s; " + progress + "; no majority*the catalog can be read again*force-boot", nil},
		{"no cluster is on record", func(w *world) { away("4.3.6", "a,b", "a")(w); w.recordErr, w.record = nil, peers.Record{} }, "ask record; ask view a within 7.5s; " + progress + "; no majority*the key the/key in Consul*from a backup*", nil},
		{"a cluster is being founded", func(w *world) { away("4.3.6", "a,b", "a")(w); w.recordErr, w.record = nil, forming("b", "theirs") }, "ask record; ask view a within 7.5s; " + progress + "; no majority*", nil},
		{"a joiner on its first boot", func(w *world) { boots(version, "a,b")(w); joined(w); w.volume.Database.Value = false }, "ask catalog within 7.5s; " + progress, nil},
		{"a copy that joined and never was verified", func(w *world) { boots(version, "a,b")(w); joined(w) }, "ask record; ask catalog; " + progress + "; RabbitMQ may wait for members that are not up: b", nil},
		{"the same, and who it waits for is off the record", func(w *world) {
			boots(version, "a")(w)
			joined(w)
			off(w)
			w.waits = Answer(Waits{Members: list("a,b"), For: list("b")}, nil)
		}, "ask record; ask catalog; ask waits within 7.5s; " + progress + "; RabbitMQ may wait for b, of the members a, b: start them; this copy joined and never was verified: if they are gone for good, start it with an empty volume", nil},
		{"the same, and Consul is away", func(w *world) {
			away(version, "a,b", "a")(w)
			joined(w)
			w.waits = Answer(Waits{Members: list("a,b"), For: list("b")}, nil)
		}, "ask record; ask waits within 7.5s; " + progress + "; RabbitMQ may wait for b,*never was verified*", nil},
		{"stopped", func(w *world) { boots("4.3.6", "a,b")(w); w.stops() }, "ask record; ask catalog; critical: stopped (stopping); RabbitMQ may wait for members that are not up: b", nil},
		{"RabbitMQ restarts for a partition", func(w *world) {
			boots("4.3.6", "a,b", beats("b"))(w)
			w.stops()
			w.s.Partition.Restarting = "partitioned from b"
		}, "ask record; ask catalog; critical: partitioned from b: stopped (stopping)", nil},
	})
	w := newWorld()
	boots("4.3.6", "a,b")(w)
	w.stops()
	w.recordErr, w.s.Majority.Lost = errNot, list("b")
	if v, _ := w.beat(t); len(v.Lost) != 1 {
		t.Error("what was lost is forgotten while Consul is away")
	}
}

// An order is carried out only while it holds, to its end, and in RabbitMQ's own order.
func TestCarryOnOrder(t *testing.T) {
	t.Parallel()
	b, bc := CarryOn{Lost: list("b")}, CarryOn{Lost: list("b,c")}
	forced := func(o CarryOn) CarryOn { o.Forced = true; return o }
	const up, up2, drop = "critical: carrying on: the server comes up without b", "critical: carrying on: the server comes up without b, c", "DropCarryOn; "
	for _, tc := range []struct {
		name    string
		version string
		cluster string // on record, if another one
		order   CarryOn
		on      string // record; "": there is none
		gone    string
		members string // as RabbitMQ lists them; "": it cannot be asked
		waits   string
		paused  bool
		serving bool
		set     func(*world)
		want    string // up to the end of the order, or its word
		left    string // the order's state: none, given, forced
	}{
		{name: "Khepri waits", version: "4.3.6", order: b, on: "a", gone: "b", members: "a,b", want: "ask record; ask view a; WriteRecord(going on without b); ForceBoot(b khepri=true paused=false); WriteCarryOn(b forced=true)!; " + up, left: "forced"},
		{name: "Khepri serves without a majority", version: "4.3.6", order: b, on: "a", gone: "b", members: "a,b", serving: true, want: "ask record; ask view a; WriteRecord(*); ForceBoot(b khepri=true paused=false); WriteCarryOn(b forced=true)!; " + up, left: "forced"},
		{name: "Khepri comes up", version: "4.3.6", order: forced(b), on: "a", gone: "b", members: "a", want: "ask record; " + up, left: "forced"},
		{name: "Khepri is up", version: "4.3.6", order: forced(b), on: "a", gone: "b", members: "a", serving: true, want: "ask record; Settle(b shrink=true); DropCarryOn!; *", left: "none"},
		{name: "the lost one is back on record", version: "4.3.6", order: b, on: "a,b", members: "a,b", want: "ask record; " + drop + "*", left: "none"},
		{name: "no record", version: "4.3.6", order: b, members: "a,b", want: "ask record; " + drop + "*", left: "none"},
		{name: "another one is lost now", version: "4.3.6", order: b, on: "a,b", gone: "c", members: "a,b,c", want: "ask record; " + drop + "*", left: "none"},
		{name: "one more is lost now", version: "4.3.6", order: b, on: "a", gone: "b,c", members: "a,b,c", want: "ask record; ask view a; " + drop + "*", left: "none"},
		{name: "nobody can be asked", version: "4.3.6", order: b, on: "a", gone: "b", want: "ask record; ask view a; critical: carry on: RabbitMQ does not say yet what it waits for: no answer yet", left: "given"},
		{name: "Mnesia waits", version: "4.0.5", order: b, on: "a", gone: "b", members: "a,b", waits: "b", want: "ask record; ask waits; WriteRecord(*); ForceBoot(b khepri=false paused=false); WriteCarryOn(b forced=true)!; " + up, left: "forced"},
		{name: "Mnesia waits again after a restart", version: "4.0.5", order: forced(b), on: "a", gone: "b", members: "a,b", waits: "b", want: "ask record; ForceBoot(b khepri=false paused=false); " + up, left: "forced"},
		{name: "the same, and its tables cannot be loaded yet", version: "4.0.5", order: forced(b), on: "a", gone: "b", members: "a,b", waits: "b", set: func(w *world) { w.fails["ForceBoot"] = errNot }, want: "ask record; ForceBoot(*); " + up, left: "forced"},
		{name: "Mnesia is up", version: "4.0.5", order: forced(b), on: "a", gone: "b", members: "a,b", serving: true, want: "ask record; Settle(b shrink=true); DropCarryOn!; *", left: "none"},
		{name: "Mnesia is up, another copy too", version: "4.0.5", order: forced(b), on: "a,c", gone: "b", members: "a,b,c", serving: true, want: "ask record; Settle(b shrink=false); DropCarryOn!; *", left: "none"},
		{name: "a lost one has joined again meanwhile", version: "4.0.5", order: forced(bc), on: "a,c", gone: "b", members: "a,b,c", serving: true, want: "ask record; Settle(b shrink=false); DropCarryOn!; *", left: "none"},
		{name: "3.10 cannot shrink", version: "3.10.8", order: forced(b), on: "a", gone: "b", members: "a,b", serving: true, want: "ask record; Settle(b shrink=false); DropCarryOn!; *", left: "none"},
		{name: "told, and cut short before that was written down", version: "4.0.5", order: b, on: "a", gone: "b", members: "a,b", serving: true, want: "ask record; Settle(b shrink=true); DropCarryOn!; *", left: "none"},
		{name: "it no longer waits for the lost one", version: "4.0.5", order: b, on: "a", gone: "b", members: "a,b", want: "ask record; ask waits; " + drop + "*", left: "none"},
		{name: "serves, and one of the lost is back", version: "4.0.5", order: bc, on: "a,c", gone: "b", members: "a,b,c", serving: true, want: "ask record; " + drop + "*", left: "none"},
		{name: "forced, and another cluster is on record", version: "4.0.5", cluster: "another", order: forced(b), on: "a", gone: "b", members: "a,b", serving: true, want: "ask record; " + drop + "*", left: "none"},
		{name: "serves, and the lost one is back", version: "4.0.5", order: b, on: "a,b", members: "a,b", serving: true, want: "ask record; " + drop + "*", left: "none"},
		{name: "forced, then the volumes were found and the record was deleted", version: "4.0.5", order: forced(b), members: "a,b", waits: "b", want: "ask record; " + drop + "*", left: "none"},
		{name: "forced, and one of two is back", version: "4.0.5", order: forced(bc), on: "a,c", gone: "b", members: "a,b,c", waits: "b", want: "ask record; ForceBoot(b khepri=false paused=false); " + up, left: "forced"},
		{name: "paused", version: "4.0.5", order: bc, on: "a", gone: "b,c", members: "a,b,c", paused: true, want: "ask record; ask waits; WriteRecord(*); ForceBoot(b,c khepri=false paused=true); WriteCarryOn(b,c forced=true)!; StopServer!; " + up2, left: "forced"},
		{name: "stopped and paused", version: "4.0.5", order: bc, on: "a", gone: "b,c", members: "a,b,c", paused: true, set: (*world).stops, want: "ask record; ask waits; WriteRecord(*); ForceBoot(b,c khepri=false paused=true); WriteCarryOn(b,c forced=true)!; StopServer!; *" + up2, left: "forced"},
		{name: "already final", version: "4.3.6", order: b, on: "a", gone: "b", members: "a,b", set: func(w *world) { w.record, _ = w.record.GoneOn(list("b")) }, want: "ask record; ask view a; ForceBoot(*); WriteCarryOn(*)!; " + up, left: "forced"},
		{name: "the record cannot be written", version: "4.3.6", order: b, on: "a", gone: "b", members: "a,b", set: func(w *world) { w.fails["WriteRecord"] = errNot }, want: "ask record; ask view a; WriteRecord(*); critical: carry on: no answer yet", left: "given"},
		{name: "somebody was faster", version: "4.3.6", order: b, on: "a", gone: "b", members: "a,b", set: func(w *world) { w.late = []peers.Record{w.record} }, want: "ask record; ask view a; WriteRecord(*); critical: carry on: another node changed the record first, looking again", left: "given"},
		{name: "it cannot be told", version: "4.3.6", order: b, on: "a", gone: "b", members: "a,b", set: func(w *world) { w.fails["ForceBoot"] = errNot }, want: "ask record; ask view a; WriteRecord(*); ForceBoot(*); critical: carry on: no answer yet", left: "given"},
		{name: "it cannot be written down", version: "4.3.6", order: b, on: "a", gone: "b", members: "a,b", set: func(w *world) { w.fails["WriteCarryOn"] = errNot }, want: "ask record; ask view a; WriteRecord(*); ForceBoot(*); WriteCarryOn(*)!; critical: no answer yet", left: "given"},
		{name: "it cannot be settled", version: "4.0.5", order: forced(b), on: "a", gone: "b", members: "a,b", serving: true, set: func(w *world) { w.fails["Settle"] = errNot }, want: "ask record; Settle(b shrink=true); critical: carry on: no answer yet", left: "forced"},
		{name: "the order cannot be removed", version: "4.0.5", order: forced(b), on: "a", gone: "b", members: "a,b", serving: true, set: func(w *world) { w.fails["DropCarryOn"] = errNot }, want: "ask record; Settle(b shrink=true); DropCarryOn!; critical: no answer yet", left: "forced"},
		{name: "Consul is away", version: "4.0.5", order: forced(b), on: "a", gone: "b", members: "a,b", serving: true, set: func(w *world) { w.recordErr = errNot }, want: "ask record; critical: carry on: no answer yet", left: "forced"},
		{name: "the order cannot be read", version: "4.0.5", order: forced(b), set: func(w *world) { w.volume.CarryOn.Err = errNot }, want: "critical: no answer yet", left: "forced"},
		{name: "not a member's", version: "4.0.5", order: forced(b), on: "a", gone: "b", members: "a,b", set: func(w *world) { w.s.Membership.Role = Seeding }, want: "critical: Startup in progress", left: "forced"},
		{name: "another cluster's", version: "4.0.5", order: forced(b), on: "a", members: "a", serving: true, set: func(w *world) { w.s.Membership.ClusterID = "other" }, want: "ask record; ask catalog; *", left: "forced"},
	} {
		w := newWorld()
		w.set.Version = tc.version
		if !tc.serving {
			w.boots(Member)
		}
		w.order(tc.order)
		w.record = peers.Record{}
		if tc.on != "" {
			w.record = formed(tc.on)
			w.record.Gone = gone(peers.Gone{}, list(tc.gone)...)
		}
		if tc.cluster != "" {
			w.record.ClusterID = tc.cluster
		}
		v := viewOf(tc.members, "a")
		v.Khepri = tc.version == "4.3.6"
		w.s.View = View{View: v}
		if w.known(v); tc.members == "" {
			w.views["a"] = Answer(peers.View{}, errNot)
		} else {
			w.waits = Answer(Waits{list(tc.members), list(tc.waits), tc.paused}, nil)
		}
		w.listed(passes("c"))
		if tc.set != nil {
			tc.set(w)
		}
		_, trace := w.beat(t)
		if got := join(trace); !matches(got, tc.want) {
			t.Errorf("%s:\n got %s\nwant %s", tc.name, got, tc.want)
		}
		left := "none"
		if o := w.volume.CarryOn.Value; o != nil && o.Forced {
			left = "forced"
		} else if o != nil {
			left = "given"
		}
		if left != tc.left {
			t.Errorf("%s: the order is %s, want %s", tc.name, left, tc.left)
		}
		if settled := strings.Contains(tc.want, "DropCarryOn!; *"); settled != w.logged("carried on: this copy is the cluster now cluster id*") || settled && (w.s.Membership.VerifiedSince.IsZero() || slices.Contains(w.s.View.Members, "b")) {
			t.Errorf("%s: settled %t, log %v", tc.name, settled, w.log)
		}
		if dropped := strings.Contains(tc.want, drop); dropped != w.logged("the order to carry on no longer holds and is dropped*") {
			t.Errorf("%s: log %v", tc.name, w.log)
		}
		if w.on("a") && tc.left == "forced" && strings.Contains(tc.want, "WriteRecord") && !w.record.Gone["b"].Final {
			t.Errorf("%s: it is not on record that b may not come back: %+v", tc.name, w.record)
		}
	}
	// Settled, it is verified anew, in the same beat.
	w := newWorld()
	w.order(forced(b))
	w.record = formed("a,c")
	w.record.Gone = gone(peers.Gone{}, "b")
	w.listed(passes("c"))
	if _, trace := w.beat(t); join(trace) != "ask record; Settle(b shrink=false); DropCarryOn!; ask catalog; "+enrolled {
		t.Error(trace)
	}
	if m := w.s.Upkeep.Marker; !slices.Equal(m.Members, list("a,c")) {
		t.Errorf("the marker is %+v", m)
	}
}
