package main

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// marks are the lines of a node's log by which it serves.
type marks struct {
	ready, verified bool
}

// read takes one line of docker logs -t, and says when the node served: at the last of its marks.
func (m *marks) read(line string) (time.Time, bool) {
	stamp, text, _ := strings.Cut(line, " ")
	switch {
	case strings.Contains(text, "Server startup complete"):
		m.ready = true
	case strings.Contains(text, `msg="verified: this node is a member`):
		m.verified = true
	default:
		return time.Time{}, false
	}
	at, err := time.Parse(time.RFC3339Nano, stamp)
	return at, err == nil && m.ready && m.verified
}

// gap returns the longest time between two confirms of a producer's ledger of which the later one came after that moment.
// A ledger without a confirm before it and one after it has no such gap.
func gap(ledger string, after time.Time) (time.Duration, error) {
	var last time.Time
	longest := time.Duration(-1)
	for line := range strings.Lines(ledger) {
		f := strings.Fields(line)
		if len(f) != 4 || f[1] != "confirmed" {
			continue
		}
		at, err := time.Parse(time.RFC3339Nano, f[0])
		if err != nil {
			return 0, fmt.Errorf("read the ledger: %w", err)
		}
		if !last.IsZero() && at.After(after) {
			longest = max(longest, at.Sub(last))
		}
		last = at
	}
	if longest < 0 {
		return 0, fmt.Errorf("the ledger has no confirms before %s and after it", after.UTC().Format(time.RFC3339))
	}
	return longest, nil
}

var connected = regexp.MustCompile(`msg=connected .*\bbroker=\S*?rabbit(\d)\b`)

// broker returns the number of the node that a client's log says it is connected to, the last one.
func broker(log string) (int, error) {
	all := connected.FindAllStringSubmatch(log, -1)
	if len(all) == 0 {
		return 0, errors.New("the client is not connected")
	}
	return strconv.Atoi(all[len(all)-1][1])
}

var requested = regexp.MustCompile(`^(\S+) .*agent\.http: Request finished: .*\bfrom=([0-9.]+):\d+`)

// requests counts the requests in Consul's log, of docker logs -t, from one moment until another, by who sent them.
func requests(log string, from, until time.Time) map[string]int {
	count := map[string]int{}
	for line := range strings.Lines(log) {
		m := requested.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		if at, err := time.Parse(time.RFC3339Nano, m[1]); err == nil && !at.Before(from) && at.Before(until) {
			count[m[2]]++
		}
	}
	return count
}

// A usage is what a process holds and has used.
type usage struct {
	rss float64 // MiB
	cpu float64 // seconds since its start, with those of the programs that it ran to their end
	at  time.Time
}

// used reads the three lines that [look] prints: stat and VmRSS of the process, and the clock ticks of a second.
func used(text string) (u usage, err error) {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) != 3 {
		return u, fmt.Errorf("%d lines about companions, where one has 3: %.80q", len(lines), text)
	}
	stat := strings.Fields(lines[0][strings.LastIndex(lines[0], ")")+1:]) // its name may have blanks
	kib := strings.Fields(lines[1])
	ticks, err := strconv.ParseFloat(lines[2], 64)
	if err != nil || ticks <= 0 || len(stat) < 15 || len(kib) != 3 || kib[0] != "VmRSS:" {
		return u, fmt.Errorf("not what is known of a process: %.200q", text)
	}
	for _, field := range stat[11:15] { // utime, stime, cutime, cstime: 14 to 17 in proc(5)
		n, err := strconv.ParseFloat(field, 64)
		if err != nil {
			return u, fmt.Errorf("read a process's times: %w", err)
		}
		u.cpu += n / ticks
	}
	n, err := strconv.ParseFloat(kib[1], 64)
	u.rss = n / 1024
	return u, err
}

var complaint = regexp.MustCompile(`\w+_test\.go:\d+: .+`)

// complaints are what a test says of itself, of all that go test printed.
func complaints(out string) string {
	if all := complaint.FindAllString(out, 3); len(all) > 0 {
		return strings.Join(all, "; ")
	}
	return strings.TrimSpace(out[max(0, len(out)-300):])
}

// metric returns a value of that unit in what go test -bench printed.
func metric(out, unit string) (float64, error) {
	m := regexp.MustCompile(`(?m)^Benchmark\w+.*\s([0-9.]+) ` + regexp.QuoteMeta(unit) + `(\s|$)`).FindStringSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("go test -bench printed no %s: %.200s", unit, strings.TrimSpace(out))
	}
	return strconv.ParseFloat(m[1], 64)
}
