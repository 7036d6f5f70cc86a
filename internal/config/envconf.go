package config

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// envConf is where RabbitMQ looks for variables of its own, unless RABBITMQ_CONF_ENV_FILE, or the
// same without RABBITMQ_, says otherwise.
const envConf = "/etc/rabbitmq/rabbitmq-env.conf"

// Identity are the variables that make a node another one than this program decides for; followed
// those that it goes by. Each counts without RABBITMQ_ before its name, too.
var (
	Identity = []string{"NODENAME", "USE_LONGNAME", "MNESIA_BASE", "MNESIA_DIR", "ADVANCED_CONFIG_FILE"}
	followed = []string{
		"NODE_IP_ADDRESS", "NODE_PORT", "CONFIG_FILE", "CONFIG_FILES", "DEFAULT_USER", "DEFAULT_PASS", "DEFAULT_VHOST",
		"QUORUM_DIR", "STREAM_DIR", "FEATURE_FLAGS_FILE", "CLEANUP_ONLY_LOG_WARNING", "CLEANUP_INTERVAL",
	}
)

// Environment is that of the server, by name.
type Environment map[string]string

// Of is one variable's value, "" where it is not set.
func (e Environment) Of(name string) string { return e[name] }

// Lookup reports as well whether it is set.
func (e Environment) Lookup(name string) (string, bool) {
	value, ok := e[name]
	return value, ok
}

// List is the environment as programs are given it, in order.
func (e Environment) List() (all []string) {
	for name, value := range e {
		all = append(all, name+"="+value)
	}
	slices.Sort(all)
	return all
}

// EnvironmentOf is that of NAME=value.
func EnvironmentOf(list []string) Environment {
	e := Environment{}
	for _, kv := range list {
		name, value, _ := strings.Cut(kv, "=")
		e[name] = value
	}
	return e
}

// Identified is the environment with what identifies the node in from, where it says nothing of it.
func (e Environment) Identified(from Environment) Environment {
	for name, value := range from {
		if _, there := e[name]; !there && identifies(name) {
			e[name] = value
		}
	}
	return e
}

func identifies(name string) bool {
	return slices.Contains(Identity, strings.TrimPrefix(name, "RABBITMQ_"))
}

// EnvConf returns what RabbitMQ makes of the environment e and of rabbitmq-env.conf, and the path of
// that file, "" for none.
//
// RabbitMQ reads the file twice. Its script has a shell read it, and what that exports stays. Later
// its first Erlang code has a shell read it once more, and takes those of RabbitMQ's variables that
// are not in the environment yet (read in 3.8 to 4.3, measured on 3.10.8, 4.0.5 and 4.3.6).
//
// Variables that identify the node are in the result only where the file itself sets them.
func EnvConf(ctx context.Context, e Environment) (made Environment, path string, err error) {
	path = cmp.Or(RabbitMQs(e.Of, "RABBITMQ_CONF_ENV_FILE"), envConf)
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
		return e, "", nil // RabbitMQ passes over it, too
	}
	if f, err := os.Open(path); err != nil {
		return nil, path, fmt.Errorf("read RabbitMQ's environment file (RABBITMQ_CONF_ENV_FILE, CONF_ENV_FILE): %w", err)
	} else if err := f.Close(); err != nil {
		return nil, path, err
	}
	without := Environment{} // of Identity, to see what the file itself makes of it
	for name, value := range e {
		if !identifies(name) {
			without[name] = value
		}
	}
	// RabbitMQ's script sets SYS_PREFIX to nothing before it reads the file, and exports it after. It
	// takes what makes Erlang's command line from the same shell, exported or not.
	if made, err = sourced(ctx, without, path, `SYS_PREFIX=; . "$0" >/dev/null 2>&1 </dev/null || true; export SYS_PREFIX SERVER_ADDITIONAL_ERL_ARGS SERVER_START_ARGS RABBITMQ_SERVER_ERL_ARGS RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS RABBITMQ_SERVER_START_ARGS RABBITMQ_NODE_ONLY; env -0`); err != nil {
		return nil, path, fmt.Errorf("read %s as RabbitMQ does: %w", path, err)
	}
	if next := cmp.Or(RabbitMQs(made.Of, "RABBITMQ_CONF_ENV_FILE"), envConf); next != path {
		return nil, path, fmt.Errorf("%s exports CONF_ENV_FILE: RabbitMQ would read %s after it: name that one as RABBITMQ_CONF_ENV_FILE in the environment instead", path, next)
	}
	var names []string
	for _, name := range append(slices.Clone(Identity), followed...) {
		names = append(names, name, "RABBITMQ_"+name)
	}
	again, err := sourced(ctx, made, path, `set -e; . "$0" >/dev/null 2>&1 </dev/null; for n in `+strings.Join(names, " ")+`; do eval "if [ \"\${$n+set}\" ]; then printf '%s=%s\0' $n \"\$$n\"; fi"; done`)
	if failed := new(exec.ExitError); errors.As(err, &failed) && failed.Exited() {
		again = nil // a command in the file failed: RabbitMQ takes nothing of it then
	} else if err != nil {
		return nil, path, fmt.Errorf("read %s as RabbitMQ's Erlang does: %w", path, err)
	}
	for _, name := range names { // without RABBITMQ_ first, as RabbitMQ has it
		value, there := again[name]
		_, set := made["RABBITMQ_"+strings.TrimPrefix(name, "RABBITMQ_")]
		if _, own := made[name]; there && !set && !own {
			made[name] = value
		}
	}
	return made, path, nil
}

// ServersVariables are those of this process, with what rabbitmq-env.conf makes of them, for who
// only looks: what is wrong with that file a start says.
func ServersVariables(ctx context.Context) (getenv func(string) string) {
	e := EnvironmentOf(os.Environ())
	made, _, err := EnvConf(ctx, e)
	if err != nil {
		return os.Getenv
	}
	return made.Identified(e).Of
}

// readWithin is more than a shell takes to read a file of variables, by far.
const readWithin = 5 * time.Second

// sourced returns what a script prints as NAME=value, each ended by a zero, after it read path.
func sourced(ctx context.Context, env Environment, path, script string) (Environment, error) {
	ctx, cancel := context.WithTimeout(ctx, readWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", script, path)
	cmd.Env = env.List()
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if ended := ctx.Err(); err != nil && ended != nil {
		return nil, fmt.Errorf("a shell did not come to its end within %s: %w", readWithin, ended)
	}
	if err != nil {
		return nil, err
	}
	if len(out) == 0 && strings.Contains(script, "env -0") {
		return nil, errors.New("it ends the shell that reads it, and so would RabbitMQ's script: take exit out")
	}
	return Printed(out), nil
}

// Printed reads NAME=value, each ended by a zero; what has no name is none.
func Printed(out []byte) Environment {
	var list []string
	for kv := range bytes.SplitSeq(out, []byte{0}) {
		if bytes.IndexByte(kv, '=') > 0 {
			list = append(list, string(kv))
		}
	}
	return EnvironmentOf(list)
}
