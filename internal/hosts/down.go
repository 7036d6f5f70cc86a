package hosts

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// A node that does not answer may run all the same: behind a cut, a firewall, another
// cookie, a name server that is away. Two things alone show that it is down:
//
//   - epmd, on a host that answers, does not list it, or
//   - its host's name is positively unknown to every name server of this host, while
//     each of them just now found another one.
//
// Everything else is unknown: a lookup that fails or takes too long, a connection that
// is refused (epmd goes with a container, but another host may have its address by now)
// or times out. What RabbitMQ's command line says, or its exit status, is no evidence:
// it says that nobody answers in all these cases alike.
type witness struct {
	epmdPort string
	distPort string // on which a node listens for other nodes
	blind    string // a setting by which epmd or the names say nothing, and why
	resolver *net.Resolver
	names    func() (peers.Names, error)
	hosts    map[string]string // address by host name, with --hosts consul; nil without
	others   []string          // names that a name server is to find, if it finds any
}

// WitnessOf returns who can be asked about the nodes.
func WitnessOf(c config.Config, nodes []string) (witness, error) {
	w := witness{
		epmdPort: cmp.Or(os.Getenv("ERL_EPMD_PORT"), "4369"),
		distPort: config.RabbitMQs(os.Getenv, "RABBITMQ_DIST_PORT"),
		blind:    blindness(os.Getenv, c.Inetrc()),
		resolver: &net.Resolver{PreferGo: true}, // the other one takes time-outs for "no such host"
		names:    func() (peers.Names, error) { return peers.ReadNames("/etc/resolv.conf") },
	}
	if port, err := strconv.Atoi(cmp.Or(config.RabbitMQs(os.Getenv, "RABBITMQ_NODE_PORT"), "5672")); err == nil && w.distPort == "" {
		w.distPort = strconv.Itoa(port + 20000) // RabbitMQ's default
	}
	if c.Hosts == "consul" {
		known, err := (&File{path: filepath.Join(c.StateDir, "hosts")}).read()
		if err != nil {
			return w, err
		}
		w.hosts = known
	}
	for _, n := range append([]string{c.Node}, nodes...) {
		_, host, _ := strings.Cut(n, "@")
		w.others = append(w.others, host)
	}
	for _, addr := range c.Consul {
		if host := config.AgentHost(addr); host != "" && net.ParseIP(host) == nil && host != "localhost" {
			w.others = append(w.others, host)
		}
	}
	w.others = append(w.others, "consul.service."+strings.TrimSuffix(c.DNSDomain, ".")+".")
	return w, nil
}

// Down returns what reports whether a registered node that does not answer is positively
// down.
func Down(c config.Config) func(ctx context.Context, p peers.Peer) bool {
	return func(ctx context.Context, p peers.Peer) bool {
		w, err := WitnessOf(c, []string{p.Node})
		if err != nil {
			return false
		}
		down, _ := w.Down(ctx, p.Node, []string{p.Address})
		return down
	}
}

// blindness names the setting, if there is one, by which nodes do without epmd, or find
// each other by another file than ours (inetrc).
func blindness(getenv func(string) string, inetrc string) string {
	if file := getenv("ERL_INETRC"); file != "" && file != inetrc {
		return "ERL_INETRC has nodes find each other by " + file + ", which was not asked"
	}
	for _, name := range []string{"RABBITMQ_SERVER_ERL_ARGS", "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "RABBITMQ_CTL_ERL_ARGS", "ERL_FLAGS", "ERL_AFLAGS", "ERL_ZFLAGS"} {
		for _, arg := range []string{"inetrc", "epmd_module", "start_epmd", "erl_epmd_port", "erl_epmd_node_listen_port"} {
			if strings.Contains(getenv(name), arg) {
				return fmt.Sprintf("%s sets %s: nodes find each other by something else than was asked", name, arg)
			}
		}
	}
	return ""
}

// A Sight is what was seen of a node's life on its host.
type Sight int

const (
	Unknown Sight = iota
	Gone          // it is down
	Listed        // epmd lists it, or something listens that may be it
)

// Down reports whether node, which does not answer, is down, and what was seen.
func (w witness) Down(ctx context.Context, node string, registered []string) (down bool, seen string) {
	is, seen := w.Look(ctx, node, registered)
	return is == Gone, seen
}

// Look looks whether node, which does not answer, is down, and says what was seen. Registered
// are the addresses (host:port) under which Consul's catalog has it: what listens there
// may be the node under a name that is known elsewhere only.
func (w witness) Look(ctx context.Context, node string, registered []string) (is Sight, seen string) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	name, host, _ := strings.Cut(node, "@")
	if err := rabbitconf.ValidNode(node); err != nil {
		return Unknown, "it is no node's name, and nobody can be asked about it"
	}
	if w.blind != "" {
		return Unknown, w.blind
	}
	addrs, proof, err := w.lookUp(ctx, host, registered)
	if err != nil {
		return Unknown, err.Error()
	}
	for _, ip := range addrs {
		switch err := w.unlisted(ctx, ip, name); {
		case errors.Is(err, errListed):
			return Listed, err.Error()
		case err != nil:
			return Unknown, err.Error()
		}
	}
	if len(addrs) > 0 {
		proof = fmt.Sprintf("epmd at %s does not list it", strings.Join(addrs, ", "))
	}
	for _, addr := range registered {
		ip, _, _ := net.SplitHostPort(addr)
		if err := w.unlisted(ctx, ip, name); errors.Is(err, errListed) {
			return Listed, err.Error() + ", where it is registered in Consul"
		}
		if listens(ctx, addr) {
			return Unknown, fmt.Sprintf("something listens at %s, where it is registered in Consul", addr)
		}
		if ctx.Err() != nil { // nobody looked at the others
			return Unknown, fmt.Sprintf("it is registered in Consul at %s, and there was no time to look at all of them: deregister those that are not its own", peers.SomeWith(registered, ", "))
		}
	}
	return Gone, proof
}

