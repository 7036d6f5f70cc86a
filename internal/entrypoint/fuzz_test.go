package entrypoint

import (
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/tests/expect"
)

// A start has one cookie that Erlang takes, in a file that its owner alone reads, or it is
// refused, and the file stays as it was. No error repeats the cookie.
func FuzzCookie(f *testing.F) {
	const secret = "q7Zk9"
	for _, c := range []string{"", " ", "\n", "\r\n", "a", "a\n", " a", "a ", "a\tb", "é", "\x00", strings.Repeat("x", 255), strings.Repeat("x", 250), "'\"\\"} {
		f.Add(c, c, true)
		f.Add(c, "", true)
		f.Add("", c, true)
		f.Add(c, c, false)
	}
	home, log := f.TempDir(), slog.New(slog.DiscardHandler)
	path := filepath.Join(home, ".erlang.cookie")
	f.Fuzz(func(t *testing.T, given, have string, there bool) {
		if strings.Contains(given, "\x00") { // no variable has one
			return
		}
		if given != "" {
			given = secret + given
		}
		if have != "" {
			have = secret + have
		}
		expect.Must(t, os.RemoveAll(path))
		if there {
			expect.Must(t, os.WriteFile(path, []byte(have), 0o400))
		}
		t.Setenv("RABBITMQ_ERLANG_COOKIE", given)
		err := cookie(log, home)
		b, rerr := os.ReadFile(path)
		if err != nil {
			if (rerr == nil) != there || there && string(b) != have || strings.Contains(err.Error(), secret) {
				t.Fatalf("given %q, in the file %q: %v, and now %q", given, have, err, b)
			}
			return
		}
		info, serr := os.Stat(path)
		expect.Must(t, serr)
		is := strings.TrimRight(string(b), "\r\n")
		if rerr != nil || validCookie(is) != nil || strings.TrimSpace(is) == "" || info.Mode().Perm()&0o077 != 0 || given != "" && strings.TrimSpace(is) != strings.TrimSpace(given) {
			t.Fatalf("given %q, in the file %q: %q, mode %s, %v", given, have, b, info.Mode(), rerr)
		}
	})
}

// What rabbitmq-env.conf comes to makes RabbitMQ no other node than the one that is decided for.
// The file is a shell's, so what is made up here is what the shell printed.
func FuzzEnvironment(f *testing.F) {
	cfg, err := config.FromEnvironment(expect.Environ("RABBITMQ_NODENAME=rabbit@a", "RABBITMQ_DATA_DIR=/data"))
	expect.Must(f, err)
	for _, out := range []string{
		"", "\x00", "=", "A\x00B=\x00", "NODENAME=rabbit@b\x00", "NODENAME=rabbit@b\x00RABBITMQ_NODENAME=rabbit@a\x00", "RABBITMQ_NODENAME=\x00NODENAME=rabbit@b", "USE_LONGNAME=true\x00", "USE_LONGNAME=no\x00",
		"MNESIA_BASE=/data/mnesia\x00", "RABBITMQ_MNESIA_DIR=/other", "ADVANCED_CONFIG_FILE=/x\x00", "CLEANUP_INTERVAL=5\x00", "RABBITMQ_CLEANUP_ONLY_LOG_WARNING=false\x00", "ERL_FLAGS=-rabbit cluster_formation [{node_cleanup,[]}]\x00",
		"RABBITMQ_ERLANG_COOKIE=q7Zk9\x00CONSUL_HTTP_TOKEN=q7Zk9\x00NOTIFY_SOCKET=/q7Zk9\x00", "A=1\nB=2\x00A=3",
	} {
		f.Add([]byte(out))
	}
	f.Fuzz(func(t *testing.T, out []byte) {
		e := config.Printed(out)
		if again := config.EnvironmentOf(e.List()); !reflect.DeepEqual(again, e) {
			t.Fatalf("%q became %q", e, again)
		}
		for name := range e {
			if name == "" || strings.ContainsAny(name, "=\x00") {
				t.Fatalf("a variable %q", name)
			}
		}
		for _, kv := range rabbitmq.ServerEnv(e.List(), "RABBITMQ_NODENAME=rabbit@a") {
			switch name, value, _ := strings.Cut(kv, "="); name {
			case "RABBITMQ_ERLANG_COOKIE", "CONSUL_HTTP_TOKEN", "CONSUL_HTTP_AUTH", "NOTIFY_SOCKET", "RMQ_AMQP_URL":
				t.Fatalf("the server gets %s", name)
			case "RABBITMQ_NODENAME":
				if value != "rabbit@a" {
					t.Fatalf("the server gets %q", kv)
				}
			}
		}
		if ownIdentity(cfg, e, "rabbitmq-env.conf") != nil || rabbitmq.RefuseCleanup(e.List()) != nil {
			return
		}
		own := map[string]string{"NODENAME": cfg.Node, "MNESIA_DIR": cfg.Data, "MNESIA_BASE": filepath.Dir(cfg.Data), "ADVANCED_CONFIG_FILE": "", "CLEANUP_INTERVAL": ""}
		for name, want := range own {
			is := config.RabbitMQs(e.Of, "RABBITMQ_"+name)
			if strings.HasPrefix(name, "MNESIA_") && is != "" { // RabbitMQ takes slashes at the end off
				is = filepath.Clean(is)
			}
			if is != "" && is != want {
				t.Fatalf("%s is %q, and %q is decided for", name, is, want)
			}
		}
		if config.Yes(config.RabbitMQs(e.Of, "RABBITMQ_USE_LONGNAME")) {
			t.Fatalf("long names: %q", e)
		}
	})
}
