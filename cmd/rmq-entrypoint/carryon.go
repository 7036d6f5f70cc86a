package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// carryOnFile orders the companion to carry on from this node's copy. It lies on
// the volume, so that a restart in between does not lose it, and goes when the
// order is carried out.
type carryOnFile struct {
	ClusterID string   `json:"cluster_id"`
	Lost      []string `json:"lost"`   // members whose data is given up
	Forced    bool     `json:"forced"` // the server was told; it comes up, or is up
}

// carryOnMain is `rmq-entrypoint carry-on --cluster-id ID`. It refuses while
// another member is on record, whose volume may hold data that this copy lacks.
func carryOnMain(ctx context.Context, cfg config, id string, out io.Writer) error {
	if err := dropTo(rabbitmqUser); err != nil {
		return err
	}
	marker, err := cfg.volume().member()
	switch {
	case err != nil:
		return err
	case marker == nil:
		return fmt.Errorf("this node's volume (%s) is no member of any cluster: run carry-on on the node whose copy survives", cfg.Data)
	case marker.ClusterID != id:
		return fmt.Errorf("--cluster-id %s is not this volume's cluster, which is %s", id, marker.ClusterID)
	}
	err = underLock(ctx, cfg, id, func(_ *api.Client, _ string, r peers.Record, _ uint64) error {
		said, err := askCompanion(ctx, cfg.HTTP)
		if err != nil {
			return fmt.Errorf("the companion does not answer: is this node started? %w", err)
		}
		if !said.Stranded {
			return fmt.Errorf("nothing to carry on without: this node is %s (%s). If it waits for nodes that will never come back, start them with empty volumes: a blank one takes itself off the record (on it now: %s)", said.Status, said.Reason, strings.Join(r.Names(), ", "))
		}
		order := carryOnFile{ClusterID: id, Lost: lost(r, known(r, marker), cfg.Node)}
		if err := writeJSON(cfg.volume().file("carry-on"), order); err != nil {
			return err
		}
		fmt.Fprintf(out, "carrying on with cluster %s from this node's copy; given up: %s\n", id, strings.Join(order.Lost, ", "))
		return nil
	})
	if err != nil {
		return err
	}
	return awaitCarryOn(ctx, cfg, out)
}

// awaitCarryOn follows the companion's work. Its end by a restart of the
// container is no failure: the order is on the volume.
func awaitCarryOn(ctx context.Context, cfg config, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	told := ""
	for ; ctx.Err() == nil; pause(ctx, time.Second) {
		order, err := readJSON[carryOnFile](cfg.volume().file("carry-on"))
		if err != nil {
			return err
		}
		r, err := askCompanion(ctx, cfg.HTTP)
		if err == nil && order == nil && r.ready() {
			fmt.Fprintf(out, "done: %s: %s\n", r.Status, r.Reason)
			return nil
		}
		if err == nil && r.Reason != told {
			told = r.Reason
			fmt.Fprintln(out, "  "+told)
		}
	}
	return fmt.Errorf("not done yet (%s): the order stays on the volume, rmq-entrypoint status tells", cmp.Or(told, "the companion does not answer"))
}

