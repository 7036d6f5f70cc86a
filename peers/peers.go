// Package peers knows who is there and says that this node is.
//
// Four sources speak of other nodes, and they are not equal. The cluster record
// ([Record]) is one Consul key changed by compare-and-set and read through Raft:
// it alone decides who founds a cluster. The catalog ([Catalog]) is news: a node
// that passes may have died within the last TTL. What a peer answers right now
// ([View]) is proof that it runs. DNS ([Lookup]) is a stale read: it can only
// add caution. [Decide] turns what was seen of them into one action.
package peers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

// callTimeout bounds every single call to Consul, so that an agent that accepts
// and never answers costs seconds, not a hang.
const callTimeout = 4 * time.Second

// Seen is an observation with three values: known with content, known and empty
// (Value is the zero value), and unknown (Err says why). Unknown is never "no".
type Seen[T any] struct {
	Value T
	Err   error // nil: known
}

// Known reports whether the observation was made at all.
func (s Seen[T]) Known() bool { return s.Err == nil }

// View is what a running RabbitMQ node says of its own cluster.
type View struct {
	ClusterID  string   // rabbit_nodes:persistent_cluster_id(), the same on every member
	Members    []string // all members, stopped ones too
	Running    []string // members on which RabbitMQ runs
	Partitions []string // nodes this one is partitioned from (Mnesia)
	Khepri     bool     // the members decide by majority (Raft), not by Mnesia
	Connected  []string // nodes whose Erlang VM is up and connected, RabbitMQ running there or not
	Pauses     bool     // RabbitMQ here is to pause in a minority (Mnesia)
	Paired     bool     // of two members, each has a replica of some quorum queue (Mnesia)
	Stops      bool     // the server is being stopped, though RabbitMQ may still run and listen

	Ports
	Started time.Time // its Erlang VM, by its host's clock; zero: it does not say

	// Only when the node is partitioned: what each node that answers sees of it, this one
	// among them.
	Sides map[string]Side
}

// Ports are where a node takes connections.
type Ports struct {
	Listeners []Listener    // of AMQP; none: it does not say, or is in maintenance mode
	Web       []WebListener // of HTTP
}

// WebListener is where a plugin of a node takes HTTP connections, by RabbitMQ's own list.
type WebListener struct {
	Plugin string // management or prometheus
	IP     string // 0.0.0.0 and :: are every address
	Port   int
	TLS    bool
}

// Listener is where a node takes AMQP connections, by RabbitMQ's own list.
type Listener struct {
	IP    string // 0.0.0.0 and :: are every address
	Port  int
	TLS   bool
	Proxy bool // by the PROXY protocol only
}

// Side is what a node sees of a partition.
type Side struct {
	With []string // the members with which its Mnesia runs, itself among them; nobody where that is stopped
	From []string // the members from which it is partitioned
}

// Peer is one instance of the service in Consul's catalog, never this node.
type Peer struct {
	Node      string // rabbit@host
	Address   string // host or IP and port as registered
	ClusterID string // the cluster it said it belongs to, empty until verified
	Version   string // of RabbitMQ that it was started as; empty: it does not say
	Queues    string // what queues are there that name no type; empty: it does not say
	Passing   bool   // all its checks and its Consul node's pass (warning counts)
	Beating   bool   // none of its checks has lapsed: its companion lives, whatever it says
	Status    string // of its own TTL check alone; empty: the catalog has none
	View      Seen[View]
	Down      bool // it was asked, and RabbitMQ positively does not run there

	Start // that made the entry
	Entry
}

// Entry is where in Consul's catalog a peer was found.
type Entry struct {
	ID          string // of the service
	Made        string // [Registration.Made]
	Agent       string // Consul's node that has the entry
	AgentFailed bool   // that one is not reached by Consul's servers: the entry is what it last said
	Said        string // by its own TTL check, up to some minutes ago where its status has not changed since

	index   uint64 // of the entry's last change in the catalog
	foreign bool   // made neither by this program nor by RabbitMQ's plugin
}

// Foreign reports whether the entry was made by something that speaks for no node: a
// scheduler, or another program.
func (e Entry) Foreign() bool { return e.foreign }

