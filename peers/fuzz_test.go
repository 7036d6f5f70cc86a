package peers

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/miekg/dns"

	"rmq-entrypoint/tests/expect"
)

// Each target holds what Consul and name servers may answer against what this package
// promises. `go test` runs the seeds here and the inputs in testdata/fuzz; scripts/fuzz looks
// for more.

// answering is a Consul that answers everything alike.
type answering struct {
	status int
	body   []byte
}

func (a answering) RoundTrip(*http.Request) (*http.Response, error) {
	head := http.Header{"X-Consul-Index": {"7"}, "X-Consul-Knownleader": {"true"}, "X-Consul-Lastcontact": {"0"}}
	return &http.Response{StatusCode: a.status, Status: strconv.Itoa(a.status), Header: head, Body: io.NopCloser(bytes.NewReader(a.body))}, nil
}

func (a answering) client(t testing.TB) *api.Client {
	t.Helper()
	client, err := api.NewClient(&api.Config{Address: "consul.invalid:8500", HttpClient: &http.Client{Transport: a}})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// keeping is a Consul whose one key holds that.
func keeping(value []byte) answering {
	pair, _ := json.Marshal([]map[string]any{{"Key": "k", "Value": base64.StdEncoding.EncodeToString(value), "ModifyIndex": 7}})
	return answering{200, pair}
}

// What is on record is either what a program of ours can have written, or unknown; each change
// of it leaves it as it is, and can be written and read again; what is said of it is printable.
func FuzzRecord(f *testing.F) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	formed := Record{State: Forming, Claim: "c", Seed: "rabbit@a", Since: now, Members: map[string]string{"rabbit@a": "va"}}.Founded("id", now)
	for _, r := range []Record{
		{}, Record{}.Claimed("rabbit@a", "va", "s", now), formed, formed.Joins("rabbit@b", "vb", now), formed.Joins("rabbit@b", "vb", now).With("rabbit@b", "vb").Runs("rabbit@b", "4.3.6"),
		formed.Left("rabbit@a", "told to", now), formed.RemovedItself("rabbit@a", "vx", now), formed.Renamed("id2"), formed.Claimed("rabbit@b", "vb", "s", now),
		formed.Joins("rabbit@b", "vb", now).With("rabbit@b", "vb").Joins("rabbit@b", "v2", now).ForgottenByHand("rabbit@a", now),
	} {
		text, _ := json.Marshal(r)
		f.Add(text, "rabbit@b", "vb")
	}
	for _, text := range []string{
		``, `null`, `[]`, `{}`, `{"state":"formed","cluster_id":"id","members":{"--offline@b":"v"}}`, `{"state":"formed","cluster_id":"id","members":{"a@b\n":"v"}}`,
		`{"state":"formed","cluster_id":"i\u001b[31md","members":{"a@b":"v"}}`, `{"state":"forming","claim":"c","seed":"a@b","members":{"a@b":""}}`,
		`{"state":"formed","cluster_id":"id","since":"9999-12-31T23:59:59-01:00","members":{"a@b":"v"}}`, `{"state":"formed","cluster_id":"id","gone":{"a@b":null},"replaced":[{}],"previous":[{}]}`,
	} {
		f.Add([]byte(text), "a@b", "v")
	}
	f.Fuzz(func(t *testing.T, value []byte, node, volume string) {
		read := func(value []byte) (Record, error) {
			r, index, err := ReadRecord(t.Context(), keeping(value).client(t), "k")
			if (index == 7) != (err == nil) {
				t.Fatalf("index %d, %v", index, err)
			}
			return r, err
		}
		r, err := read(value)
		if err != nil {
			if r.State != Absent || r.Members != nil || len(err.Error()) > 2000 || expect.Unprintable(err.Error()) {
				t.Fatalf("%+v, %q", r, err)
			}
			return
		}
		if !nodeName.MatchString(node) || strings.Contains(node, "..") || len(node) > 200 || len(volume) > 200 || volume == "" || expect.Unprintable(volume) {
			node, volume = "rabbit@b", "vb"
		}
		was, err := json.Marshal(r)
		if err != nil {
			t.Fatalf("it cannot be written again: %v", err)
		}
		written := func(what string, c Record) {
			text, err := json.Marshal(c)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			again, err := read(text)
			if err != nil && len(r.Members)+len(r.Gone) < mostNodes-2 {
				t.Fatalf("%s, of %s: %s: %v", what, was, text, err)
			}
			if err == nil && what == "as it is" && !reflect.DeepEqual(again, c) {
				t.Fatalf("%+v was written, %+v was read", c, again)
			}
		}
		written("as it is", r)
		for what, change := range map[string]func() Record{
			"With": func() Record { return r.With(node, volume) }, "Joins": func() Record { return r.Joins(node, volume, now) },
			"Without": func() Record { return r.Without(node, "why", now) }, "RemovedItself": func() Record { return r.RemovedItself(node, volume, now) },
			"Left": func() Record { return r.Left(node, "why", now) }, "Forgotten": func() Record { return r.Forgotten(node) },
			"ForgottenByOrder": func() Record { return r.ForgottenByOrder(node, "why", now) },
			"ForgottenByHand":  func() Record { return r.ForgottenByHand(node, now) }, "Renamed": func() Record { return r.Renamed("other") },
			"GoneOn": func() Record { on, _ := r.GoneOn([]string{node}); return on }, "Runs": func() Record { return r.Runs(node, "4.3.6") },
			"Claimed": func() Record { return r.Claimed(node, volume, "s", now) }, "pruned": r.pruned,
		} {
			c := change()
			if is, _ := json.Marshal(r); !bytes.Equal(is, was) {
				t.Fatalf("%s changed the record that it was made from:\n%s\n%s", what, was, is)
			}
			if c.State == Forming && c.Members[c.Seed] == "" { // nobody takes a seed off its claim
				continue
			}
			written(what, c)
		}
		for _, text := range []string{r.String(), r.describe(), r.Refuses(node, volume, r.ClusterID), r.Refuses(node, volume, "other")} {
			if expect.Unprintable(text) {
				t.Fatalf("%q is not printable", text)
			}
		}
	})
}

