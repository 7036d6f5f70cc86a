package hosts

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/expect"
)

// epmd answers as the real one does for the nodes that it lists, until the test ends. It
// returns its port.
func epmd(t *testing.T, listed ...string) (port string) {
	t.Helper()
	return listener(t, func(conn net.Conn) {
		var head [3]byte
		if _, err := io.ReadFull(conn, head[:]); err != nil || head[2] != 122 {
			return
		}
		name := make([]byte, binary.BigEndian.Uint16(head[:])-1)
		if _, err := io.ReadFull(conn, name); err != nil {
			return
		}
		answer := []byte{119, 1}
		if slices.Contains(listed, string(name)) {
			answer = []byte{119, 0, 0x64, 0x48, 77, 0, 0, 6, 0, 5, 0, byte(len(name))}
		}
		_, _ = conn.Write(answer)
	})
}

// listener serves each connection on the loopback with do, and returns the port.
func listener(t *testing.T, do func(net.Conn)) (port string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	expect.Must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer conn.Close(); do(conn) }()
		}
	}()
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}

// closed returns a port on which nobody listens.
func closed(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	expect.Must(t, err)
	expect.Must(t, l.Close())
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// nameServer answers each question with the rcode, for the names that it does not have.
// With an rcode below 0 it reads and never answers.
func nameServer(t *testing.T, rcode int, names map[string]string) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	expect.Must(t, err)
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		answer := new(dns.Msg).SetRcode(q, max(rcode, 0))
		answer.RecursionAvailable = true
		if ip := names[q.Question[0].Name]; ip != "" {
			answer.Rcode = dns.RcodeSuccess
			if q.Question[0].Qtype == dns.TypeA {
				rr, _ := dns.NewRR(q.Question[0].Name + " 60 IN A " + ip)
				answer.Answer = append(answer.Answer, rr)
			}
		} else if rcode < 0 {
			return
		}
		_ = w.WriteMsg(answer)
	})}
	go func() { _ = server.ActivateAndServe() }()
	t.Cleanup(func() { _ = server.Shutdown() })
	return conn.LocalAddr().String()
}

