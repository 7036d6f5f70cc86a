package rabbitconf

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What cuttlefish_conf:file/1 of three RabbitMQs made of these files, key by key; "error"
// where it refused them.
func TestConfAsCuttlefish(t *testing.T) {
	versions := []Version{{3, 10, 8}, {4, 0, 5}, {4, 3, 6}}
	for _, c := range []struct {
		src  string
		want [3]string // "" as the one before
	}{
		{"a = 1\n", [3]string{"a=1"}},
		{"\xef\xbb\xbfa = 1\n", [3]string{"error", "", "a=1"}},
		{"a = 1\n\xef\xbb\xbfb = 2\n", [3]string{"error"}},
		{"a = '''x\ny'''\nb = 2\n", [3]string{"error", "", "a=x\ny b=2"}},
		{"a = '''x'y\nz'''  # c\nb = 2\n", [3]string{"error", "", "a=x'y\nz b=2"}},
		{"a = ''\nb = 2\n", [3]string{"a='' b=2", "a= b=2"}},
		{"a = '''\nx\n'''\n", [3]string{"error", "", "a=x"}},
		{"a = '''\n  x\n\n'''\n", [3]string{"error", "", "a=  x"}},
		{"a = '''\r\nx\r\n'''\r\n", [3]string{"error", "", "a=x"}},
		{"a = ''''x''''\n", [3]string{"a=''''x''''", "error"}},
		{"a = ''''''\n", [3]string{"a=''''''", "error", "a="}},
		{"a = x\\ty\n", [3]string{`a=x\ty`}},
		{"a = x # y\nb = x#y\n", [3]string{"a=x b=x"}},
		{"a = 'x' y\n", [3]string{"a='x' y", "error"}},
		{"a = 'x\n", [3]string{"a='x"}},
		{"a = 'x'y'\n", [3]string{"a='x'y'", "error"}},
		{"a = 'x''y'\n", [3]string{"a='x''y'", "error"}},
		{"a = \"q\"\n", [3]string{`a="q"`}},
		{"a ='x'#y\n", [3]string{"a='x'", "a=x"}},
		{"a=1\r\nb=2\r\n", [3]string{"a=1 b=2"}},
		{"a=1\rb=2\r\n", [3]string{"a=1\rb=2"}},
		{" \n\t\na = 1", [3]string{"a=1"}},
		{"a = 1 # c", [3]string{"a=1"}},
		{"# c", [3]string{""}}, {"", [3]string{""}},
		{"a = \u00e4\n", [3]string{"a=\u00e4"}}, {"a = \xe4\n", [3]string{"error"}}, {"# c\xe4\n", [3]string{"error"}},
		{"a b = 1\n", [3]string{"error"}}, {"a. = 1\n", [3]string{"error"}}, {"a..b = 1\n", [3]string{"error"}}, {"a.$x = 1\n", [3]string{"error"}}, {"a=\n", [3]string{"error"}}, {"a = #x\n", [3]string{"error"}},
		{"a = '''x''' y\n", [3]string{"a='''x''' y", "error"}},
		{"a = '''\n", [3]string{"a='''", "error"}}, {"a = ''''\n", [3]string{"a=''''", "error"}},
		{"a = '''x\n'''y\n'''\n", [3]string{"error"}},
		{"a = 'x\nb = 2\nc = 'y'\n", [3]string{"a='x b=2 c='y'", "error"}},
		{"a = \\'x\nb = x'y'\n", [3]string{"a=\\'x b=x'y'"}},
		{"a\t=\t1\nb = =\nc ==1\n", [3]string{"a=1 b== c==1"}},
		{"a = '  x  '\n", [3]string{"a='  x  '", "a=  x  "}},
		{"a = 'over\ntwo lines' # yes\n", [3]string{"error", "a=over\ntwo lines"}},
		{"include nope.conf\nincluded = 1\n", [3]string{"included=1"}}, {"include 0*.conf x\n", [3]string{"error"}},
	} {
		for i, v := range versions {
			if i > 0 && c.want[i] == "" {
				c.want[i] = c.want[i-1]
			}
			path := filepath.Join(t.TempDir(), "rabbitmq.conf")
			if err := os.WriteFile(path, []byte(c.src), 0o644); err != nil {
				t.Fatal(err)
			}
			lines, err := readConf(path, grammarOf(v), 0)
			var got []string
			for _, l := range lines {
				got = append(got, l.key+"="+l.value)
			}
			text := strings.Join(got, " ")
			if err != nil {
				text = "error"
				if !strings.HasPrefix(err.Error(), path+":") {
					t.Errorf("%q: %v does not name its line", c.src, err)
				}
			}
			if text != c.want[i] {
				t.Errorf("%v, %q: %q, %v; want %q", v, c.src, text, err, c.want[i])
			}
		}
	}
}

