package companion

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// lost returns those of the members that took themselves off the record. One that
// left in good order is about to be forgotten: only if that fails for long, its
// vote is lost, too. One that somebody else gave up has its data.
func lost(r peers.Record, members []string) []string {
	return slices.DeleteFunc(slices.Clone(members), func(m string) bool {
		g, gone := r.Gone[m]
		return !gone || g.Another(m) || g.Left && time.Since(g.At) < 2*LeaveGrace
	})
}

// A strait is what a node is in that can never again go on by itself, because the
// members it needs have all taken themselves off the record.
type strait struct {
	lost   []string // they did, and RabbitMQ still counts on them; none: no strait
	many   bool     // other members hold a copy, too, and wait like this one
	paused bool     // in a minority that no majority will ever end
}

// strait finds out whether this node is in one. An error means unknown, as while
// RabbitMQ boots. It is asked only when somebody is off the record.
func (c *Companion) strait(ctx context.Context, r peers.Record) (s strait, err error) {
	node := c.rt.Config.Node
	_, on := r.Members[node]
	if !on || len(r.Gone) == 0 || c.serving && !c.khepri() {
		return s, nil
	}
	s.many = len(r.Members) > 1
	if c.khepri() {
		enough := func() bool {
			// One that runs is not lost, whatever an earlier day's record says.
			s.lost = slices.DeleteFunc(lost(r, c.view.Members), func(m string) bool { return slices.Contains(c.view.Running, m) })
			// What joins while there is no majority holds no copy.
			s.many = slices.ContainsFunc(r.Names(), func(m string) bool { return m != node && slices.Contains(c.view.Members, m) })
			return 2*len(s.lost) < len(c.view.Members)
		}
		if !c.serving || !c.verified || !enough() {
			v, err := c.broker.View(ctx, node) // it answers without a majority, too
			if errors.Is(err, rabbitmq.ErrNoClusterID) {
				v.ClusterID, err = c.rt.Cluster, nil // the marker's
			}
			if err != nil {
				return strait{}, err
			}
			c.view, c.viewAt = v, time.Now()
		}
		if enough() {
			return strait{}, nil
		}
		return s, nil
	}
	members, waits, paused, err := c.broker.Waits(ctx)
	if err != nil {
		return strait{}, err
	}
	s.lost, s.paused = lost(r, members), paused
	if len(lost(r, waits)) == 0 && !(paused && 2*len(s.lost) >= len(members)) {
		return strait{}, nil
	}
	if !s.many {
		return s, nil
	}
	// One that serves brings what this node waits for, and one that is not started may.
	client, err := c.consul.Client(ctx)
	if err != nil {
		return strait{}, err
	}
	others, _, err := peers.Catalog(ctx, client, c.rt.Config.Service, node)
	if err != nil {
		return strait{}, err
	}
	for _, m := range r.Names() {
		if m != node && !slices.ContainsFunc(others, func(p peers.Peer) bool { return p.Node == m && p.Beating && !p.Passing }) {
			return strait{}, nil
		}
	}
	return s, nil
}

// stranded says that this node can never again go on by itself, and what a person
// can do about it; or "".
func (c *Companion) stranded(ctx context.Context, r peers.Record) string {
	c.lost, c.doubt = nil, nil
	marker, err := statedir.Of(c.rt.Config).Marker()
	if err != nil || marker == nil || r.State != peers.Formed || r.ClusterID != marker.ClusterID {
		return ""
	}
	s, err := c.strait(ctx, r)
	if c.doubt = err; err != nil || len(s.lost) == 0 {
		return ""
	}
	why := fmt.Sprintf("THE MAJORITY IS GONE FOR GOOD: %s came up blank, and what only they held is lost", strings.Join(s.lost, ", "))
	mounted := fmt.Sprintf("if their volumes are only not mounted: stop all nodes, mount them, delete the key %s in Consul, start the nodes with data; otherwise ", c.rt.Config.RecordKey())
	if !slices.ContainsFunc(s.lost, func(m string) bool { return !r.Gone[m].MayReturn }) {
		mounted = "if their volumes are only not mounted, or another container was started under their names: start them with their data, and they come back; otherwise "
	}
	if !slices.ContainsFunc(s.lost, func(m string) bool { return !r.Gone[m].Left }) {
		why = fmt.Sprintf("THE MAJORITY IS GONE FOR GOOD: %s left with nothing lost, but RabbitMQ was not made to forget them in time", strings.Join(s.lost, ", "))
		mounted = ""
	}
	if !s.many && !slices.ContainsFunc(s.lost, func(m string) bool { return !r.Gone[m].Unjoined }) {
		return c.carryOnWithout(s.lost, fmt.Sprintf("the join of %s came to nothing, and nothing is lost with it, but RabbitMQ counts on its vote: going on without", strings.Join(s.lost, ", ")))
	}
	if s.many {
		copies := slices.DeleteFunc(r.Names(), func(m string) bool { return c.khepri() && !slices.Contains(c.view.Members, m) })
		why += fmt.Sprintf("; %s hold a copy each, this node's served until %s", strings.Join(copies, ", "), marker.At.Format(time.RFC3339))
		if c.khepri() {
			return why + "; " + mounted + "wipe all copies but the newest, which then says how to carry on"
		}
	}
	c.lost = s.lost
	if c.rt.Config.ForceBoot && !s.many {
		return c.carryOnWithout(s.lost, why+"; carrying on from this copy, as --force-boot (RMQ_FORCE_BOOT) allows")
	}
	which := "this copy"
	if s.many {
		which = "the newest copy"
	}
	return why + fmt.Sprintf("; %scarry on from %s: rmq-entrypoint force-boot --cluster-id %s", mounted, which, marker.ClusterID)
}

