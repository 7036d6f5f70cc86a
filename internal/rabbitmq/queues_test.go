package rabbitmq

import (
	"context"
	"maps"
	"strings"
	"testing"
)

// A name may hold what parts it from the word, and letters beyond Latin-1, on which
// ~s would fail for all queues at once.
func TestNamesOfQueues(t *testing.T) {
	t.Parallel()
	run := func(context.Context, ...string) (string, error) {
		return "queue|queue 'a|b' in vhost '/'|ok|\nqueue|queue 'очередь' in vhost '/'|{only_here,7}|\nnoise|x|\n", nil
	}
	said, err := CLI{"a", run}.PerQueue(t.Context(), "")
	want := map[string]string{"queue 'a|b' in vhost '/'": "ok", "queue 'очередь' in vhost '/'": "{only_here,7}"}
	if err != nil || !maps.Equal(said, want) {
		t.Errorf("got %q, %v", said, err)
	}
	for _, name := range []string{"mirror", "grow", "refill", "unavailable", "move"} {
		expr := Erlang(name)
		if strings.Contains(expr, "queue|~s|") || !strings.Contains(expr, "queue|~ts|") {
			t.Errorf("it prints names by ~s:\n%s", expr)
		}
	}
}
