package policy

import (
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
		w.s.Entry = w.s.Entry.Reported(v.Status, w.now)
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
	asked := map[string]int{}
	local, trace := w.local(t)
	if local.Do != nil || len(local.Log) > 0 || local.Status != "" && local.Status != Critical {
		t.Errorf("Local does more than to look: %+v", local)
	}
	for _, q := range trace {
		if w.seen.Managed.Asked && strings.HasPrefix(q, "ask managed") || w.seen.Nodes["a"].View.Asked && strings.HasPrefix(q, "ask view") || w.seen.Nodes["a"].Leader.Asked && strings.HasPrefix(q, "ask leader") {
			asked[q]++
		}
	}
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
			if local.Status == Critical && v.Status != Critical && len(w.seen.Did) == 0 && len(w.s.Neighbours.Newcomers) == 0 {
				wrong("%s: %s, and Local said %s: %s", v.Status, v.Reason, local.Rule, local.Reason)
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
	case EndStop:
		return check(phase == Stopped && w.now.Sub(w.s.Server.StoppedAt) >= 12*time.Second, "it may come to the end of its stop")
	case OpenGate:
		return w.behindTheGate(m, phase)
	case FailJoin:
		return check(m.Role == Joining && phase != Serving, "only a joiner that does not serve gives up")
	case StopServer:
		_, on := r.Members["a"]
		switch {
		case v.Rule == "gate":
			return w.behindTheGate(m, phase)
		case strings.HasPrefix(v.Rule, "join"):
			return check(m.Role == Joining && phase != Serving, "only a joiner that does not serve gives up")
		case v.Rule == "leaving" && w.volume.Maintenance.Value.Done: // the volume says so, whatever the record does
			at := w.volume.Maintenance.Value.At
			if g.Left && !on && g.Volume == "va" {
				at = g.At
			}
			return check(w.now.Sub(at) >= leaveGrace, "it has just left")
		case !known:
			return "the record is unknown"
		case v.Rule == "leaving":
			return check(g.Left && !on && w.now.Sub(g.At) >= leaveGrace, "it has not left")
		case v.Rule == "carryOnOrder":
			return check(w.waits.Value.Paused && m.Role == Member, "it did not pause")
		}
		refuses := r.State == peers.Formed && r.Members["a"] != "va" && (on || w.s.View.ClusterID != r.ClusterID || r.Gone["a"].Why != "")
		lives := slices.ContainsFunc(w.seen.Catalog.Value, func(p peers.Peer) bool { return p.Node == "a" && p.Volume == r.Members["a"] && p.Alive() })
		return check(v.Rule == "membership" || v.Rule == "catalogUnknown", "no such rule", phase == Serving && !m.Verified, "it is verified", m.Role != Member && len(w.s.View.Members) == 1 || refuses && (m.VerifiedSince.IsZero() || lives), "nothing speaks against it")
	case WritePending:
		return check(known && m.Role != Member && len(w.s.View.Members) == 1 && phase == Serving, "what it founded may be data")
	}
	if !known {
		return "the record is unknown"
	}
	switch a := v.Do.(type) {
	case WriteRecord:
		_, on := a.Record.Members["a"]
		for _, m := range r.Names() {
			if _, stays := a.Record.Members[m]; !stays && r.State == peers.Formed && w.lists(m) {
				return m + " is taken off, and a running member may list it"
			}
		}
		return check(r.State != peers.Formed || r.ClusterID == a.Record.ClusterID || w.sayAll(r, a.Record.ClusterID), "it replaces another cluster's record", a.Index == r.Index, "it replaces another record than it saw",
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

// behindTheGate is what a server must be that is told whom to join, or stopped for it.
func (w *world) behindTheGate(m Membership, phase Phase) string {
	data := w.volume.Database
	return check(w.set.Gate, "it did not begin behind the gate", phase == Booting && m.Role != Member, "it is a member, or serves", data.Err == nil && !data.Value, "it may have data")
}

// sayAll reports whether this node and, of the members on record, a majority were heard in this beat to be in that
// cluster, with all that are on record and nobody else.
func (w *world) sayAll(r Record, id string) bool {
	count := 0
	for n, seen := range w.seen.Nodes {
		v := seen.View.Value
		strange := slices.ContainsFunc(v.Members, func(m string) bool { _, on := r.Members[m]; return !on })
		absent := slices.ContainsFunc(r.Names(), func(m string) bool {
			return !slices.Contains(v.Members, m) && r.Joining[m] == "" && r.Unverified[m] == ""
		})
		if _, on := r.Members[n]; on && seen.View.Known() && v.ClusterID == id && !strange && !absent {
			count++
		}
	}
	return r.Members["a"] == "va" && w.s.Membership.Role == Member && w.seen.Nodes["a"].View.Value.ClusterID == id && 2*count > len(r.Members)
}

// lists reports whether a member that runs lists m, or was not heard in this beat.
func (w *world) lists(m string) bool {
	return slices.ContainsFunc(w.s.View.Running, func(n string) bool {
		v := w.seen.Nodes[n].View
		return !v.Known() || slices.Contains(v.Value.Members, m)
	})
}

// valid holds the state against what its types promise.
func (w *world) valid(t testing.TB) {
	t.Helper()
	s := w.s
	wrong := check(
		!s.Membership.Verified || s.Server.Phase == Serving && s.Membership.Role == Member && s.Membership.ClusterID != "" && !s.Membership.VerifiedSince.IsZero(), "verified without what it takes",
		s.Server.AnsweredSince.IsZero() || s.Server.Phase != Serving, "it serves and answers as one that does not",
		s.Entry.MissingSince.IsZero() || !s.Entry.ReportedAt.IsZero(), "missing before it was reported",
		!s.Entry.Lapse.Lost || s.Entry.Lapse.Owed, "lost, and nothing is owed",
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

// FuzzHeard: whatever is sent to the notify socket is ready, a stop, or a word for people.
func FuzzHeard(f *testing.F) {
	for _, text := range []string{"READY=1", "READY=0", "STOPPING=1\n", "STATUS=Startup in progress", "STATUS=x\nREADY=1", "READY=1\nSTOPPING=1", "READY", " READY=1 ", "X_RMQ_ENTRYPOINT=order", "STATUS", "STOPPING", "", "\x00", "STATUS=\x1b[31m"} {
		for phase := range uint8(3) {
			f.Add(text, phase)
		}
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f.Fuzz(func(t *testing.T, text string, phase uint8) {
		var s State
		s.Server.Phase = []Phase{Booting, Serving, Stopped}[phase%3]
		was := copied(s)
		is, event := Heard(Settings{}, s, text, now)
		if !reflect.DeepEqual(s, was) {
			t.Fatal("it changed what it was given")
		}
		has := func(line string) bool {
			return slices.ContainsFunc(strings.Split(text, "\n"), func(l string) bool { return strings.TrimSpace(l) == line })
		}
		switch {
		case event.Ready != has("READY=1"), event.Ready && is.Server.Phase != Serving:
			t.Fatalf("%q: %+v, %d", text, event, is.Server.Phase)
		case is.Server.Phase == Stopped && s.Server.Phase != Stopped && !has("STOPPING=1") && !(s.Server.Phase == Serving && strings.Contains(text, "STATUS=")):
			t.Fatalf("%q stops a server that is %d", text, s.Server.Phase)
		case !event.Ready && s.Server.Phase != Serving && is.Server.Phase == Serving:
			t.Fatalf("%q: it serves", text)
		}
	})
}
