package entrypoint

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rmq-entrypoint/tests/expect"
)

// The cookie file is the server's alone, and keeps what the variable said.
func TestCookieFile(t *testing.T) {
	for _, c := range []struct{ env, file string }{{"RABBITMQ_ERLANG_COOKIE", "crumbs"}, {"RABBITMQ_ERLANG_COOKIE_FILE", "from a file"}} {
		home := t.TempDir()
		value := c.file
		if c.env == "RABBITMQ_ERLANG_COOKIE_FILE" {
			value = filepath.Join(t.TempDir(), "secret")
			expect.Must(t, os.WriteFile(value, []byte(c.file+"\n"), 0o600))
		}
		t.Setenv("RABBITMQ_ERLANG_COOKIE", "")
		t.Setenv(c.env, value)
		for range 2 { // a restart finds its own
			expect.Must(t, cookie(home))
		}
		path := filepath.Join(home, ".erlang.cookie")
		b, err := os.ReadFile(path)
		expect.Must(t, err)
		info, err := os.Stat(path)
		if err != nil || string(b) != c.file || info.Mode().Perm() != 0o400 {
			t.Errorf("%s: %q, %v, %v", c.env, b, info.Mode(), err)
		}
		t.Setenv(c.env, "")
		expect.Must(t, cookie(home)) // without the variable the file is the cookie
	}
}

// What RabbitMQ would read after us must not make it another node.
func TestOwnEnvConf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rabbitmq-env.conf")
	expect.Must(t, ownEnvConf(path))
	for text, name := range map[string]string{
		"NODENAME=a@b\n": "NODENAME", "# NODENAME=a@b\nLOG_BASE=/x\n": "", "  export RABBITMQ_USE_LONGNAME=true": "USE_LONGNAME", "MNESIA_BASE=/x": "MNESIA_BASE",
		"# \nexport RABBITMQ_CLEANUP_ONLY_LOG_WARNING=false\n": "CLEANUP_ONLY_LOG_WARNING",
	} {
		expect.Must(t, os.WriteFile(path, []byte(text), 0o644))
		err := ownEnvConf(path)
		if (err != nil) != (name != "") || err != nil && (!strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "RABBITMQ_"+name)) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
