package policy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/peers"
)

// Of two ills at once, the earlier rule speaks.
func TestWhoSpeaks(t *testing.T) {
	t.Parallel()
	and := func(fs ...func(*world)) func(*world) {
		return func(w *world) {
			for _, f := range fs {
				f(w)
			}
		}
	}
	badOrder := func(w *world) { w.volume.CarryOn.Err = errNot }
	drained := func(w *world) { w.drained(Maintenance{Done: true, At: began}) }
	leaves := func(w *world) { w.drained(Maintenance{Leaving: true, Done: true, At: began}) }
	fails := func(w *world) { w.health = healthcheck.Result{Reason: "refused"} }
	noRecord := func(w *world) { w.recordErr = errNot }
	noCatalog := func(w *world) { w.catalog.Err = errNot }
	noView := func(w *world) {
		w.managed = Answer([]healthcheck.Node{{Name: "x"}}, nil)
		w.views["a"] = Answer(peers.View{}, errNot)
	}
	lost := func(w *world) {
		v := viewOf("a,b,c", "a")
		v.Khepri = true
		w.judged(v)
		w.record = formed("a")
		w.record.Gone = gone(peers.Gone{}, "b", "c")
	}
	split := func(w *world) { w.record.ClusterID = "other" }
	parted := func(w *world) { w.known(apart("a", "a,b,c", "", "a a, b bc, c bc", false)) }
	never := func(w *world) { w.s.Membership.Verified = false }
	few := func(w *world) { v := w.views["a"].Value; v.Khepri, v.Running = true, list("a"); w.known(v) }
	late := func(w *world) { w.boots(Joining); w.s.Join.Deadline = began.Add(-time.Second) }
	stalled := func(w *world) { w.listed(passes("b")) }
	for _, c := range []struct {
		name string
		set  func(*world)
		rule string
	}{
		{"order and maintenance", and(badOrder, drained), "carryOnOrder"},
		{"maintenance and the check", and(drained, fails), "maintenance"},
		{"leaving and the check", and(leaves, fails), "leaving"},
		{"the check and the record", and(fails, noRecord), "checkFails"},
		{"the record and the catalog", and(noRecord, noCatalog), "recordUnknown"},
		{"the majority and the catalog", and(lost, noCatalog), "majorityLost"},
		{"the catalog and the view", and(noCatalog, noView), "catalogUnknown"},
		{"the view and the record's cluster", and(noView, split), "viewUnknown"},
		{"the record's cluster and a partition", and(split, parted), "recordChanged"},
		{"not a member and a partition", and(never, split, parted), "membership"},
		{"a partition and few", and(parted, few), "partition"},
		{"few", few, "noMajority"},
		{"well", func(*world) {}, "healthy"},
		{"order and a late joiner", and(late, badOrder), "carryOnOrder"},
		{"maintenance and a late joiner", and(late, drained), "maintenance"},
		{"a late joiner", and(late, stalled), "lastWord"},
		{"stopped, an order and maintenance", and((*world).stops, badOrder, drained), "maintenance"},
		{"stopped, leaving and lost members", and((*world).stops, lost, leaves), "leaving"},
		{"stopped, and lost members", and(lost, (*world).stops), "waitsForMembers"},
	} {
		w := newWorld()
		c.set(w)
		if v, trace := w.beat(t); v.Rule != c.rule {
			t.Errorf("%s: %s speaks: %s", c.name, v.Rule, trace)
		}
	}
}

// What another rule had done is not this one's, and what an observation is copied to stays apart from it.
func TestDeeds(t *testing.T) {
	t.Parallel()
	o := Observation{}
	first := o.after(Outcome{Rule: "leaving", Action: StopServer{}, Err: errNot})
	second := first.after(Outcome{Rule: "leaving", Action: StopServer{}})
	if d := did[StopServer](&turn{rule: "leaving", Seen: second}); !d.Done || d.Err != nil || len(first.Did) != 1 || len(o.Did) != 0 {
		t.Errorf("%+v", d)
	}
	if d := did[StopServer](&turn{rule: "leaving", Seen: first}); !d.Done || d.Err != errNot {
		t.Errorf("%+v", d)
	}
	if d := did[StopServer](&turn{rule: "carryOnOrder", Seen: second}); d.Done || !anyDid[StopServer](&turn{Seen: second}) || anyDid[FailJoin](&turn{Seen: second}) {
		t.Errorf("another rule's: %+v", d)
	}
	o.See("b", func(n *Node) { n.Down = map[string]bool{"b:1": true} })
	was := o
	o.See("b", func(n *Node) { n.Down["b:2"] = true })
	o.See("c", func(n *Node) { n.Leader = Answer(true, nil) })
	if len(was.Nodes) != 1 || len(was.Nodes["b"].Down) != 1 || len(o.Nodes["b"].Down) != 2 || !o.Nodes["c"].Leader.Value {
		t.Errorf("%+v, %+v", was.Nodes, o.Nodes)
	}
}

// The package can neither see nor touch the world, and its functions and files can be read.
func TestHouse(t *testing.T) {
	t.Parallel()
	ours := []string{"rmq-entrypoint/peers", "rmq-entrypoint/healthcheck", "rmq-entrypoint/rabbitconf"}
	std := []string{"cmp", "errors", "fmt", "maps", "slices", "strings", "time"}
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	set := token.NewFileSet()
	for _, file := range files {
		f, err := parser.ParseFile(set, file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		if lines := set.File(f.Pos()).LineCount(); lines > 500 {
			t.Errorf("%s has %d lines", file, lines)
		}
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, i := range f.Imports {
			if path, _ := strconv.Unquote(i.Path.Value); !slices.Contains(ours, path) && !slices.Contains(std, path) {
				t.Errorf("%s imports %s", file, path)
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if lines := set.Position(n.End()).Line - set.Position(n.Pos()).Line; lines > 80 {
					t.Errorf("%s: %s has %d lines", file, n.Name.Name, lines)
				}
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && (x.Name == "time" && slices.Contains([]string{"Now", "Since", "Until", "After", "Sleep"}, n.Sel.Name) || x.Name == "peers" && slices.Contains([]string{"ReadRecord", "WriteRecord", "Catalog", "NewID"}, n.Sel.Name)) {
					t.Errorf("%s calls %s.%s", file, x.Name, n.Sel.Name)
				}
			}
			return true
		})
	}
	for i := range reflect.TypeFor[State]().NumField() {
		if f := reflect.TypeFor[State]().Field(i); f.Type.NumField() > 12 {
			t.Errorf("%s has %d fields", f.Name, f.Type.NumField())
		}
	}
}

// Each rule is there once in a phase, and a phase never ends without a word.
func TestRules(t *testing.T) {
	t.Parallel()
	for at, p := range phases {
		var names []string
		for _, r := range p.rules {
			if slices.Contains(names, r.name) {
				t.Errorf("phase %d has %s twice", at, r.name)
			}
			names = append(names, r.name)
		}
		if last := names[len(names)-1]; last != "healthy" && last != "lastWord" {
			t.Errorf("phase %d ends with %s", at, last)
		}
	}
}
