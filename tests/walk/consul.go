package walk

import (
	"errors"
	"slices"
	"strings"
	"time"

	"rmq-entrypoint/internal/policy"
	"rmq-entrypoint/peers"
)

// consul is a linearizable store of one record, one lock and sessions, the agents, and the
// catalog, which follows the agents.
type consul struct {
	w        *World
	index    uint64
	record   peers.Record
	at       uint64 // index of the record; 0: there is none
	holder   *session
	shut     time.Duration // the lock's key, until
	sessions []*session
	agents   []*agent
	away     time.Duration // no leader until
	wiped    time.Duration // when it lost its data; 0: never
	cache    []peers.Peer  // the catalog as it is; nil: not looked at
}

type session struct {
	id    string
	turn  uint64
	ended time.Duration // 0: it lives
}

// agent is one Consul agent, and what the servers know of it.
type agent struct {
	name   string
	down   time.Duration // until
	failed bool          // and the servers have noticed
	has    []*entry
	listed []*entry // in the catalog
}

// entry is one registration and its check. In the catalog it is a copy.
type entry struct {
	reg      peers.Registration
	status   string
	silent   bool // for its TTL
	silentAt time.Duration
	turn     uint64
	since    time.Duration // in the catalog
}

var (
	errAway    = errors.New("no cluster leader")
	errRefused = errors.New("connection refused")
	errLost    = errors.New("the answer was lost")
	errTimeout = errors.New("no answer in time")
)

func find(es []*entry, node string) *entry {
	for _, e := range es {
		if e.reg.Node == node {
			return e
		}
	}
	return nil
}

func (c *consul) change() uint64 { c.index++; return c.index }

func (c *consul) leaderless() bool { return c.away > c.w.clock.now }

// lose is the end of all that Consul knew.
func (c *consul) lose() {
	c.w.say("consul", "** Consul lost its data")
	for _, s := range c.sessions {
		s.ended = max(1, c.w.clock.now)
	}
	c.record, c.at, c.holder, c.shut, c.sessions, c.cache = peers.Record{}, 0, nil, 0, nil, nil
	for _, a := range c.agents {
		for _, e := range a.has {
			e.turn++
		}
		a.has, a.listed = nil, nil
	}
	c.wiped = c.w.clock.now
	c.change()
	for _, n := range c.w.nodes {
		if n.box != nil && n.box.companion != nil {
			n.box.companion.hears()
		}
	}
}

// put writes the record by compare-and-set.
func (c *consul) put(by string, r peers.Record, index uint64, s string) bool {
	if index != c.at || s != "" && (c.holder == nil || c.holder.id != s) {
		c.w.say("consul", "refused a write by %s: index %d, at %d", by, index, c.at)
		return false
	}
	was := c.record
	c.record, c.at = r, c.change()
	c.w.law.wrote(by, was, r)
	return true
}

func (c *consul) open() *session {
	s := &session{id: c.w.id()}
	c.sessions = append(c.sessions, s)
	c.renew(s)
	return s
}

// renew gives a session its TTL, and up to as long again.
func (c *consul) renew(s *session) {
	s.turn++
	turn := s.turn
	c.w.after(ttl+time.Duration(c.w.rand.Float64()*float64(ttl)), func() {
		if s.turn == turn && s.ended == 0 {
			c.w.say("consul", "a session expired")
			c.destroy(s, true)
		}
	})
}

// destroy ends a session. A lock that it held is closed for a moment, unless it was given up.
func (c *consul) destroy(s *session, delay bool) {
	if s.ended != 0 {
		return
	}
	s.ended = max(1, c.w.clock.now)
	c.w.law.over(s.id)
	c.sessions = slices.DeleteFunc(c.sessions, func(x *session) bool { return x == s })
	if c.holder == s {
		c.holder = nil
		if delay {
			c.shut = c.w.clock.now + lockDelay
		}
	}
}

func (c *consul) session(id string) *session {
	for _, s := range c.sessions {
		if s.id == id {
			return s
		}
	}
	return nil
}

// register puts an entry with the agent; over another start's its status is kept, as Consul
// keeps it.
func (c *consul) register(a *agent, r peers.Registration) {
	e := &entry{reg: r, status: policy.Critical}
	if old := find(a.has, r.Node); old != nil {
		if old.reg.Boot == r.Boot {
			e.status, e.silent, e.silentAt = old.status, old.silent, old.silentAt
		}
		c.remove(a, r.Node)
	}
	a.has = append(a.has, e)
	slices.SortFunc(a.has, func(x, y *entry) int { return strings.Compare(x.reg.Node, y.reg.Node) })
	c.restart(a, e)
	c.sync(a, r.Node)
}

