package entrypoint

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/rabbitconf"
)

// A place is where somebody on this host listens, and what says so.
type place struct {
	who, by string
	rabbitconf.Listener
}

// portsDiffer refuses a --http or --admin where RabbitMQ is to listen, or the other one. The companion
// listens first: RabbitMQ would end with eaddrinuse at each start, and name no setting of ours.
func portsDiffer(ctx context.Context, cfg config.Config, user rabbitconf.User, env config.Environment) error {
	var ours []place
	for _, own := range []struct{ who, at string }{{"--http (RMQ_HTTP)", cfg.HTTP}, {"--admin (RMQ_ADMIN)", cfg.Admin}} {
		if host, port, err := net.SplitHostPort(own.at); err == nil { // off has no port
			n, _ := strconv.Atoi(port)
			ours = append(ours, place{who: fmt.Sprintf("%s %q", own.who, own.at), Listener: rabbitconf.Listener{Host: host, Port: n}})
		}
	}
	for _, own := range ours {
		for _, other := range rabbitMQs(cfg, user, env) {
			if meet(ctx, own.Listener, other.Listener) {
				return fmt.Errorf("%s: port %d is that of %s (%s), which could not listen there: give another port, or move that one", own.who, own.Port, other.who, other.by)
			}
		}
	}
	if len(ours) == 2 && meet(ctx, ours[0].Listener, ours[1].Listener) {
		return fmt.Errorf("%s and %s: only one of them can listen there: give one of them another port", ours[0].who, ours[1].who)
	}
	return nil
}

// rabbitMQs are the places that RabbitMQ needs, as far as its files and variables tell. A plugin
// counts before it is enabled, too: that takes no restart.
func rabbitMQs(cfg config.Config, user rabbitconf.User, env config.Environment) (all []place) {
	for _, l := range cfg.Listeners {
		all = append(all, place{"RabbitMQ's AMQP", "listeners.tcp, listeners.ssl, RABBITMQ_NODE_PORT", l})
	}
	for plugin, port := range map[string]int{"management": 15672, "prometheus": 15692} {
		for _, l := range user.Web(plugin, port) {
			all = append(all, place{"RabbitMQ's plugin rabbitmq_" + plugin, plugin + ".tcp.port, " + plugin + ".ssl.port", l})
		}
	}
	node, _ := strconv.Atoi(cmp.Or(config.RabbitMQs(env.Of, "RABBITMQ_NODE_PORT"), "5672")) // judged with the listeners
	if port, err := strconv.Atoi(cmp.Or(config.RabbitMQs(env.Of, "RABBITMQ_DIST_PORT"), strconv.Itoa(node+20000))); err == nil && !user.Sets("distribution.listener") {
		all = append(all, place{"RabbitMQ's way in for other nodes", "RABBITMQ_DIST_PORT, or RABBITMQ_NODE_PORT and 20000", rabbitconf.Listener{Port: port}})
	}
	if port, err := strconv.Atoi(cmp.Or(env.Of("ERL_EPMD_PORT"), "4369")); err == nil {
		hosts := []string{""}
		if at := env.Of("ERL_EPMD_ADDRESS"); at != "" { // epmd takes loopback addresses besides
			hosts = append(strings.Split(at, ","), "127.0.0.1", "::1")
		}
		for _, host := range hosts {
			all = append(all, place{"Erlang's epmd", "ERL_EPMD_PORT", rabbitconf.Listener{Host: strings.TrimSpace(host), Port: port}})
		}
	}
	return all
}

// meet reports whether two cannot both listen: of one port, the same address, or every one.
func meet(ctx context.Context, a, b rabbitconf.Listener) bool {
	if a.Port != b.Port {
		return false
	}
	every := func(host string) bool { return host == "" || net.ParseIP(host).IsUnspecified() }
	if every(a.Host) || every(b.Host) || a.Host == b.Host {
		return true
	}
	at := addresses(ctx, b.Host)
	return slices.ContainsFunc(addresses(ctx, a.Host), func(ip net.IP) bool {
		return slices.ContainsFunc(at, ip.Equal)
	})
}

// addresses are those of a host's name, none if that cannot be told.
func addresses(ctx context.Context, host string) []net.IP {
	if ip := net.ParseIP(host); ip != nil {
		return []net.IP{ip}
	}
	all, _ := net.DefaultResolver.LookupIP(ctx, "ip", host) // who listens there says what is wrong with it
	return all
}
