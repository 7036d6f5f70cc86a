package peers_test

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/peers"
)

const (
	a, b, c = "rabbit@a", "rabbit@b", "rabbit@c"
	ours    = "cluster-on-record"
	theirs  = "cluster-of-another"
	timeout = 45 * time.Second
	ttl     = 15 * time.Second
)

var errUnseen = errors.New("no answer")

// peer builds what the catalog and the peer itself say.
func peer(node string, passing bool, id string, view *peers.View) peers.Peer {
	p := peers.Peer{Node: node, Passing: passing, ClusterID: id, View: peers.Seen[peers.View]{Err: peers.ErrNotAsked}}
	if view != nil {
		p.View = peers.Seen[peers.View]{Value: *view}
	}
	return p
}

func view(id string, running []string, members ...string) *peers.View {
	return &peers.View{ClusterID: id, Running: running, Members: members}
}

func khepri(running []string, members ...string) *peers.View {
	v := view(ours, running, members...)
	v.Khepri = true
	return v
}

// peerKinds are all the ways in which a peer may look.
var peerKinds = map[string]func(node string) peers.Peer{
	"critical":                     func(n string) peers.Peer { return peer(n, false, ours, nil) },
	"critical, answers":            func(n string) peers.Peer { return peer(n, false, ours, view(ours, []string{n}, n)) },
	"critical, names me":           func(n string) peers.Peer { return peer(n, false, "", view(ours, []string{n}, n, a)) },
	"critical, names me, stopped":  func(n string) peers.Peer { return peer(n, false, ours, view(ours, nil, n, a)) },
	"critical, names me elsewhere": func(n string) peers.Peer { return peer(n, false, ours, view(theirs, []string{n}, n, a)) },
	"passing, silent":              func(n string) peers.Peer { return peer(n, true, ours, nil) },
	"passing, cannot be asked": func(n string) peers.Peer {
		return peers.Peer{Node: n, Passing: true, ClusterID: ours, View: peers.Seen[peers.View]{Err: errUnseen}}
	},
	"passing, no id, answers":    func(n string) peers.Peer { return peer(n, true, "", view(ours, []string{n}, n)) },
	"passing, other id, answers": func(n string) peers.Peer { return peer(n, true, theirs, view(theirs, []string{n}, n)) },
	"passing, answers elsewhere": func(n string) peers.Peer { return peer(n, true, ours, view(theirs, []string{n}, n)) },
	"passing, stopped":           func(n string) peers.Peer { return peer(n, true, ours, view(ours, nil, n)) },
	"healthy":                    func(n string) peers.Peer { return peer(n, true, ours, view(ours, []string{n}, n)) },
	"healthy, lacks my vote":     func(n string) peers.Peer { return peer(n, true, ours, khepri([]string{n}, n, a)) },
	"healthy, needs no vote": func(n string) peers.Peer {
		return peer(n, true, ours, khepri([]string{n, "rabbit@d"}, n, a, "rabbit@d"))
	},
	"healthy, sees me run": func(n string) peers.Peer { return peer(n, true, ours, khepri([]string{n, a}, n, a)) },
	"healthy, connected to me": func(n string) peers.Peer {
		v := view(ours, []string{n}, n, a)
		v.Connected = []string{a}
		return peer(n, true, ours, v)
	},
	"passing, does not run": func(n string) peers.Peer {
		return peers.Peer{Node: n, Passing: true, ClusterID: ours, Down: true, View: peers.Seen[peers.View]{Err: errUnseen}}
	},
	"lapsed, does not run": func(n string) peers.Peer {
		return peers.Peer{Node: n, ClusterID: ours, Down: true, View: peers.Seen[peers.View]{Err: errUnseen}}
	},
	"healthy, names me": func(n string) peers.Peer { return peer(n, true, ours, view(ours, []string{n}, n, a)) },
}

func everyPeers() map[string]peers.Seen[[]peers.Peer] {
	all := map[string]peers.Seen[[]peers.Peer]{"unknown": {Err: errUnseen}, "none": {}}
	for k, first := range peerKinds {
		all["b "+k] = peers.Seen[[]peers.Peer]{Value: []peers.Peer{first(b)}}
		for l, second := range peerKinds {
			all["b "+k+", c "+l] = peers.Seen[[]peers.Peer]{Value: []peers.Peer{first(b), second(c)}}
		}
	}
	return all
}

func members(names ...string) map[string]string {
	m := map[string]string{}
	for _, n := range names {
		m[n] = "volume-of-" + n
	}
	return m
}

