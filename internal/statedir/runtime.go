package statedir

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/rabbitconf"
)

// RabbitMQ is the version that runs here; the zero one where it cannot be read.
func (rt Runtime) RabbitMQ() rabbitconf.Version {
	v, _ := rabbitconf.ParseVersion(rt.Version)
	return v
}

// Waits reports whether the server has not started yet. Behind the gate it has, and its companion
// says for what it waits.
func (rt Runtime) Waits() bool { return rt.Waiting != "" && rt.Waiting != Replaced && !rt.Gated }

// AtLeast reports whether RabbitMQ is of that version or later.
func (rt Runtime) AtLeast(major, minor int) bool { return rt.RabbitMQ().AtLeast(major, minor) }

// Replaced is the Waiting word of a runtime file whose companion was started
// again by a health check: RabbitMQ may have said READY to the one before.
const Replaced = "replaced"

// Runtime is what the entrypoint leaves for its companion and for health
// checks: settings and identity, no secrets.
type Runtime struct {
	Config     config.Config
	PID        int    // of the server
	Started    uint64 // its start time in clock ticks since boot: tells it from a later process of that PID
	Version    string // of RabbitMQ
	Erlang     string // version that it runs on, if that is known
	Role       Role
	Claim      string
	Volume     string
	Boot       string    // random id of this start
	Since      time.Time // of Boot
	Cluster    string    // of the marker, when there was one
	Consul     string    // the address in use
	Address    string    // to register, once Located; "": the agent's own
	Located    bool
	LocatedFor string // the agent of Address: what another one would make of "" is another host's
	Waiting    string // why the server has not started yet

	Gated  bool      // the server has started and waits behind the gate: what it will be is not decided
	Told   bool      // the server began behind the gate, and is to be told whom to join
	Join   []string  // whom, then; nobody: it founds the cluster
	After  time.Time // when the one that is there started, if it is alone
	Queues string    // what they are by default in this cluster, by [Queues]; "": not decided yet

	Verified time.Time // the first time since the server started

	UserPartitionHandling bool // cluster_partition_handling is the user's own
}

// Write replaces the runtime file. It need not outlive the machine: the next start writes
// another, and an empty one is none.
func (rt Runtime) Write() error {
	b, err := json.MarshalIndent(rt, "", "  ")
	if err != nil {
		return err
	}
	return rabbitconf.Replace(filepath.Join(rt.Config.StateDir, runtimeFile), append(b, '\n'))
}

// ReadRuntime reads the runtime file in the state directory; nil: there is none.
func ReadRuntime(dir string) (*Runtime, error) {
	path := filepath.Join(dir, runtimeFile)
	if b, err := os.ReadFile(path); err == nil && len(bytes.Trim(b, "\x00")) == 0 { // the machine crashed
		return nil, nil
	}
	return readJSON[Runtime](path)
}

const runtimeFile = "runtime.json"

// Alive reports whether the server is still the process it was, as far as is known: what
// cannot be looked at has not ended.
func (rt Runtime) Alive() bool {
	ended, _ := rt.Ended()
	return !ended
}

// Ended reports whether the server has positively ended: there is no such process, it is
// a zombie, or its PID is another process's by now. An error means unknown, as where no
// file can be opened any more.
func (rt Runtime) Ended() (bool, error) {
	if rt.PID <= 0 {
		return true, nil
	}
	started, err := StartTime(rt.PID)
	return err == nil && started != rt.Started, err
}

// StartTime returns when pid started, in clock ticks since boot; 0 if it is positively
// gone or a zombie. It does not change with exec. An error means unknown.
func StartTime(pid int) (uint64, error) {
	// Not for a file that is missing: /proc may be, or hide the processes of others.
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return 0, nil
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) { // meanwhile
			return 0, nil
		}
		return 0, err
	}
	return startTime(string(b))
}

// startTime reads /proc/<pid>/stat.
func startTime(stat string) (uint64, error) {
	// Fields after the command, which may hold spaces: state is the first, start time the 20th.
	f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(f) < 20 {
		return 0, fmt.Errorf("/proc/<pid>/stat has %d fields: %q", len(f), stat)
	}
	// While a process with several threads execs, its first one is a zombie for a
	// moment: only a zombie without other threads has ended.
	if f[0] == "X" || f[0] == "Z" && f[17] <= "1" {
		return 0, nil
	}
	return strconv.ParseUint(f[19], 10, 64)
}
