package rabbitmq

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/tests/expect"
)

// The server is told nodes' names and nothing else, itself last, and what it says is read.
func TestOpenGate(t *testing.T) {
	var calls []string
	out := "gate|told|\nok"
	b := CLI{Node: "a@h", Run: func(_ context.Context, argv ...string) (string, error) {
		calls = append(calls, strings.Join(argv, " "))
		return out, nil
	}}
	knew, err := b.OpenGate(t.Context(), []string{"b@h", "c@h"}, time.UnixMicro(17), "")
	expect.Must(t, err)
	if knew || len(calls) != 1 || !strings.HasPrefix(calls[0], "rabbitmqctl -q -n a@h eval Nodes = ['b@h','c@h','a@h'], After = 17, Names = [],") {
		t.Errorf("%t, %q", knew, calls)
	}
	out = "gate|knew|\nok"
	if knew, err = b.OpenGate(t.Context(), nil, time.Time{}, "it's"); err != nil || !knew || !strings.Contains(calls[1], `Nodes = ['a@h'], After = 0, Names = [<<"it's"`) {
		t.Errorf("%t, %v, %q", knew, err, calls)
	}
	out = "gate|elder|\nok"
	if knew, err = b.OpenGate(t.Context(), nil, time.Time{}, ""); !errors.Is(err, ErrElder) || knew {
		t.Errorf("%t, %v", knew, err)
	}
	out = "ok"
	if knew, err = b.OpenGate(t.Context(), nil, time.Time{}, ""); err == nil || errors.Is(err, ErrElder) || knew {
		t.Errorf("%t, %v", knew, err)
	}
	calls = nil
	if _, err := b.OpenGate(t.Context(), []string{"b@h']), halt(), (['"}, time.Time{}, ""); err == nil || len(calls) > 0 {
		t.Errorf("%v, %q", err, calls)
	}
}
