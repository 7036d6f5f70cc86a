package workload

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/tests/expect"
)

func TestProduceOneMessage(t *testing.T) {
	s := serveStub(t, nil)
	out, _, events, err := runClient(t, t.Context(), "produce", "--brokers", s.addr, "Hello", "World...")
	_, _, bodies, _ := s.saw()
	if err != nil || out != "confirmed: Hello World...\n" || !slices.Equal(bodies, []string{"Hello World..."}) {
		t.Errorf("%q, %v; the broker has %q", out, err, bodies)
	}
	if want := []string{"produce my-queue", "confirmed 1", "end 1"}; !slices.Equal(events, want) {
		t.Errorf("the ledger has %q, want %q", events, want)
	}
}

// A confirm that is lost with the connection says nothing of the message, so it is
// sent again; what was confirmed is not.
func TestUnconfirmedIsSentAgain(t *testing.T) {
	s := serveStub(t, func(c *stubConn, call stubCall) bool {
		if c.number > 1 || !call.is(60, 40) {
			return false
		}
		if c.published == 5 { // it has 5, and confirmed 2
			c.Close()
		}
		return c.published > 2
	})
	out, log, events, err := runClient(t, t.Context(), "produce", "--brokers", s.addr, "--count", "6", "--rate", "1000")
	if err != nil || !strings.Contains(out, "6 of 6 messages confirmed") {
		t.Errorf("%q, %v", out, err)
	}
	_, _, bodies, _ := s.saw()
	if len(bodies) > 5 && bodies[5] == "message 6" { // it was on its way when the connection closed
		bodies = slices.Delete(bodies, 5, 6)
	}
	if want := []string{"message 1", "message 2", "message 3", "message 4", "message 5", "message 3", "message 4", "message 5", "message 6"}; !slices.Equal(bodies, want) {
		t.Errorf("the broker has %q, want %q", bodies, want)
	}
	if want := []string{"produce my-queue", "confirmed 1", "confirmed 2", "confirmed 3", "confirmed 4", "confirmed 5", "confirmed 6", "end 6"}; !slices.Equal(events, want) {
		t.Errorf("the ledger has %q, want %q", events, want)
	}
	if !strings.Contains(log, "confirmed again") {
		t.Errorf("the log does not say that confirms came again:\n%s", log)
	}
}

// A refused message is not a confirmed one.
func TestRefusedMessageIsSentAgain(t *testing.T) {
	s := serveStub(t, func(c *stubConn, call stubCall) bool {
		if call.is(60, 40) && c.published == 2 {
			c.confirm(120, 2)
			return true
		}
		return false
	})
	_, _, events, err := runClient(t, t.Context(), "produce", "--brokers", s.addr, "--count", "2", "--rate", "1000")
	_, _, bodies, _ := s.saw()
	if want := []string{"message 1", "message 2", "message 2"}; err != nil || !slices.Equal(bodies, want) {
		t.Errorf("the broker has %q, want %q; %v", bodies, want, err)
	}
	if want := []string{"produce my-queue", "confirmed 1", "confirmed 2", "end 2"}; !slices.Equal(events, want) {
		t.Errorf("the ledger has %q, want %q", events, want)
	}
}

// A broker confirms a message that no queue took, after it gave it back: the
// producer declares the queue again and sends it once more.
func TestMessageThatNoQueueTook(t *testing.T) {
	s := serveStub(t, func(c *stubConn, call stubCall) bool {
		if c.number == 1 && call.is(60, 40) {
			c.giveBack(call)
			c.confirm(80, c.published)
			return true
		}
		return false
	})
	_, log, events, err := runClient(t, t.Context(), "produce", "--brokers", s.addr, "--count", "1")
	_, declared, bodies, _ := s.saw()
	if want := []string{"message 1", "message 1"}; err != nil || !slices.Equal(bodies, want) || declared != 2 {
		t.Errorf("the broker has %q, want %q, and declared %d queues; %v", bodies, want, declared, err)
	}
	if want := []string{"produce my-queue", "confirmed 1", "end 1"}; !slices.Equal(events, want) {
		t.Errorf("the ledger has %q, want %q", events, want)
	}
	if !strings.Contains(log, "is gone") {
		t.Errorf("the log does not say that the queue is gone:\n%s", log)
	}
}

// Nothing is sent while the broker says that it is blocked.
func TestBlockedProducerWaits(t *testing.T) {
	unblock := make(chan struct{})
	s := serveStub(t, func(c *stubConn, call stubCall) bool {
		if call.is(60, 40) && c.published == 1 {
			c.method(0, 10, 60, short("low on memory"))
			c.confirm(80, 1)
			go func() {
				<-unblock
				c.method(0, 10, 61, "")
			}()
			return true
		}
		return false
	})
	var meanwhile []string
	time.AfterFunc(300*time.Millisecond, func() {
		_, _, meanwhile, _ = s.saw()
		close(unblock)
	})
	_, log, _, err := runClient(t, t.Context(), "produce", "--brokers", s.addr, "--count", "20", "--rate", "200")
	<-unblock // or nothing kept it waiting
	_, _, bodies, _ := s.saw()
	if err != nil || len(meanwhile) > 10 || len(bodies) != 20 { // some may be on their way when the word comes
		t.Errorf("%d messages came while it was blocked, %d in all; %v", len(meanwhile), len(bodies), err)
	}
	if !strings.Contains(log, "low on memory") {
		t.Errorf("the log does not say why:\n%s", log)
	}
}

// Told to stop, the producer waits for the confirms that are missing, for --settle
// at most, and says what it does not know.
func TestConfirmsThatNeverCome(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := serveStub(t, func(c *stubConn, call stubCall) bool {
		if call.is(60, 40) && c.published == 2 {
			cancel()
			return true
		}
		return false
	})
	began := time.Now()
	_, _, events, err := runClient(t, ctx, "produce", "--brokers", s.addr, "--rate", "100", "--settle", "500ms")
	if err == nil || !strings.Contains(err.Error(), "never confirmed") || !strings.Contains(err.Error(), "--settle") {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); took < 500*time.Millisecond || took > expect.Soon {
		t.Errorf("took %s", took)
	}
	if slices.Contains(events, "confirmed 2") || !slices.Contains(events, "confirmed 1") || !strings.HasPrefix(events[len(events)-1], "end ") {
		t.Errorf("the ledger has %q", events)
	}
}
