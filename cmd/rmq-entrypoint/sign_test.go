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
	for name, socket := range map[string]string{"status@localhost": "status.sock", "notify@localhost": "notify.sock"} {
		n := w.node(name)
		n.put(n.state(socket+"/in-the-way"), "")
		n.start()
		n.refused(soon)
		expect.Says(t, last(n.log()), "rmq-entrypoint: start the companion: ", socket, "directory not empty")
		if strings.Contains(n.log(), "no sign") {
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
