package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/peers"
)

// RabbitMQ on Mnesia pauses in a minority when it takes the others for down. A cut
// that ends just then, about 75 s after it began, is over before that: the others
// are down and up again within a millisecond, nobody pauses, and Mnesia keeps the
// two sides apart for good. Where pause_minority is set, what it missed is made up
// for here: the smaller side restarts, inside its Erlang VM as RabbitMQ itself
// would, and the larger one serves on.

// The sides of a partition, of each member that answers.
type sides map[string]peers.Side

func (s sides) runs(m string) bool { return len(s[m].With) > 0 }

// supporters returns the members that count for m: those it runs with, and those that do
// not run, or do not answer, from which it was not partitioned. A majority of which one has
// stopped since is still what the others have to give way to.
func (s sides) supporters(m string, members []string) []string {
	return without(members, func(o string) bool {
		return !slices.Contains(s[m].With, o) && (s.runs(o) || slices.Contains(s[m].From, o))
	})
}

// outranks reports whether a goes on when a and b are apart: its side is the larger one, or
// of two alike the one with the first name.
func (s sides) outranks(a, b string, members []string) bool {
	as, bs := s.supporters(a, members), s.supporters(b, members)
	return cmp.Or(cmp.Compare(len(bs), len(as)), slices.Compare(as, bs), strings.Compare(a, b)) < 0
}

// outrankedBy returns the members that run apart from node and go before it. None: it goes
// on.
func (s sides) outrankedBy(node string, members []string) []string {
	return without(members, func(m string) bool {
		apart := !slices.Contains(s[m].With, node) || !slices.Contains(s[node].With, m)
		return m == node || !s.runs(m) || !apart || !s.outranks(m, node, members)
	})
}

// survivors returns the members that go on.
func (s sides) survivors(members []string) []string {
	return without(members, func(m string) bool { return !s.runs(m) || len(s.outrankedBy(m, members)) > 0 })
}

// restartEvery is how often RabbitMQ is restarted here at most: a network that comes and
// goes is not to be answered each time.
const restartEvery = time.Minute

// partitionAnyway heals a partition where the rest of the node cannot be judged, or is no
// better. It says nothing when there is none.
func partitionAnyway(t *turn) Verdict {
	if t.State.Membership.Role != Member {
		return Verdict{}
	}
	q, err := refreshView(t, t.State.View.RecordIndex, t.State.View.PassingPeers)
	switch {
	case q != nil:
		return ask(*q)
	case err != nil:
		return Verdict{}
	}
	return partition(t)
}

// partition: Mnesia keeps members apart. This node says what becomes of that, and restarts
// RabbitMQ if it is for it to do.
func partition(t *turn) Verdict {
	v, p, f := t.State.View.View, &t.State.Partition, &t.State.Fault
	if len(v.Partitions) == 0 {
		t.State = t.State.healed()
		return Verdict{}
	}
	node, s := t.Node, sides(v.Sides)
	if p.Since.IsZero() {
		p.Since = t.Seen.Now
	}
	*f = Fault{Reason: "partitioned from " + strings.Join(v.Partitions, ", ")}
	silent := without(v.Members, func(m string) bool { _, answers := s[m]; return answers })
	goesOn, majority := len(s.outrankedBy(node, v.Members)) == 0, 2*len(s[node].With) > len(v.Members)
	rival := slices.ContainsFunc(v.Partitions, func(m string) bool { return slices.Contains(silent, m) }) // may be one
	survivors := strings.Join(s.survivors(v.Members), ", ")
	restarts := fmt.Sprintf(": %s go on, RabbitMQ restarts here to be one of them", survivors)
	switch done, told := restarted(t); {
	case !v.Pauses:
		f.Reason += ": restart the smaller side, of two nodes one; or set cluster_partition_handling"
	case !s.runs(node):
		f.Reason += ": its Mnesia has stopped"
	// A network comes back in steps.
	case len(silent) > 0 && t.Seen.Now.Sub(p.Since) < 2*t.Patience(), goesOn && rival && !majority:
		f.Reason += fmt.Sprintf(", and %s do not answer", strings.Join(silent, ", "))
		f.Degraded = majority
	case goesOn: // a check that failed here, too, would leave clients without a node
		f.Reason += fmt.Sprintf(": %s go on, the others restart; if they do not, restart them", survivors)
		f.Degraded = true
	case done && told != nil:
		f.Reason += restarts + fmt.Sprintf(", which it cannot be told: %v", told)
	case done:
		f.Reason += restarts
	case t.Seen.Now.Sub(p.RestartedAt) < restartEvery:
		f.Reason += fmt.Sprintf(": %s go on; RabbitMQ restarted here at %s for that already, and does again after %s", survivors, p.RestartedAt.Format(time.TimeOnly), restartEvery)
	default:
		f.Reason += restarts
		a := RestartApp{survivors, p.RestartedAt}
		p.Restarting, p.RestartedAt = f.Reason, t.Seen.Now
		return do(a)
	}
	t.once("partitioned", f.Reason)
	word := critical("%s", f.Reason)
	if f.Degraded {
		word.Status = Warning
		if t.Seen.Health.State == healthcheck.Warning {
			word.Reason = t.Seen.Health.Reason + "; " + f.Reason
		}
	}
	return word
}

// restarted reports whether RabbitMQ was told to restart in this beat, and why it was not
// heard.
func restarted(t *turn) (done bool, told error) {
	for _, o := range t.Seen.Did {
		if _, ok := o.Action.(RestartApp); ok {
			done = true
			if told = o.Err; errors.Is(told, ErrNoAnswer) {
				told = nil
			}
		}
	}
	return done, told
}

// restarts: what does not answer in time may have heard it.
func (t *turn) restarts(a RestartApp, err error) {
	if err != nil && !errors.Is(err, ErrNoAnswer) {
		t.State.Partition.Restarting, t.State.Partition.RestartedAt = "", a.Before
		return
	}
	t.say(Warn, "partitioned, and RabbitMQ did not pause: it restarts here", "from", strings.Join(t.State.View.Partitions, ","), "go_on", a.Survivors)
}
