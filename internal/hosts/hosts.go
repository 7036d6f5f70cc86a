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
//
// Whoever may register a service writes the catalog, and whatever RabbitMQ connects to by a
// name finds it by this file: so it holds the names of the cluster's own nodes alone, see
// [Known], and of these only such as are nobody else's, see [names].
type File struct {
	path  string
	self  string // this node's host name …
	own   string // … and its address; "": as the system resolves it
	names names
}

// Known is who the cluster's nodes are, by other word than the catalog's.
type Known struct {
	Record  peers.Record // the cluster record, which was read
	Members []string     // that RabbitMQ listed last, by the volume
}

// has reports whether node is on record or a member of RabbitMQ's.
func (k Known) has(node string) bool {
	_, on := k.Record.Members[node]
	return on || slices.Contains(k.Members, node)
}

// Of returns the file of this node, which others find at address.
func Of(ctx context.Context, c config.Config, address string) *File {
	if c.Hosts != "consul" {
		return nil
	}
	h := &File{path: filepath.Join(c.StateDir, "hosts"), own: address, names: namesOf(c)}
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

// Learn brings the file up to what the catalog says of the known nodes, and returns the names
// whose address is new. A name of theirs stays until another address is known for it: a node
// that paused is not registered, and has to be found all the same. Other names go.
func (h *File) Learn(catalog []peers.Peer, known Known) (changed []string, err error) {
	if h == nil {
		return nil, nil
	}
	return h.update(func(was, is map[string]string) {
		theirs := map[string]bool{}
		for _, n := range append(known.Record.Names(), known.Members...) {
			_, host, _ := strings.Cut(n, "@")
			theirs[host] = true
		}
		maps.DeleteFunc(is, func(host, _ string) bool { return !theirs[host] })
		best := map[string]peers.Peer{}
		for _, p := range catalog {
			host, err := h.names.host(p.Node)
			if err != nil || !known.has(p.Node) || addressOf(p) == "" {
				continue
			}
			if other, twice := best[host]; !twice || better(p, other, known.Record, was[host]) {
				best[host], is[host] = p, addressOf(p)
			}
		}
	})
}

// Tidy writes this node's own address, and drops the names that no node may have.
func (h *File) Tidy() error {
	_, err := h.update(func(_, _ map[string]string) {})
	return err
}

// update writes the file as change makes it, if that is another one.
func (h *File) update(change func(was, is map[string]string)) (changed []string, err error) {
	was, err := h.read()
	if err != nil {
		return nil, err
	}
	is := maps.Clone(was)
	change(was, is)
	maps.DeleteFunc(is, func(host, _ string) bool { return h.names.judge(host) != nil })
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

// addressOf is the IP address in an entry; "": it has none.
func addressOf(p peers.Peer) string {
	ip, _, _ := net.SplitHostPort(p.Address)
	if net.ParseIP(ip) == nil { // registered by something else
		return ""
	}
	return ip
}

// better reports whether p rather than other, another entry of that node, says where it is. Of
// two that pass and are alike the one counts that the file goes by already (at).
func better(p, other peers.Peer, r peers.Record, at string) bool {
	if c := r.Compare(p, other); c != 0 {
		return c > 0
	}
	if kept := addressOf(p) == at; p.Passing && kept != (addressOf(other) == at) {
		return kept
	}
	return p.Newer(other)
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
