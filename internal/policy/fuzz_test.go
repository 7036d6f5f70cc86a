package policy

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/peers"
)

// copied is a deep copy.
func copied[T any](v T) T { return deep(reflect.ValueOf(&v).Elem()).Interface().(T) }

func deep(v reflect.Value) reflect.Value {
	to := reflect.New(v.Type()).Elem()
	to.Set(v)
	switch v.Kind() {
	case reflect.Pointer:
		if _, err := v.Interface().(error); !err && !v.IsNil() && v.Type() != reflect.TypeFor[*time.Location]() {
			to.Set(reflect.New(v.Type().Elem()))
			to.Elem().Set(deep(v.Elem()))
		}
	case reflect.Interface:
		if !v.IsNil() {
			to.Set(deep(v.Elem()))
		}
	case reflect.Slice:
		if !v.IsNil() {
			to.Set(reflect.MakeSlice(v.Type(), v.Len(), v.Len()))
			for i := range v.Len() {
				to.Index(i).Set(deep(v.Index(i)))
			}
		}
	case reflect.Map:
		if !v.IsNil() {
			to.Set(reflect.MakeMap(v.Type()))
			for _, k := range v.MapKeys() {
				to.SetMapIndex(k, deep(v.MapIndex(k)))
			}
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			break
		}
		for i := range v.NumField() {
			if to.Field(i).CanSet() {
				to.Field(i).Set(deep(v.Field(i)))
			}
		}
	}
	return to
}

// checked calls f and holds it against what is promised of every verdict.
func checked(t testing.TB, name string, f func(State, Observation) Verdict, s State, o Observation) Verdict {
	t.Helper()
	s0, o0 := copied(s), copied(o)
	v := f(s, o)
	if !reflect.DeepEqual(s0, s) || !reflect.DeepEqual(o0, o) {
		t.Errorf("%s changed what it was given", name)
	}
	if again := f(s0, o0); !reflect.DeepEqual(v, again) {
		t.Errorf("%s decided otherwise when asked again:\n%+v\n%+v", name, v, again)
	}
	return v
}

// dice makes a world of what bytes say.
type dice []byte

func (d *dice) next() int {
	if len(*d) == 0 {
		return 0
	}
	b := (*d)[0]
	*d = (*d)[1:]
	return int(b)
}

func (d *dice) yes() bool  { return d.next()%2 == 1 }
func (d *dice) rare() bool { return d.next()%8 == 7 }

func pick[T any](d *dice, of ...T) T { return of[d.next()%len(of)] }

// ago is a time that was, or never.
func (d *dice) ago() time.Time {
	if since := pick(d, 0, time.Second, 7*time.Second, 12*time.Second, 25*time.Second, time.Minute, 3*time.Minute, 10*time.Minute, time.Hour); since > 0 {
		return began.Add(-since)
	}
	return Never
}

// some of the names.
func (d *dice) some(names ...string) (s []string) {
	b := d.next()
	for i, n := range names {
		if b&(1<<i) != 0 {
			s = append(s, n)
		}
	}
	return s
}

func (d *dice) err() error {
	if d.rare() {
		return errNot
	}
	return nil
}

func (d *dice) view(node string) Fact[peers.View] {
	if d.rare() {
		if d.yes() {
			return Answer(peers.View{Members: append([]string{node}, d.some("d")...), Khepri: true}, errNot) // without its cluster's id
		}
		return Answer(peers.View{}, errNot)
	}
	v := peers.View{ClusterID: pick(d, "id", "id", "id", "other"), Members: d.some("a", "b", "c", "d"), Khepri: d.yes()}
	if !slices.Contains(v.Members, node) {
		v.Members = append([]string{node}, v.Members...)
		slices.Sort(v.Members)
	}
	v.Running = v.Members
	if d.yes() {
		v.Running = d.some(v.Members...)
	}
	if !v.Khepri && d.rare() {
		v.Partitions, v.Pauses, v.Sides = d.some("b", "c"), !d.rare(), map[string]peers.Side{}
		for _, m := range d.some(v.Members...) {
			v.Sides[m] = peers.Side{With: d.some(v.Members...), From: d.some(v.Members...)}
		}
	}
	return Answer(v, nil)
}

