package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/hosts"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

func settingsOf(t *testing.T, consul, dns string) config.Config {
	t.Helper()
	for name, value := range map[string]string{"PATH": "/usr/bin:/bin", "RABBITMQ_CONFIG_FILE": filepath.Join(t.TempDir(), "none"), "RABBITMQ_ERLANG_COOKIE": "a-cookie-of-more-than-20", "RABBITMQ_CONFIG_FILES": t.TempDir() + "/*.conf"} {
		t.Setenv(name, value)
	}
	home := t.TempDir()
	cfg, err := config.FromEnvironment(expect.Environ("CONSUL_HTTP_ADDR="+consul, "RMQ_DNS_SERVER="+dns, "RABBITMQ_DATA_DIR="+home, "RABBITMQ_NODENAME=rabbit@localhost", "RMQ_TTL=10s", "RMQ_SERVICE=rabbitmq", "RABBITMQ_NODE_PORT=35672", "RMQ_HTTP=127.0.0.1:35690"))
	expect.Must(t, err)
	return cfg
}

func of(r Report, check string) (all []Result) {
	for _, one := range r.Checks {
		if one.Check == check {
			all = append(all, one)
		}
	}
	return all
}

// What real Consul and its DNS say is judged: nothing yet; then a foreign entry, a record of nobody's, and a member that
// passes and is not there.
func TestLookAtConsul(t *testing.T) {
	c := consultest.Start(t)
	cfg := settingsOf(t, c.Addr, c.DNSAddr)
	r := judge(look(t.Context(), cfg))
	for check, says := range map[string]string{"settings": "default", "cookie": "is set", "consul": "takes what a node tells it", "clock": "1 others", "dns": "the 0 addresses", "record": "none yet", "foreign": "no entry", "members": "no other", "ports": "free", "rabbitmq": "no server was ever started"} {
		if got := of(r, check); len(got) != 1 || got[0].Is != OK || !strings.Contains(got[0].Says, says) {
			t.Errorf("%s: %+v, want %q", check, got, says)
		}
	}
	if got := of(r, "name"); len(got) != 1 || got[0].Is != Warning || !strings.Contains(got[0].Says, "every host takes that name") {
		t.Errorf("%+v", got)
	}

	expect.Must(t, c.Client.Agent().ServiceRegister(&api.AgentServiceRegistration{ID: "vm:x:5672", Name: "rabbitmq", Address: "127.0.0.1", Port: 1}))
	reg := peers.Registration{Service: "rabbitmq", Node: "rabbit@nowhere.invalid", Address: "127.0.0.1", Port: 1, TTL: time.Hour, DeregisterAfter: time.Hour, ClusterID: "id", Version: "4.3.6"}
	expect.Must(t, peers.Announce(t.Context(), c.Client, reg, peers.Starting, ""))
	expect.Must(t, peers.Report(t.Context(), c.Client, reg, api.HealthPassing, ""))
	_, err := peers.WriteRecord(t.Context(), c.Client, cfg.RecordKey(), peers.Record{State: peers.Formed, ClusterID: "id", Members: map[string]string{reg.Node: "v"}, Versions: map[string]string{reg.Node: reg.Version}}, 0, "", "")
	expect.Must(t, err)
	t.Setenv("RABBITMQ_VERSION", "4.0.5")
	f := look(t.Context(), cfg)
	if !strings.Contains(f.Mix, "4.3.6 of "+reg.Node+" cannot run in one cluster; start this node from an image of RabbitMQ 4.3.6") {
		t.Errorf("beside %s: %q", reg.Version, f.Mix)
	}
	f.Mix = ""
	r = judge(f)
	if got := of(r, "foreign"); len(got) != 1 || got[0].Is != Warning || !strings.Contains(got[0].Says, "vm:x:5672 at 127.0.0.1:1 is no node's") || !strings.Contains(got[0].Do, "consul services deregister -id=vm:x:5672") {
		t.Errorf("%+v", got)
	}
	if got := of(r, "members"); len(got) != 1 || got[0].Is != Broken || !strings.Contains(got[0].Says, reg.Node+" passes in Consul, and its host has no address") {
		t.Errorf("%+v", got)
	}
	if got := of(r, "record"); len(got) != 1 || got[0].Is != OK || !strings.Contains(got[0].Says, "members "+reg.Node) {
		t.Errorf("%+v", got)
	}
	byConsul := cfg
	byConsul.Hosts, byConsul.LongNames = "consul", true
	if got := of(judge(look(t.Context(), byConsul)), "members"); len(got) != 1 || got[0].Is != Unknown || !strings.Contains(got[0].Says, "is at 127.0.0.1:1 by its entry in Consul alone") {
		t.Errorf("%+v", got)
	}
	_, err = c.Client.KV().Put(&api.KVPair{Key: cfg.Places().Prefix + reg.Node, Value: []byte(`{"address":"127.0.0.1","volume":"v"}`)}, nil)
	expect.Must(t, err)
	if m := look(t.Context(), byConsul).Members; len(m) != 1 || m[0].Err != nil || m[0].Unasked || m[0].Ports[len(m[0].Ports)-1].At != "127.0.0.1:1" {
		t.Errorf("%+v", m)
	}
	_, err = c.Client.KV().Put(&api.KVPair{Key: cfg.RecordKey(), Value: []byte("{}")}, nil)
	expect.Must(t, err)
	if got := of(judge(look(t.Context(), cfg)), "record"); len(got) != 1 || got[0].Is != Broken || !strings.Contains(got[0].Says, "which no program of this kind wrote") {
		t.Errorf("%+v", got)
	}
}

