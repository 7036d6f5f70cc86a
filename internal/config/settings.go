package config

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"rmq-entrypoint/peers"
)

// Setting is one row of the contract: flag over environment over default.
type Setting struct {
	Flag  string
	Env   []string // the first that is set and not empty counts
	Value pflag.Value
	Help  string
	Def   string // shown instead of the value's own default
}

// Settings binds every setting to cfg. Its order is the order of the table in
// docs/settings.md and of --help, which are tested against it.
func Settings(cfg *Config) []Setting {
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
	boolean := func(p *bool) pflag.Value { *p = false; return &yesNo{p: p} }
	cfg.Meta, cfg.Tags, cfg.Consul = nil, nil, []string{"127.0.0.1:8500"}
	meta, tags, addrs := &pairs{p: &cfg.Meta}, &list{p: &cfg.Tags}, &list{p: &cfg.Consul}
	level := value(func(n string) { fs.TextVar(&cfg.LogLevel, n, slog.LevelInfo, "") })
	cfg.LongNames = false
	return []Setting{
		{"consul", []string{"CONSUL_HTTP_ADDR", "CONSUL_ADDRESS"}, addrs, "Consul agents, comma-separated, tried in this order", "127.0.0.1:8500"},
		{"service", []string{"RMQ_SERVICE"}, str(&cfg.Service, "rabbitmq"), "service name: nodes with the same one are one cluster", ""},
		{"dns-server", []string{"RMQ_DNS_SERVER"}, str(&cfg.DNSServer, ""), "DNS server (host:port) that knows Consul's domain", "first of /etc/resolv.conf"},
		{"dns-domain", []string{"RMQ_DNS_DOMAIN"}, str(&cfg.DNSDomain, "consul"), "Consul's DNS domain", ""},
		{"node", []string{"RABBITMQ_NODENAME"}, str(&cfg.Node, ""), "node name, name@host", "rabbit@<host name>"},
		{"long-names", []string{"RABBITMQ_USE_LONGNAME"}, &yesNo{p: &cfg.LongNames, RabbitMQs: true}, "node names carry the full host name", ""},
		{"advertise", []string{"RMQ_ADVERTISE"}, str(&cfg.Advertise, ""), "IP address or host name to register, or the interface or subnet (10.0.0.0/24) to take it from, with :PORT where others reach AMQP at another one; with an agent on this host, by default the agent's own", "source of the route to Consul"},
		{"hosts", []string{"RMQ_HOSTS"}, str(&cfg.Hosts, "off"), "consul: nodes learn each other's addresses from Consul, so that their host names need not resolve; off: as the system resolves them", ""},
		{"tags", []string{"RMQ_TAGS"}, tags, "tags of the node's services in Consul, comma-separated; SERVICE=TAG is one service's, as rabbitmq-management=urlprefix-/", "none"},
		{"meta", []string{"RMQ_META"}, meta, "meta of the node's services in Consul, key=value, comma-separated", "none"},
		{"ttl", []string{"RMQ_TTL"}, dur(&cfg.TTL, 15*time.Second), "TTL of the health check and of the lock's session, 10s to 24h", ""},
		{"interval", []string{"RMQ_INTERVAL"}, dur(&cfg.Interval, 0), "how often the companion looks at the node and tells Consul: 1s to a third of the TTL, at most 1m", "ttl / 3, at most 10s"},
		{"key-prefix", []string{"RMQ_KEY_PREFIX"}, str(&cfg.KeyPrefix, "rmq-entrypoint"), "prefix of the lock's and the cluster record's keys", ""},
		{"lock-delay", []string{"RMQ_LOCK_DELAY"}, dur(&cfg.LockDelay, time.Second), "how long the lock stays shut after its holder was lost, 1ms to 60s", ""},
		{"wait-timeout", []string{"RMQ_WAIT_TIMEOUT"}, dur(&cfg.WaitTimeout, 10*time.Minute), "how long a blank node waits before it exits and is restarted", ""},
		{"join-timeout", []string{"RMQ_JOIN_TIMEOUT"}, dur(&cfg.JoinTimeout, 5*time.Minute), "how long a joiner may take to get ready before it is stopped and decides afresh", ""},
		{"claim-timeout", []string{"RMQ_CLAIM_TIMEOUT"}, dur(&cfg.ClaimTimeout, 0), "how long a dead seed's claim is left alone, and what DNS alone knows holds up a founding; over twice the TTL", "3 × ttl"},
		{"stop-timeout", []string{"RMQ_STOP_TIMEOUT"}, dur(&cfg.StopTimeout, 12*time.Second), "how long a server may take to stop before the companion ends it, 5s to 10m: less than what ends the container", ""},
		{"amqp-url", []string{"RMQ_AMQP_URL"}, str(&cfg.AMQPURL, ""), "what the health check connects to", "this node's listeners, with RABBITMQ_DEFAULT_USER, _PASS and _VHOST"},
		{"http", []string{"RMQ_HTTP"}, str(&cfg.HTTP, ":15690"), "address of the companion's /ready", ""},
		{"admin", []string{"RMQ_ADMIN"}, str(&cfg.Admin, "127.0.0.1:15689"), "address of the companion's page of the whole cluster, for operators, its JSON and its metrics; off: there is none", ""},
		{"config", []string{"RMQ_CONFIG_FILE"}, str(&cfg.ConfigFile, ""), "rabbitmq.config to write", "<state-dir>/rabbitmq.config"},
		{"state-dir", []string{"RMQ_STATE_DIR"}, str(&cfg.StateDir, ""), "where this program keeps what it knows of the volume: on the volume", "/var/lib/rabbitmq/mnesia/<node>-entrypoint"},
		{"queues", []string{"RMQ_QUEUES"}, str(&cfg.Queues, "auto"), "auto: queues of a cluster that is founded with it survive the loss of a node (mirrored up to RabbitMQ 3.13, quorum queues from 4.0); off: as RabbitMQ has it", ""},
		{"cluster-name", []string{"RMQ_CLUSTER_NAME"}, str(&cfg.ClusterName, ""), "name of the cluster in RabbitMQ's UI and metrics, given to it at each start", "the service name, given at the founding alone"},
		{"single", []string{"RMQ_SINGLE"}, boolean(&cfg.Single), "a lone broker for development, without Consul: it is in no cluster and registered nowhere, and its volume can be no member's", ""},
		{"force-boot", []string{"RMQ_FORCE_BOOT"}, boolean(&cfg.ForceBoot), "carry on from this copy by itself when the majority is gone for good", ""},
		{"allow-version-jump", []string{"RMQ_ALLOW_VERSION_JUMP"}, boolean(&cfg.AllowJump), "start where RabbitMQ does not support to: a jump of versions, a downgrade, a mix with other members", ""},
		{"log-level", []string{"RMQ_LOG_LEVEL"}, level, "debug, info, warn or error", "info"},
		{"log-format", []string{"RMQ_LOG_FORMAT"}, str(&cfg.LogFormat, "text"), "text or json", ""},
	}
}

