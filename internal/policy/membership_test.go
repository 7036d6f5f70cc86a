package policy

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"rmq-entrypoint/peers"
)

const (
	anew     = "ask record; ask catalog; ask view a; " // of a node that is to be verified
	no       = "critical: not verified: "
	enrolled = "Enroll; passing: answers"
)

func gone(g peers.Gone, names ...string) map[string]peers.Gone {
	m := map[string]peers.Gone{}
	for _, n := range names {
		if g.Why == "" {
			g.Why = "its volume came up blank"
		}
		g.Volume = "v" + n
		m[n] = g
	}
	return m
}

func forming(seed, claim string) peers.Record {
	return peers.Record{State: peers.Forming, Seed: seed, Claim: claim, Session: "s", Members: volumes(seed)}
}

// A seed announces its cluster when nobody of an earlier one may be there.
func TestSeed(t *testing.T) {
	t.Parallel()
	seed := func(w *world) {
		w.serves(Seeding)
		w.record, w.catalog = forming("a", "claim"), Answer([]peers.Peer{w.mine()}, nil)
		w.known(viewOf("a", "a"))
	}
	other := func(w *world, p peers.Peer) { seed(w); w.listed(p) }
	lapsed := peers.Peer{Node: "x", Address: "x:1", ClusterID: "old", Entry: peers.Entry{ID: "rabbitmq-x", Agent: "host"}, Start: peers.Start{Volume: "vx"}}
	alive := lapsed
	alive.Beating = true
	blank := alive
	blank.Blank = true
	failed := alive
	failed.AgentFailed = true
	const founded = anew + "WriteRecord(the cluster is founded); " + enrolled
	const waits = no + "announcing no cluster while a node that is not in it is registered, which may have data of an earlier one: x at x:1,*"
	run(t, []row{
		{"alone", seed, founded, func(w *world) string {
			r := w.record
			return check(r.State == peers.Formed && r.ClusterID == "id" && r.Session == "" && r.Claim == "claim" && r.Members["a"] == "va" && r.Versions["a"] == version, fmt.Sprintf("record %+v", r),
				w.logged("record written*the cluster is founded*id members a"), "the log does not say it")
		}},
		{"two have joined", func(w *world) { seed(w); w.known(viewOf("a,b,c", "a,b")) }, founded, func(w *world) string {
			return check(maps.Equal(w.record.Members, map[string]string{"a": "va", "b": "", "c": ""}), fmt.Sprint(w.record.Members))
		}},
		{"too soon", func(w *world) { seed(w); w.s.Server.Started = began.Add(-6 * time.Second) }, anew + no + "giving members of an earlier cluster 2s more to speak, again after 2s", nil},
		{"too soon, of a long TTL", func(w *world) { w.set.TTL = 24 * time.Hour; seed(w); w.s.Server.Started = began.Add(-62 * time.Second) }, anew + no + "giving members of an earlier cluster 1s more to speak, again after 1s", nil},
		{"soon enough, of a long TTL", func(w *world) { w.set.TTL = 24 * time.Hour; seed(w); w.s.Server.Started = began.Add(-63 * time.Second) }, founded, nil},
		{"soon enough", func(w *world) { seed(w); w.s.Server.Started = began.Add(-8 * time.Second) }, founded, nil},
		{"RabbitMQ does not run", func(w *world) { seed(w); w.known(viewOf("a", "")) }, anew + no + "RabbitMQ does not list this node as running", nil},
		{"somebody beats", func(w *world) { other(w, alive) }, anew + waits, func(w *world) string {
			return check(w.record.State == peers.Forming, "it is announced", w.logged("not verified*announcing no cluster*consul services deregister -id=rabbitmq-x"), "no way out")
		}},
		{"somebody who began blank", func(w *world) { other(w, blank) }, founded, nil},
		{"somebody lapsed and may live", func(w *world) { other(w, lapsed) }, anew + "ask down x; " + waits, nil},
		{"somebody lapsed and is down", func(w *world) { other(w, lapsed); w.down["x:1"] = true }, anew + "ask down x; WriteRecord(*", nil},
		{"his agent failed", func(w *world) { other(w, failed); w.down["x:1"] = true }, anew + "ask down x; WriteRecord(*", nil},
		{"on record", func(w *world) { other(w, alive); w.record = w.record.With("x", "vx") }, founded, nil},
		{"in the cluster", func(w *world) { other(w, alive); w.known(viewOf("a,x", "a,x")) }, founded, nil},
		{"3.10 mirrors", func(w *world) {
			seed(w)
			w.set.Version = "3.10.8"
			w.said = []Said{{"two", "ok"}, {"bad", "not permitted"}, {"/", "ok"}}
		},
			anew + "SetMirrors; WriteRecord(the cluster is founded); " + enrolled, func(w *world) string {
				return check(w.logged("queues are mirrored to all nodes*rmq-entrypoint-mirrors vhosts /,two"), "where is not said", w.logged("queues are not mirrored here: RabbitMQ refuses the policy*vhost bad*not permitted"), "the refusal is not said")
			}},
		{"3.10 cannot mirror", func(w *world) { seed(w); w.set.Version = "3.10.8"; w.fails["SetMirrors"] = errNot },
			anew + "SetMirrors; " + no + "the policy that mirrors queues cannot be set (--queues, RMQ_QUEUES): no answer yet", func(w *world) string {
				return check(!w.logged("queues are"), "it says more")
			}},
		{"3.10, queues are the user's", func(w *world) { seed(w); w.set.Version, w.set.SurvivingQueues = "3.10.8", false }, founded, nil},
		{"overtaken by a cluster", func(w *world) {
			seed(w)
			w.record = peers.Record{State: peers.Formed, ClusterID: "other", Members: volumes("b")}
		},
			anew + "WritePending(alone); StopServer!; " + no + "overtaken", func(w *world) string {
				return check(w.logged(`stopping the server: its restart decides afresh*this node's claim to found the cluster was overtaken: the record is formed, cluster "other", members b`), "the log does not say it")
			}},
		{"overtaken by a claim", func(w *world) { seed(w); w.record = forming("b", "theirs") }, anew + "WritePending(alone); StopServer!; " + no + "overtaken", nil},
		{"its claim was taken over under its name", func(w *world) { seed(w); w.record.Claim = "theirs" }, anew + "WritePending(alone); StopServer!; " + no + "overtaken", nil},
		{"overtaken, and the record is gone", func(w *world) { seed(w); w.record = peers.Record{} }, anew + "WritePending(alone); StopServer!; " + no + "overtaken", nil},
		{"overtaken, and it cannot be marked", func(w *world) { seed(w); w.record.Claim = "theirs"; w.fails["WritePending"] = errNot }, anew + "WritePending(alone); " + no + "overtaken", func(w *world) string {
			return check(w.logged("cannot mark the volume, so the server is left running*no answer yet"), "the log does not say it")
		}},
		{"overtaken, and it does not stop", func(w *world) { seed(w); w.record.Claim = "theirs"; w.fails["StopServer"] = errNot }, anew + "WritePending(alone); StopServer!; " + no + "overtaken", func(w *world) string {
			return check(w.logged("the server does not stop*no answer yet"), "the log does not say it")
		}},
		{"overtaken with members of its own", func(w *world) { seed(w); w.record.Claim = "theirs"; w.known(viewOf("a,b", "a,b")) },
			anew + no + `SPLIT: this node is in cluster id with a, b, but the record is forming, cluster "", members a; nothing is touched: decide which to keep`, nil},
		{"founded, and the companion was replaced", func(w *world) { seed(w); w.record = formed("a") }, anew + enrolled, nil},
	})
}

