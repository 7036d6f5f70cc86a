package companion

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/statedir"
)

// logins are how the companion logs in to this node: by its check, and at its ports. Who and
// where come from the environment and from RabbitMQ's files, not from the runtime file, which holds
// no secrets.
func logins(rt statedir.Runtime, log *slog.Logger) (*healthcheck.Checker, ports, error) {
	var getenv func(string) string
	read := func() {
		user, err := config.UserFiles(os.Getenv, rt.RabbitMQ())
		if err != nil { // written since the start
			log.Warn("cannot read RabbitMQ's files: the check goes by the environment alone", "err", err)
		}
		getenv = config.Defaults(os.Getenv, user)
	}
	read()
	urls, err := config.AMQPURLs(rt.Config, getenv)
	if err != nil {
		return nil, ports{}, err
	}
	checker, err := healthcheck.New(healthcheck.Options{URLs: urls, Timeout: min(3*time.Second, rt.Config.TTL/5), Log: log})
	if err != nil {
		return nil, ports{}, fmt.Errorf("RMQ_AMQP_URL (--amqp-url): %w", err)
	}
	move := func(cfg config.Config) error {
		urls, err := config.AMQPURLs(cfg, getenv)
		if err != nil {
			return err
		}
		return checker.Move(urls, listed(cfg))
	}
	if err := move(rt.Config); err != nil {
		checker.Close()
		return nil, ports{}, err
	}
	ready := func(cfg config.Config) error {
		read()
		checker.Ready()
		return move(cfg)
	}
	ask := func(ctx context.Context) ([]healthcheck.Node, error) {
		return managementNodes(ctx, config.DefaultUser(getenv), rt.Config.Management)
	}
	return checker, ports{move: move, ready: ready, managed: &managementPort{port: rt.Config.Management.Port, ask: ask, log: log}}, nil
}

// checksOf is a check by c, with a login or without.
func checksOf(c *healthcheck.Checker) func(ctx context.Context, login bool) healthcheck.Result {
	return func(ctx context.Context, login bool) healthcheck.Result {
		if login {
			return c.Check(ctx)
		}
		return c.Listens(ctx)
	}
}
