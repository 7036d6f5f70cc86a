package overview_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/internal/overview"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/expect"
)

// Whoever may register under the service's name may do so 20,000 times, with texts as long as they get. Members and who left
// a note have their rows all the same, in order, and what is written stays small.
func TestBounds(t *testing.T) {
	t.Parallel()
	const many = 20000
	seen := three()
	long := strings.Repeat("<&", 256)
	other := foreign(t)
	for i := range many {
		p := member(fmt.Sprintf("rabbit@%05d", i)) // before the members' names
		p.Passing, p.Status, p.Said, p.Version, p.Volume = false, "critical", long, fmt.Sprintf("%d%s", i, long), long
		other.ID = fmt.Sprintf("other-%d", i)
		seen.Catalog.Value = append(seen.Catalog.Value, p, other)
	}
	seen.Notes.Value = []peers.Note{
		{Node: "rabbit@19999", Boot: "boot-2", State: peers.NoteWaits, Why: "another node of this name", Since: ago(time.Minute)},
		{Node: "rabbit@d", Boot: "boot-d", State: peers.NoteWaits, Why: "the lock", Since: ago(time.Minute)},
	}
	seen.Own.View.Members = append(seen.Own.View.Members, "rabbit@e")
	d := overview.Of(seen)
	var names []string
	for _, n := range d.Nodes {
		names = append(names, n.Node)
	}
	for node, rows := range map[string]int{a: 1, b: 1, c: 1, "rabbit@d": 1, "rabbit@e": 1, "rabbit@19999": 2, "rabbit@00000": 1, "rabbit@00199": 1, "rabbit@00200": 0} {
		if got := len(slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n != node })); got != rows {
			t.Errorf("%s has %d rows, want %d", node, got, rows)
		}
	}
	if len(names) != 200+7 || !slices.IsSorted(names) || d.Cluster.More != many-201 {
		t.Errorf("%d rows, %d more, sorted: %t", len(names), d.Cluster.More, slices.IsSorted(names))
	}
	if len(d.Problems) > len(names)+20 {
		t.Errorf("%d problems", len(d.Problems))
	}
	for name, write := range map[string]func(*strings.Builder) error{
		"page": func(w *strings.Builder) error { return d.HTML(w) }, "JSON": func(w *strings.Builder) error { return d.JSON(w) },
		"metrics": func(w *strings.Builder) error { return d.Metrics(w) }, "text": func(w *strings.Builder) error { return d.Text(w) },
	} {
		var text strings.Builder
		expect.Must(t, write(&text))
		if most := map[string]int{"page": 2 << 20, "JSON": 4 << 20, "text": 512 << 10, "metrics": 8 << 10}[name]; text.Len() > most {
			t.Errorf("the %s has %d bytes, more than %d", name, text.Len(), most)
		}
		expect.Says(t, text.String(), map[string]string{
			"page": "and 19799 more are registered, which are no members", "JSON": `"more_nodes": 19799`, "text": "\nand 19799 more are registered, which are no members\n",
			"metrics": `rmq_entrypoint_nodes{state="unfit"} 20000`,
		}[name])
	}
	if last := d.Problems[len(d.Problems)-1]; !strings.HasPrefix(last.What, "versions differ: ") || len(last.What) > 20000 {
		t.Errorf("it is %d characters long: %.200s", len(last.What), last.What)
	}
	if !slices.ContainsFunc(d.Problems, func(p overview.Problem) bool { return p.What == "and 19990 more entries are no node's" }) {
		t.Error("how many entries are no node's is not said")
	}
	if spells := (overview.Spells{}).Watch(d.Nodes, now); len(spells) > len(names) {
		t.Errorf("%d spells", len(spells))
	}
}
