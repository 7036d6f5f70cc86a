package entrypoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/formation"
	"rmq-entrypoint/internal/hosts"
	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
)

// decide is Decide with what this host and its image have.
func decide(ctx context.Context, log *slog.Logger, c *consul.Agents, h host) (formation.Plan, error) {
	rt, cfg := h.rt, h.rt.Config
	rt.Volume = h.state.Volume
	note := consul.Post(ctx, rt)
	defer note.Close()
	return Decide(ctx, formation.Options{
		Log: log, Runtime: rt, Found: h.state, Image: h.version, Agents: c,
		DNS: peers.DNS{Server: cfg.DNSServer, Domain: cfg.DNSDomain},
		CLI: rabbitmq.New(cfg.Node, cfg.LongNames, hosts.Environment(cfg)...), Hosts: h.hosts, IsDown: hosts.Down(cfg),
		SetWaiting: func(why string) {
			note.Says(why)
			rt.Waiting = why
			if err := rt.Write(); err != nil {
				log.Warn("cannot leave word for the health check", "err", err)
			}
		},
	})
}

// Decide returns what to start as: a node with data starts as what it is and at
// once, unless the record positively refuses its volume; a blank one takes part
// in the formation.
func Decide(ctx context.Context, with formation.Options) (plan formation.Plan, err error) {
	rt, cfg, state, log := with.Runtime, with.Runtime.Config, with.Found, with.Log
	if state.Lost != "" {
		log.Warn("the marker says member, but RabbitMQ's directory is gone: this volume is blank", "cluster", state.Lost, "directory", cfg.Data)
	}
	if state.Role != "" {
		p, err := withData(ctx, log, with.Agents, state, rt)
		if !errors.Is(err, errNeverClaimed) {
			return p, err
		}
		with.Found = with.Found.Blank()
		defer func() { plan.Blank = true }()
	}
	if err := noForeignDatabases(cfg); err != nil {
		return formation.Plan{}, err
	}
	waiting, tell := "", with.SetWaiting
	with.SetWaiting = func(why string) {
		waiting = why
		tell(why)
	}
	with.SetWaiting("Consul")
	if len(consul.PluginServices(rt)) > 0 {
		if client, err := with.Agents.Client(ctx); err == nil {
			consul.BuryPluginServices(ctx, client, rt, peers.Blank)
		}
	}
	log.Info("this node is blank: looking for its cluster", "node", cfg.Node, "record", cfg.RecordKey())
	p, err := formation.Run(ctx, with)
	if err != nil && ctx.Err() != nil {
		return p, fmt.Errorf("stopped while waiting for %s: %w", waiting, context.Cause(ctx))
	}
	return p, err
}

// withData returns what a node with data starts as, unless its volume is positively ruled
// out, or was never verified and its name is another's: two servers of one name disturb the
// cluster that one of them is in. A verified member's name is its own.
func withData(ctx context.Context, log *slog.Logger, c *consul.Agents, state statedir.Found, rt statedir.Runtime) (formation.Plan, error) {
	if state.Cluster == "" { // who is there is more to the point than what is on record
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		client, err := c.Client(ctx)
		if err == nil {
			err = peers.NameFree(ctx, client, consul.Registration(rt), peers.Starting)
		}
		if consul.NameTaken(err) && !onRecord(ctx, client, rt.Config, state.Volume) {
			return formation.Plan{}, secondOfName(rt.Config.Node, err)
		}
	}
	if err := refused(ctx, log, c, rt.Config, state); err != nil {
		if r := new(Refusal); errors.As(err, &r) && r.kind == gone {
			clearAway(ctx, c, rt)
		}
		return formation.Plan{}, err
	}
	if state.Volume == "" {
		// On the volume before it goes on record: a name that only the record knew would be
		// another one's after a crash.
		state.Volume = peers.NewID()
		if err := statedir.Of(rt.Config).WritePending(statedir.Pending{Role: statedir.Member, Volume: state.Volume}); err != nil {
			return formation.Plan{}, fmt.Errorf("give this volume a name: %w", err)
		}
	}
	return formation.Plan{Role: state.Role, Claim: state.Claim, Volume: state.Volume}, nil
}

// errNeverClaimed: the volume is blank, though it was to found a cluster.
var errNeverClaimed = errors.New("it never claimed the founding")

// clearAway removes what a node that has left for good could not remove from Consul when it did.
func clearAway(ctx context.Context, c *consul.Agents, rt statedir.Runtime) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if client, err := c.Client(ctx); err == nil {
		consul.BuryPluginServices(ctx, client, rt, peers.Starting)
		_, _ = peers.Bury(ctx, client, consul.Registration(rt), peers.Starting) // or Consul will, in some minutes
	}
}

// onRecord reports whether the cluster record has the node's name for this volume: what an entry
// says of it, which anybody may write who may register the service, counts for nothing then.
func onRecord(ctx context.Context, client *api.Client, cfg config.Config, volume string) bool {
	r, _, err := peers.ReadRecord(ctx, client, cfg.RecordKey())
	return err == nil && r.Has(cfg.Node, volume)
}

func secondOfName(node string, taken error) error {
	return fmt.Errorf("not starting a second %s: %w. Two nodes cannot have one name: give this container a host name of its own (or RABBITMQ_NODENAME), or stop that one", node, taken)
}

