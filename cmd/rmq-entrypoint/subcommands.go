package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"rmq-entrypoint/internal/admin"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/workload"
)

// A subcommand is a row of the command line. Its explanation is in help/.
type subcommand struct {
	use, short string
	flags      func(own *pflag.FlagSet) note // it has of its own; nil: none
}

// A note takes what the flags say over into what is asked for, or refuses it.
type note func(asked *command) error

// subcommands are those that have a node's flags, too.
var subcommands = []subcommand{
	{"healthcheck [--started|--ready]", "is this container alive, was the node a member since its start, is it fit to serve?", questionFlags},
	{"status [--json|--watch]", "show node, volume, cluster record, lock and catalog", showFlags("what the companion says of this node")},
	{"list [--json|--watch]", "show the whole cluster, a line a node, and what is wrong with it", showFlags("it")},
	{"doctor [--json]", "go from this host outward, and name the first broken link with the way out", doctorFlags},
	{"drain [--force] [--wait 5s]", "take the node out of service before it is stopped", outOfServiceFlags},
	{"leave [--force] [--wait 5s]", "take the node out of the cluster for good", outOfServiceFlags},
	{"forget NODE [--force]", "take another node, which is down for good, out of the cluster", forgetNodeFlags},
	{"force-boot --cluster-id ID", "carry on from this node's copy when the majority is gone for good", clusterFlag},
	{"forget-cluster --cluster-id ID [--force]", "give up the cluster on record, so that blank nodes found a new one", forgetFlags},
	{"companion", "stay beside the server", nil},
	{"version", "print the version", nil},
}

// clients are the subcommands that speak with a broker, not for a node.
var clients = []struct {
	use, short string
	args       cobra.PositionalArgs
}{
	{"produce [flags] [MESSAGE]", "send a message, or numbered ones, and wait for every confirm", cobra.ArbitraryArgs},
	{"consume [flags]", "receive messages, and acknowledge each when its work is done", nil},
	{"compare [flags] LEDGER…", "count what was lost or duplicated, from ledgers", cobra.ArbitraryArgs},
}

func questionFlags(own *pflag.FlagSet) note {
	started := own.Bool("started", false, "ask whether the node was a member once since its start, and is alive")
	ready := own.Bool("ready", false, "ask whether the node is fit to serve")
	return func(asked *command) error {
		switch {
		case *started && *ready:
			return errors.New("healthcheck asks one thing: --started or --ready")
		case *started:
			asked.ask = admin.Started
		case *ready:
			asked.ask = admin.Ready
		}
		return nil
	}
}

// showFlags are those of a command that shows something; what is what it prints as JSON.
func showFlags(what string) func(own *pflag.FlagSet) note {
	return func(own *pflag.FlagSet) note {
		machine := own.Bool("json", false, "print "+what+" as JSON, and nothing else")
		again := own.Bool("watch", false, "show it again every 2s, until interrupted")
		return func(asked *command) error {
			if *machine && *again {
				return fmt.Errorf("%s shows one thing: --json or --watch", asked.name)
			}
			asked.json, asked.watch = *machine, *again
			return nil
		}
	}
}

func doctorFlags(own *pflag.FlagSet) note {
	machine := own.Bool("json", false, "print what was seen as JSON, and nothing else")
	return func(asked *command) error {
		asked.json = *machine
		return nil
	}
}

func outOfServiceFlags(own *pflag.FlagSet) note {
	force := own.Bool("force", false, "go on though queues would miss this node")
	wait := own.Duration("wait", drainWait, "how long balancers get to see that the node is out of service")
	return func(asked *command) error {
		if *wait < 0 {
			return fmt.Errorf("--wait %s: how long balancers get to see that the node is out of service, 0s or more", *wait)
		}
		asked.ok, asked.wait = *force, *wait
		return nil
	}
}

func clusterFlag(own *pflag.FlagSet) note {
	id := own.String("cluster-id", "", "the cluster that is meant, as status shows it")
	return func(asked *command) error {
		if *id == "" {
			return fmt.Errorf("%s needs --cluster-id ID: the id that `rmq-entrypoint status` shows, so that nobody runs it against the wrong cluster", asked.name)
		}
		asked.id = *id
		return nil
	}
}

func forgetFlags(own *pflag.FlagSet) note {
	cluster := clusterFlag(own)
	force := own.Bool("force", false, "go on though it cannot be told whether the cluster runs")
	return func(asked *command) error {
		asked.ok = *force
		return cluster(asked)
	}
}

func forgetNodeFlags(own *pflag.FlagSet) note {
	force := own.Bool("force", false, "go on though queues would be lost, or though it cannot be told whether the node lives")
	return func(asked *command) error {
		asked.node, asked.ok = own.Arg(0), *force
		return nil
	}
}

// oneNode is the argument of forget.
func oneNode(c *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%s needs the name of one node, as status shows it: rmq-entrypoint %[1]s rabbit@HOST", c.Name())
	}
	return nil
}

