package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// label is on everything that is made, and begins every name.
const label = "rmq-entrypoint-bench"

// hang ends what does not come to its end: a round, with the cluster that it needs.
const hang = 5 * time.Minute

// A kind is what a node runs.
type kind string

const (
	bare   kind = "bare"   // RabbitMQ alone; a cluster of it is told its nodes
	plugin kind = "plugin" // RabbitMQ with rabbitmq_peer_discovery_consul
	ours   kind = "ours"   // RabbitMQ behind rmq-entrypoint
)

// A lab is one network with one Consul in it, and the nodes of one round.
type lab struct {
	base, image, consul string // images: RabbitMQ alone, ours, Consul
	mounts              []string
	cookie, password    string
	address             string        // Consul's
	second              time.Duration // shorter in tests
}

func newLab(mounts []string) (*lab, error) {
	if _, err := exec.LookPath("docker"); err != nil {
		return nil, err
	}
	env := func(name, otherwise string) string {
		if value := os.Getenv(name); value != "" {
			return value
		}
		return otherwise
	}
	return &lab{
		base: env("BENCH_BASE", "rmq-entrypoint/rabbitmq:forky"), image: env("BENCH_IMAGE", "rmq-entrypoint:4-management"),
		consul: env("BENCH_CONSUL", "rmq-entrypoint/consul"), mounts: mounts, cookie: rand.Text(), password: rand.Text(), second: time.Second,
	}, nil
}

// versions returns the version of RabbitMQ in the images, which must be one: another one's speed is no measure.
func (l *lab) versions(ctx context.Context) (string, error) {
	var has []string
	for _, image := range []string{l.base, l.image, l.consul} {
		env, err := docker(ctx, "image", "inspect", "-f", "{{range .Config.Env}}{{println .}}{{end}}", image)
		if err != nil {
			return "", fmt.Errorf("there is no image %s (scripts/images makes the default ones; BENCH_BASE, BENCH_IMAGE and BENCH_CONSUL name others): %w", image, err)
		}
		for line := range strings.Lines(env) {
			if version, ok := strings.CutPrefix(strings.TrimSpace(line), "RABBITMQ_VERSION="); ok {
				has = append(has, version)
			}
		}
	}
	if len(has) != 2 || has[0] != has[1] {
		return "", fmt.Errorf("%s and %s have RabbitMQ %s: BENCH_BASE and BENCH_IMAGE are to have the same version", l.base, l.image, strings.Join(has, " and "))
	}
	return has[0], nil
}

// open removes what an interrupted run left, and makes the network.
func (l *lab) open(ctx context.Context) error {
	l.sweep()
	_, err := docker(ctx, "network", "create", "--label", label, label)
	return err
}

// sweep removes everything that carries the label, also after an interruption.
func (l *lab) sweep() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := l.clear(ctx); err != nil {
		say("%v", err)
	}
	if ids, err := docker(ctx, "network", "ls", "-q", "--filter", "label="+label); err != nil || ids != "" {
		if _, err := docker(ctx, append([]string{"network", "rm"}, strings.Fields(ids)...)...); err != nil {
			say("%v", err)
		}
	}
}

// clear removes the containers, with their data.
func (l *lab) clear(ctx context.Context) error {
	ids, err := docker(ctx, "ps", "-aq", "--filter", "label="+label)
	if err != nil || ids == "" {
		return err
	}
	_, err = docker(ctx, append([]string{"rm", "-fv"}, strings.Fields(ids)...)...)
	return err
}