// What makes a member of a node, and what the record says of it then.
func TestMembership(t *testing.T) {
	t.Parallel()
	is := func(role Role, r peers.Record) func(*world) { return func(w *world) { w.serves(role); w.record = r } }
	and := func(fs ...func(*world)) func(*world) {
		return func(w *world) {
			for _, f := range fs {
				f(w)
			}
		}
	}
	fails := func(a string, err error) func(*world) { return func(w *world) { w.fails[a] = err } }
	joins := func(r peers.Record) peers.Record { return r.Joins("a", "va", began) }
	member := func(w *world) string {
		m := w.s.Membership
		return check(m == Membership{Role: Member, ClusterID: "id", Verified: true, VerifiedSince: began}, fmt.Sprintf("%+v", m), w.s.Entry.ClusterID == "id", "its entry lacks the cluster",
			w.s.Upkeep.Marker.At.Equal(began) && w.s.Upkeep.Marker.ClusterID == "id", "the marker is not noted", w.logged("verified: this node is a member and serves was * cluster id members a,b,c"), "the log does not say it")
	}
	tries := func(n int) func(*world) string {
		return func(w *world) string {
			return check(w.s.Upkeep.GrowTries == n, fmt.Sprint(w.s.Upkeep.GrowTries, " tries"), w.volume.Marker.Value.Regrow == (n > 0), "not on the marker")
		}
	}
	absent := peers.Record{}
	whole := func(w *world) string {
		return check(maps.Equal(w.record.Members, map[string]string{"a": "va", "b": "", "c": ""}), fmt.Sprint(w.record.Members), w.record.State == peers.Formed && w.record.ClusterID == "id" && w.record.Claim == "fresh", fmt.Sprintf("%+v", w.record))
	}
	run(t, []row{
		{"on record", is(Member, formed("a,b,c")), anew + enrolled, member},
		{"on record, entered already", and(is(Member, formed("a,b,c")), func(w *world) { w.s.Entry.ClusterID = "id"; w.listed(passes("b"), passes("c")) }), anew + enrolled, func(w *world) string {
			return check(!w.seen.Did[0].Action.(Enroll).Enter, "entered again")
		}},
		{"a joiner", is(Joining, joins(formed("b,c"))), anew + "WriteRecord(a member now); " + enrolled, func(w *world) string {
			return member(w) + check(len(w.record.Joining) == 0 && len(w.record.Unverified) == 0, fmt.Sprintf("%+v", w.record)) + tries(growTries)(w)
		}},
		{"one with replicas to be brought back", and(is(Member, formed("a,b,c")), func(w *world) { w.volume.Marker.Value = &Marker{Regrow: true} }), anew + enrolled, tries(growTries)},
		{"whether there are some is unknown", and(is(Member, formed("a,b,c")), func(w *world) { w.set.SurvivingQueues = true; w.volume.Marker = peers.Seen[*Marker]{Err: errNot} }), anew + enrolled, tries(growTries)},
		{"the same in an adopted cluster", and(is(Member, formed("a,b,c")), func(w *world) {
			w.set.SurvivingQueues, w.set.Adopted = true, true
			w.volume.Marker = peers.Seen[*Marker]{Err: errNot}
		}), anew + enrolled, tries(0)},
		{"one without", and(is(Member, formed("a,b,c")), func(w *world) { w.volume.Marker.Value = &Marker{} }), anew + enrolled, tries(0)},
		{"of another version", is(Member, func() peers.Record { r := formed("a,b,c"); r.Versions = nil; return r }()), anew + "WriteRecord(on record with RabbitMQ 4.0.5); " + enrolled, func(w *world) string {
			return check(w.record.Versions["a"] == version, "not said")
		}},
		{"on record without a volume", is(Member, formed("b,c").With("a", "")), anew + "WriteRecord(on record with this volume); " + enrolled, func(w *world) string {
			return check(w.record.Members["a"] == "va", fmt.Sprint(w.record.Members))
		}},
		{"not on record", is(Member, formed("b,c")), anew + "WriteRecord(on record with this volume); " + enrolled, member},
		{"a joiner of what is not announced", is(Joining, forming("b", "theirs")), anew + no + "b has not announced the cluster yet", nil},
		{"the record is gone", is(Member, absent), anew + "WriteRecord(the record was gone: published again); " + enrolled, whole},
		{"a joiner, and the record is gone", is(Joining, absent), anew + "WriteRecord(the record was gone: published again); " + enrolled, whole},
		{"a claim beside a cluster", is(Member, forming("x", "theirs")), anew + "WriteRecord(another node was founding a cluster beside this one: overruled); " + enrolled, whole},
		{"a claim, and data that waited alone", is(Alone, forming("x", "theirs")), anew + no + "x is founding a cluster, and this volume never was verified as a member", nil},
		{"another cluster", is(Member, func() peers.Record { r := formed("x"); r.ClusterID = "other"; return r }()), anew + no + `SPLIT: this node is in cluster id with a, b, c, but the record is formed, cluster "other", members x; nothing is touched: decide which to keep`, nil},
		{"a joiner of another cluster, with others", is(Joining, func() peers.Record { r := formed("x"); r.ClusterID = "other"; return r }()), anew + no + "SPLIT: *", nil},

		{"somebody was faster", and(is(Member, absent), func(w *world) { w.late = []peers.Record{formed("b,c")} }),
			anew + "WriteRecord(the record was gone: published again); ask record; WriteRecord(on record with this volume); " + enrolled, func(w *world) string { return check(w.on("a,b,c"), fmt.Sprint(w.record.Members)) }},
		{"somebody is faster each time", and(is(Member, formed("b,c")), func(w *world) { w.late = slices.Repeat([]peers.Record{formed("b,c")}, 9) }),
			anew + "WriteRecord(*; ask record; WriteRecord(*; ask record; WriteRecord(*; ask record; WriteRecord(on record with this volume); ask record; " + no + "another node changed the record first, looking again", func(w *world) string {
				return check(len(w.late) == 5, fmt.Sprint(9-len(w.late), " writes"))
			}},
		{"it cannot be written", and(is(Member, formed("b,c")), fails("WriteRecord", errNot)), anew + "WriteRecord(on record with this volume); " + no + "no answer yet", nil},
		{"it cannot be read again", and(is(Member, formed("b,c")), func(w *world) { w.late = []peers.Record{formed("b,c")}; w.lasts = map[string]time.Duration{} }), anew + "*" + enrolled, nil},
		{"it cannot be enrolled", and(is(Joining, formed("a,b,c")), fails("Enroll", errNot)), anew + "Enroll; " + no + "no answer yet", func(w *world) string {
			return check(w.s.Membership.Role == Joining && !w.s.Membership.Verified && w.s.Entry.ClusterID == "", fmt.Sprintf("%+v", w.s.Membership))
		}},
		{"it is only not entered", and(is(Joining, formed("a,b,c")), fails("Enroll", errNot), func(w *world) {
			w.volume.Marker.Value = &Marker{At: began} // that was written
		}), anew + "Enroll; " + no + "no answer yet", func(w *world) string {
			return check(w.s.Membership == Membership{Role: Member, ClusterID: "id", VerifiedSince: began}, fmt.Sprintf("%+v", w.s.Membership), w.s.Entry.ClusterID == "", "entered")
		}},
		{"verified again", func(w *world) { w.s.Membership.Verified = false }, anew + enrolled, func(w *world) string {
			return check(w.s.Membership.VerifiedSince.Equal(began.Add(-50*time.Minute)), "since now")
		}},
		{"it does not run", and(is(Member, formed("a,b,c")), func(w *world) { w.known(viewOf("a,b,c", "b,c")) }), anew + no + "RabbitMQ does not list this node as running", nil},
	})
}

