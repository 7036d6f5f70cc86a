package entrypoint

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/rabbitmq"
)

// stepDown does root's duties and becomes rabbitmq. Until then nothing of rabbitmq's is read:
// what lies in his directories may be a link, or a pipe that nobody writes into.
func stepDown(cfg config.Config) error {
	uid, gid, groups, err := rabbitmq.IDs(rabbitmq.User)
	if err != nil && os.Geteuid() == 0 {
		return err
	}
	his := config.User{UID: uid, GID: gid, Groups: groups}
	err = config.WithSecrets(his, func() error {
		if os.Geteuid() != 0 {
			return rabbitmq.DropTo(rabbitmq.User)
		}
		return becomeUser(cfg, giverTo(his, config.Logger(cfg)))
	})
	if err != nil {
		return err
	}
	if file := os.Getenv(config.TokenReadOnce); file != "" {
		config.Logger(cfg).Warn("CONSUL_HTTP_TOKEN_FILE is read once, as only root may read it: a file that the server's group may read (0440) is followed when it changes", "file", file)
	}
	for _, dir := range []string{cfg.Home, userDir, filepath.Join(userDir, "conf.d")} {
		closeToOthers(dir)
	}
	return nil
}

// becomeUser gives rabbitmq the data directory, and our output, and then gives up root.
func becomeUser(cfg config.Config, g giver) error {
	defer g.tellLinked()
	for _, dir := range []string{cfg.Home, cfg.Data, cfg.StateDir} {
		if err := g.tree(dir); err != nil {
			return notGiven(err, g.UID)
		}
	}
	dirs := []string{config.RabbitMQs(os.Getenv, "RABBITMQ_MNESIA_BASE")} // RabbitMQ writes beside its directory, too
	if _, err := os.Lstat(filepath.Dir(cfg.ConfigFile)); errors.Is(err, fs.ErrNotExist) {
		dirs = append(dirs, filepath.Dir(cfg.ConfigFile)) // one that is there may be the host's
	}
	for _, dir := range dirs {
		if dir == "" {
			continue
		}
		if err := g.alone(dir); err != nil {
			return notGiven(err, g.UID)
		}
	}
	g.output(os.Stdout)
	g.output(os.Stderr)
	return rabbitmq.DropTo(rabbitmq.User)
}

func notGiven(err error, uid int) error {
	err = fmt.Errorf("give the data directory to %s: %w", rabbitmq.User, err)
	if errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("%w: what is mounted there read-only must belong to uid %d; a cookie had better come from another place, as RABBITMQ_ERLANG_COOKIE_FILE, which root reads", err, uid)
	}
	return fmt.Errorf("%w: start as root with CAP_CHOWN, and with CAP_DAC_OVERRIDE while things of other users lie in directories that are closed to root, or give the volume to uid %d", err, uid)
}

// closeToOthers lets nobody but rabbitmq put files into a directory of rabbitmq's. The image leaves
// directories open to all from which programs run what they find: Erlang a .erlang, and a shell a
// rabbitmq-env.conf. A file system that is read-only, or keeps no modes, stays as it is.
func closeToOthers(dir string) {
	info, err := os.Stat(dir)
	if err != nil || info.Mode()&0o002 == 0 {
		return // whether it is there is for others to judge
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) == os.Geteuid() {
		_ = os.Chmod(dir, info.Mode()&^0o002)
	}
}
