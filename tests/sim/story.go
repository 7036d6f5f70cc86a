package sim

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

// Verdict is how a world's story ended.
type Verdict struct {
	Broken   string // a promise that was broken
	Stuck    string // faults have ended, and there is not one cluster of all nodes
	Operator string // why only a person can go on, as designed
	Faults   int    // that were made on purpose
	Took     time.Duration
	Did      map[string]int // how often the nodes did what, by its name
}

// patience is how long, after the last fault, the nodes may take until they are
// one cluster: some timeouts of theirs must run out one after another.
const patience = 20 * time.Minute

// Play tells the story: nodes start, faults come, faults end, and all nodes are to
// become one cluster. The containers' life is the caller's, see [Node.Open].
func (w *World) Play() Verdict {
	faults := w.disturb()
	w.mu.Lock()
	w.calm()
	w.mu.Unlock()
	v := Verdict{Faults: faults, Did: w.did}
	quiet := time.Now()
	for settled := 0; settled < 2; {
		w.sleep(w.ctx, time.Second)
		w.mu.Lock()
		w.compare()
		v.Broken, v.Took = w.broken, time.Since(w.began)
		why := w.unsettled()
		if why == "" {
			settled++
		} else {
			settled = 0
		}
		if late := time.Since(quiet); late > 30*time.Second && int(late.Seconds())%15 == 0 || late > patience {
			v.Operator = w.operator()
			if v.Operator == "" && w.excused != "" {
				v.Operator = w.excused
			}
		}
		w.mu.Unlock()
		switch {
		case v.Broken != "", v.Operator != "":
			return v
		case time.Since(quiet) > patience:
			v.Stuck = why
			w.Log("", "!! stuck: "+why)
			return v
		}
	}
	return v
}

