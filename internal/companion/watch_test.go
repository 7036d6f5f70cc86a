package companion

import (
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/policy"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

// watched is a companion that watches the Consul at addr, and what it hears of it.
func watched(t *testing.T, addr string) (c *companion, hears func(what string), hearsNothing func(what string)) {
	cfg := config.Config{Node: "r@a", TTL: 15 * time.Second, Consul: []string{addr}, Service: "watched", KeyPrefix: "rmq-entrypoint", StateDir: testVolume(t).State}
	c = companionFor(cfg, statedir.Runtime{}, nil)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	watch := c.watcher()
	go func() { defer close(ended); watch(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	hears = func(what string) {
		t.Helper()
		began := time.Now()
		select {
		case <-c.kept.news:
		case <-time.After(expect.Soon):
			t.Fatalf("%s: it hears nothing", what)
		}
		t.Logf("%s: heard after %s", what, time.Since(began).Round(time.Millisecond))
		if !c.kept.resend.Swap(false) {
			t.Errorf("%s: Consul is not told anew", what)
		}
	}
	hearsNothing = func(what string) {
		t.Helper()
		select {
		case <-c.kept.news:
			t.Errorf("%s: it hears of that", what)
		case <-time.After(1500 * time.Millisecond):
		}
	}
	return c, hears, hearsNothing
}

// put replaces whatever is on record.
func put(t *testing.T, client *api.Client, key string, is peers.State) {
	t.Helper()
	_, index, err := peers.ReadRecord(t.Context(), client, key)
	expect.Must(t, err)
	r := peers.Record{State: is, ClusterID: "id", Members: map[string]string{"r@a": "v"}}
	if is == peers.Forming {
		r = peers.Record{State: is, Claim: peers.NewID(), Seed: "r@b", Session: "s", Members: map[string]string{"r@b": "w"}}
	}
	if ok, err := peers.WriteRecord(t.Context(), client, key, r, index, "", ""); err != nil || !ok {
		t.Fatal(ok, err)
	}
}

// A companion hears at once of what an earlier cluster has to object to, and of a Consul that
// answers again; and of nothing else.
func TestWatch(t *testing.T) {
	t.Parallel()
	agent := consultest.Start(t)
	link := consultest.Proxy(t, agent.Addr)
	c, hears, nothing := watched(t, link.Addr)
	key, client := c.Runtime.Config.RecordKey(), agent.Client
	hears("the first answer")
	put(t, client, key, peers.Formed)
	put(t, client, key, peers.Formed)
	nothing("a formed record")
	put(t, client, key, peers.Forming)
	hears("a claim")
	put(t, client, key, peers.Forming)
	hears("another claim")
	put(t, client, key, peers.Formed)
	nothing("it is formed")
	_, err := client.KV().Delete(key, nil)
	expect.Must(t, err)
	hears("no record")
	_, err = client.KV().Put(&api.KVPair{Key: "other", Value: []byte("x")}, nil)
	expect.Must(t, err)
	nothing("still none")
	put(t, client, key, peers.Forming)
	hears("a claim in its place")
	put(t, client, key, peers.Formed)
	link.Refuse()
	nothing("Consul is away")
	link.Pass()
	hears("it is back")
	agent.Restart()
	hears("Consul lost its data")
	put(t, client, key, peers.Forming)
	hears("a claim by who found no data")
}

// A snapshot that is restored takes Consul back behind the record, or behind a change of it, and
// breaks no connection. What was kept of it holds no more.
func TestWatchHearsOfARestore(t *testing.T) {
	t.Parallel()
	agent := consultest.Start(t)
	client := agent.Client
	c, hears, nothing := watched(t, agent.Addr)
	key := c.Runtime.Config.RecordKey()
	hears("the first answer")
	snapshot := func() io.ReadCloser {
		all, _, err := client.Snapshot().Save(nil)
		expect.Must(t, err)
		t.Cleanup(func() { all.Close() })
		return all
	}
	none := snapshot()
	put(t, client, key, peers.Formed)
	older := snapshot()
	put(t, client, key, peers.Formed)
	nothing("a formed record")
	for _, before := range []struct {
		what string
		all  io.Reader
	}{{"an older record", older}, {"none", none}} {
		read, index, err := peers.ReadRecord(t.Context(), client, key)
		expect.Must(t, err)
		c.kept.record.Keep(client, policy.Record{Record: read, Index: index}, max(index, 1))
		nothing("until its query stands")
		expect.Must(t, client.Snapshot().Restore(nil, before.all))
		hears(before.what)
		if _, ok := c.kept.record.Holds(client); ok {
			t.Errorf("%s: the record that was kept holds", before.what)
		}
	}
}

// What Consul may have lost it is told anew, though there is nothing new to say.
func TestToldAnewWhereInDoubt(t *testing.T) {
	t.Parallel()
	reports := 0
	c := told(t, func(http.ResponseWriter) { reports++ })
	for i, resend := range []bool{false, false, true, false} {
		c.kept.resend.Store(resend)
		c.tell(t.Context(), policy.Verdict{Status: policy.Critical, Reason: "booting"})
		if want := []int{1, 1, 2, 2}[i]; reports != want {
			t.Errorf("after %d: %d reports, want %d", i, reports, want)
		}
	}
}
