package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"rmq-entrypoint/rabbitconf"
)

// rabbitmqUser is whom the server runs as in the official image.
const rabbitmqUser = "rabbitmq"

// Where the user's own configuration lies, unless variables say otherwise.
const (
	userConf     = "/etc/rabbitmq/rabbitmq"
	userConfD    = "/etc/rabbitmq/conf.d"
	userAdvanced = "/etc/rabbitmq/advanced.config"
)

// Modes of access(2).
const (
	maySearch = 1
	mayWrite  = 2
	mayRead   = 4
)

// deprecated are the variables on which the official entrypoint gives up.
var deprecated = []string{
	"RABBITMQ_DEFAULT_PASS_FILE", "RABBITMQ_DEFAULT_USER_FILE",
	"RABBITMQ_MANAGEMENT_SSL_CACERTFILE", "RABBITMQ_MANAGEMENT_SSL_CERTFILE", "RABBITMQ_MANAGEMENT_SSL_DEPTH",
	"RABBITMQ_MANAGEMENT_SSL_FAIL_IF_NO_PEER_CERT", "RABBITMQ_MANAGEMENT_SSL_KEYFILE", "RABBITMQ_MANAGEMENT_SSL_VERIFY",
	"RABBITMQ_SSL_CACERTFILE", "RABBITMQ_SSL_CERTFILE", "RABBITMQ_SSL_DEPTH", "RABBITMQ_SSL_FAIL_IF_NO_PEER_CERT",
	"RABBITMQ_SSL_KEYFILE", "RABBITMQ_SSL_VERIFY", "RABBITMQ_VM_MEMORY_HIGH_WATERMARK",
}

func refuseDeprecated(getenv func(string) string) error {
	set := slices.DeleteFunc(slices.Clone(deprecated), func(n string) bool { return getenv(n) == "" })
	if len(set) > 0 {
		return fmt.Errorf("%s: no longer supported by the RabbitMQ image: use a configuration file in /etc/rabbitmq/conf.d instead", strings.Join(set, ", "))
	}
	return nil
}

// refuseCleanup refuses what would make RabbitMQ forget nodes that are down, beside every
// file: the variables of its peer discovery, and terms on the server's command line.
func refuseCleanup(environ []string) error {
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if why := rabbitconf.CleanupVariable(name, value); why != "" {
			return fmt.Errorf("%s=%s: %s", name, value, why)
		}
		switch name {
		case "RABBITMQ_SERVER_ERL_ARGS", "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "RABBITMQ_SERVER_START_ARGS", "ERL_FLAGS", "ERL_AFLAGS", "ERL_ZFLAGS":
			for _, key := range []string{"node_cleanup", "perform_registration"} {
				if strings.Contains(value, key) {
					return fmt.Errorf("%s sets %s of cluster_formation, by which RabbitMQ may forget nodes that are merely stopped, or which does nothing here: take it out", name, key)
				}
			}
		}
	}
	return nil
}

// stepDown does root's duties and becomes rabbitmq: the data directory's
// ownership, and our output, which a health check must be able to open again.
func stepDown(cfg config) error {
	if os.Geteuid() != 0 {
		return nil
	}
	uid, gid, err := ids(rabbitmqUser)
	if err != nil {
		return err
	}
	for _, dir := range []string{cfg.Home, cfg.Data, cfg.StateDir, filepath.Dir(cfg.ConfigFile)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	for _, root := range []string{cfg.Home, cfg.Data, cfg.StateDir} { // not what they lie in, which may be the host's
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) == uid {
				return nil
			}
			return os.Lchown(path, uid, gid)
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("give the data directory to %s: %w: start as root with CAP_CHOWN, or give the volume to uid %d", rabbitmqUser, err, uid)
		}
	}
	if base := os.Getenv("RABBITMQ_MNESIA_BASE"); base != "" { // RabbitMQ writes beside its directory, too
		if err := os.Lchown(base, uid, gid); err != nil {
			return fmt.Errorf("give RABBITMQ_MNESIA_BASE=%s to %s: %w", base, rabbitmqUser, err)
		}
	}
	for _, f := range []*os.File{os.Stdout, os.Stderr} {
		_ = f.Chown(uid, gid) // a terminal or a pipe of the engine; without it a replaced companion is silent in docker logs
	}
	return dropTo(rabbitmqUser)
}

