package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// hosts is the file in which, with --hosts consul, the Erlang VM finds other
// nodes: their host names and what the catalog says of where they are. Nil keeps
// none.
type hosts struct {
	path string
	self string // this node's host name …
	own  string // … and its address; "": as the system resolves it
}

// hosts returns the file of this node, which others find at address.
func newHosts(ctx context.Context, c config, address string) *hosts {
	if c.Hosts != "consul" {
		return nil
	}
	h := &hosts{path: filepath.Join(c.StateDir, "hosts"), own: address}
	_, h.self, _ = strings.Cut(c.Node, "@")
	// Where others find the node may be another host's port, and with an agent on
	// this host it is the agent that knows.
	if h.own != "" && isLocal(h.own) {
		return h
	}
	if h.own = ""; resolves(ctx, c.Node) != nil {
		h.own = "127.0.0.1"
	}
	return h
}

func isLocal(ip string) bool {
	l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	return err == nil && l.Close() == nil
}

// learn brings the file up to what the catalog says, and returns the names whose
// address is new. A name stays until another address is known for it: a node that
// paused is not registered, and has to be found all the same.
func (h *hosts) learn(catalog []peers.Peer) (changed []string, err error) {
	if h == nil {
		return nil, nil
	}
	was, err := h.read()
	if err != nil {
		return nil, err
	}
	is := maps.Clone(was)
	newest := map[string]peers.Peer{}
	for _, p := range catalog {
		_, host, _ := strings.Cut(p.Node, "@")
		ip, _, _ := net.SplitHostPort(p.Address)
		if rabbitconf.ValidNode(p.Node) != nil || net.ParseIP(ip) == nil { // registered by something else
			continue
		}
		if other, twice := newest[host]; !twice || p.Newer(other) {
			newest[host], is[host] = p, ip
		}
	}
	if delete(is, h.self); h.own != "" {
		is[h.self] = h.own
	}
	text := "# Written by rmq-entrypoint from Consul's catalog: edits are lost.\n"
	for _, host := range slices.Sorted(maps.Keys(is)) {
		text += is[host] + " " + host + "\n"
		if is[host] != was[host] {
			changed = append(changed, host)
		}
	}
	if maps.Equal(was, is) {
		return nil, nil
	}
	return changed, rabbitconf.Write(h.path, []byte(text), -1, -1)
}

// read returns address by host name, as this start or an earlier one wrote them.
func (h *hosts) read() (map[string]string, error) {
	b, err := os.ReadFile(h.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	known := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 2 && net.ParseIP(f[0]) != nil {
			known[f[1]] = f[0]
		}
	}
	return known, nil
}

// keepHosts keeps the file current until ctx ends: by a blocking query, and every beat.
// While Consul is away it stays as it is. The client is its own: the beat's must
// not be used by two.
func keepHosts(ctx context.Context, log *slog.Logger, rt runtimeFile, h *hosts) {
	consul := newConsul(rt.Config, slog.New(slog.DiscardHandler)) // the beat tells of a Consul that is away
	consul.prefer(rt.Consul)
	beat := rt.Config.TTL / 3
	var told string
	for ctx.Err() == nil {
		client, err := consul.use(ctx)
		if err != nil {
			pause(ctx, beat)
			continue
		}
		catalog, index, err := peers.Catalog(ctx, client, rt.Config.Service, "")
		consul.saw(err)
		if err != nil {
			pause(ctx, beat)
			continue
		}
		changed, err := h.learn(catalog)
		switch text := fmt.Sprint(err); {
		case err != nil && text != told:
			log.Warn("cannot keep the hosts file current", "err", err)
			told = text
		case err == nil && len(changed) > 0:
			log.Info("learned addresses of nodes", "hosts", strings.Join(changed, ","))
		}
		peers.Changed(ctx, client, "", 0, rt.Config.Service, index, beat)
	}
}

// inetrc is the file that tells Erlang of the hosts file. Its path has no node's
// name in it, for people to set ERL_INETRC to: what docker exec starts does not
// see the server's environment.
func (c config) inetrc() string { return filepath.Join(c.Home, "inetrc") }

// resolver is what Erlang programs need in their environment to use the hosts
// file. A user's own inetrc wins.
func resolver(c config) []string {
	if c.Hosts != "consul" || cmp.Or(os.Getenv("ERL_INETRC"), c.inetrc()) != c.inetrc() {
		return nil
	}
	return []string{"ERL_INETRC=" + c.inetrc()}
}

// usersResolver returns the variable by which the user set another inetrc.
func usersResolver(c config) string {
	if resolver(c) == nil {
		return "ERL_INETRC"
	}
	for _, name := range []string{"RABBITMQ_SERVER_ERL_ARGS", "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"} {
		if strings.Contains(os.Getenv(name), "inetrc") {
			return name
		}
	}
	return ""
}

// prepareHosts makes the two files before anything of RabbitMQ's runs. Others find this
// node at own; "": as the system resolves it.
func prepareHosts(ctx context.Context, log *slog.Logger, c config, own string) (*hosts, error) {
	if c.Hosts != "consul" {
		return nil, nil
	}
	h := newHosts(ctx, c, own)
	if err := rabbitconf.Write(c.inetrc(), rabbitconf.Inetrc(h.path), -1, -1); err != nil {
		return nil, fmt.Errorf("tell Erlang of the hosts file (--hosts, RMQ_HOSTS): %w", err)
	}
	if name := usersResolver(c); name != "" {
		log.Warn("RabbitMQ resolves host names by an inetrc that the user set, which wins over --hosts consul (RMQ_HOSTS): leave it out, or let it say what ours does", "set_by", name, "ours", c.inetrc())
	}
	_, err := h.learn(nil)
	return h, err
}

// addressOf returns the IP address that --advertise stands for: itself, or the
// first one on an interface or in a subnet.
func addressOf(setting string) (string, error) {
	if setting == "" || net.ParseIP(setting) != nil {
		return setting, nil
	}
	_, subnet, none := net.ParseCIDR(setting)
	interfaces, err := net.Interfaces()
	if err != nil {
		return "", fmt.Errorf("--advertise (RMQ_ADVERTISE) %q: %w", setting, err)
	}
	var found net.IP
	var have []string
	for _, i := range interfaces {
		addrs, _ := i.Addrs() // none of an interface that went meanwhile
		for _, a := range addrs {
			ip := a.(*net.IPNet).IP
			have = append(have, fmt.Sprintf("%s on %s", ip, i.Name))
			if found == nil && (i.Name == setting || none == nil && subnet.Contains(ip)) {
				found = ip
			}
		}
	}
	if found == nil {
		return "", fmt.Errorf("--advertise (RMQ_ADVERTISE) %q: this host has no such subnet or interface, but %s", setting, strings.Join(have, ", "))
	}
	return found.String(), nil
}
