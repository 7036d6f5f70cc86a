package overview

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/lock"
	"rmq-entrypoint/peers"
)

// New returns what is known of a cluster before anything was read.
func New(cfg config.Config, now time.Time) Seen {
	s := Seen{Now: now, Service: cfg.Service, Name: cmp.Or(cfg.ClusterName, cfg.Service), Key: cfg.RecordKey(), TTL: cfg.TTL}
	s.Away(errors.New("not read from Consul yet"))
	return s
}

// Away notes that Consul cannot be read.
func (s *Seen) Away(err error) {
	s.Record, s.Catalog = peers.Seen[peers.Record]{Err: err}, peers.Seen[[]peers.Peer]{Err: err}
	s.Notes, s.Lock = peers.Seen[[]peers.Note]{Err: err}, peers.Seen[string]{Err: err}
}

// ReadAll reads what Consul says: the record, the catalog, and the rest.
func (s *Seen) ReadAll(ctx context.Context, client *api.Client, cfg config.Config) {
	s.Record.Value, _, s.Record.Err = peers.ReadRecord(ctx, client, cfg.RecordKey())
	s.Catalog.Value, _, s.Catalog.Err = peers.Entries(ctx, client, cfg.Service)
	s.ReadRest(ctx, client, cfg)
}

// ReadRest reads what no heartbeat does: the notes, and who holds the lock.
func (s *Seen) ReadRest(ctx context.Context, client *api.Client, cfg config.Config) {
	s.Notes.Value, s.Notes.Err = peers.Notes(ctx, client, cfg.NotesPrefix())
	o, held, err := lock.Holder(ctx, client, cfg.LockKey())
	s.Lock = peers.Seen[string]{Err: err}
	if held {
		s.Lock.Value = fmt.Sprintf("%s on %s since %s", o.Node, o.Host, o.Since.UTC().Format(time.RFC3339))
	}
}
