package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/workload"
)

// command is what the command line asks for: one of ours, or a program to become.
type command struct {
	name   string            // a subcommand's; start, exec
	id     string            // --cluster-id
	ok     bool              // --ready of healthcheck, --force of drain, leave and forget-cluster
	wait   time.Duration     // --wait of drain and leave
	client *workload.Options // of produce, consume and compare
	text   string            // what help and completion print
	meant  string            // the subcommands that a program's name is like
}

// drainWait is what balancers get to see that a node goes out of service, unless
// --wait says otherwise: two or three of their usual checks.
const drainWait = 5 * time.Second

// parse judges the command line and the environment, and looks at nothing else.
//
// Flags are read up to the first word. Only if that word is a subcommand does cobra
// get to see it and what follows: anything else is a program, whose arguments are
// its own.
func parse(args []string, getenv func(string) string) (config.Config, command, error) {
	var cfg config.Config
	var cmd command
	var printed strings.Builder
	rows := config.Settings(&cfg)
	root := commandLine(rows, &cmd, &printed)
	given := root.Flags()
	if err := given.Parse(args); err != nil {
		return cfg, cmd, fmt.Errorf("%w (rmq-entrypoint --help lists the flags)", err)
	}
	words := given.Args()
	if len(words) == 0 {
		words = []string{"rabbitmq-server"}
	}
	cfg.Args, cmd.name = words, "start"
	switch help, _ := given.GetBool("help"); {
	case isSubcommand(root, words[0]):
		cfg.Args, cmd.name = nil, words[0]
		root.SetArgs(words)
		asked, err := root.ExecuteC()
		if err != nil {
			return cfg, cmd, err
		}
		if cmd.client != nil {
			if given.NFlag() > 0 {
				return cfg, cmd, fmt.Errorf("%s has flags of its own, which follow its name; those in front of it are a node's", cmd.name)
			}
			cfg.Args = asked.Flags().Args()
			return cfg, cmd, cmd.client.Complete(cmd.name, asked.Flags(), getenv)
		}
	case help:
		_ = root.Help()
	case filepath.Base(words[0]) != "rabbitmq-server":
		cmd.name, cmd.meant = "exec", strings.Join(root.SuggestionsFor(words[0]), " or ")
	}
	cmd.text = printed.String()
	if cmd.text != "" || cmd.name == "version" || cmd.name == "exec" {
		return cfg, cmd, nil
	}
	return cfg, cmd, cfg.Complete(rows, given.Changed, getenv)
}

// isSubcommand reports whether word is one of ours. The two that cobra adds by
// itself are how a shell asks for completions.
func isSubcommand(root *cobra.Command, word string) bool {
	return word == cobra.ShellCompRequestCmd || word == cobra.ShellCompNoDescRequestCmd ||
		slices.ContainsFunc(root.Commands(), func(c *cobra.Command) bool { return c.Name() == word })
}

// commandLine is the tree of commands. What is run there only notes in asked what
// is asked for, and prints help and completions to out.
//
// Every flag of a node stands in front of a subcommand or behind it. It is the same
// flag in both places, but not a persistent one: the clients have none of them.
func commandLine(rows []config.Setting, asked *command, out io.Writer) *cobra.Command {
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

	ofNode := root.Flags()
	ofClient := pflag.NewFlagSet("client", pflag.ContinueOnError)
	ofClient.AddFlag(ofNode.Lookup("help"))
	add := func(c *cobra.Command, more *pflag.FlagSet) *cobra.Command {
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
		return c
	}

	healthcheck := &cobra.Command{Use: "healthcheck [--ready]", Short: "is this container alive, or is the node fit to serve?", Long: healthcheckLong}
	ready := healthcheck.Flags().Bool("ready", false, "ask whether the node is fit to serve")
	healthcheck.Run = func(*cobra.Command, []string) { asked.ok = *ready }
	add(healthcheck, ofNode)

	add(&cobra.Command{Use: "status", Short: "show node, volume, cluster record, lock and catalog", Long: statusLong}, ofNode)

	for _, c := range []*cobra.Command{
		{Use: "drain [--force] [--wait 5s]", Short: "take the node out of service before it is stopped", Long: drainLong},
		{Use: "leave [--force] [--wait 5s]", Short: "take the node out of the cluster for good", Long: leaveLong},
	} {
		force := c.Flags().Bool("force", false, "go on though queues would miss this node")
		wait := c.Flags().Duration("wait", drainWait, "how long balancers get to see that the node is out of service")
		c.RunE = func(*cobra.Command, []string) error {
			if *wait < 0 {
				return fmt.Errorf("--wait %s: how long balancers get to see that the node is out of service, 0s or more", *wait)
			}
			asked.ok, asked.wait = *force, *wait
			return nil
		}
		add(c, ofNode)
	}

	for _, c := range []*cobra.Command{
		{Use: "force-boot --cluster-id ID", Short: "carry on from this node's copy when the majority is gone for good", Long: forceBootLong},
		{Use: "forget-cluster --cluster-id ID [--force]", Short: "give up the cluster on record, so that blank nodes found a new one", Long: forgetClusterLong},
	} {
		id := c.Flags().String("cluster-id", "", "the cluster that is meant, as status shows it")
		force := new(bool)
		if c.Name() == "forget-cluster" {
			c.Flags().BoolVar(force, "force", false, "go on though it cannot be told whether the cluster runs")
		}
		c.RunE = func(c *cobra.Command, _ []string) error {
			if *id == "" {
				return fmt.Errorf("%s needs --cluster-id ID: the id that `rmq-entrypoint status` shows, so that nobody runs it against the wrong cluster", c.Name())
			}
			asked.id, asked.ok = *id, *force
			return nil
		}
		add(c, ofNode)
	}

	for _, c := range []*cobra.Command{
		{Use: "produce [flags] [MESSAGE]", Short: "send a message, or numbered ones, and wait for every confirm", Long: produceLong, Args: cobra.ArbitraryArgs},
		{Use: "consume [flags]", Short: "receive messages, and acknowledge each when its work is done", Long: consumeLong},
		{Use: "compare [flags] LEDGER…", Short: "count what was lost or duplicated, from ledgers", Long: compareLong, Args: cobra.ArbitraryArgs},
	} {
		o := new(workload.Options)
		c.Flags().AddFlagSet(workload.Flags(c.Name(), o))
		c.Run = func(*cobra.Command, []string) { asked.client = o }
		add(c, ofClient)
	}

	add(&cobra.Command{Use: "companion", Short: "stay beside the server", Long: companionLong, Hidden: true}, ofNode)
	add(&cobra.Command{Use: "version", Short: "print the version", Long: versionLong}, ofNode)
	add(&cobra.Command{
		Use: "completion bash|zsh|fish", Short: "print a script that completes command lines in a shell", Long: completionLong,
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
	}, ofClient)
	root.SetHelpCommand(add(&cobra.Command{
		Use: "help [command]", Short: "explain the program, or one of its commands", Long: helpLong,
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
	}, ofNode))
	return root
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
