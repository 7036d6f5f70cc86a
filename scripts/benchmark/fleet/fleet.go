// Package fleet runs many nodes without RabbitMQ: the companion of each is the real one, in this process, and Consul is
// three real servers. What stands in for RabbitMQ says that it runs, in a cluster of five that is whole.
//
//	servers.go    the three servers of Consul: started, killed, what they use
//	telemetry.go  what Consul counts of itself, read
//	fleet.go      the nodes
//	broker.go     what stands in for RabbitMQ
//	traffic.go    what nodes ask Consul, counted on its way
//	watch.go      who is fit, by the catalog and by the nodes themselves
package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/internal/companion"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// ClusterSize is how many nodes a cluster has.
const ClusterSize = 5

// Most is how many nodes have a source address of their own in 127.0.0.0/8 and a name of four digits.
const Most = 5000

// version is that of the RabbitMQ that there is not.
const version = "4.3.6"

// A Fleet is clusters of nodes, each with a name, an address, a service, a volume and a companion of its own.
type Fleet struct {
	Traffic *Traffic
	nodes   []*node
	plugins net.Listener // management and Prometheus of all nodes
	stop    context.CancelFunc
	work    sync.WaitGroup
	ended   chan error // of a companion that ended before it was told to
}

type node struct {
	number int // from 0
	rt     statedir.Runtime
	ready  http.Handler // what the companion answers at /ready
}

// service is the name that the nodes of a cluster register.
func service(cluster int) string { return fmt.Sprintf("fleet-%04d", cluster) }

func name(number int) string { return fmt.Sprintf("rabbit@n%04d", number) }

// source is the address from which a node talks to Consul: by that Consul tells its clients apart.
func source(number int) string {
	return fmt.Sprintf("127.200.%d.%d", number/250, 1+number%250)
}

