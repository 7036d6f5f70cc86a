package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/peers"
)

// A world answers the questions of node a and does what it is told: what a test does not
// change is a healthy member of three, beat by beat.
type world struct {
	set       Settings
	s         State
	now       time.Time
	health    healthcheck.Result
	rechecked *healthcheck.Result // where RabbitMQ says that it listens; nil: the same
	volume    Volume
	oldAgents bool

	record    peers.Record
	recordErr error
	index     uint64
	catalog   Fact[[]peers.Peer]
	managed   Fact[[]healthcheck.Node]
	views     map[string]Fact[peers.View]
	leaders   map[string]Fact[bool]
	down      map[string]bool // by address
	waits     Fact[Waits]
	queues    Fact[int]
	fails     map[string]error // by action
	lasts     map[string]time.Duration
	said      []Said
	late      []peers.Record // what others write just before this node does

	log  []Line
	seen Observation // of the last beat
}

const (
	ttl     = 15 * time.Second
	version = "4.0.5"
)

var (
	began  = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	errNot = errors.New("no answer yet")
)

func list(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' })
}

func volumes(names string) map[string]string {
	m := map[string]string{}
	for _, n := range list(names) {
		m[n] = "v" + n
	}
	return m
}

func formed(names string) peers.Record {
	return peers.Record{State: peers.Formed, ClusterID: "id", Members: volumes(names), Versions: map[string]string{"a": version}}
}

func viewOf(members, running string) peers.View {
	return peers.View{ClusterID: "id", Members: list(members), Running: list(running), Pauses: true}
}

func passes(node string) peers.Peer {
	return peers.Peer{Node: node, Address: node + ":1", ClusterID: "id", Passing: true, Beating: true, Status: Passing, Start: peers.Start{Volume: "v" + node, Boot: "boot-" + node}}
}

func beats(node string) peers.Peer {
	p := passes(node)
	p.Passing, p.Status = false, Critical
	return p
}

// known has RabbitMQ answer with v, and the management port list the same.
func (w *world) known(v peers.View) {
	w.views["a"] = Answer(v, nil)
	var nodes []healthcheck.Node
	for _, m := range v.Members {
		nodes = append(nodes, healthcheck.Node{Name: m, Running: slices.Contains(v.Running, m), Known: m == "a", Partitions: v.Partitions})
	}
	w.managed = Answer(nodes, nil)
}

// judged is a view that the node was judged by already.
func (w *world) judged(v peers.View) {
	w.known(v)
	w.s.View.View = v
}

func (w *world) listed(ps ...peers.Peer) {
	w.catalog = Answer(append([]peers.Peer{w.mine()}, ps...), nil)
}

func (w *world) mine() peers.Peer {
	p := passes("a")
	p.ClusterID, p.Boot, p.Made = w.s.Entry.ClusterID, w.set.Boot, "made"
	return p
}

func newWorld() *world {
	w := &world{
		set: Settings{Node: "a", Volume: "va", Boot: "boot", Version: version, TTL: ttl, DeregisterAfter: 5 * time.Minute, JoinTimeout: 3 * time.Minute, RecordKey: "the/key", SurvivingQueues: true,
			Interval: time.Second}, // which cuts short no time that others are given
		now: began, health: healthcheck.Result{State: healthcheck.Passing, Reason: "answers"},
		record: formed("a,b,c"), index: 7,
		views: map[string]Fact[peers.View]{}, leaders: map[string]Fact[bool]{}, down: map[string]bool{}, fails: map[string]error{},
		waits: Answer(Waits{}, errNot), queues: Answer(0, errNot),
	}
	w.s = Start(w.set, Membership{Role: Member, ClusterID: "id", Verified: true, VerifiedSince: began.Add(-50 * time.Minute)}, began.Add(-time.Hour))
	w.s.Server.Phase, w.s.Server.Located = Serving, true
	w.s.Entry = Entry{ClusterID: "id", ReportedAt: began.Add(-5 * time.Second), Status: Passing}
	w.s.View = View{At: began.Add(-5 * time.Second), SaidAt: began.Add(-time.Minute), RecordIndex: 7, PassingPeers: "b,c"}
	w.judged(viewOf("a,b,c", "a,b,c"))
	w.listed(passes("b"), passes("c"))
	w.marker(Marker{ClusterID: "id", Volume: "va", Members: list("a,b,c"), At: began.Add(-5 * time.Second)})
	return w
}

