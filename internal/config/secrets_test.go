package config

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"rmq-entrypoint/tests/expect"
)

const stepsDown = "RMQ_TEST_STEPS_DOWN"

// runBy runs the test below as a process that steps down, by a command that may take rights away, and returns what it says.
func runBy(t *testing.T, by []string, as string, env ...string) string {
	t.Helper()
	argv := append(slices.Clone(by), os.Args[0], "-test.run=^TestSecretsOverTheStepDown$")
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(env, stepsDown+"="+as, "GOCOVERDIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	expect.Must(t, err)
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}

// Files that root alone may read are read before the step down, and what they hold is kept;
// those that anybody may read stay files. Nobody goes on without one.
func TestSecretsOverTheStepDown(t *testing.T) {
	const child = stepsDown
	if os.Getenv(child) != "" {
		drop := func() error {
			if os.Geteuid() != 0 {
				return nil
			}
			return syscall.Setuid(65534)
		}
		if os.Getenv(child) == "dropped" {
			expect.Must(t, drop())
		}
		err := WithSecrets(User{UID: 65534, GID: 65534}, drop)
		fmt.Printf("err %v; %s %s; %s %s; read once: %s\n", err, os.Getenv("CONSUL_HTTP_TOKEN"), os.Getenv("CONSUL_HTTP_TOKEN_FILE"), os.Getenv("RMQ_AMQP_URL"), os.Getenv("RMQ_AMQP_URL_FILE"), os.Getenv(TokenReadOnce))
		return
	}
	dir, err := os.MkdirTemp("", "secrets")
	expect.Must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	expect.Must(t, os.Chmod(dir, 0o755))
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		expect.Must(t, os.WriteFile(path, []byte(text), mode))
		return path
	}
	token, url, key := file("token", "t0ken\n", 0o400), file("url", "amqp://a:b@c\n", 0o644), file("key", "k", 0o400)
	run := func(as string, env ...string) string { t.Helper(); return runBy(t, nil, as, env...) }
	if os.Geteuid() == 0 {
		if got, want := run("root", "CONSUL_HTTP_TOKEN_FILE="+token, "RMQ_AMQP_URL_FILE="+url), "err <nil>; t0ken ;  "+url+"; read once: "+token; got != want {
			t.Errorf("%s; want %s", got, want)
		}
		expect.Says(t, run("root", "CONSUL_CLIENT_KEY="+key), "CONSUL_CLIENT_KEY", key, "permission denied", "uid 65534")
		// What its directory's owner could lead elsewhere, root does not read for him.
		theirs := filepath.Join(dir, "theirs")
		expect.Must(t, os.Mkdir(theirs, 0o755))
		expect.Must(t, os.Symlink(token, filepath.Join(theirs, "token")))
		expect.Must(t, os.Symlink(url, filepath.Join(theirs, "url")))
		expect.Must(t, os.Chown(theirs, 65534, 65534))
		linked := "CONSUL_HTTP_TOKEN_FILE=" + filepath.Join(theirs, "token")
		if got, want := run("root", linked, "RMQ_AMQP_URL_FILE="+filepath.Join(theirs, "url")), "err <nil>;  "+filepath.Join(theirs, "token")+";  "+filepath.Join(theirs, "url")+"; read once: "; got != want {
			t.Errorf("%s; want %s", got, want)
		}
		// What another user could lead elsewhere, root reads where it is a file of that directory, and follows no link there.
		others := filepath.Join(dir, "others")
		expect.Must(t, os.MkdirAll(filepath.Join(others, "deep"), 0o755))
		expect.Must(t, os.WriteFile(filepath.Join(others, "deep/token"), []byte("0thers\n"), 0o600))
		expect.Must(t, os.Symlink(token, filepath.Join(others, "token")))
		expect.Must(t, os.Symlink(dir, filepath.Join(others, "dir")))
		expect.Must(t, os.Symlink(url, filepath.Join(others, "url")))
		expect.Must(t, os.Link(token, filepath.Join(others, "hard")))
		for _, name := range []string{"", "deep", "deep/token"} {
			expect.Must(t, os.Chown(filepath.Join(others, name), 1234, 1234))
		}
		for _, c := range []struct {
			env, want string
			says      []string
		}{
			{"CONSUL_HTTP_TOKEN_FILE=" + others + "/deep/token", "err <nil>; 0thers ;  ; read once: " + others + "/deep/token", nil},
			{"RMQ_AMQP_URL_FILE=" + others + "/url", "err <nil>;  ;  " + others + "/url; read once: ", nil}, // rabbitmq reads it himself
			{"CONSUL_HTTP_TOKEN_FILE=" + others + "/token", "", []string{"permission denied, as uid 65534", "does not follow the link", others, "uid 1234"}},
			{"CONSUL_HTTP_TOKEN_FILE=" + others + "/dir/token", "", []string{"permission denied", others + "/dir", "uid 1234", "chown root:root " + others}},
			{"CONSUL_HTTP_TOKEN_FILE=" + others + "/hard", "", []string{"permission denied", others + "/hard", "hard link", "uid 1234"}},
			{"CONSUL_HTTP_TOKEN_FILE=" + others + "/none", "", []string{"CONSUL_HTTP_TOKEN_FILE", others + "/none", "no such file"}},
		} {
			got := run("root", c.env)
			if c.want != "" && got != c.want || strings.Contains(got, "t0ken") {
				t.Errorf("%s: %s; want %s", c.env, got, c.want)
			}
			expect.Says(t, got, c.says...)
		}
		expect.Must(t, os.Remove(filepath.Join(others, "hard")))
		// Root without its rights goes only where it may look.
		expect.Must(t, os.Chmod(others, 0o711))
		expect.Must(t, os.Chmod(filepath.Join(others, "deep/token"), 0o644))
		as := []string{"setpriv", "--bounding-set=-all,+chown,+setuid,+setgid", "--inh-caps=-all"}
		if got, want := runBy(t, as, "root", "CONSUL_HTTP_TOKEN_FILE="+others+"/deep/token"), "err <nil>;  "+others+"/deep/token;  ; read once: "; got != want {
			t.Errorf("%s; want %s", got, want)
		}
		expect.Must(t, os.Chmod(filepath.Join(others, "deep/token"), 0o600))
		expect.Says(t, runBy(t, as, "root", "CONSUL_HTTP_TOKEN_FILE="+others+"/deep/token"), "permission denied, as uid 65534", others, "closed to root")
		expect.Says(t, run("dropped", "CONSUL_HTTP_TOKEN_FILE="+token), "CONSUL_HTTP_TOKEN_FILE", token, "permission denied", "uid 65534")
	}
	expect.Says(t, run("root", "RMQ_AMQP_URL_FILE=/nowhere"), "RMQ_AMQP_URL_FILE", "/nowhere", "no such file")
	expect.Says(t, run("root", "RABBITMQ_ERLANG_COOKIE_FILE="+dir), "RABBITMQ_ERLANG_COOKIE_FILE", dir, "is a directory")
}

