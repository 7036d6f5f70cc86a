package admin

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/tests/expect"
)

func testVolume(t *testing.T) statedir.Dir {
	t.Helper()
	base := t.TempDir()
	v := statedir.Dir{Data: filepath.Join(base, "rabbit@a"), State: filepath.Join(base, "rabbit@a-entrypoint")}
	expect.Must(t, os.Mkdir(v.State, 0o755))
	return v
}

// names are comma-separated.
func names(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}
