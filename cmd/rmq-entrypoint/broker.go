package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// cliTimeout bounds one call of RabbitMQ's command line: 0.7 s on an idle
// machine, several when a cluster of containers boots on two cores.
const cliTimeout = 20 * time.Second

// broker asks RabbitMQ through its own command line, which speaks the Erlang
// distribution with the shared cookie: to this node or to a peer.
type broker struct {
	node string // this node
	run  func(ctx context.Context, argv ...string) (string, error)
}

// newBroker returns RabbitMQ's command line as the user of this node has it, with these
// variables set.
func newBroker(node string, longNames bool, env ...string) broker {
	return broker{node, func(ctx context.Context, argv ...string) (string, error) {
		return execute(ctx, longNames, env, argv...)
	}}
}

// errNoClusterID: the node knows its members, but cannot read its data. A member of a
// Khepri cluster that was killed soon after it joined has not applied its log, and does
// so only with a majority (measured on 4.3.6).
var errNoClusterID = errors.New("it cannot read the cluster's id yet")

// view asks node what it knows. An error means unknown: node may be down, still
// booting, unreachable, or have another cookie. Beside [errNoClusterID] the rest of
// the view holds.
func (b broker) view(ctx context.Context, node string) (peers.View, error) {
	out, err := b.ctl(ctx, node, "eval", erlang("view"))
	if err != nil {
		return peers.View{}, fmt.Errorf("ask %s for its cluster: %w", node, err)
	}
	v := peers.View{Sides: map[string]peers.Side{}}
	for line := range strings.Lines(out) {
		switch f := strings.Split(strings.TrimSpace(line), "|"); {
		case f[0] == "view" && len(f) >= 6:
			v.ClusterID, v.Members, v.Running, v.Partitions, v.Khepri = f[1], list(f[2]), list(f[3]), list(f[4]), f[5] == "true"
			if len(f) >= 7 {
				v.Connected = list(f[6])
			}
		case f[0] == "pauses" && len(f) >= 2:
			v.Pauses = f[1] == "true"
		case f[0] == "side" && len(f) >= 4:
			v.Sides[f[1]] = peers.Side{With: list(f[2]), From: list(f[3])}
		}
	}
	if v.ClusterID == "" && slices.Contains(v.Members, node) {
		return v, fmt.Errorf("ask %s for its cluster: %w", node, errNoClusterID)
	}
	if v.ClusterID == "" || !slices.Contains(v.Members, node) { // booting: not yet a member of what it will be
		return peers.View{}, fmt.Errorf("ask %s for its cluster: it has none yet (%.200q)", node, out)
	}
	return v, nil
}

// waits asks this node, whose application does not run, what keeps it.
func (b broker) waits(ctx context.Context) (members, waits []string, paused bool, err error) {
	out, err := b.ctl(ctx, b.node, "eval", erlang("waits"))
	if err != nil {
		return nil, nil, false, err
	}
	for line := range strings.Lines(out) {
		if f := strings.Split(strings.TrimSpace(line), "|"); f[0] == "waits" && len(f) >= 4 && f[1] != "" {
			return list(f[1]), list(f[2]), f[3] == "true", nil
		}
	}
	return nil, nil, false, fmt.Errorf("ask %s for whom it waits: it does not know yet (%.200q)", b.node, out)
}

// led asks a node whether the members that decide by majority have a leader.
func (b broker) led(ctx context.Context, node string) (bool, error) {
	out, err := b.ctl(ctx, node, "eval", erlang("led"))
	if err != nil {
		return false, err
	}
	_, rest, ok := strings.Cut(out, "led|")
	if word, _, _ := strings.Cut(rest, "|"); ok && (word == "true" || word == "false") {
		return word == "true", nil
	}
	return false, fmt.Errorf("ask %s for the members' leader: got %.200q", node, out)
}

// queues counts the queues on this node's cluster.
func (b broker) queues(ctx context.Context) (int, error) {
	out, err := b.ctl(ctx, b.node, "eval", erlang("count_queues"))
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(out, "queues|")
	n, _, _ := strings.Cut(rest, "|")
	if !ok {
		return 0, fmt.Errorf("count queues: got %.200q", out)
	}
	return strconv.Atoi(n)
}

// forget makes peer drop node's earlier incarnation, whose volume is blank now.
// Never for a node that still has data.
func (b broker) forget(ctx context.Context, peer, node string) error {
	_, err := b.ctl(ctx, peer, "forget_cluster_node", node)
	return err
}

// join makes this node, which came up alone by accident, join peer: that gives
// up its own data, so it must have none worth keeping.
func (b broker) join(ctx context.Context, peer string) error {
	for _, argv := range [][]string{{"stop_app"}, {"join_cluster", peer}, {"start_app"}} {
		if _, err := b.ctl(ctx, b.node, argv...); err != nil {
			return fmt.Errorf("%s: %w", argv[0], err)
		}
	}
	return nil
}

// pauseMinority sets, or takes back, what a node does in a minority. RabbitMQ
// reads it when a node goes down, so it can follow the size of the cluster.
func (b broker) pauseMinority(ctx context.Context, on bool) error {
	mode := rabbitconf.Atom("ignore")
	if on {
		mode = "pause_minority"
	}
	_, err := b.ctl(ctx, b.node, "eval", erlang("set_partition_handling", parameter{"Mode", mode}))
	return err
}

// halt stops the server of this node with status 1, so that a restart policy
// starts it again; if it does not hear that, by SIGTERM, whose status is 0. As
// a container's PID 1 it cannot be killed from inside, but it can be told.
func (b broker) halt(ctx context.Context, pid int) error {
	if _, err := b.ctl(ctx, b.node, "eval", erlang("halt")); err == nil {
		return nil
	}
	return syscall.Kill(pid, syscall.SIGTERM)
}

// ctl runs rabbitmqctl against node.
func (b broker) ctl(ctx context.Context, node string, argv ...string) (string, error) {
	return b.within(ctx, cliTimeout, node, argv...)
}

// within runs rabbitmqctl against node for at most d.
func (b broker) within(ctx context.Context, d time.Duration, node string, argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	full := []string{"rabbitmqctl", "-q", "-n", node}
	return b.run(ctx, append(full, argv...)...)
}

// tool runs another of RabbitMQ's programs against this node for at most d.
func (b broker) tool(ctx context.Context, d time.Duration, program string, argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return b.run(ctx, append([]string{program, "-q", "-n", b.node}, argv...)...)
}

// execute runs a program of RabbitMQ's and returns what it printed. It gets neither
// Consul's token nor a socket to notify.
func execute(ctx context.Context, longNames bool, env []string, argv ...string) (string, error) {
	name := argv[0]
	argv = bare(longNames, argv)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = serverEnv(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // the script's own children go with it
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if ctx.Err() != nil {
		return "", fmt.Errorf("%s: no answer: %w", name, context.Cause(ctx))
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, firstLine(stderr.String()+stdout.String()))
	}
	return stdout.String(), nil
}

// firstLine returns the first line that says something, shortened for a log.
func firstLine(s string) string {
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" && line != "Error:" && !strings.HasPrefix(line, "[warn") {
			return fmt.Sprintf("%.300s", line)
		}
	}
	return "no output"
}

func list(s string) []string {
	if s == "" {
		return nil
	}
	l := strings.Split(s, ",")
	slices.Sort(l)
	return l
}
