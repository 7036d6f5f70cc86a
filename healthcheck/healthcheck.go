// Package healthcheck asks whether a RabbitMQ node is fit to serve: over AMQP,
// as its clients do, and then what the management port can add.
//
// A [Checker] keeps one connection. Every [Checker.Check] opens a channel on it,
// publishes into a transaction that it rolls back, and closes the channel:
//
//   - RabbitMQ tells connection.blocked only to connections that publish, so a
//     check that never published would not learn of an alarm;
//   - a message that is rolled back goes nowhere, and is not counted among the
//     unroutable ones that people alert on.
//
// While the connection is blocked the server reads nothing, so the check sends
// nothing: the node is alive, and the alarm is its warning. Heartbeats tell when
// a blocked node is gone.
//
// No reason or error given by this package holds a password.
package healthcheck

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Name is the name of the connection in RabbitMQ's own lists.
const Name = "rmq-entrypoint health check"

const (
	defaultURL     = "amqp://127.0.0.1:5672"
	defaultTimeout = 3 * time.Second
)

// A State is the health of a node, in Consul's words. Nothing known is Critical.
type State int

const (
	Critical State = iota
	Warning
	Passing
)

func (s State) String() string {
	return [...]string{Critical: "critical", Warning: "warning", Passing: "passing"}[s]
}

// A Result is what one check saw.
type Result struct {
	State    State
	Reason   string // one line for people, never empty
	Alarm    string // RabbitMQ's word for the alarm that blocks publishers, as "low on memory"
	Stopping bool   // the server said that it shuts down, and has not answered since
	Draining bool   // the server said that it goes into maintenance, and nobody that it is back since
	Listens  bool   // somebody takes connections while it drains, and was told nothing
	Refused  bool   // the login was: its user, its password, or its virtual host
	Missed   bool   // the last check failed, and State is what the one before it saw: by [Steady]
	Unknown  bool   // nothing was seen: this process, or this host, has no file descriptor left
}

// A Reason tells why the connection of the check ended.
type Reason struct {
	Code     int    // AMQP reply code, 0 when the connection broke without a word
	Text     string // one line
	Stopping bool   // the server shuts down: stopped, stop_app, or paused in a minority
	Draining bool   // the node was put into maintenance mode
}

// Options says whom to check.
type Options struct {
	// URLs are AMQP or AMQPS URLs of one node, tried in order until one answers.
	// Credentials default to guest:guest. Default: amqp://127.0.0.1:5672.
	//
	// An AMQPS URL names its certificates (cacertfile, certfile, keyfile,
	// server_name_indication). A node's certificate does not name 127.0.0.1: on an
	// address of this host's own, unless a server name is given, only the chain is
	// verified, and without a CA nothing is, as nothing but this host can answer there.
	URLs []string

	Timeout time.Duration // bound of one Check and of Close; default 3 s
	Log     *slog.Logger  // connections made and lost, at debug level; may be nil
}

// A Checker checks one node over a connection that it keeps. Its methods may be
// called from several goroutines; checks take turns.
type Checker struct {
	timeout time.Duration
	log     *slog.Logger
	life    context.Context // ends at Close
	end     context.CancelFunc
	closed  chan Reason

	mu sync.Mutex
	ways
	conn  *session // nil when there is none
	last  Reason   // why the last connection ended, until another one answers
	ended bool
}

