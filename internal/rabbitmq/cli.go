// Package rabbitmq asks and tells RabbitMQ through its own command line. All Erlang of this
// program is here, in .erl files, and so are the server's user and environment.
package rabbitmq

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"rmq-entrypoint/rabbitconf"
)

// CLITimeout bounds one call of RabbitMQ's command line: 0.7 s on an idle
// machine, several when a cluster of containers boots on two cores.
const CLITimeout = 20 * time.Second

// CLI asks RabbitMQ through its own command line, which speaks the Erlang
// distribution with the shared cookie: to this node or to a peer.
type CLI struct {
	Node string // this node
	Run  func(ctx context.Context, argv ...string) (string, error)

	Resident Resident // nil: each question starts a VM of its own
}

// New returns RabbitMQ's command line as the user of this node has it, with these
// variables set.
func New(node string, longNames bool, env ...string) CLI {
	stays := &resident{start: func(gate string) *exec.Cmd { return residentErlang(longNames, env, gate) }}
	return CLI{Node: node, Resident: stays, Run: func(ctx context.Context, argv ...string) (string, error) {
		if isEval(argv) {
			if out, knows, err := stays.ask(ctx, argv[3], argv[5]); knows {
				return out, err
			}
		}
		return execute(ctx, longNames, env, argv...)
	}}
}

// Ctl runs rabbitmqctl against node.
func (b CLI) Ctl(ctx context.Context, node string, argv ...string) (string, error) {
	return b.Within(ctx, CLITimeout, node, argv...)
}

// Within runs rabbitmqctl against node for at most d. A name that is none of a node's, here or
// among the arguments, gets on no command line.
func (b CLI) Within(ctx context.Context, d time.Duration, node string, argv ...string) (string, error) {
	named := append([]string{node}, argv[min(1, len(argv)):]...)
	if argv[0] == "eval" { // the rest is Erlang, in which names are atoms that were judged
		named = named[:1]
	}
	for _, n := range named {
		if err := rabbitconf.ValidNode(n); err != nil && n != b.Node { // its own was judged with the settings
			return "", err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	full := []string{"rabbitmqctl", "-q", "-n", node}
	return b.Run(ctx, append(full, argv...)...)
}

// Tool runs another of RabbitMQ's programs against this node for at most d.
func (b CLI) Tool(ctx context.Context, d time.Duration, program string, argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return b.Run(ctx, append([]string{program, "-q", "-n", b.Node}, argv...)...)
}

// execute runs a program of RabbitMQ's and returns what it printed. It gets neither
// Consul's token nor a socket to notify.
func execute(ctx context.Context, longNames bool, env []string, argv ...string) (string, error) {
	name := argv[0]
	argv = directEval(longNames, argv)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	asServer(cmd, longNames, env)
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

// asServer gives a program the server's environment, and a process group, with which its own
// children go.
func asServer(cmd *exec.Cmd, longNames bool, env []string) {
	// A flag may have overruled what the environment says.
	cmd.Env = ServerEnv(os.Environ(), append(slices.Clone(env), fmt.Sprintf("RABBITMQ_USE_LONGNAME=%t", longNames))...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
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

// list reads names with commas between them; what has no name is no node.
func list(s string) (names []string) {
	for name := range strings.SplitSeq(s, ",") {
		if name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
