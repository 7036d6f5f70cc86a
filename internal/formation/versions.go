package formation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

func RefusedJump(why string) error {
	return fmt.Errorf("refusing to start, nothing was changed: %s. To start all the same, where data and other nodes may be lost: --allow-version-jump (RMQ_ALLOW_VERSION_JUMP=true)", why)
}

// around is what Consul says of the other nodes.
type around struct {
	peers  []peers.Peer
	record peers.Record
	me     string
	Err    error // not known, and why
}

// LookAround asks Consul once who is there. A lone broker has nobody around.
func LookAround(ctx context.Context, c config.Config, log *slog.Logger) (o around) {
	o.me = c.Node
	client, err := consul.New(c, log).Client(ctx)
	if err == nil {
		o.peers, _, err = peers.Catalog(ctx, client, c.Service, c.Node)
	}
	if err == nil {
		o.record, _, err = peers.ReadRecord(ctx, client, c.RecordKey())
	}
	if !errors.Is(err, consul.ErrSingle) {
		o.Err = err
	}
	return o
}

// running returns the other nodes of the cluster on record that run, by the version they
// say they have. Until there is a record, any entry may be such a node's.
func (o around) running() map[string]rabbitconf.Version {
	m, newest := map[string]rabbitconf.Version{}, map[string]peers.Peer{}
	for _, p := range o.peers {
		ours := p.ClusterID == "" || o.record.ClusterID == "" || p.ClusterID == o.record.ClusterID
		_, on := o.record.Members[p.Node]
		other, twice := newest[p.Node] // with the agent that it had before
		if !p.Beating || p.AgentFailed || !ours || o.record.State == peers.Formed && !on || twice && !o.speaks(p, other) {
			continue
		}
		newest[p.Node] = p
		if v, err := rabbitconf.ParseVersion(p.Version); err == nil {
			m[p.Node] = v
		}
	}
	return m
}

// speaks reports whether p rather than other says what that node runs: where the entries are
// alike, the one that says what it was verified with.
func (o around) speaks(p, other peers.Peer) bool {
	if c := o.record.Compare(p, other); c != 0 {
		return c > 0
	}
	last := o.record.Versions[p.Node]
	if as := p.Version == last; as != (other.Version == last) {
		return as
	}
	return p.Newer(other)
}

// Mix says beside which nodes that run this image's server must not, and what to do, or "".
func (o around) Mix(image, last statedir.Versions) string {
	if o.Err != nil {
		return ""
	}
	running := o.running()
	var against []string
	for _, n := range slices.Sorted(maps.Keys(running)) {
		if rabbitconf.Mix(image.Version, running[n]) == rabbitconf.Unsupported {
			against = append(against, n)
		}
	}
	if len(against) == 0 {
		return ""
	}
	first := running[against[0]]
	why := fmt.Sprintf("%s in this image and RabbitMQ %s of %s cannot run in one cluster", image, first, peers.Some(against))
	path := rabbitconf.Path(image.Version, first)
	switch {
	case last.Version == (rabbitconf.Version{}):
		return why + fmt.Sprintf("; start this node from an image of RabbitMQ %s", first)
	case len(path) > 1: // the others went on without it
		return why + fmt.Sprintf("; the next version to go to is %s: start this node from an image of it first", rabbitconf.Least(path[0]))
	case image.Version.Compare(first) > 0:
		return why + fmt.Sprintf("; go back to an image of RabbitMQ %s here, and bring %s to a version that %s takes first (%s)", last.Version, against[0], image.Version.Series(), rabbitconf.Froms(image.Version))
	}
	return why + fmt.Sprintf("; this volume is of RabbitMQ %s, from which there is no way to %s but an empty volume, on which the node joins again", last.Version, first)
}

// Tell says what the other members run, or ran when they were last verified.
func (o around) Tell() string {
	if o.Err != nil {
		return fmt.Sprintf(". What the other members run cannot be told: %v", o.Err)
	}
	running := o.running()
	said := map[string]string{}
	for n := range o.record.Members {
		said[n] = n + " does not run, its version is not known"
		if v := o.record.Versions[n]; v != "" {
			said[n] = fmt.Sprintf("%s does not run, and had %s", n, v)
		}
	}
	for n, v := range running {
		said[n] = fmt.Sprintf("%s runs %s", n, v)
	}
	delete(said, o.me)
	if len(said) == 0 {
		return ""
	}
	var all []string
	for _, n := range slices.Sorted(maps.Keys(said)) {
		all = append(all, said[n])
	}
	return ". The other members: " + peers.Some(all)
}

// cannotMix refuses a blank node that would join members beside which it cannot run,
// before it says anything of itself in Consul: also one whose cluster came up after it.
func (f *formation) cannotMix(o peers.Observation) error {
	if f.mixes || f.Image == (rabbitconf.Version{}) || !o.Record.Known() || !o.Peers.Known() {
		return nil
	}
	a := around{peers: o.Peers.Value, record: o.Record.Value, me: f.cfg.Node}
	why := cmp.Or(a.Mix(statedir.Versions{Version: f.Image}, statedir.Versions{}), a.onMnesia(f.Image))
	switch {
	case why == "":
		return nil
	case f.cfg.AllowJump: // refuseJump has said so, or does at the next start
		f.Log.Warn("joining all the same (--allow-version-jump)", "why", why)
		f.mixes = true
		return nil
	}
	return RefusedJump(why + a.Tell())
}

// onMnesia says that a member of the cluster that was asked is not on Khepri, which this
// version requires of all.
func (o around) onMnesia(image rabbitconf.Version) string {
	if !image.KhepriOnly() {
		return ""
	}
	for _, p := range o.peers {
		if p.View.Known() && p.ClusterID == o.record.ClusterID && !p.View.Value.Khepri {
			return fmt.Sprintf("RabbitMQ %s in this image runs in clusters on Khepri alone, and that of %s is not: run `rabbitmqctl enable_feature_flag khepri_db` there first, on 4.2", image, p.Node)
		}
	}
	return ""
}
