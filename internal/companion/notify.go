package companion

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/statedir"
)

// notifySocket receives what RabbitMQ says by the notify protocol (sd_notify(3)).
type notifySocket struct {
	conn *net.UnixConn
	C    chan string
}

// listen binds the socket that the server gets as NOTIFY_SOCKET. What it says is
// passed on to forward, if the entrypoint was itself started with such a socket.
func listen(path, forward string) (*notifySocket, error) {
	// A socket file left behind makes the next bind fail.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("listen for RabbitMQ's word: %w", err)
	}
	s := &notifySocket{conn: conn, C: make(chan string, 64)}
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
			case s.C <- string(buf[:n]):
			default: // nobody listens any more
			}
		}
	}()
	return s, nil
}

func (s *notifySocket) Close() error { return s.conn.Close() }

// tell passes a message on; whoever gave us the socket may be gone.
func tell(socket string, msg []byte) {
	if conn, err := net.Dial("unixgram", socket); err == nil { // #nosec G704 -- a path, from who started us
		defer conn.Close()
		_, _ = conn.Write(msg)
	}
}

// Nudge makes the companion look for orders now rather than with its next beat.
func Nudge(c config.Config) { tell(c.Socket(), []byte("X_RMQ_ENTRYPOINT=order")) }

// gone returns a channel that is closed when the server's process has positively ended. It
// is told by a pidfd, which needs no file later: one that ran out of descriptors cannot look
// into /proc, and that says nothing of the server. It tells of a zombie that nobody reaps,
// too, and cannot mean a later process of that PID.
func gone(ctx context.Context, rt statedir.Runtime) <-chan struct{} {
	ended := make(chan struct{})
	go func() {
		watch := watcher{rt: rt, fd: -1}
		defer watch.close()
		for missed := 0; missed < 3 && ctx.Err() == nil; pause(ctx, 100*time.Millisecond) {
			if missed++; !watch.ended() { // a process in exec is a zombie for a moment
				missed = 0
			}
		}
		if ctx.Err() == nil {
			close(ended)
		}
	}()
	return ended
}

// A watcher looks whether the server has ended: by its pidfd, or, until it has that and
// where the kernel has none, at /proc.
type watcher struct {
	rt     statedir.Runtime
	fd     int  // -1: none
	proven bool // fd is the server's, not one of a later process of that PID
	none   bool // the kernel has no pidfd, or does not let us
}

// ended reports whether the server has ended. By a pidfd it waits two seconds for that.
func (w *watcher) ended() bool {
	if w.fd < 0 && !w.none {
		fd, err := unix.PidfdOpen(w.rt.PID, 0)
		switch {
		case err == nil:
			w.fd = fd
		case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM), errors.Is(err, unix.EINVAL):
			w.none = true
		}
	}
	if !w.proven {
		ended, err := w.rt.Ended()
		if w.proven = w.fd >= 0 && err == nil && !ended; w.fd < 0 || ended {
			return ended
		}
	}
	ready := []unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}} // #nosec G115 -- a descriptor
	n, err := unix.Poll(ready, 2000)
	return err == nil && n > 0 && ready[0].Revents&unix.POLLIN != 0
}

func (w *watcher) close() {
	if w.fd >= 0 {
		_ = unix.Close(w.fd)
	}
}
