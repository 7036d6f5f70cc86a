package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"

	"rmq-entrypoint/tests/expect"
)

// update makes TestManPages write the manual pages instead of comparing them. The
// generator is a test, so that the program does not carry it.
//
//go:generate go test -count=1 -run ^TestManPages$ . -update
var update = flag.Bool("update", false, "write docs/man anew")

// The manual pages are what the commands and their flags say today.
func TestManPages(t *testing.T) {
	const dir = "../../docs/man"
	want := manPages(t)
	expect.Says(t, want["rmq-entrypoint-drain.1"], "Exit status", "RMQ_TTL", "rabbit@<host name>")
	if *update {
		expect.Must(t, os.RemoveAll(dir))
		expect.Must(t, os.MkdirAll(dir, 0o755))
		for name, text := range want {
			expect.Must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
		}
	}
	got := readPages(t, dir)
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("docs/man/%s is of no command: run go generate ./cmd/rmq-entrypoint", name)
		}
	}
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("docs/man/%s is not up to date: run go generate ./cmd/rmq-entrypoint", name)
		}
	}
}

// manPages returns a page for each command that --help lists.
func manPages(t *testing.T) map[string]string {
	t.Helper()
	c, dir := root(), t.TempDir()
	// The generator writes Markdown first, where <node> would be HTML, and leaves
	// entities as they are.
	const less = "&lt;"
	for _, c := range append(c.Commands(), c) {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			f.DefValue, f.Usage = strings.ReplaceAll(f.DefValue, "<", less), strings.ReplaceAll(f.Usage, "<", less)
		})
	}
	// A day that stays, or every page would change each month.
	day := time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC)
	expect.Must(t, doc.GenManTree(c, &doc.GenManHeader{Section: "1", Date: &day, Source: "rmq-entrypoint", Manual: "rmq-entrypoint"}, dir))
	pages := readPages(t, dir)
	for name, text := range pages {
		pages[name] = strings.ReplaceAll(text, less, "<")
	}
	return pages
}

// readPages returns the files of a directory by their names.
func readPages(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	expect.Must(t, err)
	files := map[string]string{}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		expect.Must(t, err)
		files[e.Name()] = string(b)
	}
	return files
}
