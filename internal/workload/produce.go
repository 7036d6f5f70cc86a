package workload

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// inFlight is how many messages may wait for their confirm at a time: what a lost
// connection makes uncertain, and so the most that is sent twice.
const inFlight = 200

// Produce is `rmq-entrypoint produce`: one message, or numbered ones. It ends
// well when every message was confirmed. A message whose confirm was lost with
// the connection is sent again, so a consumer may get it twice.
func Produce(ctx context.Context, o Options, words []string, log *slog.Logger, out io.Writer) (err error) {
	text := strings.Join(words, " ")
	switch {
	case text != "" && o.load:
		return errors.New("--count, --rate and --duration are for numbered messages: give them, or a message, not both")
	case text == "" && !o.load:
		return errors.New("nothing to send: give a message, or --count, --duration or --rate for numbered ones")
	case text != "":
		o.Count, o.Rate = 1, 0
	}
	l, err := createLedger(o.Ledger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	return produce(ctx, o, text, l, log, out)
}

// produce sends text, or numbered messages without one, until ctx ends, --duration
// has passed or --count is reached, and then waits --settle for what is missing.
func produce(ctx context.Context, o Options, text string, l *ledger, log *slog.Logger, out io.Writer) error {
	giving, end := context.WithTimeout(ctx, cmp.Or(o.Duration, never))
	defer end()
	working, abandon := context.WithCancelCause(context.WithoutCancel(ctx))
	defer abandon(nil)
	p := &producer{
		client: client{Options: o, log: log}, text: text, ledger: l, run: fmt.Sprintf("%08x", rand.Uint32()),
		giving: giving, end: end, numbers: numbers{pending: map[uint64]uint64{}, returned: map[uint64]bool{}},
	}
	defer context.AfterFunc(giving, func() {
		if !p.started.Load() { // there is nothing to wait for
			abandon(context.Cause(giving))
		}
		time.AfterFunc(o.Settle, func() { abandon(errUnsettled) })
	})()
	began := time.Now()
	err := p.onLinks(working, p.done, func(l *link) error { return p.send(working, l) })
	if !p.started.Load() {
		return fmt.Errorf("nothing was sent: no broker was reached: %w", cmp.Or(err, context.Cause(giving)))
	}
	_, noteErr := l.note(evEnd, p.run, p.given)
	if text != "" && p.confirmed == 1 {
		fmt.Fprintf(out, "confirmed: %s\n", text)
	} else {
		fmt.Fprintf(out, "run %s: %d of %d messages confirmed in %s, sent again %d, longest gap in confirms %d ms\n", p.run, p.confirmed, p.given,
			time.Since(began).Round(time.Millisecond), p.repeated, p.gaps.longest.length().Milliseconds())
	}
	if missing := p.given - p.confirmed; missing > 0 {
		err = fmt.Errorf("%d messages were never confirmed: %w", missing, cmp.Or(err, errUnsettled))
	}
	return errors.Join(err, noteErr)
}

var errUnsettled = errors.New("their confirms did not come within --settle")

// A producer sends numbered messages and knows which of them were confirmed.
type producer struct {
	client
	text   string // the only message, or "" for numbered ones
	run    string
	ledger *ledger

	giving context.Context // new numbers are given out until it ends
	end    context.CancelFunc

	started atomic.Bool // a broker was reached
	numbers
	gaps   gaps
	lostAt time.Time // when a connection was lost on which messages waited
}

// numbers tell what has become of each message, by its number.
type numbers struct {
	given     uint64            // given out, from 1
	again     []uint64          // to send once more, in order
	pending   map[uint64]uint64 // delivery tag on this link → number
	returned  map[uint64]bool   // no queue took it
	confirmed uint64
	repeated  int
}

// more reports whether there is a number to send.
func (p *producer) more() bool { return len(p.again) > 0 || p.giving.Err() == nil }

// done reports whether nothing is left: no number to send, none to wait for.
func (p *producer) done() bool { return !p.more() && len(p.pending) == 0 }

// send publishes on one link and takes its confirms until everything is done.
// This goroutine alone reads and writes the producer. The library's reader waits
// for no one, as there is room for all that may come.
func (p *producer) send(ctx context.Context, l *link) (err error) {
	if err := l.ch.Confirm(false); err != nil {
		return fmt.Errorf("%s: ask for confirms: %w", l.broker, err)
	}
	confirms := l.ch.NotifyPublish(make(chan amqp.Confirmation, inFlight))
	returns := l.ch.NotifyReturn(make(chan amqp.Return, inFlight))
	blocks := l.conn.NotifyBlocked(make(chan amqp.Blocking, 8))
	defer p.reclaim()
	if !p.started.Swap(true) {
		at, err := p.ledger.note(evProduce, p.run, p.Queue)
		if err != nil {
			return final{err}
		}
		p.gaps.start(at)
	}
	var pace <-chan time.Time
	if p.Rate > 0 {
		t := time.NewTicker(time.Duration(float64(time.Second) / p.Rate))
		defer t.Stop()
		pace = t.C
	} else {
		always := make(chan time.Time)
		close(always)
		pace = always
	}
	stop, blocked := p.giving.Done(), false
	for !p.done() {
		due := pace
		if blocked || len(p.pending) == inFlight || !p.more() {
			due = nil
		}
		select {
		case <-due:
			if !p.more() { // it ended in this moment
				continue
			}
			if err := p.publish(l); err != nil {
				l.close()
				for c := range confirms { // those that came before
					if err := p.confirm(c, returns); err != nil {
						return err
					}
				}
				return fmt.Errorf("%s: publish: %w", l.broker, err)
			}
		case c, ok := <-confirms:
			if !ok { // closed with the channel, after all that came
				return l.lost()
			}
			if err := p.confirm(c, returns); err != nil {
				return err
			}
		case r := <-returns:
			p.takeBack(r)
		case b, ok := <-blocks:
			if !ok {
				blocks = nil
			} else if blocked = b.Active; blocked {
				p.log.Warn("the broker takes no messages for now", "why", b.Reason)
			} else {
				p.log.Info("the broker takes messages again")
			}
		case <-stop:
			stop = nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// publish sends what is to be sent again, or the next number.
func (p *producer) publish(l *link) error {
	var n uint64
	if len(p.again) > 0 {
		n = p.again[0]
	} else {
		n = p.given + 1
	}
	tag := l.ch.GetNextPublishSeqNo()
	err := l.ch.Publish("", p.Queue, true, false, amqp.Publishing{
		DeliveryMode: amqp.Persistent, ContentType: "text/plain", AppId: "rmq-entrypoint", Timestamp: time.Now(),
		MessageId: message{p.run, n}.id(), Body: []byte(cmp.Or(p.text, "message "+strconv.FormatUint(n, 10))),
	})
	if len(p.again) > 0 {
		p.again = p.again[1:]
		p.repeated++
	} else if p.given = n; n == p.Count {
		p.end()
	}
	p.pending[tag] = n // also when the write broke off: it may have arrived
	return err
}

// confirm notes what the broker says of one message. One that it refuses, or that
// no queue took, is sent again.
func (p *producer) confirm(c amqp.Confirmation, returns <-chan amqp.Return) error {
	for empty := false; !empty; { // a message comes back before its confirm
		select {
		case r, ok := <-returns:
			if empty = !ok; ok {
				p.takeBack(r)
			}
		default:
			empty = true
		}
	}
	n, ok := p.pending[c.DeliveryTag]
	if !ok {
		return nil
	}
	delete(p.pending, c.DeliveryTag)
	if p.returned[n] {
		delete(p.returned, n)
		p.again = append(p.again, n)
		return fmt.Errorf("the queue %q is gone", p.Queue) // the next link declares it
	}
	if !c.Ack {
		p.again = append(p.again, n)
		return nil
	}
	at, err := p.ledger.note(evConfirmed, p.run, n)
	if err != nil {
		return final{err}
	}
	p.confirmed++
	p.gaps.confirm(at)
	p.good = time.Now()
	if !p.lostAt.IsZero() {
		p.log.Info("confirmed again", "after", time.Since(p.lostAt).Round(time.Millisecond))
		p.lostAt = time.Time{}
	}
	return nil
}

// takeBack notes that no queue took a message.
func (p *producer) takeBack(r amqp.Return) {
	if m, ok := parseMessage(r.MessageId); ok {
		p.returned[m.number] = true
	}
}

// reclaim takes what waits for its confirm when a link is lost, to send it again.
func (p *producer) reclaim() {
	if len(p.pending) == 0 {
		return
	}
	if p.lostAt.IsZero() {
		p.lostAt = time.Now()
	}
	p.again = append(p.again, slices.Collect(maps.Values(p.pending))...)
	slices.Sort(p.again)
	clear(p.pending)
	clear(p.returned)
}
