package companion

import (
	"slices"
	"testing"
)

// What the kernel shows of a companion's environment is what Go reads before it begins. What it
// does not need it does not get at all.
func TestEnvironments(t *testing.T) {
	t.Parallel()
	open, handed := environments([]string{
		"PATH=/bin", "GODEBUG=x=1", "CONSUL_HTTP_TOKEN=t", "RABBITMQ_ERLANG_COOKIE=c", "RABBITMQ_ERLANG_COOKIE_FILE=/f", "RMQ_BROKERS=amqp://a:b@h", "RABBITMQ_DEFAULT_PASS=p\xff\n=",
		"MY_PASSWORD=m", "EMPTY=", envEnv + "=1",
	})
	if want := []string{envEnv + "=1", "GOMAXPROCS=1", "GODEBUG=x=1"}; !slices.Equal(open, want) {
		t.Errorf("in the open: %q, want %q", open, want)
	}
	if want := []string{"PATH=/bin", "GODEBUG=x=1", "CONSUL_HTTP_TOKEN=t", "RABBITMQ_ERLANG_COOKIE_FILE=/f", "RABBITMQ_DEFAULT_PASS=p\xff\n=", "MY_PASSWORD=m", "EMPTY="}; !slices.Equal(handed, want) {
		t.Errorf("handed over: %q, want %q", handed, want)
	}
	if open, _ := environments([]string{"GOMAXPROCS=3"}); open[len(open)-1] != "GOMAXPROCS=3" {
		t.Errorf("in the open: %q, whose last GOMAXPROCS is not the user's", open)
	}
}
