package companion

import (
	"os"
	"path/filepath"
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

func touch(t *testing.T, path string) {
	t.Helper()
	expect.Must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	expect.Must(t, os.WriteFile(path, nil, 0o644))
}
