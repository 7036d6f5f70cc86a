package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

func main() {
	// Not context.Canceled but the signal is the cause of this context's end.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		if !errors.Is(err, errSaid) {
			fmt.Fprintln(os.Stderr, "rmq-entrypoint:", err)
		}
		os.Exit(1)
	}
}

// errSaid ends the program with status 1 when what there is to say was said.
var errSaid = errors.New("said")

func run(ctx context.Context, args []string, out io.Writer) error {
	cfg, cmd, err := parse(args, os.Getenv)
	if err != nil {
		return err
	}
	if cmd.text != "" {
		_, err := io.WriteString(out, cmd.text)
		return err
	}
	switch cmd.name {
	case "version":
		_, err := fmt.Fprintln(out, "rmq-entrypoint", version())
		return err
	case "exec":
		return become(cfg, cmd.meant)
	case "companion":
		return companionMain(ctx, cfg)
	case "healthcheck":
		return healthcheckMain(ctx, cfg, cmd.ok, out)
	case "status":
		return statusMain(ctx, cfg, out)
	case "drain":
		return drainMain(ctx, cfg, request{cmd.wait, cmd.ok}, out)
	case "leave":
		return leaveMain(ctx, cfg, request{cmd.wait, cmd.ok}, out)
	case "force-boot":
		return forceBootMain(ctx, cfg, cmd.id, out)
	case "forget-cluster":
		return forgetClusterMain(ctx, cfg, cmd.id, cmd.ok, out)
	case "produce":
		return produceMain(ctx, *cmd.client, cfg.Args, logger(cfg), out)
	case "consume":
		return consumeMain(ctx, *cmd.client, logger(cfg), out)
	case "compare":
		return compareMain(*cmd.client, cfg.Args, out)
	}
	return start(ctx, logger(cfg), cfg)
}

// logger writes to stderr, as the server's own boot messages do.
func logger(cfg config) *slog.Logger {
	opts := &slog.HandlerOptions{Level: cfg.LogLevel}
	if cfg.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, opts)).With("program", "rmq-entrypoint")
	}
	return slog.New(slog.NewTextHandler(os.Stderr, opts)).With("program", "rmq-entrypoint")
}

// revision is set by scripts/images (-ldflags -X), which builds without Go's stamp of the repository's state.
var revision string

func version() string {
	if revision != "" {
		return revision
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}
