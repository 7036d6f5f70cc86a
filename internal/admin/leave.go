package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
)

// leavePatience is how long leave waits without anything having moved, and half
// of it for the node to be forgotten.
const leavePatience = 2 * time.Minute

// tellEvery is how often leave says how far it is.
const tellEvery = 10 * time.Second

// Leave is `rmq-entrypoint leave`: the node goes for good, and nothing with it.
//
//	out of service → replicas moved → drained → off the record → stop_app → forgotten → the server stops
//
// Until it is off the record, whatever goes wrong brings the node back into
// service. From there on it can only be finished: by this command run again, or by
// the companions, its own and the others'. Its name may come back, on an empty
// volume.
func Leave(ctx context.Context, cfg config.Config, asked Request, out io.Writer) error {
	o, err := operate(ctx, cfg, "leave", asked, out)
	if err != nil {
		return err
	}
	defer o.held.Close()
	client, err := consul.New(o.rt.Config, slog.New(slog.DiscardHandler)).Client(ctx)
	if err != nil {
		return err
	}
	r, _, err := peers.ReadRecord(ctx, client, o.rt.Config.RecordKey())
	if err != nil {
		return err
	}
	if !r.HasLeft(o.broker.Node, o.rt.Volume) {
		if r, err = o.moveOut(ctx, client, r); err != nil {
			return fmt.Errorf("not left: %w", err)
		}
	}
	return o.goForGood(context.WithoutCancel(ctx), client, r)
}

// moveOut does all that can still be taken back, removes the node from the record
// and returns that.
func (o operator) moveOut(ctx context.Context, client *api.Client, r peers.Record) (_ peers.Record, err error) {
	v, err := o.running(ctx)
	if err != nil {
		return r, err
	}
	if err := o.mayLeave(r, v); err != nil {
		return r, err
	}
	defer func() {
		if err != nil && !errors.Is(err, errMayBeOff) {
			err = errors.Join(err, o.back(ctx))
		}
	}()
	if err := o.outOfService(ctx, statedir.Maintenance{Leaving: true, At: time.Now()}); err != nil {
		return r, err
	}
	// Marked, or RabbitMQ would put the replicas back; drained afterwards, or those
	// here would be stopped already and could not hand over.
	if err := o.broker.MarkDrained(ctx); err != nil {
		return r, err
	}
	if err := o.moveReplicas(ctx); err != nil {
		return r, err
	}
	if _, err := o.maintenance(ctx); err != nil {
		return r, fmt.Errorf("drain: %w", err)
	}
	if err := o.moveReplicas(ctx); err != nil { // of queues declared meanwhile
		return r, err
	}
	o.say("drained, and nothing of the cluster's is left here")
	return o.removeFromRecord(ctx, client, r.ClusterID)
}

