// Package docs checks what the documents tell a reader to type, from where that reader stands.
package docs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// A line is what a document has a reader type: a line of a block for the console, a span of prose, or a line of a comment.
type line struct {
	file   string // relative to the root of the repository
	number int
	text   string
	block  int  // lines of one section's blocks are typed one after the other; 0: it stands alone
	prose  bool // a span, which may merely name a program
}

// A fence is a block of another language, or of none.
type fence struct {
	file     string
	number   int
	language string
	indent   string
	text     string
}

// A page is what of a document is checked here. Links and the length of lines are checked in tests/house.
type page struct {
	file   string
	typed  []line
	spans  []line // of all kinds
	fences []fence
}

var (
	span    = regexp.MustCompile("`([^`]+)`")
	comment = regexp.MustCompile(`^# {2,3}(?:(?:cd|docker|docker-compose|export|scripts/[a-z]+|CGO_ENABLED=0) .*|scripts/[a-z]+)$`)
)

// files returns those of the repository that match, also those that are not committed yet.
func files(t *testing.T, patterns ...string) []string {
	t.Helper()
	list := exec.Command("git", append([]string{"ls-files", "--cached", "--others", "--exclude-standard"}, patterns...)...)
	list.Dir = root
	out, err := list.Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	var there []string
	for _, name := range strings.Fields(string(out)) {
		if _, err := os.Stat(filepath.Join(root, name)); err == nil {
			there = append(there, name)
		}
	}
	return there
}

