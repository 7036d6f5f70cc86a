package config

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
)

// RegisteredPort is the port at which others reach AMQP here.
func (c Config) RegisteredPort() int { return cmp.Or(c.AdvertisePort, c.Port) }

// judgeAdvertise splits the port off --advertise, if there is one, and judges both. Whether a name
// is an interface or a host's is seen at the start.
func (cfg *Config) judgeAdvertise() error {
	setting := cfg.Advertise
	wrong := func(why string) error {
		return fmt.Errorf("--advertise (RMQ_ADVERTISE) %s%s: it takes an IP address, a host name, a subnet as 10.0.0.0/24 or an interface as eth0; where others reach AMQP at another port, with that behind it, as 203.0.113.7:35672, [2001:db8::7]:35672 or :35672",
			shown(setting), why)
	}
	at, port, err := cutPort(setting)
	if err != nil {
		return wrong("is no address with a port")
	}
	if port != "" {
		if err := validPort(port); err != nil {
			return wrong(fmt.Sprintf("has %sfor a port, and that is %v", cmp.Or(shown(port), "something "), err))
		}
	}
	ip := net.ParseIP(at)
	_, _, subnet := net.ParseCIDR(at)
	switch {
	case strings.HasPrefix(setting, "[") && !strings.Contains(at, ":"):
		return wrong("has in brackets what is no IPv6 address")
	case ip != nil && (ip.IsUnspecified() || ip.IsMulticast()):
		return wrong("is the address of no host")
	case LoopbackName("rabbit@"+at) && ip == nil:
		return wrong("is what every host calls itself")
	case at != "" && ip == nil && subnet != nil && !interfaceName(at) && !HostName(at):
		return wrong("is none that it takes")
	}
	cfg.Advertise = at
	cfg.AdvertisePort, _ = strconv.Atoi(port)
	return nil
}

// cutPort cuts the port off an address, which may be in brackets or be none yet.
func cutPort(setting string) (at, port string, err error) {
	_, _, subnet := net.ParseCIDR(setting)
	inner, open := strings.CutPrefix(setting, "[")
	switch {
	case subnet == nil || net.ParseIP(setting) != nil || !strings.ContainsAny(setting, ":[]"):
		return setting, "", nil
	case open && strings.HasSuffix(inner, "]"):
		return strings.TrimSuffix(inner, "]"), "", nil
	}
	if at, port, err = net.SplitHostPort(setting); err == nil && port == "" {
		err = errors.New("no port")
	}
	return at, port, err
}

// interfaceName reports whether Linux could call an interface so.
func interfaceName(text string) bool {
	return len(text) <= 15 && !strings.ContainsAny(text, "/:[]% \t")
}

var hostNames = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*$`)

// HostName reports whether text can be the name of a host. One whose last part is a number is an
// address, or was to be one.
func HostName(text string) bool {
	text = strings.TrimSuffix(text, ".")
	last := text[strings.LastIndexByte(text, '.')+1:]
	return len(text) <= 253 && hostNames.MatchString(text) && strings.Trim(last, "0123456789") != ""
}
