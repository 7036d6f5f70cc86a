package peers_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
)

const (
	recordKey = "rmq-entrypoint/rabbitmq/cluster"
	lockKey   = "rmq-entrypoint/rabbitmq/lock"
	service   = "rabbitmq"
)

var (
	transactions = consultest.Request("PUT", "/v1/txn")
	reads        = consultest.Request("GET", "/v1/kv/"+recordKey)
	now          = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
)

// TestRecordsDoNotShare: what one derives from a record must not change the one
// it came from, which another write is still compared with.
func TestRecordsDoNotShare(t *testing.T) {
	t.Parallel()
	r := peers.Record{State: peers.Formed, ClusterID: "id", Members: map[string]string{a: "va", b: "vb"}, Gone: map[string]peers.Gone{c: {Volume: "vc"}}}
	before, _ := json.Marshal(r)
	_ = r.With(c, "vc2")
	_ = r.Without(a, "blank", now)
	_ = r.Claimed(c, "vc3", "s", now)
	_ = r.Founded("id-2", now)
	if after, _ := json.Marshal(r); string(after) != string(before) {
		t.Errorf("the record changed from %s to %s", before, after)
	}
	with := r.With(c, "vc2")
	if _, gone := with.Gone[c]; gone || with.Members[c] != "vc2" || len(with.Members) != 3 {
		t.Errorf("with c: %+v", with)
	}
	without := r.Without(a, "blank", now)
	if _, on := without.Members[a]; on || without.Gone[a] != (peers.Gone{Volume: "va", At: now, Why: "blank"}) || len(without.Gone) != 2 {
		t.Errorf("without a: %+v", without)
	}
	if empty := (peers.Record{}).With(a, "v").Without(b, "why", now); empty.Members[a] != "v" {
		t.Errorf("from nothing: %+v", empty)
	}
}

func TestClaimKeepsWhatItReplaces(t *testing.T) {
	t.Parallel()
	r := peers.Record{State: peers.Formed, ClusterID: "id-0", Members: map[string]string{a: "va"}}
	for range 12 {
		r = r.Without(a, "blank", now).Claimed(a, "v", "s", now).Founded("id-"+peers.NewID(), now)
	}
	if len(r.Previous) != 8 {
		t.Errorf("%d previous clusters kept", len(r.Previous))
	}
	claim := peers.Record{State: peers.Formed, ClusterID: "id-1", Gone: map[string]peers.Gone{b: {Volume: "vb"}}, Previous: []peers.Previous{{ClusterID: "id-0"}}}.Claimed(a, "v", "s", now)
	if claim.ClusterID != "" || len(claim.Previous) != 2 || claim.Previous[0].ClusterID != "id-1" || claim.Previous[0].Gone[b].Volume != "vb" || claim.Previous[1].ClusterID != "id-0" {
		t.Errorf("claimed %+v", claim)
	}
	if other := claim.Claimed(b, "vb", "s2", now); other.Claim == claim.Claim || other.Seed != b || len(other.Members) != 1 || len(other.Previous) != 2 {
		t.Errorf("taken over %+v: a claim that founded nothing is no previous cluster", other)
	}
}

