package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/lock"
	"rmq-entrypoint/peers"
)

// forgetClusterMain is `rmq-entrypoint forget-cluster --cluster-id ID`: it gives up the cluster on
// record, so that a blank node may found a new one. It refuses while a member of
// that cluster serves, and unless forced while that cannot be told: what is down is
// for a [witness] to say. Nothing on any volume is touched.
func forgetClusterMain(ctx context.Context, cfg config, id string, force bool, out io.Writer) error {
	return underLock(ctx, cfg, id, func(client *api.Client, session string, r peers.Record, index uint64) error {
		entries, _, err := peers.Catalog(ctx, client, cfg.Service, "")
		if err != nil {
			return err
		}
		nodes := r.Names() // one whose companion is dead runs unregistered
		registered, beating := map[string][]string{}, map[string]string{}
		for _, p := range entries {
			if p.Passing {
				return fmt.Errorf("%s serves: its entry in Consul, at %s, passes. A cluster that runs is not given up; stop its nodes first (an entry that something else made: deregister it)", p.Node, p.Address)
			}
			if p.Beating {
				beating[p.Node] = p.Address
			}
			nodes, registered[p.Node] = append(nodes, p.Node), append(registered[p.Node], p.Address)
		}
		blank := map[string]bool{} // by its own word: only if it answers from this cluster it is to be believed
		for n, g := range r.Gone {
			if _, on := r.Members[n]; !on && !g.Left {
				blank[n] = !g.Another(n) && registered[n] == nil
				nodes = append(nodes, n)
			}
		}
		slices.Sort(nodes)
		nodes = slices.Compact(nodes)
		w, err := newWitness(cfg, nodes)
		if err != nil {
			return err
		}
		var unsure []string
		for _, n := range nodes {
			v, err := newBroker(cfg.Node, cfg.LongNames, resolver(cfg)...).view(ctx, n)
			if blank[n] && (err != nil || v.ClusterID != id) {
				continue
			}
			if err == nil || errors.Is(err, errNoClusterID) { // critical, but it runs
				return fmt.Errorf("%s answers: a cluster that runs is not given up; stop its nodes first", n)
			}
			down, seen := w.down(ctx, n, registered[n])
			if at, beats := beating[n]; down && beats {
				down, seen = false, fmt.Sprintf("its entry in Consul, at %s, has not lapsed: it may be starting, or something else keeps that entry", at)
			}
			if down {
				fmt.Fprintf(out, "%s is down: %s\n", n, seen)
				continue
			}
			unsure = append(unsure, fmt.Sprintf("%s: %s (%v)", n, seen, err))
		}
		command := "rmq-entrypoint forget-cluster"
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case len(unsure) > 0 && !force:
			return fmt.Errorf("whether the cluster runs cannot be told, and one that runs is not given up: %s. Ask from a container that reaches these nodes; if they are gone for good, add --force", strings.Join(unsure, "; "))
		case len(unsure) > 0:
			command += " --force"
			fmt.Fprintf(out, "forced, though it cannot be told: %s\n", strings.Join(unsure, "; "))
		}
		for _, n := range r.Names() {
			r = r.Without(n, peers.GivenUp(command), time.Now()).By(n, onHost(command))
		}
		ok, err := peers.WriteRecord(ctx, client, cfg.recordKey(), r, index, cfg.lockKey(), session)
		if err != nil {
			return err
		}
		if !ok {
			return errors.New("the record changed meanwhile, nothing was done: look at rmq-entrypoint status and try again")
		}
		fmt.Fprintf(out, "cluster %s is given up: the next blank node founds a new one; volumes of the old one are refused and keep their data. A member that runs all the same takes this back\n", id)
		return nil
	})
}

// onHost says who writes what others will read, and where.
func onHost(who string) string {
	host, err := os.Hostname()
	if err != nil {
		return who
	}
	return who + " on host " + host
}

// underLock runs an operator's command on the record while nobody else changes
// it, if the cluster on record is the one that was meant.
func underLock(ctx context.Context, cfg config, id string, do func(client *api.Client, session string, r peers.Record, index uint64) error) error {
	log := logger(cfg)
	client, err := newConsul(cfg, log).use(ctx)
	if err != nil {
		return err
	}
	l, err := lock.Acquire(ctx, client, lockOptions(cfg, log))
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
