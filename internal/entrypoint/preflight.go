package entrypoint

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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

// Where the user's own configuration lies, unless variables say otherwise.
const (
	userDir      = "/etc/rabbitmq"
	userConf     = "/etc/rabbitmq/rabbitmq"
	userConfD    = "/etc/rabbitmq/conf.d/*.conf"
	userAdvanced = "/etc/rabbitmq/advanced.config"
)

// Modes of access(2).
const (
	maySearch = 1
	mayWrite  = 2
	mayRead   = 4
)

// host is what preflight learned of this container, and what it holds here.
type host struct {
	rt      statedir.Runtime // settings and identity of this start
	server  string           // the program to become
	version rabbitconf.Version
	doubts  []string           // what of the check of versions is not known
	env     config.Environment // of the server, as RabbitMQ will see it
	user    rabbitconf.User
	state   statedir.Found
	hosts   *hosts.File
	held    *os.File // the volume's flock
}

// preflight judges all that Consul has no part in, but for what the other members run, and
// makes this process the one that starts RabbitMQ here: it steps down from root and takes
// the volume's flock.
func preflight(ctx context.Context, log *slog.Logger, cfg config.Config) (h host, err error) {
	if err := rabbitmq.RefuseDeprecated(os.Getenv); err != nil {
		return h, err
	}
	if err := rabbitmq.RefuseArguments(cfg.Args[1:], os.Environ()); err != nil {
		return h, err
	}
	if h.server, err = exec.LookPath(cfg.Args[0]); err != nil {
		return h, fmt.Errorf("find the server: %w: this program belongs into an image that has RabbitMQ on PATH", err)
	}
	if cfg.Advertise, err = consul.AddressOf(ctx, log, cfg); err != nil {
		return h, err
	}
	if err := errors.Join(oneVolume(cfg), replicasBeside(cfg, os.Getenv)); err != nil { // before any directory is made
		return h, err
	}
	warnOf(log, cfg, os.Getenv)
	if err := stepDown(cfg); err != nil {
		return h, err
	}
	if err := cfg.ReadURL(os.Getenv); err != nil {
		return h, err
	}
	if err := RefuseSingle(cfg); err != nil {
		return h, err
	}
	if err := rabbitmq.RefuseCleanup(os.Environ()); err != nil {
		return h, err
	}
	if h.env, err = serverEnvironment(ctx, cfg, serverEnv(cfg, "")); err != nil {
		return h, err
	}
	if err := directories(cfg, h.env); err != nil {
		return h, err
	}
	image, doubts, err := refuseJump(ctx, log, cfg, h.env)
	if err != nil {
		return h, err
	}
	h.doubts = doubts
	if err := h.inspect(ctx, log, cfg, image.Version); err != nil {
		return h, err
	}
	if err := cfg.Listen(h.user, h.env.Of); err != nil {
		return h, err
	}
	if err := portsDiffer(ctx, cfg, h.user, h.env); err != nil {
		return h, err
	}
	if err := companion.MayLogIn(cfg, h.env, h.user); err != nil {
		return h, err
	}
	if h.held, err = statedir.WaitLock(ctx, cfg.StateDir); err != nil {
		return h, err
	}
	if err := portIsFree(ctx, cfg.HTTP); err != nil {
		return h, err
	}
	if err := statedir.LeaveWord(cfg); err != nil && cfg.Flags["state-dir"] != "" { // a variable may be given to others, too
		return h, fmt.Errorf("leave word of --state-dir %s for health checks and commands, which do not see this command line: %w: give RMQ_STATE_DIR, the variable, to the container instead", cfg.StateDir, err)
	}
	started, err := statedir.StartTime(os.Getpid())
	if err != nil {
		return h, fmt.Errorf("read when this process started, by which the companion knows it: is /proc mounted? %w", err)
	}
	h.rt = statedir.Runtime{
		Config: cfg, PID: os.Getpid(), Started: started, Version: h.version.String(), Erlang: image.Erlang,
		Boot: peers.NewID(), Since: time.Now().UTC(),
	}
	return h, nil
}