// fresh leaves an empty Consul, and no node.
func (l *lab) fresh(ctx context.Context) error {
	if err := l.clear(ctx); err != nil {
		return err
	}
	if _, err := docker(ctx, "run", "-d", "--name", label+"-consul", "--label", label, "--network", label, "--hostname", "consul", l.consul,
		"agent", "-server", "-bootstrap-expect=1", "-client=0.0.0.0", "-data-dir=/consul/data", "-node=consul", "-log-level=debug",
		"-hcl=performance { raft_multiplier = 1 }"); err != nil {
		return err
	}
	var err error
	if l.address, err = docker(ctx, "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", label+"-consul"); err != nil {
		return err
	}
	return until(ctx, time.Minute, "Consul is ready", func() error {
		_, err := docker(ctx, "exec", label+"-consul", "consul", "kv", "put", "bench", "ready")
		return err
	})
}

// host is the host name of the node of that number, and container its container's.
func host(n int) string      { return fmt.Sprintf("rabbit%d", n) }
func container(n int) string { return label + "-" + host(n) }

// create makes the container of a node. A bare one looks for the peers by cluster_nodes; without any it is alone.
func (l *lab) create(ctx context.Context, k kind, n int, peers ...int) error {
	args := []string{
		"create", "--name", container(n), "--label", label, "--hostname", host(n), "--network", label, "--network-alias", host(n),
		"--ulimit", "nofile=16384:16384", "-e", "RABBITMQ_ERLANG_COOKIE=" + l.cookie, "-e", "RABBITMQ_DEFAULT_USER=bench", "-e", "RABBITMQ_DEFAULT_PASS=" + l.password,
	}
	for _, mount := range l.mounts {
		args = append(args, "-v", mount)
	}
	if k == ours {
		args = append(args, "-e", "CONSUL_HTTP_ADDR="+l.address+":8500", "-e", "RMQ_DNS_SERVER="+l.address+":8600", l.image)
	} else {
		args = append(args, l.base, "sh", "-euc", `printf %s "$0" >/etc/rabbitmq/conf.d/20-bench.conf; echo "[$1]." >/etc/rabbitmq/enabled_plugins
			exec docker-entrypoint.sh rabbitmq-server`, l.discovery(k, n, peers), plugins(k))
	}
	_, err := docker(ctx, args...)
	return err
}

// plugins are those of our image, so that each kind boots the same.
func plugins(k kind) string {
	if k == plugin {
		return "rabbitmq_management,rabbitmq_prometheus,rabbitmq_peer_discovery_consul"
	}
	return "rabbitmq_management,rabbitmq_prometheus"
}

// discovery is what RabbitMQ's configuration says of how a node finds others.
func (l *lab) discovery(k kind, n int, peers []int) string {
	var b strings.Builder
	switch {
	case k == plugin:
		fmt.Fprintf(&b, "cluster_formation.peer_discovery_backend = consul\ncluster_formation.consul.host = %s\ncluster_formation.consul.svc_addr_auto = true\n", l.address)
	case len(peers) > 0:
		b.WriteString("cluster_formation.peer_discovery_backend = classic_config\n")
		for i, peer := range append(peers, n) {
			fmt.Fprintf(&b, "cluster_formation.classic_config.nodes.%d = rabbit@%s\n", i+1, host(peer))
		}
	}
	return b.String()
}

// start starts nodes at once, waits until each serves, and returns the seconds from the start of the first container
// until the last one did.
func (l *lab) start(ctx context.Context, k kind, nodes ...int) (float64, error) {
	if err := each(nodes, func(n int) error { _, err := docker(ctx, "start", container(n)); return err }); err != nil {
		return 0, err
	}
	var mu sync.Mutex
	var first, last time.Time
	err := each(nodes, func(n int) error {
		text, err := docker(ctx, "inspect", "-f", "{{.State.StartedAt}}", container(n))
		if err != nil {
			return err
		}
		started, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			return err
		}
		served, err := l.serves(ctx, k, n, text)
		if err != nil {
			return fmt.Errorf("%s: %w", host(n), err)
		}
		mu.Lock()
		defer mu.Unlock()
		if first.IsZero() || started.Before(first) {
			first = started
		}
		if served.After(last) {
			last = served
		}
		return nil
	})
	return last.Sub(first).Seconds(), err
}

