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
	"rmq-entrypoint/internal/hosts"
	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// Start runs in the process that becomes RabbitMQ. It returns only on failure.
//
//	preflight → (blank: lock → look → Decide) → rabbitmq.config → register → companion → exec
func Start(ctx context.Context, log *slog.Logger, cfg config.Config) (err error) {
	if err := rabbitmq.RefuseDeprecated(os.Getenv); err != nil {
		return err
	}
	server, err := exec.LookPath(cfg.Args[0])
	if err != nil {
		return fmt.Errorf("find the server: %w: this program belongs into an image that has RabbitMQ on PATH", err)
	}
	if cfg.Advertise, err = consul.AddressOf(cfg.Advertise); err != nil {
		return err
	}
	image, doubts, err := refuseJump(ctx, log, cfg)
	if err != nil {
		return err
	}
	if err := stepDown(cfg); err != nil {
		return err
	}
	ready, err := preflight(ctx, log, cfg)
	if err != nil {
		return err
	}
	if err := cfg.Listen(ready.user); err != nil {
		return err
	}
	seat, err := statedir.WaitLock(ctx, cfg.StateDir)
	if err != nil {
		return err
	}
	defer seat.Close() // after exec the companion alone holds it

	rt := statedir.Runtime{
		Config: cfg, PID: os.Getpid(), Started: statedir.StartTime(os.Getpid()), Version: ready.version.String(), Erlang: image.Erlang,
		Boot: peers.NewID(), Since: time.Now().UTC(),
	}
	c := consul.New(cfg, log)
	p, err := decide(ctx, log, c, ready, &rt)
	if err != nil {
		return err
	}
	release := func() {
		if p.Lock != nil {
			_ = p.Lock.Release(ctx) // the TTL covers us if this fails
		}
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	if p.Aside {
		aside, err := statedir.Of(cfg).MakeWay(statedir.Pending{Role: p.Role, Claim: p.Claim, Volume: p.Volume}, time.Now())
		if err != nil {
			return fmt.Errorf("move leftovers of an unfinished start aside: %w", err)
		}
		if aside != "" {
			log.Warn("moved leftovers of an unfinished start aside", "to", aside)
		}
	}
	rt.PauseMinority = max(len(p.Peers)+1, len(ready.state.Members)) >= 3
	opts := rabbitconf.Options{
		Version: ready.version, Node: cfg.Node, Peers: p.Peers, Joining: len(p.Peers) > 0, PauseMinority: rt.PauseMinority, User: ready.user,
	}
	if cfg.SurvivingQueues() {
		opts.Extra = rabbitconf.Queues(ready.version)
	}
	conf, err := rabbitconf.Render(opts)
	if err != nil {
		return err
	}
	if err := rabbitconf.Write(cfg.ConfigFile, conf, -1, -1); err != nil {
		return fmt.Errorf("write rabbitmq.config (--config, RMQ_CONFIG_FILE): %w", err)
	}
	client, cerr := c.Client(ctx) // before c.addr is written down: the companion must know where the node is registered
	rt.Role, rt.Claim, rt.Volume, rt.Cluster, rt.Waiting, rt.Consul = p.Role, p.Claim, p.Volume, ready.state.Cluster, "", c.Addr
	if err := statedir.Of(cfg).Remove("out"); err != nil { // a start brings a drained node back
		return err
	}
	rt.UserPartitionHandling = ready.user.Sets("cluster_partition_handling")
	if cerr == nil {
		rt.Address, cerr = consul.Advertise(ctx, cfg, c.Addr)
		rt.Located = cerr == nil
	}
	if err := rt.Write(); err != nil {
		return err
	}
	if len(doubts) > 0 {
		log.Warn("whether RabbitMQ supports this version here is not known: it starts", "unknown", strings.Join(doubts, "; "))
	}
	if err := statedir.Of(cfg).Stamp(ready.version, image.Erlang, time.Now()); err != nil {
		return fmt.Errorf("write down which version is about to run: %w", err)
	}
	if ready.hosts != nil && cerr == nil { // with data, nothing has asked the catalog yet
		catalog, _, err := peers.Catalog(ctx, client, cfg.Service, cfg.Node)
		if err == nil {
			_, err = ready.hosts.Learn(catalog)
		}
		if err != nil {
			log.Warn("starting with the addresses of other nodes that are known, if any", "err", err)
		}
	}
	if cerr == nil {
		standing := peers.Starting
		if ready.state.Role == "" {
			standing = peers.Blank
		}
		err = peers.Announce(ctx, client, consul.Registration(rt), standing, "starting as "+string(p.Role))
		if err == nil {
			consul.BuryPluginServices(ctx, client, rt, standing) // what an earlier start left
		}
		if consul.Denied(err) && p.Role != statedir.Member {
			return err // nobody would ever find it
		}
		if ready.state.Cluster == "" && consul.NameTaken(err) {
			return SecondOfName(cfg.Node, err)
		}
		if err != nil {
			log.Warn("not registered yet, the companion goes on trying", "err", err)
		}
	}
	companion, err := companion.Spawn(ctx, rt, p.Lock, seat, os.Stderr)
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
	env := rabbitmq.ServerEnv(os.Environ(), append(hosts.Environment(cfg), "RABBITMQ_ADVANCED_CONFIG_FILE="+cfg.ConfigFile, "NOTIFY_SOCKET="+cfg.Socket(), "RABBITMQ_NODENAME="+cfg.Node, "HOME="+cfg.Home)...)
	if cfg.LongNames {
		env = append(env, "RABBITMQ_USE_LONGNAME=true")
	}
	if err = context.Cause(ctx); err == nil { // a SIGTERM now would be lost in the exec
		err = syscall.Exec(server, cfg.Args, env)
	}
	// Let the companion clean up and wait for it: if we are PID 1 the kernel
	// kills it the moment we return.
	_ = companion.Signal(syscall.SIGTERM)
	_, _ = companion.Wait()
	return fmt.Errorf("exec %s: %w", server, err)
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
	if strings.HasPrefix(filepath.Base(cfg.Args[0]), "rabbitmq") {
		if err := errors.Join(rabbitmq.RefuseDeprecated(os.Getenv), rabbitmq.DropTo(rabbitmq.User)); err != nil {
			return err
		}
	}
	return fmt.Errorf("exec %s: %w", path, syscall.Exec(path, cfg.Args, os.Environ()))
}
