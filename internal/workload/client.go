// Package workload is a producer and a consumer of counted messages, and the comparison of
// what the two wrote down.
package workload

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/spf13/pflag"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/internal/config"
)

// Options are the settings of produce, consume and compare.
type Options struct {
	Brokers   []string // URLs with credentials
	Queue     string
	QueueType string
	GiveUp    time.Duration
	Ledger    string
	Count     uint64
	Rate      float64
	Duration  time.Duration
	Settle    time.Duration
	Prefetch  int
	Idle      time.Duration
	MaxGap    time.Duration

	load bool // a flag asked for numbered messages
}

// Setting is a setting of the commands that of names.
type Setting struct {
	Of string // comma-separated
	config.Setting
}

// Settings binds every setting of the clients to o, in the order of --help
// and of the table in docs/settings.md.
func Settings(o *Options) []Setting {
	fs := pflag.NewFlagSet("values", pflag.ContinueOnError)
	fs.StringSliceVar(&o.Brokers, "brokers", []string{"127.0.0.1:5672"}, "")
	fs.StringVar(&o.Queue, "queue", "my-queue", "")
	fs.StringVar(&o.QueueType, "queue-type", "", "")
	fs.DurationVar(&o.GiveUp, "give-up", time.Minute, "")
	fs.StringVar(&o.Ledger, "ledger", "", "")
	fs.Uint64Var(&o.Count, "count", 0, "")
	fs.Float64Var(&o.Rate, "rate", 100, "")
	fs.DurationVar(&o.Duration, "duration", 0, "")
	fs.DurationVar(&o.Settle, "settle", 30*time.Second, "")
	fs.IntVar(&o.Prefetch, "prefetch", 1, "")
	fs.DurationVar(&o.Idle, "idle", 0, "")
	fs.DurationVar(&o.MaxGap, "max-gap", 0, "")
	row := func(of, flag, env, help, def string) Setting {
		s := Setting{of, config.Setting{Flag: flag, Value: fs.Lookup(flag).Value, Help: help, Def: def}}
		if env != "" {
			s.Env = []string{env}
		}
		return s
	}
	const both = "produce, consume"
	return []Setting{
		row(both, "brokers", "RMQ_BROKERS", "brokers or balancers, comma-separated, tried in turn: host[:port] or a URL", "127.0.0.1:5672"),
		row(both, "queue", "", "durable queue; declared where it is not there", ""),
		row(both, "queue-type", "", "classic or quorum, for a queue that is declared", "the broker's default"),
		row(both, "give-up", "", "how long no broker may be reached before the command ends with status 1", ""),
		row(both, "ledger", "", "file to write every confirm, or every message, down in; must not exist", "none"),
		row(both, "count", "", "end after so many messages", "no end"),
		row("produce", "rate", "", "numbered messages a second; 0: as fast as they are confirmed", ""),
		row("produce", "duration", "", "send numbered messages for so long", "until stopped"),
		row("produce", "settle", "", "how long to wait, at the end, for confirms that are missing", ""),
		row("consume", "prefetch", "", "messages that are held unacknowledged at a time", ""),
		row("consume", "idle", "", "end after so long without a message", "never"),
		row("compare", "max-gap", "", "longest time that may go by without a confirm", "any"),
	}
}

// Flags binds the settings of the client name to o, as flags.
func Flags(name string, o *Options) *pflag.FlagSet {
	var rows []config.Setting
	for _, s := range Settings(o) {
		if slices.Contains(strings.Split(s.Of, ", "), name) {
			rows = append(rows, s.Setting)
		}
	}
	return config.Flags(name, rows)
}

// Complete takes from the environment what no flag gave, and judges. The flags in fs
// are those of the client name, and more perhaps; its arguments are the client's.
func (o *Options) Complete(name string, fs *pflag.FlagSet, getenv func(string) string) error {
	for _, s := range Settings(new(Options)) {
		f := fs.Lookup(s.Flag)
		if len(s.Env) == 0 || f == nil || f.Changed {
			continue
		}
		text, err := config.Secret(getenv, s.Env[0])
		if err == nil && text != "" {
			err = f.Value.Set(text)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s.Env[0], err)
		}
	}
	for _, flag := range []string{"count", "rate", "duration"} {
		o.load = o.load || fs.Changed(flag)
	}
	return o.judge(name, fs, getenv)
}

