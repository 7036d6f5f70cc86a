package workload

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"
)

// Each message is worked on, written down and acknowledged, also one that is none
// of ours; --count ends it.
func TestConsume(t *testing.T) {
	s := serveStub(t, func(c *stubConn, call stubCall) bool {
		if !call.is(60, 20) {
			return false
		}
		c.method(1, 60, 21, call.consumer())
		c.deliver(call, 1, "a/7", "message 7")
		c.deliver(call, 2, "", "Hello.")
		c.deliver(call, 3, "a/8", "message 8")
		c.deliver(call, 4, "a/9", "message 9")
		return true
	})
	began := time.Now()
	out, _, events, err := runClient(t, t.Context(), "consume", "--brokers", s.addr, "--count", "3", "--prefetch", "4")
	if err != nil || !strings.HasPrefix(out, "3 messages received") {
		t.Errorf("%q, %v", out, err)
	}
	if took := time.Since(began); took < time.Second {
		t.Errorf("a dot was no second of work: %s", took)
	}
	if want := []string{"consume my-queue", "received 7", "received 8", "end 3"}; !slices.Equal(events, want) {
		t.Errorf("the ledger has %q, want %q", events, want)
	}
	if _, _, _, acks := s.saw(); !slices.Equal(acks, []uint64{1, 2, 3}) {
		t.Errorf("acknowledged %v, want 1, 2 and 3", acks)
	}
}

// A queue that goes away under the consumer, or moves, is looked for again; an idle
// consumer ends.
func TestConsumerIsCancelledByTheBroker(t *testing.T) {
	s := serveStub(t, func(c *stubConn, call stubCall) bool {
		if !call.is(60, 20) {
			return false
		}
		tag := call.consumer()
		c.method(1, 60, 21, tag)
		if c.number == 1 {
			c.method(1, 60, 30, tag+"\x01")
		} else {
			c.deliver(call, 1, "a/1", "message 1")
		}
		return true
	})
	_, log, events, err := runClient(t, t.Context(), "consume", "--brokers", s.addr, "--idle", "300ms")
	if want := []string{"consume my-queue", "received 1", "end 1"}; err != nil || !slices.Equal(events, want) {
		t.Errorf("the ledger has %q, want %q; %v", events, want, err)
	}
	if !strings.Contains(log, "ended the delivery") {
		t.Errorf("the log does not say it:\n%s", log)
	}
}

// Told to stop in the middle of its work, the consumer leaves the message to
// others.
func TestUnfinishedWorkIsNotAcknowledged(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := serveStub(t, func(c *stubConn, call stubCall) bool {
		if !call.is(60, 20) {
			return false
		}
		c.method(1, 60, 21, call.consumer())
		c.deliver(call, 1, "a/1", "message 1.........")
		time.AfterFunc(300*time.Millisecond, cancel)
		return true
	})
	began := time.Now()
	_, _, events, err := runClient(t, ctx, "consume", "--brokers", s.addr)
	if want := []string{"consume my-queue", "end 0"}; err != nil || !slices.Equal(events, want) {
		t.Errorf("the ledger has %q, want %q; %v", events, want, err)
	}
	if _, _, _, acks := s.saw(); time.Since(began) > 8*time.Second || len(acks) != 0 {
		t.Errorf("took %s, acknowledged %v", time.Since(began), acks)
	}
}
