package config

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// judge fills in the defaults that depend on other settings, and judges.
func (cfg *Config) judge(getenv func(string) string) error {
	if err := judgeTLS(getenv); err != nil {
		return err
	}
	for _, judged := range []func() error{cfg.judgeNode, cfg.judgeConsul, cfg.judgeAdvertise, cfg.judgeDomain, cfg.judgeOwn, cfg.judgeTimes, cfg.judgeChoices, cfg.judgeSingle} {
		if err := judged(); err != nil {
			return err
		}
	}
	if err := cfg.directories(getenv); err != nil {
		return err
	}
	return cfg.port(getenv)
}

// judgeNode makes the node's name as RabbitMQ does, and judges it: the host is this one's,
// unless the name has one.
func (cfg *Config) judgeNode() error {
	name, host, whole := strings.Cut(cmp.Or(cfg.Node, "rabbit"), "@")
	if !whole {
		var err error
		if host, err = hostName(cfg.LongNames); err != nil {
			return fmt.Errorf("find this host's name (set --node or RABBITMQ_NODENAME): %w", err)
		}
	}
	cfg.Node = name + "@" + host
	if err := rabbitconf.ValidNode(cfg.Node); err != nil {
		return fmt.Errorf("RABBITMQ_NODENAME=%q (--node): %w", cfg.Node, err)
	}
	if strings.Contains(host, ".") && !cfg.LongNames {
		return fmt.Errorf("RABBITMQ_NODENAME=%q (--node) has a dot in its host: set RABBITMQ_USE_LONGNAME=true (--long-names), or use the short host name", cfg.Node)
	}
	return nil
}

// judgeDomain judges the host of a long name: without a domain RabbitMQ starts, and nobody
// finds it.
func (cfg *Config) judgeDomain() error {
	if _, host, _ := strings.Cut(cfg.Node, "@"); cfg.LongNames && !strings.Contains(host, ".") {
		return fmt.Errorf("RABBITMQ_USE_LONGNAME (--long-names) is set, and RABBITMQ_NODENAME=%q (--node) has a host without a domain, by which RabbitMQ's own tools would not find the node: give the container its full host name (docker run --hostname mq1.example.org), or the whole name, as RABBITMQ_NODENAME=rabbit@mq1.example.org, or take RABBITMQ_USE_LONGNAME out", cfg.Node)
	}
	return nil
}

// hostName is this host's name as Erlang has it: without a domain for short names; for long
// ones with that of /etc/hosts, where the system's name has none (measured on OTP 25 to 28).
func hostName(long bool) (string, error) {
	host, err := os.Hostname()
	short, _, _ := strings.Cut(host, ".")
	switch {
	case err != nil || !long:
		return short, err
	case short != host:
		return host, nil
	}
	table, _ := os.ReadFile("/etc/hosts") // without it there is no domain
	return canonical(string(table), host), nil
}

// canonical returns the name that comes first on the line of a hosts file that has host.
func canonical(table, host string) string {
	for line := range strings.Lines(table) {
		line, _, _ = strings.Cut(line, "#")
		if names := strings.Fields(line); len(names) > 1 && slices.Contains(names[1:], host) {
			return names[1]
		}
	}
	return host
}

// judgeConsul judges where Consul is and what it is told of this node.
func (cfg *Config) judgeConsul() error {
	for i, a := range cfg.Consul {
		var err error
		if cfg.Consul[i], err = consulAddress(strings.TrimSpace(a)); err != nil {
			return fmt.Errorf("--consul (CONSUL_HTTP_ADDR): %w", err)
		}
	}
	if cfg.Service == "" || strings.ContainsAny(cfg.Service, " /@") {
		return fmt.Errorf("--service (RMQ_SERVICE) %q is no service name: use letters, digits and dashes", cfg.Service)
	}
	if cfg.Hosts != "off" && cfg.Hosts != "consul" {
		return fmt.Errorf("--hosts (RMQ_HOSTS) %q: off or consul", cfg.Hosts)
	}
	if cfg.Hosts == "consul" && LoopbackName(cfg.Node) {
		return fmt.Errorf("RABBITMQ_NODENAME=%q (--node) with --hosts consul (RMQ_HOSTS): every host takes that name for itself, so no other node could reach this one: give this container a host name (hostname: in Compose, docker run --hostname), or set RABBITMQ_NODENAME", cfg.Node)
	}
	if err := cfg.judgeTags(); err != nil {
		return err
	}
	if err := peers.ValidMeta(cfg.Meta); err != nil {
		return fmt.Errorf("--meta (RMQ_META): %w; give it as zone=a,disk=ssd", err)
	}
	return nil
}

