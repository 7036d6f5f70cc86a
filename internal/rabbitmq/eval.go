package rabbitmq

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
)

// `rabbitmqctl eval` starts all of Elixir to have a node evaluate an expression: 1.2 s
// of CPU, and most of what a companion does is such a question. A bare Erlang VM with
// the same settings does it for 0.2 s.

// isEval reports whether an argv of [CLI.Within] has a node evaluate an expression: the fourth
// word is the node, the sixth one the expression.
func isEval(argv []string) bool {
	return len(argv) == 6 && argv[0] == "rabbitmqctl" && argv[4] == "eval"
}

// directEval returns what does the same as an argv of [CLI.Within] for less. Where RabbitMQ's
// scripts are not as we know them it is the argv itself.
func directEval(longNames bool, argv []string) []string {
	if !isEval(argv) {
		return argv
	}
	if env := rabbitmqEnv(); env != "" {
		return bareErlang(env, longNames, argv[3], argv[5])
	}
	return argv
}

// rabbitmqEnv returns the script that has the settings of RabbitMQ's command line, or "" where
// there is none, or no Erlang that a bare VM can be made of.
func rabbitmqEnv() string {
	ctl, err := exec.LookPath("rabbitmqctl")
	if err == nil {
		ctl, err = filepath.EvalSymlinks(ctl)
	}
	env := filepath.Join(filepath.Dir(ctl), "rabbitmq-env")
	if err == nil {
		_, err = os.Stat(env)
	}
	if err != nil || !bootsWithoutDotErlang() {
		return ""
	}
	return env
}

// bareErlang returns the argv that has node evaluate expr, given where rabbitmq-env is.
func bareErlang(env string, longNames bool, node, expr string) []string {
	return []string{"sh", "-c", bareScript, env, erlang("bare"), kindOfNames(longNames), newName(), node, expr}
}

// residentErlang returns what starts a VM that stays: see resident.erl. It returns nil where
// there can be none.
func residentErlang(longNames bool, env []string, gate string) *exec.Cmd {
	script := rabbitmqEnv()
	if script == "" {
		return nil
	}
	cmd := exec.Command("sh", residentArgs(script, longNames, gate)...) // not CommandContext: it stays
	asServer(cmd, longNames, env)
	return cmd
}

func residentArgs(env string, longNames bool, gate string) []string {
	// What is said to it, and what it says, shall have descriptors of their own: Erlang prints on
	// the usual ones.
	return []string{"-c", "exec 3<&0 4>&1 0</dev/null 1>&2\n" + bareScript, env, erlang("resident"), kindOfNames(longNames), newName(), gate}
}

func kindOfNames(long bool) string {
	if long {
		return "longnames"
	}
	return "shortnames"
}

// newName is for a VM of ours. Each name stays in the atom tables of all nodes: few, and enough
// for those that are in use at a time.
func newName() string { return fmt.Sprintf("rmq-entrypoint-%d", rand.IntN(10000)) }

// bareScript starts the VM as RabbitMQ's command line does. rabbitmq-env ($0) takes settings,
// as those of TLS between nodes, from the environment and from the user's rabbitmq-env.conf.
// The command line replaces ERL_FLAGS, too. Of two equal flags the last one counts, so the
// user's are behind ours; of two -boot the first one counts.
const bareScript = `set -a; . "$0"; expr=$1 ERL_CRASH_DUMP_SECONDS=0; shift
ERL_FLAGS="+S 1:1 +SDio 1 +sbwt none ` + noDotErlang + ` $RABBITMQ_CTL_ERL_ARGS -kernel inet_dist_listen_min $RABBITMQ_CTL_DIST_PORT_MIN -kernel inet_dist_listen_max $RABBITMQ_CTL_DIST_PORT_MAX"
exec erl +B -noinput -hidden -eval "$expr" -extra "$@"`
