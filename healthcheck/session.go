package healthcheck

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// heartbeat is the interval agreed with the server. The client reads for one and
// a half of it before it gives the connection up, which is how a blocked node
// that died is noticed.
const heartbeat = 5 * time.Second

// A Login is an authentication that also asks the server to say why it refuses:
// without this capability RabbitMQ keeps silent for three seconds and hangs up,
// and amqp091-go offers no other place to add it. Properties are those of the
// connection's amqp.Config.
type Login struct {
	amqp.Authentication
	Properties amqp.Table
}

func (l Login) Response() string {
	if caps, ok := l.Properties["capabilities"].(amqp.Table); ok {
		caps["authentication_failure_close"] = true
	}
	return l.Authentication.Response()
}

// A listener loses no word of the server to a failed write: the client gives a
// connection up as soon as it cannot write, while the server's reason may be on
// its way. A node that stops sends it and resets the connection, and so a quarter
// of the reasons were lost (measured on 4.0). The reader sees the end soon enough.
type listener struct {
	net.Conn
	met *met
}

// met is what came over a connection.
type met struct {
	broken atomic.Pointer[error] // why nothing more could be read
	spoke  atomic.Bool           // something was
}

// Read keeps the error: the client says of some that its connection is not open.
func (l listener) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if err != nil {
		l.met.broken.CompareAndSwap(nil, &err)
	}
	if n > 0 {
		l.met.spoke.Store(true)
	}
	return n, err
}

func (l listener) Write(p []byte) (int, error) {
	_, _ = l.Conn.Write(p)
	return len(p), nil
}

// A session is one connection and what the server said on it.
type session struct {
	url   string
	label string
	raw   net.Conn
	amqp  *amqp.Connection

	answer chan error // of a probe that has not been answered yet, or nil
	mute   bool       // publishing is not permitted: probes open a channel only

	mu      sync.Mutex
	alarm   string        // why the server blocks this connection, or ""
	changed chan struct{} // holds one token when alarm has changed

	gaveUp atomic.Bool   // this end closed it
	gone   chan struct{} // closed once the connection is; then reason may be read
	reason Reason        // zero when this end closed it
}

// connect opens a connection within share and within ctx, whatever the peer does.
func connect(ctx context.Context, t target, share time.Duration, push func(Reason)) (_ *session, err error) {
	ctx, cancel := context.WithTimeout(ctx, share)
	defer cancel()
	var conn *amqp.Connection
	var met met
	raw, err := dialOwn(ctx, "tcp", t.addr)
	if err != nil {
		return nil, within(ctx, share, err)
	}
	// Not a deadline: the client moves deadlines as soon as heartbeats are agreed on.
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer func() {
		if err == nil {
			return
		}
		raw.Close()
		if conn != nil { // ends a reader that waits to hand over a frame nobody asked for
			_ = conn.CloseDeadline(time.Now())
		}
		silent := ctx.Err() != nil || timedOut(err)
		if silent {
			err = within(ctx, share, err)
		}
		if !silent || met.spoke.Load() && errors.As(err, new(lateError)) {
			err = &metError{err}
		}
	}()

	stream := raw
	if t.proxy {
		if _, err := io.WriteString(raw, proxyHeader(raw)); err != nil {
			return nil, err
		}
	}
	if t.tls != nil {
		client := tls.Client(raw, t.tls)
		if err := client.HandshakeContext(ctx); err != nil {
			return nil, fmt.Errorf("TLS handshake: %w", err)
		}
		stream = client
	}
	conf := amqp.Config{
		Vhost:      t.uri.Vhost,
		Heartbeat:  heartbeat,
		Locale:     "en_US",
		Properties: amqp.NewConnectionProperties(),
	}
	conf.Properties.SetClientConnectionName(Name)
	for _, s := range t.sasl {
		conf.SASL = append(conf.SASL, Login{s, conf.Properties})
	}
	if conn, err = amqp.Open(listener{stream, &met}, conf); err != nil {
		if why := met.broken.Load(); why != nil && alerted(*why) {
			return nil, *why
		}
		return nil, handshakeError(err)
	}
	if !stop() { // closed under our hands
		return nil, context.Cause(ctx)
	}
	s := &session{url: t.url, label: t.label, raw: raw, amqp: conn, changed: make(chan struct{}, 1), gone: make(chan struct{})}
	blocks := conn.NotifyBlocked(make(chan amqp.Blocking, 8))
	closes := conn.NotifyClose(make(chan *amqp.Error, 1))
	go s.watch(blocks, closes, push)
	return s, nil
}

