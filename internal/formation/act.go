package formation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/lock"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// lockPatience is how long a node queues for the lock before it looks again: a
// holder that founds keeps it until its cluster is announced, and the record is
// the better thing to wait on.
const lockPatience = 3 * time.Second

// lockTimeout bounds taking the lock from a Consul that is slow: one that does
// not answer at all is to be left for the next address.
const lockTimeout = 15 * time.Second

// act carries out d if what was observed still holds once the lock is held, and
// returns the plan, if that makes one.
func (f *formation) act(ctx context.Context, o observation, d peers.Decision) (p *Plan, err error) {
	client, err := f.Agents.Client(ctx)
	if err != nil {
		return nil, err
	}
	r := o.Record.Value
	soon, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	ReleaseEarlier(soon, f.Log, client, r, f.cfg, f.volume)
	f.SetWaiting("the lock " + f.cfg.LockKey())
	l, err := f.acquire(soon, client, o, d)
	if err != nil || l == nil {
		return nil, err
	}
	defer func() {
		if p == nil || d.Action != peers.Claim {
			err = errors.Join(err, l.Release(ctx))
		}
	}()
	newer, index, err := peers.ReadRecord(ctx, client, f.cfg.RecordKey())
	if err != nil {
		return nil, err
	}
	if index != o.record { // changed while waiting for the lock: look again, unless another joiner was all that changed
		o.Record.Value, o.record, r = newer, index, newer
		if d.Action != peers.Join {
			return nil, nil
		}
		if d = f.choose(o.Observation); d.Action != peers.Join {
			return nil, nil
		}
	}
	if err := peers.NameFree(ctx, client, f.registration(), peers.Blank); err != nil { // somebody of this name came back meanwhile
		return nil, err
	}
	if f.volume.Volume == "" {
		f.volume.Volume = peers.NewID()
	}
	now := time.Now()
	switch d.Action {
	case peers.Remove:
		f.Log.Warn("taking this node off the record: its volume is blank", "cluster", r.ClusterID, "members_left", peers.SomeWith(r.Without(f.cfg.Node, "", now).Names(), ","))
		removed := r.RemovedItself(f.cfg.Node, f.volume.Volume, now)
		if removed.Gone[f.cfg.Node].Unjoined && !f.volume.Failed && !f.volume.Alone {
			// First on the volume: what is left of that join is no part of the next one.
			if err := f.dir.WritePending(statedir.Pending{Role: statedir.Joining, Claim: f.volume.Claim, Volume: f.volume.Volume, Failed: true}); err != nil {
				return nil, &volumeError{f.dir.State, err}
			}
			f.volume.Failed, f.volume.Joining = true, false
		}
		removed = removed.By(f.cfg.Node, config.OnHost(f.cfg.Node+", its volume blank,"))
		_, err := peers.WriteRecord(ctx, client, f.cfg.RecordKey(), removed, o.record, "", "")
		return nil, err
	case peers.Join:
		return f.join(ctx, client, o, d)
	}
	known, _, err := peers.Catalog(ctx, client, f.cfg.Service, f.cfg.Node)
	if err != nil || r.State == peers.Absent && len(known) > 0 || r.State == peers.Formed && slices.ContainsFunc(known, peers.Peer.Alive) {
		return nil, cmp.Or(err, errRegistered)
	}
	claim := r.Claimed(f.cfg.Node, f.volume.Volume, l.Session(), now)
	if err := f.pend(statedir.Seeding, claim.Claim); err != nil {
		return nil, err
	}
	if ok, err := peers.WriteRecord(ctx, client, f.cfg.RecordKey(), claim, o.record, f.cfg.LockKey(), l.Session()); err != nil || !ok {
		return nil, err
	}
	if r.State == peers.Formed {
		why, by := "all recorded volumes came up blank; if they were only not mounted: stop all nodes, mount them, delete the key in Consul, start them", ""
		for _, n := range goneNames(r) {
			if g := r.Gone[n]; g.Another(n) {
				why, by = "the cluster on record was given up; to have it back all the same: stop all nodes, delete the key in Consul, start those that have its data", g.By
			}
		}
		f.Log.Warn("FOUNDING ANEW: "+why, "key", f.cfg.RecordKey(), "lost_cluster", r.ClusterID, "gone", peers.SomeWith(goneNames(r), ","), "given_up_by", by)
	}
	f.Log.Info("founding the cluster", "why", d.Why, "claim", claim.Claim)
	return &Plan{Role: statedir.Seeding, Claim: claim.Claim, Volume: f.volume.Volume, Lock: l, Aside: !f.volume.Alone}, nil // alone it goes on with what it founded
}

// acquire takes the lock. It returns none when somebody else was faster to claim what this node
// wants to claim: there is something else to wait for by then, or to do.
func (f *formation) acquire(ctx context.Context, client *api.Client, o observation, d peers.Decision) (*lock.Lock, error) {
	if d.Action != peers.Claim {
		return lock.Acquire(ctx, client, f.lockOptions())
	}
	ctx, cancel := context.WithCancel(ctx)
	var changed atomic.Bool
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel()
	watch.Go(func() {
		peers.Changed(ctx, client, f.cfg.RecordKey(), o.record, f.cfg.Service, o.catalog, lockTimeout)
		changed.Store(ctx.Err() == nil)
		cancel()
	})
	l, err := lock.Acquire(ctx, client, f.lockOptions())
	if err != nil && changed.Load() {
		return nil, nil
	}
	return l, err
}

