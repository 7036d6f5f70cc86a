package rabbitmq

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"rmq-entrypoint/tests/expect"
)

// erlangOnPath puts an erl of its own on PATH, as a link as distributions have it, with the boot file beside it or not.
func erlangOnPath(t *testing.T, boots bool) {
	t.Helper()
	dir := t.TempDir()
	lib, bin := filepath.Join(dir, "lib"), filepath.Join(dir, "bin")
	for _, d := range []string{lib, bin} {
		expect.Must(t, os.Mkdir(d, 0o755))
	}
	expect.Must(t, os.WriteFile(filepath.Join(lib, "erl"), nil, 0o755))
	expect.Must(t, os.Symlink("../lib/erl", filepath.Join(bin, "erl")))
	if boots {
		expect.Must(t, os.WriteFile(filepath.Join(lib, "no_dot_erlang.boot"), nil, 0o644))
	}
	t.Setenv("PATH", bin)
}

// No Erlang of ours runs a .erlang, whatever flags the user has for Erlang; where there is no boot file for that, Erlang
// starts all the same.
func TestWithoutDotErlang(t *testing.T) {
	for _, test := range []struct {
		boots     bool
		env, want []string
	}{
		{true, nil, []string{"ERL_AFLAGS=-boot no_dot_erlang"}},
		{true, []string{"ERL_AFLAGS=", "A=1"}, []string{"A=1", "ERL_AFLAGS=-boot no_dot_erlang"}},
		{true, []string{"ERL_AFLAGS=+S 2 -boot mine"}, []string{"ERL_AFLAGS=-boot no_dot_erlang +S 2 -boot mine"}},
		{true, []string{"ERL_AFLAGS=-boot no_dot_erlang +S 2"}, []string{"ERL_AFLAGS=-boot no_dot_erlang +S 2"}}, // ours, seen again
		{true, []string{"ERL_FLAGS=-boot start_sasl"}, []string{"ERL_FLAGS=-boot start_sasl", "ERL_AFLAGS=-boot no_dot_erlang"}},
		{false, []string{"ERL_AFLAGS=+S 2"}, []string{"ERL_AFLAGS=+S 2"}},
	} {
		erlangOnPath(t, test.boots)
		given := slices.Clone(test.env)
		if got := ServerEnv(test.env); !slices.Equal(got, test.want) || !slices.Equal(test.env, given) {
			t.Errorf("boot file %t, %q: %q, want %q", test.boots, test.env, got, test.want)
		}
	}
}

// What the server gets: each variable once, and no secret that is not its own.
func TestServerEnvironment(t *testing.T) {
	erlangOnPath(t, false)
	got := ServerEnv([]string{
		"PATH=/bin", "CONSUL_HTTP_TOKEN=x", "CONSUL_HTTP_TOKEN_FILE=x", "CONSUL_HTTP_AUTH=x", "RABBITMQ_ERLANG_COOKIE=x", "RABBITMQ_ERLANG_COOKIE_FILE=x",
		"RMQ_AMQP_URL=x", "RMQ_AMQP_URL_FILE=x", "NOTIFY_SOCKET=x", "RMQ_ENTRYPOINT_SESSION=x", "RABBITMQ_DEFAULT_PASS=kept", "EMPTY=", "RMQ_SERVICE=a=b",
	})
	if want := []string{"PATH=/bin", "RABBITMQ_DEFAULT_PASS=kept", "EMPTY=", "RMQ_SERVICE=a=b"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
