package cluster

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// Flags of docker run: what the example cluster's nodes run with, and what a container has that steps down by itself.
var (
	hardened = []string{
		"--read-only", "--tmpfs", "/tmp:size=64m", "--tmpfs", "/var/log/rabbitmq:size=256m",
		"--cap-drop", "ALL", "--security-opt", "no-new-privileges",
	}
	asRabbitMQ = append(slices.Clone(hardened), "--user", "rabbitmq")
	stepsDown  = append(slices.Clone(hardened), "--cap-add", "CHOWN", "--cap-add", "SETUID", "--cap-add", "SETGID")
)

// rights lists what the processes of the node have: user, effective capabilities, no_new_privs. Those of docker exec are
// left out.
const rights = `for p in /proc/[0-9]*; do
	case $(cat $p/comm 2>/dev/null) in beam.smp|rmq-entrypoint|epmd|erl_child_setup) ;; *) continue ;; esac
	for t in $p/task/*; do echo $(sed -n 's/^Uid:\t\([0-9]*\).*/\1/p; s/^\(CapEff\|NoNewPrivs\):.//p' $t/status); done
done 2>/dev/null | sort -u`

// A container with the least rights, as rabbitmq or as root that steps down, founds, joins, is healthy, comes back, has a
// lost companion replaced, drains and leaves.
func TestLeastRights(t *testing.T) {
	on(t, newest, func(c *cluster) {
		c.checked = true // its health checks have a lost companion replaced
		nodes := c.all(3)
		n1, n2, n3 := nodes[0], nodes[1], nodes[2]
		n1.flags, n2.flags, n3.flags = asRabbitMQ, stepsDown, stepsDown // the first one is asked: its docker exec reads the cookie
		start(nodes...)
		id := c.one(nodes...)
		healthy := func(nodes ...*node) {
			c.Helper()
			c.eventually(60*time.Second, "Docker calls them healthy", func() (err error) {
				for _, n := range nodes {
					if is := n.docker("inspect", "-f", "{{.State.Health.Status}}", n.container); is != "healthy" {
						err = fmt.Errorf("%s is %s", n.host, is)
					}
				}
				return err
			})
		}
		healthy(nodes...)
		for _, n := range nodes {
			if got, want := n.exec("sh", "-c", rights), "999 0000000000000000 1"; got != want {
				c.Errorf("the processes of %s have\n%s\nwant\n%s", n.host, got, want)
			}
			if out := n.exec("rmq-entrypoint", "rabbitmqctl", "-q", "list_users"); !strings.Contains(out, "guest") {
				c.Errorf("RabbitMQ's command line on %s says %s", n.host, out)
			}
			if out := n.exec("rmq-entrypoint", "status"); strings.Contains(out, "unknown") {
				c.Errorf("the status of %s is\n%s", n.host, out)
			}
		}
		c.in("stopped and started", func() {
			stop(n1, n2)
			start(n1, n2)
			c.same(id, c.one(nodes...))
		})
		c.in("a lost companion", func() {
			for _, n := range []*node{n1, n2} {
				was := n.companions()
				n.docker("exec", "-u", "rabbitmq", n.container, "kill", "-9", was[0])
				c.eventually(30*time.Second, "the health check starts another on "+n.host, func() error {
					if is := n.companions(); len(is) != 1 || is[0] == was[0] {
						return fmt.Errorf("there are %v, was %v", is, was)
					}
					return nil
				})
			}
			c.same(id, c.one(nodes...))
			healthy(nodes...)
		})
		c.in("drain and leave", func() {
			n1.exec("rmq-entrypoint", "drain")
			stop(n1)
			n1.start()
			c.same(id, c.one(nodes...))
			n3.exec("rmq-entrypoint", "leave")
			c.same(id, c.one(n1, n2))
		})
	})
}

