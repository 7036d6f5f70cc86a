package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/lock"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// start runs in the process that becomes RabbitMQ. It returns only on failure.
//
//	preflight → (blank: lock → look → Decide) → rabbitmq.config → register → companion → exec
func start(ctx context.Context, log *slog.Logger, cfg config) (err error) {
	if err := refuseDeprecated(os.Getenv); err != nil {
		return err
	}
	server, err := exec.LookPath(cfg.Args[0])
	if err != nil {
		return fmt.Errorf("find the server: %w: this program belongs into an image that has RabbitMQ on PATH", err)
	}
	if cfg.Advertise, err = addressOf(cfg.Advertise); err != nil {
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
	if err := cfg.listen(ready.user); err != nil {
		return err
	}
	seat, err := takeSeat(ctx, cfg.StateDir)
	if err != nil {
		return err
	}
	defer seat.Close() // after exec the companion alone holds it

	rt := runtimeFile{
		Config: cfg, PID: os.Getpid(), Started: startTime(os.Getpid()), Version: ready.version.String(), Erlang: image.Erlang,
		Boot: peers.NewID(), Since: time.Now().UTC(),
	}
	c := newConsul(cfg, log)
	p, err := decide(ctx, log, c, ready, &rt)
	if err != nil {
		return err
	}
	release := func() {
		if p.lock != nil {
			_ = p.lock.Release(ctx) // the TTL covers us if this fails
		}
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	if p.aside {
		aside, err := volumeOf(cfg).clear(pendingFile{Role: p.role, Claim: p.claim, Volume: p.volume}, time.Now())
		if err != nil {
			return fmt.Errorf("move leftovers of an unfinished start aside: %w", err)
		}
		if aside != "" {
			log.Warn("moved leftovers of an unfinished start aside", "to", aside)
		}
	}
	rt.PauseMinority = max(len(p.peers)+1, len(ready.state.members)) >= 3
	opts := rabbitconf.Options{
		Version: ready.version, Node: cfg.Node, Peers: p.peers, Joining: len(p.peers) > 0, PauseMinority: rt.PauseMinority, User: ready.user,
	}
	if cfg.survivingQueues() {
		opts.Extra = rabbitconf.Queues(ready.version)
	}
	conf, err := rabbitconf.Render(opts)
	if err != nil {
		return err
	}
	if err := rabbitconf.Write(cfg.ConfigFile, conf, -1, -1); err != nil {
		return fmt.Errorf("write rabbitmq.config (--config, RMQ_CONFIG_FILE): %w", err)
	}
	client, cerr := c.use(ctx) // before c.addr is written down: the companion must know where the node is registered
	rt.Role, rt.Claim, rt.Volume, rt.Cluster, rt.Waiting, rt.Consul = p.role, p.claim, p.volume, ready.state.cluster, "", c.addr
	if err := volumeOf(cfg).remove("out"); err != nil { // a start brings a drained node back
		return err
	}
	rt.UserPartitionHandling = ready.user.Sets("cluster_partition_handling")
	if cerr == nil {
		rt.Address, cerr = advertise(ctx, cfg, c.addr)
		rt.Located = cerr == nil
	}
	if err := rt.write(); err != nil {
		return err
	}
	if len(doubts) > 0 {
		log.Warn("whether RabbitMQ supports this version here is not known: it starts", "unknown", strings.Join(doubts, "; "))
	}
	if err := volumeOf(cfg).stamp(ready.version, image.Erlang, time.Now()); err != nil {
		return fmt.Errorf("write down which version is about to run: %w", err)
	}
	if ready.hosts != nil && cerr == nil { // with data, nothing has asked the catalog yet
		catalog, _, err := peers.Catalog(ctx, client, cfg.Service, cfg.Node)
		if err == nil {
			_, err = ready.hosts.learn(catalog)
		}
		if err != nil {
			log.Warn("starting with the addresses of other nodes that are known, if any", "err", err)
		}
	}
	if cerr == nil {
		standing := peers.Starting
		if ready.state.role == "" {
			standing = peers.Blank
		}
		err = peers.Announce(ctx, client, registration(rt), standing, "starting as "+string(p.role))
		if err == nil {
			buryBeside(ctx, client, rt, standing) // what an earlier start left
		}
		if denied(err) && p.role != member {
			return err // nobody would ever find it
		}
		if ready.state.cluster == "" && isTaken(err) {
			return secondOfName(cfg.Node, err)
		}
		if err != nil {
			log.Warn("not registered yet, the companion goes on trying", "err", err)
		}
	}
	companion, err := spawn(ctx, rt, p.lock, seat, os.Stderr)
	if err != nil {
		if cerr == nil {
			wctx, done := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second) // a signal may wait
			_ = withdrawAll(wctx, client, rt)
			done()
		}
		return fmt.Errorf("start the companion: %w", err)
	}
	p.lock = nil // the companion's from here on: nothing below may touch Consul
	log.Info("becoming the server", "role", p.role, "argv", strings.Join(cfg.Args, " "), "companion", companion.Pid)
	env := serverEnv(os.Environ(), append(resolver(cfg), "RABBITMQ_ADVANCED_CONFIG_FILE="+cfg.ConfigFile, "NOTIFY_SOCKET="+cfg.socket(), "RABBITMQ_NODENAME="+cfg.Node, "HOME="+cfg.Home)...)
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

// decide returns what to start as: a node with data starts as what it is and at
// once, unless the record positively refuses its volume; a blank one takes part
// in the formation.
func decide(ctx context.Context, log *slog.Logger, c *consul, ready readiness, rt *runtimeFile) (plan, error) {
	cfg, state := rt.Config, ready.state
	if state.lost {
		log.Warn("the marker says member, but RabbitMQ's directory is gone: this volume is blank", "cluster", state.cluster, "directory", cfg.Data)
	}
	if state.role != "" {
		rt.Volume = state.volume
		return withData(ctx, log, c, state, *rt)
	}
	if strangers, err := volumeOf(cfg).strangers(); err != nil {
		return plan{}, err
	} else if len(strangers) > 0 {
		return plan{}, fmt.Errorf("%s holds the database of %s, but this node is %s and would silently start empty: give the container the host name it had (or set RABBITMQ_NODENAME); to start a new node, use an empty volume",
			filepath.Dir(cfg.Data), strings.Join(strangers, ", "), cfg.Node)
	}
	f := formation{
		log: log, cfg: cfg, consul: c, volume: volumeOf(cfg), state: state,
		dns:    peers.DNS{Server: cfg.DNSServer, Domain: cfg.DNSDomain},
		broker: newBroker(cfg.Node, cfg.LongNames, resolver(cfg)...), hosts: ready.hosts, isDown: downOf(cfg), dial: new(net.Dialer).DialContext,
		heals: needsForget(ready.version), image: ready.version,
		say: func(why string) {
			rt.Waiting = why
			if err := rt.write(); err != nil {
				log.Warn("cannot leave word for the health check", "err", err)
			}
		},
	}
	rt.Volume = state.volume
	f.reg = registration(*rt)
	f.say("Consul")
	if client, err := c.use(ctx); err == nil {
		buryBeside(ctx, client, *rt, peers.Blank)
	}
	log.Info("this node is blank: looking for its cluster", "node", cfg.Node, "record", cfg.recordKey())
	p, err := f.run(ctx)
	if err != nil && ctx.Err() != nil {
		return p, fmt.Errorf("stopped while waiting for %s: %w", rt.Waiting, context.Cause(ctx))
	}
	return p, err
}

// withData returns what a node with data starts as, unless its volume is positively ruled
// out, or was never verified and its name is another's: two servers of one name disturb the
// cluster that one of them is in. A verified member's name is its own.
func withData(ctx context.Context, log *slog.Logger, c *consul, state condition, rt runtimeFile) (plan, error) {
	if err := refused(ctx, log, c, rt.Config, state); err != nil {
		return plan{}, err
	}
	if state.cluster == "" {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		client, err := c.use(ctx)
		if err == nil {
			err = peers.NameFree(ctx, client, registration(rt), peers.Starting)
		}
		if isTaken(err) {
			return plan{}, secondOfName(rt.Config.Node, err)
		}
	}
	if state.volume == "" {
		// On the volume before it goes on record: a name that only the record knew would be
		// another one's after a crash.
		state.volume = peers.NewID()
		if err := volumeOf(rt.Config).writePending(pendingFile{Role: member, Volume: state.volume}); err != nil {
			return plan{}, fmt.Errorf("give this volume a name: %w", err)
		}
	}
	return plan{role: state.role, claim: state.claim, volume: state.volume}, nil
}

func isTaken(err error) bool { return errors.As(err, new(*peers.NameTakenError)) }

func secondOfName(node string, taken error) error {
	return fmt.Errorf("not starting a second %s: %w. Two nodes cannot have one name: give this container a host name of its own (or RABBITMQ_NODENAME), or stop that one", node, taken)
}

// refused asks the volume, and once the record, whether it is positively ruled out.
// Unknown starts: members wait for each other inside RabbitMQ, and any gate here
// would deadlock a full restart.
func refused(ctx context.Context, log *slog.Logger, c *consul, cfg config, state condition) error {
	if order, err := volumeOf(cfg).out(); err != nil {
		return err
	} else if order != nil && order.Leaving && order.Done { // known without Consul
		return fmt.Errorf("refusing to start: %s left cluster %s for good on %s. To join it again, start with an empty volume; otherwise remove this container", cfg.Node, state.cluster, order.At.Format(time.RFC3339))
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var r peers.Record
	client, err := c.use(ctx)
	if err == nil {
		r, _, err = peers.ReadRecord(ctx, client, cfg.recordKey())
	}
	if err != nil {
		log.Warn("this node has data and starts; Consul cannot be asked whether the volume is still on record", "err", err)
		return nil
	}
	if err := ruledOut(r, cfg, state); err != nil {
		return err
	}
	if r.Returns(cfg.Node, state.volume) {
		return comeBack(ctx, log, client, cfg, state)
	}
	releaseEarlier(ctx, log, client, r, cfg, state)
	log.Info("this node has data and starts at once", "role", state.role, "cluster", state.cluster)
	return nil
}

// comeBack puts a volume on record again that a blank one under this node's name struck, or
// that was given up with a cluster which others took back, before its server starts: whoever would go on without it sees that it is back, or has
// said so on the record first.
func comeBack(ctx context.Context, log *slog.Logger, client *api.Client, cfg config, state condition) error {
	for {
		r, index, err := peers.ReadRecord(ctx, client, cfg.recordKey())
		ok := false
		if err == nil && !r.Returns(cfg.Node, state.volume) {
			return ruledOut(r, cfg, state)
		}
		if err == nil {
			back := r.With(cfg.Node, state.volume)
			if state.cluster == "" { // whether its join was one, verification finds out
				back = r.Joins(cfg.Node, state.volume, time.Now())
			}
			ok, err = peers.WriteRecord(ctx, client, cfg.recordKey(), back, index, "", "")
		}
		if err != nil {
			log.Warn("this node has data and starts; it is off the record, which cannot be put right yet", "err", err)
			return nil
		}
		if ok {
			log.Warn("this node was off the record and has data: it is on record again, and starts", "was", r.Gone[cfg.Node].Told(cfg.Node, "the record"), "volume", state.volume)
			return nil
		}
	}
}

// ruledOut returns an error when the record positively rules the volume out.
func ruledOut(r peers.Record, cfg config, state condition) error {
	why := r.Refuses(cfg.Node, state.volume, state.cluster)
	switch {
	case why == "":
		return nil
	case r.HasLeft(cfg.Node, state.volume):
		return fmt.Errorf("refusing to start: %s. To join it again, start with an empty volume; otherwise remove this container", why)
	}
	return fmt.Errorf("refusing to start beside the cluster: %s. Its data is kept. To join that cluster, start with an empty volume; to go back to this volume's cluster, stop the other nodes, delete the key %s in Consul and start this node first", why, cfg.recordKey())
}

// needsForget tells the versions that refuse a wiped node under its old name
// until the cluster forgot it: 3.13 to 4.2 (measured on 4.0.5); older ones and
// 4.3 let it in.
func needsForget(v rabbitconf.Version) bool {
	return v.AtLeast(3, 13) && !v.AtLeast(4, 3)
}

// advertise returns the address to register: the setting, or the source of the
// route to the Consul agent in use, "" for the first one. With an agent on this host
// it is "", for which Consul fills in the agent's own. An error means unknown, as
// while the agent's name has no address: then nothing is to be registered.
func advertise(ctx context.Context, c config, consul string) (string, error) {
	if c.Advertise != "" {
		return c.Advertise, nil
	}
	host := cmp.Or(consul, c.Consul[0])
	if _, rest, ok := strings.Cut(host, "://"); ok {
		host = rest
	}
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	conn, err := (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, "udp", net.JoinHostPort(host, "8500")) // sends nothing
	if err != nil {
		return "", fmt.Errorf("which of this host's addresses to register (--advertise, RMQ_ADVERTISE): no route to Consul: %w", err)
	}
	defer conn.Close()
	ip := conn.LocalAddr().(*net.UDPAddr).IP
	if ip.IsLoopback() {
		return "", nil
	}
	return ip.String(), nil
}

func lockOptions(c config, log *slog.Logger) lock.Options {
	host, _ := os.Hostname()
	return lock.Options{Key: c.lockKey(), Owner: lock.Owner{Node: c.Node, Host: host}, TTL: c.TTL, Delay: c.LockDelay, Log: log}
}

// socket is where RabbitMQ says that it is ready, or stopping.
func (c config) socket() string { return filepath.Join(c.StateDir, "notify.sock") }

// serverEnv is env without what the server must not see, and with set, each
// variable once: of two, a shell takes the last and a C program the first.
func serverEnv(env []string, set ...string) []string {
	out := slices.Clone(set)
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		if slices.ContainsFunc(set, func(s string) bool { return strings.HasPrefix(s, name+"=") }) {
			continue
		}
		switch name {
		case "CONSUL_HTTP_TOKEN", "CONSUL_HTTP_TOKEN_FILE", "RABBITMQ_ERLANG_COOKIE", "RABBITMQ_ERLANG_COOKIE_FILE",
			"CONSUL_HTTP_AUTH", "RMQ_AMQP_URL", "RMQ_AMQP_URL_FILE", "NOTIFY_SOCKET", "RMQ_ENTRYPOINT_SESSION":
		default:
			out = append(out, kv)
		}
	}
	return out
}

// become execs any other command untouched, as the official entrypoint does:
// RabbitMQ's own tools as its user. Where there is no such program, it asks whether
// a subcommand was meant.
func become(cfg config, meant string) error {
	path, err := exec.LookPath(cfg.Args[0])
	if err != nil {
		if meant != "" {
			err = fmt.Errorf("%w; did you mean %s?", err, meant)
		}
		return fmt.Errorf("%q is neither a subcommand (rmq-entrypoint --help lists them) nor a program: %w", cfg.Args[0], err)
	}
	if strings.HasPrefix(filepath.Base(cfg.Args[0]), "rabbitmq") {
		if err := errors.Join(refuseDeprecated(os.Getenv), dropTo(rabbitmqUser)); err != nil {
			return err
		}
	}
	return fmt.Errorf("exec %s: %w", path, syscall.Exec(path, cfg.Args, os.Environ()))
}
