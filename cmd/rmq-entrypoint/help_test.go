package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/tests/expect"
)

func TestHelpNamesEverySetting(t *testing.T) {
	var out bytes.Buffer
	expect.Must(t, help(&out, root()))
	lines := strings.Split(out.String(), "\n")
	at := -1
	for _, s := range config.Settings(new(config.Config)) {
		i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "  --"+s.Flag+" ") })
		if i < 0 {
			t.Errorf("help has no line for --%s", s.Flag)
			continue
		}
		if i <= at {
			t.Errorf("--%s is out of order", s.Flag)
		}
		at = i
		for _, w := range append([]string{s.DefaultText(), s.Help}, s.Env...) {
			if !strings.Contains(lines[i], w) {
				t.Errorf("help for --%s lacks %q: %s", s.Flag, w, lines[i])
			}
		}
	}
	for _, s := range config.Secrets {
		if !strings.Contains(out.String(), "  "+s.Env+" ") {
			t.Errorf("help has no line for %s", s.Env)
		}
	}
	for _, c := range root().Commands() {
		if name := c.Name(); name != "companion" && !strings.Contains(out.String(), "\n  "+name) && !strings.Contains(out.String(), ", "+name) {
			t.Errorf("help has no line for %s", name)
		}
	}
}

// root returns the tree of commands, which print nothing.
func root() *cobra.Command {
	return commandLine(config.Settings(new(config.Config)), new(command), io.Discard)
}

// prints returns what the program prints for these arguments.
func prints(t *testing.T, args ...string) string {
	t.Helper()
	var out strings.Builder
	if err := run(t.Context(), args, &out); err != nil {
		t.Errorf("%q: %v", args, err)
	}
	return out.String()
}

// The package doc is the contract, and --help prints the same one.
func TestPackageDocIsTheHelp(t *testing.T) {
	var out strings.Builder
	if err := help(&out, root()); err != nil {
		t.Fatal(err)
	}
	src, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	words := func(s string) string {
		return strings.Join(strings.Fields(regexp.MustCompile(`(?m)^(//go:.*|//|package main$)`).ReplaceAllString(s, "")), " ")
	}
	doc, want := words(string(src)), words(out.String())
	if !strings.EqualFold(doc, want) {
		t.Errorf("doc.go is not what --help prints:\n%s\nwant\n%s", doc, want)
	}
}

// Each subcommand explains itself: what it does, its exit status, its own flags, and
// where a node's are.
func TestHelpOfEachCommand(t *testing.T) {
	ofNode := root().Flags()
	for _, c := range root().Commands() {
		name := c.Name()
		if c.Short == "" || c.Long == "" || !strings.Contains(c.Long, "\n\nExit status: 0") {
			t.Errorf("%s: short %q, long %q", name, c.Short, c.Long)
		}
		if name == "help" { // with --help it explains itself, alone it explains the program
			continue
		}
		text := prints(t, name, "--help")
		expect.Says(t, text, c.Long, "usage: rmq-entrypoint "+c.Use)
		for _, args := range [][]string{{"help", name}, {"--help", name}, {name, "-h"}} {
			if other := prints(t, args...); other != text {
				t.Errorf("%q prints\n%s\nwant\n%s", args, other, text)
			}
		}
		takesNodes := c.Flags().Lookup("node") != nil
		if takesNodes != strings.Contains(text, "A node's settings") {
			t.Errorf("%s: it takes a node's settings is %v:\n%s", name, takesNodes, text)
		}
		if client := slices.Contains([]string{"produce", "consume", "compare", "completion"}, name); client == takesNodes {
			t.Errorf("%s takes a node's settings: %v", name, takesNodes)
		}
		for line := range strings.Lines(text) {
			if flag, ok := strings.CutPrefix(strings.TrimSpace(line), "--"); ok && ofNode.Lookup(strings.Fields(flag)[0]) != nil {
				t.Errorf("%s: its help repeats a node's flag: %s", name, line)
			}
		}
	}
	expect.Says(t, prints(t, "drain", "--help"), "\n  --force  false  ", "\n  --wait   5s     ")
	if text := prints(t, "help"); text != prints(t, "--help") || !strings.HasPrefix(text, explanation("usage")) {
		t.Errorf("help prints %q", text)
	}
}

