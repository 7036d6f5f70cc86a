package sim_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/tests/sim"
)

// earlier is a story of a cluster whose record Consul loses just before a blank node starts.
type earlier struct {
	name  string
	nodes int                // of the cluster
	until func(w *sim.World) // what it comes to before that
	away  time.Duration      // Consul is, and then has no data
	since func(w *sim.World) // what it comes to meanwhile
}

func nothing(*sim.World) {}

var earliers = []earlier{
	{"a member serves", 1, nothing, 0, nothing},
	{"a member serves, and Consul was away", 1, nothing, 20 * time.Second, nothing},
	{"a member boots, which never reached Consul", 1, nothing, 15 * time.Second, func(w *sim.World) {
		w.Nodes[0].Off()
		w.Nodes[0].On()
	}},
	{"a member boots, and waits for another one", 2, func(w *sim.World) {
		w.Nodes[0].Off() // the first one to stop
		time.Sleep(2 * time.Second)
		w.Nodes[1].Off()
		w.Nodes[0].On()
		time.Sleep(2 * time.Minute)
	}, 0, nothing},
	{"a member serves, or has no majority", 2, func(w *sim.World) {
		w.Nodes[1].Off()
		time.Sleep(2 * time.Minute)
	}, 0, nothing},
}

// tellEarlier reports whether a second cluster was founded; and whether the story was one.
func tellEarlier(t *testing.T, seed uint64, e earlier, phase, ttl time.Duration) (second, told bool) {
	t.Helper()
	parent := ""
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		parent = "/dev/shm"
	}
	dir, err := os.MkdirTemp(parent, "rmq-sim-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	synctest.Test(t, func(t *testing.T) {
		w := sim.New(context.Background(), sim.Options{Seed: seed, Dir: dir, Service: "rabbitmq", RecordKey: config.Config{Service: "rabbitmq", KeyPrefix: "rmq-entrypoint"}.RecordKey(), TTL: ttl})
		var nodes sync.WaitGroup
		defer nodes.Wait()
		defer w.End()
		for _, n := range w.Nodes {
			nodes.Go(func() {
				for b := n.Open(); b != nil; b = n.Open() {
					c := container{world: w, box: b, ttl: ttl, log: slog.New(slog.DiscardHandler)}
					b.Close(fmt.Sprint(c.run()))
				}
			})
		}
		if len(w.Nodes) <= e.nodes {
			return
		}
		for _, n := range w.Nodes[:e.nodes] {
			n.On()
			time.Sleep(2 * ttl)
		}
		if w.Did(sim.Founded) != 1 { // an adopted one, or a clock too far off
			return
		}
		e.until(w)
		time.Sleep(phase) // of its members' heartbeats
		w.Lose(e.away)
		e.since(w)
		time.Sleep(e.away)
		w.Nodes[e.nodes].On()
		time.Sleep(2 * ttl)
		second, told = w.Did(sim.Founded) > 1, true
	})
	return second, told
}

// A seed announces its cluster once a member of an earlier one has had time to object, whatever that
// was at when Consul lost its data.
func TestAnEarlierClusterIsHeard(t *testing.T) {
	const ttl = time.Minute
	for _, e := range earliers {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			all := 0
			for seed := uint64(1); seed <= 12; seed++ {
				for phase := time.Duration(0); phase < ttl/3; phase += 4 * time.Second {
					second, told := tellEarlier(t, seed, e, phase, ttl)
					if second {
						t.Errorf("seed %d, at %s: a second cluster was founded", seed, phase)
					}
					if told {
						all++
					}
				}
			}
			if all < 20 {
				t.Errorf("only %d stories are of one", all)
			}
		})
	}
}
