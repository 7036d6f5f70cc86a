package policy

import (
	"errors"
	"testing"
	"time"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/peers"
)

// What cannot be looked at is what it was: neither well because nobody looked, nor ill.
func TestUnknown(t *testing.T) {
	t.Parallel()
	err := errors.New("no leader")
	consul := func(w *world) { w.recordErr = err }
	missed := func(w *world) string {
		v := Decide(w.set, w.s, w.seen)
		return check(v.Missed == err, "Consul is not said to be away")
	}
	never := func(w *world) { w.s.Membership.Verified = false }
	wrong := func(why string, degraded bool) func(*world) {
		return func(w *world) { consul(w); w.s.Fault = Fault{why, degraded} }
	}
	as := func(role Role, r peers.Record) func(*world) {
		return func(w *world) { w.serves(role); w.catalog.Err, w.record = err, r }
	}
	const noCatalog = "ask record; ask catalog; ask view a; "
	const noRecord = "ask record; ask managed within 1s; "
	run(t, []row{
		{"well", consul, noRecord + "passing: answers; not checked against the record: no leader", missed},
		{"with an alarm", func(w *world) { consul(w); w.health.State = healthcheck.Warning }, noRecord + "warning: answers; not checked against the record: no leader", missed},
		{"split", wrong("SPLIT", false), noRecord + "critical: SPLIT (not looked at again: no leader)", missed},
		{"degraded", wrong("partitioned", true), noRecord + "warning: partitioned (not looked at again: no leader)", missed},
		{"not verified", func(w *world) { consul(w); never(w) }, "ask record; ask view a; critical: not verified: no leader", missed},
		{"a joiner", func(w *world) { consul(w); w.serves(Joining) }, "ask record; critical: not verified: no leader", missed},
		{"no catalog", func(w *world) { w.catalog.Err = err }, "ask record; ask catalog; ask managed within 1s; passing: answers; not checked against the record: no leader", missed},
		{"no catalog, and another cluster is on record", func(w *world) { w.catalog.Err, w.record.ClusterID = err, "other" }, "ask record; ask catalog; ask view a within 7.5s; ask view b within 7.5s; ask view c within 7.5s; critical: RabbitMQ here says that its cluster is id, the record says other, and b, c cannot be asked: *", missed},
		{"no catalog, and RabbitMQ has given its cluster another id", func(w *world) {
			w.catalog.Err, w.record.ClusterID = err, "former"
			w.views["b"], w.views["c"] = w.views["a"], w.views["a"]
		}, "ask record; ask catalog; ask view a within 7.5s; ask view b within 7.5s; ask view c within 7.5s; WriteRecord(RabbitMQ changed its cluster's id); *passing: answers; not checked against the record: no leader", missed},
		{"the same, and it cannot be written", func(w *world) {
			w.catalog.Err, w.record.ClusterID, w.fails["WriteRecord"] = err, "former", errNot
			w.views["b"], w.views["c"] = w.views["a"], w.views["a"]
		}, "ask record; ask catalog; ask view a within 7.5s; ask view b within 7.5s; ask view c within 7.5s; WriteRecord(RabbitMQ changed its cluster's id); *passing: answers; not checked against the record: no leader", missed},
		{"no catalog, and another volume is on record", func(w *world) { w.catalog.Err, w.record = err, w.record.With("a", "other") }, "ask record; ask catalog; critical: this volume (va) was replaced*", missed},
		{"no catalog, and it was taken off the record while it serves", func(w *world) {
			w.catalog.Err, w.record = err, w.record.Without("a", peers.GivenUp("forget-cluster"), began).By("a", "forget-cluster on host h")
		}, "ask record; ask catalog; ask managed within 1s; passing: answers; not checked against the record: no leader", missed},
		{"no catalog, and Consul lost the record", func(w *world) { w.catalog.Err, w.record = err, peers.Record{} }, "ask record; ask catalog; ask managed within 1s; passing: answers; not checked against the record: no leader", missed},
		{"no catalog, not verified", func(w *world) { never(w); w.catalog.Err = err }, "ask record; ask catalog; ask view a; Enroll; passing: answers; not checked against the record: no leader", missed},
		{"no catalog, not verified, and no majority runs", func(w *world) {
			never(w)
			v := viewOf("a,b,c", "a")
			v.Khepri = true
			w.catalog.Err, w.views["a"] = err, Answer(v, nil)
		}, "ask record; ask catalog; ask view a; Enroll; critical: no majority: of the members a, b, c only a run", missed},
		{"no catalog, and the marker cannot be written", func(w *world) { never(w); w.catalog.Err, w.fails["Enroll"] = err, errNot }, "ask record; ask catalog; ask view a; Enroll; critical: not verified: no answer yet", missed},
		{"no catalog, not on record yet", func(w *world) { never(w); w.catalog.Err, w.record = err, formed("b,c") }, "ask record; ask catalog; ask view a; WriteRecord(on record with this volume); Enroll; passing: answers; not checked against the record: no leader", missed},
		{"no catalog, not verified, RabbitMQ does not say", func(w *world) { never(w); w.catalog.Err, w.views["a"] = err, Answer(peers.View{}, errNot) }, "ask record; ask catalog; ask view a; critical: not verified: no answer yet", missed},
		{"no catalog, not verified, another cluster is on record", func(w *world) { never(w); w.catalog.Err, w.record.ClusterID = err, "other" }, "ask record; ask catalog; ask view a; ask view b within 7.5s; ask view c within 7.5s; critical: RabbitMQ here says that its cluster is id, the record says other, and b, c cannot be asked: *", missed},
		{"no catalog, a joiner", as(Joining, formed("a,b,c")), noCatalog + "Enroll; passing: answers; not checked against the record: no leader", func(w *world) string {
			return check(missed(w) == "", missed(w), w.s.Membership.Role == Member, "it is no member")
		}},
		{"no catalog, a joiner that is still on its way by the record", as(Joining, formed("b,c").Joins("a", "va", began)), noCatalog + "WriteRecord(a member now); Enroll; passing: *", missed},
		{"no catalog, a joiner, and the record was restored from before it joined", as(Joining, formed("b,c")), noCatalog + "WriteRecord(on record with this volume); Enroll; passing: *", missed},
		{"no catalog, a joiner whose place is another's", as(Joining, formed("a,b,c").With("a", "other")), noCatalog + "StopServer; critical: not verified: this volume (va) was replaced*", missed},
		{"no catalog, a joiner that does not run", func(w *world) { as(Joining, formed("a,b,c"))(w); w.known(viewOf("a,b,c", "b,c")) }, noCatalog + "critical: not verified: RabbitMQ does not list this node as running", missed},
		{"no catalog, a joiner that RabbitMQ does not answer", func(w *world) { as(Joining, formed("a,b,c"))(w); delete(w.views, "a") }, noCatalog + "critical: not verified: no answer yet", missed},
		{"no catalog, a joiner that came up alone", func(w *world) {
			as(Joining, formed("a,b,c"))(w)
			v := viewOf("a", "a")
			v.ClusterID = "own"
			w.known(v)
		}, noCatalog + "critical: not verified: no leader", missed},
		{"no catalog, a joiner in a cluster that is not announced", as(Joining, forming("b", "claim")), noCatalog + "critical: not verified: no leader", missed},
		{"no catalog, a seed that is to announce its cluster", as(Seeding, forming("a", "claim")), noCatalog + "critical: not verified: no leader", missed},
		{"no catalog, a seed that has announced it", as(Seeding, formed("a,b,c")), noCatalog + "Enroll; passing: *", missed},
		{"RabbitMQ does not say", func(w *world) {
			w.managed = Answer([]healthcheck.Node(nil), nil)
			w.views["a"] = Answer(peers.View{}, errNot)
		},
			quiet + "ask view a within 7.5s; passing: answers; not checked against the record: no answer yet", func(w *world) string {
				return check(w.logged("RabbitMQ does not say what it knows of its cluster, asking again"), "nothing is said")
			}},
		{"RabbitMQ does not say, not verified", func(w *world) { never(w); w.views["a"] = Answer(peers.View{}, errNot) }, "ask record; ask catalog; ask view a; critical: not verified: no answer yet", nil},
	})
}

