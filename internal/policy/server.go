package policy

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"rmq-entrypoint/healthcheck"
)

// Event is what a companion does about an event, besides the beat that follows.
type Event struct {
	Ready    bool    // what closed before is history, and the node is to be verified
	Withdraw bool    // the node from Consul
	Why      string  // the server stopped
	Boots    bool    // the server is heard for the first time: its Erlang VM runs
	Runs     bool    // that is a seed's: others may boot, being younger
	Mark     *Marker // to be written afterwards: until now this volume served
}

// Heard is what a message of the notify protocol makes of the state. While booting,
// STATUS is progress; once the server was ready, it is the first word of a stop.
func Heard(set Settings, s State, text string, now time.Time) (State, Event) {
	serving := s.Server.Phase == Serving
	ready, stopping, word := false, false, ""
	for line := range strings.Lines(text) {
		switch key, value, said := strings.Cut(strings.TrimSpace(line), "="); {
		case !said:
		case key == "READY" && value == "1":
			ready = true
		case key == "STOPPING" && value == "1":
			stopping = true
		case key == "STATUS" && serving:
			stopping = true
			if !strings.HasPrefix(value, "Startup") { // a server that stops goes through its boot's words backwards
				word = value
			}
		case key == "STATUS":
			word = value
		}
	}
	switch {
	case ready:
		return s.ready(), Event{Ready: true}
	case stopping:
		return stopped(set, s, cmp.Or(word, "stopping"), now)
	}
	first := word != "" && s.Server.Phase == Booting && !s.Server.Heard
	s.Server.LastStatus, s.Server.Heard = cmp.Or(word, s.Server.LastStatus), s.Server.Heard || word != ""
	return s, Event{Boots: first, Runs: first && s.Membership.Role == Seeding}
}

// Closed is what the end of the check's connection makes of the state.
func Closed(set Settings, s State, r healthcheck.Reason, now time.Time) (State, Event) {
	if !r.Stopping || s.Server.Phase != Serving {
		return s, Event{}
	}
	return stopped(set, s, r.Text, now)
}

// ready is a server that has become ready: the node is to be verified, and one that was
// withdrawn to be registered.
func (s State) ready() State {
	s.Entry.Pending = s.Server.Phase == Stopped
	s.Server.Phase, s.Server.AnsweredSince, s.Server.Located = Serving, Never, false
	s.Membership.Verified, s.Partition.Restarting = false, ""
	return s.healed()
}

// stopped is a server that stops: docker stop, stop_app, a pause in a minority and our own
// explicit join all look the same. READY brings it back.
func stopped(set Settings, s State, word string, now time.Time) (State, Event) {
	e := Event{Why: word, Withdraw: s.Server.Phase != Stopped}
	if s.Membership.Verified {
		m := NewMarker(set, s, now)
		e.Mark = &m
	}
	if e.Withdraw {
		s.Server.StoppedAt = now
	}
	s.Server.Phase, s.Server.LastStatus, s.Server.AnsweredSince = Stopped, "stopped ("+word+")", Never
	s.Membership.Verified = false
	s.Join.Deadline = now.Add(set.JoinTimeout)
	return s, e
}

// healed forgets what was wrong because of a partition.
func (s State) healed() State {
	if !s.Partition.Since.IsZero() {
		s.Partition.Since, s.Fault = Never, Fault{}
	}
	return s
}

// endStopFor is for how long stopHangs tries to end a stop that hangs.
const endStopFor = 48 * time.Second

// stopHangs ends a server that does not come to the end of its stop. Nodes that stop together
// lose their majority on the way, and what they still want to change waits for it, until the
// engine kills them. What a server has confirmed is on disk by then. A server whose application
// alone was stopped is none that stops.
func stopHangs(t *turn) Verdict {
	since := t.Seen.Now.Sub(t.State.Server.StoppedAt)
	if bound := t.StopBound(); since < bound || since >= bound+endStopFor || did[EndStop](t).Done {
		return Verdict{}
	}
	return do(EndStop{})
}

