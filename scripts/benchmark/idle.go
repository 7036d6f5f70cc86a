package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"time"
)

// startable says what would keep BenchmarkStart from its work, before an hour of measuring: it needs Go, and a Consul to
// run.
func startable() error {
	if _, err := exec.LookPath("go"); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	if _, err := consulProgram(); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	return nil
}

// start: from the start of the program to the exec of the server, and the companion's memory, as BenchmarkStart measures
// them: with a server that is a stub, the median of twenty starts.
func (m *measuring) start(ctx context.Context) error {
	r := &row{What: "from the start of the program to the exec of the server", Unit: milliseconds}
	m.report.Rows = append(m.report.Rows, r)
	before, err := load()
	if err != nil {
		return err
	}
	if err := m.clear(ctx); err != nil {
		return err
	}
	say("%s: BenchmarkStart, about two minutes …", r.What)
	bench := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^BenchmarkStart$", "-benchtime", "1x", "-timeout", "10m", "./cmd/rmq-entrypoint")
	bench.Stderr, bench.WaitDelay = os.Stderr, time.Second
	out, err := bench.Output() // of a benchmark that fails, without its figures
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	value := 0.0
	if err == nil {
		value, err = metric(string(out), "ms/start")
	} else {
		say("%s", out)
		err = fmt.Errorf("go test -bench: %w: %s", err, complaints(string(out)))
	}
	if err != nil {
		say("%s: FAILED: %v", r.What, err)
		r.fail(ours, 1, err)
		return nil
	}
	say("%s: %s (load before it %.2f)", r.What, r.Unit.show(value), before)
	r.add(ours, value, before)
	return nil
}

// look is a shell script that prints what [used] reads. The brackets keep it from finding itself.
const look = `for p in /proc/[0-9]*; do
	case $(tr '\0' ' ' <"$p/cmdline") in
	*rmq-entrypoin[t]\ companion\ *) cat "$p/stat" && grep VmRSS: "$p/status" && getconf CLK_TCK ;;
	esac
done 2>/dev/null`

// idle: what a cluster of three costs that nobody uses, from a minute after its start on; a round is a minute. Each node
// gives a value.
func (m *measuring) idle(ctx context.Context, companion, consul bool) error {
	memory := &row{What: "idle, a node: the companion's resident memory", Unit: mebibytes}
	cpu := &row{What: "idle, a node: the companion's CPU, in a minute", Unit: cpuSeconds}
	asked := &row{What: "idle, a node: requests to Consul, in a minute", Unit: times}
	if companion {
		m.report.Rows = append(m.report.Rows, memory, cpu)
	}
	if consul {
		m.report.Rows = append(m.report.Rows, asked)
	}
	say("idle: three nodes, a minute after their start …")
	err := func() error {
		ctx, cancel := context.WithTimeout(ctx, hang)
		defer cancel()
		return m.form(ctx, ours, 3)
	}()
	if err == nil {
		err = pause(ctx, 60*m.second)
	}
	for round := 0; err == nil && round < m.rounds; round++ {
		if err = m.minute(ctx, memory, cpu, asked); err == nil {
			say("idle: round %d of %d: %s, %s, %s", round+1, m.rounds, memory.last(ours), cpu.last(ours), asked.last(ours))
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		say("idle: FAILED: %v", err)
		for _, r := range []*row{memory, cpu, asked} {
			r.fail(ours, 1, err)
		}
	}
	return nil
}

// minute adds a minute's values of each of three nodes.
func (m *measuring) minute(ctx context.Context, memory, cpu, asked *row) error {
	before, err := load()
	if err != nil {
		return err
	}
	nodes, sample := numbers(1, 3), func(n int) (usage, error) {
		text, err := docker(ctx, "exec", container(n), "sh", "-c", look)
		if err != nil {
			return usage{}, err
		}
		u, err := used(text)
		u.at = time.Now()
		return u, err
	}
	was := map[int]usage{}
	for _, n := range nodes {
		if was[n], err = sample(n); err != nil {
			return fmt.Errorf("%s: %w", host(n), err)
		}
	}
	from := time.Now()
	if err := pause(ctx, 60*m.second); err != nil {
		return err
	}
	to := from.Add(60 * m.second)
	for _, n := range nodes {
		is, err := sample(n)
		if err != nil {
			return fmt.Errorf("%s: %w", host(n), err)
		}
		memory.add(ours, is.rss, before)
		cpu.add(ours, (is.cpu-was[n].cpu)/is.at.Sub(was[n].at).Minutes(), before)
	}
	log, err := dockerLog(ctx, label+"-consul", from)
	if err != nil {
		return err
	}
	count := requests(log, from, to)
	for _, n := range nodes {
		address, err := docker(ctx, "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", container(n))
		if err != nil {
			return err
		}
		if count[address] == 0 {
			return fmt.Errorf("the log of Consul has no request of %s (%s), and of others %v", host(n), address, count)
		}
		asked.add(ours, float64(count[address]), before)
	}
	return nil
}

// dockerLog returns what a container printed since then, on both outputs, with times.
func dockerLog(ctx context.Context, name string, since time.Time) (string, error) {
	out, err := exec.CommandContext(ctx, "docker", "logs", "-t", "--since", since.UTC().Format(time.RFC3339Nano), name).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("docker logs %s: %w: %.200s", name, err, out)
	}
	return string(out), nil
}
