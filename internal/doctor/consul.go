package doctor

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/entrypoint"
	"rmq-entrypoint/peers"
)

// agents judges each address of Consul's. One that does well is enough to work with.
func agents(f Facts) (all []Result) {
	well := slices.ContainsFunc(f.Agents, func(e consul.Examined) bool { return e.Err == nil && len(e.Lacks) == 0 && e.Unsynced == "" })
	bad := Broken
	if well {
		bad = Warning
	}
	for _, e := range f.Agents {
		r := Result{Is: OK, Says: e.Addr + " answers, has a leader, and takes what a node tells it"}
		switch {
		case e.Err != nil:
			r = Result{Is: bad, Says: fmt.Sprintf("%s: %v", e.Addr, e.Err), Do: wayTo(e)}
		case len(e.Lacks) > 0:
			r = Result{Is: bad, Says: fmt.Sprintf("%s: the token (CONSUL_HTTP_TOKEN) lacks %s", e.Addr, strings.Join(e.Lacks, ", ")), Do: "give it the rights of docs/settings.md, Rights in Consul"}
		case e.Unsynced != "":
			r = Result{Is: bad, Says: fmt.Sprintf("%s does not bring what it takes into the catalog: %s", e.Addr, e.Unsynced),
				Do: "it may have been recreated without its data: keep those on a volume, give more than one address (--consul), or consul force-leave its former self"}
		case e.Unasked != nil:
			r = Result{Is: Unknown, Says: fmt.Sprintf("%s answers, and does not say which rights the token has: %v", e.Addr, e.Unasked)}
		case e.Unseen != nil:
			r = Result{Is: Unknown, Says: fmt.Sprintf("%s answers, and whether what it takes reaches the catalog cannot be told: %v", e.Addr, e.Unseen)}
		}
		all = append(all, r)
	}
	return all
}

// wayTo an agent that does not answer as it should.
func wayTo(e consul.Examined) string {
	text := e.Err.Error()
	switch {
	case strings.Contains(text, "x509") || strings.Contains(text, "certificate"):
		return "CONSUL_CACERT names whose certificates are trusted, CONSUL_TLS_SERVER_NAME the name in them, CONSUL_CLIENT_CERT and _KEY this node's own"
	case strings.Contains(text, "HTTPS") || strings.Contains(text, "tls"):
		return "write https:// or http:// before the address (--consul, CONSUL_HTTP_ADDR), as that port has it"
	case strings.Contains(text, "leader"):
		return "see to Consul's servers: most of them have to run"
	case strings.Contains(text, "no such host"), strings.Contains(text, "lookup"):
		return "mend the name in --consul (CONSUL_HTTP_ADDR), or DNS"
	}
	return "start it, open the way to it, or mend --consul (CONSUL_HTTP_ADDR)"
}

// What a clock may be off until a person cares, and until TTLs, certificates and elections do.
const (
	offALittle = 5 * time.Second
	offTooMuch = time.Minute
)

// clock compares this host's with Consul's and the other members'.
func clock(f Facts) []Result {
	worst, who, asked := time.Duration(0), "", 0
	see := func(at string, ahead time.Duration, timed bool) {
		if !timed {
			return
		}
		if asked++; ahead.Abs() > worst.Abs() {
			worst, who = ahead, at
		}
	}
	for _, e := range f.Agents {
		see("Consul at "+e.Addr, e.Ahead, e.Timed)
	}
	for _, m := range f.Members {
		see(m.Node, m.Ahead, m.Timed)
	}
	says := fmt.Sprintf("%s is %s ahead of this host", who, worst.Round(time.Second))
	if worst < 0 {
		says = fmt.Sprintf("%s is %s behind this host", who, -worst.Round(time.Second))
	}
	switch {
	case asked == 0:
		return one(Unknown, "", "nobody says what time it is")
	case worst.Abs() > offTooMuch:
		return one(Broken, "set the clocks right (NTP): RabbitMQ elects by them, and certificates hold by them", "%s", says)
	case worst.Abs() > offALittle:
		return one(Warning, "set the clocks right (NTP)", "%s", says)
	}
	return one(OK, "", "within seconds of %d others", asked)
}

