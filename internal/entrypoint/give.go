package entrypoint

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"rmq-entrypoint/internal/config"
)

// A giver gives to the server's user what must be his, as root. Whoever is that user already, or
// shares the volume, may rename, remove and link things meanwhile: no link below a directory that
// others than root may change is followed, and what changed under the giver's hands is left alone.
type giver struct {
	config.User
	log    *slog.Logger
	linked map[string]bool // paths of what was left alone, for it has other names
}

func giverTo(u config.User, log *slog.Logger) giver { return giver{u, log, map[string]bool{}} }

// tree gives a directory and all that lies in it.
func (g giver) tree(path string) error { return g.give(path, true) }

// alone gives a directory, and nothing that lies in it.
func (g giver) alone(path string) error { return g.give(path, false) }

func (g giver) give(path string, whole bool) error {
	to, err := config.PathFor(path, g.User)
	if err != nil {
		return err
	}
	dir, err := os.OpenRoot(to.At)
	if err != nil {
		if g.unlessHis(path, err) == nil {
			return nil
		}
		return g.unlessHis(to.At, err)
	}
	defer func() { _ = dir.Close() }()
	at := to.At
	for _, name := range to.Rest {
		below, err := g.down(dir, at, name)
		if err != nil {
			return err
		}
		if below == nil {
			return g.stop(dir, at, name)
		}
		_ = dir.Close()
		dir, at = below, filepath.Join(at, name)
	}
	if whole {
		if err := g.entries(dir, at); err != nil {
			return err
		}
	}
	f, err := dir.Open(".")
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	defer func() { _ = f.Close() }()
	return g.own(f, ".", at)
}

// stop ends the way to a directory at what root does not go into. What is missing where the server's
// user cannot make it is made: one directory, for what is to be in it is his to make. Behind a link of
// his own he goes himself; that root does not go behind somebody else's is said.
func (g giver) stop(dir *os.Root, at, name string) error {
	in, err := dir.Stat(".")
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	entry, err := dir.Lstat(name)
	path := filepath.Join(at, name)
	switch {
	case errors.Is(err, fs.ErrNotExist) && g.Makes(in):
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return g.make(dir, at, name)
	case err != nil:
		return fmt.Errorf("%s: %w", path, err)
	case entry.IsDir() || g.owns(entry) || g.Changes(in):
		return nil
	}
	if behind, err := os.Stat(path); err == nil && g.owns(behind) {
		return nil
	}
	g.log.Warn("a directory that is to be the server's is left as it is: give it to the server's user by hand, or see why", "directory", path, "uid", g.UID, "why", g.Led(at, name, in, entry))
	return nil
}

// make makes a directory for him where he cannot.
func (g giver) make(dir *os.Root, at, name string) error {
	path := filepath.Join(at, name)
	if err := dir.Mkdir(name, 0o755); err != nil {
		return fmt.Errorf("make directory %s: %w", path, err)
	}
	made, err := g.down(dir, at, name)
	if err != nil || made == nil { // nil: somebody has taken it away
		return err
	}
	defer func() { _ = made.Close() }()
	return made.Lchown(".", g.UID, g.GID)
}

func (g giver) owns(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == g.UID
}

// entries gives what lies in a directory. What is in a directory of its own goes first: once
// that one is given, root may have no right to look into it.
func (g giver) entries(dir *os.Root, at string) error {
	f, err := dir.Open(".")
	if err != nil {
		return g.unlessHis(at, err)
	}
	defer func() { _ = f.Close() }()
	all, err := f.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("list %s: %w", at, err)
	}
	for _, name := range all {
		path := filepath.Join(at, name)
		info, err := dir.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if info.IsDir() {
			below, err := g.down(dir, at, name)
			if err != nil {
				return err
			}
			if below == nil {
				continue
			}
			err = g.entries(below, path)
			_ = below.Close()
			if err != nil {
				return err
			}
		}
		if g.owns(info) {
			continue
		}
		if err := g.own(f, name, path); err != nil {
			return err
		}
	}
	return nil
}

// down opens a directory in dir; nil: none is there that root may go into, as a link, or one of
// his that root has no right to read. One that is put there in place of another meanwhile is
// looked at anew.
func (g giver) down(dir *os.Root, at, name string) (*os.Root, error) {
	path := filepath.Join(at, name)
	var failed error
	for range 100 { // somebody may swap it for a link and back; another error stays
		info, err := dir.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		below, err := dir.OpenRoot(name)
		if errors.Is(err, fs.ErrPermission) {
			return nil, g.unlessHis(path, err)
		}
		if failed = err; err != nil {
			continue
		}
		if is, err := below.Stat("."); err == nil && os.SameFile(info, is) {
			return below, nil
		}
		_ = below.Close()
	}
	if failed != nil {
		return nil, fmt.Errorf("%s: %w", path, failed)
	}
	return nil, nil
}

// own gives one thing, but for devices, which are no data, and for what has another name: that may be
// anywhere on the file system, as with fs.protected_hardlinks=0 anybody gives one to any file. It is
// judged and given by one open file: by its name another one may be there meanwhile.
func (g giver) own(dir *os.File, name, path string) error {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer func() { _ = unix.Close(fd) }()
	var is unix.Stat_t
	if err := unix.Fstat(fd, &is); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	kind := is.Mode & unix.S_IFMT
	switch {
	case int(is.Uid) == g.UID, kind == unix.S_IFCHR, kind == unix.S_IFBLK:
		return nil
	case kind != unix.S_IFDIR && is.Nlink > 1:
		g.linked[path] = true
		return nil
	}
	if err := unix.Fchownat(fd, "", g.UID, g.GID, unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("chown %s: %w", path, err)
	}
	return nil
}

// tellLinked says what was left alone, for it has other names.
func (g giver) tellLinked() {
	if len(g.linked) == 0 {
		return
	}
	first := slices.Sorted(maps.Keys(g.linked))[0]
	g.log.Warn("files are left as they are, for they have further names (hard links), which may be anywhere: copy each (cp -p FILE FILE.new; mv FILE.new FILE), or, if all its names are on the volume, give it to the server's user by hand",
		"files", len(g.linked), "first", first, "uid", g.UID)
}

// unlessHis is err, but for a directory of his into which root has no right to look (without
// CAP_DAC_OVERRIDE): what is in there was given with it, or he made it.
func (g giver) unlessHis(path string, err error) error {
	if info, lerr := os.Lstat(path); lerr == nil && errors.Is(err, fs.ErrPermission) && g.owns(info) {
		return nil
	}
	return fmt.Errorf("%s: %w", path, err)
}

// output gives a pipe, a socket or a terminal, which a health check must be able to open again:
// a replaced companion is silent in docker logs otherwise. A file or a device, as /dev/null, is
// the host's.
func (g giver) output(f *os.File) {
	info, err := f.Stat()
	if err != nil {
		return
	}
	_, notTerminal := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if info.Mode()&(fs.ModeNamedPipe|fs.ModeSocket) != 0 || info.Mode()&fs.ModeCharDevice != 0 && notTerminal == nil {
		_ = f.Chown(g.UID, g.GID)
	}
}
