package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"rmq-entrypoint/lock"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// carryOnFile orders the companion to carry on from this node's copy. It lies on
// the volume, because on Mnesia the server must be started once more in between,
// and goes when the order is carried out.
type carryOnFile struct {
	ClusterID string   `json:"cluster_id"`
	Lost      []string `json:"lost"`   // members whose data is given up
	Forced    bool     `json:"forced"` // the server was told; it comes up, or is up
}

// carryOnMain is `rmq-entrypoint carry-on --cluster-id ID`. It refuses while
// another member is on record, whose volume may hold data that this copy lacks.
func carryOnMain(ctx context.Context, cfg config, id string, out io.Writer) error {
	log := logger(cfg)
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
	client, err := newConsul(cfg, log).use(ctx)
	if err != nil {
		return err
	}
	l, err := lock.Acquire(ctx, client, cfg.lockOptions(log))
	if err != nil {
		return err
	}
	defer func() { _ = l.Release(ctx) }()
	r, _, err := peers.ReadRecord(ctx, client, cfg.recordKey())
	if err != nil {
		return err
	}
	if err := errors.Join(onRecord(r, id), carryOnAllowed(r, *marker, cfg.Node)); err != nil {
		return err
	}
	order := carryOnFile{ClusterID: id, Lost: lost(r, marker.Members, cfg.Node)}
	if err := writeJSON(cfg.volume().file("carry-on"), order); err != nil {
		return err
	}
	fmt.Fprintf(out, "carrying on with cluster %s from this node's copy; given up: %s\n", id, strings.Join(order.Lost, ", "))
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
	return fmt.Errorf("not done yet (%s): the order stays on the volume, rmq-entrypoint status tells", firstOf(told, "the companion does not answer"))
}

// carryOnAllowed refuses while the record names another member, and where this
// node would not be missing anybody.
func carryOnAllowed(r peers.Record, marker memberFile, node string) error {
	others := slices.DeleteFunc(r.Names(), func(n string) bool { return n == node })
	switch {
	case len(others) > 0:
		return fmt.Errorf("on record are also %s: start them, their volumes may hold what this copy lacks; a blank one takes itself off the record", strings.Join(others, ", "))
	case !slices.Contains(r.Names(), node):
		return fmt.Errorf("%s is not on record itself", node)
	case len(lost(r, marker.Members, node)) == 0:
		return errors.New("no member is lost: there is nothing to carry on without")
	}
	return nil
}

// lost returns the members RabbitMQ knows that took themselves off the record.
func lost(r peers.Record, members []string, node string) []string {
	return slices.DeleteFunc(slices.Clone(members), func(m string) bool {
		_, on := r.Members[m]
		return on || m == node
	})
}

// stranded says that this node can never again decide anything by itself, because
// the members it needs have all taken themselves off the record, and what a
// person can do about it; or "".
func (c *companion) stranded(r peers.Record) string {
	node := c.rt.Config.Node
	marker, err := c.rt.Config.volume().member()
	if err != nil || marker == nil || r.State != peers.Formed || r.ClusterID != marker.ClusterID {
		return ""
	}
	gone := lost(r, marker.Members, node)
	left := slices.DeleteFunc(slices.Clone(marker.Members), func(m string) bool { return slices.Contains(gone, m) })
	if len(gone) == 0 || !slices.Contains(r.Names(), node) {
		return ""
	}
	if c.khepri() {
		if 2*len(left) > len(marker.Members) {
			return ""
		}
	} else {
		need := runningAtShutdown(c.rt.Config.Data, node)
		if c.serving || len(need) == 0 || slices.ContainsFunc(need, func(n string) bool { _, on := r.Members[n]; return on }) {
			return ""
		}
	}
	why := fmt.Sprintf("THE MAJORITY IS GONE FOR GOOD: %s came up blank, and what only they held is lost", strings.Join(gone, ", "))
	switch {
	case len(r.Members) > 1:
		return why + fmt.Sprintf("; %s still hold a copy each: wipe all but the best, or mount the lost volumes again", strings.Join(r.Names(), ", "))
	case c.rt.Config.CarryOn:
		if err := writeJSON(c.rt.Config.volume().file("carry-on"), carryOnFile{ClusterID: marker.ClusterID, Lost: gone}); err != nil {
			return why + "; " + err.Error()
		}
		return why + "; carrying on from this copy, as --carry-on (RMQ_CARRY_ON) allows"
	}
	return why + fmt.Sprintf("; if their volumes are only not mounted, mount them; otherwise carry on from this copy: rmq-entrypoint carry-on --cluster-id %s", marker.ClusterID)
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
	why := c.stranded(r)
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
	case order == nil:
		return ""
	case !order.Forced:
		c.log.Warn("carrying on from this node's copy", "cluster", order.ClusterID, "given_up", strings.Join(order.Lost, ","))
		if err := c.force(ctx, order); err != nil {
			return fmt.Sprintf("carry on: %v", err)
		}
		order.Forced = true
		if err := writeJSON(path, order); err != nil {
			return err.Error()
		}
		if !c.khepri() {
			c.halt(ctx) // Mnesia reads the order at its next start
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
	c.verified = false
	return ""
}

// force tells RabbitMQ to come up without the others.
func (c *companion) force(ctx context.Context, order *carryOnFile) error {
	argv := "force_boot"
	if c.khepri() {
		argv = "force_standalone_khepri_boot"
	}
	_, err := c.broker.ctl(ctx, c.rt.Config.Node, argv)
	return err
}

// settle forgets the lost members and makes this copy's queues usable again.
func (c *companion) settle(ctx context.Context, order *carryOnFile) error {
	v, err := c.broker.view(ctx, c.rt.Config.Node)
	if err != nil {
		return err
	}
	for _, n := range order.Lost {
		if !slices.Contains(v.Members, n) {
			continue // Khepri forgot it when it was told to stand alone
		}
		if err := c.broker.forget(ctx, c.rt.Config.Node, n); err != nil {
			return fmt.Errorf("forget %s: %w", n, err)
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
	if v, err := rabbitconf.ParseVersion(c.rt.Version); err == nil && v.AtLeast(4, 3) {
		return true
	}
	b, err := os.ReadFile(c.rt.Config.Data + "-feature_flags")
	return err == nil && strings.Contains(string(b), "khepri_db")
}

// runningAtShutdown returns the nodes that a stopped Mnesia member waits for:
// those that still ran when it stopped.
func runningAtShutdown(dir, node string) []string {
	b, err := os.ReadFile(filepath.Join(dir, "nodes_running_at_shutdown"))
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(nodeName.FindAllString(string(b), -1), func(n string) bool { return n == node })
}

// nodeName finds the names in a list of Erlang atoms, quoted or not.
var nodeName = regexp.MustCompile(`[^\[\]{},' \r\n\t]+@[A-Za-z0-9._-]*[A-Za-z0-9_-]`)
