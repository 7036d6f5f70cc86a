package walk

import (
	"fmt"
	"slices"
	"time"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/internal/policy"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
)

// ask looks into a question and notes the answer.
func (c *companion) ask(seen *policy.Observation, q policy.Question) {
	p, w, n := c.p, c.p.w, c.box.node
	if q.Within > 0 {
		p.deadline = w.clock.now + q.Within
	}
	switch q.What {
	case policy.AskAfresh:
		*seen = seen.Afresh()
		w.law.does("asks afresh")
	case policy.AskRecord:
		if k := &c.kept; q.Kept && !seen.Fresh && k.index != 0 && k.holds(c, k.index == w.consul.at) {
			seen.Record, seen.Kept = policy.Answer(policy.Record{Record: k.record, Index: k.index}, nil), true
			break
		}
		r, index, err := p.readRecord()
		c.kept.record, c.kept.index, c.kept.read = r, index, w.clock.now
		seen.Record = policy.Answer(policy.Record{Record: r, Index: index}, err)
		if c.proof.at = 0; err == nil { // what was read before, afresh it is not known
			c.proof.read(r, c.reg.ClusterID, w.clock.now)
		}
	case policy.AskCatalog:
		if k := &c.kept; q.Kept && !seen.Fresh && policy.Keeps(k.catalog) && k.catalog != nil && k.holds(c, !n.lacks(itself) && slices.EqualFunc(k.catalog, w.consul.catalog(), samePeer)) {
			seen.Catalog, seen.Kept = policy.Answer(k.catalog, nil), true
			break
		}
		all, err := p.entries()
		c.kept.catalog, c.kept.read = all, w.clock.now
		seen.Catalog = policy.Answer(all, err)
		if c.proof.listed = 0; err == nil {
			c.proof.listed = w.clock.now
		}
	case policy.AskManaged:
		seen.Managed = policy.Answer(c.managed())
	case policy.AskCheck:
		seen.Health, seen.Rechecked = c.check(), true
	case policy.AskView:
		v, err := p.view(q.Node)
		if q.Node == c.set.Node && err == nil {
			c.proof.viewed = w.clock.now
		}
		seen.See(q.Node, func(n *policy.Node) { n.View = policy.Answer(v, err) })
	case policy.AskLeader:
		led := false
		err := p.call("asking for the leader", 0.2, 0.6, func() (err error) { led, err = w.leader(n, q.Node); return err })
		seen.See(q.Node, func(n *policy.Node) { n.Leader = policy.Answer(led, err) })
	case policy.AskDown:
		down := p.isDown(q.Node)
		seen.See(q.Node, func(n *policy.Node) { n.Down = map[string]bool{q.Address: down} })
	case policy.AskWaits:
		var waits policy.Waits
		err := p.call("asking for whom it waits", 0.2, 0.6, func() error { return c.waits(&waits) })
		seen.Waits = policy.Answer(waits, err)
	case policy.AskQueues:
		queues := 0
		err := p.call("counting queues", 0.2, 0.6, func() error {
			if !c.serves() {
				return errBoots
			}
			queues = c.box.volume.data.queues
			return nil
		})
		seen.Queues = policy.Answer(queues, err)
	}
	p.deadline = 0
}

// kept is what a companion read of record and catalog last.
type kept struct {
	record  peers.Record
	index   uint64
	catalog []peers.Peer
	read    time.Duration
}

// holds reports whether a blocking query stands and has told of no change: the news of one may be
// late, and where an agent is cut off it does not come before all is read again.
func (k *kept) holds(c *companion, same bool) bool {
	w := c.p.w
	if w.clock.now-k.read > policy.KeptFor || !same && !w.chance(0.3) {
		return false
	}
	w.law.does("goes by what it kept")
	return true
}

func samePeer(a, b peers.Peer) bool {
	return a.Node == b.Node && a.Passing == b.Passing && a.Status == b.Status && a.Boot == b.Boot && a.ClusterID == b.ClusterID && a.Address == b.Address && a.Agent == b.Agent && a.AgentFailed == b.AgentFailed
}

func (c *companion) serves() bool { return c.box.server != nil && c.box.server.state == running }

// waits is what Mnesia knows while it waits, or is stopped.
func (c *companion) waits(to *policy.Waits) error {
	s, d := c.box.server, c.box.volume.data
	if c.p.w.rabbit.khepri || s == nil || d == nil || !d.db || s.state != booting && s.state != stopped {
		return errBoots
	}
	to.Members, to.Paused = d.cluster.names(), s.paused
	to.For = slices.DeleteFunc(slices.Clone(d.seen), func(m string) bool { return d.cluster.of(m) == nil })
	return nil
}

