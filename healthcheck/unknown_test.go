package healthcheck

import (
	"net"
	"os"
	"syscall"
	"testing"
)

// Without a file descriptor nothing is seen: that is neither an answer nor a silence, and no
// reason to wait before the next try.
func TestWithoutDescriptors(t *testing.T) {
	noLeaks(t)
	s := serve(t, nil, nil)
	c := checker(t, Options{URLs: []string{s.url()}})
	want(t, look(t, c), Passing)
	c.Close()
	c = checker(t, Options{URLs: []string{s.url()}})

	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := limit
	none.Cur = 3
	set := func(l syscall.Rlimit) {
		t.Helper()
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
			t.Fatal(err)
		}
	}
	defer set(limit)
	set(none)
	if _, err := os.Open(os.DevNull); err == nil {
		t.Fatal("there are descriptors left")
	}
	var steady Steady
	steady.Next(Result{State: Warning, Reason: "alarm", Alarm: "low on memory"})
	for range 3 {
		r := look(t, c)
		if r.Stopping || r.Draining || !r.Unknown {
			t.Errorf("it saw %+v", r)
		}
		if kept := steady.Next(r); kept.State != Warning || kept.Alarm == "" || !kept.Unknown || !kept.Missed {
			t.Errorf("what is unknown made %+v of an alarm", kept)
		}
	}
	set(limit)
	want(t, look(t, c), Passing)
	c.Close()
	s.stop()
}

// As long as anybody may listen there, nothing is said to who does.
func TestListens(t *testing.T) {
	noLeaks(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan int, 10)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				close(got)
				return
			}
			n, _ := conn.Read(make([]byte, 100))
			conn.Close()
			got <- n
		}
	}()
	c := checker(t, Options{URLs: []string{"amqp://alice:" + secret + "@" + ln.Addr().String()}})
	for range 3 {
		want(t, c.Listens(t.Context()), Passing, "listens")
		if n := <-got; n != 0 {
			t.Errorf("it was told %d bytes", n)
		}
	}
	ln.Close()
	<-got
	want(t, c.Listens(t.Context()), Critical, "refused")
	c.Close()
}

// A server that says that it stops frees its port: the check that hears of it tells nobody else
// the password, and the next one does not either, until it is ready again.
func TestNoLoginAfterAStop(t *testing.T) {
	noLeaks(t)
	s := serve(t, nil, func(p *peer, c call) bool {
		if c == chOpen {
			p.Write(closing(0, 320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'"))
		}
		return c == chOpen
	})
	c := checker(t, Options{URLs: []string{s.url()}})
	for i := range 2 {
		c.Ready()
		r := look(t, c)
		if want(t, r, Critical); !r.Stopping || s.accepted.Load() != int32(i+1) {
			t.Errorf("it saw %+v, on %d connections", r, s.accepted.Load())
		}
	}
	c.Close()
	s.stop()
}

// A server that goes into maintenance mode frees its port, too, for as long as it is in it: whoever listens meanwhile is
// told nothing, and makes no node pass, until RabbitMQ says that it is back.
func TestNoLoginInMaintenance(t *testing.T) {
	noLeaks(t)
	words := closing(0, 320, "CONNECTION_FORCED - Node was put into maintenance mode")
	for name, at := range map[string]call{"kept": connClose, "lost in a check": chOpen, "at the login": startOk} {
		peers := make(chan *peer, 9)
		s := serve(t, nil, func(p *peer, c call) bool {
			if c == header {
				peers <- p
			}
			if c == at {
				p.Write(words)
			}
			return c == at
		})
		c := checker(t, Options{URLs: []string{s.url()}})
		if r := look(t, c); at == connClose {
			want(t, r, Passing)
			next(t, peers, timeout).Write(words)
			told(t, c)
		}
		look(t, c)
		logins := len(peers)
		for range 3 {
			r := look(t, c)
			want(t, r, Critical, "in maintenance mode", "listens", "is told nothing until RabbitMQ says that it is back")
			if !r.Draining || !r.Listens || r.Stopping {
				t.Errorf("%s: %+v", name, r)
			}
		}
		c.Listens(t.Context()) // which an order asks for, changes nothing of that
		if r := look(t, c); !r.Listens || len(peers) != logins {
			t.Errorf("%s: %+v, and %d logins more", name, r, len(peers)-logins)
		}
		for _, back := range []func(){c.Resumed, c.Ready} {
			if back(); at == connClose {
				want(t, look(t, c), Passing)
				next(t, peers, timeout).Write(words)
				told(t, c)
				look(t, c)
			}
		}
		s.stop()
		if r := look(t, c); r.State != Critical || !r.Draining && at == connClose || r.Listens {
			t.Errorf("%s: nobody listens: %+v", name, r)
		}
		c.Close()
	}
}
