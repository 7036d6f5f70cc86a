package consul

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"time"

	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
)

// A node without an entry in the catalog leaves a note in Consul, for people who look at the whole
// cluster. It is no part of any decision, and holds none up: what cannot be written is not there.
const (
	NoteLife  = 30 * time.Second // of a note that is renewed, or of a start that failed
	noteAfter = time.Second      // a node that waits no longer leaves none
	noteAgain = time.Minute      // after Consul did not take one
	noteEnd   = time.Second      // to take it back
)

// A Bulletin keeps the note of a node that waits, until it is closed. It is not the caller that
// waits for Consul.
type Bulletin struct {
	news chan string
	stop context.CancelFunc
	work sync.WaitGroup
}

// Post begins a bulletin, which has its own way to Consul.
func Post(ctx context.Context, rt statedir.Runtime) *Bulletin {
	ctx, stop := context.WithCancel(ctx)
	b := &Bulletin{news: make(chan string, 1), stop: stop}
	b.work.Go(func() { b.keep(ctx, rt) })
	return b
}

// Says has the note say what the node waits for.
func (b *Bulletin) Says(why string) {
	select {
	case <-b.news: // older news, which nobody has taken
	default:
	}
	b.news <- why
}

// Close takes the note back.
func (b *Bulletin) Close() {
	b.stop()
	b.work.Wait()
}

func (b *Bulletin) keep(ctx context.Context, rt statedir.Runtime) {
	cfg := rt.Config
	agents := New(cfg, slog.New(slog.DiscardHandler))
	note := NoteOf(rt, peers.NoteWaits)
	var posted *peers.Posted
	defer func() {
		if posted != nil {
			ctx, done := context.WithTimeout(context.WithoutCancel(ctx), noteEnd)
			defer done()
			_ = posted.Remove(ctx)
		}
	}()
	tick := time.NewTimer(noteAfter)
	defer tick.Stop()
	for {
		said := false
		select {
		case <-ctx.Done():
			return
		case note.Why = <-b.news:
			if said = true; posted == nil { // at the next tick
				continue
			}
		case <-tick.C:
			if note.Why == "" { // it waits for nothing
				tick.Reset(noteAfter)
				continue
			}
		}
		next := NoteLife / 3
		client, err := agents.Client(ctx)
		switch {
		case err != nil:
		case posted == nil:
			posted, err = peers.Post(ctx, client, cfg.NotesPrefix(), note, NoteLife)
		case said:
			err = posted.Say(ctx, note)
		default:
			err = posted.Renew(ctx)
		}
		if err != nil { // it may lack the right: it is not shown then
			posted, next = nil, noteAgain
		}
		tick.Reset(next)
	}
}

// NoteOf is what a note of this start says besides why.
func NoteOf(rt statedir.Runtime, state peers.NoteState) peers.Note {
	host, _ := os.Hostname()
	return peers.Note{Node: rt.Config.Node, Volume: rt.Volume, Boot: rt.Boot, Host: host, Version: rt.Version, State: state, Since: time.Now().UTC()}
}
