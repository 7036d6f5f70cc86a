package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/config"
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

func TestSecretsFromFiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	expect.Must(t, os.WriteFile(file, []byte("amqp://alice:wonder@a:1\n"), 0o600))
	cfg, _, err := parse(nil, expect.Environ("RMQ_AMQP_URL_FILE="+file))
	if root := os.Geteuid() == 0; err != nil || root != (cfg.AMQPURL == "") {
		t.Errorf("root: %t; %q, %v", root, cfg.AMQPURL, err)
	}
	expect.Must(t, cfg.ReadURL(expect.Environ("RMQ_AMQP_URL_FILE="+file))) // what root leaves for the user that he becomes
	if cfg.AMQPURL != "amqp://alice@a:1" || cfg.Port != 1 {
		t.Errorf("%q, port %d", cfg.AMQPURL, cfg.Port)
	}
	if urls, err := config.AMQPURLs(cfg, expect.Environ("RMQ_AMQP_URL_FILE="+file)); err != nil || !slices.Equal(urls, []string{"amqp://alice:wonder@a:1"}) {
		t.Errorf("%q, %v", urls, err)
	}
	for _, s := range config.Secrets {
		got, err := config.Secret(expect.Environ(s.Env+"_FILE="+file), s.Env)
		if err != nil || got != "amqp://alice:wonder@a:1" {
			t.Errorf("%s_FILE: %q, %v", s.Env, got, err)
		}
		if got, err := config.Secret(expect.Environ(s.Env+"=x"), s.Env); err != nil || got != "x" {
			t.Errorf("%s: %q, %v", s.Env, got, err)
		}
		if _, _, err := parse(nil, expect.Environ(s.Env+"=amqp://x", s.Env+"_FILE="+file)); err == nil || !strings.Contains(err.Error(), s.Env+"_FILE") {
			t.Errorf("both %s and its file: %v", s.Env, err)
		}
		for _, env := range [][]string{{s.Env + "=x", s.Env + "_FILE=" + file}, {s.Env + "_FILE=" + file + ".none"}} {
			if _, err := config.Secret(expect.Environ(env...), s.Env); err == nil || !strings.Contains(err.Error(), s.Env+"_FILE") || strings.Contains(err.Error(), "wonder") {
				t.Errorf("%v: %v", env, err)
			}
		}
	}
}

// No secret gets into the runtime file, which everybody may read.
func TestConfigHoldsNoSecret(t *testing.T) {
	cfg, _, err := parse(nil, expect.Environ("RMQ_AMQP_URL=amqp://alice:pa55word@a", "CONSUL_HTTP_TOKEN=pa55word", "RABBITMQ_ERLANG_COOKIE=pa55word", "RABBITMQ_DEFAULT_PASS=pa55word"))
	expect.Must(t, err)
	if text := fmt.Sprintf("%+v", cfg); strings.Contains(text, "pa55word") {
		t.Error(text)
	}
}