// dropTo gives up root for name: groups, gid, uid and HOME. Others keep theirs.
func dropTo(name string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return fmt.Errorf("find the user to run as: %w", err)
	}
	uid, gid, err := ids(name)
	if err != nil {
		return err
	}
	ids, err := u.GroupIds()
	if err != nil {
		return fmt.Errorf("find the groups of %s: %w", name, err)
	}
	var groups []int
	for _, id := range ids {
		if n, err := strconv.Atoi(id); err == nil {
			groups = append(groups, n)
		}
	}
	if err := errors.Join(syscall.Setgroups(groups), syscall.Setgid(gid), syscall.Setuid(uid)); err != nil {
		return fmt.Errorf("become %s: %w", name, err)
	}
	return os.Setenv("HOME", u.HomeDir)
}

func ids(name string) (uid, gid int, err error) {
	u, err := user.Lookup(name)
	if err != nil {
		return 0, 0, fmt.Errorf("find the user to run as: %w", err)
	}
	uid, uerr := strconv.Atoi(u.Uid)
	gid, gerr := strconv.Atoi(u.Gid)
	return uid, gid, errors.Join(uerr, gerr)
}

// readiness is what preflight learned.
type readiness struct {
	version rabbitconf.Version
	user    rabbitconf.User
	state   condition
	hosts   *hosts
}

// preflight judges everything that Consul has no part in, and changes nothing
// but directories of our own, a missing cookie file and the hosts files.
func preflight(ctx context.Context, log *slog.Logger, cfg config) (r readiness, err error) {
	if cfg.Hosts == "off" {
		if err := resolves(ctx, cfg.Node); err != nil {
			return r, err
		}
	}
	if err := refuseCleanup(os.Environ()); err != nil {
		return r, err
	}
	conf, err := rabbitconf.MainConf(cmp.Or(os.Getenv("RABBITMQ_CONFIG_FILE"), userConf))
	if err != nil {
		return r, err
	}
	if err := ownEnvConf("/etc/rabbitmq/rabbitmq-env.conf"); err != nil {
		return r, err
	}
	if r.user, err = rabbitconf.ReadUser(conf, cmp.Or(os.Getenv("RABBITMQ_CONFIG_FILES"), userConfD), cmp.Or(os.Getenv("RABBITMQ_ADVANCED_CONFIG_FILE"), userAdvanced)); err != nil {
		return r, err
	}
	if keys := r.user.Ignored(); len(keys) > 0 {
		log.Warn("these keys do nothing: they are for RabbitMQ's other discovery backends, and rmq-entrypoint asks Consul itself", "keys", strings.Join(keys, ", "))
	}
	for _, dir := range []string{cfg.StateDir, filepath.Dir(cfg.ConfigFile)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return r, notOurs(dir, err)
		}
		if err := syscall.Access(dir, mayWrite|maySearch); err != nil {
			return r, notOurs(dir, err)
		}
	}
	own, _ := advertise(ctx, cfg, "") // unknown: as the system resolves it
	if r.hosts, err = prepareHosts(ctx, log, cfg, own); err != nil {
		return r, err
	}
	if r.version, err = serverVersion(ctx, cfg, os.Getenv); err != nil {
		return r, err
	}
	if info, err := os.Stat(cfg.ConfigFile); err == nil && !info.Mode().IsRegular() {
		return r, fmt.Errorf("%s is not a file: give --config (RMQ_CONFIG_FILE) the path of a file to write", cfg.ConfigFile)
	}
	for _, dir := range []string{filepath.Dir(cfg.Data), cfg.Data} {
		if err := syscall.Access(dir, mayRead|mayWrite|maySearch); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return r, notOurs(dir, err)
		}
	}
	if len(cfg.socket()) > 107 {
		return r, fmt.Errorf("the state directory's path is too long for a socket (%s): give a shorter --state-dir (RMQ_STATE_DIR) on the volume", cfg.socket())
	}
	if err := cookie(cfg.Home); err != nil {
		return r, err
	}
	r.state, err = volumeOf(cfg).inspect()
	if err != nil {
		return r, fmt.Errorf("read the volume: %w", err)
	}
	return r, nil
}

