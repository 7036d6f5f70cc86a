package companion

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/policy"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
	"slices"
	"strings"
	"testing"
)

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
				for _, n := range names(tc.on) {
					r.Members[n] = "v-" + n
				}
				for _, n := range names(tc.gone) {
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
					tc.members = strings.Join(slices.DeleteFunc(names(tc.members), func(m string) bool { return m == argv[5] }), ",")
					return "", nil
				case strings.Contains(said, "waits|"):
					return fmt.Sprintf("waits|%s|%s|%t|\n", tc.members, tc.waits, tc.paused), nil
				}
				return fmt.Sprintf("view|id|%s|r@a||%t|\n", tc.members, tc.version == "4.3.6"), nil
			}
			c := companionFor(cfg, statedir.Runtime{Version: tc.version, Role: statedir.Member, Cluster: "id", Volume: "v-r@a"}, run)
			if tc.serving {
				c.state.Server.Phase = policy.Serving
			}
			seen := c.glance()
			verdict, ok := c.decide(t.Context(), &seen)
			why := verdict.Reason
			if verdict.Rule != "carryOnOrder" {
				why = ""
			}
			if !ok {
				t.Errorf("it comes to no verdict: %+v", verdict)
			}
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
