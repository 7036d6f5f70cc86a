package doctor

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/companion"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/entrypoint"
	"rmq-entrypoint/internal/hosts"
	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
)

// Facts is what was seen, in three rounds: this host, Consul's addresses, DNS and RabbitMQ; what
// Consul has of the cluster; the members' ports.
type Facts struct {
	Now     time.Time
	Config  config.Config // of the server that runs here, or ran here last, but for what the command was given
	Host    Host
	Own     []Port // of this node
	Server  Server
	Mix     string // why RabbitMQ does not support this image beside the members that run
	Agents  []consul.Examined
	DNS     DNS
	Record  peers.Seen[peers.Record]
	Entries peers.Seen[[]peers.Peer]
	Members []Member
}

// Host is what was seen of this container alone.
type Host struct {
	AsRoot   bool // a start here gives the volume to rabbitmq
	Hangs    bool // it did not come to an end: a disk that does not answer
	Settings Settings
	Volume   Volume
	Cookie   peers.Seen[string] // why it can be guessed
	Name     peers.Seen[Name]
}

// Settings is what a start would make of them.
type Settings struct {
	Refused  error
	Warnings []string // that it would log
	Differs  string   // from those of the server that runs here
}

// Volume is what was seen of where the data lie.
type Volume struct {
	On          entrypoint.Mounted
	Mount       error  // what a start would refuse of the mounts
	Directories error  // what it may not use
	Free, Size  uint64 // bytes; 0: not known
	State       peers.Seen[statedir.Found]
	Others      []string // databases of other nodes' names beside
	Refused     *statedir.Refused
	Single      error  // what a start would refuse, of a lone broker's volume or of its settings
	Jump        string // why RabbitMQ does not support this image here
}

// Name is how this host's own name resolves, and back.
type Name struct {
	Addresses []string
	Own       bool     // one of them is this host's
	Back      []string // names of the first; nobody: no name server says
}

// A Port is one that somebody has to reach.
type Port struct {
	What string
	At   string // host:port
	Err  error  // nil: something takes connections there
}

// Server is what was seen of the server in this container.
type Server struct {
	Runtime *statedir.Runtime // nil: none was ever started on this volume
	Err     error             // of reading that
	Alive   bool
	Report  peers.Seen[companion.Report]
	View    peers.Seen[peers.View]
	Vitals  peers.Seen[rabbitmq.Vitals]
}

// DNS is what name servers say of the service.
type DNS struct {
	Service peers.Seen[[]string]
	Consul  peers.Seen[[]string] // of the service consul, which every Consul has
}

// A Member is another node on record, or one that RabbitMQ listed last.
type Member struct {
	Node    string
	Passing bool          // its entry in Consul does
	Entry   string        // the address there
	Remove  string        // what takes that entry out
	Volume  string        // on record
	Unasked bool          // nothing but the entry has it at that address: nobody connects there
	Err     error         // its host has no address
	Ports   []Port        // that each node needs
	Ready   Port          // that balancers ask; without an address: it is for its own host alone
	Ahead   time.Duration // its clock before ours
	Timed   bool
	Mute    error // its RabbitMQ does not answer this node, whose own does not run
}

// round bounds each of the three. RabbitMQ's command line takes its time beside them, and after them
// where the node waits, and a member is asked in its place.
const (
	round = 2500 * time.Millisecond
	long  = 6500 * time.Millisecond
	brief = time.Second // for a file on the volume
)