// disturb makes the faulty part of the story.
func (w *World) disturb() (faults int) {
	r := w.rand
	pick := func(rates ...float64) float64 { return rates[r.IntN(len(rates))] }
	w.mu.Lock()
	w.rates = rates{
		crash: pick(0, 0, 0.001, 0.004, 0.01), lose: pick(0, 0.01, 0.05), late: pick(0, 0.5),
		freeze: pick(0, 0, 0.002), slow: pick(0, 0, 0.02), unheard: pick(0, 0, 0.3),
	}
	wiping := r.IntN(8) == 0 // Consul loses its data in this story
	spoiling := r.IntN(8) == 0
	giving := r.IntN(12) == 0
	leaving := r.IntN(10) == 0
	together := r.IntN(2) == 0
	switch r.IntN(12) { // some are killed in the middle of what is short
	case 0, 1:
		w.ambush = &ambush{Claimed, time.Duration(r.Float64() * 6e9), r.IntN(3) == 0}
	case 2, 3:
		w.ambush = &ambush{Listed, time.Duration(r.Float64() * 0.5e9), false}
	case 4:
		w.ambush = &ambush{Opened, time.Duration(r.Float64() * 0.5e9), false}
	}
	if w.ambush != nil {
		faults++
	}
	w.mu.Unlock()
	type event struct {
		at time.Duration
		do func()
	}
	var events []event
	after := func(at time.Duration, do func()) { events = append(events, event{at, do}) }
	seconds := func(least, most float64) time.Duration {
		return time.Duration((least + (most-least)*r.Float64()) * 1e9)
	}
	length := seconds(15, 80)
	for _, n := range w.Nodes {
		at := seconds(0, 1)
		if w.adopted != nil && n.volume.cluster == nil {
			at = seconds(0, 3) // all is changed over at once, the new ones first or last
		} else if !together || n.twin != nil {
			at = seconds(0, length.Seconds())
		}
		after(at, func() { n.on = true })
	}
	up := func(n *Node) func() { return func() { n.on = true } }
	for range r.IntN(7) {
		n := w.Nodes[r.IntN(len(w.Nodes))]
		at := seconds(1, length.Seconds())
		back := at + seconds(0, 4)
		if r.IntN(3) == 0 {
			back = at + seconds(4, 60)
		}
		faults++
		switch k := r.IntN(20); {
		case k < 4:
			after(at, func() { n.down("killed", false) })
			after(back, up(n))
		case k < 7:
			after(at, func() { n.down("killed and wiped", true) })
			after(back, up(n))
		case k < 9:
			after(at, func() {
				w.tell(n.Who, "** stopped")
				if n.box != nil && n.box.server != nil {
					n.box.server.halt()
				} else if n.box != nil {
					n.box.kill()
				}
				n.on = false
			})
			after(max(back, at+10*time.Second), up(n))
		case k < 11:
			after(at, func() {
				w.tell(n.Who, "** companion killed")
				if n.box != nil && n.box.companion != nil {
					n.box.companion.kill()
					w.deaf(n)
				}
			})
		case k < 13:
			refuse, until := r.IntN(2) == 0, seconds(2, 60)
			after(at, func() {
				w.tell(n.Who, "** cut off from Consul for "+until.String())
				n.cut, n.refuse = time.Now().Add(until), refuse
				w.deaf(n)
			})
		case k < 14:
			until := seconds(1, 45)
			after(at, func() {
				w.tell(n.Who, "** frozen for "+until.String())
				n.frozen = time.Now().Add(until)
				w.deaf(n)
			})
		case k < 15:
			until := seconds(0.5, 30)
			after(at, func() {
				w.tell("consul", "** no leader for "+until.String())
				w.consul.away = time.Now().Add(until)
				w.consul.change()
				for _, n := range w.Nodes {
					w.deaf(n)
				}
			})
		case k < 16:
			until := seconds(5, 60)
			after(at, func() { w.tell("consul", "** DNS is empty"); w.consul.lies = time.Now().Add(until) })
		case k < 17:
			after(at, func() {
				if ids := sorted(w.consul.sessions); len(ids) > 0 {
					w.tell("consul", "** session lost while its holder lives: "+ids[0])
					w.consul.destroy(ids[0])
				}
			})
		case k < 18 && leaving:
			after(at, n.leave)
		default:
			wipe := r.IntN(2) == 0
			after(at, func() {
				for _, n := range w.Nodes {
					n.down(fmt.Sprintf("all killed, wiped: %t", wipe), wipe)
				}
			})
			for _, n := range w.Nodes {
				after(at+seconds(0, 5), up(n))
			}
		}
	}
	if wiping {
		faults++
		at := seconds(1, length.Seconds())
		after(at, func() {
			w.tell("consul", "** Consul lost its data")
			w.consul.reset(w)
			w.wiped, w.spoiled = time.Now(), nil
		})
		if r.IntN(2) == 0 { // and a blank node starts just then
			n := w.Nodes[r.IntN(len(w.Nodes))]
			after(at-time.Second, func() { n.down("killed and wiped", true) })
			after(at+seconds(-0.5, 1), up(n))
		}
	}
	if spoiling {
		faults++
		at := seconds(1, length.Seconds())
		values := []string{"{}", "null", `{"state":"formed"}`, `{"state":"formed","cluster_id":"cluster-1","members":{}}`, `{"state":"forming"}`, "hello"}
		value := values[r.IntN(len(values))]
		after(at, func() {
			if pair := w.consul.kv[w.opts.RecordKey]; pair != nil {
				w.tell("consul", "** somebody replaces the record by "+value)
				w.spoiled = pair.Value
				w.consul.kv[w.opts.RecordKey] = &api.KVPair{Key: w.opts.RecordKey, Value: []byte(value), ModifyIndex: w.consul.change()}
			}
		})
		after(at+seconds(1, 60), w.restore)
	}
	if giving {
		faults++
		after(seconds(5, length.Seconds()), w.giveUp)
	}
	faults += w.revoke(length, after)
	if w.ambush != nil { // who takes over waits for the claim timeout
		after(length+seconds(30, 150), func() {})
	}
	for len(events) > 0 { // in their order
		first := 0
		for i := range events {
			if events[i].at < events[first].at {
				first = i
			}
		}
		e := events[first]
		events = append(events[:first], events[first+1:]...)
		w.sleep(w.ctx, e.at-time.Since(w.began))
		w.mu.Lock()
		e.do()
		w.compare()
		w.mu.Unlock()
	}
	return faults
}

