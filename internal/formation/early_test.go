package formation

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
	"rmq-entrypoint/tests/expect"
)

// A server boots while its node waits, only where another node, which runs, founds the cluster,
// and only on a volume on which nothing was ever begun.
func TestMayBoot(t *testing.T) {
	type world struct {
		f *formation
		o observation
		d peers.Decision
	}
	made := func() world {
		w := world{f: &formation{Options: Options{Image: rabbitconf.Version{Major: 4, Minor: 3, Patch: 6}}}, d: peers.Decision{Action: peers.Wait, Founding: true}}
		w.o.Record.Value = peers.Record{State: peers.Forming, Seed: "rabbit@b", Members: map[string]string{"rabbit@b": "vb"}}
		w.o.Peers.Value = []peers.Peer{{Node: "rabbit@b", Beating: true, Start: peers.Start{Volume: "vb", Runs: true}}}
		return w
	}
	if w := made(); !w.f.mayBoot(w.o, w.d) {
		t.Fatal("it may not boot")
	}
	for name, change := range map[string]func(*world){
		"it waits for something else":       func(w *world) { w.d.Founding = false },
		"it has booted":                     func(w *world) { w.f.Runtime.Gated = true },
		"an early version":                  func(w *world) { w.f.Image.Minor = 1 },
		"a version that is not known":       func(w *world) { w.f.Image = rabbitconf.Version{} },
		"a join was begun":                  func(w *world) { w.f.volume.Joining = true },
		"a join came to nothing":            func(w *world) { w.f.volume.Failed = true },
		"it came up alone":                  func(w *world) { w.f.volume.Alone = true },
		"it had data":                       func(w *world) { w.f.volume.Lost = "id" },
		"a founding was begun":              func(w *world) { w.f.volume.Claim = "c" },
		"the founding one does not run yet": func(w *world) { w.o.Peers.Value[0].Runs = false },
		"its entry has lapsed":              func(w *world) { w.o.Peers.Value[0].Beating = false },
		"the entry is another volume's":     func(w *world) { w.o.Peers.Value[0].Volume = "other" },
		"the entry is another node's":       func(w *world) { w.o.Peers.Value[0].Node = "rabbit@c" },
		"nobody is registered":              func(w *world) { w.o.Peers.Value = nil },
	} {
		w := made()
		if change(&w); w.f.mayBoot(w.o, w.d) {
			t.Errorf("%s: it may boot", name)
		}
	}
}

// The start after an early boot finds on the volume that a join was begun. One that cannot be
// written there does not boot.
func TestBootEarly(t *testing.T) {
	dir := t.TempDir()
	cfg := config.Config{Node: "rabbit@a", StateDir: filepath.Join(dir, "rabbit@a-entrypoint"), Data: filepath.Join(dir, "rabbit@a")}
	f := &formation{Options: Options{Log: slog.New(slog.DiscardHandler)}, cfg: cfg, dir: statedir.Of(cfg)}
	var o observation
	o.Record.Value = peers.Record{State: peers.Forming, Seed: "rabbit@b", Claim: "claim", Since: time.Now()}
	if p, err := f.bootEarly(t.Context(), o, "why"); !errors.As(err, new(*volumeError)) || p.Gated {
		t.Errorf("without a directory: %+v, %v", p, err)
	}
	expect.Must(t, os.Mkdir(cfg.StateDir, 0o750))
	p, err := f.bootEarly(t.Context(), o, "why")
	found, ferr := f.dir.Inspect()
	expect.Must(t, errors.Join(err, ferr))
	if p.Role != statedir.Joining || !p.Gated || p.Waits != "why" || p.Claim != "claim" || p.Volume == "" || p.Peers != nil || p.Lock != nil || p.Aside {
		t.Errorf("the plan is %+v", p)
	}
	if !found.Joining || found.Volume != p.Volume || found.Claim != "claim" || found.Role != "" {
		t.Errorf("the volume says %+v", found)
	}
}

// RabbitMQ has the younger of two nodes that are alone join the older, and prefers a cluster anyhow.
func TestEldest(t *testing.T) {
	at := func(node string, us int64, members ...string) peers.Peer {
		v := peers.View{Members: append([]string{node}, members...)}
		if us > 0 {
			v.Started = time.UnixMicro(us)
		}
		return peers.Peer{Node: node, View: peers.Seen[peers.View]{Value: v}}
	}
	deaf := at("deaf", 1)
	deaf.View.Err = peers.ErrNotAsked
	for name, tc := range map[string]struct {
		all  []peers.Peer
		want int64
		fail bool
	}{
		"one alone":             {all: []peers.Peer{at("b", 7)}, want: 7},
		"two, each alone":       {all: []peers.Peer{at("b", 7), at("c", 5)}, want: 5},
		"the other way round":   {all: []peers.Peer{at("b", 5), at("c", 7)}, want: 5},
		"a cluster":             {all: []peers.Peer{at("b", 7), at("c", 5, "d")}},
		"it does not say":       {all: []peers.Peer{at("b", 0)}, fail: true},
		"nor does one of two":   {all: []peers.Peer{at("b", 7), at("c", 0)}, fail: true},
		"a cluster needs not":   {all: []peers.Peer{at("b", 0), at("c", 0, "d")}},
		"others are not joined": {all: []peers.Peer{at("x", 1), at("y", 1, "d"), at("b", 7)}, want: 7},
		"who was not asked":     {all: []peers.Peer{deaf, at("b", 7)}, want: 7},
	} {
		first, err := eldest(tc.all, []string{"b", "c", "deaf"})
		if (err != nil) != tc.fail || tc.fail && !errors.Is(err, ErrStartAnew) || !tc.fail && (tc.want == 0) != first.IsZero() || tc.want > 0 && first.UnixMicro() != tc.want {
			t.Errorf("%s: %s, %v", name, first, err)
		}
	}
}

// A version that must be made to forget an earlier volume first does so before its server starts.
func TestMayEnter(t *testing.T) {
	all := []peers.Peer{{Node: "b", View: peers.Seen[peers.View]{Value: peers.View{Members: []string{"b"}, Started: time.UnixMicro(7)}}}}
	for _, tc := range []struct {
		minor int
		named bool
		fail  bool
	}{{2, true, true}, {2, false, false}, {3, true, false}} {
		f := &formation{Options: Options{Image: rabbitconf.Version{Major: 4, Minor: tc.minor}}}
		after, err := f.mayEnter(all, peers.Decision{Peers: []string{"b"}, Named: tc.named})
		if tc.fail != errors.Is(err, ErrStartAnew) || !tc.fail && after.UnixMicro() != 7 {
			t.Errorf("%+v: %s, %v", tc, after, err)
		}
	}
}
