package companion

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

// Who is told that it can never go on by itself, who is offered to carry on, and who is left alone because a member
// that is still on record may bring what it waits for.
func TestStranded(t *testing.T) {
	t.Parallel()
	agent := consultest.Start(t)
	gone := func(names ...string) map[string]peers.Gone {
		m := map[string]peers.Gone{}
		for _, n := range names {
			m[n] = peers.Gone{At: time.Now(), Why: "came up blank"}
		}
		return m
	}
	unjoined := func(names ...string) map[string]peers.Gone {
		m := map[string]peers.Gone{}
		for _, n := range names {
			m[n] = peers.Gone{At: time.Now(), Why: "its join came to nothing", Unjoined: true}
		}
		return m
	}
	both := func(m, more map[string]peers.Gone) map[string]peers.Gone { maps.Copy(m, more); return m }
	members := func(names ...string) map[string]string {
		m := map[string]string{}
		for _, n := range names {
			m[n] = "v-" + n
		}
		return m
	}
	left := func(ago time.Duration, name string) map[string]peers.Gone {
		return map[string]peers.Gone{name: {At: time.Now().Add(-ago), Why: "told to", Left: true}}
	}
	const khepri, mnesia, offer = "4.3.6", "4.0.5", "force-boot --cluster-id id"
	for _, tc := range []struct {
		name    string
		version string
		serving bool
		members string // as RabbitMQ lists them; "" when it cannot be asked
		noID    bool   // it cannot read its data
		running string
		waits   string // whom Mnesia waits for
		paused  bool
		on      map[string]string
		gone    map[string]peers.Gone
		up      map[string]string // status in Consul of other members
		want    []string          // in the story; none: nothing is said
		lost    string            // force-boot is offered without these
		given   bool              // the order is given without asking anybody
	}{
		{name: "all on record", version: khepri, members: "a,b,c", on: members("a", "b", "c")},
		{name: "one of three lost", version: khepri, members: "a,b,c", on: members("a", "b"), gone: gone("c")},
		{name: "two of three lost", version: khepri, members: "a,b,c", on: members("a"), gone: gone("b", "c"), want: []string{"b, c", offer}, lost: "b,c"},
		{name: "two of three lost while it serves", version: khepri, serving: true, members: "a,b,c", on: members("a"), gone: gone("b", "c"), want: []string{"b, c", offer}, lost: "b,c"},
		{name: "half lost", version: khepri, members: "a,b", on: members("a"), gone: gone("b"), want: []string{"GOOD: b came up blank", "delete the key", "; otherwise carry on from this copy: rmq-entrypoint " + offer}, lost: "b"},
		{name: "RabbitMQ forgot them, or never knew them", version: khepri, serving: true, members: "a", on: members("a"), gone: gone("b", "c")},
		{name: "it cannot be asked", version: khepri, on: members("a"), gone: gone("b", "c")},
		{name: "two copies of four", version: khepri, members: "a,b,c,d", on: members("a", "b"), gone: gone("c", "d"), want: []string{"c, d", "a, b hold a copy each", "2026-01-02", "delete the key", "wipe all copies but the newest"}},
		{name: "two of three lost right after it joined", version: khepri, members: "a,b,c", noID: true, on: members("a"), gone: gone("b", "c"), want: []string{"b, c", offer}, lost: "b,c"},
		{name: "a join came to nothing", version: khepri, serving: true, members: "a,b", on: members("a"), gone: unjoined("b"), want: []string{"the join of b came to nothing"}, given: true},
		{name: "a join came to nothing, and another is about to join", version: khepri, serving: true, members: "a,b", on: members("a", "c"), gone: unjoined("b"), want: []string{"the join of b came to nothing"}, given: true},
		{name: "one of two lost, and another is about to join", version: khepri, members: "a,b", on: members("a", "c"), gone: gone("b"), want: []string{"GOOD: b came up blank", "carry on from this copy", offer}, lost: "b"},
		{name: "off an earlier day's record, and it runs", version: khepri, serving: true, members: "a,b", running: "a,b", on: members("a"), gone: unjoined("b")},
		{name: "a join came to nothing, and another one is lost", version: khepri, members: "a,b,c", on: members("a"), gone: both(unjoined("b"), gone("c")), want: []string{"GOOD: b, c came up blank", offer}, lost: "b,c"},
		{name: "joins came to nothing, and two hold a copy each", version: khepri, members: "a,b,c,d", on: members("a", "b"), gone: unjoined("c", "d"), want: []string{"c, d", "hold a copy each"}},
		{name: "off the record itself", version: khepri, members: "a,b,c", on: members("b"), gone: gone("a", "c")},
		{name: "half left in good order", version: khepri, serving: true, members: "a,b", on: members("a"), gone: left(time.Minute, "b")},
		{name: "half left long ago, and still has a vote", version: khepri, members: "a,b", on: members("a"), gone: left(time.Hour, "b"), want: []string{"GOOD: b left with nothing lost", "in time; carry on from this copy: rmq-entrypoint " + offer}, lost: "b"},
		{name: "one just left", version: mnesia, members: "a,b", waits: "b", on: members("a"), gone: left(time.Minute, "b")},
		{name: "serving goes on", version: mnesia, serving: true, members: "a,b,c", waits: "b", on: members("a"), gone: gone("b", "c")},
		{name: "alone", version: mnesia, members: "a,b,c", waits: "b,c", on: members("a"), gone: gone("b", "c"), want: []string{"b, c", offer}, lost: "b,c"},
		{name: "alone, stopped last", version: mnesia, members: "a,b,c", on: members("a"), gone: gone("b", "c")},
		{name: "paused, and no majority ever", version: mnesia, members: "a,b,c", paused: true, on: members("a"), gone: gone("b", "c"), want: []string{"b, c", offer}, lost: "b,c"},
		{name: "paused, a majority may come", version: mnesia, members: "a,b,c", paused: true, on: members("a", "b"), gone: gone("c"), up: map[string]string{"b": "critical"}},
		{name: "Mnesia cannot be asked", version: mnesia, on: members("a"), gone: gone("b", "c")},
		{name: "another copy serves", version: mnesia, members: "a,b,c", waits: "b,c", on: members("a", "b"), gone: gone("c"), up: map[string]string{"b": "passing"}},
		{name: "another copy is not started", version: mnesia, members: "a,b,c", waits: "b,c", on: members("a", "b"), gone: gone("c")},
		{name: "another copy waits, too", version: mnesia, members: "a,b,c", waits: "b,c", on: members("a", "b"), gone: gone("c"), up: map[string]string{"b": "critical"}, want: []string{"GOOD: c", "a, b hold a copy each", "2026-01-02", "the newest copy", offer}, lost: "c"},
		{name: "another copy waits, this one for it alone", version: mnesia, members: "a,b,c", waits: "b", on: members("a", "b"), gone: gone("c"), up: map[string]string{"b": "critical"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := testVolume(t)
			expect.Must(t, v.WriteMarker(statedir.Marker{ClusterID: "id", Volume: "v-a", Members: []string{"a"}, At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}))
			service := strings.ReplaceAll(tc.name, " ", "-")
			for n, status := range tc.up {
				reg := peers.Registration{Service: service, Node: n, Address: "127.0.0.1", Port: 1, TTL: time.Hour, DeregisterAfter: time.Hour, ClusterID: "id"}
				expect.Must(t, peers.Announce(t.Context(), agent.Client, reg, peers.Starting, "test"))
				expect.Must(t, peers.Report(t.Context(), agent.Client, reg, status, "test"))
			}
			ask := func(_ context.Context, argv ...string) (string, error) {
				switch {
				case tc.members == "":
					return "", errors.New("no answer")
				case tc.version == khepri && tc.noID:
					return fmt.Sprintf("view||%s|||true|\n", tc.members), nil
				case tc.version == khepri:
					return fmt.Sprintf("view|id|%s|%s||true|\n", tc.members, tc.running), nil
				}
				return fmt.Sprintf("waits|%s|%s|%t|\n", tc.members, tc.waits, tc.paused), nil
			}
			cfg := config.Config{Node: "a", Data: v.Data, StateDir: v.State, Service: service, Consul: []string{agent.Addr}}
			c := &Companion{rt: statedir.Runtime{Config: cfg, Version: tc.version, Role: statedir.Member, Cluster: "id"}, broker: rabbitmq.CLI{Node: "a", Run: ask}, serving: tc.serving, consul: consul.New(cfg, slog.New(slog.DiscardHandler))}
			r := peers.Record{State: peers.Formed, ClusterID: "id", Members: tc.on, Gone: tc.gone}
			why := c.stranded(t.Context(), r)
			if (why == "") != (len(tc.want) == 0) || strings.Join(c.lost, ",") != tc.lost {
				t.Fatalf("stranded: %q, without %v; want %q, %v", why, c.lost, tc.want, tc.lost)
			}
			expect.Says(t, why, tc.want...)
			if (c.doubt != nil) != (tc.members == "") {
				t.Errorf("in doubt: %v", c.doubt)
			}
			for _, other := range []peers.Record{{State: peers.Forming, Members: tc.on, Gone: tc.gone}, {State: peers.Formed, ClusterID: "another", Members: tc.on, Gone: tc.gone}} {
				if why := c.stranded(t.Context(), other); why != "" || c.lost != nil {
					t.Errorf("of a record that is not this cluster's (%s, %s) it says %q", other.State, other.ClusterID, why)
				}
			}
			if order, err := v.CarryOn(); err != nil || (order != nil) != tc.given {
				t.Errorf("the order is %+v, %v", order, err)
			}
			// Allowed in advance, the order is given at once, by the last copy only.
			expect.Must(t, v.Remove("carry-on"))
			c.rt.Config.ForceBoot = true
			why = c.stranded(t.Context(), r)
			order, err := v.CarryOn()
			expect.Must(t, err)
			copies := len(tc.on)
			if tc.version == khepri { // what joins without a majority has none
				copies = len(slices.DeleteFunc(rabbitmq.List(tc.members), func(m string) bool { return tc.on[m] == "" }))
			}
			if given := tc.lost != "" && copies == 1; (given || tc.given) != (order != nil) || given != strings.Contains(why, "RMQ_FORCE_BOOT") {
				t.Errorf("with --force-boot: order %+v, %q", order, why)
			}
			if tc.given {
				tc.lost = "b"
			}
			if order != nil && (order.ClusterID != "id" || strings.Join(order.Lost, ",") != tc.lost || order.Forced) {
				t.Errorf("the order is %+v", order)
			}
			expect.Must(t, v.Remove("member")) // never a member
			if why := c.stranded(t.Context(), r); why != "" {
				t.Errorf("without a marker: %q", why)
			}
		})
	}
}

