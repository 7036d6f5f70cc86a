package formation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/expect"
)

// Where there is no record, DNS is asked while Consul looks for the service: a resolver that takes
// long is not waited for twice. Where there is one, it is not asked.
func TestDNSIsAskedBesideTheCatalog(t *testing.T) {
	t.Parallel()
	for record, want := range map[string]bool{
		"": true,
		`{"state":"formed","cluster_id":"id","members":{"rabbit@b":"v"}}`: false,
	} {
		dialed := make(chan struct{})
		var once sync.Once
		agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch path := r.URL.Path; {
			case strings.HasPrefix(path, "/v1/kv/") && record == "":
				http.NotFound(w, r)
			case strings.HasPrefix(path, "/v1/kv/"):
				_ = json.NewEncoder(w).Encode(api.KVPairs{{Key: strings.TrimPrefix(path, "/v1/kv/"), Value: []byte(record), ModifyIndex: 7}})
			case strings.HasPrefix(path, "/v1/health/service/"):
				if want {
					select {
					case <-dialed:
					case <-time.After(expect.Soon):
						t.Error("the catalog was read first")
					}
				}
				_, _ = w.Write([]byte("[]"))
			case path == "/v1/status/leader":
				_, _ = w.Write([]byte(`"10.0.0.1:8300"`))
			default:
				_, _ = w.Write([]byte("{}"))
			}
		}))
		defer agent.Close()
		cfg := config.Config{Service: "rabbitmq", Node: "rabbit@a", Consul: []string{agent.Listener.Addr().String()}, StateDir: t.TempDir(), TTL: 10 * time.Second, ClaimTimeout: time.Minute}
		log := slog.New(slog.DiscardHandler)
		refused := errors.New("refused")
		f := formation{cfg: cfg, Options: Options{
			Log: log, Runtime: statedir.Runtime{Config: cfg}, Agents: consul.New(cfg, log), SetWaiting: func(string) {},
			IsDown: func(context.Context, peers.Peer) bool { return false },
			DNS: peers.DNS{Server: "192.0.2.1:53", Domain: "consul", Dial: func(context.Context, string, string) (net.Conn, error) {
				once.Do(func() { close(dialed) })
				return nil, refused
			}},
		}}
		o := f.observe(t.Context())
		if o.Record.Err != nil || o.Peers.Err != nil {
			t.Fatalf("%v, %v", o.Record.Err, o.Peers.Err)
		}
		asked := false
		select {
		case <-dialed:
			asked = true
		default:
		}
		if asked != want || want != errors.Is(o.DNS.Err, refused) {
			t.Errorf("record %q: DNS was asked: %t, %v; want %t", record, asked, o.DNS.Err, want)
		}
	}
}

// A name server that gave a node which nobody else knows, and then fails, has not taken it back.
func TestDNSThatFailsTakesNothingBack(t *testing.T) {
	t.Parallel()
	f := formation{Options: Options{Log: slog.New(slog.DiscardHandler)}}
	failed := errors.New("no answer")
	var since time.Duration
	for i, look := range []struct {
		gives []string
		err   error
		known []peers.Peer
		want  string
	}{
		{nil, failed, nil, "unknown"},
		{[]string{"10.0.0.9:5672", "10.0.0.8:5672"}, nil, nil, "10.0.0.9:5672,10.0.0.8:5672"},
		{nil, failed, nil, "10.0.0.9:5672,10.0.0.8:5672"},
		{nil, failed, []peers.Peer{{Address: "10.0.0.9:5672"}}, "10.0.0.8:5672"},
		{nil, failed, nil, "10.0.0.9:5672,10.0.0.8:5672"},
		{nil, nil, nil, ""},
		{nil, failed, nil, "unknown"},
	} {
		is := f.strangersInDNS(func() ([]string, error) { return slices.Clone(look.gives), look.err }, look.known)
		got := strings.Join(is.Value.Addresses, ",")
		if !is.Known() {
			got = "unknown"
		}
		if got != look.want || look.want != "" && is.Known() && is.Value.For < since {
			t.Errorf("look %d: %q for %s, %v, want %q", i, got, is.Value.For, is.Err, look.want)
		}
		since = is.Value.For
	}
}

// DNS gives as many addresses, and the catalog as many entries, as somebody registers.
func TestManyInDNS(t *testing.T) {
	t.Parallel()
	const many = 60000
	f := formation{Options: Options{Log: slog.New(slog.DiscardHandler)}, self: "10.1.0.1:5672"}
	gives := []string{f.self, "10.0.0.9:5672"}
	var known []peers.Peer
	for i := range many {
		gives = append(gives, fmt.Sprintf("10.1.0.2:%d", i))
		known = append(known, peers.Peer{Address: gives[len(gives)-1]})
	}
	var is peers.Seen[peers.InDNS]
	expect.Ends(t, "comparing DNS and the catalog", func() { is = f.strangersInDNS(func() ([]string, error) { return gives, nil }, known) })
	if got := strings.Join(is.Value.Addresses, ","); !is.Known() || got != "10.0.0.9:5672" {
		t.Errorf("%v, %s", is.Err, got)
	}
}
