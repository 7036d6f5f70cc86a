package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// A beside is an entry in the catalog next to the node's own: its management or
// Prometheus port, a service of its own so that it is found in DNS. It goes with
// the node's, and counts for nothing in the cluster.
type beside struct {
	peers.Registration
	host string // where this node's own listener is asked
}

// beside returns the entries of the ports that others can reach.
func besides(rt runtimeFile) (entries []beside) {
	for _, s := range []struct {
		name string
		at   rabbitconf.Listener
	}{{"management", rt.Config.Management}, {"prometheus", rt.Config.Prometheus}} {
		if s.at.Port == 0 || s.at.Local() {
			continue
		}
		e := beside{registration(rt), cmp.Or(s.at.Host, "127.0.0.1")}
		e.Service += "-" + s.name
		e.Port = s.at.Port
		entries = append(entries, e)
	}
	return entries
}

// tellBeside reports them: each is as fit as the node while its port answers. One
// that never answered is not registered, as where the plugin is not enabled.
func (c *companion) tellBeside(ctx context.Context, client *api.Client, status, reason string) {
	for _, e := range c.beside {
		status, reason := status, reason
		silent := e.answers(ctx)
		if silent != nil {
			status, reason = api.HealthCritical, silent.Error()
		}
		err := peers.Report(ctx, client, e.Registration, status, reason)
		if errors.Is(err, peers.ErrUnregistered) && silent == nil {
			e.ClusterID = c.reg.ClusterID
			if err = peers.Announce(ctx, client, e.Registration, c.standing(), reason); err == nil {
				err = peers.Report(ctx, client, e.Registration, status, reason)
			}
		}
		if denied(err) {
			c.log.Warn("management and Prometheus are not registered", "err", err)
			c.beside = nil
			return
		}
	}
}

// answers returns nil when something takes connections on the port.
func (e beside) answers(ctx context.Context) error {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", net.JoinHostPort(e.host, strconv.Itoa(e.Port)))
	if err != nil {
		return fmt.Errorf("%s: %w", e.Service, err)
	}
	return conn.Close()
}

// withdrawAll removes the node's entry and then those beside it. Its error is that
// of the node's own.
func withdrawAll(ctx context.Context, client *api.Client, rt runtimeFile) error {
	if err := peers.Withdraw(ctx, client, registration(rt)); err != nil {
		return err
	}
	withdrawBeside(ctx, client, rt)
	return nil
}

// buryBeside removes those that earlier starts left, see [peers.Bury].
func buryBeside(ctx context.Context, client *api.Client, rt runtimeFile, standing peers.Standing) {
	for _, e := range besides(rt) {
		_, _ = peers.Bury(ctx, client, e.Registration, standing) // or its TTL will tell
	}
}

func withdrawBeside(ctx context.Context, client *api.Client, rt runtimeFile) {
	for _, e := range besides(rt) {
		_ = peers.Withdraw(ctx, client, e.Registration) // or its TTL will tell
	}
}
