package formation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
)

// ErrStartAnew: a server that waits behind the gate cannot become what was decided. Its next
// start can.
var ErrStartAnew = errors.New("the server must start anew")

// mayBoot reports whether the server may boot while the node waits. Another node, which lives,
// founds the cluster, and RabbitMQ here is held back by the gate until it may join: it can
// neither found nor join, holds nothing and has no vote. To others the node waits as it would
// without a server.
//
// Only a volume that nothing was ever begun on boots early: what a second start finds there is
// for the formation alone. RabbitMQ elects the older of two nodes that are alone, so the
// founding one must run first.
func (f *formation) mayBoot(o observation, d peers.Decision) bool {
	v, r := f.volume, o.Record.Value
	if !d.Founding || f.Runtime.Gated || !f.Image.HoldsBack() || v.Claim != "" || v.Joining || v.Failed || v.Alone || v.Lost != "" {
		return false
	}
	for _, p := range o.Peers.Value {
		if p.Node == r.Seed && p.Volume == r.Members[r.Seed] && p.Beating && p.Runs {
			return true
		}
	}
	return false
}

// bootEarly plans a start behind the gate. The volume says that a join is under way, for the
// start after this one; nothing is said in Consul.
func (f *formation) bootEarly(ctx context.Context, o observation, why string) (Plan, error) {
	r := o.Record.Value
	if f.volume.Volume == "" {
		f.volume.Volume = peers.NewID()
	}
	if err := f.pend(statedir.Joining, r.Claim); err != nil {
		return Plan{}, err
	}
	f.withdraw(ctx)
	f.Log.Info("booting while another node founds the cluster: RabbitMQ looks for nobody until the cluster is there", "seed", r.Seed, "claim", r.Claim)
	return Plan{Role: statedir.Joining, Claim: r.Claim, Volume: f.volume.Volume, Gated: true, Waits: why}, nil
}

// mayEnter returns when the eldest node to join started, or [ErrStartAnew].
func (f *formation) mayEnter(all []peers.Peer, d peers.Decision) (after time.Time, err error) {
	if d.Named && f.Image.ForgetsFirst() {
		return after, fmt.Errorf("%w: %s still lists an earlier volume of this node, which is forgotten before a server starts", ErrStartAnew, d.Peers[0])
	}
	return eldest(all, d.Peers)
}

// eldest returns when the first of the nodes to join started. Where one has a cluster, RabbitMQ
// prefers that anyhow: zero.
func eldest(all []peers.Peer, join []string) (first time.Time, err error) {
	for _, p := range all {
		switch v := p.View.Value; {
		case !p.View.Known() || !slices.Contains(join, p.Node):
		case len(v.Members) > 1:
			return time.Time{}, nil
		case v.Started.IsZero():
			err = fmt.Errorf("%w: %s does not say when it started, and RabbitMQ has the younger node join the older", ErrStartAnew, p.Node)
		case first.IsZero() || v.Started.Before(first):
			first = v.Started
		}
	}
	return first, err
}