// What cuttlefish_generator:map/2 put in the place of $(NAME), on all three.
func TestInterpolation(t *testing.T) {
	env := map[string]string{"HOME": "/home", "EMPTY": "", "SPACES": " x ", "DOLLAR": "$(HOME)"}
	for _, c := range []struct{ conf, want string }{ // of a
		{"a = $(HOME)", "/home"}, {"a = x$(HOME)y", "x/homey"}, {"a = '$(HOME)'", "/home"}, {"a = $(b)\nb = 7", "7"}, {"a = $(HOME)\nHOME = mine", "mine"},
		{"a = $(b)$(HOME)\nb = $(HOME)", "/home/home"}, {"a = $(c.d)\nc.d = 1", "1"}, {"a = $( HOME )", "/home"}, {"a = $(HOME", "$(HOME"}, {"a = $$(HOME)", "$/home"},
		{"a = $(EMPTY)", ""}, {"a = \\$(HOME)", "\\/home"}, {"a = $(SPACES)", " x "}, {"a = $(DOLLAR)", "/home"}, {"a = ${HOME}", "${HOME}"}, {"a = $(b)\nb = 1\nb = 2", "2"}, {"a = $(HOME)$(", "/home$("},
		{"a = $(NOPE)", "error"}, {"a = $()", "error"}, {"a = $(b)\nb = $(a)", "error"}, {"a = $(a)", "error"}, {"a = $(c\\.d)\nc.d = 1", "error"},
		{"a = encrypted:abc=", "encrypted:abc="},
	} {
		path := filepath.Join(t.TempDir(), "rabbitmq.conf")
		if err := os.WriteFile(path, []byte(c.conf), 0o644); err != nil {
			t.Fatal(err)
		}
		user, err := ReadUser(Files{Conf: path, LookupEnv: func(name string) (string, bool) { v, ok := env[name]; return v, ok }})
		got := "error"
		for _, l := range user.conf {
			if l.key == "a" {
				got = l.value
			}
		}
		if got != c.want || (err != nil) != (c.want == "error") || err != nil && !strings.Contains(err.Error(), "rabbitmq.conf:") {
			t.Errorf("%q: %q, %v; want %q", c.conf, got, err, c.want)
		}
	}
	// Where the value is carried over, or tells where RabbitMQ listens.
	conf := filepath.Join(t.TempDir(), "rabbitmq.conf")
	if err := os.WriteFile(conf, []byte("listeners.tcp.default = $(AMQP_PORT)\ncluster_formation.target_cluster_size_hint = $(N)\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	user, err := ReadUser(Files{Conf: conf, LookupEnv: func(name string) (string, bool) {
		return map[string]string{"AMQP_PORT": "127.0.0.1:5677", "N": "3"}[name], true
	}})
	if err != nil || fmt.Sprint(user.Listeners(Listener{Port: 1})) != "[{127.0.0.1 5677 false}]" || fmt.Sprint(user.formation) != "[{target_cluster_size_hint 3}]" && len(user.formation) != 1 {
		t.Errorf("%v, %v, %v", user.Listeners(Listener{Port: 1}), user.formation, err)
	}
}

// What Erlang's filelib:wildcard finds.
func TestWildcard(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"e/1.conf", "e/f/2.conf", "e/f/g/3.conf", "e/.h.conf"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for pattern, want := range map[string]string{
		"e/*": "e/.h.conf e/1.conf e/f", "e/**/*.conf": "e/.h.conf e/1.conf e/f/2.conf e/f/g/3.conf", "e/{1,f}.conf": "e/1.conf", "e/{1.conf,f/{2,3}.conf}": "e/1.conf e/f/2.conf",
		"e/[1-3].conf": "e/1.conf", "e/?.conf": "e/1.conf", "e/\\1.conf": "e/1.conf", "e/none/*": "", "no/**": "",
	} {
		got, err := wildcard(filepath.Join(dir, pattern))
		for i := range got {
			got[i] = strings.TrimPrefix(got[i], dir+"/")
		}
		if text := strings.Join(got, " "); err != nil || text != want || !slices.IsSorted(got) {
			t.Errorf("%s: %q, %v; want %q", pattern, text, err, want)
		}
	}
	if _, err := wildcard(dir + "/{a"); err == nil {
		t.Error("{a: no error")
	}
}
