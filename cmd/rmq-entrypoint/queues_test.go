package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
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
			c := &companion{log: slog.New(slog.NewTextHandler(&log, nil)), rt: runtimeFile{Version: tc.version}, broker: broker{"a", run}, regrows: 10}
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

// calls are the command lines that a node's rabbitmqctl and its like were given.
func (n *node) calls(with string) (found []string) {
	b, _ := os.ReadFile(n.path("ctl"))
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, with) {
			found = append(found, line)
		}
	}
	return found
}

// A seed of a version that mirrors sets the policy before it announces its
// cluster, and never again: what becomes of it is the user's.
func testSeedMirrors(t *testing.T, w *world) {
	n := w.node("rabbit@localhost", "RABBITMQ_VERSION=3.10.8")
	n.start()
	n.server(soon)
	config, err := os.ReadFile(n.state("rabbitmq.config"))
	must(t, err)
	if strings.Contains(string(config), "queue") {
		t.Errorf("settings that 3.10 does not have: %s", config)
	}
	n.put(n.path("mirror"), "no line of a queue\n")
	n.put(n.path("mirror.exit"), "69") // RabbitMQ cannot be asked
	n.tell("amqp up")
	n.sees("id-1", n.name)
	n.tell("notify READY=1")
	n.reports(3*testBeat+soon, api.HealthCritical, "the policy that mirrors queues cannot be set (--queues, RMQ_QUEUES)")
	if r := w.record(); r.State != peers.Forming {
		t.Errorf("it announced a cluster without the policy: %+v", r)
	}
	before := len(n.calls("ha-mode"))
	n.put(n.path("mirror"), "queue|/|ok|\nqueue|two|ok|\n")
	must(t, os.Remove(n.path("mirror.exit")))
	n.registered(3*testBeat+soon, api.HealthPassing)
	says(t, n.log(), "queues are mirrored to all nodes", "vhosts=/,two")
	calls := n.calls("ha-mode")
	if len(calls) != before+1 {
		t.Fatalf("the policy was set %d times:\n%s", len(calls)-before, calls)
	}
	for _, key := range []string{`{<<"ha-mode">>, <<"all">>}`, `{<<"ha-sync-mode">>, <<"automatic">>}`, `{<<"ha-promote-on-failure">>, <<"when-synced">>}`, `{<<"ha-promote-on-shutdown">>, <<"when-synced">>}`} {
		if !strings.Contains(calls[0], key) {
			t.Errorf("the policy lacks %s: %s", key, calls[0])
		}
	}
	n.tell("notify STOPPING=1")
	n.registered(time.Second, "")
	n.tell("notify READY=1")
	n.registered(soon, api.HealthPassing)
	if again := n.calls("ha-mode"); len(again) != before+1 {
		t.Errorf("it was set again:\n%s", again)
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
		k := companion{log: slog.New(slog.NewTextHandler(&log, nil)), broker: broker{"a", run}, rt: runtimeFile{Version: c.version, Config: config{Queues: c.queues}}}
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
		k := companion{rt: runtimeFile{Version: c.version, Config: config{Queues: c.queues, TTL: ttl}}, two: time.Now().Add(-c.since)}
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
	grow := func(few rabbitconf.Int) string { return erlang("grow", parameter{"Few", few}) }
	few, lost, refill := grow(3), grow(1), erlang("refill")
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
		k := companion{rt: runtimeFile{Version: c.version, Config: config{Queues: c.queues}}}
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
		k := companion{broker: broker{"a@h", run}, rt: runtimeFile{Version: c.version, Config: config{Node: "a@h", Data: v.data, StateDir: v.state}}}
		must(t, k.force(t.Context(), []string{"b@h", "c@h"}, c.paused))
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

// A name may hold what parts it from the word, and letters beyond Latin-1, on which
// ~s would fail for all queues at once.
func TestNamesOfQueues(t *testing.T) {
	t.Parallel()
	run := func(context.Context, ...string) (string, error) {
		return "queue|queue 'a|b' in vhost '/'|ok|\nqueue|queue 'очередь' in vhost '/'|{only_here,7}|\nnoise|x|\n", nil
	}
	said, err := broker{"a", run}.perQueue(t.Context(), "")
	want := map[string]string{"queue 'a|b' in vhost '/'": "ok", "queue 'очередь' in vhost '/'": "{only_here,7}"}
	if err != nil || !maps.Equal(said, want) {
		t.Errorf("got %q, %v", said, err)
	}
	for _, name := range []string{"mirror", "grow", "refill", "unavailable", "move"} {
		expr := erlang(name)
		if strings.Contains(expr, "queue|~s|") || !strings.Contains(expr, "queue|~ts|") {
			t.Errorf("it prints names by ~s:\n%s", expr)
		}
	}
}