func (d *dice) record() peers.Record {
	r := peers.Record{Members: map[string]string{}}
	switch pick(d, 0, 1, 2, 2, 2, 2, 2, 2) {
	case 0:
		return r
	case 1:
		r.State, r.Seed, r.Claim = peers.Forming, pick(d, "a", "b"), pick(d, "claim", "another")
		r.Members[r.Seed] = "v" + r.Seed
		return r
	}
	r.State, r.ClusterID = peers.Formed, pick(d, "id", "id", "id", "other")
	for _, n := range d.some("a", "b", "c", "d") {
		r.Members[n] = pick(d, "v"+n, "v"+n, "v"+n, "", "another")
	}
	for _, n := range d.some("a", "b", "c", "d") {
		if _, on := r.Members[n]; on || d.yes() {
			continue
		}
		if r.Gone == nil {
			r.Gone = map[string]peers.Gone{}
		}
		r.Gone[n] = peers.Gone{
			Volume: pick(d, "v"+n, "another", ""), At: d.ago(), Why: pick(d, "its volume came up blank", "given up by an operator (x)"), By: pick(d, "", n, "alice"),
			Left: d.rare(), MayReturn: d.yes(), Final: d.rare(), Unjoined: d.rare(),
		}
	}
	if d.rare() {
		r.Joining, r.Unverified = map[string]string{"a": "va"}, map[string]string{"a": pick(d, "va", "another")}
	}
	if d.rare() {
		r.Replaced = []peers.Replaced{{Node: "a", Gone: peers.Gone{Volume: "va", MayReturn: d.yes()}}}
	}
	if d.yes() {
		r.Versions = map[string]string{"a": version}
	}
	return r
}

func (d *dice) world() *world {
	w := newWorld()
	w.set.Version = pick(d, "3.10.8", "3.13.7", version, "4.3.6")
	w.set.ForceBoot, w.set.Replaced = d.rare(), d.rare()
	w.set.SurvivingQueues, w.set.OwnPartitionHandling = d.yes(), d.rare()
	w.health = healthcheck.Result{State: pick(d, healthcheck.Critical, healthcheck.Warning, healthcheck.Passing, healthcheck.Passing), Reason: "answers"}
	w.record, w.recordErr, w.index = d.record(), d.err(), uint64(d.next()%3)
	for range d.next() % 4 / 3 * 5 {
		w.late = append(w.late, d.record())
	}
	w.managed = Answer([]healthcheck.Node(nil), errNot)
	for _, n := range []string{"a", "b", "c", "d"} {
		w.views[n] = d.view(n)
		w.leaders[n] = Answer(d.yes(), d.err())
		w.down[n+":1"] = d.yes()
	}
	if v := w.views["a"]; v.Err == nil && d.yes() {
		w.known(v.Value)
	}
	w.s = State{
		Server:     Server{Phase: pick(d, Serving, Serving, Serving, Booting, Stopped), LastStatus: "booting", Started: d.ago(), StoppedAt: d.ago()},
		Membership: Membership{Role: pick(d, Member, Member, Joining, Seeding), Claim: "claim"},
		Entry:      Entry{ClusterID: pick(d, "id", "", "other"), ReportedAt: d.ago(), Lapsed: d.rare()},
		View:       View{View: pick(d, w.views["a"].Value, viewOf("a", "a"), viewOf("a,b,c", "a,b")), At: d.ago(), RecordIndex: uint64(d.next() % 3), PassingPeers: pick(d, "", "b", "b,c")},
		Partition:  Partition{RestartedAt: d.ago()},
		Neighbours: Neighbours{LeaderMissing: d.yes(), UnseenSince: map[string]time.Time{"b": d.ago()}},
		Join:       Join{Deadline: pick(d, began.Add(time.Minute), began.Add(-time.Minute))},
		Upkeep:     Upkeep{PauseMinority: d.yes(), GrowTries: d.next() % 3},
	}
	if w.s.Membership.Role == Member && d.yes() {
		w.s.Membership.ClusterID = "id"
	}
	if w.s.Membership.ClusterID != "" && d.yes() {
		w.s.Membership.VerifiedSince = d.ago()
	}
	if w.s.Server.Phase == Serving && w.s.Membership.ClusterID != "" && !w.s.Membership.VerifiedSince.IsZero() {
		w.s.Membership.Verified = !d.rare()
	}
	if d.yes() {
		w.s.Join.StalledSince, w.s.Join.StalledLooks = began.Add(-time.Minute), 1+d.next()%5
	}
	if len(w.s.View.Partitions) > 0 {
		w.s.Partition.Since, w.s.Fault = began.Add(-time.Minute), Fault{"partitioned from b", d.yes()}
	}
	ps := []peers.Peer{}
	for _, n := range d.some("a", "b", "c", "d") {
		p := passes(n)
		p.Passing, p.Beating, p.Blank, p.AgentFailed = d.yes(), d.yes(), d.rare(), d.rare()
		p.ClusterID, p.Volume = pick(d, "id", "", "other"), pick(d, "v"+n, "another")
		if n == "a" && d.yes() {
			p.Boot = w.set.Boot
		}
		ps = append(ps, p)
	}
	w.catalog = Answer(ps, d.err())
	w.waits = Answer(Waits{Members: d.some("a", "b", "c"), For: d.some("b", "c"), Paused: d.yes()}, d.err())
	w.queues = Answer(d.next()%2, d.err())
	w.oldAgents = d.rare()
	d.onVolume(w)
	d.theme(w)
	return w
}

