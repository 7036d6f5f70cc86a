// Package companion is the process that stays beside the server: it hears what RabbitMQ
// says, looks at it at each heartbeat, decides what that means and tells Consul, /status
// and the log.
package companion

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/hosts"
	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/lock"
	"rmq-entrypoint/peers"
)

// Companion stays beside the server: it holds the seed's lock while the cluster
// forms, verifies and announces the node when RabbitMQ says that it is ready,
// beats its TTL check, keeps the cluster record true, and withdraws the node
// when RabbitMQ stops.
//
// One goroutine, loop, owns the events. The work of a beat runs in a second one,
// never two at a time, and is cut short by an event that cannot wait.
type Companion struct {
	log    *slog.Logger
	rt     statedir.Runtime
	consul *consul.Agents
	broker rabbitmq.CLI
	isDown func(context.Context, peers.Peer) bool // whether a registered node is positively down
	check  func(ctx context.Context) healthcheck.Result
	closed <-chan healthcheck.Reason
	nodes  func(ctx context.Context) ([]healthcheck.Node, error) // of the management port; nil when there is none
	lock   *lock.Lock                                            // a seed's, until its cluster is announced
	reg    peers.Registration
	beside []consul.PluginService // entries next to it
	hosts  *hosts.File
	born   time.Time

	serving   bool                 // RabbitMQ said READY and has not said that it stops
	booted    string               // the server's last word while it is not serving
	withdrawn bool                 // the node stopped by itself: it was deregistered, until READY
	stoppedAt time.Time            // since when
	anew      bool                 // it serves again and is not registered
	entered   string               // cluster id that this companion has put into the registration
	verified  bool                 // passing was earned: record, cluster id and members were checked
	wrong     string               // what the last look at a verified node found wrong
	mild      bool                 // and it is no reason not to serve
	partedAt  time.Time            // since when it is partitioned
	rejoining string               // why RabbitMQ restarts within its VM, until it is back
	rejoinAt  time.Time            // when it was last told to
	apartFrom map[string]time.Time // members that pass but are not seen running, since when
	steady    healthcheck.Steady
	joinedBy  time.Time // when a joiner that is not serving gives up
	stuckAt   time.Time // since when a joiner's vote is missed and not to be had
	stuck     int       // looks that showed so
	unled     bool      // the last look found no leader
	reported  time.Time // last time Consul took a beat
	critical  time.Time // since when Consul counts the time until it removes the entry
	lapsed    bool      // that is longer ago than the TTL, and passing was earned anew
	unlisted  time.Time // since when the catalog lacks the entry that the agent says it has
	view      peers.View
	viewAt    time.Time
	seen      uint64          // record index the view was judged against
	told      string          // last story
	missed    error           // why Consul could not be asked or told in this beat
	away      time.Time       // since when it cannot
	silent    int             // times in a row that the management port told nothing
	passing   string          // other nodes that pass, as of the last beat
	size      int             // members on record
	marked    statedir.Marker // on the volume
	minority  bool            // pause_minority is set

	regrows int      // tries left to bring back replicas of quorum queues
	lost    []string // members without which only force-boot goes on
	doubt   error    // why that could not be told

	out  bool     // of service, by an operator's order
	left []string // members that left for good and are not forgotten

	two    time.Time // since when the cluster has two members
	warned string    // what of them was last warned of

	mu    sync.Mutex
	shown Report // for /ready, /status and the health check
}

// Main is `rmq-entrypoint companion`.
func Main(ctx context.Context, cfg config.Config) error {
	rt, err := statedir.ReadRuntime(cfg.StateDir)
	if err != nil {
		return fmt.Errorf("read the runtime file: %w", err)
	}
	// Before anything is touched: one by hand would take the socket from the one
	// that runs.
	if rt == nil || !inherited(cfg.StateDir) {
		return errors.New("rmq-entrypoint companion is started by rmq-entrypoint alone; a health check replaces one that was lost")
	}
	syscall.CloseOnExec(seatFD) // or an orphan of RabbitMQ's command line would hold the seat
	log := config.Logger(rt.Config)
	urls, err := config.AMQPURLs(rt.Config, os.Getenv)
	if err != nil {
		return err
	}
	checker, err := healthcheck.New(healthcheck.Options{URLs: urls, Timeout: min(3*time.Second, rt.Config.TTL/5), Log: log})
	if err != nil {
		return fmt.Errorf("RMQ_AMQP_URL (--amqp-url): %w", err)
	}
	defer checker.Close()
	said, err := listen(rt.Config.Socket(), os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		return err
	}
	defer said.Close()
	agents := consul.New(rt.Config, log)
	agents.Prefer(rt.Consul)
	return Run(ctx, Surroundings{
		Log: log, Runtime: *rt, Consul: agents, Broker: rabbitmq.New(rt.Config.Node, rt.Config.LongNames, hosts.Environment(rt.Config)...), IsDown: hosts.Down(rt.Config),
		Check: checker.Check, Closed: checker.Closed(), nodes: managementNodes(os.Getenv, rt.Config.Management),
		hosts: hosts.Of(ctx, rt.Config, consul.Registration(*rt).Address), Session: os.Getenv(sessionEnv), Said: said.C, Gone: gone(ctx, *rt),
	}, func(c *Companion) (io.Closer, error) {
		serve, err := c.listenHTTP()
		if err != nil {
			return nil, fmt.Errorf("--http (RMQ_HTTP): %w", err)
		}
		return serve, signalReady()
	})
}