// A node that waits, and does not say for whom, is said to: somebody may have to act.
func TestWaitsForWhom(t *testing.T) {
	t.Parallel()
	agent := consultest.Start(t)
	v := testVolume(t)
	expect.Must(t, v.WriteMarker(statedir.Marker{ClusterID: "id", Volume: "v-r@a", Members: []string{"r@a"}}))
	cfg := config.Config{Node: "r@a", Data: v.Data, StateDir: v.State, Service: "whom", KeyPrefix: "rmq-entrypoint", Consul: []string{agent.Addr}}
	r := peers.Record{State: peers.Formed, ClusterID: "id", Members: map[string]string{"r@a": "v-r@a"}, Gone: map[string]peers.Gone{"r@b": {Why: "blank"}}}
	_, err := peers.WriteRecord(t.Context(), agent.Client, cfg.RecordKey(), r, 0, "", "")
	expect.Must(t, err)
	deaf := func(context.Context, ...string) (string, error) { return "", errors.New("no answer yet") }
	c := &Companion{log: slog.New(slog.DiscardHandler), rt: statedir.Runtime{Config: cfg, Version: "4.3.6", Role: statedir.Member, Cluster: "id"}, broker: rabbitmq.CLI{Node: "r@a", Run: deaf}, consul: consul.New(cfg, slog.New(slog.DiscardHandler)), booted: "Startup in progress", born: time.Now()}
	expect.Says(t, c.waitsInVain(t.Context()), "Startup in progress", "cannot be told yet", "no answer yet")
	_, err = peers.WriteRecord(t.Context(), agent.Client, cfg.RecordKey(), r.With("r@b", "v-r@b"), modified(t, agent.Client, cfg.RecordKey()), "", "")
	expect.Must(t, err)
	expect.Says(t, c.waitsInVain(t.Context()), "Startup in progress", "may wait for members that are not up: r@b")
	c.rt.Role = statedir.Joining
	if why := c.waitsInVain(t.Context()); why != "" {
		t.Errorf("a joiner: %q", why)
	}
}

