package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/peers"
)

// A verified node that nothing is wrong with has nothing to do.
func TestNoChores(t *testing.T) {
	t.Parallel()
	w := newWorld()
	if _, trace := w.beat(t); join(trace) != quiet+"passing: answers" {
		t.Fatal(trace)
	}
	if trace := w.chores(t); len(trace) > 0 {
		t.Errorf("it does %s", trace)
	}
}

// Chores are done in order, each once a beat, whatever comes of it.
func TestChores(t *testing.T) {
	t.Parallel()
	build := func() *world {
		w := newWorld()
		w.oldAgents = true
		w.s.Upkeep.GrowTries = 10
		w.s.View.Members = list("a,b")
		w.record = formed("a,b,c,d,e").Left("d", "", began.Add(-time.Hour)).Left("e", "", began.Add(-time.Hour))
		v := viewOf("a,b,c,d,e", "a,b,c")
		v.Pauses = false
		w.judged(v)
		w.beat(t)
		w.log = nil
		return w
	}
	const all = "LeaveAgents; GrowReplicas(3 refill=false); WriteMarker; SetPauseMinority(true); ForgetMember(d on a); ForgetMember(e on a)"
	w := build()
	if trace := w.chores(t); join(trace) != all {
		t.Errorf("\n got %s\nwant %s", join(trace), all)
	}
	up := w.s.Upkeep
	if !w.s.View.Pauses || up.ToForget == nil && len(up.ToForget) > 0 || !w.s.View.At.IsZero() || up.GrowTries != 0 || !slices.Equal(up.Marker.Members, list("a,b,c,d,e")) || !up.Marker.At.Equal(began) {
		t.Errorf("%+v", up)
	}
	for _, line := range []string{"cluster_partition_handling set pause_minority true members 3", "a member left for good and was not forgotten: forgetting it member d", "a member left for good and was not forgotten: forgetting it member e"} {
		if !w.logged(line) {
			t.Errorf("the log lacks %q: %v", line, w.log)
		}
	}
	w = build()
	for _, a := range []string{"LeaveAgents", "GrowReplicas", "WriteMarker", "SetPauseMinority", "ForgetMember"} {
		w.fails[a] = errNot
	}
	if trace := w.chores(t); join(trace) != all {
		t.Errorf("\n got %s\nwant %s", join(trace), all)
	}
	if up := w.s.Upkeep; w.s.View.Pauses || len(up.ToForget) > 0 || up.GrowTries != 9 || slices.Equal(up.Marker.Members, list("a,b,c,d,e")) {
		t.Errorf("%+v", up)
	}
	for _, line := range []string{"cannot write the marker err no answer yet", "cannot set cluster_partition_handling err no answer yet", "it is not forgotten yet member d err no answer yet", "cannot look yet whether quorum queues lack a replica here tries_left 9 why no answer yet"} {
		if !w.logged(line) {
			t.Errorf("the log lacks %q: %v", line, w.log)
		}
	}
}

// When the marker is written.
func TestWriteMarker(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(w *world)
		writes bool
	}{
		"it is true":           {func(*world) {}, false},
		"to the half minute":   {func(w *world) { w.s.Upkeep.Marker.At = began.Add(-viewEvery) }, false},
		"it is old":            {func(w *world) { w.s.Upkeep.Marker.At = began.Add(-viewEvery - 1) }, true},
		"other members":        {func(w *world) { w.s.Upkeep.Marker.Members = list("a,b") }, true},
		"replicas are missing": {func(w *world) { w.s.Upkeep.GrowTries, w.said = 3, []Said{{"q", "later"}} }, true},
		"none is any more":     {func(w *world) { w.s.Upkeep.Marker.Regrow = true }, true},
		"it was removed":       {func(w *world) { w.volume.Marker.Value = nil }, true},
		"of another cluster":   {func(w *world) { w.volume.Marker.Value = &Marker{ClusterID: "other", Volume: "va"} }, true},
		"of another volume":    {func(w *world) { w.volume.Marker.Value = &Marker{ClusterID: "id", Volume: "other"} }, true},
		"it cannot be read":    {func(w *world) { w.volume.Marker = peers.Seen[*Marker]{Err: errNot} }, false},
	} {
		w := newWorld()
		c.change(w)
		w.beat(t)
		if trace := w.chores(t); slices.Contains(trace, "WriteMarker") != c.writes || c.writes && (w.volume.Marker.Value.Regrow != (w.s.Upkeep.GrowTries > 0) || w.volume.Marker.Value.Volume != "va") {
			t.Errorf("%s: %s, %+v", name, trace, w.volume.Marker.Value)
		}
	}
}