// However much is a black hole, all of it takes 10 s at most, and what is near is told.
func TestLookIsBounded(t *testing.T) {
	hole, err := net.Listen("tcp", "127.0.0.1:0")
	expect.Must(t, err)
	defer hole.Close()
	at := hole.Addr().String()
	cfg := settingsOf(t, at+",127.0.0.1:1", at)
	cfg.HTTP, cfg.Hosts = at, "consul"
	began := time.Now()
	f := look(t.Context(), cfg)
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	r := judge(f)
	if got := of(r, "consul"); len(got) != 2 || got[0].Is != Broken || !strings.Contains(got[0].Says, "no answer in time") || !strings.Contains(got[1].Says, "refused") {
		t.Errorf("%+v", got)
	}
	if got := of(r, "dns"); got[0].Is != Warning {
		t.Errorf("%+v", got)
	}

	expect.Must(t, os.MkdirAll(cfg.StateDir, 0o700))
	expect.Must(t, os.WriteFile(filepath.Join(cfg.StateDir, "hosts"), []byte("127.0.0.1 b\n"), 0o600))
	m := Member{Node: "rabbit@b", Entry: at}
	t.Setenv("ERL_EPMD_PORT", fmt.Sprint(expect.Port(hole)))
	began = time.Now()
	all(t.Context(), func(ctx context.Context) { m.look(ctx, cfg, nil) })
	if took := time.Since(began); took > 4*time.Second || len(m.Ports) != 2 || m.Ports[0].Err == nil || m.Timed || m.Ready.At != at || m.Ready.Err == nil {
		t.Errorf("%s, %+v", took, m)
	}
}

