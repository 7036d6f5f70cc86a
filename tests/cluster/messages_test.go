package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// dial connects to the node's published AMQP port.
func (n *node) dial() (*amqp.Connection, error) {
	return amqp.DialConfig(fmt.Sprintf("amqp://guest:guest@127.0.0.1:%d/", n.amqpPort), amqp.Config{Dial: amqp.DefaultDial(slow(5 * time.Second))})
}

// with runs f on a channel of its own at the node, until it works.
func (n *node) with(what string, f func(*amqp.Channel) error) {
	n.Helper()
	n.eventually(60*time.Second, what+" at "+n.host, func() error {
		conn, err := n.dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		ch, err := conn.Channel()
		if err != nil {
			return err
		}
		return f(ch)
	})
}

var (
	quorum  = amqp.Table{"x-queue-type": "quorum"}
	classic = amqp.Table{"x-queue-type": "classic"}
	stream  = amqp.Table{"x-queue-type": "stream"}
)

// declare makes a durable queue, of the default type with nil arguments.
func (n *node) declare(queue string, args amqp.Table) {
	n.Helper()
	n.with("declare "+queue, func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclare(queue, true, false, false, false, args)
		return err
	})
}

// publish puts persistent messages into the queue. Each is confirmed when it returns.
func (n *node) publish(queue string, count int) {
	n.Helper()
	left := count // a repeated attempt does not publish again what was confirmed
	n.with("publish to "+queue, func(ch *amqp.Channel) error {
		if err := ch.Confirm(false); err != nil {
			return err
		}
		for left > 0 {
			ctx, cancel := context.WithTimeout(context.Background(), slow(10*time.Second))
			defer cancel()
			sent, err := ch.PublishWithDeferredConfirmWithContext(ctx, "", queue, true, false, amqp.Publishing{DeliveryMode: amqp.Persistent, Body: fmt.Append(nil, left)})
			if err != nil {
				return err
			}
			if ok, err := sent.WaitContext(ctx); err != nil || !ok {
				return fmt.Errorf("not confirmed: %v", err)
			}
			left--
		}
		return nil
	})
}

// holds waits until the queue has at least that many messages, as seen by the node: confirmed ones are there, and one
// whose confirmation was lost may be.
func (n *node) holds(queue string, count int) {
	n.Helper()
	n.with(fmt.Sprintf("find %d messages in %s", count, queue), func(ch *amqp.Channel) error {
		q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		if err == nil && q.Messages < count {
			err = fmt.Errorf("it has %d", q.Messages)
		}
		return err
	})
}

// drain takes every message out of the queue and returns how many there were.
func (n *node) drain(queue string) (count int) {
	n.Helper()
	n.with("consume "+queue, func(ch *amqp.Channel) error {
		for {
			m, ok, err := ch.Get(queue, false)
			if err != nil || !ok {
				return err
			}
			if err := m.Ack(false); err != nil {
				return err
			}
			count++
		}
	})
	return count
}

// emptied takes every message out of the queue, and fails unless there were exactly that many.
func (n *node) emptied(queue string, count int) {
	n.Helper()
	n.holds(queue, count)
	if got := n.drain(queue); got != count {
		n.Errorf("%s had %d messages, want %d", queue, got, count)
	}
}

// A client keeps one connection and publishes on it with confirms, for what must not disturb traffic.
type client struct {
	stop chan struct{}
	done chan error
	sent int
}

// traffic publishes a message at a time, and takes it out again, until stopped.
func (n *node) traffic(queue string) *client {
	n.Helper()
	conn, err := n.dial()
	if err != nil {
		n.Fatal(err)
	}
	ch, err := conn.Channel()
	if err == nil {
		err = ch.Confirm(false)
	}
	if err != nil {
		n.Fatal(err)
	}
	t := &client{stop: make(chan struct{}), done: make(chan error, 1)}
	go func() {
		defer conn.Close()
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-t.stop:
				t.done <- nil
				return
			case <-tick.C:
			}
			ctx, cancel := context.WithTimeout(context.Background(), slow(10*time.Second))
			sent, err := ch.PublishWithDeferredConfirmWithContext(ctx, "", queue, true, false, amqp.Publishing{DeliveryMode: amqp.Persistent})
			if err == nil {
				var ok bool
				if ok, err = sent.WaitContext(ctx); err == nil && !ok {
					err = errors.New("not confirmed")
				}
			}
			cancel()
			if err == nil {
				_, _, err = ch.Get(queue, true)
			}
			if err != nil {
				t.done <- err
				return
			}
			t.sent++
		}
	}()
	return t
}

// undisturbed stops the traffic and fails if anything went wrong with it.
func (n *node) undisturbed(t *client) {
	n.Helper()
	close(t.stop)
	if err := <-t.done; err != nil {
		n.Fatalf("AMQP traffic broke after %d messages: %v", t.sent, err)
	}
	if t.sent == 0 {
		n.Fatal("there was no AMQP traffic")
	}
}