// boots makes the node one whose server has not said READY.
func (w *world) boots(role Role) {
	w.s.Server = Server{Started: began.Add(-time.Minute), LastStatus: "Startup in progress"}
	w.s.Membership.Role, w.s.Membership.Verified, w.s.Membership.VerifiedSince = role, false, Never
	w.health = healthcheck.Result{Reason: "refused"}
	listens(w)
}

// stops makes it one that stopped by itself.
func (w *world) stops() {
	w.s.Server.Phase, w.s.Server.LastStatus, w.s.Server.StoppedAt = Stopped, "stopped (stopping)", began.Add(-time.Minute)
	w.s.Membership.Verified = false
	w.health = healthcheck.Result{}
	listens(w)
}

// serves makes it one that is to be verified as what its role says.
func (w *world) serves(role Role) {
	w.s.Membership = Membership{Role: role, Claim: "claim"}
	w.s.Entry.ClusterID = ""
	w.volume.Marker = peers.Seen[*Marker]{}
	w.listed(passes("b"), passes("c"))
}

func (w *world) marker(m Marker) {
	w.volume.Marker, w.s.Upkeep.Marker = peers.Seen[*Marker]{Value: &m}, m
}

func (w *world) order(o CarryOn) {
	o.ClusterID = "id"
	w.volume.CarryOn.Value = &o
}

func (w *world) drained(o Maintenance) { w.volume.Maintenance.Value = &o }

// beat looks, decides and acts, and tells what came of it, step by step.
func (w *world) beat(t testing.TB) (Verdict, []string) {
	if w.s.Neighbours.GoneSince == nil {
		w.sawGone()
	}
	w.seen = Observation{Began: w.now, Glance: Glance{Health: w.health, Volume: w.volume, OldAgents: w.oldAgents, ID: "fresh", Made: "made"}}
	var trace []string
	for range MostSteps {
		w.seen.Now = w.now
		v := checked(t, "Decide", func(s State, o Observation) Verdict { return Decide(w.set, s, o) }, w.s, w.seen)
		if v.Ask != nil {
			trace = append(trace, w.answer(*v.Ask))
			continue
		}
		w.s, w.log = v.State, append(w.log, v.Log...)
		if v.Do == nil {
			word := v.Status + ": " + v.Reason
			if v.Again > 0 {
				word += ", again after " + v.Again.String()
			}
			return v, append(trace, word)
		}
		trace = append(trace, w.act(v))
	}
	t.Fatalf("a beat without an end: %s", trace)
	return Verdict{}, nil
}

// sawGone has this companion see each member go when the record says that it went.
func (w *world) sawGone() {
	w.s.Neighbours.GoneSince = map[string]Sighting{}
	for n, g := range w.record.Gone {
		w.s.Neighbours.GoneSince[n] = Sighting{g.Volume, g.At, g.At}
	}
}

// local looks at the node before Consul is asked, and tells what came of it. What was answered
// is in the observation that a beat begins with.
func (w *world) local(t testing.TB) (Verdict, []string) {
	w.seen = Observation{Now: w.now, Began: w.now, Glance: Glance{Health: w.health, Volume: w.volume, OldAgents: w.oldAgents, ID: "fresh"}}
	var trace []string
	for range MostSteps {
		v := checked(t, "Local", func(s State, o Observation) Verdict { return Local(w.set, s, o) }, w.s, w.seen)
		if v.Ask == nil {
			return v, append(trace, v.Status+": "+v.Reason)
		}
		before := w.seen
		if trace = append(trace, w.answer(*v.Ask)); w.seen.Nodes["a"].View.Err != nil || w.seen.Nodes["a"].Leader.Err != nil {
			w.seen = before // a beat asks again
			return Verdict{}, append(trace, ": ")
		}
	}
	t.Fatalf("a look without an end: %s", trace)
	return Verdict{}, nil
}

