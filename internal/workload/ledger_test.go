package workload

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/tests/expect"
)

// ledgerFile writes a ledger of lines such as "1.5 confirmed a 7": seconds, and
// what follows the time.
func ledgerFile(t *testing.T, lines ...string) string {
	t.Helper()
	var b strings.Builder
	for _, l := range lines {
		var s float64
		at, rest, _ := strings.Cut(l, " ")
		if _, err := fmt.Sscan(at, &s); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s %s\n", time.Date(2026, 11, 22, 1, 2, 3, 0, time.UTC).Add(time.Duration(s*float64(time.Second))).Format(ledgerTime), rest)
	}
	path := filepath.Join(t.TempDir(), "ledger")
	expect.Must(t, os.WriteFile(path, []byte(b.String()), 0o644))
	return path
}

// compared runs the command and returns its figures, in the order of its table.
func compared(t *testing.T, args ...string) (figures, said string, err error) {
	t.Helper()
	var out bytes.Buffer
	o, paths, err := clientArgs("compare", args, expect.Environ())
	if err != nil {
		return "", "", err
	}
	err = Compare(o, paths, &out)
	lines := strings.Split(out.String(), "\n")
	if len(lines) < 2 {
		return "", out.String(), err
	}
	return strings.Join(strings.Fields(lines[1]), " "), strings.Join(lines[2:], "\n"), err
}

func TestCompare(t *testing.T) {
	good := []string{"0 produce a q", "0.1 confirmed a 1", "0.2 confirmed a 2", "0.3 confirmed a 3", "0.4 end a 3"}
	all := []string{"0 consume - q", "1 received a 1", "1 received a 2", "1 received a 3", "2 end - 3"}
	for _, c := range []struct {
		name               string
		produced, consumed []string
		flags              string
		figures            string // confirmed, received, lost, duplicated, longest gap in ms
		say, fail          []string
	}{
		{name: "nothing lost", produced: good, consumed: all, figures: "3 3 0 0 100"},
		{name: "in another order", produced: []string{"0 produce a q", "0.1 confirmed a 2", "0.2 confirmed a 1", "0.25 end a 2"},
			consumed: []string{"0 consume - q", "1 received a 2", "1 received a 1"}, figures: "2 2 0 0 100"},
		{name: "lost", produced: good, consumed: []string{"0 consume - q", "1 received a 2"}, figures: "3 1 2 0 100", fail: []string{"2 confirmed messages", "a/1, a/3"}},
		{name: "duplicated", produced: good, consumed: append(all, "3 received a 2", "4 received a 2", "5 received a 3"), figures: "3 3 0 3 100"},
		{name: "received and never confirmed", produced: []string{"0 produce a q", "0.1 confirmed a 1", "0.2 confirmed a 3", "0.3 end a 3"}, consumed: all,
			figures: "2 3 0 0 100", say: []string{"without ever being confirmed: 1"}},
		{name: "of another run", produced: good, consumed: append(all, "3 received b 1", "3 received b 1"), figures: "3 3 0 0 100"},
		{name: "the first confirm was late", produced: []string{"0 produce a q", "2.5 confirmed a 1", "2.6 end a 1"}, consumed: all, figures: "1 3 0 0 2500",
			say: []string{"from 2026-11-22T01:02:03.000000Z to 2026-11-22T01:02:05.500000Z"}},
		{name: "the last confirm never came", produced: []string{"0 produce a q", "1 confirmed a 1", "9 end a 2"}, consumed: all, figures: "1 3 0 0 8000"},
		{name: "the producer waited at the end", produced: []string{"0 produce a q", "1 confirmed a 1", "9 end a 1"}, consumed: all, figures: "1 3 0 0 1000"},
		{name: "the producer was killed", produced: good[:3], consumed: all, figures: "2 3 0 0 100", say: []string{"run a has no end"}},
		{name: "a gap as long as may be", produced: good, consumed: all, flags: "--max-gap 100ms", figures: "3 3 0 0 100"},
		{name: "a gap too long", produced: good, consumed: all, flags: "--max-gap 99ms", figures: "3 3 0 0 100", fail: []string{"100ms", "--max-gap", "99ms"}},
		{name: "nothing confirmed", produced: []string{"0 produce a q", "1 end a 0"}, consumed: all[:1], figures: "0 0 0 0 0", fail: []string{"nothing was confirmed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := append(strings.Fields(c.flags), ledgerFile(t, c.consumed...), ledgerFile(t, c.produced...))
			got, said, err := compared(t, args...)
			if got != c.figures {
				t.Errorf("got %q, want %q", got, c.figures)
			}
			for _, w := range c.say {
				if !strings.Contains(said, w) {
					t.Errorf("it does not say %q: %s", w, said)
				}
			}
			if (err != nil) != (c.fail != nil) {
				t.Errorf("error %v", err)
			}
			for _, w := range c.fail {
				if err != nil && !strings.Contains(err.Error(), w) {
					t.Errorf("the error does not say %q: %v", w, err)
				}
			}
		})
	}

	t.Run("several of each", func(t *testing.T) {
		got, _, err := compared(t, ledgerFile(t, good...), ledgerFile(t, "5 produce b q", "5.3 confirmed b 1", "5.4 end b 1"),
			ledgerFile(t, "0 consume - q", "1 received a 1", "1 received b 1"), ledgerFile(t, "0 consume - q", "1 received a 2", "1 received a 1", "1 received a 3"))
		if got != "4 4 0 1 300" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
	})

	t.Run("half a last line", func(t *testing.T) {
		path := ledgerFile(t, good[:4]...)
		b, err := os.ReadFile(path)
		expect.Must(t, err)
		expect.Must(t, os.WriteFile(path, b[:len(b)-1], 0o644)) // …confirmed a 3 may have been …confirmed a 31
		if got, _, err := compared(t, path, ledgerFile(t, all...)); got != "2 3 0 0 100" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
	})

	p, c := ledgerFile(t, good...), ledgerFile(t, all...)
	for _, bad := range []struct {
		name  string
		paths []string
		say   string
	}{
		{"no consumer", []string{p}, "got 1 and 0"},
		{"no producer", []string{c}, "got 0 and 1"},
		{"twice", []string{p, c, p}, "read already"},
		{"no such file", []string{p, c, c + ".none"}, ".none"},
		{"no files", nil, "FILE"},
		{"an empty file", []string{p, c, ledgerFile(t)}, "holds nothing"},
		{"something else", []string{p, ledgerFile(t, "0 consume - q", "1 hello world 7")}, ":2:"},
		{"a producer's line in a consumer's", []string{p, ledgerFile(t, "0 consume - q", "1 confirmed a 7")}, ":2:"},
		{"a consumer's line in a producer's", []string{c, ledgerFile(t, "0 produce b q", "1 received a 7")}, ":2:"},
		{"another run's confirm", []string{c, ledgerFile(t, "0 produce b q", "1 confirmed a 7")}, ":2:"},
		{"no number", []string{c, ledgerFile(t, "0 produce b q", "1 confirmed b x")}, ":2:"},
		{"no head", []string{p, c, ledgerFile(t, "1 received a 7")}, ":1:"},
		{"two ledgers in one file", []string{p, ledgerFile(t, append(all, all...)...)}, ":6:"},
	} {
		if _, _, err := compared(t, bad.paths...); err == nil || !strings.Contains(err.Error(), bad.say) {
			t.Errorf("%s: %v, which does not say %q", bad.name, err, bad.say)
		}
	}
}

