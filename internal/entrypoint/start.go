// Package entrypoint is process 1 until it becomes RabbitMQ: it judges this host, decides
// with Consul's help what to start as, writes the configuration, registers the node, starts
// the companion and execs the server. It returns only on failure.
package entrypoint

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"rmq-entrypoint/internal/companion"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/formation"
	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
)

// Start runs in the process that becomes RabbitMQ. It returns only on failure, with a
// [Refusal] where no restart would end otherwise.
func Start(ctx context.Context, log *slog.Logger, cfg config.Config) error {
	err := start(ctx, log, cfg)
	if os.Geteuid() == 0 { // it came to no stepping down: as root nothing is done on the volume
		return err
	}
	return linger(ctx, log, statedir.Of(cfg), err)
}

// start is one try:
//
//	preflight → decide (blank: lock → look → Decide) → become (rabbitmq.config → register → companion → exec)
func start(ctx context.Context, log *slog.Logger, cfg config.Config) (err error) {
	h, err := preflight(ctx, log, cfg)
	if err != nil {
		noteRefusal(ctx, statedir.Runtime{Config: cfg, Boot: peers.NewID()}, err)
		return err
	}
	defer func() { noteFailure(ctx, h.rt, err) }()
	defer h.held.Close() // after exec the companion alone holds it
	agents := consul.New(h.rt.Config, log)
	if cfg.Single {
		p, err := alone(log, h)
		if err != nil {
			return err
		}
		return become(ctx, log, agents, h, p)
	}
	p, err := decide(ctx, log, agents, h)
	if err != nil {
		return err
	}
	if p.Blank {
		h.state = h.state.Blank()
	}
	return become(ctx, log, agents, h, p)
}

// become carries the plan out on this host: it writes what the server and the companion
// are to read, registers the node, starts the companion and execs the server.
func become(ctx context.Context, log *slog.Logger, agents *consul.Agents, h host, p formation.Plan) (err error) {
	defer func() {
		if err != nil && p.Lock != nil {
			_ = p.Lock.Release(ctx) // the TTL covers us if this fails
		}
	}()
	rt, cfg := h.rt, h.rt.Config
	standby, err := companion.Prepare(cfg.StateDir, h.held, os.Stderr) // its process starts while this one writes and registers
	if err != nil {
		return fmt.Errorf("start the companion: %w", err)
	}
	defer func() {
		if standby != nil {
			standby.Drop()
		}
	}()
	if err := MakeWay(log, cfg, p); err != nil {
		return err
	}
	rt.UserPartitionHandling = h.user.Sets("cluster_partition_handling")
	if rt.Queues, err = defaultQueues(log, h, p); err != nil {
		return err
	}
	if err := writeConf(h, p, max(len(p.Peers)+1, len(h.state.Members)) >= 3, rt.Queues == statedir.Quorum); err != nil {
		return err
	}
	client, cerr := agents.Client(ctx) // before agents.Addr is written down: the companion must know where the node is registered
	rt.Role, rt.Claim, rt.Volume, rt.Cluster, rt.Waiting, rt.Consul = p.Role, p.Claim, p.Volume, h.state.Cluster, p.Waits, agents.Addr
	rt.Gated = p.Gated
	dir := statedir.Of(cfg) // a start brings a drained node back
	if err := errors.Join(dir.Remove("out"), dir.Remove("refused")); err != nil {
		return err
	}
	if p.Role != statedir.Lone { // a lone broker that came to no data leaves its mark
		if err := dir.Remove("single"); err != nil {
			return err
		}
	}
	if cerr == nil {
		rt.Address, cerr = consul.Advertise(ctx, cfg, agents.Addr)
		rt.Located, rt.LocatedFor = cerr == nil, agents.Addr
	}
	if err := rt.Write(); err != nil {
		return err
	}
	if len(h.doubts) > 0 {
		log.Warn("whether RabbitMQ supports this version here is not known: it starts", "unknown", strings.Join(h.doubts, "; "))
	}
	if err := statedir.Of(cfg).Stamp(h.version, rt.Erlang, time.Now()); err != nil {
		return fmt.Errorf("write down which version is about to run: %w", err)
	}
	if cerr == nil {
		h.learnHosts(ctx, log, client)
	}
	if cerr == nil && !p.Gated { // it waits, and others know nothing of it
		if err := Announce(ctx, log, client, h.state, rt); err != nil {
			return err
		}
	}
	companion, err := standby.Begin(ctx, p.Lock)
	standby = nil
	if err != nil {
		if cerr == nil {
			wctx, done := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second) // a signal may wait
			_ = consul.Withdraw(wctx, client, rt)
			done()
		}
		return fmt.Errorf("start the companion: %w", err)
	}
	p.Lock = nil // the companion's from here on: nothing below may touch Consul
	log.Info("becoming the server", "role", p.Role, "argv", strings.Join(cfg.Args, " "), "companion", companion.Pid)
	if err = context.Cause(ctx); err == nil { // a SIGTERM now would be lost in the exec
		err = syscall.Exec(h.server, cfg.Args, serverEnv(cfg, h.env.Of(mnesiaBase)))
	}
	// Let the companion clean up and wait for it: if we are PID 1 the kernel
	// kills it the moment we return.
	_ = companion.Signal(syscall.SIGTERM)
	_, _ = companion.Wait()
	return fmt.Errorf("exec %s: %w", h.server, err)
}

// Exec execs any other command untouched, as the official entrypoint does:
// RabbitMQ's own tools as its user. Where there is no such program, it asks whether
// a subcommand was meant.
func Exec(cfg config.Config, meant string) error {
	path, err := exec.LookPath(cfg.Args[0])
	if err != nil {
		if meant != "" {
			err = fmt.Errorf("%w; did you mean %s?", err, meant)
		}
		return fmt.Errorf("%q is neither a subcommand (rmq-entrypoint --help lists them) nor a program: %w", cfg.Args[0], err)
	}
	env := os.Environ()
	if strings.HasPrefix(filepath.Base(cfg.Args[0]), "rabbitmq") {
		env = rabbitmq.WithoutDotErlang(env)
		if err := errors.Join(rabbitmq.RefuseDeprecated(os.Getenv), rabbitmq.DropTo(rabbitmq.User)); err != nil {
			return err
		}
	}
	return fmt.Errorf("exec %s: %w", path, syscall.Exec(path, cfg.Args, env))
}
