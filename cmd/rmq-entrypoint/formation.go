package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/lock"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// storyEvery is how often a waiting node repeats what it waits for.
const storyEvery = 10 * time.Second

// lockPatience is how long a node queues for the lock before it looks again: a
// holder that founds keeps it until its cluster is announced, and the record is
// the better thing to wait on.
const lockPatience = 3 * time.Second

// lockTimeout bounds taking the lock from a Consul that is slow: one that does
// not answer at all is to be left for the next address.
const lockTimeout = 15 * time.Second

// formation takes a blank node from "who is there?" to a plan: it observes,
// lets [peers.Decide] choose, and acts under the lock by compare-and-set. It
// waits without the lock, on blocking queries.
type formation struct {
	log    *slog.Logger
	cfg    config
	consul *consul
	dns    peers.DNS
	broker broker
	hosts  *hosts
	volume volume
	state  condition
	self   string                                 // own address as registered, once known
	heals  bool                                   // RabbitMQ refuses a wiped node under its old name until it is forgotten
	image  rabbitconf.Version                     // of this node's RabbitMQ; zero: not known, which refuses nobody
	say    func(waiting string)                   // keeps the reason where a health check finds it
	isDown func(context.Context, peers.Peer) bool // whether a registered node is positively down
	dial   func(ctx context.Context, network, address string) (net.Conn, error)
	decide func(peers.Observation) peers.Decision // nil: peers.Decide; another is the simulator's, to see it fail

	gone     string // session of another's claim that was seen gone …
	goneFrom time.Time

	reg       peers.Registration // as this start's entry would be
	announced bool               // it was made
	alive     string             // start of a namesake whose check has not lapsed …
	aliveFrom time.Time
	buried    []string  // starts whose entries this one removed; the catalog hears of it later
	freedAt   time.Time // when the last one left the name without having been silent for its TTL
	named     string    // foreign entries that the log has named
}

// plan is the decision carried out: what the server is started as.
type plan struct {
	role   role
	claim  string
	volume string
	peers  []string   // to join
	aside  bool       // what RabbitMQ left of an unfinished start is in the way
	lock   *lock.Lock // held on: by a seed, until its cluster is announced
}

// observation is what Decide sees, and what it takes to act on it.
type observation struct {
	peers.Observation
	record, catalog uint64 // indexes
}

// run returns the plan, or an error when ctx ended or the wait timeout passed.
func (f *formation) run(ctx context.Context) (p plan, err error) {
	deadline := time.Now().Add(f.cfg.WaitTimeout)
	told, toldAt := "", time.Time{}
	why, wayOut := "nothing yet", ""
	waited := func(err error) error {
		return fmt.Errorf("waited %s (--wait-timeout, RMQ_WAIT_TIMEOUT) for %w%s", f.cfg.WaitTimeout, err, wayOut)
	}
	outer := ctx
	defer func() {
		if err != nil {
			f.withdraw(outer)
		}
	}()
	ctx, cancel := context.WithDeadline(ctx, deadline) // also behind another's lock
	defer cancel()
	for {
		if outer.Err() != nil {
			return p, context.Cause(outer)
		}
		if ctx.Err() != nil {
			return p, waited(errors.New(why))
		}
		o := f.observe(ctx)
		if ctx.Err() != nil {
			continue
		}
		if err := errors.Join(o.Record.Err, o.Peers.Err); denied(err) {
			return p, err
		}
		if err := reachable(o.Observation); err != nil {
			return p, err
		}
		if err := f.cannotMix(o.Observation); err != nil { // before anything is said of this node in Consul
			return p, err
		}
		d := f.choose(o.Observation)
		wayOut = ""
		if r := o.Record.Value; d.Members {
			wayOut = fmt.Sprintf(": start them; if all of them are gone for good, rmq-entrypoint forget-cluster --cluster-id %s gives that cluster up, so that blank nodes found a new one", r.ClusterID)
		}
		if d.Action != peers.Wait {
			done, err := f.act(ctx, o, d, &p)
			if err != nil && outer.Err() == nil && ctx.Err() != nil {
				return p, waited(err)
			}
			if lock.Fatal(err) {
				err = fmt.Errorf("%w (CONSUL_HTTP_TOKEN, CONSUL_HTTP_TOKEN_FILE)", err)
			}
			if err != nil && (ctx.Err() != nil || denied(err)) {
				return p, err
			}
			if done {
				return p, nil
			}
			if err == nil {
				continue
			}
			d = peers.Decision{Action: peers.Wait, Why: fmt.Sprintf("Consul or a peer to let it %s: %v", d.Action, err)}
		}
		why = d.Why
		if why != told || time.Since(toldAt) >= storyEvery {
			f.say(why) // first: who reads the log may ask the health check next
			f.log.Info("waiting", "for", why, "exits_after", time.Until(deadline).Round(time.Second))
			told, toldAt = why, time.Now()
		}
		f.wait(ctx, o)
	}
}

