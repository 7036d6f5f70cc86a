package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// A source is one Go file of the repository. A file of tests, or of what only tests use, is
// no product code.
type source struct {
	name    string // relative to the root of the repository
	folder  string // of its package
	lines   int
	product bool
	files   *token.FileSet
	tree    *ast.File
}

func sources(t *testing.T) (all []source) {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range tracked(t, root, "*.go") {
		text, err := os.ReadFile(filepath.Join(root, name))
		if os.IsNotExist(err) { // removed, and not committed yet
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		s := source{
			name: name, folder: path.Dir(name), lines: strings.Count(string(text), "\n"), files: token.NewFileSet(),
			product: !strings.HasPrefix(name, "tests/") && !strings.HasSuffix(name, "_test.go"),
		}
		if s.tree, err = parser.ParseFile(s.files, name, text, parser.ParseComments|parser.SkipObjectResolution); err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

// imports returns the import paths of a file.
func (s source) imports() (paths []string) {
	for _, i := range s.tree.Imports {
		p, _ := strconv.Unquote(i.Path.Value) // the parser has done so
		paths = append(paths, p)
	}
	return paths
}
