package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/hosts"
	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// Forget is `rmq-entrypoint forget NODE`: another member, which is down for good, is taken out of
// the cluster.
//
//	it is down, and nothing is lost with it → off the record → still down? → forgotten by RabbitMQ
//
// All of it is done under the lock, so that nobody joins under that name meanwhile. The record
// comes first: from there on this program refuses that volume at its start. RabbitMQ, once it was
// made to forget the node, would have it wait for minutes. The members finish what the command does
// not come to, as after an interrupted leave; so does the command, run again.
func Forget(ctx context.Context, cfg config.Config, node string, force bool, out io.Writer) error {
	if err := rabbitconf.ValidNode(node); err != nil {
		return fmt.Errorf("forget: %w", err)
	}
	o, err := operate(ctx, cfg, "forget "+node+" with", Request{Force: force}, out)
	if err != nil {
		return err
	}
	defer o.held.Close()
	if node == o.broker.Node {
		return fmt.Errorf("%s is this node itself: rmq-entrypoint leave takes it out of the cluster; forget is for another one, which is down", node)
	}
	v, err := o.running(ctx)
	if err != nil {
		return fmt.Errorf("not forgotten: %w", err)
	}
	client, err := consul.New(o.rt.Config, slog.New(slog.DiscardHandler)).Client(ctx)
	if err != nil {
		return err
	}
	r, _, err := peers.ReadRecord(ctx, client, o.rt.Config.RecordKey())
	if err != nil {
		return err
	}
	if err := o.onRecord(r, v); err != nil {
		return fmt.Errorf("not forgotten: %w", err)
	}
	for range 3 { // a companion that publishes takes no lock
		err = underLock(ctx, o.rt.Config, r.ClusterID, func(client *api.Client, session string, r peers.Record, index uint64) error {
			return o.forget(ctx, change{client, session, r, index}, node)
		})
		if !errors.Is(err, errRecordChanged) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("not forgotten: %w", err)
	}
	return nil
}

var errRecordChanged = errors.New("the record changed meanwhile: try again")

// A change is one of the record, under the lock.
type change struct {
	client  *api.Client
	session string
	record  peers.Record
	index   uint64
}

// forget does what Forget is for while nobody else changes who is a member.
func (o operator) forget(ctx context.Context, c change, node string) error {
	v, err := o.running(ctx)
	if err != nil {
		return err
	}
	if err := o.onRecord(c.record, v); err != nil {
		return err
	}
	g, gone := c.record.Gone[node]
	_, on := c.record.Members[node]
	listed, done := slices.Contains(v.Members, node), gone && !on && (g.Left || g.Forgotten)
	switch {
	case !on && !gone && !listed:
		return fmt.Errorf("%s is no member of cluster %s: RabbitMQ lists %s, on record are %s", node, v.ClusterID, peers.Some(v.Members), peers.Some(c.record.Names()))
	case done && !listed:
		o.say("%s; RabbitMQ lists it no more: nothing to do", g.Told(node, "the record"))
		return nil
	}
	if err := mayForget(c.record, v, node); err != nil {
		return err
	}
	if err := o.mustBeDown(ctx, c, v, node); err != nil {
		return err
	}
	if listed {
		if err := o.nothingLost(ctx, node); err != nil {
			return err
		}
	}
	ctx = context.WithoutCancel(ctx)
	if !done {
		off := o.offRecord(c.record, node)
		if err := o.write(ctx, c, off, c.index); err != nil {
			return err
		}
		o.say("off the record: its volume may not come back")
		if v, err = o.stillDown(ctx, c, node); err != nil {
			return o.onRecordAgain(ctx, c, off, node, err)
		}
	}
	may := func(ctx context.Context) error { return o.joinsAnew(ctx, c, node) }
	if listed {
		err = o.haveForgotten(ctx, without(v.Running, node), node, may)
	} else {
		err = may(ctx)
	}
	switch {
	case errors.Is(err, errLeftAlone):
		return err
	case err != nil:
		return fmt.Errorf("%s is off the record, and RabbitMQ may not have forgotten it: %w; run forget again, or wait: the members do it after some minutes", node, err)
	}
	o.look()
	o.say("forgotten by the cluster, which goes on with %s: the name may come back with an empty volume only", strings.Join(without(v.Members, node), ", "))
	return nil
}

