package entrypoint

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"rmq-entrypoint/internal/statedir"
)

// A start that is refused as the one before was stays for a while that grows to a minute,
// and anything else in between begins anew.
func TestLinger(t *testing.T) {
	volume, other := &Refusal{ruledOutVolume, errors.New("refused")}, &Refusal{gone, errors.New("it left")}
	log := slog.New(slog.DiscardHandler)
	dir := statedir.Dir{State: t.TempDir()}
	for i, c := range []struct {
		err  error
		rest time.Duration // between the last start's end and this one
		want time.Duration
	}{
		{err: volume},
		{err: volume, want: 2 * time.Second},
		{err: volume, want: 4 * time.Second},
		{err: volume, want: 8 * time.Second},
		{err: volume, rest: time.Minute, want: 16 * time.Second},
		{err: volume, want: 32 * time.Second},
		{err: volume, want: time.Minute},
		{err: volume, want: time.Minute},
		{err: other}, // another refusal
		{err: other, want: 2 * time.Second},
		{err: volume},
		{err: volume, want: 2 * time.Second},
		{err: errors.New("anything else")},
		{err: volume},
		{err: volume, want: 2 * time.Second},
		{err: &Refusal{Err: errors.New("the image")}}, // touches nothing
		{err: volume, want: 4 * time.Second},
		{err: volume, rest: time.Hour}, // a person's start
	} {
		synctest.Test(t, func(t *testing.T) {
			if last, err := dir.Refused(); err == nil && last != nil { // each bubble's clock begins anew
				last.At = time.Now().Add(-c.rest)
				if err := dir.WriteRefused(*last); err != nil {
					t.Fatal(err)
				}
			}
			began := time.Now()
			if err := linger(t.Context(), log, dir, c.err); err != c.err {
				t.Errorf("%d: %v", i, err)
			}
			if got := time.Since(began); got != c.want {
				t.Errorf("%d: it stayed for %s, want %s", i, got, c.want)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) { // a signal
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		if err := dir.WriteRefused(statedir.Refused{Why: volume.kind, Again: 9, At: time.Now()}); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_ = linger(ctx, log, dir, volume)
		if got := time.Since(began); got != time.Second {
			t.Errorf("with a signal after a second it stayed for %s", got)
		}
	})
	if d := pauseBefore(1 << 40); d != mostPause {
		t.Errorf("after very many: %s", d)
	}
}
