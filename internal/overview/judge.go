package overview

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"rmq-entrypoint/peers"
)

// cluster says which cluster that is, and whether it is one.
func cluster(seen Seen, rows []Node) Cluster {
	r := seen.Record.Value
	c := Cluster{One: Yes, Name: seen.Name, ID: r.ClusterID, Service: seen.Service, Key: seen.Key, Record: string(r.State), Since: r.Since.UTC()}
	switch {
	case !seen.Record.Known():
		c.Record = "unknown"
	case r.State == peers.Absent:
		c.Record = "none"
	}
	if why := split(seen, rows); why != "" {
		c.One, c.Why = No, why
		return c
	}
	switch {
	case !seen.Record.Known():
		c.One, c.Why = Unknown, fmt.Sprintf("the record cannot be read: %s", oneLine(seen.Record.Err))
	case !seen.Catalog.Known():
		c.One, c.Why = Unknown, fmt.Sprintf("the catalog cannot be read: %s", oneLine(seen.Catalog.Err))
	case r.State == peers.Absent:
		c.One, c.Why = No, "there is no cluster on record"
	case r.State == peers.Forming:
		c.One, c.Why = No, "it is being founded by "+r.Seed
	}
	return c
}

// ours reports whether a node is the cluster's by other word than the catalog's, into which whoever
// may register a service writes any node: it is on record, a member for RabbitMQ, or this one.
func ours(seen Seen, node string) bool {
	_, on := seen.Record.Value.Members[node]
	return on || seen.Own != nil && (seen.Own.Node == node || slices.Contains(seen.Own.View.Members, node))
}

// stranger reports whether nothing but entries in the catalog speaks of a node beside a cluster.
func stranger(seen Seen, node string) bool {
	noted := slices.ContainsFunc(seen.Notes.Value, func(n peers.Note) bool { return n.Node == node })
	return seen.Record.Known() && seen.Record.Value.State == peers.Formed && !noted && !ours(seen, node)
}

// withoutStrangers returns the rows that count for what the cluster is.
func withoutStrangers(seen Seen, rows []Node) []Node {
	return slices.DeleteFunc(slices.Clone(rows), func(n Node) bool { return stranger(seen, n.Node) })
}

// split says who is in another cluster than the others, or partitioned, or "". An entry of a node
// that is not ours makes no split: [strays] names it.
func split(seen Seen, rows []Node) string {
	r := seen.Record.Value
	if own := seen.Own; own != nil && len(own.View.Partitions) > 0 {
		return fmt.Sprintf("RabbitMQ on %s lists a partition: it is cut off from %s", own.Node, peers.Some(own.View.Partitions))
	}
	for _, n := range rows {
		if strings.HasPrefix(n.Why, "SPLIT") && ours(seen, n.Node) {
			return n.Node + " says " + n.Why
		}
	}
	if !seen.Record.Known() || r.State != peers.Formed {
		return ""
	}
	entries := newest(r, seen.Catalog.Value)
	for _, n := range slices.Sorted(maps.Keys(entries)) {
		if p := entries[n]; p.Passing && p.ClusterID != "" && !r.Is(p.ClusterID) && ours(seen, n) {
			return fmt.Sprintf("%s is in cluster %s, and %s is on record", p.Node, p.ClusterID, r.ClusterID)
		}
	}
	return ""
}

// stop says whether one node may be stopped now: by the rules of `drain`, as far as they need no
// look at each queue. Only members that serve, too, count as up.
func stop(seen Seen, c Cluster, rows []Node) Stop {
	own := seen.Own
	if own == nil || len(own.View.Members) == 0 {
		return Stop{May: Unknown, Why: "no companion says what RabbitMQ sees: ask in a node's container that serves"}
	}
	v := own.View
	switch {
	case c.One == No:
		return Stop{May: No, Why: c.Why}
	case seen.Now.Sub(own.Looked) > seen.TTL:
		return Stop{May: Unknown, Why: fmt.Sprintf("%s was not looked at for %s: what RabbitMQ saw then may be over", own.Node, age(seen.Now, own.Looked))}
	case len(v.Members) == 1:
		return Stop{May: No, Why: "it is the only member: nobody could take anything over"}
	case own.Warning != "":
		return Stop{May: No, Why: own.Warning}
	}
	v.Running, rows = nil, withoutStrangers(seen, rows)
	for _, n := range rows {
		if (n.State == Serves || n.State == NotKnown) && slices.Contains(own.View.Running, n.Node) {
			v.Running = append(v.Running, n.Node)
		}
	}
	if len(v.Running) < 2 {
		return Stop{May: No, Why: "nobody else serves"}
	}
	if why := v.StandsStillWithout(v.Running[0]); why != "" && (v.Khepri || v.Pauses) { // for each of them alike
		return Stop{May: No, Why: strings.Replace(why, "without it", "without one of them", 1)}
	}
	if slices.ContainsFunc(rows, func(n Node) bool { return n.State == NotKnown }) {
		return Stop{May: Unknown, Why: "Consul does not say who serves"}
	}
	return Stop{May: Yes, Nodes: v.Running, Why: "one at a time, each by rmq-entrypoint drain, which asks its queues, too, and refuses where one would miss it"}
}

