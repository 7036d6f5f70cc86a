package entrypoint

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/rabbitconf"
	"rmq-entrypoint/tests/expect"
)

// A file that is mounted by itself is refused: rename(2) over it ends with EBUSY, after the claim.
func TestConfigIsMounted(t *testing.T) {
	if file := os.Getenv("RMQ_TEST_MOUNTED"); file != "" {
		err := configIsOurs(config.Config{ConfigFile: file, StateDir: filepath.Dir(file)}, config.Environment{})
		if err == nil {
			t.Fatal("it is taken")
		}
		expect.Says(t, err.Error(), "--config (RMQ_CONFIG_FILE) "+file, "mounted by itself", "mount its directory")
		return
	}
	t.Parallel()
	file := filepath.Join(t.TempDir(), "rabbitmq.config")
	expect.Must(t, os.WriteFile(file, nil, 0o644))
	expect.Must(t, configIsOurs(config.Config{ConfigFile: file, StateDir: filepath.Dir(file)}, config.Environment{}))
	if mounted(file) || mounted(file+".none") || !mounted("/proc") {
		t.Error("what is a mount of its own is not told from what is none")
	}
	mount := exec.Command("unshare", "--mount", "--map-root-user", "sh", "-ec", `mount --bind "$1" "$1"; exec "$0" -test.run='^TestConfigIsMounted$'`, os.Args[0], file)
	if out, err := exec.Command("unshare", "--mount", "--map-root-user", "true").CombinedOutput(); err != nil {
		t.Skipf("no mount of its own can be made here: %s, %v", strings.TrimSpace(string(out)), err)
	}
	mount.Env = append(os.Environ(), "RMQ_TEST_MOUNTED="+file)
	if out, err := mount.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// A path of its own is taken, before the file is there and once it was written.
func TestConfigElsewhere(t *testing.T) {
	t.Parallel()
	cfg := config.Config{ConfigFile: filepath.Join(t.TempDir(), "rabbitmq.config"), StateDir: "/nowhere"}
	expect.Must(t, configIsOurs(cfg, config.Environment{}))
	rendered, err := rabbitconf.Render(rabbitconf.Options{Node: "rabbit@a"})
	expect.Must(t, err)
	expect.Must(t, rabbitconf.Replace(cfg.ConfigFile, rendered))
	expect.Must(t, configIsOurs(cfg, config.Environment{}))
}