func TestNeverClaimed(t *testing.T) {
	t.Parallel()
	r := peers.Record{State: peers.Formed, ClusterID: "id", Claim: "c", Since: now, Members: map[string]string{a: "va"}}
	joins := r.Joins(b, "vb", now)
	forming, mine := joins.Claimed(a, "va", "s", now), joins.Claimed(b, "vb", "s", now)
	for name, c := range map[string]struct {
		r     peers.Record
		claim string
		want  bool
	}{
		"took itself off, and another claim is on record": {joins.RemovedItself(b, "vb", now), "c-new", true},
		"so did a volume in the place of a verified one":  {r.With(b, "v0").Joins(b, "vb", now).RemovedItself(b, "vb", now), "c-new", true},
		"another founds":         {forming, "c-new", true},
		"its claim is on record": {mine, mine.Claim, false},
		"that claim is":          {joins.RemovedItself(b, "vb", now), "c", false},
		"still on record":        {joins, "c-new", false},
		"on record again":        {joins.RemovedItself(b, "vb", now).Joins(b, "vb", now), "c-new", false},
		"no record":              {peers.Record{}, "c-new", false},
	} {
		if got := c.r.NeverClaimed(b, c.claim); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestRefuses(t *testing.T) {
	t.Parallel()
	formed := peers.Record{
		State: peers.Formed, ClusterID: "id-2", Since: now, Members: map[string]string{a: "va", b: ""},
		Gone:     map[string]peers.Gone{c: {Volume: "vc", At: now, Why: "its volume came up blank"}},
		Previous: []peers.Previous{{ClusterID: "id-1", Until: now, Members: []string{a}}},
	}
	forming := formed.Claimed(b, "vb", "s", now)
	for _, test := range []struct {
		name                  string
		r                     peers.Record
		node, volume, cluster string
		want                  string // a word of the refusal, "" for none
	}{
		{"no record", peers.Record{}, a, "va", "id-2", ""},
		{"on record with this volume", formed, a, "va", "id-2", ""},
		{"on record with another volume", formed, a, "vx", "id-2", "replaced: "},
		{"came up blank, and is back on another volume", formed.With(c, "vnew"), c, "vc", "id-2", "replaced on 2026-01-02T03:04:05Z (its volume came up blank)"},
		{"so did the next volume", formed.With(c, "vnew").Without(c, "blank again", now.Add(time.Hour)).With(c, "vnewer"), c, "vnew", "id-2", "replaced on 2026-01-02T04:04:05Z (blank again)"},
		{"on record, volume unknown to the record", formed, b, "vb", "id-2", ""},
		{"on record, volume without a name", formed, a, "", "id-2", ""},
		{"removed itself", formed, c, "vc", "id-2", "its volume came up blank"},
		{"left for good", formed.Left(a, "asked to", now), a, "va", "id-2", "left cluster id-2 for good"},
		{"left for good, and came back blank", formed.Left(a, "asked to", now).With(a, "vnew"), a, "va", "id-2", "replaced on 2026-01-02T03:04:05Z (asked to)"},
		{"never on record", formed, "rabbit@d", "vd", "id-2", "no longer on record"},
		{"another cluster", formed, a, "va", "id-9", "id-9"},
		{"a cluster that was replaced", formed, a, "va", "id-1", "replaced on"},
		{"data that never knew this program, and a volume that nobody knows", formed, b, "", "", ""},
		{"data that never knew this program, never on record", formed, "rabbit@d", "", "", ""},
		{"data that never knew this program, on record with a volume", formed, a, "", "", "(which has no id yet) was never verified as a member, and rabbit@a is on record with another one, va"},
		{"data that never knew this program, no cluster yet", forming, b, "", "", ""},
		{"data that never knew this program, another volume was removed", formed, c, "", "", "rabbit@c was on record with another one, vc"},
		{"not verified before, on record", formed, a, "va", "", ""},
		{"not verified before, on record with another volume", formed, a, "vx", "", "this volume (vx) was never verified as a member, and rabbit@a is on record with another one, va, in cluster id-2"},
		{"neither verified before", formed.Joins("rabbit@d", "v1", now).Joins("rabbit@d", "v2", now), "rabbit@d", "v1", "", ""},
		{"not verified before, and the one that joined over it was", formed.Joins("rabbit@d", "v1", now).Joins("rabbit@d", "v2", now).With("rabbit@d", "v2"), "rabbit@d", "v1", "", "is on record with another one, v2"},
		{"not verified before, and the one that joined over it gave up", formed.Joins("rabbit@d", "v1", now).Joins("rabbit@d", "v2", now).RemovedItself("rabbit@d", "v2", now), "rabbit@d", "v1", "", "was on record with another one, v2: rabbit@d took itself off"},
		{"not verified before, and the one that joined over it left", formed.With("rabbit@d", "v2").Left("rabbit@d", "told to", now), "rabbit@d", "v1", "", "another one, v2"},
		{"not verified before, and another was given up by somebody else", formed.Without(a, "gone", now).By(a, "alice"), a, "vx", "", ""},
		{"not verified before, and its node, whose volume nobody knew, removed itself", formed.RemovedItself(b, "", now), b, "vx", "", ""},
		{"not verified before, never on record", formed, "rabbit@d", "vd", "", ""},
		{"not verified before, removed since", formed, c, "vc", "", "its volume came up blank"},
		{"not verified before, another volume was removed", formed, c, "vx", "", "was on record with another one, vc"},
		{"not verified before, replaced since", formed.With(c, "vnew"), c, "vc", "", "replaced on 2026-01-02T03:04:05Z"},
		{"not verified before, while another forms", forming, c, "vc", "", ""},
		{"while one forms: an unknown cluster", forming, a, "va", "id-9", ""},
		{"while one forms: the cluster it replaces", forming, a, "va", "id-2", "(forming)"},
		{"while one forms: an older one it replaces", forming, a, "va", "id-1", "(forming)"},
	} {
		got := test.r.Refuses(test.node, test.volume, test.cluster)
		if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%s: got %q, want %q in it", test.name, got, test.want)
		}
		if got != "" && !strings.Contains(got, "2026-01-02T") {
			t.Errorf("%s: %q does not say since when", test.name, got)
		}
	}
}

func TestVolumesThatWereReplaced(t *testing.T) {
	t.Parallel()
	r := peers.Record{State: peers.Formed, ClusterID: "id-1", Members: map[string]string{a: "v0", b: "vb"}}
	for i := range 12 {
		r = r.Without(a, "blank", now).With(a, fmt.Sprintf("v%d", i+1))
	}
	if len(r.Replaced) != 8 || r.Replaced[0].Volume != "v11" || r.Replaced[7].Volume != "v4" || r.Replaced[0].Node != a {
		t.Errorf("the volumes kept are %+v", r.Replaced)
	}
	if same := r.Without(a, "blank", now).With(a, "v12"); len(same.Replaced) != 8 || same.Replaced[0].Volume != "v11" {
		t.Errorf("the same volume again: %+v", same.Replaced)
	}
	if other := r.Without(b, "blank", now).With(b, ""); other.Replaced[0].Node != a {
		t.Errorf("published by another node, which knows no volume: %+v", other.Replaced)
	}
	if claim := r.Claimed(a, "v", "s", now); len(claim.Replaced) != 0 {
		t.Errorf("a new cluster replaced nobody's volume: %+v", claim.Replaced)
	}
}

// Only of a node that never was a member on any volume nothing can be lost.
func TestStruck(t *testing.T) {
	t.Parallel()
	r := peers.Record{State: peers.Formed, ClusterID: "id-1", Members: map[string]string{a: "va"}}
	joins := r.Joins(b, "vb", now)
	for _, test := range []struct {
		name   string
		r      peers.Record
		volume string
		want   bool
	}{
		{"first join", joins, "vb", true},
		{"first join, another volume now", joins, "vx", false},
		{"first join, started again on another volume", joins.Joins(b, "vx", now), "vx", true},
		{"after a join that came to nothing", joins.RemovedItself(b, "vb", now).Joins(b, "vb", now), "vb", true},
		{"after it left for good", r.With(b, "vb").Left(b, "told to", now).Joins(b, "vx", now), "vx", true},
		{"verified", joins.With(b, "vb"), "vb", false},
		{"verified, and its volume put back to the day of its join", joins.With(b, "vb").Joins(b, "vb", now), "vb", false},
		{"a member whose volume was wiped", r.With(b, "vb").Without(b, "blank", now).Joins(b, "vx", now), "vx", false},
		{"a member whose volume was wiped, twice", r.With(b, "vb").Without(b, "blank", now).Joins(b, "vx", now).RemovedItself(b, "vx", now).Joins(b, "vy", now), "vy", false},
		{"no volume", r.With(b, ""), "", false},
	} {
		removed := test.r.RemovedItself(b, test.volume, now)
		why := map[bool]string{true: "its join came to nothing", false: "its volume came up blank"}[test.want]
		if g, gone := removed.Gone[b]; !gone || g.Unjoined != test.want || g.Why != why || !g.At.Equal(now) || removed.Members[b] != "" || removed.Joining[b] != "" {
			t.Errorf("%s: %+v, want %t", test.name, removed, test.want)
		}
	}
	if len(r.Joining) != 0 || len(r.Members) != 1 || joins.Joining[b] != "vb" {
		t.Errorf("a record was changed: %+v, %+v", r, joins)
	}
}

// A volume that a blank one under its node's name removed, or took the place of, may come
// back until that one was verified, or somebody went on without it.
func TestReturns(t *testing.T) {
	t.Parallel()
	r := peers.Record{State: peers.Formed, ClusterID: "id-1", Members: map[string]string{a: "va", b: "vb"}}
	given := func(r peers.Record) peers.Record { r, _ = r.GoneOn([]string{b}); return r }
	for _, test := range []struct {
		name string
		r    peers.Record
		want bool // vb may return
		off  bool // it is off the record
	}{
		{"on record", r, true, false},
		{"removed", r.RemovedItself(b, "", now), true, true},
		{"removed, and gone on without", given(r.RemovedItself(b, "", now)), false, true},
		{"removed, and back", r.RemovedItself(b, "", now).With(b, "vb"), true, false},
		{"another joins in its place", r.Joins(b, "vx", now), true, false},
		{"another joined in its place", r.Joins(b, "vx", now).With(b, "vx"), false, false},
		{"another's join came to nothing", r.Joins(b, "vx", now).RemovedItself(b, "vx", now), true, true},
		{"and another's after that one", r.Joins(b, "vx", now).RemovedItself(b, "vx", now).Joins(b, "vy", now).RemovedItself(b, "vz", now), true, true},
		{"two others, one after another", r.Joins(b, "vx", now).Joins(b, "vy", now), true, false},
		{"two others, and one was verified", r.Joins(b, "vx", now).With(b, "vx").Joins(b, "vy", now).RemovedItself(b, "vy", now), false, true},
		{"removed, and another joined in its place", r.RemovedItself(b, "", now).Joins(b, "vx", now).With(b, "vx").RemovedItself(b, "", now), false, true},
		{"another joins in its place, and RabbitMQ forgot it", r.Joins(b, "vx", now).Forgotten(b), false, false},
		{"that one's join came to nothing", r.Joins(b, "vx", now).Forgotten(b).RemovedItself(b, "vx", now), false, true},
		{"gone on without, another joined, and a third joins", given(r.RemovedItself(b, "", now)).Joins(b, "vx", now).With(b, "vx").Joins(b, "vy", now), false, false},
		{"published by another, and another joins", r.With(b, "").Joins(b, "vx", now), true, false},
		{"it left", r.Left(b, "told to", now), false, true},
		{"given up, and nobody is back", peers.Record{State: peers.Formed, ClusterID: "id-1", Gone: map[string]peers.Gone{b: {Volume: "vb", Why: "given up by an operator (found)", By: "found on host h"}}}, false, true},
		{"given up, and another is back", peers.Record{State: peers.Formed, ClusterID: "id-1", Members: map[string]string{a: "va"}, Gone: map[string]peers.Gone{b: {Volume: "vb", Why: "given up by an operator (found)", By: "found on host h"}}}, true, true},
		{"taken off by hand, and another is on it", peers.Record{State: peers.Formed, ClusterID: "id-1", Members: map[string]string{a: "va"}, Gone: map[string]peers.Gone{b: {Volume: "vb", By: "alice"}}}, false, true},
		{"given up, and gone on without", peers.Record{State: peers.Formed, ClusterID: "id-1", Members: map[string]string{a: "va"}, Gone: map[string]peers.Gone{b: {Volume: "vb", Why: "given up by an operator (found)", By: "found on host h", Final: true}}}, false, true},
		{"taken off otherwise, or by an earlier program", r.Without(b, "its volume came up blank", now), false, true},
	} {
		if why := test.r.Refuses(b, "vb", "id-1"); (why == "") != test.want {
			t.Errorf("%s: refused: %q", test.name, why)
		}
		if got := test.r.Returns(b, "vb"); got != (test.want && test.off) {
			t.Errorf("%s: returns: %t: %+v", test.name, got, test.r)
		}
		if why := test.r.Refuses(b, "never heard of", "id-1"); why == "" && test.r.Members[b] != "" && test.name != "published by another, and another joins" {
			t.Errorf("%s: any volume of that name starts", test.name)
		}
		back := test.r.With(b, "vb")
		if at := back.GaveUp(b, "vb"); !at.IsZero() || back.Members[b] != "vb" || back.NeverVerified(b) {
			t.Errorf("%s: back on record: %+v", test.name, back)
		}
	}
	if len(r.Gone) != 0 || len(r.Replaced) != 0 || len(r.Members) != 2 {
		t.Errorf("a record was changed: %+v", r)
	}
	if unnamed := r.With(b, "").RemovedItself(b, "", now); !unnamed.Returns(b, "vb") || unnamed.Returns(b, "") {
		t.Errorf("a volume that another member published does not return: %+v", unnamed)
	}
	if removed := r.RemovedItself(b, "", now); removed.Returns(b, "") || removed.Returns(b, "vx") || removed.Returns(a, "va") {
		t.Errorf("others return, too: %+v", removed)
	}
	if first := r.With(c, "vc").RemovedItself(c, "vc", now); !first.Returns(c, "vc") {
		t.Errorf("%+v", first)
	}
	// A join that was about to be verified may have been one all the same.
	if never := r.Joins(c, "vc", now).RemovedItself(c, "vx", now); !never.Returns(c, "vc") || never.Refuses(c, "vc", "") != "" {
		t.Errorf("%+v: %q", never, never.Refuses(c, "vc", ""))
	}
}

func TestGaveUp(t *testing.T) {
	t.Parallel()
	r := peers.Record{State: peers.Formed, ClusterID: "id-1", Members: map[string]string{a: "va"}}
	removed := r.Without(a, "blank", now)
	for name, test := range map[string]struct {
		r      peers.Record
		volume string
		want   time.Time
	}{
		"on record": {r, "va", time.Time{}}, "removed": {removed, "va", now}, "another was removed": {removed, "vx", time.Time{}},
		"replaced": {removed.With(a, "vnew"), "va", now}, "another was replaced": {removed.With(a, "vnew"), "vx", time.Time{}},
		"no volume": {r.With(a, "").Without(a, "blank", now), "", time.Time{}}, "left": {r.Left(a, "told to", now), "va", now},
	} {
		if got := test.r.GaveUp(a, test.volume); !got.Equal(test.want) {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestHasLeft(t *testing.T) {
	t.Parallel()
	r := peers.Record{State: peers.Formed, ClusterID: "id-1", Members: map[string]string{a: "va", b: "vb", c: ""}}
	left := r.Left(a, "asked to", now)
	if g := left.Gone[a]; !g.Left || g.Volume != "va" || g.Why != "asked to" || !g.At.Equal(now) || len(left.Members) != 2 || len(r.Members) != 3 || len(r.Gone) != 0 {
		t.Errorf("%+v, of %+v", left, r)
	}
	for _, test := range []struct {
		name         string
		r            peers.Record
		node, volume string
		want         bool
	}{
		{"with this volume", left, a, "va", true},
		{"with another", left, a, "vx", false},
		{"still on record", left, b, "vb", false},
		{"came up blank", r.Without(a, "blank", now), a, "va", false},
		{"came back", left.With(a, "va"), a, "va", false},
		{"no volume known", r.Left(c, "asked to", now), c, "", false},
	} {
		if got := test.r.HasLeft(test.node, test.volume); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}

// A record that no program of this kind can have written is unknown, not a fact.
func TestImplausibleRecord(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	long := strings.Repeat("x", 2000)
	many := map[string]string{}
	for i := range 1001 {
		many[fmt.Sprintf("r@h%d", i)] = "v"
	}
	huge, err := json.Marshal(peers.Record{State: peers.Formed, ClusterID: "id", Members: many})
	if err != nil {
		t.Fatal(err)
	}
	for text, says := range map[string]string{
		"":                    "unexpected end of JSON",
		"null":                `its state is ""`,
		"{}":                  `its state is ""`,
		"[]":                  "cannot unmarshal array",
		`{"state":"founded"}`: `its state is "founded"`,
		`{"state":"formed"}`:  "no cluster_id",
		`{"state":"formed","members":{"rabbit@b":"v"}}`:                                           "no cluster_id",
		`{"state":"formed","cluster_id":"REAL","members":{}}`:                                     "nobody is a member or gone",
		`{"state":"formed","cluster_id":"OTHER","members":{},"previous":[{"cluster_id":"REAL"}]}`: "nobody is a member or gone",
		`{"state":"forming"}`: "no claim",
		`{"state":"forming","seed":"rabbit@b","members":{"rabbit@b":"v"}}`:                                        "no claim",
		`{"state":"forming","claim":"c","seed":"rabbit@b","members":{}}`:                                          "is no member with a volume",
		`{"state":"forming","claim":"c","members":{"rabbit@b":"v"}}`:                                              "is no member with a volume",
		`{"state":"forming","claim":"c","seed":"rabbit@b","members":{"rabbit@b":""}}`:                             "is no member with a volume",
		`{"state":"formed","cluster_id":"REAL","members":{"rabbit":"v"}}`:                                         `"rabbit" is no node's name`,
		`{"state":"formed","cluster_id":"REAL","members":{"rabbit@b":"v"},"gone":{"r@x' -o":{}}}`:                 "is no node's name",
		`{"state":"formed","cluster_id":"REAL","members":{"rabbit@b":"v"},"seed":"@"}`:                            "is no node's name",
		`{"state":"formed","cluster_id":"REAL","members":{"rabbit@b":"v"},"joining":{"b":"v"}}`:                   "is no node's name",
		`{"state":"formed","cluster_id":"REAL","members":{"rabbit@b":"v"},"replaced":[{"node":""}]}`:              "is no node's name",
		`{"state":"formed","cluster_id":"REAL","members":{"rabbit@b":"v"},"previous":[{"members":["x"]}]}`:        "is no node's name",
		`{"state":"formed","cluster_id":"REAL\u001b[2J","members":{"rabbit@b":"v"}}`:                              "control characters",
		`{"state":"formed","cluster_id":"REAL","members":{"rabbit@b":"v"},"gone":{"r@x":{"why":"` + long + `"}}}`: "too long",
		`{"state":"formed","cluster_id":"REAL","members":{"rabbit@b":"v"},"since":"yesterday"}`:                   "parsing time",
		string(huge): "1001 members",
	} {
		if _, err := consul.Client.KV().Put(&api.KVPair{Key: recordKey, Value: []byte(text)}, nil); err != nil {
			t.Fatal(err)
		}
		r, index, err := peers.ReadRecord(t.Context(), consul.Client, recordKey)
		if err == nil || r.State != peers.Absent || index != 0 {
			t.Errorf("%.100s: it is taken for %+v", text, r)
			continue
		}
		for _, words := range []string{says, recordKey, "restore it from a backup", "delete the key while a member with data runs"} {
			if !strings.Contains(err.Error(), words) {
				t.Errorf("%.100s: %v lacks %q", text, err, words)
			}
		}
		if len(err.Error()) > 500 || strings.ContainsRune(err.Error(), 0x1b) {
			t.Errorf("%.100s: %q", text, err)
		}
	}
	// What the program itself leaves is none of these.
	r := peers.Record{}.Claimed(a, "va", "s", now).Founded("id", now).Joins(b, "vb", now).With(b, "vb")
	for _, r := range []peers.Record{r, r.Left(a, "told to", now), r.RemovedItself(a, "va", now).Without(b, "given up", now), r.Claimed(b, "vb", "s", now), peers.Published(peers.View{ClusterID: "id", Members: []string{a, b}}, a, "va", now), r.Without(b, "blank", now).Joins(b, "vc", now)} {
		_, index, _ := peers.ReadRecord(t.Context(), consul.Client, recordKey)
		if index == 0 {
			if _, err := consul.Client.KV().Delete(recordKey, nil); err != nil {
				t.Fatal(err)
			}
		}
		mustWrite(t, consul.Client, r, index, true)
		mustRead(t, consul.Client)
	}
}

func TestVersionsAreThoseOfMembers(t *testing.T) {
	r := peers.Record{State: peers.Formed, Members: map[string]string{a: "va", b: ""}}
	first := r.Runs(a, "4.0.5")
	if len(r.Versions) > 0 || first.Versions[a] != "4.0.5" {
		t.Errorf("%v, from a record that had %v", first.Versions, r.Versions)
	}
	both := first.Runs(b, "4.2.0").Runs(a, "4.2.0").Runs(c, "4.2.0").Runs(b, "")
	if len(both.Versions) != 2 || both.Versions[a] != "4.2.0" || both.Versions[b] != "4.2.0" || first.Versions[a] != "4.0.5" {
		t.Errorf("%v, from %v", both.Versions, first.Versions)
	}
	if gone := both.Without(a, "blank", time.Now()); len(gone.Versions) != 1 || len(both.Versions) != 2 || gone.With(a, "va2").Versions[a] != "" {
		t.Errorf("%v, from %v", gone.Versions, both.Versions)
	}
	if anew := both.Claimed(c, "vc", "", time.Now()); len(anew.Versions) > 0 {
		t.Errorf("a new cluster knows %v", anew.Versions)
	}
}

// Those that went with nothing lost do not fill the record.
func TestRecordIsPruned(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	r := peers.Record{State: peers.Formed, ClusterID: "id", Members: map[string]string{a: "va"}}
	r = r.With(b, "vb").Without(b, "its volume came up blank", now)
	for i := range 1500 {
		n := fmt.Sprintf("rabbit@h%04d", i)
		r = r.With(n, "v").Left(n, "told to", now.Add(time.Duration(i)*time.Second))
	}
	mustWrite(t, consul.Client, r, 0, true)
	got, _ := mustRead(t, consul.Client)
	_, oldest := got.Gone["rabbit@h1399"]
	_, kept := got.Gone["rabbit@h1400"]
	if _, lost := got.Gone[b]; len(got.Gone) != 101 || oldest || !kept || !lost || len(r.Gone) != 1501 {
		t.Errorf("%d are left, of %d; the one with data %t", len(got.Gone), len(r.Gone), lost)
	}
}
