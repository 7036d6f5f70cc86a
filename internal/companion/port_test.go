package companion

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/tests/expect"
)

// A lines is a log that a test reads.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// opened serves /ready of a node that has just begun, at a port of its own.
func opened(t *testing.T) (addr string, log *lines) {
	t.Helper()
	log = new(lines)
	addr = net.JoinHostPort(expect.Loopback(t), "15690")
	c := companionFor(config.Config{TTL: time.Hour}, statedir.Runtime{}, nil)
	c.show("booting")
	l, err := net.Listen("tcp", addr)
	expect.Must(t, err)
	s := serve(l, c.board.ready(), "the port of /ready", slog.New(slog.NewTextHandler(log, nil)))
	t.Cleanup(func() { _ = s.Close() })
	return addr, log
}

func dial(t *testing.T, addr, from string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := d.DialContext(t.Context(), "tcp", addr)
	expect.Must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// asked returns the status of what the port answers to a question, 0 if it only hangs up.
func asked(t *testing.T, conn net.Conn, question string) int {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(expect.Soon))
	if _, err := io.WriteString(conn, question); err != nil {
		return 0
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// Whoever says nothing, or not all of it, is hung up on.
func TestPortHangsUp(t *testing.T) {
	t.Parallel()
	addr, _ := opened(t)
	for _, sent := range []string{
		"", "GET /ready HTT", "GET /ready HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n", "POST /ready HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
		"POST /ready HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n", "GET /ready HTTP/1.1\r\nHost: x\r\n\r\n", "GET /ready HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
		"GET /ready HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("y", 3*mostHeader), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01\x02\x00\x01",
	} {
		t.Run(fmt.Sprintf("%.20q", sent), func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			conn := dial(t, addr, "127.0.0.1")
			_ = conn.SetDeadline(began.Add(expect.Soon))
			_, _ = io.WriteString(conn, sent)
			_, err := io.Copy(io.Discard, conn)
			if took := time.Since(began); err != nil && strings.Contains(err.Error(), "timeout") || took > askWithin+10*time.Second {
				t.Errorf("held for %s: %v", took, err)
			}
		})
	}
}

// However many connections there are, whoever asks is answered, and nobody has more than a few.
func TestPortIsBounded(t *testing.T) {
	t.Parallel()
	addr, log := opened(t)
	const question = "GET /ready HTTP/1.1\r\nHost: x\r\n\r\n"
	var silent []net.Conn
	for i := range 10 * mostConnections {
		silent = append(silent, dial(t, addr, fmt.Sprintf("127.0.0.%d", 3+i%2)))
	}
	log.mu.Lock() // nobody reads it
	for range 3 { // not pushed out by those who come after
		slow := dial(t, addr, "127.0.0.9")
		for range mostConnections {
			silent = append(silent, dial(t, addr, "127.0.0.3"))
		}
		if got := asked(t, slow, question); got != 503 {
			t.Errorf("the crowd keeps others out: %d", got)
		}
	}
	if got := asked(t, dial(t, addr, "127.0.0.3"), question); got != 503 {
		t.Errorf("one of the crowd is not answered: %d", got)
	}
	held := 0
	for _, conn := range silent {
		_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if _, err := conn.Read(make([]byte, 1)); err != nil && strings.Contains(err.Error(), "timeout") {
			held++
		}
	}
	if held > mostConnections {
		t.Errorf("%d connections are held, want at most %d", held, mostConnections)
	}
	log.mu.Unlock()
	expect.Eventually(t, expect.Soon, "the log tells of them", func() error {
		if text := log.text(); strings.Count(text, "\n") != 1 || !strings.Contains(text, "from=127.0.0.") || !strings.Contains(text, "sent=nothing") {
			return fmt.Errorf("the log has %q", text)
		}
		return nil
	})
}

// The log tells once who sent what, and nothing of those who only look whether somebody listens.
func TestPortTellsWho(t *testing.T) {
	t.Parallel()
	addr, log := opened(t)
	for range 3 {
		_ = dial(t, addr, "127.0.0.1").Close()
		if got := asked(t, dial(t, addr, "127.0.0.1"), "GET /ready HTTP/1.0\r\n\r\n"); got != 503 {
			t.Errorf("/ready: %d", got)
		}
	}
	time.Sleep(50 * time.Millisecond)
	if log.text() != "" {
		t.Errorf("the log has %s", log.text())
	}
	for range 3 {
		if got := asked(t, dial(t, addr, "127.0.0.7"), "GET /\x1b[2J HTTP/1.1\r\nHost: x\r\n\r\n"); got != 400 && got != 404 {
			t.Errorf("answered %d", got)
		}
	}
	expect.Eventually(t, expect.Soon, "a line", func() error {
		if text := log.text(); strings.Count(text, "\n") != 1 || !strings.Contains(text, `from=127.0.0.7:`) || !strings.Contains(text, `GET /\\x1b[2J`) || strings.Contains(text, "\x1b") {
			return fmt.Errorf("the log has %q", text)
		}
		return nil
	})
}

// failing is a listener that cannot accept for a while.
type failing struct {
	net.Listener
	errs []error
}

func (f *failing) Accept() (net.Conn, error) {
	if len(f.errs) > 0 {
		err := f.errs[0]
		f.errs = f.errs[1:]
		return nil, err
	}
	return f.Listener.Accept()
}

// What keeps the port from accepting passes, but for its own end.
func TestPortGoesOnAccepting(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	expect.Must(t, err)
	f := &failing{l, []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS, syscall.ECONNABORTED, syscall.EPERM}}
	d := &door{Listener: f, log: slog.New(slog.DiscardHandler), shut: make(chan struct{})}
	dial(t, l.Addr().String(), "127.0.0.1")
	conn, err := d.Accept()
	expect.Must(t, err)
	expect.Must(t, conn.Close())
	f.errs = []error{syscall.EMFILE, net.ErrClosed}
	expect.Must(t, d.Close())
	if _, err := d.Accept(); err == nil {
		t.Error("it accepts after its end")
	}
}

