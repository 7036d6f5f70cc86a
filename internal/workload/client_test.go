package workload

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/tests/expect"
)

// clientArgs judges the arguments of a client as the command line does.
func clientArgs(name string, args []string, getenv func(string) string) (Options, []string, error) {
	var o Options
	fs := Flags(name, &o)
	if err := fs.Parse(args); err != nil {
		return o, nil, err
	}
	return o, fs.Args(), o.Complete(name, fs, getenv)
}

// produceArgs and consumeArgs are the two clients as the command line starts them.
func produceArgs(ctx context.Context, args []string, getenv func(string) string, log *slog.Logger, out io.Writer) error {
	o, words, err := clientArgs("produce", args, getenv)
	if err != nil {
		return err
	}
	return Produce(ctx, o, words, log, out)
}

func consumeArgs(ctx context.Context, args []string, getenv func(string) string, log *slog.Logger, out io.Writer) error {
	o, _, err := clientArgs("consume", args, getenv)
	if err != nil {
		return err
	}
	return Consume(ctx, o, log, out)
}

func TestBackoff(t *testing.T) {
	for _, c := range []struct {
		failures    int
		least, most time.Duration
	}{
		{0, 0, 0},
		{1, 25 * time.Millisecond, 50 * time.Millisecond},
		{2, 50 * time.Millisecond, 100 * time.Millisecond},
		{3, 100 * time.Millisecond, 200 * time.Millisecond},
		{6, 800 * time.Millisecond, 1600 * time.Millisecond},
		{7, time.Second, 2 * time.Second},
		{1000, time.Second, 2 * time.Second},
	} {
		if least, most := backoff(c.failures, 0), backoff(c.failures, 1); least != c.least || most != c.most {
			t.Errorf("%d failures: %s to %s, want %s to %s", c.failures, least, most, c.least, c.most)
		}
	}
}

func TestBrokerURLs(t *testing.T) {
	user := []string{"RABBITMQ_DEFAULT_USER=al", "RABBITMQ_DEFAULT_PASS=w/:@", "RABBITMQ_DEFAULT_VHOST=a b"}
	for _, c := range []struct {
		args string
		env  []string
		want []string
	}{
		{"", nil, []string{"amqp://guest:guest@127.0.0.1:5672/%2F"}},
		{"--brokers a,b:1", nil, []string{"amqp://guest:guest@a/%2F", "amqp://guest:guest@b:1/%2F"}},
		{"--brokers a --brokers amqps://b", nil, []string{"amqp://guest:guest@a/%2F", "amqps://guest:guest@b/%2F"}},
		{"--brokers [::1]:1", nil, []string{"amqp://guest:guest@[::1]:1/%2F"}},
		{"--brokers a", user, []string{"amqp://al:w%2F%3A%40@a/a%20b"}},
		{"--brokers amqp://bob@a/v", user, []string{"amqp://bob@a/v"}},
		{"", []string{"RMQ_BROKERS=a, amqp://bob:b%2Cc@b:1/v?heartbeat=9"}, []string{"amqp://guest:guest@a/%2F", "amqp://bob:b,c@b:1/v?heartbeat=9"}},
		{"--brokers a", []string{"RMQ_BROKERS=b"}, []string{"amqp://guest:guest@a/%2F"}},
	} {
		o, _, err := clientArgs("produce", strings.Fields(c.args), expect.Environ(c.env...))
		if err != nil || !slices.Equal(o.Brokers, c.want) {
			t.Errorf("%s %v: %q, %v; want %q", c.args, c.env, o.Brokers, err, c.want)
		}
	}
	file := filepath.Join(t.TempDir(), "brokers")
	expect.Must(t, os.WriteFile(file, []byte("amqp://bob:b@h:1/v\n"), 0o600))
	if o, _, err := clientArgs("consume", nil, expect.Environ("RMQ_BROKERS_FILE="+file)); err != nil || !slices.Equal(o.Brokers, []string{"amqp://bob:b@h:1/v"}) {
		t.Errorf("%q, %v", o.Brokers, err)
	}
}

