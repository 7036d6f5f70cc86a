package statedir

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// The seats are flocks on the volume: one for the companion, one for an operator's
// command that works on the node.
const (
	CompanionLock = "companion.lock"
	OperatorLock  = "operator.lock"
)

// WaitLock takes the flock that makes its holder the one companion, or the
// entrypoint of this volume. It waits a moment for an earlier one to leave.
func WaitLock(ctx context.Context, dir string) (*os.File, error) {
	for deadline := time.Now().Add(5 * time.Second); ; {
		f, err := TryLock(dir, CompanionLock)
		if !errors.Is(err, ErrLocked) {
			return f, err
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return nil, fmt.Errorf("%w: another node runs on this volume (%s): give each node a volume of its own", err, dir)
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

var ErrLocked = errors.New("another rmq-entrypoint holds the volume")

func TryLock(dir, seat string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, seat), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, ErrLocked
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return f, nil
}
