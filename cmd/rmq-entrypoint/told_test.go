package main

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

// A blank node says whose data is gone, names what does not work once and not at each look,
// and does not take its own volume for Consul.
func TestWhatABlankNodeTells(t *testing.T) {
	t.Parallel()
	c := consultest.Start(t)
	w := newWorld(t, c)
	there := peers.Registration{Service: w.service, Node: "old@localhost", Address: "127.0.0.1", Port: 5672, TTL: time.Hour, DeregisterAfter: time.Hour}
	expect.Must(t, peers.Announce(t.Context(), c.Client, there, peers.Starting, ""))
	n := w.node("rabbit@localhost", "RMQ_DNS_SERVER=127.0.0.1:1")
	n.put(n.state("member"), statedir.Marker{ClusterID: "id-lost", Volume: "v1"})
	n.start()
	n.logs("DNS does not answer")
	expect.Says(t, n.log(), "RabbitMQ's directory is gone", "cluster=id-lost")
	time.Sleep(8 * time.Second) // several looks
	if said := strings.Count(n.log(), "DNS does not answer"); said != 1 {
		t.Errorf("it says %d times that DNS does not answer", said)
	}
	out, _ := n.run("status")
	expect.Says(t, out, "not started: waiting for")
	if strings.Contains(out, "0001-01-01") {
		t.Errorf("status:\n%s", out)
	}

	expect.Must(t, os.Chmod(n.state(""), 0o555))
	expect.Must(t, peers.Withdraw(t.Context(), c.Client, there))
	n.logs("its own volume to take a note before it may claim")
	expect.Says(t, n.log(), "permission denied", "--state-dir, RMQ_STATE_DIR")
	expect.Must(t, os.Chmod(n.state(""), 0o755))
	n.server(soon) // it goes on by itself
	expect.Eventually(t, soon, "it founds", func() error {
		if r := w.record(); r.State != peers.Forming {
			return errors.New(string(r.State))
		}
		return nil
	})
}
