package cluster

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// promtool is Debian's, in a container that reaches nobody, with the folder of the repository at /here.
func promtool(t *testing.T, folder, stdin string, args ...string) string {
	t.Helper()
	here, err := filepath.Abs(filepath.Join("../..", folder))
	if err != nil {
		t.Fatal(err)
	}
	run := append([]string{"run", "--rm", "-i", "--label", label, "--network", "none", "-v", here + ":/here:ro", "--entrypoint", "promtool", "rmq-entrypoint/prometheus"}, args...)
	cmd := exec.Command("docker", run...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("promtool %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// Prometheus takes what the example gives it: its configuration, the alerts, each of which fires in a test, and what a
// companion answers.
func TestPrometheus(t *testing.T) {
	if testing.Short() {
		t.Skip("needs containers")
	}
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), slow(10*time.Minute)) // the package is fetched the first time
	defer cancel()
	build := exec.CommandContext(ctx, "docker", "build", "--force-rm", "--build-arg", "DEBIAN=rmq-entrypoint/debian:bookworm", "-t", "rmq-entrypoint/prometheus", "../../docker/prometheus")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build Prometheus: %v\n%s", err, out)
	}
	promtool(t, "compose/monitoring", "", "check", "config", "/here/prometheus.yml")
	promtool(t, "compose/monitoring", "", "test", "rules", "/here/alerts_test.yml")
	metrics, err := os.ReadFile("../../internal/overview/testdata/metrics")
	if err != nil {
		t.Fatal(err)
	}
	if out := promtool(t, "compose", string(metrics), "check", "metrics"); strings.TrimSpace(out) != "" {
		t.Errorf("promtool says of the metrics: %s", out)
	}
}
