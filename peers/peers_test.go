package peers_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

func registration(node, address string) peers.Registration {
	return peers.Registration{
		Service: service, Node: node, Address: address, Port: 5672, TTL: time.Minute, DeregisterAfter: 5 * time.Minute,
		Version: "4.3.6", ClusterID: ours,
	}
}

func TestAnnounceReportWithdraw(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	r := registration(b, "10.0.0.2")
	if err := peers.Report(t.Context(), consul.Client, r, api.HealthPassing, "early"); !errors.Is(err, peers.ErrUnregistered) {
		t.Errorf("reported what was never registered: %v", err)
	}
	if err := peers.Withdraw(t.Context(), consul.Client, r); err != nil {
		t.Errorf("withdrew what was never registered: %v", err)
	}
	mustAnnounce(t, consul.Client, r)
	p := onlyPeer(t, consul.Client, false)
	want := peers.Peer{Node: b, Address: "10.0.0.2:5672", ClusterID: ours, View: peers.Seen[peers.View]{Err: peers.ErrNotAsked}}
	if p.Node != want.Node || p.Address != want.Address || p.ClusterID != want.ClusterID || p.View.Known() {
		t.Errorf("in the catalog: %+v", p)
	}
	for _, status := range []string{api.HealthPassing, api.HealthWarning, api.HealthCritical} {
		mustReport(t, consul.Client, r, status)
		eventually(t, "the catalog has the status that the agent took", func() bool {
			return onlyPeer(t, consul.Client, status != api.HealthCritical).Status == status
		})
	}
	for _, made := range []string{"m1", "m2"} {
		r := r
		r.Made = made
		if err := peers.Enter(t.Context(), consul.Client, r, serves, ""); err != nil {
			t.Error(err)
		}
		eventually(t, "the catalog has the entry that the agent took", func() bool {
			p := onlyPeer(t, consul.Client, false)
			return p.Made == made && p.Status == api.HealthCritical
		})
	}

	mustReport(t, consul.Client, r, api.HealthPassing)
	onlyPeer(t, consul.Client, true)
	mustAnnounce(t, consul.Client, r)
	checks, err := consul.Client.Agent().Checks()
	if err != nil {
		t.Fatal(err)
	}
	for _, check := range checks {
		if check.Status != api.HealthCritical {
			t.Errorf("registered over a passing entry: its check is %s", check.Status)
		}
	}
	onlyPeer(t, consul.Client, false)

	mustReport(t, consul.Client, r, api.HealthPassing)
	if err := consul.Client.Agent().ServiceDeregister(r.ID()); err != nil {
		t.Fatal(err)
	}
	if err := peers.Report(t.Context(), consul.Client, r, api.HealthPassing, "?"); !errors.Is(err, peers.ErrUnregistered) {
		t.Errorf("the agent deregistered it: %v", err)
	}
	mustAnnounce(t, consul.Client, r)
	if err := peers.Withdraw(t.Context(), consul.Client, r); err != nil {
		t.Error(err)
	}
	eventually(t, "the entry is gone", func() bool {
		found, _, err := peers.Catalog(t.Context(), consul.Client, service, a)
		return err == nil && len(found) == 0
	})

	mustAnnounce(t, consul.Client, r)
	consul.Restart() // a development agent loses everything
	if err := peers.Report(t.Context(), consul.Client, r, api.HealthPassing, "?"); !errors.Is(err, peers.ErrUnregistered) {
		t.Errorf("the agent came back without its data: %v", err)
	}

	link := consultest.Proxy(t, consul.Addr)
	link.Refuse()
	client := consultest.Client(t, link.Addr, "")
	for what, err := range map[string]error{
		"announce": peers.Announce(t.Context(), client, r, peers.Starting, ""),
		"report":   peers.Report(t.Context(), client, r, api.HealthPassing, ""),
		"withdraw": peers.Withdraw(t.Context(), client, r),
	} {
		if err == nil || errors.Is(err, peers.ErrUnregistered) {
			t.Errorf("%s without Consul: %v", what, err)
		}
	}
}