// carryOnWithout gives the order by itself.
func (c *Companion) carryOnWithout(lost []string, why string) string {
	if err := statedir.Of(c.rt.Config).WriteCarryOn(statedir.CarryOn{ClusterID: c.rt.Cluster, Lost: lost}); err != nil {
		return why + "; " + err.Error()
	}
	return why
}

// waitsInVain says whether a member that does not serve waits for nodes that
// will never bring what it waits for, or for which it may wait.
func (c *Companion) waitsInVain(ctx context.Context) string {
	if c.rt.Role != statedir.Member {
		return ""
	}
	client, r, _, err := c.record(ctx)
	if err != nil {
		return ""
	}
	if why := c.stranded(ctx, r); why != "" {
		c.story("cannot go on alone", why)
		return why
	}
	others, _, err := peers.Catalog(ctx, client, c.rt.Config.Service, c.rt.Config.Node)
	if err != nil || r.State != peers.Formed {
		return ""
	}
	down := slices.DeleteFunc(r.Names(), func(m string) bool {
		return m == c.rt.Config.Node || slices.ContainsFunc(others, func(p peers.Peer) bool { return p.Node == m && p.Beating })
	})
	var why string
	switch {
	case len(down) > 0:
		why = fmt.Sprintf("%s; RabbitMQ may wait for members that are not up: %s", c.word(), strings.Join(down, ", "))
	case c.doubt != nil:
		why = fmt.Sprintf("%s; whether RabbitMQ waits for members that came up blank cannot be told yet: %v", c.word(), c.doubt)
	default:
		return ""
	}
	if time.Since(c.born) > 3*10*time.Second {
		c.story("not ready yet", why)
	}
	return why
}

// carryOn carries out an order found on the volume and returns what it is at, or
// "" when there is none.
func (c *Companion) carryOn(ctx context.Context) string {
	order, err := statedir.Of(c.rt.Config).CarryOn()
	switch {
	case err != nil:
		return err.Error()
	case order == nil || c.rt.Role != statedir.Member || order.ClusterID != c.rt.Cluster:
		return ""
	}
	_, r, index, err := c.record(ctx)
	if err != nil {
		return fmt.Sprintf("carry on: %v", err)
	}
	// The order may be old, and the lost volumes mounted since.
	drop := func(lost []string) string {
		c.log.Warn("the order to carry on no longer holds and is dropped", "was_lost", strings.Join(order.Lost, ","), "is_lost", strings.Join(lost, ","), "record", r.String())
		if err := statedir.Of(c.rt.Config).Remove("carry-on"); err != nil {
			return err.Error()
		}
		return ""
	}
	still := lost(r, order.Lost)
	if r.State != peers.Formed || r.ClusterID != order.ClusterID || len(still) == 0 {
		return drop(still)
	}
	if order.Forced {
		order.Lost = still
	} else {
		s, err := c.strait(ctx, r)
		switch {
		case err != nil:
			return fmt.Sprintf("carry on: RabbitMQ does not say yet what it waits for: %v", err)
		case len(s.lost) == 0 && c.serving && len(still) == len(order.Lost): // it was told, and that was not written down
			order.Forced = true
		case !slices.Equal(s.lost, order.Lost):
			return drop(s.lost)
		default:
			return c.begin(ctx, r, index, order, s.paused)
		}
	}
	if !c.serving {
		if !c.khepri() { // for this run of the server only, and not before Mnesia runs
			if err := c.force(ctx, order.Lost, false); err != nil {
				c.log.Debug("cannot load the tables yet", "err", err)
			}
		}
		return "carrying on: the server comes up without " + strings.Join(order.Lost, ", ")
	}
	if err := c.settle(ctx, r, order); err != nil {
		return fmt.Sprintf("carry on: %v", err)
	}
	if err := statedir.Of(c.rt.Config).Remove("carry-on"); err != nil {
		return err.Error()
	}
	c.log.Info("carried on: this copy is the cluster now", "cluster", order.ClusterID, "members", strings.Join(c.view.Members, ","))
	c.verified = false
	return ""
}

