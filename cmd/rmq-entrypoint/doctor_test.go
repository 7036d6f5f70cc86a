package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"rmq-entrypoint/internal/doctor"
	"rmq-entrypoint/tests/expect"
)

// The doctor works beside a server and without one, changes nothing, prints no secret, and its status says what it found.
func testDoctor(t *testing.T, w *world) {
	n := w.node("rabbit@localhost", "RMQ_HTTP=127.0.0.1:"+closed(t), "RABBITMQ_DIST_PORT="+closed(t), "CONSUL_HTTP_TOKEN=t0ken", "RABBITMQ_DEFAULT_PASS=wonder")
	was := expect.Tree(t, n.dir)
	out, code := n.run("doctor")
	if code != 0 {
		t.Errorf("without a server: %d", code)
	}
	expect.Says(t, out, "volume", "blank", "answers, has a leader", "no server was ever started on this volume", "every host takes that name for itself", "→ give the container a host name", "nothing is broken; warnings: 2\n")
	n.env = append(n.env, "CONSUL_HTTP_ADDR="+n.ip+":1")
	if out, code := n.run("--ttl", "20s", "doctor"); code != 1 || !strings.Contains(out, "by --ttl, ") || !strings.Contains(out, n.ip+":1: ") || !strings.Contains(out, "refused") {
		t.Errorf("without Consul: %d, %s", code, out)
	}
	n.env = append(n.env, "CONSUL_HTTP_ADDR="+w.consul.Addr, "RABBITMQ_ERLANG_COOKIE=")
	if out, code := n.run("doctor"); code != 1 || !strings.Contains(out, "no shared cookie") {
		t.Errorf("without a cookie: %d, %s", code, out)
	}
	n.env = append(n.env, "RABBITMQ_ERLANG_COOKIE=crumbs-of-a-cookie-for-all")
	if is := expect.Tree(t, n.dir); len(is) != len(was) {
		t.Errorf("it changed what is there: %v, was %v", is, was)
	}

	n.serves()
	n.env = append(n.env, "ERL_EPMD_PORT="+epmd(t, "rabbit"))
	out, code = n.run("doctor", "--json")
	var r doctor.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 || r.First != nil || r.Is != doctor.OK || r.Node != n.name {
		t.Fatalf("%d, %v: %s", code, err, out)
	}
	said := map[string]doctor.Result{}
	for _, one := range r.Checks {
		said[one.Check] = one
	}
	for check, says := range map[string]string{"volume": "member of cluster id-of-" + w.service, "companion": "the check passes since", "record": "members " + n.name, "balancer": n.ip + ":5672", "clock": "1 others"} {
		if got := said[check]; got.Is != doctor.OK || !strings.Contains(got.Says, says) {
			t.Errorf("%s: %+v, want %q", check, got, says)
		}
	}
	for _, secret := range []string{"t0ken", "wonder", "crumbs"} {
		if strings.Contains(out, secret) {
			t.Errorf("it prints %s: %s", secret, out)
		}
	}
	expect.Must(t, os.Remove(n.path("view")))
	if out, code := n.run("doctor"); code != 1 || !strings.Contains(out, "it does not say what it knows") {
		t.Errorf("beside a RabbitMQ that does not answer: %d, %s", code, out)
	}
}
