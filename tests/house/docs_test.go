// Package house checks the repository itself, where no compiler looks.
package house

import (
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// What a reader takes in at a glance.
const (
	longestREADME = 200 // lines
	longestLine   = 100 // characters of prose
	longestCell   = 120 // characters of a table's cell, as it is shown
)

var (
	linked  = regexp.MustCompile(`!?\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)`)
	heading = regexp.MustCompile(`^#{1,6} +(.*?) *$`)
	// Nothing in such a line can be broken.
	linkAlone = regexp.MustCompile(`^[-*\d. ]*!?\[[^\]]*\]\([^()\s]+\)[.,:]?$`)
	mentioned = regexp.MustCompile(`\b(?:README|CONTRIBUTING|CHANGELOG|SECURITY|docs/[a-z-]+)\.md(?:#[\w-]+)?`)
)

// A document is a Markdown file without its blocks of code, which keep their lines but are empty.
type document struct {
	name    string // relative to the root of the repository
	lines   []string
	anchors map[string]bool
}

func read(t *testing.T, root, name string) document {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	d := document{name: name, lines: strings.Split(strings.TrimSuffix(string(b), "\n"), "\n"), anchors: map[string]bool{}}
	code := false
	for i, line := range d.lines {
		if fence := strings.HasPrefix(strings.TrimSpace(line), "```"); fence || code {
			code = code != fence
			d.lines[i] = ""
			continue
		}
		if m := heading.FindStringSubmatch(line); m != nil {
			d.anchors[anchor(m[1])] = true
		}
	}
	return d
}

// anchor is how code hosts name a heading: lower case, blanks as dashes, without punctuation.
func anchor(title string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ', r == '-':
			return '-'
		case unicode.IsLetter(r), unicode.IsDigit(r), r == '_':
			return unicode.ToLower(r)
		}
		return -1
	}, linked.ReplaceAllString(title, "$1"))
}

// tracked returns the files of the repository that match, relative to its root.
func tracked(t *testing.T, root string, patterns ...string) []string {
	t.Helper()
	list := exec.Command("git", append([]string{"ls-files", "--cached", "--others", "--exclude-standard"}, patterns...)...)
	list.Dir = root
	out, err := list.Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	return strings.Fields(string(out))
}

func TestDocs(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	docs := map[string]document{}
	for _, name := range tracked(t, root, "*.md") {
		docs[name] = read(t, root, name)
	}
	if docs["README.md"].lines == nil {
		t.Fatalf("no README.md among %d documents", len(docs))
	}
	if n := len(docs["README.md"].lines); n > longestREADME {
		t.Errorf("README.md has %d lines, which is more than %d", n, longestREADME)
	}
	leads := func(file, anchor string) bool {
		d, ok := docs[file]
		if anchor != "" {
			return ok && d.anchors[anchor]
		}
		_, err := os.Stat(filepath.Join(root, file))
		return err == nil
	}
	for _, d := range docs {
		text := strings.Join(d.lines, "\n")
		for _, at := range linked.FindAllStringSubmatchIndex(text, -1) {
			target := text[at[4]:at[5]]
			if strings.Contains(target, "://") {
				continue
			}
			file, anchor, _ := strings.Cut(target, "#")
			if file == "" {
				file = d.name
			} else {
				file = path.Join(path.Dir(d.name), file)
			}
			if !leads(file, anchor) {
				t.Errorf("%s:%d: a link that leads nowhere: %s", d.name, 1+strings.Count(text[:at[4]], "\n"), target)
			}
		}
		for i, line := range d.lines {
			if strings.HasPrefix(line, "|") {
				if strings.HasPrefix(line, "| `--") {
					continue // the words of --help, which another test compares
				}
				for cell := range strings.SplitSeq(strings.Trim(line, "|"), "|") {
					if n := utf8.RuneCountInString(strings.TrimSpace(linked.ReplaceAllString(cell, "$1"))); n > longestCell {
						t.Errorf("%s:%d: a cell of %d characters, which is more than %d: make it a list", d.name, i+1, n, longestCell)
					}
				}
			} else if n := utf8.RuneCountInString(line); n > longestLine && !linkAlone.MatchString(line) {
				t.Errorf("%s:%d: a line of %d characters, which is more than %d", d.name, i+1, n, longestLine)
			}
		}
	}
	// What scripts print and comments name is there, too.
	for _, name := range tracked(t, root, "scripts", "compose", "docker", ".ci", "*.go") {
		b, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range mentioned.FindAllString(string(b), -1) {
			if file, anchor, _ := strings.Cut(m, "#"); !leads(file, anchor) {
				t.Errorf("%s names %s, which leads nowhere", name, m)
			}
		}
	}
}

func TestAnchors(t *testing.T) {
	for title, want := range map[string]string{
		"Quick start":             "quick-start",
		"force-boot":              "force-boot",
		"A node's settings":       "a-nodes-settings",
		"`rabbit@localhost` here": "rabbitlocalhost-here",
		"Use [it](README.md) now": "use-it-now",
	} {
		if got := anchor(title); got != want {
			t.Errorf("%q: %q, want %q", title, got, want)
		}
	}
}