// theme makes of a world one that chance rarely makes.
func (d *dice) theme(w *world) {
	m := &w.s.Membership
	alone := peers.View{ClusterID: "mine", Members: list("a"), Running: list("a"), Khepri: d.yes()}
	unverified := func(role Role) {
		*m = Membership{Role: role, Claim: "claim"}
		w.s.Server.Phase, w.health.State, w.volume.Maintenance.Value, w.volume.CarryOn.Value = Serving, healthcheck.Passing, nil, nil
		w.s.Server.Started = pick(d, began.Add(-time.Minute), began.Add(-time.Minute), began.Add(-time.Second))
	}
	switch d.next() % 12 {
	case 0: // came up alone
		unverified(Joining)
		w.known(alone)
		w.queues.Err, w.recordErr = nil, nil
	case 1: // founds a cluster
		unverified(Seeding)
		w.record, w.recordErr, w.catalog.Err = peers.Record{State: peers.Forming, Seed: "a", Claim: "claim", Members: map[string]string{"a": "va"}}, nil, nil
		w.known(alone)
	case 2, 3: // the others came up blank
		*m = Membership{Role: Member, ClusterID: "id", Verified: d.yes(), VerifiedSince: began.Add(-time.Hour)}
		m.Verified = m.Verified && w.s.Server.Phase == Serving
		w.record, w.recordErr = formed("a"), nil
		w.record.Gone = map[string]peers.Gone{"b": {At: began, Why: "x", MayReturn: d.yes(), Unjoined: d.rare(), Left: d.rare()}, "c": {At: d.ago(), Why: "x", Unjoined: d.rare()}}
		if d.rare() {
			w.record = w.record.With("c", "vc")
		}
		v := viewOf("a,b,c", pick(d, "a", "a", "a,b", "a,c"))
		v.Khepri = d.yes()
		w.judged(v)
		w.marker(Marker{ClusterID: "id", Volume: "va", Members: list("a"), At: began})
		if w.waits = Answer(Waits{list("a,b,c"), d.some("b", "c"), d.yes()}, nil); d.yes() {
			w.order(CarryOn{Lost: pick(d, list("b,c"), list("b")), Forced: d.yes()})
		}
	case 4, 5: // verified, and something is wrong with a neighbour or the record
		*m = Membership{Role: Member, ClusterID: "id", Verified: true, VerifiedSince: began.Add(-time.Hour)}
		w.s.Server.Phase, w.health.State, w.volume.Maintenance.Value, w.volume.CarryOn.Value = Serving, healthcheck.Passing, nil, nil
		w.s.Entry, w.catalog.Err = Entry{ClusterID: "id", ReportedAt: began}, nil
		v := viewOf("a,b,c", pick(d, "a,b,c", "a,b", "a"))
		if v.Khepri = d.yes(); !v.Khepri && d.yes() {
			v.Partitions, v.Pauses = list("c"), true
			v.Sides = map[string]peers.Side{"a": {With: d.some("a", "b"), From: list("c")}, "b": {With: list("a,b"), From: list("c")}, "c": {With: list("c"), From: list("a,b")}}
		}
		w.judged(v)
		w.s.Partition.Since, w.s.Fault = Never, Fault{}
		if w.record.State == peers.Formed {
			w.record.ClusterID = "id"
		}
	case 6: // booting or stopped as a joiner that is counted in
		*m = Membership{Role: Joining, Claim: "claim"}
		w.s.Server.Phase, w.s.Server.Started = pick(d, Booting, Stopped), began.Add(-time.Minute)
		w.health = healthcheck.Result{Reason: "refused"}
		w.volume.Database, w.catalog = peers.Seen[bool]{}, Answer([]peers.Peer{passes("b")}, nil)
		v := viewOf("a,b", "b")
		v.Khepri, v.ClusterID = true, "id"
		w.views["b"], w.leaders["b"] = Answer(v, nil), Answer(d.rare(), nil)
		w.views["a"] = Answer(peers.View{Members: pick(d, list("a"), list("a,b")), Khepri: true}, errNot)
	}
}

