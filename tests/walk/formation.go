package walk

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
)

// formation takes a blank node to a plan, as package formation does.
type formation struct {
	b         *box
	p         *proc
	rt        *started
	state     statedir.Found
	announced bool
	gone      string        // session of another's claim that was seen gone …
	goneFrom  time.Duration // since
	alive     string        // start of a namesake whose check has not lapsed …
	aliveFrom time.Duration
	buried    []string
	answered  time.Duration // since when Consul has answered …
	answer    time.Duration // and when it did last; 0: never
	failed    bool
	freedAt   time.Duration // 0: not
}

func (b *box) form(p *proc, state statedir.Found, rt *started) (plan, error) {
	f := &formation{b: b, p: p, rt: rt, state: state}
	deadline := p.w.clock.now + waitTimeout
	for why := "nothing yet"; ; {
		if p.w.clock.now > deadline {
			f.withdraw()
			return plan{}, fmt.Errorf("waited for %s", why)
		}
		o, index := f.observe()
		d := p.w.Choose(o)
		if err := errors.Join(o.Record.Err, o.Peers.Err); denied(err) && d.Action == peers.Wait {
			f.withdraw()
			return plan{}, err
		}
		if d.Action != peers.Wait {
			it, done, err := f.act(o, index, d)
			switch {
			case done:
				return it, nil
			case err == nil:
				continue
			case denied(err):
				f.withdraw()
				return plan{}, err
			}
			d = peers.Decision{Action: peers.Wait, Why: fmt.Sprintf("Consul or a peer to let it %s: %v", d.Action, err)}
		}
		why = d.Why
		b.waiting = why
		b.node.speaks(why)
		p.w.say(b.node.who, "waits for %s", why)
		p.pause(p.w.seconds(0.1, 2))
	}
}

func (f *formation) registration() peers.Registration {
	f.rt.volume = f.state.Volume
	return f.b.registration(f.rt)
}

func (f *formation) withdraw() {
	if f.announced {
		_ = f.p.withdraw(f.registration())
	}
}

// observe looks at everything once.
func (f *formation) observe() (o peers.Observation, index uint64) {
	n, p := f.b.node, f.p
	o.Me, o.ClaimTimeout, o.TTL, o.Volume = n.name, claimTimeout, ttl, f.state.Volume
	o.Record.Value, index, o.Record.Err = p.readRecord()
	var all []peers.Peer
	all, o.Peers.Err = p.entries()
	o.Answered = f.consulAnswers(o.Record.Known() && o.Peers.Known())
	if !o.Record.Known() || !o.Peers.Known() {
		return o, index
	}
	o.Peers.Value = peers.Others(all, n.name)
	f.lookForNamesakes(all, &o)
	defer f.buryGone(&o)
	on, listed := o.Record.Value.Members[n.name]
	o.Joining = f.state.Joining && listed && (on == "" || on == f.state.Volume)
	switch r := o.Record.Value; r.State {
	case peers.Forming:
		o.Claim = f.claimGone(r)
	case peers.Formed:
		f.ask(r, o.Peers.Value)
	}
	return o, index
}

func (f *formation) consulAnswers(ok bool) time.Duration {
	now := f.p.w.clock.now
	if !ok {
		f.failed = true
		return 0
	}
	if f.answer == 0 || f.failed && now-f.answer > ttl/3 {
		f.answered = now
	}
	f.answer, f.failed = now, false
	return now - f.answered
}

func (f *formation) buryGone(o *peers.Observation) {
	gone := o.Gone()
	for _, other := range o.Namesakes.Value {
		if other.Lapsed() && gone(other) {
			f.bury()
			return
		}
	}
}

func (f *formation) bury() {
	if boot, err := f.p.bury(f.registration(), peers.Blank); err == nil && boot != "" {
		f.buried = append(f.buried, boot)
	}
}

