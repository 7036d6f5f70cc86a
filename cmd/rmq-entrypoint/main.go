package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"os/user"
	"runtime/debug"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"rmq-entrypoint/internal/admin"
	"rmq-entrypoint/internal/companion"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/doctor"
	"rmq-entrypoint/internal/entrypoint"
	"rmq-entrypoint/internal/workload"
)

func main() {
	// Not context.Canceled but the signal is the cause of this context's end.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		if !errors.Is(err, admin.ErrSaid) && err != admin.ErrUnknown && !errors.Is(err, doctor.ErrBroken) && !errors.Is(err, doctor.ErrUnknown) { // which say no more than the exit status
			fmt.Fprintln(os.Stderr, "rmq-entrypoint:", config.OneLine(err))
		}
		os.Exit(status(err))
	}
}

// status is the exit status that says what kind of an error that is.
func status(err error) int {
	if errors.As(err, new(*entrypoint.Refusal)) {
		return entrypoint.Refused
	}
	if errors.Is(err, admin.ErrUnknown) || errors.Is(err, doctor.ErrUnknown) {
		return 2
	}
	return 1
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	config.Seclude()
	var sign *companion.Sign
	if len(args) > 0 && args[0] == "companion" {
		if sign, err = companion.Inherit(); err != nil {
			return err
		}
		defer func() { sign.Failed(err) }()
	}
	cfg, cmd, err := parse(args, os.Getenv)
	if err != nil {
		return err
	}
	if cmd.text != "" {
		_, err := io.WriteString(out, cmd.text)
		return err
	}
	asRoot := os.Geteuid() == 0
	if worksOnNode(cmd) {
		if err := stepDown(&cfg); err != nil && cmd.name != "healthcheck" { // which says itself what it cannot do
			return err
		}
	}
	switch cmd.name {
	case "version":
		_, err := fmt.Fprintln(out, "rmq-entrypoint", version())
		return err
	case "exec":
		return entrypoint.Exec(cfg, cmd.meant)
	case "companion":
		return companion.Main(ctx, cfg, sign)
	case "healthcheck":
		return admin.Healthcheck(ctx, cfg, cmd.ask, out)
	case "status":
		return shown(ctx, cmd, out, func(out io.Writer) error {
			if cmd.json {
				return admin.StatusJSON(ctx, cfg, out)
			}
			return admin.Status(ctx, cfg, out)
		})
	case "list":
		return shown(ctx, cmd, out, func(out io.Writer) error { return admin.List(ctx, cfg, cmd.json, out) })
	case "doctor":
		return doctor.Run(ctx, cfg, asRoot, cmd.json, out)
	case "drain":
		return admin.Drain(ctx, cfg, admin.Request{Wait: cmd.wait, Force: cmd.ok}, out)
	case "leave":
		return admin.Leave(ctx, cfg, admin.Request{Wait: cmd.wait, Force: cmd.ok}, out)
	case "forget":
		return admin.Forget(ctx, cfg, cmd.node, cmd.ok, out)
	case "force-boot":
		return admin.ForceBoot(ctx, cfg, cmd.id, out)
	case "forget-cluster":
		return admin.ForgetCluster(ctx, cfg, cmd.id, cmd.ok, out)
	case "produce":
		return workload.Produce(ctx, *cmd.client, cfg.Args, config.Logger(cfg), out)
	case "consume":
		return workload.Consume(ctx, *cmd.client, config.Logger(cfg), out)
	case "compare":
		return workload.Compare(*cmd.client, cfg.Args, out)
	}
	return entrypoint.Start(ctx, config.Logger(cfg), cfg)
}

// stepDown makes this process rabbitmq, before a command looks at what is rabbitmq's, who may have
// put links there. One that stays root ends, but where there is no such user: there no node is, and
// a person asks from another machine.
func stepDown(cfg *config.Config) error {
	err := admin.AsServersUser()
	if os.Geteuid() == 0 && !errors.As(err, new(user.UnknownUserError)) {
		return fmt.Errorf("%w; beside a node that runs, docker exec -u rabbitmq does", err)
	}
	return cfg.ReadURL(os.Getenv) // of a file that cannot be read else, who needs it says so
}

// shown has show print once, or again and again.
func shown(ctx context.Context, cmd command, out io.Writer, show func(io.Writer) error) error {
	if !cmd.watch {
		return show(out)
	}
	file, ok := out.(*os.File)
	return admin.Watch(ctx, out, ok && terminal(file), show)
}

// terminal reports whether a person reads what is written to file.
func terminal(file *os.File) bool {
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}

// worksOnNode reports whether a command reads what lies on a node's volume. Start and exec step
// down in their own time, the clients speak with brokers alone.
func worksOnNode(cmd command) bool {
	return cmd.client == nil && !slices.Contains([]string{"start", "exec", "version"}, cmd.name)
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
