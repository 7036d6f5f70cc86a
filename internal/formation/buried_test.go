package formation

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
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

// Whoever may register a service has any number of entries say this node's name and volume: the agent, which has one of the
// node's at most, is asked once for all of them.
func TestManyEarlierEntries(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		_, _ = w.Write([]byte("{}"))
	}))
	t.Cleanup(agent.Close)
	client, err := api.NewClient(&api.Config{Address: agent.URL})
	expect.Must(t, err)
	rt := statedir.Runtime{Config: config.Config{Service: "rabbitmq", Node: "rabbit@b", TTL: time.Minute}, Address: "10.0.0.2", Boot: "b2"}
	f := &formation{Options: Options{Log: slog.New(slog.DiscardHandler), Runtime: rt}, cfg: rt.Config, volume: statedir.Found{Volume: "v1"}}
	requests := func(entries int) int64 {
		asked.Store(0)
		var o observation
		f.lookForNamesakes(t.Context(), client, slices.Repeat([]peers.Peer{{Node: "rabbit@b", Start: peers.Start{Volume: "v1", Boot: "b1"}}}, entries), &o)
		expect.Must(t, o.Namesakes.Err)
		if len(o.Namesakes.Value) > 0 || o.Freed != 0 {
			t.Errorf("namesakes %+v, free for %s", o.Namesakes.Value, o.Freed)
		}
		return asked.Load()
	}
	if one, many := requests(1), requests(100); one == 0 || many != one {
		t.Errorf("%d requests for an entry, and %d for a hundred", one, many)
	}
}