// The record speaks against this node, for reasons that end it and for such that do not.
func TestOffTheRecord(t *testing.T) {
	t.Parallel()
	since := began.Add(-50 * time.Minute) // verified
	before, after := since.Add(-time.Minute), since.Add(time.Minute)
	off := func(role Role, verified bool, g peers.Gone) func(*world) {
		return func(w *world) {
			w.serves(role)
			if verified {
				w.s.Membership.VerifiedSince = since
			}
			w.record = formed("b,c")
			w.record.Gone = gone(g, "a")
		}
	}
	replaced := func(role Role, verified bool, at time.Time) func(*world) {
		return func(w *world) {
			off(role, verified, peers.Gone{})(w)
			w.record = formed("b,c").With("a", "other")
			w.record.Replaced = []peers.Replaced{{Node: "a", Gone: peers.Gone{Volume: "va", At: at, Why: "x"}}}
		}
	}
	lives := func(volume string, passes bool, at time.Time) func(*world) {
		return func(w *world) {
			replaced(Member, true, at)(w)
			w.listed(peers.Peer{Node: "a", Address: "x:1", Passing: passes, Entry: peers.Entry{ID: "rabbitmq-a", Agent: "host"}, Start: peers.Start{Volume: volume, Boot: "another"}})
		}
	}
	twin := func(runs string) func(*world) {
		return func(w *world) {
			w.serves(Member)
			w.record = formed("a,b,c").Joins("a", "twin", began)
			w.known(viewOf("a,b,c", runs))
		}
	}
	const stops, stays, again = anew + "StopServer; " + no, anew + no, anew + "WriteRecord("
	const back = again + "back on the record, from which this node was taken while it serves); " + enrolled
	const wipe = "; if this volume is the right one, delete the key the/key in Consul while a member runs: it is published anew, and every node fills in its volume"
	run(t, []row{
		{"its volume came up blank once", off(Member, false, peers.Gone{At: before, By: "a"}), stops + "a took itself off cluster id on * (its volume came up blank; written by a); on record without it: b, c*" + wipe, func(w *world) string {
			return check(w.logged("stopping the server: its restart decides afresh*took itself off"), "the log does not say it")
		}},
		{"the same, alone in its cluster: its data is kept", func(w *world) {
			off(Member, false, peers.Gone{At: before, By: "a"})(w)
			w.known(viewOf("a", "a"))
		}, stops + "a took itself off*", nil},
		{"the same, on an earlier day's record", off(Member, true, peers.Gone{At: before, By: "a"}), stays + "a took itself off*", nil},
		{"the same, by its own name since it serves", off(Member, true, peers.Gone{At: after, By: "a"}), back, nil},
		{"by another's hand, before", off(Member, true, peers.Gone{At: before, By: "alice"}), back, func(w *world) string {
			return check(w.record.Members["a"] == "va", "it is not", w.logged("this node serves, and was taken off the record all the same: putting it back written_by alice*said its volume came up blank"), "the log does not say it")
		}},
		{"by another's hand, never verified", off(Member, false, peers.Gone{By: "alice"}), back, nil},
		{"by another's hand, and it went on", off(Member, true, peers.Gone{By: "alice", Final: true}), stays + "a was taken off cluster id on * by alice*", nil},
		{"by another's hand, and it went on, never verified", off(Member, false, peers.Gone{By: "alice", Final: true}), stays + "a was taken off cluster id on * by alice*", nil},
		{"by another's hand, and it cannot be put back", func(w *world) { off(Member, true, peers.Gone{By: "alice"})(w); w.fails["WriteRecord"] = errNot }, again + "back on*; " + no + "a was taken off the record on * by alice (its volume came up blank), and cannot be put back: no answer yet", nil},
		{"by another's hand, and somebody is faster", func(w *world) {
			off(Member, true, peers.Gone{By: "alice"})(w)
			w.late = slices.Repeat([]peers.Record{w.record}, 9)
		}, again + "back on*; " + no + "another node changed the record first, looking again", nil},
		{"left before", off(Member, true, peers.Gone{At: before, By: "a", Left: true}), stays + "a left cluster id for good*", nil},
		{"left since by another's hand", off(Member, true, peers.Gone{At: after, By: "a", Left: true}), back, nil},
		{"left since by its own order", func(w *world) {
			off(Member, true, peers.Gone{At: after, By: "a", Left: true})(w)
			w.drained(Maintenance{Leaving: true, At: after})
			w.record.Gone["a"] = peers.Gone{Volume: "va", At: after, By: "a", Left: true, Why: "told to"}
		}, "ask record; StopServer; critical: leaving the cluster for good: it has left, and the server stops", nil},
		{"removed by a blank one", off(Member, false, peers.Gone{MayReturn: true, By: "a"}), again + "this node's volume again: a took itself off the record on *); " + enrolled, func(w *world) string {
			return check(w.record.Members["a"] == "va" && len(w.record.Gone) == 0, fmt.Sprintf("%+v", w.record))
		}},
		{"given up, and taken back", off(Member, false, peers.Gone{Why: peers.GivenUp("rmq-entrypoint forget-cluster")}), again + "this node's volume again: *); " + enrolled, nil},
		{"of an earlier volume", func(w *world) {
			off(Member, true, peers.Gone{By: "alice"})(w)
			w.record.Gone["a"] = peers.Gone{Volume: "older", By: "alice", Why: "x"}
		}, stays + "a was taken off*", nil},
		{"replaced", replaced(Member, false, before), stops + "this volume (va) was replaced on *: a is on record with volume other*" + wipe, nil},
		{"replaced on an earlier day's record", replaced(Member, true, before), stays + "this volume (va) was replaced*", nil},
		{"the same, by a clock that was ahead", replaced(Member, true, after), stays + "this volume (va) was replaced*", nil},
		{"replaced, and who registers with that volume lives", lives("other", true, after), stays + "this volume (va) was replaced*", nil},
		{"the same, by a clock that is behind", lives("other", true, before), stays + "this volume (va) was replaced*", nil},
		{"replaced, and who registers with that volume died", lives("other", false, after), stays + "this volume (va) was replaced*", nil},
		{"replaced, and a third one lives", lives("third", true, after), stays + "this volume (va) was replaced*", nil},
		{"a joiner's place is taken", func(w *world) { replaced(Joining, false, before)(w) }, stops + "this volume (va) was replaced*", nil},
		{"a twin that never was verified, and others see this one", twin("a,b"), again + "this node's volume again); " + enrolled, func(w *world) string {
			return check(w.record.Members["a"] == "va" && !w.record.NeverVerified("a"), fmt.Sprintf("%+v", w.record), w.logged("another container joined under this node's name with a volume that never was verified: taking the name back*its_volume twin volume va"), "the log does not say it")
		}},
		{"a twin, and nobody sees this one", twin("a"), stays + "another container joined as a with volume twin, which never was verified, and no other member is seen running by this one, whose volume is va", nil},
		{"a twin, and nobody else is a member", func(w *world) {
			twin("a")(w)
			w.record = formed("a").Joins("a", "twin", began)
			w.known(viewOf("a", "a"))
		}, again + "this node's volume again); " + enrolled, nil},
		{"a twin of a joiner", func(w *world) { twin("a,b")(w); w.s.Membership.Role = Joining; w.record.Replaced = nil }, again + "this node's volume again); " + enrolled, nil},
		{"a twin that was given the place", func(w *world) { twin("a,b")(w); w.record.Replaced[0].MayReturn = false }, stops + "this volume (va) was replaced*", nil},
	})
}

