package companion

import (
	"errors"
	"testing"
	"time"

	"rmq-entrypoint/internal/policy"
)

// What fails with each heartbeat is no line of the log with each: the same warning comes once a
// minute, whatever is said between; what happens is said each time, and a state when it changes.
func TestLogIsNotToldAgain(t *testing.T) {
	t.Parallel()
	began := time.Now()
	full := policy.Line{Level: policy.Warn, Text: "cannot write the marker", Attrs: []any{"err", errors.New("no space left")}}
	other := policy.Line{Level: policy.Warn, Text: full.Text, Attrs: []any{"err", errors.New("read-only")}}
	failure := policy.Line{Level: policy.Error, Text: "the server does not stop"}
	event := policy.Line{Level: policy.Info, Text: "registered"}
	waits := policy.Line{Text: "not verified", Once: true}
	splits := policy.Line{Level: policy.Warn, Text: "partitioned", Once: true}
	var s saying
	for i, c := range []struct {
		line  policy.Line
		after time.Duration
		again bool
	}{
		{full, 0, false},
		{full, 5 * time.Second, true},
		{other, 6 * time.Second, false},
		{failure, 7 * time.Second, false},
		{failure, 8 * time.Second, true},
		{event, 9 * time.Second, false},
		{event, 10 * time.Second, false},
		{waits, 10 * time.Second, false},
		{waits, 11 * time.Second, true},
		{splits, 12 * time.Second, false},
		{waits, 13 * time.Second, false},
		{full, warnEvery - 1, true},
		{full, warnEvery, false},
		{full, warnEvery + 5*time.Second, true},
		{waits, 2 * warnEvery, true},
		{full, 2 * warnEvery, false},
	} {
		if got := s.again(c.line, began.Add(c.after)); got != c.again {
			t.Errorf("%d: %q after %s is left out: %t", i, c.line.Text, c.after, got)
		}
	}
	if s.again(failure, began.Add(time.Hour)); len(s.warned) != 1 {
		t.Errorf("it remembers %v", s.warned)
	}
}