// When RabbitMQ is asked for its members, and when the management port will do.
func TestRefreshView(t *testing.T) {
	t.Parallel()
	const asks, well = quiet + "ask view a within 7.5s; ", "passing: answers"
	deaf := func(w *world) { w.managed = Answer([]healthcheck.Node(nil), errNot) }
	old := func(w *world) { w.s.View.At = began.Add(-viewEvery) }
	fresh := func(w *world) string {
		return check(w.s.View.At.Equal(began) && w.s.View.RecordIndex == w.index && w.s.View.PassingPeers == "b,c", "it is not taken for judged")
	}
	nodes := func(w *world, change func(n []healthcheck.Node)) {
		n := append([]healthcheck.Node(nil), w.managed.Value...)
		change(n)
		w.managed.Value = n
	}
	run(t, []row{
		{"nothing moved, the record did", func(w *world) { w.index = 9; old(w) }, quiet + well, fresh},
		{"nothing moved, and RabbitMQ was not asked for long", func(w *world) { w.s.View.SaidAt = began.Add(-saidEvery) }, asks + well, func(w *world) string {
			return check(w.s.View.SaidAt.Equal(began), "it is not noted when RabbitMQ was asked")
		}},
		{"nothing moved, and it was told something", func(w *world) { w.s.View.At = Never }, asks + well, fresh},
		{"it decides by majority now, which the management port does not tell", func(w *world) {
			w.s.View.SaidAt = began.Add(-saidEvery)
			v := viewOf("a,b,c", "a,b,c")
			v.Khepri = true
			w.views["a"] = Answer(v, nil)
		}, asks + well, func(w *world) string { return check(w.s.View.Khepri, "it is not noted") }},
		{"a member more", func(w *world) { w.known(viewOf("a,b,c,d", "a,b,c")); w.record = formed("a,b,c,d") }, asks + well, fresh},
		{"one that runs less", func(w *world) { w.known(viewOf("a,b,c", "a,b")) }, asks + well, nil},
		{"in another order", func(w *world) { nodes(w, func(n []healthcheck.Node) { n[0], n[2] = n[2], n[0] }) }, quiet + well, nil},
		{"a partition", func(w *world) { nodes(w, func(n []healthcheck.Node) { n[0].Partitions = list("c,b") }) }, asks + well, nil},
		{"a partition that is not collected yet", func(w *world) {
			nodes(w, func(n []healthcheck.Node) { n[0].Known, n[0].Partitions = false, list("b") })
		}, quiet + well, nil},
		{"not collected, and the record moved", func(w *world) { w.index = 9; nodes(w, func(n []healthcheck.Node) { n[0].Known = false }) }, asks + well, fresh},
		{"no management port", deaf, quiet + well, func(w *world) string { return check(w.s.View.At.Before(began), "it is taken for new") }},
		{"no management port, and the view is old", func(w *world) { deaf(w); old(w) }, asks + well, fresh},
		{"no management port, and not quite old", func(w *world) { deaf(w); w.s.View.At = began.Add(time.Second - viewEvery) }, quiet + well, nil},
		{"no management port, and the record moved", func(w *world) { deaf(w); w.index = 9 }, asks + well, fresh},
		{"no management port, and others pass", func(w *world) { deaf(w); w.listed(passes("b"), beats("c")) }, asks + well, nil},
		{"no management port, and others pass, just after it was asked", func(w *world) {
			deaf(w)
			w.listed(passes("b"), beats("c"))
			w.s.View.At = began.Add(time.Second - ttl/3)
		}, quiet + well, func(w *world) string {
			return check(w.s.View.PassingPeers == "b,c", "it is not looked at later")
		}},
		{"no management port, and a stranger passes", func(w *world) { deaf(w); w.listed(passes("b"), passes("c"), passes("x")) }, quiet + well, nil},
		{"no management port, and a stranger passes under a member's name, too", func(w *world) { deaf(w); w.listed(passes("b"), passes("c"), passes("b")) }, quiet + well, nil},
		{"no management port, and the catalog is in another order", func(w *world) { deaf(w); w.listed(passes("c"), passes("b")) }, quiet + well, nil},
		{"no management port, and one passes that only RabbitMQ lists", func(w *world) {
			deaf(w)
			w.record = formed("a,b")
			w.s.View.View, w.s.View.PassingPeers = viewOf("a,b,c", "a,b"), "b"
		}, asks + "WriteRecord(a running member was not on record: added c); " + well, nil},
		{"not verified", func(w *world) { w.s.Membership.Verified = false }, "ask record; ask catalog; ask view a; Enroll; " + well, nil},
	})
	// A quiet beat asks no Erlang, for as long as nothing moves.
	w := newWorld()
	for range 20 {
		if _, trace := w.beat(t); !matches(join(trace), quiet+well) {
			t.Errorf("a quiet beat: %s", trace)
		}
		w.now = w.now.Add(w.set.Beat())
		w.s.Entry = w.s.Entry.Reported(Passing, w.now)
	}
}