// TestEnterKeepsTheStatus: what an entry says changes, whether it passes does
// not; one that Consul has lost comes back critical.
func TestEnterKeepsTheStatus(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	r := registration(b, "10.0.0.2")
	r.ClusterID = ""
	mustAnnounce(t, consul.Client, r)
	mustReport(t, consul.Client, r, api.HealthPassing)
	onlyPeer(t, consul.Client, true)
	r.ClusterID = ours
	if err := peers.Enter(t.Context(), consul.Client, r, serves, "test"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it passes under its cluster's id", func() bool {
		p := onlyPeer(t, consul.Client, true)
		return p.ClusterID == ours
	})
	if err := peers.Withdraw(t.Context(), consul.Client, r); err != nil {
		t.Fatal(err)
	}
	if err := peers.Enter(t.Context(), consul.Client, r, serves, "test"); err != nil {
		t.Fatal(err)
	}
	onlyPeer(t, consul.Client, false)
}

// TestRightsThatAreMissing: a no for want of a right is told from an absence and
// from another's being faster, and it names the right.
func TestRightsThatAreMissing(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t, consultest.ACL())
	mustWrite(t, consul.Client, peers.Record{}.Claimed(b, "v", "", now), 0, true)
	mustAnnounce(t, consul.Client, registration(b, "10.0.0.2"))
	onlyPeer(t, consul.Client, false)
	_, index := mustRead(t, consul.Client)
	reader := consul.ClientFor(`key_prefix "rmq-entrypoint/" { policy = "read" } service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }`)
	nobody := consul.ClientFor(``)
	var denied *peers.DeniedError
	if ok, err := peers.WriteRecord(t.Context(), reader, recordKey, peers.Record{}.Claimed(a, "v", "", now), index, "", ""); ok || !errors.As(err, &denied) || !strings.Contains(err.Error(), "key:write") {
		t.Errorf("write without key:write: %t, %v", ok, err)
	}
	if _, _, err := peers.ReadRecord(t.Context(), nobody, recordKey); !errors.As(err, &denied) || !strings.Contains(err.Error(), "key:read") {
		t.Errorf("read without key:read: %v", err)
	}
	// Consul says that it filtered an answer from 1.11 on; before that, it is an
	// empty one like any other, and nothing could tell.
	found, _, err := peers.Catalog(t.Context(), nobody, service, a)
	if silent := consulBefore(t, consul.Client, "1.11"); silent && (err != nil || len(found) > 0) {
		t.Errorf("catalog without service:read on a Consul that filters silently: %v, %v", found, err)
	} else if !silent && (!errors.As(err, &denied) || !strings.Contains(err.Error(), "service:read")) {
		t.Errorf("catalog without service:read: %v, %v", found, err)
	}
	session, _, err := consul.Client.Session().CreateNoChecks(&api.SessionEntry{TTL: "1h"}, nil)
	expect.Must(t, err)
	for id, is := range map[string]bool{session: true, "00000000-0000-0000-0000-000000000000": false} {
		is = is && !consulBefore(t, consul.Client, "1.11")
		if gone, err := peers.SessionGone(t.Context(), nobody, id); err != nil || gone == is {
			t.Errorf("session %s without session:read: gone %t, %v, want %t", id, gone, err, !is)
		}
	}
	for what, err := range map[string]error{
		"announce": peers.Announce(t.Context(), reader, registration(a, "10.0.0.1"), peers.Starting, ""),
		"report":   peers.Report(t.Context(), reader, registration(b, "10.0.0.2"), api.HealthPassing, ""),
		"withdraw": peers.Withdraw(t.Context(), reader, registration(b, "10.0.0.2")),
	} {
		if !errors.As(err, &denied) || !strings.Contains(err.Error(), "service:write") {
			t.Errorf("%s without service:write: %v", what, err)
		}
	}
}

func TestSilenceTurnsCritical(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	r := registration(b, "10.0.0.2")
	r.TTL = 3 * time.Second
	mustAnnounce(t, consul.Client, r)
	mustReport(t, consul.Client, r, api.HealthPassing)
	onlyPeer(t, consul.Client, true)
	onlyPeer(t, consul.Client, false)
}

