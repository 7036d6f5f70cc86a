// Package formation takes a blank volume from "who is there?" to a plan: it observes, lets
// [peers.Decide] choose, and acts under the lock by compare-and-set.
package formation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/hosts"
	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/lock"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// repeatEvery is how often a waiting node repeats what it waits for.
const repeatEvery = 10 * time.Second

// helpAfter is how long members that hold the data are waited for before the node says what to do
// if they are gone for good: those that start at the same time come within seconds.
const helpAfter = 20 * time.Second

// Options is what a formation is handed. Nothing in it changes meanwhile.
type Options struct {
	Log        *slog.Logger
	Runtime    statedir.Runtime   // settings, and what tells this start from others
	Found      statedir.Found     // what the volume holds
	Image      rabbitconf.Version // of this node's RabbitMQ; zero: not known, which refuses nobody
	Agents     *consul.Agents
	DNS        peers.DNS
	CLI        rabbitmq.CLI
	Hosts      *hosts.File
	SetWaiting func(why string)                       // keeps the reason where a health check finds it
	IsDown     func(context.Context, peers.Peer) bool // whether a registered node is positively down
	Decide     func(peers.Observation) peers.Decision // nil: peers.Decide; another is the simulator's, to see it fail
}

// formation is one run: what it was handed, and what it remembers from one look to the next.
type formation struct {
	Options
	cfg       config.Config  // Runtime's
	volume    statedir.Found // Found, and what this run has written since
	dir       statedir.Dir   // where it writes that
	self      string         // own address as registered, once known
	namesakes namesakes
	waits     waits
	said      said
	failing   failing
	foreign   string // entries of others that the log has named
	announced bool   // this start's entry was made, and is to be withdrawn when nothing comes of it
	mixes     bool   // the operator allowed versions that cannot run together: they are not compared any more
}

// waits is what tells from one look to the next for how long something has been as it is.
type waits struct {
	lost lostSession
	answers
	dns    time.Time      // since when DNS gives what nobody else knows; zero: it does not
	away   time.Time      // since when members that hold the data are not there; zero: it waits for something else
	silent map[string]int // of the members that were asked: how often in a row they did not answer
	inDNS  []string       // what DNS gave when it answered last

	record, catalog uint64        // indexes at the last look
	between         time.Duration // its wait for a change
}

// heard notes whether a member that was asked answered.
func (w *waits) heard(node string, answered bool) {
	if w.silent == nil {
		w.silent = map[string]int{}
	}
	if w.silent[node]++; answered {
		delete(w.silent, node)
	}
}

// strangers takes one look, at which DNS gave what nobody else knows or not, and returns for
// how long it has.
func (w *waits) strangers(some bool, now time.Time) time.Duration { return since(&w.dns, some, now) }

// members takes one look, at which members that hold the data were all that was waited for, or
// not, and returns for how long they have been.
func (w *waits) members(away bool, now time.Time) time.Duration { return since(&w.away, away, now) }

// since keeps in from since when something holds, and returns for how long it has.
func since(from *time.Time, holds bool, now time.Time) time.Duration {
	switch {
	case !holds:
		*from = time.Time{}
		return 0
	case from.IsZero():
		*from = now
	}
	return now.Sub(*from)
}

// said is what the node last said that it waits for, when, and until when it waits. It says
// so at each change and every repeatEvery.
type said struct {
	why   string
	told  string // the same, with the way out where that was told
	at    time.Time
	until time.Time
}

// due reports whether why, with its way out, is to be said now, and takes it as said.
func (s *said) due(why, wayOut string, now time.Time) bool {
	if why+wayOut == s.told && now.Sub(s.at) < repeatEvery {
		return false
	}
	s.why, s.told, s.at = why, why+wayOut, now
	return true
}

// failing is what did not work at the last look. It is told when it begins, not at each look:
// its words may differ each time, by a port for instance.
type failing map[string]bool

// news reports whether what ended in err now, and had not the last time.
func (f *failing) news(what string, err error) bool {
	if *f == nil {
		*f = failing{}
	}
	was := (*f)[what]
	(*f)[what] = err != nil
	return err != nil && !was
}

// Plan is the decision carried out: what the server is started as.
type Plan struct {
	Role   statedir.Role
	Claim  string
	Volume string
	Peers  []string   // to join
	After  time.Time  // when the one of them that is alone started, by its clock; zero: none is alone, or it was not asked
	Queues string     // what queues are by default in the cluster to join; "": nobody says
	Aside  bool       // what RabbitMQ left of an unfinished start is in the way
	Blank  bool       // the volume counted as blank, though a founding was pending on it
	Gated  bool       // the server may boot, and waits behind the gate: whom it joins is not decided yet
	Waits  string     // for what, then
	Lock   *lock.Lock // held on: by a seed, until its cluster is announced
}

