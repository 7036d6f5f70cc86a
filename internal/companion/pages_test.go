package companion

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/overview"
	"rmq-entrypoint/internal/policy"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/expect"
)

var operators = config.Config{Node: "rabbit@host-1.lan", TTL: 15 * time.Second, Service: "rabbitmq", KeyPrefix: "rmq-entrypoint", DNSDomain: "consul", Admin: "ops.example.org:15689"}

// operatorAsks is what the page answers.
func operatorAsks(c *companion, method, path, host string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, path, nil)
	req.Host = host
	w := httptest.NewRecorder()
	c.admin().ServeHTTP(w, req)
	return w
}

func TestPages(t *testing.T) {
	t.Parallel()
	c := companionFor(operators, statedir.Runtime{}, nil)
	c.showVerdict(policy.Verdict{Status: policy.Passing}, "answers", time.Now())
	for path, want := range map[string]struct{ kind, says string }{
		"/":        {"text/html; charset=utf-8", "<h1 class=\"unknown\">rabbitmq: unknown</h1>"},
		"/cluster": {"application/json", `"asked": "rabbit@host-1.lan"`},
		"/metrics": {"text/plain; version=0.0.4; charset=utf-8", "\nrmq_entrypoint_serving 1\n"},
	} {
		w := operatorAsks(c, "GET", path, "127.0.0.1:15689")
		if w.Code != 200 || w.Header().Get("Content-Type") != want.kind || w.Header().Get("Cache-Control") != "no-store" || !strings.Contains(w.Header().Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("%s: %d, %v", path, w.Code, w.Header())
		}
		expect.Says(t, w.Body.String(), want.says)
		for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT"} {
			if w := operatorAsks(c, method, path, "127.0.0.1"); w.Code != http.StatusMethodNotAllowed {
				t.Errorf("%s %s: %d", method, path, w.Code)
			}
		}
	}
	for _, path := range []string{"/status", "/ready", "/index.html", "/cluster/", "/metrics/x", "/favicon.ico"} {
		if w := operatorAsks(c, "GET", path, "127.0.0.1"); w.Code != http.StatusNotFound {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	// At the port of /ready, which balancers ask, there is none of this.
	for _, path := range []string{"/", "/cluster", "/metrics"} {
		w := httptest.NewRecorder()
		c.board.ready().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != http.StatusNotFound {
			t.Errorf("/ready's port answers %s: %d", path, w.Code)
		}
	}
}

// A stranger's page may lead a name of its own here, and read what is answered to it.
func TestPagesByName(t *testing.T) {
	t.Parallel()
	c := companionFor(operators, statedir.Runtime{}, nil)
	for host, code := range map[string]int{
		"127.0.0.1": 200, "127.0.0.1:15689": 200, "[::1]:15689": 200, "10.0.0.1:1": 200, "localhost:15689": 200, "rabbitmq1": 200, "HOST-1.lan:1": 200,
		"rabbitmq.service.consul:15689": 200, "rabbitmq.service.consul.": 200, "ops.example.org": 200, "x.localhost": 200,
		"evil.example.com": 421, "evil.example.com:15689": 421, "127.0.0.1.nip.io": 421, "notconsul": 200, "evil.notconsul": 421, "host-1.lan.evil.com": 421,
	} {
		if w := operatorAsks(c, "GET", "/cluster", host); w.Code != code {
			t.Errorf("%s: %d, want %d", host, w.Code, code)
		}
	}
}

// consulOf answers as Consul for a cluster of one, and counts what it is asked for. It hangs while
// stop is set.
func consulOf(t *testing.T, count *atomic.Int32, hangs *atomic.Bool) *api.Client {
	t.Helper()
	record, err := json.Marshal(peers.Record{State: peers.Formed, ClusterID: "id-1", Members: map[string]string{"rabbit@host-1.lan": "vol-1"}})
	expect.Must(t, err)
	answer := map[string]any{
		"/v1/kv/rmq-entrypoint/rabbitmq/cluster": []any{map[string]any{"Key": "rmq-entrypoint/rabbitmq/cluster", "Value": record, "ModifyIndex": 7}},
		"/v1/health/service/rabbitmq": []any{map[string]any{
			"Node": map[string]any{"Node": "agent-1"}, "Checks": []any{},
			"Service": map[string]any{"ID": "rabbitmq-1", "Address": "10.0.0.1", "Port": 5672, "Meta": map[string]string{"node": "rabbit@host-1.lan", "cluster_id": "id-1"}},
		}},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		count.Add(1)
		if hangs.Load() {
			<-r.Context().Done()
			return
		}
		if said, ok := answer[r.URL.Path]; ok {
			_ = json.NewEncoder(w).Encode(said)
			return
		}
		w.WriteHeader(http.StatusNotFound)
	}))
	t.Cleanup(server.Close)
	client, err := api.NewClient(&api.Config{Address: server.URL})
	expect.Must(t, err)
	return client
}