// mayLeave refuses what would leave nobody, or no majority, behind.
func (o operator) mayLeave(r peers.Record, v peers.View) error {
	node := o.broker.Node
	switch {
	case r.State != peers.Formed || r.ClusterID != v.ClusterID:
		return fmt.Errorf("this node is in cluster %s, but the record is %s: see rmq-entrypoint status", v.ClusterID, r.String())
	case r.Members[node] != o.rt.Volume || o.rt.Volume == "":
		return fmt.Errorf("%s is not on record with this volume: wait until its check passes, see rmq-entrypoint status", node)
	case len(v.Partitions) > 0:
		return fmt.Errorf("partitioned from %s, which may lack what is here: restart the side that may lose what it took meanwhile", strings.Join(v.Partitions, ", "))
	case len(v.Members) == 1 || len(r.Members) == 1:
		return fmt.Errorf("%s is the last node of cluster %s, whose data would be lost with it: to give the cluster up, stop the node and remove its volume", node, r.ClusterID)
	}
	stay := slices.DeleteFunc(slices.Clone(v.Members), func(m string) bool { return m == node })
	up := slices.DeleteFunc(slices.Clone(stay), func(m string) bool {
		_, on := r.Members[m]
		return !on || !slices.Contains(v.Running, m)
	})
	if 2*len(up) <= len(stay) {
		return fmt.Errorf("without a majority: of the nodes that stay (%s) only %s run and are on record; start the others, or let those finish that leave",
			strings.Join(stay, ", "), orNone(up))
	}
	return nil
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// back takes the order back: the node serves again.
func (o operator) back(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	defer o.look()
	if err := o.volume().Remove("out"); err != nil {
		return err
	}
	if err := o.broker.Revive(ctx); err != nil {
		return fmt.Errorf("and RabbitMQ may stay in maintenance mode (rabbitmq-upgrade revive ends it): %w", err)
	}
	o.say("the node stays, and is back in service")
	return nil
}

// moveReplicas moves what lies on this node until nothing is left, or nothing has
// moved for too long. What lies on this node alone is refused at once.
func (o operator) moveReplicas(ctx context.Context) error {
	moved, told := 0, time.Now()
	progress := time.Now()
	for {
		said, err := o.broker.MoveReplicas(ctx, o.force)
		if err != nil {
			return fmt.Errorf("move what lies here: %w", err)
		}
		var left, only []string
		for queue, word := range said {
			switch {
			case word == "ok":
				moved, progress = moved+1, time.Now()
			case strings.HasPrefix(word, "{only_here,"):
				only = append(only, fmt.Sprintf("%s (messages: %s)", queue, strings.TrimSuffix(strings.TrimPrefix(word, "{only_here,"), "}")))
			default:
				left = append(left, fmt.Sprintf("%s: %s", queue, word))
			}
		}
		slices.Sort(left)
		slices.Sort(only)
		if len(only) > 0 && !o.force {
			return fmt.Errorf("these classic queues are on this node alone and would be lost: %s; move or consume what is in them and delete them, or add --force", strings.Join(only, "; "))
		}
		if len(left) == 0 && !slices.Contains(slices.Collect(maps.Values(said)), "ok") {
			if moved > 0 {
				o.say("replicas moved: %d", moved)
			}
			if len(only) > 0 {
				o.say("forced: given up with this node: %s", strings.Join(only, "; "))
			}
			return nil
		}
		if time.Since(progress) > o.patience {
			if o.force {
				o.say("forced: given up with this node: %s", strings.Join(left, "; "))
				return nil
			}
			return fmt.Errorf("nothing has moved for %s, and the replicas here would be lost: %s; see that the other nodes run and have caught up (after a drain, rabbitmq-upgrade revive first), or add --force", o.patience, strings.Join(left, "; "))
		}
		if time.Since(told) > tellEvery {
			told = time.Now()
			o.say("replicas moved: %d, to go: %d: %s", moved, len(left), strings.Join(left[:min(3, len(left))], "; "))
		}
		if len(left) > 0 {
			pause(ctx, time.Second)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// errMayBeOff: the node must not serve again before the record can be read, or what
// it took would be lost with it.
var errMayBeOff = errors.New("whether the node is off the record cannot be told, and so it stays out of service: when Consul answers, it goes back or the server stops by itself; or run leave again")

// removeFromRecord takes the node off the record, when what allowed it to leave still holds.
func (o operator) removeFromRecord(ctx context.Context, client *api.Client, id string) (left peers.Record, err error) {
	cfg := o.rt.Config
	tried := false
	changed := errors.New("the record changed meanwhile, try again")
	do := func(client *api.Client, session string, r peers.Record, index uint64) error {
		v, err := o.running(ctx)
		if err != nil {
			return err
		}
		if err := o.mayLeave(r, v); err != nil {
			return err
		}
		left, tried = r.Left(cfg.Node, "told to (rmq-entrypoint leave)", time.Now()).By(cfg.Node, config.OnHost(cfg.Node+", told to leave,")), true
		ok, err := peers.WriteRecord(ctx, client, cfg.RecordKey(), left, index, cfg.LockKey(), session)
		if err == nil && !ok {
			err = changed
		}
		return err
	}
	for range 3 { // a companion that publishes takes no lock
		if err = underLock(ctx, cfg, id, do); err != changed {
			break
		}
	}
	if err != nil && tried { // perhaps only the answer was lost; without the lock nothing can arrive late
		now, _, rerr := peers.ReadRecord(context.WithoutCancel(ctx), client, cfg.RecordKey())
		switch {
		case rerr != nil:
			err = fmt.Errorf("%w: %w", errMayBeOff, err)
		case now.HasLeft(cfg.Node, o.rt.Volume):
			left, err = now, nil
		}
	}
	if err == nil {
		o.say("off the record: cluster %s goes on with %s", id, strings.Join(left.Names(), ", "))
	}
	return left, err
}

// goForGood finishes what can no longer be taken back.
func (o operator) goForGood(ctx context.Context, client *api.Client, r peers.Record) error {
	node := o.broker.Node
	if err := o.volume().WriteMaintenance(statedir.Maintenance{Leaving: true, Done: true, At: time.Now()}); err != nil {
		o.say("the volume does not say that it left, the record alone will: %v", err)
	}
	if _, err := o.broker.Within(ctx, rabbitmq.DrainTimeout, node, "stop_app"); err != nil {
		return fmt.Errorf("%s is off the record, but RabbitMQ does not stop: %w; run leave again", node, err)
	}
	ferr := o.forgotten(ctx, r)
	if ferr == nil {
		o.say("forgotten by the cluster")
	} else {
		o.say("not forgotten yet, the other nodes will do it: %v", ferr)
	}
	if err := consul.Withdraw(ctx, client, o.rt); err != nil {
		o.say("not deregistered, its TTL will tell: %v", err)
	}
	if err := o.broker.HaltSoon(ctx, o.rt.PID); err != nil {
		return fmt.Errorf("%s has left, but its server does not stop: %w", node, err)
	}
	o.say("%s has left cluster %s: its server stops; the name may come back with an empty volume only", node, r.ClusterID)
	return nil
}

// forgotten makes a member that runs forget this node, and says why none does.
func (o operator) forgotten(ctx context.Context, r peers.Record) error {
	return o.haveForgotten(ctx, r.Names(), o.broker.Node, func(context.Context) error { return nil })
}

// haveForgotten makes one of the members forget node, and says why none does. Before each try it
// asks whether it still may: [errLeftAlone] ends it.
func (o operator) haveForgotten(ctx context.Context, members []string, node string, may func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, o.patience/2) // then it is the others' turn
	defer cancel()
	why := errors.New("no member answers")
	for ; ctx.Err() == nil; pause(ctx, time.Second) {
		for _, peer := range members {
			if err := may(ctx); errors.Is(err, errLeftAlone) {
				return err
			} else if err != nil {
				why = err
				break
			}
			if _, err := o.broker.Within(ctx, o.patience/2, peer, "forget_cluster_node", node); err == nil {
				return nil
			} else if ctx.Err() == nil {
				why = err
			}
			// Refused, perhaps because it is done.
			if v, err := o.broker.View(ctx, peer); err == nil && slices.Contains(v.Running, peer) && !slices.Contains(v.Members, node) {
				return nil
			}
		}
	}
	return why
}
