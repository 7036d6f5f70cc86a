package healthcheck

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A stub speaks just enough AMQP to fail on cue, for faults that a real server
// does not have on demand. How RabbitMQ behaves is for rabbitmq_test.go.
type stub struct {
	t        *testing.T
	ln       net.Listener
	accepted atomic.Int32
	wg       sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool
}

// A call is a method's class and method id.
type call [2]uint16

var (
	header     = call{0, 0} // the protocol header, for a hook that runs before all methods
	startOk    = call{10, 11}
	tuneOk     = call{10, 31}
	open       = call{10, 40}
	connClose  = call{10, 50}
	chOpen     = call{20, 10}
	chClose    = call{20, 40}
	publish    = call{60, 40}
	txSelect   = call{90, 10}
	txRollback = call{90, 30}
)

// answers are those of a healthy server, on the channel of the call: startOk's is
// Tune, and so on.
var answers = map[call][]byte{
	header:     method(0, 10, 10, "\x00\x09"+long("")+long("PLAIN")+long("en_US")),
	startOk:    method(0, 10, 30, "\x07\xff\x00\x02\x00\x00\x00\x3c"),
	open:       method(0, 10, 41, short("")),
	connClose:  method(0, 10, 51, ""),
	chOpen:     method(1, 20, 11, long("")),
	chClose:    method(1, 20, 41, ""),
	txSelect:   method(1, 90, 11, ""),
	txRollback: method(1, 90, 31, ""),
}

func method(channel, class, id uint16, args string) []byte {
	b := []byte{1}
	b = binary.BigEndian.AppendUint16(b, channel)
	b = binary.BigEndian.AppendUint32(b, uint32(4+len(args)))
	b = binary.BigEndian.AppendUint16(b, class)
	b = binary.BigEndian.AppendUint16(b, id)
	return append(append(b, args...), 0xCE)
}

func short(s string) string { return string([]byte{byte(len(s))}) + s }

func long(s string) string { return string(binary.BigEndian.AppendUint32(nil, uint32(len(s)))) + s }

func closing(channel uint16, code uint16, text string) []byte {
	class := uint16(10)
	id := uint16(50)
	if channel != 0 {
		class, id = 20, 40
	}
	return method(channel, class, id, string(binary.BigEndian.AppendUint16(nil, code))+short(text)+"\x00\x00\x00\x00")
}

func blocked(why string) []byte { return method(0, 10, 60, short(why)) }

func unblocked() []byte { return method(0, 10, 61, "") }

// A peer is the stub's end of one connection.
type peer struct {
	net.Conn
	r       *bufio.Reader
	startOk string // what the client says of itself
	channel uint16 // of the last call
	calls   []call
}

// next reads up to the next method; content and heartbeats are passed over.
func (p *peer) next() (call, error) {
	for {
		head := make([]byte, 7)
		if _, err := io.ReadFull(p.r, head); err != nil {
			return call{}, err
		}
		body := make([]byte, binary.BigEndian.Uint32(head[3:])+1)
		if _, err := io.ReadFull(p.r, body); err != nil {
			return call{}, err
		}
		if head[0] != 1 {
			continue
		}
		p.channel = binary.BigEndian.Uint16(head[1:])
		c := call{binary.BigEndian.Uint16(body), binary.BigEndian.Uint16(body[2:])}
		if c == startOk {
			p.startOk = string(body)
		}
		p.calls = append(p.calls, c)
		return c, nil
	}
}

// serve starts a stub. hook sees every call before it is answered, and returns
// true when it has dealt with it; when it returns, or the connection breaks, the
// connection is closed only by the client or at the end of the test.
func serve(t *testing.T, conf *tls.Config, hook func(p *peer, c call) bool) *stub {
	t.Helper()
	return serveOn(t, func(ln net.Listener) net.Listener {
		if conf != nil {
			ln = tls.NewListener(ln, conf)
		}
		return ln
	}, hook)
}

