package walk

import (
	"fmt"
	"slices"
	"time"
)

// people makes the nodes of a world, and what there is on their volumes.
func (w *World) people() {
	r := w.rand
	switch r.IntN(3) {
	case 0:
		w.rabbit = kind{version: "4.3.6", khepri: true, elects: true}
	case 1:
		w.rabbit = kind{version: "4.0.5", quirk: true, elects: true}
	case 2:
		w.rabbit = kind{version: "3.10.8"}
	}
	w.rabbit.forceBoot = r.IntN(4) == 0
	apart := r.IntN(2) == 0 // an agent on each host
	w.consul.agents = []*agent{{name: "agent"}}
	for i := range 2 + r.IntN(5)/2 { // 2 to 4, seldom 4
		n := &node{name: fmt.Sprintf("rabbit@%c", 'a'+i), who: string(rune('a' + i)), w: w}
		if apart && i > 0 {
			w.consul.agents = append(w.consul.agents, &agent{name: fmt.Sprint("agent-", i)})
		}
		n.agent = w.consul.agents[len(w.consul.agents)-1]
		switch r.IntN(10) {
		case 0:
			n.skew = -time.Hour
		case 1:
			n.skew = time.Hour
		}
		n.wipe()
		w.nodes = append(w.nodes, n)
	}
	if r.IntN(8) == 0 {
		w.adopt(w.nodes[:1+r.IntN(len(w.nodes))])
	}
	if r.IntN(6) == 0 {
		of := w.nodes[r.IntN(len(w.nodes))]
		n := &node{name: of.name, who: of.who + "'", w: w, twin: of, apart: r.IntN(2) == 0, agent: w.consul.agents[r.IntN(len(w.consul.agents))]}
		n.wipe()
		w.nodes = append(w.nodes, n)
	}
}

// adopt makes the nodes members of a cluster of the official image, which the program has
// never seen.
func (w *World) adopt(nodes []*node) {
	c := &cluster{id: "cluster-adopted"}
	for _, n := range nodes {
		n.volume.data = &data{db: true, cluster: c}
		c.set(n.name, n.volume.data)
	}
	w.clusters = append(w.clusters, c)
	w.law.adopted = c
}

// disturb makes the part of a world's life in which there are faults, and returns its end.
func (w *World) disturb() (end time.Duration) {
	r := w.rand
	pick := func(rates ...float64) float64 { return rates[r.IntN(len(rates))] }
	w.rates = rates{
		crash: pick(0, 0, 0, 0.0003, 0.001, 0.003), hot: pick(0, 0.02, 0.1), lose: pick(0, 0.01, 0.04), late: pick(0, 0.5),
		freeze: pick(0, 0, 0.0005), slow: pick(0, 0, 0.02),
	}
	length := w.seconds(60, 400)
	together := r.IntN(2) == 0
	for _, n := range w.nodes {
		at := w.seconds(0, 2)
		if w.law.adopted != nil {
			at = w.seconds(0, 3) // all is changed over at once
		} else if !together || n.twin != nil {
			at = w.seconds(0, 0.7*length.Seconds()) // scaled up, later
		}
		w.after(at, n.turn)
	}
	f := faults{w: w, losing: r.IntN(6) == 0}
	if r.IntN(8) == 0 {
		w.after(w.seconds(5, length.Seconds()), w.consul.lose)
	}
	if r.IntN(6) == 0 {
		w.after(w.seconds(20, length.Seconds()), func() { w.forgetCluster(r.IntN(3) > 0) })
	}
	for range r.IntN(9) {
		at := w.seconds(1, length.Seconds())
		w.after(at, func() {
			if !w.quiet {
				f.one(w.nodes[r.IntN(len(w.nodes))])
			}
		})
	}
	w.revoke(length)
	return length
}

// faults are what may happen to a world.
type faults struct {
	w      *World
	losing bool // a volume may be lost for good with its node
}

func (f faults) back(n *node) {
	d := f.w.seconds(0, 5)
	if f.w.rand.IntN(3) == 0 {
		d = f.w.seconds(5, 90)
	}
	f.w.after(d, n.turn)
}

