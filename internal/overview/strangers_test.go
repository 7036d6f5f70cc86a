package overview_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/internal/overview"
	"rmq-entrypoint/peers"
)

// Whoever may register a service has an entry of any node say anything. As long as no other word tells
// of that node, the cluster is what it is without it, and one warning names the entry, how to remove it,
// and of which cluster it says that it is.
func TestStrangers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*peers.Peer)
		says   string
	}{
		"of no cluster":      {func(p *peers.Peer) { p.ClusterID = "" }, "clients are sent there"},
		"of another cluster": {func(p *peers.Peer) { p.ClusterID = "id-2" }, "clients are sent there; it says that it is of cluster id-2, and id-1 is on record"},
		"that warns":         {func(p *peers.Peer) { p.Status, p.Said = "warning", "low on memory" }, "clients are sent there"},
		"that says SPLIT": {func(p *peers.Peer) {
			critical("SPLIT: this node is in cluster id-2")(p)
			p.ClusterID = "id-2"
		}, "is not on record, and does not pass: SPLIT: this node is in cluster id-2; it says that it is of cluster id-2"},
		"that lapsed":       {func(p *peers.Peer) { p.Passing, p.Beating, p.Status = false, false, "critical" }, "is not on record, and does not pass"},
		"of a lost agent":   {func(p *peers.Peer) { p.Passing, p.AgentFailed = false, true }, "is not on record, and does not pass"},
		"of another volume": {func(p *peers.Peer) { p.Volume, p.Version = "vol-a", "9.9.9" }, "clients are sent there"},
		"of a member's name, with another agent": {func(p *peers.Peer) {
			p.Node, p.ClusterID, p.Agent = b, "id-2", "agent-2"
		}, "passes beside that node's own entry; it says that it is of cluster id-2"},
	} {
		seen := three()
		z := member("rabbit@z")
		z.ID = "made-up"
		test.change(&z)
		seen.Catalog.Value = append([]peers.Peer{z}, seen.Catalog.Value...)
		d := overview.Of(seen)
		if d.Cluster.One != overview.Yes || d.Fit != overview.Yes || d.Stop.May != overview.Yes || d.Facts.Passing != 3 {
			t.Errorf("%s: one %s (%s), fit %s, stop %s (%s), %d pass", name, d.Cluster.One, d.Cluster.Why, d.Fit, d.Stop.May, d.Stop.Why, d.Facts.Passing)
		}
		if len(d.Problems) != 1 || d.Problems[0].Wrong || !strings.Contains(d.Problems[0].What, test.says) || !strings.Contains(d.Problems[0].Next, "consul services deregister -id=made-up") {
			t.Errorf("%s: %+v, want %q", name, d.Problems, test.says)
		}
	}
}

// A split of nodes that are ours is one, whatever their entries lack.
func TestSplits(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*overview.Seen){
		"on record":                 func(s *overview.Seen) { entry(s, c, func(p *peers.Peer) { p.ClusterID = "id-2" }) },
		"on record, another volume": func(s *overview.Seen) { entry(s, c, func(p *peers.Peer) { p.ClusterID, p.Volume = "id-2", "vol-d" }) },
		"a member for RabbitMQ": func(s *overview.Seen) {
			delete(s.Record.Value.Members, c)
			entry(s, c, func(p *peers.Peer) { p.ClusterID = "id-2" })
		},
		"on record, from outside": func(s *overview.Seen) { s.Own = nil; entry(s, c, func(p *peers.Peer) { p.ClusterID = "id-2" }) },
		"this node, by its own word": func(s *overview.Seen) {
			delete(s.Record.Value.Members, a)
			s.Own.View, s.Own.Status, s.Own.Reason = peers.View{}, "critical", "SPLIT: this node is in cluster id-2"
		},
		"this node, by its entry": func(s *overview.Seen) {
			delete(s.Record.Value.Members, a)
			s.Own.View = peers.View{}
			entry(s, a, func(p *peers.Peer) { p.ClusterID = "id-2" })
		},
	} {
		seen := three()
		change(&seen)
		if d := overview.Of(seen); d.Cluster.One != overview.No || d.Stop.May == overview.Yes || d.Fit != overview.No || !slices.ContainsFunc(d.Problems, func(p overview.Problem) bool { return p.Wrong }) {
			t.Errorf("%s: one %s, stop %s, fit %s, %+v", name, d.Cluster.One, d.Stop.May, d.Fit, d.Problems)
		}
	}
}

// A note takes key:write: who waits or was refused is told as wrong, whatever its entry says, and so are
// all while a cluster is founded.
func TestNoStrangers(t *testing.T) {
	t.Parallel()
	seen := three()
	z := member("rabbit@z")
	critical("waits for the lock")(&z)
	seen.Catalog.Value = append(seen.Catalog.Value, z)
	seen.Notes.Value = []peers.Note{{Node: z.Node, Boot: "earlier", State: peers.NoteRefused, Why: "it left", Since: ago(2 * time.Hour)}}
	if d := overview.Of(seen); d.Fit != overview.No {
		t.Errorf("%s: %+v", d.Fit, d.Problems)
	}
	seen.Notes.Value, seen.Record.Value.State, seen.Own = nil, peers.Forming, nil
	if d := overview.Of(seen); !slices.ContainsFunc(d.Problems, func(p overview.Problem) bool { return p.Wrong && strings.Contains(p.What, "rabbit@z") }) {
		t.Errorf("%+v", d.Problems)
	}
}

// However many entries there are, a few are named.
func TestManyStrangers(t *testing.T) {
	t.Parallel()
	seen := three()
	for i := range 500 {
		z := member(fmt.Sprintf("rabbit@z%d", i))
		z.ClusterID = "id-2"
		seen.Catalog.Value = append(seen.Catalog.Value, z)
	}
	if d := overview.Of(seen); d.Fit != overview.Yes || len(d.Problems) != 11 || !strings.Contains(d.Problems[10].What, "and 490 more") {
		t.Errorf("%s, %d problems", d.Fit, len(d.Problems))
	}
}