// managed is what the management port lists.
func (c *companion) managed() (nodes []healthcheck.Node, err error) {
	if c.misses >= 3 {
		return nil, errDown
	}
	err = c.p.call("asking the management port", 0.002, 0.02, func() error {
		if !c.serves() {
			return errDown
		}
		s, cl := c.box.server, c.box.volume.data.cluster
		with := c.box.node.with(cl)
		for _, m := range cl.names() {
			nodes = append(nodes, healthcheck.Node{Name: m, Running: slices.Contains(with, m), Known: m == c.set.Node, Partitions: s.from})
		}
		return nil
	})
	if c.misses++; err == nil {
		c.misses = 0
	}
	return nodes, err
}

// do does one thing that a rule asks for.
func (c *companion) do(seen *policy.Observation, a policy.Action) (said []policy.Said, err error) {
	p, w, v := c.p, c.p.w, c.box.volume
	switch a := a.(type) {
	case policy.WriteRecord:
		return nil, c.writeRecord(a)
	case policy.Enroll:
		return nil, c.enroll(a)
	case policy.WritePending:
		v.pend(statedir.Pending{Role: statedir.Role(a.Pending.Role), Claim: a.Pending.Claim, Volume: a.Pending.Volume})
	case policy.FailJoin:
		v.failJoin()
	case policy.WriteCarryOn:
		v.order = &a.Order
	case policy.DropCarryOn:
		v.order = nil
	case policy.WriteMarker:
		v.mark(a.Marker)
	case policy.EndMaintenance:
		return nil, c.endMaintenance(a)
	case policy.StopServer:
		p.whole = true
		return nil, p.call("stopping the server", 0.2, 0.6, func() error { w.law.stops(c); c.box.server.halt(); return nil })
	case policy.EndStop:
		return nil, p.call("ending a stop", 0.2, 0.6, c.endStop)
	case policy.ForgetMember:
		return nil, p.call("having "+a.Node+" forgotten", 0.2, 1.5, func() error { return w.forget(c.box.node, a.Asked, a.Node) })
	case policy.JoinPeer:
		p.whole = true
		return nil, c.joinPeer(a.Peer)
	case policy.RestartApp:
		p.whole = true
		return nil, c.restartApp()
	case policy.ForceBoot:
		p.whole = true
		return nil, p.call("forcing the boot", 0.2, 2, func() error { return c.forceBoot(a) })
	case policy.Settle:
		return nil, c.settle(seen, a)
	case policy.SetPauseMinority:
		return nil, p.call("setting pause_minority", 0.2, 0.6, func() error { c.box.server.pauses = a.On; return nil })
	case policy.SetMirrors:
		return []policy.Said{{Name: "/", Word: "ok"}}, p.call("mirroring queues", 0.2, 0.6, c.mustServe)
	case policy.GrowReplicas:
		word := "ok"
		if w.rand.IntN(4) == 0 {
			word = "later"
		}
		return []policy.Said{{Name: "q", Word: word}}, p.call("growing replicas", 0.2, 1, c.mustServe)
	}
	return nil, nil
}

// endStop ends a server that is stopping.
func (c *companion) endStop() error {
	if s := c.box.server; s == nil || !s.ending {
		return policy.ErrNotStopping
	}
	c.box.close("the server was ended, which did not come to the end of its stop")
	return nil
}

func (c *companion) mustServe() error {
	if !c.serves() {
		return errBoots
	}
	return nil
}

func (c *companion) writeRecord(a policy.WriteRecord) error {
	ok, err := c.p.writeRecord(a.Record, a.Index, "")
	if err == nil && !ok {
		return policy.ErrChanged
	}
	if err == nil {
		c.proof.read(a.Record, c.reg.ClusterID, c.p.w.clock.now)
		c.p.hot("after it wrote the record")
	}
	return err
}

// enroll makes a member of this node: marker, runtime file, lock and entry, in this order.
func (c *companion) enroll(a policy.Enroll) error {
	v := c.box.volume
	c.p.w.law.enrolls(c, a)
	v.mark(a.Marker)
	c.p.hot("after it wrote the marker")
	rt := *v.rt
	rt.role, rt.cluster, rt.claim, rt.verified = statedir.Member, a.Marker.ClusterID, "", a.Since
	v.rt = &rt
	if c.lock != "" {
		c.p.release(c.lock)
		c.lock = ""
	}
	if a.Enter {
		reg := c.reg
		reg.ClusterID, reg.Blank = a.Marker.ClusterID, false
		if err := c.p.enter(reg); err != nil {
			return err
		}
		c.reg = reg
	}
	c.proof.enrolled(c.p.w.clock.now)
	return nil
}

