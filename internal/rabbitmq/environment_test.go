package rabbitmq

import (
	"slices"
	"testing"
)

// What the server gets: each variable once, and no secret that is not its own.
func TestServerEnvironment(t *testing.T) {
	got := ServerEnv([]string{
		"PATH=/bin", "CONSUL_HTTP_TOKEN=x", "CONSUL_HTTP_TOKEN_FILE=x", "CONSUL_HTTP_AUTH=x", "RABBITMQ_ERLANG_COOKIE=x", "RABBITMQ_ERLANG_COOKIE_FILE=x",
		"RMQ_AMQP_URL=x", "RMQ_AMQP_URL_FILE=x", "RMQ_BROKERS=x", "NOTIFY_SOCKET=x", "RMQ_ENTRYPOINT_SESSION=x", "RABBITMQ_DEFAULT_PASS=kept", "EMPTY=", "RMQ_SERVICE=a=b",
	})
	if want := []string{"PATH=/bin", "RABBITMQ_DEFAULT_PASS=kept", "EMPTY=", "RMQ_SERVICE=a=b"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
