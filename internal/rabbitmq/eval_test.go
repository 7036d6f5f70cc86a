package rabbitmq

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"rmq-entrypoint/tests/expect"
	"rmq-entrypoint/tests/rabbittest"
)

// envScript is where the image has RabbitMQ's settings of its command line.
const envScript = "/opt/rabbitmq/sbin/rabbitmq-env"

// What the bare VM prints is what rabbitmqctl prints.
func TestBareErlang(t *testing.T) {
	m := rabbittest.Start(t, "-e", "RABBITMQ_ERLANG_COOKIE=secret")
	eval := func(args ...string) (string, error) {
		return m.TryExec(append(args, bareErlang(envScript, false, "rabbit@node1", "rabbit:is_running().")...)...)
	}
	rabbittest.Until(t, "RabbitMQ runs", func() (any, bool) {
		out, err := eval()
		return out, err == nil && out == "true"
	})
	ask := func(node, expr string) (string, error) {
		return m.TryExec(bareErlang(envScript, false, node, expr)...)
	}

	m.Exec(t, "rabbitmqctl", "-q", "eval", `rabbit_amqqueue:declare({resource, <<"/">>, queue, <<"жук|1"/utf8>>}, true, false, [], none, <<"guest">>), ok.`)
	// How each version tells where it listens.
	if out, err := ask("rabbit@node1", erlang("view")); err != nil || !strings.Contains(out, "\nlistener|amqp|::|5672|false|\n") || strings.Count(out, "listener|") != 1 {
		t.Errorf("of its listeners it said %q, %v", out, err)
	}
	queues := `[io:format("queue|~ts|ok|~n", [element(4, amqqueue:get_name(Q))]) || Q <- rabbit_amqqueue:list()], ok.`
	if out, _ := ask("rabbit@node1", queues); out != "queue|жук|1|ok|\nok" {
		t.Errorf("of a queue it said %q", out)
	}
	for _, expr := range []string{
		erlang("view"), queues, "1 + 1.", "lists:seq(1, 100000).", "application:get_env(rabbit, cluster_partition_handling).",
		`[io:format("~b~n", [N]) || N <- lists:seq(1, 2000)], ok.`,
	} {
		want := m.Exec(t, "rabbitmqctl", "-q", "-n", "rabbit@node1", "eval", expr)
		if got, err := ask("rabbit@node1", expr); err != nil || got != want {
			t.Errorf("%q gives %.300q, %v; rabbitmqctl says %.300q", expr, got, err, want)
		}
	}

	subnet := strings.Split(m.IP(t), ".") // Docker's bridge is a /16: nobody is there
	m.Exec(t, "sh", "-c", "echo "+subnet[0]+"."+subnet[1]+".255.253 away >>/etc/hosts")
	for _, c := range []struct{ node, expr, says string }{
		{"rabbit@node1", "exit(nonsense).", "nonsense"},
		{"rabbit@node1", "1 + a.", "badarith"},
		{"rabbit@node1", "syntax(", "syntax error"},
		{"rabbit@nowhere", "ok.", "rabbit@nowhere does not answer: its host: nxdomain, or no name server answers"},
		{"another@node1", "ok.", "another@node1 does not answer: it does not run"},
		{"rabbit@localhost", "ok.", "does not let this one in"},
		{"rabbit@away", "ok.", "epmd on its host is out of reach"},
		{"rabbit", "ok.", "badmatch"},
	} {
		out, err := ask(c.node, c.expr)
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(out, c.says) {
			t.Errorf("%q at %s: %v, %q, want status 1 and %q", c.expr, c.node, err, out, c.says)
		}
	}

	// Whatever another user of the container leaves in RabbitMQ's home, it is not run, also not by the Erlang that brings
	// epmd up.
	m.Exec(t, "sh", "-c", `mkdir -p $HOME/.config/erlang; for f in $HOME/.erlang $HOME/.config/erlang/.erlang; do echo 'os:cmd("id >>/tmp/owned").' >$f; chmod 644 $f; done`)

	// A node that only waits has no epmd yet.
	rabbittest.Until(t, "RabbitMQ is asked before it registers with the new epmd", func() (any, bool) {
		m.Exec(t, "sh", "-c", `for p in /proc/[0-9]*; do [ "$(cat $p/comm)" != epmd ] || kill -9 ${p#/proc/}; done`)
		out, err := ask("rabbit@node1", "ok.")
		if err != nil && !strings.Contains(out, "it does not run, says epmd") {
			t.Fatalf("without epmd on this host: %v, %q", err, out)
		}
		return out, err != nil
	})
	// RabbitMQ registers with the new one by itself, in its time.
	rabbittest.Until(t, "epmd knows RabbitMQ again", func() (any, bool) {
		out, err := ask("rabbit@node1", "ok.")
		return out, err == nil
	})
	if out := m.Exec(t, "sh", "-c", "cat /tmp/owned 2>/dev/null || echo none"); out != "none" {
		t.Errorf("a bare Erlang runs .erlang: %s", out)
	}
	if out := m.Exec(t, "sh", "-c", "erl -noinput -s erlang halt; cat /tmp/owned || true"); !strings.Contains(out, "uid=0(root)") {
		t.Errorf("a plain Erlang runs no .erlang, so nothing was shown: %s", out)
	}
	m.Exec(t, "sh", "-c", "rm -rf $HOME/.erlang $HOME/.config")

	// The user's settings of the command line, from the environment and from rabbitmq-env.conf.
	if out, err := eval("env", "RABBITMQ_CTL_ERL_ARGS=-setcookie wrong"); err == nil || !strings.Contains(out, "another Erlang cookie") {
		t.Errorf("with another cookie: %v, %q", err, out)
	}
	m.Exec(t, "sh", "-c", "echo 'CTL_ERL_ARGS=\"-setcookie wrong\"' >/tmp/env.conf")
	if out, err := eval("env", "RABBITMQ_CONF_ENV_FILE=/tmp/env.conf"); err == nil || !strings.Contains(out, "another Erlang cookie") {
		t.Errorf("with another cookie in rabbitmq-env.conf: %v, %q", err, out)
	}
	// Not so what the user meant for the server.
	if out, err := eval("env", "ERL_FLAGS=-setcookie wrong"); err != nil || out != "true" {
		t.Errorf("with ERL_FLAGS: %v, %q", err, out)
	}
}

