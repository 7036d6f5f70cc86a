package main

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/miekg/dns"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/expect"
)

// What others wrote into Consul is printed without control characters, in a line of its own, and
// not at any length.
func testWordsOfOthers(t *testing.T, w *world) {
	const evil = "\x1b]0;pwned\a\n\x1b[2Jall is well"
	for i := range 40 {
		r := api.AgentServiceRegistration{ID: fmt.Sprint("foreign", i, evil), Name: w.service, Address: evil, Port: 1, Meta: map[string]string{"node": fmt.Sprint("x@y", i, evil)}}
		if i%2 == 0 {
			r.ID, r.Meta = fmt.Sprint("node", i), map[string]string{"node": fmt.Sprintf("x%d@y", i), "cluster_id": evil, "volume": evil, "rabbitmq_version": evil}
		}
		expect.Must(t, w.consul.Client.Agent().ServiceRegister(&r))
	}
	record := formed("id-1", map[string]string{})
	for i := range 900 {
		record.Members[fmt.Sprintf("%s@h%d.localhost", strings.Repeat("n", 40), i)] = "v"
	}
	record.Gone = map[string]peers.Gone{}
	for i := range 900 {
		record.Gone[fmt.Sprintf("g@h%d", i)] = peers.Gone{At: time.Now(), Why: "its volume came up blank"}
	}
	w.putRecord(record)
	n := w.node("rabbit@localhost")
	fit := func(what, text string, lines, longest int) {
		t.Helper()
		if strings.ContainsAny(text, "\x1b\a") || strings.Count(text, "\n") > lines {
			t.Errorf("%s has %d lines: %.2000q", what, strings.Count(text, "\n"), text)
		}
		for line := range strings.Lines(text) {
			if len(line) > longest || strings.HasPrefix(line, "all is well") || strings.HasPrefix(line, "\x1b") {
				t.Errorf("%s has a line of %d bytes: %.300q", what, len(line), line)
			}
		}
	}
	out, code := n.run("status")
	expect.Says(t, out, "and 880 more", "and 20 more", `\x1b]0;pwned\a\n\x1b[2Jall is well`)
	fit(fmt.Sprintf("status (%d)", code), out, 100, 2000)
	n.start("--wait-timeout", "24s", "--claim-timeout", "21s", "--interval", "1s")
	n.exit(24*time.Second + soon)
	expect.Says(t, n.log(), "waited 24s", "members of cluster id-1, which hold its data: ", "and 890 more", `more=10`)
	fit("the log", n.log(), 40, 2000)
	w.putRecord(peers.Record{State: peers.State(evil)})
	_, code = n.run("forget-cluster", "--cluster-id", evil)
	out, _ = n.run("status")
	fit(fmt.Sprintf("forget-cluster (%d)", code), out, 100, 2000)
}

// What DNS alone says holds up a founding for the claim timeout, and no longer, whoever answers.
func testStrangerInDNS(t *testing.T, w *world) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	expect.Must(t, err)
	s := &dns.Server{Listener: l, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		a := new(dns.Msg).SetReply(q)
		rr, _ := dns.NewRR(q.Question[0].Name + " 0 IN SRV 1 1 5672 stranger.example.")
		a.Answer = []dns.RR{rr}
		_ = w.WriteMsg(a)
	})}
	go func() { _ = s.ActivateAndServe() }()
	t.Cleanup(func() { _ = s.Shutdown() })
	n := w.node("rabbit@localhost")
	began := time.Now()
	n.start("--dns-server", l.Addr().String(), "--claim-timeout", "21s", "--interval", "1s")
	n.server(21*time.Second + soon)
	if took := time.Since(began); took < 20*time.Second {
		t.Errorf("it founded a cluster after %s, though DNS knows of another node", took)
	}
	expect.Says(t, n.log(), "DNS still gives stranger.example:5672, which the catalog does not know; after 21s the catalog alone counts", "going by the catalog alone", "founding the cluster")
}
