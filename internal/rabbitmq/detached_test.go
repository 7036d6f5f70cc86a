package rabbitmq

import (
	"strings"
	"testing"
)

// What the server's script and Erlang's launcher take for -detached is refused, and what they pass
// over is not.
func TestRefuseDetached(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args, env string // env: ; separates
		say       string // "": taken
	}{
		{},
		{args: "-detached", say: "out of the command"}, {args: "-x -detached", say: "out of the command"}, {args: "-detachedly"},
		{env: "RABBITMQ_SERVER_START_ARGS=+S 2 -detached", say: "RABBITMQ_SERVER_START_ARGS has -detached"},
		{env: "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-detached", say: "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS has"},
		{env: "RABBITMQ_SERVER_ERL_ARGS=-detached", say: "RABBITMQ_SERVER_ERL_ARGS has"},
		{env: "SERVER_START_ARGS=-detached", say: "SERVER_START_ARGS has"}, {env: "SERVER_START_ARGS=-detached;RABBITMQ_SERVER_START_ARGS=-x"},
		{env: "SERVER_ADDITIONAL_ERL_ARGS=-detached", say: "SERVER_ADDITIONAL_ERL_ARGS has"},
		{env: "SERVER_ERL_ARGS=-detached"}, // the script overwrites it
		{env: "ERL_AFLAGS=-detached", say: "ERL_AFLAGS has"}, {env: "ERL_FLAGS=\t-detached\n", say: "ERL_FLAGS has"}, {env: "ERL_ZFLAGS=-a -detached", say: "ERL_ZFLAGS has"},
		{env: "ERL_OTP27_FLAGS=-detached", say: "ERL_OTP27_FLAGS has"}, {env: "ERL_OTHER=-detached"},
		{env: "RABBITMQ_NODE_ONLY=false", say: `RABBITMQ_NODE_ONLY="false": whatever its value`}, {env: "RABBITMQ_NODE_ONLY="}, {env: "NODE_ONLY=1"},
	} {
		err := RefuseDetached(strings.Fields(c.args), strings.Split(c.env, ";"))
		if (err != nil) != (c.say != "") || err != nil && !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s %s: %v; want %q", c.args, c.env, err, c.say)
		}
	}
}