// Surroundings are all that a companion works with.
type Surroundings struct {
	Log     *slog.Logger
	Runtime statedir.Runtime
	Consul  *consul.Agents
	Broker  rabbitmq.CLI
	IsDown  func(context.Context, peers.Peer) bool // whether a registered node is positively down
	Check   func(ctx context.Context) healthcheck.Result
	Closed  <-chan healthcheck.Reason                             // connections of the check that RabbitMQ closed
	nodes   func(ctx context.Context) ([]healthcheck.Node, error) // of the management port; nil when there is none
	hosts   *hosts.File
	Session string          // of the lock that a seed founds under; "": none
	Said    <-chan string   // by RabbitMQ, in the notify protocol
	Gone    <-chan struct{} // closed when the server has ended
}

// Run works until the server is gone or ctx ends. What begin opens, once the
// companion has what it needs, is closed in the end.
func Run(ctx context.Context, s Surroundings, begin func(*Companion) (io.Closer, error)) error {
	c := &Companion{
		log: s.Log, rt: s.Runtime, consul: s.Consul, broker: s.Broker, isDown: s.IsDown, check: s.Check, closed: s.Closed, nodes: s.nodes, hosts: s.hosts,
		reg: consul.Registration(s.Runtime), beside: consul.PluginServices(s.Runtime), born: time.Now(),
		joinedBy: time.Now().Add(s.Runtime.Config.JoinTimeout), booted: "booting", minority: s.Runtime.PauseMinority,
	}
	c.show(Report{Status: api.HealthCritical, Reason: "booting"})
	if s.Session != "" {
		client, err := c.consul.Client(ctx)
		if err != nil {
			return err
		}
		if c.lock, err = lock.Adopt(ctx, client, s.Session, consul.LockOptions(s.Runtime.Config, s.Log)); err != nil {
			return err
		}
	}
	opened, err := begin(c)
	if opened != nil {
		defer opened.Close()
	}
	if err != nil {
		return err
	}
	return c.loop(ctx, s.Said, s.Gone)
}

// chores are what a verified node does once it has told Consul how it is.
func (c *Companion) chores(ctx context.Context) {
	ctx, done := context.WithTimeout(ctx, c.rt.Config.TTL*2/5)
	defer done()
	c.clean(ctx)
	c.regrow(ctx)
	if !slices.Equal(c.marked.Members, c.view.Members) || c.marked.Regrow != (c.regrows > 0) || time.Since(c.marked.At) > viewEvery {
		if err := c.mark(); err != nil {
			c.log.Warn("cannot write the marker", "err", err)
		}
	}
	c.guardMinority(ctx)
	c.forgetLeft(ctx)
	if why := c.pair(); why != c.warned {
		if c.warned = why; why != "" {
			c.log.Warn(why, "members", strings.Join(c.view.Members, ","))
		}
	}
}

