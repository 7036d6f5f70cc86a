package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/companion"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/entrypoint"
	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/expect"
)

var (
	now    = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	all3   = []string{"rabbit@a", "rabbit@b", "rabbit@c"}
	errNot = errors.New("not so")
)

func listens(what, at string) Port { return Port{What: what, At: at} }

func reached(node string) Member {
	_, host, _ := strings.Cut(node, "@")
	return Member{Node: node, Passing: true, Entry: host + ":5672", Timed: true, Ports: []Port{listens("epmd", host+":4369"), listens("other nodes", host+":25672"), listens("AMQP", host+":5672")}, Ready: listens("/ready", host+":15690")}
}

func passes(node, at string) peers.Peer {
	return peers.Peer{Node: node, Address: at, Passing: true, Beating: true}
}

// well is what is seen of a node of three with which all is well, for production, too.
func well() Facts {
	rt := &statedir.Runtime{PID: 1}
	f := Facts{Now: now, Config: config.Config{Node: "rabbit@a", Home: "/var/lib/rabbitmq", Data: "/var/lib/rabbitmq/mnesia/rabbit@a", Hosts: "off", DNSDomain: "consul", Service: "rabbitmq", KeyPrefix: "p", TTL: 15 * time.Second}}
	f.Host.Volume = Volume{On: entrypoint.Mounted{At: "/var/lib/rabbitmq", Kind: "ext4", Root: "/vol/a"}, Free: 20 << 30, Size: 40 << 30,
		State: peers.Seen[statedir.Found]{Value: statedir.Found{Role: statedir.Member, Volume: "va", Cluster: "id"}}}
	f.Host.Name.Value = Name{Addresses: []string{"10.0.0.1"}, Own: true, Back: []string{"a.net."}}
	f.Own = []Port{listens("epmd", "127.0.0.1:4369"), listens("AMQP", "127.0.0.1:5672")}
	f.Agents = []consul.Examined{{Addr: "one:8500", Timed: true, ACL: true}, {Addr: "two:8500", Timed: true, ACL: true}}
	f.Entries.Value = []peers.Peer{passes("rabbit@a", "a:5672"), passes("rabbit@b", "b:5672"), passes("rabbit@c", "c:5672")}
	f.DNS.Service.Value, f.DNS.Consul.Value = []string{"a:5672", "b:5672", "c:5672"}, []string{"one:8300"}
	f.Record.Value = peers.Record{State: peers.Formed, ClusterID: "id", Since: now, Members: map[string]string{"rabbit@a": "va", "rabbit@b": "vb", "rabbit@c": "vc"}}
	f.Members = []Member{reached("rabbit@b"), reached("rabbit@c")}
	f.Server = Server{Runtime: rt, Alive: true}
	f.Server.Report.Value = companion.Report{Status: "passing", Reason: "answers", Looked: now, Since: now}
	f.Server.View.Value = peers.View{ClusterID: "id", Members: all3, Running: all3, Connected: all3[1:], Ports: peers.Ports{Listeners: []peers.Listener{{IP: "::", Port: 5671, TLS: true}}}}
	f.Server.Vitals.Value = rabbitmq.Vitals{DiskLimit: 2 << 30, Memory: 4 << 30, Total: 10 << 30, Versions: map[string]string{"rabbit@a": "4.3.6", "rabbit@b": "4.3.6"}, Leads: map[string]int{"rabbit@a": 9, "rabbit@b": 9, "rabbit@c": 8}, Named: "true", Guest: "false"}
	return f
}

// stopped is the same node while no server runs.
func stopped(f *Facts) {
	f.Server = Server{Runtime: f.Server.Runtime}
	for i := range f.Own {
		f.Own[i].Err = syscall.ECONNREFUSED
	}
}

// alone is the same node when RabbitMQ there is connected with nobody.
func alone(f *Facts) { f.Server.View.Value.Running, f.Server.View.Value.Connected = all3[:1], nil }

func TestAllIsWell(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Facts){
		"runs": func(*Facts) {}, "does not run": stopped,
		"never did": func(f *Facts) {
			stopped(f)
			f.Server.Runtime, f.Host.Volume.State.Value, f.Config.Node = nil, statedir.Found{}, "rabbit@a"
			delete(f.Record.Value.Members, "rabbit@a")
		},
		"is the first": func(f *Facts) {
			stopped(f)
			f.Server.Runtime, f.Host.Volume.State.Value, f.Members, f.Record.Value, f.Entries.Value, f.DNS.Service.Value = nil, statedir.Found{}, nil, peers.Record{}, nil, nil
		},
		"founds": func(f *Facts) {
			stopped(f)
			f.Record.Value = peers.Record{State: peers.Forming, Seed: "rabbit@b", Members: map[string]string{"rabbit@b": "vb"}}
		},
		"advertised elsewhere":  func(f *Facts) { f.Members[0].Unasked = true },
		"found by Consul alone": func(f *Facts) { f.Config.Hosts, f.Host.Name.Err = "consul", errNot },
	} {
		f := well()
		change(&f)
		r := judge(f)
		if r.Is != OK || r.First != nil {
			t.Errorf("%s: %+v", name, r)
		}
		for _, c := range checks {
			if len(of(r, c.name)) == 0 {
				t.Errorf("%s: %s says nothing", name, c.name)
			}
		}
		for i, one := range r.Checks {
			if one.Is != OK || one.Says == "" || i > 0 && one.Check == "" {
				t.Errorf("%s: %+v", name, one)
			}
		}
	}
}

