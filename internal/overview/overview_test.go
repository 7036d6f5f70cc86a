package overview_test

import (
	"errors"
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/overview"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/expect"
)

// update writes testdata anew instead of comparing it.
var update = flag.Bool("update", false, "write testdata anew")

const (
	a, b, c = "rabbit@a", "rabbit@b", "rabbit@c"
	id      = "id-1"
)

var now = time.Date(2026, 11, 27, 3, 0, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return now.Add(-d) }

var errAway = errors.New("no Consul answers")

// member is the entry of a member that serves.
func member(node string) peers.Peer {
	return peers.Peer{
		Node: node, Address: "10.0.0." + node[len(node)-1:] + ":5672", ClusterID: id, Version: "4.3.6", Passing: true, Beating: true, Status: "passing",
		Start: peers.Start{Volume: "vol-" + node[len(node)-1:], Boot: "boot-" + node, Since: ago(time.Hour)},
		Entry: peers.Entry{ID: "rabbitmq-" + node, Agent: "agent-1", Said: "amqp://127.0.0.1:5672 answers"},
	}
}

// three is a cluster of three that serve, as a's companion sees it.
func three() overview.Seen {
	r := peers.Record{State: peers.Formed, ClusterID: id, Seed: a, Since: ago(24 * time.Hour), Members: map[string]string{a: "vol-a", b: "vol-b", c: "vol-c"}}
	all := []string{a, b, c}
	return overview.Seen{
		Now: now, Service: "rabbitmq", Name: "prod", Key: "rmq-entrypoint/rabbitmq/cluster", TTL: 15 * time.Second, ReadAt: ago(2 * time.Second),
		Own: &overview.Own{
			Node: a, Role: "member", Volume: "vol-a", Version: "4.3.6", Verified: true,
			Word: overview.Word{Status: "passing", Reason: "amqp://127.0.0.1:5672 answers", Since: ago(time.Hour), Beat: ago(3 * time.Second), Looked: ago(time.Second)},
			View: peers.View{ClusterID: id, Members: all, Running: all, Khepri: true},
		},
		Record: peers.Seen[peers.Record]{Value: r}, Catalog: peers.Seen[[]peers.Peer]{Value: []peers.Peer{member(a), member(b), member(c)}},
	}
}

// entry changes the entry of a node.
func entry(s *overview.Seen, node string, change func(*peers.Peer)) {
	for i := range s.Catalog.Value {
		if s.Catalog.Value[i].Node == node {
			change(&s.Catalog.Value[i])
		}
	}
}

// without takes the entry of a node away.
func without(s *overview.Seen, node string) {
	s.Catalog.Value = slices.DeleteFunc(s.Catalog.Value, func(p peers.Peer) bool { return p.Node == node })
}

func critical(said string) func(*peers.Peer) {
	return func(p *peers.Peer) { p.Passing, p.Status, p.Said = false, "critical", said }
}

func away(s *overview.Seen) { s.Away(errAway) }