func (f *formation) choose(o peers.Observation) peers.Decision {
	if f.decide != nil {
		return f.decide(o)
	}
	return peers.Decide(o)
}

// reachable refuses a cluster of a node whose host name every host takes for itself and of
// one on another host: neither could ever reach the other. Several such nodes are on one
// host.
func reachable(o peers.Observation) error {
	var there []string
	for _, p := range o.Peers.Value {
		if !p.Lapsed() {
			there = append(there, p.Node)
		}
	}
	for _, n := range append(there, o.Record.Value.Names()...) {
		const why = "a name that every host takes for itself, so that no node on another one can reach it"
		switch {
		case loopbackName(n) == loopbackName(o.Me):
		case loopbackName(o.Me):
			return fmt.Errorf("this node is %s, %s, and %s is in this service: give this container a host name (hostname: in Compose, docker run --hostname), or set RABBITMQ_NODENAME (--node)", o.Me, why, n)
		default:
			return fmt.Errorf("%s is in this service, %s, and this node is %s: stop that one, give its cluster up (rmq-entrypoint forget-cluster --cluster-id %s, if it is on record), and start it under a host name of its own with an empty volume; or give this one another service (--service, RMQ_SERVICE)", n, why, o.Me, cmp.Or(o.Record.Value.ClusterID, "ID"))
		}
	}
	return nil
}