// However many ask, Consul is read once in a heartbeat; and what heartbeats read is not read again.
func TestGlimpseIsReadOnceInABeat(t *testing.T) {
	t.Parallel()
	var count atomic.Int32
	var hangs atomic.Bool
	g := newGlimpse(operators, time.Hour, time.Now())
	if d := g.document(t.Context(), Report{Node: "rabbit@host-1.lan"}); d.Cluster.One != overview.Unknown {
		t.Errorf("before a heartbeat: %+v", d.Cluster)
	}
	g.uses(consulOf(t, &count, &hangs))
	g.uses(nil) // Consul is away: the client stays
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { g.document(t.Context(), Report{Node: "rabbit@host-1.lan"}) })
	}
	all.Wait()
	d := g.document(t.Context(), Report{Node: "rabbit@host-1.lan"})
	if d.Cluster.One != overview.Yes || d.Cluster.ID != "id-1" || d.Lock.Held != overview.No || d.Read.IsZero() {
		t.Errorf("it is %+v, %+v", d.Cluster, d.Lock)
	}
	if n := count.Load(); n != 4 { // record, catalog, notes, lock
		t.Errorf("Consul was asked %d times", n)
	}

	g = newGlimpse(operators, time.Hour, time.Now())
	g.uses(consulOf(t, &count, &hangs))
	count.Store(0)
	g.sawRecord(t.Context(), peers.Record{State: peers.Formed, ClusterID: "id-2", Members: map[string]string{}}, nil, false)
	g.sawCatalog(t.Context(), []peers.Peer{}, nil)
	if d := g.document(t.Context(), Report{}); d.Cluster.ID != "id-2" || count.Load() != 2 {
		t.Errorf("after a heartbeat: %+v, and Consul was asked %d times", d.Cluster, count.Load())
	}
	g.wroteRecord()
	if d := g.document(t.Context(), Report{}); d.Cluster.ID != "id-1" || count.Load() != 3 {
		t.Errorf("after a write: %+v, and Consul was asked %d times", d.Cluster, count.Load())
	}
	// The spell of a node is its own, not of another container that waits for its name.
	g.seen.Notes.Value = []peers.Note{{Node: "rabbit@host-1.lan", Boot: "x", State: peers.NoteWaits}}
	serves := []peers.Peer{{Node: "rabbit@host-1.lan", ClusterID: "id-1", Passing: true, Beating: true}}
	g.sawCatalog(t.Context(), serves, nil)
	g.sawCatalog(t.Context(), serves, nil)
	if got := g.seen.Spells["rabbit@host-1.lan"].State; got != overview.Serves {
		t.Errorf("its spell is of one that %s", got)
	}
	g.seen.Notes.Value = nil
	ended, end := context.WithCancel(t.Context())
	end()
	g.sawRecord(ended, peers.Record{}, ended.Err(), false) // an event cut the heartbeat short
	g.sawCatalog(ended, nil, ended.Err())
	if d := g.document(t.Context(), Report{}); d.Cluster.One != overview.Yes {
		t.Errorf("after an event: %+v", d.Cluster)
	}
}

// What was kept of the record is shown, and is no word of Consul's now.
func TestKeptRecordIsNotRead(t *testing.T) {
	t.Parallel()
	var count atomic.Int32
	var hangs atomic.Bool
	c := companionFor(operators, statedir.Runtime{}, nil)
	defer c.kept.close()
	c.Consul.Current, c.Consul.Addr = consulOf(t, &count, &hangs), "consul"
	var seen policy.Observation
	c.askRecord(t.Context(), &seen, true)
	hangs.Store(true) // and so the query that stands
	g := c.board.cluster
	if seen.Kept || !seen.Record.Known() || g.seen.ReadAt.IsZero() {
		t.Fatalf("read: %+v, at %s", seen.Record, g.seen.ReadAt)
	}
	long := time.Unix(1, 0)
	g.seen.ReadAt, g.seen.Record = long, peers.Seen[peers.Record]{}
	c.askRecord(t.Context(), &seen, true)
	if !seen.Kept || g.seen.Record.Value.ClusterID != "id-1" || !g.seen.ReadAt.Equal(long) {
		t.Errorf("kept %t: %+v, read at %s", seen.Kept, g.seen.Record, g.seen.ReadAt)
	}
}

