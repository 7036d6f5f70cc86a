package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/tests/expect"
)

// world is a directory in which testdata/docker keeps its containers, and first of the PATH that docker.
func world(t *testing.T) string {
	t.Helper()
	here, err := filepath.Abs("testdata")
	expect.Must(t, err)
	dir := t.TempDir()
	expect.Must(t, os.Mkdir(filepath.Join(dir, "containers"), 0o755))
	t.Setenv("WORLD", dir)
	t.Setenv("PATH", here+":"+os.Getenv("PATH"))
	for _, name := range []string{"BENCH_BASE", "BENCH_IMAGE", "BENCH_CONSUL"} {
		t.Setenv(name, "")
	}
	return dir
}

func put(t *testing.T, dir, name, text string) {
	t.Helper()
	expect.Must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
}

// asked returns what docker was asked for, one command an element.
func asked(t *testing.T, dir string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "asked"))
	expect.Must(t, err)
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// nothing fails when something is left in the world.
func nothing(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(filepath.Join(dir, "containers"))
	expect.Must(t, err)
	if _, err := os.Stat(filepath.Join(dir, "network")); err == nil || len(left) > 0 {
		t.Errorf("left: %v, network: %v", left, err)
	}
}

func open(t *testing.T) (*lab, *measuring) {
	t.Helper()
	l, err := newLab([]string{"/from:/to:ro"})
	expect.Must(t, err)
	l.second = time.Millisecond
	expect.Must(t, l.open(t.Context()))
	return l, &measuring{lab: l, report: new(report), rounds: 2}
}

// Kinds take turns, each in a lab of its own, and nothing is left of it.
func TestColdTakesTurns(t *testing.T) {
	dir := world(t)
	l, m := open(t)
	expect.Must(t, m.cold(t.Context(), 3))
	r := m.report.Rows[0]
	if len(r.values[bare]) != 2 || len(r.values[plugin]) != 2 || len(r.values[ours]) != 2 || len(r.loads) != 6 || len(r.errs) > 0 {
		t.Errorf("%+v", r)
	}
	for k, values := range r.values {
		if v := slices.Min(values); v <= 0 || v > 60 {
			t.Errorf("%s: %v", k, values)
		}
	}
	var turns []string
	made := regexp.MustCompile(`^create --name rmq-entrypoint-bench-rabbit1 --label rmq-entrypoint-bench .*-v /from:/to:ro.* (rmq-entrypoint\S*) ?`)
	for _, line := range asked(t, dir) {
		if m := made.FindStringSubmatch(line); m != nil {
			turns = append(turns, m[1])
		} else if strings.HasPrefix(line, "run ") && len(turns) > 0 {
			turns = append(turns, "consul")
		}
	}
	one := []string{"rmq-entrypoint/rabbitmq:forky", "consul", "rmq-entrypoint/rabbitmq:forky", "consul", "rmq-entrypoint:4-management"}
	if want := slices.Concat(one, []string{"consul"}, one); !slices.Equal(turns, want) {
		t.Errorf("made %v, want %v", turns, want)
	}
	l.sweep()
	nothing(t, dir)
}

// Two clusters are no figure, and are none for single nodes either.
func TestTwoClustersAreNoFigure(t *testing.T) {
	dir := world(t)
	put(t, dir, "running", `{"running_nodes":["rabbit@rabbit1","rabbit@rabbit3"]}`)
	_, m := open(t)
	expect.Must(t, m.cold(t.Context(), 3))
	expect.Must(t, m.join(t.Context()))
	expect.Must(t, m.restart(t.Context()))
	cold := m.report.Rows[0]
	if len(cold.values[bare]) != 2 || len(cold.values[plugin])+len(cold.values[ours]) > 0 || len(cold.errs[plugin]) != 2 || len(cold.errs[ours]) != 2 {
		t.Errorf("%+v", cold)
	}
	expect.Says(t, cold.errs[plugin][0], "round 1: ", "3 nodes run in one cluster", "rabbit@rabbit1, rabbit@rabbit3")
	for _, r := range m.report.Rows[1:] {
		if len(r.values) > 0 || len(r.errs[ours]) != 2 || len(r.errs[bare]) != 2 {
			t.Errorf("%+v", r)
		}
	}
	if n := len(m.report.failed()); n != 12 {
		t.Errorf("%d rounds failed", n)
	}
}

// It takes from the first that started until the last that served, whoever they are; ours serve once they are verified.
func TestFromTheFirstStartToTheLast(t *testing.T) {
	dir := world(t)
	put(t, dir, "containers/left", "") // by a run that was killed
	l, _ := open(t)
	if _, err := os.Stat(filepath.Join(dir, "containers/left")); err == nil {
		t.Error("what was left is still there")
	}
	for _, order := range [][]int{{1, 2, 3}, {3, 2, 1}, {2, 3, 1}} {
		for i, n := range order {
			name := container(n)
			put(t, dir, "started-"+name, fmt.Sprintf("2026-11-27T01:00:0%dZ", 1+i))
			put(t, dir, "log-"+name, fmt.Sprintf("2026-11-27T01:00:1%dZ Server startup complete\n2026-11-27T01:00:2%dZ msg=\"verified: this node is a member\"\n", 9-i, 2+i))
		}
		for k, want := range map[kind]float64{bare: 18, plugin: 18, ours: 23} {
			if took, err := l.start(t.Context(), k, 1, 2, 3); err != nil || took != want {
				t.Errorf("%s, in the order %v: %v, %v, want %v", k, order, took, err, want)
			}
		}
	}
}

