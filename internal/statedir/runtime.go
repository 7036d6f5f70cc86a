package statedir

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/rabbitconf"
)

// RabbitMQ is the version that runs here; the zero one where it cannot be read.
func (rt Runtime) RabbitMQ() rabbitconf.Version {
	v, _ := rabbitconf.ParseVersion(rt.Version)
	return v
}

// AtLeast reports whether RabbitMQ is of that version or later.
func (rt Runtime) AtLeast(major, minor int) bool { return rt.RabbitMQ().AtLeast(major, minor) }

// Replaced is the Waiting word of a runtime file whose companion was started
// again by a health check: RabbitMQ may have said READY to the one before.
const Replaced = "replaced"

// Runtime is what the entrypoint leaves for its companion and for health
// checks: settings and identity, no secrets.
type Runtime struct {
	Config  config.Config
	PID     int    // of the server
	Started uint64 // its start time in clock ticks since boot: tells it from a later process of that PID
	Version string // of RabbitMQ
	Erlang  string // version that it runs on, if that is known
	Role    Role
	Claim   string
	Volume  string
	Boot    string    // random id of this start
	Since   time.Time // of Boot
	Cluster string    // of the marker, when there was one
	Consul  string    // the address in use
	Address string    // to register, once Located; "": the agent's own
	Located bool
	Waiting string // why the server has not started yet
	Queues  string // what they are by default in this cluster, by [Queues]; "": not decided yet

	Verified time.Time // the first time since the server started

	PauseMinority         bool // written to rabbitmq.config
	UserPartitionHandling bool // cluster_partition_handling is the user's own
}

func (rt Runtime) Write() error {
	return writeJSON(filepath.Join(rt.Config.StateDir, "runtime.json"), rt)
}

func ReadRuntime(dir string) (*Runtime, error) {
	return readJSON[Runtime](filepath.Join(dir, "runtime.json"))
}

// OfServer returns the runtime file of the server that settings are about; nil: none was ever
// started there. Where they do not say which node is meant, the one that runs beside counts:
// its name may have been a flag of its command line.
func OfServer(cfg config.Config) (*Runtime, error) {
	rt, err := ReadRuntime(cfg.StateDir)
	_, node := cfg.Flags["node"]
	if rt != nil || err != nil || node || cfg.Flags["state-dir"]+cfg.Variables["state-dir"] != "" {
		return rt, err
	}
	beside, err := filepath.Glob(filepath.Join(filepath.Dir(cfg.StateDir), "*-entrypoint"))
	if err != nil {
		return nil, nil // no pattern: the directory's name has its signs
	}
	var found *Runtime
	for _, dir := range beside {
		other, err := ReadRuntime(dir)
		if err != nil || other == nil || !other.Alive() {
			continue
		}
		if found != nil {
			return nil, nil // which one is meant?
		}
		found = other
	}
	return found, nil
}

// Alive reports whether the server is still the process it was.
func (rt Runtime) Alive() bool { return rt.PID > 0 && StartTime(rt.PID) == rt.Started }

// StartTime returns when pid started, in clock ticks since boot; 0 if it is gone
// or a zombie. It does not change with exec.
func StartTime(pid int) uint64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// Fields after the command, which may hold spaces: state is the first, start time the 20th.
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	// While a process with several threads execs, its first one is a zombie for a
	// moment: only a zombie without other threads has ended.
	if len(f) < 20 || f[0] == "X" || f[0] == "Z" && f[17] <= "1" {
		return 0
	}
	t, _ := strconv.ParseUint(f[19], 10, 64)
	return t
}
