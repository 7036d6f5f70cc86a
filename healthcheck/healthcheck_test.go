package healthcheck

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestOneConnectionIsKept(t *testing.T) {
	noLeaks(t)
	var p *peer
	s := serve(t, nil, func(q *peer, c call) bool { p = q; return false })
	c := checker(t, Options{URLs: []string{s.url()}})
	for range 3 {
		want(t, look(t, c), Passing, s.ln.Addr().String())
	}
	if n := s.accepted.Load(); n != 1 {
		t.Errorf("%d connections for three checks", n)
	}
	c.Close()
	s.stop()
	beat := []call{chOpen, txSelect, publish, txRollback, chClose}
	calls := slices.Concat([]call{startOk, tuneOk, open}, beat, beat, beat, []call{connClose})
	if !slices.Equal(p.calls, calls) {
		t.Errorf("the server saw\n%v, want\n%v", p.calls, calls)
	}
	for _, w := range []string{Name, "\x1cauthentication_failure_closet\x01", "\x00alice\x00" + secret} {
		if !strings.Contains(p.startOk, w) {
			t.Errorf("the client did not say %q of itself: %q", w, p.startOk)
		}
	}
	if _, open := <-c.Closed(); open {
		t.Error("Closed delivered our own goodbye")
	}
	want(t, look(t, c), Critical, "closed")
	c.Close()
}

func TestDefaults(t *testing.T) {
	c := checker(t, Options{})
	if u := c.targets[0].uri; c.targets[0].label != "amqp://127.0.0.1:5672" || u.Username != "guest" || u.Password != "guest" || u.Vhost != "/" {
		t.Errorf("got %+v", c.targets[0])
	}
}

