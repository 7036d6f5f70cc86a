package main

import (
	"maps"
	"math"
	"strings"
	"testing"
	"time"
)

func at(t *testing.T, text string) time.Time {
	t.Helper()
	when, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		t.Fatal(err)
	}
	return when
}

// A node of ours serves when RabbitMQ is ready and the companion has verified it, in whatever order; any other when it is
// ready.
func TestMarks(t *testing.T) {
	const (
		ready    = "2026-11-27T01:46:48.814324218Z 2026-11-27 01:46:48.813500+00:00 [info] <0.876.0> Server startup complete; 4 plugins started.\n"
		other    = "2026-11-27T01:46:48.900000000Z time=2026-11-27T01:46:48.9Z level=INFO msg=\"RabbitMQ is ready, verifying\" program=rmq-entrypoint\n"
		verified = "2026-11-27T01:46:49.468516174Z time=2026-11-27T01:46:49.466Z level=INFO msg=\"verified: this node is a member and serves\" program=rmq-entrypoint\n"
	)
	for _, c := range []struct {
		name  string
		lines []string
		ours  bool
		want  string // empty: it does not serve
	}{
		{"alone", []string{other, ready}, false, "2026-11-27T01:46:48.814324218Z"},
		{"ours", []string{ready, other, verified}, true, "2026-11-27T01:46:49.468516174Z"},
		{"ours, in the other order", []string{verified, other, ready}, true, "2026-11-27T01:46:48.814324218Z"},
		{"ours, not verified", []string{ready, other}, true, ""},
		{"ours, not ready", []string{verified, other}, true, ""},
		{"alone, not ready", []string{other, verified}, false, ""},
		{"without a time", []string{"x" + ready}, false, ""},
		{"nothing", []string{"", "\n"}, false, ""},
	} {
		m, got := marks{verified: !c.ours}, ""
		for _, line := range c.lines {
			if when, ok := m.read(line); ok {
				got = when.Format(time.RFC3339Nano)
				break
			}
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestGap(t *testing.T) {
	const ledger = `2026-11-22T01:02:03.000001Z produce 5f3a9c01 my-queue
2026-11-22T01:02:03.100000Z confirmed 5f3a9c01 1
2026-11-22T01:02:06.100000Z confirmed 5f3a9c01 2
2026-11-22T01:02:06.110000Z confirmed 5f3a9c01 3
2026-11-22T01:02:06.760000Z confirmed 5f3a9c01 4
2026-11-22T01:02:06.770000Z confirmed 5f3a9c01 5
2026-11-22T01:02:09.000001Z end 5f3a9c01 5
`
	for _, c := range []struct {
		after string
		want  time.Duration // negative: none
	}{
		{"0001-01-01T00:00:00Z", 3 * time.Second},
		{"2026-11-22T01:02:06.099Z", 3 * time.Second},
		{"2026-11-22T01:02:06.1Z", 650 * time.Millisecond}, // one that was over is not that of the kill
		{"2026-11-22T01:02:06.5Z", 650 * time.Millisecond}, // and one that had begun is: what was confirmed last was so before
		{"2026-11-22T01:02:06.76Z", 10 * time.Millisecond},
		{"2026-11-22T01:02:06.77Z", -1},
	} {
		got, err := gap(ledger, at(t, c.after))
		if (err != nil) != (c.want < 0) || err == nil && got != c.want {
			t.Errorf("after %s: %s, %v, want %s", c.after, got, err, c.want)
		}
	}
	for _, text := range []string{"", ledger[:strings.Index(ledger, "2026-11-22T01:02:06.1")], "yesterday confirmed 5f3a9c01 1\n"} {
		if got, err := gap(text, time.Time{}); err == nil {
			t.Errorf("%q has a gap of %s", text, got)
		}
	}
}

func TestBroker(t *testing.T) {
	line := func(n string) string {
		return "2026-11-27T01:46:48Z time=2026-11-27T01:46:48Z level=INFO msg=connected program=rmq-entrypoint broker=" + n + ":5672 queue=my-queue\n"
	}
	for log, want := range map[string]int{line("rabbit1"): 1, line("rabbit1") + line("rabbit3") + "more\n": 3, line("amqp://rabbit2"): 2, "": 0, "broker=rabbit1:5672\n": 0} {
		if got, err := broker(log); got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %d, %v, want %d", log, got, err, want)
		}
	}
}

func TestRequests(t *testing.T) {
	const log = `2026-11-27T01:00:00.000000000Z 2026-11-27T01:00:00.000Z [DEBUG] agent.http: Request finished: method=PUT url=/v1/agent/check/update/x from=172.18.0.3:41270 latency="88.1µs"
2026-11-27T01:00:30.000000000Z 2026-11-27T01:00:30.000Z [DEBUG] agent.http: Request finished: method=GET url=/v1/kv/a?consistent= from=172.18.0.3:41270 latency=1ms
2026-11-27T01:00:30.500000000Z 2026-11-27T01:00:30.500Z [DEBUG] agent: Node info in sync
2026-11-27T01:00:31.000000000Z 2026-11-27T01:00:31.000Z [DEBUG] agent.http: Request finished: method=GET url=/v1/kv/a?consistent= from=172.18.0.30:41270 latency=1ms
2026-11-27T01:01:00.000000000Z 2026-11-27T01:01:00.000Z [DEBUG] agent.http: Request finished: method=GET url=/v1/kv/a?consistent= from=172.18.0.3:41270 latency=1ms
`
	got := requests(log, at(t, "2026-11-27T01:00:00Z"), at(t, "2026-11-27T01:01:00Z"))
	if want := map[string]int{"172.18.0.3": 2, "172.18.0.30": 1}; !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := requests(log, at(t, "2026-11-27T01:00:00.1Z"), at(t, "2026-11-27T01:01:00.1Z")); got["172.18.0.3"] != 2 {
		t.Errorf("a tenth of a second later: %v", got)
	}
}

func TestUsed(t *testing.T) {
	const stat = "27 (rmq entry) (x) S 1 27 27 0 -1 1077936384 4000 0 0 0 150 50 30 20 20 0 9 0 123456 1270 4000\n"
	got, err := used(stat + "VmRSS:\t   10240 kB\n100\n")
	if err != nil || got.rss != 10 || math.Abs(got.cpu-2.5) > 1e-9 {
		t.Errorf("%+v, %v, want 10 MiB and 2.5 s", got, err)
	}
	whole := stat + "VmRSS:\t   10240 kB\n100\n"
	for _, text := range []string{
		"", stat, whole + whole, strings.Replace(whole, "VmRSS", "VmHWM", 1), strings.Replace(whole, "\n100", "\n0", 1),
		strings.Replace(whole, " 150 ", " x ", 1), strings.Replace(whole, "10240", "much", 1), "27 (a) S 1\nVmRSS: 1 kB\n100\n",
	} {
		if got, err := used(text); err == nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

func TestComplaints(t *testing.T) {
	for out, want := range map[string]string{
		"--- FAIL: BenchmarkStart\n    log\n    bench_test.go:95: the companion holds 14.6 MiB\n    harness_test.go:228: s8 of x:\n": "bench_test.go:95: the companion holds 14.6 MiB; harness_test.go:228: s8 of x:",
		"# rmq-entrypoint\nit does not build\n": "# rmq-entrypoint\nit does not build",
		strings.Repeat("x", 400):                strings.Repeat("x", 300),
	} {
		if got := complaints(out); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestMetric(t *testing.T) {
	const out = `goos: linux
BenchmarkStart 	       1	         9.500 MiB/companion	        31.20 ms/slowest	        12.25 ms/start
PASS
`
	for unit, want := range map[string]float64{"ms/start": 12.25, "ms/slowest": 31.2, "MiB/companion": 9.5} {
		if got, err := metric(out, unit); err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", unit, got, err, want)
		}
	}
	for _, unit := range []string{"s/start", "ms/star", "ns/op"} {
		if got, err := metric(out, unit); err == nil {
			t.Errorf("%s: %v", unit, got)
		}
	}
}
