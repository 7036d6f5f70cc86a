package main

import (
	"net"
	"strings"
	"testing"

	"rmq-entrypoint/tests/expect"
)

// A start that ends because its companion cannot begin says the companion's reason in the error that
// ends it, whatever it is, and a health check that cannot replace one does.
func testReasonOfTheCompanion(t *testing.T, w *world) {
	last := func(text string) string {
		lines := strings.Split(strings.TrimSpace(text), "\n")
		return lines[len(lines)-1]
	}
	for name, c := range map[string]struct{ url, why string }{
		"mechanism@localhost": {"amqp://alice:wonder@127.0.0.1:5672?auth_mechanism=magic", "RMQ_AMQP_URL (--amqp-url): "},
		"file@localhost":      {"amqps://alice:wonder@127.0.0.1?cacertfile=/nowhere", "read cacertfile: open /nowhere: no such file"},
	} {
		n := w.node(name, "RMQ_AMQP_URL="+c.url)
		n.start()
		n.refused(soon)
		expect.Says(t, last(n.log()), "rmq-entrypoint: start the companion: ", c.why)
		if strings.Contains(n.log(), "no sign") || strings.Contains(n.log(), "wonder") {
			t.Errorf("the log is %s", n.log())
		}
	}
	n := w.node("rabbit@localhost")
	n.serves()
	n.kill(w.companions()[0])
	n.ends(soon)
	taken, err := net.Listen("tcp", n.ip+":15690")
	expect.Must(t, err)
	out, code := n.run("healthcheck")
	expect.Says(t, last(out), "RMQ_HTTP", "address already in use")
	if code == 0 {
		t.Errorf("it is healthy: %s", out)
	}
	expect.Must(t, taken.Close())
	expect.Must(t, w.replaced(n))
}
