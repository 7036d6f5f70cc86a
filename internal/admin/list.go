package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"rmq-entrypoint/internal/companion"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/overview"
	"rmq-entrypoint/internal/statedir"
)

// ErrUnknown ends the program with status 2: what was asked cannot be told.
var ErrUnknown = errors.New("it cannot be told")

// List prints the whole cluster: a line a node, what is wrong, and whether one may be stopped. It
// asks the companion of the node that runs here, and where there is none, Consul. An error of
// [ErrSaid] or [ErrUnknown] says that the cluster is not fit, or that this cannot be told.
func List(ctx context.Context, cfg config.Config, machine bool, out io.Writer) error {
	if _, err := ofMember(cfg, func(string) {}); errors.Is(err, errAlone) {
		return err
	}
	d := look(ctx, cfg)
	write := d.Text
	if machine {
		write = d.JSON
	}
	if err := write(out); err != nil {
		return err
	}
	return verdict(d.Fit)
}

// verdict is the error by which a command's exit status says how that is.
func verdict(a overview.Answer) error {
	switch a {
	case overview.Yes:
		return nil
	case overview.No:
		return ErrSaid
	}
	return ErrUnknown
}

// look makes the document. A command that was told where to look does not ask the node beside it.
func look(ctx context.Context, cfg config.Config) overview.Document {
	elsewhere := false
	for _, flag := range []string{"consul", "service", "key-prefix"} {
		_, given := cfg.Flags[flag]
		elsewhere = elsewhere || given
	}
	silent := ""
	if rt, err := statedir.OfServer(cfg); !elsewhere && err == nil && rt != nil && rt.Alive() && !rt.Waits() {
		d, err := companion.AskCluster(ctx, rt.Config.StatusSocket())
		if err == nil && d.Cluster.One != "" {
			return d
		}
		silent = fmt.Sprintf("the companion of %s does not answer: %v", rt.Config.Node, err)
	}
	if of, err := ofServer(cfg, func(string) {}); err == nil {
		cfg = of
	}
	seen := overview.New(cfg, time.Now())
	client, err := consul.New(cfg, slog.New(slog.DiscardHandler)).Client(ctx)
	if err != nil {
		seen.Away(err)
	} else {
		seen.ReadAll(ctx, client, cfg)
		seen.Now = time.Now()
		seen.ReadAt = seen.Now
	}
	d := overview.Of(seen)
	if silent != "" {
		d.Problems = append(d.Problems, overview.Problem{Wrong: true, What: silent, Next: "rmq-entrypoint healthcheck, which starts another"})
		if d.Fit == overview.Yes {
			d.Fit = overview.No
		}
	}
	return d
}

// watchEvery is how often --watch looks again.
const watchEvery = 2 * time.Second

// Watch has show print again and again, each time on a cleared screen where out is a terminal,
// until ctx ends. Then the error is that of what was shown last: what the end itself cut short is
// not shown.
func Watch(ctx context.Context, out io.Writer, terminal bool, show func(out io.Writer) error) (err error) {
	for {
		screen := newScreen(out, terminal)
		said := show(screen)
		if ctx.Err() != nil {
			return err
		}
		err = said
		if werr := screen.flush(); werr != nil {
			return werr
		}
		if pause(ctx, watchEvery); ctx.Err() != nil {
			return err
		}
	}
}
