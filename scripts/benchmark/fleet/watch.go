package fleet

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

// A Seen is how nodes are at one moment.
type Seen struct {
	At      time.Time
	Passing int      // nodes that have an entry of which Consul would tell a client
	Entries int      // of nodes, also those that a node left with a server which it moved away from
	Lapsed  []string // ids of the checks of nodes' own entries that lapsed
	Unready []string // nodes that say themselves that they are not fit
	Err     error    // why the catalog could not be read; the rest of it is not known then
}

// ownChecks leaves the entries of plugins out: they are as fit as their nodes.
const ownChecks = `ServiceName not matches "-(management|prometheus)$"`

// See looks once. The catalog is read at the leader, or without one at any server: one that has just been started has an
// old one.
func (f *Fleet) See(ctx context.Context, servers *Servers) Seen {
	seen := Seen{At: time.Now(), Unready: f.Unready()}
	client, err := servers.client(ctx)
	if err != nil {
		seen.Err = err
		return seen
	}
	ctx, done := context.WithTimeout(ctx, 2*time.Second)
	defer done()
	checks, _, err := client.Health().State(api.HealthAny, (&api.QueryOptions{AllowStale: true, Filter: ownChecks}).WithContext(ctx))
	if seen.Err = err; err == nil {
		seen.judge(checks, f.entries())
	}
	return seen
}

// judge takes over what the checks of the catalog say of these entries.
func (seen *Seen) judge(checks api.HealthChecks, entries []string) {
	dead := map[string]bool{} // servers
	for _, c := range checks {
		if c.CheckID == "serfHealth" && c.Status != api.HealthPassing {
			dead[c.Node] = true
		}
	}
	passing := map[string]bool{}
	for _, c := range checks {
		if _, ours := slices.BinarySearch(entries, c.ServiceID); !ours {
			continue
		}
		seen.Entries++
		if c.Status == api.HealthPassing && !dead[c.Node] {
			passing[c.ServiceID] = true
		}
		if strings.Contains(c.Output, "TTL expired") {
			seen.Lapsed = append(seen.Lapsed, c.CheckID)
		}
	}
	seen.Passing = len(passing)
}

// ok asks a handler in this process for /ready.
func ok(ready http.Handler) bool {
	request, err := http.NewRequest(http.MethodGet, "/ready", nil)
	if err != nil {
		return false
	}
	answer := answer{header: http.Header{}, status: http.StatusOK}
	ready.ServeHTTP(&answer, request)
	return answer.status == http.StatusOK
}

// An answer keeps the status of what is written to it.
type answer struct {
	header http.Header
	status int
}

func (a *answer) Header() http.Header            { return a.header }
func (a *answer) WriteHeader(status int)         { a.status = status }
func (a *answer) Write(text []byte) (int, error) { return len(text), nil }

// A Watch looks again and again, until it is told to end.
type Watch struct {
	stop context.CancelFunc
	work sync.WaitGroup
	seen []Seen
}

// Watch begins one, which looks each half second.
func (f *Fleet) Watch(ctx context.Context, servers *Servers) *Watch {
	ctx, stop := context.WithCancel(ctx)
	w := &Watch{stop: stop}
	w.work.Go(func() {
		for pause(ctx, 500*time.Millisecond) == nil {
			if seen := f.See(ctx, servers); ctx.Err() == nil {
				w.seen = append(w.seen, seen)
			}
		}
	})
	return w
}

// End ends it and returns what it saw.
func (w *Watch) End() []Seen {
	w.stop()
	w.work.Wait()
	return w.seen
}
