package peers_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

// liar answers each path that has one of these in it with the body, and everything else with
// what a Consul without entries says.
func liar(t *testing.T, answers map[string]string) *api.Client {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Consul-Index", "7")
		for part, body := range answers {
			if strings.Contains(r.URL.Path, part) {
				_, _ = io.WriteString(w, body)
				return
			}
		}
		switch {
		case strings.Contains(r.URL.Path, "/agent/"):
			_, _ = io.WriteString(w, "{}")
		case strings.Contains(r.URL.Path, "/kv/"):
			w.WriteHeader(http.StatusNotFound)
		default:
			_, _ = io.WriteString(w, "[]")
		}
	}))
	t.Cleanup(s.Close)
	client, err := api.NewClient(&api.Config{Address: s.URL})
	expect.Must(t, err)
	return client
}

// An answer that has nothing where it has to have something is unknown. It is no panic, and it
// never means that somebody or something is not there.
func TestHollowAnswers(t *testing.T) {
	t.Parallel()
	r := registration("rabbit@a", "10.0.0.1")
	one := fmt.Sprintf(`{"ID":%q,"Service":"x","Meta":{"node":"rabbit@a","boot":"other"}}`, r.ID())
	catalog := func(c *api.Client) error { _, _, err := peers.Catalog(t.Context(), c, service, ""); return err }
	record := func(c *api.Client) error { _, _, err := peers.ReadRecord(t.Context(), c, "k/record"); return err }
	session := func(c *api.Client) error { _, err := peers.SessionGone(t.Context(), c, "s"); return err }
	name := func(c *api.Client) error { return peers.NameFree(t.Context(), c, r, peers.Blank) }
	write := func(c *api.Client) error {
		ok, err := peers.WriteRecord(t.Context(), c, "k/record", peers.Record{}, 0, "", "")
		if ok {
			t.Error("a record was written of which Consul says nothing")
		}
		return err
	}
	for _, c := range []struct {
		path, body string
		ask        func(*api.Client) error
		fine       bool
	}{
		{"/none", "", catalog, true},
		{"/health/service", "null", catalog, false},
		{"/health/service", "[{}]", catalog, false},
		{"/health/service", "[null]", catalog, false},
		{"/health/service", `[{"Service":{}}]`, catalog, false},
		{"/health/service", `[{"Node":{},"Service":null}]`, catalog, false},
		{"/health/service", `[{"Node":{},"Service":{},"Checks":[null]}]`, catalog, false},
		{"/health/service", `[{"Node":{},"Service":{},"Checks":null}]`, catalog, true},
		{"/health/service", `[{"Node":{},"Service":{"Meta":null},"Checks":[{}]}]`, catalog, true},
		{"/none", "", record, true},
		{"/kv/", "null", record, false},
		{"/kv/", "[]", record, false},
		{"/kv/", "[null]", record, false},
		{"/kv/", "[{}]", record, false},
		{"/kv/", `[{"Key":"k/record","Value":null}]`, record, false},
		{"/kv/", `[{"Key":"k/record","Value":"bnVsbA=="}]`, record, false},
		{"/none", "", session, true},
		{"/session/info", "null", session, false},
		{"/session/info", "[null]", session, false},
		{"/none", "", name, true},
		{"/agent/services", "null", name, false},
		{"/agent/services", fmt.Sprintf("{%q:null}", r.ID()), name, false},
		{"/agent/services", fmt.Sprintf("{%q:%s}", r.ID(), one), func(c *api.Client) error { _ = name(c); return nil }, true},
		{"/txn", "null", write, false},
		{"/txn", "{}", write, false},
		{"/txn", `{"Results":null,"Errors":[null]}`, write, false},
	} {
		if err := c.ask(liar(t, map[string]string{c.path: c.body})); (err == nil) != c.fine {
			t.Errorf("%s answers %s: %v", c.path, c.body, err)
		}
	}
	// What the agent says of checks.
	failing := `[{"Node":{},"Service":{"ID":"x","Meta":{"node":"rabbit@b"}},"Checks":[{"Status":"critical"}]}]`
	if err := catalog(liar(t, map[string]string{"/health/service": failing, "/agent/checks": `{"x":null}`})); err == nil {
		t.Error("a check that is null is taken for one")
	}
	if err := name(liar(t, map[string]string{"/agent/services": fmt.Sprintf("{%q:%s}", r.ID(), one), "/agent/checks": `{"x":null}`})); err == nil {
		t.Error("a check that is null is taken for one of the own entry")
	}
}

// A Consul that is one says what it wrote.
func TestWrittenIsSaid(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	ok, answer, _, err := consul.Client.Txn().Txn(api.TxnOps{{KV: &api.KVTxnOp{Verb: api.KVCAS, Key: "k", Value: []byte("v")}}}, nil)
	if err != nil || !ok || len(answer.Results) != 1 || answer.Results[0] == nil {
		t.Errorf("%t, %+v, %v", ok, answer, err)
	}
}

