package main

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// config is the effective settings. It is what the entrypoint leaves for its
// companion in the runtime file, so it holds no secret: tokens, the cookie and
// passwords stay in the environment.
type config struct {
	Consul       []string
	Service      string
	DNSServer    string
	DNSDomain    string
	Node         string
	LongNames    bool
	Advertise    string // as set; once started, the IP address it stands for
	Hosts        string
	Tags         []string
	Meta         map[string]string
	TTL          time.Duration
	KeyPrefix    string
	LockDelay    time.Duration
	WaitTimeout  time.Duration
	JoinTimeout  time.Duration
	ClaimTimeout time.Duration
	AMQPURL      string // without a password
	HTTP         string
	ConfigFile   string
	StateDir     string
	Queues       string
	ForceBoot    bool `json:"CarryOn"`
	AllowJump    bool
	LogLevel     slog.Level
	LogFormat    string

	Home      string                // of the user rabbitmq: cookie file
	Data      string                // RabbitMQ's own directory of this node
	Port      int                   // AMQP port to register
	Listeners []rabbitconf.Listener // where RabbitMQ is configured to listen

	Management, Prometheus rabbitconf.Listener // where these plugins listen, if they are enabled

	Args []string `json:"-"` // the command and its arguments
}

// setting is one row of the contract: flag over environment over default.
type setting struct {
	flag  string
	env   []string // the first that is set and not empty counts
	value pflag.Value
	help  string
	def   string // shown instead of the value's own default
}

