package hosts

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/expect"
)

// Whatever is in the catalog and in the file already, the hosts file is lines of an address and
// one name, this node's own among them, and does not change unless something is new.
func FuzzHosts(f *testing.F) {
	f.Add("rabbit@b", "10.0.0.3:5672", "10.0.0.1 a\n", true)
	f.Add("rabbit@me", "10.0.0.9:5672", "# x\n10.0.0.1 me\n10.0.0.2 me b\n", false)
	f.Add("rabbit@x\n10.0.0.9 y", "[fd00::2]:5672", "10.0.0.1\tc\r\n\x00", true)
	f.Add("--offline@b", "[fe80::1%eth0]:5672", "fe80::1%eth0 c", true)
	f.Add("rabbit@b#", "named:5672", "10.0.0.1 #c\n127.0.0.1 localhost", false)
	f.Add("rabbit@localhost", "10.0.0.1:5672", "\u202810.0.0.1\u00a0d", false)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, node, address, was string, own bool) {
		h := &File{path: filepath.Join(dir, "hosts"), self: "me"}
		if own {
			h.own = "10.0.0.1"
		}
		expect.Must(t, os.WriteFile(h.path, []byte(was), 0o640))
		catalog := []peers.Peer{{Node: node, Address: address}, {Node: "rabbit@z", Address: "10.0.0.26:5672", Passing: true}}
		known := Known{Members: []string{node, "rabbit@z"}}
		_, err := h.Learn(catalog, known, nowhere)
		expect.Must(t, err)
		b, err := os.ReadFile(h.path)
		expect.Must(t, err)
		is := map[string]string{}
		for line := range strings.Lines(string(b)) {
			if strings.HasPrefix(line, "#") || string(b) == was {
				continue
			}
			words := strings.Split(strings.TrimSuffix(line, "\n"), " ")
			if len(words) != 2 || net.ParseIP(words[0]) == nil || strings.HasPrefix(words[1], "#") {
				t.Fatalf("%q", line)
			}
			is[words[1]] = words[0]
		}
		if string(b) != was && own && is["me"] != "10.0.0.1" || !own && is["me"] != "" {
			t.Fatalf("this node is at %q:\n%s", is["me"], b)
		}
		if changed, err := h.Learn(catalog, known, nowhere); err != nil || changed != nil {
			t.Fatalf("nothing new: %q, %v", changed, err)
		}
	})
}

// canned is an epmd that answers that, and keeps what it was asked.
type canned struct {
	io.Reader
	asked bytes.Buffer
}

func (c *canned) Write(b []byte) (int, error) { return c.asked.Write(b) }

// epmd lists a node by one answer alone; everything else is no such node, or unknown.
func FuzzEpmd(f *testing.F) {
	for _, answer := range []string{"", "w", "w\x00", "w\x01", "w\x00dH", "x\x00", "AMQP\x00\x00\x09\x01", "HTTP/1.1 400"} {
		f.Add([]byte(answer), "rabbit")
	}
	f.Add([]byte("w\x00"), strings.Repeat("r", 300))
	f.Add([]byte("w\x01"), "")
	f.Fuzz(func(t *testing.T, answer []byte, name string) {
		epmd := &canned{Reader: bytes.NewReader(answer)}
		listed, err := portOf(epmd, name)
		if known := len(answer) >= 2 && answer[0] == 119 && len(name) <= mostName; known != (err == nil) || listed != (known && answer[1] == 0) {
			t.Fatalf("answer %q: %t, %v", answer, listed, err)
		}
		if asked := epmd.asked.Bytes(); len(name) <= mostName && (len(asked) != 3+len(name) || int(asked[1]) != 1+len(name) || asked[0] != 0 || asked[2] != 122 || string(asked[3:]) != name) {
			t.Fatalf("it was asked %q about %q", asked, name)
		}
	})
}
