package rabbitconf

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Write puts data at path, mode 0640. Whoever opens path finds the old contents or
// the new ones, also after a crash, and of several writers one after the other. An error
// leaves nothing half-written behind.
func Write(path string, data []byte) error { return WriteMode(path, data, 0o640) }

// WriteMode is Write with another mode, whatever the umask.
func WriteMode(path string, data []byte, mode fs.FileMode) error {
	return write(path, data, mode, true)
}

// Replace is Write for what every start writes anew: it does not wait for the disk, so that
// after a crash of the machine the file may be an older one, or empty.
func Replace(path string, data []byte) error { return write(path, data, 0o640, false) }

// unwritten says why path was not written. What was begun has a name of its own at each try, by which
// one cause would look like many.
func unwritten(path string, err error) error {
	if at := new(fs.PathError); errors.As(err, &at) && strings.HasPrefix(at.Path, path+newSuffix) {
		err = at.Err
	}
	err = fmt.Errorf("write %s: %w", path, err)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		err = fmt.Errorf("%w: make room there", err)
	}
	return err
}

func write(path string, data []byte, mode fs.FileMode, lasting bool) (err error) {
	defer func() {
		if err != nil {
			err = unwritten(path, err)
		}
	}()
	removeLeftovers(path)
	// Each writer has a name of its own. It is created, not opened: root must not follow a
	// link that the directory's owner put there.
	temp := path + newSuffix + rand.Text()
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(temp)
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if lasting {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	if !lasting {
		return nil
	}
	return syncDir(filepath.Dir(path))
}

const newSuffix = ".new"

// A writer is at work for as long as the disk needs; what is older was left by a crash. One
// that still lives fails, and writes nothing.
const leftoverAge = time.Minute

// removeLeftovers removes what writers of path left when they were killed. The name without
// more is that of earlier versions.
func removeLeftovers(path string) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return // the write tells
	}
	for _, e := range entries {
		of, ok := strings.CutPrefix(e.Name(), filepath.Base(path)+newSuffix)
		if !ok {
			continue
		}
		if info, err := e.Info(); err == nil && (of == "" || len(of) == len(rand.Text()) && time.Since(info.ModTime()) > leftoverAge) {
			_ = os.Remove(filepath.Join(filepath.Dir(path), e.Name()))
		}
	}
}

// syncDir makes a rename in dir survive a crash of the machine.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return d.Sync()
}
