package walk

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"rmq-entrypoint/internal/policy"
	"rmq-entrypoint/peers"
)

// operator is one who works on a node that runs, from inside its container.
type operator struct {
	p     *proc
	box   *box
	force bool
}

// operate runs a command of package admin on the node, one at a time. It may be interrupted
// at any step.
func (n *node) operate(name string, command func(*operator) error) {
	b := n.box
	if b == nil || b.server == nil || b.commandRuns() {
		return
	}
	w := n.w
	w.say(n.who, "** operator: %s", name)
	o := &operator{box: b}
	o.p = w.start(b, name, func(p *proc) {
		if err := command(o); err != nil {
			w.say(n.who, "%s: %v", name, err)
		} else {
			w.say(n.who, "%s: done", name)
		}
	})
	b.operator = o.p
	if w.rand.IntN(3) == 0 { // Ctrl-C
		w.after(w.seconds(0, 25), func() {
			if !o.p.over {
				w.say(n.who, "** %s is interrupted", name)
				o.p.kill()
			}
		})
	}
}

func (o *operator) running() (v peers.View, err error) {
	v, err = o.p.view(o.box.node.name)
	if err == nil && !slices.Contains(v.Running, o.box.node.name) {
		err = errBoots
	}
	return v, err
}

func (o *operator) order(m policy.Maintenance) {
	v := o.box.volume
	m.At = o.p.now()
	v.out, v.outAt = &m, o.p.w.clock.now
}

// outOfService gives the order, and returns when the check says so.
func (o *operator) outOfService(m policy.Maintenance) error {
	o.order(m)
	o.box.hear(message{text: "X_RMQ_ENTRYPOINT=order"})
	for end := o.p.w.clock.now + ttl + 5*time.Second; !o.box.companion.board.out; {
		if o.p.w.clock.now > end {
			return errors.New("the companion did not take the node out of service")
		}
		o.p.pause(100 * time.Millisecond)
	}
	o.p.pause(5 * time.Second)
	return nil
}

func (o *operator) mayDrain(v peers.View) error {
	others := len(v.Running) - 1
	switch {
	case o.force, len(v.Members) == 1:
		return nil
	case len(v.Partitions) > 0:
		return errors.New("partitioned")
	case 2*others <= len(v.Members):
		return errors.New("quorum-critical")
	}
	return nil
}

func (o *operator) drain() error {
	v, err := o.running()
	if err != nil {
		return err
	}
	before := o.box.volume.out
	if before != nil && before.Leaving {
		return errors.New("this node is leaving")
	}
	if err := o.mayDrain(v); err != nil {
		return err
	}
	if err = o.outOfService(policy.Maintenance{}); err == nil && !o.force {
		if v, err = o.running(); err == nil {
			err = o.mayDrain(v)
		}
	}
	if err != nil {
		o.box.volume.out = before
		return err
	}
	if err := o.maintenance(); err != nil {
		return err
	}
	o.order(policy.Maintenance{Drained: true, Done: true})
	return nil
}

func (o *operator) maintenance() error {
	return o.p.call("rabbitmq-upgrade drain", 0.5, 5, func() error {
		s := o.box.server
		if s.state != running {
			return errBoots
		}
		s.drain = true
		if o.p.w.rand.IntN(2) == 0 {
			r := message{}
			r.text = "X_NOTHING=1"
			o.box.hear(r)
		}
		return nil
	})
}

// revive is rabbitmq-upgrade revive, by hand.
func (n *node) revive() {
	if s := n.server(); s != nil && s.drain {
		n.w.say(n.who, "** operator: revive")
		s.drain = false
	}
}

// leave is the command: out of service, replicas moved, drained, off the record, stopped,
// forgotten, ended.
func (o *operator) leave() error {
	b, p := o.box, o.p
	r, _, err := p.readRecord()
	if err != nil {
		return err
	}
	if !r.HasLeft(b.node.name, b.volume.rt.volume) {
		if r, err = o.moveOut(r); err != nil {
			return fmt.Errorf("not left: %w", err)
		}
	}
	return o.goForGood(r)
}

func (o *operator) moveOut(r peers.Record) (left peers.Record, err error) {
	v, err := o.running()
	if err != nil {
		return r, err
	}
	if err := o.mayLeave(r, v); err != nil {
		return r, err
	}
	err = o.outOfService(policy.Maintenance{Leaving: true})
	if err == nil {
		err = o.p.call("moving replicas", 1, 20, func() error { return o.box.companion.mustServe() })
	}
	if err == nil {
		err = o.maintenance()
	}
	if err == nil {
		left, err = o.removeFromRecord(r.ClusterID)
	}
	if err != nil && !errors.Is(err, errMayBeOff) { // the node serves again
		o.box.volume.out = nil
		_ = o.p.call("reviving", 0.2, 2, func() error { o.box.server.drain = false; return nil })
	}
	return left, err
}

