// Package lock serialises cluster formation through one Consul key.
//
// A Lock is a Consul session plus a key held by it. The session outlives the process that opened it: whoever knows
// its id can [Adopt] it, which is how the entrypoint hands the lock to its companion before it becomes RabbitMQ.
//
// Consul's own api.Lock is not used: it drops a lock delay of 0, and gives up on the first 500 while it queues.
// When Consul no longer answers, it goes on believing in a lock that Consul has long given to somebody else.
package lock

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

const (
	callTimeout = 3 * time.Second        // for one answer of Consul, which may accept and never give it
	watchFor    = 5 * time.Second        // a blocking query's wait; a dead connection shows no later
	retryAfter  = 500 * time.Millisecond // between tries, also while a lock delay lasts
	sayEvery    = 10 * time.Second       // how often a wait that goes on is said again
	quitTimeout = 800 * time.Millisecond // for each clean-up of a cancelled wait: two must fit into 2 s
)

// Options describes the lock to take.
type Options struct {
	Key   string        // Consul key to hold
	Owner Owner         // stored at Key while it is held; Acquire fills in Since
	TTL   time.Duration // of the session, 10 s to 24 h (Consul's limits); Consul ends it at twice the TTL at the latest
	Delay time.Duration // how long Consul keeps Key closed after an unclean loss, 1 ms to 60 s (it takes 0 for 15 s)
	Log   *slog.Logger  // where waiting and retrying are reported; may be nil

	// Patience is how long to queue behind other holders before giving up with ErrHeld; 0 is for ever. Consul being
	// slow or away does not count.
	Patience time.Duration
}

// An Owner is who holds the lock, for those that wait for it: the value at the key, in JSON.
type Owner struct {
	Node  string    `json:"node"`  // RabbitMQ node name
	Host  string    `json:"host"`  // host or container it runs in
	Since time.Time `json:"since"` // when it took the lock, by its own clock
}

// A Lock is held until [Lock.Release], or until its session is lost.
type Lock struct {
	client   *api.Client
	opts     Options
	session  string
	renewed  time.Time     // when the last successful renewal was asked for; Keep's alone once it runs
	released chan struct{} // closed by the first Release
	once     sync.Once
}

// Acquire opens a session and waits until it holds the key, however long Consul or another holder takes. It reports
// every change of what it waits for to opts.Log, and every 10 s what has not changed.
//
// It ends early when ctx is done, with the cause and who held the lock, when opts.Patience has passed, with [ErrHeld],
// and with a [RefusedError], see [Fatal]. No session of its own is then left behind, except where Consul did not answer within 1 s: that one ends with its TTL.
// The lock is not renewed after Acquire has returned, until [Lock.Keep] runs.
func Acquire(ctx context.Context, client *api.Client, opts Options) (_ *Lock, err error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	name := fmt.Sprintf("%s %s %s", opts.Key, opts.Owner.Node, rand.Text()[:8]) // unique: see sweep
	told := &story{log: opts.Log.With("key", opts.Key)}
	stray := false // there may be a session of ours under that name whose id we do not know or no longer want
	defer func() {
		if err == nil {
			return
		}
		if stray {
			sweep(ctx, client, name, "")
		}
		err = fmt.Errorf("acquire %s%s: %w", opts.Key, told.heldBy(), err)
	}()

	for {
		l, err := open(ctx, client, name, opts)
		if err != nil {
			stray = true
			if err := told.retry(ctx, err); err != nil {
				return nil, err
			}
			continue
		}
		if stray {
			stray = !sweep(ctx, client, name, l.session)
		}
		switch err := l.queue(ctx, told); {
		case err == nil:
			return l, nil
		case errors.Is(err, ErrLost):
			stray = true
			told.log.Warn("lost the session while waiting for the lock, opening another", "session", l.session, "err", err)
		case ctx.Err() == nil:
			_ = l.Release(ctx)
			return nil, err
		default:
			_ = l.release(ctx, quitTimeout)
			return nil, err
		}
	}
}

// Adopt takes over a session that another process opened, renewing it once to prove that it is alive. It retries
// until ctx is done. Errors: [ErrLost] if the session is gone, or a [RefusedError].
func Adopt(ctx context.Context, client *api.Client, session string, opts Options) (*Lock, error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	l := newLock(client, opts, session, time.Now())
	told := &story{log: opts.Log.With("session", session)}
	for {
		err := l.renew(ctx)
		if err == nil {
			return l, nil
		}
		if err := told.retry(ctx, err); err != nil {
			return nil, fmt.Errorf("adopt session %s: %w", session, err)
		}
	}
}

