package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rmq-entrypoint/internal/admin"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/workload"
)

// command is what the command line asks for: one of ours, or a program to become.
type command struct {
	name   string            // a subcommand's; start, exec
	id     string            // --cluster-id
	node   string            // of forget
	ok     bool              // --force of drain, leave, forget and forget-cluster
	ask    admin.Question    // of healthcheck
	json   bool              // --json of status, list and doctor
	watch  bool              // --watch of the first two
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