// Replicas are brought back until nothing is left to do; a node that cannot be asked is asked again, ten times.
func TestGrowReplicas(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		said []Said
		err  error
		left int // tries
		says string

		tries int // left before, 0: all
	}{
		{"nothing to do", nil, nil, 0, "", 0},
		{"nothing to do after a try that was cut short", nil, nil, 0, "no quorum queue lacks a replica here any more", 9},
		{"grown after a try that failed", []Said{{"a", "ok"}}, nil, 0, "quorum queues have a replica here again queues 1 names a", 9},
		{"grown", []Said{{"queue 'a' in vhost '/'", "ok"}}, nil, 0, "quorum queues have a replica here again queues 1 names queue 'a' in vhost '/'", 0},
		{"more with the next beat", []Said{{"a", "ok"}, {"b", "later"}}, nil, 10, "*names a", 0},
		{"refused", []Said{{"a", "{error,timeout}"}}, nil, 9, "quorum queues without a replica here tries_left 9 why a: {error,timeout}", 0},
		{"busy", nil, errNot, 9, "cannot look yet whether quorum queues lack a replica here tries_left 9 why no answer yet", 0},
		{"3.10, one try for both", []Said{{"a", "{error,timeout}"}}, errNot, 9, "cannot look yet*tries_left 9*", 0},
	} {
		w := newWorld()
		w.s.Upkeep.GrowTries, w.said, w.fails["GrowReplicas"] = cmp.Or(tc.tries, 10), tc.said, tc.err
		w.beat(t)
		w.chores(t)
		if w.s.Upkeep.GrowTries != tc.left || tc.says != "" && !w.logged(tc.says) || tc.says == "" && len(w.log) > 0 {
			t.Errorf("%s: %d tries left: %v", tc.name, w.s.Upkeep.GrowTries, w.log)
		}
	}
	for _, c := range []struct {
		version string
		ours    bool
		want    string
	}{
		{"adopted 4.0.5", true, "GrowReplicas(1 refill=false)"}, {"3.10.8", true, "GrowReplicas(3 refill=true)"}, {"3.13.7", true, "GrowReplicas(3 refill=false)"}, {"3.10.8", false, "GrowReplicas(1 refill=true)"}, {"4.0.5", false, "GrowReplicas(1 refill=false)"},
	} {
		w := newWorld()
		version, adopted := strings.CutPrefix(c.version, "adopted ")
		w.s.Upkeep.GrowTries, w.set.Version, w.set.SurvivingQueues, w.set.Adopted = 1, version, c.ours, adopted
		w.record.Versions["a"] = version
		w.beat(t)
		if trace := w.chores(t); trace[0] != c.want {
			t.Errorf("%s, %t: %s", c.version, c.ours, trace)
		}
	}
}