// Every state of a node, and what it means for the whole.
func TestDocument(t *testing.T) {
	for name, test := range map[string]struct {
		seen  func(*overview.Seen)
		one   overview.Answer
		fit   overview.Answer
		nodes string // state of each row
		stop  overview.Answer
		says  []string // in its text
	}{
		"three that serve": {one: "yes", fit: "yes", nodes: "a serves, b serves, c serves", stop: "yes",
			says: []string{"one cluster: prod, 3 of 3 nodes serve, cluster id-1", "may one be stopped now? yes: rabbit@a, rabbit@b, rabbit@c, one at a time", "rabbit@b  serves  ?      member  4.3.6    10.0.0.b:5672  within the TTL", "rabbit@a  serves  60m", "3s ago"}},
		"one warns": {seen: func(s *overview.Seen) {
			entry(s, b, func(p *peers.Peer) { p.Status, p.Said = "warning", "low on memory" })
		},
			one: "yes", fit: "yes", nodes: "a serves, b serves, c serves", stop: "yes", says: []string{"warning: rabbit@b: low on memory"}},
		"its check has lapsed": {seen: func(s *overview.Seen) {
			entry(s, b, func(p *peers.Peer) { p.Passing, p.Beating, p.Status = false, false, "critical" })
			s.Own.View.Running = []string{a, c}
		}, one: "yes", fit: "no", nodes: "a serves, b down, c serves", stop: "no",
			says: []string{"rabbit@b is down: its heartbeats have stopped", "next: start its container", "of the members rabbit@a, rabbit@b, rabbit@c only rabbit@a, rabbit@c run, and without one of them there is no majority"}},
		"its agent is lost": {seen: func(s *overview.Seen) {
			entry(s, b, func(p *peers.Peer) { p.Passing, p.AgentFailed = false, true })
		}, one: "yes", fit: "no", nodes: "a serves, b unknown, c serves", stop: "unknown",
			says: []string{"whether rabbit@b serves is unknown: Consul's servers do not reach its agent agent-1", "next: consul members; rmq-entrypoint status in its container", "rabbit@b  unknown  ?      member  4.3.6    10.0.0.b:5672  ?"}},
		"its check lapsed before its agent was lost": {seen: func(s *overview.Seen) {
			entry(s, b, func(p *peers.Peer) { p.Passing, p.Beating, p.AgentFailed = false, false, true })
			s.Own.View.Running = []string{a, c}
		}, one: "yes", fit: "no", nodes: "a serves, b down, c serves", stop: "no", says: []string{"rabbit@b is down: its heartbeats have stopped"}},
		"it runs and is not registered": {seen: func(s *overview.Seen) { without(s, c) }, one: "yes", fit: "no", nodes: "a serves, b serves, c unknown", stop: "unknown",
			says: []string{"whether rabbit@c serves is unknown: it is not in Consul's catalog, and RabbitMQ on rabbit@a sees it run"}},
		"it is not registered, and nobody says what RabbitMQ sees": {seen: func(s *overview.Seen) {
			without(s, c)
			s.Own = nil
		}, one: "yes", fit: "no", nodes: "a serves, b serves, c down", stop: "unknown", says: []string{"rabbit@c is down: it is not in Consul's catalog"}},
		"it was stopped": {seen: func(s *overview.Seen) {
			without(s, c)
			s.Own.View.Running = []string{a, b}
		}, one: "yes", fit: "no", nodes: "a serves, b serves, c down", stop: "no",
			says: []string{"it is not in Consul's catalog", "one that is gone for good, in a member that serves: rmq-entrypoint forget rabbit@c"}},
		"it joins": {seen: func(s *overview.Seen) {
			entry(s, c, critical("booting"))
			entry(s, c, func(p *peers.Peer) { p.ClusterID = "" })
			s.Record.Value.Unverified = map[string]string{c: "vol-c"}
		}, one: "yes", fit: "no", nodes: "a serves, b serves, c waits", stop: "no", says: []string{"rabbit@c  waits   ?      joining", "rabbit@c waits: booting"}},
		"it was just made anew": {seen: func(s *overview.Seen) { entry(s, c, critical("")) },
			one: "yes", fit: "no", nodes: "a serves, b serves, c unfit", stop: "no", says: []string{"rabbit@c: what its companion says is not in Consul's catalog yet"}},
		"a member does not serve": {seen: func(s *overview.Seen) { entry(s, b, critical("partitioned from rabbit@c")) },
			one: "yes", fit: "no", nodes: "a serves, b unfit, c serves", stop: "no", says: []string{"problem: rabbit@b: partitioned from rabbit@c"}},
		"this one is drained": {seen: func(s *overview.Seen) {
			s.Own.Status, s.Own.Reason, s.Own.Out = "critical", "out of service: drained", true
		}, one: "yes", fit: "yes", nodes: "a unfit, b serves, c serves", stop: "no", says: []string{"warning: rabbit@a: out of service: drained", "rabbitmq-upgrade revive"}},
		"another one is drained": {seen: func(s *overview.Seen) { entry(s, b, critical("maintenance: drained since 2026-11-27T02:59:00Z")) },
			one: "yes", fit: "yes", nodes: "a serves, b unfit, c serves", stop: "no", says: []string{"warning: rabbit@b: maintenance: drained"}},
		"two agents have a node": {seen: func(s *overview.Seen) { s.Catalog.Value = append(s.Catalog.Value, member(b)) },
			one: "yes", fit: "yes", nodes: "a serves, b serves, c serves", stop: "yes"},
		"this one boots": {seen: func(s *overview.Seen) {
			s.Own.Status, s.Own.Reason, s.Own.Verified, s.Own.View = "critical", "RabbitMQ waits for rabbit@b", false, peers.View{}
		}, one: "yes", fit: "no", nodes: "a waits, b serves, c serves", stop: "unknown", says: []string{"rabbit@a waits: RabbitMQ waits for rabbit@b", "no companion says"}},
		"a stranger waits": {seen: func(s *overview.Seen) {
			s.Notes.Value = []peers.Note{{Node: "rabbit@d", Boot: "boot-d", Host: "h4", State: peers.NoteWaits, Why: "the lock", Since: ago(5 * time.Minute), Version: "4.3.6"}}
		}, one: "yes", fit: "no", nodes: "a serves, b serves, c serves, d waits", stop: "yes", says: []string{"rabbit@d  waits   5m", "host h4", "rabbit@d waits: the lock"}},
		"a wiped member waits": {seen: func(s *overview.Seen) {
			without(s, c)
			s.Notes.Value = []peers.Note{{Node: c, Boot: "boot-2", State: peers.NoteWaits, Why: "members of cluster id-1", Since: ago(time.Minute)}}
		}, one: "yes", fit: "no", nodes: "a serves, b serves, c waits", stop: "no", says: []string{"rabbit@c  waits   60s    member"}},
		"a node that left is refused": {seen: func(s *overview.Seen) {
			s.Record.Value.Gone = map[string]peers.Gone{"rabbit@d": {Volume: "vol-d", At: ago(time.Hour), Why: "leave", By: "rabbit@d on host h4", Left: true}}
			s.Notes.Value = []peers.Note{{Node: "rabbit@d", Boot: "boot-d", Volume: "vol-d", State: peers.NoteRefused, Kind: "the node left", Why: "it left\x1b[2J", Since: ago(time.Second)}}
		}, one: "yes", fit: "no", nodes: "a serves, b serves, c serves, d refused", stop: "yes",
			says: []string{"rabbit@d was refused: it left", "gone: rabbit@d left in good order on 2026-11-27T02:00:00Z: leave, written by rabbit@d on host h4"}},
		"one was forgotten by order": {seen: func(s *overview.Seen) {
			s.Record.Value.Gone = map[string]peers.Gone{"rabbit@d": {Volume: "vol-d", At: ago(time.Hour), Why: "told to (rmq-entrypoint forget), it was down", By: "rabbit@a, rmq-entrypoint forget, on host h1", Left: true, Forgotten: true}}
		}, one: "yes", fit: "yes", nodes: "a serves, b serves, c serves", stop: "yes", says: []string{"gone: rabbit@d was forgotten by order on 2026-11-27T02:00:00Z: told to (rmq-entrypoint forget)"}},
		"its start failed": {seen: func(s *overview.Seen) {
			s.Notes.Value = []peers.Note{{Node: "rabbit@d", Boot: "boot-d", State: peers.NoteFailed, Why: "waited 10m" + strings.Repeat(" and more", 10) + " to the end", Since: ago(time.Second)}}
		}, one: "yes", fit: "no", nodes: "a serves, b serves, c serves, d down", stop: "yes", says: []string{"none            its start failed: waited 10m and more and more and more and more and m…\n", "rabbit@d is down: its start failed: waited 10m", "next: docker logs of its container", "and more to the end"}},
		"a second container of a name": {seen: func(s *overview.Seen) {
			s.Notes.Value = []peers.Note{{Node: b, Boot: "boot-2", Host: "h9", State: peers.NoteWaits, Why: "another node of this name", Since: ago(time.Minute)}}
		}, one: "yes", fit: "no", nodes: "a serves, b serves, b waits, c serves", stop: "yes", says: []string{"host h9"}},
		"what waited has registered": {seen: func(s *overview.Seen) {
			s.Notes.Value = []peers.Note{{Node: b, Boot: "boot-" + b, State: peers.NoteWaits, Why: "the lock", Since: ago(time.Minute)}}
		}, one: "yes", fit: "yes", nodes: "a serves, b serves, c serves", stop: "yes"},
		"what was refused was let through on an empty volume": {seen: func(s *overview.Seen) {
			s.Notes.Value = []peers.Note{{Node: b, Boot: "boot-0", Volume: "vol-0", State: peers.NoteRefused, Why: "it left", Since: ago(2 * time.Hour)}}
		}, one: "yes", fit: "yes", nodes: "a serves, b serves, c serves", stop: "yes"},
		"what was refused was let through, and is down now": {seen: func(s *overview.Seen) {
			s.Notes.Value = []peers.Note{{Node: c, Boot: "boot-0", State: peers.NoteRefused, Why: "RabbitMQ supports no downgrade", Since: ago(2 * time.Hour)}}
			entry(s, c, func(p *peers.Peer) { critical("gone")(p); p.Beating = false })
			s.Own.View.Running = []string{a, b}
		}, one: "yes", fit: "no", nodes: "a serves, b serves, c down", stop: "no", says: []string{"rabbit@c is down: its heartbeats have stopped", "of one that does not stay up, docker logs says why"}},
		"an alarm": {seen: func(s *overview.Seen) {
			s.Own.Status, s.Own.Reason = "warning", "it answers, but an alarm blocks publishers: low on disk"
		}, one: "yes", fit: "yes", nodes: "a serves, b serves, c serves", stop: "yes",
			says: []string{"warning: rabbit@a: it answers, but an alarm blocks publishers: low on disk", "next: rmq-entrypoint doctor in its container names the member"}},
		"a second container of a name is refused": {seen: func(s *overview.Seen) {
			s.Notes.Value = []peers.Note{{Node: b, Boot: "boot-0", Volume: "vol-0", State: peers.NoteRefused, Why: "it is another's name", Since: ago(time.Minute)}}
		}, one: "yes", fit: "no", nodes: "a serves, b refused, b serves, c serves", stop: "yes"},
		"two blank containers of a name": {seen: func(s *overview.Seen) {
			s.Notes.Value = []peers.Note{
				{Node: "rabbit@d", Boot: "boot-2", Volume: "vol-2", State: peers.NoteWaits, Why: "the lock", Since: ago(time.Minute)},
				{Node: "rabbit@d", Boot: "boot-1", Volume: "vol-1", State: peers.NoteWaits, Why: "the lock", Since: ago(time.Hour)},
				{Node: "rabbit@d", Boot: "boot-0", Volume: "vol-2", State: peers.NoteFailed, Why: "waited", Since: ago(time.Hour)},
			}
		}, one: "yes", fit: "no", nodes: "a serves, b serves, c serves, d waits, d waits", stop: "yes"},
		"its newest start failed, and an earlier one was refused": {seen: func(s *overview.Seen) {
			s.Notes.Value = []peers.Note{
				{Node: "rabbit@d", Boot: "boot-2", Volume: "vol-d", State: peers.NoteFailed, Why: "waited", Since: ago(time.Second)},
				{Node: "rabbit@d", Boot: "boot-1", Volume: "vol-d", State: peers.NoteRefused, Why: "it left", Since: ago(time.Minute)},
			}
		}, one: "yes", fit: "no", nodes: "a serves, b serves, c serves, d down", stop: "yes", says: []string{"rabbit@d is down: its start failed: waited"}},
		"a member's newest start failed, and an earlier one was refused": {seen: func(s *overview.Seen) {
			without(s, c)
			s.Notes.Value = []peers.Note{
				{Node: c, Boot: "boot-2", State: peers.NoteFailed, Why: "waited", Since: ago(time.Second)},
				{Node: c, Boot: "boot-1", State: peers.NoteRefused, Why: "it left", Since: ago(time.Minute)},
			}
		}, one: "yes", fit: "no", nodes: "a serves, b serves, c down", stop: "no", says: []string{"rabbit@c is down: its start failed: waited"}},
		"two clusters": {seen: func(s *overview.Seen) {
			entry(s, c, func(p *peers.Peer) { p.ClusterID = "id-2" })
		}, one: "no", fit: "no", nodes: "a serves, b serves, c serves", stop: "no", says: []string{"NOT ONE CLUSTER", "problem: rabbit@c is in cluster id-2, and id-1 is on record"}},
		"a former id of it": {seen: func(s *overview.Seen) {
			s.Record.Value.Formerly = []string{"id-0"}
			entry(s, c, func(p *peers.Peer) { p.ClusterID = "id-0" })
		}, one: "yes", fit: "yes", nodes: "a serves, b serves, c serves", stop: "yes"},
		"one says SPLIT": {seen: func(s *overview.Seen) { entry(s, c, critical("SPLIT: this node is in cluster id-2")) },
			one: "no", fit: "no", nodes: "a serves, b serves, c unfit", stop: "no", says: []string{"rabbit@c says SPLIT"}},
		"a partition": {seen: func(s *overview.Seen) { s.Own.View.Partitions = []string{c} }, one: "no", fit: "no", nodes: "a serves, b serves, c serves", stop: "no",
			says: []string{"RabbitMQ on rabbit@a lists a partition: it is cut off from rabbit@c"}},
		"Consul is away": {seen: away, one: "unknown", fit: "unknown", nodes: "a serves, b unknown, c unknown", stop: "unknown",
			says: []string{"ONE CLUSTER OR NOT IS UNKNOWN", "the record cannot be read: no Consul answers", "RabbitMQ on rabbit@a sees it run", "Consul does not say who serves"}},
		"Consul has been away for long": {seen: func(s *overview.Seen) {
			away(s)
			s.Own.Beat = ago(time.Minute)
		}, one: "unknown", fit: "unknown", nodes: "a serves, b unknown, c unknown", stop: "unknown", says: []string{"warning: Consul took no heartbeat of rabbit@a for 60s"}},
		"Consul is away, and this one is unfit": {seen: func(s *overview.Seen) {
			away(s)
			s.Own.Status, s.Own.Reason = "critical", "refused"
		}, one: "unknown", fit: "no", nodes: "a unfit, b unknown, c unknown", stop: "no", says: []string{"problem: rabbit@a: refused"}},
		"the catalog alone is not to be read": {seen: func(s *overview.Seen) { s.Catalog = peers.Seen[[]peers.Peer]{Err: errAway} },
			one: "unknown", fit: "unknown", nodes: "a serves, b unknown, c unknown", stop: "unknown", says: []string{"the catalog cannot be read"}},
		"the notes alone are not to be read": {seen: func(s *overview.Seen) { s.Notes = peers.Seen[[]peers.Note]{Err: errAway} },
			one: "yes", fit: "yes", nodes: "a serves, b serves, c serves", stop: "yes", says: []string{"warning: who waits or was refused cannot be read: no Consul answers"}},
		"a partition while Consul is away": {seen: func(s *overview.Seen) {
			away(s)
			s.Own.View.Partitions = []string{b}
		}, one: "no", fit: "no", nodes: "a serves, b unknown, c unknown", stop: "no"},
		"from outside": {seen: func(s *overview.Seen) { s.Own = nil }, one: "yes", fit: "yes", nodes: "a serves, b serves, c serves", stop: "unknown",
			says: []string{"may one be stopped now? unknown: no companion says"}},
		"nobody yet": {seen: func(s *overview.Seen) {
			s.Own, s.Record, s.Catalog.Value = nil, peers.Seen[peers.Record]{}, nil
		}, one: "no", fit: "no", stop: "unknown", says: []string{"there is no cluster on record", "record rmq-entrypoint/rabbitmq/cluster: none"}},
		"it is being founded": {seen: func(s *overview.Seen) {
			s.Own, s.Record.Value.State, s.Record.Value.ClusterID = nil, peers.Forming, ""
			s.Record.Value.Members = map[string]string{a: "vol-a"}
			s.Catalog.Value = nil
		}, one: "no", fit: "no", nodes: "a down", stop: "unknown", says: []string{"it is being founded by rabbit@a", "seeding"}},
		"two nodes": {seen: func(s *overview.Seen) {
			without(s, c)
			delete(s.Record.Value.Members, c)
			s.Own.View.Members, s.Own.View.Running, s.Own.Warning = []string{a, b}, []string{a, b}, "TWO NODES: add a third"
		}, one: "yes", fit: "yes", nodes: "a serves, b serves", stop: "no", says: []string{"warning: TWO NODES: add a third"}},
		"one node": {seen: func(s *overview.Seen) {
			without(s, b)
			without(s, c)
			s.Record.Value.Members = map[string]string{a: "vol-a"}
			s.Own.View.Members, s.Own.View.Running = []string{a}, []string{a}
		}, one: "yes", fit: "yes", nodes: "a serves", stop: "no", says: []string{"it is the only member"}},
		"two of three on Mnesia that goes on in a minority": {seen: func(s *overview.Seen) {
			without(s, c)
			s.Own.View.Running, s.Own.View.Khepri = []string{a, b}, false
		}, one: "yes", fit: "no", nodes: "a serves, b serves, c down", stop: "yes"},
		"two of three on Mnesia that pauses": {seen: func(s *overview.Seen) {
			without(s, c)
			s.Own.View.Running, s.Own.View.Khepri, s.Own.View.Pauses = []string{a, b}, false, true
		}, one: "yes", fit: "no", nodes: "a serves, b serves, c down", stop: "no"},
		"lost members": {seen: func(s *overview.Seen) { s.Own.Lost = []string{b, c} }, one: "yes", fit: "no", nodes: "a serves, b serves, c serves", stop: "yes",
			says: []string{"force-boot --cluster-id id-1"}},
		"one passes that is not on record": {seen: func(s *overview.Seen) {
			z := member("rabbit@z")
			z.ClusterID, z.ID = "", "made-up"
			s.Catalog.Value = append(s.Catalog.Value, z)
		}, one: "yes", fit: "yes", nodes: "a serves, b serves, c serves, z serves", stop: "yes",
			says: []string{"warning: rabbit@z at 10.0.0.z:5672 passes, is not on record, and clients are sent there", "on agent agent-1: consul services deregister -id=made-up"}},
		"no heartbeat is taken, by its token": {seen: func(s *overview.Seen) {
			s.Own.Beat, s.Own.Reason = ago(time.Minute), "it answers (not told to Consul: the token lacks service:write)"
		}, one: "yes", fit: "no", nodes: "a serves, b serves, c serves", stop: "yes",
			says: []string{"Consul took no heartbeat of rabbit@a for 60s; it answers (not told to Consul: the token lacks service:write)", "next: rmq-entrypoint doctor"}},
		"RabbitMQ does not see one run that passes": {seen: func(s *overview.Seen) {
			s.Own.View.Running, s.Spells = []string{a, b}, map[string]overview.Spell{c: {State: overview.Serves, Since: ago(time.Minute)}}
		}, one: "yes", fit: "no", nodes: "a serves, b serves, c serves", stop: "no",
			says: []string{"problem: rabbit@c passes in Consul, and RabbitMQ on rabbit@a does not see it run", "next: rmq-entrypoint doctor in both containers"}},
		"it has only just come to pass": {seen: func(s *overview.Seen) {
			s.Own.View.Running, s.Spells = []string{a, b}, map[string]overview.Spell{c: {State: overview.Serves, Since: ago(20 * time.Second)}}
		}, one: "yes", fit: "yes", nodes: "a serves, b serves, c serves", stop: "no"},
		"no heartbeat is taken": {seen: func(s *overview.Seen) { s.Own.Beat = ago(time.Minute) }, one: "yes", fit: "no", nodes: "a serves, b serves, c serves", stop: "yes",
			says: []string{"Consul took no heartbeat of rabbit@a for 60s"}},
		"the companion hangs": {seen: func(s *overview.Seen) { s.Own.Looked = ago(time.Minute) }, one: "yes", fit: "no", nodes: "a serves, b serves, c serves", stop: "unknown",
			says: []string{"may one be stopped now? unknown: rabbit@a was not looked at for 60s", "rabbit@a was not looked at for 60s", "rmq-entrypoint healthcheck"}},
		"RabbitMQ has forgotten one": {seen: func(s *overview.Seen) { s.Own.View.Members = []string{a, b} }, one: "yes", fit: "yes", nodes: "a serves, b serves, c serves", stop: "yes",
			says: []string{"warning: rabbit@c is on record, and RabbitMQ on rabbit@a does not list it"}},
		"RabbitMQ lists one that left": {seen: func(s *overview.Seen) {
			without(s, c)
			s.Own.View.Running = []string{a, b}
			delete(s.Record.Value.Members, c)
		}, one: "yes", fit: "no", nodes: "a serves, b serves, c down", stop: "no", says: []string{"warning: rabbit@c is a member for RabbitMQ, and not on record", "next: start it, or in a member that serves: rmq-entrypoint forget rabbit@c"}},
		"another program's entry": {seen: func(s *overview.Seen) {
			s.Catalog.Value = append(s.Catalog.Value, foreign(t))
		}, one: "yes", fit: "yes", nodes: "a serves, b serves, c serves", stop: "yes", says: []string{"consul services deregister -id="}},
		"an upgrade is under way": {seen: func(s *overview.Seen) { entry(s, b, func(p *peers.Peer) { p.Version = "4.3.7" }) }, one: "yes", fit: "yes",
			nodes: "a serves, b serves, c serves", stop: "yes", says: []string{"versions differ: 4.3.6 on rabbit@a, rabbit@c; 4.3.7 on rabbit@b"}},
		"two entries of a node": {seen: func(s *overview.Seen) {
			old := member(b)
			old.Passing, old.Beating, old.Address = false, false, "10.9.9.9:5672"
			s.Catalog.Value = append([]peers.Peer{old}, s.Catalog.Value...)
		}, one: "yes", fit: "yes", nodes: "a serves, b serves, c serves", stop: "yes", says: []string{"10.0.0.b:5672"}},
		"the lock is held": {seen: func(s *overview.Seen) { s.Lock.Value = "rabbit@b on h2" }, one: "yes", fit: "yes", nodes: "a serves, b serves, c serves", stop: "yes"},
	} {
		t.Run(name, func(t *testing.T) {
			seen := three()
			if test.seen != nil {
				test.seen(&seen)
			}
			d := overview.Of(seen)
			var rows []string
			for _, n := range d.Nodes {
				rows = append(rows, strings.TrimPrefix(n.Node, "rabbit@")+" "+string(n.State))
			}
			if got := strings.Join(rows, ", "); got != test.nodes {
				t.Errorf("nodes: %s, want %s", got, test.nodes)
			}
			if d.Cluster.One != test.one || d.Fit != test.fit || d.Stop.May != test.stop {
				t.Errorf("one %s, fit %s, stop %s (%s); want %s, %s, %s", d.Cluster.One, d.Fit, d.Stop.May, d.Stop.Why, test.one, test.fit, test.stop)
			}
			if seen.Catalog.Known() && d.Facts.Passing > len(d.Nodes) {
				t.Errorf("%d of %d nodes pass", d.Facts.Passing, len(d.Nodes))
			}
			var text strings.Builder
			expect.Must(t, d.Text(&text))
			expect.Says(t, text.String(), test.says...)
			if strings.Contains(text.String(), "\x1b") {
				t.Errorf("a control character gets to the terminal: %q", text.String())
			}
			for _, p := range d.Problems {
				if p.What == "" || p.Next == "" {
					t.Errorf("a problem without a way out: %+v", p)
				}
			}
		})
	}
}