// loopbackName reports whether every host takes the node's host name for itself.
func loopbackName(node string) bool {
	_, host, _ := strings.Cut(node, "@")
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	switch host {
	case "localhost", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback":
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback() || strings.HasPrefix(host, "localhost.") || strings.HasSuffix(host, ".localhost")
}

// observe looks at everything once. What cannot be read is unknown.
func (f *formation) observe(ctx context.Context) (o observation) {
	o.Me, o.ClaimTimeout, o.TTL, o.Volume = f.cfg.Node, f.cfg.ClaimTimeout, f.cfg.TTL, f.state.volume
	client, err := f.consul.use(ctx)
	if err != nil {
		o.Record.Err, o.Peers.Err = err, err
		return o
	}
	o.Record.Value, o.record, o.Record.Err = peers.ReadRecord(ctx, client, f.cfg.recordKey())
	var all []peers.Peer
	all, o.catalog, o.Peers.Err = peers.Entries(ctx, client, f.cfg.Service)
	f.consul.saw(errors.Join(o.Record.Err, o.Peers.Err))
	if !o.Record.Known() || !o.Peers.Known() {
		return o
	}
	o.Peers.Value = peers.Others(all, f.cfg.Node)
	f.lookForNamesakes(ctx, client, all, &o)
	if f.self == "" {
		if own, err := advertise(ctx, f.cfg, f.consul.addr); err == nil {
			f.self = net.JoinHostPort(own, strconv.Itoa(f.cfg.Port))
		}
	}
	// The vote that a cluster waits for is that of a join under way on the volume on record.
	on, listed := o.Record.Value.Members[f.cfg.Node]
	o.Joining = f.state.joining && listed && (on == "" || on == f.state.volume)
	if _, err := f.hosts.learn(o.Peers.Value); err != nil { // before they are asked
		f.log.Warn("cannot write the hosts file", "err", err)
	}
	f.nameForeign(ctx, all)
	switch r := o.Record.Value; r.State {
	case peers.Absent:
		o.DNS = f.strangersInDNS(ctx, all)
	case peers.Forming:
		o.Claim = f.claimGone(ctx, client, r)
	case peers.Formed:
		f.ask(ctx, r, o.Peers.Value)
	}
	return o
}

// lookForNamesakes finds those that have this node's name, and since when one of them
// has been seen whose check does not lapse. An entry that did is removed: it was an earlier
// container's, and would be in the way of others.
func (f *formation) lookForNamesakes(ctx context.Context, client *api.Client, all []peers.Peer, o *observation) {
	reg := f.registration()
	found, err := peers.Namesakes(ctx, client, reg, all)
	if err != nil {
		o.Namesakes.Err = err
		return
	}
	alive, lapsed := "", false
	for _, p := range found {
		earlier := reg.Volume != "" && p.Volume == reg.Volume
		switch {
		case slices.Contains(f.buried, p.Boot):
			lapsed = true
		case earlier || p.Lapsed(): // of this volume, or silent for its TTL
			lapsed = true
			if boot, err := peers.Bury(ctx, client, reg, peers.Blank); err != nil {
				f.log.Warn("cannot remove this node's earlier registration", "err", err)
			} else if boot != "" {
				f.buried = append(f.buried, boot)
			}
		default:
			o.Namesakes.Value = append(o.Namesakes.Value, p)
			alive = p.Boot + p.ID
		}
	}
	if alive != f.alive {
		f.freedAt = time.Time{}
		if alive == "" && !lapsed {
			f.freedAt = time.Now()
		}
		f.alive, f.aliveFrom = alive, time.Now()
	}
	if !f.freedAt.IsZero() {
		o.Freed = max(1, time.Since(f.freedAt))
	}
	if alive != "" {
		o.Beating = time.Since(f.aliveFrom)
	}
}

// registration is this start's entry, on the volume as it is named by now.
func (f *formation) registration() peers.Registration {
	reg := f.reg
	reg.Volume = f.state.volume
	return reg
}

// nameForeign says once which entries of the service's name speak for no node: they
// stop nobody, and are in the way of those who look the service up.
func (f *formation) nameForeign(ctx context.Context, all []peers.Peer) {
	var named []string
	for _, p := range all {
		if p.Foreign() {
			named = append(named, p.ID)
		}
	}
	text := strings.Join(named, ",")
	if text == f.named {
		return
	}
	f.named = text
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second) // for all of them: nobody waits for these
	defer cancel()
	for _, p := range all {
		host, _, _ := net.SplitHostPort(p.Address)
		own, _, _ := net.SplitHostPort(f.self)
		switch {
		case !p.Foreign():
		case own != "" && host == own:
			f.log.Info("an entry of this service at this node's own address, made by something else (a scheduler?), counts for nothing", "id", p.ID, "address", p.Address)
		default:
			f.log.Warn("an entry of this service was made by no RabbitMQ node and counts for nothing: if it is not meant to be there, remove it from its agent",
				"id", p.ID, "address", p.Address, "answers", f.answers(ctx, p.Address), "agent", p.Agent, "remove", "consul services deregister -id="+p.ID)
		}
	}
}

// answers says what a connection to address ends in.
func (f *formation) answers(ctx context.Context, address string) string {
	conn, err := f.dial(ctx, "tcp", address)
	if err != nil {
		return err.Error()
	}
	_ = conn.Close()
	return "takes connections"
}

