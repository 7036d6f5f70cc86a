package entrypoint

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/rabbitconf"
)

// usersPlaces is where the user's own configuration lies.
func usersPlaces(env config.Environment) rabbitconf.Files {
	return rabbitconf.Files{
		Conf:     cmp.Or(config.RabbitMQs(env.Of, "RABBITMQ_CONFIG_FILE"), userConf),
		ConfD:    cmp.Or(config.RabbitMQs(env.Of, "RABBITMQ_CONFIG_FILES"), userConfD),
		Advanced: cmp.Or(config.RabbitMQs(os.Getenv, "RABBITMQ_ADVANCED_CONFIG_FILE"), userAdvanced),
	}
}

// configIsOurs refuses a --config whose file is not this program's to replace: one that RabbitMQ
// reads as the user's, or that somebody else wrote. It is asked before those files are read, for one
// that an earlier start replaced has errors of its own.
func configIsOurs(cfg config.Config, env config.Environment) error {
	const instead = "give --config (RMQ_CONFIG_FILE) a path of its own, or leave it out"
	by, err := usersPlaces(env).Read(cfg.ConfigFile)
	if err != nil {
		return err
	}
	if by != "" {
		return fmt.Errorf("--config (RMQ_CONFIG_FILE) %s: RabbitMQ reads this file as one of yours (%s), and it would be replaced at each start: %s", cfg.ConfigFile, by, instead)
	}
	info, err := os.Stat(cfg.ConfigFile)
	if err != nil {
		return nil // whether its directory can be used is judged for itself
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a file: give --config (RMQ_CONFIG_FILE) the path of a file to write", cfg.ConfigFile)
	}
	if mounted(cfg.ConfigFile) {
		return fmt.Errorf("--config (RMQ_CONFIG_FILE) %s: this file is mounted by itself, so it cannot be replaced: mount its directory instead, or %s", cfg.ConfigFile, instead)
	}
	if filepath.Dir(cfg.ConfigFile) == filepath.Clean(cfg.StateDir) { // nobody else writes there
		return nil
	}
	ours, err := rabbitconf.Ours(cfg.ConfigFile)
	if err != nil {
		return fmt.Errorf("--config (RMQ_CONFIG_FILE): see whether this program wrote the file: %w: give it to uid %d, or %s", err, os.Geteuid(), instead)
	}
	if !ours {
		return fmt.Errorf("--config (RMQ_CONFIG_FILE) %s: this file is there, and this program did not write it, so it is not replaced: remove it, or %s", cfg.ConfigFile, instead)
	}
	return nil
}

// mounted reports whether path is known to be a mount of its own, over which nothing can be
// renamed. Kernels before 5.8 do not tell.
func mounted(path string) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, 0, &st)
	return err == nil && st.Attributes_mask&st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}