// Run takes a blank node from "who is there?" to a plan: it observes, lets [peers.Decide]
// choose, and acts under the lock by compare-and-set. It waits without the lock, on blocking
// queries. It returns an error when ctx ended or the wait timeout passed.
func Run(ctx context.Context, options Options) (p Plan, err error) {
	cfg := options.Runtime.Config
	f := formation{Options: options, cfg: cfg, volume: options.Found, dir: statedir.Of(cfg)}
	f.said.why = "an answer of Consul" // until the first look has come to something
	out, deadline := "", time.Now().Add(cfg.WaitTimeout)
	f.said.until = deadline
	waited := func(err error) error {
		return fmt.Errorf("waited %s (--wait-timeout, RMQ_WAIT_TIMEOUT) for %w%s", cfg.WaitTimeout, err, out)
	}
	outer := ctx
	defer func() {
		if err != nil {
			f.withdraw(outer)
		}
	}()
	ctx, cancel := context.WithDeadline(ctx, deadline) // also behind another's lock
	defer cancel()
	for {
		if outer.Err() != nil {
			return p, context.Cause(outer)
		}
		if ctx.Err() != nil {
			return p, waited(errors.New(f.said.why))
		}
		o := f.observe(ctx)
		if ctx.Err() != nil {
			continue
		}
		if err := errors.Join(o.Record.Err, o.Peers.Err); consul.Denied(err) {
			return p, err
		}
		if err := Reachable(o.Observation); err != nil {
			return p, err
		}
		if err := f.cannotMix(o.Observation); err != nil { // before anything is said of this node in Consul
			return p, err
		}
		d := f.choose(o.Observation)
		out = wayOut(d, o.Record.Value)
		help := "" // in the first seconds
		if f.waits.members(d.Members, time.Now()) >= helpAfter {
			help = out
		}
		act := d.Action != peers.Wait
		if act {
			plan, err := f.act(ctx, o, d)
			if err != nil && outer.Err() == nil && ctx.Err() != nil {
				return p, waited(err)
			}
			if lock.Fatal(err) {
				err = fmt.Errorf("%w (CONSUL_HTTP_TOKEN, CONSUL_HTTP_TOKEN_FILE)", err)
			}
			if err != nil && (ctx.Err() != nil || consul.Denied(err) || errors.Is(err, ErrStartAnew)) {
				return p, err
			}
			if plan != nil {
				return *plan, nil
			}
			if err == nil {
				continue
			}
			d = peers.Decision{Action: peers.Wait, Why: inTheWay(d.Action, err)}
		}
		if f.mayBoot(o, d) {
			plan, err := f.bootEarly(ctx, o, d.Why)
			if err == nil {
				return plan, nil
			}
			d.Why = inTheWay("boot", err)
		}
		f.tell(d.Why, help)
		f.wait(ctx, o, act)
	}
}

// wayOut says how to go on where members may never come that hold the data; "": what a node waits
// for may come by itself, or says it.
func wayOut(d peers.Decision, r peers.Record) string {
	if !d.Members {
		return ""
	}
	return fmt.Sprintf(": start them; if all of them are gone for good, rmq-entrypoint forget-cluster --cluster-id %s gives that cluster up, so that blank nodes found a new one", r.ClusterID)
}

// tell says what the node waits for, and the way out of that, if that is due.
func (f *formation) tell(why, wayOut string) {
	if f.said.due(why, wayOut, time.Now()) {
		f.SetWaiting(f.said.told) // first: who reads the log may ask the health check next
		f.Log.Info("waiting", "for", f.said.told, "exits_after", time.Until(f.said.until).Round(time.Second))
	}
}

// A volumeError is one of this node's own volume.
type volumeError struct {
	dir string
	err error
}

func (e *volumeError) Error() string { return fmt.Sprintf("write to %s: %v", e.dir, e.err) }
func (e *volumeError) Unwrap() error { return e.err }

// inTheWay says what a node waits for that could not act.
func inTheWay(act peers.Action, err error) string {
	if own := new(volumeError); errors.As(err, &own) {
		return fmt.Sprintf("its own volume to take a note before it may %s: make room on it, or make it writable (--state-dir, RMQ_STATE_DIR): %v", act, err)
	}
	return fmt.Sprintf("Consul or a peer to let it %s: %v", act, err)
}

func (f *formation) choose(o peers.Observation) peers.Decision {
	if f.Decide != nil {
		return f.Decide(o)
	}
	return peers.Decide(o)
}

// wait returns when something has changed that could change the decision, or let the node act on
// it at last.
func (f *formation) wait(ctx context.Context, o observation, act bool) {
	client, err := f.Agents.Client(ctx)
	if err != nil || !o.Record.Known() || !o.Peers.Known() {
		pause(ctx, time.Second)
		return
	}
	peers.Changed(ctx, client, f.cfg.RecordKey(), o.record, f.cfg.Service, o.catalog, f.waits.most(o, act || f.Runtime.Gated))
}

// The longest waits for a change in Consul, between two looks: a claim that dies, a lock that is let go of
// and a member that answers again are no change there.
const (
	mostWait    = 2 * time.Second
	mostBetween = 5 * time.Second // of looks at members that ask each of them, where nothing changes
)

// most is for how long to wait for a change in Consul after that look, at which the node was to act
// and could not, or only to wait.
func (w *waits) most(o observation, act bool) time.Duration {
	same := w.record == o.record && w.catalog == o.catalog
	w.record, w.catalog = o.record, o.catalog
	switch {
	case act || o.Joining || o.Record.Value.State != peers.Formed || o.Freed > 0 || slices.ContainsFunc(o.Namesakes.Value, peers.Peer.Lapsed): // a cluster may wait for a joiner's vote
		w.between = mostWait
	case len(o.Peers.Value)+len(o.Namesakes.Value) == 0:
		return repeatEvery
	case same:
		w.between = min(w.between+w.between/2, mostBetween)
	default:
		w.between = mostWait
	}
	return w.between
}

// pause waits for d, or less when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
