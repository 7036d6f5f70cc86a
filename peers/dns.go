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
	"time"

	"github.com/miekg/dns"
)

// DNS is where to look up the service, and how.
type DNS struct {
	Server string // host:port; empty: the first name server of /etc/resolv.conf
	Domain string // Consul's DNS domain, usually "consul"
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
}

// lookupTimeout bounds a question to DNS, which only ever adds caution: a name server that knows
// nothing of Consul's domain asks others for it in vain, and a founding waits for that.
const lookupTimeout = 500 * time.Millisecond

// Lookup returns the addresses (IP or host name, and port) as registered of the healthy instances of service as
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
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	dial := d.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	conn, err := dial(ctx, "tcp", server)
	if err != nil {
		return nil, fmt.Errorf("ask %s for SRV %s: %w", server, name, late(ctx, err))
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	answer, _, err := new(dns.Client).ExchangeWithConnContext(ctx, query, &dns.Conn{Conn: conn})
	if err == nil {
		err = answersTo(query, answer)
	}
	if err != nil {
		return nil, fmt.Errorf("ask %s for SRV %s: %w", server, name, late(ctx, err))
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
			host := strings.TrimSuffix(srv.Target, ".")
			if dns.IsSubDomain(strings.ToLower(dns.Fqdn(d.Domain)), strings.ToLower(srv.Target)) { // Consul's name for an address; another one is registered so
				host = cmp.Or(hosts[srv.Target], host)
			}
			found = append(found, net.JoinHostPort(host, strconv.Itoa(int(srv.Port))))
		}
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

// late says that time was up, or that the caller asks no more, rather than what that did to the
// connection: its own deadline may pass a moment before ctx has noticed.
func late(ctx context.Context, err error) error {
	var word net.Error
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return context.Cause(ctx)
	case ctx.Err() != nil, errors.As(err, &word) && word.Timeout():
		return fmt.Errorf("no answer within %s: %w", lookupTimeout, context.DeadlineExceeded)
	}
	return err
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
