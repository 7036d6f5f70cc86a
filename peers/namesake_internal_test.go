package peers

import (
	"errors"
	"testing"

	"github.com/hashicorp/consul/api"
)

// What an agent that failed last said of a name is no news, nor is an entry that lapsed.
func TestMayTake(t *testing.T) {
	t.Parallel()
	mine := Registration{Node: "rabbit@b", Start: Start{Volume: "v1", Boot: "b1"}}
	for _, c := range []struct {
		name                     string
		p                        Peer
		blank, starting, serving bool
	}{
		{"another's that passes", Peer{Start: Start{Volume: "v2", Boot: "b2"}, Passing: true, Beating: true}, false, false, false},
		{"another's that beats", Peer{Start: Start{Volume: "v2", Boot: "b2"}, Beating: true}, false, false, true},
		{"another's that lapsed", Peer{Start: Start{Volume: "v2", Boot: "b2"}}, true, true, true},
		{"another's with an agent that failed", Peer{Start: Start{Volume: "v2", Boot: "b2"}, Beating: true, Entry: Entry{AgentFailed: true}}, true, true, true},
		{"an earlier start's that passes", Peer{Start: Start{Volume: "v1", Boot: "b0"}, Passing: true, Beating: true}, false, true, true},
		{"an earlier start's that beats", Peer{Start: Start{Volume: "v1", Boot: "b0"}, Beating: true}, true, true, true},
		{"its own", Peer{Start: Start{Volume: "v1", Boot: "b1"}, Passing: true, Beating: true}, true, true, true},
		{"one that says no volume", Peer{Passing: true, Beating: true}, false, true, false},
	} {
		got := [3]bool{mine.mayTake(c.p, Blank), mine.mayTake(c.p, Starting), mine.mayTake(c.p, Serving)}
		if got != [3]bool{c.blank, c.starting, c.serving} {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	if (Registration{Start: Start{Boot: "b1"}}).mayTake(Peer{Start: Start{Boot: "b2"}, Beating: true}, Blank) {
		t.Error("two without a volume have the same one")
	}
}

// Who may run, and holds up a founding.
func TestMayLive(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		p    Peer
		want bool
	}{
		{Peer{Passing: true, Beating: true, Down: true}, true},
		{Peer{Beating: true, Down: true}, true},
		{Peer{Beating: true, Entry: Entry{AgentFailed: true}, Down: true}, false},
		{Peer{Beating: true, Entry: Entry{AgentFailed: true}, View: Seen[View]{Err: errors.New("no answer")}}, true},
		{Peer{Down: true}, false},
		{Peer{}, true},
	} {
		if got := c.p.MayLive(); got != c.want {
			t.Errorf("%+v: %t", c.p, got)
		}
	}
}

// That a check of the host itself has lapsed says nothing of the node's companion.
func TestHostsChecks(t *testing.T) {
	for service, want := range map[string]bool{"": true, "rabbitmq-b": false} {
		checks := api.HealthChecks{
			{CheckID: "rabbitmq-b-ttl", ServiceID: "rabbitmq-b", Status: api.HealthCritical, Output: "booting"},
			{CheckID: "backup", ServiceID: service, Status: api.HealthCritical, Output: "TTL expired, more than 1h ago"},
		}
		if p := entry("rabbitmq-b", map[string]string{metaNode: "rabbit@b"}, "10.0.0.1", 5672, checks); p.Beating != want || p.Passing {
			t.Errorf("a lapsed check of service %q: beating %t, passing %t", service, p.Beating, p.Passing)
		}
	}
}