// New prepares a Checker and connects nowhere. Its errors are about the options.
func New(opts Options) (*Checker, error) {
	c := &Checker{timeout: opts.Timeout, log: opts.Log, closed: make(chan Reason, 8), ways: ways{entered: map[string]bool{}, now: time.Now}}
	if c.timeout <= 0 {
		c.timeout = defaultTimeout
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.urls = opts.URLs
	if len(c.urls) == 0 {
		c.urls = []string{defaultURL}
	}
	var err error
	if c.targets, err = parseAll(c.urls); err != nil {
		return nil, err
	}
	c.life, c.end = context.WithCancel(context.Background())
	return c, nil
}

// Move has the checks from now on go to urls, as [Options] has them, in place of those before,
// and tells at which ports of this host RabbitMQ says that it listens. A connection to what is
// not among the URLs is closed. On an error nothing has changed.
func (c *Checker) Move(urls []string, ports map[int]Port) error {
	targets, err := parseAll(urls)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !maps.Equal(c.ports, ports) {
		c.ports, c.pauses = maps.Clone(ports), Pauses{}
	}
	if c.ended || len(urls) == 0 || slices.Equal(urls, c.urls) {
		return nil
	}
	c.pauses = Pauses{}
	if c.conn != nil && !slices.Contains(urls, c.conn.url) {
		c.conn.goodbye(c.timeout)
		c.conn = nil
	}
	c.urls, c.targets = slices.Clone(urls), targets
	return nil
}

// Check asks the node once, connecting first where there is no connection. It
// returns within the timeout, or when ctx is done.
//
//   - Passing: a channel was opened, used and closed.
//   - Warning: alive, but publishers are blocked by an alarm (Alarm), or the check does
//     not get in: these credentials are refused, its TLS is refused, or RabbitMQ says
//     that it listens there, and the handshake came to nothing, or that it listens
//     elsewhere, where something takes connections. The check tries again
//     after a pause, of 5 s at first and of a minute in the end, or when [Checker.Ready] or
//     [Checker.Move] give a reason to. In between it only looks whether somebody listens.
//   - Critical: no answer, or an answer that is not a running node's. TLS or a
//     handshake that fails where a check got in since [Checker.Ready] is critical, too:
//     clients do not get in either. A check that hears from the server that it stops does
//     not log in anew: who listens then may be anybody. One that hears that it drains only
//     looks whether somebody listens (Listens), until [Checker.Resumed] or [Checker.Ready].
//   - Critical, and Unknown: no connection could be made for want of a file descriptor.
func (c *Checker) Check(ctx context.Context) Result {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	defer context.AfterFunc(c.life, cancel)()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return Result{Reason: "the health check is closed"}
	}
	// A kept connection may have been lost since the last check, and that alone
	// says nothing about the node: look again on a new one. A new one that is
	// lost is an answer.
	for fresh := false; ; {
		if c.conn == nil {
			if c.last.Draining {
				return c.drained(ctx)
			}
			if r, wait := c.paused(ctx); wait {
				return r
			}
			s, r := c.dial(ctx)
			if c.tried(ctx, r); s == nil {
				return r
			}
			c.conn, c.last, fresh = s, Reason{}, true
		}
		r, alive := c.conn.check(ctx)
		if alive {
			return r
		}
		if why := c.conn.close(); why != (Reason{}) {
			c.last = why
		}
		c.conn = nil
		if fresh || c.last.Stopping || ctx.Err() != nil { // who listens after a server that stopped may be anybody
			return c.critical(r.Reason)
		}
	}
}

// Listens reports whether something takes connections at one of the URLs, and tells it nothing,
// as long as that may be anybody: Passing, or Critical. A connection that is kept stays.
func (c *Checker) Listens(ctx context.Context) Result {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	defer context.AfterFunc(c.life, cancel)()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop()
	return c.listens(ctx)
}

// listens looks whether something takes connections at one of the URLs.
func (c *Checker) listens(ctx context.Context) Result {
	var failed []string
	for i, t := range c.targets {
		deadline, _ := ctx.Deadline()
		share := net.Dialer{Timeout: time.Until(deadline) / time.Duration(len(c.targets)-i)}
		conn, err := share.DialContext(ctx, "tcp", t.addr)
		if err == nil {
			conn.Close()
			return Result{State: Passing, Reason: line(t.label + " listens")}
		}
		failed = append(failed, t.label+": "+text(err))
		if exhausted(err) {
			return Result{Unknown: true, Reason: line(strings.Join(failed, "; "))}
		}
	}
	return c.critical(strings.Join(failed, "; "))
}

// drained is the word on a server that went into maintenance and closed its port, which anybody
// may have by now.
func (c *Checker) drained(ctx context.Context) Result {
	r := c.listens(ctx)
	if r.State != Passing {
		return r
	}
	r = c.critical(r.Reason + ", and is told nothing until RabbitMQ says that it is back")
	r.Listens = true
	return r
}

// drop gives up a connection that has ended, and remembers why.
func (c *Checker) drop() {
	if c.conn == nil {
		return
	}
	select {
	case <-c.conn.gone:
		if why := c.conn.close(); why != (Reason{}) {
			c.last = why
		}
		c.conn = nil
	default:
	}
}

// Ready tells that RabbitMQ has begun to serve: it may let in whom it did not before.
func (c *Checker) Ready() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop()
	clear(c.entered)
	c.last, c.pauses = Reason{}, Pauses{}
}

// Resumed tells that RabbitMQ says that it takes connections again: it was in maintenance mode.
func (c *Checker) Resumed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop()
	c.last.Draining = false
}

// Closed delivers why connections ended, the moment they do: how a node that
// stops or drains is noticed between checks. What Check itself gives up is not
// delivered, nor what nobody received while eight newer ones came. It is closed
// by Close.
func (c *Checker) Closed() <-chan Reason { return c.closed }

