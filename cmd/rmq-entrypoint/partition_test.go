package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/healthcheck"
)

// Whoever is apart from whom, of two that are apart one goes on, and nobody waits for everybody: every way in which up
// to five members can be partitioned, seen by both of a pair or by one.
func TestWhoGoesOn(t *testing.T) {
	t.Parallel()
	names := []string{"a", "b", "c", "d", "e"}
	for n := 2; n <= len(names); n++ {
		members := names[:n]
		var pairs [][2]string
		for i, a := range members {
			for _, b := range members[i+1:] {
				pairs = append(pairs, [2]string{a, b})
			}
		}
		for graph := range 1 << len(pairs) {
			for _, seen := range []string{"both", "first", "second", "in turn"} {
				ps := partitionMap{}
				for _, m := range members {
					ps[m] = nil
				}
				for i, p := range pairs {
					if graph&(1<<i) == 0 {
						continue
					}
					if seen != "second" && (seen != "in turn" || i%2 == 0) {
						ps[p[0]] = append(ps[p[0]], p[1])
					}
					if seen != "first" && (seen != "in turn" || i%2 == 1) {
						ps[p[1]] = append(ps[p[1]], p[0])
					}
				}
				goesOn := func(m string) bool { return len(ps.outranks(m, members)) == 0 }
				if !slices.ContainsFunc(members, goesOn) {
					t.Fatalf("%v: nobody goes on", ps)
				}
				for i, p := range pairs {
					ab, ba := ps.before(p[0], p[1], members), ps.before(p[1], p[0], members)
					if apart := graph&(1<<i) != 0; ab == ba || apart && goesOn(p[0]) && goesOn(p[1]) {
						t.Fatalf("%v: of %v both or neither go on", ps, p)
					}
				}
			}
		}
	}
}

func TestTheLargerSideGoesOn(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, members string
		sides         []string // everybody on one is apart from everybody on another
		goOn          string
	}{
		{"one of three", "a,b,c", []string{"a", "b,c"}, "b,c"},
		{"two of five, with the first name", "a,b,c,d,e", []string{"a,d", "b,c,e"}, "b,c,e"},
		{"a tie", "a,b,c,d", []string{"b,c", "a,d"}, "a,d"},
		{"two nodes", "a,b", []string{"a", "b"}, "a"},
		{"three sides", "a,b,c,d,e", []string{"a", "b,e", "c,d"}, "b,e"},
	} {
		members, ps := list(tc.members), partitionMap{}
		for _, side := range tc.sides {
			for _, m := range list(side) {
				ps[m] = slices.DeleteFunc(slices.Clone(members), func(o string) bool { return slices.Contains(list(side), o) })
			}
		}
		for _, m := range members {
			winners := ps.outranks(m, members)
			if on := slices.Contains(list(tc.goOn), m); on != (len(winners) == 0) || !on && !slices.ContainsFunc(winners, func(w string) bool { return slices.Contains(list(tc.goOn), w) }) {
				t.Errorf("%s: %s gives way to %v", tc.name, m, winners)
			}
		}
	}
}

