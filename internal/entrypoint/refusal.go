package entrypoint

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
)

// Refused is the exit status of a Refusal: EX_CONFIG of sysexits.h. What restarts the
// program can be told to stop there (systemd's RestartPreventExitStatus=78).
const Refused = 78

// A Refusal ends a start that no restart would end otherwise: a person has to act.
type Refusal struct {
	kind string // by which it is remembered on the volume; "": nothing on it is touched
	Err  error
}

// Kinds of refusals that are remembered.
const (
	gone           = peers.RefusedGone
	ruledOutVolume = peers.RefusedVolume
)

func (r *Refusal) Error() string { return r.Err.Error() }

func (r *Refusal) Unwrap() error { return r.Err }

// How long a program stays that is refused again. Docker restarts a container that always
// restarts at once when it has run for 10 s, and Swarm and systemd after a time of their
// own: it is up to the program that it does not go round and round.
const (
	firstPause = 2 * time.Second
	mostPause  = time.Minute
	forgotten  = 10 * time.Minute // a start this long after the last is a person's, who wants an answer
)

// linger returns the error that a start ended with: at once, unless it is the refusal that
// the last start ended with too. Then it first lets a while go by, that grows with each
// start and that a signal ends.
func linger(ctx context.Context, log *slog.Logger, dir statedir.Dir, err error) error {
	var r *Refusal
	if !errors.As(err, &r) {
		_ = dir.Remove("refused") // or the next refusal waits a while longer
		return err
	}
	if r.kind == "" {
		return err
	}
	now, again := time.Now(), 0
	if last, rerr := dir.Refused(); rerr == nil && last != nil && last.Why == r.kind && now.Sub(last.At).Abs() < forgotten {
		again = last.Again + 1
	}
	if werr := dir.WriteRefused(statedir.Refused{Why: r.kind, Again: again, At: now.UTC()}); werr != nil {
		log.Warn("cannot write down that this start was refused", "err", werr)
	}
	if pause := pauseBefore(again); pause > 0 {
		log.Error("refused as at the last start: exiting in a while, as no restart changes it", "exits_in", pause, "why", r.kind)
		t := time.NewTimer(pause)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	return err
}

// pauseBefore is how long the program stays that was refused again so many times.
func pauseBefore(again int) time.Duration {
	pause := time.Duration(0)
	for range again {
		if pause = max(2*pause, firstPause); pause > mostPause {
			return mostPause
		}
	}
	return pause
}
