package formation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/peers"
)

// members is a formation whose command line answers for these nodes after a while; the others
// hang for as long as they are let. It notes who was asked, and how many at most at a time.
type members struct {
	formation
	mu     sync.Mutex
	asked  []string
	now    int
	most   int
	waited []string
}

func newMembers(answers map[string]time.Duration, view string) *members {
	m := new(members)
	m.Log = slog.New(slog.DiscardHandler)
	m.SetWaiting = func(why string) { m.waited = append(m.waited, why) }
	m.CLI = rabbitmq.CLI{Node: "rabbit@me", Run: func(ctx context.Context, argv ...string) (string, error) {
		m.mu.Lock()
		m.asked = append(m.asked, argv[3])
		m.now++
		m.most = max(m.most, m.now)
		m.mu.Unlock()
		defer func() { m.mu.Lock(); m.now--; m.mu.Unlock() }()
		after, answers := answers[argv[3]]
		if !answers {
			<-ctx.Done()
			return "", errors.New("no answer")
		}
		time.Sleep(after)
		return strings.ReplaceAll(view, "NODE", argv[3]), nil
	}}
	return m
}

const running = "view|id|NODE|NODE||false|\n"

func passing(nodes ...string) (ps []peers.Peer, r peers.Record) {
	r = formed("id", map[string]string{})
	for _, n := range nodes {
		ps = append(ps, peers.Peer{Node: n, Passing: true, Beating: true, ClusterID: "id", View: peers.Seen[peers.View]{Err: peers.ErrNotAsked}})
		r.Members[n] = ""
	}
	return ps, r
}

func numbered(from, to int) (names []string) {
	for i := from; i <= to; i++ {
		names = append(names, fmt.Sprintf("rabbit@n%02d", i))
	}
	return names
}

// Nobody is asked who is not on record: to ask tells something of the cookie.
func TestStrangersAreNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMembers(map[string]time.Duration{"rabbit@b": 0}, running)
		ps, r := passing("a000@evil", "rabbit@b", "zz@evil")
		delete(r.Members, "a000@evil")
		delete(r.Members, "zz@evil")
		m.ask(t.Context(), r, ps)
		if !slices.Equal(m.asked, []string{"rabbit@b"}) || !ps[1].View.Known() {
			t.Errorf("asked %q, got %+v", m.asked, ps)
		}
		// Nor where nobody is on record any more: the host tells whether they run.
		m.asked = nil
		m.IsDown = func(_ context.Context, p peers.Peer) bool { return p.Node == "zz@evil" }
		ps[0].Passing, ps[0].Beating, ps[2].Passing, ps[2].Beating = false, false, false, false
		delete(r.Members, "rabbit@b")
		m.ask(t.Context(), r, ps)
		if m.asked != nil || ps[0].Down || !ps[2].Down {
			t.Errorf("asked %q, got %+v", m.asked, ps)
		}
	})
}

// One that answers at once is asked alone.
func TestOneAnswerIsEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMembers(map[string]time.Duration{"rabbit@n01": 700 * time.Millisecond, "rabbit@n02": 0}, running)
		ps, r := passing(numbered(1, 9)...)
		m.ask(t.Context(), r, ps)
		if !slices.Equal(m.asked, []string{"rabbit@n01"}) || m.waited != nil {
			t.Errorf("asked %q, said %q", m.asked, m.waited)
		}
	})
}

// Members that hang cost a second each, several at a time, and no longer than one look together;
// the wait says whom the node asks, and at the next look they come last.
func TestManyHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMembers(map[string]time.Duration{"rabbit@n05": 100 * time.Millisecond}, running)
		ps, r := passing(numbered(1, 5)...)
		began := time.Now()
		m.ask(t.Context(), r, ps)
		if took := time.Since(began); took > 5*time.Second || !ps[4].View.Known() {
			t.Errorf("it took %s to get an answer behind four that hang", took)
		}
		if len(m.waited) == 0 || !strings.Contains(m.waited[0], "asking rabbit@n01, rabbit@n02") {
			t.Errorf("said %q", m.waited)
		}
		m = newMembers(map[string]time.Duration{"rabbit@n40": 0}, running)
		ps, r = passing(numbered(1, 40)...)
		began = time.Now()
		m.ask(t.Context(), r, ps)
		if took := time.Since(began); took > askWithin+time.Second || m.most > mostAsked {
			t.Errorf("40 of them took %s, %d at a time", took, m.most)
		}
		for range 6 { // 8 a look
			m.asked = nil
			ps, r = passing(numbered(1, 40)...)
			if m.ask(t.Context(), r, ps); ps[39].View.Known() {
				return
			}
		}
		t.Errorf("the one that answers never was: %v", m.asked)
	})
}

// Those that do not pass are asked where none that passes answers.
func TestOthersAreAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMembers(map[string]time.Duration{"rabbit@n02": 0}, running)
		ps, r := passing(numbered(1, 2)...)
		ps[1].Passing = false
		m.ask(t.Context(), r, ps)
		if ps[0].View.Known() || errors.Is(ps[0].View.Err, peers.ErrNotAsked) || !ps[1].View.Known() {
			t.Errorf("%+v", ps)
		}
	})
}

// A node that has two entries is asked once, and joined once.
func TestTwoEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMembers(map[string]time.Duration{"rabbit@b": 0}, running)
		ps, r := passing("rabbit@b", "rabbit@b", "rabbit@c", "rabbit@c")
		ps[0].Passing = false
		m.ask(t.Context(), r, ps)
		d := peers.Decide(peers.Observation{Me: "rabbit@me", Record: peers.Seen[peers.Record]{Value: r}, Peers: peers.Seen[[]peers.Peer]{Value: ps}})
		if !slices.Equal(m.asked, []string{"rabbit@b"}) || !ps[0].View.Known() || !slices.Equal(d.Peers, []string{"rabbit@b"}) {
			t.Errorf("asked %q, joins %q: %+v", m.asked, d.Peers, ps)
		}
		m = newMembers(nil, "")
		if m.ask(t.Context(), r, ps); len(m.asked) != 2 || ps[0].View.Known() || ps[3].View.Known() {
			t.Errorf("asked %q: %+v", m.asked, ps)
		}
	})
}
