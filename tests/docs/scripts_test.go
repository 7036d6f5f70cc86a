package docs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rmq-entrypoint/tests/expect"
)

// A script does the same wherever its reader stands, by whatever way it is called.
func TestDownFromAnywhere(t *testing.T) {
	repository, err := filepath.Abs(root)
	expect.Must(t, err)
	bin, cache := t.TempDir(), t.TempDir()
	for name, does := range map[string]string{
		"docker":         `[ "$1" != compose ]`, // there is no Compose v2, and no volume
		"docker-compose": `echo "$(pwd): $COMPOSE_PROFILES: $*"`,
	} {
		expect.Must(t, os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+does+"\n"), 0o755))
	}
	env := []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "RMQ_CACHE=" + cache, "COMPOSE_PROJECT_NAME=tried", "HOME=" + cache}
	want := filepath.Join(repository, "compose") + ": more,clients: -p tried down --remove-orphans --volumes"
	for _, c := range []struct{ dir, call string }{
		{repository, "scripts/down"},
		{filepath.Join(repository, "scripts"), "./down"},
		{filepath.Join(repository, "docs"), "../scripts/down"},
		{"/", filepath.Join(repository, "scripts/down")},
		{cache, filepath.Join(repository, "compose/../scripts/down")},
	} {
		note := filepath.Join(cache, "base-tried")
		expect.Must(t, os.WriteFile(note, nil, 0o600))
		out, err := ran(c.dir, env, c.call, "--volumes")
		if err != nil || strings.TrimSpace(out) != want {
			t.Errorf("in %s, %s: %v\n%s\nwant\n%s", c.dir, c.call, err, out, want)
		}
		if _, err := os.Stat(note); err == nil {
			t.Errorf("in %s, %s: the note of what wrote the data stays, and the data is gone", c.dir, c.call)
		}
		if out, err := ran(c.dir, env, c.call, "--volume"); err == nil || strings.Contains(out, "remove-orphans") {
			t.Errorf("in %s, %s takes --volume: %s", c.dir, c.call, out)
		}
	}
}

// Where a link lies in place of the lock of the cluster tests, which everybody may put there, what it leads to stays as
// it is: scripts/test may be root's.
func TestLockOfTestsBehindALink(t *testing.T) {
	repository, err := filepath.Abs(root)
	expect.Must(t, err)
	bin, dir := t.TempDir(), t.TempDir()
	for name, does := range map[string]string{
		"docker": "exit 0",                       // it is there, and has nothing
		"go":     "echo no compiler >&2; exit 1", // so the first step fails
	} {
		expect.Must(t, os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+does+"\n"), 0o755))
	}
	kept := filepath.Join(dir, "kept")
	expect.Must(t, os.WriteFile(kept, []byte("kept\n"), 0o600))
	expect.Must(t, os.Symlink(kept, filepath.Join(dir, "rmq-entrypoint-test.lock")))
	env := []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "RMQ_CACHE=" + filepath.Join(dir, "cache"), "TMPDIR=" + dir, "HOME=" + dir}
	out, err := ran(repository, env, "scripts/test", "-run", "^$")
	if err == nil || !strings.Contains(out, "no compiler") {
		t.Errorf("scripts/test without a compiler: %v\n%s", err, out)
	}
	if text, err := os.ReadFile(kept); err != nil || string(text) != "kept\n" {
		t.Errorf("what the link leads to is %q by now: %v", text, err)
	}
}
