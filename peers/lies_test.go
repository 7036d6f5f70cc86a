package peers_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/expect"
)

// dnsServer answers over TCP and UDP as change makes an answer of the right one. It returns its
// address.
func dnsServer(t *testing.T, change func(*dns.Msg)) string {
	t.Helper()
	answer := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		a := new(dns.Msg).SetReply(q)
		switch name := q.Question[0].Name; {
		case q.Question[0].Qtype == dns.TypeSRV:
			srv, err := dns.NewRR(name + " 0 IN SRV 1 1 5672 b.addr.consul.")
			expect.Must(t, err)
			host, err := dns.NewRR("b.addr.consul. 0 IN A 10.0.0.2")
			expect.Must(t, err)
			a.Answer, a.Extra = []dns.RR{srv}, []dns.RR{host}
		case strings.HasPrefix(name, "known"):
			rr, err := dns.NewRR(name + " 0 IN A 10.0.0.3")
			expect.Must(t, err)
			a.Answer = []dns.RR{rr}
		default:
			a.Rcode = dns.RcodeNameError
		}
		change(a)
		_ = w.WriteMsg(a)
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	expect.Must(t, err)
	conn, err := net.ListenPacket("udp", l.Addr().String())
	expect.Must(t, err)
	for _, s := range []*dns.Server{{Listener: l, Handler: answer}, {PacketConn: conn, Handler: answer}} {
		go func() { _ = s.ActivateAndServe() }()
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return l.Addr().String()
}

// What is no answer to the question that was asked tells nothing: neither that there are nodes
// nor that there is no such host.
func TestAnswersToOtherQuestions(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*dns.Msg)
		fine   bool
		found  string // where it is fine
	}{
		"right":                 {func(*dns.Msg) {}, true, "10.0.0.2:5672"},
		"in capitals":           {func(a *dns.Msg) { a.Question[0].Name = strings.ToUpper(a.Question[0].Name) }, true, "10.0.0.2:5672"},
		"another name":          {func(a *dns.Msg) { a.Question[0].Name = "other.service.consul." }, false, ""},
		"another type":          {func(a *dns.Msg) { a.Question[0].Qtype = dns.TypeTXT }, false, ""},
		"another class":         {func(a *dns.Msg) { a.Question[0].Qclass = dns.ClassCHAOS }, false, ""},
		"no question":           {func(a *dns.Msg) { a.Question = nil }, false, ""},
		"two questions":         {func(a *dns.Msg) { a.Question = append(a.Question, a.Question[0]) }, false, ""},
		"a question":            {func(a *dns.Msg) { a.Response = false }, false, ""},
		"another id":            {func(a *dns.Msg) { a.Id++ }, false, ""},
		"cut short":             {func(a *dns.Msg) { a.Truncated = true }, false, ""},
		"a failure":             {func(a *dns.Msg) { a.Rcode = dns.RcodeServerFailure }, false, ""},
		"records of other ones": {func(a *dns.Msg) { rename(a, "other.service.consul.") }, true, ""},
		"an address without data": {func(a *dns.Msg) {
			if len(a.Extra) > 0 {
				a.Extra[0].(*dns.A).A = nil
			}
		}, true, "b.addr.consul:5672"},
		"a name that is no name of Consul's, with an address": {func(a *dns.Msg) {
			if len(a.Extra) > 0 {
				a.Answer[0].(*dns.SRV).Target, a.Extra[0].Header().Name = "b.example.org.", "b.example.org."
			}
		}, true, "b.example.org:5672"},
		"nowhere": {func(a *dns.Msg) {
			if len(a.Extra) > 0 {
				a.Answer[0].(*dns.SRV).Target = "."
			}
		}, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := dnsServer(t, c.change)
			found, err := peers.Lookup(t.Context(), peers.DNS{Server: server, Domain: "consul"}, service)
			if (err == nil) != c.fine || strings.Join(found, ",") != c.found {
				t.Errorf("%v, %v; want %q", found, err, c.found)
			}
			if name == "records of other ones" || name == "cut short" {
				return
			}
			names := peers.Names{Servers: []string{server}, List: func(host string) []string { return []string{host + "."} }, Patience: time.Second}
			if proof, err := names.Nobody(t.Context(), "gone", []string{"known"}); (err == nil) != c.fine {
				t.Errorf("that there is no such host: %q, %v", proof, err)
			}
		})
	}
}

func rename(a *dns.Msg, name string) {
	for _, rr := range a.Answer {
		rr.Header().Name = name
	}
}