// Close ends a check that runs, says goodbye to the server, and waits for every
// goroutine of the Checker, no longer than the timeout.
func (c *Checker) Close() {
	c.end()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	c.ended = true
	if c.conn != nil {
		c.conn.goodbye(c.timeout)
		c.conn = nil
	}
	close(c.closed)
}

// paused gives the word of the last login that was refused, while it is not to be tried again
// and somebody listens. RabbitMQ logs nothing of a connection on which nothing was sent.
func (c *Checker) paused(ctx context.Context) (_ Result, wait bool) {
	if c.pauses.Over(c.now()) || len(c.ports) > 0 && c.knock(ctx) == "" {
		return Result{}, false
	}
	for _, t := range c.targets {
		if conn, err := new(net.Dialer).DialContext(ctx, "tcp", t.addr); err == nil {
			conn.Close()
			return c.refused, true
		}
	}
	return Result{}, false
}

// tried notes what a login came to.
func (c *Checker) tried(ctx context.Context, r Result) {
	switch {
	case r.State == Warning:
		c.pauses.Refused(c.now())
		c.refused = r
	case ctx.Err() == nil && !r.Unknown: // not one that was cut short, or never was
		c.pauses = Pauses{}
	}
}

// dial tries the targets in order, each with its share of the time that is left.
func (c *Checker) dial(ctx context.Context) (*session, Result) {
	c.reread()
	var failed []string
	shut := ""
	for i, t := range c.targets {
		port, listed := c.ports[t.uri.Port]
		listed = listed && here(t.uri.Host)
		t.proxy = listed && port.Proxy
		deadline, _ := ctx.Deadline()
		share := time.Until(deadline) / time.Duration(len(c.targets)-i)
		s, err := connect(ctx, t, share, c.push)
		if err == nil {
			c.log.Debug("health check connected", "address", t.label)
			c.entered[t.url] = true
			return s, Result{}
		}
		var word *amqp.Error
		switch {
		case exhausted(err) && !c.last.Stopping && !c.last.Draining:
			return nil, Result{Unknown: true, Reason: line(t.label + ": " + text(err))}
		case errors.Is(err, amqp.ErrSASL), errors.As(err, &word) && word.Server && word.Code == amqp.AccessRefused:
			return nil, Result{State: Warning, Refused: true, Reason: line(fmt.Sprintf(
				"%s: login refused for user %q, so the node is alive and not checked further: set RABBITMQ_DEFAULT_USER and RABBITMQ_DEFAULT_PASS, or RMQ_AMQP_URL: %s",
				t.label, t.uri.Username, text(err)))}
		case word != nil && word.Server && word.Code == amqp.NotAllowed:
			return nil, Result{State: Warning, Refused: true, Reason: line(fmt.Sprintf("%s: %s: %s", t.label, notAllowed(t, word.Reason), text(err)))}
		case word != nil && word.Server:
			if r := reasonOf(word); r.Stopping || r.Draining {
				c.last = r
			}
		}
		failed = append(failed, t.label+": "+text(err))
		if shut == "" && !c.entered[t.url] {
			if shut = shutOut(t, port, listed, err); shut == "" && !listed && len(c.ports) > 0 {
				shut = c.astray(ctx, t, err)
			}
		}
	}
	if shut != "" && c.last == (Reason{}) {
		return nil, Result{State: Warning, Reason: line(shut)}
	}
	return nil, c.critical(strings.Join(failed, "; "))
}

func (c *Checker) critical(reason string) Result {
	switch {
	case c.last.Draining:
		reason = "in maintenance mode: " + reason
	case c.last.Stopping:
		reason = "the node has shut down: " + reason
	}
	return Result{Reason: line(reason), Stopping: c.last.Stopping, Draining: c.last.Draining}
}

// push delivers r to Closed. A session pushes once, and ends before the next one
// begins, so nobody else fills the place made here.
func (c *Checker) push(r Reason) {
	c.log.Debug("health check lost its connection", "reason", r.Text)
	if len(c.closed) == cap(c.closed) {
		select {
		case <-c.closed:
		default:
		}
	}
	c.closed <- r
}

// exhausted reports whether an error says that there is no file descriptor left.
func exhausted(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// line makes s fit for one line, and for a terminal: servers and systems word parts of it.
func line(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.Join(strings.Fields(s), " "))
	if len(s) > 500 {
		s = strings.ToValidUTF8(s[:500], "") + "…"
	}
	return s
}
