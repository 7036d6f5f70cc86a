// Package companion is the process that stays beside the server. At each heartbeat it looks
// at the node, has package policy decide what that means, does what that asks for, and
// tells Consul, /status and the log.
package companion

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/formation"
	"rmq-entrypoint/internal/hosts"
	"rmq-entrypoint/internal/policy"
	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/lock"
	"rmq-entrypoint/peers"
)

// Surroundings are all that a companion works with.
type Surroundings struct {
	Log     *slog.Logger
	Runtime statedir.Runtime
	Consul  *consul.Agents
	Broker  rabbitmq.CLI
	IsDown  func(context.Context, peers.Peer) bool                   // whether a registered node is positively down
	Check   func(ctx context.Context, login bool) healthcheck.Result // without a login: whether somebody listens
	ports   ports
	hosts   *hosts.File
	Session string                                                   // of the lock that a seed founds under; "": none
	note    func(context.Context, statedir.Runtime) *consul.Bulletin // that the node waits behind the gate; nil: nobody is told

	Formation formation.Options // of a server behind the gate: where DNS is asked, and how others are reached
	Events
}

// Events are what the companion hears.
type Events struct {
	Closed <-chan healthcheck.Reason // connections of the check that RabbitMQ closed
	Said   <-chan string             // by RabbitMQ, in the notify protocol
	Gone   <-chan struct{}           // closed when the server has ended
}

// ports are those of this node at which the companion logs in.
type ports struct {
	move    func(config.Config) error // has the check go where these settings say; nil: it stays
	ready   func(config.Config) error // RabbitMQ has begun to serve; nil: nobody to tell
	resumed func()                    // RabbitMQ is out of maintenance mode; nil: nobody to tell
	managed *managementPort
}

// companion is what a companion remembers. What its rules remember is in state alone.
//
// One goroutine, loop, owns the events. A second one looks at the node, and the work of a
// heartbeat runs in a third one, never two of a kind at a time. Both are cut short by an event
// that cannot wait.
type companion struct {
	Surroundings
	settings policy.Settings
	state    policy.State
	steady   healthcheck.Steady        // forgives one miss of the check
	services services                  // of this node, in Consul
	kept     kept                      // of what Consul said
	lock     atomic.Pointer[lock.Lock] // a seed's, until its cluster is announced
	said     saying                    // by the log
	board    board                     // what /status shows
	looking  worker                    // looks at the node
	working  worker                    // does the work of a heartbeat
	files    files                     // on the volume
}

// files are what the volume holds for the companion. One reader at a time: each holds the
// operator's lock for a moment, which the other would take for a command.
type files struct {
	reading sync.Mutex
	dir     statedir.Dir   // never changes, unlike the rest of what Runtime says
	known   *policy.Volume // when they could be opened last; nil: never
}

// Main is `rmq-entrypoint companion`.
func Main(ctx context.Context, cfg config.Config, sign *Sign) error {
	rt, err := statedir.ReadRuntime(cfg.StateDir)
	if err != nil {
		return fmt.Errorf("read the runtime file: %w", err)
	}
	// Before anything is touched: one by hand would take the socket from the one
	// that runs.
	if rt == nil || !inherited(cfg.StateDir) {
		return errors.New("rmq-entrypoint companion is started by rmq-entrypoint alone; a health check replaces one that was lost")
	}
	defer spare()()
	syscall.CloseOnExec(lockFD) // or an orphan of RabbitMQ's command line would hold the lock
	log := config.Logger(rt.Config)
	// Told to stop it goes, whatever it waits for: a disk, or somebody to read its log.
	context.AfterFunc(ctx, func() { time.AfterFunc(1700*time.Millisecond, func() { os.Exit(1) }) })
	held := os.NewFile(lockFD, statedir.CompanionLock)
	defer held.Close() // held to the end
	if err := statedir.Sign(held); err != nil {
		log.Warn("a health check could not replace this companion if it hung", "err", err)
	}
	in := &login{log: log, version: rt.RabbitMQ()}
	if err := in.begin(ctx, rt.Config); err != nil {
		return err
	}
	defer within(300*time.Millisecond, in.checker.Close)
	ask := func(ctx context.Context) ([]healthcheck.Node, error) {
		return managementNodes(ctx, in.user(), rt.Config.Management)
	}
	said, err := listen(rt.Config.Socket(), os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		return err
	}
	defer said.Close()
	agents := consul.New(rt.Config, log)
	agents.Prefer(rt.Consul)
	return Run(ctx, Surroundings{
		Log: log, Runtime: *rt, Consul: agents, Broker: rabbitmq.New(rt.Config.Node, rt.Config.LongNames, hosts.Environment(rt.Config)...), IsDown: hosts.Down(rt.Config),
		Check: in.check,
		ports: ports{move: in.move, ready: in.ready, resumed: in.checker.Resumed, managed: &managementPort{port: rt.Config.Management.Port, ask: ask, log: log}}, note: consul.Post,
		hosts: hosts.Of(ctx, rt.Config, consul.Registration(*rt).Address), Session: os.Getenv(sessionEnv),
		Formation: formation.Options{DNS: peers.DNS{Server: rt.Config.DNSServer, Domain: rt.Config.DNSDomain}},
		Events:    Events{Closed: in.checker.Closed(), Said: said.C, Gone: gone(ctx, *rt)},
	}, func(answers Answers) (io.Closer, error) {
		opened, err := open(rt.Config, answers, log)
		if err != nil {
			return nil, err
		}
		return opened, sign.ready()
	})
}