// What is no subcommand is executed with its arguments as they are, whatever they
// are. Only where there is no such program is a subcommand suggested.
func TestProgramsAreExecutedUntouched(t *testing.T) {
	w := newWorld(t, nil)
	echo := filepath.Join(w.root, "bin", "echoes")
	expect.Must(t, os.WriteFile(echo, []byte("#!/bin/sh\nprintf '<%s>' \"$@\"\n"), 0o755))
	expect.Must(t, os.Symlink("echoes", filepath.Join(w.root, "bin", "drian")))
	n := w.node("rabbit@localhost")
	for _, c := range []struct{ args, want string }{
		{"echoes --help", "<--help>"},
		{"--ttl 20s echoes -h --ttl 1s drain --no-such-flag -- --wait", "<-h><--ttl><1s><drain><--no-such-flag><--><--wait>"},
		{echo + " completion bash", "<completion><bash>"},
		{"drian --force", "<--force>"}, // like a subcommand, but there is such a program
	} {
		if out, code := n.run(strings.Fields(c.args)...); code != 0 || out != c.want {
			t.Errorf("%s: exit status %d, %q, want %q", c.args, code, out, c.want)
		}
	}
	for word, meant := range map[string]string{"dran": "; did you mean drain?", "statsu": "; did you mean status?", "nothing-like-it": ""} {
		out, code := n.run(word, "--help")
		if code != 1 || strings.Count(out, "\n") != 1 || strings.Contains(out, "did you mean") != (meant != "") {
			t.Errorf("%s: exit status %d, %q", word, code, out)
		}
		expect.Says(t, out, "rmq-entrypoint: \""+word+"\" is neither a subcommand", "--help", meant)
	}
}

// Completion: scripts that the shells take, and what they ask the program for.
func TestCompletion(t *testing.T) {
	dir := t.TempDir()
	for _, shell := range []string{"bash", "zsh", "fish"} {
		script := prints(t, "completion", shell)
		expect.Says(t, script, "rmq-entrypoint", cobra.ShellCompRequestCmd)
		path := filepath.Join(dir, shell)
		expect.Must(t, os.WriteFile(path, []byte(script), 0o644))
		if _, err := exec.LookPath(shell); err != nil && shell != "bash" {
			continue // bash is there wherever scripts/ run
		}
		if out, err := exec.Command(shell, "-n", path).CombinedOutput(); err != nil {
			t.Errorf("%s -n: %v\n%s", shell, err, out)
		}
	}
	for _, c := range []struct {
		args      string
		want, not []string
	}{
		{"dr", []string{"drain\ttake the node"}, []string{"leave"}},
		{"--ttl 20s dr", []string{"drain\t"}, []string{"leave"}},
		{"", []string{"drain\t", "leave\t", "produce\t", "completion\t"}, []string{"companion"}},
		{"--node a@b drain --", []string{"--wait\t", "--force\t", "--ttl\t"}, []string{"--ready", "--rate"}},
		{"produce --", []string{"--rate\t", "--brokers\t"}, []string{"--ttl", "--idle"}},
		{"help l", []string{"leave\t"}, nil},
		{"completion ", []string{"bash\n", "zsh\n", "fish\n"}, nil},
	} {
		out := prints(t, append([]string{cobra.ShellCompRequestCmd}, strings.Split(c.args, " ")...)...)
		expect.Says(t, out, c.want...)
		for _, w := range c.not {
			if strings.Contains(out, w) {
				t.Errorf("%q offers %s:\n%s", c.args, w, out)
			}
		}
	}
}
