package entrypoint

import (
	"context"
	"fmt"
	"path/filepath"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/rabbitconf"
)

// serverEnvironment returns what RabbitMQ makes of the environment and of rabbitmq-env.conf, and
// where it must be told to keep its data. It refuses settings there that would make RabbitMQ
// another node than the one we decide for.
func serverEnvironment(ctx context.Context, cfg config.Config, list []string) (config.Environment, error) {
	given := config.EnvironmentOf(list)
	e, path, err := config.EnvConf(ctx, given)
	if err != nil {
		return nil, err
	}
	if path != "" {
		if err := ownIdentity(cfg, e, path); err != nil {
			return nil, err
		}
		if err := rabbitmq.RefuseCleanup(e.List()); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if err := rabbitmq.RefuseArguments(nil, e.List()); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		e = e.Identified(given)
	}
	if base := cfg.TellBase(e.Of); base != "" {
		e[mnesiaBase] = base
	}
	return e, nil
}

// ownIdentity refuses what the file says of the node, unless it is what is decided for.
func ownIdentity(cfg config.Config, e config.Environment, path string) error {
	for _, name := range config.Identity {
		value := config.RabbitMQs(e.Of, "RABBITMQ_"+name)
		same := false
		switch name {
		case "NODENAME":
			same = value == cfg.Node
		case "USE_LONGNAME":
			same = config.Yes(value) == cfg.LongNames
		case "MNESIA_DIR":
			same = filepath.Clean(value) == cfg.Data
		case "MNESIA_BASE":
			same = filepath.Join(value, cfg.Node) == cfg.Data
		}
		if value != "" && !same {
			return fmt.Errorf("%s sets %s, which this program must know too: set it as environment variable RABBITMQ_%s instead", path, name, name)
		}
	}
	if prefix := e["SYS_PREFIX"]; prefix != "" {
		return fmt.Errorf("%s sets SYS_PREFIX=%q, by which RabbitMQ would have its data and its configuration below that directory, and this program looks for them where they are without it: take it out, and name the directory of the data as environment variable RABBITMQ_MNESIA_BASE", path, prefix)
	}
	for _, name := range []string{"CLEANUP_ONLY_LOG_WARNING", "CLEANUP_INTERVAL"} {
		value := config.RabbitMQs(e.Of, "RABBITMQ_"+name)
		if why := rabbitconf.CleanupVariable(name, value); why != "" {
			return fmt.Errorf("%s sets RABBITMQ_%s: %s", path, name, why)
		}
	}
	return nil
}
