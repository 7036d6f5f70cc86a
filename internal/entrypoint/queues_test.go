package entrypoint

import (
	"log/slog"
	"testing"
	"time"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/formation"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/rabbitconf"
	"rmq-entrypoint/tests/expect"
)

// What queues are by default is decided once for a cluster.
func TestDefaultQueues(t *testing.T) {
	v310, v40, v43 := rabbitconf.Version{Major: 3, Minor: 10, Patch: 8}, rabbitconf.Version{Major: 4, Patch: 5}, rabbitconf.Version{Major: 4, Minor: 3, Patch: 6}
	member := statedir.Found{Role: statedir.Member, Volume: "v", Cluster: "id"}
	adopted := statedir.Found{Role: statedir.Member}
	was := func(f statedir.Found, queues string) statedir.Found {
		f.Queues = &statedir.Queues{Default: queues}
		return f
	}
	for name, c := range map[string]struct {
		found   statedir.Found
		plan    formation.Plan
		version rabbitconf.Version
		ran     rabbitconf.Version
		off     bool
		want    string
	}{
		"founded":                                {plan: formation.Plan{Role: statedir.Seeding}, version: v40, want: statedir.Quorum},
		"founded on 4.3":                         {plan: formation.Plan{Role: statedir.Seeding}, version: v43, want: statedir.Quorum},
		"founded with off":                       {plan: formation.Plan{Role: statedir.Seeding}, version: v40, off: true, want: statedir.Classic},
		"founded on 3.10":                        {plan: formation.Plan{Role: statedir.Seeding}, version: v310, want: statedir.Classic},
		"founded on 3.10, upgraded":              {found: was(member, statedir.Classic), version: v40, ran: v310, want: statedir.Classic},
		"founded, upgraded":                      {found: was(member, statedir.Quorum), version: v43, ran: v40, want: statedir.Quorum},
		"founded with off, then auto":            {found: was(member, statedir.Classic), version: v40, ran: v40, want: statedir.Classic},
		"adopted":                                {found: adopted, version: v40, want: statedir.Adopted},
		"adopted, that ran here before":          {found: adopted, version: v40, ran: v40, want: statedir.Adopted},
		"adopted, verified":                      {found: was(member, statedir.Adopted), version: v43, ran: v40, want: statedir.Adopted},
		"founded again over what it was":         {found: statedir.Found{Queues: &statedir.Queues{Default: statedir.Classic}}, plan: formation.Plan{Role: statedir.Seeding}, version: v40, want: statedir.Quorum},
		"joins classic":                          {plan: formation.Plan{Role: statedir.Joining, Queues: statedir.Classic}, version: v40, want: statedir.Classic},
		"adopted with off":                       {found: adopted, version: v40, off: true, want: statedir.Adopted},
		"adopted on 3.10":                        {found: adopted, version: v310, want: statedir.Adopted},
		"joins an adopted one":                   {plan: formation.Plan{Role: statedir.Joining, Queues: statedir.Adopted}, version: v40, want: statedir.Adopted},
		"joins quorum":                           {plan: formation.Plan{Role: statedir.Joining, Queues: statedir.Quorum}, version: v40, want: statedir.Quorum},
		"joins quorum with off":                  {plan: formation.Plan{Role: statedir.Joining, Queues: statedir.Quorum}, version: v40, off: true, want: statedir.Quorum},
		"joins members that do not say":          {plan: formation.Plan{Role: statedir.Joining}, version: v40, want: statedir.Quorum},
		"joins again on a wiped volume":          {found: statedir.Found{Lost: "id", Queues: &statedir.Queues{Default: statedir.Quorum}}, plan: formation.Plan{Role: statedir.Joining, Queues: statedir.Classic}, version: v40, want: statedir.Classic},
		"an earlier program's member":            {found: member, version: v40, ran: v40, want: statedir.Quorum},
		"an earlier program's member, upgraded":  {found: member, version: v40, ran: v310, want: statedir.Classic},
		"an earlier program's unverified joiner": {found: statedir.Found{Role: statedir.Joining, Volume: "v"}, version: v40, ran: v40, want: statedir.Quorum},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			h := host{version: c.version, state: c.found}
			h.rt.Config = config.Config{StateDir: dir, Queues: "auto"}
			if c.off {
				h.rt.Config.Queues = "off"
			}
			if c.ran != (rabbitconf.Version{}) {
				expect.Must(t, statedir.Dir{State: dir}.Stamp(c.ran, "", time.Now()))
			}
			got, err := defaultQueues(slog.New(slog.DiscardHandler), h, c.plan)
			if err != nil || got != c.want {
				t.Errorf("%s, %v, want %s", got, err, c.want)
			}
			if kept, err := (statedir.Dir{State: dir}).Queues(); err != nil || kept == nil || kept.Default != c.want {
				t.Errorf("on the volume: %+v, %v", kept, err)
			}
		})
	}
}
