package main

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/scripts/benchmark/fleet"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

// A small fleet goes through all of it, with real servers of Consul.
func TestScale(t *testing.T) {
	t.Setenv("RMQ_TEST_CONSUL", consultest.Program(t))
	expect.Must(t, scalable([]int{10}))
	s, err := scaleTo(t.Context(), 10, lengths{start: 200 * time.Millisecond, settle: 3 * time.Second, steady: 15 * time.Second})
	expect.Must(t, err)
	t.Logf("%+v", s)
	// An idle node sends 14 requests a minute; soon after its start, and on a busy machine, there are more among them.
	if s.Nodes != 10 || s.Each < 8 || s.Requests <= 0 || s.CPU <= 0 || s.Memory < 10 || s.Links < 1 || s.Files < 20 || s.Beats[0] <= 0 {
		t.Errorf("a fleet with which nothing happens: %+v", s)
	}
	for what, f := range map[string]fault{"killed": s.Killed, "returned": s.Returned, "restarted": s.Restarted} {
		if f.Leader <= 0 || f.Told <= 0 || f.Peak < 5 || f.Unready > 0 {
			t.Errorf("%s: %+v", what, f)
		}
	}
	if s.Killed.Unfound < 3 || s.Killed.Whole <= 0 { // of ten nodes three or four told the leader
		t.Errorf("the leader's own nodes were not missed: %+v", s.Killed)
	}
}

func TestFault(t *testing.T) {
	began := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	after := func(s int) time.Time { return began.Add(time.Duration(s) * time.Second) }
	var f fault
	f.take([]fleet.Seen{
		{At: after(1), Passing: 10},
		{At: after(2), Passing: 7, Entries: 13, Unready: []string{"a"}},
		{At: after(3), Err: errors.New("no leader")},
		{At: after(4), Passing: 10, Lapsed: []string{"x"}},
		{At: after(5), Passing: 9, Lapsed: []string{"x", "y"}, Unready: []string{"a", "b"}},
		{At: after(6), Passing: 10, Entries: 12},
		{At: after(7), Passing: 10, Entries: 10},
	}, began, 10)
	if want := (fault{Unfound: 3, Whole: 6 * time.Second, Left: 3, Cleared: 7 * time.Second, Lapsed: 2, Unready: 2}); f != want {
		t.Errorf("%+v, want %+v", f, want)
	}
	f = fault{}
	if f.take([]fleet.Seen{{At: after(1), Passing: 10}}, began, 10); f != (fault{}) {
		t.Errorf("nothing was lost: %+v", f)
	}
}

func TestFleetTable(t *testing.T) {
	small := scaling{
		Nodes: 100, Requests: 24.4, Each: 14.64, Leaders: 2.04, CPU: 0.051, Memory: 140, Beats: [3]time.Duration{1500 * time.Microsecond, 12 * time.Millisecond, 1250 * time.Millisecond}, Files: 190, Links: 3.5,
		Killed: fault{Leader: 2100 * time.Millisecond, Unfound: 34, Whole: 9 * time.Second, Told: 11 * time.Second, Peak: 300}, Returned: fault{Left: 33, Cleared: 4 * time.Second},
		Restarted: fault{Leader: 3 * time.Second, Lapsed: 2, Told: 8 * time.Second, Peak: 120, Refused: 7},
	}
	large := small
	large.Nodes, large.Requests, large.CPU = 1000, 244, 0.40
	table := fleetTable([]scaling{small, large}, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), 0.2)
	for _, line := range []string{
		"| nodes | 100 | 1000 |\n|---|---|---|\n", "| requests to Consul, in a second | 24.4 | 244 |\n", "| CPU of the leader, of one core | 5.10 % | 40 % |\n",
		"| a heartbeat: median, 95 %, longest | 1.5 ms, 12 ms, 1.2 s |", "there is another after | 2.1 s | 2.1 s |\n", "| entries besides that nodes had left with it, and until they are gone | 33, 4.0 s |",
		"refused in all | 120; 7 | 120; 7 |\n", "| until it hands out all for good | – |", "no faster", "1.00 times the requests", "0.78 times the CPU",
	} {
		if !strings.Contains(table, line) {
			t.Errorf("the table lacks %q:\n%s", line, table)
		}
	}
	for line := range strings.Lines(table) {
		if !strings.HasPrefix(line, "|") && len([]rune(strings.TrimSpace(line))) > longestLine {
			t.Errorf("too long for the documentation: %s", line)
		}
	}
	large.Killed.Never, large.Killed.Told, large.Returned, large.Restarted = "no report of x", 0, fault{}, fault{}
	table = fleetTable([]scaling{small, large}, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), 0.2)
	for _, line := range []string{"| until Consul has a report of each node | 11.0 s | not in time |\n", "there is a leader after | 3.0 s | not tried |\n", "| nodes that stopped serving | 0 | not tried |\n"} {
		if !strings.Contains(table, line) {
			t.Errorf("the table lacks %q:\n%s", line, table)
		}
	}
	large.Each = 20
	if text := linear(small, large); !strings.Contains(text, "faster than the nodes") || !strings.Contains(text, "1.37 times the requests") {
		t.Error(text)
	}
	large.Each, large.CPU = small.Each, 0.65
	if text := linear(small, large); !strings.Contains(text, "faster than the nodes") {
		t.Error(text)
	}
	if text := linear(small, small); !strings.Contains(text, "One fleet") {
		t.Error(text)
	}
}

// What is missing is said before anything is started.
func TestScalable(t *testing.T) {
	t.Setenv("RMQ_TEST_CONSUL", "/nowhere/consul")
	if err := scalable([]int{100}); err == nil || !strings.Contains(err.Error(), "RMQ_TEST_CONSUL") {
		t.Errorf("without the program: %v", err)
	}
	t.Setenv("RMQ_TEST_CONSUL", "/bin/true")
	if err := scalable([]int{1 << 30}); err == nil || !strings.Contains(err.Error(), "ulimit -n") {
		t.Errorf("with more nodes than files: %v", err)
	}
	t.Setenv("RMQ_TEST_CONSUL", "")
	t.Setenv("PATH", "")
	if _, err := consulProgram(); err == nil || !strings.Contains(err.Error(), "-only") {
		t.Errorf("with no program anywhere: %v", err)
	}
}

// A Consul that ends at once, as one with a setting that it does not know, is told with its words.
func TestScaleWithoutConsul(t *testing.T) {
	script := t.TempDir() + "/consul"
	expect.Must(t, os.WriteFile(script, []byte("#!/bin/sh\necho 'no such flag' >&2\nexit 1\n"), 0o755))
	t.Setenv("RMQ_TEST_CONSUL", script)
	_, err := scaleTo(t.Context(), 5, usual)
	if err == nil || !strings.Contains(err.Error(), "no such flag") {
		t.Errorf("%v", err)
	}
}

// The table of fleets goes to its place, and the other one stays.
func TestFleetTableIsPut(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := fleets.put("new"); err == nil {
		t.Error("put into no document")
	}
	expect.Must(t, os.Mkdir("docs", 0o755))
	text := "# Title\n" + figures.begin + "\nkept\n" + figures.end + "\n" + fleets.begin + "\nold\n" + fleets.end + "\nend\n"
	expect.Must(t, os.WriteFile(document, []byte(text), 0o644))
	expect.Must(t, fleets.put("new\n"))
	got, err := os.ReadFile(document)
	expect.Must(t, err)
	if want := strings.Replace(text, "\nold\n", "\n\nnew\n\n", 1); string(got) != want {
		t.Errorf("%s", got)
	}
}