// A node that serves keeps the record true, and names what must not be.
func TestRecordChanged(t *testing.T) {
	t.Parallel()
	ago := func(d time.Duration) time.Time { return began.Add(-d) }
	on := func(names string, g map[string]peers.Gone) func(*world) {
		return func(w *world) {
			w.record = formed(names)
			w.record.Gone = g
			w.judged(viewOf("a,b", "a,b"))
			w.listed(passes("b"))
			w.s.View.PassingPeers = "b"
		}
	}
	is := func(names string) func(*world) string {
		return func(w *world) string {
			return check(w.on(names), fmt.Sprint(w.record.Members), w.s.Membership.VerifiedSince.Equal(ago(50*time.Minute)), "verified anew")
		}
	}
	volume := func(names, v string) func(*world) {
		return func(w *world) { on(names, nil)(w); w.record.Members["a"] = v }
	}
	b := func(d time.Duration, g peers.Gone) map[string]peers.Gone { g.At = ago(d); return gone(g, "b") }
	const well = quiet + "passing: answers"
	run(t, []row{
		{"all is as it should be", on("a,b", nil), well, func(w *world) string {
			return check(w.s.Upkeep.RecordSize == 2, "two are on record", len(w.log) == 0, fmt.Sprint(w.log))
		}},
		{"another cluster", func(w *world) { on("a,b", nil)(w); w.record.ClusterID = "other" }, quiet + "ask view a within 7.5s; ask view b within 7.5s; critical: RabbitMQ here says that its cluster is id, the record says other, and b cannot be asked: *", func(w *world) string {
			return check(w.s.Fault.Reason != "" && w.s.Membership.Verified, "it is not kept")
		}},
		{"gone", func(w *world) { on("", nil)(w); w.record = peers.Record{} }, quiet + "WriteRecord(the record was gone: published again); " + enrolled, is("a,b")},
		{"claimed by another", func(w *world) { on("", nil)(w); w.record = forming("x", "theirs") }, quiet + "WriteRecord(another node was founding*); " + enrolled, is("a,b")},
		{"another volume", volume("a,b", "other"), quiet + "critical: not verified: this volume (va) was replaced*", nil},
		{"no volume", volume("a,b", ""), quiet + "WriteRecord(on record with this volume); " + enrolled, is("a,b")},
		{"not on record at all", on("b", nil), quiet + "WriteRecord(on record with this volume); " + enrolled, is("a,b")},
		{"a running member is not on record", on("a", nil), quiet + "WriteRecord(a running member was not on record: added b); passing: answers", is("a,b")},
		{"two are not, one goes first", func(w *world) { on("a", nil)(w); w.judged(viewOf("a,b,c", "a,b,c")) }, quiet + "WriteRecord(a running member was not on record: added b); passing: answers", is("a,b")},
		{"a member that does not run is not on record", func(w *world) { on("a", nil)(w); w.judged(viewOf("a,b", "a")) }, well, is("a")},
		{"somebody else was faster", func(w *world) { on("a", nil)(w); w.late = []peers.Record{formed("a")} }, quiet + "WriteRecord(*); ask record; passing: answers", is("a")},
		{"it cannot be written", func(w *world) { on("a", nil)(w); w.fails["WriteRecord"] = errNot }, quiet + "WriteRecord(*); passing: answers", is("a")},
		{"off the record, and runs", on("a", b(time.Minute, peers.Gone{})), quiet + "critical: b runs in this cluster, but took itself off the record on * (its volume came up blank)", func(w *world) string {
			return check(w.s.Fault.Reason != "" && w.s.Membership.Verified, "it is not kept")
		}},
		{"off the record by another's doing, and runs", on("a", b(time.Minute, peers.Gone{By: "alice"})), quiet + "critical: b runs in this cluster, but was taken off the record on * by alice (*)", nil},
		{"off the record for two TTLs", on("a", b(2*ttl, peers.Gone{})), well, is("a")},
		{"off the record for longer, and does not run", func(w *world) { on("a", b(time.Minute, peers.Gone{}))(w); w.judged(viewOf("a,b", "a")) }, well, is("a")},
		{"removed by a blank one, and runs", on("a", b(time.Minute, peers.Gone{MayReturn: true})), quiet + "WriteRecord(a running member, which a blank volume under its name removed: added b); passing: answers", is("a,b")},
		{"removed by a blank one just now", on("a", b(20*time.Second, peers.Gone{MayReturn: true})), well, is("a")},
		{"left for good, and runs on", on("a", b(time.Minute, peers.Gone{Left: true})), well, is("a")},

		{"off the record itself, by another's doing", on("b", gone(peers.Gone{By: "alice"}, "a")), quiet + "WriteRecord(back on the record, from which this node was taken while it serves); passing: answers", is("a,b")},
		{"with others that were given up", func(w *world) { on("", gone(peers.Gone{By: "alice"}, "a", "b"))(w) }, quiet + "WriteRecord(back on*); passing: answers", is("a,b")},
		{"and somebody else was faster", func(w *world) {
			on("b", gone(peers.Gone{By: "alice"}, "a"))(w)
			w.late = []peers.Record{w.record}
			w.s.Upkeep.RecordSize = 9
		},
			quiet + "WriteRecord(back on*); ask record; passing: answers", func(w *world) string {
				return check(w.on("b"), "written", w.s.Upkeep.RecordSize == 9, "a record that is put right counts")
			}},
		{"and it cannot be put back", func(w *world) { on("b", gone(peers.Gone{By: "alice"}, "a"))(w); w.fails["WriteRecord"] = errNot },
			quiet + "WriteRecord(back on*); critical: a was taken off the record on * by alice (its volume came up blank), and cannot be put back: no answer yet", func(w *world) string {
				return check(w.s.Membership.Verified && w.s.Fault.Reason != "", "it is not kept")
			}},
		{"off the record itself, left before", on("b", gone(peers.Gone{At: ago(time.Hour), By: "a", Left: true}, "a")), quiet + "critical: not verified: a left cluster id for good*", nil},
		{"off the record itself, by its own doing before", on("b", gone(peers.Gone{At: ago(time.Hour), By: "a, its volume blank, on host h"}, "a")), quiet + "critical: not verified: a took itself off*", nil},
		{"off the record, and RabbitMQ does not list it as running", func(w *world) { on("b", gone(peers.Gone{By: "alice"}, "a"))(w); w.judged(viewOf("a,b", "b")) }, quiet + "critical: not verified: RabbitMQ does not list this node as running", nil},
	})
}