// giveUp is what `forget-cluster --force` does, by an operator who is wrong: some may run.
func (w *World) giveUp() {
	pair := w.consul.kv[w.opts.RecordKey]
	var r map[string]any
	if pair == nil || w.spoiled != nil || json.Unmarshal(pair.Value, &r) != nil || r["state"] != "formed" {
		return
	}
	members, _ := r["members"].(map[string]any)
	gone, _ := r["gone"].(map[string]any)
	if gone == nil {
		gone = map[string]any{}
	}
	for _, name := range sorted(members) {
		gone[name] = map[string]any{"volume": members[name], "at": time.Now().UTC(), "why": "given up by an operator (rmq-entrypoint forget-cluster --force)", "by": "rmq-entrypoint forget-cluster --force on host x"}
	}
	r["members"], r["gone"], r["revision"] = map[string]any{}, gone, fmt.Sprint("given up ", w.consul.index)
	delete(r, "joining")
	delete(r, "unverified")
	w.givenUp, _ = r["cluster_id"].(string)
	w.tell("consul", "** an operator gives up "+w.givenUp)
	w.consul.kv[w.opts.RecordKey] = &api.KVPair{Key: w.opts.RecordKey, Value: render(r), Session: pair.Session, ModifyIndex: w.consul.change()}
}

// restore brings back the record that somebody had replaced.
func (w *World) restore() {
	if w.spoiled != nil && w.consul.kv[w.opts.RecordKey] != nil {
		w.tell("consul", "** the record is restored")
		w.consul.kv[w.opts.RecordKey] = &api.KVPair{Key: w.opts.RecordKey, Value: w.spoiled, ModifyIndex: w.consul.change()}
	}
	w.spoiled = nil
}

// down is kill -9, and the volume's end if it is wiped.
func (n *Node) down(why string, wipe bool) {
	n.w.tell(n.Who, "** "+why)
	if n.box != nil {
		n.box.die()
	}
	if wipe {
		n.volume = n.w.blank(n)
	}
	n.on = false
}

// leave takes the node away for good, unless it is the last one.
func (n *Node) leave() {
	here := 0
	for _, n := range n.w.Nodes {
		if !n.gone {
			here++
		}
	}
	if here > 1 {
		n.down("gone for good", false)
		n.gone = true
	}
}

// calm ends all faults.
func (w *World) calm() {
	w.tell("", "** the faults end")
	w.quiet = true
	w.restore()
	for _, n := range w.Nodes {
		if n.twin == nil {
			continue
		}
		loser := n // somebody sees that there are two, and takes away the one that is no member
		for _, c := range w.clusters {
			if c.members[n.Name] == n.volume && n.volume.db && c.id == w.record().ID {
				loser = n.twin
			}
		}
		loser.down("taken away: its name is another's", false)
		loser.gone = true
	}
	w.consul.away, w.consul.lies = time.Time{}, time.Time{}
	for _, n := range w.Nodes {
		n.on, n.cut, n.frozen, n.token = true, time.Time{}, time.Time{}, lack{}
	}
	w.consul.change()
}

// unsettled says what is missing to one cluster of all nodes, verified.
func (w *World) unsettled() string {
	r := w.record()
	if r.State != "formed" {
		return "the record is " + r.State
	}
	for _, n := range w.Nodes {
		switch {
		case n.gone:
		case n.box == nil || n.box.server == nil || n.box.server.state != running:
			return n.Name + " has no server that runs"
		case n.volume.cluster.id != r.ID:
			return n.Name + " is in another cluster"
		case r.Members[n.Name] == "":
			return n.Name + " is not on record"
		case !w.passes(n):
			return n.Name + " does not pass"
		case !w.Khepri && n.box.server.pauses != (len(r.Members) >= 3):
			return fmt.Sprintf("%s pauses in a minority: %t", n.Name, n.box.server.pauses)
		}
	}
	return ""
}