// A run that has a round without a figure shows what it has, and is no success.
func TestFailedRoundsAreNoSuccess(t *testing.T) {
	dir := world(t)
	put(t, dir, "ended", "")
	var out strings.Builder
	err := run(t.Context(), []string{"-rounds", "1", "-nodes", "1", "-only", "cold"}, &out)
	if err == nil || !strings.Contains(err.Error(), "3 rounds failed") {
		t.Errorf("it ended with %v", err)
	}
	expect.Says(t, out.String(), "| 1 blank nodes at once", "1 of 1 failed", "the last word")
	nothing(t, dir)
}

// A bare cluster has its seed first; what joins later is told who is there.
func TestBareClusterIsToldItsNodes(t *testing.T) {
	dir := world(t)
	l, _ := open(t)
	expect.Must(t, l.form(t.Context(), bare, 3))
	var story []string
	for _, line := range asked(t, dir) {
		if f := strings.Fields(line); slices.Contains([]string{"start", "logs"}, f[0]) {
			story = append(story, f[0]+" "+f[len(f)-1][len(label)+1:])
		}
	}
	if len(story) != 6 || !slices.Equal(story[:2], []string{"start rabbit1", "logs rabbit1"}) {
		t.Errorf("%v", story)
	}
}

// The client's node is killed, whichever it is, and the gap is the one after that.
func TestFailover(t *testing.T) {
	dir := world(t)
	_, m := open(t)
	now := time.Now().UTC()
	ledger := ""
	for i, at := range []time.Duration{-10 * time.Hour, -time.Second, time.Hour, time.Hour + time.Second} {
		ledger += fmt.Sprintf("%s confirmed 5f3a9c01 %d\n", now.Add(at).Format(time.RFC3339Nano), i+1)
	}
	put(t, dir, "ledger", ledger)
	put(t, dir, "client.log", "level=INFO msg=connected program=rmq-entrypoint broker=rabbit2:5672 queue=my-queue\n")
	expect.Must(t, m.failover(t.Context()))
	r := m.report.Rows[0]
	if got := []float64{3601, 3601}; !slices.Equal(r.values[bare], got) || !slices.Equal(r.values[ours], got) || len(r.errs) > 0 {
		t.Errorf("%+v, want %v", r, got)
	}
	if killed := slices.DeleteFunc(asked(t, dir), func(line string) bool { return !strings.HasPrefix(line, "kill ") }); !slices.Equal(slices.Compact(killed), []string{"kill " + container(2)}) {
		t.Errorf("killed: %q", killed)
	}
}

// An idle minute has a value of each node.
func TestIdle(t *testing.T) {
	dir := world(t)
	_, m := open(t)
	m.second = 10 * time.Millisecond // a minute is 0.6 s, with 60 requests
	var log strings.Builder
	now := time.Now().UTC()
	for i := range 30_000 { // for 5 minutes
		fmt.Fprintf(&log, "%s [DEBUG] agent.http: Request finished: method=GET url=/v1/x from=172.18.0.9:41270 latency=1ms\n", now.Add(time.Duration(i)*m.second).Format(time.RFC3339Nano))
	}
	put(t, dir, "consul.log", log.String())
	expect.Must(t, m.idle(t.Context(), true, true))
	if len(m.report.Rows) != 3 {
		t.Fatalf("%d rows", len(m.report.Rows))
	}
	for i, most := range []float64{10, 2, 60} { // MiB; 0.03 s in 0.6 s or longer; requests
		r := m.report.Rows[i]
		if v := r.values[ours]; len(v) != 6 || slices.Max(v) > most*1.6 || slices.Min(v) < most/20 || len(r.errs) > 0 {
			t.Errorf("%+v", r)
		}
	}
	if v := m.report.Rows[2].values[ours]; slices.Min(v) != 60 || slices.Max(v) != 60 {
		t.Errorf("requests: %v", v)
	}

	put(t, dir, "consul.log", "")
	m.report = new(report)
	expect.Must(t, m.idle(t.Context(), false, true))
	if failed := m.report.failed(); len(failed) != 1 || !strings.Contains(failed[0], "no request of rabbit1") {
		t.Errorf("%q", failed)
	}
}