// inspect judges the host's files, and changes nothing but directories of our own, a
// missing cookie file and the hosts files.
func (h *host) inspect(ctx context.Context, log *slog.Logger, cfg config.Config, image rabbitconf.Version) error {
	if cfg.Hosts == "off" {
		if err := hosts.Resolves(ctx, cfg.Node); err != nil {
			return err
		}
	}
	var err error
	if err = configIsOurs(cfg, h.env); err != nil {
		return err
	}
	if h.user, err = usersFiles(cfg, h.env, image); err != nil {
		return err
	}
	if keys := h.user.Ignored(); len(keys) > 0 {
		log.Warn("these keys do nothing: they are for RabbitMQ's other discovery backends, and rmq-entrypoint asks Consul itself", "keys", strings.Join(keys, ", "))
	}
	if err := statedir.Of(cfg).Make(); err != nil {
		return notOurs(cfg.StateDir, err)
	}
	for _, dir := range []string{cfg.StateDir, filepath.Dir(cfg.ConfigFile)} {
		if err := os.MkdirAll(dir, 0o755); err != nil { // #nosec G301 -- the state directory is made and closed already
			return notOurs(dir, err)
		}
		if err := syscall.Access(dir, mayWrite|maySearch); err != nil {
			return notOurs(dir, err)
		}
	}
	own := ""
	if !cfg.Single {
		own, _ = consul.Advertise(ctx, cfg, "") // unknown: as the system resolves it
	}
	if h.hosts, err = hosts.Prepare(ctx, log, cfg, own); err != nil {
		return err
	}
	if h.version, err = serverVersion(ctx, cfg, os.Getenv); err != nil {
		return err
	}
	for _, dir := range []string{filepath.Dir(cfg.Data), cfg.Data} {
		if err := syscall.Access(dir, mayRead|mayWrite|maySearch); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return notOurs(dir, err)
		}
	}
	if len(cfg.Socket()) > 107 {
		return fmt.Errorf("the state directory's path is too long for a socket (%s): give a shorter --state-dir (RMQ_STATE_DIR) on the volume", cfg.Socket())
	}
	if cfg.Single {
		if err := ownCookie(cfg.Home); err != nil {
			return err
		}
	}
	if err := cookie(log, cfg.Home); err != nil {
		return err
	}
	if h.state, err = statedir.Of(cfg).Inspect(); err != nil {
		return fmt.Errorf("read the volume: %w", err)
	}
	return nil
}

// usersFiles reads the user's own configuration as RabbitMQ would, and judges where it has the data.
func usersFiles(cfg config.Config, env config.Environment, image rabbitconf.Version) (rabbitconf.User, error) {
	files := usersPlaces(env)
	conf, err := rabbitconf.MainConf(files.Conf)
	if err != nil {
		return rabbitconf.User{}, err
	}
	files.Conf, files.Version, files.LookupEnv = conf, image, env.Lookup
	user, err := rabbitconf.ReadUser(files)
	if err != nil {
		return user, err
	}
	return user, usersDirectories(cfg, user)
}

func notOurs(dir string, err error) error {
	return fmt.Errorf("use directory %s as uid %d: %w: give it to that uid (chown), or start the container as root and let it do so (see also --state-dir, RMQ_STATE_DIR, and --config, RMQ_CONFIG_FILE)", dir, os.Geteuid(), err)
}

// serverVersion takes the image's word for RabbitMQ's version, or asks its CLI, which makes a cookie of its own in a home
// that has none (measured on 3.10.8): it gets one to throw away.
func serverVersion(ctx context.Context, cfg config.Config, getenv func(string) string) (rabbitconf.Version, error) {
	text := getenv("RABBITMQ_VERSION")
	if text == "" {
		home, err := os.MkdirTemp("", "rmq-entrypoint-")
		if err != nil {
			return rabbitconf.Version{}, fmt.Errorf("find RabbitMQ's version (set RABBITMQ_VERSION): %w", err)
		}
		defer os.RemoveAll(home)
		out, err := rabbitmq.New(cfg.Node, cfg.LongNames, append(hosts.Environment(cfg), "HOME="+home)...).Run(ctx, "rabbitmqctl", "version")
		if err != nil {
			return rabbitconf.Version{}, fmt.Errorf("find RabbitMQ's version (set RABBITMQ_VERSION): %w", err)
		}
		text = strings.TrimSpace(out)
	}
	v, err := rabbitconf.ParseVersion(text)
	if err != nil {
		return v, fmt.Errorf("RABBITMQ_VERSION: %w", err)
	}
	return v, nil
}
