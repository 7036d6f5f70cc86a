package overview

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// A gauge is one series. What is not known has no value, and is left out: Unknown is never 0.
type gauge struct {
	labels []string // names and values
	value  float64
}

// Metrics writes the document in Prometheus' text format (version 0.0.4). It is written plainly:
// client_golang 1.25 adds 2.7 MiB to what a companion holds in memory, and all of this page 0.4.
func (d Document) Metrics(w io.Writer) error {
	var b strings.Builder
	family := func(name, help string, gauges ...gauge) {
		if len(gauges) == 0 {
			return
		}
		fmt.Fprintf(&b, "# HELP rmq_entrypoint_%s %s\n# TYPE rmq_entrypoint_%[1]s gauge\n", name, help)
		for _, g := range gauges {
			b.WriteString("rmq_entrypoint_" + name)
			for i := 0; i+1 < len(g.labels); i += 2 {
				b.WriteString(map[bool]string{true: "{", false: ","}[i == 0] + g.labels[i] + `="` + escaped.Replace(g.labels[i+1]) + `"`)
			}
			if len(g.labels) > 0 {
				b.WriteByte('}')
			}
			fmt.Fprintf(&b, " %v\n", g.value)
		}
	}
	if own := d.Own; own != nil {
		d.ofOwn(*own, family)
	}
	family("one_cluster", "1: all nodes are one cluster, 0: they are not; no value: that is not known", answer(d.Cluster.One)...)
	family("fit", "1: one cluster, and nothing is wrong; no value: that is not known", answer(d.Fit)...)
	family("may_stop_one", "1: a node may be drained and stopped now; no value: that is not known", answer(d.Stop.May)...)
	family("record_readable", "1: Consul gives the cluster record", truth(d.Facts.OnRecord >= 0))
	family("catalog_readable", "1: Consul gives the catalog", truth(d.Facts.Passing >= 0))
	var members []gauge
	for _, m := range []struct {
		as    string
		count int
	}{{"on_record", d.Facts.OnRecord}, {"listed", d.Facts.Listed}, {"running", d.Facts.Running}, {"passing", d.Facts.Passing}} {
		if m.count >= 0 {
			members = append(members, gauge{[]string{"as", m.as}, float64(m.count)})
		}
	}
	family("members", "Members: on record, listed by RabbitMQ, running for RabbitMQ, and passing in Consul's catalog", members...)
	if d.Facts.Partitions >= 0 {
		family("partitions", "Nodes that RabbitMQ on this one is partitioned from", gauge{value: float64(d.Facts.Partitions)})
	}
	family("nodes", "Nodes by state, those without an entry in Consul among them; no value: that is not known", d.states()...)
	family("lock_held", "1: somebody holds the founding's lock; no value: that is not known", answer(d.Lock.Held)...)
	family("starts_refused", "Starts that were refused, one after the other, of nodes that are refused now", d.refused()...)
	_, err := io.WriteString(w, b.String())
	return err
}

// states counts the nodes in each state, and leaves out the states of which it is not known who is in
// them. Notes alone tell of nodes that wait or were refused, and the catalog tells of the others. The
// node that is asked knows its own.
func (d Document) states() (gauges []gauge) {
	count, own := d.Facts.States, State("")
	for _, n := range d.Nodes {
		if d.Own != nil && n.Node == d.Own.Node && n.Since.Equal(d.Own.Since) { // and not of a namesake
			own = n.State
		}
	}
	for _, s := range []State{Serves, Unfit, Waits, Refused, Down, NotKnown} {
		catalog := d.Facts.Passing >= 0
		known := catalog && (d.Facts.Refused != nil || s != Waits && s != Refused)
		if known || !catalog && (s == own || s == NotKnown && count[s] > 0) {
			gauges = append(gauges, gauge{[]string{"state", string(s)}, float64(count[s])})
		}
	}
	return gauges
}

// ofOwn is of the node that is asked.
func (d Document) ofOwn(own Own, family func(name, help string, gauges ...gauge)) {
	serves := own.Status == "passing" || own.Status == "warning"
	family("info", "What the node is; always 1", gauge{[]string{"node", own.Node, "service", d.Cluster.Service, "role", own.Role, "rabbitmq_version", own.Version, "cluster_id", d.Cluster.ID}, 1})
	family("serving", "1: the node is fit to serve", truth(serves))
	family("verified", "1: the node was verified as a member since its server started", truth(own.Verified))
	family("out_of_service", "1: an operator took the node out of service", truth(own.Out))
	waiting := 0.0
	if !serves && !own.Since.IsZero() {
		waiting = d.At.Sub(own.Since).Seconds()
	}
	family("waiting_seconds", "For how long the node has not been fit to serve; 0: it is", gauge{value: waiting})
	if !own.Beat.IsZero() {
		family("heartbeat_age_seconds", "Since the last heartbeat that Consul took; no value: it took none yet", gauge{value: d.At.Sub(own.Beat).Seconds()})
	}
	if !own.Looked.IsZero() {
		family("look_age_seconds", "Since the companion last looked at the node", gauge{value: d.At.Sub(own.Looked).Seconds()})
	}
	family("warning", "1: the cluster is too small to survive the loss of a node", truth(own.Warning != ""))
	family("members_lost", "Members without which the node goes on only by force-boot", gauge{value: float64(len(own.Lost))})
}

// refused counts the starts that were refused, by reason.
func (d Document) refused() (gauges []gauge) {
	for _, reason := range slices.Sorted(maps.Keys(d.Facts.Refused)) {
		gauges = append(gauges, gauge{[]string{"reason", reason}, float64(d.Facts.Refused[reason])})
	}
	return gauges
}

func truth(is bool) gauge {
	if is {
		return gauge{value: 1}
	}
	return gauge{}
}

func answer(a Answer) []gauge {
	if a == Unknown {
		return nil
	}
	return []gauge{truth(a == Yes)}
}

// escaped is a label's value as the format has it.
var escaped = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)
