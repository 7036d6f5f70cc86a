package policy

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The table of rules in docs/architecture.md has each rule, at its place in each order.
func TestDocs(t *testing.T) {
	text, err := os.ReadFile("../../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "### The rules")
	table, _, _ = strings.Cut(table, "### Membership")
	got := map[Phase][]string{}
	place := map[Phase][]int{}
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) < 6 {
			continue
		}
		for i, phase := range []Phase{Serving, Booting, Stopped} {
			if n, err := strconv.Atoi(strings.TrimSpace(cells[2+i])); err == nil {
				got[phase], place[phase] = append(got[phase], strings.TrimSpace(cells[1])), append(place[phase], n)
			}
		}
	}
	for phase, name := range map[Phase]string{Serving: "serving", Booting: "booting", Stopped: "stopped"} {
		docs := make([]string, len(got[phase]))
		for i, n := range place[phase] {
			if n < 1 || n > len(docs) || docs[n-1] != "" {
				t.Fatalf("%s: the place %d of %s is taken, or there is none", name, n, got[phase][i])
			}
			docs[n-1] = got[phase][i]
		}
		var code []string
		for _, r := range phases[phase].rules {
			code = append(code, r.name)
		}
		if !slices.Equal(docs, code) {
			t.Errorf("%s: docs/architecture.md has %q, the code %q", name, docs, code)
		}
	}
}