// judgeOwn judges what this program has of its own: whom it asks for DNS, where it listens,
// and where its keys lie.
func (cfg *Config) judgeOwn() error {
	if cfg.DNSServer != "" {
		if err := hostPort(cfg.DNSServer); err != nil {
			return fmt.Errorf("--dns-server (RMQ_DNS_SERVER) %sis not host:port: %w", shown(cfg.DNSServer), err)
		}
	}
	if err := hostPort(cfg.HTTP); err != nil {
		return fmt.Errorf("--http (RMQ_HTTP) %sis not [host]:port: %w", shown(cfg.HTTP), err)
	}
	if cfg.Admin = cmp.Or(cfg.Admin, "off"); cfg.Admin != "off" {
		if err := hostPort(cfg.Admin); err != nil {
			return fmt.Errorf("--admin (RMQ_ADMIN) %sis neither [host]:port nor off: %w", shown(cfg.Admin), err)
		}
	}
	if n := cfg.ClusterName; n != "" && (len(n) > 255 || !utf8.ValidString(n) || strings.ContainsFunc(n, unicode.IsControl) || strings.TrimSpace(n) != n) {
		return fmt.Errorf("--cluster-name (RMQ_CLUSTER_NAME) %.300q: up to 255 bytes of text, without control characters and without blanks at its ends", n)
	}
	if cfg.StateDir != "" && !filepath.IsAbs(cfg.StateDir) {
		return fmt.Errorf("--state-dir (RMQ_STATE_DIR) %q: give the whole path, from / on: commands run elsewhere", cfg.StateDir)
	}
	if cfg.ConfigFile != "" && !filepath.IsAbs(cfg.ConfigFile) {
		return fmt.Errorf("--config (RMQ_CONFIG_FILE) %q: give the whole path, from / on: RabbitMQ runs elsewhere", cfg.ConfigFile)
	}
	if cfg.KeyPrefix == "" || strings.HasPrefix(cfg.KeyPrefix, "/") {
		return fmt.Errorf("--key-prefix (RMQ_KEY_PREFIX) %q: give a path without a slash in front, as rmq-entrypoint", cfg.KeyPrefix)
	}
	return nil
}

// Heartbeats that fit between what must be over before something else ends.
const heartbeats = 3

// usualInterval keeps a node that is long in a check's TTL from being looked at rarely, and
// longestInterval a seed from waiting for long: it gives members of a cluster whose record Consul
// lost a heartbeat to say so, and does not know what they are set to.
const (
	usualInterval   = 10 * time.Second
	longestInterval = time.Minute // [policy.LongestBeat]
)

// How long a stop may be given. RabbitMQ takes 2 to 8 s on two cores.
const (
	shortestStop = 5 * time.Second
	longestStop  = 10 * time.Minute
)

