package admin

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/tests/expect"
)

// A health check that could not step down takes no lock, where rabbitmq may have put a link, and so starts no companion as
// root. Whoever is somebody else already could not step down, either, and takes it.
func TestSeatOfRoot(t *testing.T) {
	dir := t.TempDir()
	held, err := companionLock(dir, errors.New("operation not permitted"))
	if os.Geteuid() != 0 {
		expect.Must(t, err)
		_ = held.Close()
		return
	}
	if !errors.Is(err, errStaysRoot) {
		t.Errorf("%v, %v", held, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("root left %v, %v", entries, err)
	}
	held, err = companionLock(dir, nil)
	expect.Must(t, err)
	_ = held.Close()
	if _, err := os.Stat(dir + "/" + statedir.CompanionLock); err != nil {
		t.Error(err)
	}
}

// A companion that a health check starts writes where its server does. Under systemd that is a socket to the journal,
// which nobody can open a second time: the health check has one of its own.
func TestServersOutput(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	expect.Must(t, err)
	journal, own := os.NewFile(uintptr(fds[0]), "journal"), os.NewFile(uintptr(fds[1]), "own")
	defer journal.Close()
	defer own.Close()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	expect.Must(t, err)
	defer log.Close()
	for _, c := range []struct {
		servers, own *os.File
		want         string
	}{
		{log, own, log.Name()},
		{own, own, "journal"},
		{own, log, os.DevNull},
	} {
		server := exec.Command("sleep", "60")
		server.Stderr = c.servers
		expect.Must(t, server.Start())
		out, err := serversOutput(server.Process.Pid, c.own)
		expect.Must(t, errors.Join(err, server.Process.Kill()))
		_ = server.Wait()
		_, err = out.WriteString("said\n")
		expect.Must(t, errors.Join(err, out.Close()))
		got := os.DevNull
		if b, err := os.ReadFile(log.Name()); err == nil && string(b) == "said\n" {
			got = log.Name()
		}
		expect.Must(t, unix.SetNonblock(fds[0], true))
		if n, _ := unix.Read(fds[0], make([]byte, 64)); n > 0 {
			got = "journal"
		}
		expect.Must(t, log.Truncate(0))
		if got != c.want {
			t.Errorf("it writes to %s, want %s", got, c.want)
		}
	}
}
