package healthcheck

import (
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