// judgeTimes judges how long things may take, each against those that it depends on.
func (cfg *Config) judgeTimes() error {
	if cfg.TTL < 10*time.Second || cfg.TTL > 24*time.Hour {
		return fmt.Errorf("--ttl (RMQ_TTL) %s: Consul takes 10s to 24h", cfg.TTL)
	}
	if cfg.Interval == 0 {
		cfg.Interval = min(cfg.TTL/3, usualInterval)
	}
	if cfg.Interval < time.Second || cfg.Interval > cfg.TTL/3 {
		return fmt.Errorf("--interval (RMQ_INTERVAL) %s: takes 1s to a third of the TTL (--ttl, RMQ_TTL), which is %s: two heartbeats may be lost before Consul's check lapses", cfg.Interval, cfg.TTL/3)
	}
	if cfg.Interval > longestInterval {
		return fmt.Errorf("--interval (RMQ_INTERVAL) %s: takes %s at most: for so long a node that founds a cluster waits for members of an earlier one", cfg.Interval, longestInterval)
	}
	if cfg.LockDelay < time.Millisecond || cfg.LockDelay > time.Minute {
		return fmt.Errorf("--lock-delay (RMQ_LOCK_DELAY) %s: Consul takes 1ms to 60s, and 0 would silently mean 15s", cfg.LockDelay)
	}
	claim := "--claim-timeout (RMQ_CLAIM_TIMEOUT) " + cfg.ClaimTimeout.String()
	if cfg.ClaimTimeout == 0 {
		cfg.ClaimTimeout = 3 * cfg.TTL
		claim = fmt.Sprintf("--claim-timeout (RMQ_CLAIM_TIMEOUT) %s, three times the TTL", cfg.ClaimTimeout)
	}
	if cfg.ClaimTimeout <= 2*cfg.TTL {
		return fmt.Errorf("%s: must be over twice the TTL (%s), because a session may live that long after its holder died", claim, 2*cfg.TTL)
	}
	for _, t := range []struct {
		name string
		d    time.Duration
	}{{"--wait-timeout (RMQ_WAIT_TIMEOUT)", cfg.WaitTimeout}, {"--join-timeout (RMQ_JOIN_TIMEOUT)", cfg.JoinTimeout}} {
		if t.d < cfg.TTL {
			return fmt.Errorf("%s %s: must be at least the TTL (%s)", t.name, t.d, cfg.TTL)
		}
	}
	if cfg.StopTimeout < shortestStop || cfg.StopTimeout > longestStop {
		return fmt.Errorf("--stop-timeout (RMQ_STOP_TIMEOUT) %s: takes %s, as RabbitMQ needs some seconds to stop, to %s. "+
			"It is to be less than what ends the container (docker stop --timeout, stop_grace_period, terminationGracePeriodSeconds)", cfg.StopTimeout, shortestStop, longestStop)
	}
	// A blank node measures how long a claim has been dead anew at each of its starts, and
	// the lock of the dead seed stays shut for its delay.
	shut := max(cfg.ClaimTimeout, cfg.LockDelay)
	if cfg.WaitTimeout-shut < heartbeats*cfg.Interval {
		return fmt.Errorf("--wait-timeout (RMQ_WAIT_TIMEOUT) %s is too short for %s: a blank node would give up before it may take over from a seed that died, at each start anew, and the cluster would never form. "+
			"Let it wait %s or longer, or lower the claim timeout (over twice the TTL, --ttl, RMQ_TTL, which is %s)", cfg.WaitTimeout, claim, shut+heartbeats*cfg.Interval, cfg.TTL)
	}
	return nil
}

// judgeChoices judges the settings that take one of a few words.
func (cfg *Config) judgeChoices() error {
	if cfg.Queues != "auto" && cfg.Queues != "off" {
		return fmt.Errorf("--queues (RMQ_QUEUES) %q: auto or off", cfg.Queues)
	}
	if cfg.LogFormat != "text" && cfg.LogFormat != "json" {
		return fmt.Errorf("--log-format (RMQ_LOG_FORMAT) %q: text or json", cfg.LogFormat)
	}
	return nil
}

// Listen takes over where RabbitMQ and its plugins are configured to listen: the
// health check connects there, and the first port that is not this host's alone is registered,
// unless RMQ_AMQP_URL names one. Its getenv is of the server's environment.
func (cfg *Config) Listen(user rabbitconf.User, getenv func(string) string) error {
	byDefault, err := nodeListener(getenv)
	if err != nil {
		return err
	}
	cfg.Listeners = user.Listeners(byDefault) // until RabbitMQ itself says so
	cfg.Management, cfg.Prometheus = user.HTTP("management", 15672), user.HTTP("prometheus", 15692)
	switch {
	case cfg.AMQPURL != "":
	case len(cfg.Listeners) == 0:
		return errors.New("the configuration has no AMQP listener (listeners.tcp, listeners.ssl) that the health check could ask: add one, on 127.0.0.1 perhaps, or give its address as RMQ_AMQP_URL (--amqp-url)")
	default:
		cfg.Port = reached(cfg.Listeners, 0)
	}
	return nil
}