// Not knowing is not "down": only epmd on a host that answers, and name servers that know
// other names, say that.
func TestDown(t *testing.T) {
	const silent = -1
	up := map[string]string{"b.": "127.0.0.1", "a.": "127.0.0.1"}
	other := map[string]string{"b.": "127.0.0.1"}
	hang := func(net.Conn) { time.Sleep(10 * time.Second) }
	for name, test := range map[string]struct {
		rcode      int
		names      map[string]string
		epmd       func(t *testing.T) string
		dist       bool              // something listens where nodes do
		hosts      map[string]string // with --hosts consul
		registered func(t *testing.T) []string
		blind      string
		node       string // default: rabbit@a
		within     time.Duration
		down       bool
		says       string
	}{
		"epmd does not list it":             {names: up, epmd: func(t *testing.T) string { return epmd(t, "other") }, down: true, says: "epmd at 127.0.0.1 does not list it"},
		"epmd lists it":                     {names: up, epmd: func(t *testing.T) string { return epmd(t, "rabbit") }, says: "it may run: epmd at 127.0.0.1:"},
		"epmd refuses":                      {names: up, epmd: closed, says: "no epmd listens at 127.0.0.1:"},
		"epmd is silent":                    {names: up, epmd: func(t *testing.T) string { return listener(t, hang) }, says: "does not say whether it runs"},
		"epmd hangs up":                     {names: up, epmd: func(t *testing.T) string { return listener(t, func(net.Conn) {}) }, says: "does not say whether it runs"},
		"something else listens":            {names: up, epmd: func(t *testing.T) string { return listener(t, func(c net.Conn) { _, _ = c.Write([]byte("AMQP")) }) }, says: "as no epmd does"},
		"epmd was lost, and the node not":   {names: up, epmd: func(t *testing.T) string { return epmd(t) }, dist: true, says: "something listens at 127.0.0.1:"},
		"no such host":                      {rcode: dns.RcodeNameError, names: other, down: true, says: "knows no such host, and does know b"},
		"no such host, and no other":        {rcode: dns.RcodeNameError, says: "it may know nothing at all"},
		"the name server fails":             {rcode: dns.RcodeServerFailure, names: other, says: "its host's name cannot be looked up"},
		"the name server refuses":           {rcode: dns.RcodeRefused, names: other, says: "cannot be"},
		"the name server knows the name":    {rcode: dns.RcodeSuccess, names: other, says: "answers NOERROR, addresses: 0"},
		"the name server is silent":         {rcode: silent, says: "its host's name cannot be looked up"},
		"the name server knows others only": {rcode: silent, names: other, says: "its host's name cannot be looked up"},
		"registered, and listening there": {rcode: dns.RcodeNameError, names: other, registered: func(t *testing.T) []string { return []string{"127.0.0.1:" + listener(t, hang)} },
			says: "where it is registered in Consul"},
		"registered, and epmd there lists it": {rcode: dns.RcodeNameError, names: other, epmd: func(t *testing.T) string { return epmd(t, "rabbit") },
			registered: func(t *testing.T) []string { return []string{"127.0.0.1:" + closed(t)} }, says: "lists it"},
		"registered, and nothing there": {rcode: dns.RcodeNameError, names: other, registered: func(t *testing.T) []string { return []string{"127.0.0.1:" + closed(t)} },
			down: true, says: "knows no such host"},
		"registered, and no time to look at the last one": {rcode: dns.RcodeNameError, names: other, within: 4 * time.Second, epmd: func(t *testing.T) string { return listener(t, hang) },
			registered: func(t *testing.T) []string {
				return []string{"127.0.0.1:" + closed(t), "127.0.0.1:" + closed(t), "127.0.0.1:" + closed(t), "127.0.0.1:" + listener(t, hang)}
			}, says: "no time to look at all of them"},
		// With --hosts consul the catalog is the resolver, and who is not in it may run.
		"not in the catalog": {rcode: dns.RcodeNameError, names: other, hosts: map[string]string{"b": "127.0.0.1"}, says: "that says nothing of whether it runs"},
		"in the catalog": {rcode: silent, hosts: map[string]string{"a": "127.0.0.1"}, epmd: func(t *testing.T) string { return epmd(t) },
			registered: func(t *testing.T) []string { return []string{"127.0.0.1:" + closed(t)} }, down: true, says: "does not list it"},
		"registered and not learned": {rcode: dns.RcodeNameError, names: other, hosts: map[string]string{"b": "127.0.0.1"}, epmd: func(t *testing.T) string { return epmd(t) },
			registered: func(t *testing.T) []string { return []string{"127.0.0.1:" + closed(t)} }, down: true, says: "does not list it"},
		"registered, not learned, and it runs": {rcode: dns.RcodeNameError, names: other, hosts: map[string]string{"b": "127.0.0.1"}, epmd: func(t *testing.T) string { return epmd(t, "rabbit") },
			registered: func(t *testing.T) []string { return []string{"127.0.0.1:" + closed(t)} }, says: "lists it"},
		"in the catalog once": {rcode: silent, hosts: map[string]string{"a": "127.0.0.1"}, epmd: func(t *testing.T) string { return epmd(t) }, says: "at 127.0.0.1 once, and has it no more"},
		"in the catalog, and epmd refuses": {rcode: silent, hosts: map[string]string{"a": "127.0.0.1"}, epmd: closed,
			registered: func(t *testing.T) []string { return []string{"127.0.0.1:" + closed(t)} }, says: "no epmd listens"},
		"nodes do without epmd":             {names: up, epmd: func(t *testing.T) string { return epmd(t) }, blind: "they do", says: "they do"},
		"registered by something else":      {node: "_service-1", says: "no node's name"},
		"a name for a terminal's or a file": {node: "rabbit@../etc", says: "no node's name"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := nameServer(t, test.rcode, test.names)
			w := witness{
				epmdPort: closed(t), distPort: closed(t), blind: test.blind, hosts: test.hosts, others: []string{"a", "b"},
				resolver: &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, network, server)
				}},
				names: func() (peers.Names, error) {
					return peers.Names{Servers: []string{server}, List: new(dns.ClientConfig).NameList, Patience: time.Second}, nil
				},
			}
			if test.epmd != nil {
				w.epmdPort = test.epmd(t)
			}
			if test.dist {
				w.distPort = listener(t, hang)
			}
			var registered []string
			if test.registered != nil {
				registered = test.registered(t)
			}
			node := test.node
			if node == "" {
				node = "rabbit@a"
			}
			ctx := t.Context()
			if test.within > 0 {
				var done context.CancelFunc
				ctx, done = context.WithTimeout(ctx, test.within)
				defer done()
			}
			if down, seen := w.Down(ctx, node, registered); down != test.down || !strings.Contains(seen, test.says) {
				t.Errorf("down %t: %q; want %t, %q", down, seen, test.down, test.says)
			}
		})
	}
}