// RabbitMQ was asked again after the record was written, and is in another cluster now.
func TestWrittenInVain(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.serves(Member)
	w.s.View.ClusterID = "other"
	seen := Observation{Record: Answer(Record{Record: w.record}, nil), Did: []Outcome{{Rule: "membership", Action: WriteRecord{}}}}
	for _, n := range list("a,b,c") {
		v := viewOf("a,b,c", "a,b,c")
		if n == "a" {
			v.ClusterID = "other"
		}
		seen.See(n, func(said *Node) { said.View = Answer(v, nil) })
	}
	if proven, v := checkMembership(&turn{Settings: w.set, State: w.s, Seen: seen, rule: "membership"}); proven || !matches(v.Reason, "not verified: SPLIT: this node is in cluster other*") {
		t.Errorf("proven %t: %s", proven, v.Reason)
	}
}

// What queues are that name no type goes on record with whatever is written, once: joiners go by it.
func TestQueuesOnRecord(t *testing.T) {
	t.Parallel()
	for was, want := range map[string]string{"": "quorum", "classic": "classic"} {
		w := newWorld()
		w.set.Queues, w.record.Queues = "quorum", was
		w.s.Membership.Verified = false
		delete(w.record.Members, "a")
		if w.beat(t); w.record.Members["a"] != "va" || w.record.Queues != want {
			t.Errorf("%q became %q: %+v", was, w.record.Queues, w.record.Members)
		}
	}
}
