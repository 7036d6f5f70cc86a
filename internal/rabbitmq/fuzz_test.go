package rabbitmq

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
)

// Whatever RabbitMQ's command line prints is what it knows, or an error: no view is without the
// cluster's id and the node that was asked, and no node in it is without a name.
func FuzzEval(f *testing.F) {
	for _, out := range []string{
		"", "ok\n", "view|id|rabbit@a,rabbit@b|rabbit@a||true|rabbit@b|\npauses|true|false|\nok\n", "view||rabbit@a|||true|\n", "view|id|rabbit@b|rabbit@b||false|\n",
		"view|id|rabbit@a,,|,rabbit@a|,|false|,,|\nlistener|amqp|::|5672|false|\nlistener|amqp/ssl|10.0.0.7|70000|true|\nlistener|amqp|x|5672|false|\nside|rabbit@a|rabbit@a,|,|\n",
		"waits|rabbit@a,rabbit@b|rabbit@b|true|\n", "waits||||\n", "led|true|\n", "led|maybe|\n", "queues|5|\n", "queues|-1|\n", "queues|99999999999999999999|\n",
		"queue|queue 'a|b' in vhost '/'|ok|\nqueue||\nqueue|a|\n", "maintenance|true|\nstopping|true|\n", "view|" + strings.Repeat("|", 100),
	} {
		f.Add(out)
	}
	f.Fuzz(func(t *testing.T, out string) {
		const node = "rabbit@a"
		b := CLI{Node: node, Run: func(context.Context, ...string) (string, error) { return out, nil }}
		named := func(what string, lists ...[]string) {
			for _, names := range lists {
				if slices.Contains(names, "") || !slices.IsSorted(names) {
					t.Fatalf("%s: nodes %q", what, names)
				}
			}
		}
		v, err := b.View(t.Context(), node)
		switch {
		case err == nil && (v.ClusterID == "" || !slices.Contains(v.Members, node)), errors.Is(err, ErrNoClusterID) && !slices.Contains(v.Members, node):
			t.Fatalf("%+v, %v", v, err)
		case err != nil && len(err.Error()) > 2000:
			t.Fatalf("an error of %d characters", len(err.Error()))
		}
		named("view", v.Members, v.Running, v.Partitions, v.Connected)
		for _, l := range v.Listeners {
			if l.Port < 1 || l.Port > 65535 || net.ParseIP(l.IP) == nil {
				t.Fatalf("%+v", l)
			}
		}
		for n, side := range v.Sides {
			if n == "" {
				t.Fatalf("%+v", v.Sides)
			}
			named("side of "+n, side.With, side.From)
		}
		if members, waits, _, err := b.Waits(t.Context()); err == nil {
			if named("waits", members, waits); len(members) == 0 {
				t.Fatal("it waits, and has no members")
			}
		}
		if n, err := b.Queues(t.Context()); err == nil && n < 0 {
			t.Fatalf("%d queues", n)
		}
		if _, err := b.HasLeader(t.Context(), node); err == nil && !strings.Contains(out, "led|") {
			t.Fatalf("a leader, or none, by %q", out)
		}
		all, err := b.GrowReplicas(t.Context(), 3, true)
		for _, s := range all {
			if err != nil || strings.ContainsAny(s.Word, "|\n") || strings.Contains(s.Name, "\n") {
				t.Fatalf("%+v, %v", s, err)
			}
		}
		if drained, err := b.Drained(t.Context()); err == nil && drained && !strings.Contains(out, "maintenance|true|") {
			t.Fatal("drained")
		}
	})
}
