package rabbitmq

import (
	"context"
	"slices"
	"testing"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/expect"
)

func TestViewListeners(t *testing.T) {
	b := CLI{Node: "a@h", Run: func(context.Context, ...string) (string, error) {
		return "view|id|a@h|a@h||true||\nlistener|amqp|::|5672|false|\nlistener|amqp/ssl|10.0.0.7|5671|true|\nlistener|amqp|::|none|false|\nlistener|\nok\n", nil
	}}
	v, err := b.View(t.Context(), "a@h")
	expect.Must(t, err)
	if want := []peers.Listener{{IP: "::", Port: 5672}, {IP: "10.0.0.7", Port: 5671, TLS: true, Proxy: true}}; !slices.Equal(v.Listeners, want) {
		t.Errorf("%+v", v.Listeners)
	}
}
