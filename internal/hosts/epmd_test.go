package hosts

import (
	"errors"
	"net"
	"testing"

	"rmq-entrypoint/tests/rabbittest"
)

// The real epmd's answers, as this program reads them.
func TestEpmd(t *testing.T) {
	m := rabbittest.Start(t, "-e", "RABBITMQ_ERLANG_COOKIE=secret")
	rabbittest.Until(t, "RabbitMQ runs", func() (any, bool) {
		out, err := m.TryExec("rabbitmqctl", "-q", "eval", "rabbit:is_running().")
		return out, err == nil && out == "true"
	})
	epmd := net.JoinHostPort(m.IP(t), "4369")
	for name, want := range map[string]bool{"rabbit": true, "another": false, "rabbi": false} {
		if listed, err := epmdLists(t.Context(), epmd, name); err != nil || listed != want {
			t.Errorf("epmd lists %s: %t, %v", name, listed, err)
		}
		if port, err := DistPort(t.Context(), epmd, name); err != nil || port != map[bool]int{true: 25672}[want] {
			t.Errorf("%s listens for other nodes at %d, %v", name, port, err)
		}
	}
	// RabbitMQ registers with another epmd by itself, in its time. Until then what epmd says
	// is not all there is to see.
	m.Exec(t, "sh", "-c", `for p in /proc/[0-9]*; do [ "$(cat $p/comm)" != epmd ] || kill -9 ${p#/proc/}; done; epmd -daemon`)
	w := witness{epmdPort: "4369", distPort: "25672"}
	rabbittest.Until(t, "a new epmd answers", func() (any, bool) {
		listed, err := epmdLists(t.Context(), epmd, "rabbit")
		return listed, err == nil
	})
	if err := w.unlisted(t.Context(), m.IP(t), "rabbit"); !errors.Is(err, errListed) {
		t.Errorf("RabbitMQ runs, and epmd was lost: %v", err)
	}
}
