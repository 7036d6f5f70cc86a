package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/scripts/benchmark/fleet"
)

// wholeIn ends what does not come to its end.
const wholeIn = 2 * time.Minute

// lengths are how long parts of a run with a fleet take.
type lengths struct {
	start  time.Duration // between the starts of two nodes
	settle time.Duration // after all were verified, and after a fault: what follows late is seen
	steady time.Duration // what is kept of record and catalog is read again within it
}

var usual = lengths{start: 100 * time.Millisecond, settle: 15 * time.Second, steady: time.Minute}

// A fault is what became of a fleet when Consul failed. Times are from that on.
type fault struct {
	Leader  time.Duration // until Consul had a leader again
	Unfound int           // nodes, at most at a time, that had no entry which passes
	Whole   time.Duration // until all had one for good
	Left    int           // entries, at most at a time, that nodes had besides, with a server which they had moved away from
	Cleared time.Duration // until there were none for good
	Lapsed  int           // checks of nodes that lapsed
	Told    time.Duration // until Consul had taken a report of each node
	Unready int           // nodes that said at some time that they are not fit
	Peak    int           // requests within a second
	Refused int           // requests that Consul answered with an error
	Never   string        // what had not become well in time; all of the above is until then
}

// A scaling is what Consul and one fleet of nodes came to.
type scaling struct {
	Nodes     int
	Requests  float64 // of all nodes, in a second
	Each      float64 // of a node, in a minute
	Leaders   float64 // of a node in a minute, calls that the leader alone answers
	CPU       float64 // of the leader, in cores
	Memory    float64 // of the leader, in MiB
	Beats     [3]time.Duration
	Files     int     // open in the server that has the most
	Links     float64 // connections of a node
	Killed    fault   // of the leader
	Returned  fault   // the server that was killed
	Restarted fault   // all three
}

// An experiment is one fleet with its Consul.
type experiment struct {
	servers *fleet.Servers
	fleet   *fleet.Fleet
	nodes   int
	lengths
}

// consulProgram is the one that the tests take, too.
func consulProgram() (string, error) {
	for _, program := range []string{os.Getenv("RMQ_TEST_CONSUL"), "consul", "./.cache/bin/consul"} {
		if program == "" {
			continue
		}
		if path, err := exec.LookPath(program); err == nil {
			return filepath.Abs(path)
		} else if program == os.Getenv("RMQ_TEST_CONSUL") {
			return "", fmt.Errorf("RMQ_TEST_CONSUL: %w", err)
		}
	}
	return "", errors.New("no consul in RMQ_TEST_CONSUL, PATH or .cache/bin: name one, or leave it out with -only")
}

// scalable says what would keep fleets of these sizes from being measured.
func scalable(sizes []int) error {
	if _, err := consulProgram(); err != nil {
		return fmt.Errorf("scale: %w", err)
	}
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return fmt.Errorf("scale: read the limit of open files: %w", err)
	}
	if most := slices.Max(sizes); files.Max < filesFor(most) {
		return fmt.Errorf("scale: %d nodes may need %d open files in a process, and this one may have %d: ulimit -n %d, or fewer nodes with -fleets", most, filesFor(most), files.Max, filesFor(most))
	}
	files.Cur = files.Max
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files) // set by hand it is that of Consul, too
}

// filesFor is how many files this process may have open for so many nodes: each has a few connections, and more for moments.
func filesFor(nodes int) uint64 { return uint64(8*nodes + 500) } // #nosec G115 -- a few thousand

// scale runs a fleet of each size, also when another one failed.
func scale(ctx context.Context, sizes []int) (all []scaling, failed error) {
	for _, name := range os.Environ() { // of the user's own Consul
		if name, _, _ := strings.Cut(name, "="); strings.HasPrefix(name, "CONSUL_") {
			if err := os.Unsetenv(name); err != nil {
				return nil, err
			}
		}
	}
	for _, n := range sizes {
		one, err := scaleTo(ctx, n, usual)
		if ctx.Err() != nil {
			return all, context.Cause(ctx)
		}
		if one.Nodes > 0 { // what it came to before it failed counts
			all = append(all, one)
		}
		if err != nil {
			say("scale: %d nodes: FAILED: %v", n, err)
			failed = errors.Join(failed, fmt.Errorf("%d nodes: %w", n, err))
		}
	}
	return all, failed
}