// commandLine is the tree of commands. What is run there only notes in asked what
// is asked for, and prints help and completions to out.
//
// Every flag of a node stands in front of a subcommand or behind it. It is the same
// flag in both places, but not a persistent one: the clients have none of them.
func commandLine(rows []config.Setting, asked *command, out io.Writer) *cobra.Command {
	root := rootCommand(rows, asked, out)
	ofNode := root.Flags()
	ofClient := pflag.NewFlagSet("client", pflag.ContinueOnError)
	ofClient.AddFlag(ofNode.Lookup("help"))
	for _, row := range subcommands {
		c := &cobra.Command{Use: row.use, Short: row.short, Hidden: row.use == "companion"}
		if row.flags != nil {
			noted := row.flags(c.Flags())
			c.RunE = func(*cobra.Command, []string) error { return noted(asked) }
		}
		if c.Name() == "forget" {
			c.Args = oneNode
		}
		add(root, c, ofNode)
	}
	for _, row := range clients {
		c := &cobra.Command{Use: row.use, Short: row.short, Args: row.args}
		o := new(workload.Options)
		c.Flags().AddFlagSet(workload.Flags(c.Name(), o))
		c.Run = func(*cobra.Command, []string) { asked.client = o }
		add(root, c, ofClient)
	}
	add(root, completion(root, out), ofClient)
	ofHelp := helpCommand(root)
	add(root, ofHelp, ofNode)
	root.SetHelpCommand(ofHelp)
	return root
}

// rootCommand is the program itself, with a node's flags.
func rootCommand(rows []config.Setting, asked *command, out io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use: "rmq-entrypoint [flags] [command]", Short: "prepare one RabbitMQ node to join its cluster, then become it", Long: rootLong(),
		Args: cobra.ArbitraryArgs, Run: func(*cobra.Command, []string) {},
		TraverseChildren: true, SilenceErrors: true, SilenceUsage: true, DisableFlagsInUseLine: true, DisableAutoGenTag: true, SuggestionsMinimumDistance: 2,
	}
	root.SetOut(out)
	root.SetErr(io.Discard)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%s: %w (%s --help lists its flags)", c.Name(), err, c.CommandPath())
	})
	root.SetHelpFunc(func(c *cobra.Command, _ []string) {
		asked.name = "help"
		_ = help(out, c)
	})
	root.Flags().SortFlags = false
	root.Flags().SetInterspersed(false)
	root.Flags().AddFlagSet(config.Flags("node", rows))
	root.Flags().BoolP("help", "h", false, "explain, and do nothing")
	return root
}

// add gives c its explanation and the flags that it has beside its own, and to root.
func add(root, c *cobra.Command, more *pflag.FlagSet) {
	c.Long = explanation(c.Name())
	c.DisableFlagsInUseLine = true
	c.Flags().SortFlags = false
	c.Flags().AddFlagSet(more)
	if c.Args == nil {
		c.Args, c.ValidArgsFunction = noArgument, cobra.NoFileCompletions
	}
	if !c.Runnable() {
		c.Run = root.Run
	}
	root.AddCommand(c)
}

// completion prints the script by which a shell completes command lines.
func completion(root *cobra.Command, out io.Writer) *cobra.Command {
	return &cobra.Command{
		Use: "completion bash|zsh|fish", Short: "print a script that completes command lines in a shell",
		Args: cobra.ArbitraryArgs, ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(_ *cobra.Command, args []string) error {
			switch strings.Join(args, " ") {
			case "bash":
				return root.GenBashCompletionV2(out, true)
			case "zsh":
				return root.GenZshCompletion(out)
			case "fish":
				return root.GenFishCompletion(out, true)
			}
			return errors.New("completion needs the name of a shell: bash, zsh or fish")
		},
	}
}

// helpCommand explains the command that its argument names.
func helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "help [command]", Short: "explain the program, or one of its commands",
		Args: cobra.ArbitraryArgs, ValidArgsFunction: subcommandNames,
		RunE: func(_ *cobra.Command, args []string) error {
			c, rest, err := root.Find(args)
			if err == nil && len(rest) > 0 {
				err = fmt.Errorf("help: there is no command %s (rmq-entrypoint --help lists them)", strings.Join(args, " "))
				if meant := root.SuggestionsFor(args[0]); len(meant) > 0 {
					err = fmt.Errorf("%w; did you mean %s?", err, strings.Join(meant, " or "))
				}
			}
			if err != nil {
				return err
			}
			return c.Help()
		},
	}
}

func noArgument(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s takes no argument, got %q", c.Name(), args[0])
	}
	return nil
}

// subcommandNames completes the argument of help.
func subcommandNames(c *cobra.Command, args []string, _ string) (names []string, _ cobra.ShellCompDirective) {
	for _, sub := range c.Root().Commands() {
		if len(args) == 0 && sub.IsAvailableCommand() {
			names = append(names, cobra.CompletionWithDesc(sub.Name(), sub.Short))
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
