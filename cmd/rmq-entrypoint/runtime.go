package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"rmq-entrypoint/lock"
	"rmq-entrypoint/peers"
)

// The companion is this same binary, started as "rmq-entrypoint companion" just
// before the entrypoint becomes RabbitMQ, or by a health check that finds it
// gone. It inherits two descriptors: on readyFD it writes one byte once it is in
// charge (EOF instead means that it failed), and seatFD carries the flock that
// says who is the companion.
const (
	sessionEnv = "RMQ_ENTRYPOINT_SESSION"
	readyFD    = 3
	seatFD     = 4
	readyWait  = 15 * time.Second
)

// runtimeFile is what the entrypoint leaves for its companion and for health
// checks: settings and identity, no secrets.
type runtimeFile struct {
	Config  config
	PID     int    // of the server
	Started uint64 // its start time in clock ticks since boot: tells it from a later process of that PID
	Version string // of RabbitMQ
	Erlang  string // version that it runs on, if that is known
	Role    role
	Claim   string
	Volume  string
	Boot    string    // random id of this start
	Since   time.Time // of Boot
	Cluster string    // of the marker, when there was one
	Consul  string    // the address in use
	Address string    // to register, once Located; "": the agent's own
	Located bool
	Waiting string // why the server has not started yet

	Verified time.Time // the first time since the server started

	PauseMinority         bool // written to rabbitmq.config
	UserPartitionHandling bool // cluster_partition_handling is the user's own
}

func (rt runtimeFile) write() error {
	return writeJSON(filepath.Join(rt.Config.StateDir, "runtime.json"), rt)
}

func readRuntime(dir string) (*runtimeFile, error) {
	return readJSON[runtimeFile](filepath.Join(dir, "runtime.json"))
}

// registration is this node's entry in the catalog.
func registration(rt runtimeFile) peers.Registration {
	c := rt.Config
	return peers.Registration{
		Service: c.Service, Node: c.Node, Address: rt.Address, Port: c.Port,
		TTL: c.TTL, Reap: max(5*time.Minute, 4*c.TTL), Version: rt.Version, ClusterID: rt.Cluster,
		Tags: c.Tags, Meta: c.Meta,
		Volume: rt.Volume, Boot: rt.Boot, Since: rt.Since, Blank: rt.Role != member,
	}
}

// alive reports whether the server is still the process it was.
func (rt runtimeFile) alive() bool { return rt.PID > 0 && startTime(rt.PID) == rt.Started }

// startTime returns when pid started, in clock ticks since boot; 0 if it is gone
// or a zombie. It does not change with exec.
func startTime(pid int) uint64 {
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

// The seats are flocks on the volume: one for the companion, one for an operator's
// command that works on the node.
const (
	companionSeat = "companion.lock"
	operatorSeat  = "operator.lock"
)

// takeSeat takes the flock that makes its holder the one companion, or the
// entrypoint of this volume. It waits a moment for an earlier one to leave.
func takeSeat(ctx context.Context, dir string) (*os.File, error) {
	for deadline := time.Now().Add(5 * time.Second); ; {
		f, err := trySeat(dir, companionSeat)
		if !errors.Is(err, errSeatTaken) {
			return f, err
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return nil, fmt.Errorf("%w: another node runs on this volume (%s): give each node a volume of its own", err, dir)
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

var errSeatTaken = errors.New("another rmq-entrypoint holds the volume")

func trySeat(dir, seat string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, seat), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errSeatTaken
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return f, nil
}

// seated reports whether this process inherited the seat.
func seated(dir string) bool {
	var held, file syscall.Stat_t
	err := errors.Join(syscall.Fstat(seatFD, &held), syscall.Stat(filepath.Join(dir, companionSeat), &file))
	return err == nil && held.Dev == file.Dev && held.Ino == file.Ino
}

// spawn starts the companion and returns once it is in charge.
func spawn(ctx context.Context, rt runtimeFile, l *lock.Lock, seat, out *os.File) (*os.Process, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.Command(exe, "companion", "--state-dir", rt.Config.StateDir) // not CommandContext: it outlives this process image
	cmd.Env = os.Environ()
	if l != nil {
		cmd.Env = append(cmd.Env, sessionEnv+"="+l.Session())
	}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.ExtraFiles = []*os.File{w, seat}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a terminal's or a health check's end is not its end
	err = cmd.Start()
	w.Close()
	if err != nil {
		return nil, err
	}
	_ = r.SetReadDeadline(time.Now().Add(readyWait))
	defer context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Now()) })()
	if _, err := r.Read(make([]byte, 1)); err != nil {
		_ = cmd.Process.Kill()
		return nil, fmt.Errorf("it gave no sign: %w (%v)", err, cmd.Wait())
	}
	return cmd.Process, nil
}