func (d *dice) onVolume(w *world) {
	w.volume = Volume{CommandRuns: d.rare(), KhepriFlag: d.rare()}
	w.volume.Database = peers.Seen[bool]{Value: d.yes(), Err: d.err()}
	if d.yes() {
		w.marker(Marker{ClusterID: pick(d, "id", "id", "other"), Volume: "va", Members: list("a"), At: began, Regrow: d.yes()})
	}
	if d.rare() {
		w.drained(Maintenance{Leaving: d.yes(), Drained: d.yes(), Done: d.yes(), At: d.ago()})
	}
	if d.rare() {
		w.order(CarryOn{Lost: d.some("b", "c"), Forced: d.yes()})
	}
	if d.rare() {
		err := errors.New("damaged")
		switch d.next() % 3 {
		case 0:
			w.volume.Maintenance = peers.Seen[*Maintenance]{Err: err}
		case 1:
			w.volume.CarryOn = peers.Seen[*CarryOn]{Err: err}
		default:
			w.volume.Marker = peers.Seen[*Marker]{Err: err}
		}
	}
	for _, a := range []string{"WriteRecord", "SetMirrors", "Enroll", "WritePending", "StopServer", "FailJoin", "ForgetMember", "JoinPeer", "RestartApp", "ForceBoot",
		"Settle", "WriteCarryOn", "DropCarryOn", "EndMaintenance", "LeaveAgents", "GrowReplicas", "WriteMarker", "SetPauseMinority"} {
		if d.rare() {
			w.fails[a] = pick(d, errNot, ErrNoAnswer, ErrCommandRuns, error(&NotRevivedError{errNot}))
		}
	}
	w.said = pick(d, nil, []Said{{"q", "ok"}}, []Said{{"q", "later"}, {"r", "busy"}})
}

// FuzzDecide holds beats and events in worlds of any kind against what is promised.
func FuzzDecide(f *testing.F) {
	for i := range 64 {
		seed := make([]byte, 400)
		x := uint32(i*2654435761 + 1)
		for j := range seed {
			x ^= x << 13
			x ^= x >> 17
			x ^= x << 5
			seed[j] = byte(x >> 11)
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) { walk(t, dice(b)) })
}

// TestDecide walks as many worlds as take a moment.
func TestDecide(t *testing.T) {
	t.Parallel()
	spoke := map[string]int{}
	x := uint64(1)
	for range 4000 {
		b := make([]byte, 300)
		for j := range b {
			x = x*6364136223846793005 + 1442695040888963407
			b[j] = byte(x >> 40)
		}
		for _, r := range walk(t, dice(b)) {
			spoke[r]++
		}
		if t.Failed() {
			t.Fatalf("world %v", b)
		}
	}
	for _, p := range phases {
		for _, r := range p.rules {
			silent := []string{"namesake", "missingFromCatalog", "foreignEntry", "ttlLapsed", "membersOnRecord"}
			if spoke[r.name] == 0 && !slices.Contains(silent, r.name) {
				t.Errorf("the rule %s never spoke", r.name)
			}
		}
	}
}

