package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/overview"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/tests/expect"
)

// It is shown every two seconds until it is interrupted; the error is that of what was shown last.
func TestWatch(t *testing.T) {
	t.Parallel()
	for _, terminal := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			var out strings.Builder
			times := 0
			err := Watch(ctx, &out, terminal, func(w io.Writer) error {
				times++
				fmt.Fprintf(w, "look %d\n", times)
				return fmt.Errorf("%d", times)
			})
			if times != 3 || err == nil || err.Error() != "3" {
				t.Errorf("shown %d times, and ends with %v", times, err)
			}
			if strings.Count(out.String(), "\x1b[H\x1b[2J") != map[bool]int{true: 3}[terminal] || strings.Count(out.String(), "look ") != 3 {
				t.Errorf("terminal %t: %q", terminal, out.String())
			}
		})
	}
	interrupted, interrupt := context.WithCancel(t.Context())
	looks := 0
	synctest.Test(t, func(t *testing.T) {
		if err := Watch(interrupted, io.Discard, false, func(io.Writer) error {
			if looks++; looks == 1 {
				return ErrSaid
			}
			interrupt()
			return ErrUnknown // it was cut short
		}); err != ErrSaid {
			t.Errorf("interrupted while it looks: %v", err)
		}
	})
	closed := errors.New("closed")
	if err := Watch(t.Context(), broken{closed}, false, func(io.Writer) error { return nil }); !errors.Is(err, closed) {
		t.Errorf("nobody reads it: %v", err)
	}
}

type broken struct{ err error }

func (b broken) Write([]byte) (int, error) { return 0, b.err }

// Whoever answers beside this command is asked, also while the server waits behind the gate. A server
// that has not started has no companion.
func TestListAsksTheCompanion(t *testing.T) {
	v := testVolume(t)
	cfg := config.Config{Data: v.Data, StateDir: v.State, Consul: []string{"127.0.0.1:1"}, Service: "rabbitmq"}
	socket, err := net.Listen("unix", cfg.StatusSocket())
	expect.Must(t, err)
	companion := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"asked": "rabbit@a", "cluster": {"one": "yes"}}`))
	}))
	companion.Listener = socket
	companion.Start()
	defer companion.Close()
	self, err := statedir.Self()
	expect.Must(t, err)
	for _, c := range []struct {
		waiting string
		gated   bool
		asked   string
	}{{"", false, "rabbit@a"}, {statedir.Replaced, false, "rabbit@a"}, {"members", true, "rabbit@a"}, {"members", false, ""}} {
		rt := statedir.Runtime{Config: cfg, PID: self.PID, Started: self.Started, Waiting: c.waiting, Gated: c.gated}
		expect.Must(t, rt.Write())
		if d := look(t.Context(), cfg); d.Asked != c.asked {
			t.Errorf("%+v: it was said by %q", c, d.Asked)
		}
	}
}

// status --json asks the companion alone: its exit status needs no Consul.
func TestStatusJSON(t *testing.T) {
	v := testVolume(t)
	cfg := config.Config{Data: v.Data, StateDir: v.State, Consul: []string{"127.0.0.1:1"}}
	is := func(want error, says string) {
		t.Helper()
		var out strings.Builder
		err := StatusJSON(t.Context(), cfg, &out)
		switch {
		case want == nil && err != nil, errors.Is(err, ErrUnknown) != (want == ErrUnknown), errors.Is(err, ErrSaid) != (want == ErrSaid):
			t.Errorf("it ends with %v, want %v", err, want)
		case !strings.Contains(out.String()+fmt.Sprint(err), says):
			t.Errorf("it says %q, and ends with %v; want %q", out.String(), err, says)
		}
	}
	other := errors.New("1")
	is(other, "no server was ever started")
	self, err := statedir.Self()
	expect.Must(t, err)
	rt := statedir.Runtime{Config: cfg, PID: self.PID, Started: self.Started, Waiting: "members"}
	expect.Must(t, rt.Write())
	is(other, "the server is not started, it waits for members")
	rt.Gated = true
	expect.Must(t, rt.Write())
	is(ErrUnknown, "the companion does not answer")
	socket, err := net.Listen("unix", cfg.StatusSocket())
	expect.Must(t, err)
	status := "critical"
	companion := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"node": "rabbit@a", "status": "` + status + `"}`))
	}))
	companion.Listener = socket
	companion.Start()
	defer companion.Close()
	is(ErrSaid, `"status": "critical"`)
	status = "passing"
	is(nil, `"status": "passing"`)
	rt.PID, rt.Started = 999999999, 1
	expect.Must(t, rt.Write())
	is(other, "does not run")
	expect.Must(t, os.WriteFile(filepath.Join(v.State, "runtime.json"), []byte("{"), 0o600))
	is(ErrUnknown, "runtime.json")
}

func TestVerdict(t *testing.T) {
	for answer, want := range map[overview.Answer]error{overview.Yes: nil, overview.No: ErrSaid, overview.Unknown: ErrUnknown} {
		if got := verdict(answer); got != want {
			t.Errorf("%s: %v, want %v", answer, got, want)
		}
	}
}