func look(ctx context.Context, cfg config.Config) Facts {
	f := Facts{Now: time.Now(), Config: cfg}
	rt, known := bounded(ctx, brief, func(context.Context) (s Server) {
		s.Runtime, s.Err = statedir.OfServer(cfg)
		return s
	})
	if !known {
		rt.Err = errHangs
	}
	if rt.Runtime != nil && rt.Err == nil {
		var differs []string
		cfg, differs = cfg.Of(rt.Runtime.Config)
		f.Config, f.Host.Settings.Differs, rt.Alive = cfg, strings.Join(differs, "; "), rt.Runtime.Alive()
	}
	server := make(chan Server, 1)
	go func() { server <- rt.look(ctx, cfg) }()
	differs, outer := f.Host.Settings.Differs, ctx
	all(ctx, func(context.Context) { // a busy host takes its time, and is no disk that hangs
		host, known := bounded(outer, long-round, func(ctx context.Context) Host { return lookAtHost(ctx, cfg) })
		f.Host, f.Host.Hangs = host, !known
		f.Host.Settings.Differs = differs
	},
		func(ctx context.Context) {
			if !cfg.Single {
				f.Agents = consul.Examine(ctx, cfg)
			}
		},
		func(ctx context.Context) {
			if !cfg.Single {
				f.DNS = lookUp(ctx, cfg)
			}
		},
		func(ctx context.Context) {
			if !cfg.Single && !rt.Alive {
				f.Mix = entrypoint.SeenMix(ctx, cfg)
			}
		},
		func(ctx context.Context) { f.Own = ownPorts(ctx, cfg, rt.Alive) })
	f.Record.Err, f.Entries.Err = errNoConsul, errNoConsul
	var client *api.Client
	if i := slices.IndexFunc(f.Agents, func(e consul.Examined) bool { return e.Err == nil }); i >= 0 {
		client = f.Agents[i].Client
		all(ctx, func(ctx context.Context) {
			f.Record.Value, _, f.Record.Err = peers.ReadRecord(ctx, client, cfg.RecordKey())
		},
			func(ctx context.Context) { f.Entries.Value, _, f.Entries.Err = peers.Entries(ctx, client, cfg.Service) })
	}
	f.Members = others(f)
	all(ctx, func(ctx context.Context) {
		var where hosts.Where
		if client != nil {
			where = cfg.Places().Reader(ctx, client)
		}
		var asking sync.WaitGroup
		defer asking.Wait()
		for i := range f.Members {
			asking.Go(func() { f.Members[i].look(ctx, cfg, where) })
		}
	})
	f.Server = <-server
	f.askMember(ctx)
	return f
}

// errWaits is of what nobody asked RabbitMQ, which does not run.
var errWaits = errors.New("RabbitMQ does not run here")

// askMember asks the RabbitMQ of a member that is reached, in place of this node's own, which waits:
// where the cookies differ it does not answer.
func (f *Facts) askMember(ctx context.Context) {
	i := slices.IndexFunc(f.Members, func(m Member) bool {
		return m.Passing && m.Err == nil && !m.Unasked && !slices.ContainsFunc(m.Ports, func(p Port) bool { return p.Err != nil })
	})
	if i < 0 || !f.Server.waits() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, long)
	defer cancel()
	cli := rabbitmq.New(f.Config.Node, f.Config.LongNames, hosts.Environment(f.Config)...)
	if _, err := cli.View(ctx, f.Members[i].Node); ctx.Err() == nil {
		f.Members[i].Mute = err
	}
}

// waits reports whether the server is not started: the entrypoint waits.
func (s Server) waits() bool { return s.Alive && s.Runtime.Waits() }

// all does them at once, for a round, and returns when each has ended: they keep to their context.
func all(ctx context.Context, do ...func(context.Context)) {
	ctx, cancel := context.WithTimeout(ctx, round)
	defer cancel()
	var doing sync.WaitGroup
	for _, d := range do {
		doing.Go(func() { d(ctx) })
	}
	doing.Wait()
}

// bounded returns what f makes, or that it did not come to an end in time, as one that reads a disk
// which blocks. Then it goes with the process.
func bounded[T any](ctx context.Context, d time.Duration, f func(context.Context) T) (made T, ended bool) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	result := make(chan T, 1)
	go func() { result <- f(ctx) }()
	select {
	case made = <-result:
		return made, true
	case <-ctx.Done():
	}
	select { // it may just have ended, by its context's end
	case made = <-result:
		return made, true
	case <-time.After(round / 5):
		return made, false
	}
}

func lookAtHost(ctx context.Context, cfg config.Config) (h Host) {
	told := &notes{}
	h.Settings.Refused = entrypoint.SeenSettings(ctx, slog.New(told), cfg)
	h.Settings.Warnings = told.all
	v := &h.Volume
	v.On, v.Mount = entrypoint.SeenVolume(cfg)
	v.Directories = entrypoint.SeenDirectories(cfg)
	var fs syscall.Statfs_t
	if syscall.Statfs(existing(cfg.Data), &fs) == nil && fs.Bsize > 0 {
		v.Free, v.Size = fs.Bavail*uint64(fs.Bsize), fs.Blocks*uint64(fs.Bsize)
	}
	dir := statedir.Of(cfg)
	v.State.Value, v.State.Err = dir.Inspect()
	v.Single = entrypoint.RefuseSingle(cfg)
	v.Others, _ = dir.ForeignDatabases()
	v.Refused, _ = dir.Refused()
	v.Jump, _ = statedir.Jump(cfg, statedir.VersionsOfImage(os.Getenv), config.ServersVariables(ctx))
	h.Cookie.Value, h.Cookie.Err = entrypoint.SeenCookie(cfg)
	if h.Name.Err = hosts.Resolves(ctx, cfg.Node); h.Name.Err == nil {
		h.Name.Value = nameOf(ctx, cfg.Node)
	}
	return h
}