// Holder returns who holds key, if anyone does. It asks once, for a consistent answer.
func Holder(ctx context.Context, client *api.Client, key string) (_ Owner, held bool, err error) {
	pair, _, err := read(ctx, client, key, 0, 0)
	if err != nil || pair == nil || pair.Session == "" {
		return Owner{}, false, err
	}
	return owner(pair), true, nil
}

// Session returns the id to pass to [Adopt].
func (l *Lock) Session() string { return l.session }

// Keep renews the session every third of its TTL, and every second while Consul is away. It returns nil when ctx is
// done or the lock was released, and [ErrLost] when Consul says that the session is gone, or when so long has passed
// on our own clock since the last renewal that it may be. Run one Keep at a time.
func (l *Lock) Keep(ctx context.Context) error {
	var failing error
	next := l.renewed.Add(l.opts.TTL / 3)
	for {
		lapse := l.renewed.Add(l.opts.TTL * 9 / 10)
		select {
		case <-ctx.Done():
			return nil
		case <-l.released:
			return nil
		case <-time.After(time.Until(earlier(next, lapse))):
		}
		asked := time.Now()
		if !asked.Before(lapse) {
			err := fmt.Errorf("%w: not renewed for %s", ErrLost, asked.Sub(l.renewed).Round(time.Millisecond))
			if failing != nil { // else this process did not run
				err = fmt.Errorf("%w: %v", err, failing)
			}
			return err
		}
		dctx, cancel := context.WithDeadline(ctx, lapse)
		err := l.renew(dctx)
		cancel()
		switch {
		case l.given(ctx):
			return nil
		case errors.Is(err, ErrLost):
			return err
		case err != nil:
			if failing == nil {
				l.opts.Log.Warn("cannot renew the lock, trying again", "session", l.session, "err", err)
			}
			next = asked.Add(time.Second)
		default:
			if failing != nil {
				l.opts.Log.Info("renewed the lock again", "session", l.session)
			}
			next = l.renewed.Add(l.opts.TTL / 3)
		}
		failing = err
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// given reports whether the lock is no longer wanted, so that its end is no loss.
func (l *Lock) given(ctx context.Context) bool {
	select {
	case <-l.released:
		return true
	case <-ctx.Done():
		return true
	default:
		return false
	}
}

// Release gives up the key, then destroys the session; in this order no lock delay begins. It works on a cancelled
// ctx, so that a shutdown can still clean up, takes at most 5 s, and may run while [Lock.Keep] does.
func (l *Lock) Release(ctx context.Context) error { return l.release(ctx, 5*time.Second) }

func (l *Lock) release(ctx context.Context, timeout time.Duration) error {
	l.once.Do(func() { close(l.released) })
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	_, _, err := l.client.KV().Release(&api.KVPair{Key: l.opts.Key, Session: l.session}, write(ctx))
	_, derr := l.client.Session().Destroy(l.session, write(ctx))
	return errors.Join(judge(err, "release "+l.opts.Key, "key:write"), judge(derr, "destroy session", "session:write"))
}

// open creates a session.
func open(ctx context.Context, client *api.Client, name string, opts Options) (*Lock, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	asked := time.Now()
	id, _, err := client.Session().CreateNoChecks(&api.SessionEntry{
		Name:      name,
		TTL:       opts.TTL.String(),
		LockDelay: opts.Delay,
		Behavior:  api.SessionBehaviorRelease,
	}, write(ctx))
	if err != nil {
		return nil, judge(err, "create session", "session:write")
	}
	return newLock(client, opts, id, asked), nil
}

// queue waits until l holds the key, and keeps the session meanwhile.
func (l *Lock) queue(ctx context.Context, told *story) error {
	ctx, lose := context.WithCancelCause(ctx)
	var keeping sync.WaitGroup
	defer keeping.Wait()
	defer lose(nil)
	keeping.Go(func() { lose(l.Keep(ctx)) })

	var index uint64
	var behind time.Time // since when others held it
	wait := watchFor
	for {
		pair, now, err := read(ctx, l.client, l.opts.Key, index, wait)
		if err == nil {
			changed := now != index
			index, wait = advance(index, now), watchFor
			switch {
			case pair != nil && pair.Session == l.session:
				return nil // a try whose answer did not arrive
			case pair != nil && pair.Session != "":
				told.waitFor(pair)
				if behind.IsZero() {
					behind = time.Now()
				}
				if l.opts.Patience > 0 {
					left := time.Until(behind.Add(l.opts.Patience))
					if left <= 0 {
						return fmt.Errorf("%w for %s", ErrHeld, l.opts.Patience)
					}
					wait = min(wait, left)
				}
				continue
			}
			told.free(changed)
			var taken bool
			if taken, err = l.take(ctx); taken {
				return nil
			}
			// Another was faster, and the index moves; or a lock delay runs, and nothing tells when it ends.
			wait = retryAfter
		}
		if err != nil {
			if err := told.retry(ctx, err); err != nil {
				return err
			}
			index = 0 // whatever became of the call, look at once
		}
	}
}

// take asks for the key. An error means that the key may be ours or not: look.
func (l *Lock) take(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	me := l.opts.Owner
	me.Since = time.Now().UTC().Truncate(time.Second)
	value, err := json.Marshal(me)
	if err != nil {
		return false, err
	}
	taken, _, err := l.client.KV().Acquire(&api.KVPair{Key: l.opts.Key, Value: value, Session: l.session}, write(ctx))
	return taken, judge(err, "take "+l.opts.Key, fmt.Sprintf("key:write on %q", l.opts.Key))
}

func (l *Lock) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	asked := time.Now()
	entry, _, err := l.client.Session().Renew(l.session, write(ctx))
	if err != nil {
		return judge(err, "renew session", "session:write")
	}
	if entry == nil {
		return l.missing(ctx)
	}
	l.renewed = asked
	return nil
}

// missing says what it means that Consul did not find the session: a leader that was just elected does not find what
// it has not read from its log yet (seen with 1.22), and only a consistent read waits for that.
func (l *Lock) missing(ctx context.Context) error {
	entry, _, err := l.client.Session().Info(l.session, (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx))
	switch {
	case err != nil:
		return judge(err, "read session", "session:read")
	case entry != nil:
		return errors.New("renew session: Consul did not find it, and then did")
	}
	return fmt.Errorf("%w: the session expired or was destroyed", ErrLost)
}

func newLock(client *api.Client, opts Options, session string, renewed time.Time) *Lock {
	return &Lock{client: client, opts: opts, session: session, renewed: renewed, released: make(chan struct{})}
}

// read returns what is at key, nil for nothing, and the index it is as of. With an index it waits for a later one.
func read(ctx context.Context, client *api.Client, key string, index uint64, wait time.Duration) (*api.KVPair, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, wait+wait/16+callTimeout) // Consul adds up to a sixteenth
	defer cancel()
	q := &api.QueryOptions{RequireConsistent: true, WaitIndex: index, WaitTime: wait}
	pair, meta, err := client.KV().Get(key, q.WithContext(ctx))
	if err != nil {
		return nil, 0, judge(err, "read "+key, fmt.Sprintf("key:read on %q", key))
	}
	return pair, meta.LastIndex, nil
}

