package rabbitmq

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// RefuseArguments refuses what on the server's command line would have RabbitMQ run, or keep its data,
// where this program does not look: see [RefuseDetached] and [RefuseMoved].
func RefuseArguments(args, environ []string) error {
	return errors.Join(RefuseDetached(args, environ), RefuseMoved(args, environ))
}

// RefuseDetached refuses what makes rabbitmq-server something that no companion can follow: with
// -detached Erlang goes on in a process of its own while the first one ends, and with
// RABBITMQ_NODE_ONLY it runs without RabbitMQ. Its args are the server's.
//
// The server's script knows no NODE_ONLY.
func RefuseDetached(args, environ []string) error {
	if detaches(args) {
		return fmt.Errorf("rabbitmq-server -detached: %s: take -detached out of the command", leaves)
	}
	set := byName(environ)
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if name == "RABBITMQ_NODE_ONLY" && value != "" {
			return fmt.Errorf("RABBITMQ_NODE_ONLY=%q: whatever its value, Erlang then runs without RabbitMQ, and the node never gets ready: take it out", value)
		}
		if !hasFlags(name, set) {
			continue
		}
		if detaches(strings.Fields(value)) {
			return fmt.Errorf("%s has -detached: %s: take -detached out of it", name, leaves)
		}
	}
	return nil
}

const leaves = "RabbitMQ would run in a process of its own, which nothing follows, and this container would end at once"

func detaches(words []string) bool { return slices.Contains(words, "-detached") }

// hasFlags reports whether the variable of that name, in an environment that is set, becomes part of
// Erlang's command line: it is one that the server's script or Erlang's launcher looks at (read in
// 3.10.8, 4.0.5 and 4.3.6, and in OTP 27 and 29). The script sets SERVER_ERL_ARGS itself.
func hasFlags(name string, set map[string]string) bool {
	switch name {
	case "SERVER_ADDITIONAL_ERL_ARGS", "SERVER_START_ARGS":
		return set["RABBITMQ_"+name] == "" // or the script passes this one over
	case "RABBITMQ_SERVER_ERL_ARGS", "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "RABBITMQ_SERVER_START_ARGS", "ERL_AFLAGS", "ERL_FLAGS", "ERL_ZFLAGS":
		return true
	}
	return strings.HasPrefix(name, "ERL_OTP") && strings.HasSuffix(name, "_FLAGS") // ERL_OTP27_FLAGS
}

func byName(environ []string) map[string]string {
	set := map[string]string{}
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		set[name] = value
	}
	return set
}