// Where Mnesia decides, three members pause in a minority and two do not, unless the user has said what to do.
func TestSetPauseMinority(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		user   bool // set cluster_partition_handling
		khepri bool
		booted bool   // pause_minority was in rabbitmq.config
		sizes  []int  // of the cluster, beat by beat
		fails  []bool // RabbitMQ does not take it
		told   string // what it was told to do, beat by beat
	}{
		{name: "grows and shrinks", sizes: []int{1, 2, 3, 3, 4, 2, 2, 3}, told: "- - true - - false - true"},
		{name: "three from the start", booted: true, sizes: []int{3, 3, 2}, told: "- - false"},
		{name: "two from the start, three in the file", booted: true, sizes: []int{2, 2}, told: "false -"},
		{name: "the user's own", user: true, sizes: []int{1, 2, 3, 2, 5}, told: "- - - - -"},
		{name: "Khepri", khepri: true, sizes: []int{1, 2, 3, 2, 5}, told: "- - - - -"},
		{name: "the user's own, on Khepri", user: true, khepri: true, booted: true, sizes: []int{1, 3}, told: "- -"},
		{name: "refused once", sizes: []int{3, 3, 3}, fails: []bool{true, false, false}, told: "true true -"},
		{name: "refused until it is out of date", sizes: []int{3, 2, 3}, fails: []bool{true, false, false}, told: "true - true"},
		{name: "refused to take it back", booted: true, sizes: []int{2, 2, 2}, fails: []bool{true, true, false}, told: "false false false"},
	} {
		w := newWorld()
		w.set.OwnPartitionHandling, w.s.View.Khepri, w.s.View.Pauses = tc.user, tc.khepri, tc.booted
		told := ""
		for i, size := range tc.sizes {
			w.s.Upkeep.RecordSize, w.fails["SetPauseMinority"] = size, nil
			if i < len(tc.fails) && tc.fails[i] {
				w.fails["SetPauseMinority"] = errNot
			}
			w.seen = Observation{Now: began}
			beat := "-"
			for _, step := range w.chores(t) {
				if n, _ := fmt.Sscanf(step, "SetPauseMinority(%5s", &beat); n > 0 {
					beat = map[byte]string{'t': "true", 'f': "false"}[beat[0]]
				}
			}
			told += beat + " "
		}
		if told != tc.told+" " {
			t.Errorf("%s: with sizes %v it was told %q, want %q", tc.name, tc.sizes, told, tc.told)
		}
	}
}

// What RabbitMQ has is what it says itself: after a start_app it has read its files again, and somebody else may have
// told it otherwise.
func TestPauseMinorityIsReadBack(t *testing.T) {
	t.Parallel()
	two := func() *world {
		w := newWorld()
		w.record = formed("a,b")
		w.listed(passes("b"))
		w.s.View.PassingPeers = "b"
		v := viewOf("a,b", "a,b")
		v.Pauses = false
		w.judged(v)
		w.marker(Marker{ClusterID: "id", Volume: "va", Members: list("a,b"), At: began})
		return w
	}
	has := func(w *world, pauses bool) {
		v := w.views["a"]
		v.Value.Pauses = pauses
		w.views["a"] = v
	}
	beat := func(w *world, wantBeat, wantChores string) {
		t.Helper()
		_, trace := w.beat(t)
		if got, chores := join(trace), join(w.chores(t)); !matches(got, wantBeat) || chores != wantChores {
			t.Errorf("\n got %s; chores %s\nwant %s; chores %s", got, chores, wantBeat, wantChores)
		}
		w.s.Entry = w.s.Entry.Reported(Passing, w.now)
		w.now = w.now.Add(w.set.Beat())
	}
	w := two()
	beat(w, quiet+"passing: answers", "")
	// stop_app and start_app: rabbitmq.config says pause_minority.
	w.s, _ = Heard(w.set, w.s, "STOPPING=1", w.now)
	has(w, true)
	w.s, _ = Heard(w.set, w.s, "READY=1", w.now)
	beat(w, "*ask view a; Enroll; passing: answers", "SetPauseMinority(false)")
	beat(w, quiet+"ask view a within 7.5s; passing: answers", "")
	beat(w, quiet+"passing: answers", "")
	// It says that it took that, and did not.
	has(w, true)
	w.s.View.Pauses, w.s.View.At = false, Never
	beat(w, quiet+"ask view a within 7.5s; passing: answers", "SetPauseMinority(false)")
	// By hand, which nothing else shows.
	w = two()
	has(w, true)
	w.s.View.SaidAt = began.Add(w.set.Beat() - saidEvery)
	beat(w, quiet+"passing: answers", "")
	beat(w, quiet+"ask view a within 7.5s; passing: answers", "SetPauseMinority(false)")
}