// settings binds every setting to cfg. Its order is the order of the README's
// table and of --help, which are tested against it.
func settings(cfg *config) []setting {
	fs := pflag.NewFlagSet("values", pflag.ContinueOnError)
	value := func(add func(name string)) pflag.Value {
		add("v")
		v := fs.Lookup("v").Value
		fs = pflag.NewFlagSet("values", pflag.ContinueOnError)
		return v
	}
	str := func(p *string, def string) pflag.Value {
		return value(func(n string) { fs.StringVar(p, n, def, "") })
	}
	dur := func(p *time.Duration, def time.Duration) pflag.Value {
		return value(func(n string) { fs.DurationVar(p, n, def, "") })
	}
	boolean := func(p *bool) pflag.Value { return value(func(n string) { fs.BoolVar(p, n, false, "") }) }
	pairs := value(func(n string) { fs.StringToStringVar(&cfg.Meta, n, nil, "") })
	tags := value(func(n string) { fs.StringSliceVar(&cfg.Tags, n, nil, "") })
	addrs := value(func(n string) { fs.StringSliceVar(&cfg.Consul, n, []string{"127.0.0.1:8500"}, "") })
	level := value(func(n string) { fs.TextVar(&cfg.LogLevel, n, slog.LevelInfo, "") })
	return []setting{
		{"consul", []string{"CONSUL_HTTP_ADDR", "CONSUL_ADDRESS"}, addrs, "Consul agents, comma-separated, tried in this order", "127.0.0.1:8500"},
		{"service", []string{"RMQ_SERVICE"}, str(&cfg.Service, "rabbitmq"), "service name: nodes with the same one are one cluster", ""},
		{"dns-server", []string{"RMQ_DNS_SERVER"}, str(&cfg.DNSServer, ""), "DNS server (host:port) that knows Consul's domain", "first of /etc/resolv.conf"},
		{"dns-domain", []string{"RMQ_DNS_DOMAIN"}, str(&cfg.DNSDomain, "consul"), "Consul's DNS domain", ""},
		{"node", []string{"RABBITMQ_NODENAME"}, str(&cfg.Node, ""), "node name, name@host", "rabbit@<host name>"},
		{"long-names", []string{"RABBITMQ_USE_LONGNAME"}, boolean(&cfg.LongNames), "node names carry the full host name", ""},
		{"advertise", []string{"RMQ_ADVERTISE"}, str(&cfg.Advertise, ""), "IP address to register, or the interface or subnet (10.0.0.0/24) to take it from; with an agent on this host, by default the agent's own", "source of the route to Consul"},
		{"hosts", []string{"RMQ_HOSTS"}, str(&cfg.Hosts, "off"), "consul: nodes learn each other's addresses from Consul, so that their host names need not resolve; off: as the system resolves them", ""},
		{"tags", []string{"RMQ_TAGS"}, tags, "tags of the node's services in Consul, comma-separated", "none"},
		{"meta", []string{"RMQ_META"}, pairs, "meta of the node's services in Consul, key=value, comma-separated", "none"},
		{"ttl", []string{"RMQ_TTL"}, dur(&cfg.TTL, 15*time.Second), "TTL of the health check and of the lock's session, 10s to 24h", ""},
		{"key-prefix", []string{"RMQ_KEY_PREFIX"}, str(&cfg.KeyPrefix, "rmq-entrypoint"), "prefix of the lock's and the cluster record's keys", ""},
		{"lock-delay", []string{"RMQ_LOCK_DELAY"}, dur(&cfg.LockDelay, time.Second), "how long the lock stays shut after its holder was lost, 1ms to 60s", ""},
		{"wait-timeout", []string{"RMQ_WAIT_TIMEOUT"}, dur(&cfg.WaitTimeout, 10*time.Minute), "how long a blank node waits before it exits and is restarted", ""},
		{"join-timeout", []string{"RMQ_JOIN_TIMEOUT"}, dur(&cfg.JoinTimeout, 5*time.Minute), "how long a joiner may take to get ready before it is stopped and decides afresh", ""},
		{"claim-timeout", []string{"RMQ_CLAIM_TIMEOUT"}, dur(&cfg.ClaimTimeout, 0), "how long a dead seed's claim is left alone, over twice the TTL", "3 × ttl"},
		{"amqp-url", []string{"RMQ_AMQP_URL"}, str(&cfg.AMQPURL, ""), "what the health check connects to", "this node's listeners, with RABBITMQ_DEFAULT_USER, _PASS and _VHOST"},
		{"http", []string{"RMQ_HTTP"}, str(&cfg.HTTP, ":15690"), "address of the companion's /ready and /status", ""},
		{"config", []string{"RMQ_CONFIG_FILE"}, str(&cfg.ConfigFile, ""), "rabbitmq.config to write", "<state-dir>/rabbitmq.config"},
		{"state-dir", []string{"RMQ_STATE_DIR"}, str(&cfg.StateDir, ""), "where this program keeps what it knows of the volume: on the volume", "/var/lib/rabbitmq/mnesia/<node>-entrypoint"},
		{"queues", []string{"RMQ_QUEUES"}, str(&cfg.Queues, "auto"), "auto: queues survive the loss of a node (mirrored up to RabbitMQ 3.13, quorum queues from 4.0); off: as RabbitMQ has it", ""},
		{"force-boot", []string{"RMQ_FORCE_BOOT"}, boolean(&cfg.ForceBoot), "carry on from this copy by itself when the majority is gone for good", ""},
		{"allow-version-jump", []string{"RMQ_ALLOW_VERSION_JUMP"}, boolean(&cfg.AllowJump), "start where RabbitMQ does not support to: a jump of versions, a downgrade, a mix with other members", ""},
		{"log-level", []string{"RMQ_LOG_LEVEL"}, level, "debug, info, warn or error", "info"},
		{"log-format", []string{"RMQ_LOG_FORMAT"}, str(&cfg.LogFormat, "text"), "text or json", ""},
	}
}

// secrets are settings that have no flag, because argv is public. Each may be
// given as a file instead: the variable's name with _FILE.
var secrets = []struct{ env, help string }{
	{"RABBITMQ_ERLANG_COOKIE", "secret all nodes share; written to the cookie file, never passed to the server's environment"},
	{"CONSUL_HTTP_TOKEN", "Consul ACL token; never passed to the server's environment"},
	{"RMQ_AMQP_URL", "may hold a password, unlike --amqp-url"},
}

// flags returns rows as flags of a command line.
func flags(name string, rows []setting) *pflag.FlagSet {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	fs.SortFlags = false
	for _, s := range rows {
		usage := s.help
		if len(s.env) > 0 {
			usage += " (" + strings.Join(s.env, ", ") + ")"
		}
		f := fs.VarPF(s.value, s.flag, "", usage)
		f.DefValue = s.defaultText()
		if s.value.Type() == "bool" {
			f.NoOptDefVal = "true"
		}
	}
	return fs
}