// A Consul that hangs keeps nobody waiting for longer than a moment, and then not at all until the
// next heartbeat would be due.
func TestGlimpseOfAConsulThatHangs(t *testing.T) {
	t.Parallel()
	var count atomic.Int32
	var hangs atomic.Bool
	g := newGlimpse(operators, time.Hour, time.Now())
	g.uses(consulOf(t, &count, &hangs))
	hangs.Store(true)
	d := g.document(t.Context(), Report{Node: "rabbit@host-1.lan", Status: policy.Passing})
	if d.Cluster.One != overview.Unknown || d.Nodes[0].State != overview.Serves {
		t.Errorf("it is %+v, %+v", d.Cluster, d.Nodes)
	}
	before := count.Load()
	if g.document(t.Context(), Report{}); count.Load() != before {
		t.Error("Consul is asked again at once")
	}
}

// Who hangs up while Consul is read makes nothing unknown to those that ask after him.
func TestGlimpseOfOneWhoHangsUp(t *testing.T) {
	t.Parallel()
	var count atomic.Int32
	var hangs atomic.Bool
	g := newGlimpse(operators, time.Hour, time.Now())
	g.uses(consulOf(t, &count, &hangs))
	gone, hangUp := context.WithCancel(t.Context())
	hangUp()
	g.document(gone, Report{})
	if d := g.document(t.Context(), Report{}); d.Cluster.One != overview.Yes || d.Lock.Held != overview.No || count.Load() != 4 {
		t.Errorf("the next one sees %+v, %+v, and Consul was asked %d times", d.Cluster, d.Lock, count.Load())
	}
}

// What the page needs of RabbitMQ's view is in the report, and what is known of others grows older.
func TestOwnReportInTheDocument(t *testing.T) {
	t.Parallel()
	r := Report{
		Node: "rabbit@a", Role: statedir.Member, Status: policy.Critical, Reason: "out of service", Members: []string{"a"}, Running: []string{"b"}, Partitions: []string{"c"},
		Khepri: true, Pauses: true, Verified: true, Out: true, Lost: []string{"d"}, Warning: "TWO", RabbitMQ: "4.3.6", Volume: "v", ClusterID: "id",
		Since: time.Unix(1, 0), Beat: time.Unix(2, 0), Looked: time.Unix(3, 0),
	}
	want := overview.Own{
		Node: "rabbit@a", Role: "member", Word: overview.Word{Status: "critical", Reason: "out of service", Since: time.Unix(1, 0), Beat: time.Unix(2, 0), Looked: time.Unix(3, 0)},
		Volume: "v", Version: "4.3.6", Verified: true, Out: true, Lost: []string{"d"}, Warning: "TWO",
		View: peers.View{ClusterID: "id", Members: []string{"a"}, Running: []string{"b"}, Partitions: []string{"c"}, Khepri: true, Pauses: true},
	}
	if got := fmt.Sprintf("%+v", *r.own()); got != fmt.Sprintf("%+v", want) {
		t.Errorf("%s\nwant\n%+v", got, want)
	}
}

// The address for operators is open where one is set. One that is taken is no reason not to serve.
func TestOpenForOperators(t *testing.T) {
	t.Parallel()
	cfg := operators
	cfg.StateDir, cfg.HTTP = t.TempDir(), "127.0.0.1:0"
	c := companionFor(cfg, statedir.Runtime{}, nil)
	c.show("booting")
	free := expect.Listen0(t)
	at := free.Addr().String()
	get := func() (int, error) {
		resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + at + "/cluster")
		if err != nil {
			return 0, err
		}
		return resp.StatusCode, resp.Body.Close()
	}
	log := new(lines)
	opens := func(admin string) func() {
		t.Helper()
		cfg.Admin = admin
		s, err := open(cfg, Answers{c.board.ready(), c.own(), c.admin()}, slog.New(slog.NewTextHandler(log, nil)))
		expect.Must(t, err)
		return func() { expect.Must(t, s.Close()) }
	}
	closes := opens(at) // which is taken
	d, err := AskCluster(t.Context(), cfg.StatusSocket())
	if err != nil || d.Asked != cfg.Node || d.Cluster.One != overview.Unknown {
		t.Errorf("this program's own commands: %+v, %v", d, err)
	}
	closes()
	expect.Says(t, log.text(), "RMQ_ADMIN", "address already in use")
	expect.Must(t, free.Close())
	for _, off := range []string{"off", ""} {
		closes = opens(off)
		if _, err := get(); err == nil {
			t.Errorf("%q: somebody answers", off)
		}
		closes()
	}
	closes = opens(at)
	if code, err := get(); code != 200 || err != nil {
		t.Errorf("it answers %d, %v", code, err)
	}
	closes()
	if _, err := get(); err == nil {
		t.Error("it is open after its end")
	}
}