// one is one fault, or one act of a person.
func (f faults) one(n *node) {
	w, r := f.w, f.w.rand
	if n.gone {
		return
	}
	switch k := r.IntN(40); {
	case k < 4:
		n.down("killed", false)
		f.back(n)
	case k < 8:
		n.down("killed and wiped", true)
		f.back(n)
	case k < 10:
		f.stop(n)
	case k < 12:
		f.unmount(n)
	case k < 14:
		f.all(false)
	case k < 15:
		f.all(true)
	case k < 17:
		f.companionDies(n)
	case k < 19:
		f.cutOff(n)
	case k < 20:
		d := w.seconds(1, 60)
		w.say(n.who, "** frozen for %s", d)
		n.frozen = w.clock.now + d
		w.law.deaf(n)
	case k < 24:
		f.consul(n)
	case k < 26:
		w.disconnect(n, w.seconds(5, 150), r.IntN(3) == 0)
	case k < 29:
		n.operate("drain", func(o *operator) error { o.force = r.IntN(3) == 0; return o.drain() })
		if r.IntN(2) == 0 {
			w.after(w.seconds(10, 60), n.revive)
		}
	case k < 33:
		// The time at which a node left is by its own clock, and others count from it by
		// theirs: with one an hour ahead they do so for an hour.
		if slices.ContainsFunc(w.nodes, func(o *node) bool { return o.skew != 0 }) {
			return
		}
		n.operate("leave", (*operator).leave)
		if r.IntN(2) == 0 { // and its name comes back, on an empty volume
			w.after(w.seconds(40, 150), func() { f.replace(n) })
		}
	case k < 35:
		f.app(n)
	case k < 37:
		n.forceBoot()
	case k < 39 && f.losing:
		n.leaveWorld()
	default:
		n.down("killed", false)
		w.after(w.seconds(0, 60), n.turn)
	}
}

func (f faults) stop(n *node) {
	n.w.say(n.who, "** stopped")
	n.on = false
	if s := n.server(); s != nil {
		s.halt()
	} else if n.box != nil {
		n.box.die()
	}
	f.w.after(f.w.seconds(5, 90), n.turn)
}

// unmount starts the node without its volume for a while.
func (f faults) unmount(n *node) {
	if n.away != nil {
		f.mount(n)
		return
	}
	n.down("killed, and its volume is not mounted", false)
	n.away = n.volume
	n.wipe()
	f.back(n)
	if f.w.rand.IntN(3) > 0 {
		f.w.after(f.w.seconds(5, 120), func() { f.mount(n) })
	}
}

func (f faults) mount(n *node) {
	if n.away == nil || n.gone {
		return
	}
	n.down("killed, and its volume is mounted again", false)
	n.volume, n.away, n.mounted = n.away, nil, f.w.clock.now
	f.back(n)
}

func (f faults) all(wipe bool) {
	for _, n := range f.w.nodes {
		if n.on {
			n.down(fmt.Sprintf("all killed, wiped: %t", wipe), wipe)
			f.w.after(f.w.seconds(0, 8), n.turn)
		}
	}
}

func (f faults) companionDies(n *node) {
	if n.box != nil && n.box.companion != nil {
		f.w.say(n.who, "** companion killed")
		n.box.companion.p.kill()
		f.w.law.deaf(n)
	}
}

func (f faults) cutOff(n *node) {
	d := f.w.seconds(2, 90)
	f.w.say(n.who, "** cut off from Consul for %s", d)
	n.cut, n.refuse = f.w.clock.now+d, f.w.rand.IntN(2) == 0
	f.w.law.deaf(n)
}

func (f faults) consul(n *node) {
	w, c := f.w, f.w.consul
	switch k := w.rand.IntN(8); {
	case k < 2:
		d := w.seconds(0.5, 40)
		w.say("consul", "** no leader for %s", d)
		c.away = w.clock.now + d
		for _, n := range w.nodes {
			w.law.deaf(n)
		}
	case k < 4:
		c.fail(n.agent, w.seconds(1, 90), w.rand.IntN(3) == 0)
		w.law.deaf(n)
	case len(c.sessions) > 0:
		w.say("consul", "** a session is lost while its holder lives")
		c.destroy(c.sessions[w.rand.IntN(len(c.sessions))], true)
	}
}

// app is stop_app by hand, and start_app a while later.
func (f faults) app(n *node) {
	s := n.server()
	if s == nil || s.state != running {
		return
	}
	f.w.say(n.who, "** operator: stop_app")
	s.stopApp()
	f.w.after(f.w.seconds(3, 90), n.startApp)
}

func (n *node) startApp() {
	if s := n.server(); s != nil && s.state == stopped && !s.paused && !s.ending && !n.isFrozen() && !n.box.commandRuns() {
		n.w.say(n.who, "** operator: start_app")
		s.startApp()
	}
}

// replace starts a node that left with an empty volume.
func (f faults) replace(n *node) {
	if n.server() == nil && n.left() {
		n.down("replaced", true)
		f.back(n)
	}
}

// left reports whether the node left its cluster for good: nobody starts it again.
func (n *node) left() bool {
	out := n.volume.out
	return hasLeft(n.w.consul.record, n) || out != nil && out.Leaving && out.Done && n.volume.marker != nil
}

// leaveWorld takes the node away for good, unless it is the last one.
func (n *node) leaveWorld() {
	here := 0
	for _, o := range n.w.nodes {
		if !o.gone {
			here++
		}
	}
	if here > 1 {
		n.down("gone for good", false)
		n.gone = true
	}
}
