package overview

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"rmq-entrypoint/peers"
)

// JSON writes the document for programs.
func (d Document) JSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(d)
}

// Text writes the document for a terminal: a line for the cluster, a line a node, and what is
// wrong with what to do.
func (d Document) Text(out io.Writer) error {
	_, err := fmt.Fprintln(out, peers.Plain(d.Headline()))
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(cells ...string) {
		for i, c := range cells {
			if i > 0 {
				fmt.Fprint(w, "\t")
			}
			fmt.Fprint(w, peers.Plain(c))
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w)
	row("NODE", "STATE", "SINCE", "ROLE", "VERSION", "ADDRESS", "HEARTBEAT", "WHY")
	for _, n := range d.Nodes {
		row(n.Node, string(n.State), n.For(d.At), cmp.Or(n.Role, "-"), cmp.Or(n.Version, "-"), cmp.Or(n.Address, "-"), n.Heartbeat(d.At), inCell(n.Why))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if d.Cluster.More > 0 {
		fmt.Fprintln(out, d.others())
	}
	fmt.Fprintf(out, "\nmay one be stopped now? %s\n", peers.Plain(d.Stop.Line()))
	for _, g := range d.Gone[:min(len(d.Gone), mostShown)] {
		fmt.Fprintf(out, "gone: %s\n", peers.Plain(g.Line()))
	}
	if more := len(d.Gone) - mostShown; more > 0 {
		fmt.Fprintf(out, "gone: and %d more\n", more)
	}
	for _, p := range d.Problems {
		fmt.Fprintf(out, "%s: %s\n  next: %s\n", p.Kind(), peers.Plain(p.What), peers.Plain(p.Next))
	}
	return nil
}

// mostCell is how much of a reason a line of the table has; what is wrong is below in full.
const mostCell = 70 // characters

func inCell(why string) string {
	if runes := []rune(why); len(runes) > mostCell {
		return string(runes[:mostCell]) + "…"
	}
	return why
}

// mostShown is how many of those that are gone people get to see.
const mostShown = 10

// Headline is the cluster in a line.
func (d Document) Headline() string {
	c := d.Cluster
	serve := 0
	for _, n := range d.Nodes {
		if n.State == Serves {
			serve++
		}
	}
	text := map[Answer]string{Yes: "one cluster", No: "NOT ONE CLUSTER", Unknown: "ONE CLUSTER OR NOT IS UNKNOWN"}[c.One]
	text += fmt.Sprintf(": %s, %d of %d nodes serve", cmp.Or(c.Name, c.Service), serve, len(d.Nodes))
	if c.ID != "" {
		text += ", cluster " + c.ID
	}
	return text + fmt.Sprintf(" (record %s: %s; Consul was read %s)", c.Key, c.Record, ago(d.At, d.Read))
}

// others says how many nodes there are that have no row.
func (d Document) others() string {
	return fmt.Sprintf("and %d more are registered, which are no members", d.Cluster.More)
}

// Line says it in a line.
func (s Stop) Line() string {
	if s.May == Yes {
		return fmt.Sprintf("yes: %s, %s", peers.Some(s.Nodes), s.Why)
	}
	return fmt.Sprintf("%s: %s", s.May, s.Why)
}

// Line says who went, how and why.
func (g Gone) Line() string {
	text := fmt.Sprintf("%s %s on %s: %s", g.Node, g.How, g.At.Format(time.RFC3339), g.Why)
	if g.By != "" {
		text += ", written by " + g.By
	}
	return text
}

// Kind is problem or warning.
func (p Problem) Kind() string {
	if p.Wrong {
		return "problem"
	}
	return "warning"
}

// For is for how long a node has been as it is.
func (n Node) For(now time.Time) string {
	switch {
	case n.Since.IsZero():
		return "?"
	case n.AtLeast:
		return "≥ " + age(now, n.Since)
	}
	return age(now, n.Since)
}

// Heartbeat says when the last one was, or whether there are any.
func (n Node) Heartbeat(now time.Time) string {
	switch {
	case !n.Beat.IsZero():
		return ago(now, n.Beat)
	case n.Beats == Yes:
		return "within the TTL"
	case n.Beats == No:
		return "none"
	}
	return "?"
}

// ago is when that was.
func ago(now, then time.Time) string {
	if then.IsZero() {
		return "never"
	}
	return age(now, then) + " ago"
}

// age is how long ago that was, in the largest unit that says enough.
func age(now, then time.Time) string {
	switch d := now.Sub(then); {
	case d < time.Second:
		return "0s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	default:
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	}
}
