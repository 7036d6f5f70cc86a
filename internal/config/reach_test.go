package config

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"rmq-entrypoint/tests/expect"
)

// Root follows a path by name through its own directories and links, up to what anybody else could lead elsewhere.
func TestPathFor(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("directories of several users need root")
	}
	const uid, gid, another = 65534, 65534, 1234
	root, err := filepath.EvalSymlinks(t.TempDir())
	expect.Must(t, err)
	in := func(name string) string { return filepath.Join(root, name) }
	for _, dir := range []string{"own/deep", "his/deep", "open", "sticky", "grouped", "roots", "theirs/deep", "staff", "secrets"} {
		expect.Must(t, os.MkdirAll(in(dir), 0o755))
	}
	expect.Must(t, os.Symlink("own/deep", in("link")))
	expect.Must(t, os.Symlink("../own/./deep", in("own/up")))
	expect.Must(t, os.Symlink(in("own"), in("sticky/roots")))
	expect.Must(t, os.Symlink("loop", in("loop")))
	expect.Must(t, os.Symlink(in("own"), in("his/out")))
	expect.Must(t, os.WriteFile(in("file"), nil, 0o644))
	expect.Must(t, os.Chmod(in("open"), 0o777))
	expect.Must(t, os.Chmod(in("sticky"), 0o777|os.ModeSticky))
	expect.Must(t, os.Chmod(in("grouped"), 0o775))
	expect.Must(t, os.Chown(in("his"), uid, gid))
	expect.Must(t, os.Chown(in("grouped"), 0, gid))
	expect.Must(t, os.Mkdir(in("sticky/his"), 0o755))
	expect.Must(t, os.Chown(in("sticky/his"), uid, gid))
	expect.Must(t, os.Symlink(in("own"), in("theirs/out")))
	expect.Must(t, os.Chown(in("theirs"), another, another))
	expect.Must(t, os.Chmod(in("roots"), 0o775))
	expect.Must(t, os.Chown(in("staff"), 0, another))
	expect.Must(t, os.Chmod(in("staff"), 0o775|os.ModeSetgid))
	expect.Must(t, os.Symlink("..data", in("secrets/token"))) // as Kubernetes has them, with an fsGroup
	expect.Must(t, os.Symlink("..2026", in("secrets/..data")))
	expect.Must(t, os.WriteFile(in("secrets/..2026"), nil, 0o440))
	expect.Must(t, os.Chown(in("secrets"), 0, another))
	expect.Must(t, os.Chmod(in("secrets"), 0o775|os.ModeSetgid|os.ModeSticky))
	expect.Must(t, os.Link(in("file"), in("sticky/file")))
	expect.Must(t, os.Link(in("link"), in("sticky/link")))
	rows := []struct {
		path, at string
		rest     []string
		free     bool
	}{
		{"own/deep", "own/deep", nil, false},
		{"link", "own/deep", nil, false},
		{"link/new/more", "own/deep", []string{"new", "more"}, true},
		{"own/up", "own/deep", nil, false},
		{"file", "file", nil, false},
		{"open/x", "open", []string{"x"}, false},
		{"open", "open", nil, false},
		{"sticky/new", "sticky", []string{"new"}, false}, // anybody can make it
		{"his", "his", nil, false},
		{"his/deep/er", "his", []string{"deep", "er"}, false},
		{"his/out/deep", "his", []string{"out", "deep"}, false},
		{"grouped/x", "grouped", []string{"x"}, false},
		{"sticky/his/x", "sticky", []string{"his", "x"}, false},
		{"sticky/roots/deep", "own/deep", nil, false},
		{"theirs", "theirs", nil, false}, // to be given: it is the way there that counts
		{"theirs/out/deep", "theirs", []string{"out", "deep"}, false},
		{"theirs/new", "theirs", []string{"new"}, false},
		{"roots/new", "roots", []string{"new"}, true},
		{"staff/x", "staff", []string{"x"}, false},
		{"secrets/token", "secrets/..2026", nil, false},
		{"secrets/new", "secrets", []string{"new"}, false},
		{"sticky/file", "sticky", []string{"file"}, false}, // root's, but who has put it there?
		{"sticky/link", "sticky", []string{"link"}, false},
	}
	for _, r := range rows {
		got, err := PathFor(in(r.path), User{UID: uid, GID: gid})
		if err != nil || got.At != in(r.at) || !slices.Equal(got.Rest, r.rest) || got.Free != r.free {
			t.Errorf("%s: %+v, %v; want %+v", r.path, got, err, r)
		}
	}
	for _, path := range []string{"loop", "file/x"} {
		if got, err := PathFor(in(path), User{UID: uid, GID: gid}); err == nil {
			t.Errorf("%s: %+v", path, got)
		}
	}
}