func modified(t *testing.T, client *api.Client, key string) uint64 {
	t.Helper()
	_, index, err := peers.ReadRecord(t.Context(), client, key)
	expect.Must(t, err)
	return index
}

// An order is carried out only while it holds, to its end, and in RabbitMQ's own order.
func TestCarryOnOrder(t *testing.T) {
	t.Parallel()
	agent := consultest.Start(t)
	const force, khepriForce, shrink, forget = "rabbit_table:force_load()", "force_standalone_khepri_boot", "shrink", "forget_cluster_node"
	for i, tc := range []struct {
		name    string
		version string
		cluster string // on record, if another one
		order   statedir.CarryOn
		on      string // record
		gone    string
		members string // as RabbitMQ lists them
		waits   string
		paused  bool
		serving bool
		calls   []string // of RabbitMQ's command line that change something
		left    string   // the order's state: none, given, forced
		says    string
	}{
		{name: "Khepri waits", version: "4.3.6", order: statedir.CarryOn{Lost: []string{"r@b"}}, on: "r@a", gone: "r@b", members: "r@a,r@b", calls: []string{khepriForce}, left: "forced", says: "comes up without r@b"},
		{name: "Khepri serves without a majority", version: "4.3.6", order: statedir.CarryOn{Lost: []string{"r@b"}}, on: "r@a", gone: "r@b", members: "r@a,r@b", serving: true, calls: []string{khepriForce}, left: "forced"},
		{name: "Khepri comes up", version: "4.3.6", order: statedir.CarryOn{Lost: []string{"r@b"}, Forced: true}, on: "r@a", gone: "r@b", members: "r@a", left: "forced", says: "comes up without r@b"},
		{name: "Khepri is up", version: "4.3.6", order: statedir.CarryOn{Lost: []string{"r@b"}, Forced: true}, on: "r@a", gone: "r@b", members: "r@a", serving: true, calls: []string{shrink}, left: "none"},
		{name: "the lost one is back on record", version: "4.3.6", order: statedir.CarryOn{Lost: []string{"r@b"}}, on: "r@a,r@b", members: "r@a,r@b", left: "none"},
		{name: "no record", version: "4.3.6", order: statedir.CarryOn{Lost: []string{"r@b"}}, members: "r@a,r@b", left: "none"},
		{name: "another one is lost now", version: "4.3.6", order: statedir.CarryOn{Lost: []string{"r@b"}}, on: "r@a,r@b", gone: "r@c", members: "r@a,r@b,r@c", left: "none"},
		{name: "nobody can be asked", version: "4.3.6", order: statedir.CarryOn{Lost: []string{"r@b"}}, on: "r@a", gone: "r@b", left: "given", says: "does not say yet"},
		{name: "Mnesia waits", version: "4.0.5", order: statedir.CarryOn{Lost: []string{"r@b"}}, on: "r@a", gone: "r@b", members: "r@a,r@b", waits: "r@b", calls: []string{force}, left: "forced"},
		{name: "Mnesia waits again after a restart", version: "4.0.5", order: statedir.CarryOn{Lost: []string{"r@b"}, Forced: true}, on: "r@a", gone: "r@b", members: "r@a,r@b", waits: "r@b", calls: []string{force}, left: "forced"},
		{name: "Mnesia is up", version: "4.0.5", order: statedir.CarryOn{Lost: []string{"r@b"}, Forced: true}, on: "r@a", gone: "r@b", members: "r@a,r@b", serving: true, calls: []string{shrink, forget + " r@b"}, left: "none"},
		{name: "Mnesia is up, another copy too", version: "4.0.5", order: statedir.CarryOn{Lost: []string{"r@b"}, Forced: true}, on: "r@a,r@c", gone: "r@b", members: "r@a,r@b,r@c", serving: true, calls: []string{forget + " r@b"}, left: "none"},
		{name: "a lost one has joined again meanwhile", version: "4.0.5", order: statedir.CarryOn{Lost: []string{"r@b", "r@c"}, Forced: true}, on: "r@a,r@c", gone: "r@b", members: "r@a,r@b,r@c", serving: true, calls: []string{forget + " r@b"}, left: "none"},
		{name: "3.10 cannot shrink", version: "3.10.8", order: statedir.CarryOn{Lost: []string{"r@b"}, Forced: true}, on: "r@a", gone: "r@b", members: "r@a,r@b", serving: true, calls: []string{forget + " r@b"}, left: "none"},
		{name: "told, and cut short before that was written down", version: "4.0.5", order: statedir.CarryOn{Lost: []string{"r@b"}}, on: "r@a", gone: "r@b", members: "r@a,r@b", serving: true, calls: []string{shrink, forget + " r@b"}, left: "none"},
		{name: "it no longer waits for the lost one", version: "4.0.5", order: statedir.CarryOn{Lost: []string{"r@b"}}, on: "r@a", gone: "r@b", members: "r@a,r@b", left: "none"},
		{name: "serves, and one of the lost is back", version: "4.0.5", order: statedir.CarryOn{Lost: []string{"r@b", "r@c"}}, on: "r@a,r@c", gone: "r@b", members: "r@a,r@b,r@c", serving: true, left: "none"},
		{name: "forced, and another cluster is on record", version: "4.0.5", cluster: "another", order: statedir.CarryOn{Lost: []string{"r@b"}, Forced: true}, on: "r@a", gone: "r@b", members: "r@a,r@b", serving: true, left: "none"},
		{name: "serves, and the lost one is back", version: "4.0.5", order: statedir.CarryOn{Lost: []string{"r@b"}}, on: "r@a,r@b", members: "r@a,r@b", serving: true, left: "none"},
		{name: "forced, then the volumes were found and the record was deleted", version: "4.0.5", order: statedir.CarryOn{Lost: []string{"r@b"}, Forced: true}, members: "r@a,r@b", waits: "r@b", left: "none"},
		{name: "the same, and it serves", version: "4.0.5", order: statedir.CarryOn{Lost: []string{"r@b"}, Forced: true}, members: "r@a,r@b", serving: true, left: "none"},
		{name: "forced, then the volumes were found and the record was published anew", version: "3.10.8", order: statedir.CarryOn{Lost: []string{"r@b"}, Forced: true}, on: "r@a,r@b", members: "r@a,r@b", waits: "r@b", left: "none"},
		{name: "forced, and one of two is back", version: "4.0.5", order: statedir.CarryOn{Lost: []string{"r@b", "r@c"}, Forced: true}, on: "r@a,r@c", gone: "r@b", members: "r@a,r@b,r@c", waits: "r@b", calls: []string{force}, left: "forced", says: "comes up without r@b$"},
		{name: "paused", version: "4.0.5", order: statedir.CarryOn{Lost: []string{"r@b", "r@c"}}, on: "r@a", gone: "r@b,r@c", members: "r@a,r@b,r@c", paused: true, calls: []string{"init:stop"}, left: "forced"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := testVolume(t)
			tc.order.ClusterID = "id"
			expect.Must(t, v.WriteMarker(statedir.Marker{ClusterID: "id", Volume: "v-r@a"}))
			expect.Must(t, v.WriteCarryOn(tc.order))
			cfg := config.Config{Node: "r@a", Data: v.Data, StateDir: v.State, Service: fmt.Sprint("carry", i), KeyPrefix: "rmq-entrypoint", Consul: []string{agent.Addr}}
			if tc.on != "" {
				r := peers.Record{State: peers.Formed, ClusterID: cmp.Or(tc.cluster, "id"), Members: map[string]string{}, Gone: map[string]peers.Gone{}}
				for _, n := range rabbitmq.List(tc.on) {
					r.Members[n] = "v-" + n
				}
				for _, n := range rabbitmq.List(tc.gone) {
					r.Gone[n] = peers.Gone{Why: "blank"}
				}
				ok, err := peers.WriteRecord(t.Context(), agent.Client, cfg.RecordKey(), r, 0, "", "")
				if expect.Must(t, err); !ok {
					t.Fatal("no record written")
				}
			}
			var calls []string
			run := func(_ context.Context, argv ...string) (string, error) {
				said := strings.Join(argv[4:], " ")
				for _, change := range []string{force, khepriForce, shrink, "init:stop"} {
					if strings.Contains(said, change) {
						calls = append(calls, change)
						return "ok", nil
					}
				}
				switch {
				case tc.members == "":
					return "", errors.New("no answer")
				case strings.HasPrefix(said, forget):
					calls = append(calls, said)
					tc.members = strings.Join(slices.DeleteFunc(rabbitmq.List(tc.members), func(m string) bool { return m == argv[5] }), ",")
					return "", nil
				case strings.Contains(said, "waits|"):
					return fmt.Sprintf("waits|%s|%s|%t|\n", tc.members, tc.waits, tc.paused), nil
				}
				return fmt.Sprintf("view|id|%s|r@a||%t|\n", tc.members, tc.version == "4.3.6"), nil
			}
			c := &Companion{
				log: slog.New(slog.DiscardHandler), rt: statedir.Runtime{Config: cfg, Version: tc.version, Role: statedir.Member, Cluster: "id", Volume: "v-r@a"},
				broker: rabbitmq.CLI{Node: "r@a", Run: run}, serving: tc.serving, consul: consul.New(cfg, slog.New(slog.DiscardHandler)),
			}
			why := c.carryOn(t.Context())
			if !slices.Equal(calls, tc.calls) {
				t.Errorf("it called %q, want %q (%s)", calls, tc.calls, why)
			}
			order, err := v.CarryOn()
			expect.Must(t, err)
			left := "none"
			if order != nil && order.Forced {
				left = "forced"
			} else if order != nil {
				left = "given"
			}
			if left != tc.left || !regexp.MustCompile(tc.says).MatchString(why) || (why == "") != (left == "none") {
				t.Errorf("the order is %s, %q; want %s, %q", left, why, tc.left, tc.says)
			}
		})
	}
}
