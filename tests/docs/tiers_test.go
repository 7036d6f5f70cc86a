package docs

import (
	"context"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// scripts/test takes each tier that its usage, CONTRIBUTING.md and .ci/run name, and one at a time.
func TestTiers(t *testing.T) {
	t.Parallel()
	usage, _, _ := strings.Cut(run(t, "--help"), "\n")
	named := regexp.MustCompile(`set -- (-+[a-z]+)`).FindAllStringSubmatch(text(t, ".ci/run"), -1)
	if len(named) != 1 {
		t.Fatalf(".ci/run names %q, want one tier", named)
	}
	named = append(named, regexp.MustCompile("`scripts/test (-+[a-z]+)`").FindAllStringSubmatch(text(t, "CONTRIBUTING.md"), -1)...)
	if len(named) < 4 {
		t.Errorf("CONTRIBUTING.md and .ci/run name %q, want each tier", named)
	}
	for _, tier := range named {
		if !strings.Contains(usage, tier[1]) {
			t.Errorf("%s is not in the usage: %s", tier[1], usage)
		}
		if said := run(t, tier[1], "-run"); !strings.Contains(said, "-run needs a regular expression") {
			t.Errorf("scripts/test %s: %s", tier[1], said)
		}
		if said := run(t, tier[1], "--fast"); !strings.Contains(said, "unknown argument --fast") {
			t.Errorf("scripts/test %s --fast: %s", tier[1], said)
		}
	}
	if said := run(t, "-short", "--ci"); !strings.Contains(said, "exclude each other") {
		t.Errorf("two tiers at a time: %s", said)
	}
}

// The scenarios that come first where time is short are there.
func TestFirstScenarios(t *testing.T) {
	t.Parallel()
	list := regexp.MustCompile(`(?s)\nfirst=\((.+?)\)`).FindStringSubmatch(text(t, "scripts/test"))
	if list == nil {
		t.Fatal("scripts/test has no list of them")
	}
	var all strings.Builder
	for _, file := range files(t, "tests/cluster/*_test.go") {
		all.WriteString(text(t, file))
	}
	for _, name := range strings.Fields(list[1]) {
		if !strings.Contains(all.String(), "\nfunc Test"+name+"(t *testing.T)") {
			t.Errorf("tests/cluster has no Test%s", name)
		}
	}
}

// run returns what scripts/test says, of arguments with which it begins nothing.
func run(t *testing.T, arguments ...string) string {
	t.Helper()
	ctx, done := context.WithTimeout(t.Context(), time.Minute)
	defer done()
	out, err := exec.CommandContext(ctx, "../../scripts/test", arguments...).CombinedOutput()
	if _, ended := err.(*exec.ExitError); err != nil && !ended {
		t.Fatal(err)
	}
	return string(out)
}
