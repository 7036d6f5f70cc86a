package entrypoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/rabbitconf"
)

// envConf is where RabbitMQ looks for variables of its own, unless RABBITMQ_CONF_ENV_FILE
// says otherwise.
const envConf = "/etc/rabbitmq/rabbitmq-env.conf"

// Variables that make a node another one than this program decides for, and those that it
// goes by. Each counts without RABBITMQ_ before its name, too.
var (
	identity = []string{"NODENAME", "USE_LONGNAME", "MNESIA_BASE", "MNESIA_DIR", "ADVANCED_CONFIG_FILE"}
	followed = []string{"NODE_IP_ADDRESS", "NODE_PORT", "CONFIG_FILE", "CONFIG_FILES", "CLEANUP_ONLY_LOG_WARNING", "CLEANUP_INTERVAL"}
)

// environment is that of the server, once rabbitmq-env.conf was read as RabbitMQ reads it.
type environment map[string]string

func (e environment) get(name string) string { return e[name] }

func (e environment) lookup(name string) (string, bool) {
	value, ok := e[name]
	return value, ok
}

func (e environment) list() (all []string) {
	for name, value := range e {
		all = append(all, name+"="+value)
	}
	slices.Sort(all)
	return all
}

func environmentOf(list []string) environment {
	e := environment{}
	for _, kv := range list {
		name, value, _ := strings.Cut(kv, "=")
		e[name] = value
	}
	return e
}

// serverEnvironment returns what RabbitMQ makes of the environment and of rabbitmq-env.conf:
// its script has a shell read that file, and what it exports stays; later its first Erlang
// code has a shell read it once more, and takes those of RabbitMQ's variables that are not in
// the environment yet (read in 3.8 to 4.3, measured on 3.10.8, 4.0.5 and 4.3.6). It refuses
// settings there that would make RabbitMQ another node than the one we decide for.
func serverEnvironment(ctx context.Context, cfg config.Config, list []string) (environment, error) {
	e := environmentOf(list)
	path := envConf
	if given := e["RABBITMQ_CONF_ENV_FILE"]; given != "" {
		path = given
	}
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
		return e, nil // RabbitMQ passes over it, too
	}
	if f, err := os.Open(path); err != nil {
		return nil, fmt.Errorf("read RabbitMQ's environment file (RABBITMQ_CONF_ENV_FILE): %w", err)
	} else if err := f.Close(); err != nil {
		return nil, err
	}
	without := environment{} // of identity, to see what the file itself makes of it
	for name, value := range e {
		if !slices.Contains(identity, strings.TrimPrefix(name, "RABBITMQ_")) {
			without[name] = value
		}
	}
	exported, err := sourced(ctx, without, path, `. "$0" >/dev/null 2>&1 </dev/null || true; env -0`)
	if err != nil {
		return nil, fmt.Errorf("read %s as RabbitMQ does: %w", path, err)
	}
	var names []string
	for _, name := range append(slices.Clone(identity), followed...) {
		names = append(names, name, "RABBITMQ_"+name)
	}
	again, err := sourced(ctx, exported, path, `set -e; . "$0" >/dev/null 2>&1 </dev/null; for n in `+strings.Join(names, " ")+`; do eval "if [ \"\${$n+set}\" ]; then printf '%s=%s\0' $n \"\$$n\"; fi"; done`)
	if err != nil {
		again = nil // a command in the file failed: RabbitMQ takes nothing of it then
	}
	for _, name := range names { // without RABBITMQ_ first, as RabbitMQ has it
		value, there := again[name]
		_, set := exported["RABBITMQ_"+strings.TrimPrefix(name, "RABBITMQ_")]
		if _, own := exported[name]; there && !set && !own {
			exported[name] = value
		}
	}
	if err := ownIdentity(cfg, exported, path); err != nil {
		return nil, err
	}
	if err := rabbitmq.RefuseCleanup(exported.list()); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for name, value := range e {
		if _, there := exported[name]; !there && slices.Contains(identity, strings.TrimPrefix(name, "RABBITMQ_")) {
			exported[name] = value
		}
	}
	return exported, nil
}

// sourced returns what a script prints as NAME=value, each ended by a zero, after it read path.
func sourced(ctx context.Context, env environment, path, script string) (environment, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", script, path)
	cmd.Env = env.list()
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	if len(out) == 0 && strings.Contains(script, "env -0") {
		return nil, errors.New("it ends the shell that reads it, and so would RabbitMQ's script: take exit out")
	}
	return variables(out), nil
}

// variables reads NAME=value, each ended by a zero; what has no name is none.
func variables(out []byte) environment {
	var list []string
	for kv := range bytes.SplitSeq(out, []byte{0}) {
		if bytes.IndexByte(kv, '=') > 0 {
			list = append(list, string(kv))
		}
	}
	return environmentOf(list)
}

// ownIdentity refuses what the file says of the node, unless it is what is decided for.
func ownIdentity(cfg config.Config, e environment, path string) error {
	for _, name := range identity {
		value := config.RabbitMQs(e.get, "RABBITMQ_"+name)
		same := false
		switch name {
		case "NODENAME":
			same = value == cfg.Node
		case "USE_LONGNAME":
			same = config.Yes(value) == cfg.LongNames
		case "MNESIA_DIR":
			same = value == cfg.Data
		case "MNESIA_BASE":
			same = value+"/"+cfg.Node == cfg.Data
		}
		if value != "" && !same {
			return fmt.Errorf("%s sets %s, which this program must know too: set it as environment variable RABBITMQ_%s instead", path, name, name)
		}
	}
	for _, name := range []string{"CLEANUP_ONLY_LOG_WARNING", "CLEANUP_INTERVAL"} {
		value := config.RabbitMQs(e.get, "RABBITMQ_"+name)
		if why := rabbitconf.CleanupVariable(name, value); why != "" {
			return fmt.Errorf("%s sets RABBITMQ_%s: %s", path, name, why)
		}
	}
	return nil
}
