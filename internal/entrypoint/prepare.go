package entrypoint

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/formation"
	"rmq-entrypoint/internal/hosts"
	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// MakeWay moves aside what RabbitMQ left of an unfinished start, where the plan says so.
func MakeWay(log *slog.Logger, cfg config.Config, p formation.Plan) error {
	if !p.Aside {
		return nil
	}
	aside, err := statedir.Of(cfg).MakeWay(statedir.Pending{Role: p.Role, Claim: p.Claim, Volume: p.Volume}, time.Now())
	if err != nil {
		return fmt.Errorf("move leftovers of an unfinished start aside: %w", err)
	}
	if aside != "" {
		log.Warn("moved leftovers of an unfinished start aside", "to", aside)
	}
	return nil
}

// writeConf writes rabbitmq.config for what the plan makes of this host.
func writeConf(h host, p formation.Plan, pauseMinority, quorum bool) error {
	cfg := h.rt.Config
	join := p.Peers
	if p.Gated {
		join = []string{rabbitconf.Gate(cfg.Node)}
	}
	opts := rabbitconf.Options{
		Version: h.version, Node: cfg.Node, Peers: join, Joining: len(join) > 0, Lone: p.Role == statedir.Lone, PauseMinority: pauseMinority, User: h.user,
	}
	if cfg.SurvivingQueues() {
		opts.Extra = rabbitconf.Queues(h.version, quorum)
	}
	opts.Extra = append(opts.Extra, rabbitconf.ClusterName(cfg.Called(p.Role == statedir.Seeding || p.Role == statedir.Lone && h.state.Role == ""))...)
	conf, err := rabbitconf.Render(opts)
	if err != nil {
		return err
	}
	if err := rabbitconf.Replace(cfg.ConfigFile, conf); err != nil {
		return fmt.Errorf("write rabbitmq.config (--config, RMQ_CONFIG_FILE): %w", err)
	}
	return nil
}

// learnHosts takes the addresses of other nodes from the catalog, which nothing has asked
// yet where the node has data.
func (h host) learnHosts(ctx context.Context, log *slog.Logger, client *api.Client) {
	if h.hosts == nil {
		return
	}
	record, _, err := peers.ReadRecord(ctx, client, h.rt.Config.RecordKey())
	var catalog []peers.Peer
	if err == nil {
		catalog, _, err = peers.Catalog(ctx, client, h.rt.Config.Service, h.rt.Config.Node)
	}
	if err == nil {
		_, err = h.hosts.Learn(catalog, hosts.Known{Record: record, Members: h.state.Members}, h.rt.Config.Places().Reader(ctx, client))
	}
	if err != nil {
		log.Warn("starting with the addresses of other nodes that are known, if any", "err", err)
	}
}

// Announce registers the node. Its errors forbid the start: any other trouble is the
// companion's.
func Announce(ctx context.Context, log *slog.Logger, client *api.Client, state statedir.Found, rt statedir.Runtime) error {
	standing := peers.Starting
	if state.Role == "" {
		standing = peers.Blank
	}
	consul.BuryPluginServices(ctx, client, rt, standing) // what an earlier start left
	reg := consul.Registration(rt)
	reg.Places.Denied = consul.Unplaced(log)
	err := peers.Announce(ctx, client, reg, standing, "starting as "+string(rt.Role))
	if consul.Denied(err) && rt.Role != statedir.Member {
		return err // nobody would ever find it
	}
	if state.Cluster == "" && consul.NameTaken(err) && !onRecord(ctx, client, rt.Config, rt.Volume) {
		return secondOfName(rt.Config.Node, err)
	}
	if err != nil {
		log.Warn("not registered yet, the companion goes on trying", "err", err)
	}
	return nil
}

// mnesiaBase says where RabbitMQ is to keep its data.
const mnesiaBase = "RABBITMQ_MNESIA_BASE"

// serverEnv is the environment in which the server runs as the node that was decided for, with its
// data below base; "" leaves that to its other variables, as it is until [serverEnvironment] is known.
func serverEnv(cfg config.Config, base string) []string {
	set := append(hosts.Environment(cfg), "RABBITMQ_ADVANCED_CONFIG_FILE="+cfg.ConfigFile, "NOTIFY_SOCKET="+cfg.Socket(), "RABBITMQ_NODENAME="+cfg.Node, "HOME="+cfg.Home)
	if base != "" {
		set = append(set, mnesiaBase+"="+base)
	}
	env := rabbitmq.ServerEnv(os.Environ(), set...)
	env = slices.DeleteFunc(env, func(kv string) bool { // whatever they say, a flag may have overruled them
		return strings.HasPrefix(kv, "RABBITMQ_USE_LONGNAME=") || strings.HasPrefix(kv, "USE_LONGNAME=")
	})
	if cfg.LongNames {
		env = append(env, "RABBITMQ_USE_LONGNAME=true")
	}
	return rabbitmq.WithStopTimeout(env, cfg.StopTimeout+endsItself)
}

// endsItself is how much later than by its companion, which says why, a server is ended by its own
// Erlang: one that answers nobody any more, too.
const endsItself = 2 * time.Second
