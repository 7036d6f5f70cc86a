package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"testing"
)

// No client of the product is led elsewhere by who answers: each says what it does with a redirect,
// and nobody uses the clients that follow any.
func TestNoClientIsLedElsewhere(t *testing.T) {
	clients := 0
	for _, s := range sources(t) {
		if !s.product {
			continue
		}
		made, led := followers(s.tree)
		clients += made
		for _, where := range led {
			t.Errorf("%s: follows redirects: set CheckRedirect", s.files.Position(where))
		}
	}
	if clients < 4 {
		t.Errorf("the product has %d clients, which are more", clients)
	}
}

// followers counts the HTTP clients that a file makes, and returns where one of them follows
// redirects. A client of Consul's is made without the setting, and given it in the same file.
func followers(file *ast.File) (made int, led []token.Pos) {
	var unset []token.Pos
	given := false
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CompositeLit:
			if is(n.Type, "http", "Client") {
				if made++; !sets(n, "CheckRedirect") {
					led = append(led, n.Pos())
				}
			}
		case *ast.AssignStmt:
			for _, to := range n.Lhs {
				if f, ok := to.(*ast.SelectorExpr); ok && f.Sel.Name == "CheckRedirect" {
					given = true
				}
			}
		case *ast.SelectorExpr:
			for _, name := range []string{"DefaultClient", "Get", "Head", "Post", "PostForm"} {
				if is(n, "http", name) {
					led = append(led, n.Pos())
				}
			}
			if is(n, "api", "NewClient") {
				made, unset = made+1, append(unset, n.Pos())
			}
		}
		return true
	})
	if !given {
		led = append(led, unset...)
	}
	return made, led
}

// is reports whether an expression is that name of a package's.
func is(e ast.Expr, pkg, name string) bool {
	s, ok := e.(*ast.SelectorExpr)
	if !ok || s.Sel.Name != name {
		return false
	}
	x, ok := s.X.(*ast.Ident)
	return ok && x.Name == pkg
}

func sets(lit *ast.CompositeLit, field string) bool {
	for _, e := range lit.Elts {
		if kv, ok := e.(*ast.KeyValueExpr); ok {
			if key, ok := kv.Key.(*ast.Ident); ok && key.Name == field {
				return true
			}
		}
	}
	return false
}

func TestFollowers(t *testing.T) {
	for text, want := range map[string]int{
		"http.Client{}": 1, "&http.Client{Transport: t}": 1, "http.Client{CheckRedirect: f}": 0, "http.DefaultClient": 1,
		"func() { http.Get(u) }": 1, "func() { api.NewClient(c) }": 1, "func() { api.NewClient(c); c.HttpClient.CheckRedirect = f }": 0,
		"http.Client{CheckRedirect: func() { http.Post() }}": 1,
	} {
		file, err := parser.ParseFile(token.NewFileSet(), "", "package p\nvar x = "+text, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, led := followers(file); len(led) != want {
			t.Errorf("%s: %d, want %d", text, len(led), want)
		}
	}
}