func notOurs(dir string, err error) error {
	return fmt.Errorf("use directory %s as uid %d: %w: give it to that uid (chown), or start the container as root and let it do so (see also --state-dir, RMQ_STATE_DIR, and --config, RMQ_CONFIG_FILE)", dir, os.Geteuid(), err)
}

// resolves checks that the node's host name has an address: without one the
// Erlang VM would not start, or nobody would reach it.
func resolves(ctx context.Context, node string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, host, _ := strings.Cut(node, "@")
	if _, err := net.DefaultResolver.LookupHost(ctx, host); err != nil {
		return fmt.Errorf("the host of RABBITMQ_NODENAME=%q (--node) has no address here: %w: set the container's host name to it, add it to DNS or /etc/hosts, or let nodes find each other by Consul (--hosts consul, RMQ_HOSTS)", node, err)
	}
	return nil
}

// ownEnvConf refuses settings that would make RabbitMQ another node than the one
// we decide for.
func ownEnvConf(path string) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	n := 0
	for line := range strings.Lines(string(b)) {
		n++
		name, value, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
		if why := rabbitconf.CleanupVariable(name, strings.Trim(value, `"'`)); why != "" {
			return fmt.Errorf("%s:%d: %s: %s", path, n, name, why)
		}
		switch strings.TrimPrefix(name, "RABBITMQ_") {
		case "NODENAME", "USE_LONGNAME", "MNESIA_BASE", "MNESIA_DIR", "ADVANCED_CONFIG_FILE":
			return fmt.Errorf("%s sets %s, which this program must know too: set it as environment variable RABBITMQ_%s instead", path, name, strings.TrimPrefix(name, "RABBITMQ_"))
		}
	}
	return nil
}

// serverVersion takes the image's word for RabbitMQ's version, or asks its CLI.
func serverVersion(ctx context.Context, cfg config, getenv func(string) string) (rabbitconf.Version, error) {
	text := getenv("RABBITMQ_VERSION")
	if text == "" {
		out, err := newBroker(cfg.Node, cfg.LongNames, resolver(cfg)...).run(ctx, "rabbitmqctl", "version")
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

var errNoCookie = errors.New("no shared cookie: every node would make its own and none could join another; set RABBITMQ_ERLANG_COOKIE (or RABBITMQ_ERLANG_COOKIE_FILE) to the same secret on every node")

// cookie makes sure that there is a shared one, readable by its owner alone.
func cookie(home string) error {
	path := filepath.Join(home, ".erlang.cookie")
	want, err := secret(os.Getenv, "RABBITMQ_ERLANG_COOKIE")
	if err != nil {
		return err
	}
	have, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && want == "":
		return errNoCookie
	case errors.Is(err, fs.ErrNotExist):
		if err := os.WriteFile(path, []byte(want), 0o400); err != nil {
			return fmt.Errorf("write the cookie file: %w", err)
		}
		return nil
	case err != nil:
		return fmt.Errorf("read the cookie file: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("cookie file %s can be read by others (mode %04o), and Erlang refuses that: chmod 400 %s", path, info.Mode().Perm(), path)
	}
	if got := strings.TrimSpace(string(have)); want != "" && got != want {
		return fmt.Errorf("cookie file %s on the volume differs from RABBITMQ_ERLANG_COOKIE: set the variable to what the cluster uses, or remove the file if the variable is right on every node", path)
	}
	if strings.TrimSpace(string(have)) == "" {
		return fmt.Errorf("cookie file %s is empty: remove it and set RABBITMQ_ERLANG_COOKIE", path)
	}
	return nil
}
