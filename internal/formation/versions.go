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

// runs reports whether an entry says that a node of the cluster on record runs. Until there is a
// record, any may be of one.
func (o around) runs(p peers.Peer) bool {
	ours := p.ClusterID == "" || o.record.ClusterID == "" || p.ClusterID == o.record.ClusterID
	_, on := o.record.Members[p.Node]
	return p.Beating && !p.AgentFailed && ours && (on || o.record.State != peers.Formed)
}

// running returns the other nodes that run, by the version they say they have.
func (o around) running() map[string]rabbitconf.Version {
	m, newest := map[string]rabbitconf.Version{}, map[string]peers.Peer{}
	for _, p := range o.peers {
		other, twice := newest[p.Node] // with the agent that it had before
		if !o.runs(p) || twice && !o.speaks(p, other) {
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

// clash is an entry of a node that runs, as it says, beside which this image must not.
type clash struct {
	peers.Peer
	says, had rabbitconf.Version // in the entry, and on record: zero where the record has none
}

// clashes returns what entries say against the image: what the record has of that member says the
// same, or the entry alone does. Whoever may register a service may say anything in one, and with
// it refuses no start.
func (o around) clashes(image rabbitconf.Version) (onRecord, alone []clash) {
	for _, p := range o.peers {
		v, err := rabbitconf.ParseVersion(p.Version)
		if err != nil || !o.runs(p) || rabbitconf.Mix(image, v) != rabbitconf.Unsupported {
			continue
		}
		had, _ := rabbitconf.ParseVersion(o.record.Versions[p.Node])
		c := clash{p, v, had}
		if had != (rabbitconf.Version{}) && rabbitconf.Mix(image, had) == rabbitconf.Unsupported && !o.passed(image, had) {
			onRecord = append(onRecord, c)
		} else {
			alone = append(alone, c)
		}
	}
	byName := func(a, b clash) int { return cmp.Compare(a.Node, b.Node) }
	slices.SortStableFunc(onRecord, byName)
	slices.SortStableFunc(alone, byName)
	return onRecord, alone
}

// passed reports whether the cluster has left that version behind: this node was verified in it with
// the image's series, which is later, so that a member of that version had stopped before.
func (o around) passed(image, had rabbitconf.Version) bool {
	mine, err := rabbitconf.ParseVersion(o.record.Versions[o.me])
	return err == nil && mine.Series() == image.Series() && had.Compare(image) < 0
}

// Mix says beside which members that run this image's server must not, by the versions on record,
// and what to do, or "".
func (o around) Mix(image, last statedir.Versions) string {
	if o.Err != nil {
		return ""
	}
	onRecord, _ := o.clashes(image.Version)
	if len(onRecord) == 0 {
		return ""
	}
	var against []string
	for _, c := range onRecord {
		against = append(against, c.Node)
	}
	against = slices.Compact(against)
	first := onRecord[0].had
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

// Doubt says which entries alone speak against this image's server, or "".
func (o around) Doubt(image rabbitconf.Version) string {
	if o.Err != nil {
		return ""
	}
	_, alone := o.clashes(image)
	var said []string
	for _, c := range alone {
		record := "of which the record has no version"
		if c.had != (rabbitconf.Version{}) {
			record = fmt.Sprintf("which has RabbitMQ %s on record", c.had)
		}
		said = append(said, fmt.Sprintf("%s, %s, says RabbitMQ %s in the entry %s with Consul agent %s", c.Node, record, c.says, c.ID, c.Agent))
	}
	if len(said) == 0 {
		return ""
	}
	return fmt.Sprintf("whether it can run beside all entries of this service, which anybody with service:write can make: %s", peers.SomeWith(said, "; "))
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
		if had := o.record.Versions[n]; had != v.String() {
			said[n] += ", as its entry in Consul says"
			if had != "" {
				said[n] += fmt.Sprintf(", and has %s on record", had)
			}
		}
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
	doubt := a.Doubt(f.Image)
	var told error
	if doubt != "" {
		told = errors.New(doubt)
	}
	if f.failing.news("versions", told) {
		f.Log.Warn("entries alone keep no node from joining: what members run is on record", "unknown", doubt)
	}
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
