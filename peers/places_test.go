package peers_test

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

var places = peers.Places{Prefix: "p/s/addresses/", Record: "p/s/cluster"}

// at is boot's entry at an address, whose node writes that.
func at(address, volume string) peers.Registration {
	r := boot(volume, "b1")
	r.Address, r.Places = address, places
	return r
}

// said is what the node's key says; "": there is none.
func said(t *testing.T, client *api.Client, node string) string {
	t.Helper()
	pair, _, err := client.KV().Get(places.Prefix+node, nil)
	if expect.Must(t, err); pair == nil {
		return ""
	}
	return string(pair.Value)
}

// A node writes where it is before it is registered there, once, and only under a name that is its own.
func TestPlaceIsWrittenFirst(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	link := consultest.Proxy(t, consul.Addr)
	client := consultest.Client(t, link.Addr, "")
	put, register := consultest.Request("PUT", "/v1/kv/p/s/addresses/"), consultest.Request("PUT", "/v1/agent/service/register")
	first := at("10.0.0.1", "v1")
	const here, there = `{"address":"10.0.0.1","volume":"v1"}`, `{"address":"10.0.0.2","volume":"v1"}`

	link.Answer(1, 500, "no leader", put)
	if err := peers.Announce(t.Context(), client, first, peers.Starting, ""); err == nil || link.Count(register) > 0 {
		t.Errorf("without its key it is registered: %v", err)
	}
	link.Answer(1, 500, "no", register)
	if err := peers.Announce(t.Context(), client, first, peers.Starting, ""); err == nil || said(t, client, first.Node) != here {
		t.Errorf("about to be registered, it says %q; %v", said(t, client, first.Node), err)
	}
	mustAnnounce(t, client, first)
	expect.Must(t, peers.Enter(t.Context(), client, first, serves, ""))
	if n := link.Count(put); n != 2 {
		t.Errorf("%d writes, want the one that failed and another", n)
	}
	_, err := client.KV().Delete(places.Prefix+first.Node, nil) // Consul lost it
	expect.Must(t, err)
	expect.Must(t, peers.Enter(t.Context(), client, first, serves, ""))
	if is := said(t, client, first.Node); is != here {
		t.Errorf("verified, it says %q", is)
	}
	moved := at("10.0.0.2", "v1")
	mustAnnounce(t, client, moved)
	if is := said(t, client, first.Node); is != there {
		t.Errorf("elsewhere it says %q", is)
	}
	mustReport(t, client, moved, api.HealthPassing)
	other := at("10.0.0.3", "v2") // a container that has this node's name
	other.Boot = "b2"
	if err := peers.Announce(t.Context(), client, other, peers.Serving, ""); !errors.As(err, new(*peers.NameTakenError)) || said(t, client, first.Node) != there {
		t.Errorf("another's name: %v, and it says %q", err, said(t, client, first.Node))
	}
	silent := boot("v9", "b9")
	silent.Node = "rabbit@silent"
	mustAnnounce(t, client, silent)
	expect.Must(t, peers.Enter(t.Context(), client, silent, serves, ""))
	if is := said(t, client, silent.Node); is != "" {
		t.Errorf("a node that writes none says %q", is)
	}
}

// Where the agent's own address is registered, that is written; and what is no address is not.
func TestPlaceOfTheAgent(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	r := at("", "v1")
	mustAnnounce(t, consul.Client, r)
	host, _, _ := strings.Cut(consul.Addr, ":")
	if is, want := said(t, consul.Client, r.Node), fmt.Sprintf(`{"address":%q,"volume":"v1"}`, host); is != want {
		t.Errorf("it says %q, want %q", is, want)
	}
	if err := peers.Announce(t.Context(), consul.Client, at("broker.example", "v1"), peers.Starting, ""); err == nil || !strings.Contains(err.Error(), "broker.example") {
		t.Errorf("a name: %v", err)
	}
}