// A member says which RabbitMQ it runs, until its host is lost: what its check says then is from before.
func TestVersionOfALostHost(t *testing.T) {
	t.Parallel()
	server := consultest.Start(t)
	agent := consultest.StartAgent(t, []*consultest.Consul{server})
	r := registration(b, "10.0.0.2")
	r.TTL, r.Version = time.Hour, "4.0.5"
	mustAnnounce(t, agent.Client, r)
	mustReport(t, agent.Client, r, api.HealthPassing)
	seen := func(away bool) {
		t.Helper()
		eventually(t, fmt.Sprintf("its host is lost: %t", away), func() bool {
			found, _, err := peers.Catalog(t.Context(), server.Client, service, a)
			return err == nil && len(found) == 1 && found[0].Version == "4.0.5" && found[0].Beating && found[0].AgentFailed == away
		})
	}
	seen(false)
	agent.Kill()
	seen(true)
}

func TestCatalog(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	if found, index, err := peers.Catalog(t.Context(), consul.Client, service, a); err != nil || len(found) != 0 || index == 0 {
		t.Errorf("empty: %v, %d, %v", found, index, err)
	}
	mustAnnounce(t, consul.Client, registration(a, "10.0.0.1"))
	mustAnnounce(t, consul.Client, registration(c, "10.0.0.3"))
	mustAnnounce(t, consul.Client, registration(b, "")) // at its agent's address
	mustReport(t, consul.Client, registration(b, ""), api.HealthPassing)
	for _, other := range []api.AgentServiceRegistration{
		{ID: "of-the-plugin", Name: service, Address: "10.0.0.8", Port: 5672, Meta: map[string]string{"erlang-node-name": "rabbit@plugin"}},
		{ID: "other-one", Name: service, Address: "10.0.0.9", Port: 5672}, // no node's: a scheduler's, say
	} {
		if err := consul.Client.Agent().ServiceRegister(&other); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all but this node are found", func() bool {
		found, _, err := peers.Catalog(t.Context(), consul.Client, service, a)
		if err != nil || len(found) != 3 {
			return false
		}
		var got []string
		for _, p := range found {
			got = append(got, fmt.Sprintf("%s %s %q %t", p.Node, p.Address, p.ClusterID, p.Passing))
		}
		host, _, _ := net.SplitHostPort(consul.Addr)
		return slices.Equal(got, []string{
			b + " " + host + `:5672 "` + ours + `" true`,
			c + ` 10.0.0.3:5672 "` + ours + `" false`,
			`rabbit@plugin 10.0.0.8:5672 "" true`,
		})
	})
	all, _, err := peers.Entries(t.Context(), consul.Client, service)
	i := slices.IndexFunc(all, func(p peers.Peer) bool { return p.Foreign() })
	if err != nil || len(all) != 5 || i < 0 || all[i].Node != "other-one" || all[i].ID != "other-one" || all[i].Agent != consul.Node {
		t.Errorf("entries %+v, %v", all, err)
	}
	// A node whose own check fails takes its services along.
	if err := consul.Client.Agent().EnableNodeMaintenance("test"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nobody passes on a failing Consul node", func() bool {
		found, _, err := peers.Catalog(t.Context(), consul.Client, service, a)
		return err == nil && len(found) == 3 && !slices.ContainsFunc(found, func(p peers.Peer) bool { return p.Passing })
	})
	link := consultest.Proxy(t, consul.Addr)
	link.Blackhole()
	start := time.Now()
	if found, _, err := peers.Catalog(t.Context(), consultest.Client(t, link.Addr, ""), service, a); err == nil || time.Since(start) > expect.Soon {
		t.Errorf("a Consul that never answers: %v, %v after %s", found, err, time.Since(start))
	}
	link.Pass()
	link.Answer(1, 500, "No cluster leader", consultest.Request("GET", "/v1/health/service/"))
	if found, _, err := peers.Catalog(t.Context(), consultest.Client(t, link.Addr, ""), service, a); err == nil {
		t.Errorf("no leader was read as %v", found)
	}
}

