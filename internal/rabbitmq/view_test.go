package rabbitmq

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/expect"
	"rmq-entrypoint/tests/rabbittest"
)

// What RabbitMQ is told while it runs, it says at once, and what it forgets with its next start.
func TestRabbitMQ(t *testing.T) {
	m := rabbittest.Start(t, "-e", "RABBITMQ_ERLANG_COOKIE=secret")
	node := CLI{Node: "rabbit@node1", Run: func(_ context.Context, argv ...string) (string, error) { return m.TryExec(argv...) }}
	var v peers.View
	says := func(what string, ok func(peers.View) bool) {
		t.Helper()
		rabbittest.Until(t, what, func() (any, bool) {
			var err error
			v, err = node.View(t.Context(), node.Node)
			return []any{v, err}, err == nil && ok(v)
		})
	}
	pauses := func(want bool) {
		t.Helper()
		if v, err := node.View(t.Context(), node.Node); err != nil || v.Pauses != want {
			t.Errorf("it pauses in a minority: %t, %v, want %t", v.Pauses, err, want)
		}
	}
	says("it runs", func(v peers.View) bool { return len(v.Running) == 1 })
	pauses(false)
	vitals, err := node.Vitals(t.Context())
	if err != nil || len(vitals.Alarms) > 0 || vitals.DiskFree == 0 || vitals.DiskLimit == 0 || vitals.Memory == 0 || vitals.Total < vitals.Memory || vitals.Versions[node.Node] == "" || vitals.Disabled < 0 || len(vitals.Critical) > 0 || vitals.Guest != "true" || vitals.Named != "false" || !maps.Equal(vitals.Leads, map[string]int{node.Node: 0}) {
		t.Errorf("its vitals are %+v, %v", vitals, err)
	}
	m.Exec(t, "rabbitmqctl", "-q", "set_disk_free_limit", "1000000GB")
	rabbittest.Until(t, "the alarm is told", func() (any, bool) {
		vitals, err := node.Vitals(t.Context())
		return []any{vitals, err}, err == nil && len(vitals.Alarms) == 1 && vitals.Alarms[0] == "disk on "+node.Node
	})
	m.Exec(t, "rabbitmqctl", "-q", "set_disk_free_limit", "50MB")
	if lost, err := node.LostWith(t.Context(), "rabbit@gone"); err != nil || len(lost) > 0 {
		t.Errorf("lost with nobody is %v, %v", lost, err)
	}
	expect.Must(t, node.PauseMinority(t.Context(), true))
	pauses(true)
	expect.Must(t, node.PauseMinority(t.Context(), false))
	pauses(false)
	// start_app reads the files again.
	m.Exec(t, "sh", "-c", "echo cluster_partition_handling = pause_minority >/etc/rabbitmq/conf.d/90-pause.conf")
	for range 2 {
		m.Exec(t, "rabbitmqctl", "stop_app")
		m.Exec(t, "rabbitmqctl", "start_app")
		pauses(true)
		expect.Must(t, node.PauseMinority(t.Context(), false))
		pauses(false)
	}
	// Nobody declares a queue between the look at the queues and the reset.
	m.Exec(t, "rabbitmqctl", "-q", "eval", `{new, _} = rabbit_amqqueue:declare(rabbit_misc:r(<<"/">>, queue, <<"q">>), true, false, [], none, <<"test">>), ok.`)
	if queues, err := node.CloseIfEmpty(t.Context()); err != nil || queues != 1 {
		t.Errorf("it has %d queues, %v", queues, err)
	}
	open := func(want bool) {
		t.Helper()
		if _, err := m.TryExec("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/5672"); (err == nil) != want {
			t.Errorf("it takes connections: %v, want %t", err, want)
		}
	}
	open(true)
	m.Exec(t, "rabbitmqctl", "-q", "suspend_listeners") // as maintenance mode does
	open(false)
	says("what is suspended does not listen", func(v peers.View) bool { return len(v.Running) == 1 && len(v.Listeners)+len(v.Web) == 0 })
	m.Exec(t, "rabbitmqctl", "-q", "resume_listeners")
	open(true)
	says("it listens again", func(v peers.View) bool { return len(v.Listeners) == 1 })
	if err := node.Join(t.Context(), "rabbit@node2", nil); err == nil || !strings.Contains(err.Error(), "declared 1 queues") {
		t.Errorf("it joins with a queue: %v", err)
	}
	m.Exec(t, "rabbitmqctl", "-q", "delete_queue", "q")
	if queues, err := node.CloseIfEmpty(t.Context()); err != nil || queues != 0 {
		t.Errorf("it has %d queues, %v", queues, err)
	}
	open(false)
	m.Exec(t, "rabbitmqctl", "stop_app")
	m.Exec(t, "rabbitmqctl", "start_app")
	open(true)
	// A stop that does not come to what listens.
	m.Exec(t, "rabbitmqctl", "eval", `{ok, _} = supervisor:start_child(rabbit_sup, #{id => never, shutdown => infinity, start => {erlang, apply, [fun() ->
		{ok, spawn_link(fun() -> process_flag(trap_exit, true), receive never -> ok end end)} end, []]}}), ok.`)
	says("it runs and does not stop", func(v peers.View) bool {
		return len(v.Running) == 1 && !v.Stops && time.Since(v.Started) > 0 && time.Since(v.Started) < 10*time.Minute
	})
	m.Exec(t, "rabbitmqctl", "eval", "init:stop(), ok.")
	says("it stops, and listens", func(v peers.View) bool { return v.Stops && len(v.Listeners) == 1 }) // up to 4.0 it also runs
	if stopping, err := node.EndStop(t.Context()); err != nil || !stopping {
		t.Errorf("its stop is ended: %t, %v", stopping, err)
	}
}