// strangersInDNS returns the addresses that DNS gives and nobody else knows. DNS
// failing is said and blocks nothing: it only ever adds caution.
func (f *formation) strangersInDNS(ctx context.Context, known []peers.Peer) peers.Seen[[]string] {
	found, err := peers.Lookup(ctx, f.dns, f.cfg.Service)
	if err != nil {
		f.log.Warn("DNS does not answer, going by the catalog alone", "err", err)
		return peers.Seen[[]string]{Err: err}
	}
	if slices.ContainsFunc(known, func(p peers.Peer) bool {
		host, _, _ := net.SplitHostPort(p.Address)
		return p.Foreign() && net.ParseIP(host) == nil
	}) {
		found = nil // whose name is behind which address cannot be told, and DNS only ever adds caution
	}
	found = slices.DeleteFunc(found, func(a string) bool {
		return a == f.self || slices.ContainsFunc(known, func(p peers.Peer) bool { return p.Address == a })
	})
	return peers.Seen[[]string]{Value: found}
}

// claimGone measures, on this node's own clock, for how long the session in
// another's claim has been gone.
func (f *formation) claimGone(ctx context.Context, client *api.Client, r peers.Record) peers.Seen[time.Duration] {
	id := r.Claim + "/" + r.Session
	gone, err := peers.SessionGone(ctx, client, r.Session)
	switch {
	case err != nil:
		return peers.Seen[time.Duration]{Err: err}
	case !gone:
		f.gone = ""
		return peers.Seen[time.Duration]{}
	case f.gone != id:
		f.gone, f.goneFrom = id, time.Now()
	}
	return peers.Seen[time.Duration]{Value: time.Since(f.goneFrom)}
}

// ask gets the view of a passing peer, whose answer speaks for all it sees
// running. Where none answers the others are asked, too: one that does not serve may see
// this node's name run, and a half-joined one may be waiting for exactly its vote.
func (f *formation) ask(ctx context.Context, r peers.Record, ps []peers.Peer) {
	var answer *peers.View
	var order []int // those that pass first: one answer of theirs is enough
	for i := range ps {
		if ps[i].Passing {
			order = append(order, i)
		}
	}
	for i := range ps {
		if !ps[i].Passing && (f.state.joining || ps[i].Alive()) {
			order = append(order, i)
		}
	}
	for _, i := range order {
		if answer != nil {
			break
		}
		if _, on := r.Members[ps[i].Node]; !on && ps[i].ClusterID != r.ClusterID {
			continue
		}
		v, err := f.broker.view(ctx, ps[i].Node)
		ps[i].View = peers.Seen[peers.View]{Value: v, Err: err}
		if err == nil && ps[i].Passing && v.ClusterID == r.ClusterID {
			answer = &v
		}
	}
	if answer == nil {
		f.askWhoIsNotOnRecord(ctx, r, ps)
		return
	}
	for i := range ps {
		if slices.Contains(answer.Running, ps[i].Node) {
			ps[i].View = peers.Seen[peers.View]{Value: *answer}
		}
	}
}

// askWhoIsNotOnRecord finds out which of the registered nodes, none of which is on
// record any more, positively do not run: before a founding, that is, which the others
// hold up.
func (f *formation) askWhoIsNotOnRecord(ctx context.Context, r peers.Record, ps []peers.Peer) {
	if len(r.Members) > 0 {
		return
	}
	for i := range ps {
		if ps[i].Alive() || ps[i].Down {
			continue
		}
		if _, err := f.broker.view(ctx, ps[i].Node); err != nil {
			ps[i].Down = f.isDown(ctx, ps[i])
		}
	}
}

