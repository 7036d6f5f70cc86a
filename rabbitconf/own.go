package rabbitconf

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// firstLine is how what [Render] makes begins, by which a file of ours is known. Versions to come must
// begin with it, too, or they refuse what this one wrote.
const firstLine = "%% Written by rmq-entrypoint at each start of this node: edits are lost.\n"

// Ours reports whether nothing of anybody else's is lost when the file at path is written: it is
// not there, or begins as [Render] has it. A crash of the machine may have left it empty, or with
// zeros.
func Ours(path string) (bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	begin, err := io.ReadAll(io.LimitReader(f, int64(len(firstLine))))
	return err == nil && (string(begin) == firstLine || len(bytes.Trim(begin, "\x00")) == 0), err
}

// Read returns which of the files that RabbitMQ reads path is, or would be once it is written: what
// sets that one, and "" for none. Links are followed. Its Conf is as RABBITMQ_CONFIG_FILE has it.
func (f Files) Read(path string) (by string, err error) {
	at := places(path)
	for _, own := range []struct{ path, by string }{
		{f.Conf, "RABBITMQ_CONFIG_FILE"}, {f.Conf + ".conf", "RABBITMQ_CONFIG_FILE"}, {f.Conf + ".config", "RABBITMQ_CONFIG_FILE"},
		{f.Advanced, "RABBITMQ_ADVANCED_CONFIG_FILE"},
	} {
		if slices.ContainsFunc(places(own.path), func(p string) bool { return slices.Contains(at, p) }) {
			return own.by, nil
		}
	}
	globs, err := confGlobs(f.ConfD)
	if err != nil {
		return "", fmt.Errorf("list RABBITMQ_CONFIG_FILES %s: %w", f.ConfD, err)
	}
	for _, p := range at {
		if slices.ContainsFunc(globs, func(pattern string) bool { return globbed(pattern, p) }) {
			return "RABBITMQ_CONFIG_FILES", nil
		}
	}
	return "", nil
}

// places are the names that a file has by links: in its directory, and that of what it links to.
func places(path string) (all []string) {
	if path == "" {
		return nil
	}
	all = []string{filepath.Clean(path)}
	if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		all = append(all, filepath.Join(dir, filepath.Base(path)))
	}
	if target, err := filepath.EvalSymlinks(path); err == nil {
		all = append(all, target)
	}
	return all
}

// confGlobs returns what RABBITMQ_CONFIG_FILES stands for as patterns that have neither {a,b} nor **,
// for whose directories are put those that are there.
func confGlobs(confD string) (all []string, err error) {
	if info, err := os.Stat(confD); err == nil && info.IsDir() {
		confD = filepath.Join(confD, "*")
	}
	patterns, err := alternatives(confD)
	if err != nil {
		return nil, err
	}
	for _, p := range patterns {
		before, after, deep := strings.Cut(p, "**")
		if !deep {
			all = append(all, p)
			continue
		}
		roots, err := filepath.Glob(cmp.Or(strings.TrimSuffix(before, "/"), "."))
		if err != nil {
			return nil, err
		}
		for _, root := range roots {
			_ = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
				if err == nil && d.IsDir() { // as Erlang, which passes over what it cannot list
					all = append(all, path+cmp.Or(after, "/*"))
				}
				return nil
			})
		}
	}
	return all, nil
}

// globbed reports whether a pattern stands for a file, there or not, of a directory that is there.
func globbed(pattern, path string) bool {
	if is, err := filepath.Match(filepath.Base(pattern), filepath.Base(path)); err != nil || !is {
		return false
	}
	dirs, _ := filepath.Glob(filepath.Dir(pattern))
	return slices.ContainsFunc(dirs, func(dir string) bool { return slices.Contains(places(dir), filepath.Dir(path)) })
}