func (c *consul) remove(a *agent, node string) {
	a.has = slices.DeleteFunc(a.has, func(e *entry) bool {
		if e.reg.Node == node {
			e.turn++
		}
		return e.reg.Node == node
	})
}

// restart restarts the TTL of an entry's check.
func (c *consul) restart(a *agent, e *entry) {
	e.turn++
	turn := e.turn
	c.w.after(ttl, func() {
		if e.turn != turn {
			return
		}
		e.silent, e.silentAt = true, c.w.clock.now
		c.w.say("consul", "the check of %s at %s lapsed", e.reg.Node, a.name)
		c.cache = nil
		if e.status != policy.Critical { // of one that was, the catalog hears only minutes later: never, here
			e.status = policy.Critical
			c.sync(a, e.reg.Node)
		}
		c.w.after(deregister+c.w.seconds(0, 30), func() { c.reap(a, e, turn) })
	})
}

// reap removes an entry that has been critical for long.
func (c *consul) reap(a *agent, e *entry, turn uint64) {
	switch {
	case e.turn != turn || !e.silent:
	case a.down > c.w.clock.now:
		c.w.after(time.Minute, func() { c.reap(a, e, turn) })
	default:
		c.w.say("consul", "the entry of %s at %s is removed", e.reg.Node, a.name)
		c.remove(a, e.reg.Node)
		c.sync(a, e.reg.Node)
	}
}

// sync brings one entry of the agent into the catalog, a little later.
func (c *consul) sync(a *agent, node string) {
	lag := c.w.seconds(0, 0.1)
	if c.w.chance(0.05) {
		lag += c.w.seconds(0, 3)
	}
	c.bring(a, node, lag)
}

// fullSync is after how long at most an agent tries again what it may not bring into the catalog: on
// 1.22 it did so within 51, 55 and 63 s of when it might again.
const fullSync = 70 * time.Second

func (c *consul) bring(a *agent, node string, lag time.Duration) {
	c.w.after(lag, func() {
		switch {
		case c.leaderless() || a.down > c.w.clock.now:
			c.sync(a, node)
			return
		case c.w.blocked(a, node):
			c.bring(a, node, c.w.seconds(0, fullSync.Seconds()))
			return
		}
		was := find(a.listed, node)
		a.listed = slices.DeleteFunc(slices.Clone(a.listed), func(e *entry) bool { return e.reg.Node == node })
		if e := find(a.has, node); e != nil {
			told := *e
			if told.since = c.w.clock.now; was != nil && was.reg.Boot == e.reg.Boot {
				told.since = was.since
			}
			a.listed = append(a.listed, &told)
		}
		c.cache = nil
		c.change()
	})
}

// fail is the end of an agent for a while, and perhaps of its data. Its servers notice.
func (c *consul) fail(a *agent, d time.Duration, lost bool) {
	c.w.say("consul", "** agent %s is down for %s, its data lost: %t", a.name, d, lost)
	a.down = c.w.clock.now + d
	c.w.after(min(d, c.w.seconds(2, 10)), func() {
		if a.down > c.w.clock.now {
			a.failed, c.cache = true, nil
		}
	})
	c.w.after(d, func() {
		a.failed, c.cache = false, nil
		if lost {
			for _, e := range a.has {
				e.turn++
			}
			a.has = nil
		}
		for _, e := range slices.Clone(a.listed) {
			c.sync(a, e.reg.Node)
		}
		for _, e := range a.has {
			c.sync(a, e.reg.Node)
		}
	})
}

// catalog is what Consul's leader knows. Whoever gets it leaves it as it is.
func (c *consul) catalog() []peers.Peer {
	if c.cache != nil {
		return c.cache
	}
	found := make([]peers.Peer, 0, len(c.w.nodes))
	for _, a := range c.agents {
		for _, e := range a.listed {
			found = append(found, e.peer(a))
		}
	}
	slices.SortStableFunc(found, func(x, y peers.Peer) int { return strings.Compare(x.Node, y.Node) })
	c.cache = found
	return found
}

func (e *entry) peer(a *agent) peers.Peer {
	return peers.Peer{
		Node: e.reg.Node, Address: e.reg.Address, ClusterID: e.reg.ClusterID, Version: e.reg.Version,
		Passing: e.status != policy.Critical && !a.failed, Beating: !e.silent, Status: e.status,
		View: peers.Seen[peers.View]{Err: peers.ErrNotAsked}, Start: e.reg.Start,
		Entry: peers.Entry{ID: e.reg.Node, Agent: a.name, AgentFailed: a.failed},
	}
}
