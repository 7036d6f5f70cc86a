package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/expect"
)

// A cluster of the official image is changed over, and a new node starts first: it
// announces nothing while the old one, which has data, boots, however long that takes;
// the old one overrules its claim, and it stops to decide afresh.
func testAdoptedOutranksFounding(t *testing.T, w *world) {
	for name, named := range map[string]bool{"just moved here": false, "moved here, and restarted before it was verified": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, w.consul)
			blank := w.node("blank@localhost")
			blank.start()
			blank.server(soon)
			old := w.node("old@localhost")
			old.hasData(nil)
			if named {
				old.put(old.state("pending"), statedir.Pending{Role: statedir.Member, Volume: "v-old"})
			}
			old.start()
			old.server(soon)
			blank.sees("NEW-CLUSTER", blank.name)
			blank.put(blank.data("schema.DAT"), "")
			blank.tell("amqp up")
			blank.tell("notify READY=1")
			blank.reports(soon, api.HealthCritical, "announcing no cluster while a node that is not in it is registered")
			expect.Says(t, blank.reports(soon, api.HealthCritical, "old@localhost at "+old.ip).Reason, "consul services deregister -id=")
			expect.Consistently(t, 3*testBeat, "the new cluster is not announced", func() error {
				if r := w.record(); r.State != peers.Forming || r.Seed != blank.name {
					return fmt.Errorf("record %+v", r)
				}
				return nil
			})
			old.sees("OLD-CLUSTER", old.name)
			old.tell("amqp up")
			old.tell("notify READY=1")
			old.registered(soon, api.HealthPassing)
			if r := w.record(); r.State != peers.Formed || r.ClusterID != "OLD-CLUSTER" || r.Members[old.name] == "" || named && r.Members[old.name] != "v-old" {
				t.Errorf("record %+v", r)
			}
			expect.Says(t, old.log(), "another node was founding a cluster beside this one: overruled")
			blank.exit(soon)
			expect.Says(t, blank.log(), "this node's claim to found the cluster was overtaken")
			if status, err := blank.status(w.consul.Client); err != nil || status == api.HealthPassing {
				t.Errorf("the new node is %q, %v", status, err)
			}
		})
	}
}

// What holds up an announcement, and what does not.
func testAnnouncementWaits(t *testing.T, w *world) {
	for name, c := range map[string]struct {
		entry peers.Registration
		beats bool
		waits bool
	}{
		"an earlier program's":    {entry: peers.Registration{Start: peers.Start{Volume: "v", Boot: "b"}}, beats: true, waits: true},
		"one that claimed before": {entry: peers.Registration{Start: peers.Start{Volume: "v", Boot: "b", Blank: true}}, beats: true},
		"lapsed, cannot be asked": {entry: peers.Registration{Start: peers.Start{Volume: "v", Boot: "b"}}, waits: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, w.consul)
			n := w.node("rabbit@localhost")
			n.start()
			n.server(soon)
			r := c.entry
			r.Service, r.Node, r.Address, r.Port, r.TTL, r.DeregisterAfter = w.service, "old@localhost", "127.0.0.1", 5672, time.Hour, time.Hour
			if !c.beats {
				r.TTL = time.Second
			}
			expect.Must(t, peers.Announce(t.Context(), w.consul.Client, r, peers.Starting, ""))
			asked := w.node("old@localhost")
			asked.put(asked.path("deaf"), "0")
			n.sees("id-1", n.name)
			n.tell("amqp up")
			n.tell("notify READY=1")
			if c.waits {
				n.reports(testBeat+soon, api.HealthCritical, "announcing no cluster while")
				expect.Consistently(t, 2*testBeat, "it waits", func() error {
					if r := w.record(); r.State != peers.Forming {
						return fmt.Errorf("record %+v", r)
					}
					return nil
				})
				expect.Must(t, peers.Withdraw(t.Context(), w.consul.Client, r))
			}
			n.registered(2*testBeat+soon, api.HealthPassing)
			if waited := strings.Contains(n.log(), "announcing no cluster"); waited != c.waits {
				t.Errorf("it waited: %t", waited)
			}
		})
	}
}
