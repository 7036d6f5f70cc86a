package consul

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// A PluginService is an entry in the catalog next to the node's own: its management or
// Prometheus port, a service of its own so that it is found in DNS. It counts for nothing in the
// cluster. Consul itself keeps it as fit as the node's own entry. Its TTL check says whether the
// port answers. It is told so when that changes, and seldom besides: its TTL is there for a node
// whose entry is gone, of which Consul would say that nothing is wrong.
type PluginService struct {
	peers.Registration
	host string // where this node's own listener is asked
}

// beside returns the entries of the ports that others can reach.
func PluginServices(rt statedir.Runtime) (entries []PluginService) {
	for _, s := range []struct {
		name string
		at   rabbitconf.Listener
	}{{"management", rt.Config.Management}, {"prometheus", rt.Config.Prometheus}} {
		if s.at.Port == 0 || s.at.Local() {
			continue
		}
		e := PluginService{Registration(rt), cmp.Or(s.at.Host, "127.0.0.1")}
		e.Beside = e.ID()
		e.Service += "-" + s.name
		e.Tags = rt.Config.TagsOf(e.Service)
		e.Port = s.at.Port
		e.TTL = e.DeregisterAfter * 4 / 5 // over before the node's own entry is removed
		entries = append(entries, e)
	}
	return entries
}

// Answers returns nil when something takes connections on the port.
func (e PluginService) Answers(ctx context.Context) error {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", net.JoinHostPort(e.host, strconv.Itoa(e.Port)))
	if err != nil {
		return fmt.Errorf("%s: %w", e.Service, err)
	}
	return conn.Close()
}

// Withdraw removes the node's entry and those beside it, all at once: the ones would pass without
// the other. Its error is that of the node's own.
func Withdraw(ctx context.Context, client *api.Client, rt statedir.Runtime) error {
	var beside sync.WaitGroup
	defer beside.Wait()
	for _, e := range PluginServices(rt) {
		beside.Go(func() {
			// Without the node's entry its alias would pass, until its own TTL is over. Consul logs
			// each report of a check that is not there.
			if peers.Held(ctx, client, e.Registration) == nil {
				_ = peers.Report(ctx, client, e.Registration, api.HealthCritical, "withdrawn with its node")
			}
			_ = peers.Withdraw(ctx, client, e.Registration)
		})
	}
	return peers.Withdraw(ctx, client, Registration(rt))
}

// Bury removes what earlier starts left, see [peers.Bury]: first what is beside the node's own entry,
// and would pass without it.
func Bury(ctx context.Context, client *api.Client, rt statedir.Runtime, standing peers.Standing) (boot string, err error) {
	BuryPluginServices(ctx, client, rt, standing)
	return peers.Bury(ctx, client, Registration(rt), standing)
}

// BuryPluginServices removes those that earlier starts left, see [peers.Bury]. It is to be done
// before their node's own entry goes, while they say what is wrong with that.
func BuryPluginServices(ctx context.Context, client *api.Client, rt statedir.Runtime, standing peers.Standing) {
	for _, e := range PluginServices(rt) {
		_, _ = peers.Bury(ctx, client, e.Registration, standing) // or its TTL will tell
	}
}

// Registration is this node's entry in the catalog.
func Registration(rt statedir.Runtime) peers.Registration {
	c := rt.Config
	var places peers.Places
	if c.Hosts == "consul" {
		places = c.Places()
	}
	return peers.Registration{
		Service: c.Service, Node: c.Node, Address: rt.Address, Port: c.RegisteredPort(),
		TTL: c.TTL, DeregisterAfter: max(5*time.Minute, 4*c.TTL), Version: rt.Version, ClusterID: rt.Cluster, Queues: rt.Queues,
		Labels: peers.Labels{Tags: c.TagsOf(c.Service), Meta: c.Meta, Places: places},
		Start:  peers.Start{Volume: rt.Volume, Boot: rt.Boot, Since: rt.Since, Blank: rt.Role != statedir.Member},
	}
}

// Unplaced returns what has the log hear, once, that the token may not write where the node is.
func Unplaced(log *slog.Logger) func(error) {
	var once sync.Once
	return func(err error) {
		once.Do(func() {
			log.Warn("other nodes take this one's address from Consul's catalog, which whoever may register a service writes, or do not learn another one (--hosts consul, RMQ_HOSTS)", "err", err)
		})
	}
}