// dns judges what name servers say of the service. DNS only adds caution, so nothing is broken by it.
func dns(f Facts) []Result {
	d, server := f.DNS, "RMQ_DNS_SERVER (--dns-server)"
	switch {
	case d.Service.Err != nil && d.Consul.Err != nil:
		return one(Warning, "name Consul's DNS in "+server+"; without it a blank node founds all the same, after the claim timeout", "%v", d.Service.Err)
	case len(d.Consul.Value) == 0 && len(d.Service.Value) == 0:
		return one(Warning, "name Consul's DNS in "+server+", or its domain in RMQ_DNS_DOMAIN (--dns-domain); where Consul has ACLs, its DNS goes by the agent's own token, default or dns, which needs service:read and node:read", "the name server does not know the domain %s: it has no consul.service.%[1]s, which every Consul has", f.Config.DNSDomain)
	case d.Service.Err != nil:
		return one(Unknown, "", "%v", d.Service.Err)
	case !f.Entries.Known():
		return one(Unknown, "", "it gives %d addresses, and the catalog cannot be read", len(d.Service.Value))
	}
	var passing []string
	for _, p := range f.Entries.Value {
		if p.Passing {
			passing = append(passing, p.Address)
		}
	}
	without := func(all, known []string) []string { // whoever registers decides how many there are
		is := map[string]bool{}
		for _, k := range known {
			is[k] = true
		}
		return slices.DeleteFunc(slices.Clone(all), func(a string) bool { return is[a] })
	}
	if stale := without(d.Service.Value, passing); len(stale) > 0 {
		return one(Warning, "wait: a blank node does, for the claim timeout; if it stays, something else answers for that name", "stale: it gives %s, which do not pass in the catalog", peers.Some(stale))
	}
	if missing := without(passing, d.Service.Value); len(missing) > 0 {
		return one(Warning, "wait; if it stays, clients that find nodes by DNS do not find these", "stale: it lacks %s, which pass in the catalog", peers.Some(missing))
	}
	return one(OK, "", "knows the domain, and gives the %d addresses that pass in the catalog", len(passing))
}

// record judges what is on record by itself, by this volume, and by RabbitMQ's list.
func record(f Facts) []Result {
	r := f.Record.Value
	view, sees := f.Server.View.Value, f.Server.Alive && f.Server.View.Known() && len(f.Server.View.Value.Members) > 0
	switch {
	case f.Record.Err == errNoConsul:
		return one(Unknown, "", "no Consul answers")
	case f.Record.Err != nil:
		return one(Broken, "", "%v", f.Record.Err)
	case r.State == peers.Absent && sees:
		return one(Warning, "wait: a member that runs publishes it within a heartbeat", "none (%s), and RabbitMQ runs in cluster %s", f.Config.RecordKey(), view.ClusterID)
	case r.State == peers.Absent && (f.Host.Hangs || f.Host.Volume.State.Err != nil):
		return one(Unknown, "", "none (%s), and whether the volume here is of a cluster cannot be read", f.Config.RecordKey())
	case r.State == peers.Absent && f.Host.Volume.State.Value.Cluster != "":
		return one(Warning, "start members with data first: one that runs publishes the record", "none (%s), and the volume here is of cluster %s", f.Config.RecordKey(), f.Host.Volume.State.Value.Cluster)
	case r.State == peers.Absent:
		return one(OK, "", "none yet (%s)", f.Config.RecordKey())
	case r.State == peers.Forming:
		return one(OK, "", "%s founds the cluster since %s", r.Seed, r.Since.Format(time.RFC3339))
	}
	if v := f.Host.Volume.State; v.Known() && v.Value.Role != "" {
		if err := entrypoint.RuledOut(r, f.Config, v.Value); err != nil {
			return one(Broken, "", "%v", err)
		}
	}
	all := one(OK, "", "cluster %s, members %s", r.ClusterID, peers.Some(r.Names()))
	if v := f.Host.Volume.State; r.Members[f.Config.Node] != "" && v.Known() && v.Value.Role == "" && !f.Host.Hangs {
		all = append(all, Result{Is: Warning, Says: fmt.Sprintf("%s is on record with volume %s, and the one here is blank", f.Config.Node, r.Members[f.Config.Node]),
			Do: "mount that one; if it is gone, start the node: it removes itself from the record, and joins anew"})
	}
	if !sees {
		return all
	}
	if !r.Is(view.ClusterID) {
		return one(Broken, "decide which one to keep (docs/operations.md, Two clusters)", "SPLIT: RabbitMQ here is in cluster %s, on record is %s", view.ClusterID, r.ClusterID)
	}
	for _, n := range r.Names() {
		if !slices.Contains(view.Members, n) && r.Joining[n] == "" && !r.NeverVerified(n) {
			all = append(all, Result{Is: Broken, Says: n + " is on record, and RabbitMQ does not list it: it was forgotten, by hand perhaps", Do: "wait two heartbeats, then it is off the record; its volume is of no use any more: start it with an empty one"})
		}
	}
	for _, n := range view.Members {
		if _, on := r.Members[n]; !on {
			all = append(all, Result{Is: Warning, Says: "RabbitMQ lists " + n + ", which is not on record", Do: "start it, or take it out: rmq-entrypoint forget " + n})
		}
	}
	return all
}