// judge completes the broker URLs and refuses what makes no sense.
func (o *Options) judge(name string, fs *pflag.FlagSet, getenv func(string) string) error {
	if name == "compare" {
		if fs.NArg() == 0 {
			return errors.New("compare needs the ledgers that produce and consume wrote: rmq-entrypoint compare FILE…")
		}
		return nil
	}
	for i, raw := range o.Brokers {
		if raw = strings.TrimSpace(raw); raw != "" && !strings.Contains(raw, "://") {
			raw = "amqp://" + raw
		}
		if fs.Changed("brokers") && config.HasPassword(raw) {
			return errors.New("--brokers holds a password, which every user of this host could read: give it as RMQ_BROKERS or RMQ_BROKERS_FILE")
		}
		u, err := brokerURL(raw, getenv)
		if err != nil {
			return fmt.Errorf("--brokers (RMQ_BROKERS): entry %d: %w", i+1, err)
		}
		o.Brokers[i] = u
	}
	switch {
	case len(o.Brokers) == 0:
		return errors.New("--brokers (RMQ_BROKERS) is empty: give host[:port], comma-separated")
	case o.Queue == "" || len(o.Queue) > 255:
		return fmt.Errorf("--queue %.20q is no queue name: use 1 to 255 bytes", o.Queue)
	case o.QueueType != "" && o.QueueType != "classic" && o.QueueType != "quorum":
		return fmt.Errorf("--queue-type %q: classic or quorum", o.QueueType)
	case o.GiveUp <= 0:
		return fmt.Errorf("--give-up %s: give a time such as 1m", o.GiveUp)
	case o.Rate != 0 && !(o.Rate >= 0.001 && o.Rate <= 1e6): // and not a number
		return fmt.Errorf("--rate %g: give messages a second, 0.001 to 1000000, or 0 for no limit", o.Rate)
	case o.Duration < 0 || o.Settle < 0 || o.Idle < 0:
		return errors.New("--duration, --settle and --idle are times from now on: give none below 0")
	case o.Prefetch < 1 || o.Prefetch > 65535:
		return fmt.Errorf("--prefetch %d: give 1 to 65535", o.Prefetch)
	}
	return nil
}

// brokerURL completes a URL with the default user and virtual host. Its errors
// repeat nothing of it, since it may hold a password.
func brokerURL(raw string, getenv func(string) string) (string, error) {
	if raw == "" {
		return "", errors.New("empty; give host[:port], comma-separated")
	}
	u, err := config.ParseAMQP(raw)
	if err != nil {
		return "", err
	}
	if u.User == nil {
		u.User = config.DefaultUser(getenv)
	}
	if u.Path == "" || u.Path == "/" {
		u = u.JoinPath("/" + url.PathEscape(cmp.Or(config.RabbitMQs(getenv, "RABBITMQ_DEFAULT_VHOST"), "/")))
	}
	if _, err := amqp.ParseURI(u.String()); err != nil {
		return "", errors.New("not a URL that AMQP clients take: look at what follows the question mark")
	}
	return u.String(), nil
}

const (
	clientHeartbeat = 5 * time.Second  // as the health check's: a silent peer is given up after one and a half of it
	dialTimeout     = 3 * time.Second  // for TCP, TLS and the AMQP handshake
	setupTimeout    = 15 * time.Second // for the channel and the queue; a cluster that elects a leader takes some seconds
	steadyAfter     = 2 * time.Second  // a connection that lasted so long was worth something
	backoffFirst    = 50 * time.Millisecond
	backoffMost     = 2 * time.Second
)

// backoff is the pause before the next attempt, after so many failures in a row:
// none after a steady connection was lost, then 50 ms, doubled up to 2 s. Half of
// it is left to chance, from 0 to 1, so that the clients of a lost node do not
// come back in step.
func backoff(failures int, chance float64) time.Duration {
	if failures <= 0 {
		return 0
	}
	d := backoffMost
	if doublings := failures - 1; doublings < 6 {
		d = min(d, backoffFirst<<doublings)
	}
	return d/2 + time.Duration(chance*float64(d/2))
}

// A client keeps to one broker at a time, and finds another when it is lost.
type client struct {
	Options
	log  *slog.Logger
	next int       // broker to try
	good time.Time // when a broker last was of use
}

// A link is a connection with one channel, on which the queue is declared.
type link struct {
	broker string // host:port
	conn   *amqp.Connection
	ch     *amqp.Channel
	closed chan *amqp.Error // holds why, once the channel is closed
}

// final is an error that no other connection mends.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

// refusal is a broker's no to who we are or what we ask for.
type refusal struct{ text string }

func (r *refusal) Error() string { return r.text }

// onLinks runs work on one link after another until it returns nil or a final
// error, or done says that there is nothing more to do, or no broker was of use
// for --give-up. What a broker refuses is final until one took it.
func (c *client) onLinks(ctx context.Context, done func() bool, work func(*link) error) error {
	failures, taken, told := 0, false, ""
	for c.good = time.Now(); !done(); {
		l, err := c.connect(ctx)
		failures++
		if err == nil {
			began := time.Now()
			taken, told = true, ""
			c.log.Info("connected", "broker", l.broker, "queue", c.Queue)
			err = work(l)
			l.close()
			if err == nil {
				return nil
			}
			if time.Since(began) >= steadyAfter {
				failures, c.good = 0, time.Now()
			}
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, new(final)), !taken && errors.As(err, new(*refusal)):
			return err
		case time.Since(c.good) > c.GiveUp:
			return fmt.Errorf("no broker was of use for %s (--give-up); the last one: %w", c.GiveUp, err)
		}
		if told != err.Error() {
			told = err.Error()
			c.log.Warn("no connection, trying again", "why", err)
		}
		pause(ctx, backoff(failures/len(c.Brokers), rand.Float64())) // each is tried before there is a pause
	}
	return nil
}

