package sim

import (
	"encoding/json"
	"maps"
	"time"

	"github.com/hashicorp/consul/api"
)

// consul is one agent and the servers behind it: a linearizable store of keys
// and sessions, a catalog that follows the agent, and DNS that follows the
// catalog, late.
type consul struct {
	w        *World
	index    uint64
	began    int // how often, each time without data
	kv       map[string]*api.KVPair
	sessions map[string]*session
	shut     map[string]time.Time // keys under a lock delay
	agent    map[string]*service
	catalog  map[string]*service
	at       uint64 // catalog's index
	rendered []byte // catalog as JSON, as of at
	history  []answers
	changed  chan struct{} // closed and replaced on every change
	away     time.Time     // no leader until
	lies     time.Time     // DNS is empty until
	opened   int           // sessions, for their ids
}

type session struct {
	api.SessionEntry
	ttl    time.Duration
	expire *time.Timer
}

type service struct {
	api.AgentServiceRegistration
	status string
	silent bool      // for its TTL
	since  time.Time // in the catalog
	ttl    *time.Timer
	by     *Node // with whose token it was registered; nil: another
}

// answers is what DNS would have said at a time.
type answers struct {
	at    time.Time
	hosts []*service
}

func (c *consul) reset(w *World) {
	for _, s := range c.sessions {
		s.expire.Stop()
	}
	for _, s := range c.agent {
		s.ttl.Stop()
	}
	if c.changed != nil {
		close(c.changed)
	}
	if c.w == nil { // set once: timers read it before they hold its lock
		c.w = w
	}
	c.began++
	c.index, c.at, c.kv = 10, 10, map[string]*api.KVPair{}
	c.sessions, c.shut = map[string]*session{}, map[string]time.Time{}
	c.agent, c.catalog = map[string]*service{}, map[string]*service{}
	c.changed = make(chan struct{})
	c.rendered, c.history = nil, nil
}

// strangers registers what is no node's under the service's name: a scheduler's entry at a
// node's own address, and another program's.
func (c *consul) strangers(own string) {
	entries := map[string]string{"_task-1": own, "other-program": "10.9.9.9"}
	for _, id := range sorted(entries) {
		address := entries[id]
		s := &service{status: "passing", ttl: time.NewTimer(1000 * time.Hour)}
		s.ID, s.Name, s.Address, s.Port, s.Check = id, c.w.opts.Service, address, 5672, &api.AgentServiceCheck{CheckID: id}
		c.agent[id] = s
		c.sync(id)
	}
}

func (c *consul) change() uint64 {
	c.index++
	close(c.changed)
	c.changed = make(chan struct{})
	return c.index
}

// life is how long a session lives after a renewal: its TTL, and up to as long again.
func (c *consul) life(s *session) time.Duration {
	return s.ttl + time.Duration(c.w.drawLocked("consul", "life")*float64(s.ttl))
}

func (c *consul) expired(s *session) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if c.sessions[s.ID] == s {
		c.w.tell("consul", s.ID+" expired")
		c.destroy(s.ID)
	}
}

func (c *consul) destroy(id string) {
	s := c.sessions[id]
	if s == nil {
		return
	}
	s.expire.Stop()
	delete(c.sessions, id)
	for _, key := range sorted(c.kv) {
		if pair := c.kv[key]; pair.Session == id {
			c.kv[key] = &api.KVPair{Key: key, Value: pair.Value, ModifyIndex: c.change()}
			c.shut[key] = time.Now().Add(max(s.LockDelay, time.Millisecond))
		}
	}
}

func (c *consul) lapsed(s *service) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if c.agent[s.ID] != s || s.silent {
		return
	}
	s.silent = true
	reap, err := time.ParseDuration(s.Check.DeregisterCriticalServiceAfter)
	must(err)
	time.AfterFunc(reap+30*time.Second, func() { c.reap(s) })
	if s.status != "critical" { // of one that was, the catalog hears only minutes later: never, here
		s.status = "critical"
		c.w.tell("consul", s.ID+" was silent for its TTL: critical")
		c.sync(s.ID)
	}
}

// reap removes an entry that has been critical for long; one that was told meanwhile lives.
func (c *consul) reap(s *service) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if c.agent[s.ID] == s && s.silent {
		c.w.tell("consul", s.ID+" is reaped")
		delete(c.agent, s.ID)
		c.sync(s.ID)
	}
}

func (s *service) output() string {
	if s.silent {
		return "TTL expired"
	}
	return "as told"
}

// sync brings one entry of the agent into the catalog, a little later.
func (c *consul) sync(id string) {
	lag := time.Duration(c.w.drawLocked("consul", "sync") * 0.1e9)
	if c.w.drawLocked("consul", "slow sync") < 0.05 && !c.w.quiet {
		lag += time.Duration(c.w.drawLocked("consul", "slower sync") * 3e9)
	}
	c.bring(id, lag)
}

// fullSync is after how long at most an agent tries again what it may not bring into the catalog: on
// 1.22 it did so within 51, 55 and 63 s of when it might again.
const fullSync = 70 * time.Second

func (c *consul) bring(id string, lag time.Duration) {
	time.AfterFunc(lag, func() {
		c.w.mu.Lock()
		defer c.w.mu.Unlock()
		if c.w.ctx.Err() != nil {
			return
		}
		if c.away.After(time.Now()) {
			c.sync(id)
			return
		}
		if c.blocked(id) {
			c.bring(id, time.Duration(c.w.drawLocked("consul", "full sync")*float64(fullSync)))
			return
		}
		local := c.agent[id]
		switch there := c.catalog[id]; {
		case local == nil && there == nil:
			return
		case local == nil:
			delete(c.catalog, id)
		case there != nil && there.status == local.status && maps.Equal(there.Meta, local.Meta) && there.Address == local.Address:
			return
		default:
			since := time.Now()
			if there != nil && there.Meta["boot"] == local.Meta["boot"] {
				since = there.since
			}
			c.catalog[id] = &service{AgentServiceRegistration: local.AgentServiceRegistration, status: local.status, silent: local.silent, since: since, by: local.by}
		}
		c.at = c.change()
		c.rendered = nil
		now := answers{at: time.Now()}
		for _, id := range sorted(c.catalog) {
			if s := c.catalog[id]; s.status != "critical" {
				now.hosts = append(now.hosts, s)
			}
		}
		c.history = append(c.history, now)
		c.w.compare()
	})
}

func (c *consul) render() []byte {
	type m = map[string]any
	list := []m{}
	for _, id := range sorted(c.catalog) {
		s := c.catalog[id]
		list = append(list, m{
			"Node":    m{"Node": "consul", "Address": "10.0.0.100"},
			"Service": m{"ID": s.ID, "Service": s.Name, "Address": s.Address, "Port": s.Port, "Meta": s.Meta},
			"Checks":  []m{{"CheckID": s.Check.CheckID, "Status": s.status, "Output": s.output()}},
		})
	}
	return render(list)
}

func render(v any) []byte {
	b, err := json.Marshal(v)
	must(err)
	return b
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