// A token that may not write there is told of, by key and right, and the node is registered; one that
// may not read there does not find that there is nothing.
func TestPlaceDenied(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t, consultest.ACL())
	const service = `service_prefix "" { policy = "write" } node_prefix "" { policy = "read" } `
	r := at("10.0.0.1", "v1")
	for rules, want := range map[string]string{
		service: "key:write", service + `key_prefix "p/s/" { policy = "read" }`: "key:write", service + `key_prefix "p/s/" { policy = "write" }`: "",
	} {
		client, heard := consul.ClientFor(rules), ""
		r.Address = "10.0.1." + strconv.Itoa(len(rules)) // what is written already takes no right to write
		r.Places.Denied = func(err error) { heard += err.Error() }
		mustAnnounce(t, client, r)
		eventually(t, "it is registered", func() bool {
			all, _, err := peers.Catalog(t.Context(), consul.Client, r.Service, "")
			return err == nil && len(all) == 1 && all[0].Node == r.Node
		})
		if want == "" && heard != "" || want != "" && !(strings.Contains(heard, places.Prefix+r.Node) && strings.Contains(heard, want)) {
			t.Errorf("%s: it heard %q", rules, heard)
		}
		expect.Must(t, peers.Withdraw(t.Context(), client, r))
	}
	unread := places.Reader(t.Context(), consul.ClientFor(service+`key "p/s/cluster" { policy = "write" }`))
	for _, node := range []string{r.Node, "rabbit@nobody"} {
		if p, err := unread(node); p != nil || !errors.As(err, new(*peers.DeniedError)) || !strings.Contains(err.Error(), "key:read") {
			t.Errorf("%s: %+v, %v", node, p, err)
		}
	}
}

// What no program of this kind wrote is no place, nor none; the node's own word replaces it.
func TestPlaceThatIsSpoilt(t *testing.T) {
	t.Parallel()
	client := consultest.Start(t).Client
	r := at("10.0.0.1", "v1")
	read := places.Reader(t.Context(), client)
	if p, err := read(r.Node); p != nil || err != nil {
		t.Fatalf("before it is written: %+v, %v", p, err)
	}
	for _, value := range []string{
		"", "null", "{", `{"address":""}`, `{"address":"broker"}`, `{"address":"10.0.0.1 x"}`, `{"address":"fe80::1%eth0"}`,
		`{"address":"10.0.0.1","volume":"v\u001b[2J"}`, `{"address":"10.0.0.1","volume":"v"` + strings.Repeat(" ", 1024) + `}`, `{"address":"10.0.0.1","volume":"` + strings.Repeat("v", 990) + `12345678901"}`,
	} {
		_, err := client.KV().Put(&api.KVPair{Key: places.Prefix + r.Node, Value: []byte(value)}, nil)
		expect.Must(t, err)
		if p, err := read(r.Node); p != nil || err == nil || !strings.Contains(err.Error(), places.Prefix+r.Node) || expect.Unprintable(err.Error()) {
			t.Errorf("%.50q: %+v, %v", value, p, err)
		}
	}
	mustAnnounce(t, client, r)
	if p, err := read(r.Node); err != nil || *p != (peers.Place{Address: "10.0.0.1", Volume: "v1"}) {
		t.Errorf("%+v, %v", p, err)
	}
}

// A node that writes its first one removes those of nodes that are not on record, and none that was
// written since the record was: that node may be about to go on it.
func TestPlacesDoNotGrow(t *testing.T) {
	t.Parallel()
	client := consultest.Start(t).Client
	record := func(r peers.Record) {
		t.Helper()
		_, index, err := peers.ReadRecord(t.Context(), client, places.Record)
		expect.Must(t, err)
		if ok, err := peers.WriteRecord(t.Context(), client, places.Record, r, index, "", ""); err != nil || !ok {
			t.Fatal(ok, err)
		}
	}
	announce := func(name string) {
		t.Helper()
		r := at("10.0.0.1", "v")
		r.Node = name
		mustAnnounce(t, client, r)
	}
	count := func(when string, want int) {
		t.Helper()
		if keys, _, err := client.KV().Keys(places.Prefix, "", nil); err != nil || len(keys) != want {
			t.Errorf("%s there are %d keys, want %d: %v", when, len(keys), want, err)
		}
	}
	for i := range 69 {
		_, err := client.KV().Put(&api.KVPair{Key: fmt.Sprintf("%srabbit@c%d", places.Prefix, i), Value: []byte("{}")}, nil)
		expect.Must(t, err)
	}
	announce("rabbit@c69")
	count("without a record", 70)
	record(peers.Record{}.Claimed(a, "v", "s", now))
	announce(a)
	count("while a founding is under way", 71)
	record(peers.Record{State: peers.Formed, ClusterID: "id", Members: map[string]string{a: "v", "rabbit@c0": "v"}})
	announce(b)
	count("of 69 that are not on record 60 go at a time:", 12)
	announce("rabbit@late")
	count("those that came since stay:", 4)
	record(peers.Record{State: peers.Formed, ClusterID: "id", Members: map[string]string{a: "v", "rabbit@c0": "v"}})
	announce(a)
	count("an address that is written already is no reason:", 4)
	announce("rabbit@next")
	count("and go with the record's next change:", 3)
	for _, node := range []string{a, "rabbit@c0", "rabbit@next"} {
		if said(t, client, node) == "" {
			t.Errorf("%s lost its own", node)
		}
	}
}
