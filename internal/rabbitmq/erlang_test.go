package rabbitmq

import (
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"rmq-entrypoint/rabbitconf"
	"rmq-entrypoint/tests/expect"
	"rmq-entrypoint/tests/rabbittest"
)

// erlangParameters returns the parameters that each file in erlang declares.
func erlangParameters(t *testing.T) map[string][]string {
	t.Helper()
	declared := regexp.MustCompile(`(?m)^%% Parameter ([A-Z]\w*): .`)
	files := map[string][]string{}
	entries, err := erlangFiles.ReadDir(".")
	expect.Must(t, err)
	for _, e := range entries {
		text, err := erlangFiles.ReadFile(e.Name())
		expect.Must(t, err)
		names := []string{}
		for _, m := range declared.FindAllStringSubmatch(string(text), -1) {
			names = append(names, m[1])
		}
		files[strings.TrimSuffix(e.Name(), ".erl")] = names
	}
	return files
}

// lint is given names, parameters and expressions in turn. It says of each what Erlang finds in a function with those
// parameters and that body: what cannot be parsed, a variable that nothing binds, or one, like a parameter, that nothing uses.
const lint = `Say = fun(Name, Why, Args) -> io:format("~ts: ~ts~n", [Name, io_lib:format(Why, Args)]) end,
(fun
  Each([]) -> io:format("done~n"), halt(0);
  Each([Name, Parameters, Text | More]) ->
    case erl_scan:string(Text) of
      {error, {Line, M, Why}, _} -> Say(Name, "line ~w: ~ts", [Line, M:format_error(Why)]);
      {ok, Tokens, _} ->
        case erl_parse:parse_exprs(Tokens) of
          {error, {Line, M, Why}} -> Say(Name, "line ~w: ~ts", [Line, M:format_error(Why)]);
          {ok, Body} ->
            Args = [{var, 1, list_to_atom(P)} || P <- string:lexemes(Parameters, ",")],
            Clause = {clause, 1, Args, [], Body},
            {Errors, Warnings} = case erl_lint:module([{attribute, 1, module, m}, {attribute, 1, export, [{f, length(Args)}]},
                {function, 1, f, length(Args), [Clause]}, {eof, 1}], Name, [nowarn_deprecated_catch]) of
              {ok, Ws} -> {[], Ws};
              {error, Es, Ws} -> {Es, Ws}
            end,
            [Say(Name, "line ~w: ~ts", [Line, M:format_error(Why)]) || {_, All} <- Errors ++ Warnings, {Line, M, Why} <- All]
        end
    end,
    Each(More)
end)(init:get_plain_arguments()).`

// Each expression is one for the Erlang of every RabbitMQ: it parses, with its parameters in front, too, and uses no
// variable but those that it declares and binds.
func TestErlang(t *testing.T) {
	args := []string{"-noinput", "-eval", lint, "-extra"}
	for name, parameters := range erlangParameters(t) {
		args = append(args, name, strings.Join(parameters, ","), erlang(name))
		var bound []parameter
		for _, p := range parameters {
			bound = append(bound, parameter{p, rabbitconf.List{rabbitconf.Atom("rabbit@a-b.c"), rabbitconf.Int(1), rabbitconf.Binary("a")}})
		}
		args = append(args, name+" with its parameters", "", erlang(name, bound...))
	}
	args = append(args, "in turn", "", inTurn(erlang("mnesia_start"), erlang("home", parameter{"Lost", rabbitconf.List{}}), erlang("mnesia_stop")))
	if out, err := rabbittest.Run(t, "erl", args...); err != nil || out != "done" {
		t.Errorf("%v\n%s", err, out)
	}
	// It finds what is wrong.
	args = []string{"-noinput", "-eval", lint, "-extra"}
	wrong := []struct{ name, parameters, text string }{
		{"parse", "", "io:format(."},
		{"scan", "", `io:format("x).`},
		{"unended", "", "ok"},
		{"unbound", "", "io:format(Text)."},
		{"unused", "Text", "ok."},
		{"unsafe", "", "case node() of a -> B = 1; _ -> ok end, B."},
		{"no function", "", "format()."},
	}
	for _, w := range wrong {
		args = append(args, w.name, w.parameters, w.text)
	}
	out, err := rabbittest.Run(t, "erl", args...)
	if err != nil || !strings.HasSuffix(out, "done") {
		t.Errorf("%v\n%s", err, out)
	}
	for _, w := range wrong {
		if !strings.Contains("\n"+out, "\n"+w.name+": line") {
			t.Errorf("nothing is found in %s\n%s", w.name, out)
		}
	}
}

