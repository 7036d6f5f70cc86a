package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/workload"
)

const usage = `rmq-entrypoint prepares one RabbitMQ node to join its cluster, then becomes it.

usage: rmq-entrypoint [flags] [command]

  (none), rabbitmq-server         start: find the cluster through Consul, then become the server
  healthcheck [--ready]           is this container alive (--ready: is the node fit to serve)? exit 0 or 1
  status                          node, volume, cluster record, lock and catalog, for people
  drain [--force] [--wait 5s]     take the node out of service before it is stopped: balancers, clients, queue leaders
  leave [--force] [--wait 5s]     take it out of the cluster for good: replicas moved, off the record, forgotten, stopped
  force-boot --cluster-id ID      carry on from this node's copy when the majority is gone for good
  forget-cluster --cluster-id ID  give up cluster ID, so that blank nodes found a new one; --force: though it cannot be told whether it runs
  produce [MESSAGE]               send a message, or numbered ones, and wait for every confirm
  consume                         receive messages; a dot in one is a second of work
  compare LEDGER…                 count what was lost or duplicated, from the ledgers of the two
  completion bash|zsh|fish        print a script that completes command lines in that shell
  version, help [command]         help, and --help behind a command, explain that one
  anything else                   is executed as it is

Each setting: flag, environment variable, default. A flag wins over a variable.

`

// help explains the program, or one of its subcommands.
func help(out io.Writer, c *cobra.Command) error {
	if c.HasParent() {
		return helpOf(c, out)
	}
	fmt.Fprint(out, usage)
	w := tabwriter.NewWriter(out, 2, 0, 2, ' ', 0)
	for _, s := range config.Settings(new(config.Config)) {
		fmt.Fprintf(w, "  --%s\t%s\t%s\t%s\n", s.Flag, strings.Join(s.Env, ", "), s.DefaultText(), s.Help)
	}
	w.Flush()
	fmt.Fprint(out, "\nSecrets have no flag. Each may be given as a file, by the name with _FILE:\n\n")
	for _, s := range config.Secrets {
		fmt.Fprintf(w, "  %s\t%s\n", s.Env, s.Help)
	}
	fmt.Fprint(w, "\n  RABBITMQ_DEFAULT_USER, _PASS, _VHOST\tthe health check's credentials, too, and the clients'\n  CONSUL_HTTP_SSL, CONSUL_CACERT, …\tConsul's own variables for TLS, namespace and partition\n")
	w.Flush()
	fmt.Fprint(out, "\nThe clients' flags follow their name: command, flag, default. RMQ_BROKERS (or a file, RMQ_BROKERS_FILE) may hold\npasswords, unlike --brokers: amqp[s]://user:password@host[:port][/vhost].\n\n")
	for _, s := range workload.Settings(new(workload.Options)) {
		fmt.Fprintf(w, "  %s\t--%s\t%s\t%s\n", s.Of, s.Flag, s.DefaultText(), s.Help)
	}
	return w.Flush()
}

// helpOf explains a subcommand: what it does, and the flags that it has beside
// those of a node.
func helpOf(c *cobra.Command, out io.Writer) error {
	fmt.Fprintf(out, "%s\n\nusage: %s\n", strings.TrimSpace(c.Long), c.UseLine())
	w := tabwriter.NewWriter(out, 2, 0, 2, ' ', 0)
	ofNode := c.Root().Flags()
	first := "\n"
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if ofNode.Lookup(f.Name) == f {
			return
		}
		fmt.Fprintf(w, "%s  --%s\t%s\t%s\n", first, f.Name, f.DefValue, f.Usage)
		first = ""
	})
	w.Flush()
	if c.Flags().Lookup("node") != nil {
		fmt.Fprint(out, "\nA node's settings stand in front of the command's name or behind it: rmq-entrypoint --help lists them.\n")
	}
	return nil
}

// What follows is shown by --help behind a command's name and by its manual page:
// what the command does, when to use it, what it refuses, its exit status.

// rootLong is the description of the manual page of the program itself.
func rootLong() string {
	var b strings.Builder
	b.WriteString(`The ENTRYPOINT of a RabbitMQ image. Without a command, or with rabbitmq-server and its arguments, it
asks Consul who is there, decides whether this node founds the cluster, joins it or waits, writes
rabbitmq.config, registers the node with a TTL check, and becomes the server. A companion stays beside
the server and keeps what Consul says of the node true.

What is neither rabbitmq-server nor one of the commands below is executed as it is, its own flags included.

A flag wins over an environment variable, a variable over the default. The variable of each setting
is named behind what the setting means.

Secrets have no flag. Each may be given as a file, by the variable's name with _FILE:

`)
	for _, s := range config.Secrets {
		fmt.Fprintf(&b, "- %s: %s\n", s.Env, s.Help)
	}
	b.WriteString("\nExit status: the server's own, once this program has become it; 1 when it refuses to start, and says why.")
	return b.String()
}

