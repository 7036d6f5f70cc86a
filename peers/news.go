package peers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/hashicorp/consul/api"
)

// What a server other than the leader says is news: it tells that something has changed, and when
// to ask the leader, and never what is so.

// newsWait is for how long a query for news waits at its server.
const newsWait = 5 * time.Minute

// errCutOff: a server without a leader has no news.
var errCutOff = errors.New("the server that answered knows no leader")

// news are the options of a query that returns when what it is about has changed since index. Consul
// adds up to a sixteenth to the wait.
func news(ctx context.Context, index uint64) (*api.QueryOptions, context.CancelFunc) {
	most := newsWait*17/16 + callTimeout
	if index == 0 { // it does not wait
		most = callTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	return (&api.QueryOptions{AllowStale: true, WaitIndex: index, WaitTime: newsWait}).WithContext(ctx), cancel
}

// RecordNews waits until the record at key has changed since index, or for minutes, and returns the
// index of what is there then (0: there is none), and the one to wait on next.
func RecordNews(ctx context.Context, client *api.Client, key string, index uint64) (at, next uint64, err error) {
	pair, next, err := recordNews(ctx, client, key, index)
	return modified(pair), next, err
}

// StateNews does the same and returns the state that is there then. What is no record is none.
func StateNews(ctx context.Context, client *api.Client, key string, index uint64) (is State, next uint64, err error) {
	pair, next, err := recordNews(ctx, client, key, index)
	if err != nil || pair == nil {
		return Absent, next, err
	}
	var r Record
	_ = json.Unmarshal(pair.Value, &r)
	return r.State, next, nil
}

func recordNews(ctx context.Context, client *api.Client, key string, index uint64) (*api.KVPair, uint64, error) {
	q, cancel := news(ctx, index)
	defer cancel()
	pair, meta, err := client.KV().Get(key, q) // which has the index of what is not there
	switch {
	case err != nil:
		return nil, 0, lacks(err, fmt.Sprintf("key:read on %q", key))
	case !meta.KnownLeader:
		return nil, 0, errCutOff
	}
	return pair, meta.LastIndex, nil
}

// CatalogNews waits until the instances of service have changed since index, or for minutes, and
// returns them as [Entries] does, and the index to wait on next. What the agent knows better is
// not among it. Neither is said whether that server knows a leader, nor that it left out what the
// token may not read: 1.22 leaves both out of such answers.
func CatalogNews(ctx context.Context, client *api.Client, service string, index uint64) ([]Peer, uint64, error) {
	q, cancel := news(ctx, index)
	defer cancel()
	return entries(client, service, q)
}

// SameEntries reports whether two answers about a service say the same of its instances.
func SameEntries(a, b []Peer) bool {
	return slices.EqualFunc(a, b, func(a, b Peer) bool {
		a.View, b.View, a.index, b.index = Seen[View]{}, Seen[View]{}, 0, 0
		return reflect.DeepEqual(a, b)
	})
}
