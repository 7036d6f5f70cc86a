package companion

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

// A member's word on its state while the record is none of ours is that of before.
func TestRecordNobodyWroteIsUnknown(t *testing.T) {
	t.Parallel()
	c := &Companion{verified: true}
	status, reason := c.unknown(healthcheck.Result{State: healthcheck.Passing, Reason: "answers"}, fmt.Errorf("no program of this kind wrote it"))
	if status != api.HealthPassing || !strings.Contains(reason, "no program of this kind wrote it") {
		t.Errorf("%s: %s", status, reason)
	}
}

// A member that died goes on passing until its check lapses: that is no partition. One that passes for longer, and is
// not seen running, is apart.
func TestApartFromOneThatPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Companion{rt: statedir.Runtime{Config: config.Config{Node: "a", TTL: 15 * time.Second}}}
		r := peers.Record{State: peers.Formed, ClusterID: "id", Members: map[string]string{"a": "va", "b": "vb"}}
		b := peers.Peer{Node: "b", ClusterID: "id", Passing: true, Beating: true}
		look := func(running ...string) string {
			c.view, c.viewAt = peers.View{ClusterID: "id", Members: []string{"a", "b"}, Running: running}, time.Now()
			return c.apart(r, []peers.Peer{b})
		}
		for range 4 { // 15 s: the TTL
			if why := look("a"); why != "" {
				t.Fatalf("after %s: %s", time.Since(c.apartFrom["b"]), why)
			}
			time.Sleep(5 * time.Second)
		}
		time.Sleep(time.Second)
		if why := look("a"); !strings.Contains(why, "b serve") {
			t.Errorf("apart for longer than a dead one passes: %q", why)
		}
		if why := look("a", "b"); why != "" {
			t.Errorf("whole again: %q", why)
		}
		if why := look("a"); why != "" {
			t.Errorf("the next time counts from its own beginning: %q", why)
		}
		time.Sleep(time.Minute)
		b.Passing = false
		if why := look("a"); why != "" {
			t.Errorf("one that does not pass is down: %q", why)
		}
		b.Passing = true
		r.Members = map[string]string{"a": "va", "b": "vb", "c": "vc"}
		look("a", "c")
		time.Sleep(time.Minute)
		if why := look("a", "c"); why != "" {
			t.Errorf("with a majority: %q", why)
		}
	})
}

// What cannot be looked at is what it was: neither well because nobody looked, nor ill.
func TestUnknownStaysWhatItWas(t *testing.T) {
	err := errors.New("no leader")
	for _, tc := range []struct {
		verified bool
		wrong    string
		check    healthcheck.State
		status   string
		says     []string
	}{
		{false, "", healthcheck.Passing, api.HealthCritical, []string{"not verified", "no leader"}},
		{true, "", healthcheck.Passing, api.HealthPassing, []string{"answers", "no leader"}},
		{true, "", healthcheck.Warning, api.HealthWarning, []string{"answers", "no leader"}},
		{true, "SPLIT", healthcheck.Passing, api.HealthCritical, []string{"SPLIT", "no leader"}},
	} {
		c := &Companion{verified: tc.verified, wrong: tc.wrong}
		status, reason := c.unknown(healthcheck.Result{State: tc.check, Reason: "answers"}, err)
		if status != tc.status || slices.ContainsFunc(tc.says, func(w string) bool { return !strings.Contains(reason, w) }) {
			t.Errorf("%+v: %s, %q", tc, status, reason)
		}
	}
}

