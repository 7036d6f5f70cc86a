package rabbitconf

import (
	"slices"
	"strconv"
	"strings"
)

// A Listener is where RabbitMQ takes AMQP connections.
type Listener struct {
	Host string // as configured; "" is every address
	Port int
	TLS  bool
}

// Listeners returns where RabbitMQ takes AMQP connections, plain ones first:
// listeners.tcp and listeners.ssl of the .conf files, or in their place
// tcp_listeners and ssl_listeners of advanced.config. Unless these say anything,
// it is the plain port given.
func (u User) Listeners(port int) []Listener {
	plain, set := u.listeners("tcp")
	if !set {
		plain = []Listener{{Port: port}}
	}
	tls, _ := u.listeners("ssl")
	for i := range tls {
		tls[i].TLS = true
	}
	return append(plain, tls...)
}

func (u User) listeners(kind string) (list []Listener, set bool) {
	for _, l := range u.conf {
		if l.key != "listeners."+kind && !strings.HasPrefix(l.key, "listeners."+kind+".") {
			continue
		}
		set = true // to none, perhaps
		host, port := "", l.value
		if i := strings.LastIndex(l.value, ":"); i >= 0 {
			host, port = strings.Trim(l.value[:i], "[]"), l.value[i+1:]
		}
		if n, err := strconv.Atoi(port); err == nil {
			list = append(list, Listener{Host: anyHost(host), Port: n})
		}
	}
	for _, setting := range u.application("rabbit") {
		if key(setting) != Atom(kind+"_listeners") {
			continue
		}
		set, list = true, nil
		terms, _ := pair(setting).(List)
		for _, t := range terms {
			switch t := t.(type) {
			case Int:
				list = append(list, Listener{Port: int(t)})
			case Tuple:
				if len(t) < 2 {
					continue
				}
				host, isHost := t[0].(String)
				if n, ok := t[1].(Int); ok && isHost {
					list = append(list, Listener{Host: anyHost(string(host)), Port: int(n)})
				}
			}
		}
	}
	return list, set
}

// anyHost returns "" for an address that means all of them.
func anyHost(host string) string {
	if slices.Contains([]string{"0.0.0.0", "::", "auto"}, host) {
		return ""
	}
	return host
}