// advance returns the index to wait for next. One that went back is of another history, as after a restore: from
// there Consul would wait for an index that may never come.
func advance(index, now uint64) uint64 {
	if now < index {
		return 0
	}
	return max(now, 1)
}

// sweep destroys our sessions of that name, except keep: a create may have succeeded although its answer did not
// arrive. It reports whether it could look.
func sweep(ctx context.Context, client *api.Client, name, keep string) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), quitTimeout)
	defer cancel()
	sessions, _, err := client.Session().List((&api.QueryOptions{RequireConsistent: true}).WithContext(ctx))
	for _, s := range sessions {
		if s != nil && s.Name == name && s.ID != keep {
			_, derr := client.Session().Destroy(s.ID, write(ctx))
			err = errors.Join(err, derr)
		}
	}
	return err == nil
}

func (o *Options) check() error {
	switch {
	case o.Key == "" || o.Key[0] == '/':
		return fmt.Errorf("lock key %q: empty or with a leading slash", o.Key)
	case o.TTL < 10*time.Second || o.TTL > 24*time.Hour:
		return fmt.Errorf("lock TTL %s: Consul takes 10s to 24h", o.TTL)
	case o.Delay < time.Millisecond || o.Delay > time.Minute:
		return fmt.Errorf("lock delay %s: Consul takes 1ms to 60s", o.Delay)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

func write(ctx context.Context) *api.WriteOptions { return new(api.WriteOptions).WithContext(ctx) }
