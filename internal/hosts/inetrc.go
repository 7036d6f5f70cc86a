package hosts

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/rabbitconf"
)

// Environment is what Erlang programs need in their environment to use the hosts
// file. A user's own inetrc wins.
func Environment(c config.Config) []string {
	if c.Hosts != "consul" || cmp.Or(os.Getenv("ERL_INETRC"), c.Inetrc()) != c.Inetrc() {
		return nil
	}
	return []string{"ERL_INETRC=" + c.Inetrc()}
}

// usersResolver returns the variable by which the user set another inetrc.
func usersResolver(c config.Config) string {
	if Environment(c) == nil {
		return "ERL_INETRC"
	}
	for _, name := range []string{"RABBITMQ_SERVER_ERL_ARGS", "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"} {
		if strings.Contains(os.Getenv(name), "inetrc") {
			return name
		}
	}
	return ""
}

// Prepare makes the two files before anything of RabbitMQ's runs. Others find this
// node at own; "": as the system resolves it.
func Prepare(ctx context.Context, log *slog.Logger, c config.Config, own string) (*File, error) {
	if c.Hosts != "consul" {
		return nil, nil
	}
	h := Of(ctx, c, own)
	if err := rabbitconf.Replace(c.Inetrc(), rabbitconf.Inetrc(h.path)); err != nil {
		return nil, fmt.Errorf("tell Erlang of the hosts file (--hosts, RMQ_HOSTS): %w", err)
	}
	if name := usersResolver(c); name != "" {
		log.Warn("RabbitMQ resolves host names by an inetrc that the user set, which wins over --hosts consul (RMQ_HOSTS): leave it out, or let it say what ours does", "set_by", name, "ours", c.Inetrc())
	}
	return h, h.Tidy()
}

// Resolves checks that the node's host name has an address: without one the
// Erlang VM would not start, or nobody would reach it.
func Resolves(ctx context.Context, node string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, host, _ := strings.Cut(node, "@")
	if _, err := net.DefaultResolver.LookupHost(ctx, host); err != nil {
		return fmt.Errorf("the host of RABBITMQ_NODENAME=%q (--node) has no address here: %w: set the container's host name to it, add it to DNS or /etc/hosts, or let nodes find each other by Consul (--hosts consul, RMQ_HOSTS)", node, err)
	}
	return nil
}
