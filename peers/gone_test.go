package peers

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"
)

// Who wrote that a node is gone is on record, and told apart from the node itself.
func TestGoneBy(t *testing.T) {
	const a = "rabbit@a"
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := Record{State: Formed, ClusterID: "id", Members: map[string]string{a: "va"}}
	for _, test := range []struct {
		why, by string
		another bool
		says    string
	}{
		{"its volume came up blank", "", false, "rabbit@a took itself off cluster id on 2026-01-02T03:04:05Z (its volume came up blank)"},
		{"its volume came up blank", "rabbit@a, its volume blank, on host h", false, "took itself off cluster id on 2026-01-02T03:04:05Z (its volume came up blank; written by rabbit@a, its volume blank, on host h)"},
		{"its volume came up blank", a, false, "took itself off"},
		{"its volume came up blank", "rabbit@ab on host h", true, "was taken off cluster id on 2026-01-02T03:04:05Z by rabbit@ab on host h (its volume came up blank)"},
		{GivenUp("rmq-entrypoint forget-cluster"), "rmq-entrypoint forget-cluster on host h", true, "was taken off cluster id on 2026-01-02T03:04:05Z by rmq-entrypoint forget-cluster on host h (given up by an operator (rmq-entrypoint forget-cluster))"},
		{"given up by an operator (rmq-entrypoint forget-cluster)", "", true, "was taken off cluster id on 2026-01-02T03:04:05Z by somebody else (given up by"}, // written by an earlier version
		{"because", "alice", true, "was taken off cluster id on 2026-01-02T03:04:05Z by alice (because)"},
	} {
		gone := r.Without(a, test.why, now)
		if test.by != "" {
			gone = gone.By(a, test.by)
		}
		if g := gone.Gone[a]; g.Another(a) != test.another || g.By != test.by || !strings.Contains(g.Told(a, "cluster id"), test.says) {
			t.Errorf("%q by %q: another's %t, %q; want %t, %q", test.why, test.by, g.Another(a), g.Told(a, "cluster id"), test.another, test.says)
		}
		if why := gone.Refuses(a, "va", "id"); !strings.Contains(why, test.says) || !strings.Contains(why, "nobody is on record any more") {
			t.Errorf("by %q it is refused for %q", test.by, why)
		}
		b, err := json.Marshal(gone.Gone[a])
		if says := strings.Contains(string(b), `"by"`); err != nil || says != (test.by != "") {
			t.Errorf("%s, %v", b, err)
		}
	}
	if same := r.By("rabbit@x", "nobody"); len(same.Gone) != 0 {
		t.Errorf("of one that is not gone: %+v", same.Gone)
	}
	given := r.With("rabbit@b", "vb").Without(a, "", now)
	given.By(a, "x")
	if given.Gone[a].By != "" {
		t.Error("it changed the record that it was given")
	}
	if why := given.By(a, "x").Refuses(a, "va", "id"); !strings.Contains(why, "by x") || !strings.Contains(why, "on record without it: rabbit@b") {
		t.Error(why)
	}
}

// A cluster that was given up and runs is back on record with all whose data was given up
// with it, and with nobody who went by himself.
func TestReinstated(t *testing.T) {
	now := time.Now()
	r := Record{State: Formed, ClusterID: "id", Members: map[string]string{"a": "va", "b": "vb", "c": "vc", "d": "vd", "e": "ve", "f": ""}}
	for _, n := range []string{"a", "b", "f", "e"} {
		r = r.Without(n, GivenUp("forget-cluster"), now).By(n, "forget-cluster on host h")
	}
	r = r.Without("c", "its volume came up blank", now).By("c", "c, its volume blank, on host h").Left("d", "told to", now)
	before := maps.Clone(r.Gone)
	back := r.Reinstated("a", "va", []string{"a", "b", "c", "d", "f"})
	if want := map[string]string{"a": "va", "b": "vb", "f": ""}; !maps.Equal(back.Members, want) {
		t.Errorf("on record are %v, want %v", back.Members, want)
	}
	if len(back.Gone) != 3 || back.Gone["c"].Why == "" || !back.Gone["d"].Left || back.Gone["e"].By == "" || len(back.Replaced) != 0 {
		t.Errorf("gone are %+v, replaced %+v", back.Gone, back.Replaced)
	}
	if len(r.Members) != 0 || !maps.Equal(r.Gone, before) {
		t.Error("it changed the record that it was given")
	}
}
