package companion

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/overview"
	"rmq-entrypoint/peers"
)

// A glimpse is what was last seen of the whole cluster. Heartbeats leave in it what they know of
// the record anyway. What is older than a heartbeat is read when somebody asks: no more often, and
// no longer than readWithin. It decides nothing.
type glimpse struct {
	cfg     config.Config
	beat    time.Duration
	reading sync.Mutex // held by the one who reads

	mu     sync.Mutex
	client *api.Client // in use by the heartbeats; nil: none yet
	seen   overview.Seen
	record time.Time // when it was read last, whatever came of it
	all    time.Time // the catalog
	rest   time.Time // notes and lock
}

// readWithin is how long who asks waits for Consul, at most once in a heartbeat.
const readWithin = time.Second

func newGlimpse(cfg config.Config, beat time.Duration, now time.Time) *glimpse {
	return &glimpse{cfg: cfg, beat: beat, seen: overview.New(cfg, now)}
}

// uses notes which client the heartbeats use.
func (g *glimpse) uses(client *api.Client) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if client != nil {
		g.client = client
	}
}

// sawRecord notes what a heartbeat was told of the record; kept: by an earlier one, and Consul was
// not asked.
func (g *glimpse) sawRecord(ctx context.Context, r peers.Record, err error, kept bool) {
	if ctx.Err() != nil { // by an event: Consul did not say so
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seen.Record, g.record = peers.Seen[peers.Record]{Value: r, Err: err}, time.Now()
	if !kept {
		g.read(err)
	}
}

// wroteRecord notes that the record is not what it was: who asks next has it read.
func (g *glimpse) wroteRecord() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.record = time.Time{}
}

// sawCatalog notes what the catalog is, foreign entries too.
func (g *glimpse) sawCatalog(ctx context.Context, all []peers.Peer, err error) {
	g.watches(ctx, all, err)
	if ctx.Err() != nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seen.Catalog, g.all = peers.Seen[[]peers.Peer]{Value: all, Err: err}, time.Now()
	g.read(err)
}

// watches notes since when nodes are as they are, by what a heartbeat goes by: the entries of nodes
// alone.
func (g *glimpse) watches(ctx context.Context, all []peers.Peer, err error) {
	if err != nil || ctx.Err() != nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	watched := g.seen
	watched.Catalog = peers.Seen[[]peers.Peer]{Value: all}
	watched.Notes.Value = nil // a second container of a name would have its spell
	g.seen.Spells = g.seen.Spells.Watch(overview.Of(watched).Nodes, time.Now())
}

// read notes that Consul told something.
func (g *glimpse) read(err error) {
	if err == nil {
		g.seen.ReadAt = time.Now()
	}
}

// refresh reads what is older than a heartbeat, unless somebody else is at it. It goes on when who
// asked hangs up: what is read is for whoever asks next, too.
func (g *glimpse) refresh(ctx context.Context) {
	if !g.reading.TryLock() {
		return
	}
	defer g.reading.Unlock()
	g.mu.Lock()
	client, now := g.client, time.Now()
	old := func(at time.Time) bool { return now.Sub(at) >= g.beat }
	record, all, rest := old(g.record), old(g.all), old(g.rest)
	g.mu.Unlock()
	if client == nil {
		return
	}
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), readWithin)
	defer done()
	told := context.WithoutCancel(ctx) // that it took too long is an answer, too
	if record {
		r, _, err := peers.ReadRecord(ctx, client, g.cfg.RecordKey())
		g.sawRecord(told, r, err, false)
	}
	if all {
		entries, _, err := peers.Entries(ctx, client, g.cfg.Service)
		g.sawCatalog(told, entries, err)
	}
	if rest {
		var read overview.Seen
		read.ReadRest(ctx, client, g.cfg)
		g.mu.Lock()
		defer g.mu.Unlock()
		g.seen.Notes, g.seen.Lock, g.rest = read.Notes, read.Lock, time.Now()
	}
}

// document makes the document of what was last seen, and of what the companion says of its node.
func (g *glimpse) document(ctx context.Context, r Report) overview.Document {
	g.refresh(ctx)
	g.mu.Lock()
	seen := g.seen
	g.mu.Unlock()
	seen.Now, seen.Own = time.Now(), r.own()
	return overview.Of(seen)
}

// own is the report as the document wants it.
func (r Report) own() *overview.Own {
	return &overview.Own{
		Node: r.Node, Role: string(r.Role), Volume: r.Volume, Version: r.RabbitMQ, Verified: r.Verified, Out: r.Out, Lost: r.Lost, Warning: r.Warning,
		Word: overview.Word{Status: r.Status, Reason: r.Reason, Since: r.Since, Beat: r.Beat, Looked: r.Looked},
		View: peers.View{ClusterID: r.ClusterID, Members: r.Members, Running: r.Running, Partitions: r.Partitions, Khepri: r.Khepri, Pauses: r.Pauses},
	}
}