// problems are what is wrong, the worst first, and what may become so.
func problems(seen Seen, d Document) []Problem {
	all := []Problem{}
	wrong := func(what, next string) { all = append(all, Problem{true, what, next}) }
	warn := func(what, next string) { all = append(all, Problem{false, what, next}) }
	if d.Cluster.Why != "" {
		next := map[Answer]string{
			Unknown: "consul members; rmq-entrypoint status says what each address of Consul's answers",
			No:      "rmq-entrypoint status on that node; docs/operations.md, Two clusters",
		}[d.Cluster.One]
		switch r := seen.Record.Value; {
		case d.Cluster.One == No && r.State == peers.Absent && seen.Record.Known():
			next = "start the nodes; a member that runs publishes a record that was lost"
		case d.Cluster.One == No && r.State == peers.Forming:
			next = "wait; docker logs of " + r.Seed + " says how far it is"
		}
		wrong(d.Cluster.Why, next)
	}
	if err := seen.Notes.Err; err != nil && err != seen.Record.Err { // that all of Consul is away is said once
		warn("who waits or was refused cannot be read: "+oneLine(err), "rmq-entrypoint doctor; docs/settings.md, Rights in Consul")
	}
	if own := seen.Own; own != nil {
		ofThisNode(seen, *own, wrong, warn)
	}
	rows := withoutStrangers(seen, d.Nodes)
	for _, n := range rows {
		ofNode(seen, n, wrong, warn)
	}
	if seen.Record.Known() && seen.Own != nil && len(seen.Own.View.Members) > 0 {
		differ(seen.Record.Value, *seen.Own, warn)
	}
	if seen.Own != nil && seen.Now.Sub(seen.Own.Looked) <= seen.TTL {
		for _, n := range rows {
			unseen(seen, n, wrong)
		}
	}
	strays(seen, warn)
	foreign := 0
	for _, p := range seen.Catalog.Value {
		if !p.Foreign() {
			continue
		}
		if foreign++; foreign <= mostForeign {
			warn(fmt.Sprintf("entry %s at %s is no node's, and counts for nothing", p.Node, p.Address),
				"if it is not meant to be there, "+p.Removal())
		}
	}
	if more := foreign - mostForeign; more > 0 {
		warn(fmt.Sprintf("and %d more entries are no node's", more), "see who registers them: consul catalog nodes -service="+seen.Service)
	}
	versions(rows, warn)
	slices.SortStableFunc(all, func(a, b Problem) int { return rank(a) - rank(b) })
	return all
}

// mostForeign is how many entries of other programs' are named.
const mostForeign = 10

func rank(p Problem) int {
	if p.Wrong {
		return 0
	}
	return 1
}

// ofThisNode is what only the node's companion knows.
func ofThisNode(seen Seen, own Own, wrong, warn func(what, next string)) {
	if len(own.Lost) > 0 {
		wrong(fmt.Sprintf("%s goes on without %s only by an order: their volumes are gone", own.Node, peers.Some(own.Lost)),
			"mount their volumes, or rmq-entrypoint force-boot --cluster-id "+cmp.Or(seen.Record.Value.ClusterID, "ID"))
	}
	if !own.Looked.IsZero() && seen.Now.Sub(own.Looked) > seen.TTL {
		wrong(fmt.Sprintf("%s was not looked at for %s", own.Node, age(seen.Now, own.Looked)), "rmq-entrypoint healthcheck, which starts another companion")
	}
	if !own.Beat.IsZero() && seen.Now.Sub(own.Beat) > seen.TTL {
		say := wrong
		if !seen.Record.Known() { // Consul is away, which is not the cluster's fault
			say = warn
		}
		says := fmt.Sprintf("Consul took no heartbeat of %s for %s", own.Node, age(seen.Now, own.Beat))
		if strings.Contains(own.Reason, "not told to Consul") { // the companion's words, and why
			says += "; " + own.Reason
		}
		say(says, "rmq-entrypoint doctor in its container, which asks each address of Consul's for each right")
	}
	if own.Warning != "" {
		warn(own.Warning, "docs/operations.md, Two nodes")
	}
}

// drained begins what a node says that an operator took out of service: policy's words.
const drained = "maintenance: "

// alarm is in what a node says while an alarm of any member blocks publishers: healthcheck's words.
const alarm = "an alarm blocks publishers"