// onRecord refuses to work from a node that is not in the cluster on record.
func (o operator) onRecord(r peers.Record, v peers.View) error {
	switch {
	case r.State != peers.Formed || r.ClusterID != v.ClusterID:
		return fmt.Errorf("this node is in cluster %s, but the record is %s: see rmq-entrypoint status", v.ClusterID, r.String())
	case r.Members[o.broker.Node] != o.rt.Volume || o.rt.Volume == "":
		return fmt.Errorf("%s is not on record with this volume: wait until its check passes, see rmq-entrypoint status", o.broker.Node)
	case len(v.Partitions) > 0:
		return fmt.Errorf("partitioned from %s, which may go on with what is to be forgotten: restart the side that may lose what it took meanwhile", strings.Join(v.Partitions, ", "))
	}
	return nil
}

// mayForget refuses where the members that stay are no majority, or where RabbitMQ cannot decide.
func mayForget(r peers.Record, v peers.View, node string) error {
	stay := without(v.Members, node)
	up := slices.DeleteFunc(slices.Clone(stay), func(m string) bool {
		_, on := r.Members[m]
		return !on || !slices.Contains(v.Running, m)
	})
	switch {
	case v.Khepri && 2*len(up) <= len(v.Members):
		return fmt.Errorf("without a majority: of the members %s only %s run and are on record, and to forget one takes a majority of all; start others, or see rmq-entrypoint force-boot if their data is gone for good",
			strings.Join(v.Members, ", "), orNone(up))
	case 2*len(up) <= len(stay):
		return fmt.Errorf("without a majority: of the nodes that stay (%s) only %s run and are on record; start the others", strings.Join(stay, ", "), orNone(up))
	}
	return nil
}

// mustBeDown refuses while the node lives. Where that cannot be told it refuses, too, unless
// forced: a node behind a cut looks like one that is gone.
func (o operator) mustBeDown(ctx context.Context, c change, v peers.View, node string) error {
	s := o.signOfLife(ctx, c, v, node)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case s.alive != "":
		return fmt.Errorf("%s lives: %s. Run rmq-entrypoint leave in it, or stop it for good and wait until its entry has lapsed", node, s.alive)
	case len(s.unsure) > 0 && !o.force:
		return fmt.Errorf("whether %s lives cannot be told, and one that does is not forgotten: %s. Run this in a container that reaches its host, or take the host's name out of DNS; if it is gone for good, add --force", node, peers.SomeWith(s.unsure, "; "))
	case len(s.unsure) > 0:
		o.say("forced, though it cannot be told whether %s lives: %s", node, peers.SomeWith(s.unsure, "; "))
	default:
		o.say("%s is down: %s", node, s.down)
	}
	return nil
}

// stillDown is the second look, at all that may have changed since the first one, which took its
// time. It returns what RabbitMQ says now, and an error where the node is not to be forgotten.
func (o operator) stillDown(ctx context.Context, c change, node string) (peers.View, error) {
	v, err := o.running(ctx)
	if err == nil {
		err = o.onRecord(c.record, v)
	}
	if err == nil {
		err = mayForget(c.record, v, node)
	}
	if err != nil {
		return v, err
	}
	switch s := o.signOfLife(ctx, c, v, node); {
	case s.alive != "":
		return v, fmt.Errorf("%s has started meanwhile (%s)", node, s.alive)
	case len(s.unsure) > 0 && !o.force:
		return v, fmt.Errorf("whether %s is still down cannot be told any more: %s", node, peers.SomeWith(s.unsure, "; "))
	}
	return v, nil
}

// sight is what was seen of a node: a sign of its life, what does not tell, or what shows that
// it is down.
type sight struct {
	alive  string
	unsure []string
	down   string
}

// signOfLife looks for the node in Consul, in the eyes of each member that runs, and on its host.
func (o operator) signOfLife(ctx context.Context, c change, v peers.View, node string) (s sight) {
	entries, _, err := peers.Catalog(ctx, c.client, o.rt.Config.Service, "")
	if err != nil {
		s.unsure = append(s.unsure, err.Error())
	}
	var at []string
	for _, p := range entries {
		switch {
		case p.Node != node:
			continue
		case p.Passing:
			return sight{alive: fmt.Sprintf("its entry in Consul, at %s, passes (if something else keeps that entry, deregister it)", p.Address)}
		case p.Beating && p.AgentFailed: // which is no news of the node
			s.unsure = append(s.unsure, unheard(p))
		case p.Beating:
			return sight{alive: fmt.Sprintf("its entry in Consul, at %s, has not lapsed", p.Address)}
		}
		at = append(at, p.Address)
	}
	for _, m := range v.Running {
		if _, on := c.record.Members[m]; !on {
			continue
		}
		seen, err := v, error(nil)
		if m != o.broker.Node {
			seen, err = o.broker.View(ctx, m)
		}
		switch {
		case err != nil:
			s.unsure = append(s.unsure, fmt.Sprintf("%s does not say whether it sees it: %v", m, err))
		case slices.Contains(seen.Running, node):
			return sight{alive: fmt.Sprintf("RabbitMQ on %s lists it as running", m)}
		case slices.Contains(seen.Connected, node):
			return sight{alive: fmt.Sprintf("%s is connected with it", m)}
		}
	}
	w, err := hosts.WitnessOf(o.rt.Config, append(c.record.Names(), node))
	if err != nil {
		s.unsure = append(s.unsure, err.Error())
		return s
	}
	switch is, seen := w.Look(ctx, node, at); is {
	case hosts.Gone:
		s.down = peers.Plain(seen)
	case hosts.Listed:
		return sight{alive: peers.Plain(seen)}
	default:
		s.unsure = append(s.unsure, peers.Plain(seen))
	}
	return s
}

