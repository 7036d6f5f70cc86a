package workload

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Consume is `rmq-entrypoint consume`: it takes messages off the queue, works a
// second for each dot in them, and acknowledges each when its work is done. It
// ends well when it is told to, or with --count or --idle.
func Consume(ctx context.Context, o Options, log *slog.Logger, out io.Writer) (err error) {
	l, err := createLedger(o.Ledger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	c := &consumer{client: client{Options: o, log: log}, ledger: l, out: out}
	err = c.onLinks(ctx, func() bool { return ctx.Err() != nil }, func(l *link) error { return c.receive(ctx, l) })
	if ctx.Err() != nil { // told to end
		err = nil
	}
	if !c.started {
		return err
	}
	if o.Ledger != "" {
		fmt.Fprintf(out, "%d messages received and acknowledged\n", c.taken)
	}
	_, noteErr := l.note(evEnd, "-", c.taken)
	return errors.Join(err, noteErr)
}

// A consumer works on one message after another.
type consumer struct {
	client
	ledger  *ledger
	out     io.Writer
	started bool
	taken   uint64
}

// receive works on the deliveries of one link, until it is lost or the consumer is
// done. Messages that it holds then go back to the queue.
func (c *consumer) receive(ctx context.Context, l *link) error {
	if err := l.ch.Qos(c.Prefetch, 0, false); err != nil {
		return fmt.Errorf("%s: set --prefetch: %w", l.broker, err)
	}
	deliveries, err := l.ch.Consume(c.Queue, "", false, false, false, false, nil)
	if err != nil {
		return fmt.Errorf("%s: consume %q: %w", l.broker, c.Queue, err)
	}
	if !c.started {
		c.started = true
		if _, err := c.ledger.note(evConsume, "-", c.Queue); err != nil {
			return final{err}
		}
	}
	idle := time.NewTimer(cmp.Or(c.Idle, never))
	defer idle.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-idle.C:
			return nil
		case d, ok := <-deliveries:
			if !ok { // also when the queue went away under the consumer
				return l.lost()
			}
			if err := c.take(ctx, d); err != nil || ctx.Err() != nil {
				return err
			}
			if c.taken == c.Count && c.Count > 0 {
				return nil
			}
			idle.Reset(cmp.Or(c.Idle, never))
		}
	}
}

const never = time.Duration(math.MaxInt64)

// take works on one message, writes it down, and acknowledges it: in this order,
// so that a message is never acknowledged and unknown.
func (c *consumer) take(ctx context.Context, d amqp.Delivery) error {
	work := time.Duration(bytes.Count(d.Body, []byte("."))) * time.Second
	if c.Ledger == "" {
		fmt.Fprintf(c.out, "received: %s\n", d.Body)
	}
	if work > 0 {
		pause(ctx, work)
	}
	if ctx.Err() != nil {
		return nil
	}
	if m, ok := parseMessage(d.MessageId); ok {
		if _, err := c.ledger.note(evReceived, m.run, m.number); err != nil {
			return final{err}
		}
	}
	if err := d.Ack(false); err != nil {
		return fmt.Errorf("acknowledge: %w", err)
	}
	c.taken++
	c.good = time.Now()
	if c.Ledger == "" && work > 0 {
		fmt.Fprintf(c.out, "done: %s (%s)\n", d.Body, work)
	}
	return nil
}
