package admin

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/companion"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
)

// ForceBoot is `rmq-entrypoint force-boot --cluster-id ID`. It refuses while
// the companion does not find the majority lost: then a member that is on record
// may hold data that this copy lacks.
func ForceBoot(ctx context.Context, cfg config.Config, id string, out io.Writer) error {
	if err := stepDown(); err != nil {
		return err
	}
	cfg, err := ofMember(cfg, toldOn(out))
	if err != nil {
		return err
	}
	marker, err := statedir.Of(cfg).Marker()
	switch {
	case err != nil:
		return err
	case marker == nil:
		return fmt.Errorf("this node's volume (%s) is no member of any cluster: run force-boot on the node whose copy survives", cfg.Data)
	case marker.ClusterID != id:
		return fmt.Errorf("--cluster-id %s is not this volume's cluster, which is %s", id, marker.ClusterID)
	}
	given, err := statedir.Of(cfg).CarryOn()
	if err != nil {
		return err
	}
	if given != nil && given.ClusterID == id {
		fmt.Fprintf(out, "already carrying on with cluster %s; given up: %s\n", id, strings.Join(given.Lost, ", "))
		return awaitForceBoot(ctx, cfg, out)
	}
	err = underLock(ctx, cfg, id, func(_ *api.Client, _ string, r peers.Record, _ uint64) error {
		said, err := companion.Ask(ctx, cfg.StatusSocket())
		if err != nil {
			return fmt.Errorf("the companion does not answer: is this node started? %w", err)
		}
		if len(said.Lost) == 0 {
			return fmt.Errorf("nothing to carry on without: this node is %s (%s). If it waits for nodes that will never come back, start them with empty volumes: a blank one takes itself off the record (on it now: %s). Keep those that hold data", said.Status, said.Reason, peers.Some(r.Names()))
		}
		order := statedir.CarryOn{ClusterID: id, Lost: said.Lost}
		if err := statedir.Of(cfg).WriteCarryOn(order); err != nil {
			return err
		}
		fmt.Fprintf(out, "carrying on with cluster %s from this node's copy; given up: %s\n", id, strings.Join(order.Lost, ", "))
		return nil
	})
	if err != nil {
		return err
	}
	return awaitForceBoot(ctx, cfg, out)
}

// awaitForceBoot follows the companion's work. Its end by a restart of the
// container is no failure: the order is on the volume.
func awaitForceBoot(ctx context.Context, cfg config.Config, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	told, given := "", true
	for ; ctx.Err() == nil; pause(ctx, time.Second) {
		order, err := statedir.Of(cfg).CarryOn()
		if err != nil {
			return err
		}
		given = order != nil
		r, err := companion.Ask(ctx, cfg.StatusSocket())
		if err == nil && order == nil && r.Ready() {
			fmt.Fprintf(out, "done: %s: %s\n", r.Status, r.Reason)
			return nil
		}
		if err == nil && r.Reason != told {
			told = r.Reason
			fmt.Fprintln(out, "  "+told)
		}
	}
	if !given {
		return fmt.Errorf("not done (%s): the order no longer held, the node's log tells why", cmp.Or(told, "the companion does not answer"))
	}
	return fmt.Errorf("not done yet (%s): the order stays on the volume, rmq-entrypoint status tells", cmp.Or(told, "the companion does not answer"))
}