func (c *companion) endMaintenance(a policy.EndMaintenance) error {
	if c.box.commandRuns() && a.Unwatched {
		return policy.ErrCommandRuns
	}
	if a.Revive {
		err := c.p.call("reviving", 0.2, 2, func() error {
			if c.box.server != nil {
				c.box.server.drain = false
			}
			return nil
		})
		if err != nil {
			return &policy.NotRevivedError{Err: err}
		}
	}
	c.box.volume.out = nil
	return nil
}

// joinPeer is stop_app, join_cluster, start_app. It gives up the data that the node has.
func (c *companion) joinPeer(peer string) error {
	p, w, b := c.p, c.p.w, c.box
	if err := p.call("stop_app", 0.5, 1.5, func() error {
		if !c.serves() {
			return errBoots
		}
		b.server.stopApp()
		return nil
	}); err != nil {
		return err
	}
	p.hot("between stop_app and join_cluster")
	if err := p.call("join_cluster", 0.5, 2, func() error {
		o, err := w.peer(b.node, peer)
		old := b.volume.data.cluster
		if err != nil || b.server.state != stopped || o.state != running || o.box.volume.data.cluster == old {
			return fmt.Errorf("cannot join %s: %w", peer, errBoots)
		}
		was, to := b.volume.data, o.box.volume.data.cluster
		b.volume.data = &data{half: to}
		if to.of(b.node.name) == was || !b.server.take(to) {
			b.volume.data = was
			return fmt.Errorf("cannot join %s", peer)
		}
		w.law.discarded(b.node, was, "given up by join_cluster")
		if old != nil {
			old.drop(b.node.name)
		}
		b.server.joined()
		return nil
	}); err != nil {
		return err
	}
	p.hot("between join_cluster and start_app")
	if err := p.call("start_app", 0.2, 0.6, func() error { b.server.startApp(); return nil }); err != nil {
		return err
	}
	for end := w.clock.now + 20*time.Second; !c.serves() && w.clock.now < end; {
		p.pause(500 * time.Millisecond)
	}
	return c.mustServe()
}

// restartApp has RabbitMQ stop within its VM, and start when a majority of the VMs is there.
func (c *companion) restartApp() error {
	err := c.p.call("restarting RabbitMQ", 0.2, 0.6, func() error {
		if !c.serves() {
			return errBoots
		}
		s := c.box.server
		s.box.node.w.after(s.box.node.w.seconds(0.1, 1), func() {
			if !s.p.over && s.state == running {
				s.stopApp()
				s.paused = true
				s.retry()
			}
		})
		return nil
	})
	if err == nil && c.p.w.chance(0.1) {
		return policy.ErrNoAnswer
	}
	return err
}

// forceBoot has RabbitMQ come up without the others.
func (c *companion) forceBoot(a policy.ForceBoot) error {
	w, b, s := c.p.w, c.box, c.box.server
	d := b.volume.data
	if s == nil || d == nil || !d.db || s.state != booting && s.state != running && !a.Paused {
		return errBoots
	}
	w.say(b.node.who, "RabbitMQ comes up without %v", a.Lost)
	w.law.forced(b.node, d.cluster, a.Lost)
	if w.rabbit.khepri {
		d.cluster.members = []member{{b.node.name, d}}
		return nil
	}
	s.forced = s.forced || s.state == booting
	if a.Paused {
		d.seen = nil
	}
	return nil
}

// settle makes this copy the cluster.
func (c *companion) settle(seen *policy.Observation, a policy.Settle) error {
	p, n := c.p, c.box.node
	for _, m := range a.Lost {
		_ = p.call("forgetting what is lost", 0.2, 2, func() error { return p.w.forget(n, n.name, m) })
	}
	v, err := p.view(n.name)
	if err != nil {
		return err
	}
	seen.See(n.name, func(n *policy.Node) { n.View = policy.Answer(v, nil) })
	for _, m := range a.Lost {
		if slices.Contains(v.Members, m) {
			return fmt.Errorf("RabbitMQ still lists %s", m)
		}
	}
	s := c.state
	s.View.View = v
	c.box.volume.mark(policy.NewMarker(c.set, s, seen.Now))
	return nil
}
