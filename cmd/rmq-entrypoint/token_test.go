package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

// A token that is replaced in its file and then revoked: the node passes within two beats,
// the entry is told with the new token, and what becomes of the node afterwards reaches the
// catalog. So it is for a companion that was replaced meanwhile.
func TestTokenRotates(t *testing.T) {
	t.Parallel()
	c := consultest.Start(t, consultest.ACL())
	const rules = `key_prefix "rmq-entrypoint/" { policy = "write" } session_prefix "" { policy = "write" } service_prefix "" { policy = "write" } node_prefix "" { policy = "read" }`
	made, _, err := c.Client.ACL().PolicyCreate(&api.ACLPolicy{Name: "node", Rules: rules}, nil)
	expect.Must(t, err)
	token := func() *api.ACLToken {
		t.Helper()
		made, _, err := c.Client.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{ID: made.ID}}}, nil)
		expect.Must(t, err)
		return made
	}
	revoke := func(old *api.ACLToken) {
		t.Helper()
		_, err := c.Client.ACL().TokenDelete(old.AccessorID, nil)
		expect.Must(t, err)
	}
	w := newWorld(t, c)
	n := w.node("rabbit@localhost", "CONSUL_HTTP_TOKEN_FILE="+w.root+"/rabbit@localhost/token")
	first := token()
	n.put(n.path("token"), first.SecretID+"\n")
	server := n.serves()

	// Its file follows only after it was revoked.
	revoke(first)
	n.reports(soon, api.HealthPassing, "ACL not found")
	second := token()
	n.put(n.path("token"), second.SecretID+"\n")
	told := func(since time.Time) error {
		r, err := n.report()
		if err == nil && (!r.Beat.After(since) || r.Status != api.HealthPassing || !strings.HasSuffix(r.Reason, "answers")) {
			err = fmt.Errorf("%s: %s, last beat %s", r.Status, r.Reason, r.Beat)
		}
		return err
	}
	began := time.Now()
	expect.Eventually(t, 2*testBeat+late, "the node is told with the new token", func() error { return told(began) })
	downAndUp := func() { // the catalog hears of it
		t.Helper()
		n.tell("amqp down")
		n.registered(2*testBeat+late, api.HealthCritical)
		n.tell("amqp up")
		n.registered(2*testBeat+late, api.HealthPassing)
	}
	downAndUp()

	// Its file comes first: nobody is denied anything, though the companion is another one.
	third := token()
	n.kill(w.companions()[0])
	n.put(n.path("token"), third.SecretID+"\n")
	began = time.Now()
	expect.Eventually(t, soon, "the companion is replaced", func() error {
		_, _ = n.run("healthcheck")
		return told(began)
	})
	began = time.Now()
	expect.Eventually(t, soon, "it told Consul once more", func() error { return told(began) })
	revoke(second)
	began = time.Now()
	expect.Eventually(t, 2*testBeat+late, "the node is told without a denial", func() error { return told(began) })

	downAndUp()
	n.kill(w.companions()[0])
	n.kill(server.PID)
	n.registered(testTTL+late, api.HealthCritical)
}
