package admin

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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

// Before the first time there is none.
func TestWhen(t *testing.T) {
	if got := when(time.Time{}); got != "never" {
		t.Errorf("%q", got)
	}
	if got := when(time.Unix(0, 0).UTC()); got != "1970-01-01T00:00:00Z" {
		t.Errorf("%q", got)
	}
}