// chores has the node do what is left to do.
func (w *world) chores(t testing.TB) (trace []string) {
	w.seen.Did = nil
	for range MostSteps {
		v := checked(t, "NextChore", func(s State, o Observation) Verdict { return NextChore(w.set, s, o) }, w.s, w.seen)
		w.s, w.log = v.State, append(w.log, v.Log...)
		if v.Do == nil {
			return trace
		}
		trace = append(trace, w.act(v))
	}
	t.Fatalf("chores without an end: %s", trace)
	return nil
}

// answer fills what was asked for.
func (w *world) answer(q Question) string {
	switch q.What {
	case AskRecord:
		w.seen.Record = Answer(Record{Record: w.record, Index: w.index}, w.recordErr)
	case AskCatalog:
		w.seen.Catalog = w.catalog
	case AskManaged:
		w.seen.Managed = w.managed
	case AskWaits:
		w.seen.Waits = w.waits
	case AskCheck:
		w.seen.Health, w.seen.Rechecked = w.health, true
		if w.rechecked != nil {
			w.seen.Health = *w.rechecked
		}
	case AskQueues:
		w.seen.Queues = w.queues
	case AskView:
		w.seen.See(q.Node, func(n *Node) { n.View = answered(w.views, q.Node) })
	case AskLeader:
		w.seen.See(q.Node, func(n *Node) { n.Leader = answered(w.leaders, q.Node) })
	case AskDown:
		w.seen.See(q.Node, func(n *Node) {
			if n.Down == nil {
				n.Down = map[string]bool{}
			}
			n.Down[q.Address] = w.down[q.Address]
		})
	}
	w.now = w.now.Add(w.lasts[string(q.What)])
	text := strings.TrimSpace(fmt.Sprint("ask ", q.What, " ", q.Node))
	if q.Within > 0 {
		text += " within " + q.Within.String()
	}
	return text
}

func answered[T any](from map[string]Fact[T], node string) Fact[T] {
	if f, ok := from[node]; ok {
		return f
	}
	var none T
	return Answer(none, errNot)
}

// act does what is to be done, and has it noted.
func (w *world) act(v Verdict) string {
	name := strings.TrimPrefix(fmt.Sprintf("%T", v.Do), "policy.")
	out := Outcome{Rule: v.Rule, Action: v.Do, Err: w.fails[name], Said: w.said}
	text := w.effect(name, v.Do, &out)
	if v.Finish {
		text += "!"
	}
	w.seen.Volume = w.volume
	var log []Line
	w.s, w.seen, log = Ended(w.set, w.s, w.seen, out)
	w.log = append(w.log, log...)
	return text
}

