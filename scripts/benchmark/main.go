// Package main measures what the product promises about speed, side by side with RabbitMQ alone and with RabbitMQ's own
// Consul plugin, in one run on one machine. It builds no image, and drives the docker command line.
//
//	benchmark [-rounds N] [-nodes 3,5] [-fleets 100,300,1000] [-only NAME,…] [-mount SRC:DST[:ro]]… [-write]
//
// scripts/bench calls it, from the root of the repository, and explains it. The table goes to standard output, the story
// to standard error. A round that fails is told and counted, and is no figure; then the exit status is 1.
//
//	main.go      command line, the order of things
//	lab.go       network, Consul and nodes: made, started, gone
//	measure.go   cold, join, restart, failover
//	idle.go      start, companion, consul
//	scale.go     scale: fleets of nodes without RabbitMQ, and without docker
//	logs.go      what programs print, read: no I/O
//	report.go    medians and the table
//	graph.go     the graph
//	fleets.go    the table of scale
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"rmq-entrypoint/scripts/benchmark/fleet"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// names are the measurements, in the order in which they are taken.
var names = []string{"cold", "join", "restart", "failover", "start", "companion", "consul", "scale"}

// A plan is what the command line asks for.
type plan struct {
	rounds int
	nodes  []int // of a cold start
	fleets []int // of scale
	only   []string
	mounts []string
	write  bool
}

func parse(args []string) (plan, error) {
	var p plan
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // scripts/bench has the explanation, and run the error
	flags.IntVar(&p.rounds, "rounds", 5, "so many of each, 1 to 100")
	nodes := flags.String("nodes", "3,5", "how many nodes a cold start has, comma-separated, 1 to 9")
	fleets := flags.String("fleets", "100,300,1000", "how many nodes a fleet of scale has, comma-separated, each a multiple of 5")
	only := flags.String("only", strings.Join(names, ","), "these measurements alone, comma-separated")
	flags.BoolVar(&p.write, "write", false, "put table and graph into docs/performance.md and docs/performance.svg")
	flags.Func("mount", "SRC:DST[:ro], a directory to mount into every node; may be repeated", func(text string) error {
		from, to, ok := strings.Cut(text, ":")
		if !ok || !filepath.IsAbs(from) || !filepath.IsAbs(to) {
			return errors.New("want SRC:DST[:ro], two absolute paths")
		}
		if _, err := os.Stat(from); err != nil {
			return err
		}
		p.mounts = append(p.mounts, text)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return p, fmt.Errorf("%w; see scripts/bench --help", err)
	}
	if flags.NArg() > 0 {
		return p, fmt.Errorf("unknown argument %s; see scripts/bench --help", flags.Arg(0))
	}
	if p.rounds < 1 || p.rounds > 100 {
		return p, fmt.Errorf("-rounds %d: want 1 to 100", p.rounds)
	}
	var err error
	if p.nodes, err = numbersIn(*nodes, func(n int) bool { return n >= 1 && n <= 9 }); err != nil {
		return p, fmt.Errorf("-nodes %s: %w a number from 1 to 9, or is there twice", *nodes, err)
	}
	if p.fleets, err = numbersIn(*fleets, func(n int) bool { return n > 0 && n <= fleet.Most && n%fleet.ClusterSize == 0 }); err != nil {
		return p, fmt.Errorf("-fleets %s: %w a multiple of %d up to %d, or is there twice", *fleets, err, fleet.ClusterSize, fleet.Most)
	}
	for name := range strings.SplitSeq(*only, ",") {
		if !slices.Contains(names, name) || slices.Contains(p.only, name) {
			return p, fmt.Errorf("-only %s: %q is none of %s, or is there twice", *only, name, strings.Join(names, ", "))
		}
		p.only = append(p.only, name)
	}
	return p, nil
}

// asked: is one of these measurements to be taken?
func (p plan) asked(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return slices.Contains(p.only, name) })
}

// compares: is a measurement asked for that has something to be compared with?
func (p plan) compares() bool {
	return slices.ContainsFunc(p.only, func(name string) bool { return name != "scale" })
}

// numbersIn reads numbers with commas between them. The error names the first one that is there twice, or will not do.
func numbersIn(list string, will func(int) bool) (all []int, err error) {
	for text := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || !will(n) || slices.Contains(all, n) {
			return nil, fmt.Errorf("%q is not", text)
		}
		all = append(all, n)
	}
	return all, nil
}

// run measures, and writes the tables to out: what it has of them, when it is interrupted.
func run(ctx context.Context, args []string, out io.Writer) error {
	p, err := parse(args)
	if err != nil {
		return err
	}
	if err := possible(p); err != nil {
		return err
	}
	before, err := load()
	if err != nil {
		return err
	}
	if cpus := runtime.NumCPU(); before > 0.5*float64(cpus) {
		say("WARNING: the load is %.2f on %d CPUs: something else is at work, and the figures are of both", before, cpus)
	}
	if p.compares() {
		err = sideBySide(ctx, p, before, out)
	}
	if p.asked("scale") && ctx.Err() == nil {
		err = errors.Join(err, scaled(ctx, p, out))
	}
	return err
}

// possible says what would keep a measurement from its work, before an hour of measuring.
func possible(p plan) error {
	if p.write {
		var places []place
		if p.compares() {
			places = append(places, figures)
		}
		if p.asked("scale") {
			places = append(places, fleets)
		}
		if err := writable(places...); err != nil {
			return err
		}
	}
	if p.asked("start") {
		if err := startable(); err != nil {
			return err
		}
	}
	if p.asked("scale") {
		return scalable(p.fleets)
	}
	return nil
}

// sideBySide takes the measurements that have something to be compared with, in docker.
func sideBySide(ctx context.Context, p plan, before float64, out io.Writer) error {
	l, err := newLab(p.mounts)
	if err != nil {
		return err
	}
	version, err := l.versions(ctx)
	if err != nil {
		return err
	}
	defer l.sweep()
	if err := l.open(ctx); err != nil {
		return err
	}
	r := report{Rounds: p.rounds, RabbitMQ: version, CPUs: runtime.NumCPU(), Load: before, Day: time.Now().UTC(), Mounted: len(p.mounts) > 0}
	err = measure(ctx, p, l, &r)
	fmt.Fprint(out, r.markdown())
	if err != nil {
		return err
	}
	if p.write {
		if err := r.write(); err != nil {
			return err
		}
		say("wrote %s and %s", document, graphFile)
	}
	if failed := r.failed(); len(failed) > 0 {
		return fmt.Errorf("%d rounds failed", len(failed))
	}
	return nil
}

// measure takes the measurements one after the other, and leaves their rows in r.
func measure(ctx context.Context, p plan, l *lab, r *report) error {
	m := &measuring{lab: l, report: r, rounds: p.rounds}
	if p.asked("cold") {
		for _, n := range p.nodes {
			if err := m.cold(ctx, n); err != nil {
				return err
			}
		}
	}
	for _, one := range []struct {
		name string
		take func(context.Context) error
	}{{"join", m.join}, {"restart", m.restart}, {"failover", m.failover}, {"start", m.start}} {
		if p.asked(one.name) {
			if err := one.take(ctx); err != nil {
				return err
			}
		}
	}
	if p.asked("companion", "consul") {
		return m.idle(ctx, p.asked("companion"), p.asked("consul"))
	}
	return nil
}

// say tells what goes on.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// load is this machine's load average of the last minute.
func load() (float64, error) {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0, fmt.Errorf("read the load: %w", err)
	}
	first, _, _ := strings.Cut(string(text), " ")
	return strconv.ParseFloat(first, 64)
}