// Start makes n nodes with data and puts their clusters on record. Their companions start one after the other, over that
// time, as nothing starts a thousand nodes in one moment but the return of power. It does not wait until they are verified.
func Start(ctx context.Context, n int, servers *Servers, dir string, over time.Duration) (f *Fleet, err error) {
	f = &Fleet{Traffic: new(Traffic), ended: make(chan error, n)}
	ctx, f.stop = context.WithCancel(ctx)
	defer func() {
		if err != nil {
			f.Stop()
		}
	}()
	if f.plugins, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	f.work.Go(func() { takeAll(f.plugins) })
	client, err := consul.DialConsul(servers.Addr(0))
	if err != nil {
		return nil, err
	}
	for first := 0; first < n; first += ClusterSize {
		if err := f.found(ctx, client, servers, dir, first); err != nil {
			return nil, err
		}
	}
	began := time.Now()
	for i, one := range f.nodes {
		if err := pause(ctx, time.Until(began.Add(over*time.Duration(i)/time.Duration(n)))); err != nil {
			return nil, err
		}
		if err := f.run(ctx, one); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// found puts a cluster on record, and what its members would have on their volumes into their directories.
func (f *Fleet) found(ctx context.Context, client *api.Client, servers *Servers, dir string, first int) error {
	record := peers.Record{
		State: peers.Formed, ClusterID: clusterID(first), Seed: name(first), Since: time.Now().UTC(),
		Members: map[string]string{}, Versions: map[string]string{},
	}
	for i := first; i < first+ClusterSize; i++ {
		record.Members[name(i)], record.Versions[name(i)] = peers.NewID(), version
	}
	for i := first; i < first+ClusterSize; i++ {
		one, err := f.member(servers, dir, i, record)
		if err != nil {
			return fmt.Errorf("%s: %w", name(i), err)
		}
		f.nodes = append(f.nodes, one)
	}
	key := f.nodes[first].rt.Config.RecordKey()
	written, err := peers.WriteRecord(ctx, client, key, record, 0, "", "")
	if err == nil && !written {
		err = errors.New("there is one: this Consul is in use")
	}
	if err != nil {
		return fmt.Errorf("write the record %s: %w", key, err)
	}
	return nil
}

// member makes the volume of a node that is on record. Each node of a cluster has another of Consul's servers first in its
// list, as nodes on different hosts have.
func (f *Fleet) member(servers *Servers, dir string, number int, record peers.Record) (*node, error) {
	env := map[string]string{
		"RABBITMQ_NODENAME": name(number), "RABBITMQ_DATA_DIR": filepath.Join(dir, fmt.Sprint(number)), "RMQ_SERVICE": service(number / ClusterSize),
		"RMQ_ADVERTISE": source(number), "CONSUL_HTTP_ADDR": servers.List(number),
	}
	cfg, err := config.FromEnvironment(func(name string) string { return env[name] })
	if err != nil {
		return nil, err
	}
	port := f.plugins.Addr().(*net.TCPAddr).Port
	cfg.Management, cfg.Prometheus = rabbitconf.Listener{Port: port}, rabbitconf.Listener{Port: port}
	volume := statedir.Of(cfg)
	if err := errors.Join(os.MkdirAll(volume.Data, 0o750), volume.Make(), os.WriteFile(filepath.Join(volume.Data, "rabbit_serial"), nil, 0o600)); err != nil {
		return nil, err
	}
	rt := statedir.Runtime{
		Config: cfg, PID: os.Getpid(), Version: version, Role: statedir.Member, Volume: record.Members[name(number)], Boot: peers.NewID(), Since: time.Now(),
		Cluster: record.ClusterID, Consul: cfg.Consul[0], Address: cfg.Advertise, Located: true, LocatedFor: cfg.Consul[0], Queues: statedir.Quorum,
	}
	marker := statedir.Marker{ClusterID: record.ClusterID, Volume: rt.Volume, Members: members(number), At: time.Now(), RabbitMQ: version}
	return &node{number: number, rt: rt}, errors.Join(volume.WriteMarker(marker), rt.Write())
}

// run starts the node's companion, to which RabbitMQ says at once that it is ready.
func (f *Fleet) run(ctx context.Context, one *node) error {
	cfg, log := one.rt.Config, slog.New(slog.DiscardHandler)
	agents := consul.New(cfg, log)
	agents.Dial = func(addr string) (*api.Client, error) {
		return consul.DialOver(addr, func(t *http.Transport) http.RoundTripper { return f.Traffic.way(one.number, t) })
	}
	agents.Prefer(one.rt.Consul)
	said := make(chan string, 1)
	said <- "READY=1"
	around := companion.Surroundings{
		Log: log, Runtime: one.rt, Consul: agents, Broker: rabbitmq.CLI{Node: cfg.Node, Run: broker(one.number)},
		IsDown: func(context.Context, peers.Peer) bool { return false },
		Check: func(context.Context, bool) healthcheck.Result {
			f.Traffic.look(one.number)
			return healthcheck.Result{State: healthcheck.Passing, Reason: "answers"}
		},
		Events: companion.Events{Closed: make(chan healthcheck.Reason), Said: said, Gone: make(chan struct{})},
	}
	begun := make(chan struct{})
	f.work.Go(func() {
		err := companion.Run(ctx, around, func(answers companion.Answers) (io.Closer, error) {
			one.ready = answers.Ready
			close(begun)
			return nil, nil
		})
		if ctx.Err() == nil {
			f.ended <- fmt.Errorf("the companion of %s has ended: %w", cfg.Node, err)
		}
	})
	select {
	case <-begun:
		return nil
	case err := <-f.ended:
		return err
	}
}

// Stop ends the companions, and waits for their end.
func (f *Fleet) Stop() {
	f.stop()
	if f.plugins != nil {
		_ = f.plugins.Close()
	}
	f.work.Wait()
}

// Whole returns an error once a companion has ended by itself.
func (f *Fleet) Whole() error {
	select {
	case err := <-f.ended:
		return err
	default:
		return nil
	}
}

// Unready returns the nodes whose companions say that they are not fit to serve.
func (f *Fleet) Unready() (unready []string) {
	for _, one := range f.nodes {
		if !ok(one.ready) {
			unready = append(unready, one.rt.Config.Node)
		}
	}
	return unready
}

// entries returns the ids of the nodes' own entries.
func (f *Fleet) entries() (ids []string) {
	for _, one := range f.nodes {
		ids = append(ids, consul.Registration(one.rt).ID())
	}
	return ids
}

// members are the nodes of that node's cluster.
func members(number int) (all []string) {
	first := number - number%ClusterSize
	for i := range ClusterSize {
		all = append(all, name(first+i))
	}
	slices.Sort(all)
	return all
}

func clusterID(first int) string { return fmt.Sprintf("cluster-of-%04d", first) }

// takeAll takes connections, as the ports of plugins do for who only looks whether they listen.
func takeAll(l net.Listener) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_ = conn.Close()
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
