package consul

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// A PluginService is an entry in the catalog next to the node's own: its management or
// Prometheus port, a service of its own so that it is found in DNS. It goes with
// the node's, and counts for nothing in the cluster.
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
		e.Service += "-" + s.name
		e.Port = s.at.Port
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

// Withdraw removes the node's entry and then those beside it. Its error is that
// of the node's own.
func Withdraw(ctx context.Context, client *api.Client, rt statedir.Runtime) error {
	if err := peers.Withdraw(ctx, client, Registration(rt)); err != nil {
		return err
	}
	withdrawPluginServices(ctx, client, rt)
	return nil
}

// BuryPluginServices removes those that earlier starts left, see [peers.Bury].
func BuryPluginServices(ctx context.Context, client *api.Client, rt statedir.Runtime, standing peers.Standing) {
	for _, e := range PluginServices(rt) {
		_, _ = peers.Bury(ctx, client, e.Registration, standing) // or its TTL will tell
	}
}

func withdrawPluginServices(ctx context.Context, client *api.Client, rt statedir.Runtime) {
	for _, e := range PluginServices(rt) {
		_ = peers.Withdraw(ctx, client, e.Registration) // or its TTL will tell
	}
}

// Registration is this node's entry in the catalog.
func Registration(rt statedir.Runtime) peers.Registration {
	c := rt.Config
	return peers.Registration{
		Service: c.Service, Node: c.Node, Address: rt.Address, Port: c.Port,
		TTL: c.TTL, DeregisterAfter: max(5*time.Minute, 4*c.TTL), Version: rt.Version, ClusterID: rt.Cluster, Queues: rt.Queues,
		Tags: c.Tags, Meta: c.Meta,
		Start: peers.Start{Volume: rt.Volume, Boot: rt.Boot, Since: rt.Since, Blank: rt.Role != statedir.Member},
	}
}