// defaultText is the default as people read it.
func (s setting) defaultText() string {
	if s.def != "" {
		return s.def
	}
	return s.value.String()
}

// settle takes from the environment what no flag gave, and completes the rest. Its
// rows are the settings of cfg, and given reports whether a flag was on the command line.
func (cfg *config) settle(rows []setting, given func(flag string) bool, getenv func(string) string) error {
	for _, s := range secrets {
		if getenv(s.env) != "" && getenv(s.env+"_FILE") != "" {
			return keepOne(s.env)
		}
	}
	for _, s := range rows {
		if given(s.flag) {
			if s.flag == "amqp-url" && hasPassword(cfg.AMQPURL) {
				return errors.New("--amqp-url holds a password, which every user of this host could read: give it as RMQ_AMQP_URL or RMQ_AMQP_URL_FILE")
			}
			continue
		}
		for _, name := range s.env {
			text := getenv(name)
			if s.flag == "amqp-url" {
				var err error
				if text, err = secret(getenv, name); err != nil {
					return err
				}
			}
			if text == "" {
				continue
			}
			if err := s.value.Set(text); err != nil {
				return fmt.Errorf("%s=%q: %w", name, text, err)
			}
			break
		}
	}
	return cfg.complete(getenv)
}

// fromEnvironment returns the settings of a command line without flags.
func fromEnvironment(getenv func(string) string) (cfg config, err error) {
	err = cfg.settle(settings(&cfg), func(string) bool { return false }, getenv)
	return cfg, err
}

