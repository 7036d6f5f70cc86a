package formation

import (
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
	"rmq-entrypoint/tests/expect"
)

// formed is the record of a cluster that serves.
func formed(cluster string, members map[string]string) peers.Record {
	return peers.Record{State: peers.Formed, ClusterID: cluster, Claim: "c0", Seed: "somebody@else", Since: time.Now().Add(-time.Hour), Members: members}
}

// Who runs, as entries say, and with what: of two for one node the one that passes is believed, or says what that one was
// verified with.
func TestWhoRuns(t *testing.T) {
	beats := func(name string) peers.Peer {
		return peers.Peer{Node: name, ClusterID: "id-1", Version: "4.0.5", Beating: true}
	}
	o := around{record: formed("id-1", map[string]string{"stays": "v"})}
	for name, change := range map[string]func(*peers.Peer){
		"passes":          func(p *peers.Peer) { p.Passing = true },
		"boots":           func(p *peers.Peer) { p.ClusterID = "" },
		"silent":          func(p *peers.Peer) { p.Beating = false },
		"agent lost":      func(p *peers.Peer) { p.AgentFailed = true },
		"another cluster": func(p *peers.Peer) { p.ClusterID = "id-2" },
		"says nothing":    func(p *peers.Peer) { p.Version = "" },
		"says nonsense":   func(p *peers.Peer) { p.Version = "latest" },
	} {
		p := beats(name)
		change(&p)
		o.peers, o.record.Members[name] = append(o.peers, p), "v"
	}
	// Whoever may only register is not on record, or lies about a member: that one passes, or says
	// what it was verified with.
	stranger, liar, copied, stays := beats("stranger"), beats("passes"), beats("stays"), beats("stays")
	stranger.Passing, copied.Passing, stays.Passing = true, true, true
	stranger.Version, liar.Version, copied.Version = "3.8.1", "3.8.1", "3.8.1"
	o.record.Versions = map[string]string{"stays": "4.0.5"}
	o.peers = append(append([]peers.Peer{copied, liar}, o.peers...), stranger, stays, liar, copied)
	moved, old := beats("passes"), beats("passes")
	moved.Version, moved.Passing, old.Version = "4.2.0", true, "3.13.7"
	o.peers = append([]peers.Peer{old, moved}, o.peers...)
	if got := slices.Sorted(maps.Keys(o.running())); !slices.Equal(got, []string{"boots", "passes", "stays"}) || o.running()["stays"].String() != "4.0.5" || o.running()["passes"].String() != "4.2.0" {
		t.Errorf("these run: %v", o.running())
	}
}

// A lone broker has nobody around: that is known, and nothing is doubtful for it.
func TestLookAroundAlone(t *testing.T) {
	if o := LookAround(t.Context(), config.Config{Single: true, Node: "a@b"}, slog.New(slog.DiscardHandler)); o.Err != nil || len(o.peers) > 0 {
		t.Errorf("%+v", o)
	}
}