const (
	healthcheckLong = `Answers in one line and by the exit status whether this container is worth keeping. It is what
Docker's HEALTHCHECK runs. A node that waits, boots, is paused or is being drained is no reason to
kill its container. A companion that was lost is started again.

With --ready it answers whether the node is fit to serve, as the TTL check in Consul and the
companion's /ready do. Wait for it before you go on to the next node.

Exit status: 0 for yes, 1 for no.`

	statusLong = `Shows what an operator asks first: whether the server runs and what it waits for, what its check
last said, what this volume is, the cluster record, who holds the lock, and what Consul's catalog
says of every node. It changes nothing. In a container of another image on a node's volume it also
says whether RabbitMQ may start there.

Exit status: 0; 1 when Consul cannot be reached, so that record, lock and catalog are not known.`

	drainLong = `Takes the node out of service before it is stopped. Its check and the companion's /ready turn
critical, balancers get --wait to see that, then RabbitMQ's maintenance mode sends clients and
queue leaders to other nodes. Run it in the container, by hand or from Compose's pre_stop or
Kubernetes' preStop, before the node is stopped, recreated or upgraded. A restart or
` + "`rabbitmq-upgrade revive`" + ` brings the node back. Run again, it goes on where it was.

It refuses where the others could not do without the node: queues whose replicas have not caught
up, a cluster that would lose its majority, a partition. Wait until the others have caught up, or
add --force, which overrules that. It refuses a node that is about to leave, forced or not.

Exit status: 0 when the node is drained, or was already; 1 when it is not, and why is said.`

	leaveLong = `Takes the node out of the cluster for good: out of service, replicas moved to other nodes,
drained, off the record, forgotten by the cluster, deregistered, stopped. Run it in the container
when you scale down, then remove the container and its volume. A node that is started again on the
volume it left with refuses; its name may come back on an empty volume. Run again, it goes on
where it was.

It refuses for the last node, without a majority, and while something is on this node alone.
--force overrules what concerns queues, never the last node or the majority. Until the node is off
the record, a failure brings it back into service; from there on leaving can only be finished, by
this command or by the companions.

Exit status: 0 when the node has left; 1 when it has not, and why is said.`

	forceBootLong = `Carries on from this node's copy when the majority of the cluster is gone for good: RabbitMQ is
made to do without the members that were lost, and the others join again. Run it on the node whose
copy survives, on the newest one where there are several. If the lost volumes are only not
mounted, start their nodes with them instead: they may hold confirmed messages that this copy
lacks.

It refuses unless the node's companion finds that it can never go on by itself, and unless
--cluster-id names both this volume's cluster and the one on record. The order stays on the
volume: if the container restarts meanwhile, the node goes on with it.

Exit status: 0 when the node serves again; 1 when it was refused, or is not done yet.`

	forgetClusterLong = `Gives up the cluster on record, so that the next blank node founds a new one. Use it when every
member is gone and none will come back. No volume is touched: volumes of the old cluster are
refused from then on, and keep their data.

It refuses while a member runs, when --cluster-id is not the cluster on record, and, without
--force, where it cannot be told whether a member runs; it then names each node and what was seen
of it. A node is down only if epmd on its host answers and does not list it, or if name servers
that know another host do not know its host. A lookup that fails, and a connection that is refused
or times out, tell nothing. A member that runs all the same takes its cluster back.

Exit status: 0 when the cluster is given up; 1 when it is not, and why is said.`

	produceLong = `Sends one message, the words of its arguments, or with --count, --rate or --duration numbered
ones, and waits until the broker has confirmed each. A broker that goes away is replaced by the
next address. A message whose confirm was lost with the connection is sent again: none is lost,
some are received twice. With --ledger every confirm is written down, for compare to count.

It refuses a message beside --count, --rate or --duration, neither of them, a password in
--brokers (RMQ_BROKERS and RMQ_BROKERS_FILE may hold one), and a ledger that exists.

Exit status: 0 when every message was confirmed; 1 otherwise.`

	consumeLong = `Receives messages, works a second for each dot in one, and acknowledges it afterwards, until it is
stopped, or --count or --idle is reached. A broker that goes away is replaced by the next address.
What was not acknowledged is received again. With --ledger every message is written down before it
is acknowledged, for compare to count.

It refuses a password in --brokers (RMQ_BROKERS and RMQ_BROKERS_FILE may hold one), and a ledger
that exists.

Exit status: 0 when it was stopped, or reached its end; 1 when no broker was of use for --give-up,
or one refused.`

	compareLong = `Reads the ledgers of producers and consumers, and prints how many messages were confirmed,
received, lost and duplicated, and the longest time without a confirm. Give it the ledger of every
producer and of every consumer of the queue.

It refuses to judge when there is no producer's ledger or no consumer's, or when nothing was
confirmed.

Exit status: 0 when every confirmed message was received; 1 when one was lost, when --max-gap was
exceeded, or when it refuses.`

	companionLong = `Stays beside the server and keeps what Consul says of the node true. The program starts it by
itself, and a health check starts it again. It refuses to be run by hand.

Exit status: 0 when its server has ended; 1 when it cannot do its work, or was run by hand.`

	helpLong = `Explains the program, or one of its commands.

Exit status: 0; 1 when there is no such command.`

	versionLong = `Prints the program's version.

Exit status: 0.`

	completionLong = `Prints a script that completes commands and flags in bash, zsh or fish. To have it in this
session:

	source <(rmq-entrypoint completion bash)
	source <(rmq-entrypoint completion zsh)
	rmq-entrypoint completion fish | source

bash needs the package bash-completion for it. To have it in every session, write it where the
shell looks:

	rmq-entrypoint completion bash >/etc/bash_completion.d/rmq-entrypoint
	rmq-entrypoint completion zsh >"${fpath[1]}/_rmq-entrypoint"
	rmq-entrypoint completion fish >~/.config/fish/completions/rmq-entrypoint.fish

Exit status: 0; 1 for another shell.`
)
