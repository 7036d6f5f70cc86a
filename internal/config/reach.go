package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// A User is whom this process becomes, which root works for until then.
type User struct {
	UID, GID int
	Groups   []int // that he is in besides
}

// in reports whether he is in that group, which may be root's: images for any uid have it so.
func (u User) in(gid int) bool { return gid == u.GID || slices.Contains(u.Groups, gid) }

// others reports whether in that group are others than root: in root's own only if the user is.
func (u User) others(gid uint32) bool { return gid != 0 || u.in(0) }

// A Path is how far root may follow a path by name, where nobody else must be able to lead it
// elsewhere meanwhile, or before: root's own directories, and links in them that are root's.
type Path struct {
	At   string   // the last directory, or file, that is reached so; it has no link in it
	Rest []string // the names below it, which others may change: root follows no link there
	Free bool     // the first of Rest is not there, and nobody but root can make it
}

// PathFor returns how far root may follow path for that user. An error says that a directory on the
// way cannot be looked at.
func PathFor(path string, u User) (Path, error) {
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
		if at != "/" && ledBy(dir, u) != "" { // whoever can change / can change this program, too
			return Path{At: at, Rest: rest}, nil
		}
		next := filepath.Join(at, name)
		entry, err := os.Lstat(next)
		shared := sticky(dir, u)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return Path{At: at, Rest: rest, Free: !shared}, nil
		case err != nil:
			return Path{}, err
		case shared && (ownerOf(entry) != 0 || linked(entry)):
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

// errTheirs: the user can change a directory on the way, or the entry.
var errTheirs = errors.New("the user's own: root does not read it for him")

// open opens a file to read it, as root, on behalf of the user. Where others may change a directory on
// the way, it must be a file of one name, behind no link.
func (p Path) open(u User) (*os.File, error) {
	if len(p.Rest) == 0 || p.Free {
		return os.Open(filepath.Join(p.At, filepath.Join(p.Rest...)))
	}
	dir, err := os.OpenRoot(p.At)
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	return openBelow(dir, p.At, p.Rest, u)
}

func openBelow(dir *os.Root, at string, rest []string, u User) (*os.File, error) {
	in, err := dir.Stat(".")
	if err != nil {
		return nil, err
	}
	if u.Changes(in) {
		return nil, errTheirs
	}
	name, last := rest[0], len(rest) == 1
	entry, err := dir.Lstat(name)
	switch {
	case err != nil:
		return nil, &fs.PathError{Op: "open", Path: filepath.Join(at, name), Err: errors.Unwrap(err)}
	case ownerOf(entry) == u.UID && !entry.IsDir():
		return nil, errTheirs
	case last && (!entry.Mode().IsRegular() || linked(entry)), !last && !entry.IsDir():
		return nil, u.Led(at, name, in, entry)
	case last:
		f, err := dir.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return nil, err
		}
		if is, err := f.Stat(); err != nil || !os.SameFile(is, entry) { // somebody has put another one in its place
			return nil, errors.Join(u.Led(at, name, in, entry), f.Close())
		}
		return f, nil
	}
	below, err := dir.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = below.Close() }()
	if is, err := below.Stat("."); err != nil || !os.SameFile(is, entry) {
		return nil, u.Led(at, name, in, entry)
	}
	return openBelow(below, filepath.Join(at, name), rest[1:], u)
}

// ledBy returns who but root could rename, replace or make entries of others in a directory, or "".
// Root's group is root, unless the user is in it.
func ledBy(dir fs.FileInfo, u User) string {
	mode := dir.Mode()
	st, ok := dir.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return "somebody"
	case st.Uid != 0:
		return fmt.Sprintf("uid %d, its owner", st.Uid)
	case mode&fs.ModeSticky != 0: // each entry is its owner's
	case mode&0o002 != 0:
		return fmt.Sprintf("everybody, by its mode %04o", mode.Perm())
	case mode&0o020 != 0 && u.others(st.Gid):
		return fmt.Sprintf("its group %d, by its mode %04o", st.Gid, mode.Perm())
	}
	return ""
}

// sticky reports whether others than root can make entries in a directory of root's, and nobody can
// change another's.
func sticky(dir fs.FileInfo, u User) bool {
	st, ok := dir.Sys().(*syscall.Stat_t)
	return ok && dir.Mode()&fs.ModeSticky != 0 && (dir.Mode()&0o002 != 0 || dir.Mode()&0o020 != 0 && u.others(st.Gid))
}

// Changes reports whether that user could rename, replace or make entries of others in a directory.
func (u User) Changes(dir fs.FileInfo) bool {
	return ownerOf(dir) == u.UID || dir.Mode()&fs.ModeSticky == 0 && u.Makes(dir)
}

// Makes reports whether that user could make an entry in a directory.
func (u User) Makes(dir fs.FileInfo) bool {
	mode := dir.Mode()
	st, ok := dir.Sys().(*syscall.Stat_t)
	return !ok || int(st.Uid) == u.UID || mode&0o020 != 0 && u.in(int(st.Gid)) || mode&0o002 != 0
}

// linked reports whether what is no directory may have another name, which can be anywhere on its
// file system: with fs.protected_hardlinks=0 anybody gives one to any file.
func linked(entry fs.FileInfo) bool {
	st, ok := entry.Sys().(*syscall.Stat_t)
	return !entry.IsDir() && (!ok || st.Nlink > 1)
}

// A NotFollowed says why root goes no further at an entry of a directory that others may change.
type NotFollowed string

func (n NotFollowed) Error() string { return string(n) }

// Led is about the entry name of the directory at: a link, or what has another name, or is nothing
// that root goes into or reads.
func (u User) Led(at, name string, dir, entry fs.FileInfo) NotFollowed {
	path, who, way := filepath.Join(at, name), ledBy(dir, u), "name a place to which only directories of root's lead"
	if who == "" {
		who = "everybody, who may have entries of his own there"
	} else {
		way += fmt.Sprintf(", or make this one root's (chown root:root %s; chmod go-w %s)", at, at)
	}
	does := fmt.Sprintf("touch %s, which is of another kind than it should be (%s)", path, entry.Mode().Type())
	switch {
	case entry.Mode()&fs.ModeSymlink != 0:
		does = fmt.Sprintf("follow the link %s", path)
	case linked(entry):
		does = fmt.Sprintf("touch %s, which has another name somewhere (a hard link; a copy has none)", path)
	}
	return NotFollowed(fmt.Sprintf("root does not %s: the directory %s can be changed by %s: %s", does, at, who, way))
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
