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

// stepDown does root's duties and becomes rabbitmq: the data directory's
// ownership, and our output, which a health check must be able to open again.
func stepDown(cfg config.Config) error {
	return config.WithSecrets(func() error {
		if os.Geteuid() != 0 {
			return nil
		}
		return becomeUser(cfg)
	})
}

func becomeUser(cfg config.Config) error {
	uid, gid, err := rabbitmq.IDs(rabbitmq.User)
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
		if errors.Is(err, syscall.EROFS) {
			return fmt.Errorf("give the data directory to %s: %w: what is mounted there read-only must belong to uid %d; a cookie had better come from another place, as RABBITMQ_ERLANG_COOKIE_FILE, which root reads", rabbitmq.User, err, uid)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("give the data directory to %s: %w: start as root with CAP_CHOWN, or give the volume to uid %d", rabbitmq.User, err, uid)
		}
	}
	if base := os.Getenv("RABBITMQ_MNESIA_BASE"); base != "" { // RabbitMQ writes beside its directory, too
		if err := os.Lchown(base, uid, gid); err != nil {
			return fmt.Errorf("give RABBITMQ_MNESIA_BASE=%s to %s: %w", base, rabbitmq.User, err)
		}
	}
	for _, f := range []*os.File{os.Stdout, os.Stderr} {
		_ = f.Chown(uid, gid) // a terminal or a pipe of the engine; without it a replaced companion is silent in docker logs
	}
	return rabbitmq.DropTo(rabbitmq.User)
}