// What a node sees of its neighbours, and nobody else does.
func TestApart(t *testing.T) {
	t.Parallel()
	long := time.Now().Add(-time.Minute)
	passes := func(n string) peers.Peer {
		return peers.Peer{Node: n, ClusterID: "id", Passing: true, Beating: true}
	}
	newcomer := peers.Peer{Node: "c", Beating: true}
	silent := peers.Peer{Node: "c"}
	const majority = "no majority"
	for _, tc := range []struct {
		name             string
		khepri           bool
		members, running string
		record           string // default: members
		others           []peers.Peer
		stale            bool // RabbitMQ was asked long ago
		since            map[string]time.Time
		says             string
	}{
		{name: "all run", members: "a,b,c", running: "a,b,c", others: []peers.Peer{passes("b"), passes("c")}},
		{name: "one of three is down", khepri: true, members: "a,b,c", running: "a,b", others: []peers.Peer{passes("b")}},
		{name: "two of three are down", khepri: true, members: "a,b,c", running: "a", says: "no majority: of the members a, b, c only a run"},
		{name: "two of three are down, on Mnesia", members: "a,b,c", running: "a"},
		{name: "one of two is down", khepri: true, members: "a,b", running: "a", says: majority},
		{name: "a newcomer votes before it runs", khepri: true, members: "a,c", running: "a", others: []peers.Peer{newcomer}},
		{name: "a newcomer that is silent", khepri: true, members: "a,c", running: "a", others: []peers.Peer{silent}, says: majority},
		{name: "a newcomer that RabbitMQ does not know", khepri: true, members: "a,b", running: "a", others: []peers.Peer{newcomer}, says: majority},
		{name: "a newcomer that runs counts once", khepri: true, members: "a,b,c,d", running: "a,c", others: []peers.Peer{newcomer}, says: majority},
		{name: "a member that beats is none", khepri: true, members: "a,c", running: "a", others: []peers.Peer{{Node: "c", ClusterID: "id", Beating: true}}, says: majority},
		{name: "the other serves without this one", members: "a,b", running: "a", others: []peers.Peer{passes("b")}, since: map[string]time.Time{"b": long}, says: "b serve, but this node does not see them run"},
		{name: "not for long yet", members: "a,b", running: "a", others: []peers.Peer{passes("b")}, since: map[string]time.Time{"b": time.Now().Add(-15 * time.Second)}},
		{name: "two others do", members: "a,b,c", running: "a", others: []peers.Peer{passes("b"), passes("c")}, since: map[string]time.Time{"b": long, "c": long}, says: "b, c serve"},
		{name: "seen long ago", members: "a,b", running: "a", others: []peers.Peer{passes("b")}, since: map[string]time.Time{"b": long}, stale: true},
		{name: "it is of another cluster", members: "a,b", running: "a", others: []peers.Peer{{Node: "b", ClusterID: "other", Passing: true, Beating: true}}, since: map[string]time.Time{"b": long}},
		{name: "it is not on record", members: "a,b", running: "a", record: "a", others: []peers.Peer{passes("b")}, since: map[string]time.Time{"b": long}},
		{name: "most see each other", members: "a,b,c", running: "a,c", others: []peers.Peer{passes("b"), passes("c")}, since: map[string]time.Time{"b": long}},
		{name: "only half do", members: "a,b,c,d", running: "a,c", others: []peers.Peer{passes("b"), passes("c"), passes("d")}, since: map[string]time.Time{"b": long, "d": long}, says: "b, d serve"},
	} {
		r := peers.Record{State: peers.Formed, ClusterID: "id", Members: map[string]string{}}
		if tc.record == "" {
			tc.record = tc.members
		}
		for _, n := range rabbitmq.List(tc.record) {
			r.Members[n] = "v-" + n
		}
		c := &Companion{
			rt:   statedir.Runtime{Config: config.Config{Node: "a", TTL: 15 * time.Second}},
			view: peers.View{ClusterID: "id", Members: rabbitmq.List(tc.members), Running: rabbitmq.List(tc.running), Khepri: tc.khepri}, viewAt: time.Now(),
			apartFrom: tc.since, passing: "b",
		}
		if tc.stale {
			c.viewAt = long
		}
		if why := c.apart(r, tc.others); !strings.Contains(why, tc.says) || (why == "") != (tc.says == "") {
			t.Errorf("%s: %q, want %q", tc.name, why, tc.says)
		}
		if looks := len(c.apartFrom) > 0; looks != (c.passing == "") {
			t.Errorf("%s: apart from %v, and that it looks again is %t", tc.name, c.apartFrom, c.passing == "")
		}
	}
}

