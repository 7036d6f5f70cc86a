package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/hosts"
	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/peers"
)

// ForgetCluster is `rmq-entrypoint forget-cluster --cluster-id ID`: it gives up the cluster on
// record, so that a blank node may found a new one. It refuses while a member of
// that cluster serves, and unless forced while that cannot be told: what is down is
// for a [witness] to say. Nothing on any volume is touched.
func ForgetCluster(ctx context.Context, cfg config.Config, id string, force bool, out io.Writer) error {
	cfg, err := ofMember(cfg, toldOn(out))
	if err != nil {
		return err
	}
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
			if p.Beating && p.AgentFailed {
				beating[p.Node] = unheard(p)
			} else if p.Beating {
				beating[p.Node] = fmt.Sprintf("its entry in Consul, at %s, has not lapsed: it may be starting, or something else keeps that entry", p.Address)
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
		w, err := hosts.WitnessOf(cfg, nodes)
		if err != nil {
			return err
		}
		var unsure []string
		for _, n := range nodes {
			v, err := askRecorded(ctx, cfg, r, n)
			if blank[n] && (err != nil || !r.Is(v.ClusterID)) {
				continue
			}
			if err == nil || errors.Is(err, rabbitmq.ErrNoClusterID) { // critical, but it runs
				return fmt.Errorf("%s answers: a cluster that runs is not given up; stop its nodes first", n)
			}
			down, seen := w.Down(ctx, n, registered[n])
			seen = peers.Plain(seen)
			if says, beats := beating[n]; down && beats {
				down, seen = false, says
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
			return fmt.Errorf("whether the cluster runs cannot be told, and one that runs is not given up: %s. Ask from a container that reaches these nodes; if they are gone for good, add --force", peers.SomeWith(unsure, "; "))
		case len(unsure) > 0:
			command += " --force"
			fmt.Fprintf(out, "forced, though it cannot be told: %s\n", peers.SomeWith(unsure, "; "))
		}
		for _, n := range r.Names() {
			r = r.Without(n, peers.GivenUp(command), time.Now()).By(n, config.OnHost(command))
		}
		ok, err := peers.WriteRecord(ctx, client, cfg.RecordKey(), r, index, cfg.LockKey(), session)
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

// askRecorded asks a node for its view if it is on record, as a member or gone. Whoever else
// registers gets no word of the cookie: epmd tells whether it runs.
func askRecorded(ctx context.Context, cfg config.Config, r peers.Record, node string) (peers.View, error) {
	_, on := r.Members[node]
	if _, gone := r.Gone[node]; !on && !gone {
		return peers.View{}, errors.New("it is not on record, and is not asked itself")
	}
	return rabbitmq.New(cfg.Node, cfg.LongNames, hosts.Environment(cfg)...).View(ctx, node)
}
