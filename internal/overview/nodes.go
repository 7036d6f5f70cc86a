package overview

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"rmq-entrypoint/peers"
)

// nodes returns a row a node: of those on record, of those in the catalog, and of those that only
// a note speaks of. Two containers of one name that both live have a row each. Refused counts the
// starts of those rows that were refused, by reason; nil: that is not known.
func nodes(seen Seen) (all []Node, refused map[string]int) {
	record := seen.Record.Value
	entries := newest(record, seen.Catalog.Value)
	names := maps.Clone(record.Members)
	if names == nil {
		names = map[string]string{}
	}
	for n := range entries {
		names[n] = ""
	}
	if seen.Own != nil {
		names[seen.Own.Node] = ""
		for _, n := range seen.Own.View.Members { // all that is left while Consul is away
			names[n] = ""
		}
	}
	rows := map[string]Node{}
	for n := range names {
		rows[n] = row(seen, n, entries[n])
	}
	told := map[string]bool{} // a newer note has the row
	if seen.Notes.Known() {
		refused = map[string]int{}
	}
	for _, note := range seen.Notes.Value { // the newest of a node first
		n := noted(note)
		is, known := rows[note.Node]
		same := note.Volume != "" && note.Volume == is.Volume
		if e := entries[note.Node]; e != nil && e.Boot != "" && e.Boot == note.Boot {
			continue // it got further
		}
		if note.State != peers.NoteWaits && is.Started.After(note.Since) {
			continue // a later start was let through, as on an empty volume, though it be over by now
		}
		switch {
		case !known:
			rows[note.Node] = n
		case !told[note.Node] && is.Beats != Yes && (is.State == Down || is.State == NotKnown):
			n.Role = is.Role
			rows[note.Node] = n
		case is.Beats == Yes && !same, is.Volume != "" && note.Volume != "" && !same:
			all = append(all, n) // another container of that name
		default:
			continue
		}
		told[note.Node] = true
		if n.State == Refused && refused != nil {
			refused[reason(note.Kind)] += note.Again + 1
		}
	}
	all = slices.AppendSeq(all, maps.Values(rows))
	for i := range all { // others wrote it
		all[i].Why = peers.Plain(all[i].Why)
	}
	slices.SortFunc(all, func(a, b Node) int {
		return cmp.Or(strings.Compare(a.Node, b.Node), strings.Compare(string(a.State), string(b.State)), strings.Compare(a.Volume, b.Volume))
	})
	return all, refused
}

// mostOthers is how many nodes a document lists that neither are members nor have left a note:
// whoever may register under the service's name makes as many of those as they like.
const mostOthers = 200

// listed returns the rows that a document has, and how many more there are.
func listed(seen Seen, all []Node) (rows []Node, more int) {
	known := map[string]bool{}
	for n := range seen.Record.Value.Members {
		known[n] = true
	}
	if seen.Own != nil {
		known[seen.Own.Node] = true
		for _, n := range seen.Own.View.Members {
			known[n] = true
		}
	}
	for _, note := range seen.Notes.Value {
		known[note.Node] = true
	}
	others := 0
	for _, n := range all {
		if !known[n.Node] {
			if others++; others > mostOthers {
				continue
			}
		}
		rows = append(rows, n)
	}
	return rows, len(all) - len(rows)
}

// newest returns of each node the entry that speaks for it.
func newest(r peers.Record, all []peers.Peer) map[string]*peers.Peer {
	found := map[string]*peers.Peer{}
	for _, p := range all {
		if p.Foreign() {
			continue
		}
		was := found[p.Node]
		if was == nil || r.Compare(p, *was) > 0 || r.Compare(p, *was) == 0 && p.Newer(*was) {
			found[p.Node] = &p
		}
	}
	return found
}

// row is what is known of a node by the record, the catalog and its companion. An entry of nil is
// none, as far as the catalog is known.
func row(seen Seen, name string, entry *peers.Peer) Node {
	r := seen.Record.Value
	n := Node{Node: name, State: NotKnown, Beats: Unknown, Role: role(r, name), Version: r.Versions[name], Volume: r.Members[name]}
	switch {
	case entry != nil:
		n = ofEntry(n, *entry)
	case seen.Catalog.Known():
		n.State, n.Beats, n.Why = Down, No, "it is not in Consul's catalog"
		if seen.Own != nil && slices.Contains(seen.Own.View.Running, name) { // only its companion is gone, or its registration
			n.State, n.Why = NotKnown, n.Why+", and RabbitMQ on "+seen.Own.Node+" sees it run"
		}
	case seen.Own != nil && slices.Contains(seen.Own.View.Running, name):
		n.Why = "RabbitMQ on " + seen.Own.Node + " sees it run"
	case seen.Own != nil && slices.Contains(seen.Own.View.Members, name):
		n.Why = "RabbitMQ on " + seen.Own.Node + " does not see it run"
	}
	if own := seen.Own; own != nil && own.Node == name {
		return ofOwn(n, *own, seen)
	}
	if s, ok := seen.Spells[name]; ok && s.State == n.State {
		n.Since, n.AtLeast = s.Since.UTC(), !s.Whole
	}
	return n
}