// foreign is an entry that speaks for no node, as the catalog gives it.
func foreign(t *testing.T) peers.Peer {
	t.Helper()
	consul := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`[{"Node": {"Node": "agent-2"}, "Service": {"ID": "other-1", "Address": "10.9.9.9", "Port": 80}, "Checks": []}]`))
	}))
	defer consul.Close()
	client, err := api.NewClient(&api.Config{Address: consul.URL})
	expect.Must(t, err)
	all, _, err := peers.Entries(t.Context(), client, "rabbitmq")
	expect.Must(t, err)
	return all[0]
}

// Since when a node is as it is, is known only as far as somebody watched.
func TestSpells(t *testing.T) {
	at := func(d time.Duration) time.Time { return now.Add(d) }
	node := func(s overview.State) []overview.Node { return []overview.Node{{Node: b, State: s}} }
	s := overview.Spells{}.Watch(node(overview.Serves), at(0))
	if s[b] != (overview.Spell{State: overview.Serves, Since: at(0)}) {
		t.Errorf("at the first look: %+v", s)
	}
	s = s.Watch(node(overview.Serves), at(time.Second)).Watch(node(overview.NotKnown), at(2*time.Second)).Watch(node(overview.Serves), at(3*time.Second))
	if !s[b].Since.Equal(at(0)) || s[b].Whole {
		t.Errorf("it goes on, also while it is unknown: %+v", s)
	}
	s = s.Watch(node(overview.Down), at(4*time.Second))
	if s[b] != (overview.Spell{State: overview.Down, Since: at(4 * time.Second), Whole: true}) {
		t.Errorf("seen to begin: %+v", s)
	}
	s = s.Watch(append(node(overview.Down), overview.Node{Node: c, State: overview.Waits}), at(5*time.Second))
	if !s[c].Whole || !s[b].Since.Equal(at(4*time.Second)) {
		t.Errorf("one came: %+v", s)
	}
	seen := three()
	seen.Spells = overview.Spells{b: {State: overview.Serves, Since: ago(time.Minute)}, c: {State: overview.Down, Since: ago(time.Minute), Whole: true}}
	d := overview.Of(seen)
	if n := d.Nodes[1]; !n.Since.Equal(ago(time.Minute)) || !n.AtLeast || n.For(now) != "≥ 60s" {
		t.Errorf("at least that long: %+v", n)
	}
	if n := d.Nodes[2]; !n.Since.IsZero() || n.For(now) != "?" {
		t.Errorf("of another state: %+v", n)
	}
}