// Each check has each of its results for a reason, and says what to do where a person can do something.
func TestChecks(t *testing.T) {
	t.Parallel()
	setAside := func(f *Facts) { f.Agents = f.Agents[:1] }
	for _, c := range []struct {
		name, check string
		is          Finding
		change      func(*Facts)
		says        []string // in what it says or what to do
	}{
		{"given", "settings", OK, func(f *Facts) {
			f.Config.Flags, f.Config.Variables = map[string]string{"ttl": "20s"}, map[string]string{"ttl": "9s", "service": "se-cret"}
		}, []string{"by --ttl, RMQ_SERVICE; the others by default"}},
		{"none given", "settings", OK, func(*Facts) {}, []string{"all by default"}},
		{"refused", "settings", Broken, func(f *Facts) { f.Host.Settings.Refused = errNot }, []string{"not so"}},
		{"warned of", "settings", Warning, func(f *Facts) { f.Host.Settings.Warnings = []string{"plain text"} }, []string{"plain text"}},
		{"differ", "settings", Warning, func(f *Facts) { f.Host.Settings.Differs = "service x, its y" }, []string{"service x, its y", "variables of the container"}},

		{"hangs", "volume", Broken, func(f *Facts) { f.Host.Hangs = true }, []string{"does not come to an end", "disk"}},
		{"hangs", "cookie", Unknown, func(f *Facts) { f.Host.Hangs = true }, nil},
		{"hangs", "name", Unknown, func(f *Facts) { f.Host.Hangs = true }, nil},
		{"two mounts", "volume", Broken, func(f *Facts) { f.Host.Volume.Mount = errNot }, []string{"not so"}},
		{"not ours", "volume", Broken, func(f *Facts) { f.Host.Volume.Directories = errNot }, []string{"not so"}},
		{"root's", "volume", Warning, func(f *Facts) {
			f.Host.AsRoot, f.Host.Volume.Directories = true, errors.New("use directory /v as uid 9: denied: give it to that uid")
		}, []string{"not rabbitmq's yet: use directory /v as uid 9: denied", "gives the volume"}},
		{"damaged", "volume", Broken, func(f *Facts) { f.Host.Volume.State.Err = errNot }, []string{"not so"}},
		{"jump", "volume", Broken, func(f *Facts) { f.Host.Volume.Jump = "4.0 to 4.3" }, []string{"4.0 to 4.3"}},
		{"jump beside others", "volume", Broken, func(f *Facts) { stopped(f); f.Mix = "4.0 and 4.3 cannot run in one cluster" }, []string{"cannot run in one cluster"}},
		{"in the container", "volume", Broken, func(f *Facts) { f.Host.Volume.On = entrypoint.Mounted{At: "/", Kind: "overlay"} }, []string{"no volume is mounted", "lost with the container", "mount a volume at /var/lib/rabbitmq"}},
		{"in memory", "volume", Broken, func(f *Facts) { f.Host.Volume.On.Kind = "tmpfs" }, []string{"no volume is mounted"}},
		{"without a name", "volume", Warning, func(f *Facts) {
			f.Host.Volume.On.Root = "/docker/volumes/" + strings.Repeat("0a", 32) + "/_data"
		}, []string{"has no name", "-v NAME:/var/lib/rabbitmq"}},
		{"full", "volume", Broken, func(f *Facts) { f.Host.Volume.Free = 40 << 20 }, []string{"40 MiB free of 40 GiB", "make room"}},
		{"nearly full", "volume", Warning, func(f *Facts) { f.Host.Volume.Free = 500 << 20 }, []string{"500 MiB free", "make room"}},
		{"refused before", "volume", Warning, func(f *Facts) { stopped(f); f.Host.Volume.Refused = &statedir.Refused{Why: "left", Again: 2, At: now} }, []string{"refused", "left", "so: 3"}},
		{"another's beside", "volume", Warning, func(f *Facts) {
			f.Host.Volume.State.Value, f.Host.Volume.Others = statedir.Found{}, []string{"rabbit@old"}
		}, []string{"rabbit@old", "host name"}},
		{"which", "volume", OK, func(*Facts) {}, []string{"volume va, member of cluster id, on /var/lib/rabbitmq (ext4), 20 GiB free"}},
		{"gone", "volume", OK, func(f *Facts) { stopped(f); f.Host.Volume.State.Value = statedir.Found{Lost: "id"} }, []string{"the data of cluster id are gone"}},
		{"never verified", "volume", OK, func(f *Facts) { f.Host.Volume.State.Value.Cluster = "" }, []string{"member, never verified"}},

		{"none", "cookie", Broken, func(f *Facts) { f.Host.Cookie.Err = errNot }, []string{"not so"}},
		{"root's", "cookie", Unknown, func(f *Facts) { f.Host.AsRoot, f.Host.Cookie.Err = true, fmt.Errorf("read: %w", fs.ErrPermission) }, []string{"before a start as root"}},
		{"not ours", "cookie", Broken, func(f *Facts) { f.Host.Cookie.Err = fmt.Errorf("read: %w", fs.ErrPermission) }, nil},
		{"none, as root", "cookie", Broken, func(f *Facts) { f.Host.AsRoot, f.Host.Cookie.Err = true, errNot }, nil},
		{"short", "cookie", Warning, func(f *Facts) { f.Host.Cookie.Value = "it has 4 characters" }, []string{"it has 4 characters", "openssl"}},

		{"no address", "name", Broken, func(f *Facts) { f.Host.Name.Err = errNot }, []string{"not so"}},
		{"localhost, alone", "name", Warning, func(f *Facts) { f.Config.Node, f.Members = "rabbit@localhost", nil }, []string{"every host takes", "--hostname"}},
		{"localhost", "name", Broken, func(f *Facts) { f.Config.Node = "rabbit@localhost" }, []string{"every host takes", "--hostname"}},
		{"another host's", "name", Broken, func(f *Facts) { f.Host.Name.Value.Own = false }, []string{"10.0.0.1, which is none of this host's", "DNS"}},
		{"another name back", "name", Warning, func(f *Facts) { f.Host.Name.Value.Back = []string{"x.net."} }, []string{"a is 10.0.0.1, and that is x.net."}},
		{"no name back", "name", OK, func(f *Facts) { f.Host.Name.Value.Back = nil }, nil},

		{"shut", "ports", Broken, func(f *Facts) {
			f.Own[1].Err, f.Server.Report.Err, f.Server.View.Err = syscall.ECONNREFUSED, errNot, errNot
		}, []string{"nobody answers: AMQP 127.0.0.1:5672: refused", "boots still, waits, or has stopped"}},
		{"boots", "ports", Warning, func(f *Facts) {
			f.Own[1].Err, f.Server.Report.Value.Status, f.Server.View.Value.Running = syscall.ECONNREFUSED, "critical", nil
		}, []string{"RabbitMQ has not come up: AMQP 127.0.0.1:5672: refused"}},
		{"replaced, and shut", "ports", Broken, func(f *Facts) {
			f.Server.Runtime.Waiting, f.Own[1].Err, f.Server.Report.Err = statedir.Replaced, syscall.ECONNREFUSED, errNot
		}, []string{"nobody answers: AMQP 127.0.0.1:5672: refused"}},
		{"waits", "ports", OK, func(f *Facts) {
			f.Server.Runtime.Waiting, f.Own[0].Err, f.Own[1].Err = "members", syscall.ECONNREFUSED, syscall.ECONNREFUSED
		}, []string{"open: none"}},
		{"behind the gate", "ports", OK, func(f *Facts) {
			f.Server.Runtime.Waiting, f.Server.Runtime.Gated, f.Own[1].Err = "members", true, syscall.ECONNREFUSED
		}, []string{"open: epmd 127.0.0.1:4369"}},
		{"volume unread", "ports", Unknown, func(f *Facts) { f.Server = Server{Err: errHangs} }, []string{"AMQP 127.0.0.1:5672", "does not come to an end"}},
		{"elsewhere", "ports", Warning, func(f *Facts) { f.Own[1].Err = syscall.ECONNREFUSED }, []string{"not on this host's loopback"}},
		{"taken", "ports", Broken, func(f *Facts) { stopped(f); f.Own[1].Err = nil }, []string{"taken is: AMQP 127.0.0.1:5672", "RABBITMQ_NODE_PORT"}},

		{"one is away", "consul", Warning, func(f *Facts) { f.Agents[0].Err = errNot }, []string{"one:8500: not so", "start it"}},
		{"all are away", "consul", Broken, func(f *Facts) { setAside(f); f.Agents[0].Err = errNot }, []string{"one:8500: not so"}},
		{"no leader", "consul", Broken, func(f *Facts) { setAside(f); f.Agents[0].Err = errors.New("it has no leader") }, []string{"no leader", "servers"}},
		{"certificate", "consul", Broken, func(f *Facts) { setAside(f); f.Agents[0].Err = errors.New("x509: unknown") }, []string{"CONSUL_CACERT"}},
		{"not TLS", "consul", Broken, func(f *Facts) {
			setAside(f)
			f.Agents[0].Err = errors.New("http: server gave HTTP response to HTTPS client")
		}, []string{"https://"}},
		{"no name", "consul", Broken, func(f *Facts) { setAside(f); f.Agents[0].Err = errors.New("lookup consul: no such host") }, []string{"mend the name"}},
		{"a right", "consul", Broken, func(f *Facts) { setAside(f); f.Agents[0].Lacks = []string{`key:write on "p/rabbitmq/"`} }, []string{`lacks key:write on "p/rabbitmq/"`, "Rights in Consul"}},
		{"never syncs", "consul", Broken, func(f *Facts) { setAside(f); f.Agents[0].Unsynced = "the catalog has no x" }, []string{"the catalog has no x", "force-leave"}},
		{"not told whether it syncs", "consul", Unknown, func(f *Facts) { f.Agents[0].Unseen = errNot }, []string{"one:8500 answers, and whether what it takes reaches the catalog cannot be told: not so"}},
		{"rights not told", "consul", Unknown, func(f *Facts) { f.Agents[0].Unasked = errNot }, []string{"does not say which rights"}},

		{"ahead", "clock", Warning, func(f *Facts) { f.Agents[0].Ahead = 10 * time.Second }, []string{"Consul at one:8500 is 10s ahead"}},
		{"behind", "clock", Broken, func(f *Facts) { f.Members[1].Ahead = -time.Hour; f.Agents[0].Ahead = time.Minute }, []string{"rabbit@c is 1h0m0s behind", "NTP"}},
		{"nobody says", "clock", Unknown, func(f *Facts) {
			f.Members = nil
			f.Agents[0].Timed, f.Agents[1].Timed = false, false
		}, nil},

		{"away", "dns", Warning, func(f *Facts) { f.DNS.Service.Err, f.DNS.Consul.Err = errNot, errNot }, []string{"not so", "RMQ_DNS_SERVER"}},
		{"knows nothing", "dns", Warning, func(f *Facts) { f.DNS = DNS{} }, []string{"does not know the domain consul", "RMQ_DNS_DOMAIN"}},
		{"half", "dns", Unknown, func(f *Facts) { f.DNS.Service.Err = errNot }, nil},
		{"no catalog", "dns", Unknown, func(f *Facts) { f.Entries.Err = errNot }, []string{"3 addresses"}},
		{"stale", "dns", Warning, func(f *Facts) { f.Entries.Value = f.Entries.Value[:2] }, []string{"stale: it gives c:5672"}},
		{"lacks one", "dns", Warning, func(f *Facts) { f.DNS.Service.Value = f.DNS.Service.Value[:2] }, []string{"it lacks c:5672"}},

		{"no Consul", "record", Unknown, func(f *Facts) { f.Record.Err = errNoConsul }, nil},
		{"invalid", "record", Broken, func(f *Facts) { f.Record.Err = errNot }, []string{"not so"}},
		{"none yet", "record", OK, func(f *Facts) {
			stopped(f)
			f.Record.Value, f.Host.Volume.State.Value = peers.Record{}, statedir.Found{}
		}, []string{"none yet (p/rabbitmq/cluster)"}},
		{"none any more", "record", Warning, func(f *Facts) { stopped(f); f.Record.Value = peers.Record{} }, []string{"none (p/rabbitmq/cluster), and the volume here is of cluster id", "start members with data first"}},
		{"none, volume unread", "record", Unknown, func(f *Facts) {
			stopped(f)
			f.Record.Value, f.Host.Volume.State = peers.Record{}, peers.Seen[statedir.Found]{Err: errNot}
		}, []string{"cannot be read"}},
		{"none, volume hangs", "record", Unknown, func(f *Facts) {
			stopped(f)
			f.Record.Value, f.Host = peers.Record{}, Host{Hangs: true}
		}, []string{"cannot be read"}},
		{"founds", "record", OK, func(f *Facts) { f.Record.Value = peers.Record{State: peers.Forming, Seed: "rabbit@b", Since: now} }, []string{"rabbit@b founds the cluster since 2026-11-27T12:00:00Z"}},
		{"nobody else", "members", OK, func(f *Facts) { f.Members = nil }, []string{"no other is known"}},
		{"nobody says, volume hangs", "members", Unknown, func(f *Facts) { f.Members, f.Record.Err, f.Host = nil, errNoConsul, Host{Hangs: true} }, []string{"neither the record nor the volume"}},
		{"nobody says, volume unread", "members", Unknown, func(f *Facts) { f.Members, f.Record.Err, f.Host.Volume.State.Err = nil, errNot, errNot }, []string{"neither the record nor the volume"}},
		{"nobody says, volume blank", "members", Unknown, func(f *Facts) {
			f.Members, f.Record.Err, f.Host.Volume.State.Value = nil, errNot, statedir.Found{}
		}, []string{"neither the record nor the volume"}},
		{"alone by its volume", "members", OK, func(f *Facts) { f.Members, f.Record.Err = nil, errNoConsul }, []string{"no other is known"}},
		{"never started", "rabbitmq", OK, func(f *Facts) { stopped(f); f.Server.Runtime = nil }, []string{"no server was ever started on this volume"}},
		{"lost", "record", Warning, func(f *Facts) { f.Record.Value = peers.Record{} }, []string{"none (p/rabbitmq/cluster)", "in cluster id", "publishes"}},
		{"ruled out", "record", Broken, func(f *Facts) { f.Record.Value = f.Record.Value.Left("rabbit@a", "told to", now) }, []string{"rabbit@a left cluster id for good", "empty volume"}},
		{"wiped, or not mounted", "record", Warning, func(f *Facts) { stopped(f); f.Host.Volume.State.Value = statedir.Found{} }, []string{"rabbit@a is on record with volume va, and the one here is blank", "mount that one"}},
		{"another cluster", "record", Broken, func(f *Facts) { f.Server.View.Value.ClusterID = "id-2" }, []string{"SPLIT", "id-2"}},
		{"forgotten by hand", "record", Broken, func(f *Facts) { f.Server.View.Value.Members = all3[:2] }, []string{"rabbit@c is on record, and RabbitMQ does not list it", "empty one"}},
		{"about to join", "record", OK, func(f *Facts) {
			f.Server.View.Value.Members = all3[:2]
			f.Record.Value = f.Record.Value.Left("rabbit@c", "", now).Joins("rabbit@c", "vx", now)
		}, nil},
		{"not on record", "record", Warning, func(f *Facts) { f.Server.View.Value.Members = append(slices.Clone(all3), "rabbit@d") }, []string{"RabbitMQ lists rabbit@d", "rmq-entrypoint forget rabbit@d"}},

		{"not on record", "foreign", Warning, func(f *Facts) {
			f.Entries.Value = append(f.Entries.Value, peers.Peer{Node: "rabbit@z", Address: "z:5672", ClusterID: "id-2", Passing: true, Entry: peers.Entry{ID: "made-up", Agent: "agent-2"}})
		}, []string{"rabbit@z at z:5672 passes, is not on record, and clients are sent there; it says that it is of cluster id-2, and ", "on agent agent-2: consul services deregister -id=made-up"}},
		{"not on record, and a member", "foreign", OK, func(f *Facts) {
			f.Entries.Value, f.Server.View.Value.Members = append(f.Entries.Value, passes("rabbit@z", "z:5672")), append(slices.Clone(all3), "rabbit@z")
		}, nil},
		{"unknown", "foreign", Unknown, func(f *Facts) { f.Entries.Err = errNot }, []string{"not so"}},

		{"no address, passing", "members", Broken, func(f *Facts) { f.Members[0].Err = errNot }, []string{"rabbit@b passes in Consul", "RMQ_HOSTS=consul"}},
		{"no address", "members", Warning, func(f *Facts) { f.Members[0].Err = errNot; f.Members[0].Passing = false }, []string{"rabbit@b is down", "rmq-entrypoint forget rabbit@b"}},
		{"no address but its entry's", "members", Unknown, func(f *Facts) {
			f.Members[0].Err, f.Members[0].Unasked, f.Members[0].Remove = errNot, true, "on agent a: consul services deregister -id=i"
		}, []string{"rabbit@b is at b:5672 by its entry in Consul alone", "nobody was asked there", "deregister -id=i"}},
		{"an entry elsewhere", "members", Warning, func(f *Facts) {
			f.Config.Hosts, f.Members[0].Unasked, f.Members[0].Remove = "consul", true, "on agent a: consul services deregister -id=i"
		}, []string{"rabbit@b is reached at its ports; AMQP at b:5672", "was not asked", "deregister -id=i"}},
		{"an entry elsewhere, and shut", "members", Broken, func(f *Facts) { f.Members[0].Unasked, f.Members[0].Ports[0].Err = true, syscall.ECONNREFUSED }, []string{"is not reached: epmd b:4369: refused; AMQP at b:5672", "was not asked"}},
		{"shut", "members", Broken, func(f *Facts) { f.Members[0].Ports[1].Err = errors.New("i/o deadline") }, []string{"rabbit@b passes in Consul, and is not reached: other nodes b:25672: no answer", "25672"}},
		{"down", "members", Warning, func(f *Facts) { f.Members[0].Ports[0].Err, f.Members[0].Passing = syscall.ECONNREFUSED, false }, []string{"does not pass in Consul, and is not reached: epmd b:4369: refused"}},
		{"down, not listed", "members", Warning, func(f *Facts) { f.Members[0].Ports[1].Err, f.Members[0].Passing = errNotListed, false }, []string{"does not pass in Consul, and is not reached", "docker logs", "rmq-entrypoint forget rabbit@b"}},
		{"cut off", "members", Warning, func(f *Facts) { f.Members[0].Ports[1].Err, f.Members[0].Passing = errors.New("i/o deadline"), false }, []string{"rabbit@b does not pass in Consul, runs, as epmd there says, and is not reached: other nodes b:25672: no answer", "open the way"}},
		{"boots", "members", Warning, func(f *Facts) { f.Members[0].Ports[2].Err, f.Members[0].Passing = syscall.ECONNREFUSED, false }, []string{"rabbit@b does not pass in Consul, and runs without taking clients: AMQP b:5672: refused", "doctor in it"}},
		{"/ready shut", "members", Warning, func(f *Facts) { f.Members[0].Ready.Err, f.Members[0].Timed = syscall.ECONNREFUSED, false }, []string{"rabbit@b is reached, but for /ready b:15690: refused", "balancers"}},
		{"another cookie", "members", Broken, func(f *Facts) { alone(f) }, []string{"rabbit@b passes in Consul, its ports are reached, and RabbitMQ here is not connected with it", "sha256sum /var/lib/rabbitmq/.erlang.cookie", "RABBITMQ_ERLANG_COOKIE"}},
		{"another cookie there", "members", Warning, func(f *Facts) { alone(f); f.Members[0].Passing = false }, []string{"rabbit@b is reached, does not pass in Consul, and RabbitMQ here is not connected with it", "status", "cookie"}},
		{"another cookie, and it waits", "members", Broken, func(f *Facts) { f.Members[0].Mute = errNot }, []string{"rabbit@b passes in Consul, its ports are reached, and RabbitMQ there does not answer this node: not so", "sha256sum /var/lib/rabbitmq/.erlang.cookie"}},
		{"it waits", "members", OK, func(f *Facts) {
			f.Server.Runtime.Waiting = "the end of another node of this name"
			f.Server = f.Server.look(context.Background(), f.Config)
			f.Server.View.Value = peers.View{}
		}, []string{"rabbit@b is reached at its ports"}},
		{"connected, and RabbitMQ does not run there", "members", Warning, func(f *Facts) {
			alone(f)
			f.Server.View.Value.Connected, f.Members[0].Passing = all3[1:], false
		}, []string{"rabbit@b is reached, and does not pass"}},
		{"critical", "members", Warning, func(f *Facts) { f.Members[0].Passing = false }, []string{"rabbit@b is reached, and does not pass", "status"}},

		{"lost", "companion", Broken, func(f *Facts) { f.Server.Report.Err = errNot }, []string{"does not answer: not so", "healthcheck"}},
		{"hangs", "companion", Broken, func(f *Facts) { f.Server.Report.Value.Looked = now.Add(-time.Minute) }, []string{"looked at the node last at 11:59:00Z"}},
		{"drained", "companion", Warning, func(f *Facts) {
			f.Server.Report.Value.Out, f.Server.Report.Value.Status, f.Server.Report.Value.Reason = true, "critical", "maintenance"
		}, []string{"maintenance", "revive"}},
		{"critical", "companion", Broken, func(f *Facts) { f.Server.Report.Value.Status, f.Server.Report.Value.Reason = "critical", "no leader" }, []string{"no leader"}},
		{"warning", "companion", Warning, func(f *Facts) { f.Server.Report.Value.Status, f.Server.Report.Value.Reason = "warning", "alarm" }, []string{"alarm"}},
		{"waits", "companion", Broken, func(f *Facts) { f.Server.Runtime.Waiting = "members" }, []string{"waits for members"}},
		{"waits", "rabbitmq", Broken, func(f *Facts) { f.Server.Runtime.Waiting = "members" }, []string{"waits for members"}},
		{"replaced", "rabbitmq", OK, func(f *Facts) { f.Server.Runtime.Waiting = statedir.Replaced }, []string{"4.3.6"}},
		{"behind the gate", "companion", Broken, func(f *Facts) {
			f.Server.Runtime.Waiting, f.Server.Runtime.Gated = "the lock", true
			f.Server.Report.Value.Status, f.Server.Report.Value.Reason = "critical", "waiting for members"
		}, []string{"the check is critical: waiting for members"}},
		{"behind the gate", "rabbitmq", Unknown, func(f *Facts) {
			f.Server.Runtime.Waiting, f.Server.Runtime.Gated, f.Server.View.Err = "the lock", true, errNot
		}, []string{"behind the gate"}},
		{"volume unread", "companion", Unknown, func(f *Facts) { f.Server = Server{Err: errHangs} }, []string{"does not come to an end"}},

		{"does not answer", "rabbitmq", Broken, func(f *Facts) { f.Server.View.Err = errNot }, []string{"not so", "cookie"}},
		{"hangs", "rabbitmq", Unknown, func(f *Facts) { f.Server.View.Err = errors.New("rabbitmqctl: no answer: late") }, []string{"no answer", "ask again"}},
		{"partitioned", "rabbitmq", Broken, func(f *Facts) { f.Server.View.Value.Partitions = all3[1:2] }, []string{"partitioned from rabbit@b"}},
		{"no majority", "rabbitmq", Broken, func(f *Facts) { f.Server.View.Value.Running, f.Server.View.Value.Khepri = all3[:1], true }, []string{"no majority", "only rabbit@a run"}},
		{"no majority, pauses", "rabbitmq", Broken, func(f *Facts) { f.Server.View.Value.Running, f.Server.View.Value.Pauses = all3[:1], true }, []string{"no majority", "only rabbit@a run"}},
		{"no majority, goes on", "rabbitmq", Warning, func(f *Facts) { f.Server.View.Value.Running = all3[:1] }, []string{"down: rabbit@b, rabbit@c", "forget"}},
		{"nobody runs", "rabbitmq", Broken, func(f *Facts) { f.Server.View.Value.Running, f.Server.View.Value.Listeners = nil, nil }, []string{"no majority: of the members rabbit@a, rabbit@b, rabbit@c none runs", "members above"}},
		{"one is down", "rabbitmq", Warning, func(f *Facts) { f.Server.View.Value.Running = all3[:2] }, []string{"down: rabbit@c", "forget"}},
		{"no listener", "rabbitmq", Warning, func(f *Facts) { f.Server.View.Value.Listeners = nil }, []string{"no AMQP connections"}},
		{"alarm", "rabbitmq", Broken, func(f *Facts) { f.Server.Vitals.Value.Alarms = []string{"disk on rabbit@b"} }, []string{"publishers are blocked: disk on rabbit@b"}},
		{"versions", "rabbitmq", Warning, func(f *Facts) { f.Server.Vitals.Value.Versions["rabbit@b"] = "4.2.1" }, []string{"4.2.1 and 4.3.6"}},
		{"flags", "rabbitmq", Warning, func(f *Facts) { f.Server.Vitals.Value.Disabled = 2 }, []string{"2 stable feature flags", "enable_feature_flag all"}},
		{"flags not told", "rabbitmq", OK, func(f *Facts) { f.Server.Vitals.Value.Disabled = -1 }, nil},
		{"quorum-critical", "rabbitmq", Warning, func(f *Facts) { f.Server.Vitals.Value.Critical = []string{"queue q"} }, []string{"needs this node: queue q"}},
		{"without a name", "rabbitmq", Warning, func(f *Facts) { f.Server.Vitals.Value.Named = "false" }, []string{"has no name", "it is 3 clusters", "rabbitmqctl set_cluster_name rabbitmq"}},
		{"without a name, alone", "rabbitmq", OK, func(f *Facts) {
			f.Server.Vitals.Value.Named, f.Server.View.Value.Members, f.Server.View.Value.Running = "false", all3[:1], all3[:1]
		}, []string{"4.3.6"}},
		{"leaders on one", "rabbitmq", Warning, func(f *Facts) { f.Server.Vitals.Value.Leads["rabbit@b"] = 35 }, []string{"rabbit@b leads 35 queues that others could, and its share is 17", "rabbitmq-queues rebalance all"}},
		{"vitals not told", "rabbitmq", Unknown, func(f *Facts) { f.Server.Vitals.Err = errNot }, []string{"alarms, versions and flags: not so"}},

		{"nobody passes", "balancer", Warning, func(f *Facts) {
			for i := range f.Entries.Value {
				f.Entries.Value[i].Passing = false
			}
		}, []string{"nowhere"}},
		{"unknown", "balancer", Unknown, func(f *Facts) { f.Entries.Err = errNot }, nil},

		{"guest", "production", Warning, func(f *Facts) { f.Server.Vitals.Value.Guest = "true" }, []string{"guest gets in", "delete guest"}},
		{"disk limit", "production", Warning, func(f *Facts) { f.Server.Vitals.Value.DiskLimit = 50_000_000 }, []string{"disk_free_limit is 47 MiB"}},
		{"memory limit", "production", Warning, func(f *Facts) { f.Server.Vitals.Value.Memory = 9 << 30 }, []string{"9216 MiB of 10 GiB"}},
		{"two", "production", Warning, func(f *Facts) { f.Server.View.Value.Members, f.Server.View.Value.Running = all3[:2], all3[:2] }, []string{"a cluster of 2", "run three"}},
		{"TLS", "production", Warning, func(f *Facts) { f.Server.View.Value.Listeners[0].TLS = false }, []string{"without TLS"}},
		{"ACLs", "production", Warning, func(f *Facts) { f.Agents[0].ACL = false }, []string{"ACLs are off"}},
	} {
		f := well()
		c.change(&f)
		r := judge(f)
		found := false
		for _, one := range r.Checks {
			text := one.Says + "\n" + one.Do
			found = found || one.Check == c.check && one.Is == c.is && !slices.ContainsFunc(c.says, func(w string) bool { return !strings.Contains(text, w) })
		}
		if !found {
			t.Errorf("%s, %s: want %s with %q, got %+v", c.check, c.name, c.is, c.says, slices.DeleteFunc(r.Checks, func(one Result) bool { return one.Check != c.check }))
		}
		if c.is == Broken && r.Is != Broken || c.is == Unknown && r.Is == OK || c.is == Warning && r.Is == Unknown && c.check != "volume" {
			t.Errorf("%s, %s: all in all %s", c.check, c.name, r.Is)
		}
	}
}

