package consul

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"rmq-entrypoint/internal/config"
)

// AddressOf returns the IP address that --advertise stands for: itself, or the
// first one on an interface or in a subnet.
func AddressOf(setting string) (string, error) {
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
	if found == nil {
		return "", fmt.Errorf("--advertise (RMQ_ADVERTISE) %q: this host has no such subnet or interface, but %s", setting, strings.Join(have, ", "))
	}
	return found.String(), nil
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
