package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/lock"
	"rmq-entrypoint/peers"
)

// foundMain is `rmq-entrypoint found --cluster-id ID`: it gives up the cluster on
// record, so that a blank node may found a new one. It refuses while a member of
// that cluster serves, and unless forced while that cannot be told. Nothing on any
// volume is touched.
func foundMain(ctx context.Context, cfg config, id string, force bool, out io.Writer) error {
	return underLock(ctx, cfg, id, func(client *api.Client, session string, r peers.Record, index uint64) error {
		others, _, err := peers.Catalog(ctx, client, cfg.Service, "")
		if err != nil {
			return err
		}
		nodes := r.Names() // one whose companion is dead runs unregistered
		for _, p := range others {
			if p.Passing {
				return fmt.Errorf("%s serves: a cluster that runs is not given up; stop its nodes first", p.Node)
			}
			nodes = append(nodes, p.Node)
		}
		slices.Sort(nodes)
		var unsure []string
		for _, n := range slices.Compact(nodes) {
			switch _, err := (broker{cfg.Node, cfg.run}).view(ctx, n); {
			case err == nil, errors.Is(err, errNoClusterID): // critical, but it runs
				return fmt.Errorf("%s answers: a cluster that runs is not given up; stop its nodes first", n)
			case !isDown(err):
				unsure = append(unsure, err.Error())
			}
		}
		if len(unsure) > 0 && !force {
			return fmt.Errorf("whether the cluster runs cannot be told, and one that runs is not given up: %s. Ask from a container that reaches these nodes; if they are gone for good, add --force", strings.Join(unsure, "; "))
		}
		for _, n := range r.Names() {
			r = r.Without(n, "given up by an operator (rmq-entrypoint found)", time.Now())
		}
		ok, err := peers.WriteRecord(ctx, client, cfg.recordKey(), r, index, cfg.lockKey(), session)
		if err != nil {
			return err
		}
		if !ok {
			return errors.New("the record changed meanwhile, nothing was done: look at rmq-entrypoint status and try again")
		}
		fmt.Fprintf(out, "cluster %s is given up: the next blank node founds a new one; volumes of the old one are refused and keep their data\n", id)
		return nil
	})
}

// underLock runs an operator's command on the record while nobody else changes
// it, if the cluster on record is the one that was meant.
func underLock(ctx context.Context, cfg config, id string, do func(client *api.Client, session string, r peers.Record, index uint64) error) error {
	log := logger(cfg)
	client, err := newConsul(cfg, log).use(ctx)
	if err != nil {
		return err
	}
	l, err := lock.Acquire(ctx, client, cfg.lockOptions(log))
	if err != nil {
		return err
	}
	var keeping sync.WaitGroup
	kctx, done := context.WithCancel(ctx)
	keeping.Go(func() { _ = l.Keep(kctx) }) // a node that is out of reach is waited for
	defer func() { done(); keeping.Wait(); _ = l.Release(ctx) }()
	r, index, err := peers.ReadRecord(ctx, client, cfg.recordKey())
	if err != nil {
		return err
	}
	if err := onRecord(r, id); err != nil {
		return err
	}
	return do(client, l.Session(), r, index)
}

// onRecord refuses a command meant for another cluster than the one on record.
func onRecord(r peers.Record, id string) error {
	if r.State != peers.Formed || r.ClusterID != id {
		return fmt.Errorf("--cluster-id %s is not the cluster on record, which is %s (members %s): see rmq-entrypoint status",
			id, cmp.Or(r.ClusterID, "none"), strings.Join(r.Names(), ", "))
	}
	return nil
}