// mostForeign is how many of those are named: whoever may register makes as many as they like.
const mostForeign = 10

// stray reports whether an entry is a stray one ([peers.Record.Stray]), of none that RabbitMQ lists.
func stray(f Facts, p peers.Peer) bool {
	return f.Record.Known() && f.Record.Value.Stray(p) && p.Node != f.Config.Node && !slices.Contains(f.Server.View.Value.Members, p.Node)
}

// foreign names entries under the service's name that are no node's, or no member's.
func foreign(f Facts) (all []Result) {
	if !f.Entries.Known() {
		return one(Unknown, "", "the catalog cannot be read: %v", f.Entries.Err)
	}
	more := 0
	for _, p := range f.Entries.Value {
		switch {
		case !p.Foreign() && !stray(f, p):
		case len(all) == mostForeign:
			more++
		case !p.Foreign():
			says := fmt.Sprintf("%s at %s passes, is not on record, and clients are sent there", p.Node, p.Address)
			if r := f.Record.Value; p.ClusterID != "" && !r.Is(p.ClusterID) {
				says += fmt.Sprintf("; it says that it is of cluster %s, and %s is on record", p.ClusterID, r.ClusterID)
			}
			all = append(all, Result{Is: Warning, Says: says, Do: "if there is no such node, " + p.Removal()})
		default:
			all = append(all, Result{Is: Warning, Says: fmt.Sprintf("%s at %s is no node's, and clients are sent there", p.ID, p.Address),
				Do: p.Removal()})
		}
	}
	if more > 0 {
		all = append(all, Result{Is: Warning, Says: fmt.Sprintf("and %d more", more), Do: "see who registers them: consul catalog nodes -service=" + f.Config.Service})
	}
	if len(all) == 0 {
		return one(OK, "", "no entry of %s is another program's, or passes without being on record", f.Config.Service)
	}
	return all
}

const (
	startIt    = "start it; of one that does not stay up, docker logs says why; if it is gone for good: rmq-entrypoint forget "
	openTheWay = "open the way: each node needs 4369 (epmd), 25672 (other nodes) and the AMQP port of each other one"
)

// runs reports whether epmd on the member's host says that it runs.
func (m Member) runs() bool {
	return len(m.Ports) > 1 && m.Ports[0].Err == nil && !errors.Is(m.Ports[1].Err, errNotListed)
}

