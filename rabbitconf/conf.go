package rabbitconf

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// confFiles lists the .conf files in the order in which RabbitMQ reads them.
func confFiles(conf, confD string) ([]string, error) {
	var files []string
	if regular(conf) {
		files = append(files, conf)
	}
	if info, err := os.Stat(confD); err == nil && info.IsDir() {
		confD = filepath.Join(confD, "*")
	}
	more, err := wildcard(confD)
	if err != nil {
		return nil, fmt.Errorf("list RABBITMQ_CONFIG_FILES %s: %w", confD, err)
	}
	return append(files, slices.DeleteFunc(more, func(path string) bool { return !regular(path) })...), nil
}

// wildcard lists what matches a pattern of Erlang's filelib:wildcard, sorted: beside *, ? and
// [a-z] it has {a,b} for alternatives, and ** for directories at any depth.
func wildcard(pattern string) (found []string, err error) {
	patterns, err := alternatives(pattern)
	if err != nil {
		return nil, err
	}
	for _, p := range patterns {
		before, after, deep := strings.Cut(p, "**")
		if !deep {
			matches, err := filepath.Glob(p)
			if err != nil {
				return nil, err
			}
			found = append(found, matches...)
			continue
		}
		roots, err := filepath.Glob(cmp.Or(strings.TrimSuffix(before, "/"), "."))
		if err != nil {
			return nil, err
		}
		for _, root := range roots {
			err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
				switch {
				case err != nil:
					return nil // as Erlang, which passes over what it cannot list
				case after == "":
					found = append(found, path)
				case d.IsDir():
					matches, err := filepath.Glob(path + after)
					found = append(found, matches...)
					return err
				}
				return nil
			})
			if err != nil {
				return nil, err
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

// alternatives expands the {a,b} of a pattern.
func alternatives(pattern string) ([]string, error) {
	open := strings.IndexByte(pattern, '{')
	if open < 0 {
		return []string{pattern}, nil
	}
	depth, from := 0, open+1
	var parts []string
	for i := open; i < len(pattern); i++ {
		switch c := pattern[i]; {
		case c == '{':
			depth++
		case c == '}':
			depth--
		}
		if end := pattern[i] == '}' && depth == 0; end || pattern[i] == ',' && depth == 1 {
			parts = append(parts, pattern[from:i])
			from = i + 1
			if end {
				var all []string
				for _, part := range parts {
					more, err := alternatives(pattern[:open] + part + pattern[i+1:])
					if err != nil {
						return nil, err
					}
					all = append(all, more...)
				}
				return all, nil
			}
		}
	}
	return nil, fmt.Errorf("%w: a { without its }", filepath.ErrBadPattern)
}

// A grammar is that of the Cuttlefish that a RabbitMQ reads .conf files with. Measured are
// 3.10.8, 4.0.5 and 4.3.6; between those the newer one counts, for RabbitMQ refuses what it
// does not take.
type grammar struct {
	quotes bool // a value in single quotes may go on over several lines, and loses them
	triple bool // so it is in three, which may have single ones within; and a byte order mark is passed over
}

func grammarOf(v Version) grammar {
	latest := v == Version{}
	return grammar{quotes: latest || v.AtLeast(3, 11), triple: latest || v.AtLeast(4, 1)}
}

var (
	confIgnored  = regexp.MustCompile(`^[ \t]*(?:#[^\n]*)?\r?(?:\n|$)`)
	confInclude  = regexp.MustCompile(`^[ \t]*include[ \t]+([A-Za-z0-9_.*/-]+)(?:[ \t]*#[^\n]*)?[ \t]*\r?(?:\n|$)`)
	confKey      = regexp.MustCompile(`^[ \t]*((?:\\\.|[A-Za-z0-9_-])+(?:\.(?:\\\.|[A-Za-z0-9_-])+)*)[ \t]*=[ \t]*`)
	confTriple   = regexp.MustCompile(`(?s)^\'\'\'(.*?)\'\'\'`)
	confQuoted   = regexp.MustCompile(`^\'([^\']*)\'`)
	confEnd      = regexp.MustCompile(`^[ \t]*(?:#[^\n]*)?\r?(?:\n|$)`)
	confUnquoted = regexp.MustCompile(`^([^# \t\r\n][^#\n]*?)[ \t]*(?:#[^\n]*)?\r?(?:\n|$)`)
)

// setting reads one from the beginning of text: key, value, and what of text it takes; 0:
// there is none. A quoted value that is not alone on its line is no setting, as in the
// grammar, which does not go back to the other form.
func (g grammar) setting(text string) (key, value string, taken int) {
	m := confKey.FindStringSubmatch(text)
	if m == nil {
		return "", "", 0
	}
	rest := text[len(m[0]):]
	for _, form := range []struct {
		is     bool
		quoted *regexp.Regexp
		ends   string // are left out at both ends
	}{{g.triple, confTriple, "\r\n"}, {g.quotes, confQuoted, ""}} {
		q := form.quoted.FindStringSubmatch(rest)
		if !form.is || q == nil {
			continue
		}
		end := confEnd.FindString(rest[len(q[0]):])
		if end == "" && rest[len(q[0]):] != "" {
			return "", "", 0
		}
		return m[1], strings.Trim(q[1], form.ends), len(m[0]) + len(q[0]) + len(end)
	}
	if u := confUnquoted.FindStringSubmatch(rest); u != nil {
		return m[1], u[1], len(m[0]) + len(u[0])
	}
	return "", "", 0
}

const maxIncludes = 10 // deep; a file that includes itself ends here

// readConf returns the settings of one file and of those it includes.
func readConf(path string, g grammar, depth int) ([]line, error) {
	if depth > maxIncludes {
		return nil, fmt.Errorf("%s: files include each other more than %d deep", path, maxIncludes)
	}
	src, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if mark := []byte("\ufeff"); bytes.HasPrefix(src, mark) {
		if !g.triple {
			return nil, fmt.Errorf("%s:1: it begins with a byte order mark, which this RabbitMQ does not take: save it as UTF-8 without one", path)
		}
		src = src[len(mark):]
	}
	if !utf8.Valid(src) {
		n := 1
		for text := range bytes.Lines(src) {
			if !utf8.Valid(text) {
				break
			}
			n++
		}
		return nil, fmt.Errorf("%s:%d: not UTF-8, which RabbitMQ reads: save the file as that", path, n)
	}
	var lines []line
	rest := string(src)
	for n := 1; rest != ""; {
		at := fmt.Sprintf("%s:%d", path, n)
		taken := 0
		if m := confIgnored.FindString(rest); m != "" {
			taken = len(m)
		} else if key, value, size := g.setting(rest); size > 0 {
			taken = size
			lines = append(lines, line{key, value, at})
		} else if m := confInclude.FindStringSubmatch(rest); m != nil {
			taken = len(m[0])
			pattern := m[1]
			if !filepath.IsAbs(pattern) {
				pattern = filepath.Join(filepath.Dir(path), pattern)
			}
			included, _ := wildcard(pattern) // the grammar allows only * of a pattern's signs
			for _, file := range included {
				more, err := readConf(file, g, depth+1)
				if err != nil {
					return nil, err
				}
				lines = append(lines, more...)
			}
		} else {
			// Not quoted here: it may be half of a password.
			return nil, fmt.Errorf("%s: not a setting; a line is key = value, or a comment after #", at)
		}
		n += strings.Count(rest[:taken], "\n")
		rest = rest[taken:]
	}
	return lines, nil
}

// interpolate puts into each value what $(NAME) stands for, as Cuttlefish does: the setting
// of that name, or else the environment variable; what these hold is looked through, too
// (measured on 3.10.8, 4.0.5 and 4.3.6).
func (u *User) interpolate(lookup func(string) (string, bool)) error {
	raw := slices.Clone(u.conf)
	for i, l := range raw {
		value, err := follow(raw, lookup, l.value, []string{l.key})
		if err != nil {
			return fmt.Errorf("%s: %s: %w", l.at, l.key, err)
		}
		u.conf[i].value = value
	}
	return nil
}

func follow(settings []line, lookup func(string) (string, bool), text string, through []string) (string, error) {
	before, rest, ok := strings.Cut(text, "$(")
	name, after, closed := strings.Cut(rest, ")")
	if !ok || !closed {
		return text, nil
	}
	name = strings.TrimSpace(name)
	if slices.Contains(through, name) {
		return "", fmt.Errorf("$(%s) stands for itself: write the value itself", name)
	}
	value, known := "", false
	for _, l := range settings {
		if l.key == name {
			value, known = l.value, true
		}
	}
	if !known && lookup != nil && name != "" {
		value, known = lookup(name)
	}
	if !known {
		return "", fmt.Errorf("$(%s) is neither another setting nor a variable in the server's environment: set it, or write the value itself", name)
	}
	value, err := follow(settings, lookup, value, append(slices.Clone(through), name))
	if err != nil {
		return "", err
	}
	after, err = follow(settings, lookup, after, through)
	return before + value + after, err
}