// With the rights that Docker gives by default, nobody else in the container becomes root or rabbitmq, holds the node's
// locks or reads its state, and rabbitmq himself does not become root, whatever he puts in root's way.
func TestOtherUsersOfTheContainer(t *testing.T) {
	on(t, newest, func(c *cluster) {
		n := c.node(1)
		host := n.container + "-host" // what root must not give away
		n.volumes = append(n.volumes, host)
		n.docker("volume", "create", "--label", label, host)
		n.flags = []string{"-v", host + ":/host"}
		as := func(user, script string) (string, error) {
			return try("exec", "-u", user, n.container, "sh", "-c", script)
		}
		must := func(user, script string) string {
			c.Helper()
			out, err := as(user, script)
			if err != nil {
				c.Fatal(err)
			}
			return out
		}
		state := "/var/lib/rabbitmq/mnesia/" + n.name + "-entrypoint"
		owned := func(what string) {
			c.Helper()
			if out := must("root", "cat /tmp/owned 2>/dev/null || true; ls /etc/nologin 2>/dev/null || true"); out != "" {
				c.Errorf("%s: %s", what, out)
			}
		}
		const dotErlang = `echo 'os:cmd("id >>/tmp/owned").' >/var/lib/rabbitmq/.erlang; mkdir -p /var/lib/rabbitmq/.config/erlang && cp /var/lib/rabbitmq/.erlang /var/lib/rabbitmq/.config/erlang/`

		n.start()
		_, _ = as("nobody", dotErlang) // he may come first
		c.one(n)
		for _, script := range []string{dotErlang, "touch /var/lib/rabbitmq/x", "touch /etc/rabbitmq/rabbitmq-env.conf", "touch /etc/rabbitmq/conf.d/99-his.conf", "ls " + state, "cat " + state + "/runtime.json", ": 9<" + state + "/companion.lock", ": 9>>" + state + "/operator.lock"} {
			if out, err := as("nobody", script); err == nil {
				c.Errorf("nobody does %q: %s", script, out)
			}
		}
		if out, err := as("rabbitmq", "grep NoNewPrivs /proc/1/status"); err != nil || !strings.HasSuffix(out, "1") {
			c.Errorf("RabbitMQ has %q, %v", out, err)
		}
		owned("nobody's files")

		c.in("rabbitmq's .erlang", func() {
			must("rabbitmq", dotErlang)
			must("root", "rabbitmqctl -q eval 1. && rmq-entrypoint rabbitmqctl -q eval 1. && rmq-entrypoint status && rmq-entrypoint healthcheck")
			n.docker("restart", "-t", "120", n.container)
			c.one(n)
			owned("his .erlang")
		})
		c.in("links in place of the locks", func() {
			must("rabbitmq", fmt.Sprintf("cd %s && rm -f companion.lock operator.lock && ln -s /etc/nologin companion.lock && ln -s /etc/nologin operator.lock", state))
			for _, command := range []string{"healthcheck", "drain --force", "leave --force"} {
				if out, err := as("root", "rmq-entrypoint "+command); err == nil {
					c.Errorf("%s: %s", command, out)
				}
			}
			owned("links")
			must("rabbitmq", fmt.Sprintf("cd %s && rm -f companion.lock operator.lock", state))
		})
		c.in("links on the volume when root starts", func() {
			n.docker("exec", "-u", "root", n.container, "sh", "-c", "mkdir -p /host/dir && touch /host/shadow /host/dir/file && chown -R root:root /host && chmod 600 /host/shadow")
			must("rabbitmq", "cd /var/lib/rabbitmq && ln -s /host host && ln -s /host/shadow shadow && mkdir -p deep/er && ln -s /host deep/er/host")
			n.stop()
			n.start()
			c.one(n)
			if out := must("root", "find /host ! -user root"); out != "" {
				c.Errorf("these were given to rabbitmq: %s", out)
			}
		})
		c.in("a state directory that leads elsewhere", func() {
			must("rabbitmq", fmt.Sprintf("mv %s %s.kept && ln -s /host %s", state, state, state))
			for _, command := range []string{"healthcheck", "status", "drain --force"} {
				_, _ = as("root", "rmq-entrypoint "+command)
			}
			if out := must("root", "ls -A /host"); out != "dir\nshadow" {
				c.Errorf("root wrote behind the link: %s", out)
			}
			must("rabbitmq", fmt.Sprintf("rm %s && mv %s.kept %s", state, state, state))
			c.eventually(60*time.Second, "the node serves on", func() error {
				out, err := n.tryExec("rmq-entrypoint", "healthcheck", "--ready")
				if err != nil {
					return errors.New(out)
				}
				return nil
			})
		})
	})
}