// What note writes is what compare reads.
func TestLedger(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, notes ...[]any) string {
		t.Helper()
		l, err := createLedger(filepath.Join(dir, name))
		expect.Must(t, err)
		for _, n := range notes {
			_, err := l.note(n[0].(string), n[1].(string), n[2])
			expect.Must(t, err)
		}
		expect.Must(t, l.close())
		return filepath.Join(dir, name)
	}
	p := write("p", []any{evProduce, "a", "my-queue"}, []any{evConfirmed, "a", 1}, []any{evConfirmed, "a", uint64(2)}, []any{evEnd, "a", 2})
	c := write("c", []any{evConsume, "-", "my-queue"}, []any{evReceived, "a", 2}, []any{evReceived, "a", 2}, []any{evEnd, "-", 2})
	got, _, err := compared(t, p, c)
	if !strings.HasPrefix(got, "2 1 1 1 ") || err == nil || !strings.Contains(err.Error(), "a/1") {
		t.Errorf("got %q, %v", got, err)
	}

	before, err := os.ReadFile(p)
	expect.Must(t, err)
	if _, err := createLedger(p); err == nil || !strings.Contains(err.Error(), "--ledger") || !strings.Contains(err.Error(), "never overwritten") {
		t.Errorf("over an existing one: %v", err)
	}
	if after, _ := os.ReadFile(p); !bytes.Equal(before, after) {
		t.Error("the existing ledger was changed")
	}
	if _, err := createLedger(filepath.Join(dir, "none", "l")); err == nil || !strings.Contains(err.Error(), "--ledger") {
		t.Errorf("without its directory: %v", err)
	}
	if empty := write("empty"); fileExists(empty) {
		t.Error("a ledger in which nothing was written stays and keeps its name")
	}
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// A ledger that cannot be written is an error, not a shorter ledger.
func TestLedgerThatCannotBeWritten(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	expect.Must(t, err)
	defer full.Close()
	l := &ledger{file: full, began: time.Now()}
	if _, err := l.note(evConfirmed, "a", 1); err == nil || !strings.Contains(err.Error(), "--ledger") {
		t.Errorf("got %v", err)
	}
}

func TestMessageIDs(t *testing.T) {
	for _, m := range []message{{"5f3a9c01", 1}, {"a", 1<<64 - 1}} {
		if got, ok := parseMessage(m.id()); !ok || got != m {
			t.Errorf("%s: %v, %v", m.id(), got, ok)
		}
	}
	for _, id := range []string{"", "a", "a/", "/1", "a/b", "a/-1", "a/1/2", "a b/1", "a\n/1"} {
		if m, ok := parseMessage(id); ok {
			t.Errorf("%q was taken for %v", id, m)
		}
	}
}