// complete fills in the defaults that depend on other settings, and judges.
func (cfg *config) complete(getenv func(string) string) error {
	if cfg.Node == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("find this host's name (set --node or RABBITMQ_NODENAME): %w", err)
		}
		if !cfg.LongNames {
			host, _, _ = strings.Cut(host, ".")
		}
		cfg.Node = "rabbit@" + host
	}
	if !strings.Contains(cfg.Node, "@") {
		return fmt.Errorf("RABBITMQ_NODENAME=%q (--node) is not name@host: give it as rabbit@%s", cfg.Node, "<host name>")
	}
	if err := rabbitconf.ValidNode(cfg.Node); err != nil {
		return fmt.Errorf("RABBITMQ_NODENAME=%q (--node): %w", cfg.Node, err)
	}
	if _, host, _ := strings.Cut(cfg.Node, "@"); !cfg.LongNames && strings.Contains(host, ".") {
		return fmt.Errorf("RABBITMQ_NODENAME=%q (--node) has a dot in its host: set RABBITMQ_USE_LONGNAME=true (--long-names), or use the short host name", cfg.Node)
	}
	for i, a := range cfg.Consul {
		a = strings.TrimSpace(a)
		if err := validAddress(a); err != nil {
			return fmt.Errorf("--consul (CONSUL_HTTP_ADDR): %q: %w", a, err)
		}
		cfg.Consul[i] = a
	}
	if cfg.Service == "" || strings.ContainsAny(cfg.Service, " /@") {
		return fmt.Errorf("--service (RMQ_SERVICE) %q is no service name: use letters, digits and dashes", cfg.Service)
	}
	if _, _, err := net.ParseCIDR(cfg.Advertise); err != nil && net.ParseIP(cfg.Advertise) == nil && (strings.ContainsAny(cfg.Advertise, "/: \t") || len(cfg.Advertise) > 15) {
		return fmt.Errorf("--advertise (RMQ_ADVERTISE) %q is neither an IP address, nor a subnet as 10.0.0.0/24, nor the name of an interface as eth0", cfg.Advertise)
	}
	if cfg.Hosts != "off" && cfg.Hosts != "consul" {
		return fmt.Errorf("--hosts (RMQ_HOSTS) %q: off or consul", cfg.Hosts)
	}
	if cfg.Hosts == "consul" && loopbackName(cfg.Node) {
		return fmt.Errorf("RABBITMQ_NODENAME=%q (--node) with --hosts consul (RMQ_HOSTS): every host takes that name for itself, so no other node could reach this one: give this container a host name (hostname: in Compose, docker run --hostname), or set RABBITMQ_NODENAME", cfg.Node)
	}
	for i, tag := range cfg.Tags {
		if cfg.Tags[i] = strings.TrimSpace(tag); cfg.Tags[i] == "" {
			return errors.New("--tags (RMQ_TAGS): an empty tag; give them as production,ssd")
		}
	}
	if err := peers.ValidMeta(cfg.Meta); err != nil {
		return fmt.Errorf("--meta (RMQ_META): %w; give it as zone=a,disk=ssd", err)
	}
	if cfg.DNSServer != "" {
		if err := hostPort(cfg.DNSServer); err != nil {
			return fmt.Errorf("--dns-server (RMQ_DNS_SERVER) %q is not host:port: %w", cfg.DNSServer, err)
		}
	}
	if err := hostPort(cfg.HTTP); err != nil {
		return fmt.Errorf("--http (RMQ_HTTP) %q is not [host]:port: %w", cfg.HTTP, err)
	}
	if cfg.KeyPrefix == "" || strings.HasPrefix(cfg.KeyPrefix, "/") {
		return fmt.Errorf("--key-prefix (RMQ_KEY_PREFIX) %q: give a path without a slash in front, as rmq-entrypoint", cfg.KeyPrefix)
	}
	if cfg.TTL < 10*time.Second || cfg.TTL > 24*time.Hour {
		return fmt.Errorf("--ttl (RMQ_TTL) %s: Consul takes 10s to 24h", cfg.TTL)
	}
	if cfg.LockDelay < time.Millisecond || cfg.LockDelay > time.Minute {
		return fmt.Errorf("--lock-delay (RMQ_LOCK_DELAY) %s: Consul takes 1ms to 60s, and 0 would silently mean 15s", cfg.LockDelay)
	}
	if cfg.ClaimTimeout == 0 {
		cfg.ClaimTimeout = 3 * cfg.TTL
	}
	if cfg.ClaimTimeout <= 2*cfg.TTL {
		return fmt.Errorf("--claim-timeout (RMQ_CLAIM_TIMEOUT) %s: must be over twice the TTL (%s), because a session may live that long after its holder died", cfg.ClaimTimeout, 2*cfg.TTL)
	}
	for _, t := range []struct {
		name string
		d    time.Duration
	}{{"--wait-timeout (RMQ_WAIT_TIMEOUT)", cfg.WaitTimeout}, {"--join-timeout (RMQ_JOIN_TIMEOUT)", cfg.JoinTimeout}} {
		if t.d < cfg.TTL {
			return fmt.Errorf("%s %s: must be at least the TTL (%s)", t.name, t.d, cfg.TTL)
		}
	}
	if cfg.Queues != "auto" && cfg.Queues != "off" {
		return fmt.Errorf("--queues (RMQ_QUEUES) %q: auto or off", cfg.Queues)
	}
	if cfg.LogFormat != "text" && cfg.LogFormat != "json" {
		return fmt.Errorf("--log-format (RMQ_LOG_FORMAT) %q: text or json", cfg.LogFormat)
	}
	cfg.Home = cmp.Or(getenv("RABBITMQ_DATA_DIR"), "/var/lib/rabbitmq") // as the official image names it
	cfg.Data = cmp.Or(getenv("RABBITMQ_MNESIA_DIR"), filepath.Join(cmp.Or(getenv("RABBITMQ_MNESIA_BASE"), filepath.Join(cfg.Home, "mnesia")), cfg.Node))
	cfg.StateDir = cmp.Or(cfg.StateDir, cfg.Data+"-entrypoint")
	cfg.ConfigFile = cmp.Or(cfg.ConfigFile, filepath.Join(cfg.StateDir, "rabbitmq.config"))
	return cfg.port(getenv)
}

