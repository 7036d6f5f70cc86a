package rabbitmq

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"rmq-entrypoint/peers"
)

// ErrNoClusterID: the node knows its members, but cannot read its data. A member of a
// Khepri cluster that was killed soon after it joined has not applied its log, and does
// so only with a majority (measured on 4.3.6).
var ErrNoClusterID = errors.New("it cannot read the cluster's id yet")

// View asks node what it knows. An error means unknown: node may be down, still
// booting, unreachable, or have another cookie. Beside [ErrNoClusterID] the rest of
// the view holds.
func (b CLI) View(ctx context.Context, node string) (peers.View, error) {
	out, err := b.Ctl(ctx, node, "eval", erlang("view"))
	if err != nil {
		return peers.View{}, fmt.Errorf("ask %s for its cluster: %w", node, err)
	}
	v := peers.View{Sides: map[string]peers.Side{}}
	for line := range strings.Lines(out) {
		switch f := strings.Split(strings.TrimSpace(line), "|"); {
		case f[0] == "view" && len(f) >= 6:
			v.ClusterID, v.Members, v.Running, v.Partitions, v.Khepri = f[1], list(f[2]), list(f[3]), list(f[4]), f[5] == "true"
			if len(f) >= 7 {
				v.Connected = list(f[6])
			}
		case f[0] == "listener" && len(f) >= 5:
			if port, err := strconv.Atoi(f[3]); err == nil && port > 0 && port < 1<<16 && net.ParseIP(f[2]) != nil {
				v.Listeners = append(v.Listeners, peers.Listener{IP: f[2], Port: port, TLS: f[1] == "amqp/ssl", Proxy: f[4] == "true"})
			}
		case f[0] == "web" && len(f) >= 4:
			if port, err := strconv.Atoi(f[3]); err == nil && port > 0 && port < 1<<16 && net.ParseIP(f[2]) != nil {
				scheme, plugin, _ := strings.Cut(f[1], "/")
				v.Web = append(v.Web, peers.WebListener{Plugin: cmp.Or(plugin, "management"), IP: f[2], Port: port, TLS: scheme == "https"})
			}
		case f[0] == "started" && len(f) >= 2:
			if us, err := strconv.ParseInt(f[1], 10, 64); err == nil && us > 0 {
				v.Started = time.UnixMicro(us)
			}
		case f[0] == "pauses" && len(f) >= 2:
			v.Pauses, v.Stops = f[1] == "true", len(f) >= 3 && f[2] == "true"
		case f[0] == "paired" && len(f) >= 2:
			v.Paired = f[1] == "true"
		case f[0] == "side" && len(f) >= 4 && f[1] != "":
			v.Sides[f[1]] = peers.Side{With: list(f[2]), From: list(f[3])}
		}
	}
	if v.ClusterID == "" && slices.Contains(v.Members, node) {
		return v, fmt.Errorf("ask %s for its cluster: %w", node, ErrNoClusterID)
	}
	if v.ClusterID == "" || !slices.Contains(v.Members, node) { // booting: not yet a member of what it will be
		return peers.View{}, fmt.Errorf("ask %s for its cluster: it has none yet (%.200q)", node, out)
	}
	return v, nil
}

// Waits asks this node, whose application does not run, what keeps it.
func (b CLI) Waits(ctx context.Context) (members, waits []string, paused bool, err error) {
	out, err := b.Ctl(ctx, b.Node, "eval", erlang("waits"))
	if err != nil {
		return nil, nil, false, err
	}
	for line := range strings.Lines(out) {
		if f := strings.Split(strings.TrimSpace(line), "|"); f[0] == "waits" && len(f) >= 4 && f[1] != "" {
			return list(f[1]), list(f[2]), f[3] == "true", nil
		}
	}
	return nil, nil, false, fmt.Errorf("ask %s for whom it waits: it does not know yet (%.200q)", b.Node, out)
}

// HasLeader asks a node whether the members that decide by majority have a leader.
func (b CLI) HasLeader(ctx context.Context, node string) (bool, error) {
	out, err := b.Ctl(ctx, node, "eval", erlang("led"))
	if err != nil {
		return false, err
	}
	_, rest, ok := strings.Cut(out, "led|")
	if word, _, _ := strings.Cut(rest, "|"); ok && (word == "true" || word == "false") {
		return word == "true", nil
	}
	return false, fmt.Errorf("ask %s for the members' leader: got %.200q", node, out)
}