// What cannot be looked at, for want of a descriptor, is as it was, and no longer than that holds.
func TestUnknownKeepsTheWord(t *testing.T) {
	t.Parallel()
	c := companionFor(config.Config{TTL: 15 * time.Second}, statedir.Runtime{}, nil)
	saw := healthcheck.Result{State: healthcheck.Passing, Reason: "answers"}
	c.Check = func(context.Context, bool) healthcheck.Result { return saw }
	state := c.state
	look := func(want healthcheck.State, words string) {
		t.Helper()
		if seen, ok := c.look(t.Context(), state); !ok || seen.Health.State != want || !strings.Contains(seen.Health.Reason, words) {
			t.Errorf("it sees %+v, want %s, %q", seen.Health, want, words)
		}
	}
	look(healthcheck.Passing, "answers")
	saw = healthcheck.Result{Unknown: true, Reason: "too many open files"}
	for range 5 {
		look(healthcheck.Passing, "passing when last looked at; not looked at anew: too many open files")
	}
	c.board.look(time.Now().Add(-16 * time.Second))
	look(healthcheck.Critical, "not looked at for 16s: passing when last looked at")
	saw = healthcheck.Result{State: healthcheck.Warning, Reason: "low on memory"}
	look(healthcheck.Warning, "low on memory")
}

// The port answers /ready alone. The rest is told at a socket that is its user's, which replaces
// what an earlier companion left, and which no proxy keeps anybody from.
func TestOwnSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "rmq") // shorter than t.TempDir: a socket's path takes 107 characters
	expect.Must(t, err)
	defer os.RemoveAll(dir)
	cfg := config.Config{Node: "rabbit@a", TTL: time.Hour, StateDir: dir, HTTP: net.JoinHostPort(expect.Loopback(t), "15690")}
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("ALL_PROXY", "http://127.0.0.1:1")
	c := companionFor(cfg, statedir.Runtime{}, nil)
	c.show("booting")
	for _, left := range []func(){
		func() {},
		func() {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: cfg.StatusSocket()})
			expect.Must(t, err)
			l.SetUnlinkOnClose(false)
			expect.Must(t, l.Close())
		},
		func() { expect.Must(t, os.WriteFile(cfg.StatusSocket(), []byte("a file"), 0o666)) },
		func() { expect.Must(t, os.Symlink("/dev/null", cfg.StatusSocket())) },
	} {
		left()
		s, err := open(cfg, Answers{c.board.ready(), c.own(), c.admin()}, slog.New(slog.DiscardHandler))
		expect.Must(t, err)
		info, err := os.Lstat(cfg.StatusSocket())
		if err != nil || info.Mode() != fs.ModeSocket|0o600 {
			t.Errorf("the socket is %v, %v", info.Mode(), err)
		}
		if r, err := Ask(t.Context(), cfg.StatusSocket()); err != nil || r.Reason != "booting" || r.Companion != os.Getpid() {
			t.Errorf("it says %+v, %v", r, err)
		}
		for _, path := range []string{"/status", "/", "/metrics", "/ready/", "/debug/pprof/", "/ready/../status"} {
			if got := asked(t, dial(t, cfg.HTTP, "127.0.0.1"), "GET "+path+" HTTP/1.0\r\n\r\n"); got != 404 && got != 301 && got != 307 {
				t.Errorf("%s at the port: %d", path, got)
			}
		}
		expect.Must(t, s.Close())
	}
	if _, err := Ask(t.Context(), cfg.StatusSocket()); err == nil {
		t.Error("somebody answers")
	}
	expect.Must(t, os.MkdirAll(filepath.Join(cfg.StatusSocket(), "full"), 0o755))
	if s, err := open(cfg, Answers{}, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "status.sock") {
		t.Errorf("%v, %v", s, err)
	}
	l, err := net.Listen("tcp", cfg.HTTP) // was given up, too
	expect.Must(t, err)
	expect.Must(t, l.Close())
}

// Of a crowd the log hears at its beginning, and once a minute of how many there were.
func TestPortTellsOncePerMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := new(lines)
		d := &door{place: "the port", log: slog.New(slog.NewTextHandler(log, nil)), shut: make(chan struct{})}
		comes := func(n int) {
			for range n {
				here, there := net.Pipe()
				g := d.admit(here).(*guest)
				g.note(func() { g.said = []byte("x") })
				_ = g.Close()
				_ = there.Close()
			}
		}
		tells := func(lines int, words string) {
			t.Helper()
			synctest.Wait()
			if text := log.text(); strings.Count(text, "\n") != lines || !strings.HasSuffix(text, words+"\n") {
				t.Errorf("the log has %s; want %d lines, at last %s", text, lines, words)
			}
		}
		comes(1)
		tells(1, "such_connections=1")
		comes(100)
		time.Sleep(59 * time.Second)
		comes(23)
		tells(1, "such_connections=1")
		time.Sleep(2 * time.Second)
		tells(2, "such_connections=123")
		time.Sleep(time.Hour)
		tells(2, "such_connections=123")
		comes(1) // of two, the second may come after the line of the first
		tells(3, "such_connections=1")
	})
}
