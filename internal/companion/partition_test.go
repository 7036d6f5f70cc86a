package companion

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
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

// Whoever runs with whom, of two that are apart one goes on, and somebody does: every way in which up to four members
// can see each other, alike or not, some of them stopped or silent.
func TestWhoGoesOn(t *testing.T) {
	t.Parallel()
	names := []string{"a", "b", "c", "d"}
	for n := 2; n <= len(names); n++ {
		members := names[:n]
		for seen := range 1 << (n * n) { // by i of j, and by i of itself when it runs
			for silent := range 1 << n {
				if n == 4 && silent > 1 {
					break
				}
				s := sides{}
				for i, a := range members {
					runs := seen&(1<<(i*n+i)) != 0
					if silent&(1<<i) != 0 && !runs {
						continue
					}
					var side peers.Side
					for j, b := range members {
						switch sees := seen&(1<<(i*n+j)) != 0; {
						case runs && !sees:
							side.From = append(side.From, b)
						case runs && seen&(1<<(j*n+j)) != 0:
							side.With = append(side.With, b)
						}
					}
					s[a] = side
				}
				goesOn := func(m string) bool { return s.runs(m) && len(s.stronger(m, members)) == 0 }
				if winners := s.winners(members); slices.ContainsFunc(members, s.runs) != (len(winners) > 0) || slices.ContainsFunc(winners, func(m string) bool { return !goesOn(m) }) {
					t.Fatalf("%v: %v go on", s, winners)
				}
				for i, a := range members {
					for _, b := range members[i+1:] {
						apart := !slices.Contains(s[a].With, b) || !slices.Contains(s[b].With, a)
						if s.before(a, b, members) == s.before(b, a, members) || apart && goesOn(a) && goesOn(b) {
							t.Fatalf("%v: of %s and %s both or neither go on", s, a, b)
						}
						if !apart && (slices.Contains(s.stronger(a, members), b) || slices.Contains(s.stronger(b, members), a)) {
							t.Fatalf("%v: %s and %s run together, and one gives way to the other", s, a, b)
						}
					}
				}
			}
		}
	}
}

func TestTheLargerSideGoesOn(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, sides, stopped, silent, goOn string }{
		{"one of three", "a bc", "", "", "bc"},
		{"two of five, with the first name", "ad bce", "", "", "bce"},
		{"a tie", "bc ad", "", "", "ad"},
		{"two nodes", "a b", "", "", "a"},
		{"three sides", "a be cd", "", "", "be"},
		{"the others have stopped", "b ac", "ac", "", "b"},
		{"one of the larger side has died since", "a bc", "", "b", "c"},
		{"one of the larger side has stopped since", "a bc", "b", "", "c"},
		{"one of the smaller side has stopped", "ab cde", "a", "", "cde"},
	} {
		members := strings.Split(strings.ReplaceAll(tc.sides, " ", ""), "")
		slices.Sort(members)
		s := sides{}
		for _, side := range strings.Fields(tc.sides) {
			for _, m := range strings.Split(side, "") {
				switch {
				case strings.Contains(tc.silent, m):
				case strings.Contains(tc.stopped, m):
					s[m] = peers.Side{}
				default:
					s[m] = peers.Side{
						With: slices.DeleteFunc(strings.Split(side, ""), func(o string) bool { return strings.Contains(tc.stopped+tc.silent, o) }),
						From: slices.DeleteFunc(slices.Clone(members), func(o string) bool { return strings.Contains(side, o) }),
					}
				}
			}
		}
		if got := strings.Join(s.winners(members), ""); got != tc.goOn {
			t.Errorf("%s: %s go on", tc.name, got)
		}
	}
}

// The network comes back in steps: c is not connected to a yet, runs apart from it all the same, and does not count for it.
func TestPictureIsNotWhole(t *testing.T) {
	t.Parallel()
	s := sides{"a": {With: rabbitmq.List("a"), From: rabbitmq.List("b")}, "b": {With: rabbitmq.List("b,c"), From: rabbitmq.List("a")}, "c": {With: rabbitmq.List("b,c")}}
	if got := s.winners(rabbitmq.List("a,b,c")); !slices.Equal(got, rabbitmq.List("b,c")) {
		t.Errorf("%v go on", got)
	}
}