// begin tells RabbitMQ to come up without the others.
func (c *Companion) begin(ctx context.Context, r peers.Record, index uint64, order *statedir.CarryOn, paused bool) string {
	// Their volumes may not come back from here on: that is on record first.
	if on, changed := r.GoneOn(order.Lost); changed {
		client, err := c.consul.Client(ctx)
		if err != nil {
			return fmt.Sprintf("carry on: %v", err)
		}
		if why := c.publish(ctx, client, on, index, "going on without "+strings.Join(order.Lost, ", ")); why != "" {
			return "carry on: " + why
		}
	}
	c.log.Warn("carrying on from this node's copy", "cluster", order.ClusterID, "given_up", strings.Join(order.Lost, ","))
	if err := c.force(ctx, order.Lost, paused); err != nil {
		return fmt.Sprintf("carry on: %v", err)
	}
	order.Forced = true
	if err := statedir.Of(c.rt.Config).WriteCarryOn(*order); err != nil {
		return err.Error()
	}
	if paused {
		c.log.Warn("restarting the server, which paused in a minority")
		c.halt(ctx)
	}
	return "carrying on: the server comes up without " + strings.Join(order.Lost, ", ")
}

// force tells RabbitMQ, which waits, to come up without the others: it goes on
// with its boot (measured on 3.10, 4.0 and 4.3). One that paused only gets what it
// must know before it is restarted: it stopped last, so it comes up by itself.
func (c *Companion) force(ctx context.Context, lost []string, paused bool) error {
	argv := []string{"eval", rabbitmq.Erlang("force_load")}
	mirrors := !c.atLeast(4, 0)
	switch {
	case c.khepri():
		argv = []string{"force_standalone_khepri_boot"}
	case paused && !mirrors:
		return nil
	case mirrors:
		var nodes rabbitconf.List
		for _, n := range lost { // they come from the record
			if err := rabbitconf.ValidNode(n); err != nil {
				return err
			}
			nodes = append(nodes, rabbitconf.Atom(n))
		}
		home := rabbitmq.Erlang("home", rabbitmq.Parameter{Name: "Lost", Value: nodes})
		if paused {
			argv[1] = rabbitmq.InTurn(rabbitmq.Erlang("mnesia_start"), home, rabbitmq.Erlang("mnesia_stop"))
		} else {
			argv[1] = rabbitmq.InTurn(home, argv[1])
		}
	}
	// Not cut short by the event that the boot goes on.
	_, err := c.broker.Within(context.WithoutCancel(ctx), forceTimeout, c.rt.Config.Node, argv...)
	return err
}

// forceTimeout bounds each step of force-boot: none is due within a beat, since
// the node is out of service anyway, and each takes its time with many queues.
const forceTimeout = 2 * time.Minute

// settle makes this copy's quorum queues usable again and forgets the lost
// members: in this order, or forgetting takes half a minute and fails on 4.0.
// Those that are back on record are not lost any more.
func (c *Companion) settle(ctx context.Context, r peers.Record, order *statedir.CarryOn) error {
	order.Lost = slices.DeleteFunc(order.Lost, func(n string) bool { _, on := r.Members[n]; return on })
	if c.atLeast(3, 13) && len(r.Members) == 1 {
		if _, err := c.broker.Within(ctx, forceTimeout, c.rt.Config.Node, "eval", rabbitmq.Erlang("shrink")); err != nil {
			return fmt.Errorf("shrink the quorum queues to this copy: %w", err)
		}
	}
	for _, n := range order.Lost {
		v, err := c.broker.View(ctx, c.rt.Config.Node)
		if err != nil {
			return err
		}
		c.view, c.viewAt = v, time.Now()
		if !slices.Contains(v.Members, n) { // Khepri forgot it when it was told to stand alone
			continue
		}
		if _, err := c.broker.Within(ctx, forceTimeout, c.rt.Config.Node, "forget_cluster_node", n); err != nil {
			c.log.Warn("RabbitMQ complains while forgetting a member, looking whether it did", "member", n, "err", err)
		}
	}
	v, err := c.broker.View(ctx, c.rt.Config.Node)
	if err != nil {
		return err
	}
	c.view, c.viewAt = v, time.Now()
	if left := slices.DeleteFunc(slices.Clone(order.Lost), func(n string) bool { return !slices.Contains(v.Members, n) }); len(left) > 0 {
		return fmt.Errorf("RabbitMQ still lists %s", strings.Join(left, ", "))
	}
	if err := c.mark(); err != nil { // with the members there are now
		return err
	}
	if !c.atLeast(3, 13) {
		unavailable, err := c.broker.PerQueue(ctx, rabbitmq.Erlang("unavailable"))
		if err != nil {
			return err
		}
		for queue, needs := range unavailable {
			c.log.Warn("this quorum queue cannot be read until a majority of its replicas is back: this version cannot shrink it", "queue", queue, "replicas", needs)
		}
	}
	return nil
}

// khepri reports whether this node's members decide by majority, also while it
// cannot be asked: from 4.3 on there is nothing else, before it is a feature flag.
func (c *Companion) khepri() bool {
	if c.view.Khepri {
		return true
	}
	if c.atLeast(4, 3) {
		return true
	}
	b, err := os.ReadFile(c.rt.Config.Data + "-feature_flags")
	return err == nil && strings.Contains(string(b), "khepri_db")
}

func (c *Companion) atLeast(major, minor int) bool { return c.rt.AtLeast(major, minor) }
