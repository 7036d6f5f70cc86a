package entrypoint

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/formation"
	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// What a start judges, for who only wants to know: nothing is changed.

// SeenSettings judges variables and RabbitMQ's own files as a start would. What it only warns of
// goes to log.
func SeenSettings(ctx context.Context, log *slog.Logger, cfg config.Config) error {
	if err := rabbitmq.RefuseDeprecated(os.Getenv); err != nil {
		return err
	}
	if err := rabbitmq.RefuseArguments(nil, os.Environ()); err != nil {
		return err
	}
	warnOf(log, cfg, os.Getenv)
	if err := rabbitmq.RefuseCleanup(os.Environ()); err != nil {
		return err
	}
	env, err := serverEnvironment(ctx, cfg, serverEnv(cfg, ""))
	if err != nil {
		return err
	}
	if err := directories(cfg, env); err != nil {
		return err
	}
	if err := configIsOurs(cfg, env); err != nil {
		return err
	}
	user, err := usersFiles(cfg, env, statedir.VersionsOfImage(os.Getenv).Version)
	if err != nil {
		return err
	}
	if err := cfg.Listen(user, env.Of); err != nil {
		return err
	}
	return portsDiffer(ctx, cfg, user, env)
}

// SeenMix says why RabbitMQ does not support this image beside the members that run, and what to do, or
// "": it does, or that cannot be told.
func SeenMix(ctx context.Context, cfg config.Config) string {
	image := statedir.VersionsOfImage(os.Getenv)
	if image.Version == (rabbitconf.Version{}) || cfg.AllowJump {
		return ""
	}
	return formation.LookAround(ctx, cfg, slog.New(slog.DiscardHandler)).Mix(image, statedir.Of(cfg).LastRan())
}

// SeenDirectories returns an error where this process's user cannot use the directories of a node.
func SeenDirectories(cfg config.Config) error {
	for _, dir := range []string{cfg.Home, filepath.Dir(cfg.Data), cfg.Data, cfg.StateDir} {
		if err := syscall.Access(dir, mayRead|mayWrite|maySearch); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return notOurs(dir, err)
		}
	}
	return nil
}

// RuledOut returns an error where the record rules the volume out, as a start would say it.
func RuledOut(r peers.Record, cfg config.Config, state statedir.Found) error {
	return ruledOut(r, cfg, state, func(string) string { return "where that volume is, rmq-entrypoint status says" })
}
