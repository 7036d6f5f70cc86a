package rabbitconf

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"rmq-entrypoint/tests/expect"
)

// Each target holds what is read from files and from others against what this package
// promises. `go test` runs the seeds here and the inputs in testdata/fuzz; scripts/fuzz looks
// for more.

// longestError is what an error may say of a file beside its path: the file may hold secrets.
const longestError = 120

// Terms that were read are written as ASCII and read again as the same terms; an error quotes
// no piece of the file.
func FuzzParse(f *testing.F) {
	for _, c := range terms {
		f.Add([]byte(c.in))
	}
	for _, c := range badTerms {
		f.Add([]byte(c.in))
	}
	for _, text := range []string{
		`[{rabbit, [{default_pass, <<"p\x{zz">>}]}].`, "[{a,\n'", "'\\x{110000}'.", "a.b.", "<<1:8>>.", "fun a/1.", "#{a => b, a => c}.",
		strings.Repeat("[", 1200), "1.0e999.", "16#" + strings.Repeat("z", 300) + ".", "-9223372036854775808.", "- 37#1.", "%% coding: utf-8\n\xff.",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		is, err := parse(src)
		if err != nil {
			if is != nil || !strings.HasPrefix(err.Error(), "line ") || len(err.Error()) > longestError || expect.Unprintable(err.Error()) {
				t.Fatalf("%d terms, and the error %q", len(is), err)
			}
			return
		}
		text := "%%\n%%\n" + show(is) // so that no string in it says which encoding it has
		if strings.ContainsFunc(text, func(r rune) bool { return r > unicode.MaxASCII }) {
			t.Fatalf("not ASCII: %q", text)
		}
		again, err := parse([]byte(text))
		if err != nil || !reflect.DeepEqual(is, again) {
			t.Fatalf("%#v\nwritten as\n%s\nread as %#v, %v", is, text, again, err)
		}
	})
}

