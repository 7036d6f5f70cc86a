package policy

import (
	"errors"
	"slices"
	"time"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/peers"
)

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
	v := peers.View{ClusterID: pick(d, "id", "id", "id", "other"), Members: d.some("a", "b", "c", "d"), Khepri: d.yes(), Pauses: d.yes()}
	if !slices.Contains(v.Members, node) {
		v.Members = append([]string{node}, v.Members...)
		slices.Sort(v.Members)
	}
	v.Running = v.Members
	if d.yes() {
		v.Running = d.some(v.Members...)
	}
	if !v.Khepri && d.rare() {
		v.Partitions, v.Sides = d.some("b", "c"), map[string]peers.Side{}
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
			Left: d.rare(), MayReturn: d.yes(), Final: d.rare(), Unjoined: d.rare(), Forgotten: d.rare(),
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
	w.set.ForceBoot, w.set.Replaced, w.set.Gate = d.rare(), d.rare(), d.rare()
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
		Server:     Server{Phase: pick(d, Serving, Serving, Serving, Booting, Stopped), LastStatus: "booting", Started: d.ago(), StoppedAt: d.ago(), AnsweredSince: d.ago()},
		Membership: Membership{Role: pick(d, Member, Member, Joining, Seeding), Claim: "claim"},
		Entry:      Entry{ClusterID: pick(d, "id", "", "other"), ReportedAt: d.ago(), Lapse: Lapse{Seen: d.rare(), Owed: d.rare(), EarnedAt: d.ago()}},
		View:       View{View: pick(d, w.views["a"].Value, viewOf("a", "a"), viewOf("a,b,c", "a,b")), At: d.ago(), SaidAt: d.ago(), RecordIndex: uint64(d.next() % 3), PassingPeers: pick(d, "", "b", "b,c")},
		Partition:  Partition{RestartedAt: d.ago()},
		Neighbours: Neighbours{LeaderMissing: d.yes(), FewListed: d.yes(), UnseenSince: map[string]time.Time{"b": d.ago()}, UnlistedSince: map[string]time.Time{"b": began.Add(-time.Minute), "c": d.ago()}},
		Join:       Join{Deadline: pick(d, began.Add(time.Minute), began.Add(-time.Minute))},
		Upkeep:     Upkeep{GrowTries: d.next() % 3},
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
	if w.s.Server.Phase == Serving {
		w.s.Server.AnsweredSince = Never
	}
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
		"Settle", "EndStop", "WriteCarryOn", "DropCarryOn", "EndMaintenance", "LeaveAgents", "GrowReplicas", "WriteMarker", "SetPauseMinority"} {
		if d.rare() {
			w.fails[a] = pick(d, errNot, ErrNoAnswer, ErrCommandRuns, error(&NotRevivedError{errNot}))
		}
	}
	w.said = pick(d, nil, []Said{{"q", "ok"}}, []Said{{"q", "later"}, {"r", "busy"}})
}