// ofNode is what is wrong with a node.
func ofNode(seen Seen, n Node, wrong, warn func(what, next string)) {
	says := n.Node + ": " + n.Why
	switch n.State {
	case Refused:
		wrong(n.Node+" was refused: "+n.Why, "docker logs of its container; docs/operations.md, When things fail")
	case Down:
		next := "start its container; of one that does not stay up, docker logs says why; one that is gone for good, in a member that serves: rmq-entrypoint forget " + n.Node
		if n.Role == "" { // it is on no record
			next = "docker logs of its container; docs/operations.md, When things fail"
		}
		wrong(n.Node+" is down: "+n.Why, next)
	case Unfit:
		if own := seen.Own; own != nil && own.Node == n.Node && own.Out || strings.HasPrefix(n.Why, drained) {
			warn(says, "rabbitmq-upgrade revive, or a restart, brings it back")
			return
		}
		wrong(says, "rmq-entrypoint status in its container")
	case Waits:
		wrong(n.Node+" waits: "+n.Why, "docker logs of its container; docs/operations.md, When things fail")
	case Serves:
		if n.Why != "" {
			next := "rmq-entrypoint status in its container"
			if strings.Contains(n.Why, alarm) {
				next = "rmq-entrypoint doctor in its container names the member whose disk or memory it is: make room there, or have consumers catch up"
			}
			warn(says, next)
		}
	case NotKnown:
		if seen.Catalog.Known() { // that Consul cannot be read is said once
			wrong("whether "+n.Node+" serves is unknown: "+n.Why, "consul members; rmq-entrypoint status in its container")
		}
	}
}

// differ is where the record and RabbitMQ differ about who is a member.
func differ(r peers.Record, own Own, warn func(what, next string)) {
	for _, n := range r.Names() {
		if !slices.Contains(own.View.Members, n) && r.Joining[n] == "" && r.Unverified[n] == "" && r.State == peers.Formed {
			warn(n+" is on record, and RabbitMQ on "+own.Node+" does not list it", "wait for two heartbeats; docs/operations.md, A member is forgotten by hand")
		}
	}
	for _, n := range own.View.Members {
		if _, on := r.Members[n]; !on && r.State == peers.Formed {
			warn(n+" is a member for RabbitMQ, and not on record", "start it, or in a member that serves: rmq-entrypoint forget "+n)
		}
	}
}

// unseen is a member that has served for a while, by its own word, and that RabbitMQ here does not see
// run: each may be well, and the way between them shut.
func unseen(seen Seen, n Node, wrong func(what, next string)) {
	v := seen.Own.View
	if n.State != Serves || n.Since.IsZero() || seen.Now.Sub(n.Since) <= 2*seen.TTL || !slices.Contains(v.Members, n.Node) || slices.Contains(v.Running, n.Node) {
		return
	}
	wrong(n.Node+" passes in Consul, and RabbitMQ on "+seen.Own.Node+" does not see it run", "rmq-entrypoint doctor in both containers: a port between them may be shut, or their cookies differ")
}

// strays names entries under a node's name that are of none of ours, and those beside a node's own
// that say another cluster. They are of a second cluster under this service's name, or made up.
func strays(seen Seen, warn func(what, next string)) {
	r, named, more := seen.Record.Value, 0, 0
	entries := newest(r, seen.Catalog.Value)
	for _, p := range seen.Catalog.Value {
		what, next := "", p.Removal()
		where := fmt.Sprintf("%s at %s", p.Node, p.Address)
		another := r.State == peers.Formed && p.ClusterID != "" && !r.Is(p.ClusterID)
		best := entries[p.Node]
		switch {
		case p.Foreign():
			continue
		case ours(seen, p.Node) && another && p.Passing && (best.ID != p.ID || best.Agent != p.Agent):
			what, next = where+" passes beside that node's own entry", "if it is not the node's, "+next
		case ours(seen, p.Node):
			continue
		case r.Stray(p) && another:
			what, next = where+" passes, is not on record, and clients are sent there", "if it runs, it is of a second cluster: give that another service (--service, RMQ_SERVICE), or see docs/operations.md, Two clusters; if there is no such node, "+next
		case r.Stray(p):
			what, next = where+" passes, is not on record, and clients are sent there", "if there is no such node, "+next
		case stranger(seen, p.Node):
			what, next = where+" is not on record, and does not pass", "if there is no such node, "+next
			if p.Said != "" {
				what += ": " + peers.Plain(p.Said)
			}
		default:
			continue
		}
		if another {
			what += fmt.Sprintf("; it says that it is of cluster %s, and %s is on record", p.ClusterID, r.ClusterID)
		}
		if named++; named > mostForeign {
			more++
			continue
		}
		warn(what, next)
	}
	if more > 0 {
		warn(fmt.Sprintf("and %d more entries are of nodes that are not on record", more), "see who registers them: consul catalog nodes -service="+seen.Service)
	}
}

// versions says where nodes run different ones.
func versions(rows []Node, warn func(what, next string)) {
	of := map[string][]string{}
	for _, n := range rows {
		if n.Version != "" && n.Beats == Yes {
			of[n.Version] = append(of[n.Version], n.Node)
		}
	}
	if len(of) < 2 {
		return
	}
	var told []string
	for v, nodes := range of {
		told = append(told, v+" on "+peers.Some(nodes))
	}
	slices.Sort(told)
	warn("versions differ: "+peers.SomeWith(told, "; "), "end the upgrade; docs/operations.md, Upgrade")
}

func oneLine(err error) string { return peers.Plain(strings.ReplaceAll(err.Error(), "\n", "; ")) }
