// Package expect is what the tests of several packages wait for and compare.
package expect

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
)

// Soon ends what would hang: what it is waited for takes a moment, and some seconds on a
// machine that is busy.
const Soon = time.Minute

// Listen0 listens on a free port of 127.0.0.1.
func Listen0(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	Must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func Port(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

// Environ returns a getenv over NAME=VALUE pairs.
func Environ(pairs ...string) func(string) string {
	return func(name string) string {
		for _, kv := range pairs {
			if n, v, _ := strings.Cut(kv, "="); n == name {
				return v
			}
		}
		return ""
	}
}

func Says(t testing.TB, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("it does not say %q:\n%s", w, text)
		}
	}
}

// Eventually waits for a condition, which says why it does not hold yet.
func Eventually(t testing.TB, within time.Duration, what string, try func() error) {
	t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(10 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s: %v", within, what, err)
		}
	}
}

// Consistently fails the test when a condition does not hold all the while.
func Consistently(t testing.TB, during time.Duration, what string, try func() error) {
	t.Helper()
	for end := time.Now().Add(during); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err := try(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// Ends fails the test where what is done with many things does not come to an end: to go through all
// of them once takes a moment, and again for each of them takes minutes.
func Ends(t testing.TB, what string, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	select {
	case <-done:
	case <-time.After(Soon / 2):
		t.Fatalf("%s does not come to an end", what)
	}
}

func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Loopback returns an address on which nothing listens at the ports of a node.
func Loopback(t testing.TB) string {
	t.Helper()
	for range 100 {
		ip := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
		if free(ip+":5672") && free(ip+":15690") {
			return ip
		}
	}
	t.Fatal("found no free loopback address")
	return ""
}

func free(addr string) bool {
	l, err := net.Listen("tcp", addr)
	return err == nil && l.Close() == nil
}

// Tree lists every file below dir with its contents, to tell whether something
// was changed.
func Tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	Must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			var b []byte
			b, err = os.ReadFile(path)
			files[path] = string(b)
		}
		return err
	}))
	return files
}

// Unprintable reports whether text has characters that a terminal may take for more than text.
func Unprintable(text string) bool {
	return strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) })
}

// Memory returns what the kernel says of a process's memory under that name, as VmRSS, in KiB.
func Memory(t testing.TB, pid int, name string) (kib int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	Must(t, err)
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			kib, err = strconv.Atoi(strings.Fields(rest)[0])
			Must(t, err)
			return kib
		}
	}
	t.Fatalf("the kernel tells no %s of process %d", name, pid)
	return 0
}
