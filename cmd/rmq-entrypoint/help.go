package main

import (
	"embed"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/workload"
)

// help/usage.txt is what --help prints first, help/rmq-entrypoint.txt what the program's manual
// page says. The others are of the subcommand that they are named after, and are shown by
// --help behind its name and by its manual page: what it does, when to use it, what it
// refuses, its exit status.
//
//go:embed help/*.txt
var texts embed.FS

// explanation is what help/NAME.txt says.
func explanation(name string) string {
	b, err := texts.ReadFile("help/" + name + ".txt")
	if err != nil {
		panic(err) // the tests look at every subcommand
	}
	return strings.TrimSuffix(string(b), "\n")
}

// help explains the program, or one of its subcommands.
func help(out io.Writer, c *cobra.Command) error {
	if c.HasParent() {
		return helpOf(c, out)
	}
	fmt.Fprint(out, explanation("usage"), "\n\n")
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

// rootLong is the description of the manual page of the program itself, which lists the
// secrets where its text says so.
func rootLong() string {
	var b strings.Builder
	for _, s := range config.Secrets {
		fmt.Fprintf(&b, "- %s: %s\n", s.Env, s.Help)
	}
	return fmt.Sprintf(explanation("rmq-entrypoint"), b.String())
}