func (f *formation) lookForNamesakes(all []peers.Peer, o *peers.Observation) {
	reg, now := f.registration(), f.p.w.clock.now
	found, err := f.p.namesakes(reg, all)
	if err != nil {
		o.Namesakes.Err = err
		return
	}
	alive, lapsed := "", false
	for _, other := range found {
		earlier := reg.Volume != "" && other.Volume == reg.Volume
		switch {
		case slices.Contains(f.buried, other.Boot):
			lapsed = true
		case earlier:
			lapsed = true
			f.bury()
		case other.Lapsed():
			lapsed = true
			o.Namesakes.Value = append(o.Namesakes.Value, other)
		default:
			o.Namesakes.Value = append(o.Namesakes.Value, other)
			alive = other.Boot + other.ID
		}
	}
	if alive != f.alive {
		f.freedAt = 0
		if alive == "" && !lapsed {
			f.freedAt = now
		}
		f.alive, f.aliveFrom = alive, now
	}
	if f.freedAt != 0 {
		o.Freed = max(1, f.p.w.clock.now-f.freedAt)
	}
	if alive != "" {
		o.Beating = f.p.w.clock.now - f.aliveFrom
	}
}

func (f *formation) claimGone(r peers.Record) peers.Seen[time.Duration] {
	id, alive := r.Claim+"/"+r.Session, false
	if r.Session != "" {
		n := f.b.node
		err := f.p.ask("reading a session", true, func() {
			alive = f.p.w.consul.session(r.Session) != nil && !(n.lacks(rights) && n.token.silent) // one that is filtered is there
		})
		if err != nil {
			return peers.Seen[time.Duration]{Err: err}
		}
	}
	switch {
	case alive:
		f.gone = ""
		return peers.Seen[time.Duration]{}
	case f.gone != id:
		f.gone, f.goneFrom = id, f.p.w.clock.now
	}
	return peers.Seen[time.Duration]{Value: f.p.w.clock.now - f.goneFrom}
}

