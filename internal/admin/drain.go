package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"rmq-entrypoint/internal/companion"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
)

// Drain is `rmq-entrypoint drain`: clients are sent elsewhere, leaders move,
// and the server can be stopped. `rabbitmq-upgrade revive` or a restart brings the
// node back.
func Drain(ctx context.Context, cfg config.Config, asked Request, out io.Writer) error {
	o, err := operate(ctx, cfg, "drain", asked, out)
	if err != nil {
		return err
	}
	defer o.held.Close()
	v, err := o.running(ctx)
	if err != nil {
		return fmt.Errorf("nothing to drain: %w", err)
	}
	order, err := o.volume().Maintenance()
	if err != nil {
		return err
	}
	if order != nil && order.Leaving {
		return errors.New("this node is leaving the cluster for good: run rmq-entrypoint leave again to go on with that")
	}
	if order != nil && order.Drained {
		if drained, err := o.broker.Drained(ctx); err != nil {
			return err
		} else if drained {
			o.say("drained already, since %s", order.At.Format(time.RFC3339))
			return nil
		}
	}
	if err := o.mayDrain(ctx, v); err != nil {
		return fmt.Errorf("not drained: %w", err)
	}
	if err = o.outOfService(ctx, statedir.Maintenance{At: time.Now()}); err == nil && !o.force {
		// While balancers looked, a neighbour may have stopped, or been drained.
		if v, err = o.running(ctx); err == nil {
			err = o.mayDrain(ctx, v)
		}
	}
	if err != nil {
		err = errors.Join(err, o.restore(order))
		o.look()
		return fmt.Errorf("not drained: %w", err)
	}
	drained, err := o.maintenance(ctx)
	if err != nil {
		return fmt.Errorf("not drained: %w: run drain again; rabbitmq-upgrade revive or a restart brings the node back", err)
	}
	if err := o.volume().WriteMaintenance(statedir.Maintenance{Drained: drained, Done: true, At: time.Now()}); err != nil {
		return err
	}
	o.look()
	o.say("drained: the server can be stopped; rabbitmq-upgrade revive or a restart brings it back")
	return nil
}

// restore puts back the order that there was before, or none.
func (o operator) restore(order *statedir.Maintenance) error {
	if order != nil {
		return o.volume().WriteMaintenance(*order)
	}
	return o.volume().Remove("out")
}

// mayDrain refuses to take away what the others cannot do without, unless forced.
func (o operator) mayDrain(ctx context.Context, v peers.View) error {
	why := o.critical(ctx, v)
	switch {
	case why == "":
		return nil
	case o.force:
		o.say("forced, though %s", why)
		return nil
	}
	return fmt.Errorf("%s. Wait until the others have caught up, or add --force", why)
}

// critical says what would stand still or be lost without this node, or "".
// Not being able to tell counts as critical.
func (o operator) critical(ctx context.Context, v peers.View) string {
	if len(v.Members) == 1 {
		return "" // there is nobody to take anything over
	}
	if len(v.Partitions) > 0 {
		return fmt.Sprintf("this node is partitioned from %s", strings.Join(v.Partitions, ", "))
	}
	if why := v.StandsStillWithout(o.broker.Node); why != "" {
		pauses := v.Khepri // as good as
		if !pauses {
			set, err := o.broker.Pauses(ctx)
			pauses = err != nil || set
		}
		if pauses {
			return "this node is quorum-critical: " + why
		}
	}
	if _, err := o.broker.Tool(ctx, rabbitmq.CLITimeout, "rabbitmq-queues", "check_if_node_is_quorum_critical"); err != nil {
		return fmt.Sprintf("this node is quorum-critical, or that cannot be told: %v", err)
	}
	if o.rt.RabbitMQ().Mirrors() {
		if _, err := o.broker.Tool(ctx, rabbitmq.CLITimeout, "rabbitmq-queues", "check_if_node_is_mirror_sync_critical"); err != nil {
			return fmt.Sprintf("mirrors are not synchronised, or that cannot be told: %v", err)
		}
	}
	return ""
}

// outOfService gives the order and returns when the check says so, and balancers
// had time to see it.
func (o operator) outOfService(ctx context.Context, order statedir.Maintenance) error {
	if err := o.volume().WriteMaintenance(order); err != nil {
		return err
	}
	o.look()
	patience := o.rt.Config.TTL + 5*time.Second
	deadline := time.Now().Add(patience)
	for {
		r, err := companion.Ask(ctx, o.rt.Config.StatusSocket())
		if err == nil && r.Out {
			if r.Beat.Before(order.At) {
				o.say("out of service; Consul could not be told: %s", r.Reason)
			} else {
				o.say("out of service: the check is critical; balancers get %s to see it (--wait)", o.wait)
			}
			break
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the companion did not take the node out of service within %s (%v): rmq-entrypoint healthcheck starts a lost one", patience, cmp.Or(err, errors.New(r.Status+": "+r.Reason)))
		}
		pause(ctx, 100*time.Millisecond)
	}
	pause(ctx, o.wait)
	return context.Cause(ctx)
}

// maintenance puts RabbitMQ into maintenance mode, where it has one.
func (o operator) maintenance(ctx context.Context) (bool, error) {
	if _, err := exec.LookPath("rabbitmq-upgrade"); err != nil {
		o.say("this RabbitMQ has no maintenance mode: balancers stay away, clients that are connected stay")
		return false, nil
	}
	_, err := o.broker.Tool(ctx, rabbitmq.DrainTimeout, "rabbitmq-upgrade", "drain")
	return err == nil, err
}