func TestViewListeners(t *testing.T) {
	b := CLI{Node: "a@h", Run: func(context.Context, ...string) (string, error) {
		return "view|id|a@h|a@h||true||\nlistener|amqp|::|5672|false|\nlistener|amqp/ssl|10.0.0.7|5671|true|\nlistener|amqp|::|none|false|\nlistener|\nweb|http|::|15672|\nweb|https/prometheus|10.0.0.7|15691|\nweb|http|::|none|\nweb|http|x|1|\nweb|\nok\n", nil
	}}
	v, err := b.View(t.Context(), "a@h")
	expect.Must(t, err)
	if want := []peers.Listener{{IP: "::", Port: 5672}, {IP: "10.0.0.7", Port: 5671, TLS: true, Proxy: true}}; !slices.Equal(v.Listeners, want) {
		t.Errorf("%+v", v.Listeners)
	}
	if want := []peers.WebListener{{Plugin: "management", IP: "::", Port: 15672}, {Plugin: "prometheus", IP: "10.0.0.7", Port: 15691, TLS: true}}; !slices.Equal(v.Web, want) {
		t.Errorf("%+v", v.Web)
	}
}

func TestViewStarted(t *testing.T) {
	for line, want := range map[string]int64{"started|1700000000000001|": 1700000000000001, "started|": 0, "started|x|": 0, "started|-5|": 0, "": 0} {
		b := CLI{Node: "a@h", Run: func(context.Context, ...string) (string, error) {
			return "view|id|a@h|a@h||true||\n" + line + "\nok\n", nil
		}}
		v, err := b.View(t.Context(), "a@h")
		if expect.Must(t, err); v.Started.IsZero() != (want == 0) || want != 0 && v.Started.UnixMicro() != want {
			t.Errorf("%q: %s", line, v.Started)
		}
	}
}

func TestVitals(t *testing.T) {
	b := CLI{Node: "a@h", Run: func(context.Context, ...string) (string, error) {
		return "alarm|disk|b@h|\ndisk|5|3|\nmemory|x|9|\nversion|a@h|4.3.6|\nflags|2|\ncritical|queue 'q|1' in vhost '/'|\nleads|a@h|40|\nleads|b@h|0|\nleads|c@h|many|\nleads|\nnamed|true|\nguest|false|\nok\n", nil
	}}
	v, err := b.Vitals(t.Context())
	expect.Must(t, err)
	want := Vitals{Alarms: []string{"disk on b@h"}, DiskFree: 5, DiskLimit: 3, Total: 9, Versions: map[string]string{"a@h": "4.3.6"}, Disabled: 2,
		Critical: []string{"queue 'q|1' in vhost '/'"}, Leads: map[string]int{"a@h": 40, "b@h": 0}, Named: "true", Guest: "false"}
	if !reflect.DeepEqual(v, want) {
		t.Errorf("%+v, want %+v", v, want)
	}
}
