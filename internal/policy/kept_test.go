package policy

import (
	"errors"
	"slices"
	"testing"
	"time"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/peers"
)

// keeping has the world answer from what it was asked first, as long as that will do, and counts
// what is read through Raft.
type keeping struct {
	*world
	record  Record
	catalog []peers.Peer
	read    []What
}

func keep(w *world) *keeping {
	return &keeping{world: w, record: Record{Record: w.record, Index: w.index}, catalog: w.catalog.Value}
}

func (k *keeping) decide(t *testing.T) Verdict {
	t.Helper()
	k.read = nil
	seen := Observation{Began: k.now, Now: k.now, Glance: Glance{Health: k.health, Volume: k.volume, ID: "fresh", Made: "made"}}
	for range MostSteps {
		v := checked(t, "Decide", func(s State, o Observation) Verdict { return Decide(k.set, s, o) }, k.s, seen)
		switch {
		case v.Ask == nil:
			return v
		case v.Ask.What == AskAfresh:
			seen = seen.Afresh()
		case v.Ask.What == AskRecord && v.Ask.Kept && !seen.Fresh:
			seen.Record, seen.Kept = Answer(k.record, nil), true
		case v.Ask.What == AskCatalog && v.Ask.Kept && !seen.Fresh:
			seen.Catalog, seen.Kept = Answer(k.catalog, nil), true
		default:
			if v.Ask.What == AskRecord || v.Ask.What == AskCatalog {
				k.read = append(k.read, v.Ask.What)
			}
			k.seen = seen
			k.answer(*v.Ask)
			seen = k.seen
		}
	}
	t.Fatal("a beat without an end")
	return Verdict{}
}

// A node in its steady state goes by what it kept. Whatever is to be done, and whatever it says that
// is new, rests on what was read through Raft in that beat.
func TestKept(t *testing.T) {
	both := []What{AskRecord, AskCatalog}
	for name, c := range map[string]struct {
		change func(*keeping)
		read   []What
		status string // of the word; "": something is to be done
	}{
		"nothing has changed": {func(*keeping) {}, nil, Passing},
		"it has a warning, as before": {func(k *keeping) {
			k.s.Entry.Status, k.health.State, k.catalog[0].Status = Warning, healthcheck.Warning, Warning
		}, nil, Warning},
		"it has a warning now":               {func(k *keeping) { k.health.State = healthcheck.Warning }, both, Warning},
		"it had a warning":                   {func(k *keeping) { k.s.Entry.Status = Warning }, both, Passing},
		"it was critical":                    {func(k *keeping) { k.s.Entry.Status = Critical }, both, Passing},
		"Consul took no report yet":          {func(k *keeping) { k.s.Entry.Status = "" }, both, Passing},
		"it is to be verified":               {func(k *keeping) { k.serves(Member) }, both, ""},
		"its check lapsed by its clock":      {func(k *keeping) { k.s.Entry.ReportedAt = k.now.Add(-ttl - time.Second) }, both, ""},
		"its check lapsed, and that is owed": {func(k *keeping) { k.s.Entry.Lapse.Owed = true }, both, ""},
		"the catalog lacks its entry":        {func(k *keeping) { k.s.Entry.MissingSince = k.now }, both, Passing},
		"a member passes that does not run":  {func(k *keeping) { k.s.Neighbours.UnseenSince = map[string]time.Time{"b": k.now} }, both, Passing},
		"a member is not listed":             {func(k *keeping) { k.s.Neighbours.UnlistedSince = map[string]time.Time{"b": k.now} }, both, Passing},
		"a member is to be forgotten":        {func(k *keeping) { k.s.Upkeep.ToForget = []string{"d"} }, both, Passing},
		"there was a partition":              {func(k *keeping) { k.s.Partition.Since = k.now }, both, Passing},
		"the cluster had another size":       {func(k *keeping) { k.s.Upkeep.RecordSize = 2 }, both, Passing},
		"what was kept lacks this node": {func(k *keeping) {
			k.record.Members = volumes("b,c")
		}, both, Passing},
		"what was kept has another status of its own": {func(k *keeping) {
			k.catalog = slices.Clone(k.catalog)
			k.catalog[0].Status = Critical
		}, both, Passing},
		"the record is unknown": {func(k *keeping) {
			k.s.Entry.Status, k.recordErr = Critical, errors.New("no leader")
		}, []What{AskRecord}, Passing},
	} {
		t.Run(name, func(t *testing.T) {
			k := keep(newWorld())
			k.s.Upkeep.RecordSize = 3
			c.change(k)
			v := k.decide(t)
			if !slices.Equal(k.read, c.read) || v.Status != c.status {
				t.Errorf("it read %v and says %q: %s (%T); want %v and %q", k.read, v.Status, v.Reason, v.Do, c.read, c.status)
			}
		})
	}
}

// A check that is critical already may lapse without a word in the catalog.
func TestKeeps(t *testing.T) {
	failed := beats("b")
	failed.AgentFailed = true
	for name, c := range map[string]struct {
		catalog []peers.Peer
		want    bool
	}{
		"all pass":                  {[]peers.Peer{passes("a"), passes("b")}, true},
		"one is critical":           {[]peers.Peer{passes("a"), beats("b")}, false},
		"one of a failed agent":     {[]peers.Peer{passes("a"), failed}, true},
		"nobody is there, not even": {nil, true},
	} {
		if got := Keeps(c.catalog); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
