package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/lock"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// companion stays beside the server: it holds the seed's lock while the cluster
// forms, verifies and announces the node when RabbitMQ says that it is ready,
// beats its TTL check, keeps the cluster record true, and withdraws the node
// when RabbitMQ stops.
//
// One goroutine, loop, owns the events. The work of a beat runs in a second one,
// never two at a time, and is cut short by an event that cannot wait.
type companion struct {
	log    *slog.Logger
	rt     runtimeFile
	consul *consul
	broker broker
	isDown func(context.Context, peers.Peer) bool // whether a registered node is positively down
	check  func(ctx context.Context) healthcheck.Result
	closed <-chan healthcheck.Reason
	nodes  func(ctx context.Context) ([]healthcheck.Node, error) // of the management port; nil when there is none
	lock   *lock.Lock                                            // a seed's, until its cluster is announced
	reg    peers.Registration
	beside []beside // entries next to it
	hosts  *hosts
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
	seen      uint64     // record index the view was judged against
	told      string     // last story
	missed    error      // why Consul could not be asked or told in this beat
	away      time.Time  // since when it cannot
	silent    int        // times in a row that the management port told nothing
	passing   string     // other nodes that pass, as of the last beat
	size      int        // members on record
	marked    memberFile // on the volume
	minority  bool       // pause_minority is set

	regrows int      // tries left to bring back replicas of quorum queues
	lost    []string // members without which only force-boot goes on
	doubt   error    // why that could not be told

	out  bool     // of service, by an operator's order
	left []string // members that left for good and are not forgotten

	two    time.Time // since when the cluster has two members
	warned string    // what of them was last warned of

	mu    sync.Mutex
	shown report // for /ready, /status and the health check
}

// beatEvery is a third of the TTL: two beats may be lost before Consul's check
// lapses.
func (c *companion) beatEvery() time.Duration { return c.rt.Config.TTL / 3 }

// companionMain is `rmq-entrypoint companion`.
func companionMain(ctx context.Context, cfg config) error {
	rt, err := readRuntime(cfg.StateDir)
	if err != nil {
		return fmt.Errorf("read the runtime file: %w", err)
	}
	// Before anything is touched: one by hand would take the socket from the one
	// that runs.
	if rt == nil || !seated(cfg.StateDir) {
		return errors.New("rmq-entrypoint companion is started by rmq-entrypoint alone; a health check replaces one that was lost")
	}
	syscall.CloseOnExec(seatFD) // or an orphan of RabbitMQ's command line would hold the seat
	log := logger(rt.Config)
	urls, err := amqpURLs(rt.Config, os.Getenv)
	if err != nil {
		return err
	}
	checker, err := healthcheck.New(healthcheck.Options{URLs: urls, Timeout: min(3*time.Second, rt.Config.TTL/5), Log: log})
	if err != nil {
		return fmt.Errorf("RMQ_AMQP_URL (--amqp-url): %w", err)
	}
	defer checker.Close()
	said, err := listen(rt.Config.socket(), os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		return err
	}
	defer said.Close()
	agents := newConsul(rt.Config, log)
	agents.prefer(rt.Consul)
	return runCompanion(ctx, surroundings{
		log: log, runtime: *rt, consul: agents, broker: newBroker(rt.Config.Node, rt.Config.LongNames, resolver(rt.Config)...), isDown: downOf(rt.Config),
		check: checker.Check, closed: checker.Closed(), nodes: managementNodes(os.Getenv, rt.Config.Management),
		hosts: newHosts(ctx, rt.Config, registration(*rt).Address), session: os.Getenv(sessionEnv), said: said.C, gone: gone(ctx, *rt),
	}, func(c *companion) (io.Closer, error) {
		serve, err := c.listenHTTP()
		if err != nil {
			return nil, fmt.Errorf("--http (RMQ_HTTP): %w", err)
		}
		return serve, signalReady()
	})
}

// surroundings are all that a companion works with.
type surroundings struct {
	log     *slog.Logger
	runtime runtimeFile
	consul  *consul
	broker  broker
	isDown  func(context.Context, peers.Peer) bool // whether a registered node is positively down
	check   func(ctx context.Context) healthcheck.Result
	closed  <-chan healthcheck.Reason                             // connections of the check that RabbitMQ closed
	nodes   func(ctx context.Context) ([]healthcheck.Node, error) // of the management port; nil when there is none
	hosts   *hosts
	session string          // of the lock that a seed founds under; "": none
	said    <-chan string   // by RabbitMQ, in the notify protocol
	gone    <-chan struct{} // closed when the server has ended
}