// known returns the members RabbitMQ knows: those of the marker, and those that
// came after it was written, which may not have reached it when the node stopped
// seconds later: they are on record, or have taken themselves off it since.
func known(r peers.Record, marker *memberFile) []string {
	names := slices.Concat(marker.Members, r.Names())
	for n, g := range r.Gone {
		if g.At.After(marker.At) {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// lost returns the members RabbitMQ knows that took themselves off the record.
func lost(r peers.Record, members []string, node string) []string {
	return slices.DeleteFunc(slices.Clone(members), func(m string) bool {
		_, on := r.Members[m]
		return on || m == node
	})
}

// stranded says that this node can never again go on by itself, because the
// members it needs have all taken themselves off the record, and what a person
// can do about it; or "".
func (c *companion) stranded(ctx context.Context, r peers.Record) string {
	c.alone = false
	node := c.rt.Config.Node
	marker, err := c.rt.Config.volume().member()
	if err != nil || marker == nil || r.State != peers.Formed || r.ClusterID != marker.ClusterID {
		return ""
	}
	members := known(r, marker)
	gone := lost(r, members, node)
	if _, on := r.Members[node]; !on || len(gone) == 0 {
		return ""
	}
	why := fmt.Sprintf("THE MAJORITY IS GONE FOR GOOD: %s came up blank, and what only they held is lost", strings.Join(gone, ", "))
	names := r.Names()
	if c.khepri() {
		if left := len(members) - len(gone); 2*left > len(members) {
			return ""
		}
		if len(names) > 1 {
			return why + fmt.Sprintf("; %s hold a copy each: mount the lost volumes again, or wipe all copies but the best one", strings.Join(names, ", "))
		}
	} else {
		if c.serving || len(names) > 1 && !c.waitsForTheGone(ctx, r) {
			return ""
		}
		if names[0] != node {
			return why + fmt.Sprintf("; carry on from the copy of %s, this node follows", names[0])
		}
	}
	c.alone = true
	if c.rt.Config.CarryOn && len(names) == 1 {
		if err := writeJSON(c.rt.Config.volume().file("carry-on"), carryOnFile{ClusterID: marker.ClusterID, Lost: gone}); err != nil {
			return why + "; " + err.Error()
		}
		return why + "; carrying on from this copy, as --carry-on (RMQ_CARRY_ON) allows"
	}
	return why + fmt.Sprintf("; if their volumes are only not mounted: stop all nodes, mount them, delete the key %s in Consul, start the nodes with data; otherwise carry on from this copy: rmq-entrypoint carry-on --cluster-id %s", c.rt.Config.recordKey(), marker.ClusterID)
}

// waitsForTheGone reports whether Mnesia, which waits for the nodes that still
// ran when this one stopped, waits for none that is on record.
func (c *companion) waitsForTheGone(ctx context.Context, r peers.Record) bool {
	out, err := c.broker.ctl(ctx, c.rt.Config.Node, "eval", `io:format("waits|~s|~n", [string:join([atom_to_list(N) || N <- mnesia:system_info(db_nodes), N =/= node(), not mnesia_recover:has_mnesia_down(N)], ",")]), ok.`)
	_, rest, ok := strings.Cut(out, "waits|")
	names, _, _ := strings.Cut(rest, "|")
	if err != nil || !ok || names == "" {
		return false
	}
	return !slices.ContainsFunc(list(names), func(n string) bool { _, on := r.Members[n]; return on })
}

// waitsInVain says whether a member that is booting waits for nodes that will
// never bring what it waits for.
func (c *companion) waitsInVain(ctx context.Context) string {
	if c.rt.Role != member {
		return ""
	}
	client, err := c.consul.use(ctx)
	if err != nil {
		return ""
	}
	r, _, err := peers.ReadRecord(ctx, client, c.rt.Config.recordKey())
	c.consul.saw(err)
	if err != nil {
		return ""
	}
	why := c.stranded(ctx, r)
	if why != "" {
		c.story("cannot go on alone", why)
	}
	return why
}

// carryOn carries out an order found on the volume and returns what it is at, or
// "" when there is none.
func (c *companion) carryOn(ctx context.Context) string {
	path := c.rt.Config.volume().file("carry-on")
	order, err := readJSON[carryOnFile](path)
	switch {
	case err != nil:
		return err.Error()
	case order == nil || c.rt.Role != member || order.ClusterID != c.rt.Cluster:
		return ""
	case !order.Forced:
		c.log.Warn("carrying on from this node's copy", "cluster", order.ClusterID, "given_up", strings.Join(order.Lost, ","))
		if err := c.force(ctx); err != nil {
			return fmt.Sprintf("carry on: %v", err)
		}
		order.Forced = true
		if err := writeJSON(path, order); err != nil {
			return err.Error()
		}
		return "carrying on: the server comes up without " + strings.Join(order.Lost, ", ")
	case !c.serving:
		return "carrying on: the server comes up without " + strings.Join(order.Lost, ", ")
	}
	if err := c.settle(ctx, order); err != nil {
		return fmt.Sprintf("carry on: %v", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err.Error()
	}
	c.log.Info("carried on: this copy is the cluster now", "cluster", order.ClusterID, "members", strings.Join(c.view.Members, ","))
	c.verified = false
	return ""
}

// force tells RabbitMQ, which waits, to come up without the others: it goes on
// with its boot (measured on 3.10, 4.0 and 4.3).
func (c *companion) force(ctx context.Context) error {
	argv := []string{"eval", "rabbit_table:force_load()."}
	if c.khepri() {
		argv = []string{"force_standalone_khepri_boot"}
	}
	_, err := c.broker.within(ctx, forceTimeout, c.rt.Config.Node, argv...)
	return err
}

// forceTimeout bounds each step of carry-on: none is due within a beat, since
// the node is out of service anyway, and each takes its time with many queues.
const forceTimeout = 2 * time.Minute

// settle makes this copy's quorum queues usable again and forgets the lost
// members: in this order, or forgetting takes half a minute and fails on 4.0.
func (c *companion) settle(ctx context.Context, order *carryOnFile) error {
	if c.atLeast(3, 13) {
		if _, err := c.broker.within(ctx, forceTimeout, c.rt.Config.Node, "eval", "rabbit_quorum_queue:force_all_queues_shrink_member_to_current_member()."); err != nil {
			return fmt.Errorf("shrink the quorum queues to this copy: %w", err)
		}
	}
	for _, n := range order.Lost {
		v, err := c.broker.view(ctx, c.rt.Config.Node)
		if err != nil {
			return err
		}
		c.view, c.viewAt = v, time.Now()
		if !slices.Contains(v.Members, n) { // Khepri forgot it when it was told to stand alone
			continue
		}
		if _, err := c.broker.within(ctx, forceTimeout, c.rt.Config.Node, "forget_cluster_node", n); err != nil {
			c.log.Warn("RabbitMQ complains while forgetting a member, looking whether it did", "member", n, "err", err)
		}
	}
	v, err := c.broker.view(ctx, c.rt.Config.Node)
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
		unavailable, err := c.broker.perQueue(ctx, unavailableExpr)
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
func (c *companion) khepri() bool {
	if c.view.Khepri {
		return true
	}
	if c.atLeast(4, 3) {
		return true
	}
	b, err := os.ReadFile(c.rt.Config.Data + "-feature_flags")
	return err == nil && strings.Contains(string(b), "khepri_db")
}

// atLeast reports whether RabbitMQ is of that version or later.
func (c *companion) atLeast(major, minor int) bool {
	v, err := rabbitconf.ParseVersion(c.rt.Version)
	return err == nil && v.AtLeast(major, minor)
}
