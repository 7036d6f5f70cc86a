package companion

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

// A joiner gives up where the cluster counts it in and has no leader without it, but
// not at once: it may be about to vote.
func TestVotesInVain(t *testing.T) {
	t.Parallel()
	agent := consultest.Start(t)
	member := peers.Registration{Service: "rabbitmq", Node: "a@localhost", Port: 5672, TTL: 10 * time.Second, DeregisterAfter: time.Hour, Start: peers.Start{Volume: "va", Boot: "boot"}, ClusterID: "id-1"}
	expect.Must(t, peers.Announce(t.Context(), agent.Client, member, peers.Serving, ""))
	expect.Must(t, peers.Report(t.Context(), agent.Client, member, api.HealthPassing, ""))
	v := testVolume(t)
	view, mine, led, asked := "", "view||b@localhost|||true|\n", "false", 0
	run := func(_ context.Context, argv ...string) (string, error) {
		asked++
		switch {
		case strings.Contains(argv[5], "led|"):
			return "led|" + led + "|\nok\n", nil
		case argv[3] == "b@localhost":
			return mine, nil
		}
		return view, nil
	}
	cfg := config.Config{Node: "b@localhost", Service: member.Service, KeyPrefix: "rmq-entrypoint", Consul: []string{agent.Addr}, Data: v.Data, StateDir: v.State, JoinTimeout: time.Hour, TTL: member.TTL}
	expect.Must(t, v.WritePending(statedir.Pending{Role: statedir.Joining, Claim: "c1", Volume: "vb"}))
	var log bytes.Buffer
	c := &Companion{
		log: slog.New(slog.NewTextHandler(&log, nil)), rt: statedir.Runtime{Config: cfg, Role: statedir.Joining, Claim: "c1", Volume: "vb", PID: -1},
		consul: consul.New(cfg, slog.New(slog.DiscardHandler)), broker: rabbitmq.CLI{Node: "b@localhost", Run: run}, joinedBy: time.Now().Add(time.Hour), born: time.Now(),
	}
	counted := "view|id-1|a@localhost,b@localhost|a@localhost||true|\n"
	view = counted
	if c.votesInVain(t.Context()); asked != 0 {
		t.Errorf("it asked %d times before a join takes longer than usual", asked)
	}
	c.born = time.Now().Add(-time.Minute)
	own, since := mine, time.Now().Add(-time.Hour)
	for _, tc := range []struct {
		name, view, led, mine string
		unknown               bool // says nothing for it or against
	}{
		{name: "not counted in", view: "view|id-1|a@localhost|a@localhost||true|\n", led: "false", mine: own},
		{name: "a majority without it", view: "view|id-1|a@localhost,b@localhost,c@localhost|a@localhost,c@localhost||true|\n", led: "false", mine: own},
		{name: "Mnesia", view: "view|id-1|a@localhost,b@localhost|a@localhost||false|\n", led: "false", mine: own},
		{name: "it has a leader", view: counted, led: "true", mine: own},
		{name: "it knows the others itself: slow", view: counted, led: "false", mine: "view||a@localhost,b@localhost|||true|\n"},
		{name: "whether it has a leader is unknown", view: counted, led: "unknown", mine: own, unknown: true},
		{name: "nobody can be asked", led: "false", mine: own, unknown: true},
		{name: "it boots", view: counted, led: "false", unknown: true},
	} {
		view, led, mine, c.stuckAt, c.stuck = tc.view, tc.led, tc.mine, since, stuckLooks
		if c.votesInVain(t.Context()) {
			t.Errorf("%s: it gives up", tc.name)
		}
		if kept := c.stuckAt.Equal(since) && c.stuck == stuckLooks; kept != tc.unknown {
			t.Errorf("%s: since %s, %d looks", tc.name, c.stuckAt, c.stuck)
		}
	}
	view, led, mine, c.stuckAt, c.stuck = counted, "false", own, time.Time{}, 0
	for range stuckLooks {
		if c.votesInVain(t.Context()) || c.stuckAt.IsZero() {
			t.Error("it gives up at once")
		}
	}
	c.stuckAt, c.stuck = since, stuckLooks-2
	if c.votesInVain(t.Context()) {
		t.Error("it gives up after few looks")
	}
	touch(t, filepath.Join(v.Data, "rabbit_serial"))
	if c.votesInVain(t.Context()) {
		t.Error("it gives up what may be data")
	}
	expect.Must(t, os.RemoveAll(v.Data))
	c.giveUp(t.Context())
	expect.Says(t, log.String(), "stopping the server", "no leader without its vote")
	if pending, err := v.Pending(); err != nil || pending == nil || !pending.Failed || pending.Role != statedir.Joining || pending.Claim != "c1" || pending.Volume != "vb" {
		t.Errorf("pending: %+v, %v", pending, err)
	}
	// What a node founded alone by accident stays known as such.
	expect.Must(t, v.WritePending(statedir.Pending{Role: statedir.Alone, Claim: "c1", Volume: "vb"}))
	c.joinedBy = time.Now()
	c.giveUp(t.Context())
	if pending, err := v.Pending(); err != nil || pending.Role != statedir.Alone || pending.Failed {
		t.Errorf("pending: %+v, %v", pending, err)
	}
}
