package companion

import (
	"context"
	"hash/fnv"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/policy"
	"rmq-entrypoint/peers"
)

// kept is what was read of record and catalog in an earlier beat.
type kept struct {
	record  consul.Kept[policy.Record]
	catalog consul.Kept[[]peers.Peer]
	news    chan struct{}                      // there is a change of either
	resend  atomic.Bool                        // Consul may have lost what it was told: it is told again, be it new or not
	fall    atomic.Pointer[context.CancelFunc] // ends the query of the watch
	told    time.Time                          // when that was last told
	spread  float64                            // 0 to 1, by the node's name: what wakes all nodes at once is not asked for at once
}

// mostSpread is how far apart the nodes are that look at the same change.
const mostSpread = 300 * time.Millisecond

// newKept keeps what is about this service. Nodes that were verified at the same time read it again
// at times of their own.
func (c *companion) newKept() {
	cfg, k := c.Runtime.Config, &c.kept
	h := fnv.New32a()
	_, _ = h.Write([]byte(cfg.Node))
	k.spread = float64(h.Sum32()%1000) / 1000
	k.news = make(chan struct{}, 1)
	every := policy.KeptFor - time.Duration(k.spread*float64(policy.KeptFor)/10)
	k.record.For, k.record.Changed = every, k.tell
	k.record.Same = func(a, b policy.Record) bool { return a.Index == b.Index }
	k.record.Block = func(ctx context.Context, client *api.Client, index uint64) (policy.Record, uint64, error) {
		at, next, err := peers.RecordNews(ctx, client, cfg.RecordKey(), index)
		return policy.Record{Index: at}, next, err
	}
	k.catalog.For, k.catalog.Changed = every, k.tell
	k.catalog.Same = peers.SameEntries
	k.catalog.Block = func(ctx context.Context, client *api.Client, index uint64) ([]peers.Peer, uint64, error) {
		return peers.CatalogNews(ctx, client, cfg.Service, index)
	}
}

// tell has a heartbeat follow.
func (k *kept) tell() {
	select {
	case k.news <- struct{}{}:
	default:
	}
}

// soon is after how long to look when there is a change. Two such looks are apart by half a second.
func (k *kept) soon() time.Duration {
	wait := max(time.Duration(k.spread*float64(mostSpread)), time.Second/2-time.Since(k.told))
	k.told = time.Now().Add(wait)
	return wait
}

// drop forgets all: the Consul in use did not take what it was told, or lost it.
func (k *kept) drop() {
	k.record.Drop()
	k.catalog.Drop()
}

func (k *kept) close() {
	k.record.Close()
	k.catalog.Close()
}

// askRecord reads the cluster record through Raft, by the Consul in use, unless what was kept will do.
func (c *companion) askRecord(ctx context.Context, seen *policy.Observation, keeps bool) {
	kept := false
	defer func() { c.board.cluster.sawRecord(ctx, seen.Record.Value.Record, seen.Record.Err, kept) }()
	client, err := c.Consul.Client(ctx)
	if err != nil {
		seen.Record = policy.Answer(policy.Record{}, err)
		return
	}
	if r, ok := c.kept.record.Holds(client); ok && keeps && !seen.Fresh {
		seen.Record, seen.Kept, kept = policy.Answer(r, nil), true, true
		return
	}
	read, index, err := peers.ReadRecord(ctx, client, c.Runtime.Config.RecordKey())
	c.Consul.Answered(err)
	r := policy.Record{Record: read, Index: index}
	if seen.Record = policy.Answer(r, err); err == nil && keeps && index > 0 {
		c.kept.record.Keep(client, r, index)
	} else {
		c.kept.record.Drop()
	}
}

// askCatalog does the same for the catalog.
func (c *companion) askCatalog(ctx context.Context, seen *policy.Observation, keeps bool) {
	defer func() { c.board.cluster.watches(ctx, seen.Catalog.Value, seen.Catalog.Err) }()
	client, err := c.Consul.Client(ctx)
	if err != nil {
		seen.Catalog = policy.Answer[[]peers.Peer](nil, err)
		return
	}
	if all, ok := c.kept.catalog.Holds(client); ok && keeps && !seen.Fresh {
		seen.Catalog, seen.Kept = policy.Answer(all, nil), true
		return
	}
	all, index, err := peers.Catalog(ctx, client, c.Runtime.Config.Service, "")
	if seen.Catalog = policy.Answer(all, err); err == nil && keeps && index > 0 && policy.Keeps(all) {
		c.kept.catalog.Keep(client, all, index)
	} else {
		c.kept.catalog.Drop()
	}
}
