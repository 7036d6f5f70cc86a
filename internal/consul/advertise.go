package consul

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"rmq-entrypoint/internal/config"
)

// AddressOf returns the address that --advertise stands for: itself, or the first one on an
// interface or in a subnet. A name that no interface has is a host's, if it has a dot or an address
// here; that nobody could be asked keeps no node from starting.
func AddressOf(ctx context.Context, log *slog.Logger, c config.Config) (string, error) {
	setting := c.Advertise
	if setting == "" || net.ParseIP(setting) != nil {
		return setting, nil
	}
	_, subnet, none := net.ParseCIDR(setting)
	interfaces, err := net.Interfaces()
	if err != nil {
		return "", fmt.Errorf("--advertise (RMQ_ADVERTISE) %q: %w", setting, err)
	}
	var found net.IP
	var have []string
	for _, i := range interfaces {
		addrs, _ := i.Addrs() // none of an interface that went meanwhile
		for _, a := range addrs {
			ip := a.(*net.IPNet).IP
			have = append(have, fmt.Sprintf("%s on %s", ip, i.Name))
			if found == nil && (i.Name == setting || none == nil && subnet.Contains(ip)) {
				found = ip
			}
		}
	}
	if found != nil {
		return found.String(), nil
	}
	what := "no such subnet"
	if none != nil {
		name, err := hostName(ctx, log, setting)
		if err == nil && c.Hosts == "consul" {
			return "", fmt.Errorf("--advertise (RMQ_ADVERTISE) %q is a host name, and with --hosts consul (RMQ_HOSTS) other nodes take this one's IP address from Consul: give it as that", setting)
		}
		if err == nil {
			return name, nil
		}
		what = "no such interface, and " + err.Error()
	}
	return "", fmt.Errorf("--advertise (RMQ_ADVERTISE) %q: this host has %s; it has %s", setting, what, strings.Join(have, ", "))
}

// hostName returns a host's name as it is registered. One that has no address here is told of.
func hostName(ctx context.Context, log *slog.Logger, setting string) (string, error) {
	if !config.HostName(setting) {
		return "", errors.New("it is no host name")
	}
	name := strings.ToLower(strings.TrimSuffix(setting, "."))
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, err := net.DefaultResolver.LookupHost(ctx, name)
	if err != nil && !strings.Contains(name, ".") { // an interface, mistyped or not up yet, more likely
		return "", fmt.Errorf("no host of that name is known here: %w", err)
	}
	if err != nil {
		log.Warn("the host name to register (--advertise, RMQ_ADVERTISE) has no address here: others have to know it", "name", name, "err", err)
	}
	return name, nil
}

// Advertise returns the address to register: the setting, or the source of the
// route to the Consul agent in use, "" for the first one. With an agent on this host
// it is "", for which Consul fills in the agent's own. An error means unknown, as
// while the agent's name has no address: then nothing is to be registered.
func Advertise(ctx context.Context, c config.Config, consul string) (string, error) {
	if c.Advertise != "" {
		return c.Advertise, nil
	}
	if consul == "" {
		consul = c.Consul[0]
	}
	host := config.AgentHost(consul)
	if host == "" {
		return "", nil
	}
	conn, err := (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, "udp", net.JoinHostPort(host, "8500")) // sends nothing
	if err != nil {
		return "", fmt.Errorf("which of this host's addresses to register (--advertise, RMQ_ADVERTISE): no route to Consul: %w", err)
	}
	defer conn.Close()
	ip := conn.LocalAddr().(*net.UDPAddr).IP
	if ip.IsLoopback() {
		return "", nil
	}
	return ip.String(), nil
}
