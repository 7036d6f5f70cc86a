// Package rabbitconf renders rabbitmq.config, the Erlang terms that tell a node
// which cluster to join, and writes it.
//
// The file is given to RabbitMQ as RABBITMQ_ADVANCED_CONFIG_FILE. What it holds
// replaces what rabbitmq.conf and conf.d say, {application, key} by
// {application, key}, and it stands in the place of the user's own
// advanced.config. So [ReadUser] reads all three, and [Render] leaves out what
// the user has set, carries the rest of what it would replace, and includes
// the user's advanced.config. The one key it takes from the user is a joiner's
// discovery_retry_limit: RabbitMQ founds a cluster of its own after the last
// try.
package rabbitconf

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// joinRetries is RabbitMQ's discovery_retry_limit for a joiner, six days of
// them. It must be a number: the atom unlimited breaks 4.0.
const (
	joinRetries  = 1_000_000
	joinInterval = 500 // ms between them
	gateInterval = 200 // where a try lasts for as long as the gate is shut
)

// Options is what a node's configuration depends on.
type Options struct {
	Version Version  // of RabbitMQ
	Node    string   // this node
	Peers   []string // the members to join, for a joiner; none for anybody else
	Joining bool     // the node must never found a cluster of its own
	Lone    bool     // the node is to be in no cluster: RabbitMQ's own default finds nobody

	// PauseMinority asks for cluster_partition_handling = pause_minority. It is
	// left out from 4.3 on, which has no such setting.
	PauseMinority bool
	Extra         []Setting // what else to set where the user has not
	User          User      // what the user's own files say
}

// ClusterName returns the setting by which RabbitMQ calls the cluster name from the next boot on;
// "": none, it stays what it is.
func ClusterName(name string) []Setting {
	if name == "" {
		return nil
	}
	return []Setting{{Key: "cluster_name", Value: Binary(name)}}
}

// A Setting is a key of the application rabbit.
type Setting struct {
	Key   Atom   // its name in Erlang terms
	Conf  string // its name in rabbitmq.conf, where that is another
	Value Term
}

// Render returns the contents of rabbitmq.config. The same options give the
// same bytes. It returns an error when a name is not a node's, or when the
// peers do not fit the role.
func Render(opts Options) ([]byte, error) {
	if (!opts.Joining || opts.Lone) && len(opts.Peers) > 0 {
		return nil, errors.New("render rabbitmq.config: peers are for a joiner")
	}
	var nodes List // each once: a name given twice crashes 4.3
	for _, name := range append(slices.Clone(opts.Peers), opts.Node) {
		if err := ValidNode(name); err != nil {
			return nil, fmt.Errorf("render rabbitmq.config: %w", err)
		}
		if !slices.Contains(nodes, Term(Atom(name))) {
			nodes = append(nodes, Atom(name))
		}
	}
	if opts.Joining && len(nodes) == 1 {
		return nil, errors.New("render rabbitmq.config: a joiner needs somebody else to join")
	}

	rabbit := append(List{}, opts.User.application("rabbit")...)
	if !opts.Lone {
		rabbit = set(rabbit, "cluster_nodes", Tuple{nodes, Atom("disc")})
	}
	if formation := opts.formation(); len(formation) > 0 {
		rabbit = set(rabbit, "cluster_formation", formation)
	}
	settings := opts.Extra
	if opts.PauseMinority && !opts.Version.KhepriOnly() {
		settings = append([]Setting{{Key: "cluster_partition_handling", Value: Atom("pause_minority")}}, settings...)
	}
	for _, s := range settings {
		if !opts.User.Sets(string(s.Key)) && (s.Conf == "" || !opts.User.Sets(s.Conf)) {
			rabbit = set(rabbit, s.Key, s.Value)
		}
	}
	return file(set(opts.User.advanced, "rabbit", rabbit)), nil
}

// formation is the list cluster_formation: the user's, and what the role needs.
func (opts Options) formation() List {
	list := slices.Clone(opts.User.formation)
	if opts.Joining {
		list = set(list, "discovery_retry_limit", Int(joinRetries))
		if !has(list, "discovery_retry_interval") {
			every := Int(joinInterval)
			if slices.Equal(opts.Peers, []string{Gate(opts.Node)}) {
				every = gateInterval
			}
			list = set(list, "discovery_retry_interval", every)
		}
	}
	if opts.Version.DelaysStart() && !has(list, "randomized_startup_delay_range") {
		list = set(list, "randomized_startup_delay_range", Tuple{Int(0), Int(0)})
	}
	return list
}

// file puts each application and each of its keys on a line of its own. Its
// first lines must not say "coding": Erlang would take that for an order.
func file(applications List) []byte {
	var b strings.Builder
	b.WriteString(firstLine + `%% Put settings into rabbitmq.conf, conf.d or advanced.config, which it respects.
[`)
	for i, app := range applications {
		comma(&b, i)
		b.WriteString("\n {")
		app.(Tuple)[0].render(&b)
		b.WriteString(",[")
		for i, setting := range app.(Tuple)[1].(List) {
			comma(&b, i)
			b.WriteString("\n  ")
			setting.render(&b)
		}
		b.WriteString("\n ]}")
	}
	b.WriteString("\n].\n")
	return []byte(b.String())
}

// key returns the key of an element of a proplist: {Key,_}, or the bare atom.
func key(t Term) Atom {
	if pair, ok := t.(Tuple); ok && len(pair) == 2 {
		t = pair[0]
	}
	a, _ := t.(Atom)
	return a
}

func has(list List, k Atom) bool {
	return slices.ContainsFunc(list, func(t Term) bool { return key(t) == k })
}

// set returns list with k once, where it stood first or else at the end.
func set(list List, k Atom, value Term) List {
	out, done := List{}, false
	for _, t := range list {
		switch {
		case key(t) != k:
			out = append(out, t)
		case !done:
			out, done = append(out, Tuple{k, value}), true
		}
	}
	if !done {
		out = append(out, Tuple{k, value})
	}
	return out
}

var node = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_-]*@[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?$`)

// ValidNode returns an error unless name is name@host, as Erlang and DNS allow
// it: at most 255 characters, the longest atom.
func ValidNode(name string) error {
	if len(name) > 255 || !node.MatchString(name) || strings.Contains(name, "..") {
		return fmt.Errorf("%.300q is not a node name: it takes name@host, of letters, digits, - and _, in the host also dots, at most 255 in all", name)
	}
	return nil
}
