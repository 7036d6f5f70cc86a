package house

import (
	"go/ast"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "rmq-entrypoint/"

// A place is a row of the two tables in docs/architecture.md, "The packages".
type place struct {
	level int
	may   []string // import these of ours
}

var (
	levelRow  = regexp.MustCompile("^\\| (\\d) \\| `([a-z/-]+)` \\| .+ \\|$")
	importRow = regexp.MustCompile("^\\| ((?:`[a-z/-]+`(?:, )?)+) \\| ([a-z, ]+)(?:: [a-z ]+)? \\|$")
	quoted    = regexp.MustCompile("`([a-z/-]+)`")
)

// folder is where a package of that name lies.
func folder(name string) string {
	switch name {
	case "lock", "peers", "rabbitconf", "healthcheck", "cmd/rmq-entrypoint", "scripts/secure", "scripts/benchmark":
		return name
	case "fleet", "scripts/benchmark/fleet":
		return "scripts/benchmark/fleet"
	}
	return "internal/" + strings.TrimPrefix(name, "internal/")
}

// places reads the two tables.
func places(t *testing.T) map[string]place {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]place{}
	_, section, _ := strings.Cut(strings.Join(read(t, root, "docs/architecture.md").lines, "\n"), "\n## The packages\n")
	section, _, _ = strings.Cut(section, "\n## ")
	for line := range strings.Lines(section) {
		line = strings.TrimSpace(line)
		if m := levelRow.FindStringSubmatch(line); m != nil {
			level, _ := strconv.Atoi(m[1])
			all[folder(m[2])] = place{level: level}
		} else if m := importRow.FindStringSubmatch(line); m != nil && m[2] != "may import, of this repository" {
			for _, name := range quoted.FindAllStringSubmatch(m[1], -1) {
				r, ok := all[folder(name[1])]
				if !ok {
					t.Errorf("docs/architecture.md says what %s may import, and not on which level it is", name[1])
				}
				for _, may := range strings.Split(m[2], ", ") {
					r.may = append(r.may, folder(may))
				}
				all[folder(name[1])] = r
			}
		}
	}
	return all
}

// Imports go down only, and only where the tables of docs/architecture.md have them.
func TestWhoImportsWhom(t *testing.T) {
	all, seen := places(t), map[string]bool{}
	for _, pkg := range slices.Sorted(maps.Keys(all)) {
		for _, may := range all[pkg].may {
			if below, ok := all[may]; !ok {
				t.Errorf("docs/architecture.md: %s may import %s, which is in no table", pkg, may)
			} else if below.level >= all[pkg].level {
				t.Errorf("docs/architecture.md: %s on level %d may import %s on level %d, which is not below", pkg, all[pkg].level, may, below.level)
			}
		}
	}
	for _, s := range sources(t) {
		if !s.product {
			continue
		}
		seen[s.folder] = true
		r, ok := all[s.folder]
		if !ok {
			t.Errorf("%s: its package is not in the tables of docs/architecture.md", s.name)
		}
		for _, p := range s.imports() {
			other, ours := strings.CutPrefix(p, module)
			if ours && !slices.Contains(r.may, other) {
				t.Errorf("%s imports %s, which docs/architecture.md does not allow", s.name, other)
			}
		}
	}
	for pkg := range all {
		if !seen[pkg] {
			t.Errorf("%s is in the tables of docs/architecture.md, and not there", pkg)
		}
	}
}

// The policy goes by what it is handed: it reaches for nothing and has no clock.
func TestPolicyIsPure(t *testing.T) {
	clock := []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}
	for _, s := range sources(t) {
		if !s.product || s.folder != "internal/policy" {
			continue
		}
		for _, p := range s.imports() {
			if first, _, _ := strings.Cut(p, "/"); slices.Contains([]string{"context", "net", "os", "log", "syscall"}, first) {
				t.Errorf("%s imports %s", s.name, p)
			}
		}
		ast.Inspect(s.tree, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(clock, sel.Sel.Name) {
					t.Errorf("%s: time.%s: the time is handed in", s.files.Position(sel.Pos()), sel.Sel.Name)
				}
			}
			return true
		})
	}
}

// Every package says what it is for.
func TestPackageDocs(t *testing.T) {
	docs := map[string]string{}
	for _, s := range sources(t) {
		docs[s.folder] += ""
		if s.product || strings.HasPrefix(s.folder, "tests/") {
			docs[s.folder] += s.tree.Doc.Text()
		}
	}
	for pkg, doc := range docs {
		if !strings.Contains(doc, ".") {
			t.Errorf("package %s has no doc of a sentence", pkg)
		}
	}
}
