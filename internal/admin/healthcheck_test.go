package admin

import (
	"errors"
	"os"
	"testing"

	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/tests/expect"
)

// A health check that could not step down takes no lock, where rabbitmq may have put a link, and so starts no companion as
// root. Whoever is somebody else already could not step down, either, and takes it.
func TestSeatOfRoot(t *testing.T) {
	dir := t.TempDir()
	held, err := seat(dir, errors.New("operation not permitted"))
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
	held, err = seat(dir, nil)
	expect.Must(t, err)
	_ = held.Close()
	if _, err := os.Stat(dir + "/" + statedir.CompanionLock); err != nil {
		t.Error(err)
	}
}