// Where nodes speak TLS with each other, so does it, with the settings of the command line.
func TestBareErlangTLS(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a container")
	}
	site := httptest.NewTLSServer(nil) // for its certificate
	site.Close()
	key, err := x509.MarshalPKCS8PrivateKey(site.TLS.Certificates[0].PrivateKey)
	expect.Must(t, err)
	dir := t.TempDir()
	for name, content := range map[string][]byte{
		"cert.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: site.TLS.Certificates[0].Certificate[0]}),
		"key.pem":  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
		"config":   []byte(`[{server, [{certfile, "/tls/cert.pem"}, {keyfile, "/tls/key.pem"}, {verify, verify_none}]}, {client, [{verify, verify_none}]}].`),
	} {
		expect.Must(t, os.WriteFile(filepath.Join(dir, name), content, 0o644))
	}
	expect.Must(t, os.Chmod(dir, 0o755))
	const args = "-proto_dist inet_tls -ssl_dist_optfile /tls/config"
	m := rabbittest.Start(t, "-v", dir+":/tls:ro", "-e", "RABBITMQ_ERLANG_COOKIE=secret", "-e", "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+args, "-e", "RABBITMQ_CTL_ERL_ARGS="+args)
	eval := bareErlang(envScript, false, "rabbit@node1", "rabbit:is_running().")
	rabbittest.Until(t, "RabbitMQ runs", func() (any, bool) {
		out, err := m.TryExec(eval...)
		return out, err == nil && out == "true"
	})
	if out, err := m.TryExec(append([]string{"env", "RABBITMQ_CTL_ERL_ARGS="}, eval...)...); err == nil || !strings.Contains(out, "other TLS settings") {
		t.Errorf("without TLS: %v, %q", err, out)
	}
}

// The command line stays in charge where its scripts or Erlang are not found, and of
// all but eval.
func TestBare(t *testing.T) {
	dir := t.TempDir()
	sbin, bin := filepath.Join(dir, "sbin"), filepath.Join(dir, "bin")
	for _, d := range []string{sbin, bin} {
		expect.Must(t, os.Mkdir(d, 0o755))
	}
	expect.Must(t, os.WriteFile(filepath.Join(sbin, "rabbitmqctl"), nil, 0o755))
	expect.Must(t, os.Symlink("../sbin/rabbitmqctl", filepath.Join(bin, "rabbitmqctl")))
	t.Setenv("PATH", bin)
	eval := []string{"rabbitmqctl", "-q", "-n", "rabbit@a.b", "eval", "ok."}
	same := func(why string, argv []string) {
		t.Helper()
		if got := directEval(false, argv); !slices.Equal(got, argv) {
			t.Errorf("%s: %q", why, got)
		}
	}
	same("no rabbitmq-env", eval)
	expect.Must(t, os.WriteFile(filepath.Join(sbin, "rabbitmq-env"), nil, 0o755))
	same("no Erlang", eval)
	expect.Must(t, os.WriteFile(filepath.Join(bin, "erl"), nil, 0o755))
	same("an Erlang that would run .erlang", eval)
	expect.Must(t, os.WriteFile(filepath.Join(bin, "no_dot_erlang.boot"), nil, 0o644))
	same("another command", []string{"rabbitmqctl", "-q", "-n", "rabbit@a.b", "forget_cluster_node", "eval"})
	same("another program", []string{"rabbitmq-queues", "-q", "-n", "rabbit@a.b", "eval", "ok."})
	for _, c := range []struct {
		long  bool
		names string
	}{{false, "shortnames"}, {true, "longnames"}} {
		got := directEval(c.long, eval)
		if len(got) != 9 || got[0] != "sh" || got[3] != filepath.Join(sbin, "rabbitmq-env") || got[5] != c.names || !slices.Equal(got[7:], []string{"rabbit@a.b", "ok."}) {
			t.Errorf("%q", got)
		}
	}
	expect.Must(t, os.Remove(filepath.Join(bin, "rabbitmqctl")))
	same("no command line", eval)
}