func everyRecord() map[string]peers.Seen[peers.Record] {
	forming := func(seed string) peers.Seen[peers.Record] {
		return peers.Seen[peers.Record]{Value: peers.Record{State: peers.Forming, Seed: seed, Claim: "claim", Session: "session", Members: members(seed)}}
	}
	all := map[string]peers.Seen[peers.Record]{
		"unknown": {Err: errUnseen}, "absent": {}, "forming mine": forming(a), "forming b's": forming(b),
	}
	for _, names := range [][]string{{}, {a}, {b}, {c}, {a, b}, {b, c}, {a, b, c}} {
		all["formed "+strings.ReplaceAll(strings.Join(names, ","), "rabbit@", "")] = peers.Seen[peers.Record]{Value: peers.Record{State: peers.Formed, ClusterID: ours, Members: members(names...)}}
	}
	return all
}

var everyClaim = map[string]peers.Seen[time.Duration]{
	"unknown": {Err: errUnseen}, "alive": {}, "just gone": {Value: 1}, "gone for less": {Value: timeout - 1},
	"gone for the timeout": {Value: timeout}, "gone for longer": {Value: timeout + time.Hour},
}

var everyDNS = map[string]peers.Seen[peers.InDNS]{
	"unknown": {Err: errUnseen}, "empty": {}, "strangers": {Value: peers.InDNS{Addresses: []string{"10.0.0.9:5672"}, For: timeout - 1}},
	"strangers for long": {Value: peers.InDNS{Addresses: []string{"10.0.0.9:5672"}, For: timeout}},
}

// lapsedAway is a check that lapsed while Consul was away.
const lapsedAway = "lapsed, and Consul has only begun to answer"

// everyNamesake is what may have my name.
var everyNamesake = map[string]peers.Seen[[]peers.Peer]{
	"unknown": {Err: errUnseen}, "none": {},
	"passes":                    {Value: []peers.Peer{{Node: a, Passing: true, Beating: true}}},
	"beats":                     {Value: []peers.Peer{{Node: a, Beating: true}}},
	"lapsed":                    {Value: []peers.Peer{{Node: a}}},
	lapsedAway:                  {Value: []peers.Peer{{Node: a}}},
	"with an agent that failed": {Value: []peers.Peer{{Node: a, Beating: true, Entry: peers.Entry{AgentFailed: true}}}},
	"lapsed, and one beats":     {Value: []peers.Peer{{Node: a}, {Node: a, Beating: true}}},
}

// everyObservation calls f with each combination there is.
func everyObservation(f func(name string, o peers.Observation)) {
	allPeers := everyPeers()
	for r, record := range everyRecord() {
		for p, ps := range allPeers {
			for cl, claim := range everyClaim {
				for d, dns := range everyDNS {
					for _, joining := range []bool{false, true} {
						for n, namesakes := range everyNamesake {
							limit, volume := timeout, "volume-of-"+a // mine, as on record
							if len(n)%2 == 0 {                       // each with some of all the rest
								limit = 0
							}
							if len(p)%2 == 0 {
								volume = "another"
							}
							answered := ttl
							if n == lapsedAway {
								answered = ttl - 1
							}
							name := fmt.Sprintf("record %s; peers %s; claim %s; dns %s; joining %t; timeout %s; my name %s; volume %s", r, p, cl, d, joining, limit, n, volume)
							f(name, peers.Observation{Me: a, Joining: joining, Volume: volume, TTL: ttl, Watched: peers.Watched{Answered: answered}, Namesakes: namesakes, Record: record, Peers: ps, DNS: dns, Claim: claim, ClaimTimeout: limit})
						}
					}
				}
			}
		}
	}
}

