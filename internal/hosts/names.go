package hosts

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/rabbitconf"
)

// names judges which host names may have an address by the catalog's word.
type names struct {
	long   bool     // host names are full domain names
	others []string // hosts that are no node's: those of Consul and of DNS
}

func namesOf(c config.Config) names {
	n := names{long: c.LongNames}
	for _, addr := range c.Consul {
		n.others = append(n.others, config.AgentHost(addr))
	}
	if host, _, err := net.SplitHostPort(c.DNSServer); err == nil {
		n.others = append(n.others, host)
	}
	return n
}

// host returns the host name of a node, or an error when it may not be learned.
func (n names) host(node string) (string, error) {
	if err := rabbitconf.ValidNode(node); err != nil {
		return "", err
	}
	_, host, _ := strings.Cut(node, "@")
	return host, n.judge(host)
}

// judge returns an error when a host name is none that a node of this cluster can have, or is
// another's whom programs here look for.
func (n names) judge(host string) error {
	is := func(other string) bool {
		return strings.EqualFold(strings.TrimSuffix(host, "."), strings.TrimSuffix(other, "."))
	}
	switch {
	case config.LoopbackName("x@" + host):
		return fmt.Errorf("%q is each host's own name for itself", host)
	case address(host):
		return fmt.Errorf("%q is an address", host)
	case !n.long && strings.Contains(host, "."):
		return fmt.Errorf("%q is a full domain name, which nodes here do not have (--long-names)", host)
	case slices.ContainsFunc(n.others, is):
		return errors.New("it is the host of Consul or of a DNS server")
	}
	return nil
}

// address reports whether a resolver takes the name for an IPv4 or IPv6 address: one to four
// numbers, decimal, octal or hexadecimal, as inet_aton has it. All digits of a container's id
// are more than an address has.
func address(host string) bool {
	if net.ParseIP(host) != nil {
		return true
	}
	parts := strings.Split(strings.TrimSuffix(host, "."), ".")
	return len(parts) <= 4 && !slices.ContainsFunc(parts, func(part string) bool {
		digits, base := part, 10
		if hex, ok := strings.CutPrefix(strings.ToLower(part), "0x"); ok {
			digits, base = hex, 16
		}
		_, err := strconv.ParseUint(digits, base, 32)
		return err != nil
	})
}