// Each file says what one must know of it, and holds comments in lines of their own, which the node does not get.
func TestErlangFiles(t *testing.T) {
	for name := range erlangParameters(t) {
		text, err := erlangFiles.ReadFile(name + ".erl")
		expect.Must(t, err)
		for _, says := range []string{"^%% [A-Z]", `(?m)^%% (Prints|Returns): .`, `(?m)^%% Versions: .`, `\.\n$`} {
			if !regexp.MustCompile(says).Match(text) {
				t.Errorf("%s.erl does not match %q", name, says)
			}
		}
		if expr := erlang(name); strings.Contains(expr, "%%") || !strings.HasSuffix(expr, ".") {
			t.Errorf("%s.erl: %s", name, expr)
		}
	}
	if got, want := erlang("set_partition_handling", parameter{"Mode", rabbitconf.Atom("ignore")}), "Mode = ignore, application:set_env("; !strings.HasPrefix(got, want) {
		t.Errorf("%q", got)
	}
	if got, want := inTurn("a:b().", "A = 1.\n,2."), "a:b(), A = 1.\n,2."; got != want {
		t.Errorf("%q", got)
	}
}

// All Erlang of the program is in those files: no Go file holds any, or has a node evaluate anything else. Each file is
// used, with the parameters that it declares.
func TestErlangIsInFiles(t *testing.T) {
	files := erlangParameters(t)
	used := map[string]bool{}
	call := regexp.MustCompile(`\b[a-z][a-z0-9_]*:[a-z][a-z0-9_]*\(`)
	root := filepath.Join("..", "..")
	_, err := os.Stat(filepath.Join(root, "go.mod"))
	expect.Must(t, err)
	literal := func(e ast.Expr) (string, bool) {
		l, ok := e.(*ast.BasicLit)
		if !ok || l.Kind != gotoken.STRING {
			return "", false
		}
		s, err := strconv.Unquote(l.Value)
		return s, err == nil
	}
	read := 0
	expect.Must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "tests" || strings.HasPrefix(d.Name(), ".") && path != root):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		read++
		set := gotoken.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.BasicLit:
				if s, ok := literal(n); ok && call.MatchString(s) {
					t.Errorf("%s: Erlang belongs into a file: %q", set.Position(n.Pos()), s)
				}
			case *ast.CallExpr:
				for i, arg := range n.Args {
					if what, ok := literal(arg); ok && what == "eval" && i+1 < len(n.Args) {
						if _, ok := literal(n.Args[i+1]); ok {
							t.Errorf("%s: Erlang belongs into a file", set.Position(arg.Pos()))
						}
					}
				}
				if f, ok := n.Fun.(*ast.Ident); !ok || f.Name != "erlang" {
					break
				}
				name, ok := literal(n.Args[0])
				if _, exists := files[name]; !ok || !exists {
					t.Errorf("%s: there is no %s.erl", set.Position(n.Pos()), name)
					break
				}
				used[name] = true
				given := []string{}
				for _, arg := range n.Args[1:] {
					if p, ok := arg.(*ast.CompositeLit); ok && len(p.Elts) == 2 {
						variable, _ := literal(p.Elts[0])
						given = append(given, variable)
					}
				}
				if !slices.Equal(given, files[name]) {
					t.Errorf("%s: %s.erl takes %q, not %q", set.Position(n.Pos()), name, files[name], given)
				}
			}
			return true
		})
		return nil
	}))
	if read < 20 {
		t.Errorf("read %d files only", read)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if !used[name] {
			t.Errorf("nothing uses %s.erl", name)
		}
	}
}