// TestDecideInvariants holds every combination of what can be seen against the
// promise, in words that do not follow the code.
func TestDecideInvariants(t *testing.T) {
	t.Parallel()
	seen := map[peers.Action]int{}
	total := 0
	everyObservation(func(name string, o peers.Observation) {
		var before peers.Observation
		if total%16 == 15 {
			before = clone(o)
		}
		d := peers.Decide(o)
		total++
		seen[d.Action]++
		wrong := func(format string, args ...any) {
			t.Helper()
			t.Errorf("%s: decided to %s (%s): %s", name, d.Action, d.Why, fmt.Sprintf(format, args...))
		}
		if d.Why == "" {
			wrong("no reason given")
		}
		if total%16 == 0 { // these two cost more than all the rest
			if !reflect.DeepEqual(before, o) {
				wrong("what was observed has been changed")
			}
			if !reflect.DeepEqual(d, peers.Decide(o)) {
				wrong("the same observation gave another decision")
			}
		}
		r := o.Record.Value
		if !o.Record.Known() || !o.Peers.Known() || !o.Namesakes.Known() {
			if d.Action != peers.Wait {
				wrong("something it must know is unknown")
			}
			return
		}
		alive, someone, mayLive := false, false, false // this name; anybody's answer; a node that is registered
		for _, p := range o.Peers.Value {
			v := p.View.Value
			runs := p.View.Err == nil && slices.Contains(v.Running, p.Node)
			someone = someone || runs
			alive = alive || runs && (slices.Contains(v.Running, a) || slices.Contains(v.Connected, a))
			mayLive = mayLive || p.Passing || p.Beating || !p.Down
		}
		for _, p := range o.Namesakes.Value {
			alive = alive || p.Beating && !(p.AgentFailed && someone)
			alive = alive || !p.Beating && o.Answered < o.TTL && !someone
		}
		if alive {
			if d.Action != peers.Wait {
				wrong("another node of this name may live")
			}
			return
		}
		healthy := map[string]bool{}
		lacksVote := map[string]bool{}
		named := false
		for _, p := range o.Peers.Value {
			v := p.View.Value
			if p.View.Err != nil || v.ClusterID != ours || !slices.Contains(v.Running, p.Node) || r.State != peers.Formed {
				continue
			}
			healthy[p.Node] = p.Passing && p.ClusterID == ours && (o.Joining || !v.Khepri || 2*len(v.Running) > len(v.Members))
			named = named || healthy[p.Node] && slices.Contains(v.Members, a)
			lacksVote[p.Node] = slices.Contains(v.Members, a) && r.Members[p.Node] != ""
		}
		anyHealthy := slices.Contains(slices.Collect(maps.Values(healthy)), true)
		anyVote := slices.Contains(slices.Collect(maps.Values(lacksVote)), true)
		others := slices.DeleteFunc(r.Names(), func(n string) bool { return n == a })
		_, listed := r.Members[a]
		mine := o.Volume == "volume-of-"+a
		deaf := slices.ContainsFunc(o.Peers.Value, func(p peers.Peer) bool { return p.Passing && p.View.Err == errUnseen && !p.Down })

		switch d.Action {
		case peers.Claim:
			switch {
			case r.State == peers.Absent && len(o.Peers.Value) == 0 && dnsAgrees(o):
			case r.State == peers.Forming && r.Seed == a && (mine || o.Claim.Known() && o.Claim.Value > 0):
			case r.State == peers.Forming && r.Seed != a && o.Claim.Known() && o.ClaimTimeout > 0 && o.Claim.Value >= o.ClaimTimeout:
			case r.State == peers.Formed && len(r.Members) == 0 && !anyHealthy && !mayLive:
			default:
				wrong("nothing allows a founding here")
			}
			if r.State == peers.Formed && len(others) > 0 {
				wrong("%v may hold data of the cluster on record", others)
			}
		case peers.Remove:
			if r.State != peers.Formed || !listed || anyHealthy {
				wrong("only a member on record without a healthy peer takes itself off")
			}
			if o.Joining && anyVote {
				wrong("a member waits for this node's vote")
			}
			if deaf {
				wrong("a member passes, and cannot be asked whether it sees this name run")
			}
		case peers.Join:
			if r.State != peers.Formed || len(d.Peers) == 0 {
				wrong("nobody to join")
			}
			for _, n := range d.Peers {
				if !healthy[n] && (!o.Joining || !lacksVote[n] || anyHealthy) {
					wrong("%s neither is healthy nor lacks this node's vote", n)
				}
			}
			for n := range healthy {
				if healthy[n] && !slices.Contains(d.Peers, n) {
					wrong("left out %s, which is healthy", n)
				}
			}
			if slices.Contains(d.Peers, a) {
				wrong("joins itself")
			}
			if anyHealthy && d.Named != named {
				wrong("a healthy peer's list names me: %t, got %t", named, d.Named)
			}
			if !anyHealthy && d.Named {
				wrong("asks for healing while the majority lacks this node's vote")
			}
		case peers.Wait:
			if len(d.Peers) > 0 {
				wrong("waits with peers to join")
			}
			// No wait without end: something that others do, or time, must end it.
			if r.State == peers.Formed && (anyHealthy || listed && !deaf || len(r.Members) == 0 && !mayLive) {
				wrong("there is something to do")
			}
			if r.State == peers.Forming && r.Seed == a && mine {
				wrong("nobody else will found what this node claimed")
			}
			if r.State == peers.Forming && r.Seed == a && o.Claim.Known() && o.Claim.Value > 0 {
				wrong("the earlier volume's claim is dead")
			}
			if r.State == peers.Forming && o.Claim.Known() && o.ClaimTimeout > 0 && o.Claim.Value >= o.ClaimTimeout {
				wrong("the claimant is dead")
			}
			if r.State == peers.Absent && len(o.Peers.Value) == 0 && dnsAgrees(o) {
				wrong("nobody is there")
			}
		default:
			wrong("no such action")
		}
	})
	for _, action := range []peers.Action{peers.Wait, peers.Claim, peers.Remove, peers.Join} {
		if seen[action] == 0 {
			t.Errorf("no combination leads to %s: these observations cannot tell anything", action)
		}
	}
	t.Logf("%d observations: %v", total, seen)
}