func (w *world) effect(name string, a Action, out *Outcome) string {
	done := out.Err == nil
	switch a := a.(type) {
	case WriteRecord:
		if done && len(w.late) > 0 {
			w.record, w.late = w.late[0], w.late[1:]
			w.index++
			out.Err = fmt.Errorf("not written: %w", ErrChanged)
		} else if done && a.Index != w.index {
			out.Err = ErrChanged
		} else if done {
			w.record = a.Record
			w.index++
		}
		return fmt.Sprintf("%s(%s)", name, a.What)
	case Enroll:
		if m := a.Marker; done {
			w.volume.Marker.Value = &m
		}
	case WritePending:
		return fmt.Sprintf("%s(%s)", name, a.Pending.Role)
	case ForgetMember:
		return fmt.Sprintf("%s(%s on %s)", name, a.Node, a.Asked)
	case JoinPeer:
		return fmt.Sprintf("%s(%s)", name, a.Peer)
	case ForceBoot:
		if v := w.views["a"]; done && a.Khepri { // it forgets them
			v.Value.Members = without(v.Value.Members, func(m string) bool { return slices.Contains(a.Lost, m) })
			w.views["a"] = v
		}
		return fmt.Sprintf("%s(%s khepri=%t paused=%t)", name, strings.Join(a.Lost, ","), a.Khepri, a.Paused)
	case Settle:
		v := w.views["a"].Value
		v.Members = without(v.Members, func(m string) bool { return slices.Contains(a.Lost, m) })
		w.known(v)
		s := w.s
		s.View.View = v
		if m := NewMarker(w.set, s, w.now); done {
			w.volume.Marker.Value = &m
		}
		w.seen.See("a", func(n *Node) { n.View = w.views["a"] })
		return fmt.Sprintf("%s(%s shrink=%t)", name, strings.Join(a.Lost, ","), a.Shrink)
	case WriteCarryOn:
		if done {
			w.volume.CarryOn.Value = &a.Order
		}
		return fmt.Sprintf("%s(%s forced=%t)", name, strings.Join(a.Order.Lost, ","), a.Order.Forced)
	case DropCarryOn:
		if done {
			w.volume.CarryOn.Value = nil
		}
	case EndMaintenance:
		if done {
			w.volume.Maintenance.Value = nil
		}
		return fmt.Sprintf("%s(revive=%t unwatched=%t)", name, a.Revive, a.Unwatched)
	case WriteMarker:
		if m := a.Marker; done {
			w.volume.Marker.Value = &m
		}
	case GrowReplicas:
		return fmt.Sprintf("%s(%d refill=%t)", name, a.Few, a.Refill)
	case SetPauseMinority:
		if v := w.views["a"]; done {
			v.Value.Pauses = a.On
			w.views["a"] = v
		}
		return fmt.Sprintf("%s(%t)", name, a.On)
	}
	return name
}

// said tells whether the log has a line with these words.
func (w *world) logged(words string) bool {
	return slices.ContainsFunc(w.log, func(l Line) bool { return matches(l.Text+" "+strings.Trim(fmt.Sprint(l.Attrs), "[]"), "*"+words+"*") })
}

// matches compares text with a pattern whose * are anything.
func matches(text, pattern string) bool {
	parts := strings.Split(pattern, "*")
	text, ok := strings.CutPrefix(text, parts[0])
	if len(parts) == 1 {
		return ok && text == ""
	}
	for _, p := range parts[1 : len(parts)-1] {
		_, rest, found := strings.Cut(text, p)
		text, ok = rest, ok && found
	}
	return ok && strings.HasSuffix(text, parts[len(parts)-1])
}

// row is a beat: what is other than in a healthy world, and all that came of it.
type row struct {
	name string
	set  func(w *world)
	want string              // steps, parted by "; ", with * for anything
	then func(*world) string // what is wrong after that, or ""
}

func run(t *testing.T, rows []row) {
	t.Helper()
	for _, r := range rows {
		w := newWorld()
		r.set(w)
		_, trace := w.beat(t)
		if got := strings.Join(trace, "; "); !matches(got, r.want) {
			t.Errorf("%s:\n got %s\nwant %s", r.name, got, r.want)
		}
		if r.then != nil {
			if wrong := r.then(w); wrong != "" {
				t.Errorf("%s: %s", r.name, wrong)
			}
		}
	}
}

// check returns what is wrong for each condition that does not hold.
func check(conditions ...any) string {
	var wrong []string
	for i := 0; i < len(conditions); i += 2 {
		if !conditions[i].(bool) {
			wrong = append(wrong, fmt.Sprint(conditions[i+1]))
		}
	}
	return strings.Join(wrong, "; ")
}

func join(trace []string) string { return strings.Join(trace, "; ") }

func (w *world) on(names string) bool {
	return maps.EqualFunc(w.record.Members, volumes(names), func(string, string) bool { return true })
}
