package companion

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
	"rmq-entrypoint/tests/expect"
)

// Replicas are brought back until nothing is left to do; a node that cannot be asked is asked again, ten times.
func TestRegrow(t *testing.T) {
	for _, tc := range []struct {
		name    string
		version string
		answers []string // one a question; "" is none
		left    int      // tries
		says    string
	}{
		{"nothing to do", "4.0.5", []string{"ok"}, 0, ""},
		{"grown", "4.0.5", []string{"queue|queue 'a' in vhost '/'|ok|"}, 0, "queue 'a' in vhost '/'"},
		{"more with the next beat", "4.0.5", []string{"queue|a|ok|\nqueue|b|later|"}, 10, "names=a"},
		{"refused", "4.0.5", []string{"queue|a|{error,timeout}|"}, 9, "quorum queues without a replica here"},
		{"busy", "4.0.5", []string{""}, 9, "cannot look yet"},
		{"3.10 refills, too", "3.10.8", []string{"ok", "queue|a|ok|"}, 0, "names=a"},
		{"3.10, one try for both", "3.10.8", []string{"queue|a|{error,timeout}|", ""}, 9, "cannot look yet"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var log bytes.Buffer
			asked := 0
			run := func(context.Context, ...string) (string, error) {
				asked++
				if a := tc.answers[asked-1]; a != "" {
					return a + "\n", nil
				}
				return "", errors.New("no answer")
			}
			c := &Companion{log: slog.New(slog.NewTextHandler(&log, nil)), rt: statedir.Runtime{Version: tc.version}, broker: rabbitmq.CLI{Node: "a", Run: run}, regrows: 10}
			c.regrow(t.Context())
			if asked != len(tc.answers) || c.regrows != tc.left || !strings.Contains(log.String(), tc.says) || tc.says == "" && log.Len() > 0 {
				t.Errorf("asked %d times, %d tries left: %s", asked, c.regrows, log.String())
			}
			c.regrows = 0
			if c.regrow(t.Context()); asked != len(tc.answers) {
				t.Error("it asks when nothing is left to do")
			}
		})
	}
}

// Who sets the policy, and who leaves it alone.
func TestMirror(t *testing.T) {
	for _, c := range []struct {
		version, queues string
		answer          string // of RabbitMQ; "" is none
		asked           bool
		why             string // what holds the founding up
		log             string
	}{
		{version: "3.10.8", queues: "auto", answer: "queue|/|ok|\n", asked: true, log: "queues are mirrored"},
		{version: "3.13.7", queues: "auto", answer: "queue|/|ok|\n", asked: true, log: "queues are mirrored"},
		{version: "3.10.8", queues: "auto", asked: true, why: "no answer"},
		{version: "3.13.7", queues: "auto", answer: "queue|/|{error_string,\"not permitted\"}|\nqueue|b|ok|\n", asked: true, log: "not permitted"},
		{version: "3.10.8", queues: "off"},
		{version: "4.0.0", queues: "auto"},
		{version: "4.3.6", queues: "auto"},
	} {
		var log bytes.Buffer
		asked := 0
		run := func(_ context.Context, argv ...string) (string, error) {
			asked++
			if c.answer == "" {
				return "", errors.New("no answer")
			}
			return c.answer, nil
		}
		k := Companion{log: slog.New(slog.NewTextHandler(&log, nil)), broker: rabbitmq.CLI{Node: "a", Run: run}, rt: statedir.Runtime{Version: c.version, Config: config.Config{Queues: c.queues}}}
		why := k.mirror(t.Context())
		if (asked == 1) != c.asked || (why == "") != (c.why == "") || !strings.Contains(why, c.why) || !strings.Contains(log.String(), c.log) {
			t.Errorf("%s, --queues %s: asked %d times, %q, log %s", c.version, c.queues, asked, why, log.String())
		}
	}
}

