package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
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
  version, help
  anything else                   is executed as it is

Each setting: flag, environment variable, default. A flag wins over a variable.

`

func help(out io.Writer) error {
	fmt.Fprint(out, usage)
	w := tabwriter.NewWriter(out, 2, 0, 2, ' ', 0)
	var cfg config
	for _, s := range settings(&cfg) {
		fmt.Fprintf(w, "  --%s\t%s\t%s\t%s\n", s.flag, strings.Join(s.env, ", "), s.defaultText(), s.help)
	}
	w.Flush()
	fmt.Fprint(out, "\nSecrets have no flag. Each may be given as a file, by the name with _FILE:\n\n")
	for _, s := range secrets {
		fmt.Fprintf(w, "  %s\t%s\n", s.env, s.help)
	}
	fmt.Fprint(w, "\n  RABBITMQ_DEFAULT_USER, _PASS, _VHOST\tthe health check's credentials, too, and the clients'\n  CONSUL_HTTP_SSL, CONSUL_CACERT, …\tConsul's own variables for TLS, namespace and partition\n")
	w.Flush()
	fmt.Fprint(out, "\nThe clients' flags follow their name: command, flag, default. RMQ_BROKERS (or a file, RMQ_BROKERS_FILE) may hold\npasswords, unlike --brokers: amqp[s]://user:password@host[:port][/vhost].\n\n")
	for _, s := range clientSettings(new(clientOptions)) {
		fmt.Fprintf(w, "  %s\t--%s\t%s\t%s\n", s.of, s.flag, s.defaultText(), s.help)
	}
	return w.Flush()
}

// defaultText is the default as people read it.
func (s setting) defaultText() string {
	if s.def != "" {
		return s.def
	}
	return s.value.String()
}