// lookUp returns the addresses of a host, as Erlang here would find them, or what shows
// that there is no such host. An error means unknown.
func (w witness) lookUp(ctx context.Context, host string, registered []string) (addrs []string, proof string, err error) {
	if ip := w.hosts[host]; ip != "" {
		if !slices.ContainsFunc(registered, func(addr string) bool { at, _, _ := net.SplitHostPort(addr); return at == ip }) {
			return nil, "", fmt.Errorf("the catalog in Consul, from which nodes here learn addresses (--hosts consul), had its host at %s once, and has it no more: where it is now, if it runs, cannot be told", ip)
		}
		return []string{ip}, "", nil
	}
	if w.hosts != nil && len(registered) > 0 { // nobody learns where a node is that is not on record: Erlang would go by this
		for _, addr := range registered {
			if ip, _, _ := net.SplitHostPort(addr); net.ParseIP(ip) != nil {
				addrs = append(addrs, ip)
			}
		}
		if slices.Sort(addrs); len(addrs) > 0 {
			return slices.Compact(addrs), "", nil
		}
	}
	soon, cancel := context.WithTimeout(ctx, 8*time.Second)
	defer cancel()
	addrs, err = w.resolver.LookupHost(soon, host)
	var dnsErr *net.DNSError
	switch {
	case err == nil:
		slices.Sort(addrs)
		return slices.Compact(addrs), "", nil
	case !errors.As(err, &dnsErr) || !dnsErr.IsNotFound:
		return nil, "", fmt.Errorf("its host's name cannot be looked up: %w", err)
	case w.hosts != nil: // a node that is not registered is not in the catalog, whether it runs or not
		return nil, "", errors.New("the catalog in Consul, from which nodes here learn addresses (--hosts consul), has none of its host, and no name server has; that says nothing of whether it runs")
	}
	names, err := w.names()
	if err == nil {
		proof, err = names.Nobody(ctx, host, w.others)
	}
	if err != nil {
		return nil, "", fmt.Errorf("whether its host %s is gone cannot be told: %w", host, err)
	}
	return nil, proof, nil
}

// errListed: epmd lists the node, or something listens that may be it.
var errListed = errors.New("it may run")

// unlisted returns nil if epmd at ip answers and does not list the node of that name.
func (w witness) unlisted(ctx context.Context, ip, name string) error {
	at := net.JoinHostPort(ip, w.epmdPort)
	switch listed, err := epmdLists(ctx, at, name); {
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no epmd listens at %s: the host may be another one's by now, or its epmd was lost", at)
	case err != nil:
		return fmt.Errorf("epmd at %s does not say whether it runs: %w", at, err)
	case listed:
		return fmt.Errorf("%w: epmd at %s lists it", errListed, at)
	}
	// Killed and started again, epmd knows of nobody until RabbitMQ tells it, each minute.
	if dist := net.JoinHostPort(ip, w.distPort); w.distPort != "" && listens(ctx, dist) {
		return fmt.Errorf("%w: epmd at %s does not list it, but something listens at %s, where nodes do; a new epmd hears of RabbitMQ within a minute, so ask again", errListed, at, dist)
	}
	return nil
}

// listens reports whether something listens at addr, or that cannot be looked at.
func listens(ctx context.Context, addr string) bool {
	conn, err := (&net.Dialer{Timeout: 3 * time.Second}).DialContext(ctx, "tcp", addr)
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) { // nobody looked
		return true
	}
	return err == nil && conn.Close() == nil
}

// epmdLists asks epmd for the port of the node of that name.
func epmdLists(ctx context.Context, addr, name string) (bool, error) {
	conn, err := (&net.Dialer{Timeout: 3 * time.Second}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(3 * time.Second))
	return portOf(conn, name)
}

// DistPort asks epmd at addr (host:port) where the node of that name listens for other nodes; 0
// where it has no such node, or does not say. The error is that of epmd, which does not answer.
func DistPort(ctx context.Context, addr, name string) (port int, err error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if until, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(until)
	}
	listed, err := portOf(conn, name)
	var at [2]byte // follows where it has one
	if err != nil || !listed {
		return 0, err
	}
	if _, err := io.ReadFull(conn, at[:]); err != nil {
		return 0, fmt.Errorf("epmd lists %s, and does not say its port: %w", name, err)
	}
	return int(at[0])<<8 | int(at[1]), nil
}

// portOf asks epmd (PORT_PLEASE2_REQ): its answer is PORT2_RESP and 0, or another number where
// it has no such node.
func portOf(epmd io.ReadWriter, name string) (bool, error) {
	const portPlease2, port2Resp = 122, 119
	if len(name) > mostName {
		return false, fmt.Errorf("%.60q… is longer than a node's name", name)
	}
	request := append([]byte{0, byte(1 + len(name)), portPlease2}, name...) // #nosec G115 -- at most 255
	if _, err := epmd.Write(request); err != nil {
		return false, err
	}
	var answer [2]byte
	if _, err := io.ReadFull(epmd, answer[:]); err != nil {
		return false, err
	}
	if answer[0] != port2Resp {
		return false, fmt.Errorf("what listens there answers %d, as no epmd does", answer)
	}
	return answer[1] == 0, nil
}

const mostName = 254 // characters that fit before an @ and a host into the longest atom
