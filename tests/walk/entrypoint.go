package walk

import (
	"errors"
	"fmt"
	"time"

	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
)

// plan is what a server is started as.
type plan struct {
	role   statedir.Role
	claim  string
	volume string
	peers  []string
	aside  bool
	lock   string // session; a seed's until its cluster is announced
}

// boot is the entrypoint, until it becomes the server: it returns why it does not.
func (b *box) boot(p *proc) error {
	p.pause(p.w.seconds(0.05, 0.5))
	state := b.volume.inspect()
	rt := &started{boot: p.w.id(), since: p.now(), volume: state.Volume}
	var it plan
	var err error
	if state.Role != "" {
		it, err = b.withData(p, state, rt)
	}
	if errors.Is(err, errNeverClaimed) {
		state, err = state.Blank(), nil
	}
	if state.Role == "" {
		it, err = b.form(p, state, rt)
	}
	if err != nil {
		return err
	}
	if err := b.become(p, state, it, rt); err != nil {
		if it.lock != "" {
			p.release(it.lock)
		}
		return err
	}
	return nil
}

// registration is this start's entry in Consul.
func (b *box) registration(rt *started) peers.Registration {
	n := b.node
	return peers.Registration{
		Service: "rabbitmq", Node: n.name, Address: n.who + ":5672", TTL: ttl, DeregisterAfter: deregister,
		Version: n.w.rabbit.version, ClusterID: rt.cluster,
		Start: peers.Start{Volume: rt.volume, Boot: rt.boot, Since: rt.since, Blank: rt.role != statedir.Member},
	}
}

// become carries the plan out.
func (b *box) become(p *proc, state statedir.Found, it plan, rt *started) error {
	v := b.volume
	if it.aside {
		b.moveAside()
		if it.role == statedir.Joining {
			v.pend(statedir.Pending{Role: it.role, Claim: it.claim, Volume: it.volume})
		}
	}
	p.hot("between its plan and its start")
	rt.role, rt.claim, rt.volume, rt.cluster = it.role, it.claim, it.volume, state.Cluster
	rt.pauses = max(len(it.peers)+1, len(state.Members)) >= 3
	v.out, v.rt = nil, rt
	standing := peers.Starting
	if state.Role == "" {
		standing = peers.Blank
	}
	switch err := p.announce(b.registration(rt), standing); {
	case denied(err) && rt.role != statedir.Member:
		return err // nobody would ever find it
	case nameTaken(err) && state.Cluster == "":
		return fmt.Errorf("not starting a second %s: %w", b.node.name, err)
	}
	if it.lock != "" {
		for end := p.w.clock.now + ttl; ; { // the companion adopts it
			switch alive, err := p.renew(it.lock); {
			case err == nil && alive:
			case err == nil:
				return errors.New("the companion does not start: the lock is lost")
			case p.w.clock.now > end, denied(err):
				return fmt.Errorf("the companion does not start: %w", err)
			default:
				p.pause(500 * time.Millisecond)
				continue
			}
			break
		}
	}
	p.pause(p.w.seconds(0.01, 0.2))
	b.waiting = ""
	b.accompany(*rt, it.lock, false)
	claim := ""
	if it.role == statedir.Seeding {
		claim = it.claim
	}
	b.serve(claim, it.peers, rt.pauses)
	b.node.w.after(10*time.Second, func() { b.healthcheck() })
	return nil
}

// healthcheck replaces a companion that was lost, as Docker's do.
func (b *box) healthcheck() {
	if b.dead {
		return
	}
	if b.companion.p.over && !b.node.isFrozen() {
		b.node.w.say(b.node.who, "a health check starts the companion again")
		b.accompany(*b.volume.rt, "", true)
	}
	b.node.w.after(10*time.Second, b.healthcheck)
}

// withData returns what a node with data starts as, unless its volume is ruled out.
func (b *box) withData(p *proc, state statedir.Found, rt *started) (plan, error) {
	n, v := b.node, b.volume
	if v.out != nil && v.out.Leaving && v.out.Done {
		return plan{}, fmt.Errorf("refusing to start: %s left cluster %s for good", n.name, state.Cluster)
	}
	if err := b.refused(p, state); err != nil {
		return plan{}, err
	}
	if state.Cluster == "" {
		rt.role, rt.cluster = statedir.Member, state.Cluster
		if err := p.nameFree(b.registration(rt), peers.Starting); nameTaken(err) {
			return plan{}, fmt.Errorf("not starting a second %s: %w", n.name, err)
		}
	}
	if state.Volume == "" {
		state.Volume = "v-" + p.w.id()[:8]
		v.pend(statedir.Pending{Role: statedir.Member, Volume: state.Volume})
	}
	return plan{role: state.Role, claim: state.Claim, volume: state.Volume}, nil
}

// refused asks the record, once, whether the volume is positively ruled out.
func (b *box) refused(p *proc, state statedir.Found) error {
	name := b.node.name
	r, _, err := p.readRecord()
	if err != nil {
		return nil
	}
	if state.WasAlone && r.NeverClaimed(name, state.Claim) {
		return errNeverClaimed
	}
	if err := ruledOut(r, name, state); err != nil {
		return err
	}
	for r.Returns(name, state.Volume) { // it comes back
		var index uint64
		if r, index, err = p.readRecord(); err != nil {
			return nil
		}
		if !r.Returns(name, state.Volume) {
			return ruledOut(r, name, state)
		}
		back := r.With(name, state.Volume)
		if state.Cluster == "" {
			back = r.Joins(name, state.Volume, p.now())
		}
		if ok, err := p.writeRecord(back, index, ""); ok || err != nil {
			return nil
		}
	}
	b.releaseEarlier(p, r, state)
	return nil
}

var errNeverClaimed = errors.New("it never claimed the founding")

func ruledOut(r peers.Record, name string, state statedir.Found) error {
	if why := r.Refuses(name, state.Volume, state.Cluster); why != "" {
		return fmt.Errorf("refusing to start: %s", why)
	}
	return nil
}

// releaseEarlier releases the lock of this node's own earlier start, which founded.
func (b *box) releaseEarlier(p *proc, r peers.Record, state statedir.Found) {
	if r.State != peers.Forming || r.Seed != b.node.name || r.Claim != state.Claim || r.Session == "" {
		return
	}
	if alive, err := p.renew(r.Session); err == nil && alive {
		p.release(r.Session)
	}
}
