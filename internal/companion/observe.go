package companion

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/policy"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// look looks at this node: at its volume, at AMQP, and at what RabbitMQ alone tells. What is
// known to be wrong then is published at once, whatever the heartbeat before is still at. It
// is not ok when an event, which knows better, cut it short.
//
// It works beside a heartbeat, and so goes by the state that it is given.
func (c *companion) look(ctx context.Context, state policy.State) (seen policy.Observation, ok bool) {
	c.looking.at("reading the volume", disk)
	seen = c.glance()
	stopped := state.Server.Phase == policy.Stopped
	if !stopped || time.Since(state.Server.StoppedAt) >= c.settings.Patience() { // one that stops is left alone
		c.looking.at("asking: AMQP", usual)
		r := c.Check(ctx, mayLogIn(state, seen.Volume))
		if ctx.Err() != nil {
			return seen, false
		}
		if seen.Health = r; !stopped {
			seen.Health = c.steady.Next(r)
		}
	}
	if age := c.board.age(); !seen.Health.Unknown {
		c.board.look(time.Now())
	} else if age > c.settings.TTL { // what was seen holds for no longer than that
		seen.Health.State = healthcheck.Critical
		seen.Health.Reason = fmt.Sprintf("not looked at for %s: %s", age.Round(time.Second), seen.Health.Reason)
	}
	word := c.local(ctx, state, &seen)
	if ctx.Err() != nil {
		return seen, false
	}
	if was, now := c.board.found(seen.Began, word); was != now {
		c.Log.Info("health check", "status", now, "was", was, "why", word)
	}
	return seen, true
}

// mayLogIn reports whether the password may be told to what listens at RabbitMQ's ports: until
// RabbitMQ said that it is ready, once it stops, and once it is in maintenance mode, as by an
// operator's order on the volume, they may be anybody's.
func mayLogIn(s policy.State, v policy.Volume) bool {
	return s.Server.Phase == policy.Serving && !ordered(v)
}

// ordered reports whether an order to take the node out of service lies on the volume, or may.
func ordered(v policy.Volume) bool { return v.Maintenance.Err != nil || v.Maintenance.Value != nil }

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
	return policy.Observation{Now: now, Began: now, Glance: policy.Glance{Volume: c.volume(), ID: peers.NewID()}}
}