// walk lives through a few beats, events and chores.
func walk(t testing.TB, d dice) (spoke []string) {
	w := d.world()
	for range 4 {
		v := w.walkBeat(t, &spoke)
		if v.State.Membership.Verified && !v.Out {
			w.chores(t)
		}
		w.s.Entry = w.s.Entry.Reported(w.now)
		w.s.Entry, _ = w.s.Entry.Renew(v.Status, w.now, w.set.DeregisterAfter)
		w.valid(t)
		w.now = w.now.Add(pick(&d, 5*time.Second, 20*time.Second, time.Minute))
		s0 := copied(w.s)
		switch d.next() % 6 {
		case 0:
			w.s, _ = Heard(w.set, w.s, pick(&d, "READY=1", "STOPPING=1", "STATUS=Startup in progress", "STATUS=x\nX=y"), w.now)
		case 1:
			w.s, _ = Closed(w.set, w.s, healthcheck.Reason{Stopping: d.yes(), Text: "320"}, w.now)
		case 2:
			w.s = w.s.EntryLost()
		}
		if w.valid(t); s0.Upkeep.GrowTries < 0 {
			t.Errorf("%d tries left", s0.Upkeep.GrowTries)
		}
		w.views["a"] = d.view("a")
		if d.rare() {
			w.record = d.record()
			w.index++
		}
	}
	return spoke
}

// walkBeat is a beat of which every step is looked at.
func (w *world) walkBeat(t testing.TB, spoke *[]string) Verdict {
	w.seen = Observation{Began: w.now, Health: w.health, Volume: w.volume, OldAgents: w.oldAgents, ID: "fresh"}
	asked := map[string]int{}
	for range MostSteps {
		w.seen.Now = w.now
		v := checked(t, "Decide", func(s State, o Observation) Verdict { return Decide(w.set, s, o) }, w.s, w.seen)
		*spoke = append(*spoke, v.Rule)
		wrong := func(format string, args ...any) {
			t.Helper()
			t.Errorf("rule %s, %+v, after %+v with %+v: "+format, append([]any{v.Rule, v.Do, w.seen.Did, w.seen.Record}, args...)...)
		}
		if v.Rule == "" || v.Ask != nil && v.Do != nil || !v.pending() && (v.Status == "" || v.Reason == "") || v.Finish && v.Do == nil {
			wrong("it neither asks, nor does, nor says")
		}
		if v.Ask != nil {
			q := w.answer(*v.Ask)
			if asked[q+v.Ask.Address]++; asked[q+v.Ask.Address] > 1 && (v.Ask.What != AskRecord || asked[q] > 2*mostWrites) {
				wrong("it asks %s again", q)
			}
			continue
		}
		w.s = v.State
		w.valid(t)
		if v.Do == nil {
			if v.Status != Critical && !v.State.Membership.Verified {
				wrong("%s, and not verified", v.Status)
			}
			if v.Rule == "healthy" && w.s.Fault.Reason != "" {
				wrong("healthy with a fault")
			}
			return v
		}
		if _, again := v.Do.(Enroll); again && w.seen.enrolled() {
			wrong("verified twice")
		}
		if why := w.forbidden(v); why != "" {
			wrong("%s", why)
		}
		if _, boots := v.Do.(ForceBoot); boots { // what RabbitMQ waited for is news
			clear(asked)
		}
		w.act(v)
		w.valid(t)
	}
	t.Fatal("a beat without an end")
	return Verdict{}
}