// A node says what becomes of the partition, restarts when it is for it to do, and touches nothing otherwise.
func TestPartitioned(t *testing.T) {
	t.Parallel()
	const both = "a c, b c, c ab" // who says so, and of whom
	for _, tc := range []struct {
		name    string
		node    string
		ignores bool
		said    string
		check   healthcheck.State
		busy    bool // RabbitMQ does not take the order
		status  string
		says    []string
		winners string // it restarts to be one of these
	}{
		{name: "the smaller side", node: "c", said: both, status: api.HealthCritical, says: []string{"partitioned from a, b: a, b go on", "restarts here"}, winners: "'a', 'b'"},
		{name: "one of the others does not answer", node: "c", said: "b c, c ab", status: api.HealthCritical, says: []string{": b go on"}, winners: "'b'"},
		{name: "nobody answers", node: "c", said: "c ab", status: api.HealthCritical, says: []string{"partitioned from a, b, not all"}},
		{name: "it cannot be told to", node: "c", said: both, busy: true, status: api.HealthCritical, says: []string{"a, b go on", "not now"}, winners: "'a', 'b'"},
		{name: "the larger side", node: "a", said: both, check: healthcheck.Passing, status: api.HealthWarning, says: []string{"partitioned from c: a, b go on", "if they do not, restart them"}},
		{name: "while the other restarts", node: "b", said: "a c, b c", check: healthcheck.Passing, status: api.HealthWarning, says: []string{"a, b go on"}},
		{name: "with an alarm", node: "a", said: both, check: healthcheck.Warning, status: api.HealthWarning},
		{name: "RabbitMQ is not to pause", node: "c", ignores: true, said: both, status: api.HealthCritical, says: []string{"partitioned from a, b: restart the smaller side, or set cluster_partition_handling"}},
		{name: "not to pause, the larger side", node: "a", ignores: true, said: both, status: api.HealthCritical, says: []string{"partitioned from c: restart the smaller side"}},
	} {
		view := "view|id|a,b,c|a,b,c|%s|false|\n" + fmt.Sprintf("pauses|%t|\n", !tc.ignores)
		for _, s := range strings.Split(tc.said, ", ") {
			who, from, _ := strings.Cut(s, " ")
			from = strings.Join(strings.Split(from, ""), ",")
			if who == tc.node {
				view = fmt.Sprintf(view, from)
			}
			view += fmt.Sprintf("partitions|%s|%s|\n", who, from)
		}
		var told []string
		b := broker{tc.node, func(_ context.Context, argv ...string) (string, error) {
			if argv[len(argv)-1] == viewExpr {
				return view, nil
			}
			told = append(told, argv[len(argv)-1])
			if tc.busy {
				return "", errors.New("not now")
			}
			return "", nil
		}}
		v, err := b.view(t.Context(), tc.node)
		must(t, err)
		c := &companion{rt: runtimeFile{Config: config{Node: tc.node, TTL: 15 * time.Second}}, broker: b, log: slog.New(slog.DiscardHandler), view: v}
		status, reason := c.partitioned(t.Context(), healthcheck.Result{State: tc.check, Reason: "answers"})
		if status != tc.status {
			t.Errorf("%s: %s, %q", tc.name, status, reason)
		}
		says(t, reason, tc.says...)
		var want []string
		if tc.winners != "" {
			want = []string{fmt.Sprintf(rejoinExpr, tc.winners)}
		}
		if !slices.Equal(told, want) {
			t.Errorf("%s: told RabbitMQ %q", tc.name, told)
		}
		if (status == api.HealthCritical) != (c.wrong != "") { // what cannot be looked at again stays what it was
			t.Errorf("%s: remembered as %q", tc.name, c.wrong)
		}
	}
}

// While a node is partitioned RabbitMQ is asked with each beat, though nothing stirs: those who did not answer may now.
func TestPartitionIsLookedAtAgain(t *testing.T) {
	t.Parallel()
	for _, partitions := range []string{"b", ""} {
		asked := 0
		b := broker{"a", func(context.Context, ...string) (string, error) {
			asked++
			return fmt.Sprintf("view|id|a,b|a,b|%s|false|\n", partitions), nil
		}}
		nodes := func(context.Context) ([]healthcheck.Node, error) {
			return []healthcheck.Node{{Name: "a", Running: true, Known: true, Partitions: list(partitions)}, {Name: "b", Running: true}}, nil
		}
		c := &companion{rt: runtimeFile{Config: config{Node: "a", TTL: 15 * time.Second}}, broker: b, nodes: nodes}
		for range 3 {
			if why := c.look(t.Context(), 0, nil); why != "" {
				t.Error(why)
			}
			c.verified = true
		}
		if want := 1 + 2*len(partitions); asked != want {
			t.Errorf("partitions %q: asked %d times, want %d", partitions, asked, want)
		}
	}
}
