package companion

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/expect"
)

func TestLeftBehind(t *testing.T) {
	t.Parallel()
	long, now := time.Now().Add(-2*LeaveGrace), time.Now()
	r := peers.Record{State: peers.Formed, Members: map[string]string{"a": "va", "b": "vb", "c": "vc", "d": "vd"}}
	for _, c := range []struct {
		name          string
		r             peers.Record
		members, runs string
		node          string
		want          string
	}{
		{"left long ago, still listed", r.Left("c", "", long), "a,b,c,d", "a,b,d", "a", "c"},
		{"not mine to do", r.Left("c", "", long), "a,b,c,d", "a,b,d", "b", ""},
		{"the first one is down", r.Left("c", "", long), "a,b,c,d", "b,d", "b", "c"},
		{"the first one has left, too", r.Left("c", "", long).Left("a", "", now), "a,b,c,d", "a,b,d", "b", "c"},
		{"only just", r.Left("c", "", now), "a,b,c,d", "a,b,d", "a", ""},
		{"it runs", r.Left("c", "", long), "a,b,c,d", "a,b,c,d", "a", ""},
		{"forgotten", r.Left("c", "", long), "a,b,d", "a,b,d", "a", ""},
		{"came up blank", r.Without("c", "", long), "a,b,c,d", "a,b,d", "a", ""},
		{"came back", r.Left("c", "", long).With("c", "vnew"), "a,b,c,d", "a,b,d", "a", ""},
	} {
		got := leftBehind(c.r, peers.View{Members: rabbitmq.List(c.members), Running: rabbitmq.List(c.runs)}, c.node)
		if strings.Join(got, ",") != c.want {
			t.Errorf("%s: %q", c.name, got)
		}
	}
}

// What the order means to the companion, and when a revived node is believed.
func TestOutOfService(t *testing.T) {
	t.Parallel()
	const ttl = 15 * time.Second
	passing, critical := healthcheck.Result{State: healthcheck.Passing}, healthcheck.Result{State: healthcheck.Critical}
	long := time.Now().Add(-ttl)
	for _, c := range []struct {
		name  string
		order *statedir.Maintenance
		busy  bool // the command works on it
		r     healthcheck.Result
		want  string
		gone  bool // the order
	}{
		{"no order", nil, false, passing, "", true},
		{"being drained", &statedir.Maintenance{At: long}, true, passing, "being drained", false},
		{"drained", &statedir.Maintenance{Drained: true, Done: true, At: long}, false, critical, "drained since", false},
		{"revived", &statedir.Maintenance{Drained: true, Done: true, At: long}, false, passing, "", true},
		{"just drained, a first miss counts as passing", &statedir.Maintenance{Drained: true, Done: true, At: time.Now()}, false, passing, "drained since", false},
		{"no maintenance mode", &statedir.Maintenance{Done: true, At: long}, false, passing, "drained since", false},
		{"interrupted, listeners closed", &statedir.Maintenance{At: long}, false, critical, "the drain did not end: run rmq-entrypoint drain again", false},
		{"interrupted before that", &statedir.Maintenance{At: long}, false, passing, "", true},
	} {
		v := testVolume(t)
		if c.busy {
			seat, err := statedir.TryLock(v.State, statedir.OperatorLock)
			expect.Must(t, err)
			defer seat.Close()
		}
		if c.order != nil {
			expect.Must(t, v.WriteMaintenance(*c.order))
		}
		k := Companion{log: slog.New(slog.DiscardHandler), serving: true, rt: statedir.Runtime{Config: config.Config{Node: "a", TTL: ttl, Data: v.Data, StateDir: v.State}}}
		got := k.outOfService(t.Context(), c.r)
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) || k.out != (c.want != "") {
			t.Errorf("%s: %q, out %v", c.name, got, k.out)
		}
		if left, err := v.Maintenance(); err != nil || (left == nil) != c.gone {
			t.Errorf("%s: the order is %+v, %v", c.name, left, err)
		}
	}
}
