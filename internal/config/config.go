// Package config holds the settings: flag over environment over default, in one table.
package config

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// Config is the effective settings. It is what the entrypoint leaves for its
// companion in the runtime file, so it holds no secret: tokens, the cookie and
// passwords stay in the environment.
type Config struct {
	Consul       []string
	Service      string
	DNSServer    string
	DNSDomain    string
	Node         string
	LongNames    bool
	Advertise    string // as set; once started, the IP address or the host name it stands for
	Hosts        string
	Tags         []string
	Meta         map[string]string
	TTL          time.Duration
	Interval     time.Duration // of the companion's heartbeats
	KeyPrefix    string
	LockDelay    time.Duration
	WaitTimeout  time.Duration
	JoinTimeout  time.Duration
	ClaimTimeout time.Duration
	StopTimeout  time.Duration // of a server that hangs in its stop
	AMQPURL      string        // without a password
	HTTP         string
	Admin        string // off: there is no page
	ConfigFile   string
	StateDir     string
	Queues       string
	ClusterName  string
	Single       bool // a lone broker, in no cluster
	ForceBoot    bool `json:"CarryOn"`
	AllowJump    bool
	LogLevel     slog.Level
	LogFormat    string

	Home          string                // of the user rabbitmq: cookie file
	Data          string                // RabbitMQ's own directory of this node
	Port          int                   // of AMQP, on this host
	AdvertisePort int                   // where others reach it, if that was set; 0: Port
	Listeners     []rabbitconf.Listener // where RabbitMQ is configured to listen
	Located       bool                  // Listeners are by RabbitMQ's own list

	Management, Prometheus rabbitconf.Listener // where these plugins listen, if they are enabled

	Flags, Variables map[string]string // settings that were given, by their flag's name: as flags, and in the environment

	Args []string `json:"-"` // the command and its arguments
}

// FromEnvironment returns the settings of a command line without flags.
func FromEnvironment(getenv func(string) string) (cfg Config, err error) {
	err = cfg.Complete(Settings(&cfg), func(string) bool { return false }, getenv)
	return cfg, err
}

// LockKey and RecordKey are the two keys in Consul that decide.
func (cfg Config) LockKey() string { return cfg.KeyPrefix + "/" + cfg.Service + "/lock" }

func (cfg Config) RecordKey() string { return cfg.KeyPrefix + "/" + cfg.Service + "/cluster" }

// NotesPrefix is what the keys of notes begin with: what nodes say that have no entry in the
// catalog. They decide nothing.
func (cfg Config) NotesPrefix() string { return cfg.KeyPrefix + "/" + cfg.Service + "/notes/" }

// Places are the keys in Consul by which nodes with --hosts consul say where they are.
func (cfg Config) Places() peers.Places {
	return peers.Places{Prefix: cfg.KeyPrefix + "/" + cfg.Service + "/addresses/", Record: cfg.RecordKey()}
}

// SurvivingQueues reports whether we see to it that queues survive the loss of a
// node, where the user has not decided it.
func (cfg Config) SurvivingQueues() bool { return cfg.Queues == "auto" }

// Called returns what RabbitMQ is to call the cluster; "": what it is called already. The founding
// gives it the service's name: members would each undo a name that was given later.
func (cfg Config) Called(founds bool) string {
	if cfg.ClusterName == "" && founds {
		return cfg.Service
	}
	return cfg.ClusterName
}

// OnHost says who writes what others will read, and where.
func OnHost(who string) string {
	host, err := os.Hostname()
	if err != nil {
		return who
	}
	return who + " on host " + host
}

// Inetrc is the file that tells Erlang of the hosts file. Its path has no node's
// name in it, for people to set ERL_INETRC to: what docker exec starts does not
// see the server's environment.
func (c Config) Inetrc() string { return filepath.Join(c.Home, "inetrc") }

// Logger writes to stderr, as the server's own boot messages do.
func Logger(cfg Config) *slog.Logger {
	opts := &slog.HandlerOptions{Level: cfg.LogLevel}
	if cfg.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, opts)).With("program", "rmq-entrypoint")
	}
	return slog.New(slog.NewTextHandler(os.Stderr, opts)).With("program", "rmq-entrypoint")
}

// Place is where the state directory is, unless settings say otherwise.
func (c Config) Place() string { return c.Data + "-entrypoint" }

// StatusSocket is where the companion answers this program's own commands. Its path is as long as
// that of [Config.Socket], which is judged at the start.
func (c Config) StatusSocket() string { return filepath.Join(c.StateDir, "status.sock") }

// Socket is where RabbitMQ says that it is ready, or stopping.
func (c Config) Socket() string { return filepath.Join(c.StateDir, "notify.sock") }

// OneLine is an error as one line for a terminal: words of others may be in it.
func OneLine(err error) string {
	return peers.Plain(strings.ReplaceAll(err.Error(), "\n", "; "))
}
