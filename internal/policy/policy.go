// Package policy decides what a companion does with what it sees of its node: rules in
// one order, without clock, network, disk or Erlang.
//
// [Decide] asks the rules of the node's phase one after the other. The first that speaks
// is the verdict: a question to be looked into, an action to be done, or the word that
// Consul, /status and the log are told. The world answers through the [Observation]
// alone, so a beat is a loop:
//
//	for range policy.MostSteps {
//		seen.Now = time.Now()
//		v := policy.Decide(settings, state, seen)
//		if ctx.Err() != nil && !v.Finish {
//			return // an event knows better
//		}
//		if v.Ask != nil { // AskAfresh: seen = seen.Afresh()
//			look(&seen, *v.Ask) // fills what was asked for; v.State and v.Log are dropped
//			continue
//		}
//		state = v.State
//		say(v.Log)
//		if v.Do == nil {
//			return v // the word
//		}
//		out := policy.Outcome{Rule: v.Rule, Action: v.Do, Err: do(v.Do)}
//		seen.Volume = readVolume()
//		state, seen, log = policy.Ended(settings, state, seen, out)
//		say(log)
//	}
//
// A verdict that ends in a question leaves no trace: when the answer is there, the rules
// are asked again from the first on, and come to the same question or further. What an
// action came to is noted at once by [Ended], whatever cuts the beat short.
//
// [Local] is the word before that, by what this host alone tells: it must never wait for Consul.
//
// A verdict that turns a server which boots, or has stopped, into one that serves ends that
// beat: the next one verifies it, as after READY.
//
// [NextChore] is the same for what a verified node does once it has told Consul how it
// is. [Heard] and [Closed] are what events make of a [State].
//
// To add a rule: a function in the file of its theme, a row in a list below, a row in that
// file's test, and a row in the table of docs/architecture.md. What a person should do about
// what it says goes into docs/operations.md.
package policy

import (
	"fmt"
	"slices"
	"time"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/peers"
)

// MostSteps is more than a beat needs, by far: eight questions, four members to be asked
// three each, a record that changes four times, and ten actions.
const MostSteps = 100

// Status of a node, in Consul's words.
const (
	Passing  = "passing"
	Warning  = "warning"
	Critical = "critical"
)

// Verdict is what to do next: Ask if it is set, else Do if it is set. Otherwise Status
// and Reason are the word on the node.
type Verdict struct {
	Rule string // that speaks
	Ask  *Question
	Do   Action

	// Finish: Do ends what was begun, so an event must not come between.
	Finish bool

	State          State // to go on from, unless Ask is set
	Status, Reason string
	Log            []Line   // to be said, unless Ask is set
	Lost           []string // members without which this node goes on only by force-boot
	Out            bool     // of service, by an operator's order
	Missed         error    // why Consul could not be asked

	// Again is after how long to look again, where that comes before the next heartbeat.
	Again time.Duration
}

// pending reports whether something is to be asked or done before there is a word.
func (v Verdict) pending() bool { return v.Ask != nil || v.Do != nil }

// Level of a line of the log, as log/slog counts them.
type Level int

const (
	Debug Level = -4
	Info  Level = 0
	Warn  Level = 4
	Error Level = 8
)

// Line is one line of the log.
type Line struct {
	Level Level
	Text  string
	Attrs []any // keys and values
	Once  bool  // only if the last such line was another one
}

// A rule has the zero Verdict for "nothing to say".
type rule struct {
	name string
	says func(*turn) Verdict
}

// A phase has its rules in order. Where all get their turn, the first word stands, and the
// others ask and act behind it.
type phase struct {
	rules []rule
	all   bool
}

var phases = map[Phase]phase{
	Serving: {rules: []rule{
		{"carryOnOrder", carryOnOrder},
		{"maintenance", maintenance},
		{"leaving", leaving},
		{"checkFails", checkFails},
		{"recordUnknown", recordUnknown},
		{"majorityLost", majorityLost},
		{"catalogUnknown", catalogUnknown},
		{"namesake", namesake},
		{"missingFromCatalog", missingFromCatalog},
		{"foreignEntry", foreignEntry},
		{"ttlLapsed", ttlLapsed},
		{"viewUnknown", viewUnknown},
		{"recordChanged", recordChanged},
		{"membership", membership},
		{"membersOnRecord", membersOnRecord},
		{"partition", partition},
		{"noMajority", noMajority},
		{"unseenMembers", unseenMembers},
		{"noLeader", noLeader},
		{"forgottenByHand", forgottenByHand},
		{"healthy", healthy},
	}},
	Booting: {rules: []rule{
		{"servesUnheard", servesUnheard},
		{"carryOnOrder", carryOnOrder},
		{"maintenance", maintenance},
		{"leaving", leaving},
		{"gate", gate},
		{"joinTimeout", joinTimeout},
		{"joinStalled", joinStalled},
		{"waitsForMembers", waitsForMembers},
		{"lastWord", lastWord},
	}},
	// After stop_app, or paused in a minority: an explicit join may have failed, and
	// members it waits for may have come back blank.
	Stopped: {all: true, rules: []rule{
		{"servesUnheard", servesUnheard},
		{"joinTimeout", joinTimeout},
		{"joinStalled", joinStalled},
		{"stopHangs", stopHangs},
		{"maintenance", maintenance},
		{"leaving", leaving},
		{"carryOnOrder", carryOnOrder},
		{"waitsForMembers", waitsForMembers},
		{"lastWord", lastWord},
	}},
}

// Decide returns what to ask or to do next, or the word on the node. It changes none of
// its arguments, and the same ones give the same verdict.
func Decide(set Settings, s State, seen Observation) Verdict {
	v := decide(set, s, seen)
	if seen.Kept && v.Ask == nil && !v.stands(s) {
		v = Verdict{Rule: v.Rule, Ask: &Question{What: AskAfresh}}
	}
	return v
}