// scaleTo takes one from its start to its end.
func scaleTo(ctx context.Context, n int, of lengths) (s scaling, err error) {
	bin, err := consulProgram()
	if err != nil {
		return s, err
	}
	data, err := os.MkdirTemp("", label)
	if err != nil {
		return s, err
	}
	defer os.RemoveAll(data)
	parent := ""
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		parent = "/dev/shm" // a thousand volumes are a thousand disks
	}
	volumes, err := os.MkdirTemp(parent, label)
	if err != nil {
		return s, err
	}
	defer os.RemoveAll(volumes)
	e := experiment{nodes: n, lengths: of}
	if e.servers, err = fleet.StartServers(ctx, bin, data); err != nil {
		return s, err
	}
	defer e.servers.Stop()
	say("scale: %d nodes start …", n)
	if e.fleet, err = fleet.Start(ctx, n, e.servers, volumes, time.Duration(n)*of.start); err != nil {
		return s, err
	}
	defer e.fleet.Stop()
	if err := until(ctx, wholeIn, "all nodes pass", func() error { return e.fit(ctx) }); err != nil {
		return s, err
	}
	if err := pause(ctx, e.settle); err != nil {
		return s, err
	}
	say("scale: %d nodes pass; nothing happens for %s …", n, e.steady)
	if s, err = e.measure(ctx); err != nil {
		return s, err
	}
	say("scale: %d nodes: %.1f requests a second, the leader takes %.0f %% of a core", n, s.Requests, 100*s.CPU)
	return s, e.faults(ctx, &s)
}

// fit returns an error until all nodes pass, each with one entry.
func (e *experiment) fit(ctx context.Context) error {
	seen := e.fleet.See(ctx, e.servers)
	if seen.Err == nil && (seen.Passing < e.nodes || seen.Entries != e.nodes) {
		return fmt.Errorf("of %d nodes %d pass, with %d entries in all", e.nodes, seen.Passing, seen.Entries)
	}
	return errors.Join(seen.Err, e.fleet.Whole(), e.servers.Whole())
}

// A reading is what servers have used and counted.
type reading struct {
	cpu  float64 // of the leader
	http float64 // of all
	led  float64 // by the leader
	at   time.Time
}

func (e *experiment) read(ctx context.Context, leader int) (r reading, err error) {
	for i := range 3 {
		tally, err := e.servers.Tally(ctx, i)
		if err != nil {
			return r, err
		}
		r.http += tally.HTTP
		if i == leader {
			r.led = tally.Leader
		}
	}
	r.cpu, err = e.servers.CPU(leader)
	r.at = time.Now()
	return r, err
}

// measure measures a fleet with which nothing happens.
func (e *experiment) measure(ctx context.Context) (s scaling, err error) {
	leader, err := e.servers.Leader(ctx)
	if err != nil {
		return s, err
	}
	before, err := e.read(ctx, leader)
	if err != nil {
		return s, err
	}
	if err := pause(ctx, e.steady); err != nil {
		return s, err
	}
	after, err := e.read(ctx, leader)
	if err != nil {
		return s, err
	}
	requests, looks := e.fleet.Traffic.Between(before.at, after.at)
	took := after.at.Sub(before.at)
	count := fleet.Count(requests)
	s.Nodes = e.nodes
	s.Requests = float64(len(requests)) / took.Seconds()
	s.Each = float64(len(requests)) / took.Minutes() / float64(e.nodes)
	s.Leaders = (after.led - before.led) / took.Minutes() / float64(e.nodes)
	s.CPU = (after.cpu - before.cpu) / took.Seconds()
	answered, counted := e.fleet.Traffic.Answered(before.at, after.at), after.http-before.http
	say("scale: %d nodes sent %d requests (%v) and got %d answers, Consul counted %.0f and its leader alone %.0f", e.nodes, len(requests), count, answered, counted, after.led-before.led)
	if math.Abs(counted-float64(answered)) > 20+0.1*float64(answered) {
		return s, fmt.Errorf("the nodes got %d answers, and Consul says that it gave %.0f: one of the two is not counted well", answered, counted)
	}
	beats := fleet.Heartbeats(requests, looks)
	if len(beats) == 0 {
		return s, errors.New("no heartbeat told Consul anything")
	}
	s.Beats = [3]time.Duration{beats[len(beats)/2], beats[len(beats)*95/100], beats[len(beats)-1]}
	if s.Memory, err = e.servers.Memory(leader); err != nil {
		return s, err
	}
	links, err := e.servers.Connections()
	if err != nil {
		return s, err
	}
	s.Links = float64(links) / float64(e.nodes)
	for i := range 3 {
		files, err := e.servers.Files(i)
		if err != nil {
			return s, err
		}
		s.Files = max(s.Files, files)
	}
	return s, nil
}

