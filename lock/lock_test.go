package lock_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/lock"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

const key = "rmq-entrypoint/rabbitmq/lock"

var (
	creates  = consultest.Request("PUT", "/v1/session/create")
	renewals = consultest.Request("PUT", "/v1/session/renew/")
	kvWrites = consultest.Request("PUT", "/v1/kv/")
	all      = func(*http.Request) bool { return true }
)

func TestAcquireWaitsItsTurn(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	first := acquire(t, consul.Client, options("a", nil))

	var log logged
	link := consultest.Proxy(t, consul.Addr)
	second := acquiring(t.Context(), consultest.Client(t, link.Addr, ""), options("b", &log))
	log.wait(t, `"msg":"waiting for the lock"`, `"holder":"rabbit@a"`, `"host":"host-a"`, `"session":"`+first.Session())
	until(t, "the waiting session is renewed", func() bool { return link.Count(renewals) > 0 })
	if holder, held, err := lock.Holder(t.Context(), consul.Client, key); err != nil || !held || holder.Node != "rabbit@a" || time.Since(holder.Since) > time.Minute {
		t.Errorf("held by %+v, %v, %v while rabbit@a held it", holder, held, err)
	}

	if err := first.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	released := time.Now()
	if got := <-second; got.err != nil {
		t.Fatal(got.err)
	}
	if took := time.Since(released); took > 4*time.Second { // less than one watch
		t.Errorf("took the lock %s after its release", took)
	}
	if holder, _, err := lock.Holder(t.Context(), consul.Client, key); err != nil || holder.Node != "rabbit@b" {
		t.Errorf("held by %+v, %v after rabbit@b took it", holder, err)
	}
}