// Listens takes over where RabbitMQ says that it listens, and reports whether that is other than
// what the settings say.
func (cfg *Config) Listens(at []peers.Listener) bool {
	if len(at) == 0 {
		return false
	}
	var all []rabbitconf.Listener
	for _, l := range at {
		all = append(all, rabbitconf.Listener{Host: hostOf(l.IP), Port: l.Port, TLS: l.TLS, Proxy: l.Proxy})
	}
	slices.SortFunc(all, func(a, b rabbitconf.Listener) int { // the ways in that ask for the least first
		return cmp.Or(first(!a.TLS, !b.TLS), first(a.Host == "" || a.Local(), b.Host == "" || b.Local()), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Host, b.Host))
	})
	all = slices.Compact(all)
	port := cfg.Port
	if cfg.AMQPURL == "" {
		port = reached(all, cfg.Port)
	}
	known := slices.Clone(cfg.Listeners)
	cfg.Located = true
	if port == cfg.Port && len(known) == len(all) && !slices.ContainsFunc(all, func(l rabbitconf.Listener) bool { return !slices.Contains(known, l) }) {
		return false
	}
	cfg.Listeners, cfg.Port = all, port
	return true
}

// hostOf is the host of a listener at that address, "" for one at every address.
func hostOf(ip string) string {
	if net.ParseIP(ip).IsUnspecified() {
		return ""
	}
	return ip
}

// reached returns the port that others are to come through: port, if it is one that they reach, or
// the first such.
func reached(all []rabbitconf.Listener, port int) int {
	open := slices.DeleteFunc(slices.Clone(all), rabbitconf.Listener.Local)
	switch {
	case slices.ContainsFunc(open, func(l rabbitconf.Listener) bool { return l.Port == port }):
		return port
	case len(open) > 0:
		return open[0].Port
	}
	return all[0].Port
}

// first orders what holds before what does not.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// nodeListener is where RabbitMQ listens unless its files say otherwise.
func nodeListener(getenv func(string) string) (rabbitconf.Listener, error) {
	l := rabbitconf.Listener{Host: RabbitMQs(getenv, "RABBITMQ_NODE_IP_ADDRESS"), Port: 5672}
	if p := RabbitMQs(getenv, "RABBITMQ_NODE_PORT"); p != "" {
		n, err := strconv.Atoi(p)
		if err != nil || n < 1 || n > 65535 {
			return l, fmt.Errorf("RABBITMQ_NODE_PORT=%q is no port", p)
		}
		l.Port = n
	}
	return l, nil
}

// port finds the AMQP port and strips what is secret from the URL.
func (cfg *Config) port(getenv func(string) string) error {
	byDefault, err := nodeListener(getenv)
	if err != nil {
		return err
	}
	cfg.Port = byDefault.Port
	if cfg.AMQPURL == "" {
		return nil
	}
	u, err := ParseAMQP(cfg.AMQPURL)
	if err != nil {
		return fmt.Errorf("RMQ_AMQP_URL (--amqp-url): %w", err)
	}
	switch {
	case u.Port() != "":
		cfg.Port, _ = strconv.Atoi(u.Port())
	case u.Scheme == "amqps":
		cfg.Port = 5671
	}
	cfg.AMQPURL = withoutSecrets(cfg.AMQPURL)
	return nil
}

// LoopbackName reports whether every host takes the node's host name for itself.
func LoopbackName(node string) bool {
	_, host, _ := strings.Cut(node, "@")
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	switch host {
	case "localhost", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback":
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback() || strings.HasPrefix(host, "localhost.") || strings.HasSuffix(host, ".localhost")
}
