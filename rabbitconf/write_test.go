package rabbitconf

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// names lists what is in dir.
func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "rabbitmq.config")
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	for i, content := range []string{"first", "second, longer", "3", "fourth"} {
		write := Write
		if i%2 == 1 {
			write = Replace
		}
		if err := write(path, []byte(content)); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != content {
			t.Fatalf("read back %q, %v", got, err)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if got := names(t, dir); got != "rabbitmq.config" {
		t.Errorf("directory holds %s", got)
	}
}

// What a crash left is no obstacle, and a link planted there is not followed.
func TestWriteReplacesLeftovers(t *testing.T) {
	dir := t.TempDir()
	path, victim := filepath.Join(dir, "rabbitmq.config"), filepath.Join(dir, "victim")
	if err := os.WriteFile(victim, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, link := range []string{path, path + ".new"} {
		if err := os.Symlink(victim, link); err != nil {
			t.Fatal(err)
		}
	}
	if err := Write(path, []byte("ours")); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(victim)
	if err != nil || string(got) != "untouched" {
		t.Errorf("the link was followed: %q, %v", got, err)
	}
	if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() {
		t.Errorf("path is no file of its own: %v, %v", info, err)
	}
	if got := names(t, dir); got != "rabbitmq.config victim" {
		t.Errorf("directory holds %s", got)
	}
}

// Of several writers each writes whole, and what a killed one left is gone after a while.
func TestWriteManyAtOnce(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "rabbitmq.config")
	var work sync.WaitGroup
	for i := range 16 {
		work.Go(func() {
			for range 8 {
				if err := Write(path, bytes.Repeat([]byte{byte('a' + i)}, 1<<16)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	work.Wait()
	b, err := os.ReadFile(path)
	if err != nil || len(b) != 1<<16 || bytes.Count(b, b[:1]) != len(b) {
		t.Errorf("%d bytes, %d of them %q, %v", len(b), bytes.Count(b, b[:1]), b[:1], err)
	}
	left, now := path+".new"+rand.Text(), path+".new"+rand.Text()
	for _, name := range []string{left, now, path + ".newer"} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	hour := time.Now().Add(-time.Hour)
	for _, name := range []string{left, path + ".newer"} {
		if err := os.Chtimes(name, hour, hour); err != nil {
			t.Fatal(err)
		}
	}
	if err := Write(path, nil); err != nil {
		t.Fatal(err)
	}
	if got, want := names(t, dir), "rabbitmq.config "+filepath.Base(now)+" rabbitmq.config.newer"; got != want {
		t.Errorf("directory holds %s, want %s", got, want)
	}
}

func TestWriteFails(t *testing.T) {
	for name, path := range map[string]string{
		"no directory":              filepath.Join(t.TempDir(), "no", "rabbitmq.config"),
		"not a directory":           "/dev/null/rabbitmq.config",
		"nobody can create in it":   "/proc/rabbitmq.config",
		"the directory is the path": "/",
	} {
		if err := Write(path, []byte("x")); err == nil || !strings.Contains(err.Error(), "write "+path+": ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWriteFailsToRename(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "rabbitmq.config")
	if err := os.MkdirAll(filepath.Join(path, "in the way"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, []byte("x")); err == nil {
		t.Fatal("no error")
	}
	if got := names(t, dir); got != "rabbitmq.config" {
		t.Errorf("directory holds %s", got)
	}
}

// A disk that is full in the middle, made with a limit on the size of files,
// which go test's own log of this process must not reach.
func TestWriteFailsHalfway(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "rabbitmq.config")
	if err := Write(path, []byte("old")); err != nil {
		t.Fatal(err)
	}
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 1 << 20, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	err := Write(path, bytes.Repeat([]byte("x"), 2<<20))
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	if err == nil || strings.Contains(err.Error(), newSuffix) || !errors.Is(err, syscall.EFBIG) {
		t.Fatalf("it says %v, not why alone: the name of what it began is another one at each try", err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "old" {
		t.Errorf("the old file reads %q, %v", got, err)
	}
	if got := names(t, dir); got != "rabbitmq.config" {
		t.Errorf("directory holds %s", got)
	}
}

// A full disk is named, and what to do; the name of what was begun is another one at each try.
func TestWriteSaysTheWayOut(t *testing.T) {
	err := unwritten("/v/marker", &fs.PathError{Op: "write", Path: "/v/marker" + newSuffix + "ABC", Err: syscall.ENOSPC})
	if want := "write /v/marker: no space left on device: make room there"; err.Error() != want || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v, want %s", err, want)
	}
	if err := unwritten("/v/marker", fs.ErrPermission); err.Error() != "write /v/marker: permission denied" {
		t.Error(err)
	}
}
