package docs

import (
	"os"
	"path/filepath"
	"slices"
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

// Where Docker or Compose is missing, scripts/up says what, and how it comes; told to, and as root, it installs what is
// missing, starts the daemon where nothing did, and goes on.
func TestUpWithoutDocker(t *testing.T) {
	const (
		docker  = `[ "$1" != compose ] || exit 1; [ "$1" != info ] || [ -e "$STATE/up" ] || { echo "Cannot connect to the Docker daemon" >&2; exit 1; }`
		compose = `exit 0`
		daemon  = `echo started >>"$STATE/did"; touch "$STATE/up"`
		install = `echo "$*" >>"$STATE/did"; [ "$1" = install ] || exit 0
for name in docker docker-compose dockerd; do [ -e "$BIN/$name" ] || cp "$STATE/$name" "$BIN/$name"; done`
		both  = "- Docker\n  - Compose: neither "
		lines = "  apt-get update && apt-get install -y docker.io docker-compose\n  systemctl start docker "
		on    = "SUBNET=none is not three numbers" // it has gone on to what is in the way
		fresh = "update -q\ninstall -y -q --no-install-recommends docker.io docker-compose\nstarted\n"
	)
	programs := map[string]string{"docker": docker, "docker-compose": compose, "dockerd": daemon}
	for _, c := range []struct {
		has, uid, arg string
		up            bool // the daemon
		say, did      string
	}{
		{"", "0", "3", false, both, ""},
		{"", "1000", "--install", false, both, ""},
		{"docker-compose", "0", "3", false, "missing is\n  - Docker\nOn Debian", ""},
		{"docker dockerd docker-compose", "0", "3", false, "missing is\n  - Docker's daemon: Cannot connect to the Docker daemon\nOn Debian", ""},
		{"docker dockerd", "0", "3", true, "missing is\n  - Compose: neither ", ""},
		{"docker dockerd docker-compose", "0", "3", true, on, ""},
		{"", "0", "--install", false, on, fresh},
		{"docker dockerd docker-compose", "0", "--install", false, on, "started\n"},
		{"docker dockerd", "0", "--install", true, on, "update -q\ninstall -y -q --no-install-recommends docker-compose\n"},
		{"docker dockerd docker-compose", "1000", "--install", true, on, ""},
	} {
		bin, state := programsWithout(t, "docker", "docker-compose", "dockerd"), t.TempDir()
		for name, does := range map[string]string{"apt-get": install, "apt-cache": "exit 100", "systemctl": "exit 1", "id": "echo " + c.uid} {
			expect.Must(t, os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+does+"\n"), 0o755))
		}
		for name, does := range programs {
			expect.Must(t, os.WriteFile(filepath.Join(state, name), []byte("#!/bin/sh\n"+does+"\n"), 0o755))
		}
		for _, name := range strings.Fields(c.has) {
			expect.Must(t, os.Link(filepath.Join(state, name), filepath.Join(bin, name)))
		}
		if c.up {
			expect.Must(t, os.WriteFile(filepath.Join(state, "up"), nil, 0o600))
		}
		out, err := ran(root, []string{"PATH=" + bin, "BIN=" + bin, "STATE=" + state, "RMQ_CACHE=" + state, "HOME=" + state, "COMPOSE_PROJECT_NAME=tried", "SUBNET=none"}, "scripts/up", c.arg)
		did, _ := os.ReadFile(filepath.Join(state, "did"))
		if err == nil || !strings.Contains(out, c.say) || string(did) != c.did || strings.Contains(out, lines) != (c.say != on) {
			t.Errorf("%+v: %v\n%s\nit did %q", c, err, out, did)
		}
		if c.uid != "0" && c.say != on && !strings.Contains(out, "--install takes root") {
			t.Errorf("%+v:\n%s", c, out)
		}
	}
}

// programsWithout returns a directory with what is on PATH, but for some, and for what a test puts there itself.
func programsWithout(t *testing.T, names ...string) string {
	t.Helper()
	bin := t.TempDir()
	names = append(names, "apt-get", "apt-cache", "systemctl", "id")
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		entries, _ := os.ReadDir(dir) // one may not be there
		for _, e := range entries {
			if !slices.Contains(names, e.Name()) {
				_ = os.Symlink(filepath.Join(dir, e.Name()), filepath.Join(bin, e.Name())) // the first one of a name counts
			}
		}
	}
	return bin
}
