package peers

import (
	"cmp"
	"fmt"
	"maps"
	"strings"
	"time"
)

// byOperator begins the reason of a member that a command gave up for it, also in records
// of before they said by whom.
const byOperator = "given up by an operator"

// GivenUp is the reason on record of a member that `forget-cluster` gave up.
func GivenUp(command string) string { return fmt.Sprintf("%s (%s)", byOperator, command) }

// By returns the record with who took node off it, as a node's name or a command, and
// the host.
func (r Record) By(node, who string) Record {
	g, gone := r.Gone[node]
	if !gone {
		return r
	}
	r.Gone = maps.Clone(r.Gone)
	g.By = who
	r.Gone[node] = g
	return r
}

// Another reports whether somebody other than node took it off the record: whatever that
// was, it knew less of the node than a process of the node's own does.
func (g Gone) Another(node string) bool {
	rest, own := strings.CutPrefix(g.By, node)
	switch {
	case g.By == "":
		return strings.HasPrefix(g.Why, byOperator)
	case own && (rest == "" || strings.ContainsAny(rest[:1], " ,;:(")):
		return false
	}
	return true
}

// Told says how node went, when, by whose hand and why; from is what it was taken off.
func (g Gone) Told(node, from string) string {
	at := g.At.Format(time.RFC3339)
	switch {
	case g.Another(node):
		return fmt.Sprintf("%s was taken off %s on %s by %s (%s)", node, from, at, cmp.Or(g.By, "somebody else"), g.Why)
	case g.By != "":
		return fmt.Sprintf("%s took itself off %s on %s (%s; written by %s)", node, from, at, g.Why, g.By)
	}
	return fmt.Sprintf("%s took itself off %s on %s (%s)", node, from, at, g.Why)
}

// Reinstated returns the record with node back on it, on volume, and with those of the
// members that another's hand took off: the cluster was taken for gone, and it runs.
func (r Record) Reinstated(node, volume string, members []string) Record {
	r = r.With(node, volume)
	for _, m := range members {
		_, on := r.Members[m]
		if g, gone := r.Gone[m]; gone && !on && !g.Left && g.Another(m) {
			r = r.With(m, g.Volume)
		}
	}
	return r
}