// Whatever a setting that could be a URL was given, and whether another overrules it: no user and no password in it is
// kept for the companion, or repeated. A parameter of the check's URL that is none is not kept either.
func TestNoSecretIsKept(t *testing.T) {
	t.Parallel()
	const in = "http://user:s3cr3t@a:1"
	for _, c := range []struct {
		env   string
		flags []string
		says  string // "": taken
		url   string
	}{
		{env: "CONSUL_HTTP_ADDR=" + in, says: "--consul (CONSUL_HTTP_ADDR): an address with a user"},
		{env: "CONSUL_HTTP_ADDR=" + in, flags: []string{"--consul=b:1"}},
		{env: "CONSUL_ADDRESS=b:1," + in, says: "CONSUL_HTTP_AUTH"},
		{env: "CONSUL_ADDRESS=user:s3cr3t%40b:1", flags: []string{"--consul=b:1"}},
		{flags: []string{"--consul=" + in}, says: "CONSUL_HTTP_AUTH"},
		{env: "RMQ_DNS_SERVER=" + in, says: "--dns-server (RMQ_DNS_SERVER): an address with a user"},
		{env: "RMQ_DNS_SERVER=" + in, flags: []string{"--dns-server=b:1"}},
		{flags: []string{"--advertise=" + in}, says: "--advertise (RMQ_ADVERTISE)"},
		{env: "RMQ_ADVERTISE=" + in, flags: []string{"--advertise=192.0.2.1"}},
		{env: "RMQ_HTTP=user:s3cr3t@:1", says: "--http (RMQ_HTTP)"},
		{env: "RMQ_ADMIN=" + in, says: "--admin (RMQ_ADMIN)"},
		{env: "RMQ_ADMIN=" + in, flags: []string{"--admin=off"}},
		{env: "RMQ_AMQP_URL=amqps://u:s3cr3t@a:1/v?keyfile=/x&certfile=/y&password=s3cr3t#s3cr3t", url: "amqps://u@a:1/v?keyfile=/x&certfile=/y"},
		{env: "RMQ_AMQP_URL=amqps://a?Pass%77ord=s3cr3t&%63acertfile=/x&heartbeat=1;key=s3cr3t&s3cr3t", url: "amqps://a?%63acertfile=/x"},
		{env: "RMQ_AMQP_URL=amqps://u:s3cr3t@a?password=s3cr3t", flags: []string{"--amqp-url=amqps://b?heartbeat=9&verify=s3cr3t"}, url: "amqps://b?heartbeat=9"},
		{flags: []string{"--amqp-url=amqps://a?keyfile=/x&password=s3cr3t"}, says: "--amqp-url holds a password"},
		{flags: []string{"--amqp-url=amqps://a?Passphrase=s3cr3t"}, says: "RMQ_AMQP_URL_FILE"},
		{flags: []string{"--amqp-url=amqps://u:s3cr3t@a"}, says: "--amqp-url holds a password"},
	} {
		var cfg Config
		rows := Settings(&cfg)
		flags := Flags("x", rows)
		expect.Must(t, flags.Parse(c.flags))
		err := cfg.Complete(rows, flags.Changed, expect.Environ("RABBITMQ_NODENAME=rabbit@a", c.env))
		if (err != nil) != (c.says != "") || err != nil && (!strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "s3cr3t")) {
			t.Errorf("%s, %q: %v", c.env, c.flags, err)
		}
		kept, jerr := json.Marshal(cfg)
		expect.Must(t, jerr)
		if err == nil && (strings.Contains(string(kept), "s3cr3t") || cfg.AMQPURL != c.url) {
			t.Errorf("%s, %q: kept is %s", c.env, c.flags, kept)
		}
	}
}

