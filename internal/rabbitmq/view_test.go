package rabbitmq

import (
	"context"
	"slices"
	"testing"

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
	// A stop that does not come to what listens.
	m.Exec(t, "rabbitmqctl", "eval", `{ok, _} = supervisor:start_child(rabbit_sup, #{id => never, shutdown => infinity, start => {erlang, apply, [fun() ->
		{ok, spawn_link(fun() -> process_flag(trap_exit, true), receive never -> ok end end)} end, []]}}), ok.`)
	says("it runs and does not stop", func(v peers.View) bool { return len(v.Running) == 1 && !v.Stops })
	m.Exec(t, "rabbitmqctl", "eval", "init:stop(), ok.")
	says("it stops, and listens", func(v peers.View) bool { return v.Stops && len(v.Listeners) == 1 }) // up to 4.0 it also runs
	if stopping, err := node.EndStop(t.Context()); err != nil || !stopping {
		t.Errorf("its stop is ended: %t, %v", stopping, err)
	}
}

func TestViewListeners(t *testing.T) {
	b := CLI{Node: "a@h", Run: func(context.Context, ...string) (string, error) {
		return "view|id|a@h|a@h||true||\nlistener|amqp|::|5672|false|\nlistener|amqp/ssl|10.0.0.7|5671|true|\nlistener|amqp|::|none|false|\nlistener|\nweb|15672|\nweb|none|\nweb|\nok\n", nil
	}}
	v, err := b.View(t.Context(), "a@h")
	expect.Must(t, err)
	if want := []peers.Listener{{IP: "::", Port: 5672}, {IP: "10.0.0.7", Port: 5671, TLS: true, Proxy: true}}; !slices.Equal(v.Listeners, want) {
		t.Errorf("%+v", v.Listeners)
	}
	if !slices.Equal(v.Web, []int{15672}) {
		t.Errorf("%v", v.Web)
	}
}