// hurt is a cluster in which something of everything is wrong, with names by which strangers would
// inject what they like.
func hurt() overview.Seen {
	s := three()
	entry(&s, b, critical(`<script>alert("1")</script> & more`))
	without(&s, c)
	s.Own.View.Running = []string{a, b}
	s.Name = `<b>"prod"`
	s.Lock.Value = "rabbit@b on h2 since 2026-11-27T02:59:00Z"
	s.Record.Value.Gone = map[string]peers.Gone{"rabbit@e": {At: ago(time.Hour), Why: "given up by an operator", By: "rmq-entrypoint forget-cluster on host <h>"}}
	s.Notes.Value = []peers.Note{
		{Node: "rabbit@d", Boot: "boot-d", Volume: "vol-d", Host: "h4", State: peers.NoteRefused, Kind: "the node left", Again: 2, Why: "it left\u202e", Since: ago(90 * time.Second)},
		{Node: "rabbit@f", Boot: "boot-f", Volume: "vol-f", State: peers.NoteRefused, Kind: "a\"b\\c\nd", Why: "<i>", Since: ago(90 * time.Second)},
	}
	return s
}

func TestGolden(t *testing.T) {
	for name, write := range map[string]func(*strings.Builder, overview.Document) error{
		"page.html":    func(w *strings.Builder, d overview.Document) error { return d.HTML(w) },
		"cluster.json": func(w *strings.Builder, d overview.Document) error { return d.JSON(w) },
		"metrics":      func(w *strings.Builder, d overview.Document) error { return d.Metrics(w) },
		"text":         func(w *strings.Builder, d overview.Document) error { return d.Text(w) },
	} {
		t.Run(name, func(t *testing.T) {
			var got strings.Builder
			expect.Must(t, write(&got, overview.Of(hurt())))
			file := filepath.Join("testdata", name)
			if *update {
				expect.Must(t, os.MkdirAll("testdata", 0o755))
				expect.Must(t, os.WriteFile(file, []byte(got.String()), 0o644))
			}
			want, err := os.ReadFile(file)
			expect.Must(t, err)
			if got.String() != string(want) {
				t.Errorf("%s is (go test -update writes it anew):\n%s\nwant\n%s", name, got.String(), want)
			}
		})
	}
}