// closedPort returns an address that refuses connections.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	expect.Must(t, err)
	defer l.Close()
	return l.Addr().String()
}

// silent returns the address of a peer that takes connections and does what then
// does with them.
func silent(t *testing.T, then func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	expect.Must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			then(conn)
		}
	}()
	return l.Addr().String()
}

// No broker: the message names each, what it did, and the flags; nothing is left
// behind that a second try would stumble over.
func TestNoBroker(t *testing.T) {
	dir := t.TempDir()
	refuses, closes := closedPort(t), silent(t, func(c net.Conn) { c.Close() })
	for _, c := range []struct {
		args string
		say  []string
	}{
		{"produce --count 1 --brokers " + refuses, []string{refuses, "refused", "--brokers", "RMQ_BROKERS", "--give-up"}},
		{"consume --brokers " + refuses, []string{refuses, "refused", "--brokers", "RMQ_BROKERS", "--give-up"}},
		{"consume --brokers " + closes, []string{closes, "without a word", "balancer", "--brokers", "--give-up"}},
	} {
		var out, log bytes.Buffer
		path := filepath.Join(dir, "ledger")
		args := append(strings.Fields(c.args), "--give-up", "300ms", "--ledger", path)
		main := produceArgs
		if args[0] == "consume" {
			main = consumeArgs
		}
		began := time.Now()
		err := main(t.Context(), args[1:], expect.Environ("RABBITMQ_DEFAULT_PASS=pa55word"), slog.New(slog.NewTextHandler(&log, nil)), &out)
		if err == nil {
			t.Fatalf("%s: no error", c.args)
		}
		for _, w := range c.say {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: it does not say %q: %v", c.args, w, err)
			}
		}
		if took := time.Since(began); took < 300*time.Millisecond || took > expect.Soon {
			t.Errorf("%s: gave up after %s", c.args, took)
		}
		if strings.Contains(err.Error()+log.String(), "pa55") {
			t.Errorf("%s: %v\n%s", c.args, err, &log)
		}
		if n := strings.Count(log.String(), "trying again"); n != 1 {
			t.Errorf("%s: said %d times that there is no connection:\n%s", c.args, n, &log)
		}
		if fileExists(path) {
			t.Errorf("%s: left an empty ledger", c.args)
		}
	}
}

// Every broker of the list is tried.
func TestBrokersAreTriedInTurn(t *testing.T) {
	dialled := make(chan string, 100)
	hangUp := func(name string) string {
		return silent(t, func(c net.Conn) {
			c.Close()
			select {
			case dialled <- name:
			default:
			}
		})
	}
	a, b := hangUp("a"), hangUp("b")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- consumeArgs(ctx, []string{"--brokers", closedPort(t) + "," + a + "," + b}, expect.Environ(), slog.New(slog.DiscardHandler), new(bytes.Buffer))
	}()
	for _, want := range []string{"a", "b", "a", "b"} {
		if got := <-dialled; got != want {
			t.Errorf("dialled %s, want %s", got, want)
		}
	}
	cancel()
	if err := <-done; err != nil { // told to end, and it received nothing
		t.Errorf("got %v", err)
	}
}

