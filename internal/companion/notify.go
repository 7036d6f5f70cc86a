package companion

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/statedir"
)

// ear receives what RabbitMQ says by the notify protocol (sd_notify(3)).
type ear struct {
	conn *net.UnixConn
	C    chan string
}

// listen binds the socket that the server gets as NOTIFY_SOCKET. What it says is
// passed on to forward, if the entrypoint was itself started with such a socket.
func listen(path, forward string) (*ear, error) {
	// A socket file left behind makes the next bind fail.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("listen for RabbitMQ's word: %w", err)
	}
	e := &ear{conn: conn, C: make(chan string, 64)}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			if forward != "" {
				tell(forward, buf[:n])
			}
			select {
			case e.C <- string(buf[:n]):
			default: // nobody listens any more
			}
		}
	}()
	return e, nil
}

func (e *ear) Close() error { return e.conn.Close() }

// tell passes a message on; whoever gave us the socket may be gone.
func tell(socket string, msg []byte) {
	if conn, err := net.Dial("unixgram", socket); err == nil {
		defer conn.Close()
		_, _ = conn.Write(msg)
	}
}

// Nudge makes the companion look for orders now rather than with its next beat.
func Nudge(c config.Config) { tell(c.Socket(), []byte("X_RMQ_ENTRYPOINT=order")) }

// gone returns a channel that is closed when the server's process has ended.
func gone(ctx context.Context, rt statedir.Runtime) <-chan struct{} {
	ended := make(chan struct{})
	go func() {
		for missed := 0; missed < 3 && ctx.Err() == nil; pause(ctx, 100*time.Millisecond) {
			if missed++; rt.Alive() { // a process in exec is a zombie for a moment
				missed = 0
			}
		}
		if ctx.Err() == nil {
			close(ended)
		}
	}()
	return ended
}