// Answers are what a companion says, by who asks: everybody, this program's own commands, and
// operators at the address of their own.
type Answers struct{ Ready, Own, Admin http.Handler }

// Run works until the server is gone or ctx ends. What begin opens, once the companion has
// what it needs, is closed in the end.
func Run(ctx context.Context, s Surroundings, begin func(Answers) (io.Closer, error)) error {
	c := newCompanion(s)
	c.show("booting")
	if s.Session != "" {
		client, err := c.Consul.Client(ctx)
		if err != nil {
			return err
		}
		held, err := lock.Adopt(ctx, client, s.Session, consul.LockOptions(s.Runtime.Config, s.Log))
		if err != nil {
			return err
		}
		c.lock.Store(held)
	}
	opened, err := begin(Answers{c.board.ready(), c.own(), c.admin()})
	if opened != nil {
		defer opened.Close()
	}
	if err != nil {
		return err
	}
	if s.Runtime.Gated {
		if passed, err := c.gate(ctx); !passed {
			return err
		}
	}
	return c.loop(ctx)
}

func newCompanion(s Surroundings) *companion {
	c := &companion{Surroundings: s, files: files{dir: statedir.Of(s.Runtime.Config)}}
	c.board.ttl, c.board.looked = s.Runtime.Config.TTL, time.Now()
	c.newKept()
	c.begin()
	c.board.cluster = newGlimpse(s.Runtime.Config, c.settings.Beat(), time.Now())
	return c
}

// begin takes up what the runtime file says that this node is.
func (c *companion) begin() {
	rt, cfg := c.Runtime, c.Runtime.Config
	reg := consul.Registration(rt)
	reg.Places.Denied = consul.Unplaced(c.Log)
	c.settings = policy.Settings{
		Node: cfg.Node, Volume: rt.Volume, Boot: rt.Boot, Version: rt.Version,
		TTL: cfg.TTL, Interval: cfg.Interval, DeregisterAfter: reg.DeregisterAfter, JoinTimeout: cfg.JoinTimeout, StopTimeout: cfg.StopTimeout, RecordKey: cfg.RecordKey(), Queues: rt.Queues,
		ForceBoot: cfg.ForceBoot, SurvivingQueues: cfg.SurvivingQueues(), Adopted: rt.Queues == statedir.Adopted, QuorumQueues: rt.Queues == statedir.Quorum, OwnPartitionHandling: rt.UserPartitionHandling, Replaced: rt.Waiting == statedir.Replaced, Gate: rt.Told, Single: cfg.Single,
	}
	c.state = policy.Start(c.settings, policy.Membership{
		Role: policy.Role(rt.Role), ClusterID: rt.Cluster, Claim: rt.Claim, VerifiedSince: rt.Verified,
	}, time.Now())
	c.services = services{log: c.Log, agents: c.Consul, runtime: &c.Runtime, reg: reg, plugins: consul.PluginServices(rt), told: map[string]telling{}}
	for _, e := range c.services.plugins {
		if c.settings.Replaced { // the earlier companion may have registered it
			c.services.told[e.Service] = telling{}
		}
	}
}

// saying is what the log was told and is not told again.
type saying struct {
	once   string               // the last of what it is told when it has changed
	warned map[string]time.Time // when it was warned in these words
}

// warnEvery is how often the log has the same warning, word for word: what fails with each
// heartbeat is tried with each, and written once a minute.
const warnEvery = time.Minute

// again reports whether the log is not to have a line now.
func (s *saying) again(l policy.Line, now time.Time) bool {
	text := l.Text + fmt.Sprint(l.Attrs...)
	switch {
	case l.Once:
		if text == s.once {
			return true
		}
		s.once = text
	case l.Level >= policy.Warn:
		maps.DeleteFunc(s.warned, func(_ string, at time.Time) bool { return now.Sub(at) >= warnEvery })
		if _, lately := s.warned[text]; lately {
			return true
		}
		if s.warned == nil {
			s.warned = map[string]time.Time{}
		}
		s.warned[text] = now
	}
	return false
}

// say tells the log what the rules have to tell.
func (c *companion) say(lines []policy.Line) {
	for _, l := range lines {
		if !c.said.again(l, time.Now()) {
			c.Log.Log(context.Background(), slog.Level(l.Level), l.Text, l.Attrs...)
		}
	}
}
