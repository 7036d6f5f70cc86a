package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/peers"
)

// drainTimeout bounds each step that moves clients, leaders or replicas: it takes
// its time with many queues.
const drainTimeout = 5 * time.Minute

// outFile is the order to take the node out of service: while it lies on the
// volume the companion keeps the check critical. A start removes it. One whose
// command is gone before it was Done was interrupted.
type outFile struct {
	Leaving bool      `json:"leaving,omitempty"` // for good
	Drained bool      `json:"drained,omitempty"` // RabbitMQ is in maintenance mode; when it serves again, the order is void
	Done    bool      `json:"done,omitempty"`    // drained, as far as this RabbitMQ can be; or off the record for good
	At      time.Time `json:"at"`
}

func (v volume) out() (*outFile, error)   { return readJSON[outFile](v.file("out")) }
func (v volume) writeOut(o outFile) error { return writeJSON(v.file("out"), o) }

func (v volume) carryOn() (*carryOnFile, error)   { return readJSON[carryOnFile](v.file("carry-on")) }
func (v volume) writeCarryOn(o carryOnFile) error { return writeJSON(v.file("carry-on"), o) }

// operator is one who works on a node that runs, from inside its container: with
// the settings its server was started with.
type operator struct {
	rt     runtimeFile
	broker broker
	out    io.Writer
	wait   time.Duration // that balancers get to see that the node is out of service
	force  bool
	seat   *os.File // held to the end of the command: one at a time

	patience time.Duration // for replicas that do not move
}

// A request is how an operator wants a node to be taken out of service.
type request struct {
	wait  time.Duration // that balancers get to see that it is, 0 or more
	force bool          // also where that costs something
}

// operate finds the server that runs here, or says why there is nothing to work
// on, and waits for another command that works on it.
func operate(ctx context.Context, cfg config, name string, asked request, out io.Writer) (operator, error) {
	if err := dropTo(rabbitmqUser); err != nil {
		return operator{}, err
	}
	rt, err := readRuntime(cfg.StateDir)
	switch {
	case err != nil:
		return operator{}, err
	case rt == nil:
		return operator{}, fmt.Errorf("nothing to %s: no server was ever started on this volume (%s)", name, cfg.Data)
	}
	seat, err := trySeat(cfg.StateDir, operatorSeat)
	for told := false; errors.Is(err, errSeatTaken) && ctx.Err() == nil; seat, err = trySeat(cfg.StateDir, operatorSeat) {
		if !told {
			told = true
			fmt.Fprintln(out, "waiting for the end of another drain or leave of this node")
		}
		pause(ctx, 200*time.Millisecond)
	}
	switch {
	case err != nil:
		return operator{}, cmp.Or(context.Cause(ctx), err)
	case !rt.alive():
		return operator{}, fmt.Errorf("nothing to %s: the server (pid %d) does not run", name, rt.PID)
	case rt.Waiting != "" && rt.Waiting != replaced:
		return operator{}, fmt.Errorf("nothing to %s: the server is not started, it waits for %s", name, rt.Waiting)
	}
	return operator{rt: *rt, broker: newBroker(rt.Config.Node, rt.Config.LongNames, resolver(rt.Config)...), out: out, wait: asked.wait, force: asked.force, seat: seat, patience: leavePatience}, nil
}

func (o operator) say(format string, args ...any) { fmt.Fprintf(o.out, format+"\n", args...) }

func (o operator) volume() volume { return volumeOf(o.rt.Config) }

