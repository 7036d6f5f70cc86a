package rabbitmq

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// A name may hold what parts it from the word, and letters beyond Latin-1, on which
// ~s would fail for all queues at once.
func TestNamesOfQueues(t *testing.T) {
	t.Parallel()
	run := func(context.Context, ...string) (string, error) {
		return "queue|queue 'a|b' in vhost '/'|ok|\nqueue|queue 'очередь' in vhost '/'|{only_here,7}|\nnoise|x|\n", nil
	}
	said, err := CLI{Node: "a", Run: run}.perQueue(t.Context(), time.Second, "")
	want := map[string]string{"queue 'a|b' in vhost '/'": "ok", "queue 'очередь' in vhost '/'": "{only_here,7}"}
	if err != nil || !maps.Equal(said, want) {
		t.Errorf("got %q, %v", said, err)
	}
	for _, name := range []string{"mirror", "grow", "refill", "unavailable", "move"} {
		expr := erlang(name)
		if strings.Contains(expr, "queue|~s|") || !strings.Contains(expr, "queue|~ts|") {
			t.Errorf("it prints names by ~s:\n%s", expr)
		}
	}
}

// Each expression is asked in its turn, and what was said before one fails counts.
func TestGrowReplicas(t *testing.T) {
	for _, c := range []struct {
		name    string
		few     int
		refill  bool
		answers []string // one a question; "" is none
		asks    []string
		said    []Said
		fails   bool
	}{
		{name: "grown", few: 3, answers: []string{"queue|queue 'a' in vhost '/'|ok|"}, asks: []string{"Few = 3,"}, said: []Said{{"queue 'a' in vhost '/'", "ok"}}},
		{name: "what a wiped volume took", few: 1, answers: []string{"ok"}, asks: []string{"Few = 1,"}},
		{name: "refilled, too", few: 3, refill: true, answers: []string{"ok", "queue|a|ok|"}, asks: []string{"Few = 3,", "refill"}, said: []Said{{"a", "ok"}}},
		{name: "busy", few: 3, refill: true, answers: []string{""}, asks: []string{"Few = 3,"}, fails: true},
		{name: "busy later", few: 3, refill: true, answers: []string{"queue|a|later|", ""}, asks: []string{"Few = 3,", "refill"}, said: []Said{{"a", "later"}}, fails: true},
	} {
		var asked []string
		b := CLI{Node: "a", Run: func(_ context.Context, argv ...string) (string, error) {
			what := "refill"
			if expr := argv[len(argv)-1]; expr != erlang("refill") {
				what, _, _ = strings.Cut(expr, " Me")
			}
			asked = append(asked, what)
			if a := c.answers[len(asked)-1]; a != "" {
				return a + "\n", nil
			}
			return "", errors.New("no answer")
		}}
		said, err := b.GrowReplicas(t.Context(), c.few, c.refill)
		if !slices.Equal(asked, c.asks) || !slices.Equal(said, c.said) || (err != nil) != c.fails {
			t.Errorf("%s: asked %q, said %q, %v", c.name, asked, said, err)
		}
	}
}
