package peers_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

func TestLookup(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	server := peers.DNS{Server: consul.DNSAddr, Domain: "consul"}
	if found, err := peers.Lookup(t.Context(), server, service); err != nil || len(found) != 0 {
		t.Errorf("NXDOMAIN: %v, %v, want a known empty answer", found, err)
	}
	var want []string
	for i := range 7 { // plain UDP would give three
		r := registration(fmt.Sprintf("rabbit@n%d", i), fmt.Sprintf("10.0.0.%d", i+1))
		if i >= 5 {
			r.Address = fmt.Sprintf("host-%d.example.org", i)
		}
		mustAnnounce(t, consul.Client, r)
		mustReport(t, consul.Client, r, []string{api.HealthPassing, api.HealthWarning}[i%2])
		want = append(want, r.Address+":5672")
	}
	mustAnnounce(t, consul.Client, registration("rabbit@critical", "10.0.0.99"))
	slices.Sort(want)
	var found []string
	eventually(t, "all seven, and not the critical one", func() bool {
		var err error
		found, err = peers.Lookup(t.Context(), server, service)
		return err == nil && slices.Equal(found, want)
	})
	if found, err := peers.Lookup(t.Context(), peers.DNS{Server: consul.DNSAddr, Domain: "example"}, service); err == nil {
		t.Errorf("a domain that this server refuses: %v", found)
	}
	link := consultest.Proxy(t, consul.DNSAddr)
	behind := peers.DNS{Server: link.Addr, Domain: "consul"}
	if found, err := peers.Lookup(t.Context(), behind, service); err != nil || len(found) != 7 {
		t.Errorf("through the link: %v, %v", found, err)
	}
	link.Blackhole()
	start := time.Now()
	silent := net.Error(nil)
	if found, err := peers.Lookup(t.Context(), behind, service); !errors.As(err, &silent) || !silent.Timeout() || !strings.Contains(err.Error(), "no answer within 500ms") || time.Since(start) > expect.Soon {
		t.Errorf("a server that never answers: %v, %v after %s", found, err, time.Since(start))
	}
	link.Refuse()
	if found, err := peers.Lookup(t.Context(), behind, service); err == nil || !strings.Contains(err.Error(), link.Addr) {
		t.Errorf("a server that refuses: %v, %v", found, err)
	}
}

// Whichever notices first that time is up, it is told in the same words; that nobody asks any more is not.
func TestLookupLate(t *testing.T) {
	t.Parallel()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		name string
		ctx  context.Context
		dial func(context.Context, string, string) (net.Conn, error)
		want error
	}{
		{"the dialler's deadline", t.Context(), func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}
		}, context.DeadlineExceeded},
		{"the connection's", t.Context(), func(context.Context, string, string) (net.Conn, error) { return &deaf{}, nil }, context.DeadlineExceeded},
		{"the caller's end", gone, func(context.Context, string, string) (net.Conn, error) { return &deaf{}, nil }, context.Canceled},
	} {
		_, err := peers.Lookup(c.ctx, peers.DNS{Server: "192.0.2.1:53", Domain: "consul", Dial: c.dial}, service)
		if late := c.want == context.DeadlineExceeded; !errors.Is(err, c.want) || strings.Contains(fmt.Sprint(err), "no answer within 500ms") != late {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// deaf is a connection whose own deadline has passed.
type deaf struct{ net.Conn }

func (deaf) Read([]byte) (int, error) {
	return 0, &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}
}
func (deaf) Write(b []byte) (int, error)      { return len(b), nil }
func (deaf) SetDeadline(time.Time) error      { return nil }
func (deaf) SetReadDeadline(time.Time) error  { return nil }
func (deaf) SetWriteDeadline(time.Time) error { return nil }
func (deaf) Close() error                     { return nil }