// judge returns the check's status and its reason.
func (c *Companion) judge(ctx context.Context, r healthcheck.Result) (status, reason string) {
	unlisted := c.unlisted
	c.lost, c.unlisted = nil, time.Time{}
	if why := c.carryOn(ctx); why != "" {
		return api.HealthCritical, why
	}
	if why := c.outOfService(ctx, r); why != "" {
		if c.verified {
			c.partitionedAnyway(ctx, r)
		}
		return api.HealthCritical, why
	}
	if !c.serving {
		c.giveUp(ctx)
		return api.HealthCritical, cmp.Or(c.waitsInVain(ctx), c.word())
	}
	if r.State == healthcheck.Critical {
		if c.verified {
			if _, why := c.partitionedAnyway(ctx, r); why != "" {
				return api.HealthCritical, r.Reason + "; " + why
			}
		}
		return api.HealthCritical, r.Reason
	}
	client, record, index, err := c.record(ctx)
	if err != nil {
		return c.unasked(ctx, r, err)
	}
	if why := c.stranded(ctx, record); why != "" {
		c.story("cannot go on alone", why)
		c.wrong, c.mild = why, false
		return api.HealthCritical, why
	}
	others, _, err := peers.Catalog(ctx, client, c.rt.Config.Service, "")
	if err != nil {
		return c.unasked(ctx, r, err)
	}
	mine := func(p peers.Peer) bool { return p.Node == c.rt.Config.Node && p.Boot == c.rt.Boot }
	for _, p := range others {
		if p.Node == c.rt.Config.Node && !mine(p) && !p.Lapsed() && !p.AgentFailed && p.Volume != c.rt.Volume {
			c.story("another container has this node's name, and an entry in Consul: give it another one", p.Describe())
		}
	}
	if !slices.ContainsFunc(others, mine) && !c.reported.IsZero() {
		if c.unlisted = unlisted; unlisted.IsZero() {
			c.unlisted = time.Now()
		}
	}
	// A registration that was given up may arrive late, over a newer one. One that is
	// left with an agent that died stays beside it.
	if slices.ContainsFunc(others, mine) && !slices.ContainsFunc(others, func(p peers.Peer) bool { return mine(p) && p.ClusterID == c.entered }) {
		c.verified, c.entered = false, ""
	}
	others = slices.DeleteFunc(others, func(p peers.Peer) bool { return p.Node == c.rt.Config.Node })
	// Not before Consul is back: until then a node that serves stays ready.
	if time.Since(c.reported) > c.rt.Config.TTL && !c.reported.IsZero() && c.verified && !c.lapsed {
		c.log.Info("no beat reached Consul for longer than the TTL: verifying anew")
		c.verified, c.lapsed = false, true
	}
	if why := c.look(ctx, index, others); why != "" {
		return c.unknown(r, errors.New(why))
	}
	if c.verified {
		if why := c.watch(ctx, client, record, index); why != "" && c.verified {
			c.wrong, c.mild = why, false
			return api.HealthCritical, why
		}
	}
	if !c.verified { // or no longer: a record that was lost is put right within this beat
		if why := c.verify(ctx, client, record, index, others); why != "" {
			return api.HealthCritical, "not verified: " + why
		}
	}
	if !c.takenOff(record) { // put right meanwhile, and of no use
		c.size, c.left = len(record.Members), leftBehind(record, c.view, c.rt.Config.Node)
	}
	if len(c.view.Partitions) > 0 {
		return c.partitioned(ctx, r)
	}
	c.whole()
	if c.wrong, c.mild = c.apart(record, others), false; c.wrong == "" {
		c.wrong = c.leaderless(ctx)
	}
	if c.wrong != "" {
		return api.HealthCritical, c.wrong
	}
	return r.State.String(), r.Reason
}

// unasked is unknown because of Consul, which is not needed to heal a partition.
func (c *Companion) unasked(ctx context.Context, r healthcheck.Result, err error) (status, reason string) {
	c.missed = err
	if status, reason := c.partitionedAnyway(ctx, r); reason != "" && c.verified {
		return status, reason
	}
	return c.unknown(r, err)
}

// unknown is what to report while something cannot be asked: a node that was
// verified stays what it was, one that was not stays out.
func (c *Companion) unknown(r healthcheck.Result, err error) (status, reason string) {
	switch {
	case !c.verified:
		return api.HealthCritical, fmt.Sprintf("not verified: %v", err)
	case c.wrong != "" && c.mild:
		return api.HealthWarning, fmt.Sprintf("%s (not looked at again: %v)", c.wrong, err)
	case c.wrong != "":
		return api.HealthCritical, fmt.Sprintf("%s (not looked at again: %v)", c.wrong, err)
	}
	return r.State.String(), fmt.Sprintf("%s; not checked against the record: %v", r.Reason, err)
}

// clean removes registrations left with agents that this node moved away from.
func (c *Companion) clean(ctx context.Context) {
	c.consul.LeftBehind = slices.DeleteFunc(c.consul.LeftBehind, func(old consul.Agent) bool {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		return consul.Withdraw(ctx, old.Client, c.rt) == nil
	})
}
