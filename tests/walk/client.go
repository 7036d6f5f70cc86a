package walk

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"rmq-entrypoint/internal/policy"
	"rmq-entrypoint/peers"
)

// What a process may ask and tell Consul, in the steps in which package peers and package
// lock do it.

// errCut: an event came before the answer.
var errCut = errors.New("cut short")

// call is one question or deed. On its way there and back the container may die or freeze,
// and its answer may be lost.
func (p *proc) call(what string, least, most float64, do func() error) error {
	w := p.w
	d := w.seconds(least, most)
	if w.chance(w.rates.slow) {
		d += w.seconds(0, 3)
	}
	tooLate := p.deadline > 0 && w.clock.now+d > p.deadline
	if tooLate {
		d = max(0, p.deadline-w.clock.now)
	}
	if !p.cut || p.whole {
		p.pause(d)
	}
	p.fate("before " + what)
	switch {
	case p.cut && !p.whole:
		if w.chance(0.5) {
			_ = do()
			p.alive()
		}
		return errCut
	case tooLate:
		return errTimeout
	}
	err := do()
	p.alive()
	p.fate("after " + what)
	if err == nil && w.chance(w.rates.lose) {
		return errLost
	}
	return err
}

// fate is what may come between two steps.
func (p *proc) fate(at string) {
	w, n := p.w, p.box.node
	switch {
	case w.chance(w.rates.crash):
		w.say(n.who, "** killed %s of the %s", at, p.name)
		p.box.die()
		p.alive()
	case w.chance(w.rates.freeze):
		n.frozen = w.clock.now + w.seconds(1, 45)
		w.say(n.who, "** frozen %s of the %s for %s", at, p.name, n.frozen-w.clock.now)
		w.law.deaf(n)
		p.pause(n.frozen - w.clock.now)
	}
}

// hot is where a crash is likely to matter.
func (p *proc) hot(at string) {
	if p.w.chance(p.w.rates.hot) {
		p.w.say(p.box.node.who, "** killed %s", at)
		p.box.die()
		p.alive()
	}
}

// ask is one call to Consul. What needs its servers fails without a leader.
func (p *proc) ask(what string, servers bool, do func()) error {
	w, n := p.w, p.box.node
	outage := func() error {
		switch {
		case n.cut > w.clock.now, n.agent.down > w.clock.now:
			return errRefused
		case servers && w.consul.leaderless():
			return errAway
		case n.refused(what):
			w.law.does("was refused for its token")
			return errDenied
		}
		return nil
	}
	if n.cut > w.clock.now && !n.refuse && !p.cut { // nothing answers
		wait := 4 * time.Second
		if p.deadline > 0 {
			wait = min(wait, max(0, p.deadline-w.clock.now))
		}
		p.pause(wait)
	}
	done := false
	err := p.call(what, 0.001, 0.01, func() error {
		if err := outage(); err != nil {
			return err
		}
		do()
		done = true
		return nil
	})
	if (err == errCut || err == errTimeout) && !done && late[what] && w.chance(w.rates.late) {
		w.say(n.who, "** %s was given up, and arrives late", what)
		w.after(w.seconds(0, 5), func() {
			if outage() == nil {
				do()
			}
		})
	}
	return err
}

// late are the requests that are tried in vain and may arrive all the same.
var late = map[string]bool{"writing the record": true, "registering": true, "deregistering": true}

func (p *proc) readRecord() (r peers.Record, index uint64, err error) {
	c := p.w.consul
	err = p.ask("reading the record", true, func() { r, index = c.record, c.at })
	if err != nil {
		return peers.Record{}, 0, err
	}
	if r.Members == nil {
		r.Members = map[string]string{}
	}
	return r, index, nil
}

// writeRecord is [peers.WriteRecord]: when the answer is lost the record is read again.
func (p *proc) writeRecord(r peers.Record, index uint64, session string) (ok bool, err error) {
	c := p.w.consul
	r.Revision = p.w.id()
	err = p.ask("writing the record", true, func() { ok = c.put(p.box.node.who, r, index, session) })
	if err == nil {
		return ok, nil
	}
	now, _, rerr := p.readRecord()
	switch {
	case rerr != nil:
		return false, rerr
	case now.Revision == r.Revision:
		return true, nil
	}
	return false, err
}

// entries are all in the catalog, with what the agent in use knows of its own.
func (p *proc) entries() (all []peers.Peer, err error) {
	c, n, a := p.w.consul, p.box.node, p.box.node.agent
	var hides error
	if err = p.ask("reading the catalog", true, func() { all, hides = filtered(n, c.catalog(), rights, sight) }); err != nil || hides != nil {
		return nil, cmp.Or(err, hides)
	}
	if !slices.ContainsFunc(all, func(p peers.Peer) bool { return !p.Passing && p.Beating && !p.AgentFailed }) {
		return all, nil
	}
	err = p.ask("reading the agent's checks", false, func() {
		all = slices.Clone(all)
		if n.lacks(rights) {
			return
		}
		for i := range all {
			if e := find(a.has, all[i].Node); all[i].Agent == a.name && e != nil && e.silent {
				all[i].Beating = false
			}
		}
	})
	return all, err
}

func (p *proc) atAgent(node string) (found *peers.Peer, err error) {
	n, a := p.box.node, p.box.node.agent
	err = p.ask("reading the agent", false, func() {
		if e := find(a.has, node); e != nil && !n.lacks(rights) { // whether that is filtered nobody asks
			at := e.peer(a)
			at.AgentFailed = false
			found = &at
		}
	})
	return found, err
}

// own and mayTake are those of package peers.
func own(r peers.Registration, p peers.Peer) bool {
	return p.Boot == r.Boot || r.Volume != "" && p.Volume == r.Volume
}