func TestChanged(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	mustAnnounce(t, consul.Client, registration(b, "10.0.0.2"))
	onlyPeer(t, consul.Client, false)
	mustWrite(t, consul.Client, peers.Record{}.Claimed(a, "v", "", now), 0, true)

	// changed reports how long Changed takes after during was called on a waiting one.
	const most = 30 * time.Second
	link := consultest.Proxy(t, consul.Addr)
	changed := func(ctx context.Context, most time.Duration, during func(r peers.Record, index uint64)) time.Duration {
		t.Helper()
		r, index := mustRead(t, consul.Client)
		_, catalog, err := peers.Catalog(t.Context(), consul.Client, service, a)
		if err != nil {
			t.Fatal(err)
		}
		before := link.Count(reads)
		done := make(chan time.Time, 1)
		client := consultest.Client(t, link.Addr, "")
		go func() {
			peers.Changed(ctx, client, recordKey, index, service, catalog, most)
			done <- time.Now()
		}()
		eventually(t, "Changed asks", func() bool { return link.Count(reads) > before })
		select {
		case <-done:
			t.Error("returned before anything changed")
		case <-time.After(300 * time.Millisecond):
		}
		start := time.Now()
		during(r, index)
		return (<-done).Sub(start)
	}
	if took := changed(t.Context(), most, func(r peers.Record, index uint64) {
		mustWrite(t, consul.Client, r.With(c, "vc"), index, true)
	}); took > most/2 {
		t.Errorf("woke %s after the record changed", took)
	}
	if took := changed(t.Context(), most, func(peers.Record, uint64) {
		mustReport(t, consul.Client, registration(b, "10.0.0.2"), api.HealthPassing)
	}); took > most/2 {
		t.Errorf("woke %s after a service changed", took)
	}
	if took := changed(t.Context(), 2*time.Second, func(peers.Record, uint64) {}); took > most/2 {
		t.Errorf("woke %s after it began, want 2 s", took)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if took := changed(ctx, most, func(peers.Record, uint64) { cancel() }); took > most/2 {
		t.Errorf("woke %s after its context ended", took)
	}
	// A Consul that fails at once must not turn a loop around Changed into a storm.
	link.Refuse()
	start := time.Now()
	client := consultest.Client(t, link.Addr, "")
	for range 5 {
		peers.Changed(t.Context(), client, recordKey, 1, service, 1, 100*time.Millisecond)
	}
	if took := time.Since(start); took < 450*time.Millisecond {
		t.Errorf("five calls took %s while Consul refused", took)
	}
}

// TestLookupDials: a connection of the caller's choice is used, and a context
// that ends cuts it.
func TestLookupDials(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	near, far := net.Pipe()
	defer far.Close()
	go func() {
		_, _ = far.Read(make([]byte, 2))
		cancel()
	}()
	d := peers.DNS{Server: "192.0.2.1:53", Domain: "consul", Dial: func(context.Context, string, string) (net.Conn, error) { return near, nil }}
	if found, err := peers.Lookup(ctx, d, service); err == nil {
		t.Errorf("cancelled in the middle: %v", found)
	}
}

func mustAnnounce(t *testing.T, client *api.Client, r peers.Registration) {
	t.Helper()
	if err := peers.Announce(t.Context(), client, r, peers.Starting, "test"); err != nil {
		t.Fatal(err)
	}
}

func mustReport(t *testing.T, client *api.Client, r peers.Registration, status string) {
	t.Helper()
	if err := peers.Report(t.Context(), client, r, status, "test"); err != nil {
		t.Fatal(err)
	}
}

// onlyPeer waits until the one other instance passes, or does not.
func onlyPeer(t *testing.T, client *api.Client, passing bool) (p peers.Peer) {
	t.Helper()
	eventually(t, fmt.Sprintf("one peer, passing %t", passing), func() bool {
		found, _, err := peers.Catalog(t.Context(), client, service, a)
		if err != nil || len(found) != 1 || found[0].Passing != passing {
			return false
		}
		p = found[0]
		return true
	})
	return p
}

// consulBefore reports whether the agent is older than version, as "1.11".
func consulBefore(t *testing.T, client *api.Client, version string) bool {
	t.Helper()
	self, err := client.Agent().Self()
	if err != nil {
		t.Fatal(err)
	}
	var have, want [2]int
	if _, err := fmt.Sscanf(fmt.Sprint(self["Config"]["Version"]), "%d.%d", &have[0], &have[1]); err != nil {
		t.Fatalf("version of Consul: %v", err)
	}
	if _, err := fmt.Sscanf(version, "%d.%d", &want[0], &want[1]); err != nil {
		t.Fatal(err)
	}
	return slices.Compare(have[:], want[:]) < 0
}

// A node that moved from one agent to another has two entries for a while.
func TestNewer(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	entry := func(id, address, status string) {
		t.Helper()
		if err := consul.Client.Agent().ServiceRegister(&api.AgentServiceRegistration{
			ID: id, Name: service, Address: address, Port: 5672, Meta: map[string]string{"node": b},
			Check: &api.AgentServiceCheck{CheckID: id, TTL: "1h", Status: status},
		}); err != nil {
			t.Fatal(err)
		}
	}
	newer := func() (address string) {
		found, _, err := peers.Catalog(t.Context(), consul.Client, service, a)
		if err != nil || len(found) != 2 {
			return fmt.Sprintf("%+v, %v", found, err)
		}
		if found[0].Newer(found[1]) == found[1].Newer(found[0]) {
			t.Errorf("neither or both are newer: %+v", found)
		}
		if found[0].Newer(found[1]) {
			return found[0].Address
		}
		return found[1].Address
	}
	entry("first", "10.0.0.1", api.HealthPassing)
	entry("then", "fd00::2", api.HealthCritical) // what an agent brings back
	if got := newer(); got != "10.0.0.1:5672" {
		t.Errorf("%s is newer than the one that passes", got)
	}
	if err := consul.Client.Agent().UpdateTTL("first", "", api.HealthCritical); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the later one counts", func() bool { return newer() == "[fd00::2]:5672" })
}

// What ValidMeta takes, Consul takes, and the other way round, but for the keys
// that a registration has by itself.
func TestValidMeta(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	many := func(n int) map[string]string {
		m := map[string]string{}
		for i := range n {
			m[fmt.Sprintf("k%d", i)] = "v"
		}
		return m
	}
	for _, c := range []struct {
		meta map[string]string
		ok   bool
	}{
		{nil, true},
		{map[string]string{"zone": "a", "Disk_type-2": "", "x": "any thing: at all"}, true},
		{map[string]string{strings.Repeat("k", 128): strings.Repeat("v", 512)}, true},
		{map[string]string{strings.Repeat("k", 129): ""}, false},
		{map[string]string{"k": strings.Repeat("v", 513)}, false},
		{map[string]string{"": "v"}, false},
		{map[string]string{"a.b": "v"}, false},
		{map[string]string{"a b": "v"}, false},
		{map[string]string{"zoné": "v"}, false},
		{map[string]string{"consul-zone": "v"}, false},
		{many(54), true},
		{many(55), false},
	} {
		r := registration(b, "10.0.0.2")
		r.Meta = c.meta
		err, refused := peers.ValidMeta(c.meta), peers.Announce(t.Context(), consul.Client, r, peers.Starting, "")
		if (err == nil) != c.ok || (refused == nil) != c.ok {
			t.Errorf("%.200v: %v; Consul: %v", c.meta, err, refused)
		}
	}
	for _, own := range []string{"node", "cluster_id", "rabbitmq_version", "volume", "boot", "since", "blank", "default_queue_type", "entry", "erlang-node-name"} {
		if err := peers.ValidMeta(map[string]string{own: "x"}); err == nil || !strings.Contains(err.Error(), own) {
			t.Errorf("%s: %v", own, err)
		}
	}
}
