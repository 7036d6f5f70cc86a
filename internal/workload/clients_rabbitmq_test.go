package workload

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"rmq-entrypoint/tests/expect"
	"rmq-entrypoint/tests/rabbittest"
)

// A rabbit is a real RabbitMQ that takes connections on this host.
type rabbit struct {
	*rabbittest.RabbitMQ
	addr string // host:port, published
}

func startRabbit(t *testing.T) *rabbit {
	t.Helper()
	addr := closedPort(t)
	m := &rabbit{rabbittest.Start(t, "-p", addr+":5672"), addr}
	rabbittest.Until(t, "takes connections", func() (any, bool) {
		conn, err := amqp.Dial("amqp://guest:guest@" + m.addr)
		if err == nil {
			conn.Close()
		}
		return err, err == nil
	})
	return m
}

func (m *rabbit) ctl(t *testing.T, args ...string) string {
	t.Helper()
	return m.Exec(t, append([]string{"rabbitmqctl", "-q"}, args...)...)
}

// A background is a client that runs beside the test.
type background struct {
	ledger string
	stop   context.CancelFunc
	out    bytes.Buffer
	done   chan error
}

// begin starts produce or consume on a queue, with a ledger.
func (m *rabbit) begin(t *testing.T, dir, queue, name string, args ...string) *background {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	f, err := os.CreateTemp(dir, name)
	expect.Must(t, err)
	f.Close()
	b := &background{ledger: f.Name() + ".ledger", stop: cancel, done: make(chan error, 1)}
	main := produceArgs
	if name == "consume" {
		main = consumeArgs
	}
	log, err := os.Create(f.Name() + ".log")
	expect.Must(t, err)
	args = append(args, "--brokers", m.addr, "--queue", queue, "--ledger", b.ledger)
	go func() {
		defer log.Close()
		b.done <- main(ctx, args, expect.Environ(), slog.New(slog.NewTextHandler(log, nil)), &b.out)
	}()
	t.Cleanup(func() {
		cancel()
		if t.Failed() {
			text, _ := os.ReadFile(f.Name() + ".log")
			t.Logf("%s %s:\n%s", name, queue, text)
		}
	})
	return b
}

// end tells the client to stop and waits for it.
func (b *background) end(t *testing.T) {
	t.Helper()
	b.stop()
	b.wait(t)
}

func (b *background) wait(t *testing.T) {
	t.Helper()
	select {
	case err := <-b.done:
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s", strings.TrimSpace(b.out.String()))
	case <-time.After(2 * time.Minute):
		t.Fatal("it did not end within two minutes")
	}
}

// wrote waits until the ledger has that many lines.
func (b *background) wrote(t *testing.T, lines int) {
	t.Helper()
	rabbittest.Until(t, fmt.Sprintf("%d lines in %s", lines, b.ledger), func() (any, bool) {
		text, _ := os.ReadFile(b.ledger)
		wrote := bytes.Count(text, []byte("\n"))
		return wrote, wrote >= lines
	})
}