type record struct {
	State   string            `json:"state"`
	ID      string            `json:"cluster_id"`
	Claim   string            `json:"claim"`
	Seed    string            `json:"seed"`
	Members map[string]string `json:"members"`
	Gone    map[string]struct {
		Unjoined bool `json:"unjoined"`
	} `json:"gone"`
}

func (w *World) record() (r record) {
	if w.spoiled != nil {
		must(json.Unmarshal(w.spoiled, &r))
		return r
	}
	if pair := w.consul.kv[w.opts.RecordKey]; pair != nil {
		must(json.Unmarshal(pair.Value, &r))
	}
	return r
}

func (w *World) passes(n *Node) bool {
	for _, s := range w.consul.catalog {
		if s.Meta["node"] == n.Name && s.Address == n.Addr && s.status == "passing" && s.Meta["cluster_id"] == n.volume.cluster.id {
			return true
		}
	}
	return false
}

// operator says why only a person can go on: what the members of a cluster need
// has been wiped or has left for good.
func (w *World) operator() string {
	r := w.record()
	serves := slices.ContainsFunc(w.Nodes, func(n *Node) bool { return n.runs() && n.volume.cluster.id == r.ID })
	for _, n := range w.Nodes {
		if _, on := r.Members[n.Name]; on && n.gone && r.State == "formed" && !serves {
			return fmt.Sprintf("%s is on record, and has left for good", n.Name)
		}
	}
	for _, n := range w.Nodes {
		if c := n.volume.cluster; !w.wiped.IsZero() && r.State == "formed" && n.volume.db && c.id != r.ID && len(c.members) > 1 {
			return fmt.Sprintf("%s joined %s, which Consul forgot or never knew", n.Name, c.id) // the model's one exception
		}
	}
	if n := w.displaced(r.ID); n != "" {
		return n + " was replaced by a second container of its name, which came while it was down"
	}
	if w.givenUp != "" && !serves {
		for _, n := range w.Nodes {
			if c := n.volume.cluster; !n.gone && n.volume.db && c != nil && c.id == w.givenUp {
				return fmt.Sprintf("%s holds data of %s, which an operator gave up", n.Name, c.id)
			}
		}
	}
	// A join that came to nothing loses nothing, unless the record that knew that it was
	// the first one was lost.
	plainly := func(name string) bool {
		g, gone := r.Gone[name]
		_, on := r.Members[name]
		return gone && !g.Unjoined || !gone && !on && !w.wiped.IsZero()
	}
	for _, c := range w.clusters {
		if !c.public && c.id != r.ID && c != w.adopted {
			continue
		}
		intact, left, half := 0, 0, 0
		var names []string
		for name, v := range c.members {
			switch n := w.node(name); {
			case n.volume == v && !n.gone && v.spoilt && !plainly(name):
				half++
			case n.volume == v && !n.gone && v.db && v.cluster == c: // a half-joined one waits for somebody that runs
				intact++
			case n.volume == v && v.db:
				left++
				names = append(names, name)
			default:
				names = append(names, name)
			}
		}
		if half > 0 && intact == 1 && intact+half == len(c.members) { // of two copies a person must choose
			continue
		}
		if intact+left > 0 && w.Khepri && 2*intact <= len(c.members) {
			return fmt.Sprintf("%s lost its majority for good: %s", c.id, strings.Join(names, ","))
		}
		if left > 0 && intact == 0 {
			return fmt.Sprintf("%s has left with its last member", c.id)
		}
		if w.Khepri {
			continue
		}
		for name, v := range c.members {
			n := w.node(name)
			if n.volume != v || n.gone || n.box == nil || n.box.server == nil || n.box.server.state != booting {
				continue
			}
			for _, last := range v.seen {
				if m := w.node(last); c.members[last] != nil && (c.members[last] != m.volume || m.gone) {
					return fmt.Sprintf("%s waits for %s, which stopped after it and is lost", name, last)
				}
			}
		}
	}
	return ""
}

// Companion notes which process a story may kill as the companion.
func (p *Process) Companion() {
	w := p.Box.Node.w
	w.mu.Lock()
	defer w.mu.Unlock()
	p.Box.companion = p
	w.deaf(p.Box.Node)
}