// What joins a bare cluster is told who is in it; a restart is one of all members, and the cluster stays as large as it was.
func TestJoinAndRestart(t *testing.T) {
	dir := world(t)
	_, m := open(t)
	m.rounds = 1
	expect.Must(t, errors.Join(m.join(t.Context()), m.restart(t.Context())))
	for _, r := range m.report.Rows {
		if len(r.values[bare]) != 1 || len(r.values[ours]) != 1 || len(r.values[plugin]) > 0 || len(r.errs) > 0 {
			t.Errorf("%+v", r)
		}
	}
	// Of what RabbitMQ is told each line is one here: of rabbit2 and rabbit3 of three bare clusters, and then who joins two.
	all, stops := asked(t, dir), []string{}
	told := map[string]int{}
	for _, line := range all {
		if strings.HasPrefix(line, "cluster_formation.classic_config.nodes.") {
			told[line]++
		}
		if strings.HasPrefix(line, "stop ") {
			stops = append(stops, line)
		}
	}
	if want := map[string]int{
		"cluster_formation.classic_config.nodes.1 = rabbit@rabbit1": 4, "cluster_formation.classic_config.nodes.2 = rabbit@rabbit2": 3,
		"cluster_formation.classic_config.nodes.2 = rabbit@rabbit3": 1, "cluster_formation.classic_config.nodes.3 = rabbit@rabbit3": 1,
	}; !maps.Equal(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}
	slices.Sort(stops)
	if stops = slices.Compact(stops); len(stops) != 3 || !strings.HasSuffix(stops[2], "rabbit3") {
		t.Errorf("%v", stops)
	}
	if text := strings.Join(all, "\n"); strings.Count(text, " rabbitmq_management,rabbitmq_prometheus\n") != 6 || strings.Count(text, "CONSUL_HTTP_ADDR=172.18.0.9:8500 -e RMQ_DNS_SERVER=172.18.0.9:8600") != 6 {
		t.Errorf("plugins or addresses of six nodes of each:\n%s", text)
	}
}

func TestNodeThatEnds(t *testing.T) {
	dir := world(t)
	l, m := open(t)
	put(t, dir, "ended", "")
	expect.Must(t, m.cold(t.Context(), 1))
	for k, errs := range m.report.Rows[0].errs {
		expect.Says(t, fmt.Sprint(errs), "rabbit1: ended before it served", "the last word")
		if len(errs) != 2 {
			t.Errorf("%s: %q", k, errs)
		}
	}
	l.sweep()
	nothing(t, dir)
}

// An interruption ends the run, leaves nothing, and shows no figure of the round that it ended.
func TestInterrupted(t *testing.T) {
	dir := world(t)
	put(t, dir, "silent", "")
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("interrupt")
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, []string{"-rounds", "1", "-nodes", "2", "-only", "cold"}, io.Discard) }()
	expect.Eventually(t, 30*time.Second, "a log is followed", func() error {
		if text, _ := os.ReadFile(filepath.Join(dir, "asked")); !strings.Contains(string(text), "logs -f") {
			return errors.New("not yet")
		}
		return nil
	})
	cancel(stopped)
	if err := <-ended; !errors.Is(err, stopped) {
		t.Errorf("it ended with %v", err)
	}
	nothing(t, dir)
}

// What would fail after an hour fails at once.
func TestStartable(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	t.Setenv("PATH", dir)
	t.Setenv("RMQ_TEST_CONSUL", "")
	executable := func(name string) {
		t.Helper()
		expect.Must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		expect.Must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o755))
	}
	refused := func(word string) {
		t.Helper()
		if err := startable(); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%v, want something with %s", err, word)
		}
		if err := run(t.Context(), nil, io.Discard); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("a run: %v, want something with %s", err, word)
		}
	}
	refused(`"go"`)
	executable("go")
	refused("RMQ_TEST_CONSUL")
	executable("consul")
	expect.Must(t, startable())
	expect.Must(t, os.Remove("consul"))
	executable(".cache/bin/consul")
	expect.Must(t, startable())
	expect.Must(t, os.Remove(".cache/bin/consul"))
	t.Setenv("RMQ_TEST_CONSUL", filepath.Join(dir, "opt/consul"))
	refused("RMQ_TEST_CONSUL")
	executable("opt/consul")
	expect.Must(t, startable())
}

// Ratios are between one version of RabbitMQ; what is missing is named, with the way out, before anything is made.
func TestVersions(t *testing.T) {
	dir := world(t)
	l, err := newLab(nil)
	expect.Must(t, err)
	if version, err := l.versions(t.Context()); err != nil || version != "4.3.6" {
		t.Errorf("%q, %v", version, err)
	}
	put(t, dir, "version-rmq-entrypoint---management", "4.0.5")
	if version, err := l.versions(t.Context()); err == nil {
		t.Errorf("two versions are one: %q", version)
	} else {
		expect.Says(t, err.Error(), "4.3.6 and 4.0.5", "BENCH_BASE", "BENCH_IMAGE")
	}
	t.Setenv("BENCH_BASE", "mine:1")
	if l, err := newLab(nil); err != nil || l.base != "mine:1" || l.image != "rmq-entrypoint:4-management" || l.consul != "rmq-entrypoint/consul" {
		t.Errorf("%+v, %v", l, err)
	}
}
