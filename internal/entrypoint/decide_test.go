package entrypoint

import (
	"errors"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
)

// Data that never was verified may not take a name that is another volume's, and a refusal
// says whose it is, where that is, and the ways out.
func TestRuledOut(t *testing.T) {
	t.Parallel()
	cfg := config.Config{Node: "rabbit@b", Service: "rabbitmq", KeyPrefix: "p", StateDir: "/state"}
	r := peers.Record{State: peers.Formed, ClusterID: "id", Since: time.Now(), Members: map[string]string{"rabbit@a": "va", "rabbit@b": "vb"}}
	never := r.With("rabbit@b", "")
	for name, c := range map[string]struct {
		record peers.Record
		found  statedir.Found
		kind   string // "": it starts
		says   string
	}{
		"an official image's volume":             {r, statedir.Found{Role: statedir.Member}, ruledOutVolume, "which has no id yet"},
		"the same, once it has an id":            {r, statedir.Found{Role: statedir.Member, Volume: "vx"}, ruledOutVolume, "(vx) was never verified as a member, and rabbit@b is on record with another one, vb, in cluster id"},
		"a seed's that was killed":               {r, statedir.Found{Role: statedir.Seeding, Volume: "vx"}, ruledOutVolume, "seen with vb"},
		"a joiner's":                             {r, statedir.Found{Role: statedir.Joining, Volume: "vx"}, ruledOutVolume, "delete the key p/rabbitmq/cluster"},
		"a joiner's, and the other has left":     {r.Left("rabbit@b", "told to", time.Now()), statedir.Found{Role: statedir.Joining, Volume: "vx"}, ruledOutVolume, "was on record with another one, vb"},
		"on record without a volume":             {never, statedir.Found{Role: statedir.Member}, "", ""},
		"on record with this volume":             {r, statedir.Found{Role: statedir.Joining, Volume: "vb"}, "", ""},
		"the one on record never was either":     {never.Joins("rabbit@c", "v1", time.Now()), statedir.Found{Role: statedir.Member}, "", ""},
		"verified, and replaced":                 {r, statedir.Found{Role: statedir.Member, Volume: "vx", Cluster: "id"}, ruledOutVolume, "refusing to start beside the cluster: this volume (vx) was replaced"},
		"left":                                   {r.Left("rabbit@b", "told to", time.Now()), statedir.Found{Role: statedir.Member, Volume: "vb", Cluster: "id"}, gone, "left cluster id for good"},
		"nobody is on record, and nobody forms":  {peers.Record{}, statedir.Found{Role: statedir.Member}, "", ""},
		"another of its name founds, unverified": {peers.Record{}.Claimed("rabbit@b", "vb", "s", time.Now()), statedir.Found{Role: statedir.Member}, "", ""},
	} {
		err := ruledOut(c.record, cfg, c.found, func(volume string) string { return "seen with " + volume })
		var refusal *Refusal
		switch errors.As(err, &refusal); {
		case c.kind == "" && err != nil, c.kind != "" && (refusal == nil || refusal.kind != c.kind || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%s: %v", name, err)
		case c.kind == ruledOutVolume && c.found.Cluster == "" && (!strings.Contains(err.Error(), "nothing was changed") || !strings.Contains(err.Error(), "host name") || !strings.Contains(err.Error(), "/state")):
			t.Errorf("%s: %v says no way out", name, err)
		}
	}
}
