package formation

import (
	"context"
	"slices"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
)

// namesakes follows who has this node's name, from one look at the catalog to the next. At
// most one of since and freed is set: since while there is a holder, freed when the last one
// left the name in order, until there is another.
type namesakes struct {
	holder string    // the start of a namesake whose check has not lapsed; "": none
	since  time.Time // when this holder was first seen
	freed  time.Time // when the last holder left without having been silent for its TTL
	buried []string  // starts whose entries this one removed; the catalog hears of it later
}

// saw takes one look: who holds the name, "" for nobody, and whether somebody was seen whose
// entry has lapsed or was removed by this node.
func (n *namesakes) saw(holder string, lapsed bool, now time.Time) {
	if holder == n.holder {
		return
	}
	n.holder, n.since, n.freed = holder, time.Time{}, time.Time{}
	switch {
	case holder != "":
		n.since = now
	case !lapsed:
		n.freed = now
	}
}

// held is for how long the holder has been seen; 0: there is none, or it is new.
func (n *namesakes) held(now time.Time) time.Duration {
	if n.since.IsZero() {
		return 0
	}
	return now.Sub(n.since)
}

// free is for how long the name has been free since its holder left it in order; 0: none did.
func (n *namesakes) free(now time.Time) time.Duration {
	if n.freed.IsZero() {
		return 0
	}
	return max(1, now.Sub(n.freed))
}

// answers is since when Consul has answered, and when it did last.
type answers struct {
	since, last time.Time
	failed      bool // it did not at the look before
}

// saw takes one look and returns for how long Consul has answered. An answer that was lost makes
// no difference; one that was lost for longer than it takes a node to report begins anew.
func (a *answers) saw(ok bool, report time.Duration, now time.Time) time.Duration {
	if !ok {
		a.failed = true
		return 0
	}
	if a.last.IsZero() || a.failed && now.Sub(a.last) > report {
		a.since = now
	}
	a.last, a.failed = now, false
	return now.Sub(a.since)
}

// lookForNamesakes finds those that have this node's name.
func (f *formation) lookForNamesakes(ctx context.Context, client *api.Client, all []peers.Peer, o *observation) {
	reg := f.registration()
	found, err := peers.Namesakes(ctx, client, reg, all)
	if err != nil {
		o.Namesakes.Err = err
		return
	}
	holder, lapsed, sought := "", false, false
	for _, p := range found {
		earlier := reg.Volume != "" && p.Volume == reg.Volume
		switch {
		case slices.Contains(f.namesakes.buried, p.Boot):
			lapsed = true
		case earlier:
			if lapsed = true; !sought { // the agent in use has one under this name at most, and others write any volume
				f.bury(ctx, client)
			}
			sought = true
		case p.Lapsed():
			lapsed = true
			o.Namesakes.Value = append(o.Namesakes.Value, p)
		default:
			o.Namesakes.Value = append(o.Namesakes.Value, p)
			holder = p.Boot + p.ID
		}
	}
	now := time.Now()
	f.namesakes.saw(holder, lapsed, now)
	o.Beating, o.Freed = f.namesakes.held(now), f.namesakes.free(now)
}

// buryGone removes the entries of those who were seen to be gone: they would be in the way of others.
func (f *formation) buryGone(ctx context.Context, client *api.Client, o *observation) {
	gone := o.Gone()
	for _, p := range o.Namesakes.Value {
		if p.Lapsed() && gone(p) {
			f.bury(ctx, client)
			return // all that have lapsed
		}
	}
}

func (f *formation) bury(ctx context.Context, client *api.Client) {
	if boot, err := consul.Bury(ctx, client, f.runtime(), peers.Blank); err != nil {
		f.Log.Warn("cannot remove this node's earlier registration", "err", err)
	} else if boot != "" {
		f.namesakes.buried = append(f.namesakes.buried, boot)
	}
}

// registration is this start's entry.
func (f *formation) registration() peers.Registration { return consul.Registration(f.runtime()) }

// runtime is what tells this start from others, with the volume as it is named by now.
func (f *formation) runtime() statedir.Runtime {
	rt := f.Runtime
	rt.Volume = f.volume.Volume
	return rt
}