// A node says what becomes of the partition, restarts when it is for it to do, and touches nothing otherwise.
func TestPartitioned(t *testing.T) {
	t.Parallel()
	const later, again, third = 15 * time.Second, 50 * time.Second, 70 * time.Second // since it is partitioned, and from again on since RabbitMQ restarted
	all := "a ab, b ab, c c"                                                         // who runs with whom
	for _, tc := range []struct {
		name    string
		node    string
		members string // default a,b,c
		from    string // whom it is partitioned from; default: who does not run with it
		ignores bool
		sides   string
		since   time.Duration
		check   healthcheck.State
		busy    bool // RabbitMQ does not take the order
		status  string
		says    []string
		rejoins bool
	}{
		{name: "the smaller side", node: "c", sides: all, status: api.HealthCritical, says: []string{"partitioned from a, b: a, b go on", "restarts here"}, rejoins: true},
		{name: "it cannot be told to", node: "c", sides: all, busy: true, status: api.HealthCritical, says: []string{"a, b go on", "not now"}, rejoins: true},
		{name: "it was told to just now", node: "c", sides: all, since: again, status: api.HealthCritical, says: []string{"a, b go on", "already", "1m0s"}},
		{name: "and again", node: "c", sides: all, since: third, status: api.HealthCritical, says: []string{": a, b go on, RabbitMQ restarts here"}, rejoins: true},
		{name: "it cannot be told to again", node: "c", sides: all, since: third, busy: true, status: api.HealthCritical, says: []string{"not now"}, rejoins: true},
		{name: "its own Mnesia has stopped", node: "c", from: "ab", sides: "a ab, b ab, c ", since: later, status: api.HealthCritical, says: []string{"its Mnesia has stopped"}},
		{name: "one of the others does not answer yet", node: "c", sides: "b ab, c c", status: api.HealthCritical, says: []string{"partitioned from a, b, and a do not answer"}},
		{name: "one of the others does not answer", node: "c", sides: "b ab, c c", since: later, status: api.HealthCritical, says: []string{": b go on"}, rejoins: true},
		{name: "nobody answers", node: "c", sides: "c c", since: later, status: api.HealthCritical, says: []string{"partitioned from a, b, and a, b do not answer"}},
		{name: "the larger side", node: "a", sides: all, check: healthcheck.Passing, status: api.HealthWarning, says: []string{"partitioned from c: a, b go on", "if they do not, restart them"}},
		{name: "the larger side while the other does not answer", node: "a", sides: "a ab, b ab", check: healthcheck.Passing, status: api.HealthWarning, says: []string{"c do not answer"}},
		{name: "the larger side while the other never answers", node: "a", sides: "a ab, b ab", since: later, check: healthcheck.Passing, status: api.HealthWarning, says: []string{"a, b go on"}},
		{name: "while the other restarts", node: "b", from: "c", sides: "a ab, b ab, c ", check: healthcheck.Passing, status: api.HealthWarning, says: []string{"a, b go on"}},
		{name: "with an alarm", node: "a", sides: all, check: healthcheck.Warning, status: api.HealthWarning, says: []string{"answers; partitioned from c"}},
		{name: "a tie, one of the losers has stopped", node: "a", members: "a,b,c,d", from: "cd", sides: "a ab, b ab, c , d d", check: healthcheck.Passing, status: api.HealthWarning, says: []string{"a, b go on"}},
		{name: "a tie, one of the others does not answer", node: "a", members: "a,b,c,d", from: "cd", sides: "a ab, b ab, d d", since: later, check: healthcheck.Passing, status: api.HealthCritical, says: []string{"c do not answer"}},
		{name: "a tie, one of the others does not answer yet", node: "a", members: "a,b,c,d", from: "cd", sides: "a ab, b ab, d d", check: healthcheck.Passing, status: api.HealthCritical, says: []string{"c do not answer"}},
		{name: "RabbitMQ is not to pause", node: "c", ignores: true, sides: all, status: api.HealthCritical, says: []string{"partitioned from a, b: restart the smaller side", "cluster_partition_handling"}},
		{name: "not to pause, the larger side", node: "a", ignores: true, sides: all, check: healthcheck.Passing, status: api.HealthCritical, says: []string{"partitioned from c: restart the smaller side"}},
	} {
		members, from, said := tc.members, tc.from, ""
		if members == "" {
			members = "a,b,c"
		}
		for _, s := range strings.Split(tc.sides, ", ") {
			who, side, _ := strings.Cut(s, " ")
			apart := strings.Join(slices.DeleteFunc(rabbitmq.List(members), func(m string) bool { return side == "" || strings.Contains(side, m) }), ",")
			said += fmt.Sprintf("side|%s|%s|%s|\n", who, strings.Join(strings.Split(side, ""), ","), apart)
			if who == tc.node && from == "" {
				from = strings.ReplaceAll(apart, ",", "")
			}
		}
		view := fmt.Sprintf("view|id|%[1]s|%[1]s|%s|false|\npauses|%t|\n", members, strings.Join(strings.Split(from, ""), ","), !tc.ignores) + said
		var told []string
		b := rabbitmq.CLI{Node: tc.node, Run: func(_ context.Context, argv ...string) (string, error) {
			if argv[len(argv)-1] == rabbitmq.Erlang("view") {
				return view, nil
			}
			told = append(told, argv[len(argv)-1])
			if tc.busy {
				return "", errors.New("not now")
			}
			return "", nil
		}}
		v, err := b.View(t.Context(), tc.node)
		expect.Must(t, err)
		c := &Companion{rt: statedir.Runtime{Config: config.Config{Node: tc.node, TTL: 15 * time.Second}}, broker: b, log: slog.New(slog.DiscardHandler), view: v, booted: "stopped"}
		if tc.since > 0 {
			c.partedAt = time.Now().Add(-tc.since)
		}
		if tc.since >= again {
			c.rejoinAt = time.Now().Add(-tc.since)
		}
		status, reason := c.partitioned(t.Context(), healthcheck.Result{State: tc.check, Reason: "answers"})
		if status != tc.status {
			t.Errorf("%s: %s, %q", tc.name, status, reason)
		}
		expect.Says(t, reason, tc.says...)
		if want := slices.Repeat([]string{rabbitmq.Erlang("rejoin")}, map[bool]int{true: 1}[tc.rejoins]); !slices.Equal(told, want) {
			t.Errorf("%s: told RabbitMQ %q", tc.name, told)
		}
		if rejoins := tc.rejoins && !tc.busy; rejoins != strings.Contains(c.word(), "go on") || !strings.HasSuffix(c.word(), "stopped") {
			t.Errorf("%s: while RabbitMQ does not run it says %q", tc.name, c.word())
		}
		// What cannot be looked at again stays what it was.
		c.verified = true
		if again, why := c.unknown(healthcheck.Result{State: tc.check}, errors.New("no leader")); again != status || !strings.Contains(why, "partitioned from") {
			t.Errorf("%s: unknown is %s, %q", tc.name, again, why)
		}
	}
}

