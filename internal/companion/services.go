package companion

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/policy"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
)

// services are this node's entries in Consul: its own, and those of plugins that listen.
type services struct {
	log     *slog.Logger
	agents  *consul.Agents
	runtime *statedir.Runtime
	reg     peers.Registration
	moved   bool // the entry may have another port than reg
	behind  bool // the entry may lack the cluster's id, which reg has
	plugins []consul.PluginService
	told    map[string]telling // of the services of plugins that are registered, as far as is known
	own     telling            // of the node's own entry
	ownAt   time.Time          // when that was, by Consul's clock; zero: not said
	denied  time.Time          // when Consul last refused a plugin's service
	outage  outage
}

// outage is why Consul could not be asked or told in this heartbeat, and since when it cannot; zero:
// it can.
type outage struct {
	why   error
	since time.Time
}

// telling is what Consul was last told of a service; of one that an earlier companion registered,
// nothing.
type telling struct {
	client *api.Client // that told it
	status string
	reason string
	at     time.Time

	read    bool // back since then, of a plugin's service
	altered bool // and Consul has it otherwise: it is to be made anew
}

// ensure finds out this node's address, once Consul answers, and makes the entry of a node
// that serves again: so it is verified once, and not once more when its first report finds
// no entry. What it cannot do, the report tries again, and tells of.
func (s *services) ensure(ctx context.Context, state *policy.State) {
	client, err := s.agents.Client(ctx)
	if err == nil {
		err = s.locate(ctx)
	}
	if !state.Entry.Pending {
		return
	}
	if err == nil {
		err = s.announce(ctx, client, state.Standing(), "serves again, not verified yet")
	}
	if err == nil {
		s.log.Info("registered", "id", s.reg.ID())
	}
	state.Entry = state.Entry.Tried(err == nil)
}

// locate finds out what address to register with the agent in use. None stands for the agent's
// own, and that is this host's only while the agent is here: with another agent it is found out
// again. An agent here is told what was found for one elsewhere.
func (s *services) locate(ctx context.Context) error {
	rt, agent := s.runtime, s.agents.Addr
	if rt.Located && rt.LocatedFor == agent {
		return nil
	}
	address, err := consul.Advertise(ctx, rt.Config, agent)
	if err != nil {
		return err
	}
	if rt.Located {
		address = cmp.Or(address, rt.Address)
	}
	rt.Address, rt.Located, rt.LocatedFor, s.reg.Address = address, true, agent, address
	for i := range s.plugins {
		s.plugins[i].Address = address
	}
	return rt.Write()
}

// listens has others come through port.
func (s *services) listens(port int) {
	s.moved = s.moved || s.reg.Port != port
	s.reg.Port = port
}

// announce registers the node once its address is known: without one Consul would fill in
// the agent's.
func (s *services) announce(ctx context.Context, client *api.Client, standing peers.Standing, note string) error {
	if err := s.locate(ctx); err != nil {
		return err
	}
	reg := s.reg
	reg.Made, s.reg.Made = peers.NewID(), "" // whose answer is lost may have been made
	if standing == peers.Serving {
		standing = s.serving(ctx, client)
	}
	if err := peers.Announce(ctx, client, reg, standing, note); err != nil {
		return err
	}
	s.reg, s.behind = reg, false
	for service := range s.told { // what was beside an entry that is gone may be gone, too
		s.told[service] = telling{}
	}
	return nil
}

// serving is the standing of a member that serves: whose a name is, the cluster record says, and
// not who registers it.
func (s *services) serving(ctx context.Context, client *api.Client) peers.Standing {
	r, _, err := peers.ReadRecord(ctx, client, s.runtime.Config.RecordKey())
	if err == nil && r.State == peers.Formed && r.Has(s.reg.Node, s.reg.Volume) {
		return peers.Recorded
	}
	return peers.Serving
}

