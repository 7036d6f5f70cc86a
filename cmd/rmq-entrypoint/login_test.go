package main

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/tests/expect"
)

// The password is told to RabbitMQ alone: to nobody who listens at its port before it said that it
// is ready, nor once it stops.
func testLoginWaitsForReady(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	nobodyIsTold := func(d time.Duration) {
		t.Helper()
		expect.Consistently(t, d, "no login", func() error {
			if _, err := os.Stat(n.path("login")); !errors.Is(err, fs.ErrNotExist) {
				return errors.New("a login came")
			}
			return nil
		})
	}
	n.hasData(nil)
	n.start()
	n.server(soon)
	n.tell("amqp up") // as a stranger would
	nobodyIsTold(2*testBeat + testBeat/2)
	n.sees("id", n.name)
	n.tell("notify READY=1")
	n.registered(soon, api.HealthPassing)
	if _, err := os.Stat(n.path("login")); err != nil {
		t.Errorf("no login once it is ready: %v", err)
	}

	expect.Must(t, os.Remove(n.path("view")))
	expect.Must(t, os.Remove(n.path("login")))
	n.tell("notify STOPPING=1")
	n.tell("amqp 320")
	n.tell("amqp up")
	nobodyIsTold(2 * testBeat)
	n.sees("id", n.name)
	n.tell("notify READY=1")
	n.registered(soon, api.HealthPassing)
}

// What rabbitmq-env.conf says of the login counts for each companion, and is in no runtime file.
func testLoginOfEnvConf(t *testing.T, w *world) {
	n := w.node("rabbit@localhost", "RMQ_AMQP_URL=")
	n.env = append(n.env, "RABBITMQ_NODE_IP_ADDRESS="+n.ip, "RABBITMQ_CONF_ENV_FILE="+n.path("env.conf"))
	n.put(n.path("env.conf"), "export RABBITMQ_CONFIG_FILE="+n.path("mine")+" MY_PASSWORD=w4lt3r\n")
	n.put(n.path("mine.conf"), "default_user = walter\ndefault_pass = $(MY_PASSWORD)\n")
	n.serves()
	n.loggedIn("walter", "w4lt3r")
	n.kill(w.companions()[0])
	expect.Must(t, os.Remove(n.path("login")))
	expect.Eventually(t, soon, "another companion", func() error { return w.replaced(n) })
	n.reports(soon, api.HealthPassing, "")
	n.loggedIn("walter", "w4lt3r")
	if file, err := os.ReadFile(n.state("runtime.json")); err != nil || strings.Contains(string(file), "w4lt3r") {
		t.Errorf("the runtime file holds a password: %v", err)
	}
}

// RabbitMQ takes its variables without RABBITMQ_ before their names, too, from that file and from
// the environment, exported or not (measured on 3.10.8 and 4.3.6).
func testLoginOfShortNames(t *testing.T, w *world) {
	n := w.node("rabbit@localhost", "RMQ_AMQP_URL=", "DEFAULT_USER=walter")
	n.env = append(n.env, "RABBITMQ_NODE_IP_ADDRESS="+n.ip, "RABBITMQ_CONF_ENV_FILE="+n.path("env.conf"))
	n.put(n.path("env.conf"), "DEFAULT_PASS=w4lt3r\n")
	n.serves()
	n.loggedIn("walter", "w4lt3r")
}

// loggedIn is as whom the companion was seen to log in last.
func (n *node) loggedIn(user, password string) {
	n.t.Helper()
	b, err := os.ReadFile(n.path("login"))
	if expect.Must(n.t, err); !strings.Contains(string(b), "\x00"+user+"\x00"+password) {
		n.t.Errorf("it logged in with %q", b)
	}
}
