package admin

import (
	"context"
	"errors"
	"strings"
	"testing"

	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/peers"
)

// Without this node no majority would be left, and those that go on only with one
// would stand still.
func TestCritical(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, running, handling string // "": no answer
		khepri                  bool
		want                    string
	}{
		{"all run", "a,b,c", "", false, ""},
		{"Khepri", "a,b", "{ok,ignore}", true, "without it there is no majority"},
		{"Mnesia that ignores", "a,b", "{ok,ignore}", false, ""},
		{"Mnesia that pauses", "a,b", "{ok,pause_minority}", false, "without it there is no majority"},
		{"Mnesia that does not tell", "a,b", "", false, "without it there is no majority"},
	} {
		run := func(_ context.Context, argv ...string) (string, error) {
			if argv[0] == "rabbitmqctl" && c.handling == "" {
				return "", errors.New("no answer")
			}
			return c.handling, nil
		}
		o := operator{broker: rabbitmq.CLI{Node: "a", Run: run}}
		got := o.critical(t.Context(), peers.View{Members: names("a,b,c"), Running: names(c.running), Khepri: c.khepri})
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q", c.name, got)
		}
	}
}