// unheard says why an entry tells nothing of its node.
func unheard(p peers.Peer) string {
	return fmt.Sprintf("its entry in Consul, at %s, is what its agent %s last said, which is not reached any more: %s", p.Address, p.Agent, p.WayOut())
}

// nothingLost refuses while queues would be lost with the node or stand still, unless forced.
func (o operator) nothingLost(ctx context.Context, node string) error {
	said, err := o.broker.LostWith(ctx, node)
	if err != nil {
		return fmt.Errorf("what would be lost with %s cannot be told: %w", node, err)
	}
	var only, few []string
	for queue, word := range said {
		if word == rabbitmq.OnlyThere {
			only = append(only, queue)
		} else {
			few = append(few, fmt.Sprintf("%s (%s)", queue, word))
		}
	}
	slices.Sort(only)
	slices.Sort(few)
	var why []string
	if len(only) > 0 {
		why = append(why, "these classic queues are on it alone: "+peers.SomeWith(only, "; "))
	}
	if len(few) > 0 {
		why = append(why, "of these queues too few replicas run: "+peers.SomeWith(few, "; "))
	}
	switch all := strings.Join(why, "; "); {
	case all == "":
		return nil
	case o.force:
		o.say("forced: given up with %s: %s", node, all)
		return nil
	default:
		return fmt.Errorf("queues would be lost with %s: %s. Start it on its volume, and run rmq-entrypoint leave in it, which moves what it has; or start the other nodes; if its data is gone for good, add --force", node, all)
	}
}

// offRecord returns the record without the node.
func (o operator) offRecord(r peers.Record, node string) peers.Record {
	command := "rmq-entrypoint forget"
	if o.force {
		command += " --force"
	}
	return r.ForgottenByOrder(node, "told to ("+command+"), it was down", time.Now()).By(node, config.OnHost(o.broker.Node+", "+command+","))
}

// write writes the record that was read at index, under the lock.
func (o operator) write(ctx context.Context, c change, r peers.Record, index uint64) error {
	cfg := o.rt.Config
	ok, err := peers.WriteRecord(ctx, c.client, cfg.RecordKey(), r, index, cfg.LockKey(), c.session)
	if err == nil && !ok {
		err = errRecordChanged
	}
	return err
}

// onRecordAgain takes that back, for why: the record says of the node what it said before.
func (o operator) onRecordAgain(ctx context.Context, c change, off peers.Record, node string, why error) error {
	var err error
	for range 3 { // a companion that publishes takes no lock
		r, index, rerr := peers.ReadRecord(ctx, c.client, o.rt.Config.RecordKey())
		if err = rerr; err == nil {
			if _, anew := r.Members[node]; anew {
				return fmt.Errorf("%w; and %s joins anew", why, node)
			}
			err = o.write(ctx, c, r.TakenBack(node, c.record, off), index)
		}
		if !errors.Is(err, errRecordChanged) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("%w; and %s stays off the record: %v. See that it is stopped for good, and run forget again", why, node, err)
	}
	return fmt.Errorf("%w: the record says of %s what it said before", why, node)
}

// errLeftAlone: the node is another one by now.
var errLeftAlone = errors.New("it is left alone")

// joinsAnew refuses where a blank node is on record under that name by now: one that booted early
// takes no lock, and RabbitMQ would forget the new one.
func (o operator) joinsAnew(ctx context.Context, c change, node string) error {
	r, _, err := peers.ReadRecord(ctx, c.client, o.rt.Config.RecordKey())
	if err != nil {
		return fmt.Errorf("whether %s joins anew cannot be told: %w", node, err)
	}
	if volume, on := r.Members[node]; on {
		return fmt.Errorf("%s joins anew, with volume %s: %w", node, volume, errLeftAlone)
	}
	return nil
}

func without(names []string, node string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == node })
}