// update brings the entry up to what reg says; where there is none of this start, it makes one.
func (s *services) update(ctx context.Context, client *api.Client, reg peers.Registration, note string) error {
	return peers.Enter(ctx, client, reg, func() peers.Standing { return s.serving(ctx, client) }, note)
}

// enter puts the cluster's id into the entry, which keeps its status. What Consul does not take now,
// the next report brings: a node is a member by the record and by RabbitMQ, and not by its entry, whose
// id anybody may hold who registers services at this agent.
func (s *services) enter(ctx context.Context, clusterID string) {
	s.reg.ClusterID, s.reg.Blank, s.behind = clusterID, false, true
	client, err := s.agents.Client(ctx)
	if err == nil {
		err = s.catchUp(ctx, client, "verified")
	}
	if err != nil {
		s.log.Debug("cannot tell Consul that this node is a member, the next report will", "err", err)
	}
}

// catchUp brings into the entry what enter could not.
func (s *services) catchUp(ctx context.Context, client *api.Client, note string) error {
	if !s.behind {
		return nil
	}
	if err := s.locate(ctx); err != nil { // it may be the first word that Consul gets of this start
		return err
	}
	reg := s.reg
	reg.Made, s.reg.Made = peers.NewID(), ""
	if err := s.update(ctx, client, reg, note); err != nil {
		return err
	}
	s.reg, s.behind = reg, false
	return nil
}

// runs says in the entry that this node's Erlang VM runs. Nothing rests on it but how soon
// others boot.
func (s *services) runs(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	s.reg.Runs = true
	client, err := s.agents.Client(ctx)
	if err == nil {
		err = s.locate(ctx)
	}
	if err == nil {
		err = peers.Update(ctx, client, s.reg, "founding the cluster")
	}
	if err != nil {
		s.log.Debug("cannot tell Consul that RabbitMQ runs", "err", err)
	}
}

// present keeps an entry, critical, of a node that stopped by itself and whose server
// lives. It is back before a container of its name that saw the entry go takes that for
// its end.
func (s *services) present(ctx context.Context, state *policy.State, why string) {
	if !state.Server.Present(time.Now(), s.reg.TTL) {
		return
	}
	client, err := s.agents.Client(ctx)
	if err == nil {
		err = peers.Report(ctx, client, s.reg, policy.Critical, why)
	}
	if errors.Is(err, peers.ErrUnregistered) {
		if err = s.announce(ctx, client, state.Standing(), why); err == nil {
			s.log.Info("registered as critical: it stopped by itself, and its server lives", "id", s.reg.ID())
		}
	}
	if err == nil {
		s.renew(ctx, client, &state.Entry, policy.Critical, why)
	}
	if err != nil && ctx.Err() == nil {
		s.log.Debug("cannot tell Consul that this node is there", "err", err)
	}
}

// renew brings another port into the entry, and keeps Consul from removing the entry of a node that has been critical for long and
// lives: registered anew over itself, it is given that time again.
func (s *services) renew(ctx context.Context, client *api.Client, entry *policy.Entry, status, reason string) {
	next, due := entry.Renew(status, time.Now(), s.reg.DeregisterAfter)
	if due || s.moved {
		err := s.locate(ctx)
		if err == nil {
			err = s.update(ctx, client, s.reg, reason)
		}
		if err != nil {
			s.log.Debug("cannot register this node over its entry", "err", err)
			return
		}
		s.moved = false
	}
	*entry = next
}

// deniedFor is how long the services of plugins rest after Consul refused one: it logs
// each refusal, and a token may be given the right.
const deniedFor = time.Minute

// listensWeb has the services of plugins be these.
func (s *services) listensWeb(plugins []consul.PluginService) {
	for _, e := range plugins {
		at := slices.IndexFunc(s.plugins, func(was consul.PluginService) bool { return was.Service == e.Service })
		if last, entered := s.told[e.Service]; entered && (at < 0 || s.plugins[at].Port != e.Port) {
			last.altered = true
			s.told[e.Service] = last
		}
	}
	s.plugins = plugins
}

