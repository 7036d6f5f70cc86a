package healthcheck

import (
	"strings"
	"sync"
	"testing"
	"time"
)

func TestBlocked(t *testing.T) {
	noLeaks(t)
	var alarm sync.Mutex // held while there is one
	peers := make(chan *peer, 9)
	s := serve(t, nil, func(p *peer, c call) bool {
		if c == header {
			peers <- p
		}
		if c == publish && !alarm.TryLock() {
			p.Write(blocked("low on memory"))
			alarm.Lock() // nothing is read any more
		}
		if c == publish {
			alarm.Unlock()
		}
		return false
	})
	c := checker(t, Options{URLs: []string{s.url()}})
	want(t, look(t, c), Passing)
	p := next(t, peers, timeout)
	alarm.Lock()
	for range 3 {
		start := time.Now()
		r := look(t, c)
		want(t, r, Warning, "low on memory")
		if r.Alarm != "low on memory" || time.Since(start) > timeout/2 {
			t.Errorf("after %s: %+v", time.Since(start), r)
		}
	}
	alarm.Unlock()
	p.Write(unblocked())
	for r := look(t, c); r.State != Passing; r = look(t, c) {
		want(t, r, Warning)
	}

	alarm.Lock()
	want(t, look(t, c), Warning)
	p.Close() // a blocked node that dies is dead
	told(t, c)
	next(t, c.conn.gone, timeout) // told just before
	s.ln.Close()
	want(t, look(t, c), Critical, "refused")
	alarm.Unlock()
	if n := s.accepted.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// Closing does not wait for a server that reads nothing.
func TestCloseWhileBlocked(t *testing.T) {
	noLeaks(t)
	s := serve(t, nil, func(p *peer, c call) bool {
		if c == publish {
			p.Write(blocked("low on disk"))
			<-t.Context().Done()
		}
		return false
	})
	c := checker(t, Options{URLs: []string{s.url()}})
	want(t, look(t, c), Warning, "low on disk")
	start := time.Now()
	c.Close()
	if took := time.Since(start); took > timeout/2 {
		t.Errorf("Close took %s", took)
	}
}

// A blocked node sends nothing but heartbeats; without them it is gone.
func TestBlockedThenSilent(t *testing.T) {
	noLeaks(t)
	s := serve(t, nil, func(p *peer, c call) bool {
		if c == publish {
			p.Write(blocked("low on memory"))
			<-t.Context().Done()
		}
		return false
	})
	c := checker(t, Options{URLs: []string{s.url()}})
	want(t, look(t, c), Warning)
	r := next(t, c.Closed(), 3*heartbeat)
	if r.Code != 0 || !strings.Contains(r.Text, "timeout") {
		t.Errorf("got %+v", r)
	}
}

// Without the right to publish the node is checked all the same.
func TestMayNotPublish(t *testing.T) {
	noLeaks(t)
	published := 0
	s := serve(t, nil, func(p *peer, c call) bool {
		if c == publish {
			published++
			p.Write(closing(p.channel, 403, "ACCESS_REFUSED - write access refused"))
		}
		return c == publish || c == txRollback
	})
	c := checker(t, Options{URLs: []string{s.url()}})
	for range 3 {
		want(t, look(t, c), Passing)
	}
	s.stop()
	if published != 1 {
		t.Errorf("published %d times: every refusal is an error in the server's log", published)
	}
}