// A node that serves keeps the record true, and names what must not be.
func TestWatch(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	gone := func(ago time.Duration, left bool) map[string]peers.Gone {
		return map[string]peers.Gone{"r@b": {At: time.Now().Add(-ago), Why: "its volume came up blank", Left: left}}
	}
	on := func(names ...string) map[string]string {
		m := map[string]string{}
		for _, n := range names {
			m[n] = "v-" + n
		}
		return m
	}
	for i, tc := range []struct {
		name      string
		cluster   string // on record; default: id
		on        map[string]string
		gone      map[string]peers.Gone
		members   string // as RabbitMQ lists them; default a,b
		running   string // default: members
		late      bool   // somebody else has changed the record since it was read
		says      []string
		unproven  bool // it has to verify anew
		published map[string]string
	}{
		{name: "all is as it should be", on: on("r@a", "r@b")},
		{name: "another cluster", cluster: "other", on: on("r@a", "r@b"), says: []string{"SPLIT", "id with r@a, r@b", "other"}},
		{name: "another volume", on: map[string]string{"r@a": "another", "r@b": "v-r@b"}, says: []string{"the record names another volume"}, unproven: true},
		{name: "no volume", on: map[string]string{"r@a": "", "r@b": "v-r@b"}, says: []string{"the record names another volume"}, unproven: true},
		{name: "off the record itself", on: on("r@b"), says: []string{"the record names another volume"}, unproven: true},
		{name: "a running member is not on record", on: on("r@a"), published: map[string]string{"r@a": "v-r@a", "r@b": ""}},
		{name: "two are not, one goes first", on: on("r@a"), members: "r@a,r@b,r@c", published: map[string]string{"r@a": "v-r@a", "r@b": ""}},
		{name: "a member that does not run is not on record", on: on("r@a"), running: "r@a"},
		{name: "somebody else was faster", on: on("r@a"), late: true},
		{name: "off the record, and runs", on: on("r@a"), gone: gone(time.Minute, false), says: []string{"r@b runs in this cluster, but took itself off the record on", "its volume came up blank"}},
		{name: "struck by a blank one under its name, and runs", on: on("r@a"), gone: map[string]peers.Gone{"r@b": {At: time.Now().Add(-time.Minute), Volume: "v-r@b", MayReturn: true}},
			published: map[string]string{"r@a": "v-r@a", "r@b": ""}},
		{name: "struck by a blank one under its name just now", on: on("r@a"), gone: map[string]peers.Gone{"r@b": {At: time.Now().Add(-20 * time.Second), Volume: "v-r@b", MayReturn: true}}},
		{name: "off the record just now", on: on("r@a"), gone: gone(20*time.Second, false)},
		{name: "off the record, and does not run", on: on("r@a"), gone: gone(time.Minute, false), running: "r@a"},
		{name: "left for good, and runs on", on: on("r@a"), gone: gone(time.Minute, true)},
		{name: "off the record by another's doing, and runs", on: on("r@a"), gone: map[string]peers.Gone{"r@b": {At: time.Now().Add(-time.Minute), Why: "because", By: "alice"}},
			says: []string{"r@b runs in this cluster, but was taken off the record on", "by alice (because)"}},
		{name: "off the record itself, by another's doing", on: on("r@b"), gone: map[string]peers.Gone{"r@a": {Volume: "v-r@a", Why: "because", By: "alice"}}, published: on("r@a", "r@b")},
		{name: "the same, and somebody else was faster", on: on("r@b"), late: true, gone: map[string]peers.Gone{"r@a": {Volume: "v-r@a", By: "alice"}}},
		{name: "off the record itself, left", on: on("r@b"), gone: map[string]peers.Gone{"r@a": {Volume: "v-r@a", By: "alice", Left: true}}, says: []string{"the record names another volume"}, unproven: true},
		{name: "off the record itself, by its own doing", on: on("r@b"), gone: map[string]peers.Gone{"r@a": {Volume: "v-r@a", By: "r@a, its volume blank, on host h"}},
			says: []string{"the record names another volume"}, unproven: true},
		{name: "off the record by another's doing, and not running", on: on("r@b"), running: "r@b", gone: map[string]peers.Gone{"r@a": {Volume: "v-r@a", By: "alice"}},
			says: []string{"the record names another volume"}, unproven: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := config.Config{Node: "r@a", TTL: 15 * time.Second, Service: fmt.Sprint("watch", i), KeyPrefix: "rmq-entrypoint"}
			r := peers.Record{State: peers.Formed, ClusterID: "id", Members: tc.on, Gone: tc.gone}
			if tc.cluster != "" {
				r.ClusterID = tc.cluster
			}
			write := func(index uint64) uint64 {
				ok, err := peers.WriteRecord(t.Context(), consul.Client, cfg.RecordKey(), r, index, "", "")
				if expect.Must(t, err); !ok {
					t.Fatal("no record written")
				}
				_, index, err = peers.ReadRecord(t.Context(), consul.Client, cfg.RecordKey())
				expect.Must(t, err)
				return index
			}
			index := write(0)
			if tc.late {
				write(index)
			}
			v := peers.View{ClusterID: "id", Members: []string{"r@a", "r@b"}}
			if tc.members != "" {
				v.Members = rabbitmq.List(tc.members)
			}
			if v.Running = v.Members; tc.running != "" {
				v.Running = rabbitmq.List(tc.running)
			}
			c := &Companion{log: slog.New(slog.DiscardHandler), rt: statedir.Runtime{Config: cfg, Role: statedir.Member, Volume: "v-r@a"}, view: v, verified: true}
			why := c.watch(t.Context(), consul.Client, r, index)
			if (why == "") != (len(tc.says) == 0) || c.verified == tc.unproven {
				t.Errorf("%q, verified: %t", why, c.verified)
			}
			expect.Says(t, why, tc.says...)
			want := tc.on
			if tc.published != nil {
				want = tc.published
			}
			if now, _, err := peers.ReadRecord(t.Context(), consul.Client, cfg.RecordKey()); err != nil || !maps.Equal(now.Members, want) {
				t.Errorf("on record are %v, %v; want %v", now.Members, err, want)
			}
		})
	}
}