// role is what the record knows of a node as.
func role(r peers.Record, name string) string {
	_, on := r.Members[name]
	switch {
	case !on:
		return ""
	case r.State == peers.Forming:
		return "seeding"
	case r.Joining[name] != "" || r.Unverified[name] != "":
		return "joining"
	}
	return "member"
}

// ofEntry adds what the catalog says.
func ofEntry(n Node, p peers.Peer) Node {
	n.Address, n.Started = p.Address, p.Since.UTC()
	n.Version, n.Volume = cmp.Or(p.Version, n.Version), cmp.Or(p.Volume, n.Volume)
	n.Beats, n.Why = Yes, p.Said
	switch {
	case p.Passing:
		n.State = Serves
		if p.Status != "warning" { // what answers, and where, is no news
			n.Why = ""
		}
	case !p.Beating:
		n.State, n.Beats, n.Why = Down, No, "its heartbeats have stopped"
	case p.AgentFailed:
		n.State, n.Beats, n.Why = NotKnown, Unknown, "Consul's servers do not reach its agent "+p.Agent+", and know no more"
	case p.ClusterID == "":
		n.State = Waits
	default:
		n.State = Unfit
	}
	if n.Why == "" && n.State != Serves {
		n.Why = unheard
	}
	return n
}

// unheard is what there is to tell of an entry without words: agents bring those of a check that has
// changed nothing else to the catalog only after minutes.
const unheard = "what its companion says is not in Consul's catalog yet"

// ofOwn replaces what others know of the node by what its companion says.
func ofOwn(n Node, own Own, seen Seen) Node {
	n.Since, n.AtLeast, n.Beat = own.Since.UTC(), false, own.Beat.UTC()
	n.Volume, n.Version, n.Role = cmp.Or(own.Volume, n.Volume), cmp.Or(own.Version, n.Version), cmp.Or(own.Role, n.Role)
	n.Why = own.Reason
	switch {
	case own.Status == "passing" || own.Status == "warning":
		n.State = Serves
		if own.Status == "passing" {
			n.Why = ""
		}
	case own.Verified:
		n.State = Unfit
	default:
		n.State = Waits
	}
	n.Beats = No
	if !own.Beat.IsZero() && seen.Now.Sub(own.Beat) <= seen.TTL {
		n.Beats = Yes
	}
	return n
}

// noted is the row of a node that only its note speaks of.
func noted(note peers.Note) Node {
	n := Node{Node: note.Node, State: Waits, Since: note.Since.UTC(), Why: note.Why, Version: note.Version, Beats: No, Volume: note.Volume}
	if note.Host != "" {
		n.Address = "host " + note.Host
	}
	switch note.State {
	case peers.NoteRefused:
		n.State = Refused
	case peers.NoteFailed:
		n.State, n.Why = Down, "its start failed: "+note.Why
	}
	return n
}

// gone lists who is a member no more, those that went last first.
func gone(seen Seen) []Gone {
	all := []Gone{}
	for n, g := range seen.Record.Value.Gone {
		how := "took itself off the record"
		switch {
		case g.Left && g.Forgotten:
			how = "was forgotten by order"
		case g.Left:
			how = "left in good order"
		case g.Forgotten:
			how = "was forgotten by hand"
		case g.Unjoined:
			how = "never joined"
		case g.Another(n):
			how = "was taken off the record"
		}
		all = append(all, Gone{Node: n, At: g.At.UTC(), How: how, Why: peers.Plain(g.Why), By: peers.Plain(g.By)})
	}
	slices.SortFunc(all, func(a, b Gone) int { return cmp.Or(b.At.Compare(a.At), strings.Compare(a.Node, b.Node)) })
	return all[:min(len(all), mostGone)]
}

// mostGone is how many of those that are gone a document names.
const mostGone = 100