// volume reads what lies on the volume. Where no file can be opened, for want of a descriptor,
// the volume is as it was.
func (c *companion) volume() (v policy.Volume) {
	f := &c.files
	f.reading.Lock()
	defer f.reading.Unlock()
	order, err := f.dir.Maintenance()
	v.Maintenance.Err = err
	var other error
	if order != nil {
		v.Maintenance.Value = &policy.Maintenance{Leaving: order.Leaving, Drained: order.Drained, Done: order.Done, At: order.At}
		held, err := statedir.TryLock(f.dir.State, statedir.OperatorLock)
		if v.CommandRuns = err != nil; err == nil {
			held.Close()
		}
		other = err
	}
	given, err := f.dir.CarryOn()
	v.CarryOn.Err = err
	if given != nil {
		v.CarryOn.Value = &policy.CarryOn{ClusterID: given.ClusterID, Lost: given.Lost, Forced: given.Forced}
	}
	marker, err := f.dir.Marker()
	v.Marker.Err = err
	if marker != nil {
		v.Marker.Value = &policy.Marker{ClusterID: marker.ClusterID, Volume: marker.Volume, Members: marker.Members, At: marker.At, Regrow: marker.Regrow}
	}
	v.Database.Value, v.Database.Err = statedir.HasDatabase(f.dir.Data)
	v.KhepriFlag, err = f.dir.Khepri()
	if !statedir.Exhausted(errors.Join(other, err, v.Maintenance.Err, v.CarryOn.Err, v.Marker.Err, v.Database.Err)) {
		f.known = &v
	} else if f.known != nil {
		return *f.known
	}
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
	case policy.AskAfresh:
		*seen = seen.Afresh()
	case policy.AskRecord:
		c.askRecord(ctx, seen, q.Kept)
	case policy.AskCatalog:
		c.askCatalog(ctx, seen, q.Kept)
	case policy.AskManaged:
		if ordered(seen.Volume) || seen.Health.Draining {
			seen.Managed = policy.Answer([]healthcheck.Node(nil), errors.New("the management port is not asked in maintenance mode, which closes it: anybody may listen there"))
		} else {
			seen.Managed = policy.Answer(c.ports.managed.nodes(ctx, time.Now()))
		}
	case policy.AskView:
		v, err := c.Broker.View(ctx, q.Node)
		if q.Node == c.settings.Node && err == nil {
			c.ports.managed.listensAt(v.Web)
		}
		seen.See(q.Node, func(n *policy.Node) { n.View = policy.Answer(v, err) })
	case policy.AskCheck: // RabbitMQ has just said that it listens
		logIn := mayLogIn(c.state, seen.Volume)
		if logIn && c.ports.resumed != nil {
			c.ports.resumed()
		}
		if r := c.Check(ctx, logIn); !r.Unknown {
			seen.Health = r
		}
		seen.Rechecked = true
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

// listens has the check and this node's entry in Consul follow where RabbitMQ says that it takes
// AMQP connections, unless the user says where to check.
func (c *companion) listens(at []peers.Listener) {
	rt := &c.Runtime
	known := rt.Config.Located
	switch changed := rt.Config.Listens(at); {
	case changed:
		c.Log.Info("RabbitMQ says where it listens: the check follows", "listeners", words(at), "registered_port", rt.Config.RegisteredPort())
	case known || len(at) == 0:
		return
	}
	c.services.listens(rt.Config.RegisteredPort())
	if err := rt.Write(); err != nil { // of use to the next companion only
		c.Log.Warn("cannot write the runtime file", "err", err)
	}
	if c.ports.move == nil {
		return
	}
	if err := c.ports.move(rt.Config); err != nil {
		c.Log.Warn("the check cannot go where RabbitMQ listens", "err", err)
	}
}

// listensWeb has the entries of plugins in Consul follow where RabbitMQ says that these listen.
func (c *companion) listensWeb(at []peers.WebListener) {
	rt := &c.Runtime
	if !rt.Config.ListensWeb(at) {
		return
	}
	c.Log.Info("RabbitMQ says where its plugins listen: their entries follow", "management_port", rt.Config.Management.Port, "prometheus_port", rt.Config.Prometheus.Port)
	c.services.listensWeb(consul.PluginServices(*rt))
	if err := rt.Write(); err != nil { // of use to the next companion only
		c.Log.Warn("cannot write the runtime file", "err", err)
	}
}

// words are listeners as people read them.
func words(at []peers.Listener) string {
	var all []string
	for _, l := range at {
		scheme := "amqp://"
		if l.TLS {
			scheme = "amqps://"
		}
		all = append(all, scheme+net.JoinHostPort(l.IP, fmt.Sprint(l.Port)))
	}
	return strings.Join(all, ",")
}

// A managementPort tells in milliseconds whether anything has changed, where RabbitMQ's
// command line takes a second of CPU.
type managementPort struct {
	log    *slog.Logger
	port   int
	ask    func(ctx context.Context) ([]healthcheck.Node, error) // nil: there is none
	mu     sync.Mutex
	pauses healthcheck.Pauses
	open   bool // RabbitMQ says that it listens there, and it has answered since
}

// listensAt notes where RabbitMQ says that it takes HTTP connections.
func (m *managementPort) listensAt(all []peers.WebListener) {
	if m != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.open = slices.ContainsFunc(all, func(l peers.WebListener) bool { return l.Plugin == "management" && l.Port == m.port })
	}
}

// begin ends a pause: RabbitMQ is ready anew.
func (m *managementPort) begin() {
	if m != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.pauses, m.open = healthcheck.Pauses{}, false
	}
}

// nodes asks the port, once RabbitMQ says that it listens there: the password is for nobody else. When it tells nothing, because it is disabled or the login is refused,
// which RabbitMQ logs each time, it is left alone for a while.
func (m *managementPort) nodes(ctx context.Context, now time.Time) ([]healthcheck.Node, error) {
	if m == nil {
		return nil, fmt.Errorf("there is no management port to ask")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ask == nil {
		return nil, fmt.Errorf("there is no management port to ask")
	}
	if !m.pauses.Over(now) {
		return nil, fmt.Errorf("the management port told nothing, and is asked again later")
	}
	if !m.open {
		return nil, fmt.Errorf("RabbitMQ has not said that its management listens at port %d", m.port)
	}
	nodes, err := m.ask(ctx)
	if err != nil {
		m.open = false
		m.log.Debug("the management port tells nothing", "err", err)
		if !errors.Is(ctx.Err(), context.Canceled) { // by an event: nobody refused
			m.pauses.Refused(now)
		}
		return nil, err
	}
	m.pauses = healthcheck.Pauses{}
	return nodes, nil
}

// managementNodes asks this node's management port as user.
func managementNodes(ctx context.Context, user *url.Userinfo, at rabbitconf.Listener) ([]healthcheck.Node, error) {
	base := "http://"
	if at.TLS {
		base = "https://"
	}
	base += net.JoinHostPort(cmp.Or(at.Host, "127.0.0.1"), fmt.Sprint(at.Port))
	password, _ := user.Password()
	return healthcheck.Nodes(ctx, base, user.Username(), password)
}

// listed returns the ports that RabbitMQ itself says it takes AMQP connections at.
func listed(cfg config.Config) map[int]healthcheck.Port {
	ports := map[int]healthcheck.Port{}
	for _, l := range cfg.Listeners {
		if cfg.Located {
			ports[l.Port] = healthcheck.Port{Host: l.Host, TLS: l.TLS, Proxy: l.Proxy}
		}
	}
	return ports
}