// handshakeError undoes the client's guess that a connection that breaks before
// it is tuned, or opened, means wrong credentials.
func handshakeError(err error) error {
	if errors.Is(err, amqp.ErrCredentials) || errors.Is(err, amqp.ErrVhost) {
		return errors.New("connection lost during the AMQP handshake")
	}
	return err
}

// within says that time was up rather than what that did to the connection.
func within(ctx context.Context, d time.Duration, err error) error {
	switch {
	case ctx.Err() == context.Canceled:
		return context.Canceled
	case ctx.Err() != nil, timedOut(err):
		return lateError(d)
	}
	return err
}

// A lateError is how long nothing came.
type lateError time.Duration

func (e lateError) Error() string {
	return fmt.Sprintf("no answer within %s", time.Duration(e).Round(10*time.Millisecond))
}

// alerted reports whether err is the peer's word, by TLS, that it goes no further.
func alerted(err error) bool {
	var word *net.OpError
	return errors.As(err, &word) && word.Op == "remote error"
}

func timedOut(err error) bool {
	var word net.Error
	return errors.As(err, &word) && word.Timeout()
}

// A metError is of a connection that somebody took, and did not keep silent on.
type metError struct{ error }

func (e *metError) Unwrap() error { return e.error }

// proxyHeader tells a listener that wants to hear of it by the PROXY protocol whose conn is:
// ours.
func proxyHeader(conn net.Conn) string {
	from, to := conn.LocalAddr().(*net.TCPAddr), conn.RemoteAddr().(*net.TCPAddr)
	family := "TCP6"
	if from.IP.To4() != nil {
		family = "TCP4"
	}
	return fmt.Sprintf("PROXY %s %s %s %d %d\r\n", family, from.IP, to.IP, from.Port, to.Port)
}

// watch notes what the server says by itself, until the connection is closed.
func (s *session) watch(blocks <-chan amqp.Blocking, closes <-chan *amqp.Error, push func(Reason)) {
	defer close(s.gone)
	for {
		select {
		case b, ok := <-blocks:
			if !ok {
				blocks = nil
				continue
			}
			s.mu.Lock()
			s.alarm = ""
			if b.Active {
				if s.alarm = line(b.Reason); s.alarm == "" {
					s.alarm = "resource alarm"
				}
			}
			s.mu.Unlock()
			select {
			case s.changed <- struct{}{}:
			default:
			}
		case err := <-closes: // nil when this end closed it
			if err != nil && !s.gaveUp.Load() {
				s.reason = reasonOf(err)
				push(s.reason)
			}
			return
		}
	}
}

func (s *session) blocked() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.alarm
}

// check proves that the server answers on this connection. It returns false when
// the connection is lost, or of no more use.
func (s *session) check(ctx context.Context) (_ Result, alive bool) {
	start := time.Now()
	// A probe that an alarm kept from being answered comes first.
	for waiting := s.answer != nil; ; waiting = false {
		if s.answer == nil {
			answer := make(chan error, 1)
			go func() { answer <- s.probe() }()
			s.answer = answer
		}
		for pending := true; pending; {
			select {
			case <-s.gone: // an alarm outlives its connection
				return Result{Reason: s.label + ": " + s.lost()}, false
			default:
			}
			if alarm := s.blocked(); alarm != "" {
				return Result{State: Warning, Alarm: alarm,
					Reason: line(s.label + " answers, but an alarm blocks publishers: " + alarm)}, true
			}
			select {
			case err := <-s.answer:
				s.answer, pending = nil, false
				if r, alive := s.judge(err); !alive || !waiting {
					return r, alive
				}
			case <-s.changed:
			case <-s.gone:
			case <-ctx.Done():
				reason := fmt.Sprintf("no answer within %s", time.Since(start).Round(10*time.Millisecond))
				if ctx.Err() == context.Canceled {
					reason = "check cancelled"
				}
				return Result{Reason: s.label + ": " + reason}, false
			}
		}
	}
}

