package formation

import (
	"log/slog"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

// A blank start removes the entry that an earlier start of its own left, and waits for nobody
// then. Another volume's, and one that serves, stay, and are waited for.
func TestOwnEarlierEntryIsBuried(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		volume, status string
		stays          bool // the entry
		alive          bool // somebody who has the name may live
	}{
		"its own":                            {"v1", api.HealthCritical, false, false},
		"another volume's":                   {"v2", api.HealthCritical, true, true},
		"a copy of its volume, which serves": {"v1", api.HealthPassing, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := consultest.Start(t).Client
			rt := statedir.Runtime{Config: config.Config{Service: "rabbitmq", Node: "rabbit@b", TTL: time.Minute}, Address: "10.0.0.2", Boot: "b2", Volume: c.volume}
			earlier := consul.Registration(rt)
			earlier.Boot = "b1"
			expect.Must(t, peers.Announce(t.Context(), client, earlier, peers.Blank, "about to join"))
			expect.Must(t, peers.Report(t.Context(), client, earlier, c.status, ""))
			f := &formation{Options: Options{Log: slog.New(slog.DiscardHandler), Runtime: rt}, cfg: rt.Config, volume: statedir.Found{Volume: "v1"}}
			var o observation
			f.lookForNamesakes(t.Context(), client, nil, &o)
			expect.Must(t, o.Namesakes.Err)
			there, err := client.Agent().Services()
			expect.Must(t, err)
			if (len(there) > 0) != c.stays || (len(o.Namesakes.Value) > 0) != c.alive || o.Freed != 0 {
				t.Errorf("%d entries, namesakes %+v, free for %s", len(there), o.Namesakes.Value, o.Freed)
			}
		})
	}
}