// A record that is lost, or claimed by another, is published with every member that RabbitMQ knows, also one that has
// joined since it was last asked: one that is left out is refused when it is started again.
func TestLostRecordIsPublishedWhole(t *testing.T) {
	t.Parallel()
	agent := consultest.Start(t)
	for i, lost := range []peers.Record{{}, {State: peers.Forming, Claim: "r@c", Seed: "r@x", Session: "s", Members: map[string]string{"r@x": "v-r@x"}}} {
		v := testVolume(t)
		cfg := config.Config{Node: "r@a", TTL: 15 * time.Second, Consul: []string{agent.Addr}, Service: fmt.Sprint("whole", i), KeyPrefix: "rmq-entrypoint", Data: v.Data, StateDir: v.State}
		if lost.State != peers.Absent {
			_, err := peers.WriteRecord(t.Context(), agent.Client, cfg.RecordKey(), lost, 0, "", "")
			expect.Must(t, err)
		}
		b := rabbitmq.CLI{Node: "r@a", Run: func(context.Context, ...string) (string, error) { return "view|id|r@a,r@b,r@c|r@a,r@b||false|\n", nil }}
		log := slog.New(slog.DiscardHandler)
		c := &Companion{
			log: log, rt: statedir.Runtime{Config: cfg, Role: statedir.Member, Cluster: "id", Volume: "v-r@a", Version: "4.0.5"}, broker: b, consul: consul.New(cfg, log), serving: true, verified: true,
			reg:  peers.Registration{Service: cfg.Service, Node: "r@a", Address: "127.0.0.1", Port: 1, TTL: time.Hour, DeregisterAfter: time.Hour},
			view: peers.View{ClusterID: "id", Members: []string{"r@a"}, Running: []string{"r@a"}}, viewAt: time.Now(), seen: 1,
		}
		status, why := c.judge(t.Context(), healthcheck.Result{State: healthcheck.Passing, Reason: "answers"})
		r, _, err := peers.ReadRecord(t.Context(), agent.Client, cfg.RecordKey())
		if want := map[string]string{"r@a": "v-r@a", "r@b": "", "r@c": ""}; err != nil || r.State != peers.Formed || r.ClusterID != "id" || !maps.Equal(r.Members, want) {
			t.Errorf("in place of %q it published %s with %v, %v (%s, %s); want %v", lost.State, r.State, r.Members, err, status, why, want)
		}
	}
}

