// Package hosts is how nodes find each other's hosts: the hosts file and the inetrc that
// Erlang reads, and whether a host says that a node is down.
package hosts

import (
	"context"
	"errors"
	"fmt"
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

// Where returns where a node says that it is by a key of its own, see [peers.Places]: nil where it
// never did. An error means unknown.
type Where func(node string) (*peers.Place, error)

// Learn brings the file up to what is said of the known nodes, and returns the names whose address
// is new. A name of theirs stays until another address is known for it: a node that paused is not
// registered, and has to be found all the same. Other names go. The error is that of the file, and
// of what was not learned.
//
// The catalog tells that a node may be elsewhere. Where it is then, its key says: whoever may
// register a service has entries that are like a member's, down to its check. The catalog's word is
// taken for nodes without a key alone, as an earlier version of this program is one.
func (h *File) Learn(catalog []peers.Peer, known Known, where Where) (changed []string, err error) {
	if h == nil {
		return nil, nil
	}
	var unlearned error
	changed, err = h.update(func(_, is map[string]string) {
		theirs := map[string]bool{}
		for _, n := range append(known.Record.Names(), known.Members...) {
			_, host, _ := strings.Cut(n, "@")
			theirs[host] = true
		}
		maps.DeleteFunc(is, func(host, _ string) bool { return !theirs[host] })
		entries := map[string][]peers.Peer{}
		for _, p := range catalog {
			host, err := h.names.host(p.Node)
			if err == nil && host != h.self && known.has(p.Node) && addressOf(p) != "" {
				entries[host] = append(entries[host], p)
			}
		}
		for _, host := range slices.Sorted(maps.Keys(entries)) {
			at, err := learn(is[host], entries[host], known.Record, where)
			if unlearned = errors.Join(unlearned, err); at != "" {
				is[host] = at
			}
		}
	})
	return changed, errors.Join(err, unlearned)
}

// learn returns where a node is that was at an address, as far as that was known, and has those
// entries. While they have it there, nobody is asked.
func learn(was string, entries []peers.Peer, r peers.Record, where Where) (at string, err error) {
	is := func(at string) func(peers.Peer) bool { return func(p peers.Peer) bool { return addressOf(p) == at } }
	best := entries[0]
	for _, p := range entries[1:] {
		if better(p, best, r, was) {
			best = p
		}
	}
	if len(slices.DeleteFunc(slices.Clone(entries), is(was))) == 0 {
		return was, nil
	}
	said, err := where(best.Node)
	switch volume := r.Members[best.Node]; {
	case err != nil:
		return was, err
	case said == nil:
		return addressOf(best), nil
	case volume != "" && said.Volume != volume: // another container's of its name, or it is to be on record next
		return was, nil
	case best.Passing && !slices.ContainsFunc(entries, is(said.Address)):
		err = fmt.Errorf("%s passes in Consul at %s (%s, with agent %s) and said itself that it is at %s: that counts. Remove the entry if it is not the node's", best.Node, addressOf(best), best.ID, best.Agent, said.Address)
	}
	return said.Address, err
}

// Told returns where a node is that has its data on volume, as far as this node was told by other
// word than the catalog's: by the file that Erlang here goes by, else by the node's own key. ""
// and no error: by nobody.
func Told(c config.Config, node, volume string, where Where) (string, error) {
	_, host, _ := strings.Cut(node, "@")
	if is, err := (&File{path: filepath.Join(c.StateDir, "hosts")}).read(); err != nil || is[host] != "" {
		return is[host], err
	}
	if _, err := namesOf(c).host(node); err != nil || where == nil {
		return "", err
	}
	said, err := where(node)
	if err != nil || said == nil || volume != "" && said.Volume != volume {
		return "", err
	}
	return said.Address, nil
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