// act carries out d if what was observed still holds once the lock is held, and
// reports whether the plan is made.
func (f *formation) act(ctx context.Context, o observation, d peers.Decision, p *plan) (done bool, err error) {
	client, err := f.consul.use(ctx)
	if err != nil {
		return false, err
	}
	r := o.Record.Value
	soon, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	releaseEarlier(soon, f.log, client, r, f.cfg, f.state)
	f.say("the lock " + f.cfg.lockKey())
	l, err := lock.Acquire(soon, client, f.lock())
	if err != nil {
		return false, err
	}
	defer func() {
		if !done || d.Action != peers.Claim {
			err = errors.Join(err, l.Release(ctx))
		}
	}()
	newer, index, err := peers.ReadRecord(ctx, client, f.cfg.recordKey())
	if err != nil {
		return false, err
	}
	if index != o.record { // changed while waiting for the lock: look again, unless another joiner was all that changed
		o.Record.Value, o.record, r = newer, index, newer
		if d.Action != peers.Join {
			return false, nil
		}
		if d = f.choose(o.Observation); d.Action != peers.Join {
			return false, nil
		}
	}
	if err := peers.NameFree(ctx, client, f.registration(), peers.Blank); err != nil { // somebody of this name came back meanwhile
		return false, err
	}
	if f.state.volume == "" {
		f.state.volume = peers.NewID()
	}
	now := time.Now()
	switch d.Action {
	case peers.Strike:
		f.log.Warn("taking this node off the record: its volume is blank", "cluster", r.ClusterID, "members_left", strings.Join(r.Without(f.cfg.Node, "", now).Names(), ","))
		struck := r.Struck(f.cfg.Node, f.state.volume, now)
		if struck.Gone[f.cfg.Node].Unjoined && !f.state.failed && !f.state.alone {
			// First on the volume: what is left of that join is no part of the next one.
			if err := f.volume.writePending(pendingFile{Role: joining, Claim: f.state.claim, Volume: f.state.volume, Failed: true}); err != nil {
				return false, err
			}
			f.state.failed, f.state.joining = true, false
		}
		struck = struck.By(f.cfg.Node, onHost(f.cfg.Node+", its volume blank,"))
		_, err := peers.WriteRecord(ctx, client, f.cfg.recordKey(), struck, o.record, "", "")
		return false, err
	case peers.Join:
		return f.join(ctx, client, o, d, p)
	}
	known, _, err := peers.Catalog(ctx, client, f.cfg.Service, f.cfg.Node)
	if err != nil || r.State == peers.Absent && len(known) > 0 || r.State == peers.Formed && slices.ContainsFunc(known, peers.Peer.Alive) {
		return false, cmp.Or(err, errRegistered)
	}
	claim := r.Claimed(f.cfg.Node, f.state.volume, l.Session(), now)
	if err := f.pend(seeding, claim.Claim); err != nil {
		return false, err
	}
	if ok, err := peers.WriteRecord(ctx, client, f.cfg.recordKey(), claim, o.record, f.cfg.lockKey(), l.Session()); err != nil || !ok {
		return false, err
	}
	if r.State == peers.Formed {
		why, by := "all recorded volumes came up blank; if they were only not mounted: stop all nodes, mount them, delete the key in Consul, start them", ""
		for _, n := range goneNames(r) {
			if g := r.Gone[n]; g.Another(n) {
				why, by = "the cluster on record was given up; to have it back all the same: stop all nodes, delete the key in Consul, start those that have its data", g.By
			}
		}
		f.log.Warn("FOUNDING ANEW: "+why, "key", f.cfg.recordKey(), "lost_cluster", r.ClusterID, "gone", strings.Join(goneNames(r), ","), "given_up_by", by)
	}
	f.log.Info("founding the cluster", "why", d.Why, "claim", claim.Claim)
	*p = plan{role: seeding, claim: claim.Claim, volume: f.state.volume, lock: l, aside: !f.state.alone} // alone it goes on with what it founded
	return true, nil
}

var errRegistered = errors.New("a node has registered meanwhile")

// releaseEarlier releases the lock of this node's own earlier start, which founded and
// has ended: nobody renews its session any more. The volume proves that it was this
// node's, so it need not expire before others can join.
func releaseEarlier(ctx context.Context, log *slog.Logger, client *api.Client, r peers.Record, cfg config, state condition) {
	if r.State != peers.Forming || r.Seed != cfg.Node || r.Claim != state.claim || r.Session == "" {
		return
	}
	if old, err := lock.Adopt(ctx, client, r.Session, lockOptions(cfg, log)); err == nil && old.Release(ctx) == nil {
		log.Info("released the lock of this node's earlier start", "session", r.Session)
	}
}

