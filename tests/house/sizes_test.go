package house

import (
	"fmt"
	"go/ast"
	"maps"
	"path"
	"slices"
	"testing"
)

// What a reader holds in mind at a time.
const (
	mostFields  = 12  // of a struct
	mostLines   = 80  // of a function
	longestFile = 500 // lines, tests included
)

// allowed are larger all the same, and why.
var allowed = map[string]string{
	"struct config.Config":    "one field a setting",
	"struct policy.Settings":  "one field a setting",
	"struct workload.Options": "one field a flag",
	"struct statedir.Runtime": "a JSON document: the runtime file",
	"struct companion.Report": "a JSON document: what /status answers",
	"struct peers.Record":     "a JSON document: the cluster record",
}

// notYet are larger and are to become smaller: this list only shrinks.
var notYet = []string{}

func TestSizes(t *testing.T) {
	large := map[string]string{} // what is too large, and how large it is
	for _, s := range sources(t) {
		if s.lines > longestFile {
			large["file "+s.name] = fmt.Sprintf("%d lines, which is more than %d", s.lines, longestFile)
		}
		if !s.product {
			continue
		}
		pkg, name := path.Base(s.folder), ""
		ast.Inspect(s.tree, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.TypeSpec:
				name = n.Name.Name
			case *ast.StructType:
				if fields := n.Fields.NumFields(); fields > mostFields {
					large["struct "+pkg+"."+name] = fmt.Sprintf("%d fields, which is more than %d", fields, mostFields)
				}
			case *ast.FuncDecl:
				name = n.Name.Name
				if r := n.Recv; r != nil {
					name = receiver(r.List[0].Type) + "." + name
				}
				if lines := s.files.Position(n.End()).Line - s.files.Position(n.Pos()).Line + 1; lines > mostLines {
					large["func "+pkg+"."+name] = fmt.Sprintf("%d lines, which is more than %d", lines, mostLines)
				}
			}
			return true
		})
	}
	for _, what := range slices.Sorted(maps.Keys(large)) {
		if allowed[what] == "" && !slices.Contains(notYet, what) {
			t.Errorf("%s has %s", what, large[what])
		}
	}
	for _, what := range append(slices.Sorted(maps.Keys(allowed)), notYet...) {
		if large[what] == "" {
			t.Errorf("%s is listed as too large, and is not, or is not there", what)
		}
	}
}

// receiver is the name of a method's type.
func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return "?"
}