// runCompanion works until the server is gone or ctx ends. What begin opens, once the
// companion has what it needs, is closed in the end.
func runCompanion(ctx context.Context, s surroundings, begin func(*companion) (io.Closer, error)) error {
	c := &companion{
		log: s.log, rt: s.runtime, consul: s.consul, broker: s.broker, isDown: s.isDown, check: s.check, closed: s.closed, nodes: s.nodes, hosts: s.hosts,
		reg: registration(s.runtime), beside: besides(s.runtime), born: time.Now(),
		joinedBy: time.Now().Add(s.runtime.Config.JoinTimeout), booted: "booting", minority: s.runtime.PauseMinority,
	}
	c.show(report{Status: api.HealthCritical, Reason: "booting"})
	if s.session != "" {
		client, err := c.consul.use(ctx)
		if err != nil {
			return err
		}
		if c.lock, err = lock.Adopt(ctx, client, s.session, lockOptions(s.runtime.Config, s.log)); err != nil {
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
	return c.loop(ctx, s.said, s.gone)
}

// loop runs until the server is gone or ctx ends.
func (c *companion) loop(ctx context.Context, said <-chan string, gone <-chan struct{}) error {
	var work sync.WaitGroup
	if c.lock != nil {
		kctx, done := context.WithCancel(ctx)
		defer work.Wait()
		defer done()
		keep := c.lock
		work.Go(func() {
			if err := keep.Keep(kctx); err != nil {
				c.log.Warn("lost the lock while founding the cluster: another node may take over", "err", err)
			}
		})
		defer func() {
			if c.lock != nil {
				_ = c.lock.Release(ctx)
			}
		}()
	}
	if c.hosts != nil {
		hctx, done := context.WithCancel(ctx)
		defer work.Wait()
		defer done()
		work.Go(func() { keepHosts(hctx, c.log, c.rt, c.hosts) })
	}
	tick := time.NewTicker(c.beatEvery())
	defer tick.Stop()
	idle := make(chan struct{}, 1) // holds a token while no beat runs
	idle <- struct{}{}
	cut := func() {}
	beat := func() {
		select {
		case <-idle:
		default:
			return // the last one still works
		}
		bctx, cancel := context.WithCancel(ctx)
		cut = cancel
		go func() { c.beat(bctx); cancel(); idle <- struct{}{} }()
	}
	stop := func() { cut(); <-idle; idle <- struct{}{} } // no beat runs when it returns
	beat()
	for {
		select {
		case <-gone:
			stop()
			c.withdraw(ctx, "the server is gone")
			return nil
		case <-ctx.Done():
			stop()
			c.withdraw(ctx, "told to stop")
			return nil
		case text := <-said:
			stop()
			switch ready, stopping, word := c.hear(text); {
			case ready:
				for old := true; old; { // what closed before is history
					select {
					case <-c.closed:
					default:
						old = false
					}
				}
				c.log.Info("RabbitMQ is ready, verifying")
				c.anew = c.withdrawn
				c.serving, c.verified, c.withdrawn, c.steady = true, false, false, healthcheck.Steady{}
				c.rejoining = ""
				c.whole()
			case stopping:
				c.stopped(ctx, word)
			default:
				c.booted = word
			}
			beat()
		case r := <-c.closed:
			stop()
			if r.Stopping && c.serving {
				c.stopped(ctx, r.Text)
			}
			beat()
		case <-tick.C:
			beat()
		}
	}
}

// hear tells what a message of the notify protocol means now. While booting,
// STATUS is progress; once the server was ready, it is the first word of a stop.
func (c *companion) hear(text string) (ready, stopping bool, word string) {
	for line := range strings.Lines(text) {
		switch key, value, _ := strings.Cut(strings.TrimSpace(line), "="); {
		case key == "READY" && value == "1":
			ready = true
		case key == "STOPPING" && value == "1":
			stopping = true
		case key == "STATUS" && c.serving:
			stopping = true
			if !strings.HasPrefix(value, "Startup") { // a server that stops goes through its boot's words backwards
				word = value
			}
		case key == "STATUS":
			word = value
		}
	}
	if stopping {
		word = cmp.Or(word, "stopping")
	}
	return ready, stopping && !ready, cmp.Or(word, c.booted)
}

// stopped withdraws the node: docker stop, stop_app, a pause in a minority and
// our own explicit join all look the same. READY brings it back.
func (c *companion) stopped(ctx context.Context, word string) {
	served := c.verified
	c.serving, c.verified, c.booted = false, false, "stopped ("+word+")"
	c.joinedBy = time.Now().Add(c.rt.Config.JoinTimeout)
	if !c.withdrawn {
		c.withdraw(ctx, word)
	}
	if served {
		if err := c.mark(); err != nil { // until now
			c.log.Warn("cannot write the marker", "err", err)
		}
	}
}

func (c *companion) withdraw(ctx context.Context, why string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	c.withdrawn, c.stoppedAt = true, time.Now()
	c.show(report{Status: api.HealthCritical, Reason: why})
	err := errors.New("no Consul in use")
	if c.consul.client != nil {
		err = withdrawAll(ctx, c.consul.client, c.rt)
	}
	if err != nil {
		c.log.Warn("cannot deregister, the TTL will tell", "why", why, "err", err)
		return
	}
	c.log.Info("withdrawn", "why", why)
}

// beat looks at the server, judges it against the record and tells Consul.
func (c *companion) beat(ctx context.Context) {
	if c.withdrawn && !c.serving {
		c.giveUp(ctx) // an explicit join may have failed after stop_app
		// One that paused in a minority may wait for nodes that came back blank.
		if why := cmp.Or(c.outOfService(ctx, healthcheck.Result{}), c.carryOn(ctx), c.waitsInVain(ctx), c.word()); ctx.Err() == nil {
			c.show(report{Status: api.HealthCritical, Reason: why})
			c.present(ctx, why)
		}
		return
	}
	c.missed = nil
	r := c.steady.Next(c.check(ctx))
	if !c.serving && c.rt.Waiting == replaced && r.State != healthcheck.Critical {
		c.serving = true // READY was said to the companion before this one
	}
	if _, err := c.consul.use(ctx); err == nil {
		if err := c.locate(ctx); err != nil {
			c.story("not registered", err.Error())
			c.show(report{Status: api.HealthCritical, Reason: "not registered: " + err.Error()})
			return
		}
	}
	c.register(ctx)
	status, reason := c.judge(ctx, r)
	if ctx.Err() != nil {
		return
	}
	var told *api.Client
	for range 2 { // an entry that Consul lost is made anew, and passing earned anew, in one beat
		client, err := c.consul.use(ctx)
		if err == nil {
			err = peers.Report(ctx, client, c.reg, status, reason)
		}
		if errors.Is(err, peers.ErrUnregistered) {
			if err = c.announce(ctx, client, reason); err == nil {
				c.log.Info("registered", "id", c.reg.ID(), "status", status)
				c.verified, c.unlisted = false, time.Time{}
				status, reason = c.judge(ctx, r)
				continue
			}
		}
		if ctx.Err() != nil {
			return
		}
		if err == nil && !c.unlisted.IsZero() && time.Since(c.unlisted) > c.beatEvery()*3/2 {
			err = fmt.Errorf("the agent at %s takes %s, and never brings it into the catalog: was it recreated without its data? A name of its own for each agent, or leaving before it goes, avoids that", c.consul.addr, c.reg.ID())
		}
		taken := isTaken(err) // Consul answered
		if client != nil && !taken {
			c.consul.took(err)
		}
		if taken {
			reason = fmt.Sprintf("%s (not registered: %v)", reason, err)
			c.story("another node has this node's name", err.Error())
		} else if err != nil { // an agent cut off from its servers takes beats all the same: only reads clear it
			c.consul.saw(err)
			c.missed = err
			reason = fmt.Sprintf("%s (not told to Consul: %v)", reason, err)
		} else {
			c.reported, c.lapsed, told = time.Now(), false, client
			c.keepEntry(ctx, client, status, reason)
		}
		break
	}
	c.touch()
	c.show(report{Status: status, Reason: reason})
	if told != nil {
		c.tellBeside(ctx, told, status, reason)
	}
	if c.verified && !c.out {
		c.chores(ctx)
	}
}

// present keeps an entry, critical, of a node that stopped by itself and whose server
// lives: after stop_app, or paused in a minority, it holds its name and its data. It is
// back before a container of its name that saw the entry go takes that for its end.
func (c *companion) present(ctx context.Context, why string) {
	if time.Since(c.stoppedAt) < c.rt.Config.TTL { // one that ends does so sooner, as a rule
		return
	}
	client, err := c.consul.use(ctx)
	if err == nil {
		err = peers.Report(ctx, client, c.reg, api.HealthCritical, why)
	}
	if errors.Is(err, peers.ErrUnregistered) {
		if err = c.announce(ctx, client, why); err == nil {
			c.log.Info("registered as critical: it stopped by itself, and its server lives", "id", c.reg.ID())
		}
	}
	if err == nil {
		c.keepEntry(ctx, client, api.HealthCritical, why)
	}
	if err != nil && ctx.Err() == nil {
		c.log.Debug("cannot tell Consul that this node is there", "err", err)
	}
}

// keepEntry keeps Consul from removing the entry of a node that has been critical for long
// and lives: registered anew over itself, it is given that time again. Meanwhile others
// would take the node for gone.
func (c *companion) keepEntry(ctx context.Context, client *api.Client, status, reason string) {
	switch {
	case status != api.HealthCritical:
		c.critical = time.Time{}
	case c.critical.IsZero():
		c.critical = time.Now()
	case time.Since(c.critical) > c.reg.Reap/2:
		if err := peers.Enter(ctx, client, c.reg, reason); err != nil {
			c.log.Debug("cannot register this node over its entry", "err", err)
			return
		}
		c.critical = time.Now()
	}
}

// announce registers the node once its address is known: without one Consul would fill in
// the agent's.
func (c *companion) announce(ctx context.Context, client *api.Client, note string) error {
	if err := c.locate(ctx); err != nil {
		return err
	}
	return peers.Announce(ctx, client, c.reg, c.standing(), note)
}

// standing is what this node may take its name from.
func (c *companion) standing() peers.Standing {
	if !c.rt.Verified.IsZero() {
		return peers.Serving
	}
	return peers.Blank
}

// locate finds out what address to register, once Consul answers.
func (c *companion) locate(ctx context.Context) error {
	if c.rt.Located {
		return nil
	}
	address, err := advertise(ctx, c.rt.Config, c.consul.addr)
	if err != nil {
		return err
	}
	c.rt.Address, c.rt.Located, c.reg.Address = address, true, address
	for i := range c.beside {
		c.beside[i].Address = address
	}
	return c.rt.write()
}

// register makes the entry of a node that serves again, so that it is verified once,
// and not once more when its first report finds no entry.
func (c *companion) register(ctx context.Context) {
	if !c.anew {
		return
	}
	client, err := c.consul.use(ctx)
	if err == nil {
		err = c.announce(ctx, client, "serves again, not verified yet")
	}
	if err == nil {
		c.log.Info("registered", "id", c.reg.ID())
		c.unlisted = time.Time{}
	}
	c.anew = false // what failed here fails in the report, too, which tells
}

// touch tells the log when Consul is lost and when it is back.
func (c *companion) touch() {
	switch {
	case c.missed != nil && c.away.IsZero():
		c.away = time.Now()
		c.log.Warn("Consul cannot be asked or told: the server goes on, trying with each beat", "err", c.missed)
	case c.missed == nil && !c.away.IsZero():
		c.log.Info("Consul answers again", "after", time.Since(c.away).Round(time.Second))
		c.away = time.Time{}
	}
}

// chores are what a verified node does once it has told Consul how it is.
func (c *companion) chores(ctx context.Context) {
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
func (c *companion) judge(ctx context.Context, r healthcheck.Result) (status, reason string) {
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
func (c *companion) unasked(ctx context.Context, r healthcheck.Result, err error) (status, reason string) {
	c.missed = err
	if status, reason := c.partitionedAnyway(ctx, r); reason != "" && c.verified {
		return status, reason
	}
	return c.unknown(r, err)
}

// unknown is what to report while something cannot be asked: a node that was
// verified stays what it was, one that was not stays out.
func (c *companion) unknown(r healthcheck.Result, err error) (status, reason string) {
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

// viewEvery is how often RabbitMQ is asked for its members when nothing else
// gives a reason to.
const viewEvery = 30 * time.Second

// look refreshes the view when it may have changed, and says why it cannot.
func (c *companion) look(ctx context.Context, record uint64, others []peers.Peer) string {
	var passing []string
	for _, p := range others {
		if p.Passing {
			passing = append(passing, p.Node)
		}
	}
	now := strings.Join(passing, ",")
	if c.verified && len(c.view.Partitions) == 0 {
		same, known := c.unstirred(ctx)
		if known && same {
			c.viewAt, c.passing, c.seen = time.Now(), now, record
		}
		if same && (known || now == c.passing && record == c.seen && time.Since(c.viewAt) < viewEvery) {
			return ""
		}
	}
	if c.verified { // a server that does not answer is not to cost the TTL
		var done context.CancelFunc
		ctx, done = context.WithTimeout(ctx, c.rt.Config.TTL/2)
		defer done()
	}
	v, err := c.broker.view(ctx, c.rt.Config.Node)
	if err != nil {
		c.story("RabbitMQ does not say what it knows of its cluster, asking again", err.Error())
		return err.Error()
	}
	c.view, c.viewAt, c.passing, c.seen = v, time.Now(), now, record
	return ""
}

// unstirred reports whether the management port, which answers in milliseconds
// where RabbitMQ's command line takes a second of CPU, lists the members, running
// nodes and partitions of the view; and whether it was known. Not knowing is no
// stir: then the view is renewed by the clock.
func (c *companion) unstirred(ctx context.Context) (same, known bool) {
	if c.nodes == nil {
		return true, false
	}
	nodes, err := c.nodes(ctx)
	if err != nil {
		// Disabled, or the login is refused, which RabbitMQ logs each time.
		if c.silent++; c.silent >= 3 {
			c.log.Debug("the management port tells nothing, not asking it any more", "err", err)
			c.nodes = nil
		}
		return true, false
	}
	c.silent = 0
	var members, running, partitions []string
	for _, n := range nodes {
		members = append(members, n.Name)
		if n.Running {
			running = append(running, n.Name)
		}
		if n.Name == c.rt.Config.Node {
			known, partitions = n.Known, n.Partitions
		}
	}
	slices.Sort(members)
	slices.Sort(running)
	slices.Sort(partitions)
	same = slices.Equal(members, c.view.Members) && slices.Equal(running, c.view.Running) && (!known || slices.Equal(partitions, c.view.Partitions))
	return same, known
}

// managementNodes asks this node's management port as the default user.
func managementNodes(getenv func(string) string, at rabbitconf.Listener) func(context.Context) ([]healthcheck.Node, error) {
	user := defaultUser(getenv)
	base := "http://"
	if at.TLS {
		base = "https://"
	}
	base += net.JoinHostPort(cmp.Or(at.Host, "127.0.0.1"), fmt.Sprint(at.Port))
	password, _ := user.Password()
	return func(ctx context.Context) ([]healthcheck.Node, error) {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		return healthcheck.Nodes(ctx, base, user.Username(), password)
	}
}

// clean removes registrations left with agents that this node moved away from.
func (c *companion) clean(ctx context.Context) {
	c.consul.left = slices.DeleteFunc(c.consul.left, func(old agent) bool {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		return withdrawAll(ctx, old.client, c.rt) == nil
	})
}

// defaultUser is the one that RabbitMQ makes on a blank volume.
func defaultUser(getenv func(string) string) *url.Userinfo {
	return url.UserPassword(cmp.Or(getenv("RABBITMQ_DEFAULT_USER"), "guest"), cmp.Or(getenv("RABBITMQ_DEFAULT_PASS"), "guest"))
}

// amqpURLs returns where the health check connects: the setting, or this node's
// listeners, with the default user's credentials.
func amqpURLs(cfg config, getenv func(string) string) ([]string, error) {
	user := defaultUser(getenv)
	given, err := secret(getenv, "RMQ_AMQP_URL")
	if err != nil {
		return nil, err
	}
	if cfg.AMQPURL != "" {
		u, err := url.Parse(cfg.AMQPURL)
		if err != nil {
			return nil, errors.New("RMQ_AMQP_URL (--amqp-url) is not a URL")
		}
		// The setting without its password tells whether it came from the variable,
		// which a flag overrules.
		if v, err := url.Parse(given); err == nil && v.User != nil && u.User != nil && v.User.Username() == u.User.Username() && v.Host == u.Host {
			u.User = v.User
		}
		if u.User == nil {
			u.User = user
		}
		return []string{u.String()}, nil
	}
	vhost := url.PathEscape(cmp.Or(getenv("RABBITMQ_DEFAULT_VHOST"), "/"))
	var urls []string
	for _, l := range cfg.Listeners {
		scheme := "amqp"
		if l.TLS {
			scheme = "amqps"
		}
		urls = append(urls, fmt.Sprintf("%s://%s@%s/%s", scheme, user, net.JoinHostPort(cmp.Or(l.Host, "127.0.0.1"), fmt.Sprint(l.Port)), vhost))
	}
	return urls, nil
}
