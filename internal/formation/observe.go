package formation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/hosts"
	"rmq-entrypoint/peers"
)

// observation is what Decide sees, and what it takes to act on it.
type observation struct {
	peers.Observation
	record, catalog uint64 // indexes
}

// Reachable refuses a cluster of a node whose host name every host takes for itself and of
// one on another host: neither could ever reach the other. Several such nodes are on one
// host. Where there is a record, it alone says who is in the cluster.
func Reachable(o peers.Observation) error {
	var there []string
	for _, p := range o.Peers.Value {
		if !p.Lapsed() && o.Record.Value.State == peers.Absent {
			there = append(there, p.Node)
		}
	}
	for _, n := range append(there, o.Record.Value.Names()...) {
		const why = "a name that every host takes for itself, so that no node on another one can reach it"
		switch {
		case config.LoopbackName(n) == config.LoopbackName(o.Me):
		case config.LoopbackName(o.Me):
			return fmt.Errorf("this node is %s, %s, and %s is in this service: give this container a host name (hostname: in Compose, docker run --hostname), or set RABBITMQ_NODENAME (--node)", o.Me, why, n)
		default:
			return fmt.Errorf("%s is in this service, %s, and this node is %s: stop that one, give its cluster up (rmq-entrypoint forget-cluster --cluster-id %s, if it is on record), and start it under a host name of its own with an empty volume; or give this one another service (--service, RMQ_SERVICE)", n, why, o.Me, cmp.Or(o.Record.Value.ClusterID, "ID"))
		}
	}
	return nil
}

// observe looks at everything once. What cannot be read is unknown.
func (f *formation) observe(ctx context.Context) (o observation) {
	o.Me, o.ClaimTimeout, o.TTL, o.Volume = f.cfg.Node, f.cfg.ClaimTimeout, f.cfg.TTL, f.volume.Volume
	client, err := f.Agents.Client(ctx)
	if err != nil {
		o.Record.Err, o.Peers.Err = err, err
		f.waits.answers.saw(false, f.cfg.TTL/3, time.Now())
		return o
	}
	o.Record.Value, o.record, o.Record.Err = peers.ReadRecord(ctx, client, f.cfg.RecordKey())
	dns := f.askDNS(ctx, o.Record)
	defer func() { _, _ = dns() }()
	var all []peers.Peer
	all, o.catalog, o.Peers.Err = peers.Entries(ctx, client, f.cfg.Service)
	f.Agents.Answered(errors.Join(o.Record.Err, o.Peers.Err))
	o.Answered = f.waits.answers.saw(o.Record.Known() && o.Peers.Known(), f.cfg.TTL/3, time.Now())
	if !o.Record.Known() || !o.Peers.Known() {
		return o
	}
	o.Peers.Value = peers.Others(all, f.cfg.Node)
	f.lookForNamesakes(ctx, client, all, &o)
	defer f.buryGone(ctx, client, &o) // by what members say, too
	if f.self == "" {
		if own, err := consul.Advertise(ctx, f.cfg, f.Agents.Addr); err == nil {
			f.self = net.JoinHostPort(own, strconv.Itoa(f.cfg.RegisteredPort()))
		}
	}
	// The vote that a cluster waits for is that of a join under way on the volume on record.
	on, listed := o.Record.Value.Members[f.cfg.Node]
	o.Joining = f.volume.Joining && listed && (on == "" || on == f.volume.Volume)
	if _, err := f.Hosts.Learn(o.Peers.Value, hosts.Known{Record: o.Record.Value}, f.cfg.Places().Reader(ctx, client)); f.failing.news("hosts", err) { // before they are asked
		f.Log.Warn("cannot keep the hosts file current", "err", err)
	}
	f.nameForeign(all)
	switch r := o.Record.Value; r.State {
	case peers.Absent:
		o.DNS = f.strangersInDNS(dns, all)
		if f.failing.news("DNS and the catalog", overdue(o.Observation)) {
			f.Log.Warn("DNS gives addresses that the catalog does not know, and has for the claim timeout (--claim-timeout, RMQ_CLAIM_TIMEOUT): going by the catalog alone. Look at what answers as DNS", "addresses", peers.SomeWith(o.DNS.Value.Addresses, ","))
		}
	case peers.Forming:
		o.Claim = f.sessionGone(ctx, client, r)
	case peers.Formed:
		f.nameStrangers(r, o.Peers.Value)
		f.ask(ctx, r, o.Peers.Value)
	}
	return o
}

