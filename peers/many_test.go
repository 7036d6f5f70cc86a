package peers

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/tests/expect"
)

const many = 60000 // entries, about as many as fit into the largest answer of Consul's that is read

// Whoever may register a service may do so as often as fits into an answer of Consul's: an entry and its check are found
// without a look at all others.
func TestManyChecks(t *testing.T) {
	t.Parallel()
	var ps []Peer
	checks := map[string]*api.AgentCheck{}
	for i := range many {
		id := fmt.Sprintf("rabbitmq-counterfeit-of-a-node-%06d", i)
		ps = append(ps, Peer{Node: "rabbit@b", Beating: true, Entry: Entry{ID: short(id), Agent: "agent"}})
		checks[id] = &api.AgentCheck{Node: "agent", ServiceID: id, Output: []string{"fine", "TTL expired"}[i%2]}
	}
	ps = append(ps, Peer{Node: "rabbit@b", Beating: true, Entry: Entry{ID: ps[1].ID, Agent: "another"}})
	var err error
	expect.Ends(t, "reading the checks", func() { err = silence(ps, checks) })
	if err != nil || !ps[0].Beating || ps[1].Beating || !ps[many-2].Beating || ps[many-1].Beating || !ps[many].Beating {
		t.Errorf("%v; %+v %+v, with another agent %+v", err, ps[0], ps[1], ps[many])
	}
	checks["none"] = nil
	if err := silence(ps, checks); !errors.Is(err, errHollow) {
		t.Error(err)
	}
}

// Nor is a name that has many entries judged by a look at all others for each.
func TestManyNamesakes(t *testing.T) {
	t.Parallel()
	o := Observation{Me: "rabbit@a", TTL: 15 * time.Second}
	o.Answered = o.TTL
	for i := range many {
		entry := Entry{ID: fmt.Sprintf("rabbitmq-%06d", i), Agent: "agent"}
		o.Namesakes.Value = append(o.Namesakes.Value, Peer{Node: o.Me, View: Seen[View]{Err: ErrNotAsked}, Entry: entry})
		o.Peers.Value = append(o.Peers.Value, Peer{Node: "rabbit@b", View: Seen[View]{Err: ErrNotAsked}, Entry: entry})
	}
	var d Decision
	expect.Ends(t, "judging the name", func() { d = Decide(o) })
	if d.Action != Wait || d.Why != "a member to publish the cluster record: rabbit@b, rabbit@b, rabbit@b, rabbit@b, rabbit@b, rabbit@b, rabbit@b, rabbit@b, rabbit@b, rabbit@b and 59990 more registered, and none is on record" {
		t.Errorf("%+v", d)
	}
}