// ask gets the view of a passing peer, whose answer speaks for all it sees running; or, where
// none answers, of the others.
func (f *formation) ask(r peers.Record, ps []peers.Peer) {
	var answer *peers.View
	var order []int
	for i := range ps {
		if ps[i].Passing {
			order = append(order, i)
		}
	}
	for i := range ps {
		if !ps[i].Passing && (f.state.Joining || ps[i].Alive()) {
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
		v, err := f.p.view(ps[i].Node)
		ps[i].View = peers.Seen[peers.View]{Value: v, Err: err}
		if err == nil && ps[i].Passing && v.ClusterID == r.ClusterID {
			answer = &v
		}
	}
	for i := range ps {
		switch {
		case answer != nil && slices.Contains(answer.Running, ps[i].Node):
			ps[i].View = peers.Seen[peers.View]{Value: *answer}
		case answer == nil && len(r.Members) == 0 && !ps[i].Alive() && !ps[i].Down:
			if _, err := f.p.view(ps[i].Node); err != nil {
				ps[i].Down = f.p.isDown(ps[i].Node)
			}
		}
	}
}

// view is rabbitmqctl's answer.
func (p *proc) view(name string) (v peers.View, err error) {
	err = p.call("asking "+name, 0.2, 0.6, func() error { v, err = p.w.view(p.box.node, name); return err })
	return v, err
}

// isDown asks who can tell that a registered node is positively down.
func (p *proc) isDown(name string) (down bool) {
	err := p.call("looking for "+name, 0.01, 0.1, func() error {
		n := p.box.node.reaches(name)
		down = n != nil && n.box == nil
		return nil
	})
	return err == nil && down
}

var errRegistered = errors.New("a node has registered meanwhile")

// act carries out d under the lock, if what was observed still holds.
func (f *formation) act(o peers.Observation, index uint64, d peers.Decision) (it plan, done bool, err error) {
	n, p, r := f.b.node, f.p, o.Record.Value
	f.b.releaseEarlier(p, r, f.state)
	session, err := p.acquire(3 * time.Second)
	if err != nil {
		return it, false, err
	}
	release := func() { p.release(session) }
	newer, now, err := p.readRecord()
	if err != nil {
		release()
		return it, false, err
	}
	if now != index { // changed while waiting for the lock: only another joiner is no reason to look again
		o.Record.Value, index, r = newer, now, newer
		if d.Action == peers.Join {
			d = p.w.Choose(o)
		}
		if d.Action != peers.Join {
			release()
			return it, false, nil
		}
	}
	if err := p.nameFree(f.registration(), peers.Blank); err != nil {
		release()
		return it, false, err
	}
	if f.state.Volume == "" {
		f.state.Volume = "v-" + p.w.id()[:8]
	}
	switch d.Action {
	case peers.Remove:
		removed := r.RemovedItself(n.name, f.state.Volume, p.now())
		if removed.Gone[n.name].Unjoined && !f.state.Failed && !f.state.Alone {
			f.b.volume.pend(statedir.Pending{Role: statedir.Joining, Claim: f.state.Claim, Volume: f.state.Volume, Failed: true})
			f.state.Failed, f.state.Joining = true, false
		}
		_, err = p.writeRecord(removed.By(n.name, n.name+", its volume blank, on host x"), index, "")
		release()
		return it, false, err
	case peers.Join:
		it, done, err = f.join(r, index, d)
		release()
		return it, done, err
	}
	if it, done, err = f.claim(r, index, session); !done {
		release()
	}
	return it, done, err
}

func (f *formation) claim(r peers.Record, index uint64, session string) (it plan, done bool, err error) {
	n, p := f.b.node, f.p
	all, err := p.entries()
	known := peers.Others(all, n.name)
	if err != nil || r.State == peers.Absent && len(known) > 0 || r.State == peers.Formed && slices.ContainsFunc(known, peers.Peer.Alive) {
		return it, false, cmp.Or(err, errRegistered)
	}
	claim := r.Claimed(n.name, f.state.Volume, session, p.now())
	f.pend(statedir.Seeding, claim.Claim)
	p.hot("before its claim")
	if ok, err := p.writeRecord(claim, index, session); err != nil || !ok {
		return it, false, err
	}
	p.hot("after its claim")
	return plan{role: statedir.Seeding, claim: claim.Claim, volume: f.state.Volume, lock: session, aside: !f.state.Alone}, true, nil
}

func (f *formation) join(r peers.Record, index uint64, d peers.Decision) (it plan, done bool, err error) {
	n, p := f.b.node, f.p
	f.pend(statedir.Joining, r.Claim)
	f.announced = true
	if err := p.announce(f.registration(), peers.Blank); err != nil {
		return it, false, err
	}
	heals := d.Named && p.w.rabbit.quirk
	if r.Members[n.name] != f.state.Volume {
		joins := r.Joins(n.name, f.state.Volume, p.now())
		if heals {
			joins = joins.Forgotten(n.name)
		}
		if ok, err := p.writeRecord(joins, index, ""); err != nil || !ok {
			return it, false, err
		}
		p.hot("after it put itself on record")
	}
	if heals {
		err := p.call("healing", 0.5, 1.5, func() error { return p.w.forget(n, d.Peers[0], n.name) })
		if err != nil {
			return it, false, err
		}
	}
	return plan{role: statedir.Joining, claim: r.Claim, volume: f.state.Volume, peers: d.Peers, aside: f.state.Failed}, true, nil
}

// pend writes what is about to be done to the volume, before anything can do it.
func (f *formation) pend(as statedir.Role, claim string) {
	if as == statedir.Joining && f.state.Alone {
		as = statedir.Alone
	}
	v := f.b.volume
	v.pend(statedir.Pending{
		Role: as, Claim: claim, Volume: f.state.Volume, Failed: as == statedir.Joining && f.state.Failed, Alone: as == statedir.Seeding && f.state.Alone,
	})
	v.marker, v.order, v.out = nil, nil, nil
}
