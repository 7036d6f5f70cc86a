package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/tests/expect"
)

// Who runs as the server's user reads no secret of the companion's: neither from its environment,
// which holds none, nor from its memory. It has them all the same, also when a health check started
// it.
func testCompanionKeepsSecrets(t *testing.T, w *world) {
	n := w.node("rabbit@localhost", "CONSUL_HTTP_TOKEN=t0ken", "MY_PASSWORD=0pen", "RMQ_BROKERS=amqp://bob:br0ker@h", "LARGE="+strings.Repeat("x", 100<<10))
	n.serves()
	secluded := func(pid int) {
		t.Helper()
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		for _, secret := range []string{"crumbs", "t0ken", "wonder", "0pen", "br0ker"} {
			if strings.Contains(string(env), secret) {
				t.Errorf("process %d has %s in its environment (%v)", pid, secret, err)
			}
		}
		for _, file := range []string{"environ", "mem", "fd/0"} {
			cmd := exec.Command("head", "-c1", fmt.Sprintf("/proc/%d/%s", pid, file))
			cmd.SysProcAttr = n.command().SysProcAttr // as the server's user
			if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "ermission denied") {
				t.Errorf("%s of process %d can be read: %q, %v", file, pid, out, err)
			}
		}
	}
	first := w.companions()[0]
	secluded(first)
	n.kill(first)
	expect.Eventually(t, soon, "another companion", func() error {
		if out, code := n.run("healthcheck"); code != 0 {
			return fmt.Errorf("%d, %s", code, out)
		}
		if now := w.companions(); len(now) != 1 || now[0] == first {
			return fmt.Errorf("%v", now)
		}
		return nil
	})
	second := w.companions()[0]
	secluded(second)
	expect.Must(t, os.Remove(n.path("login")))
	n.tell("amqp down")
	n.tell("amqp up")
	expect.Eventually(t, soon, "it logs in with the password", func() error {
		b, err := os.ReadFile(n.path("login"))
		if err == nil && !strings.Contains(string(b), "wonder") {
			err = errors.New("another login")
		}
		return err
	})
	n.registered(soon, api.HealthPassing)
}