// judge turns what a probe returned into a result.
func (s *session) judge(err error) (_ Result, alive bool) {
	passing := Result{State: Passing, Reason: s.label + " answers"}
	var word *amqp.Error
	switch {
	case err == nil:
		return passing, true
	case s.amqp.IsClosed():
		<-s.gone // the client tells the watcher before it tells anybody else that it is closed for good
		return Result{Reason: s.label + ": " + s.lost()}, false
	case errors.As(err, &word) && word.Server && word.Code == amqp.AccessRefused:
		// The user may not publish to the default exchange. Asking again would write
		// an error to the server's log at every check.
		s.mute = true
		return passing, true
	case errors.As(err, &word) && word.Server:
		return Result{State: Warning, Reason: line(s.label + ": channel refused: " + text(err))}, true
	default:
		return Result{Reason: line(s.label + ": unexpected answer: " + text(err))}, false
	}
}

// probe opens a channel, publishes a message that is rolled back, and closes it.
func (s *session) probe() error {
	ch, err := s.amqp.Channel()
	if err != nil {
		return err
	}
	words := ch.NotifyClose(make(chan *amqp.Error, 1))
	if !s.mute {
		if err := errors.Join(
			ch.Tx(),
			ch.Publish("", Name, false, false, amqp.Publishing{}),
			ch.TxRollback(),
		); err != nil {
			if ch.IsClosed() { // calls after that do not say why
				if word := <-words; word != nil {
					return word
				}
			}
			return err
		}
	}
	return ch.Close()
}

// lost words why the connection is gone. Only after gone is closed.
func (s *session) lost() string {
	if s.reason.Text == "" {
		return "connection closed"
	}
	return s.reason.Text
}

// close gives the connection up, waits for the goroutines on it, and returns why
// it ended.
func (s *session) close() Reason {
	s.gaveUp.Store(true)
	s.raw.Close()
	if !s.wait() {
		// The client's reader is stuck on a frame nobody asked for. Only then, as
		// shutting down beside a working reader can panic in the client.
		_ = s.amqp.CloseDeadline(time.Now())
		if !s.wait() {
			return Reason{}
		}
	}
	if s.answer != nil {
		<-s.answer
		s.answer = nil
	}
	return s.reason
}

// wait reports whether the connection is gone, which it is at once but for a
// peer that talks nonsense.
func (s *session) wait() bool {
	select {
	case <-s.gone:
		return true
	case <-time.After(200 * time.Millisecond):
		return false
	}
}

// goodbye closes the connection as AMQP asks for, as far as the server listens.
func (s *session) goodbye(timeout time.Duration) {
	s.gaveUp.Store(true)
	if s.answer == nil {
		defer time.AfterFunc(timeout, func() { s.raw.Close() }).Stop()
		_ = s.amqp.Close()
	}
	s.close()
}

// reasonOf reads the server's words. They are the same from 3.8 to 4.3: 320 with
// "… reason 'shutdown'", and "Node was put into maintenance mode".
func reasonOf(err *amqp.Error) Reason {
	if !err.Server {
		return Reason{Text: line("connection lost: " + text(err))}
	}
	return Reason{
		Code:     err.Code,
		Text:     line("closed by the server: " + text(err)),
		Stopping: err.Code == amqp.ConnectionForced && strings.Contains(err.Reason, "reason 'shutdown'"),
		Draining: err.Code == amqp.ConnectionForced && strings.Contains(err.Reason, "put into maintenance mode"),
	}
}

// text is the innermost cause, in the server's words where they are its.
func text(err error) string {
	var word *amqp.Error
	var op *net.OpError
	switch {
	case errors.As(err, &word) && word.Server:
		return fmt.Sprintf("%d %s", word.Code, word.Reason)
	case word != nil && word.Reason != io.EOF.Error():
		return word.Reason
	case word != nil:
		return "connection closed"
	case errors.As(err, &op):
		return op.Err.Error()
	case errors.Is(err, io.EOF):
		return "connection closed"
	}
	return err.Error()
}