// Newer reports whether p rather than other, an entry of the same node with
// another agent, says where the node is: the one that passes, then the later one.
// An agent that comes back brings what it had, as later and critical.
func (p Peer) Newer(other Peer) bool {
	if p.Passing != other.Passing {
		return p.Passing
	}
	return p.index > other.index
}

// Compare is above 0 where p rather than other, an entry of the same node too, speaks for that
// node by what is on record, below 0 the other way round, and 0 where that does not tell: the one
// that passes with the cluster's id counts, then that of the volume on record, then the one whose
// companion beats. So nobody takes a live member's name by a later entry.
func (r Record) Compare(p, other Peer) int {
	for _, rule := range []func(Peer) bool{
		func(p Peer) bool { return p.Passing && r.ClusterID != "" && p.ClusterID == r.ClusterID },
		func(p Peer) bool { return p.Passing },
		func(p Peer) bool { on := r.Members[p.Node]; return on == "" || on == p.Volume },
		func(p Peer) bool { return p.Beating },
	} {
		switch is, others := rule(p), rule(other); {
		case is && !others:
			return 1
		case others && !is:
			return -1
		}
	}
	return 0
}

// DecidesWithout reports whether the cluster can take decisions, as a join is
// one, without that member: on Khepri the vote of a wiped node is lost.
func (v View) DecidesWithout(node string) bool {
	if !v.Khepri {
		return true
	}
	others := slices.DeleteFunc(slices.Clone(v.Running), func(n string) bool { return n == node })
	return 2*len(others) > len(v.Members)
}

// StandsStillWithout says why the cluster's members could decide nothing without node, one that
// runs, or "": that stops a cluster which decides by majority, or pauses in a minority. A cluster
// of one has nobody to decide.
func (v View) StandsStillWithout(node string) string {
	others := slices.DeleteFunc(slices.Clone(v.Running), func(n string) bool { return n == node })
	if len(v.Members) < 2 || 2*len(others) > len(v.Members) {
		return ""
	}
	return fmt.Sprintf("of the members %s only %s run, and without it there is no majority, so the others would stand still", strings.Join(v.Members, ", "), strings.Join(v.Running, ", "))
}

// ErrNotAsked is the View of a peer that nobody has asked yet.
var ErrNotAsked = errors.New("not asked")

// Catalog returns the instances of service other than node's own, passing or
// not, as the Consul leader knows them, and the index to wait on for a change.
// Entries that speak for no node are not among them. The error, if any, means
// unknown, not empty.
func Catalog(ctx context.Context, client *api.Client, service, node string) ([]Peer, uint64, error) {
	all, index, err := Entries(ctx, client, service)
	return Others(all, node), index, err
}

// Others returns those of the entries that speak for other nodes than node.
func Others(all []Peer, node string) []Peer {
	return slices.DeleteFunc(slices.Clone(all), func(p Peer) bool { return p.Node == node || p.foreign })
}

// Entries returns all instances of service, this node's own and foreign ones too, as
// [Catalog] does.
func Entries(ctx context.Context, client *api.Client, service string) ([]Peer, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	found, index, err := entries(client, service, consistent(ctx))
	if err == nil && slices.ContainsFunc(found, func(p Peer) bool { return !p.Passing && p.Beating && !p.AgentFailed }) {
		err = refresh(ctx, client, service, found)
	}
	if err != nil {
		return nil, 0, err
	}
	return found, index, nil
}