func text(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// pages reads the documents, and the comments at the top of the examples.
func pages(t *testing.T) (all []page) {
	t.Helper()
	for _, name := range files(t, "*.md") {
		p, wrong := readPage(name, text(t, name))
		for _, w := range wrong {
			t.Error(w)
		}
		all = append(all, p)
	}
	if len(all) < 10 {
		t.Fatalf("there are %d documents", len(all))
	}
	for _, name := range files(t, "compose/*.yml", "docker/Dockerfile", "docs/*.service", "docs/*.yaml") {
		p := page{file: name}
		for i, l := range strings.Split(text(t, name), "\n") {
			if comment.MatchString(l) {
				p.typed = append(p.typed, line{file: name, number: i + 1, text: strings.TrimSpace(strings.TrimPrefix(l, "#")), block: 1})
			}
		}
		all = append(all, p)
	}
	return all
}

// readPage leaves out nothing in silence: what cannot be read is in wrong.
func readPage(name, text string) (p page, wrong []string) {
	p.file = name
	complain := func(number int, what string) { wrong = append(wrong, fmt.Sprintf("%s:%d: %s", name, number, what)) }
	var prose []string // without blocks
	var open *fence
	section := 1
	for i, l := range strings.Split(text, "\n") {
		mark, isFence := strings.CutPrefix(strings.TrimSpace(l), "```")
		switch {
		case isFence && open == nil:
			open = &fence{file: name, number: i + 1, language: mark, indent: l[:strings.Index(l, "`")]}
		case isFence:
			if open.language == "console" {
				typed := console(*open, section)
				if len(typed) == 0 {
					complain(open.number, "nothing stands behind a prompt")
				}
				p.typed = append(p.typed, typed...)
			} else {
				p.fences = append(p.fences, *open)
			}
			open = nil
		case open != nil:
			open.text += strings.TrimPrefix(l, open.indent) + "\n"
		case strings.HasPrefix(strings.TrimSpace(l), "~~~"):
			complain(i+1, "blocks begin with three backquotes here")
		}
		if isFence || open != nil {
			l = ""
		}
		if strings.HasPrefix(l, "#") {
			section++
		}
		prose = append(prose, l)
	}
	if open != nil {
		complain(open.number, "a block that nothing closes")
	}
	joined := strings.Join(prose, "\n")
	for _, at := range span.FindAllStringSubmatchIndex(joined, -1) {
		said := strings.ReplaceAll(strings.Join(strings.Fields(joined[at[2]:at[3]]), " "), `\|`, "|")
		s := line{file: name, number: 1 + strings.Count(joined[:at[0]], "\n"), text: said, prose: true}
		p.spans = append(p.spans, s)
		if isCommand(said) {
			p.typed = append(p.typed, s)
		}
	}
	return p, wrong
}

// console are the lines behind a prompt, each with those that continue it.
func console(f fence, block int) (typed []line) {
	goesOn := false
	for i, l := range strings.Split(f.text, "\n") {
		said, prompt := strings.CutPrefix(l, "$ ")
		switch {
		case prompt:
			typed = append(typed, line{file: f.file, number: f.number + i + 1, text: said, block: block})
		case goesOn:
			last := &typed[len(typed)-1]
			last.text = strings.TrimSuffix(last.text, `\`) + strings.TrimSpace(l)
		}
		goesOn = (prompt || goesOn) && strings.HasSuffix(l, `\`)
	}
	return typed
}

// A command is one program with its arguments, and what is set for it alone.
type command struct {
	set   []string
	words []string
}

func (c command) String() string { return strings.Join(slices.Concat(c.set, c.words), " ") }

var (
	assignment = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*=`)
	operators  = regexp.MustCompile(`^(?:&&|\|\||[;&|]|\d?[<>]>?)`)
)

// parse splits a line as a shell does. What $( ) has is a command too, and stays a word as it is.
func parse(text string) (all []command, err error) {
	var now command
	var word strings.Builder
	inWord, toFile := false, false
	endWord := func() {
		switch w := word.String(); {
		case !inWord:
		case toFile:
			toFile = false
		case len(now.words) == 0 && assignment.MatchString(w):
			now.set = append(now.set, w)
		default:
			now.words = append(now.words, w)
		}
		word.Reset()
		inWord = false
	}
	endCommand := func() {
		endWord()
		if len(now.set)+len(now.words) > 0 {
			all = append(all, now)
		}
		now = command{}
	}
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\'' || c == '"':
			n := strings.IndexByte(text[i+1:], c)
			if n < 0 {
				return nil, fmt.Errorf("a %c that nothing closes", c)
			}
			word.WriteString(text[i+1 : i+1+n])
			inWord = true
			i += n + 1
		case strings.HasPrefix(text[i:], "$("):
			n := strings.IndexByte(text[i:], ')')
			if n < 0 {
				return nil, errors.New("a $( that nothing closes")
			}
			word.WriteString(text[i : i+n+1])
			inWord = true
			i += n
		case c == ' ':
			endWord()
		case c == '#' && !inWord:
			i = len(text)
		case strings.ContainsRune(";&|<>", rune(c)) || !inWord && operators.MatchString(text[i:]):
			operator := operators.FindString(text[i:])
			endWord()
			if toFile = strings.ContainsAny(operator, "<>"); !toFile {
				endCommand()
			}
			i += len(operator) - 1
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	endCommand()
	return all, nil
}

var substituted = regexp.MustCompile(`\$\(([^)]*)\)`)

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		`cd compose && A=1 B= up -d "x y"`:        `[]["cd" "compose"] ["A=1" "B="]["up" "-d" "x y"]`,
		`a --x 'b; c' | d & e >f 2>g; h`:          `[]["a" "--x" "b; c"] []["d"] []["e"] []["h"]`,
		`exec $(docker ps -q -f name=x) y # rest`: `[]["exec" "$(docker ps -q -f name=x)" "y"]`,
		`"$(docker ps -q)" b#c`:                   `[]["$(docker ps -q)" "b#c"]`,
	} {
		all, err := parse(text)
		var got []string
		for _, c := range all {
			got = append(got, fmt.Sprintf("%q%q", c.set, c.words))
		}
		if strings.Join(got, " ") != want || err != nil {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{`a "b`, `a 'b`, `a $(b`} {
		if got, err := parse(text); err == nil {
			t.Errorf("%s: %v", text, got)
		}
	}
}

func TestReadPage(t *testing.T) {
	p, wrong := readPage("x.md", "# A\n- b\n  ```console\n  $ a \\\n      --b c\n  said\n  $ d\n  ```\n## C\n`list\n--json` and `x`\n```console\n$ e\n```\n")
	var got []string
	for _, l := range p.typed {
		got = append(got, fmt.Sprintf("%d %d %s", l.number, l.block, l.text))
	}
	if want := "4 2 a --b c|7 2 d|13 3 e|10 0 list --json"; strings.Join(got, "|") != want || len(wrong) > 0 {
		t.Errorf("%q, %q; want %q", got, wrong, want)
	}
	for _, text := range []string{"```console\nsaid\n```\n", "```\nx\n", "~~~\n$ x\n~~~\n"} {
		if _, wrong := readPage("x.md", text); len(wrong) == 0 {
			t.Errorf("%q: %q", text, wrong)
		}
	}
}
