package peers

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/consul/api"
)

// A namesake is an entry of this node's own name that another start of a node made: an
// earlier one of this very node, or a container that has the same host name. Only the
// volume tells them apart, and only a check that has lapsed shows that one is gone.

// Standing is what a node may take its name from.
type Standing int

const (
	// Blank: the node has nothing to prove that the name is its own. It takes the name
	// over from nobody who may live.
	Blank Standing = iota
	// Starting: the node has data and starts. An entry of its own volume is that of its
	// earlier start, which has ended.
	Starting
	// Serving: the node is a member and serves. The name is its own, against everybody
	// who does not serve.
	Serving
	// Recorded: so it does, and the cluster record, read just now, has this volume for the
	// name. What an entry says of it, which anybody may write who may register the service,
	// counts for nothing then.
	Recorded
)

// NameTakenError says that the node's name is registered by another, who may live.
type NameTakenError struct{ Peer Peer }

func (e *NameTakenError) Error() string {
	return fmt.Sprintf("the name is another's: %s", e.Peer.Describe())
}

// Describe says whose an entry is, where, and since when.
func (p Peer) Describe() string {
	state := "critical"
	switch {
	case p.Lapsed():
		state = "lapsed"
	case p.AgentFailed:
		state = "unknown, for its Consul agent has failed"
	case p.Passing:
		state = "passing"
	}
	text := fmt.Sprintf("%s at %s, registered as %s with Consul agent %s", p.Node, p.Address, p.ID, p.Agent)
	if !p.Since.IsZero() {
		text += ", started " + p.Since.Format(time.RFC3339)
	}
	if p.Volume != "" {
		text += ", volume " + p.Volume
	}
	return text + ", its check " + state
}

// WayOut says how to get rid of an entry whose node is gone for good.
func (p Peer) WayOut() string {
	if p.AgentFailed {
		return fmt.Sprintf("consul force-leave %s, if that host is gone for good", p.Agent)
	}
	return fmt.Sprintf("if it is gone for good, deregister it with its agent %s: consul services deregister -id=%s (an agent that lost its data does not know it: then PUT it to /v1/catalog/deregister)", p.Agent, p.ID)
}

// Removal is the command that takes an entry out of Consul, and where.
func (p Peer) Removal() string {
	return fmt.Sprintf("on agent %s: consul services deregister -id=%s", p.Agent, p.ID)
}

// Lapsed reports whether the entry's companion has been silent for its TTL, as Consul
// tells it.
func (p Peer) Lapsed() bool { return !p.Beating }

// own reports whether the entry is of this start, or of an earlier one on the same volume.
func (r Registration) own(p Peer) bool {
	return p.Boot == r.Boot || r.Volume != "" && p.Volume == r.Volume
}

// mayTake reports whether this node may replace that entry of its name. What an agent
// that failed last said is no news.
func (r Registration) mayTake(p Peer, s Standing) bool {
	switch {
	case p.Boot == r.Boot, p.Lapsed(), p.AgentFailed:
		return true
	case s == Serving:
		return r.own(p) || !p.Passing
	case s == Starting:
		// One without a volume was made by a program that did not say it yet.
		return p.Volume == "" || r.own(p)
	}
	return r.own(p) && !p.Passing // or a copy of this volume serves elsewhere
}

// NameFree returns a [NameTakenError] when another has the node's name, from whom it may
// not be taken. Other errors mean unknown.
func NameFree(ctx context.Context, client *api.Client, r Registration, standing Standing) error {
	all, _, err := Entries(ctx, client, r.Service)
	if err != nil {
		return err
	}
	found, err := Namesakes(ctx, client, r, all)
	if err != nil {
		return err
	}
	for _, p := range found {
		if !r.mayTake(p, standing) {
			return &NameTakenError{p}
		}
	}
	return nil
}

// Namesakes returns the entries of the node's name that this start did not make: those
// among all, the catalog, and the agent's, whose word goes first: see [Entries].
func Namesakes(ctx context.Context, client *api.Client, r Registration, all []Peer) ([]Peer, error) {
	here, err := atAgent(ctx, client, r)
	if err != nil {
		return nil, err
	}
	var found []Peer
	if here != nil {
		found = append(found, *here)
	}
	for _, p := range all {
		switch {
		case p.Node != r.Node:
		case here != nil && p.ID == here.ID && p.Boot == here.Boot:
			found[0].Agent, found[0].Address = p.Agent, p.Address // the agent leaves out what is its own
		default:
			found = append(found, p)
		}
	}
	return slices.DeleteFunc(found, func(p Peer) bool { return p.Boot == r.Boot && r.Boot != "" }), nil
}

// Bury removes from the agent in use the entry that earlier starts left there under this
// node's name, where it may be taken, and returns the start that made it, "" for none. One
// with another agent stays: only that one could.
func Bury(ctx context.Context, client *api.Client, r Registration, standing Standing) (boot string, err error) {
	p, err := atAgent(ctx, client, r)
	if err != nil || p == nil || !r.mayTake(*p, standing) {
		return "", err
	}
	return p.Boot, deregister(ctx, client, r)
}

// atAgent returns the entry of the registration's id that the agent in use holds, with
// its check as of now; nil: it holds none.
func atAgent(ctx context.Context, client *api.Client, r Registration) (*Peer, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s, err := r.serviceAtAgent(ctx, client)
	if err != nil || s == nil {
		return nil, err
	}
	checks, err := client.Agent().ChecksWithFilterOpts(fmt.Sprintf("ServiceID == %q", r.ID()), new(api.QueryOptions).WithContext(ctx))
	switch {
	case err != nil:
		return nil, r.unread(lacks(err, fmt.Sprintf("service:read on %q", r.Service)))
	case checks == nil:
		return nil, r.unread(errHollow)
	}
	var own api.HealthChecks
	for _, c := range checks {
		if c == nil {
			return nil, r.unread(errHollow)
		}
		own = append(own, &api.HealthCheck{CheckID: c.CheckID, ServiceID: c.ServiceID, Status: c.Status, Output: c.Output})
	}
	p := entry(s.ID, s.Meta, s.Address, s.Port, own)
	p.Agent = "in use here"
	return &p, nil
}

// serviceAtAgent returns what the agent in use holds under the registration's id; nil: nothing.
func (r Registration) serviceAtAgent(ctx context.Context, client *api.Client) (*api.AgentService, error) {
	services, err := client.Agent().ServicesWithFilterOpts(fmt.Sprintf("ID == %q", r.ID()), new(api.QueryOptions).WithContext(ctx))
	s, there := services[r.ID()]
	switch {
	case err != nil:
		return nil, r.unread(lacks(err, fmt.Sprintf("service:read on %q", r.Service)))
	case services == nil, there && s == nil:
		return nil, r.unread(errHollow)
	}
	return s, nil
}

func (r Registration) unread(err error) error {
	return fmt.Errorf("read %s from the Consul agent: %w", r.ID(), err)
}
