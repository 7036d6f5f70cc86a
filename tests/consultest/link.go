package consultest

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A Link is a TCP proxy on a loopback address of its own. It starts passing everything on; its methods change that,
// for connections that are open as well as for new ones. HTTP requests can be answered, or robbed of their answer,
// one by one.
type Link struct {
	Addr string // where to connect instead of the target

	t      testing.TB
	target string
	web    chan net.Conn // connections that speak HTTP
	closed chan struct{}

	mu       sync.Mutex
	mode     mode
	delay    time.Duration
	listener net.Listener // nil while refusing
	conns    map[*conn]struct{}
	rules    []*Rule
	seen     []*http.Request
	wg       sync.WaitGroup
}

type mode int

const (
	passing mode = iota
	refusing
	blackholed
)

// Proxy starts a Link to target (host:port) that lives as long as t.
func Proxy(t testing.TB, target string) *Link {
	t.Helper()
	_, port, err := net.SplitHostPort(target)
	if err != nil {
		t.Fatal(err)
	}
	n, err := net.LookupPort("tcp", port)
	if err != nil {
		t.Fatal(err)
	}
	l := &Link{
		Addr: net.JoinHostPort(loopback(t, n), port), t: t, target: target,
		web: make(chan net.Conn), closed: make(chan struct{}), conns: map[*conn]struct{}{},
	}
	forward := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: target})
	forward.Transport = &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	forward.ErrorLog = log.New(io.Discard, "", 0)
	forward.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	server := &http.Server{Handler: l.handler(forward), ErrorLog: log.New(io.Discard, "", 0)}
	l.wg.Go(func() { _ = server.Serve(webListener{l}) })
	l.Pass()
	t.Cleanup(func() {
		l.Refuse()
		close(l.closed)
		_ = server.Close()
		l.wg.Wait()
	})
	return l
}

// Pass lets everything through again. Connections that a black hole had swallowed are cut.
func (l *Link) Pass() { l.change(passing, 0) }

// Delay holds every piece of data on its way to the target back for d, which for an HTTP request means d per request.
func (l *Link) Delay(d time.Duration) { l.change(passing, d) }

// Refuse cuts all connections and refuses new ones.
func (l *Link) Refuse() { l.change(refusing, 0) }

// Blackhole accepts connections and takes their data, and neither forwards nor answers anything, on open ones neither.
func (l *Link) Blackhole() { l.change(blackholed, 0) }

