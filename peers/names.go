package peers

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Names are the name servers of this host, and how it asks them for a short name.
type Names struct {
	Servers  []string              // host:port, in order
	List     func(string) []string // the names to ask for in place of one: with search domains
	Patience time.Duration         // for one answer
}

// ReadNames reads a resolv.conf.
func ReadNames(path string) (Names, error) {
	conf, err := dns.ClientConfigFromFile(path)
	if err != nil {
		return Names{}, fmt.Errorf("find the name servers: %w", err)
	}
	n := Names{List: conf.NameList, Patience: 2 * time.Second}
	for _, s := range conf.Servers {
		n.Servers = append(n.Servers, net.JoinHostPort(s, conf.Port))
	}
	if len(n.Servers) == 0 {
		return Names{}, fmt.Errorf("%s names no name server", path)
	}
	return n, nil
}

// Nobody returns what shows that no host has the name host. Otherwise it returns an error,
// which says what was seen instead.
//
// The proof takes every name server: each must say so itself (NXDOMAIN), and must just now
// have found the address of another name, one of others. A server that fails, stays silent
// or knows nothing at all proves nothing, nor does a name without an address, or an alias.
// The hosts file is not asked: a container always finds itself there.
func (n Names) Nobody(ctx context.Context, host string, others []string) (proof string, err error) {
	var said []string
	for _, server := range n.Servers {
		for _, name := range n.List(host) {
			answer, err := n.ask(ctx, server, name, dns.TypeA)
			switch {
			case err != nil:
				return "", err
			case answer.Rcode != dns.RcodeNameError:
				return "", fmt.Errorf("name server %s does not say that there is no %s: it answers %s, addresses: %d", server, name, dns.RcodeToString[answer.Rcode], len(answer.Answer))
			case len(answer.Answer) > 0:
				return "", fmt.Errorf("name server %s knows %s as an alias", server, name)
			}
		}
		other := n.finds(ctx, server, host, others)
		if other == "" {
			return "", fmt.Errorf("name server %s knows no host %s, but found none of %s either: it may know nothing at all", server, host, Some(others))
		}
		said = append(said, fmt.Sprintf("name server %s knows no such host, and does know %s", server, other))
	}
	return strings.Join(said, "; "), nil
}

// finds returns the first of the names, other than host, of which server has an address.
func (n Names) finds(ctx context.Context, server, host string, names []string) string {
	for _, other := range names {
		if strings.EqualFold(strings.TrimSuffix(other, "."), strings.TrimSuffix(host, ".")) {
			continue
		}
		for _, name := range n.List(other) {
			for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
				answer, err := n.ask(ctx, server, name, kind)
				if err != nil || answer.Rcode != dns.RcodeSuccess {
					continue
				}
				for _, rr := range answer.Answer {
					if rr.Header().Rrtype == kind {
						return strings.TrimSuffix(name, ".")
					}
				}
			}
		}
	}
	return ""
}

// ask asks one server, twice, for a datagram may get lost.
func (n Names) ask(ctx context.Context, server, name string, kind uint16) (answer *dns.Msg, err error) {
	query := new(dns.Msg).SetQuestion(name, kind)
	for range 2 {
		client := dns.Client{Timeout: n.Patience}
		answer, _, err = client.ExchangeContext(ctx, query, server)
		if err == nil && answer.Truncated {
			client.Net = "tcp"
			answer, _, err = client.ExchangeContext(ctx, query, server)
		}
		if err == nil {
			err = answersTo(query, answer)
		}
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("name server %s does not answer for %s: %w", server, name, err)
	}
	return answer, nil
}