// Whatever Consul answers is an answer or an error; an error is unknown, not empty.
func FuzzCatalog(f *testing.F) {
	for _, body := range []string{
		``, `[]`, `{}`, `true`, `"127.0.0.1:8300"`, `[{"Node":{"Node":"n","Address":"10.0.0.1"},"Service":{"ID":"rabbitmq-rabbit-b","Service":"rabbitmq","Port":5672,"Meta":{"node":"rabbit@b","volume":"v","since":"x"}},"Checks":[{"CheckID":"serfHealth","Status":"critical"},{"CheckID":"rabbitmq-rabbit-b-ttl","Output":"TTL expired"}]}]`,
		`[{"Node":{},"Service":{},"Checks":[]}]`, `{"rabbitmq-rabbit-a":{"ID":"rabbitmq-rabbit-a","Meta":{"boot":"b"}}}`, `{"rabbitmq-rabbit-a-ttl":{"CheckID":"rabbitmq-rabbit-a-ttl","Status":"passing"}}`,
		`[{"ID":"s","LockDelay":1}]`, `{"Results":[],"Errors":[{"OpIndex":0,"What":"Permission denied"}]}`, `[{"Key":"k","Value":"e30=","ModifyIndex":7}]`,
		`null`, `[null]`, `{"a":null}`, `{"Results":null,"Errors":[null]}`, `{"Results":[null]}`, `[{"Node":null,"Service":null,"Checks":[null]}]`,
		`[{"Service":{"Port":-5,"Meta":{"node":"rabbit@\u001b"}},"Node":{"Node":"n"},"Checks":[]}]`, `Unknown check`, strings.Repeat("[", 12000),
	} {
		for _, status := range []uint16{200, 403, 404, 409, 500} {
			f.Add(status, []byte(body))
		}
	}
	r := Registration{Service: "rabbitmq", Node: "rabbit@a", Address: "10.0.0.1", Port: 5672, TTL: 15 * time.Second, Start: Start{Volume: "v", Boot: "b"}}
	f.Fuzz(func(t *testing.T, status uint16, body []byte) {
		client, ctx := answering{100 + int(status)%900, body}.client(t), t.Context()
		all, _, err := Entries(ctx, client, r.Service)
		if err != nil && all != nil {
			t.Fatalf("%d entries, and %v", len(all), err)
		}
		for _, p := range all {
			if _, port, err := net.SplitHostPort(p.Address); err != nil || port == "" {
				t.Fatalf("address %q: %v", p.Address, err)
			}
			_, _ = p.Describe(), p.WayOut()
		}
		for _, p := range Others(all, r.Node) {
			if p.Node == r.Node || p.Foreign() {
				t.Fatalf("%+v is none of the others", p)
			}
		}
		gone, err := SessionGone(ctx, client, "s")
		if gone && err != nil {
			t.Fatalf("gone, and %v", err)
		}
		if record, index, err := ReadRecord(ctx, client, "k"); err != nil && (index != 0 || record.State != Absent) {
			t.Fatalf("%+v at %d, and %v", record, index, err)
		}
		if boot, err := Bury(ctx, client, r, Blank); boot != "" && err == nil && status%900 != 100 {
			t.Fatalf("buried %q with status %d", boot, 100+status%900)
		}
		_ = NameFree(ctx, client, r, Starting)
		_ = Announce(ctx, client, r, Serving, "")
		_ = Enter(ctx, client, r, func() Standing { return Serving }, "")
		_ = Reregister(ctx, client, r)
		_ = Report(ctx, client, r, api.HealthPassing, "")
		_ = Withdraw(ctx, client, r)
		if ok, err := WriteRecord(ctx, client, "k", Record{}.Claimed("rabbit@a", "v", "s", time.Time{}), 0, "l", "s"); ok && err != nil {
			t.Fatalf("written, and %v", err)
		}
	})
}