// Two members are warned of where they are worse than one, and not while a third may be on its way.
func TestTwoNodes(t *testing.T) {
	t.Parallel()
	const khepri, quorum = "TWO NODES: this cluster does not survive the loss of either, because RabbitMQ 4.2 and later decide by majority: add a third node", "TWO NODES: quorum queues with a replica on both do not survive the loss of either: add a third node"
	for _, c := range []struct {
		version string
		ours    bool
		khepri  bool
		members string
		since   time.Duration
		want    string
	}{
		{"4.3.6", true, true, "a,b", time.Minute, khepri},
		{"4.2.0", false, true, "a,b", time.Minute, khepri},
		{"4.0.5", true, false, "a,b", time.Minute, quorum},
		{"4.3.6", true, true, "a,b", 2 * ttl, khepri},
		{"4.3.6", true, true, "a,b", 2*ttl - 1, ""},
		{"4.3.6", true, true, "a", time.Minute, ""},
		{"4.3.6", true, true, "a,b,c", time.Minute, ""},
		{"4.0.5", false, false, "a,b", time.Minute, ""},
		{"3.10.8", true, false, "a,b", time.Minute, ""},
		{"paired 4.0.5", false, false, "a,b", time.Minute, quorum}, // by what is, and not by what was set
		{"paired 3.10.8", true, false, "a,b", time.Minute, quorum},
		{"adopted 4.0.5", true, false, "a,b", time.Minute, ""},
	} {
		w := newWorld()
		kind, version, named := strings.Cut(c.version, " ")
		if !named {
			kind, version = "", c.version
		}
		w.set.Version, w.set.SurvivingQueues, w.set.QuorumQueues, w.s.View.Paired = version, c.ours, kind == "" && version != "3.10.8", kind == "paired"
		w.s.View.Members, w.s.View.Khepri, w.s.Upkeep.PairSince = list(c.members), c.khepri, began.Add(-c.since)
		w.seen = Observation{Now: began}
		w.chores(t)
		if w.s.Upkeep.Warning != c.want || (c.want != "") != w.logged("TWO NODES*members a,b") {
			t.Errorf("%+v: %q, %v", c, w.s.Upkeep.Warning, w.log)
		}
		if pair := c.members == "a,b"; pair == w.s.Upkeep.PairSince.IsZero() {
			t.Errorf("%+v: since %s", c, w.s.Upkeep.PairSince)
		}
		// Said once, and taken back when there are three. One that has just come to two waits.
		w.log = nil
		w.seen.Did = nil
		if w.chores(t); w.logged("TWO NODES") {
			t.Errorf("%+v: said again", c)
		}
		w.s.View.Members = list("a,b,c")
		if w.chores(t); w.s.Upkeep.Warning != "" {
			t.Errorf("%+v: not taken back", c)
		}
		w.s.View.Members = list("a,b")
		if w.chores(t); w.s.Upkeep.Warning != "" || !w.s.Upkeep.PairSince.Equal(began) {
			t.Errorf("%+v at first: %q", c, w.s.Upkeep.Warning)
		}
	}
}

// A new node grows replicas where they are this program's to grow; one whose volume was wiped gets
// its own back everywhere.
func TestWhoGrowsReplicas(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name         string
		ours, others bool // the setting; founded by another program
		first        bool // no volume had the name before
		want         bool
	}{
		{"new", true, false, true, true}, {"new, in an adopted cluster", true, true, true, false}, {"new, and queues are the user's", false, false, true, false},
		{"wiped", true, false, false, true}, {"wiped, in an adopted cluster", true, true, false, true}, {"wiped, and queues are the user's", false, false, false, true},
	} {
		w := newWorld()
		w.serves(Joining)
		w.set.SurvivingQueues, w.set.Adopted = c.ours, c.others
		w.record = formed("b,c").Joins("a", "va", began)
		if !c.first {
			w.record = formed("b,c").With("a", "earlier").Joins("a", "va", began)
		}
		w.known(viewOf("a,b,c", "a,b,c"))
		if _, trace := w.beat(t); w.s.Upkeep.GrowTries > 0 != c.want || !w.s.Membership.Verified {
			t.Errorf("%s: %d tries, %s", c.name, w.s.Upkeep.GrowTries, trace)
		}
	}
}
