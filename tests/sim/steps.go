package sim

import (
	"slices"
	"time"
)

// written looks at a new version of the record: at what was done by it, and at a
// founding, claimed or announced, beside the volumes there are.
func (w *World) written(was, is record) {
	if did := step(was, is); did != "" {
		w.did[did]++
	}
	switch {
	case is.State == "forming":
		w.spring(Claimed, is.Seed)
		if told := w.onClaim; told != nil {
			w.onClaim = nil
			told(is.Seed)
		}
		w.beside("the founding of a cluster was claimed by "+is.Seed, "")
	case is.ID != was.ID || was.State != "formed":
		w.tell("consul", "the record is formed: cluster "+is.ID)
		w.beside("cluster "+is.ID+" was founded", is.ID)
		for _, c := range w.clusters {
			if c.id == is.ID {
				c.recorded = time.Now()
			}
		}
	}
}

// What nodes do, in a [Verdict]. Some of it leaves no trace but the record's next
// version, which tells it by what is different.
const (
	Claimed     = "claimed the founding"
	ClaimedMine = "claimed it again after a restart"
	TookOver    = "took over a dead claim"
	Founded     = "founded the cluster"
	Listed      = "put itself on record"
	Struck      = "removed itself from the record"
	ClaimedNew  = "claimed anew, all being blank"
	Republished = "published a lost record"
	Overruled   = "overruled a claim beside a cluster"
	Alone       = "came up alone by accident"
	Joined      = "joined explicitly"
	WentOn      = "went on with a join that was cut short"
	WentWithout = "went on without one whose join came to nothing"
	Forgot      = "forgot an earlier volume"
	Stopped     = "stopped its server to decide afresh"
	Unheard     = "was not heard to be ready"
	Gated       = "booted behind the gate"
	Opened      = "was told behind the gate whom to join"
	LeftGate    = "left the gate to start anew"
	Revoked     = "was refused by Consul for its token"
)

// Steps are all of them. That a node fills in its own volume on record is none.
var Steps = []string{Claimed, ClaimedMine, TookOver, Founded, Listed, Struck, ClaimedNew, Republished, Overruled, Alone, Joined, WentOn, WentWithout, Forgot, Stopped, Unheard, Gated, Opened, LeftGate, Revoked}

func step(was, is record) string {
	switch {
	case is.State == "forming" && was.State == "":
		return Claimed
	case is.State == "forming" && was.State == "formed":
		return ClaimedNew
	case is.State == "forming" && is.Seed == was.Seed:
		return ClaimedMine
	case is.State == "forming":
		return TookOver
	case was.State == "":
		return Republished
	case was.State == "forming" && is.Claim != was.Claim:
		return Overruled
	case was.State == "forming":
		return Founded
	case len(is.Gone) > len(was.Gone):
		return Struck
	case len(is.Members) > len(was.Members):
		return Listed
	}
	return ""
}

// beside holds a founding against the volumes that are mounted. Beside one with data
// of a cluster that has been on record as formed none may be claimed. Only when Consul
// has lost its data since can nobody know: then one may be claimed, which a member
// that can speak overrules before it is announced.
//
// A server that boots for a claim that was overtaken founds, too, and is neither:
// its cluster never comes on record.
func (w *World) beside(what, id string) {
	for _, n := range w.Nodes {
		c := n.volume.cluster
		if n.gone || !n.volume.db || c == nil || c.id == id || c.members[n.Name] != n.volume {
			continue
		}
		if !c.public && c.recorded.IsZero() {
			switch {
			case c != w.adopted || id == "": // its claim is overruled
			case w.registered(n):
				w.violation("%s while %s is registered and holds data of %s", what, n.Name, c.id)
			default:
				w.excused = "a cluster was moved here after another one had been founded"
			}
			continue
		}
		if c.id == w.givenUp && (!n.runs() || !w.listed(n)) { // or stops just then
			w.excused = "an operator gave the cluster up by force"
			continue
		}
		if w.excused != "" && w.known(id) { // both are there already; one is back on record
			continue
		}
		if w.paired(n) && id == "" { // its claim is overruled
			continue
		}
		if w.paired(n) && (!n.runs() || !n.volume.ran || n.cut.After(time.Now()) || n.lacks(itself, rights)) {
			w.excused = "a second container took the name of a node that was down, cut off from Consul, or never was verified"
			continue
		}
		if !w.wiped.IsZero() && !c.recorded.After(w.wiped) {
			if id == "" {
				continue
			}
			since := w.wiped
			if n.box != nil && n.box.live.After(since) {
				since = n.box.live
			}
			turn := 3 * time.Second // by then members have spoken; a seed gives them longer
			if w.rates.slow+w.rates.lose+w.rates.freeze > 0 {
				turn = w.opts.TTL
			}
			if n.box == nil || n.box.live.IsZero() || time.Since(since) < turn {
				w.excused = "Consul lost its data while no member could speak"
				continue
			}
		}
		w.violation("%s while %s holds data of cluster %s", what, n.Name, c.id)
	}
}

// known reports whether the cluster has been on record as formed.
func (w *World) known(id string) bool {
	return slices.ContainsFunc(w.clusters, func(c *cluster) bool { return c.id == id && !c.recorded.IsZero() })
}

// ambush is for the first node that does a step: it is killed in the middle of it.
type ambush struct {
	step    string
	after   time.Duration
	forGood bool
}

// spring is called when a node begins with a step.
func (w *World) spring(step, name string) {
	a := w.ambush
	if a == nil || a.step != step {
		return
	}
	w.ambush = nil
	time.AfterFunc(a.after, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		n := w.node(name)
		switch {
		case w.quiet || step == Claimed && w.record().State != "forming" || step == Listed && n.volume.half == nil:
		case a.forGood:
			n.leave()
		default:
			n.down("killed while it "+map[string]string{Claimed: "founds", Listed: "joins", Opened: "is told whom to join"}[step], false)
		}
	})
}
