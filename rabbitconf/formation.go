package rabbitconf

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const formationPrefix = "cluster_formation."

// formationKeys translates the keys below cluster_formation as RabbitMQ's
// schemas do (rabbit.schema, rabbitmq_peer_discovery_common.schema; 3.8.9 to
// 4.3.6). The keys of other discovery backends are not among them, nor is node_cleanup.
var formationKeys = map[string]struct {
	path    []Atom
	convert func(string) (Term, error)
}{
	"internal_lock_retries":    {[]Atom{"internal_lock_retries"}, atLeast(1)},
	"lock_retry_limit":         {[]Atom{"lock_retry_limit"}, atLeast(1)},
	"lock_retry_timeout":       {[]Atom{"lock_retry_timeout"}, atLeast(1)},
	"discovery_retry_limit":    {[]Atom{"discovery_retry_limit"}, unlimitedOr(atLeast(1))},
	"discovery_retry_interval": {[]Atom{"discovery_retry_interval"}, atLeast(1)},
	"target_cluster_size_hint": {[]Atom{"target_cluster_size_hint"}, atLeast(1)},
	"registration.enabled":     {[]Atom{"perform_registration"}, boolean},
	"proxy.http_proxy":         {[]Atom{"proxy", "http_proxy"}, text},
	"proxy.https_proxy":        {[]Atom{"proxy", "https_proxy"}, text},
}

// readFormation returns the user's list cluster_formation: that of
// advanced.config, which replaces all keys of the .conf files, or else these in
// Erlang's form.
func (u User) readFormation(advanced string) (List, error) {
	if has(u.application("rabbit"), "cluster_nodes") {
		return nil, fmt.Errorf("%s: {rabbit, [{cluster_nodes, …}]}: %s", advanced, decides)
	}
	if err := u.refusedConf(); err != nil {
		return nil, err
	}
	fromConf, err := u.confFormation()
	if err != nil {
		return nil, err
	}
	for _, setting := range u.application("rabbit") {
		if key(setting) != "cluster_formation" {
			continue
		}
		list, ok := pair(setting).(List)
		if !ok {
			return nil, fmt.Errorf("%s: {rabbit, [{cluster_formation, …}]} takes a list", advanced)
		}
		if err := refusedTerms(advanced, list); err != nil {
			return nil, err
		}
		return list, nil
	}
	return fromConf, nil
}

const decides = "rmq-entrypoint decides who joins whom, by the classic_config backend and a list of its own; remove this key"

func (u User) confFormation() (List, error) {
	var list, exclusions List
	delay, delayed := Tuple{Int(5), Int(60)}, false // RabbitMQ's defaults for one of two
	replaced := has(u.application("rabbit"), "cluster_formation")
	for _, l := range u.conf {
		name, ok := strings.CutPrefix(l.key, formationPrefix)
		if !ok {
			continue
		}
		refuse := func(why string) (List, error) { return nil, fmt.Errorf("%s: %s: %s", l.at, l.key, why) }
		backend, _, _ := strings.Cut(name, ".")
		switch {
		case name == "peer_discovery_backend":
			if !slices.Contains([]string{"classic_config", "classic", "config", "rabbit_peer_discovery_classic_config"}, l.value) {
				return refuse(decides)
			}
			continue // the default
		case backend == "classic_config":
			return refuse(decides)
		case replaced:
			continue
		case slices.Contains([]string{"aws", "consul", "dns", "etcd", "k8s"}, backend):
			why := "it belongs to another peer discovery backend; " + decides
			if here := instead(name); here != "" {
				why += ". Here it is " + here
			}
			return refuse(why)
		}

		var err error
		switch name {
		case "node_type":
			if l.value != "disc" && l.value != "disk" { // else the default
				return refuse(discOnly)
			}
			continue
		case "randomized_startup_delay_range.min":
			delay[0], err = atLeast(0)(l.value)
			delayed = true
		case "randomized_startup_delay_range.max":
			delay[1], err = atLeast(0)(l.value)
			delayed = true
		default:
			if strings.HasPrefix(name, "proxy.proxy_exclusions.") {
				exclusions = append(exclusions, String(l.value))
				continue
			}
			k, ok := formationKeys[name]
			if !ok {
				return refuse("rmq-entrypoint must carry this key over, and does not know its form in Erlang terms; " +
					"remove it, or write it as {rabbit, [{cluster_formation, […]}]} into advanced.config")
			}
			var value Term
			if value, err = k.convert(l.value); err == nil {
				list = setIn(list, k.path, value)
			}
		}
		if err != nil {
			return refuse(err.Error())
		}
	}
	if exclusions != nil {
		list = setIn(list, []Atom{"proxy", "proxy_exclusions"}, exclusions)
	}
	if delayed {
		list = set(list, "randomized_startup_delay_range", delay)
	}
	return list, nil
}

// setIn sets the value at path in nested lists.
func setIn(list List, path []Atom, value Term) List {
	if len(path) > 1 {
		var inner List
		for _, t := range list {
			if key(t) == path[0] {
				inner, _ = pair(t).(List)
			}
		}
		value = setIn(inner, path[1:], value)
	}
	return set(list, path[0], value) // #nosec G602 -- a path has a key
}

func atLeast(least int64) func(string) (Term, error) {
	return func(s string) (Term, error) {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < least {
			return nil, fmt.Errorf("%q is not a whole number of at least %d", s, least)
		}
		return Int(n), nil
	}
}

func unlimitedOr(convert func(string) (Term, error)) func(string) (Term, error) {
	return func(s string) (Term, error) {
		if s == "unlimited" { // in 4.3, not yet in 4.0
			return Atom(s), nil
		}
		return convert(s)
	}
}

func boolean(s string) (Term, error) {
	if s != "true" && s != "false" {
		return nil, fmt.Errorf("%q is neither true nor false", s)
	}
	return Atom(s), nil
}

func text(s string) (Term, error) { return String(s), nil }