// A partition is found and healed whether or not Consul answers, the node is verified, serves, or is drained; what was
// wrong because of it is forgotten when it has ended.
func TestPartitionIsFound(t *testing.T) {
	t.Parallel()
	agent := consultest.Start(t)
	r := peers.Record{State: peers.Formed, ClusterID: "id", Members: map[string]string{"a": "va", "b": "vb", "c": "vc"}}
	passing := healthcheck.Result{State: healthcheck.Passing, Reason: "answers"}
	for _, tc := range []struct {
		name       string
		partitions string
		away       bool // Consul
		unverified bool
		critical   bool // the AMQP check
		drained    bool
		heals      bool
		status     string
		says       string
	}{
		{name: "partitioned", partitions: "a,b", heals: true, status: api.HealthCritical, says: "partitioned from a, b: a, b go on"},
		{name: "without Consul", partitions: "a,b", away: true, heals: true, status: api.HealthCritical, says: "partitioned from a, b: a, b go on"},
		{name: "without Consul, not verified", partitions: "a,b", away: true, unverified: true, heals: true, status: api.HealthCritical, says: "not verified"},
		{name: "AMQP fails, too", partitions: "a,b", critical: true, heals: true, status: api.HealthCritical, says: "answers; partitioned from a, b"},
		{name: "drained", partitions: "a,b", drained: true, heals: true, status: api.HealthCritical, says: "drained since"},
		{name: "over", status: api.HealthPassing, says: "answers"},
		{name: "over, without Consul", away: true, status: api.HealthPassing, says: "not checked against the record"},
		{name: "over, AMQP fails", critical: true, status: api.HealthCritical, says: "answers"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			asked := 0
			b := rabbitmq.CLI{Node: "c", Run: func(_ context.Context, argv ...string) (string, error) {
				if argv[len(argv)-1] == rabbitmq.Erlang("view") {
					return fmt.Sprintf("view|id|a,b,c|a,b,c|%s|false|\npauses|true|\nside|a|a,b|c|\nside|b|a,b|c|\nside|c|c|a,b|\n", tc.partitions), nil
				}
				asked++
				return "", nil
			}}
			v := testVolume(t)
			cfg := config.Config{Node: "c", TTL: 15 * time.Second, Consul: []string{agent.Addr}, KeyPrefix: "test", Service: strings.ReplaceAll(tc.name, " ", "-"), Data: v.Data, StateDir: v.State}
			if tc.away {
				cfg.Consul = []string{"127.0.0.1:1"}
			}
			if tc.drained {
				expect.Must(t, v.WriteMaintenance(statedir.Maintenance{Drained: true, Done: true, At: time.Now()}))
			}
			_, err := peers.WriteRecord(t.Context(), agent.Client, cfg.RecordKey(), r, 0, "", "")
			expect.Must(t, err)
			c := &Companion{rt: statedir.Runtime{Config: cfg, Role: statedir.Member, Volume: "vc"}, broker: b, log: slog.New(slog.DiscardHandler), consul: consul.New(cfg, slog.New(slog.DiscardHandler)),
				serving: true, verified: !tc.unverified}
			if tc.partitions == "" { // there was one
				c.partedAt, c.wrong, c.view.Partitions = time.Now(), "partitioned from a, b", rabbitmq.List("a,b")
			}
			result := passing
			if tc.critical {
				result.State = healthcheck.Critical
			}
			status, reason := c.judge(t.Context(), result)
			if tc.heals != (asked == 1) || status != tc.status || !strings.Contains(reason, tc.says) {
				t.Errorf("asked %d times, %s, %q", asked, status, reason)
			}
			if over := tc.partitions == ""; over != c.partedAt.IsZero() || over != (c.wrong == "") {
				t.Errorf("partitioned since %s: %q", c.partedAt, c.wrong)
			}
		})
	}
}

// While a node is partitioned RabbitMQ is asked with each beat, though nothing stirs: those who did not answer may now.
func TestPartitionIsLookedAtAgain(t *testing.T) {
	t.Parallel()
	for _, partitions := range []string{"b", ""} {
		asked := 0
		b := rabbitmq.CLI{Node: "a", Run: func(context.Context, ...string) (string, error) {
			asked++
			return fmt.Sprintf("view|id|a,b|a,b|%s|false|\n", partitions), nil
		}}
		nodes := func(context.Context) ([]healthcheck.Node, error) {
			return []healthcheck.Node{{Name: "a", Running: true, Known: true, Partitions: rabbitmq.List(partitions)}, {Name: "b", Running: true}}, nil
		}
		c := &Companion{rt: statedir.Runtime{Config: config.Config{Node: "a", TTL: 15 * time.Second}}, broker: b, nodes: nodes}
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
