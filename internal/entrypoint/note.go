package entrypoint

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
)

// refusedLife is how long the note of a refused start stays, and up to as long again: nobody
// renews it. leaveWithin bounds what a start that ends waits for that.
const (
	refusedLife = 10 * time.Minute
	leaveWithin = 2 * time.Second
)

// noteRefusal leaves a note of a start that was refused. It stays for a while after its process
// has ended.
func noteRefusal(ctx context.Context, rt statedir.Runtime, err error) {
	var r *Refusal
	if !errors.As(err, &r) || os.Geteuid() == 0 { // as root nothing on the volume is looked at
		return
	}
	note := consul.NoteOf(rt, peers.NoteRefused)
	note.Why, note.Kind = config.OneLine(err), cmp.Or(r.kind, peers.RefusedVersion)
	dir := statedir.Of(rt.Config)
	if found, err := dir.Inspect(); err == nil {
		note.Volume = found.Volume
	}
	if last, err := dir.Refused(); err == nil && last != nil && last.Why == r.kind {
		note.Again = last.Again + 1
	}
	leave(ctx, rt.Config, note, refusedLife)
}

// noteFailure leaves a note of a start that was refused, or came to nothing once it had begun to
// look for its cluster: of a mistake in the settings nothing gets to Consul.
func noteFailure(ctx context.Context, rt statedir.Runtime, err error) {
	switch {
	case err == nil:
	case errors.As(err, new(*Refusal)):
		noteRefusal(ctx, rt, err)
	default:
		note := consul.NoteOf(rt, peers.NoteFailed)
		note.Why = config.OneLine(err)
		leave(ctx, rt.Config, note, consul.NoteLife)
	}
}

// leave posts a note that nobody renews. A signal ends a start without one.
func leave(ctx context.Context, cfg config.Config, note peers.Note, life time.Duration) {
	ctx, done := context.WithTimeout(ctx, leaveWithin)
	defer done()
	client, err := consul.New(cfg, slog.New(slog.DiscardHandler)).Client(ctx)
	if err == nil {
		_, _ = peers.Post(ctx, client, cfg.NotesPrefix(), note, life)
	}
}