// Refusals are counted as long as a row says that the node is refused, by a reason that there is.
func TestRefused(t *testing.T) {
	seen := three()
	refused := func(node, kind string, again int, since time.Duration) peers.Note {
		return peers.Note{Node: node, Boot: "boot-of-a-refusal", Volume: "vol-0", State: peers.NoteRefused, Kind: kind, Again: again, Since: ago(since)}
	}
	seen.Notes.Value = []peers.Note{
		refused(b, peers.RefusedGone, 6, 2*time.Hour), // it was let through since
		refused("rabbit@d", peers.RefusedGone, 2, time.Minute), refused("rabbit@e", peers.RefusedVersion, 0, time.Minute),
		refused("rabbit@f", peers.RefusedVolume, 0, time.Minute), refused("rabbit@g", "made up", 0, time.Minute), refused("rabbit@h", "", 0, time.Minute),
		{Node: "rabbit@i", Boot: "boot-2", State: peers.NoteFailed, Since: ago(time.Second)}, refused("rabbit@i", peers.RefusedGone, 10, time.Minute),
	}
	seen.Service = "a\"b\\c\nd"
	var text strings.Builder
	expect.Must(t, overview.Of(seen).Metrics(&text))
	var got []string
	for line := range strings.Lines(text.String()) {
		if strings.HasPrefix(line, "rmq_entrypoint_starts_refused") {
			got = append(got, strings.TrimSpace(strings.TrimPrefix(line, "rmq_entrypoint_starts_refused")))
		}
	}
	if want := `{reason="its version"} 1 {reason="other"} 2 {reason="the node left"} 3 {reason="the volume is ruled out"} 1`; strings.Join(got, " ") != want {
		t.Errorf("%s, want %s", strings.Join(got, " "), want)
	}
	expect.Says(t, text.String(), `service="a\"b\\c\nd"`)
}

