package companion

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/hosts"
	"rmq-entrypoint/internal/policy"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
)

// keepHosts keeps the file current until ctx ends: by blocking queries, and every beat.
// While Consul is away it stays as it is, as while the record cannot be read. The client is its
// own: the beat's must not be used by two.
func keepHosts(ctx context.Context, log *slog.Logger, rt statedir.Runtime, h *hosts.File) {
	consul := consul.New(rt.Config, slog.New(slog.DiscardHandler)) // the beat tells of a Consul that is away
	consul.Prefer(rt.Consul)
	beat := policy.Settings{Interval: rt.Config.Interval, TTL: rt.Config.TTL}.Beat()
	dir := statedir.Of(rt.Config)
	var told string
	var members *[]string // as the marker last told them; nil: it was never read
	for ctx.Err() == nil {
		client, err := consul.Client(ctx)
		if err != nil {
			pause(ctx, beat)
			continue
		}
		record, recordIndex, err := peers.ReadRecord(ctx, client, rt.Config.RecordKey())
		var catalog []peers.Peer
		var index uint64
		if err == nil {
			catalog, index, err = peers.Catalog(ctx, client, rt.Config.Service, "")
		}
		consul.Answered(err)
		if err != nil {
			pause(ctx, beat)
			continue
		}
		known := hosts.Known{Record: record}
		marker, err := dir.Marker()
		if marker != nil {
			members = &marker.Members
		} else if err == nil {
			members = new([]string)
		}
		var changed []string
		if members != nil { // or the names of members that nothing else tells would go
			known.Members = *members
			var lerr error
			changed, lerr = h.Learn(catalog, known, rt.Config.Places().Reader(ctx, client))
			err = errors.Join(err, lerr)
		}
		switch text := fmt.Sprint(err); {
		case err != nil && text != told:
			log.Warn("cannot keep the hosts file current", "err", err)
			told = text
		case err == nil && len(changed) > 0:
			log.Info("learned addresses of nodes", "hosts", peers.SomeWith(changed, ","))
		}
		peers.Changed(ctx, client, rt.Config.RecordKey(), recordIndex, rt.Config.Service, index, beat)
	}
}
