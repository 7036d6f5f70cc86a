package entrypoint

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/formation"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// RefuseSingle keeps lone brokers and clusters apart, and changes nothing: --single starts on no
// volume that is a cluster's or may be, and a lone broker's volume becomes a member's by a person's
// hand alone.
func RefuseSingle(cfg config.Config) error {
	dir := statedir.Of(cfg)
	state, err := dir.Inspect()
	switch {
	case !cfg.Single && err == nil && state.Role == statedir.Lone:
		return &Refusal{ruledOutVolume, fmt.Errorf("refusing to start a node of a cluster on the volume of a lone broker, whose data is kept: %s was started there with --single (RMQ_SINGLE). "+
			"To go on with that broker, set RMQ_SINGLE=true; to start a node of a cluster, use an empty volume; to found a cluster with that data, where there is none yet, remove %s and start this node first",
			cfg.Node, filepath.Join(dir.State, "single"))}
	case !cfg.Single:
		return nil // what cannot be read is told later
	case err != nil:
		return fmt.Errorf("read the volume: %w", err)
	}
	why, err := ofCluster(dir, state)
	if err != nil || why == "" {
		return err
	}
	return &Refusal{Err: fmt.Errorf("refusing to start a lone broker (--single, RMQ_SINGLE) here, nothing was changed: %s", fmt.Sprintf(why, cfg.Node))}
}

// ofCluster says why the data on a volume are a cluster's, or may be, with a place for the node's
// name, or "".
func ofCluster(dir statedir.Dir, state statedir.Found) (why string, err error) {
	const out = ". Take --single out to start the node that it is, or give the lone broker a volume of its own"
	switch {
	case state.Role == statedir.Lone:
		return "", nil
	case state.Cluster+state.Lost != "":
		return "%s is a member of cluster " + cmp.Or(state.Cluster, state.Lost) + " on this volume (" + dir.Data + ")" + out, nil
	case state.Volume != "":
		return "%s was about to found a cluster or to join one on this volume (" + dir.State + ")" + out, nil
	case state.Role == "":
		return "", nil
	}
	nodes, known, err := dir.Cluster()
	if err != nil {
		return "", fmt.Errorf("read whose data are on the volume: %w", err)
	}
	switch {
	case len(nodes) > 1:
		return "RabbitMQ's own files in " + dir.Data + " list the members " + strings.Join(nodes, ", ") + " of the cluster that %s is in" + out, nil
	case !known:
		return "whether the data of %s in " + dir.Data + " are a cluster's cannot be told, for another program made them, and RabbitMQ keeps its list of members in Khepri. " +
			"If they are a lone broker's, say so: mkdir -p " + dir.State + " && echo '{}' >" + filepath.Join(dir.State, "single") + "; otherwise take --single out, or use an empty volume", nil
	}
	return "", nil
}

// ownCookie makes a cookie where there is none: a lone broker shares it with nobody.
func ownCookie(home string) error {
	path := filepath.Join(home, ".erlang.cookie")
	if _, _, err := judgeCookie(slog.New(slog.DiscardHandler), path); !errors.Is(err, errNoCookie) {
		return nil // whatever else is wrong with it is said later
	}
	if err := rabbitconf.WriteMode(path, []byte(peers.NewID()), 0o400); err != nil {
		return fmt.Errorf("write the cookie file: %w", err)
	}
	return nil
}

// alone is the plan of a lone broker. The volume says so before its server starts.
func alone(log *slog.Logger, h host) (formation.Plan, error) {
	p := formation.Plan{Role: statedir.Lone, Volume: cmp.Or(h.state.Volume, peers.NewID())}
	dir := statedir.Of(h.rt.Config)
	if h.state.Role == "" {
		if err := noForeignDatabases(h.rt.Config); err != nil {
			return p, err
		}
	}
	if h.state.Role != statedir.Lone || h.state.Volume == "" {
		if err := dir.WriteSingle(statedir.Single{Volume: p.Volume, Since: time.Now().UTC()}); err != nil {
			return p, fmt.Errorf("write down that this volume is a lone broker's: %w", err)
		}
	}
	log.Warn("A LONE BROKER FOR DEVELOPMENT (--single, RMQ_SINGLE): it is in no cluster, and no other node joins it; Consul is not asked, and nobody finds it there", "node", h.rt.Config.Node, "volume", p.Volume)
	return p, nil
}

// noForeignDatabases refuses a blank directory beside the databases of other node names: a container
// recreated with another host name would silently start empty.
func noForeignDatabases(cfg config.Config) error {
	databases, err := statedir.Of(cfg).ForeignDatabases()
	if err != nil || len(databases) == 0 {
		return err
	}
	return fmt.Errorf("%s holds the database of %s, but this node is %s and would silently start empty: give the container the host name it had (or set RABBITMQ_NODENAME); to start a new node, use an empty volume",
		filepath.Dir(cfg.Data), strings.Join(databases, ", "), cfg.Node)
}
