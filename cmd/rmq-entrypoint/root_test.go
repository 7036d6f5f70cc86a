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

// runAsRoot runs a command as root, on a machine whose rabbitmq is the user of the tests, with what setpriv is told of
// root's rights.
func (n *node) runAsRoot(rights string, args ...string) (out string, code int) {
	n.t.Helper()
	users := n.path("passwd")
	expect.Must(n.t, os.WriteFile(users, []byte("root:x:0:0::/root:/bin/sh\nrabbitmq:x:65534:65534::"+n.volume("")+":/bin/sh\n"), 0o644))
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

// rootsNode is a node without Consul, for commands of root's.
func rootsNode(t *testing.T) *node {
	t.Helper()
	if os.Geteuid() != 0 || exec.Command("unshare", "--mount", "--pid", "--fork", "--mount-proc", "true").Run() != nil {
		t.Skip("another /etc/passwd needs root, and a mount namespace")
	}
	n := newWorld(t, nil).node("rabbit@localhost", "CONSUL_HTTP_ADDR=127.0.0.1:1", "RMQ_AMQP_URL=")
	n.env[0] += ":/usr/sbin:/sbin"
	return n
}

const allRights = "--bounding-set=+all"

// Root reads the file of the check's URL once it is rabbitmq, or as root where rabbitmq cannot lead it elsewhere.
func TestURLOfRoot(t *testing.T) {
	t.Parallel()
	n := rootsNode(t)
	secret, own := filepath.Join(n.root, "secret"), n.path("own")
	expect.Must(t, os.WriteFile(secret, []byte("http://only-roots\n"), 0o600))
	expect.Must(t, os.WriteFile(own, []byte("http://his-own\n"), 0o600))
	expect.Must(t, os.Symlink(secret, n.path("link")))
	n.own()
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
			with := *n
			with.env = append(with.env, "RMQ_AMQP_URL_FILE="+c.file)
			out, code := with.runAsRoot(allRights, command)
			if code != 1 || strings.Contains(out, "only-roots") {
				t.Errorf("%s, %s: exit status %d", c.file, command, code)
			}
			expect.Says(t, out, c.say...)
		}
	}
	with := *n
	with.env = append(with.env, "RMQ_AMQP_URL_FILE="+n.path("link"))
	if out, code := with.runAsRoot(allRights, "healthcheck"); code != 0 {
		t.Errorf("a health check: %d, %s", code, out)
	}
}
