package entrypoint

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rmq-entrypoint/tests/expect"
)

// What RabbitMQ would read after us must not make it another node.
func TestOwnEnvConf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rabbitmq-env.conf")
	expect.Must(t, ownEnvConf(path))
	for text, name := range map[string]string{
		"NODENAME=a@b\n": "NODENAME", "# NODENAME=a@b\nLOG_BASE=/x\n": "", "  export RABBITMQ_USE_LONGNAME=true": "USE_LONGNAME", "MNESIA_BASE=/x": "MNESIA_BASE",
		"# \nexport RABBITMQ_CLEANUP_ONLY_LOG_WARNING=false\n": "CLEANUP_ONLY_LOG_WARNING",
	} {
		expect.Must(t, os.WriteFile(path, []byte(text), 0o644))
		err := ownEnvConf(path)
		if (err != nil) != (name != "") || err != nil && (!strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "RABBITMQ_"+name)) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
