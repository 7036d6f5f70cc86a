package policy

import (
	"fmt"
	"testing"

	"rmq-entrypoint/peers"
)

// An id that RabbitMQ gave its cluster is no split: this volume is on record, the members are the same, and a majority of
// them says so. Whatever lacks one of these is one; where members that cannot be asked may say so, it is not known.
func TestRenamed(t *testing.T) {
	t.Parallel()
	named := func(members, running, id string) peers.View {
		v := viewOf(members, running)
		v.ClusterID = id
		return v
	}
	imports := func(change func(*world)) func(*world) {
		return func(w *world) {
			for _, n := range list("a,b,c") {
				w.views[n] = Answer(named("a,b,c", "a,b,c", "new"), nil)
			}
			w.judged(named("a,b,c", "a,b,c", "new"))
			change(w)
		}
	}
	boots := func(change func(*world)) func(*world) { // and is to be verified
		return imports(func(w *world) { w.s.Membership.Verified, w.s.Membership.VerifiedSince = false, Never; change(w) })
	}
	says := func(node string, v peers.View) func(*world) {
		return func(w *world) { w.views[node] = Answer(v, nil) }
	}
	silent := func(nodes string) func(*world) {
		return func(w *world) {
			for _, n := range list(nodes) {
				delete(w.views, n)
			}
		}
	}
	half := func(running string) func(*world) { // of four say so, and the other two nothing
		return imports(func(w *world) {
			w.record = formed("a,b,c,d")
			for _, n := range list("a,b") {
				w.views[n] = Answer(named("a,b,c,d", "a,b,c,d", "new"), nil)
			}
			w.judged(named("a,b,c,d", running, "new"))
			silent("c,d")(w)
		})
	}
	const (
		asks   = "ask view a within 7.5s; ask view b within 7.5s; ask view c within 7.5s; "
		writes = "WriteRecord(RabbitMQ changed its cluster's id); "
		well   = "passing: answers"
		splits = "*critical: *SPLIT: this node is in cluster new with *"
		doubts = "*critical: RabbitMQ here says that its cluster is new, the record says id, and "
	)
	renamed := func(w *world) string {
		r := w.record
		return check(r.ClusterID == "new" && fmt.Sprint(r.Formerly) == "[id]" && w.on("a,b,c"), fmt.Sprintf("%+v", r), w.logged("RabbitMQ CHANGED ITS CLUSTER'S ID*was id is new*"), "the log does not say so",
			r.Refuses("b", "vb", "id") == "" && r.Refuses("b", "vb", "new") == "", "a member that was down is refused", r.Refuses("b", "other", "id") != "" && r.Refuses("b", "vb", "x") != "", "anybody may come")
	}
	split := func(w *world) string {
		return check(w.record.ClusterID == "id" && len(w.record.Formerly) == 0, fmt.Sprintf("%+v", w.record))
	}
	run(t, []row{
		{"while it serves", imports(func(*world) {}), quiet + asks + writes + well, renamed},
		{"found at a restart", boots(func(*world) {}), "ask record; ask catalog; ask view a; ask view b within 7.5s; ask view c within 7.5s; " + writes + enrolled, renamed},
		{"one is down", imports(func(w *world) { w.judged(named("a,b,c", "a,b", "new")); silent("c")(w) }), quiet + "ask view a within 7.5s; ask view b within 7.5s; " + writes + well, renamed},
		{"one does not say", imports(silent("c")), quiet + asks + writes + well, renamed},
		{"the only member", imports(func(w *world) {
			w.record = formed("a")
			w.judged(named("a", "a", "new"))
			w.listed()
		}), quiet + "ask view a within 7.5s; " + writes + well, func(w *world) string { return check(w.record.ClusterID == "new", "not written") }},
		{"one is about to join", imports(func(w *world) {
			w.record = formed("a,b,c,d")
			w.record.Joining = map[string]string{"d": "vd"}
		}), quiet + asks + writes + well, func(w *world) string { return check(w.record.ClusterID == "new", "not written") }},
		{"an id of an earlier cluster", imports(func(w *world) {
			w.record.Previous = []peers.Previous{{ClusterID: "new", Until: began}}
		}), quiet + asks + writes + well, renamed},

		{"a minority says so, and others cannot be asked", imports(silent("b,c")), doubts + "b, c cannot be asked*", split},
		{"the same at a restart", boots(silent("b,c")), doubts + "b, c cannot be asked*", split},
		{"one says the former one, and one cannot be asked", imports(func(w *world) {
			says("b", viewOf("a,b,c", "a,b,c"))(w)
			silent("c")(w)
		}), doubts + "c cannot be asked*", split},
		{"a minority says so, and the others are down", imports(func(w *world) {
			w.judged(named("a,b,c", "a", "new"))
			silent("b,c")(w)
		}), splits, split},
		{"half of them says so", half("a,b"), splits, split},
		{"half of them says so, and two cannot be asked", half("a,b,c,d"), doubts + "c, d cannot be asked*", split},
		{"the others say the former one", imports(func(w *world) {
			says("b", viewOf("a,b,c", "a,b,c"))(w)
			says("c", viewOf("a,b,c", "a,b,c"))(w)
		}), splits, split},
		{"others list other members", imports(func(w *world) {
			says("b", named("a,b", "a,b", "new"))(w)
			says("c", named("c", "c", "new"))(w)
		}), splits, split},
		{"alone", imports(func(w *world) { w.judged(named("a", "a", "new")) }), splits, split},
		{"a member that is not on record", imports(func(w *world) { w.record = formed("a,b") }), splits, split},
		{"a member less", imports(func(w *world) { w.judged(named("a,b", "a,b", "new")) }), splits, split},
		{"another volume", imports(func(w *world) { w.record.Members["a"] = "other" }), splits, split},
		{"no volume", imports(func(w *world) { w.record.Members["a"] = "" }), splits, split},
		{"a seed", boots(func(w *world) { w.s.Membership = Membership{Role: Seeding, Claim: "claim"} }), splits, split},
		{"a joiner", boots(func(w *world) { w.s.Membership = Membership{Role: Joining, Claim: "claim"} }), splits, split},
	})
	// Where another member wrote it, this one has its marker and its entry follow, and passes on.
	w := newWorld()
	imports(func(w *world) { w.s.View.ClusterID = "id" })(w)
	w.record = w.record.Renamed("new")
	if _, trace := w.beat(t); join(trace) != quiet+"ask view a within 7.5s; "+enrolled {
		t.Error(trace)
	}
	if m := w.volume.Marker.Value; m.ClusterID != "new" || w.s.Entry.ClusterID != "new" || !w.s.Membership.Verified {
		t.Errorf("%+v, %+v", m, w.s.Entry)
	}
	// And one that was down comes back with the former id on its volume.
	w = newWorld()
	imports(func(*world) {})(w)
	w.record = w.record.Renamed("new")
	w.s.Membership.Verified, w.s.Membership.VerifiedSince = false, Never
	if _, trace := w.beat(t); join(trace) != anew+enrolled {
		t.Error(trace)
	}
}