// Secrets are settings that have no flag, because argv is public. Each may be
// given as a file instead: the variable's name with _FILE.
var Secrets = []struct{ Env, Help string }{
	{"RABBITMQ_ERLANG_COOKIE", "secret all nodes share; written to the cookie file, never passed to the server's environment"},
	{"CONSUL_HTTP_TOKEN", "Consul ACL token; never passed to the server's environment"},
	{"RMQ_AMQP_URL", "may hold a password, unlike --amqp-url"},
}

// Flags returns rows as flags of a command line.
func Flags(name string, rows []Setting) *pflag.FlagSet {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	fs.SortFlags = false
	for _, s := range rows {
		usage := s.Help
		if len(s.Env) > 0 {
			usage += " (" + strings.Join(s.Env, ", ") + ")"
		}
		f := fs.VarPF(s.Value, s.Flag, "", usage)
		f.DefValue = s.DefaultText()
		if s.Value.Type() == "bool" {
			f.NoOptDefVal = "true"
		}
	}
	return fs
}

// DefaultText is the default as people read it.
func (s Setting) DefaultText() string {
	if s.Def != "" {
		return s.Def
	}
	return s.Value.String()
}

// Complete takes from the environment what no flag gave, and completes the rest. Its
// rows are the settings of cfg, and given reports whether a flag was on the command line.
func (cfg *Config) Complete(rows []Setting, given func(flag string) bool, getenv func(string) string) error {
	for _, s := range Secrets {
		if getenv(s.Env) != "" && getenv(s.Env+"_FILE") != "" {
			return keepOne(s.Env)
		}
	}
	cfg.Flags, cfg.Variables = map[string]string{}, map[string]string{}
	for _, s := range rows {
		if given(s.Flag) {
			text, err := s.kept(s.Value.String())
			if err != nil {
				return err
			}
			cfg.Flags[s.Flag] = text
		}
		name, text, err := s.fromEnvironment(getenv)
		if err != nil {
			return err
		}
		switch plain, err := s.kept(text); {
		case text == "":
			continue
		case s.Flag == "amqp-url": // which may hold a password
		case err == nil:
			cfg.Variables[s.Flag] = plain
		case !given(s.Flag): // before any error repeats it; one that a flag overrules is not kept
			return err
		}
		if given(s.Flag) {
			continue
		}
		if err := s.Value.Set(text); err != nil { // some of these errors repeat the text as it is
			return fmt.Errorf("%s=%q: %s", name, text, peers.Plain(err.Error()))
		}
	}
	return cfg.judge(getenv)
}

