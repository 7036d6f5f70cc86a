// Package hosts is how nodes find each other's hosts: the hosts file and the inetrc that
// Erlang reads, and whether a host says that a node is down.
package hosts

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// File is the file in which, with --hosts consul, the Erlang VM finds other
// nodes: their host names and what the catalog says of where they are. Nil keeps
// none.
type File struct {
	path string
	self string // this node's host name …
	own  string // … and its address; "": as the system resolves it
}

// hosts returns the file of this node, which others find at address.
func Of(ctx context.Context, c config.Config, address string) *File {
	if c.Hosts != "consul" {
		return nil
	}
	h := &File{path: filepath.Join(c.StateDir, "hosts"), own: address}
	_, h.self, _ = strings.Cut(c.Node, "@")
	// Where others find the node may be another host's port, and with an agent on
	// this host it is the agent that knows.
	if h.own != "" && isLocal(h.own) {
		return h
	}
	if h.own = ""; Resolves(ctx, c.Node) != nil {
		h.own = "127.0.0.1"
	}
	return h
}

func isLocal(ip string) bool {
	l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	return err == nil && l.Close() == nil
}

// Learn brings the file up to what the catalog says, and returns the names whose
// address is new. A name stays until another address is known for it: a node that
// paused is not registered, and has to be found all the same.
func (h *File) Learn(catalog []peers.Peer) (changed []string, err error) {
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
	return changed, rabbitconf.Write(h.path, []byte(text))
}

// read returns address by host name, as this start or an earlier one wrote them.
func (h *File) read() (map[string]string, error) {
	b, err := os.ReadFile(h.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	known := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 2 && net.ParseIP(f[0]) != nil && rabbitconf.ValidNode("x@"+f[1]) == nil {
			known[f[1]] = f[0]
		}
	}
	return known, nil
}
