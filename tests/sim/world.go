// Package sim is a small world for the program to live in, in virtual time: some
// containers with their volumes, a RabbitMQ in each, and the Consul they share.
//
// Nothing in it is drawn from a clock or a scheduler: a world is made of its seed,
// and the same seed gives the same story. It knows nothing of the program but the
// record: what the program sees is an [http.RoundTripper], a [net.Conn] that speaks
// DNS, rabbitmqctl's answers and files. Every call is an await at which its container
// may die or freeze, and its answer may be lost.
//
// It must run inside a testing/synctest bubble.
package sim

import (
	"context"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Options are what a world is not free to draw.
type Options struct {
	Seed      uint64
	Dir       string // for the volumes
	Service   string // that nodes register
	RecordKey string
	TTL       time.Duration // of the checks
	Tell      bool          // keep the story
}

// World is everything there is.
type World struct {
	Nodes   []*Node
	Version string // of RabbitMQ
	Khepri  bool   // members decide by majority; else by Mnesia, that is by who stopped last
	Quirk   bool   // a wiped node is refused under its old name until it is forgotten (3.13 to 4.2)
	Elects  bool   // a joiner with a clock that is behind elects itself (3.13 and later)

	opts   Options
	rand   *rand.Rand // for the one goroutine that makes the story
	began  time.Time
	ctx    context.Context
	end    context.CancelFunc
	consul consul

	mu       sync.Mutex
	rates    rates
	quiet    bool // the faults have ended
	clusters []*cluster
	claims   map[string]string // claim → node that founded under it
	wiped    time.Time         // when Consul lost its data
	did      map[string]int    // what the nodes did, by its name
	ambush   *ambush           // until it is sprung
	onClaim  func(seed string) // is told of the next claim; nil: nobody is
	excused  string            // why two clusters are nobody's fault in this story
	two      time.Time         // since when two clusters have been announced
	adopted  *cluster          // that was there before the program was
	foreign  bool              // something else registers under the service's name
	givenUp  string            // cluster that an operator gave up by force
	spoiled  []byte            // the record, while a value that nobody of the program wrote is in its place
	broken   string            // the first broken promise
	story    []string
	told     map[string]string
	drawn    map[string]uint64
}

// rates are the chances of a fault, per call.
type rates struct{ crash, lose, late, freeze, slow, unheard float64 }

// New makes a world. Its nodes have blank volumes and are off.
func New(ctx context.Context, o Options) *World {
	w := &World{
		opts: o, rand: rand.New(rand.NewPCG(o.Seed, 0x9e3779b97f4a7c15)), began: time.Now(),
		claims: map[string]string{}, did: map[string]int{}, told: map[string]string{}, drawn: map[string]uint64{},
	}
	w.ctx, w.end = context.WithCancel(ctx)
	w.consul.reset(w)
	switch w.rand.IntN(3) {
	case 0:
		w.Version, w.Khepri, w.Elects = "4.3.6", true, true
	case 1:
		w.Version, w.Quirk, w.Elects = "4.0.5", true, true
	case 2:
		w.Version = "3.10.8"
	}
	twins := w.rand.IntN(6) == 0
	adopts := w.rand.IntN(8) == 0
	w.foreign = w.rand.IntN(6) == 0
	for i := range 2 + w.rand.IntN(5)/2 { // 2 to 4, seldom 4
		n := &Node{Name: fmt.Sprintf("rabbit@%c", 'a'+i), Addr: fmt.Sprintf("10.0.0.%d", i+1), w: w}
		n.Who = n.Name
		switch w.rand.IntN(12) {
		case 0:
			n.skew = -time.Hour
		case 1:
			n.skew = time.Hour
		case 2:
			n.skew = -3 * time.Second
		case 3:
			n.skew = 3 * time.Second
		}
		n.volume = w.blank(n)
		w.Nodes = append(w.Nodes, n)
	}
	if adopts {
		w.adopt(w.Nodes[:1+w.rand.IntN(len(w.Nodes))])
	}
	if twins {
		of := w.Nodes[w.rand.IntN(len(w.Nodes))]
		n := &Node{Name: of.Name, Who: of.Name + "'", Addr: fmt.Sprintf("10.0.1.%d", len(w.Nodes)), w: w, twin: of, apart: w.rand.IntN(2) == 0}
		n.volume = w.blank(n)
		w.Nodes = append(w.Nodes, n)
	}
	if w.foreign {
		w.consul.strangers(w.Nodes[0].Addr)
	}
	return w
}

// adopt makes the nodes members of a cluster of the official image, which the program has
// never seen.
func (w *World) adopt(nodes []*Node) {
	c := &cluster{id: "cluster-adopted", members: map[string]*volume{}}
	for _, n := range nodes {
		n.volume.cluster, n.volume.db = c, true
		c.members[n.Name] = n.volume
		dir := filepath.Join(n.volume.dir, n.Name)
		must(os.MkdirAll(dir, 0o755))
		must(os.WriteFile(filepath.Join(dir, "rabbit_serial"), nil, 0o644))
	}
	w.clusters = append(w.clusters, c)
	w.adopted = c
}

func (w *World) draw(who, what string) float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.drawLocked(who, what)
}

