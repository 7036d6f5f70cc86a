package peers_test

import (
	"errors"
	"testing"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

// What was registered over an entry is not it, though its check is there. What says of no start is
// nobody else's: it is replaced and withdrawn as the entry would be; what says of another start stays.
func TestRegisteredOver(t *testing.T) {
	t.Parallel()
	client := consultest.Start(t).Client
	r := boot("v1", "b1")
	r.Made = "made"
	older := r
	older.Made = "earlier"
	over := func(meta map[string]string) {
		t.Helper()
		expect.Must(t, client.Agent().ServiceRegister(&api.AgentServiceRegistration{ID: r.ID(), Name: r.Service, Meta: meta}))
		mustReport(t, client, r, api.HealthPassing)
	}
	held := func(when string, want error) {
		t.Helper()
		if err := peers.Held(t.Context(), client, r); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", when, err, want)
		}
	}
	held("not registered", peers.ErrUnregistered)
	mustAnnounce(t, client, r)
	held("registered", nil)
	expect.Must(t, peers.Update(t.Context(), client, older, ""))
	held("an earlier one came late", peers.ErrUnregistered)
	for _, standing := range []peers.Standing{peers.Blank, peers.Starting, peers.Serving} {
		for _, meta := range []map[string]string{nil, {"node": r.Node}} {
			over(meta)
			held("registered over", peers.ErrUnregistered)
			expect.Must(t, peers.Announce(t.Context(), client, r, standing, ""))
			held("announced anew", nil)
		}
	}
	over(map[string]string{"node": r.Node, "volume": "v2", "boot": "b2"})
	held("another start's", peers.ErrUnregistered)
	if err := peers.Announce(t.Context(), client, r, peers.Serving, ""); !errors.As(err, new(*peers.NameTakenError)) {
		t.Errorf("announced over another start: %v", err)
	}
	expect.Must(t, peers.Withdraw(t.Context(), client, r))
	if all, err := client.Agent().Services(); err != nil || len(all) != 1 {
		t.Errorf("another start's was withdrawn: %v, %v", all, err)
	}
	over(nil)
	expect.Must(t, peers.Withdraw(t.Context(), client, r))
	if all, err := client.Agent().Services(); err != nil || len(all) != 0 {
		t.Errorf("it is left: %v, %v", all, err)
	}
}
