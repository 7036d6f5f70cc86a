package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"
)

// linearUpTo is how much more a node may cost in the largest fleet than in the smallest one, for the cost to be linear: what
// one run differs from the next by.
const linearUpTo = 1.15

// scaled measures fleets, and writes their table to out: of those that came to their end, when one does not.
func scaled(ctx context.Context, p plan, out io.Writer) error {
	before, err := load()
	if err != nil {
		return err
	}
	all, err := scale(ctx, p.fleets)
	if len(all) == 0 {
		return err
	}
	table := fleetTable(all, time.Now().UTC(), before)
	fmt.Fprint(out, table)
	if !p.write {
		return err
	}
	if werr := fleets.put(table); werr != nil {
		return errors.Join(err, werr)
	}
	say("wrote %s", document)
	return err
}

// put puts a text into the document at that place.
func (at place) put(text string) error {
	old, err := os.ReadFile(document)
	if err != nil {
		return fmt.Errorf("-write: %w", err)
	}
	changed, err := at.in(string(old), text)
	if err == nil {
		err = os.WriteFile(document, []byte(changed), 0o644) // #nosec G306 G703 -- documentation is for everybody to read
	}
	if err != nil {
		return fmt.Errorf("-write: %s: %w", document, err)
	}
	return nil
}

// fleetTable has a column for each fleet, and says whether the cost is linear.
func fleetTable(all []scaling, day time.Time, load float64) string {
	var b strings.Builder
	b.WriteString(wrap(fmt.Sprintf("Measured on %s on %d CPUs, which the nodes share with Consul, and whose load was %.2f before the first fleet.",
		day.Format("2006-01-02"), runtime.NumCPU(), load), ""))
	row := func(what string, cell func(scaling) string) {
		b.WriteString("| " + what + " |")
		for _, s := range all {
			b.WriteString(" " + cell(s) + " |")
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
	row("nodes", func(s scaling) string { return fmt.Sprint(s.Nodes) })
	b.WriteString("|---|" + strings.Repeat("---|", len(all)) + "\n")
	row("requests to Consul, in a second", func(s scaling) string { return number(s.Requests) })
	row("of a node, in a minute", func(s scaling) string { return number(s.Each) })
	row("of these answered by the leader alone", func(s scaling) string { return number(s.Leaders) })
	row("CPU of the leader, of one core", func(s scaling) string { return number(100*s.CPU) + " %" })
	row("memory of the leader", func(s scaling) string { return mebibytes.show(s.Memory) })
	row("a heartbeat: median, 95 %, longest", func(s scaling) string {
		return fmt.Sprintf("%s, %s, %s", short(s.Beats[0]), short(s.Beats[1]), short(s.Beats[2]))
	})
	row("connections of a node", func(s scaling) string { return number(s.Links) })
	row("open files of the server with the most", func(s scaling) string { return fmt.Sprint(s.Files) })
	// of is a fault that a fleet may not have come to, or not have got well from.
	broke := func(what string, of func(scaling) fault) {
		after := func(what string, cell func(fault) string) {
			row(what, func(s scaling) string {
				f := of(s)
				text := cell(f)
				switch {
				case f == (fault{}):
					return "not tried"
				case text == "–" && f.Never != "":
					return "not in time"
				}
				return text
			})
		}
		after(what, func(f fault) string { return short(f.Leader) })
		after("nodes that Consul does not hand out, most at a time", func(f fault) string { return fmt.Sprint(f.Unfound) })
		after("until it hands out all for good", func(f fault) string { return short(f.Whole) })
		after("entries besides that nodes had left with it, and until they are gone", func(f fault) string { return fmt.Sprintf("%d, %s", f.Left, short(f.Cleared)) })
		after("checks of nodes that lapsed", func(f fault) string { return fmt.Sprint(f.Lapsed) })
		after("until Consul has a report of each node", func(f fault) string { return short(f.Told) })
		after("nodes that stopped serving", func(f fault) string { return fmt.Sprint(f.Unready) })
		after("most requests in a second; refused in all", func(f fault) string { return fmt.Sprintf("%d; %d", f.Peak, f.Refused) })
	}
	broke("**The leader is killed**: there is another after", func(s scaling) fault { return s.Killed })
	broke("**The killed server returns**: there is a leader after", func(s scaling) fault { return s.Returned })
	broke("**All of Consul restarts**: there is a leader after", func(s scaling) fault { return s.Restarted })
	b.WriteString("\n" + wrap(linear(all[0], all[len(all)-1]), ""))
	return b.String()
}

// linear says what a node costs in the largest fleet, of what it costs in the smallest one.
func linear(least, most scaling) string {
	if least.Nodes == most.Nodes {
		return fmt.Sprintf("One fleet alone, of %d nodes, says nothing of how the cost grows.", most.Nodes)
	}
	requests, cpu := most.Each/least.Each, most.CPU/float64(most.Nodes)/(least.CPU/float64(least.Nodes))
	verdict := "The cost grows with the nodes and no faster."
	if requests > linearUpTo || cpu > linearUpTo {
		verdict = "**The cost grows faster than the nodes.**"
	}
	return fmt.Sprintf("%s A node of %d sends Consul %.2f times the requests of a node of %d, and takes %.2f times the CPU of its leader.",
		verdict, most.Nodes, requests, least.Nodes, cpu)
}

// short is a duration as it is read: milliseconds below a second, and none beside minutes.
func short(d time.Duration) string {
	switch {
	case d <= 0:
		return "–"
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Round(time.Millisecond)/time.Millisecond)
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