// As many are up as it takes, but one of them joins: then only RabbitMQ knows whether
// anything can be decided.
func TestLeaderless(t *testing.T) {
	for _, tc := range []struct {
		name     string
		view     peers.View
		said     string
		asked    bool
		critical bool
	}{
		{"a majority runs", peers.View{Khepri: true, Members: []string{"a", "b", "c"}, Running: []string{"a", "b"}}, "led|false|", false, false},
		{"Mnesia", peers.View{Members: []string{"a", "b"}, Running: []string{"a"}}, "led|false|", false, false},
		{"no leader", peers.View{Khepri: true, Members: []string{"a", "b"}, Running: []string{"a"}}, "led|false|", true, true},
		{"a leader", peers.View{Khepri: true, Members: []string{"a", "b"}, Running: []string{"a"}}, "led|true|", true, false},
		{"unknown", peers.View{Khepri: true, Members: []string{"a", "b"}, Running: []string{"a"}}, "busy", true, false},
	} {
		asked := false
		c := &Companion{view: tc.view, rt: statedir.Runtime{Config: config.Config{TTL: time.Minute}}, broker: rabbitmq.CLI{Node: "a", Run: func(context.Context, ...string) (string, error) { asked = true; return tc.said + "\nok\n", nil }}}
		if why := c.leaderless(t.Context()); why != "" {
			t.Errorf("%s: critical at one look: %q", tc.name, why)
		}
		why := c.leaderless(t.Context())
		if asked != tc.asked || (why != "") != tc.critical || tc.critical && !strings.Contains(why, "no leader: of the members a, b only a run") {
			t.Errorf("%s: asked %t, %q", tc.name, asked, why)
		}
	}
}

// Where Mnesia decides, three members pause in a minority and two do not, unless the user has said what to do.
func TestGuardMinority(t *testing.T) {
	t.Parallel()
	const on, off = "pause_minority", "ignore"
	for _, tc := range []struct {
		name   string
		user   bool // set cluster_partition_handling
		khepri bool
		booted bool   // pause_minority was in rabbitmq.config
		sizes  []int  // of the cluster, beat by beat
		fails  []bool // RabbitMQ does not take it
		told   string // what it was told to do, beat by beat
	}{
		{name: "grows and shrinks", sizes: []int{1, 2, 3, 3, 4, 2, 2, 3}, told: "- - on - - off - on"},
		{name: "three from the start", booted: true, sizes: []int{3, 3, 2}, told: "- - off"},
		{name: "two from the start, three in the file", booted: true, sizes: []int{2, 2}, told: "off -"},
		{name: "the user's own", user: true, sizes: []int{1, 2, 3, 2, 5}, told: "- - - - -"},
		{name: "Khepri", khepri: true, sizes: []int{1, 2, 3, 2, 5}, told: "- - - - -"},
		{name: "the user's own, on Khepri", user: true, khepri: true, booted: true, sizes: []int{1, 3}, told: "- -"},
		{name: "refused once", sizes: []int{3, 3, 3}, fails: []bool{true, false, false}, told: "on on -"},
		{name: "refused until it is out of date", sizes: []int{3, 2, 3}, fails: []bool{true, false, false}, told: "on - on"},
		{name: "refused to take it back", booted: true, sizes: []int{2, 2, 2}, fails: []bool{true, true, false}, told: "off off off"},
	} {
		var told []string
		beat := 0
		b := rabbitmq.CLI{Node: "a", Run: func(_ context.Context, argv ...string) (string, error) {
			switch said := strings.Join(argv, " "); {
			case strings.Contains(said, "Mode = "+on+","):
				told[beat] += "on"
			case strings.Contains(said, "Mode = "+off+","):
				told[beat] += "off"
			default:
				t.Errorf("%s: it runs %s", tc.name, said)
			}
			if beat < len(tc.fails) && tc.fails[beat] {
				return "", errors.New("not now")
			}
			return "", nil
		}}
		c := &Companion{log: slog.New(slog.DiscardHandler), rt: statedir.Runtime{UserPartitionHandling: tc.user}, broker: b, view: peers.View{Khepri: tc.khepri}, minority: tc.booted}
		for i, size := range tc.sizes {
			beat, c.size = i, size
			told = append(told, "")
			c.guardMinority(t.Context())
			if told[i] == "" {
				told[i] = "-"
			}
		}
		if got := strings.Join(told, " "); got != tc.told {
			t.Errorf("%s: with sizes %v it was told %q, want %q", tc.name, tc.sizes, got, tc.told)
		}
	}
}