// Told to end while a broker is silent, neither of them takes longer than a moment.
func TestClientsStop(t *testing.T) {
	mute := silent(t, func(net.Conn) {}) // takes the connection and says nothing
	for _, name := range []string{"produce", "consume"} {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(200*time.Millisecond, cancel)
		began := time.Now()
		var err error
		if name == "produce" {
			err = produceArgs(ctx, []string{"--count", "1", "--brokers", mute}, expect.Environ(), slog.New(slog.DiscardHandler), new(bytes.Buffer))
		} else {
			err = consumeArgs(ctx, []string{"--brokers", mute}, expect.Environ(), slog.New(slog.DiscardHandler), new(bytes.Buffer))
		}
		if (err == nil) != (name == "consume") { // a message that was not sent is an error
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(began); took > dialTimeout {
			t.Errorf("%s took %s", name, took)
		}
	}
}

// runClient runs produce or consume and returns what it printed, its
// log, and what its ledger says: events and numbers.
func runClient(t *testing.T, ctx context.Context, args ...string) (out, log string, events []string, err error) {
	t.Helper()
	var o, l bytes.Buffer
	path := filepath.Join(t.TempDir(), "ledger")
	main := produceArgs
	if args[0] == "consume" {
		main = consumeArgs
	}
	err = main(ctx, append(args[1:], "--ledger", path), expect.Environ("RABBITMQ_DEFAULT_PASS=pa55word"), slog.New(slog.NewTextHandler(&l, nil)), &o)
	b, _ := os.ReadFile(path)
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		events = append(events, f[1]+" "+f[3])
	}
	if text := o.String() + l.String(); strings.Contains(text, "pa55") || err != nil && strings.Contains(err.Error(), "pa55") {
		t.Errorf("the password shows: %s%v", text, err)
	}
	return o.String(), l.String(), events, err
}

// What a broker refuses ends the client at once, with its words and the way out.
func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name          string
		class, id     uint16 // of the call that is refused
		channel, code uint16
		text          string
		say           []string
	}{
		{"login", 10, 11, 0, 403, "ACCESS_REFUSED - Login was refused", []string{`"guest"`, "Login was refused", "RMQ_BROKERS", "RABBITMQ_DEFAULT_USER"}},
		{"virtual host", 10, 40, 0, 530, "NOT_ALLOWED - vhost not found", []string{`"/"`, "vhost not found", "RMQ_BROKERS", "RABBITMQ_DEFAULT_VHOST"}},
		{"another queue", 50, 10, 1, 406, "PRECONDITION_FAILED - inequivalent arg", []string{`"my-queue"`, "inequivalent arg", "--queue", "--queue-type"}},
		{"no right to the queue", 50, 10, 1, 403, "ACCESS_REFUSED - configure access", []string{`"guest"`, "configure access"}},
	} {
		s := serveStub(t, func(conn *stubConn, call stubCall) bool {
			if call.is(c.class, c.id) {
				conn.refuse(c.channel, c.code, c.text)
				return true
			}
			return false
		})
		for _, args := range [][]string{{"produce", "--count", "1"}, {"consume"}} {
			_, _, events, err := runClient(t, t.Context(), append(args, "--brokers", s.addr)...)
			if err == nil || len(events) != 0 {
				t.Errorf("%s, %s: %v, ledger %q", c.name, args[0], err, events)
				continue
			}
			for _, w := range append(c.say, s.addr) {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%s, %s: it does not say %q: %v", c.name, args[0], w, err)
				}
			}
		}
		if links, _, _, _ := s.saw(); links != 2 {
			t.Errorf("%s: %d connections, want one for each client", c.name, links)
		}
	}
}

// Once taken, a client is not turned away by what a broker says as it goes down.
func TestRefusalLater(t *testing.T) {
	s := serveStub(t, func(c *stubConn, call stubCall) bool {
		switch {
		case c.number == 1 && call.is(60, 40):
			c.refuse(0, 320, "CONNECTION_FORCED - shutdown")
		case c.number == 2 && call.is(10, 11):
			c.refuse(0, 403, "ACCESS_REFUSED - Login was refused")
		default:
			return false
		}
		return true
	})
	_, log, _, err := runClient(t, t.Context(), "produce", "--brokers", s.addr, "--count", "1")
	if links, _, _, _ := s.saw(); err != nil || links != 3 || !strings.Contains(log, "shutdown") {
		t.Errorf("%d connections, %v\n%s", links, err, log)
	}
}
