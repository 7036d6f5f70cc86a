package rabbitconf

import (
	"net"
	"slices"
	"strconv"
	"strings"
)

// A Listener is where RabbitMQ or a plugin of its takes connections.
type Listener struct {
	Host  string // as configured; "" is every address
	Port  int
	TLS   bool
	Proxy bool // connections come by the PROXY protocol only
}

// Listeners returns where RabbitMQ takes AMQP connections, plain ones first:
// listeners.tcp and listeners.ssl of the .conf files, or in their place
// tcp_listeners and ssl_listeners of advanced.config. Unless these say anything that
// can be read, it is the plain one given.
func (u User) Listeners(byDefault Listener) []Listener {
	plain, set := u.listeners("tcp")
	if !set {
		byDefault.Host = anyHost(byDefault.Host)
		plain = []Listener{byDefault}
	}
	tls, _ := u.listeners("ssl")
	for i := range tls {
		tls[i].TLS = true
	}
	return append(plain, tls...)
}

// HTTP returns one of the places where the plugin management or prometheus listens
// ([User.Web]): one that others can reach, a plain one if there is.
func (u User) HTTP(plugin string, port int) Listener {
	found := u.Web(plugin, port)
	i := slices.IndexFunc(found, func(l Listener) bool { return !l.TLS && !l.Local() })
	if i < 0 {
		i = slices.IndexFunc(found, func(l Listener) bool { return !l.Local() })
	}
	return found[max(i, 0)]
}

// Web returns where the plugin management or prometheus listens: unless the user says anything, on
// the plain port given.
func (u User) Web(plugin string, port int) (found []Listener) {
	for _, kind := range []string{"tcp", "listener", "ssl"} { // management.listener.* is the old form
		byDefault := Listener{Port: port, TLS: kind == "ssl"}
		if byDefault.TLS {
			byDefault.Port-- // 15671 and 15691
		}
		l := byDefault
		prefix, set := plugin+"."+kind+".", false
		for _, c := range u.conf {
			name, ok := strings.CutPrefix(c.key, prefix)
			set = set || ok
			switch n, err := strconv.Atoi(c.value); {
			case ok && name == "port" && err == nil:
				l.Port = n
			case ok && name == "ip":
				l.Host = anyHost(c.value)
			case ok && name == "ssl":
				l.TLS = c.value == "true"
			}
		}
		key := Atom(kind + "_config")
		if kind == "listener" {
			key = "listener"
		}
		for _, setting := range u.application(Atom("rabbitmq_" + plugin)) {
			if list, ok := pair(setting).(List); ok && setting.(Tuple)[0] == Term(key) {
				l, set = byDefault, true
				l.read(list)
			}
		}
		if set {
			found = append(found, l)
		}
	}
	if len(found) == 0 {
		return []Listener{{Port: port}}
	}
	return found
}

// read takes over what a plugin's listener says in Erlang terms.
func (l *Listener) read(list List) {
	for _, t := range list {
		switch value := pair(t).(type) {
		case Int:
			if key(t) == "port" {
				l.Port = int(value)
			}
		case String:
			if key(t) == "ip" {
				l.Host = anyHost(string(value))
			}
		case Atom:
			if key(t) == "ssl" {
				l.TLS = value == "true"
			}
		}
	}
}

// Local reports whether only this host reaches it.
func (l Listener) Local() bool {
	return l.Host == "localhost" || net.ParseIP(l.Host).IsLoopback()
}

func (u User) listeners(kind string) (list []Listener, set bool) {
	for _, l := range u.conf {
		if l.key != "listeners."+kind && !strings.HasPrefix(l.key, "listeners."+kind+".") {
			continue
		}
		if l.value == "none" {
			set = true
			continue
		}
		host, port := "", l.value
		if i := strings.LastIndex(l.value, ":"); i >= 0 {
			host, port = strings.Trim(l.value[:i], "[]"), l.value[i+1:]
		}
		if n, err := strconv.Atoi(port); err == nil {
			set, list = true, append(list, Listener{Host: anyHost(host), Port: n})
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