// forbidden says why an action must not be done here, in words that do not follow the code.
func (w *world) forbidden(v Verdict) string {
	r, known := w.seen.Record.Value, w.seen.Record.Known()
	m, phase := v.State.Membership, v.State.Server.Phase
	g := r.Gone["a"]
	switch a := v.Do.(type) {
	case RestartApp:
		return check(m.Role == Member, "only a member restarts", phase == Serving, "RabbitMQ does not run", len(w.s.View.Partitions) > 0, "there is no partition", w.s.View.Pauses, "RabbitMQ is not to pause")
	case EndMaintenance:
		return check(phase == Serving, "RabbitMQ does not serve", w.health.State != healthcheck.Critical || a.Revive, "its check fails", !a.Revive || known, "the record is unknown")
	case FailJoin:
		return check(m.Role == Joining && phase != Serving, "only a joiner that does not serve gives up")
	case StopServer:
		_, on := r.Members["a"]
		switch {
		case strings.HasPrefix(v.Rule, "join"):
			return check(m.Role == Joining && phase != Serving, "only a joiner that does not serve gives up")
		case !known:
			return "the record is unknown"
		case v.Rule == "leaving":
			return check(g.Left && !on && w.now.Sub(g.At) >= leaveGrace, "it has not left")
		case v.Rule == "carryOnOrder":
			return check(w.waits.Value.Paused && m.Role == Member, "it did not pause")
		}
		refuses := r.State == peers.Formed && r.Members["a"] != "va" && (on || w.s.View.ClusterID != r.ClusterID || r.Gone["a"].Why != "")
		return check(v.Rule == "membership", "no such rule", phase == Serving && !m.Verified, "it is verified", m.Role != Member && len(w.s.View.Members) == 1 || refuses && (m.VerifiedSince.IsZero() || g.At.After(m.VerifiedSince)), "nothing speaks against it")
	case WritePending:
		return check(known && m.Role != Member && len(w.s.View.Members) == 1 && phase == Serving, "what it founded may be data")
	}
	if !known {
		return "the record is unknown"
	}
	switch a := v.Do.(type) {
	case WriteRecord:
		_, on := a.Record.Members["a"]
		return check(r.State != peers.Formed || r.ClusterID == a.Record.ClusterID, "it replaces another cluster's record", a.Index == r.Index, "it replaces another record than it saw",
			a.Record.State == peers.Formed && a.Record.ClusterID != "", "not a formed record", on, "without this node", m.Role == Member || phase == Serving, "it is blank")
	case Enroll:
		return check(phase == Serving && !m.Verified, "it is verified, or does not serve", r.State == peers.Formed && r.ClusterID == a.Marker.ClusterID && r.Members["a"] == "va", "it is not on record with this volume",
			slices.Contains(w.s.View.Running, "a"), "RabbitMQ does not run here")
	case JoinPeer:
		return check(m.Role == Joining && !m.Verified && len(w.s.View.Members) == 1 && w.queues.Err == nil && w.queues.Value == 0, "it may hold data")
	case ForgetMember:
		return check(a.Node == "a" && m.Role == Joining && len(w.s.View.Members) == 1, "not its to forget")
	case ForceBoot, Settle:
		return check(m.Role == Member && w.volume.CarryOn.Value != nil, "nobody ordered it")
	}
	return ""
}

// valid holds the state against what its types promise.
func (w *world) valid(t testing.TB) {
	t.Helper()
	s := w.s
	wrong := check(
		!s.Membership.Verified || s.Server.Phase == Serving && s.Membership.Role == Member && s.Membership.ClusterID != "" && !s.Membership.VerifiedSince.IsZero(), "verified without what it takes",
		s.Entry.MissingSince.IsZero() || !s.Entry.ReportedAt.IsZero(), "missing before it was reported",
		!s.Fault.Degraded || s.Fault.Reason != "", "degraded without a reason",
		(s.Join.StalledLooks > 0) == !s.Join.StalledSince.IsZero(), "looks without a time",
		s.Majority.Unknown == nil || s.Majority.Lost == nil, "lost and unknown",
		s.Upkeep.Warning == "" || !s.Upkeep.PairSince.IsZero(), "warned of two nodes that are not two",
		s.Partition.Restarting == "" || !s.Partition.RestartedAt.IsZero(), "restarting without a time",
	)
	if wrong != "" {
		t.Errorf("%s: %+v", wrong, s)
	}
}

func (o Observation) enrolled() bool {
	return slices.ContainsFunc(o.Did, func(out Outcome) bool { _, ok := out.Action.(Enroll); return ok && out.Err == nil })
}