// serveOn is serve behind a listener of another kind.
func serveOn(t *testing.T, wrap func(net.Listener) net.Listener, hook func(p *peer, c call) bool) *stub {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln = wrap(ln)
	s := &stub{t: t, ln: ln, conns: map[net.Conn]bool{}}
	s.wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns[conn] = true
			s.mu.Unlock()
			s.accepted.Add(1)
			s.wg.Go(func() { s.run(conn, hook) })
		}
	})
	t.Cleanup(s.stop)
	return s
}

func (s *stub) run(conn net.Conn, hook func(p *peer, c call) bool) {
	p := &peer{Conn: conn, r: bufio.NewReader(conn)}
	if _, err := io.ReadFull(p.r, make([]byte, 8)); err != nil {
		return
	}
	for c, err := header, error(nil); err == nil; c, err = p.next() {
		if hook != nil && hook(p, c) {
			continue
		}
		if a := slices.Clone(answers[c]); a != nil {
			binary.BigEndian.PutUint16(a[1:], p.channel)
			p.Write(a)
		}
	}
}

// stop refuses new connections and drops those there are.
func (s *stub) stop() {
	s.ln.Close()
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func (s *stub) url() string { return "amqp://" + secretUser + "@" + s.ln.Addr().String() }

const (
	secret     = "pa55word"
	secretUser = "alice:" + secret
	timeout    = 15 * time.Second // of checks that are answered: a busy machine takes its time
)

// noLeaks fails the test when it leaves goroutines behind. Call it first.
func noLeaks(t *testing.T) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for end := time.Now().Add(timeout); runtime.NumGoroutine() > before; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				stacks := make([]byte, 1<<20)
				t.Fatalf("%d goroutines before, %d after:\n%s", before, runtime.NumGoroutine(), stacks[:runtime.Stack(stacks, true)])
			}
		}
	})
}

func checker(t *testing.T, opts Options) *Checker {
	t.Helper()
	if opts.Timeout == 0 {
		opts.Timeout = timeout
	}
	c, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// look checks once, and what holds for every result.
func look(t *testing.T, c *Checker) Result {
	t.Helper()
	return lookWithin(t, c, time.Second)
}

// lookWithin is look that takes no longer than so much more than the check's timeout.
func lookWithin(t *testing.T, c *Checker, more time.Duration) Result {
	t.Helper()
	start, waited := time.Now(), starved()
	r := c.Check(t.Context())
	// Giving up a peer that talks nonsense takes two waits more.
	if took := time.Since(start) - (starved() - waited); took > c.timeout+more {
		t.Errorf("check took %s with a timeout of %s", took, c.timeout)
	}
	if r.Reason == "" || strings.ContainsAny(r.Reason, "\r\n") || strings.Contains(r.Reason, secret) {
		t.Errorf("reason is not one line without the password: %q", r.Reason)
	}
	return r
}

// starved is for how long this process's threads have waited for a CPU: time that a
// busy machine takes is no fault of what is measured.
func starved() (d time.Duration) {
	files, _ := filepath.Glob("/proc/self/task/*/schedstat")
	for _, f := range files {
		var ran, waited time.Duration
		b, _ := os.ReadFile(f)
		fmt.Sscan(string(b), &ran, &waited)
		d += waited
	}
	return d
}

func want(t *testing.T, r Result, state State, words ...string) {
	t.Helper()
	if r.State != state {
		t.Errorf("got %s, want %s: %s", r.State, state, r.Reason)
	}
	for _, w := range words {
		if !strings.Contains(r.Reason, w) {
			t.Errorf("reason %q does not say %q", r.Reason, w)
		}
	}
}

// told waits for the next word from Closed, less than heartbeats need to tell that a
// peer is gone.
func told(t *testing.T, c *Checker) Reason {
	t.Helper()
	return next(t, c.Closed(), heartbeat)
}

// next receives, or fails the test.
func next[T any](t *testing.T, from <-chan T, within time.Duration) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(within):
		t.Fatalf("nothing within %s", within)
		panic("unreachable")
	}
}