// Two members are warned of where they are worse than one, and not while a third
// may be on its way.
func TestPair(t *testing.T) {
	const ttl = 15 * time.Second
	for _, c := range []struct {
		version, queues string
		khepri          bool
		members         int
		since           time.Duration
		want            string
	}{
		{"4.3.6", "auto", true, 2, time.Minute, "4.2 and later decide by majority: add a third node"},
		{"4.2.0", "off", true, 2, time.Minute, "does not survive the loss of either"},
		{"4.0.5", "auto", false, 2, time.Minute, "quorum queues"},
		{"4.3.6", "auto", true, 2, ttl, ""},
		{"4.3.6", "auto", true, 1, time.Minute, ""},
		{"4.3.6", "auto", true, 3, time.Minute, ""},
		{"4.0.5", "off", false, 2, time.Minute, ""},
		{"3.10.8", "auto", false, 2, time.Minute, ""},
	} {
		k := Companion{rt: statedir.Runtime{Version: c.version, Config: config.Config{Queues: c.queues, TTL: ttl}}, two: time.Now().Add(-c.since)}
		k.view = peers.View{Members: []string{"a", "b", "c"}[:c.members], Khepri: c.khepri}
		got := k.pair()
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%+v: %q", c, got)
		}
		if c.members == 2 { // one that has just come to two members waits
			k.two = time.Time{}
			if got := k.pair(); got != "" || k.two.IsZero() {
				t.Errorf("%+v at first: %q", c, got)
			}
		}
	}
}

// A joiner grows the quorum queues there are; with --queues off only those that
// lost a replica with its volume. Replicas that stay empty for good are made anew
// in any case.
func TestWhoGrowsQueues(t *testing.T) {
	grow := func(few rabbitconf.Int) string {
		return rabbitmq.Erlang("grow", rabbitmq.Parameter{Name: "Few", Value: few})
	}
	few, lost, refill := grow(3), grow(1), rabbitmq.Erlang("refill")
	for _, c := range []struct {
		version, queues string
		want            []string
	}{
		{"3.10.8", "auto", []string{few, refill}},
		{"3.13.7", "auto", []string{few}},
		{"4.3.6", "auto", []string{few}},
		{"3.10.8", "off", []string{lost, refill}},
		{"4.0.5", "off", []string{lost}},
	} {
		k := Companion{rt: statedir.Runtime{Version: c.version, Config: config.Config{Queues: c.queues}}}
		if got := k.regrowExprs(); !slices.Equal(got, c.want) {
			t.Errorf("%s, --queues %s: %q", c.version, c.queues, got)
		}
	}
}

// Carrying on, a version with mirrors takes the queues over whose home is lost,
// before the boot goes on and throws this copy away.
func TestCarryOnTakesQueuesOver(t *testing.T) {
	for _, c := range []struct {
		version string
		paused  bool
		want    []string // in this order in the one call; none: no call
		not     string
	}{
		{version: "3.10.8", want: []string{"['b@h','c@h']", "set_pid", "rabbit_table:force_load()"}},
		{version: "3.13.7", want: []string{"['b@h','c@h']", "set_pid", "rabbit_table:force_load()"}},
		{version: "3.10.8", paused: true, want: []string{"mnesia:start()", "['b@h','c@h']", "set_pid", "mnesia:stop()"}, not: "rabbit_table:force_load()"},
		{version: "4.0.5", want: []string{"rabbit_table:force_load()"}, not: "set_pid"},
		{version: "4.0.5", paused: true},
		{version: "4.3.6", want: []string{"force_standalone_khepri_boot"}, not: "set_pid"},
	} {
		var calls []string
		run := func(_ context.Context, argv ...string) (string, error) {
			calls = append(calls, strings.Join(argv, " "))
			return "", nil
		}
		v := testVolume(t)
		k := Companion{broker: rabbitmq.CLI{Node: "a@h", Run: run}, rt: statedir.Runtime{Version: c.version, Config: config.Config{Node: "a@h", Data: v.Data, StateDir: v.State}}}
		expect.Must(t, k.force(t.Context(), []string{"b@h", "c@h"}, c.paused))
		said := strings.Join(calls, "\n")
		if len(calls) > 1 || (said == "") != (c.want == nil) || c.not != "" && strings.Contains(said, c.not) {
			t.Errorf("%+v: %q", c, calls)
		}
		for _, w := range c.want {
			_, rest, ok := strings.Cut(said, w)
			if !ok {
				t.Errorf("%+v: %s is missing or out of order: %q", c, w, calls)
			}
			said = rest
		}
		calls = nil
		err := k.force(t.Context(), []string{"b@h']), halt(), (['"}, c.paused)
		if over := strings.HasPrefix(c.version, "3."); (err != nil) != over || over && calls != nil {
			t.Errorf("%+v with a name that is none: %v, %q", c, err, calls)
		}
	}
}
