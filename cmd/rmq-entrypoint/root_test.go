package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/tests/expect"
)

// A rootsNode is a node without Consul, whose commands root runs, on a machine of users of its own.
type rootsNode struct {
	*node
	users string // as /etc/passwd
}

// runAsRoot runs a command as root, with what setpriv is told of root's rights.
func (n *rootsNode) runAsRoot(rights string, args ...string) (out string, code int) {
	n.t.Helper()
	users := n.path("passwd")
	expect.Must(n.t, os.WriteFile(users, []byte(n.users), 0o644))
	script := `mount --bind "$0" /etc/passwd && exec setpriv $RIGHTS -- "$@"`
	ctx, end := context.WithTimeout(n.t.Context(), soon) // of one that starts and stays
	defer end()
	cmd := exec.CommandContext(ctx, "unshare", append([]string{"--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script, users, filepath.Join(n.root, "bin", "rmq-entrypoint")}, args...)...)
	cmd.Env, cmd.Dir, cmd.WaitDelay = append(n.env, "RIGHTS="+rights), n.dir, time.Second
	b, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		n.t.Fatal(err)
	}
	return string(b), cmd.ProcessState.ExitCode()
}

// newRootsNode is one where rabbitmq is the user of the tests.
func newRootsNode(t *testing.T) *rootsNode {
	t.Helper()
	if os.Geteuid() != 0 || exec.Command("unshare", "--mount", "--pid", "--fork", "--mount-proc", "true").Run() != nil {
		t.Skip("another /etc/passwd needs root, and a mount namespace")
	}
	n := newWorld(t, nil).node("rabbit@localhost", "CONSUL_HTTP_ADDR=127.0.0.1:1", "RMQ_AMQP_URL=")
	return &rootsNode{n, "root:x:0:0::/root:/bin/sh\nrabbitmq:x:65534:65534::" + n.volume("") + ":/bin/sh\n"}
}

const allRights = "--bounding-set=+all"

// Root reads the file of the check's URL once it is rabbitmq, or as root where rabbitmq cannot lead it elsewhere.
func TestURLOfRoot(t *testing.T) {
	t.Parallel()
	n := newRootsNode(t)
	secret, own := filepath.Join(n.root, "secret"), n.path("own")
	expect.Must(t, os.WriteFile(secret, []byte("http://only-roots\n"), 0o600))
	expect.Must(t, os.WriteFile(own, []byte("http://his-own\n"), 0o600))
	expect.Must(t, os.Symlink(secret, n.path("link")))
	n.own()
	n.env = append([]string{""}, n.env...)
	for _, c := range []struct {
		file string
		say  []string
	}{
		{secret, []string{"RMQ_AMQP_URL (--amqp-url)", "amqp[s]://"}}, // it was read, and is none
		{own, []string{"RMQ_AMQP_URL (--amqp-url)", "amqp[s]://"}},
		{n.path("link"), []string{"RMQ_AMQP_URL_FILE", "permission denied, as uid 65534"}},
		{n.path("none"), []string{"RMQ_AMQP_URL_FILE", "no such file"}},
	} {
		for _, command := range []string{"rabbitmq-server", "status"} {
			n.env[0] = "RMQ_AMQP_URL_FILE=" + c.file
			out, code := n.runAsRoot(allRights, command)
			if code != 1 || strings.Contains(out, "only-roots") {
				t.Errorf("%s, %s: exit status %d", c.file, command, code)
			}
			expect.Says(t, out, c.say...)
		}
	}
	n.env[0] = "RMQ_AMQP_URL_FILE=" + n.path("link")
	if out, code := n.runAsRoot(allRights, "healthcheck"); code != 0 {
		t.Errorf("a health check: %d, %s", code, out)
	}
}

// A flag wins over the file, whoever reads that, and whenever.
func TestURLBesideItsFlag(t *testing.T) {
	file := filepath.Join(t.TempDir(), "url")
	expect.Must(t, os.WriteFile(file, []byte("amqp://a:1\n"), 0o600))
	cfg, _, err := parse([]string{"--amqp-url", "amqp://b:2"}, expect.Environ("RMQ_AMQP_URL_FILE="+file))
	expect.Must(t, err)
	expect.Must(t, cfg.ReadURL(expect.Environ("RMQ_AMQP_URL_FILE="+file)))
	if cfg.AMQPURL != "amqp://b:2" || cfg.Port != 2 {
		t.Errorf("%q, port %d", cfg.AMQPURL, cfg.Port)
	}
}

// Where root may not become rabbitmq, a command ends before it looks at the volume. A health check goes on: it asks,
// and starts nothing. Where there is no rabbitmq there is no volume of his.
func TestCannotStepDown(t *testing.T) {
	t.Parallel()
	n := newRootsNode(t)
	expect.Must(t, os.MkdirAll(n.state(""), 0o755))
	n.put(n.state("runtime.json"), "no runtime file")
	for _, row := range subcommands {
		name, _, _ := strings.Cut(row.use, " ")
		command := []string{name}
		switch name {
		case "version", "healthcheck":
			continue
		case "forget":
			command = append(command, "rabbit@b")
		case "force-boot", "forget-cluster":
			command = append(command, "--cluster-id", "x")
		}
		out, code := n.runAsRoot("--bounding-set=-setuid,-setgid", command...)
		if code != 1 || strings.Contains(out, "runtime") {
			t.Errorf("%s: exit status %d", name, code)
		}
		expect.Says(t, out, "become rabbitmq", "CAP_SETUID", "docker exec -u rabbitmq")
	}
	if out, code := n.runAsRoot("--bounding-set=-setuid,-setgid", "healthcheck"); code != 1 || !strings.Contains(out, "runtime") {
		t.Errorf("a health check did not look: %d, %s", code, out)
	}
	if out, code := n.runAsRoot(allRights, "list"); code == 1 && strings.Contains(out, "become rabbitmq") {
		t.Errorf("with all rights: %d, %s", code, out)
	}
	n.users = "root:x:0:0::/root:/bin/sh\n"
	if out, code := n.runAsRoot("--bounding-set=-setuid,-setgid", "list"); code != 2 || strings.Contains(out, "become rabbitmq") {
		t.Errorf("where there is no rabbitmq: %d, %s", code, out)
	}
}