// Members are asked where this node would look for them, and nobody where nothing but an entry in
// Consul says: it may be another's.
func TestNobodyGoesByAnEntry(t *testing.T) {
	trap, err := net.Listen("tcp", "127.0.0.2:0")
	expect.Must(t, err)
	defer trap.Close()
	go func() {
		for {
			conn, err := trap.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
			t.Error("somebody connected to where an entry says")
		}
	}()
	port := fmt.Sprint(expect.Port(trap))
	t.Setenv("ERL_EPMD_PORT", port)
	nowhere, at3 := "127.0.0.2:"+port, "127.0.0.3:"+port
	place := func(address, volume string) hosts.Where {
		return func(string) (*peers.Place, error) { return &peers.Place{Address: address, Volume: volume}, nil }
	}
	unknown := func(string) (*peers.Place, error) { return nil, errors.New("denied") }
	for name, c := range map[string]struct {
		hosts, node, file, entry string
		where                    hosts.Where
		unasked                  bool
		asked, err               string
	}{
		"its name has an address":       {"off", "rabbit@localhost", "", nowhere, nil, true, "", ""},
		"the entry agrees":              {"off", "rabbit@localhost", "", "127.0.0.1:" + port, nil, false, "127.0.0.1:" + port, ""},
		"the entry has its name":        {"off", "rabbit@localhost", "", "localhost:" + port, nil, false, "localhost:" + port, ""},
		"the entry has another name":    {"off", "rabbit@localhost", "", "elsewhere.invalid:" + port, nil, true, "", ""},
		"the entry has no address":      {"off", "rabbit@localhost", "", "", nil, false, "", ""},
		"the file":                      {"consul", "rabbit@x", "127.0.0.3 x", nowhere, place("127.0.0.2", "v"), true, "", ""},
		"the file, and the entry":       {"consul", "rabbit@x", "127.0.0.3 x", at3, nil, false, at3, ""},
		"its key":                       {"consul", "rabbit@x", "127.0.0.4 y", nowhere, place("127.0.0.3", "v"), true, "", ""},
		"its key, and the entry":        {"consul", "rabbit@x", "", at3, place("127.0.0.3", "v"), false, at3, ""},
		"another volume's key":          {"consul", "rabbit@x.invalid", "", nowhere, place("127.0.0.2", "w"), true, "", "no such host"},
		"a key of who may have none":    {"consul", "rabbit@0x7f.1.invalid", "", nowhere, place("127.0.0.2", "v"), true, "", "is a full domain name"},
		"its key is unknown":            {"consul", "rabbit@x-invalid", "", nowhere, unknown, true, "", "denied"},
		"the entry alone":               {"consul", "rabbit@x.invalid", "", nowhere, place("127.0.0.2", "w"), true, "", "no such host"},
		"no Consul":                     {"consul", "rabbit@x-invalid", "", nowhere, nil, true, "", "no such host"},
		"its name, and no word of ours": {"consul", "rabbit@localhost", "", nowhere, nil, true, "", ""},
	} {
		cfg := config.Config{Hosts: c.hosts, HTTP: ":" + port, StateDir: t.TempDir(), LongNames: strings.HasSuffix(c.node, "x.invalid")}
		expect.Must(t, os.WriteFile(filepath.Join(cfg.StateDir, "hosts"), []byte(c.file+"\n"), 0o600))
		m := Member{Node: c.node, Entry: c.entry, Volume: "v"}
		all(t.Context(), func(ctx context.Context) { m.look(ctx, cfg, c.where) })
		asked := ""
		for _, p := range m.Ports {
			if p.What == "AMQP" {
				asked = p.At
			}
		}
		if m.Unasked != c.unasked || asked != c.asked || (m.Err != nil) != (c.err != "") || m.Err != nil && !strings.Contains(m.Err.Error(), c.err) {
			t.Errorf("%s: unasked %t, asked %q, %v", name, m.Unasked, asked, m.Err)
		}
	}
}

// A server that has not started has nobody who would answer; behind the gate its companion does.
func TestWhoIsAsked(t *testing.T) {
	t.Parallel()
	ended, end := context.WithCancel(t.Context())
	end()
	for _, c := range []struct {
		rt    statedir.Runtime
		asked bool
	}{{statedir.Runtime{}, true}, {statedir.Runtime{Waiting: statedir.Replaced}, true}, {statedir.Runtime{Waiting: "x", Gated: true}, true}, {statedir.Runtime{Waiting: "x"}, false}} {
		s := Server{Alive: true, Runtime: &c.rt}.look(ended, config.Config{StateDir: t.TempDir()})
		if asked := !errors.Is(s.Report.Err, errWaits); asked != c.asked || s.View.Known() || s.Vitals.Known() {
			t.Errorf("waiting %q, gated %t: asked %t", c.rt.Waiting, c.rt.Gated, asked)
		}
	}
}