func decide(set Settings, s State, seen Observation) Verdict {
	t := &turn{Settings: set, State: s, Seen: seen, out: seen.Volume.Maintenance.Value != nil, keeps: s.settled()}
	p := set.phases()[s.Server.Phase]
	if t.State.Server.Phase != Stopped {
		t.State.Majority.Lost = nil
	}
	t.seeGone()
	if by := ruleThatDid[Enroll](t); by != "" { // what comes before it has had its say, and has more with the next beat
		i := slices.IndexFunc(p.rules, func(r rule) bool { return r.name == by })
		p.rules, t.sought = p.rules[i:], true
	}
	var word Verdict
	for _, r := range p.rules {
		t.rule = r.name
		v := r.says(t)
		v.Rule = r.name
		if v.pending() {
			return t.verdict(v)
		}
		if v.Status == "" {
			continue
		}
		if word.Status == "" {
			word = v
		}
		if !p.all || t.State.Server.Phase != s.Server.Phase {
			break
		}
	}
	if t.State.Server.Phase != Stopped && !t.sought {
		t.State.Entry.MissingSince = Never
	}
	return t.verdict(word)
}

// Rules for what this host alone tells, in order: neither Consul nor another node is asked.
var local = []rule{
	{"checkFails", func(t *turn) Verdict {
		if r := t.Seen.Health; r.State == healthcheck.Critical {
			return critical("%s", r.Reason)
		}
		return Verdict{}
	}},
	{"partition", func(t *turn) Verdict {
		v := partitionAnyway(t)
		if v.Do != nil { // a beat does it, and says so, too
			v = critical("%s", t.State.Fault.Reason)
		}
		return v
	}},
	{"standsStill", func(t *turn) Verdict { return standsStill(t, t.State.Neighbours.Newcomers) }},
}

// Local is the word on a node that is known to be unfit before Consul is asked, or a question
// to this node's RabbitMQ on the way to it. The zero Verdict means that nothing is known to be
// wrong, and never that all is well. A beat comes to its own word with the same answers, so
// there is nothing to be done, and no state to go on from.
func Local(set Settings, s State, seen Observation) Verdict {
	t := &turn{Settings: set, State: s, Seen: seen}
	if s.Server.Phase != Serving {
		return Verdict{}
	}
	for _, r := range local {
		t.rule = r.name
		if v := r.says(t); v.Ask != nil || v.Status == Critical {
			return Verdict{Rule: r.name, Ask: v.Ask, Status: v.Status, Reason: v.Reason}
		}
		if !s.Membership.Verified { // it is unfit as it is
			break
		}
	}
	return Verdict{}
}

// turn is one run through the rules.
type turn struct {
	Settings
	State State
	Seen  Observation

	rule   string // whose turn it is
	log    []Line
	out    bool // of service, by an operator's order
	sought bool // this node's entry was looked for in the catalog
	keeps  bool // what an earlier beat read of record and catalog will do, unless they are to be fresh
}

func (t *turn) verdict(v Verdict) Verdict {
	v.State, v.Log, v.Lost, v.Out = t.State, t.log, t.State.Majority.Lost, t.out
	return v
}

func (t *turn) say(level Level, text string, attrs ...any) {
	t.log = append(t.log, Line{Level: level, Text: text, Attrs: attrs})
}

// once is what the log is told when it has changed.
func (t *turn) once(what, why string) {
	t.log = append(t.log, Line{Level: Info, Text: what, Attrs: []any{"why", why}, Once: true})
}

// record returns the record, or the question for it.
func (t *turn) record() (Record, *Question, error) {
	if !t.Seen.Record.Asked {
		return Record{}, &Question{What: AskRecord, Kept: t.keeps}, nil
	}
	return t.Seen.Record.Value, nil, t.Seen.Record.Err
}

// others returns the entries of other nodes, or the question for them.
func (t *turn) others() ([]peers.Peer, *Question, error) {
	if !t.Seen.Catalog.Asked {
		return nil, &Question{What: AskCatalog, Kept: t.keeps}, nil
	}
	return without(t.Seen.Catalog.Value, func(p peers.Peer) bool { return p.Node == t.Node }), nil, t.Seen.Catalog.Err
}

// A deed is what a rule had done in this beat.
type deed[A Action] struct {
	Action A
	Err    error
	Done   bool
}

// did returns the last action of that kind which the rule whose turn it is had done.
func did[A Action](t *turn) (d deed[A]) {
	for _, o := range t.Seen.Did {
		if a, ok := o.Action.(A); ok && o.Rule == t.rule {
			d = deed[A]{a, o.Err, true}
		}
	}
	return d
}

// ruleThatDid returns the rule that first had an action of that kind done in this beat; "": none.
func ruleThatDid[A Action](t *turn) string {
	for _, o := range t.Seen.Did {
		if _, ok := o.Action.(A); ok {
			return o.Rule
		}
	}
	return ""
}

// anyDid reports whether an action of that kind was done in this beat, by whatever rule.
func anyDid[A Action](t *turn) bool { return ruleThatDid[A](t) != "" }

func do(a Action) Verdict     { return Verdict{Do: a} }
func finish(a Action) Verdict { return Verdict{Do: a, Finish: true} }

func critical(format string, args ...any) Verdict {
	return Verdict{Status: Critical, Reason: fmt.Sprintf(format, args...)}
}

// without returns those of s that are not to be left out. s stays as it is.
func without[S ~[]E, E any](s S, out func(E) bool) S { return slices.DeleteFunc(slices.Clone(s), out) }
