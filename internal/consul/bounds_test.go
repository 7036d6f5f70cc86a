package consul

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/expect"
)

// An answer without end is an error that says so, whatever it is an answer to, and takes no more
// memory than one that is within the bounds; also from an agent on a socket.
func TestAnswersWithoutEnd(t *testing.T) {
	t.Parallel()
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v1/txn") {
			w.WriteHeader(http.StatusConflict)
		}
		_, _ = io.WriteString(w, `[{"Name":"`)
		for line := strings.Repeat("a", 1<<16); ; {
			if _, err := io.WriteString(w, line); err != nil {
				return
			}
		}
	})
	s := httptest.NewServer(answer)
	t.Cleanup(s.Close)
	socket := filepath.Join(t.TempDir(), "consul.sock")
	l, err := net.Listen("unix", socket)
	expect.Must(t, err)
	on := &httptest.Server{Listener: l, Config: &http.Server{Handler: answer}}
	on.Start()
	t.Cleanup(on.Close)
	for _, addr := range []string{s.URL, "unix://" + socket} {
		client, err := DialConsul(addr)
		expect.Must(t, err)
		for what, ask := range map[string]func() error{
			"catalog": func() error { _, _, err := peers.Catalog(t.Context(), client, "rabbitmq", ""); return err },
			"record":  func() error { _, _, err := peers.ReadRecord(t.Context(), client, "record"); return err },
			"session": func() error { _, err := peers.SessionGone(t.Context(), client, "s"); return err },
			"write": func() error {
				_, err := peers.WriteRecord(t.Context(), client, "record", peers.Record{}, 0, "", "")
				return err
			},
		} {
			err := ask()
			for errors.Is(err, context.DeadlineExceeded) { // a busy machine does not read as much in time
				err = ask()
			}
			if err == nil || !strings.Contains(err.Error(), "has over 16 MiB") {
				t.Errorf("%s of %s: %v", what, addr, err)
			}
		}
	}
}

// What an error of Consul's says is short and has no control characters.
func TestWordsOfErrors(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = io.WriteString(w, "\x1b]0;pwned\a\nall is well"+strings.Repeat("a", 1<<20))
	}))
	t.Cleanup(s.Close)
	client, err := DialConsul(s.URL)
	expect.Must(t, err)
	_, _, err = peers.Catalog(t.Context(), client, "rabbitmq", "")
	if text := fmt.Sprint(err); len(text) > 3*mostError || strings.ContainsAny(text, "\x1b\a\n") || !strings.Contains(text, `\x1b]0;pwned\a\nall is well`) {
		t.Errorf("%d bytes: %.200q", len(text), text)
	}
}

// Who answers as Consul leads nobody elsewhere, and the token goes to nobody else. A path that is not
// clean is asked for again where it was, as Consul wants it.
func TestStays(t *testing.T) {
	t.Setenv("CONSUL_HTTP_TOKEN", "secret")
	led := make(chan string, 9)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		led <- r.Method + " " + r.URL.Path + " with " + r.Header.Get("X-Consul-Token")
	}))
	t.Cleanup(elsewhere.Close)
	agent := httptest.NewUnstartedServer(nil)
	agent.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, to := http.StatusTemporaryRedirect, "/v1/kv/clean"
		switch r.URL.Path {
		case to:
			_, _ = io.WriteString(w, "true")
			return
		case "/v1/kv/far":
			to = elsewhere.URL + "/v1/agent/self"
		case "/v1/kv/found":
			status, to = http.StatusFound, elsewhere.URL+to
		case "/v1/kv/scheme":
			to = "https://" + r.Host + to
		case "/v1/kv/changed":
			status = http.StatusSeeOther
		case "/v1/kv/round":
			to = r.URL.Path
		}
		http.Redirect(w, r, to, status)
	})
	agent.Start()
	t.Cleanup(agent.Close)
	client, err := DialConsul(agent.URL)
	expect.Must(t, err)
	for key, want := range map[string]string{"near": "", "far": "sends on to", "found": "sends on to", "scheme": "sends on to \"https://", "changed": "at last by GET", "round": "sends on 4 times"} {
		_, err := client.KV().Put(&api.KVPair{Key: key, Value: []byte("v")}, nil)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", key, err, want)
		}
	}
	select {
	case what := <-led:
		t.Errorf("another server got %s", what)
	default:
	}
}

// A long answer within the bounds arrives whole.
func TestLongAnswer(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "%q", strings.Repeat("a", mostAnswer-2))
	}))
	t.Cleanup(s.Close)
	client, err := DialConsul(s.URL)
	expect.Must(t, err)
	if leader, err := client.Status().Leader(); err != nil || len(leader) != mostAnswer-2 {
		t.Errorf("%d bytes, %v", len(leader), err)
	}
}

// A way of one's own keeps the bounds.
func TestDialOver(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = io.WriteString(w, strings.Repeat("a", 1<<20))
	}))
	t.Cleanup(s.Close)
	went := 0
	client, err := DialOver(s.URL, func(to *http.Transport) http.RoundTripper {
		return roundTrip(func(r *http.Request) (*http.Response, error) { went++; return to.RoundTrip(r) })
	})
	expect.Must(t, err)
	_, _, err = peers.ReadRecord(t.Context(), client, "record")
	if err == nil || len(err.Error()) > 2*mostError || went == 0 {
		t.Errorf("%d requests went that way: %.300v", went, err)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