// faults kills the leader, lets it come back, and restarts all three servers.
func (e *experiment) faults(ctx context.Context, s *scaling) error {
	leader, err := e.servers.Leader(ctx)
	if err != nil {
		return err
	}
	for _, one := range []struct {
		what   string
		breaks func() error
		fault  *fault
	}{
		{"the leader is killed", func() error { e.servers.Kill(leader); return nil }, &s.Killed},
		{"the killed server returns", e.servers.StartAll, &s.Returned},
		{"all of Consul is restarted", func() error { e.servers.Stop(); return e.servers.StartAll() }, &s.Restarted},
	} {
		say("scale: %d nodes: %s …", e.nodes, one.what)
		if *one.fault, err = e.fault(ctx, one.breaks); err != nil {
			return fmt.Errorf("%s: %w", one.what, err)
		}
		say("scale: %d nodes: %+v", e.nodes, *one.fault)
		if one.fault.Never != "" { // what follows would be of both
			return fmt.Errorf("%s: %s", one.what, one.fault.Never)
		}
	}
	return nil
}

// fault does what breaks Consul, and sees what becomes of it until all is well and has been for a while.
func (e *experiment) fault(ctx context.Context, breaks func() error) (f fault, err error) {
	began := time.Now()
	watch := e.fleet.Watch(ctx, e.servers)
	defer watch.End()
	if err := breaks(); err != nil {
		return f, err
	}
	well := until(ctx, wholeIn, "Consul has a leader", func() error { _, err := e.servers.Leader(ctx); return err })
	if well == nil {
		f.Leader = time.Since(began)
		well = until(ctx, wholeIn, "Consul has a report of each node, and all pass with one entry each", func() error {
			requests, _ := e.fleet.Traffic.Between(began, time.Now())
			if _, untold := fleet.Told(requests, e.nodes, began); len(untold) > 0 {
				return fmt.Errorf("no report of %s", peers.Some(untold))
			}
			return e.fit(ctx)
		})
	}
	if well != nil {
		f.Never = well.Error()
	}
	if err := pause(ctx, e.settle); err != nil {
		return f, err
	}
	requests, _ := e.fleet.Traffic.Between(began, time.Now())
	if told, untold := fleet.Told(requests, e.nodes, began); len(untold) == 0 {
		f.Told = told.Sub(began)
	}
	f.Peak, f.Refused = fleet.Peak(requests), fleet.Refused(requests)
	f.take(watch.End(), began, e.nodes)
	return f, nil
}

// take takes over what a watch saw of so many nodes.
func (f *fault) take(all []fleet.Seen, began time.Time, nodes int) {
	lapsed, unready := map[string]bool{}, map[string]bool{}
	broken, littered := false, false
	for _, seen := range all {
		for _, node := range seen.Unready {
			unready[node] = true
		}
		if seen.Err != nil {
			continue
		}
		for _, check := range seen.Lapsed {
			lapsed[check] = true
		}
		f.Unfound = max(f.Unfound, nodes-seen.Passing)
		if seen.Passing < nodes {
			broken = true
		} else if broken {
			broken, f.Whole = false, seen.At.Sub(began)
		}
		if left := seen.Entries - nodes; left > 0 {
			littered, f.Left = true, max(f.Left, left)
		} else if littered {
			littered, f.Cleared = false, seen.At.Sub(began)
		}
	}
	f.Lapsed, f.Unready = len(lapsed), len(unready)
}
