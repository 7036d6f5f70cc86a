package entrypoint

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"
)

// portWait is for how long a companion that has ended may still hold its port: the volume's flock
// goes a moment before.
const portWait = 2 * time.Second

// portIsFree judges whether the companion will be able to listen at the address of /ready. Once it
// is started there is a claim on record, and an entry in Consul, of a node that then does not start.
func portIsFree(ctx context.Context, address string) error {
	for until := time.Now().Add(portWait); ; {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
		switch {
		case err == nil:
			return l.Close()
		case !errors.Is(err, syscall.EADDRINUSE):
			return fmt.Errorf("--http (RMQ_HTTP) %q: /ready cannot be answered there: %w: give it an address of this host, or a port alone, as :15690", address, err)
		case ctx.Err() != nil || time.Now().After(until):
			return fmt.Errorf("--http (RMQ_HTTP) %q: /ready cannot be answered there: %w: stop what listens there, or give another port, to whoever asks for /ready, too", address, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}