// drainMain is `rmq-entrypoint drain`: clients are sent elsewhere, leaders move,
// and the server can be stopped. `rabbitmq-upgrade revive` or a restart brings the
// node back.
func drainMain(ctx context.Context, cfg config, asked request, out io.Writer) error {
	o, err := operate(ctx, cfg, "drain", asked, out)
	if err != nil {
		return err
	}
	defer o.seat.Close()
	v, err := o.running(ctx)
	if err != nil {
		return fmt.Errorf("nothing to drain: %w", err)
	}
	order, err := o.volume().out()
	if err != nil {
		return err
	}
	if order != nil && order.Leaving {
		return errors.New("this node is leaving the cluster for good: run rmq-entrypoint leave again to go on with that")
	}
	if order != nil && order.Drained {
		if drained, err := o.broker.drained(ctx); err != nil {
			return err
		} else if drained {
			o.say("drained already, since %s", order.At.Format(time.RFC3339))
			return nil
		}
	}
	if err := o.mayDrain(ctx, v); err != nil {
		return fmt.Errorf("not drained: %w", err)
	}
	if err = o.outOfService(ctx, outFile{At: time.Now()}); err == nil && !o.force {
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
	if err := o.volume().writeOut(outFile{Drained: drained, Done: true, At: time.Now()}); err != nil {
		return err
	}
	o.look()
	o.say("drained: the server can be stopped; rabbitmq-upgrade revive or a restart brings it back")
	return nil
}

// running returns the view of this node's server, whose RabbitMQ must run.
func (o operator) running(ctx context.Context) (peers.View, error) {
	v, err := o.broker.view(ctx, o.broker.node)
	if err != nil {
		return v, fmt.Errorf("RabbitMQ is stopped here, or does not answer (rabbitmqctl start_app starts it): %w", err)
	}
	if !slices.Contains(v.Running, o.broker.node) {
		return v, errors.New("RabbitMQ is stopped here (rabbitmqctl start_app starts it)")
	}
	return v, nil
}

// restore puts back the order that there was before, or none.
func (o operator) restore(order *outFile) error {
	if order != nil {
		return o.volume().writeOut(*order)
	}
	return o.volume().remove("out")
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
	if others := len(v.Running) - 1; 2*others <= len(v.Members) {
		pauses := v.Khepri // as good as
		if !pauses {
			out, err := o.broker.ctl(ctx, o.broker.node, "eval", erlang("partition_handling"))
			pauses = err != nil || strings.Contains(out, "pause_minority")
		}
		if pauses {
			return fmt.Sprintf("this node is quorum-critical: of the members %s only %s run, and without it there is no majority, so the others would stand still", strings.Join(v.Members, ", "), strings.Join(v.Running, ", "))
		}
	}
	if _, err := o.broker.tool(ctx, cliTimeout, "rabbitmq-queues", "check_if_node_is_quorum_critical"); err != nil {
		return fmt.Sprintf("this node is quorum-critical, or that cannot be told: %v", err)
	}
	if !o.rt.atLeast(4, 0) { // where queues are mirrored
		if _, err := o.broker.tool(ctx, cliTimeout, "rabbitmq-queues", "check_if_node_is_mirror_sync_critical"); err != nil {
			return fmt.Sprintf("mirrors are not synchronised, or that cannot be told: %v", err)
		}
	}
	return ""
}

// outOfService gives the order and returns when the check says so, and balancers
// had time to see it.
func (o operator) outOfService(ctx context.Context, order outFile) error {
	if err := o.volume().writeOut(order); err != nil {
		return err
	}
	o.look()
	patience := o.rt.Config.TTL + 5*time.Second
	deadline := time.Now().Add(patience)
	for {
		r, err := askCompanion(ctx, o.rt.Config.HTTP)
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

// look makes the companion look for orders now rather than with its next beat.
func (o operator) look() { nudge(o.rt.Config) }

// maintenance puts RabbitMQ into maintenance mode, where it has one.
func (o operator) maintenance(ctx context.Context) (bool, error) {
	if _, err := exec.LookPath("rabbitmq-upgrade"); err != nil {
		o.say("this RabbitMQ has no maintenance mode: balancers stay away, clients that are connected stay")
		return false, nil
	}
	_, err := o.broker.tool(ctx, drainTimeout, "rabbitmq-upgrade", "drain")
	return err == nil, err
}

// drained reports whether this node is in maintenance mode.
func (b broker) drained(ctx context.Context) (bool, error) {
	out, err := b.ctl(ctx, b.node, "eval", erlang("is_drained"))
	return strings.Contains(out, "maintenance|true|"), err
}

// outOfService says why the node is out of service by an operator's order, or "".
// When RabbitMQ serves all the same, because it was revived, or because the command
// was interrupted before it was drained, the order is void.
func (c *companion) outOfService(ctx context.Context, r healthcheck.Result) string {
	c.out = false
	v := volumeOf(c.rt.Config)
	order, err := v.out()
	switch {
	case err != nil:
		return err.Error()
	case order == nil:
		return ""
	}
	seat, err := trySeat(c.rt.Config.StateDir, operatorSeat)
	interrupted := err == nil && !order.Done // nobody works on it any more
	if err == nil {
		defer seat.Close()
	}
	switch {
	case order.Leaving:
		if c.finishLeaving(ctx, interrupted) {
			return ""
		}
	// A miss shows with the second check.
	case (order.Drained || interrupted) && c.serving && r.State != healthcheck.Critical && time.Since(order.At) > 2*c.beatEvery():
		if err := v.remove("out"); err != nil {
			return err.Error()
		}
		c.log.Info("back in service: RabbitMQ serves, it was revived or never drained")
		return ""
	}
	c.out = true
	switch {
	case order.Leaving:
		return "leaving the cluster for good"
	case order.Done:
		return "maintenance: drained since " + order.At.Format(time.RFC3339)
	case interrupted:
		return "maintenance: the drain did not end: run rmq-entrypoint drain again, or rabbitmq-upgrade revive"
	}
	return "maintenance: being drained"
}

// finishLeaving does what is left to do when the leave command is gone, and reports
// whether the node is back in service. Off the record, the server stops, and the
// others forget the node. Before that nothing is lost, and it stays.
func (c *companion) finishLeaving(ctx context.Context, interrupted bool) (back bool) {
	_, r, _, err := c.record(ctx)
	node := c.rt.Config.Node
	_, on := r.Members[node]
	switch {
	case err != nil:
	case r.HasLeft(node, c.rt.Volume):
		if time.Since(r.Gone[node].At) >= leaveGrace {
			c.log.Warn("this node left the cluster for good: stopping the server")
			c.halt(ctx)
		}
	case interrupted && c.serving && (r.Members[node] == c.rt.Volume || on && r.Members[node] == ""): // or published anew meanwhile
		if err := c.broker.revive(ctx); err != nil {
			c.log.Warn("leave was interrupted, and RabbitMQ stays in maintenance mode", "err", err)
			return false
		}
		if err := volumeOf(c.rt.Config).remove("out"); err != nil {
			c.log.Warn("leave was interrupted, and its order cannot be removed", "err", err)
			return false
		}
		c.log.Warn("leave was interrupted before the node was off the record: back in service")
		return true
	}
	return false
}

// revive ends RabbitMQ's maintenance mode, if it is in that.
func (b broker) revive(ctx context.Context) error {
	drained, err := b.drained(ctx)
	if err == nil && drained {
		_, err = b.tool(ctx, drainTimeout, "rabbitmq-upgrade", "revive")
	}
	return err
}

// forgetLeft makes RabbitMQ forget members that left for good, where the command
// that was to do it is gone: scaling down is to leave no ghost. The first of the
// running members does it.
func (c *companion) forgetLeft(ctx context.Context) {
	for _, n := range c.left {
		c.log.Warn("a member left for good and was not forgotten: forgetting it", "member", n)
		if err := c.broker.forget(ctx, c.rt.Config.Node, n); err != nil {
			c.log.Warn("it is not forgotten yet", "member", n, "err", err)
		}
		c.viewAt = time.Time{}
	}
	c.left = nil
}

// leftBehind returns the members that forgetLeft is for, if it is for this node to do.
func leftBehind(r peers.Record, v peers.View, node string) (names []string) {
	on := slices.DeleteFunc(slices.Clone(v.Running), func(n string) bool { _, on := r.Members[n]; return !on })
	if len(on) == 0 || slices.Min(on) != node {
		return nil
	}
	for _, m := range v.Members {
		if g := r.Gone[m]; g.Left && r.HasLeft(m, g.Volume) && !slices.Contains(v.Running, m) && time.Since(g.At) > leaveGrace {
			names = append(names, m)
		}
	}
	return names
}