// existing is path, or the directory above that is there.
func existing(path string) string {
	for path != "/" && path != "." {
		if _, err := os.Stat(path); err == nil {
			break
		}
		path = path[:max(strings.LastIndexByte(path, '/'), 1)]
	}
	return path
}

func nameOf(ctx context.Context, node string) (n Name) {
	_, host, _ := strings.Cut(node, "@")
	n.Addresses, _ = net.DefaultResolver.LookupHost(ctx, host)
	for _, ip := range n.Addresses {
		l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
		n.Own = n.Own || err == nil && l.Close() == nil
	}
	if len(n.Addresses) > 0 {
		n.Back, _ = net.DefaultResolver.LookupAddr(ctx, n.Addresses[0])
	}
	return n
}

// look asks the server and its companion, for as long as the rest takes.
func (s Server) look(ctx context.Context, cfg config.Config) Server {
	if !s.Alive || s.Runtime.Waits() {
		s.Report.Err, s.View.Err, s.Vitals.Err = errWaits, errWaits, errWaits
		return s
	}
	ctx, cancel := context.WithTimeout(ctx, long)
	defer cancel()
	var asking sync.WaitGroup
	asking.Go(func() { s.Report.Value, s.Report.Err = companion.Ask(ctx, cfg.StatusSocket()) })
	cli := rabbitmq.New(cfg.Node, cfg.LongNames, hosts.Environment(cfg)...)
	asking.Go(func() { s.View.Value, s.View.Err = cli.View(ctx, cfg.Node) })
	s.Vitals.Value, s.Vitals.Err = cli.Vitals(ctx)
	asking.Wait()
	return s
}

func lookUp(ctx context.Context, cfg config.Config) (d DNS) {
	at := peers.DNS{Server: cfg.DNSServer, Domain: cfg.DNSDomain}
	all(ctx, func(ctx context.Context) { d.Service.Value, d.Service.Err = peers.Lookup(ctx, at, cfg.Service) },
		func(ctx context.Context) { d.Consul.Value, d.Consul.Err = peers.Lookup(ctx, at, "consul") })
	return d
}

func epmdPort() string { return cmp.Or(os.Getenv("ERL_EPMD_PORT"), "4369") }

// ownPorts looks who listens on this node's ports. While no server runs here, somebody who does is
// another program.
func ownPorts(ctx context.Context, cfg config.Config, alive bool) []Port {
	mine := []Port{{What: "AMQP", At: net.JoinHostPort("127.0.0.1", strconv.Itoa(cfg.Port))}}
	if host, port, err := net.SplitHostPort(cfg.HTTP); err == nil {
		mine = append(mine, Port{What: "/ready", At: net.JoinHostPort(cmp.Or(host, "127.0.0.1"), port)})
	}
	for _, l := range cfg.Listeners {
		if l.Port == cfg.Port && l.Host != "" && net.ParseIP(l.Host) != nil && !net.ParseIP(l.Host).IsUnspecified() {
			mine[0].At = net.JoinHostPort(l.Host, strconv.Itoa(l.Port))
		}
	}
	if alive {
		return dialled(ctx, append(distribution(ctx, "127.0.0.1", cfg.Node), mine...))
	}
	return dialled(ctx, append(mine, Port{What: "other nodes", At: "127.0.0.1:" + cmp.Or(config.RabbitMQs(os.Getenv, "RABBITMQ_DIST_PORT"), strconv.Itoa(cfg.Port+20000))}))
}

