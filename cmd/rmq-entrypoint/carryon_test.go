package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/peers"
)

// Who is told that it can never go on by itself, who is offered to carry on, and who is left alone because a member
// that is still on record may bring what it waits for.
func TestStranded(t *testing.T) {
	written := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	after := peers.Gone{At: written.Add(time.Second), Why: "came up blank"}
	before := peers.Gone{At: written.Add(-time.Second), Why: "came up blank"}
	members := func(names ...string) map[string]string {
		m := map[string]string{}
		for _, n := range names {
			m[n] = "v-" + n
		}
		return m
	}
	const offer = "carry-on --cluster-id id"
	for _, tc := range []struct {
		name    string
		version string
		serving bool
		marker  []string
		on      map[string]string
		gone    map[string]peers.Gone
		waits   string   // whom Mnesia waits for; "" when it cannot be asked
		want    []string // in the story; none: nothing is said
		alone   bool     // carry-on is offered
	}{
		{name: "all on record", version: "4.3.6", marker: []string{"a", "b", "c"}, on: members("a", "b", "c"), waits: "b,c"},
		{name: "Khepri, one of three lost", version: "4.3.6", marker: []string{"a", "b", "c"}, on: members("a", "b"), gone: map[string]peers.Gone{"c": after}},
		{name: "Khepri, two of three lost", version: "4.3.6", marker: []string{"a", "b", "c"}, on: members("a"), gone: map[string]peers.Gone{"b": after, "c": after}, want: []string{"b, c", offer}, alone: true},
		{name: "Khepri, two of three lost while it serves", version: "4.3.6", serving: true, marker: []string{"a", "b", "c"}, on: members("a"), gone: map[string]peers.Gone{"b": after, "c": after}, want: []string{"b, c", offer}, alone: true},
		{name: "Khepri, a marker from before they joined", version: "4.3.6", marker: []string{"a"}, on: members("a"), gone: map[string]peers.Gone{"b": after, "c": after}, want: []string{"b, c", offer}, alone: true},
		{name: "Khepri, a marker from after they were forgotten", version: "4.3.6", marker: []string{"a"}, on: members("a"), gone: map[string]peers.Gone{"b": before, "c": before}},
		{name: "Khepri, a stale marker and a majority on record", version: "4.3.6", marker: []string{"a"}, on: members("a", "c"), gone: map[string]peers.Gone{"b": after}},
		{name: "Khepri, two copies of four", version: "4.3.6", marker: []string{"a", "b", "c", "d"}, on: members("a", "b"), gone: map[string]peers.Gone{"c": after, "d": after}, want: []string{"c, d", "a, b hold a copy each"}},
		{name: "Mnesia, serving goes on", version: "3.10.8", serving: true, marker: []string{"a", "b", "c"}, on: members("a"), gone: map[string]peers.Gone{"b": after, "c": after}},
		{name: "Mnesia, alone on record", version: "3.10.8", marker: []string{"a", "b", "c"}, on: members("a"), gone: map[string]peers.Gone{"b": after, "c": after}, want: []string{"b, c", offer}, alone: true},
		{name: "Mnesia, a marker from before they joined", version: "4.0.5", marker: []string{"a"}, on: members("a"), gone: map[string]peers.Gone{"b": after}, want: []string{"THE MAJORITY IS GONE FOR GOOD: b", offer}, alone: true},
		{name: "Mnesia, waits for one on record", version: "4.0.5", marker: []string{"a", "b", "c"}, on: members("a", "b"), gone: map[string]peers.Gone{"c": after}, waits: "b,c"},
		{name: "Mnesia, nobody tells whom it waits for", version: "4.0.5", marker: []string{"a", "b", "c"}, on: members("a", "b"), gone: map[string]peers.Gone{"c": after}},
		{name: "Mnesia, waits for the lost one only", version: "4.0.5", marker: []string{"a", "b", "c"}, on: members("a", "b"), gone: map[string]peers.Gone{"c": after}, waits: "c", want: []string{"c came up blank", offer}, alone: true},
		{name: "Mnesia, another one is to carry on", version: "4.0.5", marker: []string{"0", "a", "c"}, on: members("0", "a"), gone: map[string]peers.Gone{"c": after}, waits: "c", want: []string{"the copy of 0, this node follows"}},
		{name: "off the record itself", version: "4.3.6", marker: []string{"a", "b", "c"}, on: members("b"), gone: map[string]peers.Gone{"a": after, "c": after}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := testVolume(t)
			must(t, v.writeMember(memberFile{ClusterID: "id", Volume: "v-a", Members: tc.marker, At: written}))
			ask := func(context.Context, ...string) (string, error) {
				if tc.waits == "" {
					return "", errors.New("no answer")
				}
				return "waits|" + tc.waits + "|\n", nil
			}
			c := &companion{rt: runtimeFile{Config: config{Node: "a", Data: v.data, StateDir: v.state}, Version: tc.version, Role: member}, broker: broker{"a", ask}, serving: tc.serving}
			r := peers.Record{State: peers.Formed, ClusterID: "id", Members: tc.on, Gone: tc.gone}
			why := c.stranded(t.Context(), r)
			if (why == "") != (len(tc.want) == 0) || c.alone != tc.alone {
				t.Fatalf("stranded: %q, alone %v; want %q, %v", why, c.alone, tc.want, tc.alone)
			}
			for _, w := range tc.want {
				if !strings.Contains(why, w) {
					t.Errorf("stranded: %q, which lacks %q", why, w)
				}
			}
			for _, other := range []peers.Record{{State: peers.Forming, Members: tc.on, Gone: tc.gone}, {State: peers.Formed, ClusterID: "another", Members: tc.on, Gone: tc.gone}} {
				if why := c.stranded(t.Context(), other); why != "" || c.alone {
					t.Errorf("of a record that is not this cluster's (%s, %s) it says %q", other.State, other.ClusterID, why)
				}
			}
			// Allowed in advance, the order is given at once, by the last copy only.
			c.rt.Config.CarryOn = true
			why = c.stranded(t.Context(), r)
			order, err := readJSON[carryOnFile](v.file("carry-on"))
			must(t, err)
			if given := tc.alone && len(tc.on) == 1; given != (order != nil) || given != strings.Contains(why, "RMQ_CARRY_ON") {
				t.Errorf("with --carry-on: order %+v, %q", order, why)
			}
			if order != nil && (order.ClusterID != "id" || !slices.Equal(order.Lost, []string{"b", "c"}) && !slices.Equal(order.Lost, []string{"b"})) {
				t.Errorf("the order is %+v", order)
			}
		})
	}
	v := testVolume(t) // no marker: never a member
	c := &companion{rt: runtimeFile{Config: config{Node: "a", Data: v.data, StateDir: v.state}, Version: "4.3.6"}}
	if why := c.stranded(t.Context(), peers.Record{State: peers.Formed, Members: members("a"), Gone: map[string]peers.Gone{"b": after}}); why != "" {
		t.Errorf("without a marker: %q", why)
	}
}