// serves follows the log of a node from its start on, and returns when it served. It is followed rather than read again
// and again: on few CPUs that would be measured, too.
func (l *lab) serves(ctx context.Context, k kind, n int, started string) (time.Time, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	follow := exec.CommandContext(ctx, "docker", "logs", "-f", "-t", "--since", started, container(n))
	r, w, err := os.Pipe()
	if err != nil {
		return time.Time{}, err
	}
	defer r.Close()
	follow.Stdout, follow.Stderr = w, w
	err = follow.Start()
	w.Close()
	if err != nil {
		return time.Time{}, err
	}
	defer func() { cancel(); _ = follow.Wait() }()
	marks, said := marks{verified: k != ours}, ""
	for lines := bufio.NewReader(r); ; {
		line, err := lines.ReadString('\n')
		if at, ok := marks.read(line); ok {
			return at, nil
		}
		switch {
		case ctx.Err() != nil:
			return time.Time{}, fmt.Errorf("does not serve: %w; its last word: %s", ctx.Err(), said)
		case err != nil:
			return time.Time{}, fmt.Errorf("ended before it served; its last word: %s", said)
		}
		if text := strings.TrimSpace(line); len(text) > len(started) {
			said = text
		}
	}
}

// form makes a cluster of nodes 1 to n: a bare one seed first, then all others at once.
func (l *lab) form(ctx context.Context, k kind, n int) error {
	if err := l.fresh(ctx); err != nil {
		return err
	}
	at := []int{1}
	for i := 1; i <= n; i++ {
		var peers []int
		if i > 1 {
			peers = at
		}
		if err := l.create(ctx, k, i, peers...); err != nil {
			return err
		}
	}
	if k == bare {
		if _, err := l.start(ctx, k, 1); err != nil {
			return err
		}
		at = numbers(2, n)
	} else {
		at = numbers(1, n)
	}
	if _, err := l.start(ctx, k, at...); err != nil {
		return err
	}
	return l.whole(ctx, n)
}

// whole waits until RabbitMQ on node 1 says that so many nodes run in its cluster: members learn of each other a moment
// after they are ready.
func (l *lab) whole(ctx context.Context, n int) error {
	return until(ctx, 30*l.second, fmt.Sprintf("%d nodes run in one cluster", n), func() error {
		out, err := docker(ctx, "exec", container(1), "rabbitmqctl", "cluster_status", "--formatter", "json")
		if err != nil {
			return err
		}
		var status struct {
			Running []string `json:"running_nodes"`
		}
		if err := json.Unmarshal([]byte(out[max(0, strings.Index(out, "{")):]), &status); err != nil {
			return err
		}
		if len(status.Running) != n {
			return fmt.Errorf("in that of rabbit1 run %s", strings.Join(status.Running, ", "))
		}
		return nil
	})
}

// numbers returns those from one to another.
func numbers(from, to int) (all []int) {
	for n := from; n <= to; n++ {
		all = append(all, n)
	}
	return all
}

// each does something with all nodes at once.
func each(nodes []int, do func(n int) error) error {
	errs := make([]error, len(nodes))
	var all sync.WaitGroup
	for i, n := range nodes {
		all.Go(func() { errs[i] = do(n) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// until asks until try succeeds, for at most so long.
func until(ctx context.Context, limit time.Duration, what string, try func() error) error {
	for end := time.Now().Add(limit); ; {
		err := try()
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("after %s not yet: %s: %w", limit, what, err)
		}
		if err := pause(ctx, 250*time.Millisecond); err != nil {
			return err
		}
	}
}

// pause waits, and no longer than ctx.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// docker runs a docker command and returns what it printed.
func docker(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.WaitDelay = time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return "", fmt.Errorf("docker %s: %w: %s", args[0], err, strings.TrimSpace(errs.String()))
	}
	return strings.TrimSpace(out.String()), nil
}
