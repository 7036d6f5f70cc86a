package house

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// example is a copy of what scripts/secrets needs of the repository, where it may write.
func example(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, name := range []string{"scripts/secrets", "scripts/lib.sh", "compose/example.env"} {
		text, err := os.ReadFile(filepath.Join("../..", name))
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, text, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// secrets runs scripts/secrets there, and returns the settings that it left and what it said.
func secrets(t *testing.T, root string) (settings map[string]string, said string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(root, "scripts/secrets"))
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("scripts/secrets: %v: %s", err, out)
	}
	file := filepath.Join(root, "compose/.env")
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); mode != 0o600 {
		t.Errorf("compose/.env is %s", mode)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	settings = map[string]string{}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(name, "#") {
			settings[name] = value
		}
	}
	for _, name := range []string{"RABBITMQ_ERLANG_COOKIE", "RABBITMQ_DEFAULT_PASS"} {
		if value := settings[name]; !regexp.MustCompile(`^[0-9a-f]{48}$`).MatchString(value) || strings.Contains(string(out), value) {
			t.Errorf("%s has %d characters, and scripts/secrets said %s", name, len(value), out)
		}
	}
	return settings, string(out)
}

// Who starts the example has a cookie and a user that nobody else has, once and for good.
func TestExampleSecrets(t *testing.T) {
	root := example(t)
	first, _ := secrets(t, root)
	if first["COMPOSE_PROJECT_NAME"] == "" || first["RABBITMQ_DEFAULT_USER"] == "" || first["RABBITMQ_DEFAULT_USER"] == "guest" {
		t.Errorf("the settings are %v", first)
	}
	if first["RABBITMQ_ERLANG_COOKIE"] == first["RABBITMQ_DEFAULT_PASS"] {
		t.Error("the password is the cookie")
	}
	again, said := secrets(t, root)
	other, _ := secrets(t, example(t))
	for name, value := range first {
		if again[name] != value {
			t.Errorf("a second run changes %s", name)
		}
		if random := len(value) == 48; random && other[name] == value {
			t.Errorf("%s is the same elsewhere", name)
		}
	}
	if said != "" {
		t.Errorf("a second run said %s", said)
	}

	// A file of the user's own keeps what it says, and becomes the user's alone.
	if err := os.WriteFile(filepath.Join(root, "compose/.env"), []byte("BIND=127.0.0.9\nRABBITMQ_DEFAULT_USER=me\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if own, _ := secrets(t, root); own["BIND"] != "127.0.0.9" || own["RABBITMQ_DEFAULT_USER"] != "me" {
		t.Errorf("the user's own settings are %v", own)
	}

	// One that is complete is closed to others, behind a link, too, which is said; one without a secret is not touched.
	file, elsewhere := filepath.Join(root, "compose/.env"), filepath.Join(root, "elsewhere")
	for _, mode := range []os.FileMode{0o644, 0o640, 0o604} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		if _, said := secrets(t, root); !strings.Contains(said, fmt.Sprintf("%o", mode)) || !strings.Contains(said, "compose/.env") {
			t.Errorf("of a file with mode %o it said %q", mode, said)
		}
	}
	if err := errors.Join(os.Rename(file, elsewhere), os.Symlink(elsewhere, file), os.Chmod(elsewhere, 0o644)); err != nil {
		t.Fatal(err)
	}
	if _, said := secrets(t, root); !strings.Contains(said, "644") {
		t.Errorf("of a file behind a link it said %q", said)
	}
	if err := errors.Join(os.Remove(file), os.WriteFile(file, []byte("BIND=127.0.0.9\nRABBITMQ_DEFAULT_PASS=\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(root, "scripts/secrets"))
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "RABBITMQ_ERLANG_COOKIE=a", "RABBITMQ_DEFAULT_USER=b", "RABBITMQ_DEFAULT_PASS=c"}
	out, err := cmd.CombinedOutput()
	if info, serr := os.Stat(file); err != nil || len(out) > 0 || serr != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("a file without a secret: %v: %s; %v, %v", err, out, info, serr)
	}

	// Of several at once, all mean the same.
	root = example(t)
	var all sync.WaitGroup
	got := make([]map[string]string, 8)
	for i := range got {
		all.Go(func() { got[i], _ = secrets(t, root) })
	}
	all.Wait()
	for _, settings := range got {
		if settings["RABBITMQ_ERLANG_COOKIE"] != got[0]["RABBITMQ_ERLANG_COOKIE"] {
			t.Error("two that began at once have two cookies")
		}
	}
}

// What the examples publish stays on the loopback, whatever BIND says for what asks nobody for a password; and no secret
// has a default.
func TestExamples(t *testing.T) {
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join("../../compose", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	published := regexp.MustCompile(`(?m)(?:^\s+- |\[)"?(\S*?):\$\{(\w+_PORT):-\d+\}:`)
	text := read("docker-compose.yml")
	for name, want := range map[string]int{"docker-compose.yml": 15, "secure.yml": 15} {
		ports := published.FindAllStringSubmatch(read(name), -1)
		if len(ports) != want {
			t.Fatalf("%s publishes %d ports, want %d", name, len(ports), want)
		}
		for _, port := range ports {
			want := "${BIND:-127.0.0.1}"
			if port[2] == "CONSUL_PORT" || port[2] == "HAPROXY_STATS_PORT" || port[2] == "HAPROXY_PAGE_PORT" {
				want = "127.0.0.1"
			}
			if port[1] != want {
				t.Errorf("%s: %s is published on %s, and not on %s", name, port[2], port[1], want)
			}
		}
	}
	if !strings.Contains(read("example.env"), "\nBIND=127.0.0.1\n") {
		t.Error("example.env publishes on another address than the loopback")
	}
	required := regexp.MustCompile(`\$\{(\w*(?:COOKIE|PASS|USER|TOKEN)\w*)(:\?[^}]*)?`)
	names := map[string]bool{}
	for _, m := range required.FindAllStringSubmatch(text, -1) {
		names[m[1]] = true
		if !strings.Contains(m[2], "scripts/secrets") {
			t.Errorf("%s is not required, or does not say what makes it: %s", m[1], m[0])
		}
	}
	if len(names) != 3 {
		t.Errorf("docker-compose.yml requires %v", names)
	}
	for line := range strings.Lines(read("example.env")) {
		if required.MatchString("${" + line) {
			t.Errorf("example.env has a secret: %s", line)
		}
	}
	if !strings.Contains(text, "NOT for production") {
		t.Error("docker-compose.yml does not say what it is not")
	}

	// What goes to production has each secret in a file.
	for _, name := range []string{"secure.yml", "stack.yml"} {
		text := read(name)
		if m := required.FindString(text); m != "" {
			t.Errorf("%s has a secret in a variable: %s", name, m)
		}
		for _, secret := range []string{"RABBITMQ_ERLANG_COOKIE_FILE", "CONSUL_HTTP_TOKEN_FILE", "/conf.d/30-user.conf"} {
			if !strings.Contains(text, secret) {
				t.Errorf("%s does not have %s", name, secret)
			}
		}
	}
	if text := read("stack.yml"); strings.Contains(text, "8404,") || !strings.Contains(text, "STATISTICS: 127.0.0.1:8404") {
		t.Error("stack.yml gives the statistics, which ask for no password, to every address")
	}
	if text := read("secure/haproxy.cfg"); strings.Contains(text, "verify none") || !strings.Contains(text, "verify required verifyhost") {
		t.Error("the balancer does not look at certificates")
	}
}

// Where the catalog is not trusted the balancer sends clients to the port whose certificate it looked at, whatever port an
// entry says.
func TestClientsGoWhereTheCheckGoes(t *testing.T) {
	text, err := os.ReadFile("../../compose/secure/haproxy.cfg")
	if err != nil {
		t.Fatal(err)
	}
	asked, sent := regexp.MustCompile(`(?m)^ +tcp-check connect port (\d+) ssl$`), regexp.MustCompile(`(?m)^ +server-template \w+ \d+ (\S+)$`)
	found := 0
	for _, section := range strings.Split(string(text), "\nlisten ") {
		for _, to := range sent.FindAllStringSubmatch(section, -1) {
			found++
			port := asked.FindStringSubmatch(section)
			if port == nil || !strings.HasSuffix(to[1], ":"+port[1]) {
				t.Errorf("clients are sent to %s, and the certificate is looked at at port %q", to[1], port)
			}
		}
	}
	if found != 2 {
		t.Errorf("the balancer has %d lists of nodes, want that for AMQP and that for management", found)
	}
}
