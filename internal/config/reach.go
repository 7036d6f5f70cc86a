package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// A Path is how far root may follow a path by name, where a user must not be able to lead it
// elsewhere meanwhile, or before: root's own directories, and links in them that are root's.
type Path struct {
	At   string   // the last directory, or file, that is reached so; it has no link in it
	Rest []string // the names below it, which that user may change: root follows no link there
	Free bool     // the first of Rest is not there, and nobody but root can make it
}

// PathFor returns how far root may follow path where the user uid, of group gid, lives. An error
// says that a directory on the way cannot be looked at.
func PathFor(path string, uid, gid int) (Path, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return Path{}, err
	}
	at, rest := "/", names(path)
	for links := 0; len(rest) > 0; {
		name := rest[0]
		if name == ".." { // of a link's target
			at, rest = filepath.Dir(at), rest[1:]
			continue
		}
		dir, err := os.Lstat(at)
		if err != nil {
			return Path{}, err
		}
		if changes(dir, uid, gid) {
			return Path{At: at, Rest: rest}, nil
		}
		next := filepath.Join(at, name)
		entry, err := os.Lstat(next)
		shared := dir.Mode()&0o002 != 0 // and sticky: each entry is its owner's
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return Path{At: at, Rest: rest, Free: !shared}, nil
		case err != nil:
			return Path{}, err
		case shared && ownerOf(entry) != 0:
			return Path{At: at, Rest: rest}, nil
		case entry.Mode()&fs.ModeSymlink == 0:
			at, rest = next, rest[1:]
			continue
		}
		if links++; links > 40 {
			return Path{}, &fs.PathError{Op: "follow", Path: path, Err: syscall.ELOOP}
		}
		target, err := os.Readlink(next)
		if err != nil {
			return Path{}, err
		}
		if rest = append(names(target), rest[1:]...); filepath.IsAbs(target) {
			at = "/"
		}
	}
	return Path{At: at}, nil
}

// changes reports whether the user could rename, replace or make entries of others in a
// directory.
func changes(dir fs.FileInfo, uid, gid int) bool {
	mode := dir.Mode()
	st, ok := dir.Sys().(*syscall.Stat_t)
	return !ok || int(st.Uid) == uid || mode&0o020 != 0 && int(st.Gid) == gid || mode&0o002 != 0 && mode&fs.ModeSticky == 0
}

func ownerOf(info fs.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}

// names returns the names in a path; those that say nothing are left out.
func names(path string) (all []string) {
	for name := range strings.SplitSeq(path, "/") {
		if name != "" && name != "." {
			all = append(all, name)
		}
	}
	return all
}