// mayLeave refuses what would leave nobody, or no majority, behind.
func (o *operator) mayLeave(r peers.Record, v peers.View) error {
	node, volume := o.box.node.name, o.box.volume.rt.volume
	switch {
	case r.State != peers.Formed || r.ClusterID != v.ClusterID:
		return errors.New("another cluster is on record")
	case r.Members[node] != volume || volume == "":
		return errors.New("this volume is not on record")
	case len(v.Partitions) > 0:
		return errors.New("partitioned")
	case len(v.Members) == 1 || len(r.Members) == 1:
		return errors.New("the last node")
	}
	stay, up := 0, 0
	for _, m := range v.Members {
		if m == node {
			continue
		}
		stay++
		if _, on := r.Members[m]; on && slices.Contains(v.Running, m) {
			up++
		}
	}
	if 2*up <= stay {
		return errors.New("without a majority")
	}
	return nil
}

var errMayBeOff = errors.New("whether the node is off the record cannot be told")

// removeFromRecord takes the node off the record under the lock.
func (o *operator) removeFromRecord(id string) (left peers.Record, err error) {
	p, b := o.p, o.box
	name, volume := b.node.name, b.volume.rt.volume
	tried := false
	once := func() (ok bool, err error) {
		session, err := p.acquire(time.Minute)
		if err != nil {
			return false, err
		}
		defer func() { // not run when the process is killed: its session expires
			if !p.over {
				p.release(session)
			}
		}()
		r, index, err := p.readRecord()
		if err != nil {
			return false, err
		}
		if r.State != peers.Formed || r.ClusterID != id {
			return false, errors.New("another cluster is on record")
		}
		v, err := o.running()
		if err == nil {
			err = o.mayLeave(r, v)
		}
		if err != nil {
			return false, err
		}
		left, tried = r.Left(name, "told to (rmq-entrypoint leave)", p.now()).By(name, name+", told to leave, on host x"), true
		return p.writeRecord(left, index, session)
	}
	ok := false
	for range 3 {
		if ok, err = once(); ok || err != nil {
			break
		}
	}
	if err == nil && !ok {
		err = errors.New("the record changed meanwhile")
	}
	if err != nil && tried {
		now, _, rerr := p.readRecord()
		switch {
		case rerr != nil:
			err = errMayBeOff
		case now.HasLeft(name, volume):
			left, err = now, nil
		}
	}
	return left, err
}

// goForGood finishes what can no longer be taken back.
func (o *operator) goForGood(r peers.Record) error {
	b, p, w := o.box, o.p, o.p.w
	o.order(policy.Maintenance{Leaving: true, Done: true})
	if err := p.call("stop_app", 0.5, 5, func() error {
		if b.server.state == running {
			b.server.stopApp()
		}
		return nil
	}); err != nil {
		return err
	}
	p.hot("after it left")
	for end := w.clock.now + time.Minute; w.clock.now < end; {
		done := false
		for _, peer := range r.Names() {
			if p.call("being forgotten", 0.5, 2, func() error { return w.forget(b.node, peer, b.node.name) }) == nil {
				done = true
				break
			}
			if v, err := p.view(peer); err == nil && slices.Contains(v.Running, peer) && !slices.Contains(v.Members, b.node.name) {
				done = true
				break
			}
		}
		if done {
			break
		}
		p.pause(time.Second)
	}
	_ = p.withdraw(b.companion.reg)
	return p.call("halting", 0.2, 0.6, func() error { b.server.halt(); return nil })
}

// forceBoot is the command: it refuses while the companion does not name who is lost.
func (n *node) forceBoot() {
	b := n.box
	if b == nil || b.companion == nil || n.volume.marker == nil || n.volume.order != nil || len(b.companion.board.lost) == 0 {
		return
	}
	r := n.w.consul.record
	if id := n.volume.marker.ClusterID; r.State == peers.Formed && r.ClusterID == id {
		n.w.say(n.who, "** operator: force-boot without %v", b.companion.board.lost)
		n.volume.order = &policy.CarryOn{ClusterID: id, Lost: b.companion.board.lost}
	}
}

// forgetCluster gives up the cluster on record. Forced, the operator may be wrong: some may run.
func (w *World) forgetCluster(force bool) bool {
	c := w.consul
	r := c.record
	if r.State != peers.Formed || c.leaderless() || c.holder != nil {
		return false
	}
	for _, p := range c.catalog() {
		if p.Passing && !force {
			return false
		}
	}
	for _, n := range w.nodes {
		if n.server() != nil && !force {
			return false
		}
	}
	command := "rmq-entrypoint forget-cluster"
	if force {
		command += " --force"
	}
	w.say("consul", "** operator: %s", command)
	w.law.givenUp = r.ClusterID
	for _, n := range r.Names() {
		r = r.Without(n, peers.GivenUp(command), epoch.Add(w.clock.now)).By(n, command+" on host x")
	}
	r.Revision = w.id()
	return c.put("operator", r, c.at, "")
}
