package docs

import (
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/tests/expect"
)

// Each scenario of scripts/failover in which somebody sends has a limit for the longest gap in
// confirms. What was measured keeps it, and where nothing is promised there is room: twice that.
func TestFailoverLimits(t *testing.T) {
	script, err := os.ReadFile("../../scripts/failover")
	expect.Must(t, err)
	page, err := os.ReadFile("../../docs/failover.md")
	expect.Must(t, err)
	functions := ""
	for _, pattern := range []string{`(?m)^mnesia\(\) \{.*\}$`, `(?ms)^limit\(\) \{.*?^\}$`} {
		found := regexp.MustCompile(pattern).FindString(string(script))
		if found == "" {
			t.Fatalf("scripts/failover has no %s", pattern)
		}
		functions += found + "\n"
	}
	limit := func(version, scenario string) time.Duration {
		out, err := exec.Command("bash", "-c", functions+`version=$1; limit "$2"`, "bash", version, scenario).CombinedOutput()
		d, derr := time.ParseDuration(strings.TrimSpace(string(out)))
		if err != nil || derr != nil {
			t.Errorf("%s on %s has no limit: %s: %v, %v", scenario, version, out, err, derr)
		}
		return d
	}
	promised := map[string]bool{"stop each node, drained": true, "replace each node by a rebuilt image": true, "kill -9 each node": true}
	measured := map[string]bool{}
	for _, row := range regexp.MustCompile(`(?m)^(\d+\.\d+\.\d+) +(.+?) +(\d+|-) +\d+ +\d+ +\d+ +\d+$`).FindAllStringSubmatch(string(page), -1) {
		ms, err := strconv.Atoi(row[3])
		if err != nil { // nobody sends meanwhile
			continue
		}
		measured[row[2]] = true
		least := time.Duration(ms) * time.Millisecond
		if !promised[row[2]] {
			least *= 2
		}
		if got := limit(row[1], row[2]); got < least {
			t.Errorf("%s on %s: the limit %s, after %d ms, leaves no room", row[2], row[1], got, ms)
		} else if !promised[row[2]] && got > 10*least+time.Second {
			t.Errorf("%s on %s: the limit %s cannot be broken, after %d ms", row[2], row[1], got, ms)
		}
	}
	for _, call := range regexp.MustCompile(`(?m)^ +under_load ['"](.+?)['"] `).FindAllStringSubmatch(string(script), -1) {
		if !measured[call[1]] {
			t.Errorf("docs/failover.md has no figure of %q", call[1])
		}
		delete(measured, call[1])
	}
	if len(measured) > 0 {
		t.Errorf("scripts/failover does not play %v", measured)
	}
}
