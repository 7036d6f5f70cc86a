package peers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// DNS is where to look up the service, and how.
type DNS struct {
	Server string // host:port; empty: the first name server of /etc/resolv.conf
	Domain string // Consul's DNS domain, usually "consul"
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
}

// Lookup returns the addresses (IP:port) of the healthy instances of service as
// DNS gives them, by SRV over TCP: plain UDP answers three of many without the
// TC bit. Consul serves DNS from stale replicas, so an address that is missing
// here means nothing; NXDOMAIN is an empty answer, everything else an error.
func Lookup(ctx context.Context, d DNS, service string) ([]string, error) {
	server := d.Server
	if server == "" {
		conf, err := dns.ClientConfigFromFile("/etc/resolv.conf")
		if err != nil || len(conf.Servers) == 0 {
			return nil, fmt.Errorf("find a DNS server in /etc/resolv.conf (set --dns-server or RMQ_DNS_SERVER): %v", err)
		}
		server = net.JoinHostPort(conf.Servers[0], conf.Port)
	}
	name := dns.Fqdn(service + ".service." + d.Domain)
	query := new(dns.Msg).SetQuestion(name, dns.TypeSRV)
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	dial := d.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	conn, err := dial(ctx, "tcp", server)
	if err != nil {
		return nil, fmt.Errorf("ask %s for SRV %s: %w", server, name, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	answer, _, err := new(dns.Client).ExchangeWithConnContext(ctx, query, &dns.Conn{Conn: conn})
	if err == nil {
		err = answersTo(query, answer)
	}
	if err != nil {
		return nil, fmt.Errorf("ask %s for SRV %s: %w", server, name, err)
	}
	if answer.Rcode != dns.RcodeSuccess && answer.Rcode != dns.RcodeNameError {
		return nil, fmt.Errorf("ask %s for SRV %s: %s", server, name, dns.RcodeToString[answer.Rcode])
	}
	hosts := map[string]string{}
	for _, rr := range answer.Extra {
		switch a := rr.(type) {
		case *dns.A:
			if len(a.A) > 0 { // a record may come without data
				hosts[a.Hdr.Name] = a.A.String()
			}
		case *dns.AAAA:
			if len(a.AAAA) > 0 {
				hosts[a.Hdr.Name] = a.AAAA.String()
			}
		}
	}
	var found []string
	for _, rr := range answer.Answer {
		if srv, ok := rr.(*dns.SRV); ok && strings.EqualFold(srv.Hdr.Name, name) && strings.Trim(srv.Target, ".") != "" {
			host := cmp.Or(hosts[srv.Target], strings.TrimSuffix(srv.Target, "."))
			found = append(found, net.JoinHostPort(host, strconv.Itoa(int(srv.Port))))
		}
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

// answersTo returns an error unless answer is one to query, and whole: anything else that
// comes back tells nothing of what was asked. (That the ids are the same the library sees to.)
func answersTo(query, answer *dns.Msg) error {
	asked := query.Question[0]
	same := func(q dns.Question) bool {
		return strings.EqualFold(q.Name, asked.Name) && q.Qtype == asked.Qtype && q.Qclass == asked.Qclass
	}
	switch {
	case !answer.Response || answer.Opcode != query.Opcode:
		return errors.New("what came back is no answer")
	case len(answer.Question) != 1 || !same(answer.Question[0]):
		return errors.New("what came back answers another question")
	case answer.Truncated:
		return errors.New("the answer was cut short")
	}
	return nil
}
