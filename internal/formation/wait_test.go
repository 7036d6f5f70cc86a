package formation

import (
	"testing"
	"time"

	"rmq-entrypoint/peers"
)

// Members are asked less and less often while nothing changes in Consul; whatever else may come
// without a change there is looked for every two seconds.
func TestWaitsMost(t *testing.T) {
	formed := observation{record: 1, catalog: 1}
	formed.Record.Value.State = peers.Formed
	with := func(change func(*observation)) observation {
		o := formed
		o.Peers.Value = []peers.Peer{{Node: "rabbit@a"}}
		change(&o)
		return o
	}
	same := with(func(*observation) {})
	type look struct {
		o    observation
		act  bool
		want time.Duration
	}
	again := func(o observation, want ...time.Duration) (all []look) {
		for _, w := range want {
			all = append(all, look{o: o, want: w})
		}
		return all
	}
	longest := again(same, 2*time.Second, 3*time.Second, 4500*time.Millisecond, 5*time.Second, 5*time.Second)
	for name, looks := range map[string][]look{
		"nothing changes":            longest,
		"the record does":            append(longest, look{o: with(func(o *observation) { o.record = 2 }), want: 2 * time.Second}),
		"the catalog does":           append(longest, look{o: with(func(o *observation) { o.catalog = 2 }), want: 2 * time.Second}),
		"it was to act":              append(longest, look{o: same, act: true, want: 2 * time.Second}, look{o: same, act: true, want: 2 * time.Second}),
		"its name is another's":      again(with(func(o *observation) { o.Namesakes.Value, o.Peers.Value = []peers.Peer{{Beating: true}}, nil }), 2*time.Second, 3*time.Second),
		"its name was lost sight of": again(with(func(o *observation) { o.Namesakes.Value = []peers.Peer{{}} }), 2*time.Second, 2*time.Second),
		"its name was another's":     again(with(func(o *observation) { o.Freed = 1 }), 2*time.Second, 2*time.Second),
		"a cluster may wait for it":  again(with(func(o *observation) { o.Joining = true }), 2*time.Second, 2*time.Second),
		"nobody is on record":        again(with(func(o *observation) { o.Record.Value.State = peers.Absent }), 2*time.Second, 2*time.Second),
		"another founds":             again(with(func(o *observation) { o.Record.Value.State = peers.Forming }), 2*time.Second, 2*time.Second),
		"nobody could be asked":      again(formed, repeatEvery, repeatEvery),
		"and after that somebody is": append(again(formed, repeatEvery), look{o: with(func(o *observation) { o.catalog = 2 }), want: 2 * time.Second}),
	} {
		var w waits
		for i, l := range looks {
			if got := w.most(l.o, l.act); got != l.want {
				t.Errorf("%s: look %d: %s, want %s", name, i+1, got, l.want)
			}
		}
	}
}