// announce registers the node before it goes on record and lets go of the lock: the next
// one of its name that takes the lock sees it.
func (f *formation) announce(ctx context.Context, client *api.Client) error {
	reg := f.registration()
	var err error
	if reg.Address, err = advertise(ctx, f.cfg, f.consul.addr); err != nil {
		return err
	}
	f.announced = true
	return peers.Announce(ctx, client, reg, peers.Blank, "about to join")
}

// withdraw takes that back when nothing comes of it.
func (f *formation) withdraw(ctx context.Context) {
	if !f.announced || f.consul.client == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := peers.Withdraw(ctx, f.consul.client, f.registration()); err != nil {
		f.log.Warn("cannot deregister, the TTL will tell", "err", err)
	}
}

// join puts this node on the record, heals what would keep it out, and plans
// the join. From here on the record says that this volume may hold data.
func (f *formation) join(ctx context.Context, client *api.Client, o observation, d peers.Decision, p *plan) (bool, error) {
	r := o.Record.Value
	if err := f.pend(joining, r.Claim); err != nil {
		return false, err
	}
	if err := f.announce(ctx, client); err != nil {
		return false, err
	}
	if r.Members[f.cfg.Node] != f.state.volume {
		joins := r.Joins(f.cfg.Node, f.state.volume, time.Now())
		if d.Named && f.heals { // what the cluster forgets cannot come back
			joins = joins.Forgotten(f.cfg.Node)
		}
		if ok, err := peers.WriteRecord(ctx, client, f.cfg.recordKey(), joins, o.record, "", ""); err != nil || !ok {
			return false, err
		}
	}
	if d.Named && f.heals {
		f.log.Info("a blank node under a known name: making the cluster forget its earlier volume", "peer", d.Peers[0])
		if err := f.broker.forget(ctx, d.Peers[0], f.cfg.Node); err != nil {
			return false, fmt.Errorf("forget this node's earlier volume at %s: %w", d.Peers[0], err)
		}
	}
	f.log.Info("joining the cluster", "why", d.Why, "cluster", r.ClusterID, "peers", strings.Join(d.Peers, ","))
	*p = plan{role: joining, claim: r.Claim, volume: f.state.volume, peers: d.Peers, aside: f.state.failed}
	return true, nil
}

// pend writes what is about to be done to the volume, before anything can do it.
// What a node that came up alone holds stays known as such until it has joined.
func (f *formation) pend(as role, claim string) error {
	if as == joining && f.state.alone {
		as = alone
	}
	pending := pendingFile{Role: as, Claim: claim, Volume: f.state.volume, Failed: as == joining && f.state.failed} // until that is out of the way
	if err := f.volume.writePending(pending); err != nil {
		return err
	}
	// What an earlier life of this blank volume left would speak for it.
	return errors.Join(f.volume.remove("member"), f.volume.remove("carry-on"), f.volume.remove("out"))
}

// wait returns when something has changed that could change the decision.
func (f *formation) wait(ctx context.Context, o observation) {
	client, err := f.consul.use(ctx)
	if err != nil || !o.Record.Known() || !o.Peers.Known() {
		pause(ctx, time.Second)
		return
	}
	most := 2 * time.Second // a dead claim, a free lock, a peer that may answer now: nothing to block on
	if o.Record.Value.State == peers.Formed && len(o.Peers.Value)+len(o.Namesakes.Value) == 0 && o.Freed == 0 {
		most = storyEvery
	}
	peers.Changed(ctx, client, f.cfg.recordKey(), o.record, f.cfg.Service, o.catalog, most)
}

func (f *formation) lock() lock.Options {
	o := lockOptions(f.cfg, f.log)
	o.Patience = lockPatience
	return o
}

func goneNames(r peers.Record) (names []string) {
	for n := range r.Gone {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// pause waits for d, or less when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