func TestOneHolderAtATime(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	var holders atomic.Int32
	var wg sync.WaitGroup
	for i := range 5 {
		wg.Go(func() {
			for range 3 {
				l, err := lock.Acquire(t.Context(), consul.Client, options(fmt.Sprint(i), nil))
				if err != nil {
					t.Error(err)
					return
				}
				if n := holders.Add(1); n != 1 {
					t.Errorf("%d hold the lock", n)
				}
				holders.Add(-1)
				if err := l.Release(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := len(sessions(t, consul)); n != 0 {
		t.Errorf("%d sessions left behind", n)
	}
	if _, held, err := lock.Holder(t.Context(), consul.Client, key); held || err != nil {
		t.Errorf("held: %v, %v after the last release", held, err)
	}
}

func TestCancelledWaitLeavesNoSession(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	acquire(t, consul.Client, options("a", nil))

	t.Run("queueing", func(t *testing.T) {
		link := consultest.Proxy(t, consul.Addr)
		var log logged
		err := cancelled(t, link, &log, func() { log.wait(t, "waiting for the lock") })
		if !strings.Contains(err.Error(), "held by rabbit@a on host-a since 20") {
			t.Errorf("%v: does not say who holds the lock", err)
		}
		if ids := sessions(t, consul); len(ids) != 1 {
			t.Errorf("sessions %v, want the holder's", ids)
		}
	})
	t.Run("answers to create lost", func(t *testing.T) {
		link := consultest.Proxy(t, consul.Addr)
		link.LoseAnswer(1000, creates)
		var log logged
		cancelled(t, link, &log, func() { log.wait(t, "no answer from Consul") })
		if link.Count(creates) == 0 {
			t.Error("no session was created")
		}
		if ids := sessions(t, consul); len(ids) != 1 {
			t.Errorf("sessions %v, want the holder's", ids)
		}
	})
	t.Run("black hole from the start", func(t *testing.T) {
		link := consultest.Proxy(t, consul.Addr)
		link.Blackhole()
		var log logged
		cancelled(t, link, &log, func() { log.wait(t, "no answer from Consul") })
	})
	t.Run("black hole while queueing", func(t *testing.T) {
		link := consultest.Proxy(t, consul.Addr)
		var log logged
		cancelled(t, link, &log, func() { log.wait(t, "waiting for the lock"); link.Blackhole() })
	})
}

// Patience is with other holders, not with Consul.
func TestPatience(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	link := consultest.Proxy(t, consul.Addr)
	slow := consultest.Client(t, link.Addr, "")
	link.Delay(400 * time.Millisecond)
	opts := options("b", nil)
	opts.Patience = 700 * time.Millisecond
	l := acquire(t, slow, opts) // three calls of 400 ms
	link.Pass()
	if err := l.Release(t.Context()); err != nil {
		t.Fatal(err)
	}

	acquire(t, consul.Client, options("a", nil))
	began := time.Now()
	_, err := lock.Acquire(t.Context(), slow, opts)
	if took := time.Since(began); !errors.Is(err, lock.ErrHeld) || took < opts.Patience || took > opts.Patience+expect.Soon {
		t.Errorf("behind another: %v after %s", err, took)
	}
	if lock.Fatal(err) || !strings.Contains(err.Error(), "rabbit@a on host-a") {
		t.Errorf("%v", err)
	}
	if ids := sessions(t, consul); len(ids) != 1 {
		t.Errorf("sessions %v, want the holder's", ids)
	}
}

// cancelled cancels an Acquire through link once it is as far as reach says, and returns its error.
func cancelled(t *testing.T, link *consultest.Link, log *logged, reach func()) error {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	got := acquiring(ctx, consultest.Client(t, link.Addr, ""), options("b", log))
	reach()
	stop := errors.New("terminated")
	cancel(stop)
	start := time.Now()
	err := (<-got).err
	if !errors.Is(err, stop) {
		t.Errorf("%v, want the cause of the cancellation", err)
	}
	if took := time.Since(start); took > 4*time.Second { // two clean-ups of 0.8 s, not two calls of 3 s
		t.Errorf("ended %s after the cancellation", took)
	}
	return err
}

func TestLostAnswersAreLookedUp(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	link := consultest.Proxy(t, consul.Addr)
	created, taken := link.LoseAnswer(1, creates), link.LoseAnswer(1, kvWrites)
	l := acquire(t, consultest.Client(t, link.Addr, ""), options("a", nil))
	<-created.Done()
	<-taken.Done()
	if n := link.Count(kvWrites); n != 1 {
		t.Errorf("asked for the key %d times, want once and then a look", n)
	}
	if ids := sessions(t, consul); len(ids) != 1 || ids[0] != l.Session() {
		t.Errorf("sessions %v, want only %s", ids, l.Session())
	}
}

func TestQueueSurvivesErrors(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	first := acquire(t, consul.Client, options("a", nil))
	link := consultest.Proxy(t, consul.Addr)
	client := consultest.Client(t, link.Addr, "")
	errs := link.Answer(2, 500, "No cluster leader", creates)
	var log logged
	second := acquiring(t.Context(), client, options("b", &log))
	<-errs.Done()
	log.wait(t, "No cluster leader")
	log.wait(t, "waiting for the lock")
	link.Refuse()
	log.wait(t, "connection refused")
	link.Pass()
	for _, rule := range []*consultest.Rule{
		link.Answer(1, 500, "rpc error", all), link.Answer(1, 503, "not now", all), link.Answer(1, 429, "not so fast", all),
		link.Answer(1, 500, "rpc error", renewals),
	} {
		<-rule.Done()
	}

	// The session vanishes: it queues again with another.
	for _, id := range sessions(t, consul) {
		if id != first.Session() {
			_, err := consul.Client.Session().Destroy(id, nil)
			must(t, err)
		}
	}
	log.wait(t, "opening another")
	must(t, first.Release(t.Context()))
	got := <-second
	must(t, got.err)
	if ids := sessions(t, consul); len(ids) != 1 || ids[0] != got.l.Session() {
		t.Errorf("sessions %v, want only %s", ids, got.l.Session())
	}
}

func TestQueueSurvivesConsulWithoutItsData(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	for range 50 { // an index well above a new Consul's
		_, err := consul.Client.KV().Put(&api.KVPair{Key: "noise"}, nil)
		must(t, err)
	}
	acquire(t, consul.Client, options("a", nil))
	var log logged
	second := acquiring(t.Context(), consul.Client, options("b", &log))
	log.wait(t, "waiting for the lock")
	consul.Restart()
	must(t, (<-second).err)
}

func TestColdConsul(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t, consultest.Persistent(), consultest.Cold())
	l := acquire(t, consul.Client, options("a", nil))

	// A restart shorter than the TTL costs nothing.
	kept := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { kept <- l.Keep(ctx) }()
	consul.Restart()
	if _, err := lock.Adopt(t.Context(), consul.Client, l.Session(), options("a", nil)); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-kept; err != nil {
		t.Error(err)
	}
}

// A leader that does not find the session yet takes nothing away.
func TestNewLeaderDoesNotFindTheSession(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	link := consultest.Proxy(t, consul.Addr)
	l := acquire(t, consultest.Client(t, link.Addr, ""), options("a", nil))
	rule := link.Answer(1, 404, "Session id '"+l.Session()+"' not found", renewals)
	kept := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { kept <- l.Keep(ctx) }()
	<-rule.Done()
	before := link.Count(renewals)
	until(t, "the session is renewed", func() bool { return link.Count(renewals) > before })
	cancel()
	if err := <-kept; err != nil {
		t.Error(err)
	}
}

func TestUncleanLossIsWaitedOut(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	opts := options("a", nil)
	opts.Delay = 2 * time.Second
	first := acquire(t, consul.Client, opts)
	_, err := consul.Client.Session().Destroy(first.Session(), nil)
	must(t, err)
	lost := time.Now()
	var log logged
	acquire(t, consul.Client, options("b", &log))
	log.wait(t, "a lock delay is running")
	if took := time.Since(lost); took < 1500*time.Millisecond || took > 14*time.Second {
		t.Errorf("took the lock %s after it was lost, with a lock delay of 2s; Consul's own is 15s", took)
	}
}

func TestAdopt(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	l := acquire(t, consul.Client, options("a", nil))
	link := consultest.Proxy(t, consul.Addr)
	link.Answer(1, 500, "No cluster leader", renewals)
	adopted, err := lock.Adopt(t.Context(), consultest.Client(t, link.Addr, ""), l.Session(), options("a", nil))
	must(t, err)
	must(t, adopted.Release(t.Context()))
	if _, held, err := lock.Holder(t.Context(), consul.Client, key); held || err != nil {
		t.Errorf("held: %v, %v after the adopter's release", held, err)
	}
	if _, err := lock.Adopt(t.Context(), consul.Client, l.Session(), options("a", nil)); !errors.Is(err, lock.ErrLost) {
		t.Errorf("adopted a destroyed session: %v", err)
	}
}

func TestKeep(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)

	t.Run("renews, and notices the loss", func(t *testing.T) {
		t.Parallel()
		link := consultest.Proxy(t, consul.Addr)
		var log logged
		opts := options("a", &log)
		opts.Key += "/noticed"
		l := acquire(t, consultest.Client(t, link.Addr, ""), opts)
		link.Answer(1, 500, "No cluster leader", renewals)
		kept := make(chan error, 1)
		go func() { kept <- l.Keep(t.Context()) }()
		log.wait(t, "cannot renew the lock", "renewed the lock again")
		if n := link.Count(renewals); n != 2 {
			t.Errorf("%d renewals, want one that failed and one that did not", n)
		}
		_, err := consul.Client.Session().Destroy(l.Session(), nil)
		must(t, err)
		if err := <-kept; !errors.Is(err, lock.ErrLost) {
			t.Errorf("%v, want ErrLost", err)
		}
	})
	t.Run("gives up in a black hole before the TTL", func(t *testing.T) {
		t.Parallel()
		link := consultest.Proxy(t, consul.Addr)
		before := time.Now()
		opts := options("a", nil)
		opts.Key += "/blackhole"
		l := acquire(t, consultest.Client(t, link.Addr, ""), opts)
		link.Blackhole()
		err := l.Keep(t.Context())
		if took := time.Since(before); !errors.Is(err, lock.ErrLost) || took > opts.TTL {
			t.Errorf("%v after %s, want ErrLost within the TTL of %s", err, took, opts.TTL)
		}
		if _, held, err := lock.Holder(t.Context(), consul.Client, opts.Key); !held || err != nil {
			t.Errorf("held: %v, %v: Consul gave the lock away before its holder gave up", held, err)
		}
	})
	t.Run("is not surprised by a release", func(t *testing.T) {
		t.Parallel()
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				opts := options("a", nil)
				opts.Key = fmt.Sprintf("%s/%d", key, i)
				l, err := lock.Acquire(t.Context(), consul.Client, opts)
				if err != nil {
					t.Error(err)
					return
				}
				kept := make(chan error, 1)
				go func() { kept <- l.Keep(t.Context()) }()
				// Some of these meet the renewal at a third of the TTL.
				<-time.After(opts.TTL/3 + time.Duration(i-4)*500*time.Microsecond)
				if err := errors.Join(l.Release(t.Context()), <-kept); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
}

func TestRefusedNamesTheRight(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t, consultest.ACL())
	const session = ` session_prefix "" { policy = "write" }`
	for right, client := range map[string]*api.Client{
		"session:write": consul.ClientFor(`key_prefix "" { policy = "write" }`),
		"key:read":      consul.ClientFor(session),
		"key:write":     consul.ClientFor(`key_prefix "" { policy = "read" }` + session),
		"":              consul.ClientFor(`key_prefix "rmq-entrypoint/" { policy = "write" }` + session),
	} {
		l, err := lock.Acquire(t.Context(), client, options("a", nil))
		if right == "" {
			must(t, err)
			must(t, l.Release(t.Context()))
			continue
		}
		var refused *lock.RefusedError
		if !errors.As(err, &refused) || !lock.Fatal(err) || !strings.HasPrefix(refused.Right, right) || !strings.Contains(err.Error(), right) {
			t.Errorf("%v, want a refusal that names %s", err, right)
		}
	}
	l := acquire(t, consul.Client, options("a", nil))
	if _, err := lock.Adopt(t.Context(), consultest.Client(t, consul.Addr, ""), l.Session(), options("a", nil)); !lock.Fatal(err) {
		t.Errorf("adopted without a token: %v", err)
	}
	if ids := sessions(t, consul); len(ids) != 1 {
		t.Errorf("sessions %v, want one", ids)
	}
}

func TestOptionsThatConsulWouldBend(t *testing.T) {
	for want, change := range map[string]func(*lock.Options){
		"lock TTL 9s":      func(o *lock.Options) { o.TTL = 9 * time.Second },
		"lock TTL 25h":     func(o *lock.Options) { o.TTL = 25 * time.Hour },
		"lock delay 0s":    func(o *lock.Options) { o.Delay = 0 },
		"lock delay 1m1s":  func(o *lock.Options) { o.Delay = 61 * time.Second },
		`lock key ""`:      func(o *lock.Options) { o.Key = "" },
		`lock key "/lock"`: func(o *lock.Options) { o.Key = "/lock" },
	} {
		opts := options("a", nil)
		change(&opts)
		if _, err := lock.Acquire(t.Context(), nil, opts); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %s…", err, want)
		}
	}
}
