package admin

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"rmq-entrypoint/internal/companion"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/overview"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/lock"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// StatusJSON prints what the companion of this node says of it, as JSON. The error says whether
// the node is fit, as that of [Status] does.
func StatusJSON(ctx context.Context, cfg config.Config, out io.Writer) error {
	rt, err := statedir.OfServer(cfg)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	case rt == nil:
		return fmt.Errorf("no server was ever started on this volume (%s)", cfg.Data)
	case !rt.Alive():
		return fmt.Errorf("the server (pid %d) does not run", rt.PID)
	case rt.Waits():
		return fmt.Errorf("the server is not started, it waits for %s", rt.Waiting)
	}
	r, err := companion.Ask(ctx, rt.Config.StatusSocket())
	if err != nil {
		return fmt.Errorf("%w: the companion does not answer: %w", ErrUnknown, err)
	}
	if err := r.Print(out); err != nil {
		return err
	}
	return verdict(fit(r))
}

// fit says whether a companion has its node fit to serve.
func fit(r companion.Report) overview.Answer {
	if r.Ready() {
		return overview.Yes
	}
	return overview.No
}

// Status prints what an operator asks at 3 a.m.: this node, the volume, the
// record, who holds the lock, and what the catalog says. An error of [ErrSaid] says that the node
// is not fit, one of [ErrUnknown] that this, or what Consul knows, cannot be told. Where no server
// was ever started it is about the cluster.
func Status(ctx context.Context, cfg config.Config, out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%s\t%s\n", name, peers.Plain(fmt.Sprintf(format, args...))) // words of others are in it
	}
	rt, err := statedir.OfServer(cfg)
	differs := ""
	if of, ferr := ofServer(cfg, func(d string) { differs = d }); ferr == nil {
		cfg = of
	}
	is := overview.No
	row("node", "%s", cfg.Node)
	if differs != "" {
		row("settings", "differ: %s", differs)
	}
	switch {
	case err != nil:
		is = overview.Unknown
		row("server", "unknown: %v", err)
	case rt == nil:
		if !cfg.Single {
			is = look(ctx, cfg).Fit
		}
		row("server", "never started on this volume")
	case !rt.Alive():
		row("server", "not running (was pid %d)", rt.PID)
	case rt.Waits():
		row("server", "not started: waiting for %s", rt.Waiting)
	default:
		row("server", "RabbitMQ %s, pid %d, role %s", rt.Version, rt.PID, rt.Role)
		if r, err := companion.Ask(ctx, rt.Config.StatusSocket()); err != nil {
			is = overview.Unknown
			row("check", "unknown: the companion does not answer: %v", err)
		} else {
			is = fit(r)
			row("check", "%s since %s: %s", r.Status, when(r.Since), r.Reason)
			row("members", "%s", peers.Some(r.Members))
			row("running", "%s", peers.Some(r.Running))
			if r.Warning != "" {
				row("warning", "%s", r.Warning)
			}
			if !cfg.Single {
				row("heartbeat", "%s at Consul %s", when(r.Beat), cmp.Or(r.Consul, "none yet"))
			}
		}
	}
	statusVolume(ctx, cfg, row)
	if cfg.Single {
		row("consul", "not asked: a lone broker (--single, RMQ_SINGLE), in no cluster")
		return verdict(is)
	}
	if !statusConsul(ctx, cfg, row) && is == overview.Yes {
		is = overview.Unknown
	}
	return verdict(is)
}

// when is a time as people read it; there is none before the first.
func when(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Format(time.RFC3339)
}

func writtenBy(g peers.Gone) string {
	if g.By == "" {
		return ""
	}
	return ", written by " + g.By
}