// Where the user is in root's group, that group is not root: a directory that it may change leads root nowhere, and no
// secret is read for him through a link there. Others in that group than him are root's own.
func TestPathForGroupRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("directories of several users need root")
	}
	root, err := filepath.EvalSymlinks(t.TempDir())
	expect.Must(t, err)
	in := func(name string) string { return filepath.Join(root, name) }
	for dir, mode := range map[string]os.FileMode{"etc": 0o775, "setgid": 0o775 | os.ModeSetgid, "sticky": 0o775 | os.ModeSticky, "closed": 0o755} { // all root:root
		expect.Must(t, os.Mkdir(in(dir), 0o755))
		expect.Must(t, os.Symlink(in("shadow"), in(dir+"/token")))
		expect.Must(t, os.Chmod(in(dir), mode))
	}
	expect.Must(t, os.WriteFile(in("shadow"), []byte("r00t"), 0o600))
	expect.Must(t, os.Lchown(in("sticky/token"), 999, 0))
	alone, primary, besides := User{UID: 999, GID: 999, Groups: []int{999}}, User{UID: 999, GID: 0}, User{UID: 999, GID: 999, Groups: []int{4, 0}}
	for _, r := range []struct {
		path, at string
		rest     []string
		free     bool
		of       []User
	}{
		{"etc/token", "shadow", nil, false, []User{alone}},
		{"etc/token", "etc", []string{"token"}, false, []User{primary, besides}},
		{"etc/new", "etc", []string{"new"}, true, []User{alone}},
		{"etc/new", "etc", []string{"new"}, false, []User{primary, besides}},
		{"setgid/token", "setgid", []string{"token"}, false, []User{primary, besides}},
		{"sticky/token", "sticky", []string{"token"}, false, []User{primary, besides}},
		{"sticky/new", "sticky", []string{"new"}, false, []User{primary, besides}},
		{"closed/token", "shadow", nil, false, []User{alone, primary, besides}},
		{"closed/new", "closed", []string{"new"}, true, []User{alone, primary, besides}},
	} {
		for _, u := range r.of {
			got, err := PathFor(in(r.path), u)
			if err != nil || got.At != in(r.at) || !slices.Equal(got.Rest, r.rest) || got.Free != r.free {
				t.Errorf("%s for %+v: %+v, %v; want %+v", r.path, u, got, err, r)
			}
			t.Setenv("CONSUL_HTTP_TOKEN_FILE", in(r.path))
			if text, err := secretFor("CONSUL_HTTP_TOKEN", u); (text == "r00t") != (r.at == "shadow") {
				t.Errorf("%s for %+v: it reads %q, %v", r.path, u, text, err)
			}
		}
	}
}

// Whoever could change the topmost directory could change this program, too: that it is another's takes nothing away.
func TestPathForUnderAnothersRoot(t *testing.T) {
	const child = "RMQ_TEST_ROOT"
	if dir := os.Getenv(child); dir != "" {
		expect.Must(t, syscall.Chroot(dir))
		got, err := PathFor("/var/run/secret", User{UID: 65534, GID: 65534})
		fmt.Printf("%s %q %v\n", got.At, got.Rest, err)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("directories of several users need root")
	}
	dir := t.TempDir()
	expect.Must(t, os.MkdirAll(filepath.Join(dir, "run"), 0o755))
	expect.Must(t, os.MkdirAll(filepath.Join(dir, "var"), 0o755))
	expect.Must(t, os.Symlink("/run", filepath.Join(dir, "var/run")))
	expect.Must(t, os.WriteFile(filepath.Join(dir, "run/secret"), nil, 0o600))
	expect.Must(t, os.Chown(dir, 1234, 1234))
	cmd := exec.Command(os.Args[0], "-test.run=^TestPathForUnderAnothersRoot$")
	cmd.Env = []string{child + "=" + dir, "GOCOVERDIR=" + t.TempDir()}
	out, err := cmd.CombinedOutput()
	expect.Must(t, err)
	expect.Says(t, string(out), "/run/secret [] <nil>")
}