// Whatever the peer does, and whenever: Critical, in time, and nothing is left.
func TestFaults(t *testing.T) {
	faults := map[string]func(p *peer, at call){
		"black hole": func(p *peer, _ call) {},
		"hang up":    func(p *peer, _ call) { p.Close() },
		"reset":      func(p *peer, _ call) { p.Conn.(*net.TCPConn).SetLinger(0); p.Close() },
		"garbage":    func(p *peer, _ call) { p.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\nwho are you?")) },
		"wrong": func(p *peer, at call) { // answers to other calls
			for _, c := range []call{open, chOpen, txSelect} {
				if c != at {
					p.Write(answers[c])
				}
			}
		},
		"header": func(p *peer, _ call) {
			p.Write([]byte{2, 0, 0, 0, 0, 0, 14, 0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xCE})
		},
		"forced": func(p *peer, _ call) { p.Write(closing(0, 541, "INTERNAL_ERROR\nin two lines")) },
		"drip": func(p *peer, _ call) { // a goodbye that never ends
			p.Write([]byte{1, 0, 0, 0, 0, 8, 0, 0, 10, 0, 50, 1, 64, 255})
			for {
				if _, err := p.Write([]byte{0}); err != nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		},
	}
	for _, at := range []call{header, startOk, open, chOpen, txSelect, txRollback, chClose} {
		for name, fault := range faults {
			if at == header && name == "wrong" {
				continue
			}
			t.Run(fmt.Sprint(name, " at ", at), func(t *testing.T) {
				noLeaks(t)
				s := serve(t, nil, func(p *peer, c call) bool {
					if c == at {
						fault(p, at)
					}
					return c == at
				})
				c := checker(t, Options{URLs: []string{s.url()}, Timeout: 200 * time.Millisecond})
				r := look(t, c)
				want(t, r, Critical, s.ln.Addr().String())
				if name == "black hole" || name == "drip" {
					want(t, r, Critical, "no answer within")
				}
				if r.Stopping || r.Draining {
					t.Errorf("got %+v", r)
				}
				want(t, look(t, c), Critical)
			})
		}
	}
}

func TestRefused(t *testing.T) {
	noLeaks(t)
	s := serve(t, nil, nil)
	c := checker(t, Options{URLs: []string{s.url()}})
	want(t, look(t, c), Passing)
	s.stop()
	if r := told(t, c); r.Code != 0 || r.Stopping || r.Text == "" {
		t.Errorf("got %+v", r)
	}
	want(t, look(t, c), Critical, s.ln.Addr().String(), "connection refused")
}

func TestServerSaysWhy(t *testing.T) {
	for _, tt := range []struct {
		code               uint16
		text               string
		stopping, draining bool
	}{
		{320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'", true, false},
		{320, "CONNECTION_FORCED - Node was put into maintenance mode", false, true},
		{320, "CONNECTION_FORCED - Closed via management plugin", false, false},
		{541, "INTERNAL_ERROR - shutdown", false, false},
	} {
		t.Run(tt.text, func(t *testing.T) {
			noLeaks(t)
			peers := make(chan *peer, 9)
			s := serve(t, nil, func(p *peer, c call) bool {
				if c == header {
					peers <- p
				}
				return false
			})
			c := checker(t, Options{URLs: []string{s.url()}})
			want(t, look(t, c), Passing)
			next(t, peers, timeout).Write(closing(0, tt.code, tt.text))
			r := told(t, c)
			if r.Code != int(tt.code) || !strings.Contains(r.Text, tt.text) || r.Stopping != tt.stopping || r.Draining != tt.draining {
				t.Errorf("got %+v", r)
			}
			if tt.stopping { // who takes connections at that moment may be anybody
				want(t, look(t, c), Critical, "shut down", "shutdown")
			}
			if tt.draining { // and as long as RabbitMQ does not say that it is back
				for range 2 {
					want(t, look(t, c), Critical, "in maintenance mode", "listens, and is told nothing")
				}
				c.Resumed()
			}
			// A node that takes connections again is not stopping any more.
			if r := look(t, c); r.State != Passing || r.Stopping || r.Draining {
				t.Errorf("after reconnecting: %+v", r)
			}
			next(t, peers, timeout).Write(closing(0, tt.code, tt.text))
			told(t, c)
			s.stop()
			for range 2 {
				if r := look(t, c); r.State != Critical || r.Stopping != tt.stopping || r.Draining != tt.draining {
					t.Errorf("while it refuses connections: %+v", r)
				}
			}
		})
	}
}

// The client's answer to the server's goodbye may find the connection reset.
func TestServerSaysWhyAndLeaves(t *testing.T) {
	noLeaks(t)
	peers := make(chan *peer, 1)
	s := serve(t, nil, func(p *peer, c call) bool {
		if c == header {
			peers <- p
		}
		return false
	})
	c := checker(t, Options{URLs: []string{s.url()}})
	for range 50 {
		if r := look(t, c); r.State != Passing {
			t.Fatalf("got %+v", r)
		}
		c.conn.raw.(*net.TCPConn).CloseWrite()
		next(t, peers, timeout).Write(closing(0, 320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'"))
		if r := told(t, c); !r.Stopping {
			t.Fatalf("got %+v", r)
		}
		want(t, look(t, c), Critical, "shutdown")
	}
}

func TestServerClosesDuringCheck(t *testing.T) {
	noLeaks(t)
	peers := make(chan *peer, 1)
	s := serve(t, nil, func(p *peer, c call) bool {
		if c != txRollback {
			return false
		}
		select {
		case peers <- p: // the first one is shut down, and the listener before it
			p.Write(closing(0, 320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'"))
			return true
		default:
			return false
		}
	})
	c := checker(t, Options{URLs: []string{s.url()}})
	r := look(t, c)
	want(t, r, Critical, "shutdown")
	if !r.Stopping || !told(t, c).Stopping {
		t.Errorf("got %+v", r)
	}
	want(t, look(t, c), Passing)
}

func TestAliveButNotForUs(t *testing.T) {
	for name, tt := range map[string]struct {
		at     call
		answer []byte
		words  []string
	}{
		"password": {startOk, closing(0, 403, "ACCESS_REFUSED - Login was refused"), []string{"alice", "RABBITMQ_DEFAULT_USER", "RMQ_AMQP_URL", "Login was refused"}},
		"vhost":    {open, closing(0, 530, "NOT_ALLOWED - vhost nope not found"), []string{"RABBITMQ_DEFAULT_VHOST", "RMQ_AMQP_URL", "not found"}},
		"vhost's limit": {open, closing(0, 530, "NOT_ALLOWED - access to vhost '/' refused for user 'alice': connection limit (1) is reached"),
			[]string{`limit of connections to virtual host "/" is reached, so the node is alive`, "rabbitmqctl set_vhost_limits", "RMQ_AMQP_URL", "connection limit (1) is reached"}},
		"user's limit": {open, closing(0, 530, "NOT_ALLOWED - connection refused for user 'alice': user connection limit (7) is reached"),
			[]string{`limit of connections of user "alice" is reached`, "rabbitmqctl set_user_limits", "user connection limit (7) is reached"}},
		"node's limit": {open, closing(0, 530, "NOT_ALLOWED - connection refused: node connection limit (9) is reached"),
			[]string{"limit of connections of this node is reached", "connection_max", "node connection limit (9) is reached"}},
		"limit unknown": {open, closing(0, 530, "NOT_ALLOWED - access to vhost '/' refused for user 'alice': connection limit cannot be queried, timeout"),
			[]string{"cannot tell whether the limit", "asked again", "timeout"}},
		"no permission": {open, closing(0, 530, "NOT_ALLOWED - access to vhost 'limit' refused for user 'alice'"),
			[]string{`virtual host "/" is not open to user "alice"`, "RABBITMQ_DEFAULT_VHOST", "access to vhost"}},
		"mechanism": {header, method(0, 10, 10, "\x00\x09"+long("")+long("EXTERNAL")+long("en_US")),
			[]string{"RMQ_AMQP_URL", "mechanism"}},
		"channel": {chOpen, closing(0, 530, "NOT_ALLOWED"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			s := serve(t, nil, func(p *peer, c call) bool {
				if c == tt.at {
					p.Write(tt.answer)
				}
				return c == tt.at
			})
			c := checker(t, Options{URLs: []string{s.url()}})
			state := Warning
			if tt.words == nil {
				state = Critical // logged in, and no channel: not fit to serve
			}
			want(t, look(t, c), state, tt.words...)
			want(t, look(t, c), state, tt.words...)
		})
	}
}

func TestChannelRefused(t *testing.T) {
	noLeaks(t)
	s := serve(t, nil, func(p *peer, c call) bool {
		if c == txSelect {
			p.Write(closing(p.channel, 406, "PRECONDITION_FAILED"))
		}
		return c == txSelect
	})
	c := checker(t, Options{URLs: []string{s.url()}})
	want(t, look(t, c), Warning, "PRECONDITION_FAILED")
	want(t, look(t, c), Warning, "PRECONDITION_FAILED")
}

func TestNextURL(t *testing.T) {
	noLeaks(t)
	hole := serve(t, nil, func(*peer, call) bool { return true })
	s := serve(t, nil, nil)
	refused := serve(t, nil, nil)
	refused.stop()
	c := checker(t, Options{URLs: []string{hole.url(), refused.url(), s.url()}, Timeout: 3 * time.Second})
	want(t, look(t, c), Passing, s.ln.Addr().String())
	s.stop()
	want(t, look(t, c), Critical, hole.ln.Addr().String()+": no answer", refused.ln.Addr().String(), s.ln.Addr().String())
}

func TestCancelled(t *testing.T) {
	for _, at := range []call{startOk, txSelect} {
		noLeaks(t)
		reached := make(chan struct{}, 9)
		s := serve(t, nil, func(p *peer, c call) bool {
			if c == at {
				reached <- struct{}{}
			}
			return c == at
		})
		c := checker(t, Options{URLs: []string{s.url()}, Timeout: time.Minute})
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-reached; cancel() }()
		want(t, c.Check(ctx), Critical, "cancel")
		go func() { <-reached; c.Close() }()
		want(t, c.Check(t.Context()), Critical)
		c.Close()
	}
}

func TestChecksTakeTurns(t *testing.T) {
	noLeaks(t)
	s := serve(t, nil, nil)
	c := checker(t, Options{URLs: []string{s.url()}, Timeout: 10 * time.Second})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { want(t, c.Check(t.Context()), Passing) })
	}
	wg.Wait()
	if n := s.accepted.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// A node says where it listens: the checks go there, over the connection there is if that is
// where it goes.
func TestMove(t *testing.T) {
	noLeaks(t)
	s, other := serve(t, nil, nil), serve(t, nil, nil)
	c := checker(t, Options{URLs: []string{"amqp://127.0.0.1:1"}})
	want(t, look(t, c), Critical, "127.0.0.1:1")
	for _, step := range []struct {
		urls    []string
		at      *stub
		s, more int32 // connections
	}{
		{[]string{s.url()}, s, 1, 0},
		{[]string{s.url(), other.url()}, s, 1, 0},
		{[]string{other.url()}, other, 1, 1},
		{nil, other, 1, 1},
	} {
		if err := c.Move(step.urls, nil); err != nil {
			t.Fatal(err)
		}
		want(t, look(t, c), Passing, step.at.ln.Addr().String())
		if a, b := s.accepted.Load(), other.accepted.Load(); a != step.s || b != step.more {
			t.Errorf("%q: %d and %d connections", step.urls, a, b)
		}
	}
	if err := c.Move([]string{"http://h"}, nil); err == nil {
		t.Error("no error")
	}
	want(t, look(t, c), Passing, other.ln.Addr().String())
	if len(c.Closed()) > 0 {
		t.Errorf("told of %+v", <-c.Closed())
	}
	c.Close()
	if err := c.Move([]string{s.url()}, nil); err != nil {
		t.Error(err)
	}
}

func TestBadURLs(t *testing.T) {
	for _, url := range []string{
		"http://alice:" + secret + "@127.0.0.1",
		"amqp://alice:" + secret + "#@127.0.0.1",
		"amqp://alice:" + secret + "%zz@127.0.0.1",
		"amqp://alice:" + secret + " @127.0.0.1",
		"amqp://alice:" + secret + "@127.0.0.1?auth_mechanism=magic",
		"amqps://alice:" + secret + "@127.0.0.1?cacertfile=/nonexistent",
		"amqps://alice:" + secret + "@127.0.0.1?certfile=/nonexistent",
		"",
	} {
		_, err := New(Options{URLs: []string{"amqp://localhost", url}})
		if err == nil || !strings.HasPrefix(err.Error(), "AMQP URL 2: ") || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestSteady(t *testing.T) {
	pass := Result{State: Passing, Reason: "answers"}
	warn := Result{State: Warning, Reason: "alarm", Alarm: "low on memory"}
	miss := Result{State: Critical, Reason: "no answer"}
	stop := Result{State: Critical, Reason: "shut down", Stopping: true}
	drain := Result{State: Critical, Reason: "maintenance", Draining: true}
	for name, tt := range map[string]struct {
		seen []Result
		want []State
	}{
		"starts critical":      {[]Result{miss, pass, warn}, []State{Critical, Passing, Warning}},
		"one miss":             {[]Result{pass, miss, pass, miss, pass}, []State{Passing, Passing, Passing, Passing, Passing}},
		"one miss in an alarm": {[]Result{warn, miss, pass}, []State{Warning, Warning, Passing}},
		"two misses":           {[]Result{pass, miss, miss, miss, pass}, []State{Passing, Passing, Critical, Critical, Passing}},
		"stopping":             {[]Result{pass, stop}, []State{Passing, Critical}},
		"draining":             {[]Result{pass, drain, pass}, []State{Passing, Critical, Passing}},
		"stopping in a miss":   {[]Result{pass, miss, stop}, []State{Passing, Passing, Critical}},
	} {
		t.Run(name, func(t *testing.T) {
			var s Steady
			for i, r := range tt.seen {
				got := s.Next(r)
				if got.State != tt.want[i] {
					t.Errorf("step %d: got %s, want %s", i, got.State, tt.want[i])
				}
				if forgiven := got.State != r.State; got.Missed != forgiven {
					t.Errorf("step %d: got %+v, want that a miss was forgiven: %v", i, got, forgiven)
				}
				if got.State == r.State && got != r {
					t.Errorf("step %d: got %+v, want %+v", i, got, r)
				}
				if got.State != r.State && (!strings.Contains(got.Reason, r.Reason) || got.Alarm != tt.seen[0].Alarm) {
					t.Errorf("step %d: got %+v", i, got)
				}
			}
		})
	}
}