// listen takes over where RabbitMQ and its plugins are configured to listen: the
// health check connects there, and the first port that is not this host's alone is registered,
// unless RMQ_AMQP_URL names one.
func (cfg *config) listen(user rabbitconf.User) error {
	cfg.Listeners = user.Listeners(cfg.Port)
	cfg.Management, cfg.Prometheus = user.HTTP("management", 15672), user.HTTP("prometheus", 15692)
	switch {
	case cfg.AMQPURL != "":
	case len(cfg.Listeners) == 0:
		return errors.New("the configuration has no AMQP listener (listeners.tcp, listeners.ssl) that the health check could ask: add one, on 127.0.0.1 perhaps, or give its address as RMQ_AMQP_URL (--amqp-url)")
	default:
		i := slices.IndexFunc(cfg.Listeners, func(l rabbitconf.Listener) bool {
			return !net.ParseIP(l.Host).IsLoopback() // others are to come through it
		})
		cfg.Port = cfg.Listeners[max(i, 0)].Port
	}
	return nil
}

// port finds the AMQP port and strips the password from the URL.
func (cfg *config) port(getenv func(string) string) error {
	cfg.Port = 5672
	if p := getenv("RABBITMQ_NODE_PORT"); p != "" {
		n, err := strconv.Atoi(p)
		if err != nil || n < 1 || n > 65535 {
			return fmt.Errorf("RABBITMQ_NODE_PORT=%q is no port", p)
		}
		cfg.Port = n
	}
	if cfg.AMQPURL == "" {
		return nil
	}
	u, err := parseAMQP(cfg.AMQPURL)
	if err != nil {
		return fmt.Errorf("RMQ_AMQP_URL (--amqp-url): %w", err)
	}
	switch {
	case u.Port() != "":
		cfg.Port, _ = strconv.Atoi(u.Port())
	case u.Scheme == "amqps":
		cfg.Port = 5671
	}
	if u.User != nil {
		u.User = url.User(u.User.Username())
	}
	cfg.AMQPURL = u.String()
	return nil
}

// secret returns the variable name, or what the file named by name_FILE holds.
func secret(getenv func(string) string, name string) (string, error) {
	file := getenv(name + "_FILE")
	if file == "" {
		return getenv(name), nil
	}
	if getenv(name) != "" {
		return "", keepOne(name)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("%s_FILE: %w", name, err)
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}

func keepOne(name string) error {
	return fmt.Errorf("both %s and %s_FILE are set: keep one", name, name)
}

func validAddress(a string) error {
	if a == "" {
		return errors.New("empty address; give host:port, comma-separated")
	}
	if rest, ok := strings.CutPrefix(a, "unix://"); ok && rest != "" {
		return nil
	}
	if !strings.Contains(a, "://") {
		a = "http://" + a
	}
	u, err := url.Parse(a)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" || u.Path != "" && u.Path != "/" {
		return errors.New("not [http[s]://]host:port or unix:///path")
	}
	return validPort(cmp.Or(u.Port(), "8500"))
}

func hostPort(a string) error {
	_, port, err := net.SplitHostPort(a)
	if err == nil {
		err = validPort(port)
	}
	return err
}

func validPort(p string) error {
	if n, err := strconv.Atoi(p); err != nil || n < 1 || n > 65535 {
		return errors.New("not a port from 1 to 65535")
	}
	return nil
}

// parseAMQP judges the URL of a broker. Its errors repeat nothing of it, since it
// may hold a password.
func parseAMQP(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "amqp" && u.Scheme != "amqps" || u.Hostname() == "" {
		return nil, errors.New("not amqp[s]://[user:password@]host[:port][/vhost]; reserved characters in a password are percent-encoded")
	}
	return u, validPort(cmp.Or(u.Port(), "5672"))
}

func hasPassword(raw string) bool {
	u, err := url.Parse(raw)
	if err != nil || u.User == nil {
		return false
	}
	_, has := u.User.Password()
	return has
}

// lockKey and recordKey are the two keys in Consul.
func (cfg config) lockKey() string   { return cfg.KeyPrefix + "/" + cfg.Service + "/lock" }
func (cfg config) recordKey() string { return cfg.KeyPrefix + "/" + cfg.Service + "/cluster" }

// survivingQueues reports whether we see to it that queues survive the loss of a
// node, where the user has not decided it.
func (cfg config) survivingQueues() bool { return cfg.Queues == "auto" }