// Names of nodes are never taken for one another by the ids of their services.
func FuzzServiceID(f *testing.F) {
	f.Add("rabbit@a", "rabbit@b")
	f.Add("rabbit@mq-1", "rabbit-mq@1")
	f.Add("a-b@c", "a@b-c")
	f.Add("a-b-c@d", "a-b@c-d")
	f.Fuzz(func(t *testing.T, one, other string) {
		if !nodeName.MatchString(one) || !nodeName.MatchString(other) {
			t.Skip("no names")
		}
		a, b := Registration{Service: "rabbitmq", Node: one}.ID(), Registration{Service: "rabbitmq", Node: other}.ID()
		if (a == b) != (one == other) || strings.ContainsAny(a, " /?#%\"") {
			t.Fatalf("%s has the id %q, %s has %q", one, a, other, b)
		}
	})
}

// Whatever a name server answers is addresses in order, each once, or an error.
func FuzzDNS(f *testing.F) {
	name := "rabbitmq.service.consul."
	record := func(text string) dns.RR {
		rr, err := dns.NewRR(text)
		if err != nil {
			f.Fatal(err)
		}
		return rr
	}
	for _, m := range []dns.Msg{
		{}, {Answer: []dns.RR{record(name + " 0 IN SRV 1 1 5672 a.node.dc1.consul.")}, Extra: []dns.RR{record("a.node.dc1.consul. 0 IN A 10.0.0.1"), record("b. 0 IN AAAA fd00::1")}},
		{MsgHdr: dns.MsgHdr{Rcode: dns.RcodeNameError}}, {MsgHdr: dns.MsgHdr{Rcode: dns.RcodeServerFailure}}, {MsgHdr: dns.MsgHdr{Truncated: true}},
		{Answer: []dns.RR{record(`x\010y. 0 IN SRV 1 1 0 a\000b\ c.`), record(name + " 0 IN A 10.0.0.1"), record(name + " 0 IN CNAME x.")}},
	} {
		m.Response, m.Question = true, []dns.Question{{Name: name, Qtype: dns.TypeSRV, Qclass: dns.ClassINET}}
		packed, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed)
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, answer []byte) {
		if len(answer) > dns.MaxMsgSize-1 {
			return
		}
		d := DNS{Server: "dns.invalid:53", Domain: "consul", Dial: func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go speak(theirs, answer)
			return ours, nil
		}}
		found, err := Lookup(t.Context(), d, "rabbitmq")
		if err != nil && found != nil {
			t.Fatalf("%q, and %v", found, err)
		}
		if !slices.IsSorted(found) || len(slices.Compact(slices.Clone(found))) != len(found) {
			t.Fatalf("%q", found)
		}
		for _, addr := range found {
			host, port, err := net.SplitHostPort(addr)
			if n, perr := strconv.Atoi(port); err != nil || perr != nil || n < 0 || n > 65535 || expect.Unprintable(host) {
				t.Fatalf("%q: %v", addr, err)
			}
		}
	})
}

// Where a node says that it is is an IP address and a volume, or unknown; what is said of it is printable.
func FuzzPlace(f *testing.F) {
	for _, text := range []string{
		``, `null`, `{}`, `[]`, `{"address":"10.0.0.1","volume":"v"}`, `{"address":"::1","volume":""}`, `{"address":"10.0.0.1 x"}`, `{"address":"fe80::1%a\n"}`, `{"address":"10.0.0.1","volume":"\u001b"}`,
		`{"Address":"10.0.0.1","address":"\u202e"}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		p, err := Places{}.Reader(t.Context(), keeping(value).client(t))("k")
		switch {
		case (p == nil) != (err != nil):
			t.Fatalf("%+v, %v", p, err)
		case err != nil:
			if len(err.Error()) > 2000 || expect.Unprintable(err.Error()) {
				t.Fatalf("%q", err)
			}
		case net.ParseIP(p.Address) == nil, strings.ContainsAny(p.Address, " \t\n"), expect.Unprintable(p.Address + p.Volume), len(value) > 1024:
			t.Fatalf("%+v", p)
		}
	})
}

// speak answers one query over TCP with what is given, under the query's id.
func speak(conn net.Conn, answer []byte) {
	defer conn.Close()
	var head [2]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return
	}
	query := make([]byte, binary.BigEndian.Uint16(head[:]))
	if _, err := io.ReadFull(conn, query); err != nil {
		return
	}
	answer = slices.Clone(answer)
	copy(answer, query[:2])
	_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
}