// kept returns what is kept of a setting's text, which logs and the runtime file may show. An error
// says that a secret is, or may be, in it, and repeats nothing of it.
func (s Setting) kept(text string) (string, error) {
	switch {
	case s.Flag == "amqp-url" && HasPassword(text):
		return "", errors.New("--amqp-url holds a password, which every user of this host could read: give it as RMQ_AMQP_URL or RMQ_AMQP_URL_FILE")
	case s.Flag == "amqp-url":
		return withoutSecrets(text), nil
	case !slices.Contains(addresses, s.Flag) || !holdsUser(text) && !holdsMore(text):
		return text, nil
	}
	what, way := "a query or a fragment", "give host:port without them, and a token as CONSUL_HTTP_TOKEN or in a file (CONSUL_HTTP_TOKEN_FILE)"
	if holdsUser(text) {
		what, way = "a user or a password", "give them as CONSUL_HTTP_AUTH=user:password, and the address without them"
	}
	if s.Flag != "consul" {
		way = "give the address without them"
	}
	return "", fmt.Errorf("--%s (%s): an address with %s in it, which logs would show: %s", s.Flag, s.Env[0], what, way)
}

// fromEnvironment returns the variable that counts, and its text; "" if there is none.
func (s Setting) fromEnvironment(getenv func(string) string) (name, text string, err error) {
	for _, name := range s.Env {
		switch {
		case s.Flag == "amqp-url" && os.Geteuid() == 0 && getenv(name+"_FILE") != "":
			// Root has not stepped down yet: [Config.ReadURL] comes after that.
		case s.Flag == "amqp-url":
			text, err = Secret(getenv, name)
		case strings.HasPrefix(name, "RABBITMQ_"):
			text = RabbitMQs(getenv, name)
		default:
			text = getenv(name)
		}
		if text != "" || err != nil {
			return name, text, err
		}
	}
	return "", "", nil
}

// RabbitMQs returns a variable of RabbitMQ's, which it also takes without RABBITMQ_ before
// its name.
func RabbitMQs(getenv func(string) string, name string) string {
	return cmp.Or(getenv(name), getenv(strings.TrimPrefix(name, "RABBITMQ_")))
}

// Yes reports whether RabbitMQ takes text for true.
func Yes(text string) bool {
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "1", "yes", "true":
		return true
	}
	return false
}

// A yesNo is true or false in the words that people use.
type yesNo struct {
	p         *bool
	RabbitMQs bool // whatever RabbitMQ does not take for true is false, as it is there
}

func (v *yesNo) String() string {
	if v.p == nil {
		return "false"
	}
	return strconv.FormatBool(*v.p)
}

func (v *yesNo) Type() string { return "bool" }

func (v *yesNo) Set(text string) error {
	no := slices.Contains([]string{"0", "no", "false"}, strings.ToLower(strings.TrimSpace(text)))
	if *v.p = Yes(text); !*v.p && !no && !v.RabbitMQs {
		return errors.New("neither true nor false (yes, no, 1 and 0 do, too)")
	}
	return nil
}