// An entry alone refuses nothing: what a member runs is on record, and who may only register services
// cannot write it. Here b runs, by what entries say, beside a.
func TestMix(t *testing.T) {
	says := func(version string, change ...func(*peers.Peer)) peers.Peer {
		p := peers.Peer{Node: "b", ClusterID: "id-1", Version: version, Beating: true, Passing: true}
		p.ID, p.Agent, p.Volume = "rabbitmq-b", "agent-1", "vb"
		for _, f := range change {
			f(&p)
		}
		return p
	}
	critical := func(p *peers.Peer) { p.Passing = false }
	boots := func(p *peers.Peer) { p.Passing, p.ClusterID = false, "" }
	lapsed := func(p *peers.Peer) { p.Passing, p.Beating = false, false }
	stranger := func(p *peers.Peer) { p.Node = "stranger" }
	const all = "a 4.3.6 b 4.3.6"
	for _, c := range []struct {
		name         string
		image        string
		record       string // versions on it; "-": there is none
		peers        []peers.Peer
		mix, doubted string
	}{
		{"nobody is there", "4.3.6", all, nil, "", ""},
		{"b runs the same", "4.3.6", all, []peers.Peer{says("4.3.6")}, "", ""},
		{"a liar for b, which is down", "4.3.6", all, []peers.Peer{says("3.8.1")}, "", "b, which has RabbitMQ 4.3.6 on record, says RabbitMQ 3.8.1 in the entry rabbitmq-b with Consul agent agent-1"},
		{"a critical liar", "4.3.6", all, []peers.Peer{says("3.8.1", critical)}, "", "says RabbitMQ 3.8.1"},
		{"a liar that boots", "4.3.6", all, []peers.Peer{says("3.8.1", boots)}, "", "says RabbitMQ 3.8.1"},
		{"a liar that has lapsed", "4.3.6", all, []peers.Peer{says("3.8.1", lapsed)}, "", ""},
		{"a liar from the future", "4.0.5", "a 4.0.5 b 4.0.5", []peers.Peer{says("4.3.6")}, "", "says RabbitMQ 4.3.6"},
		{"a liar beside b, which passes", "4.3.6", all, []peers.Peer{says("3.8.1"), says("4.3.6")}, "", "says RabbitMQ 3.8.1"},
		{"a liar beside b, which boots", "4.3.6", all, []peers.Peer{says("4.3.6", boots), says("3.8.1")}, "", "says RabbitMQ 3.8.1"},
		{"a liar beside b, which is critical", "4.3.6", all, []peers.Peer{says("3.8.1"), says("4.3.6", critical)}, "", "says RabbitMQ 3.8.1"},
		{"a liar under a name that is not on record", "4.3.6", all, []peers.Peer{says("3.8.1", stranger)}, "", ""},
		{"the record has no version of b", "4.3.6", "a 4.3.6", []peers.Peer{says("4.0.5")}, "", "b, of which the record has no version, says RabbitMQ 4.0.5"},
		{"the record has no version at all", "4.3.6", "", []peers.Peer{says("4.0.5", boots)}, "", "of which the record has no version"},
		{"the record has nonsense", "4.3.6", "b latest", []peers.Peer{says("4.0.5")}, "", "of which the record has no version"},
		{"no record", "4.3.6", "-", []peers.Peer{says("4.0.5", boots), says("3.8.1", stranger)}, "", "of which the record has no version"},
		{"b runs what is on record", "4.3.6", "b 4.0.5", []peers.Peer{says("4.0.5")}, "4.0.5 of b cannot run in one cluster", ""},
		{"b boots with what is on record", "4.3.6", "a 4.2.3 b 4.0.5", []peers.Peer{says("4.0.6", boots)}, "4.0.5 of b cannot run in one cluster", ""},
		{"a was down, and the others went on", "4.0.5", "a 4.0.5 b 4.3.6", []peers.Peer{says("4.3.6")}, "4.3.6 of b cannot run in one cluster", ""},
		{"b is down, and binds nobody", "4.3.6", "b 4.0.5", nil, "", ""},
		{"a liar beside b takes nobody's protection away", "4.3.6", "a 4.2.3 b 4.0.5", []peers.Peer{says("4.0.5", critical), says("4.3.6")}, "4.0.5 of b cannot run in one cluster", ""},
		{"b comes back with another version, as a hand brought it", "4.3.6", "a 4.2.3 b 4.0.5", []peers.Peer{says("4.2.3", boots)}, "", ""},
		{"b was down for two steps, and somebody says that it runs", "4.3.6", "a 4.3.1 b 4.0.5", []peers.Peer{says("4.0.5")}, "", "b, which has RabbitMQ 4.0.5 on record, says RabbitMQ 4.0.5"},
	} {
		o := around{me: "a", peers: c.peers}
		if c.record != "-" {
			o.record = formed("id-1", map[string]string{"a": "va", "b": "vb"})
			o.record.Versions = map[string]string{}
			for words := strings.Fields(c.record); len(words) > 0; words = words[2:] {
				o.record.Versions[words[0]] = words[1]
			}
		}
		image, err := rabbitconf.ParseVersion(c.image)
		expect.Must(t, err)
		mix, doubted := o.Mix(statedir.Versions{Version: image}, statedir.Versions{}), o.Doubt(image)
		if c.mix == "" && mix != "" || !strings.Contains(mix, c.mix) {
			t.Errorf("%s: it is refused by %q, want %q", c.name, mix, c.mix)
		}
		if c.doubted == "" && doubted != "" || !strings.Contains(doubted, c.doubted) {
			t.Errorf("%s: it doubts %q, want %q", c.name, doubted, c.doubted)
		}
		if o.Err = os.ErrDeadlineExceeded; o.Mix(statedir.Versions{Version: image}, statedir.Versions{}) != "" || o.Doubt(image) != "" {
			t.Errorf("%s: Consul says nothing, and it is refused or doubted", c.name)
		}
	}
}

// Whether a blank node may join is on record, too; what entries alone say is told once.
func TestEntriesAloneKeepNobodyFromJoining(t *testing.T) {
	var log strings.Builder
	f := formation{cfg: config.Config{Node: "a"}}
	f.Log, f.Image = slog.New(slog.NewTextHandler(&log, nil)), rabbitconf.Version{Major: 4, Minor: 3, Patch: 6}
	var o peers.Observation
	o.Record.Value = formed("id-1", map[string]string{"b": "vb"})
	o.Record.Value.Versions = map[string]string{"b": "4.3.6"}
	o.Peers.Value = []peers.Peer{{Node: "b", ClusterID: "id-1", Version: "3.8.1", Beating: true, Passing: true}}
	o.Peers.Value[0].View.Value.Khepri = true
	for range 2 {
		expect.Must(t, f.cannotMix(o))
	}
	if strings.Count(log.String(), "entries alone keep no node from joining") != 1 {
		t.Errorf("it says %q", log.String())
	}
	o.Record.Value.Versions["b"] = "3.8.1"
	if err := f.cannotMix(o); err == nil {
		t.Error("it would join a member beside which it cannot run")
	} else {
		expect.Says(t, err.Error(), "RabbitMQ 3.8.1 of b cannot run in one cluster", "b runs 3.8.1")
	}
}

// What is told of others says whose word it is.
func TestTell(t *testing.T) {
	o := around{me: "a", record: formed("id-1", map[string]string{"a": "va", "b": "vb", "c": "vc", "d": "vd", "e": "ve"})}
	o.record.Versions = map[string]string{"b": "4.3.6", "c": "4.3.6", "e": "4.3.5"}
	for node, version := range map[string]string{"b": "4.3.6", "c": "3.8.1", "d": "4.3.6"} {
		o.peers = append(o.peers, peers.Peer{Node: node, ClusterID: "id-1", Version: version, Beating: true})
	}
	const want = ". The other members: b runs 4.3.6, c runs 3.8.1, as its entry in Consul says, and has 4.3.6 on record, d runs 4.3.6, as its entry in Consul says, e does not run, and had 4.3.5"
	if got := o.Tell(); got != want {
		t.Errorf("%s", got)
	}
}