// What is written for RabbitMQ always reads as one list, with cluster_nodes once; whatever the
// user's files say of other applications is in it as it was.
func FuzzUserFiles(f *testing.F) {
	for _, conf := range []string{
		"", "listeners.tcp.default = 5673\nlog.console = true # yes", "cluster_formation.discovery_retry_limit = 5\ncluster_formation.proxy.proxy_exclusions.a = x",
		"a = 1\ncluster_formation.lock_retry_limit = 5", "f = 'over\ntwo' # x\r\ninclude *",
		"default_pass = $(RABBITMQ_PASS)\na = $(b)\nb = $(a)", "a = 'over\ntwo lines'\nb = '''it's''' # x", "include rabbitmq.conf", "\ufeffa = 1", "a = \xff",
		"cluster_formation.node_cleanup.interval = 1", "cluster_formation.randomized_startup_delay_range.max = 99999999999999999999",
	} {
		f.Add(conf, "", "rabbit@b", uint8(7))
	}
	for _, advanced := range []string{
		`[{rabbit, [{cluster_formation, [{discovery_retry_limit, 3}]}, {tcp_listeners, [5672]}]}, {kernel, [{net_ticktime, 60}]}].`,
		`[{rabbit, [{cluster_nodes, {[a@b], disc}}]}].`, `[{rabbit, [a]}].`, `[{rabbit, []}, {rabbit, [{a, b}]}].`, `[{a, [{b, "coding: utf-8"}]}].`, `[].`, `a.`,
		`[{rabbit,[{cluster_formation,[a,{b}]}]},{kernel,[]}].`,
	} {
		f.Add("", advanced, "rabbit@b,rabbit@c,rabbit@b", uint8(20))
	}
	dir := f.TempDir()
	conf, advanced := filepath.Join(dir, "rabbitmq.conf"), filepath.Join(dir, "advanced.config")
	f.Fuzz(func(t *testing.T, confText, advancedText, peers string, minor uint8) {
		for path, text := range map[string]string{conf: confText, advanced: advancedText} {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		v := Version{3 + int(minor)%2, int(minor) / 2 % 14, 0}
		user, err := ReadUser(Files{Conf: conf, Advanced: advanced, Version: v, LookupEnv: func(string) (string, bool) { return "x", len(peers)%2 == 0 }})
		if err != nil {
			if !strings.Contains(err.Error(), dir) {
				t.Fatalf("it names no file: %v", err)
			}
			return
		}
		user.Listeners(Listener{Port: 5672})
		user.HTTP("management", 15672)
		names := strings.FieldsFunc(peers, func(r rune) bool { return r == ',' })
		text, err := Render(Options{Version: v, Node: "rabbit@a", Peers: names, Joining: len(names) > 0, PauseMinority: true, Extra: Queues(v, true), User: user})
		if invalid := slices.ContainsFunc(names, func(n string) bool { return ValidNode(n) != nil }); err != nil {
			if alone := !slices.ContainsFunc(names, func(n string) bool { return n != "rabbit@a" }); !invalid && !alone {
				t.Fatalf("peers %q: %v", names, err)
			}
			return
		} else if invalid {
			t.Fatalf("peers %q became\n%s", names, text)
		}
		if strings.ContainsFunc(string(text), func(r rune) bool { return r > unicode.MaxASCII }) {
			t.Fatalf("not ASCII:\n%s", text)
		}
		if len(names) > 0 && !strings.Contains(string(text), "{discovery_retry_limit,1000000}") {
			t.Fatalf("a joiner that founds a cluster:\n%s", text)
		}
		rendered(t, user, append(names, "rabbit@a"), text)
	})
}

// rendered holds a rabbitmq.config against what it was made from.
func rendered(t *testing.T, user User, nodes []string, text []byte) {
	t.Helper()
	is, err := parse(text)
	if err != nil || len(is) != 1 {
		t.Fatalf("%d terms, %v:\n%s", len(is), err, text)
	}
	seen := map[Atom]int{}
	for _, app := range is[0].(List) {
		settings, _ := pair(app).(List)
		if seen[key(app)]++; seen[key(app)] > 1 {
			t.Fatalf("%s twice:\n%s", key(app), text)
		}
		if key(app) != "rabbit" {
			if was := user.application(key(app)); !reflect.DeepEqual(append(List{}, was...), append(List{}, settings...)) {
				t.Fatalf("%s is %v, and was %v", key(app), settings, was)
			}
			continue
		}
		count := 0
		for _, s := range settings {
			if key(s) != "cluster_nodes" {
				continue
			}
			count++
			slices.Sort(nodes)
			var has []string
			for _, n := range pair(s).(Tuple)[0].(List) {
				has = append(has, string(n.(Atom)))
			}
			if slices.Sort(has); !slices.Equal(has, slices.Compact(nodes)) {
				t.Fatalf("cluster_nodes has %q, want %q", has, nodes)
			}
		}
		if count != 1 {
			t.Fatalf("cluster_nodes %d times:\n%s", count, text)
		}
	}
	if seen["rabbit"] != 1 || len(seen) < len(user.advanced) {
		t.Fatalf("applications %v, and the user's were %v", seen, user.advanced)
	}
}

// Any text is the same text after Erlang has read it, as atom, string, binary, and as the path
// in an inetrc.
func FuzzQuote(f *testing.F) {
	for _, s := range []string{"", "a", "if", "A", "it's", `"`, `\`, "\n", "é", "\x00", "\U0001F600", "/data/a \"b\"/hosts", "'). halt().", "\u2028", "~n", "${x}", "#{}", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		written := []Term{Binary(s)}
		if utf8.ValidString(s) {
			written = append(written, Atom(s), String(s), Tuple{Atom(s), List{String(s), Binary(s)}})
			is, err := parse(Inetrc(s))
			want := []Term{Tuple{Atom("hosts_file"), String(s)}, Tuple{Atom("lookup"), List{Atom("file"), Atom("native")}}}
			if err != nil || !reflect.DeepEqual(is, want) {
				t.Fatalf("inetrc of %q: %v, %v", s, is, err)
			}
		}
		for _, term := range written {
			is, err := parse([]byte("%%\n%%\n" + Text(term) + "."))
			if err != nil || len(is) != 1 || !reflect.DeepEqual(is[0], term) || expect.Unprintable(Text(term)) {
				t.Fatalf("%T %q is written %s and read as %#v, %v", term, s, Text(term), is, err)
			}
		}
	})
}

// A node's name is one word to a shell, to Erlang, in a hosts file, in a path and on a command
// line, and no option there; a version that was read is written and read as the same.
func FuzzNames(f *testing.F) {
	for _, s := range []string{
		"rabbit@a", "rabbit@mq-1.example.org", "rabbit-1@a", "--offline@b", "-@b", "rabbit@-b", "rabbit@b-", "rabbit@b..c", "rabbit@", "@b", "rabbit@b@c", "rabbit@b\n",
		"rabbit@b','init':stop().%", "../rabbit@b", "rabbit@" + strings.Repeat("b", 300), "rabbit@10.0.0.1", "4.3.6", "4.0.5-1", "4.1.0-rc.1", "3.8", " 4.3.6\n", "4.3.6 --x", "9999999.1",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if err := ValidNode(s); err == nil {
			if s == "" || len(s) > 255 || strings.Count(s, "@") != 1 || strings.HasPrefix(s, "-") || strings.Contains(s, "@-") || strings.HasSuffix(s, "-") ||
				strings.HasSuffix(s, ".") || strings.HasPrefix(s, "@") || strings.HasSuffix(s, "@") || filepath.Base(s) != s || strings.Contains(s, "..") ||
				strings.ContainsFunc(s, func(r rune) bool {
					return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("@._-", r)
				}) {
				t.Fatalf("%q is no name", s)
			}
			if name, _, _ := strings.Cut(s, "@"); strings.Contains(name, ".") {
				t.Fatalf("%q has a dot before the @", s)
			}
		} else if expect.Unprintable(err.Error()) || len(err.Error()) > 2000 {
			t.Fatalf("%q", err)
		}
		v, err := ParseVersion(s)
		if err == nil {
			if again, err := ParseVersion(v.String()); err != nil || again != v || again.Compare(v) != 0 {
				t.Fatalf("%q is %s, and that is %s, %v", s, v, again, err)
			}
		} else if v != (Version{}) || expect.Unprintable(err.Error()) {
			t.Fatalf("%v, %q", v, err)
		}
	})
}