// readPlugins notes which services of plugins Consul does not have as they were registered. All are
// read at once, between two reports of what is not new.
func (s *services) readPlugins(ctx context.Context, client *api.Client) {
	var all []peers.Registration
	due := false
	for _, e := range s.plugins {
		if last, entered := s.told[e.Service]; entered && last.client == client {
			all = append(all, e.Registration)
			due = due || !last.read && time.Since(last.at) >= e.TTL/4
		}
	}
	if !due {
		return
	}
	altered, err := peers.Altered(ctx, client, all...)
	if err != nil {
		s.log.Debug("cannot read back what is registered beside this node", "err", err)
		return
	}
	for _, r := range all {
		last := s.told[r.Service]
		last.read = true
		if slices.Contains(altered, r.ID()) {
			last.altered = true
			s.log.Warn("something else registered over an entry beside this node's in Consul, or removed it: it is made anew", "id", r.ID())
		}
		s.told[r.Service] = last
	}
}

// reportPlugins reports the services of plugins: each is as fit as the node, which Consul sees to,
// while its port answers. Consul is told when that changes, and twice in the TTL of such a service.
// One that never answered is not registered, as where the plugin is not enabled.
func (s *services) reportPlugins(ctx context.Context, client *api.Client) {
	if time.Since(s.denied) < deniedFor {
		return
	}
	s.readPlugins(ctx, client)
	for _, e := range s.plugins {
		status, reason := policy.Passing, "its port answers"
		silent := e.Answers(ctx)
		if statedir.Exhausted(silent) { // who knows: what Consul was told holds
			continue
		}
		last, entered := s.told[e.Service]
		if silent != nil {
			status, reason = policy.Critical, silent.Error()
			if !entered { // Consul logs each report of a check that is not there
				continue
			}
		}
		if !last.altered && last.client == client && last.status == status && time.Since(last.at) < e.TTL/2 {
			continue
		}
		err := peers.ErrUnregistered
		if entered && !last.altered {
			err = peers.Report(ctx, client, e.Registration, status, reason)
		}
		if errors.Is(err, peers.ErrUnregistered) {
			delete(s.told, e.Service)
			if silent == nil || last.altered { // the node has its own entry, hence its name
				e.ClusterID = s.reg.ClusterID
				if err = peers.Replace(ctx, client, e.Registration, reason); err == nil {
					err = peers.Report(ctx, client, e.Registration, status, reason)
				}
			}
		}
		if err == nil {
			s.told[e.Service] = telling{client: client, status: status, reason: reason, at: time.Now()}
		}
		if consul.Denied(err) {
			if s.denied.IsZero() {
				s.log.Warn("management and Prometheus are not registered", "err", err)
			}
			s.denied = time.Now()
			return
		}
	}
	s.denied = time.Time{}
}

// withdraw deregisters the node, if Consul answers in time.
func (c *companion) withdraw(ctx context.Context, why string, within time.Duration) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), within)
	defer cancel()
	c.show(why)
	if c.settings.Single { // it is registered nowhere
		return
	}
	err := errors.New("no Consul in use")
	if c.Consul.Current != nil {
		err = consul.Withdraw(ctx, c.Consul.Current, c.Runtime)
	}
	if err != nil {
		c.Log.Warn("cannot deregister, the TTL will tell", "why", why, "err", err)
		return
	}
	c.Log.Info("withdrawn", "why", why)
}

// logOutage tells the log when Consul is lost and when it is back.
func (s *services) logOutage() {
	switch {
	case s.outage.why != nil && s.outage.since.IsZero():
		s.outage.since = time.Now()
		s.log.Warn("Consul cannot be asked or told: the server goes on, trying with each heartbeat", "err", consul.WayOut(s.outage.why))
	case s.outage.why == nil && !s.outage.since.IsZero():
		s.log.Info("Consul answers again", "after", time.Since(s.outage.since).Round(time.Second))
		s.outage.since = time.Time{}
	}
}