var errRegistered = errors.New("a node has registered meanwhile")

// ReleaseEarlier releases the lock of this node's own earlier start, which founded and
// has ended: nobody renews its session any more. The volume proves that it was this
// node's, so it need not expire before others can join.
func ReleaseEarlier(ctx context.Context, log *slog.Logger, client *api.Client, r peers.Record, cfg config.Config, state statedir.Found) {
	if r.State != peers.Forming || r.Seed != cfg.Node || r.Claim != state.Claim || r.Session == "" {
		return
	}
	if old, err := lock.Adopt(ctx, client, r.Session, consul.LockOptions(cfg, log)); err == nil && old.Release(ctx) == nil {
		log.Info("released the lock of this node's earlier start", "session", r.Session)
	}
}

// announce registers the node before it goes on record and lets go of the lock: the next
// one of its name that takes the lock sees it.
func (f *formation) announce(ctx context.Context, client *api.Client) error {
	reg := f.registration()
	var err error
	if reg.Address, err = consul.Advertise(ctx, f.cfg, f.Agents.Addr); err != nil {
		return err
	}
	f.announced = true
	reg.Places.Denied = consul.Unplaced(f.Log)
	return peers.Announce(ctx, client, reg, peers.Blank, "about to join")
}

// withdraw takes that back when nothing comes of it.
func (f *formation) withdraw(ctx context.Context) {
	if !f.announced || f.Agents.Current == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := peers.Withdraw(ctx, f.Agents.Current, f.registration()); err != nil {
		f.Log.Warn("cannot deregister, the TTL will tell", "err", err)
	}
}

// join puts this node on the record, clears away what would keep it out, and plans
// the join. From here on the record says that this volume may hold data.
func (f *formation) join(ctx context.Context, client *api.Client, o observation, d peers.Decision) (*Plan, error) {
	r := o.Record.Value
	var after time.Time
	if f.Runtime.Gated {
		var err error
		if after, err = f.mayEnter(o.Peers.Value, d); err != nil {
			return nil, err
		}
	}
	if err := f.pend(statedir.Joining, r.Claim); err != nil {
		return nil, err
	}
	if err := f.announce(ctx, client); err != nil {
		return nil, err
	}
	if r.Members[f.cfg.Node] != f.volume.Volume {
		joins := r.Joins(f.cfg.Node, f.volume.Volume, time.Now())
		if d.Named && f.Image.ForgetsFirst() { // what the cluster forgets cannot come back
			joins = joins.Forgotten(f.cfg.Node)
		}
		if ok, err := peers.WriteRecord(ctx, client, f.cfg.RecordKey(), joins, o.record, "", ""); err != nil || !ok {
			return nil, err
		}
	}
	if d.Named && f.Image.ForgetsFirst() {
		f.Log.Info("a blank node under a known name: making the cluster forget its earlier volume", "peer", d.Peers[0])
		if err := f.CLI.Forget(ctx, d.Peers[0], f.cfg.Node); err != nil {
			return nil, fmt.Errorf("forget this node's earlier volume at %s: %w", d.Peers[0], err)
		}
	}
	f.Log.Info("joining the cluster", "why", d.Why, "cluster", r.ClusterID, "peers", peers.SomeWith(d.Peers, ","))
	return &Plan{Role: statedir.Joining, Claim: r.Claim, Volume: f.volume.Volume, Peers: d.Peers, After: after, Queues: defaultQueues(r, o.Peers.Value, d.Peers), Aside: f.volume.Failed}, nil
}

// defaultQueues is what queues are by default in the cluster to join: what is on record, or where
// that does not say yet, what its members do.
func defaultQueues(r peers.Record, all []peers.Peer, join []string) string {
	types := []string{statedir.Quorum, statedir.Classic, statedir.Adopted}
	if slices.Contains(types, r.Queues) {
		return r.Queues
	}
	unsaid := ""
	for _, p := range all {
		if !slices.Contains(join, p.Node) {
			continue
		}
		if slices.Contains(types, p.Queues) {
			return p.Queues
		}
		if v, err := rabbitconf.ParseVersion(p.Version); err == nil && v.Mirrors() {
			unsaid = statedir.Classic // a version that has no default to set
		}
	}
	return unsaid
}

// pend writes what is about to be done to the volume, before anything can do it.
// What a node that came up alone holds stays known as such until it has joined.
func (f *formation) pend(as statedir.Role, claim string) error {
	if as == statedir.Joining && f.volume.Alone {
		as = statedir.Alone
	}
	pending := statedir.Pending{
		Role: as, Claim: claim, Volume: f.volume.Volume,
		Failed: as == statedir.Joining && f.volume.Failed, // until that is out of the way
		Alone:  as == statedir.Seeding && f.volume.Alone,
	}
	err := f.dir.WritePending(pending)
	if err == nil { // what an earlier life of this blank volume left would speak for it
		err = errors.Join(f.dir.Remove("member"), f.dir.Remove("carry-on"), f.dir.Remove("out"))
	}
	if err != nil {
		return &volumeError{f.dir.State, err}
	}
	return nil
}

func (f *formation) lockOptions() lock.Options {
	o := consul.LockOptions(f.cfg, f.Log)
	o.Patience = lockPatience
	return o
}

func goneNames(r peers.Record) (names []string) {
	for n := range r.Gone {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}