// Producer and consumer with a broker that goes away under them: what was confirmed
// is received.
func TestClientsWithRabbitMQ(t *testing.T) {
	t.Parallel()
	m := startRabbit(t)
	t.Log(m.ctl(t, "version"))
	dir := t.TempDir()
	quiet := slog.New(slog.DiscardHandler)

	t.Run("one message", func(t *testing.T) {
		var out bytes.Buffer
		expect.Must(t, produceArgs(t.Context(), []string{"--brokers", m.addr, "Hello", "World."}, expect.Environ(), quiet, &out))
		if want := "confirmed: Hello World.\n"; out.String() != want {
			t.Errorf("got %q, want %q", out.String(), want)
		}
		if got := m.ctl(t, "list_queues", "--no-table-headers", "name", "durable", "messages"); got != "my-queue\ttrue\t1" {
			t.Errorf("queues: %q", got)
		}
		out.Reset()
		began := time.Now()
		expect.Must(t, consumeArgs(t.Context(), []string{"--brokers", m.addr, "--count", "1"}, expect.Environ(), quiet, &out))
		if want := "received: Hello World.\ndone: Hello World. (1s)\n"; out.String() != want {
			t.Errorf("got %q, want %q", out.String(), want)
		}
		if took := time.Since(began); took < time.Second {
			t.Errorf("a dot was no second of work: %s", took)
		}
		rabbittest.Until(t, "the queue is empty", func() (any, bool) {
			left := m.ctl(t, "list_queues", "--no-table-headers", "messages")
			return left, left == "0"
		})
	})

	t.Run("the first of two brokers is down", func(t *testing.T) {
		var out bytes.Buffer
		expect.Must(t, produceArgs(t.Context(), []string{"--brokers", closedPort(t) + "," + m.addr, "--queue", "two", "--count", "3", "--rate", "0"}, expect.Environ(), quiet, &out))
		if !strings.Contains(out.String(), "3 of 3 messages confirmed") {
			t.Errorf("got %q", out.String())
		}
	})

	for _, kind := range []string{"classic", "quorum"} {
		t.Run("load on a "+kind+" queue", func(t *testing.T) {
			p := m.begin(t, dir, kind, "produce", "--rate", "500", "--queue-type", kind)
			c := m.begin(t, dir, kind, "consume", "--prefetch", "50", "--queue-type", kind)
			p.wrote(t, 200)
			c.wrote(t, 200)
			m.ctl(t, "close_all_connections", "for fun")
			p.wrote(t, 600)
			m.ctl(t, "stop_app")
			m.ctl(t, "start_app")
			text, err := os.ReadFile(p.ledger)
			expect.Must(t, err)
			before := bytes.Count(text, []byte("\n"))
			p.wrote(t, before+200)
			m.Docker(t, "restart", "-t", "60")
			p.wrote(t, before+500)
			p.end(t)
			c.end(t)
			rest := m.begin(t, dir, kind, "consume", "--prefetch", "50", "--queue-type", kind, "--idle", "3s")
			rest.wait(t)
			got, said, err := compared(t, p.ledger, c.ledger, rest.ledger)
			t.Logf("confirmed, received, lost, duplicated, longest gap: %s\n%s", got, said)
			if err != nil {
				t.Error(err)
			}
			var confirmed, received, lost, duplicated, gap int
			if _, err := fmt.Sscan(got, &confirmed, &received, &lost, &duplicated, &gap); err != nil || confirmed < 1000 || received < confirmed || gap < 500 {
				t.Errorf("%q, %v: less was confirmed than seen, or the outages do not show", got, err)
			}
		})
	}

	t.Run("a queue of another type", func(t *testing.T) {
		err := produceArgs(t.Context(), []string{"--brokers", m.addr, "--queue", "quorum", "--queue-type", "classic", "hello"}, expect.Environ(), quiet, new(bytes.Buffer))
		if err == nil || !strings.Contains(err.Error(), "inequivalent arg 'x-queue-type'") || !strings.Contains(err.Error(), "--queue-type") {
			t.Errorf("got %v", err)
		}
	})

	t.Run("login refused", func(t *testing.T) {
		began := time.Now()
		err := consumeArgs(t.Context(), []string{"--brokers", m.addr}, expect.Environ("RABBITMQ_DEFAULT_USER=nobody", "RABBITMQ_DEFAULT_PASS=pa55word"), quiet, new(bytes.Buffer))
		if err == nil || !strings.Contains(err.Error(), "ACCESS_REFUSED") || !strings.Contains(err.Error(), "RABBITMQ_DEFAULT_USER") || strings.Contains(err.Error(), "pa55") {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("took %s", took)
		}
	})

	t.Run("no such virtual host", func(t *testing.T) {
		err := consumeArgs(t.Context(), nil, expect.Environ("RMQ_BROKERS=amqp://guest:guest@"+m.addr+"/nope"), quiet, new(bytes.Buffer))
		if err == nil || !strings.Contains(err.Error(), `"nope"`) || !strings.Contains(err.Error(), "RABBITMQ_DEFAULT_VHOST") {
			t.Errorf("got %v", err)
		}
	})

	t.Run("the queue is deleted under both", func(t *testing.T) {
		p := m.begin(t, dir, "deleted", "produce", "--rate", "200")
		c := m.begin(t, dir, "deleted", "consume", "--prefetch", "10")
		p.wrote(t, 100)
		c.wrote(t, 50)
		m.ctl(t, "delete_queue", "deleted")
		text, err := os.ReadFile(c.ledger)
		expect.Must(t, err)
		p.wrote(t, 300)
		c.wrote(t, bytes.Count(text, []byte("\n"))+100)
		p.end(t) // every message confirmed, in the end by a queue that is there
		c.end(t)
	})
}