// refused asks the volume, and once the record, whether it is positively ruled out.
// Unknown starts: members wait for each other inside RabbitMQ, and any gate here
// would deadlock a full restart.
func refused(ctx context.Context, log *slog.Logger, c *consul.Agents, cfg config.Config, state statedir.Found) error {
	if order, err := statedir.Of(cfg).Maintenance(); err != nil {
		return err
	} else if order != nil && order.Leaving && order.Done { // known without Consul
		return &Refusal{gone, fmt.Errorf("refusing to start: %s left cluster %s for good on %s. To join it again, start with an empty volume; otherwise remove this container", cfg.Node, state.Cluster, order.At.Format(time.RFC3339))}
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var r peers.Record
	client, err := c.Client(ctx)
	if err == nil {
		r, _, err = peers.ReadRecord(ctx, client, cfg.RecordKey())
	}
	if err != nil {
		log.Warn("this node has data and starts; Consul cannot be asked whether the volume is still on record", "err", err)
		return nil
	}
	if state.WasAlone && r.NeverClaimed(cfg.Node, state.Claim) {
		log.Info("this node came up alone by accident, and ended before it claimed the founding: it counts as blank", "volume", state.Volume)
		return errNeverClaimed
	}
	if err := ruledOut(r, cfg, state, lastSeen(ctx, client, cfg)); err != nil {
		return err
	}
	if r.Returns(cfg.Node, state.Volume) {
		return comeBack(ctx, log, client, cfg, state)
	}
	formation.ReleaseEarlier(ctx, log, client, r, cfg, state)
	log.Info("this node has data and starts at once", "role", state.Role, "cluster", state.Cluster)
	return nil
}

// comeBack puts a volume on record again that a blank one under this node's name removed, or
// that was given up with a cluster which others took back, before its server starts: whoever would go on without it sees that it is back, or has
// said so on the record first.
func comeBack(ctx context.Context, log *slog.Logger, client *api.Client, cfg config.Config, state statedir.Found) error {
	for {
		r, index, err := peers.ReadRecord(ctx, client, cfg.RecordKey())
		ok := false
		if err == nil && !r.Returns(cfg.Node, state.Volume) {
			return ruledOut(r, cfg, state, lastSeen(ctx, client, cfg))
		}
		if err == nil {
			back := r.With(cfg.Node, state.Volume)
			if state.Cluster == "" { // whether its join was one, verification finds out
				back = r.Joins(cfg.Node, state.Volume, time.Now())
			}
			ok, err = peers.WriteRecord(ctx, client, cfg.RecordKey(), back, index, "", "")
		}
		if err != nil {
			log.Warn("this node has data and starts; it is off the record, which cannot be put right yet", "err", err)
			return nil
		}
		if ok {
			log.Warn("this node was off the record and has data: it is on record again, and starts", "was", r.Gone[cfg.Node].Told(cfg.Node, "the record"), "volume", state.Volume)
			return nil
		}
	}
}

// ruledOut returns an error when the record positively rules the volume out. Seen says where
// the volume on record for this node's name was seen.
func ruledOut(r peers.Record, cfg config.Config, state statedir.Found, seen func(volume string) string) error {
	why := r.Refuses(cfg.Node, state.Volume, state.Cluster)
	switch {
	case why == "":
		return nil
	case r.HasLeft(cfg.Node, state.Volume):
		return &Refusal{gone, fmt.Errorf("refusing to start: %s. To join it again, start with an empty volume; otherwise remove this container", why)}
	case state.Cluster == "" && (state.Volume == "" || r.GaveUp(cfg.Node, state.Volume).IsZero()):
		on := cmp.Or(r.Members[cfg.Node], r.Gone[cfg.Node].Volume)
		return &Refusal{ruledOutVolume, fmt.Errorf("refusing to start under the name of another volume, nothing was changed: %s; %s. "+
			"If this volume is another node's, give the container that node's host name (or RABBITMQ_NODENAME). If that volume is the right one, mount it here, or start with an empty one. "+
			"If this one is, as where only %s was lost: stop whoever has the other, delete the key %s in Consul while another member runs (it is published anew, and every node fills in its volume; where none is left, just delete it), and start this node again",
			why, seen(on), cfg.StateDir, cfg.RecordKey())}
	}
	return &Refusal{ruledOutVolume, fmt.Errorf("refusing to start beside the cluster: %s. Its data is kept. To join that cluster, start with an empty volume; to go back to this volume's cluster, stop the other nodes, delete the key %s in Consul and start this node first", why, cfg.RecordKey())}
}

// lastSeen returns what the catalog says of the node of this name on a volume.
func lastSeen(ctx context.Context, client *api.Client, cfg config.Config) func(volume string) string {
	return func(volume string) string {
		all, _, err := peers.Entries(ctx, client, cfg.Service)
		if err != nil {
			return fmt.Sprintf("where that volume is cannot be told (%v)", err)
		}
		for _, p := range all {
			if p.Node == cfg.Node && p.Volume == volume {
				return "its node is " + p.Describe()
			}
		}
		return "no node is registered with that volume now"
	}
}