// members judges the way to each of the others. Where a port is shut at a node whose entry passes,
// the way is at fault; a node that does not pass may just be down.
func members(f Facts) (all []Result) {
	v := f.Host.Volume.State
	if len(f.Members) == 0 && !f.Record.Known() && (f.Host.Hangs || v.Err != nil || v.Value.Cluster == "") {
		return one(Unknown, "", "neither the record nor the volume says who they are")
	}
	if len(f.Members) == 0 {
		return one(OK, "", "no other is known")
	}
	for _, m := range f.Members {
		var shut []string
		for _, p := range m.Ports {
			if p.Err != nil {
				shut = append(shut, p.shut())
			}
		}
		r := Result{Is: OK, Says: m.Node + " is reached at its ports"}
		switch {
		case m.Err != nil && m.Unasked:
			r = Result{Is: Unknown, Says: fmt.Sprintf("%s is at %s by its entry in Consul alone, which may be another's, and nobody was asked there: %v", m.Node, m.Entry, m.Err), Do: "run rmq-entrypoint doctor in it; its start writes where it is to a key of its own (docs/many-hosts.md, Addresses from Consul). If the entry is not the node's, " + m.Remove}
		case m.Err != nil && m.Passing:
			r = Result{Is: Broken, Says: fmt.Sprintf("%s passes in Consul, and its host has no address here: %v", m.Node, m.Err), Do: "add the host to DNS or /etc/hosts, or let nodes find each other by Consul (RMQ_HOSTS=consul)"}
		case m.Err != nil:
			r = Result{Is: Warning, Says: fmt.Sprintf("%s is down, or its host has no address here: %v", m.Node, m.Err), Do: startIt + m.Node}
		case len(shut) > 0 && m.Passing:
			r = Result{Is: Broken, Says: fmt.Sprintf("%s passes in Consul, and is not reached: %s", m.Node, strings.Join(shut, "; ")), Do: openTheWay}
		case len(shut) > 0 && m.runs() && m.Ports[1].Err != nil:
			r = Result{Is: Warning, Says: fmt.Sprintf("%s does not pass in Consul, runs, as epmd there says, and is not reached: %s", m.Node, strings.Join(shut, "; ")), Do: openTheWay}
		case len(shut) > 0 && m.runs():
			r = Result{Is: Warning, Says: fmt.Sprintf("%s does not pass in Consul, and runs without taking clients: %s", m.Node, strings.Join(shut, "; ")), Do: "rmq-entrypoint doctor in it: it boots still, or waits"}
		case len(shut) > 0:
			r = Result{Is: Warning, Says: fmt.Sprintf("%s does not pass in Consul, and is not reached: %s", m.Node, strings.Join(shut, "; ")), Do: startIt + m.Node}
		case m.Ready.Err != nil && m.Passing:
			r = Result{Is: Warning, Says: fmt.Sprintf("%s is reached, but for %s %s: %s", m.Node, m.Ready.What, m.Ready.At, reason(m.Ready.Err)), Do: "open the way: balancers ask each node there (--http, RMQ_HTTP), and send it nobody without an answer"}
		case m.Mute != nil:
			r = Result{Is: Broken, Says: fmt.Sprintf("%s passes in Consul, its ports are reached, and RabbitMQ there does not answer this node: %s", m.Node, reason(m.Mute)), Do: anotherCookie(f)}
		case apart(f.Server, m.Node) && m.Passing:
			r = Result{Is: Broken, Says: m.Node + " passes in Consul, its ports are reached, and RabbitMQ here is not connected with it", Do: anotherCookie(f)}
		case apart(f.Server, m.Node):
			r = Result{Is: Warning, Says: m.Node + " is reached, does not pass in Consul, and RabbitMQ here is not connected with it", Do: "run rmq-entrypoint status in it: its check says why; where it waits for this node: " + anotherCookie(f)}
		case !m.Passing && f.Entries.Known():
			r = Result{Is: Warning, Says: m.Node + " is reached, and does not pass in Consul", Do: "run rmq-entrypoint status in it: its check says why"}
		}
		if m.Unasked && m.Err == nil {
			r.Says += fmt.Sprintf("; AMQP at %s, where nothing but its entry in Consul has it, was not asked", m.Entry)
			if r.Is == OK && f.Config.Hosts == "consul" { // nodes register there where their key says that they are
				r.Is, r.Do = Warning, "if that is not the node's, "+m.Remove
			}
		}
		all = append(all, r)
	}
	return all
}

// apart reports whether RabbitMQ here says what it knows, and is not connected with node.
func apart(s Server, node string) bool {
	return s.Alive && s.View.Known() && !slices.Contains(s.View.Value.Running, node) && !slices.Contains(s.View.Value.Connected, node)
}

// anotherCookie is what to look at where ports are open, and nodes do not take each other. Erlang
// tells neither side why: only the log of the one that was asked has "Invalid challenge reply".
func anotherCookie(f Facts) string {
	return "compare the cookies: sha256sum " + f.Config.Home + "/.erlang.cookie in both containers; where they differ, stop the node with the other one, give it the RABBITMQ_ERLANG_COOKIE of the others, and remove that file from its volume"
}

// balancer says what can be known of one from here: what it would be told.
func balancer(f Facts) []Result {
	if !f.Entries.Known() {
		return one(Unknown, "", "what one is told cannot be read: %v", f.Entries.Err)
	}
	var pass []string
	for _, p := range f.Entries.Value {
		if host, _, err := net.SplitHostPort(p.Address); p.Passing && err == nil && host != "" {
			pass = append(pass, p.Address)
		}
	}
	switch {
	case len(f.Entries.Value) == 0 && f.Record.Known() && f.Record.Value.State == peers.Absent:
		return one(OK, "", "no node is registered yet")
	case len(pass) == 0:
		return one(Warning, "see to the nodes: rmq-entrypoint status in each", "one that goes by Consul has nowhere to send clients: no entry passes")
	}
	return one(OK, "", "one that goes by Consul sends clients to %s; itself it cannot be seen from here", peers.Some(pass))
}
