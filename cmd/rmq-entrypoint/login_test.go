package main

import (
	"errors"
	"io/fs"
	"os"
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
