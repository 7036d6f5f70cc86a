package peers_test

import (
	"fmt"
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
	if found, err := peers.Lookup(t.Context(), behind, service); err == nil || time.Since(start) > expect.Soon {
		t.Errorf("a server that never answers: %v, %v after %s", found, err, time.Since(start))
	}
	link.Refuse()
	if found, err := peers.Lookup(t.Context(), behind, service); err == nil || !strings.Contains(err.Error(), link.Addr) {
		t.Errorf("a server that refuses: %v, %v", found, err)
	}
}
