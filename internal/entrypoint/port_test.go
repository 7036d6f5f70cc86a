package entrypoint

import (
	"net"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/tests/expect"
)

// A port is free once a companion that ends has let go of it, and taken while somebody else listens there, whose name
// for the address it has.
func TestPortIsFree(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	expect.Must(t, err)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for _, address := range []string{"127.0.0.1:" + port, "localhost:" + port, ":" + port, "0.0.0.0:" + port} {
		if err := portIsFree(t.Context(), address); err == nil || !strings.Contains(err.Error(), "--http (RMQ_HTTP)") || !strings.Contains(err.Error(), "address already in use") {
			t.Errorf("%s: %v", address, err)
		}
	}
	closed := make(chan error, 1)
	time.AfterFunc(portWait/4, func() { closed <- l.Close() })
	expect.Must(t, portIsFree(t.Context(), "127.0.0.1:"+port))
	expect.Must(t, <-closed)
	expect.Must(t, portIsFree(t.Context(), "127.0.0.1:"+port)) // it kept nothing
	if err := portIsFree(t.Context(), "192.0.2.1:"+port); err == nil || !strings.Contains(err.Error(), "an address of this host") {
		t.Errorf("another host's: %v", err)
	}
}