// What is not known has no value: it is never 0.
func TestMetricsOfWhatIsUnknown(t *testing.T) {
	seen := three()
	seen.Away(errAway)
	seen.Own.View, seen.Own.Beat = peers.View{}, time.Time{}
	var b strings.Builder
	expect.Must(t, overview.Of(seen).Metrics(&b))
	text := b.String()
	expect.Says(t, text, "\nrmq_entrypoint_record_readable 0\n", "\nrmq_entrypoint_catalog_readable 0\n", "\nrmq_entrypoint_serving 1\n")
	none := func(text string, names ...string) {
		t.Helper()
		for _, name := range names {
			if strings.Contains(text, "\nrmq_entrypoint_"+name) {
				t.Errorf("%s has a value, and is not known:\n%s", name, text)
			}
		}
	}
	none(text, "one_cluster", "fit", "may_stop_one", "members{", "partitions", "lock_held", "heartbeat_age", "starts_refused",
		`nodes{state="unfit"}`, `nodes{state="waits"}`, `nodes{state="refused"}`, `nodes{state="down"}`)
	none(text, `nodes{state="unknown"}`)            // who else there is
	expect.Says(t, text, `nodes{state="serves"} 1`) // the one that is asked

	seen = three()
	seen.Catalog = peers.Seen[[]peers.Peer]{Err: errAway}
	seen.Notes.Value = []peers.Note{{Node: a, Boot: "boot-2", Volume: "vol-2", State: peers.NoteRefused, Since: ago(time.Minute)}}
	b.Reset()
	expect.Must(t, overview.Of(seen).Metrics(&b))
	expect.Says(t, b.String(), `nodes{state="serves"} 1`, `nodes{state="unknown"} 2`)
	none(b.String(), `nodes{state="waits"}`, `nodes{state="refused"}`, `nodes{state="unfit"}`)

	seen = three()
	seen.Notes = peers.Seen[[]peers.Note]{Err: errAway}
	b.Reset()
	expect.Must(t, overview.Of(seen).Metrics(&b))
	expect.Says(t, b.String(), `nodes{state="serves"} 3`, `nodes{state="unfit"} 0`, `nodes{state="down"} 0`, `nodes{state="unknown"} 0`)
	none(b.String(), `nodes{state="waits"}`, `nodes{state="refused"}`, "starts_refused")
}