// drawLocked gives a number that depends on the seed, on who draws what, and on
// how often that was drawn: not on which of two goroutines came first.
func (w *World) drawLocked(who, what string) float64 {
	key := who + "/" + what
	n := w.drawn[key]
	w.drawn[key] = n + 1
	h := w.opts.Seed*0x9e3779b97f4a7c15 + n*0xbf58476d1ce4e5b9
	for i := range len(key) {
		h = (h ^ uint64(key[i])) * 0x100000001b3
	}
	h ^= h >> 31
	h *= 0x94d049bb133111eb
	h ^= h >> 29
	h *= 0xbf58476d1ce4e5b9
	h ^= h >> 32
	return float64(h>>11) / (1 << 53)
}

func (w *World) sleep(ctx context.Context, d time.Duration) { w.sleep2(ctx, ctx, d) }

func (w *World) sleep2(a, b context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-a.Done():
	case <-b.Done():
	}
}

// Log adds a line to the story.
func (w *World) Log(who, line string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tell(who, line)
}

func (w *World) tell(who, line string) {
	key, _, _ := strings.Cut(line, " exits_after")
	if w.opts.Tell && w.told[who] != key { // what is still so is not said again
		w.told[who] = key
		w.story = append(w.story, fmt.Sprintf("%8s %-10s %s", w.at(time.Now()), who, line))
	}
}

func (w *World) at(t time.Time) string { return fmt.Sprintf("%.3f", t.Sub(w.began).Seconds()) }

// Story is what happened, line by line.
func (w *World) Story() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.story, "\n")
}

// Print is a fingerprint of the story: how often each process of each container made each
// kind of call. A change of the program that is to change nothing leaves it as it was.
func (w *World) Print() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := fnv.New64a()
	for _, what := range sorted(w.drawn) {
		fmt.Fprintln(h, what, w.drawn[what])
	}
	return fmt.Sprintf("%016x", h.Sum64())
}

// Broken returns the first promise that was broken, if any.
func (w *World) Broken() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.broken
}

func (w *World) violation(format string, args ...any) {
	if w.broken == "" {
		w.broken = fmt.Sprintf("after %s s: ", w.at(time.Now())) + fmt.Sprintf(format, args...)
		w.tell("", "!! "+w.broken)
	}
}

// Lose takes Consul away for so long, and all its data with it, for a test that tells its own story.
func (w *World) Lose(away time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.consul.away = time.Now().Add(away)
	w.consul.reset(w)
	w.wiped = time.Now().Add(away)
}

// Did is how often nodes did what, by its name.
func (w *World) Did(what string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.did[what]
}

// End stops everything; goroutines that live in the world return.
func (w *World) End() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.quiet = true
	for _, n := range w.Nodes {
		if n.box != nil {
			n.box.die()
		}
	}
	w.end()
}

// deaf notes that nobody speaks for the node's member for now.
func (w *World) deaf(n *Node) {
	if n.box != nil {
		n.box.live = time.Time{}
	}
}

// heard notes that a companion judged its node against Consul.
func (w *World) heard(n *Node) {
	if b := n.box; b != nil && b.live.IsZero() && b.server != nil && b.server.state == running && n.volume.ran {
		b.live = time.Now()
	}
}

// paired reports whether another container has the node's name.
func (w *World) paired(n *Node) bool {
	return slices.ContainsFunc(w.Nodes, func(m *Node) bool { return m != n && m.Name == n.Name })
}

// displaced returns a node with data of cluster id in which a second container of its name has taken
// its place, or "".
func (w *World) displaced(id string) string {
	for _, n := range w.Nodes {
		if c := n.volume.cluster; w.paired(n) && !n.gone && n.volume.db && c != nil && c.id == id && c.members[n.Name] != n.volume {
			return n.Name
		}
	}
	return ""
}

// Excused says why two clusters are nobody's fault, or "".
func (w *World) Excused() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.excused
}

// listed reports whether the catalog has the node's own entry.
func (w *World) listed(n *Node) bool {
	return slices.ContainsFunc(slices.Collect(maps.Values(w.consul.catalog)), func(s *service) bool {
		return s.Meta["node"] == n.Name && s.Address == n.Addr
	})
}

// registered reports whether the catalog has had the node's own entry for a moment.
func (w *World) registered(n *Node) bool {
	for _, s := range w.consul.catalog {
		if s.Meta["node"] == n.Name && s.Address == n.Addr && n.box != nil && time.Since(s.since) > w.opts.TTL/3 {
			return true
		}
	}
	return false
}

// compare looks for two announced clusters.
func (w *World) compare() {
	ids := map[string][]string{}
	for _, s := range w.consul.catalog {
		for _, n := range w.Nodes {
			if n.Name == s.Meta["node"] && n.Addr == s.Address && s.status == "passing" && n.box != nil && n.box.server != nil && n.box.server.state == running {
				c := n.volume.cluster
				if s.Meta["cluster_id"] != c.id {
					continue // an entry from before this start
				}
				c.public = true
				n.volume.ran = true
				ids[c.id] = append(ids[c.id], n.Name)
			}
		}
	}
	switch {
	case len(ids) < 2 || w.excused != "":
		w.two = time.Time{}
	case w.two.IsZero():
		w.two = time.Now()
	case time.Since(w.two) > w.opts.TTL/3+2*time.Second:
		w.violation("two clusters have been announced for %s: %v", time.Since(w.two), ids)
	}
}

// sorted keys, so that no map's order becomes part of a story.
func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