func TestBounded(t *testing.T) {
	t.Parallel()
	if got, ended := bounded(t.Context(), time.Minute, func(context.Context) int { return 7 }); got != 7 || !ended {
		t.Errorf("%d %t", got, ended)
	}
	stuck := make(chan int)
	defer close(stuck)
	if got, ended := bounded(t.Context(), time.Millisecond, func(context.Context) int { return <-stuck }); got != 0 || ended {
		t.Errorf("%d %t", got, ended)
	}
	if got, ended := bounded(t.Context(), time.Millisecond, func(ctx context.Context) int { <-ctx.Done(); return 8 }); got != 8 || !ended {
		t.Errorf("%d %t", got, ended)
	}
}

// A member's /ready is asked where ours would be, and not where it is for its own host alone.
func TestReadyAt(t *testing.T) {
	t.Parallel()
	for _, c := range [][3]string{{":15690", "10.0.0.2", "10.0.0.2:15690"}, {"10.0.0.1:1", "10.0.0.2", "10.0.0.2:1"}, {"127.0.0.1:1", "10.0.0.2", ""}, {"localhost:1", "fd00::2", ""}, {"127.0.0.1:1", "127.0.0.2", "127.0.0.2:1"}, {":1", "fd00::2", "[fd00::2]:1"}} {
		if got := readyAt(c[0], c[1]); got != c[2] {
			t.Errorf("%s at %s: %q, want %q", c[0], c[1], got, c[2])
		}
	}
}

// A member's clock is read off what answers /ready.
func TestClockOf(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat))
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer s.Close()
	if ahead, timed, err := clockOf(t.Context(), s.Listener.Addr().String()); err != nil || !timed || (ahead+time.Hour).Abs() > 3*time.Second {
		t.Errorf("%s %t %v", ahead, timed, err)
	}
	leads := httptest.NewServer(http.RedirectHandler("http://"+s.Listener.Addr().String()+"/x", http.StatusFound))
	defer leads.Close()
	if ahead, timed, err := clockOf(t.Context(), leads.Listener.Addr().String()); err != nil || !timed || ahead.Abs() > 3*time.Second {
		t.Errorf("one that sends elsewhere was followed there: %s %t %v", ahead, timed, err)
	}
	if _, timed, err := clockOf(t.Context(), "127.0.0.1:1"); timed || reason(err) != "refused" {
		t.Errorf("nobody is there, %v", err)
	}
}

// Whoever registers decides how many entries there are, and how many addresses DNS gives of them.
func TestManyEntries(t *testing.T) {
	t.Parallel()
	const many = 60000
	f := well()
	f.DNS.Service.Value = nil
	for i := range many {
		p := passes("rabbit@c", fmt.Sprintf("c:%d", i))
		f.Entries.Value, f.DNS.Service.Value = append(f.Entries.Value, p), append(f.DNS.Service.Value, p.Address)
	}
	var all []Result
	expect.Ends(t, "comparing DNS and the catalog", func() { all = dns(f) })
	if len(all) != 1 || !strings.Contains(all[0].Says, "it lacks a:5672, b:5672, which pass") {
		t.Errorf("%+v", all)
	}
	for i := range 1000 {
		f.Record.Value.Members[fmt.Sprintf("rabbit@z%03d", i)] = ""
	}
	var found []Member
	expect.Ends(t, "looking for the members", func() { found = others(f) })
	if last := fmt.Sprintf("c:%d", many-1); len(found) != mostMembers || found[0].Entry != "b:5672" || found[1].Entry != last || !found[1].Passing || found[2].Entry != "" {
		t.Errorf("%+v", found)
	}
}