func (l *Link) change(m mode, delay time.Duration) {
	l.t.Helper()
	var doomed []*conn
	l.mu.Lock()
	if m == refusing || l.mode == blackholed && m != blackholed {
		doomed = slices.Collect(maps.Keys(l.conns))
	}
	l.mode, l.delay = m, delay
	var err error
	switch {
	case m == refusing && l.listener != nil:
		_ = l.listener.Close()
		l.listener = nil
	case m != refusing && l.listener == nil:
		var listener net.Listener
		if listener, err = listen(l.Addr); err == nil {
			l.listener = listener
			l.wg.Go(func() { l.accept(listener) })
		}
	}
	l.mu.Unlock()
	for _, c := range doomed {
		c.cut()
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

// listen waits for an address that was closed a moment ago: a process that is being forked keeps it until its exec.
func listen(addr string) (listener net.Listener, err error) {
	for end := time.Now().Add(2 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		listener, err = net.Listen("tcp", addr)
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(end) {
			return listener, err
		}
	}
}

func (l *Link) accept(listener net.Listener) {
	for {
		tcp, err := listener.Accept()
		if err != nil {
			return
		}
		c := &conn{Conn: tcp, link: l, gone: make(chan struct{})}
		c.r = bufio.NewReader(gate{c})
		l.mu.Lock()
		if l.listener != listener {
			l.mu.Unlock()
			c.cut()
			return
		}
		l.conns[c] = struct{}{}
		l.mu.Unlock()
		l.wg.Go(func() { l.serve(c) })
	}
}

// serve hands HTTP to the web server, which closes c, and copies anything else.
func (l *Link) serve(c *conn) {
	head, err := c.r.Peek(4)
	if err != nil {
		c.cut()
		return
	}
	if slices.Contains([]string{"GET ", "PUT ", "POST", "DELE", "HEAD"}, string(head)) {
		select {
		case l.web <- c:
		case <-l.closed:
			c.cut()
		}
		return
	}
	defer c.Close()
	out, err := net.Dial("tcp", l.target)
	if err != nil {
		return
	}
	l.wg.Go(func() { _, _ = io.Copy(c, out); _ = c.Close() })
	_, _ = io.Copy(out, c)
	_ = out.Close()
}

// A conn is a client's connection; what it reads and writes passes the link's faults.
type conn struct {
	net.Conn
	link *Link
	r    *bufio.Reader // holds what was peeked at
	once sync.Once
	gone chan struct{}
}

// A gate is a conn's raw side, below the buffer.
type gate struct{ c *conn }

func (g gate) Read(p []byte) (int, error) {
	n, err := g.c.Conn.Read(p)
	if err != nil {
		return n, err
	}
	if err := g.c.wait(true); err != nil {
		return 0, err // swallowed
	}
	return n, nil
}

func (c *conn) Read(p []byte) (int, error) { return c.r.Read(p) }

func (c *conn) Write(p []byte) (int, error) {
	if err := c.wait(false); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// Close closes c in good order, so that what was written arrives.
func (c *conn) Close() error {
	c.once.Do(func() { close(c.gone) })
	c.link.mu.Lock()
	delete(c.link.conns, c)
	c.link.mu.Unlock()
	return c.Conn.Close()
}

// cut resets c: nothing may sit in a buffer and arrive all the same.
func (c *conn) cut() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

// wait applies the link's mode to a piece of data.
func (c *conn) wait(toTarget bool) error {
	c.link.mu.Lock()
	m, delay := c.link.mode, c.link.delay
	c.link.mu.Unlock()
	switch {
	case m == blackholed:
		<-c.gone
	case toTarget && delay > 0:
		select {
		case <-c.gone:
		case <-time.After(delay):
		}
	}
	select {
	case <-c.gone:
		return net.ErrClosed
	default:
		return nil
	}
}

// A webListener hands the link's HTTP connections to its web server.
type webListener struct{ link *Link }

func (w webListener) Accept() (net.Conn, error) {
	select {
	case c := <-w.link.web:
		return c, nil
	case <-w.link.closed:
		return nil, net.ErrClosed
	}
}

func (w webListener) Close() error   { return nil }
func (w webListener) Addr() net.Addr { return &net.TCPAddr{} }

// A Match picks HTTP requests, by method and URL.
type Match func(*http.Request) bool

// Request matches a method and the beginning of a path, as in Request("PUT", "/v1/session/create").
func Request(method, path string) Match {
	return func(r *http.Request) bool { return r.Method == method && strings.HasPrefix(r.URL.Path, path) }
}

// A Rule spoils a number of HTTP requests.
type Rule struct {
	match  Match
	status int // to answer with; 0: forward the request and lose the answer
	body   string
	left   int
	done   chan struct{}
}

// Done is closed once the rule has spoilt all it was made for.
func (r *Rule) Done() <-chan struct{} { return r.done }

// Answer answers the next n requests that match by itself, without the target hearing of them.
func (l *Link) Answer(n, status int, body string, match Match) *Rule {
	return l.add(&Rule{match: match, status: status, body: body, left: n, done: make(chan struct{})})
}

// LoseAnswer lets the target carry out the next n requests that match, and cuts the connection instead of answering.
func (l *Link) LoseAnswer(n int, match Match) *Rule {
	return l.add(&Rule{match: match, left: n, done: make(chan struct{})})
}

// Count returns how many HTTP requests that match have come in so far.
func (l *Link) Count(match Match) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, r := range l.seen {
		if match(r) {
			n++
		}
	}
	return n
}

func (l *Link) add(r *Rule) *Rule {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rules = append(l.rules, r)
	return r
}

func (l *Link) handler(forward *httputil.ReverseProxy) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rule, last := l.rule(r)
		if last {
			defer close(rule.done)
		}
		switch {
		case rule == nil:
			forward.ServeHTTP(w, r)
		case rule.status != 0:
			http.Error(w, rule.body, rule.status)
		default:
			forward.ServeHTTP(httptest.NewRecorder(), r.WithContext(context.WithoutCancel(r.Context())))
			panic(http.ErrAbortHandler)
		}
	})
}

// rule takes note of a request and returns the rule that applies to it, and whether that is its last time.
func (l *Link) rule(r *http.Request) (rule *Rule, last bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen = append(l.seen, &http.Request{Method: r.Method, URL: r.URL})
	for _, rule := range l.rules {
		if rule.left > 0 && rule.match(r) {
			rule.left--
			return rule, rule.left == 0
		}
	}
	return nil, false
}
