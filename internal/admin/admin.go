// Package admin holds the commands for people, on a node that runs: drain, leave, forget,
// force-boot, forget-cluster, status, list and healthcheck. One command at a time works on a
// node, under the operator's lock.
package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/companion"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/hosts"
	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/lock"
	"rmq-entrypoint/peers"
)

// operator is one who works on a node that runs, from inside its container: with
// the settings its server was started with.
type operator struct {
	rt     statedir.Runtime
	broker rabbitmq.CLI
	out    io.Writer
	wait   time.Duration // that balancers get to see that the node is out of service
	force  bool
	held   *os.File // held to the end of the command: one at a time

	patience time.Duration // for replicas that do not move
}

// A Request is how an operator wants a node to be taken out of service.
type Request struct {
	Wait  time.Duration // that balancers get to see that it is, 0 or more
	Force bool          // also where that costs something
}

// operate finds the server that runs here, or says why there is nothing to work
// on, and waits for another command that works on it.
func operate(ctx context.Context, cfg config.Config, name string, asked Request, out io.Writer) (operator, error) {
	if err := stepDown(); err != nil {
		return operator{}, err
	}
	rt, err := statedir.OfServer(cfg)
	switch {
	case err != nil:
		return operator{}, err
	case rt == nil:
		return operator{}, fmt.Errorf("nothing to %s: no server was ever started on this volume (%s)", name, cfg.Data)
	}
	dir := rt.Config.StateDir
	held, err := statedir.TryLock(dir, statedir.OperatorLock)
	for told := false; errors.Is(err, statedir.ErrLocked) && ctx.Err() == nil; held, err = statedir.TryLock(dir, statedir.OperatorLock) {
		if !told {
			told = true
			fmt.Fprintln(out, "waiting for the end of another drain or leave of this node")
		}
		pause(ctx, 200*time.Millisecond)
	}
	switch {
	case err != nil:
		return operator{}, cmp.Or(context.Cause(ctx), err)
	}
	if err := hasWork(*rt, name); err != nil {
		return operator{}, err
	}
	return operator{rt: *rt, broker: rabbitmq.New(rt.Config.Node, rt.Config.LongNames, hosts.Environment(rt.Config)...), out: out, wait: asked.Wait, force: asked.Force, held: held, patience: leavePatience}, nil
}

// hasWork says why there is nothing yet, or no more, that a command of that name could work on.
func hasWork(rt statedir.Runtime, name string) error {
	switch {
	case rt.Config.Single:
		return fmt.Errorf("nothing to %s: %w", name, errAlone)
	case !rt.Alive():
		return fmt.Errorf("nothing to %s: the server (pid %d) does not run", name, rt.PID)
	case rt.Waits():
		return fmt.Errorf("nothing to %s: the server is not started, it waits for %s", name, rt.Waiting)
	case rt.Gated:
		return fmt.Errorf("nothing to %s: the server has started, and waits behind the gate: it is no member yet; rmq-entrypoint status says for what it waits", name)
	}
	return nil
}

// errAlone ends a command about a cluster on a node that is in none.
var errAlone = errors.New("this node is a lone broker (--single, RMQ_SINGLE), in no cluster and not in Consul; rmq-entrypoint status shows it, and stopping its container is all there is to do before it goes")

// stepDown makes this process the server's user, whom the files on the volume belong to.
func stepDown() error {
	uid, gid, groups, err := rabbitmq.IDs(rabbitmq.User)
	if err != nil && os.Geteuid() == 0 {
		return err
	}
	return config.WithSecrets(config.User{UID: uid, GID: gid, Groups: groups}, func() error { return rabbitmq.DropTo(rabbitmq.User) })
}

// AsServersUser steps down where that can be, also if a file of a secret cannot be read: its
// error matters to who needs that. Docker and people start commands as root, and what these
// look at is rabbitmq's, who may have put links there: so main calls it before any of them.
func AsServersUser() error {
	err := stepDown()
	if err != nil {
		_ = rabbitmq.DropTo(rabbitmq.User)
	}
	return err
}

// ofServer returns the settings for a command about this node: those of the server that runs
// here, or ran here last, but for what the command itself was given, which is told.
func ofServer(cfg config.Config, tell func(differs string)) (config.Config, error) {
	rt, err := statedir.OfServer(cfg)
	if rt == nil || err != nil {
		return cfg, err
	}
	merged, differs := cfg.Of(rt.Config)
	if len(differs) > 0 {
		tell(strings.Join(differs, "; "))
	}
	return merged, nil
}

// ofMember is ofServer for a command about a cluster.
func ofMember(cfg config.Config, tell func(differs string)) (config.Config, error) {
	cfg, err := ofServer(cfg, tell)
	if err == nil && cfg.Single {
		err = errAlone
	}
	return cfg, err
}

// toldOn tells on out which settings differ from the server's.
func toldOn(out io.Writer) func(string) {
	return func(differs string) {
		fmt.Fprintf(out, "this command's settings are not those of the server that runs here: %s\n", differs)
	}
}

func (o operator) say(format string, args ...any) {
	fmt.Fprintln(o.out, peers.Plain(fmt.Sprintf(format, args...)))
}

func (o operator) volume() statedir.Dir { return statedir.Of(o.rt.Config) }

// running returns the view of this node's server, whose RabbitMQ must run.
func (o operator) running(ctx context.Context) (peers.View, error) {
	v, err := o.broker.View(ctx, o.broker.Node)
	if err != nil {
		return v, fmt.Errorf("RabbitMQ is stopped here, or does not answer (rabbitmqctl start_app starts it): %w", err)
	}
	if !slices.Contains(v.Running, o.broker.Node) {
		return v, errors.New("RabbitMQ is stopped here (rabbitmqctl start_app starts it)")
	}
	return v, nil
}

// look makes the companion look for orders now rather than with its next beat.
func (o operator) look() { companion.Nudge(o.rt.Config) }

// underLock runs an operator's command on the record while nobody else changes
// it, if the cluster on record is the one that was meant.
func underLock(ctx context.Context, cfg config.Config, id string, do func(client *api.Client, session string, r peers.Record, index uint64) error) error {
	log := config.Logger(cfg)
	client, err := consul.New(cfg, log).Client(ctx)
	if err != nil {
		return err
	}
	l, err := lock.Acquire(ctx, client, consul.LockOptions(cfg, log))
	if err != nil {
		return err
	}
	var keeping sync.WaitGroup
	// Kept also after a signal, for do goes on where it cannot go back. A node that is out of reach is waited for.
	kctx, done := context.WithCancel(context.WithoutCancel(ctx))
	keeping.Go(func() { _ = l.Keep(kctx) })
	defer func() { done(); keeping.Wait(); _ = l.Release(ctx) }()
	r, index, err := peers.ReadRecord(ctx, client, cfg.RecordKey())
	if err != nil {
		return err
	}
	if err := onRecord(r, id); err != nil {
		return err
	}
	return do(client, l.Session(), r, index)
}

// onRecord refuses a command meant for another cluster than the one on record.
func onRecord(r peers.Record, id string) error {
	if r.State != peers.Formed || !r.Is(id) {
		return fmt.Errorf("--cluster-id %s is not the cluster on record, which is %s (members %s): see rmq-entrypoint status",
			id, cmp.Or(r.ClusterID, "none"), peers.Some(r.Names()))
	}
	return nil
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

// ErrSaid ends the program with status 1 when what there is to say was said.
var ErrSaid = errors.New("said")