// Where names are found otherwise, or nodes do without epmd, neither is a witness.
func TestBlindness(t *testing.T) {
	for kv, says := range map[string]string{
		"": "", "ERL_INETRC=/var/lib/rabbitmq/inetrc": "", "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-proto_dist inet_tls": "",
		"ERL_INETRC=/etc/inetrc":                                    "/etc/inetrc",
		`RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inetrc '"/x"'`: "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS sets inetrc",
		"RABBITMQ_CTL_ERL_ARGS=-erl_epmd_port 25672":                "erl_epmd_port", "ERL_FLAGS=-start_epmd false": "ERL_FLAGS sets start_epmd",
	} {
		name, value, _ := strings.Cut(kv, "=")
		got := blindness(func(n string) string {
			if n == name {
				return value
			}
			return ""
		}, "/var/lib/rabbitmq/inetrc")
		if !strings.Contains(got, says) || (got == "") != (says == "") {
			t.Errorf("%s: %q", kv, got)
		}
	}
}

func TestWitness(t *testing.T) {
	for _, name := range []string{"ERL_EPMD_PORT", "RABBITMQ_DIST_PORT"} {
		t.Setenv(name, "")
	}
	t.Setenv("RABBITMQ_NODE_PORT", "5673")
	dir := t.TempDir()
	expect.Must(t, os.WriteFile(filepath.Join(dir, "hosts"), []byte("# x\n10.0.0.1 a\n"), 0o644))
	c := config.Config{Node: "rabbit@me", Consul: []string{"10.0.0.9:8500", "https://consul1.lan:8501", "localhost:8500"}, DNSDomain: "consul", StateDir: dir, Hosts: "consul"}
	w, err := WitnessOf(c, []string{"rabbit@a"})
	expect.Must(t, err)
	if w.epmdPort != "4369" || w.distPort != "25673" || w.hosts["a"] != "10.0.0.1" || !slices.Equal(w.others, []string{"me", "a", "consul1.lan", "consul.service.consul."}) {
		t.Errorf("%+v", w)
	}
	c.Hosts = "off"
	if w, err = WitnessOf(c, nil); err != nil || w.hosts != nil {
		t.Errorf("%+v, %v", w, err)
	}
	if names, err := peers.ReadNames("/nowhere/resolv.conf"); err == nil {
		t.Errorf("no resolv.conf: %+v", names)
	}
	// The names it asks for are those that a program here would.
	resolv := filepath.Join(dir, "resolv.conf")
	expect.Must(t, os.WriteFile(resolv, []byte("nameserver 10.0.0.2\nsearch lan\n"), 0o644))
	names, err := peers.ReadNames(resolv)
	if expect.Must(t, err); !slices.Equal(names.Servers, []string{"10.0.0.2:53"}) || !slices.Equal(names.List("a"), []string{"a.lan.", "a."}) {
		t.Errorf("%+v, %q", names.Servers, names.List("a"))
	}
}

// The words of RabbitMQ's command line are no evidence, so its status has no name here.
func TestEpmdListsFails(t *testing.T) {
	if _, err := epmdLists(t.Context(), "127.0.0.1:"+closed(t), "rabbit"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Error(err)
	}
}
