package companion

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/policy"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// look looks at this node: at its volume, at AMQP, and at what RabbitMQ alone tells. What is
// known to be wrong then is published at once, whatever the heartbeat before is still at. It
// is not ok when an event, which knows better, cut it short.
//
// It works beside a heartbeat: it goes by the state that it is given, and takes of the
// companion only what does not change.
func (c *companion) look(ctx context.Context, state policy.State) (seen policy.Observation, ok bool) {
	c.looking.at("reading the volume", disk)
	seen = c.glance()
	if state.Server.Phase != policy.Stopped {
		c.looking.at("asking: AMQP", usual)
		r := c.Check(ctx)
		if ctx.Err() != nil {
			return seen, false
		}
		seen.Health = c.steady.Next(r)
	}
	c.board.look(time.Now())
	word := c.local(ctx, state, &seen)
	if ctx.Err() != nil {
		return seen, false
	}
	if was, now := c.board.found(seen.Began, word); was != now {
		c.Log.Info("health check", "status", now, "was", was, "why", word)
	}
	return seen, true
}

// local returns why the node is known to be unfit by what it tells itself, or "". What it does
// not tell within a beat is asked again by the heartbeat.
func (c *companion) local(ctx context.Context, state policy.State, seen *policy.Observation) string {
	ctx, done := context.WithTimeout(ctx, c.settings.Beat())
	defer done()
	for range policy.MostSteps {
		seen.Now = time.Now()
		v := policy.Local(c.settings, state, *seen)
		if v.Ask == nil {
			return v.Reason
		}
		c.looking.at(fmt.Sprint("asking: ", v.Ask.What, " ", v.Ask.Node), usual)
		after := *seen
		c.ask(ctx, &after, *v.Ask)
		if n := after.Nodes[v.Ask.Node]; n.View.Err != nil || n.Leader.Err != nil {
			return ""
		}
		*seen = after
	}
	return ""
}

// glance looks at what costs nothing: the clock and the volume.
func (c *companion) glance() policy.Observation {
	now := time.Now()
	return policy.Observation{Now: now, Began: now, Volume: c.volume(), ID: peers.NewID()}
}

// volume reads what lies on the volume. One reader at a time: each holds the operator's lock
// for a moment, which the other would take for a command.
func (c *companion) volume() (v policy.Volume) {
	c.reading.Lock()
	defer c.reading.Unlock()
	dir := statedir.Of(c.Runtime.Config)
	order, err := dir.Maintenance()
	v.Maintenance.Err = err
	if order != nil {
		v.Maintenance.Value = &policy.Maintenance{Leaving: order.Leaving, Drained: order.Drained, Done: order.Done, At: order.At}
		held, err := statedir.TryLock(dir.State, statedir.OperatorLock)
		if v.CommandRuns = err != nil; err == nil {
			held.Close()
		}
	}
	given, err := dir.CarryOn()
	v.CarryOn.Err = err
	if given != nil {
		v.CarryOn.Value = &policy.CarryOn{ClusterID: given.ClusterID, Lost: given.Lost, Forced: given.Forced}
	}
	marker, err := dir.Marker()
	v.Marker.Err = err
	if marker != nil {
		v.Marker.Value = &policy.Marker{ClusterID: marker.ClusterID, Volume: marker.Volume, Members: marker.Members, At: marker.At, Regrow: marker.Regrow}
	}
	v.Database.Value, v.Database.Err = statedir.HasDatabase(dir.Data)
	flags, err := os.ReadFile(dir.Data + "-feature_flags")
	v.KhepriFlag = err == nil && strings.Contains(string(flags), "khepri_db")
	return v
}

// ask looks into a question and notes the answer.
func (c *companion) ask(ctx context.Context, seen *policy.Observation, q policy.Question) {
	if q.Within > 0 {
		var done context.CancelFunc
		ctx, done = context.WithTimeout(ctx, q.Within)
		defer done()
	}
	switch q.What {
	case policy.AskRecord:
		seen.Record = policy.Answer(c.record(ctx))
	case policy.AskCatalog:
		client, err := c.Consul.Client(ctx)
		var all []peers.Peer
		if err == nil {
			all, _, err = peers.Catalog(ctx, client, c.Runtime.Config.Service, "")
		}
		seen.Catalog = policy.Answer(all, err)
	case policy.AskManaged:
		seen.Managed = policy.Answer(c.managed.nodes(ctx))
	case policy.AskView:
		v, err := c.Broker.View(ctx, q.Node)
		seen.See(q.Node, func(n *policy.Node) { n.View = policy.Answer(v, err) })
	case policy.AskLeader:
		led, err := c.Broker.HasLeader(ctx, q.Node)
		seen.See(q.Node, func(n *policy.Node) { n.Leader = policy.Answer(led, err) })
	case policy.AskDown:
		down := c.IsDown(ctx, peers.Peer{Node: q.Node, Address: q.Address})
		seen.See(q.Node, func(n *policy.Node) {
			if n.Down == nil {
				n.Down = map[string]bool{}
			}
			n.Down[q.Address] = down
		})
	case policy.AskWaits:
		members, waits, paused, err := c.Broker.Waits(ctx)
		seen.Waits = policy.Answer(policy.Waits{Members: members, For: waits, Paused: paused}, err)
	case policy.AskQueues:
		seen.Queues = policy.Answer(c.Broker.Queues(ctx))
	}
}

// record reads the cluster record through the Consul in use.
func (c *companion) record(ctx context.Context) (policy.Record, error) {
	client, err := c.Consul.Client(ctx)
	if err != nil {
		return policy.Record{}, err
	}
	r, index, err := peers.ReadRecord(ctx, client, c.Runtime.Config.RecordKey())
	c.Consul.Answered(err)
	return policy.Record{Record: r, Index: index}, err
}

// A managementPort tells in milliseconds whether anything has changed, where RabbitMQ's
// command line takes a second of CPU.
type managementPort struct {
	log    *slog.Logger
	mu     sync.Mutex
	ask    func(ctx context.Context) ([]healthcheck.Node, error) // nil: there is none, or not any more
	misses int                                                   // in a row
}

// nodes asks the port, unless it told nothing for a while: it is disabled, or the login is
// refused, which RabbitMQ logs each time.
func (m *managementPort) nodes(ctx context.Context) ([]healthcheck.Node, error) {
	if m == nil {
		return nil, fmt.Errorf("there is no management port to ask")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ask == nil {
		return nil, fmt.Errorf("there is no management port to ask")
	}
	nodes, err := m.ask(ctx)
	if err == nil {
		m.misses = 0
		return nodes, nil
	}
	if m.misses++; m.misses >= 3 {
		m.log.Debug("the management port tells nothing, not asking it any more", "err", err)
		m.ask = nil
	}
	return nil, err
}

// managementNodes asks this node's management port as the default user.
func managementNodes(getenv func(string) string, at rabbitconf.Listener) func(context.Context) ([]healthcheck.Node, error) {
	user := config.DefaultUser(getenv)
	base := "http://"
	if at.TLS {
		base = "https://"
	}
	base += net.JoinHostPort(cmp.Or(at.Host, "127.0.0.1"), fmt.Sprint(at.Port))
	password, _ := user.Password()
	return func(ctx context.Context) ([]healthcheck.Node, error) {
		return healthcheck.Nodes(ctx, base, user.Username(), password)
	}
}