// servesUnheard takes a server for ready that serves and was not heard to say so: READY was
// lost, or said to an earlier companion, or only its listener was closed. At a boot the
// listeners open just before READY, and at a stop they close first as a rule, so AMQP must have
// answered for longer than a beat, unless READY was certainly missed.
func servesUnheard(t *turn) Verdict {
	server := &t.State.Server
	if t.Seen.Health.State == healthcheck.Critical {
		if q := elsewhere(t); q != nil {
			return ask(*q)
		}
		server.AnsweredSince = Never
		return Verdict{}
	}
	if server.AnsweredSince.IsZero() {
		server.AnsweredSince = t.Seen.Now
	}
	missed := t.Replaced && server.Phase == Booting
	if !missed && t.Seen.Now.Sub(server.AnsweredSince) <= t.Patience() {
		return Verdict{}
	}
	view := t.Seen.Nodes[t.Node].View
	switch {
	case !view.Asked:
		return ask(Question{What: AskView, Node: t.Node, Within: t.TTL / 2})
	case !slices.Contains(view.Value.Running, t.Node): // which it knows before it can read its data
		return Verdict{}
	case view.Value.Stops: // and comes to what listens last, or never
		return Verdict{}
	case len(view.Value.Listeners) == 0: // somebody else does, as while RabbitMQ is in maintenance mode
		return Verdict{}
	}
	const why = "RabbitMQ serves, and READY was not heard: verifying"
	t.say(Warn, why, "last_word", server.LastStatus)
	t.State = t.State.ready()
	return critical(why)
}

// soughtEvery is longer than a boot takes, and each look costs an Erlang VM.
const soughtEvery = time.Minute

// elsewhere has RabbitMQ say where it listens, and the check look there, at a boot that takes long
// or had another companion: READY may be lost, and the port be one that no file names. A joiner is
// looked for before its time is up.
func elsewhere(t *turn) *Question {
	server, own, every := &t.State.Server, t.Seen.Nodes[t.Node].View, soughtEvery
	if t.State.Membership.Role == Joining {
		every = min(every, t.JoinTimeout/3)
	}
	since := server.Started
	if !server.SoughtAt.IsZero() {
		since = server.SoughtAt
	}
	v := own.Value
	switch first := t.Replaced && server.SoughtAt.IsZero(); {
	case server.Phase != Booting:
	case own.Asked:
		server.SoughtAt = t.Seen.Now
		if len(v.Listeners) > 0 && slices.Contains(v.Running, t.Node) && !v.Stops && !t.Seen.Rechecked {
			return &Question{What: AskCheck}
		}
	case first, t.Seen.Began.Sub(since) > every:
		if within := t.TTL/2 - t.Seen.Now.Sub(t.Seen.Began); within > 0 { // for all questions: no beat is to cost the TTL
			return &Question{What: AskView, Node: t.Node, Within: within}
		}
	}
	return nil
}

// lastWord is what a node says of itself while RabbitMQ does not run.
func lastWord(t *turn) Verdict { return critical("%s", t.lastWord()) }

func (t *turn) lastWord() string {
	if why := t.State.Partition.Restarting; why != "" {
		return why + ": " + t.State.Server.LastStatus
	}
	return t.State.Server.LastStatus
}

// checkFails: RabbitMQ does not serve clients. A partition is healed all the same.
func checkFails(t *turn) Verdict {
	r := t.Seen.Health
	if anyDid[EndMaintenance](t) && !t.Seen.Rechecked { // so far it was only seen that somebody listens
		return ask(Question{What: AskCheck})
	}
	if r.State != healthcheck.Critical {
		return Verdict{}
	}
	if q := locate(t); q != nil {
		return ask(*q)
	}
	if r.Draining && r.Listens && !t.Seen.Rechecked {
		switch open, q := takesClients(t); {
		case q != nil:
			return ask(*q)
		case open:
			return ask(Question{What: AskCheck})
		}
	}
	if t.State.Membership.Verified {
		v := partitionAnyway(t)
		if v.pending() {
			return v
		}
		if v.Reason != "" {
			return critical("%s; %s", r.Reason, v.Reason)
		}
	}
	return critical("%s", r.Reason)
}

// locate has RabbitMQ say where it listens, and the check look there, once after READY. Until
// then the check goes by the configuration, which has more sources than this program reads.
func locate(t *turn) *Question {
	own := t.Seen.Nodes[t.Node].View
	switch heard := len(own.Value.Listeners) > 0; {
	case t.State.Server.Located:
	case !own.Asked:
		return &Question{What: AskView, Node: t.Node, Within: t.Patience()}
	case heard && !t.Seen.Rechecked:
		return &Question{What: AskCheck}
	default:
		t.State.Server.Located = heard || own.Err == nil
	}
	return nil
}

// healthy: nothing is wrong but what the check says.
func healthy(t *turn) Verdict {
	t.State.Fault = Fault{}
	return Verdict{Status: t.Seen.Health.State.String(), Reason: t.Seen.Health.Reason}
}