func statusVolume(ctx context.Context, cfg config.Config, row func(string, string, ...any)) {
	state, err := statedir.Of(cfg).Inspect()
	switch {
	case err != nil:
		row("volume", "unknown: %v", err)
	case state.Role == "":
		row("volume", "blank (%s)", cfg.Data)
	case state.Role == statedir.Lone:
		row("volume", "a lone broker's (--single), volume %s (%s)", state.Volume, cfg.Data)
	case state.Cluster != "":
		row("volume", "%s of cluster %s, volume %s (%s)", state.Role, state.Cluster, state.Volume, cfg.Data)
	default:
		row("volume", "%s, never verified (%s)", state.Role, cfg.Data)
	}
	// In a container of another image on this volume, as scripts/up runs it: may that start here?
	image, last := statedir.VersionsOfImage(os.Getenv), statedir.Of(cfg).LastRan()
	if image.Version == (rabbitconf.Version{}) {
		return
	}
	if why, _ := statedir.Jump(cfg, image, config.ServersVariables(ctx)); why != "" {
		row("upgrade", "refused: %s", why)
	} else if last.Version != (rabbitconf.Version{}) && last.Version != image.Version {
		row("upgrade", "not refused: %s ran last, this image has %s", last, image)
	}
}

// statusConsul reports whether Consul says what it knows of the cluster.
func statusConsul(ctx context.Context, cfg config.Config, row func(string, string, ...any)) (known bool) {
	client, err := consul.New(cfg, slog.New(slog.DiscardHandler)).Client(ctx)
	if err != nil {
		row("record", "unknown: %s", strings.ReplaceAll(err.Error(), "\n", "; "))
		return false
	}
	r, _, err := peers.ReadRecord(ctx, client, cfg.RecordKey())
	known = err == nil
	switch {
	case err != nil:
		row("record", "unknown: %v", err)
	case r.State == peers.Absent:
		row("record", "none (%s)", cfg.RecordKey())
	default:
		row("record", "%s since %s, cluster %s, seed %s (%s)", r.State, when(r.Since), cmp.Or(r.ClusterID, "-"), r.Seed, cfg.RecordKey())
		few(r.Names(), row, func(n string) { row("  member", "%s, volume %s", n, cmp.Or(r.Members[n], "not said yet")) })
		few(lastGone(r), row, func(n string) {
			g := r.Gone[n]
			row("  gone", "%s on %s: %s%s", n, when(g.At), g.Why, writtenBy(g))
		})
		for _, p := range r.Previous {
			row("  before", "cluster %s until %s", p.ClusterID, when(p.Until))
		}
	}
	switch o, held, err := lock.Holder(ctx, client, cfg.LockKey()); {
	case err != nil:
		row("lock", "unknown: %v", err)
	case !held:
		row("lock", "free")
	default:
		row("lock", "held by %s on %s since %s", o.Node, o.Host, when(o.Since))
	}
	all, _, err := peers.Entries(ctx, client, cfg.Service)
	if err != nil {
		known = false
		row("catalog", "unknown: %v", err)
	}
	few(all, row, func(p peers.Peer) {
		status := "critical"
		if p.Passing {
			status = "passing"
		}
		if p.Foreign() {
			row("catalog", "%s %s at %s: no node's, counts for nothing; to remove it, %s", p.Node, status, p.Address, p.Removal())
			return
		}
		row("catalog", "%s %s at %s, cluster %s", p.Node, status, p.Address, cmp.Or(p.ClusterID, "-"))
	})
	return known
}

// mostRows is how many nodes of a kind status lists; more than a cluster has, as a rule.
const mostRows = 20

// few has the first of them shown, and says how many more there are.
func few[T any](all []T, row func(string, string, ...any), show func(T)) {
	for _, one := range all[:min(len(all), mostRows)] {
		show(one)
	}
	if more := len(all) - mostRows; more > 0 {
		row("", "and %d more", more)
	}
}

// lastGone returns who is gone, those that went last first.
func lastGone(r peers.Record) []string {
	return slices.SortedFunc(maps.Keys(r.Gone), func(a, b string) int {
		return cmp.Or(r.Gone[b].At.Compare(r.Gone[a].At), strings.Compare(a, b))
	})
}