func entries(client *api.Client, service string, q *api.QueryOptions) ([]Peer, uint64, error) {
	all, meta, err := client.Health().Service(service, "", false, q)
	right := fmt.Sprintf("service:read on %q and node:read", service)
	if err != nil {
		return nil, 0, fmt.Errorf("read service %s from Consul: %w", service, lacks(err, right))
	}
	if all == nil { // null: Consul says [] where there is none
		return nil, 0, fmt.Errorf("read service %s from Consul: %w", service, errHollow)
	}
	if meta.ResultsFilteredByACLs { // a filtered answer is unknown, not empty
		return nil, 0, fmt.Errorf("read service %s from Consul: %w", service, &DeniedError{right, errors.New("the answer was filtered")})
	}
	var found []Peer
	for _, e := range all {
		if e == nil || e.Service == nil || e.Node == nil || slices.Contains(e.Checks, nil) {
			return nil, 0, fmt.Errorf("read service %s from Consul: %w", service, errHollow)
		}
		p := entry(e.Service.ID, e.Service.Meta, cmp.Or(e.Service.Address, e.Node.Address), e.Service.Port, e.Checks)
		p.Agent, p.index = short(e.Node.Node), e.Service.ModifyIndex
		found = append(found, p)
	}
	slices.SortFunc(found, func(a, b Peer) int {
		return cmp.Or(strings.Compare(a.Node, b.Node), strings.Compare(a.Agent, b.Agent), strings.Compare(a.ID, b.ID))
	})
	return found, meta.LastIndex, nil
}

// refresh brings what the entries say of their checks up to what the agent in use knows
// of those that are its own. It knows at once that a check has lapsed, which the catalog
// hears only minutes later where the check was critical before (check_update_interval).
func refresh(ctx context.Context, client *api.Client, service string, ps []Peer) error {
	checks, err := client.Agent().ChecksWithFilterOpts(fmt.Sprintf("ServiceName == %q", service), new(api.QueryOptions).WithContext(ctx))
	if err != nil {
		return fmt.Errorf("read the checks of service %s from the Consul agent: %w", service, lacks(err, fmt.Sprintf("service:read on %q", service)))
	}
	if err := silence(ps, checks); err != nil {
		return fmt.Errorf("read the checks of service %s from the Consul agent: %w", service, err)
	}
	return nil
}

// silence notes which of the entries have a check that has lapsed. Whoever may register a service
// decides how many entries and checks there are: it goes through each of them once.
func silence(ps []Peer, checks map[string]*api.AgentCheck) error {
	type key struct{ agent, id string }
	gone := map[key]bool{}
	for _, c := range checks {
		if c == nil {
			return errHollow
		}
		if lapsed(c.Output) {
			gone[key{short(c.Node), short(c.ServiceID)}] = true
		}
	}
	for i, p := range ps {
		if gone[key{p.Agent, p.ID}] {
			ps[i].Beating = false
		}
	}
	return nil
}

// errHollow: an answer that is no Consul's, for it has nothing where it has to have something.
// Nothing is known by it, least of all that something is not there.
var errHollow = errors.New("the answer is null, or has entries that are: no Consul says that")

// mostMeta is what Consul takes as a value of meta; no text of an entry that we make is longer.
const mostMeta = 512

// short returns what somebody wrote into the catalog as it may be printed.
func short(text string) string {
	if len(text) > mostMeta {
		text = text[:mostMeta] + "…"
	}
	return Plain(text)
}

// lapsed reports whether that is the output of a TTL check that lapsed: Consul's words,
// since 1.0 and in 1.22.
func lapsed(output string) bool { return strings.Contains(output, "TTL expired") }

// entry reads what an entry and its checks say: everybody may have written it. One that names
// no node is foreign; of the rest, what is not as we write it stays fit to be printed, and is
// equal to nothing of ours.
func entry(id string, meta map[string]string, address string, port int, checks api.HealthChecks) Peer {
	says := func(key string) string { return short(meta[key]) }
	p := Peer{
		Node:      cmp.Or(meta[metaNode], meta[metaPlugin]),
		ClusterID: says(metaCluster),
		Version:   says(metaVersion),
		Queues:    says(metaQueues),
		Address:   short(net.JoinHostPort(address, strconv.Itoa(port))),
		Passing:   true,
		Beating:   true,
		View:      Seen[View]{Err: ErrNotAsked},
		Start:     Start{Volume: says(metaVolume), Boot: says(metaBoot), Blank: meta[metaBlank] == "true", Runs: meta[metaRuns] == "true"},
		Entry:     Entry{ID: short(id), Made: says(metaMade)},
	}
	if p.Boot == "" { // something registered over it, and left it the check of the start that it was
		p.Boot = short(bootOf(id, checks))
	}
	p.Since, _ = time.Parse(time.RFC3339, meta[metaSince]) // not said: zero
	if validNode(p.Node) != nil {
		p.Node, p.foreign = short(id), true
	}
	for _, c := range checks {
		if c.Status != api.HealthPassing && c.Status != api.HealthWarning {
			p.Passing = false
		}
		if lapsed(c.Output) && c.ServiceID != "" { // not one of its host's
			p.Beating = false
		}
		if c.CheckID == checkID(id, p.Boot) {
			p.Status, p.Said = c.Status, short(c.Output)
		}
		if c.CheckID == "serfHealth" && c.Status == api.HealthCritical {
			p.AgentFailed = true
		}
	}
	return p
}

