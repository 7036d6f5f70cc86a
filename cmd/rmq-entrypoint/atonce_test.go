package main

import (
	"syscall"
	"testing"
	"time"

	"rmq-entrypoint/tests/expect"
)

// What a node is told takes it out of Consul at once: its heartbeats are so far apart that
// the next one is not what did it, on a busy machine, too.
func testOutAtOnce(t *testing.T, w *world) {
	const rare = 20 * time.Second
	for name, end := range map[string]func(n *node, s started){
		"STOPPING":      func(n *node, _ started) { n.tell("notify STOPPING=1") },
		"STATUS":        func(n *node, _ started) { n.tell("notify STATUS=Standing by") },
		"AMQP shutdown": func(n *node, _ started) { n.tell("amqp 320") },
		"SIGTERM":       func(n *node, s started) { expect.Must(n.t, syscall.Kill(s.PID, syscall.SIGTERM)) },
		"SIGKILL":       func(n *node, s started) { n.kill(s.PID) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, w.consul)
			n := w.node("rabbit@localhost", "RMQ_TTL="+(3*rare).String(), "RMQ_INTERVAL="+rare.String(), "RMQ_CLAIM_TIMEOUT=3m", "RMQ_WAIT_TIMEOUT=10m")
			end(n, n.serves())
			told := time.Now()
			n.registered(soon, "")
			if took := time.Since(told); took > rare-testBeat { // the last heartbeat came with READY
				t.Errorf("it was out of Consul after %s, and is looked at every %s", took, rare)
			}
		})
	}
}
