package rabbitconf

import (
	"fmt"
	"slices"
	"strings"
)

// Why rmq-entrypoint refuses settings of RabbitMQ's peer discovery that RabbitMQ itself
// takes: those that harm a cluster of its making, and those that would do nothing where
// they promise something.
const (
	// RabbitMQ's default only logs, but the plugin's environment variables overrule the
	// file, and any key of the group turns the rounds on (read in 3.10.8 to 4.3.6). Beside
	// the plugin, 4.3.6 forgot a stopped node within 6 s, replicas and all (measured).
	cleansUp = "RabbitMQ's node cleanup makes the cluster forget each member that is down and that the discovery backend does not list, " +
		"its replicas with it, and here that backend lists no other node: one that is merely stopped would be lost. " +
		"Remove this; a node that is gone for good leaves by rmq-entrypoint leave, or is taken out by rmq-entrypoint forget in another one"
	registers = "RabbitMQ registers no node here, whatever this says, and rmq-entrypoint registers each of them in Consul: that is how nodes, balancers and DNS find it. " +
		"Remove this; a node that is not to get clients is taken out by rmq-entrypoint drain"
	discOnly = "rmq-entrypoint makes disc nodes only; remove this key"
)

// CleanupVariable says why RabbitMQ must not see the environment variable name=value, or
// "" if it may: those of its node cleanup overrule every file, with RABBITMQ_ before their
// names, too.
func CleanupVariable(name, value string) string {
	switch strings.TrimPrefix(name, "RABBITMQ_") {
	case "CLEANUP_ONLY_LOG_WARNING":
		if value == "" || value == "true" {
			return ""
		}
	case "CLEANUP_INTERVAL":
		if value == "" {
			return ""
		}
	default:
		return ""
	}
	return cleansUp
}

// refusedConf refuses what the .conf files say of node cleanup and registration, also
// where advanced.config replaces it: the day that list goes, it would count.
func (u User) refusedConf() error {
	var at []string
	for _, l := range u.conf {
		name, ok := strings.CutPrefix(l.key, formationPrefix)
		switch {
		case ok && (name == "node_cleanup" || strings.HasPrefix(name, "node_cleanup.")):
			at = append(at, l.at+": "+l.key)
		case ok && name == "registration.enabled" && l.value == "false":
			return fmt.Errorf("%s: %s = false: %s", l.at, l.key, registers)
		}
	}
	if len(at) > 0 {
		return fmt.Errorf("%s: %s", strings.Join(at, ", "), cleansUp)
	}
	return nil
}

// refusedTerms refuses the same in the list cluster_formation of advanced.config, and what
// the .conf files may not say either.
func refusedTerms(advanced string, formation List) error {
	for _, t := range formation {
		refuse := func(why string) error {
			return fmt.Errorf("%s: {rabbit, [{cluster_formation, [{%s, …}]}]}: %s", advanced, key(t), why)
		}
		k, value := key(t), pair(t)
		backend, other := strings.CutPrefix(string(k), "peer_discovery_")
		switch {
		case k == "node_cleanup":
			return refuse(cleansUp)
		case k == "perform_registration" && value != nil && value != Term(Atom("true")): // the bare atom is true
			return refuse(registers)
		case k == "node_type" && !slices.Contains([]Term{Atom("disc"), Atom("disk")}, value):
			return refuse(discOnly)
		case k == "peer_discovery_backend" && value != Term(Atom("rabbit_peer_discovery_classic_config")):
			return refuse(decides)
		case other && k != "peer_discovery_backend":
			return refuse(fmt.Sprintf("it belongs to the peer discovery backend %s; %s", backend, decides))
		}
	}
	return nil
}

// Ignored returns where the user's files have keys of peer discovery that RabbitMQ takes
// and that do nothing: the proxies are those of its HTTP backends, which are not in use.
func (u User) Ignored() (at []string) {
	for _, l := range u.conf {
		if strings.HasPrefix(l.key, formationPrefix+"proxy.") {
			at = append(at, l.at+": "+l.key)
		}
	}
	if has(u.formation, "proxy") && len(at) == 0 {
		at = append(at, "advanced.config: {rabbit, [{cluster_formation, [{proxy, …}]}]}")
	}
	return at
}
