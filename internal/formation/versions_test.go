package formation

import (
	"log/slog"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// formed is the record of a cluster that serves.
func formed(cluster string, members map[string]string) peers.Record {
	return peers.Record{State: peers.Formed, ClusterID: cluster, Claim: "c0", Seed: "somebody@else", Since: time.Now().Add(-time.Hour), Members: members}
}

// Only who is seen to run, in this cluster, binds others.
func TestWhoRuns(t *testing.T) {
	beats := func(name string) peers.Peer {
		return peers.Peer{Node: name, ClusterID: "id-1", Version: "4.0.5", Beating: true}
	}
	o := around{record: formed("id-1", map[string]string{"stays": "v"})}
	for name, change := range map[string]func(*peers.Peer){
		"passes":          func(p *peers.Peer) { p.Passing = true },
		"boots":           func(p *peers.Peer) { p.ClusterID = "" },
		"silent":          func(p *peers.Peer) { p.Beating = false },
		"agent lost":      func(p *peers.Peer) { p.AgentFailed = true },
		"another cluster": func(p *peers.Peer) { p.ClusterID = "id-2" },
		"says nothing":    func(p *peers.Peer) { p.Version = "" },
		"says nonsense":   func(p *peers.Peer) { p.Version = "latest" },
	} {
		p := beats(name)
		change(&p)
		o.peers, o.record.Members[name] = append(o.peers, p), "v"
	}
	// Whoever may only register is not on record, or lies about a member: that one passes, or says
	// what it was verified with.
	stranger, liar, copied, stays := beats("stranger"), beats("passes"), beats("stays"), beats("stays")
	stranger.Passing, copied.Passing, stays.Passing = true, true, true
	stranger.Version, liar.Version, copied.Version = "3.8.1", "3.8.1", "3.8.1"
	o.record.Versions = map[string]string{"stays": "4.0.5"}
	o.peers = append(append([]peers.Peer{copied, liar}, o.peers...), stranger, stays, liar, copied)
	moved, old := beats("passes"), beats("passes")
	moved.Version, moved.Passing, old.Version = "4.2.0", true, "3.13.7"
	o.peers = append([]peers.Peer{old, moved}, o.peers...)
	if got := slices.Sorted(maps.Keys(o.running())); !slices.Equal(got, []string{"boots", "passes", "stays"}) || o.running()["stays"].String() != "4.0.5" || o.running()["passes"].String() != "4.2.0" {
		t.Errorf("these run: %v", o.running())
	}
	if why := o.Mix(statedir.Versions{Version: rabbitconf.Version{Major: 4, Minor: 2}}, statedir.Versions{}); why != "" {
		t.Error(why)
	}
	if why := (around{Err: os.ErrDeadlineExceeded, peers: o.peers}).Mix(statedir.Versions{Version: rabbitconf.Version{Major: 4, Minor: 3}}, statedir.Versions{}); why != "" {
		t.Error(why)
	}
}

// A lone broker has nobody around: that is known, and nothing is doubtful for it.
func TestLookAroundAlone(t *testing.T) {
	if o := LookAround(t.Context(), config.Config{Single: true, Node: "a@b"}, slog.New(slog.DiscardHandler)); o.Err != nil || len(o.peers) > 0 {
		t.Errorf("%+v", o)
	}
}