func mayTake(r peers.Registration, p peers.Peer, s peers.Standing) bool {
	switch {
	case p.Boot == r.Boot, p.Lapsed(), p.AgentFailed:
		return true
	case s == peers.Serving:
		return own(r, p) || !p.Passing
	case s == peers.Starting:
		return p.Volume == "" || own(r, p)
	}
	return own(r, p) && !p.Passing
}

func (p *proc) namesakes(r peers.Registration, all []peers.Peer) (found []peers.Peer, err error) {
	here, err := p.atAgent(r.Node)
	if err != nil {
		return nil, err
	}
	if here != nil {
		found = append(found, *here)
	}
	for _, other := range all {
		switch {
		case other.Node != r.Node:
		case here != nil && other.Agent == here.Agent && other.Boot == here.Boot:
		default:
			found = append(found, other)
		}
	}
	return slices.DeleteFunc(found, func(p peers.Peer) bool { return p.Boot == r.Boot }), nil
}

func (p *proc) nameFree(r peers.Registration, s peers.Standing) error {
	all, err := p.entries()
	if err != nil {
		return err
	}
	found, err := p.namesakes(r, all)
	if err != nil {
		return err
	}
	for _, other := range found {
		if !mayTake(r, other, s) {
			return &peers.NameTakenError{Peer: other}
		}
	}
	return nil
}

func nameTaken(err error) bool { return errors.As(err, new(*peers.NameTakenError)) }

func (p *proc) announce(r peers.Registration, s peers.Standing) error {
	if err := p.nameFree(r, s); err != nil {
		return err
	}
	if at, err := p.atAgent(r.Node); err != nil {
		return err
	} else if at != nil {
		if err := p.deregister(r.Node); err != nil {
			return err
		}
	}
	return p.register(r)
}

func (p *proc) enter(r peers.Registration) error {
	at, err := p.atAgent(r.Node)
	if err != nil {
		return err
	}
	if at == nil || at.Boot != r.Boot {
		return p.announce(r, peers.Serving)
	}
	return p.register(r)
}

func (p *proc) register(r peers.Registration) error {
	return p.ask("registering", false, func() { p.w.consul.register(p.box.node.agent, r) })
}

func (p *proc) deregister(node string) error {
	c, a := p.w.consul, p.box.node.agent
	return p.ask("deregistering", false, func() { c.remove(a, node); c.sync(a, node) })
}

func (p *proc) withdraw(r peers.Registration) error {
	switch at, err := p.atAgent(r.Node); {
	case err != nil:
		return err
	case at == nil, at.Boot != r.Boot:
		return nil
	}
	return p.deregister(r.Node)
}

func (p *proc) bury(r peers.Registration, s peers.Standing) (boot string, err error) {
	at, err := p.atAgent(r.Node)
	if err != nil || at == nil || !mayTake(r, *at, s) {
		return "", err
	}
	return at.Boot, p.deregister(r.Node)
}

// report sets the check of the registration. [peers.ErrUnregistered]: there is none.
func (p *proc) report(r peers.Registration, status string) error {
	c, a := p.w.consul, p.box.node.agent
	known := false
	err := p.ask("reporting "+status, false, func() {
		e := find(a.has, r.Node)
		if known = e != nil && e.reg.Boot == r.Boot; !known {
			return
		}
		p.w.law.told(p, e, status)
		c.restart(a, e)
		if e.silent || e.status != status {
			e.silent, e.status = false, status
			c.sync(a, r.Node)
			c.cache = nil
			p.w.say("consul", "%s reports %s", p.box.node.who, status)
		}
	})
	if err == nil && !known {
		return peers.ErrUnregistered
	}
	return err
}

var errHeld = errors.New("another node holds the lock")

// acquire takes the lock, or gives up when others hold it for longer than patience.
func (p *proc) acquire(patience time.Duration) (id string, err error) {
	c, w := p.w.consul, p.w
	end := w.clock.now + 15*time.Second
	var s *session
	for s == nil {
		if err := p.ask("opening a session", true, func() { s = c.open() }); err != nil {
			s = nil // a stray one ends with its TTL
			if w.clock.now > end || denied(err) {
				return "", err
			}
			p.pause(500 * time.Millisecond)
		}
	}
	for held := time.Duration(0); ; {
		got, gone := false, false
		err := p.ask("taking the lock", true, func() {
			switch {
			case s.ended != 0:
				gone = true
			case c.holder == nil && c.shut <= w.clock.now:
				c.holder, got = s, true
			default:
				got = c.holder == s
			}
		})
		switch {
		case err == nil && got:
			return s.id, nil
		case gone:
			return "", policy.ErrNoAnswer
		case denied(err):
			p.release(s.id)
			return "", err
		case w.clock.now > end, err == nil && held > patience:
			p.release(s.id)
			return "", errHeld
		case err == nil && c.holder != nil:
			held += 500 * time.Millisecond
		}
		p.pause(500 * time.Millisecond)
	}
}

// release gives up the key, then destroys the session.
func (p *proc) release(id string) {
	c := p.w.consul
	_ = p.ask("releasing the lock", true, func() {
		if c.holder != nil && c.holder.id == id {
			c.holder = nil
		}
	})
	_ = p.ask("destroying a session", true, func() {
		if s := c.session(id); s != nil {
			c.destroy(s, true)
		}
	})
}

// renew reports whether the session still lives.
func (p *proc) renew(id string) (alive bool, err error) {
	c := p.w.consul
	err = p.ask("renewing a session", true, func() {
		if s := c.session(id); s != nil {
			c.renew(s)
			alive = true
		}
	})
	return alive, err
}