// bootOf returns the start whose check an entry has, "" if it has none or those of several.
func bootOf(id string, checks api.HealthChecks) (boot string) {
	for _, c := range checks {
		of, ok := strings.CutPrefix(c.CheckID, checkID(id, "")+"-")
		switch {
		case ok && boot != "" && of != boot:
			return ""
		case ok:
			boot = of
		}
	}
	return boot
}

// Changed returns when the record at key, if there is a key, or the service has
// changed since the given indexes, when ctx ends, or after most.
func Changed(ctx context.Context, client *api.Client, key string, record uint64, service string, catalog uint64, most time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	var watchers sync.WaitGroup
	watch := func(index uint64, changed func(*api.QueryOptions) (bool, *api.QueryMeta, error)) {
		defer cancel()
		for ctx.Err() == nil {
			q := &api.QueryOptions{RequireConsistent: true, WaitIndex: max(index, 1), WaitTime: most}
			switch yes, meta, err := changed(q.WithContext(ctx)); {
			case yes:
				return
			case err != nil: // Consul is away: most is the limit
				<-ctx.Done()
			default: // woken by something else, such as another key's write
				index = meta.LastIndex
			}
		}
	}
	if key != "" {
		watchers.Go(func() {
			watch(record, func(q *api.QueryOptions) (bool, *api.QueryMeta, error) {
				pair, meta, err := client.KV().Get(key, q)
				return err == nil && modified(pair) != record, meta, err
			})
		})
	}
	watchers.Go(func() {
		watch(catalog, func(q *api.QueryOptions) (bool, *api.QueryMeta, error) {
			_, meta, err := client.Health().Service(service, "", false, q)
			return err == nil && meta.LastIndex != catalog, meta, err
		})
	})
	watchers.Wait()
}

// SessionGone reports whether the Consul session id no longer exists.
func SessionGone(ctx context.Context, client *api.Client, id string) (bool, error) {
	if id == "" {
		return true, nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var found []*api.SessionEntry // not by Session().Info, which takes null for a session that is gone
	meta, err := client.Raw().Query("/v1/session/info/"+id, &found, consistent(ctx))
	switch {
	case err != nil:
		err = lacks(err, "session:read on the Consul node of that session")
	case found == nil || slices.Contains(found, nil):
		err = errHollow
	case meta.ResultsFilteredByACLs: // it is there: where there is none, 1.22 has nothing to filter
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read session %s: %w", id, err)
	}
	return len(found) == 0, nil
}

// DeniedError is Consul's no for want of a right; trying again is no use until
// the token has it.
type DeniedError struct {
	Right string // such as key:read on "prefix/key"
	Err   error  // Consul's words
}

func (e *DeniedError) Error() string {
	return fmt.Sprintf("the Consul token (CONSUL_HTTP_TOKEN) lacks %s, or is unknown to Consul: %v", e.Right, e.Err)
}

func (e *DeniedError) Unwrap() error { return e.Err }

// ErrTooLong is of a client that reads no more than so much of an answer. Whoever registers services
// can make the answers about them as long as that.
var ErrTooLong = errors.New("which no cluster of RabbitMQ nodes comes to")

// lacks turns a 403 into a [DeniedError] that names the missing right.
func lacks(err error, right string) error {
	var status api.StatusError
	if errors.As(err, &status) && (status.Code == 401 || status.Code == 403) {
		return &DeniedError{right, err}
	}
	return err
}

func consistent(ctx context.Context) *api.QueryOptions {
	return (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx)
}