// What is broken nearest to this host is named, though more is broken behind it; what cannot be told does not hide it.
func TestFirst(t *testing.T) {
	t.Parallel()
	f := well()
	f.Record.Err = errNoConsul
	if r := judge(f); r.Is != Unknown || r.First != nil {
		t.Errorf("%+v", r)
	}
	f.Server.View.Err, f.Host.Cookie.Err, f.Members[0].Err = errNot, errors.New("a\x1b[31mb"), errNot
	r := judge(f)
	if r.Is != Broken || r.First == nil || r.First.Check != "cookie" || r.First.Says != `a\x1b[31mb` {
		t.Errorf("%+v", r.First)
	}
	var out strings.Builder
	if err := r.print(&out, false); err != nil || !strings.Contains(out.String(), "\nFIRST BROKEN: cookie: a\\x1b[31mb\n") || strings.Contains(out.String(), "\x1b") || !strings.Contains(out.String(), "BROKEN  members") || !strings.Contains(out.String(), "?       record") {
		t.Errorf("%v\n%s", err, out.String())
	}
	if strings.Count(out.String(), "\n") > 40 {
		t.Errorf("more than a screen:\n%s", out.String())
	}
	out.Reset()
	if err := r.print(&out, true); err != nil || !strings.Contains(out.String(), "\x1b[31;1mBROKEN\x1b[0m") || !strings.Contains(out.String(), "\x1b[32mok\x1b[0m") {
		t.Errorf("%v\n%q", err, out.String())
	}
	b, err := json.Marshal(r)
	var back Report
	if err != nil || json.Unmarshal(b, &back) != nil || back.First.Check != "cookie" || back.Is != Broken || len(back.Checks) != len(r.Checks) || !strings.Contains(string(b), `"result":"broken"`) {
		t.Errorf("%v %s", err, b)
	}
	out.Reset()
	f = well()
	f.Agents[0].Err, f.Agents[1].Timed = errNot, false
	if err := judge(f).print(&out, false); err != nil || strings.Count(out.String(), "consul  ") != 1 {
		t.Errorf("a check is named once: %v\n%s", err, out.String())
	}
	out.Reset()
	if err := judge(f).print(&out, false); err != nil || !strings.HasSuffix(out.String(), "nothing is broken; warnings: 1\n") || !strings.Contains(out.String(), "→ start it, open the way") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

func TestSize(t *testing.T) {
	t.Parallel()
	for bytes, want := range map[uint64]string{0: "0 KiB", 9 << 20: "9216 KiB", 10 << 20: "10 MiB", 10<<30 - 1: "10239 MiB", 10 << 30: "10 GiB"} {
		if got := size(bytes); got != want {
			t.Errorf("%d: %s, want %s", bytes, got, want)
		}
	}
}

// Who leads much more than its share is one of several, twice above it, and by more than a few queues.
func TestCrowded(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		leads map[string]int
		who   string
		share int
	}{
		"nobody says":       {nil, "", 0},
		"none":              {map[string]int{"a": 0, "b": 0, "c": 0}, "", 0},
		"alone":             {map[string]int{"a": 50}, "", 0},
		"all on one":        {map[string]int{"a": 0, "b": 15, "c": 0}, "b", 5},
		"a few":             {map[string]int{"a": 0, "b": 13, "c": 0}, "", 0},
		"all on one of two": {map[string]int{"a": 0, "b": 20}, "b", 10},
		"not twice":         {map[string]int{"a": 100, "b": 199, "c": 1}, "", 0},
		"after a join":      {map[string]int{"a": 30, "b": 30, "c": 30, "d": 0}, "", 0},
	} {
		if who, most, share := crowded(c.leads); who != c.who || share != c.share || most != c.leads[c.who] {
			t.Errorf("%s: %s leads %d, share %d, want %s, %d", name, who, most, share, c.who, c.share)
		}
	}
}

// As many entries as somebody makes under the service's name are a screen.
func TestManyForeign(t *testing.T) {
	t.Parallel()
	consul := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		var all []string
		for i := range 500 {
			all = append(all, fmt.Sprintf(`{"Node": {"Node": "agent-2"}, "Service": {"ID": "other-%d", "Address": "10.9.9.9", "Port": 80}, "Checks": []}`, i))
		}
		_, _ = fmt.Fprintf(w, "[%s]", strings.Join(all, ","))
	}))
	defer consul.Close()
	client, err := api.NewClient(&api.Config{Address: consul.URL})
	expect.Must(t, err)
	f := well()
	f.Entries.Value, _, err = peers.Entries(t.Context(), client, "rabbitmq")
	expect.Must(t, err)
	got := of(judge(f), "foreign")
	if len(got) != mostForeign+1 || got[mostForeign].Says != "and 490 more" || !strings.Contains(got[0].Says, "other-0 at 10.9.9.9:80 is no node's") {
		t.Errorf("%d, %+v", len(got), got)
	}
}