// What is to be an address, and is a URL with more in it, may hold a secret there: as a token in a query, or a path by
// which a proxy lets somebody in. No error repeats it, and nothing of it is kept.
func TestAddressesKeepNoSecret(t *testing.T) {
	t.Parallel()
	urls := []string{
		"http://a:1/?token=s3cr3t", "a:1?token=s3cr3t", "a:1/v1?token=s3cr3t", "a?s3cr3t", "http://a:1/#s3cr3t", "a#s3cr3t:1", "a%3Fs3cr3t:1", "http://a%23s3cr3t",
		"http://a:1/s3cr3t", "a/s3cr3t", "a/s3cr3t:1", "a%2fs3cr3t:1", "unix://a/s3cr3t", "://s3cr3t/", "http://a:s3cr3t?", "http://u:s3cr3t@a:1/?x", "http://u:s3cr3t%40a:1",
		"http:/a/s3cr3t", "http://[a]/s3cr3t", "a:1\\s3cr3t", "?s3cr3t", "http://a:1;token=s3cr3t",
	}
	for _, name := range []string{"CONSUL_HTTP_ADDR", "CONSUL_ADDRESS", "RMQ_DNS_SERVER", "RMQ_ADVERTISE", "RMQ_HTTP", "RMQ_ADMIN"} {
		for _, u := range urls {
			for _, text := range []string{u, "b:1," + u} {
				_, err := FromEnvironment(expect.Environ("RABBITMQ_NODENAME=rabbit@a", name+"="+text))
				if err == nil || strings.Contains(err.Error(), "s3cr3t") || !strings.Contains(err.Error(), "--") {
					t.Errorf("%s=%s: %v", name, text, err)
				}
			}
		}
	}
	var cfg Config // one that a flag overrules
	rows := Settings(&cfg)
	flags := Flags("x", rows)
	expect.Must(t, flags.Parse([]string{"--consul=b:1"}))
	expect.Must(t, cfg.Complete(rows, flags.Changed, expect.Environ("RABBITMQ_NODENAME=rabbit@a", "CONSUL_HTTP_ADDR=http://a:1/?token=s3cr3t")))
	if kept, err := json.Marshal(cfg); err != nil || strings.Contains(string(kept), "s3cr3t") {
		t.Errorf("kept is %s, %v", kept, err)
	}
	for text, want := range map[string]string{"a:0": `"a:0" `, "fe80::1%eth0": `"fe80::1%eth0" `, "[::1]": `"[::1]" `, "10.0.0.0/33:1": `"10.0.0.0/33:1" `, "ftp://a_b.c": `"ftp://a_b.c" `, "two words": `"two words" `} {
		if got := shown(text); got != want {
			t.Errorf("%s is shown as %s", text, got)
		}
	}
}