// distribution is epmd's port at a host, and the one on which it says that the node listens.
func distribution(ctx context.Context, host, node string) []Port {
	name, _, _ := strings.Cut(node, "@")
	epmd := Port{What: "epmd", At: net.JoinHostPort(host, epmdPort())}
	port, err := hosts.DistPort(ctx, epmd.At, name)
	if epmd.Err = err; err != nil {
		return []Port{epmd}
	}
	dist := Port{What: "other nodes", Err: errNotListed}
	if port > 0 {
		dist.At, dist.Err = net.JoinHostPort(host, strconv.Itoa(port)), nil
	}
	return []Port{epmd, dist}
}

// dialled connects to those that nothing is known of yet, all at once.
func dialled(ctx context.Context, ps []Port) []Port {
	var dialling sync.WaitGroup
	defer dialling.Wait()
	for i := range ps {
		if ps[i].Err != nil || ps[i].At == "" {
			continue
		}
		dialling.Go(func() {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", ps[i].At)
			if ps[i].Err = err; err == nil {
				_ = conn.Close()
			}
		})
	}
	return ps
}

// others returns who is to be reached: those on record, or where that is not known, those that the
// volume knew last.
func others(f Facts) (found []Member) {
	names := f.Record.Value.Names()
	if !f.Record.Known() {
		names = f.Host.Volume.State.Value.Members
	}
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == f.Config.Node })
	at := map[string]int{}
	for i, n := range names[:min(len(names), mostMembers)] {
		found, at[n] = append(found, Member{Node: n, Volume: f.Record.Value.Members[n]}), i
	}
	for _, p := range peers.Others(f.Entries.Value, f.Config.Node) {
		i, listed := at[p.Node]
		if listed && (found[i].Entry == "" || p.Passing) {
			found[i].Entry, found[i].Passing, found[i].Remove = p.Address, p.Passing, p.Removal()
		}
	}
	return found
}

// mostMembers is how many others are looked at: more than a cluster has, as a rule.
const mostMembers = 20

// look goes where this node would look for the member: by the hosts file or the member's own key with
// --hosts consul, else by its name. Its entry may be another's, who has it say any address.
func (m *Member) look(ctx context.Context, cfg config.Config, where hosts.Where) {
	_, host, _ := strings.Cut(m.Node, "@")
	at, _, _ := net.SplitHostPort(m.Entry)
	var is []string
	var untold error
	if cfg.Hosts == "consul" {
		var told string
		if told, untold = hosts.Told(cfg, m.Node, m.Volume, where); told != "" {
			is = []string{told}
		}
	}
	if len(is) == 0 {
		if is, m.Err = net.DefaultResolver.LookupHost(ctx, host); m.Err != nil {
			m.Unasked = at != "" && cfg.Hosts == "consul"
			m.Err = cmp.Or(untold, m.Err)
			return
		}
	}
	var amqp []Port
	there := func(ip string) bool { return ip == at || net.ParseIP(ip).Equal(net.ParseIP(at)) }
	if m.Unasked = at != "" && at != host && !slices.ContainsFunc(is, there); at != "" && !m.Unasked {
		amqp = append(amqp, Port{What: "AMQP", At: m.Entry})
	}
	host = is[0]
	ready := readyAt(cfg.HTTP, host)
	all(ctx, func(ctx context.Context) { m.Ports = dialled(ctx, append(distribution(ctx, host, m.Node), amqp...)) },
		func(ctx context.Context) {
			if ready != "" {
				m.Ready = Port{What: "/ready", At: ready}
				m.Ahead, m.Timed, m.Ready.Err = clockOf(ctx, ready)
			}
		})
}

// readyAt is where a member at host answers /ready, if its setting is ours; "": to its own host
// alone.
func readyAt(setting, host string) string {
	on, port, _ := net.SplitHostPort(setting)
	if loopback(on) && !loopback(host) {
		return ""
	}
	return net.JoinHostPort(host, port)
}

func loopback(host string) bool { return host == "localhost" || net.ParseIP(host).IsLoopback() }

// clockOf returns how much the clock of who answers there is ahead. An error means that nobody does.
func clockOf(ctx context.Context, at string) (ahead time.Duration, timed bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at+"/ready", nil)
	if err != nil {
		return 0, false, err
	}
	client := http.Client{ // and no proxy; whoever answers there sends nobody elsewhere
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	before := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		return 0, false, errors.Unwrap(err) // without the URL
	}
	took := time.Since(before)
	_ = resp.Body.Close()
	ahead, timed = consul.Ahead(resp.Header, before, took)
	return ahead, timed, nil
}