// connect reaches the next broker and declares the queue there.
func (c *client) connect(ctx context.Context) (_ *link, err error) {
	raw := c.Brokers[c.next%len(c.Brokers)]
	c.next++
	uri, err := amqp.ParseURI(raw)
	if err != nil {
		return nil, final{err}
	}
	l := &link{broker: net.JoinHostPort(uri.Host, strconv.Itoa(uri.Port)), closed: make(chan *amqp.Error, 1)}
	what := "connect"
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s (--brokers, RMQ_BROKERS): %s: %w", l.broker, what, c.explain(err, uri))
		}
	}()
	var socket net.Conn
	release := func() bool { return true }
	defer func() { release() }()
	conf := amqp.Config{
		Heartbeat: clientHeartbeat, Properties: amqp.NewConnectionProperties(),
		Dial: func(network, addr string) (net.Conn, error) {
			d := net.Dialer{Timeout: dialTimeout}
			var err error
			if socket, err = d.DialContext(ctx, network, addr); err != nil {
				return nil, err
			}
			release = context.AfterFunc(ctx, func() { socket.Close() })
			return socket, socket.SetDeadline(time.Now().Add(dialTimeout))
		},
	}
	if uri.AuthMechanism == nil {
		conf.SASL = []amqp.Authentication{healthcheck.Login{Authentication: uri.PlainAuth(), Properties: conf.Properties}}
	}
	conf.Properties.SetClientConnectionName("rmq-entrypoint client")
	if l.conn, err = amqp.DialConfig(raw, conf); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	// A server that beats but does not answer would hold us for ever.
	late := time.AfterFunc(setupTimeout, func() { socket.Close() })
	defer func() {
		if !late.Stop() && err != nil {
			err = fmt.Errorf("no answer within %s", setupTimeout)
		}
	}()
	what = "open a channel"
	if l.ch, err = l.conn.Channel(); err != nil {
		return nil, err
	}
	l.ch.NotifyClose(l.closed)
	what = "declare queue " + strconv.Quote(c.Queue) + " (--queue, --queue-type)"
	var args amqp.Table
	if c.QueueType != "" {
		args = amqp.Table{"x-queue-type": c.QueueType}
	}
	_, err = l.ch.QueueDeclare(c.Queue, true, false, false, false, args)
	return l, err
}

// lost says why no more is heard on the channel. The library tells why before it
// closes what it delivers on; when it has told nothing, the broker cancelled the
// consumer alone.
func (l *link) lost() error {
	select {
	case err := <-l.closed:
		if err != nil {
			return fmt.Errorf("%s: connection lost: %s", l.broker, said(err))
		}
		return fmt.Errorf("%s: connection closed", l.broker)
	default:
		return fmt.Errorf("%s: the broker ended the delivery: the queue was deleted, or moves", l.broker)
	}
}

// close closes the connection as AMQP asks for, which takes as long as a peer that
// is there needs.
func (l *link) close() { _ = l.conn.CloseDeadline(time.Now().Add(time.Second)) }

// said are the server's words, or what the client saw.
func said(err *amqp.Error) string {
	if err.Server {
		return fmt.Sprintf("%d %s", err.Code, err.Reason)
	}
	return err.Reason
}

// explain words an error of the client library, and adds the way out where the
// server refused. When nobody says why a handshake ended, the library guesses at
// credentials; RabbitMQ is asked to say, so it was something else.
func (c *client) explain(err error, uri amqp.URI) error {
	var word *amqp.Error
	var op *net.OpError
	switch {
	case errors.As(err, &op) && op.Op == "dial":
		return op.Err
	case errors.As(err, &word) && !word.Server, op != nil && (op.Op == "read" || op.Op == "write"):
		return errors.New("the AMQP connection ended without a word; a balancer that has no broker to give does that")
	case word == nil:
		return err
	case word.Code == amqp.AccessRefused:
		return &refusal{fmt.Sprintf("refused for user %q: %s: give credentials in RMQ_BROKERS, or as RABBITMQ_DEFAULT_USER and RABBITMQ_DEFAULT_PASS", uri.Username, said(word))}
	case word.Code == amqp.NotAllowed:
		return &refusal{fmt.Sprintf("refused for virtual host %q: %s: name another one in RMQ_BROKERS, or as RABBITMQ_DEFAULT_VHOST", uri.Vhost, said(word))}
	case word.Code == amqp.PreconditionFailed:
		return &refusal{fmt.Sprintf("the queue is there and is another: %s: give the type it has, or another queue", said(word))}
	}
	return errors.New(said(word))
}

// pause waits for d, or less when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