// What anybody wrote into the catalog names a node, or is no node's entry; and is printed on one
// line, without control characters, and short.
func TestWordsOfEntries(t *testing.T) {
	t.Parallel()
	const evil = `\u001b]0;pwned\u0007\n\u001b[31mall is well\u202e`
	long := strings.Repeat("a", 100_000)
	entry := func(node string) string {
		name, err := json.Marshal(node)
		expect.Must(t, err)
		meta := fmt.Sprintf(`{"node":%s,"cluster_id":"%s","volume":"%s","boot":"%s","rabbitmq_version":"%s","default_queue_type":"%s"}`, name, evil, evil, long, evil, evil)
		return fmt.Sprintf(`{"Node":{"Node":"%s","Address":"%s"},"Service":{"ID":"%s","Port":1,"Meta":%s},"Checks":[]}`, evil, evil, evil+long, meta)
	}
	for _, name := range []string{"rabbit@a", "rabbit@x\x1b[2J", "rabbit", "--offline@x", "rabbit@a b", "rabbit@" + long} {
		client := liar(t, map[string]string{"/health/service": "[" + entry(name) + "]"})
		all, _, err := peers.Entries(t.Context(), client, service)
		if expect.Must(t, err); all[0].Foreign() != (name != "rabbit@a") {
			t.Errorf("%.40q: foreign: %t", name, all[0].Foreign())
		}
		if text := fmt.Sprintf("%+v %s %s", all[0], all[0].Describe(), all[0].WayOut()); strings.ContainsAny(text, "\x1b\a\n\u202e") || len(text) > 10_000 {
			t.Errorf("%.40q: %d bytes, %.300q", name, len(text), text)
		}
	}
}

func TestPlain(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                            "",
		"rabbit@a, “quoted” – ärger":  "rabbit@a, “quoted” – ärger",
		"a\nb\r\tc":                   `a\nb\r\tc`,
		"\x1b[2J\x9b\x00":             `\x1b[2J\ufffd\x00`,
		"\u009b31m\u202e\u200b\ufeff": `\u009b31m\u202e\u200b\ufeff`,
		`a\nb`:                        `a\nb`,
	} {
		if got := peers.Plain(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	var names []string
	for i := range 20_000 {
		names = append(names, fmt.Sprint("n", i))
	}
	if got := peers.Some(names); got != "n0, n1, n2, n3, n4, n5, n6, n7, n8, n9 and 19990 more" || peers.Some(names[:10]) != strings.Join(names[:10], ", ") {
		t.Error(got)
	}
}

// However many nodes come and go under names of their own, the record stays small, and those that
// went last are on it.
func TestRecordStaysSmall(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	now := time.Now()
	r := peers.Record{State: peers.Formed, ClusterID: "id", Members: map[string]string{"rabbit@a": "v"}, Gone: map[string]peers.Gone{}}
	add := func(gone map[string]peers.Gone, kind string, n int, g peers.Gone) {
		for i := range n {
			g.Volume, g.At, g.Why = peers.NewID(), now.Add(time.Duration(i)*time.Second), "left by rmq-entrypoint leave"
			gone[fmt.Sprintf("rabbit@%s%d", kind, i)] = g
		}
	}
	add(r.Gone, "left", 3000, peers.Gone{Left: true})
	add(r.Gone, "unjoined", 3000, peers.Gone{Unjoined: true})
	add(r.Gone, "lost", 3000, peers.Gone{MayReturn: true})
	for range 8 {
		p := peers.Previous{ClusterID: "old", Gone: map[string]peers.Gone{}}
		add(p.Gone, "old", 1000, peers.Gone{})
		r.Previous = append(r.Previous, p)
	}
	ok, err := peers.WriteRecord(t.Context(), consul.Client, "record", r, 0, "", "")
	if err != nil || !ok {
		t.Fatalf("%t, %v", ok, err)
	}
	pair, _, err := consul.Client.KV().Get("record", nil)
	expect.Must(t, err)
	is, _, err := peers.ReadRecord(t.Context(), consul.Client, "record")
	expect.Must(t, err)
	_, last := is.Gone["rabbit@left2999"]
	_, lost := is.Gone["rabbit@lost2999"]
	_, first := is.Gone["rabbit@lost0"]
	if len(pair.Value) > 300_000 || len(is.Gone) != 500 || !last || !lost || first || len(r.Gone) != 9000 {
		t.Errorf("%d bytes, %d gone, of %d", len(pair.Value), len(is.Gone), len(r.Gone))
	}
	if why := is.Refuses("rabbit@lost0", "any", "id"); why == "" {
		t.Error("one that is named no more may start beside the cluster")
	}
}