// nameForeign says once which entries of the service's name speak for no node: they
// stop nobody, and are in the way of those who look the service up. Nobody connects to where they
// say: anybody may have written that.
func (f *formation) nameForeign(all []peers.Peer) {
	var named []string
	for _, p := range all {
		if p.Foreign() {
			named = append(named, p.ID)
		}
	}
	text := strings.Join(named, ",")
	if text == f.foreign {
		return
	}
	f.foreign = text
	told := 0
	for _, p := range all {
		host, _, _ := net.SplitHostPort(p.Address)
		own, _, _ := net.SplitHostPort(f.self)
		if p.Foreign() {
			told++
		}
		switch {
		case !p.Foreign() || told > mostForeign:
		case own != "" && host == own:
			f.Log.Info("an entry of this service at this node's own address, made by something else (a scheduler?), counts for nothing", "id", p.ID, "address", p.Address)
		default:
			f.Log.Warn("an entry of this service was made by no RabbitMQ node and counts for nothing: if it is not meant to be there, remove it from its agent",
				"id", p.ID, "address", p.Address, "passes", p.Passing, "agent", p.Agent, "remove", "consul services deregister -id="+p.ID)
		}
	}
	if told > mostForeign {
		f.Log.Warn("more entries of this service count for nothing", "more", told-mostForeign)
	}
}

// mostForeign is how many entries that speak for no node the log names.
const mostForeign = 10

// askDNS begins to look the service up where there is no record, and returns what waits for the
// answer. A resolver that knows nothing of Consul takes seconds: meanwhile the catalog is read.
func (f *formation) askDNS(ctx context.Context, record peers.Seen[peers.Record]) (answer func() ([]string, error)) {
	if !record.Known() || record.Value.State != peers.Absent {
		return func() ([]string, error) { return nil, nil }
	}
	var found []string
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		found, err = peers.Lookup(ctx, f.DNS, f.cfg.Service)
	}()
	return func() ([]string, error) {
		<-done
		return slices.Clone(found), err
	}
}

// strangersInDNS returns the addresses that DNS gives and nobody else knows. DNS
// failing is said and blocks nothing: it only ever adds caution, and for the claim timeout.
// What it gave before holds until it gives something else.
func (f *formation) strangersInDNS(dns func() ([]string, error), known []peers.Peer) peers.Seen[peers.InDNS] {
	found, err := dns()
	if f.failing.news("DNS", err) {
		f.Log.Warn("DNS does not answer, going by the catalog alone", "err", err)
	}
	switch {
	case err == nil:
		f.waits.inDNS = found
	case len(f.waits.inDNS) == 0:
		return peers.Seen[peers.InDNS]{Err: err}
	}
	found = slices.Clone(f.waits.inDNS)
	registered := map[string]bool{f.self: true} // of addresses and of entries there may be thousands
	for _, p := range known {
		registered[p.Address] = true
		if host, _, _ := net.SplitHostPort(p.Address); p.Foreign() && net.ParseIP(host) == nil {
			found = nil // whose name is behind which address cannot be told, and DNS only ever adds caution
		}
	}
	found = slices.DeleteFunc(found, func(a string) bool { return registered[a] })
	return peers.Seen[peers.InDNS]{Value: peers.InDNS{Addresses: found, For: f.waits.strangers(len(found) > 0, time.Now())}}
}

// overdue returns an error when DNS has held up a founding for as long as it may.
func overdue(o peers.Observation) error {
	if dns := o.DNS.Value; len(dns.Addresses) == 0 || dns.For < o.ClaimTimeout {
		return nil
	}
	return errors.New("they do not agree")
}

// lostSession is a claim whose session is gone, and since when, by this node's own clock;
// id is "" while the session of the last claim seen lives.
type lostSession struct {
	id    string // claim and session
	since time.Time
}

// saw takes one look at the claim's session and returns for how long it has been gone.
func (l *lostSession) saw(r peers.Record, gone bool, now time.Time) time.Duration {
	id := r.Claim + "/" + r.Session
	switch {
	case !gone:
		*l = lostSession{}
		return 0
	case l.id != id:
		*l = lostSession{id, now}
	}
	return now.Sub(l.since)
}

// sessionGone measures for how long the session in another's claim has been gone.
func (f *formation) sessionGone(ctx context.Context, client *api.Client, r peers.Record) peers.Seen[time.Duration] {
	gone, err := peers.SessionGone(ctx, client, r.Session)
	if err != nil {
		return peers.Seen[time.Duration]{Err: err}
	}
	return peers.Seen[time.Duration]{Value: f.waits.lost.saw(r, gone, time.Now())}
}