// dnsAgrees reports whether DNS holds up no founding: it gives nobody, or has for the claim timeout.
func dnsAgrees(o peers.Observation) bool {
	return len(o.DNS.Value.Addresses) == 0 || o.ClaimTimeout > 0 && o.DNS.Value.For >= o.ClaimTimeout
}

// clone copies what Decide could change under the caller's hands.
func clone(o peers.Observation) peers.Observation {
	o.Record.Value.Members = maps.Clone(o.Record.Value.Members)
	o.Peers.Value = slices.Clone(o.Peers.Value)
	for i := range o.Peers.Value {
		v := &o.Peers.Value[i].View.Value
		v.Members, v.Running = slices.Clone(v.Members), slices.Clone(v.Running)
	}
	o.DNS.Value.Addresses = slices.Clone(o.DNS.Value.Addresses)
	return o
}

// TestDecideCells is the design's table, cell by cell.
func TestDecideCells(t *testing.T) {
	t.Parallel()
	record := func(name string) peers.Seen[peers.Record] {
		r, ok := everyRecord()[name]
		if !ok {
			t.Fatalf("no record %q", name)
		}
		return r
	}
	kinds := func(ps ...peers.Peer) peers.Seen[[]peers.Peer] { return peers.Seen[[]peers.Peer]{Value: ps} }
	k := func(kind, node string) peers.Peer { return peerKinds[kind](node) }
	for _, cell := range []struct {
		name  string
		o     peers.Observation
		want  peers.Action
		peers []string
		named bool
		why   string // a word of the reason

		founding bool // another node, which lives, founds the cluster
	}{
		{name: "record unknown", o: peers.Observation{Record: record("unknown")}, want: peers.Wait, why: "no answer"},
		{name: "catalog unknown", o: peers.Observation{Record: record("absent"), Peers: peers.Seen[[]peers.Peer]{Err: errUnseen}}, want: peers.Wait, why: "no answer"},
		{name: "absent, nobody", o: peers.Observation{Record: record("absent")}, want: peers.Claim},
		{name: "absent, nobody, DNS silent", o: peers.Observation{Record: record("absent"), DNS: everyDNS["unknown"]}, want: peers.Claim},
		{name: "absent, nobody, DNS knows more", o: peers.Observation{Record: record("absent"), DNS: everyDNS["strangers"]}, want: peers.Wait, why: "10.0.0.9:5672"},
		{name: "absent, nobody, DNS knows more for long", o: peers.Observation{Record: record("absent"), DNS: everyDNS["strangers for long"]}, want: peers.Claim, why: "10.0.0.9:5672 for over"},
		{name: "absent, one registered", o: peers.Observation{Record: record("absent"), Peers: kinds(k("critical", b))}, want: peers.Wait, why: b},
		{name: "absent, one passing", o: peers.Observation{Record: record("absent"), Peers: kinds(k("healthy", b))}, want: peers.Wait, why: b},
		{name: "forming, mine", o: peers.Observation{Record: record("forming mine"), Volume: "volume-of-" + a, Claim: everyClaim["alive"]}, want: peers.Claim},
		{name: "forming, my name's, on another volume, alive", o: peers.Observation{Record: record("forming mine"), Volume: "another", Claim: everyClaim["alive"]}, want: peers.Wait, why: "another container of this name"},
		{name: "forming, my name's, I have no volume yet, unknown", o: peers.Observation{Record: record("forming mine"), Claim: everyClaim["unknown"]}, want: peers.Wait, why: "unknown"},
		{name: "forming, my name's, on another volume, gone", o: peers.Observation{Record: record("forming mine"), Claim: everyClaim["just gone"]}, want: peers.Claim, why: "earlier volume"},
		{name: "my name is alive, absent", o: peers.Observation{Record: record("absent"), Namesakes: everyNamesake["passes"]}, want: peers.Wait, why: "its check lapses within 15s"},
		{name: "my name is alive, longer than its TTL", o: peers.Observation{Record: record("formed a,b"), Namesakes: everyNamesake["beats"], Watched: peers.Watched{Beating: 16 * time.Second}}, want: peers.Wait, why: "host name of its own"},
		{name: "my name is alive with an agent that failed, nobody answers", o: peers.Observation{Record: record("formed a"), Namesakes: everyNamesake["with an agent that failed"]}, want: peers.Wait, why: "consul force-leave"},
		{name: "my name with an agent that failed, a member answers", o: peers.Observation{Record: record("formed a,b"), Namesakes: everyNamesake["with an agent that failed"], Peers: kinds(k("healthy, names me", b))}, want: peers.Join, peers: []string{b}, named: true},
		{name: "my name was left in order a moment ago", o: peers.Observation{Record: record("absent"), Watched: peers.Watched{Freed: 1}}, want: peers.Wait, why: "left alone for two TTLs, 30s"},
		{name: "my name was left in order just less than two TTLs ago", o: peers.Observation{Record: record("formed a"), Watched: peers.Watched{Freed: 30*time.Second - 1}}, want: peers.Wait, why: "may start again"},
		{name: "my name was left in order two TTLs ago", o: peers.Observation{Record: record("absent"), Watched: peers.Watched{Freed: 30 * time.Second}}, want: peers.Claim},
		{name: "my name has lapsed, and Consul has answered for less than its TTL", o: peers.Observation{Record: record("formed a"), Namesakes: everyNamesake["lapsed"], TTL: ttl, Watched: peers.Watched{Answered: ttl - 1}}, want: peers.Wait, why: "Consul to have answered for 15s"},
		{name: "my name has lapsed, and Consul has answered for its TTL", o: peers.Observation{Record: record("formed a"), Namesakes: everyNamesake["lapsed"], TTL: ttl, Watched: peers.Watched{Answered: ttl}}, want: peers.Remove},
		{name: "my name has lapsed, Consul has only begun to answer, and a member does not know the name", o: peers.Observation{Record: record("formed a,b"), Namesakes: everyNamesake["lapsed"], Peers: kinds(k("healthy", b)), TTL: ttl}, want: peers.Join, peers: []string{b}},
		{name: "a member sees my name run", o: peers.Observation{Record: record("formed a,b"), Peers: kinds(k("healthy, sees me run", b))}, want: peers.Wait, why: b + " is connected to " + a},
		{name: "a member sees my name's Erlang", o: peers.Observation{Record: record("formed a,b"), Peers: kinds(k("healthy, connected to me", b))}, want: peers.Wait, why: b + " is connected to " + a},
		{name: "forming, another's, alive", o: peers.Observation{Record: record("forming b's"), Claim: everyClaim["alive"]}, want: peers.Wait, why: b, founding: true},
		{name: "forming, another's, unknown", o: peers.Observation{Record: record("forming b's"), Claim: everyClaim["unknown"]}, want: peers.Wait, why: "unknown"},
		{name: "forming, another's, not long enough gone", o: peers.Observation{Record: record("forming b's"), Claim: everyClaim["gone for less"]}, want: peers.Wait, why: b},
		{name: "forming, another's, gone, still registered", o: peers.Observation{Record: record("forming b's"), Peers: kinds(k("critical", b)), Claim: everyClaim["gone for the timeout"]}, want: peers.Claim, why: b},
		{name: "formed, some healthy", o: peers.Observation{Record: record("formed b,c"), Peers: kinds(k("healthy", b), k("passing, silent", c))}, want: peers.Join, peers: []string{b}},
		{name: "formed, all healthy", o: peers.Observation{Record: record("formed b,c"), Peers: kinds(k("healthy", b), k("healthy", c))}, want: peers.Join, peers: []string{b, c}},
		{name: "formed, healthy and naming me", o: peers.Observation{Record: record("formed a,b"), Peers: kinds(k("healthy, names me", b))}, want: peers.Join, peers: []string{b}, named: true},
		{name: "formed, wiped and removed, named by RabbitMQ", o: peers.Observation{Record: record("formed b"), Peers: kinds(k("healthy, names me", b))}, want: peers.Join, peers: []string{b}, named: true},
		{name: "formed, wiped, a majority without me", o: peers.Observation{Record: record("formed a,b"), Peers: kinds(k("healthy, needs no vote", b))}, want: peers.Join, peers: []string{b}, named: true},
		{name: "formed, wiped, no majority without me", o: peers.Observation{Record: record("formed a,b"), Peers: kinds(k("healthy, lacks my vote", b))}, want: peers.Remove},
		{name: "formed, removed, no majority without me", o: peers.Observation{Record: record("formed b"), Peers: kinds(k("healthy, lacks my vote", b))}, want: peers.Wait, why: b},
		{name: "formed, half joined, no majority without me", o: peers.Observation{Joining: true, Record: record("formed a,b"), Peers: kinds(k("healthy, lacks my vote", b))}, want: peers.Join, peers: []string{b}, named: true},
		{name: "formed, none healthy, half joined", o: peers.Observation{Joining: true, Record: record("formed a,b"), Peers: kinds(k("critical, names me", b))}, want: peers.Join, peers: []string{b}},
		{name: "formed, none healthy, named but not half joined", o: peers.Observation{Record: record("formed a,b"), Peers: kinds(k("critical, names me", b))}, want: peers.Remove},
		{name: "formed, none healthy, named by one not on record", o: peers.Observation{Joining: true, Record: record("formed a,b"), Peers: kinds(k("critical, names me", c))}, want: peers.Remove},
		{name: "formed, none healthy, listed", o: peers.Observation{Record: record("formed a,b,c")}, want: peers.Remove, why: ours},
		{name: "formed, a stale passing, listed", o: peers.Observation{Record: record("formed a,b"), Peers: kinds(k("passing, silent", b))}, want: peers.Remove},
		{name: "formed, none healthy, not listed", o: peers.Observation{Record: record("formed b,c")}, want: peers.Wait, why: b + ", " + c},
		{name: "formed, a passing one that cannot be asked, listed", o: peers.Observation{Record: record("formed a,b"), Peers: kinds(k("passing, cannot be asked", b))}, want: peers.Wait, why: b + " passes, but cannot be asked"},
		{name: "formed, a passing one that does not run, listed", o: peers.Observation{Record: record("formed a,b"), Peers: kinds(k("passing, does not run", b))}, want: peers.Remove},
		{name: "formed, a passing one that cannot be asked, not listed", o: peers.Observation{Record: record("formed b"), Peers: kinds(k("passing, cannot be asked", b))}, want: peers.Wait, why: "cookie"},
		{name: "formed, a passing one of another cluster", o: peers.Observation{Record: record("formed b"), Peers: kinds(k("passing, other id, answers", b))}, want: peers.Wait, why: b},
		{name: "formed, every member removed", o: peers.Observation{Record: record("formed ")}, want: peers.Claim},
		{name: "formed, every member removed, one still passes", o: peers.Observation{Record: record("formed "), Peers: kinds(k("passing, silent", b))}, want: peers.Wait, why: b},
		{name: "formed, every member removed, one passes and does not run", o: peers.Observation{Record: record("formed "), Peers: kinds(k("passing, does not run", b))}, want: peers.Wait, why: b},
		{name: "formed, every member removed, a lapsed one that cannot be asked", o: peers.Observation{Record: record("formed "), Peers: kinds(k("critical", b))}, want: peers.Wait, why: "consul services deregister"},
		{name: "formed, every member removed, a lapsed one that does not run", o: peers.Observation{Record: record("formed "), Peers: kinds(k("lapsed, does not run", b))}, want: peers.Claim},
	} {
		t.Run(cell.name, func(t *testing.T) {
			cell.o.Me, cell.o.ClaimTimeout, cell.o.TTL = a, timeout, 15*time.Second
			d := peers.Decide(cell.o)
			if d.Members != (d.Action == peers.Wait && strings.Contains(d.Why, "which hold its data")) {
				t.Errorf("an operator is told to give the cluster up: %t (%s)", d.Members, d.Why)
			}
			if d.Founding != cell.founding {
				t.Errorf("another node, which lives, founds the cluster: %t (%s)", d.Founding, d.Why)
			}
			if d.Action != cell.want || !slices.Equal(d.Peers, cell.peers) || d.Named != cell.named || !strings.Contains(d.Why, cell.why) {
				t.Errorf("got %+v\nwant %s of %v, named %t, with %q in the reason", d, cell.want, cell.peers, cell.named, cell.why)
			}
		})
	}
}
