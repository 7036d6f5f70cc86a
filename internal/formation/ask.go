package formation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/peers"
)

// Members are asked several at a time: the next one when askNext has passed without an
// answer, mostAsked at once. One that answers is enough, as a rule, and each question starts
// an Erlang VM here. All of a look takes askWithin at most.
const (
	askNext   = time.Second
	mostAsked = 8
	askWithin = rabbitmq.CLITimeout
	tellAfter = 3 * time.Second // of asking: then the wait says whom
)

// ask gets the view of a passing member, whose answer speaks for all it sees running. Where
// none answers the others are asked, too: one that does not serve may see this node's name
// run, and a half-joined one may be waiting for exactly its vote.
//
// Only nodes on record are asked: to ask is to shake hands in Erlang's way, which tells
// whoever takes the connection enough to guess the cookie at leisure, and anybody who may
// register a service can claim to be of this cluster.
func (f *formation) ask(ctx context.Context, r peers.Record, ps []peers.Peer) {
	passing := func(p peers.Peer) bool { return p.Passing }
	other := func(p peers.Peer) bool { return !p.Passing && (f.volume.Joining || p.Alive()) }
	var order []int // one entry of each node: it may have several
	listed := map[string]bool{}
	for _, next := range []func(peers.Peer) bool{passing, other} {
		var some []int
		for i, p := range ps {
			if _, on := r.Members[p.Node]; on && next(p) && !listed[p.Node] {
				some, listed[p.Node] = append(some, i), true
			}
		}
		slices.SortStableFunc(some, func(a, b int) int { return f.waits.silent[ps[a].Node] - f.waits.silent[ps[b].Node] })
		order = append(order, some...)
	}
	enough := func(p peers.Peer) bool { return p.Passing && p.View.Known() && p.View.Value.ClusterID == r.ClusterID }
	answer := f.askAll(ctx, r, ps, order, enough)
	for i := range ps {
		for _, asked := range order {
			if ps[i].Node == ps[asked].Node {
				ps[i].View = ps[asked].View
			}
		}
	}
	if answer < 0 {
		f.askWhoIsNotOnRecord(ctx, r, ps)
		return
	}
	for i := range ps {
		if slices.Contains(ps[answer].View.Value.Running, ps[i].Node) {
			ps[i].View = ps[answer].View
		}
	}
}

// nameStrangers says once which entries claim to be of the cluster, and are of no node on its
// record: they are not asked, and whoever made them may mean no good.
func (f *formation) nameStrangers(r peers.Record, ps []peers.Peer) {
	var strangers []string
	for _, p := range ps {
		if _, on := r.Members[p.Node]; !on && p.Passing && p.ClusterID == r.ClusterID {
			strangers = append(strangers, fmt.Sprintf("%s at %s (registered as %s with Consul agent %s)", p.Node, p.Address, p.ID, p.Agent))
		}
	}
	var err error
	if len(strangers) > 0 {
		err = errors.New("they are not on record")
	}
	if f.failing.news("strangers", err) {
		f.Log.Warn("entries of this service pass with the cluster's id, and their nodes are not on its record: they are asked nothing and joined by nobody", "entries", peers.Some(strangers))
	}
}

// askAll asks those of the peers in that order, until an answer is enough, and returns whose
// that was, or -1. Whoever did not answer comes last at the next look.
func (f *formation) askAll(ctx context.Context, r peers.Record, ps []peers.Peer, order []int, enough func(peers.Peer) bool) int {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	type said struct {
		peer int
		view peers.Seen[peers.View]
	}
	answers := make(chan said, len(order))
	asked := map[int]string{} // those that have not answered yet
	defer func() {
		cancel()
		for range asked {
			<-answers
		}
	}()
	began, found := time.Now(), -1
	next := time.NewTicker(askNext)
	defer next.Stop()
	for found < 0 && (len(asked) > 0 || len(order) > 0 && ctx.Err() == nil) { // one more with each answer, and each second
		if len(order) > 0 && ctx.Err() == nil && len(asked) < mostAsked {
			i := order[0]
			order, asked[i] = order[1:], ps[i].Node
			go func(node string) {
				v, err := f.CLI.View(ctx, node)
				answers <- said{i, peers.Seen[peers.View]{Value: v, Err: err}}
			}(ps[i].Node)
		}
		select {
		case a := <-answers:
			delete(asked, a.peer)
			ps[a.peer].View = a.view
			f.waits.heard(ps[a.peer].Node, a.view.Known())
			if enough(ps[a.peer]) {
				found = a.peer
			}
		case <-next.C:
			if time.Since(began) >= tellAfter {
				f.tell(fmt.Sprintf("an answer of members of cluster %s: asking %s", r.ClusterID, peers.Some(slices.Sorted(maps.Values(asked)))), "")
			}
		}
	}
	return found
}

// askWhoIsNotOnRecord finds out which of the registered nodes, none of which is on
// record any more, positively do not run: before a founding, that is, which the others
// hold up. They are not asked themselves.
func (f *formation) askWhoIsNotOnRecord(ctx context.Context, r peers.Record, ps []peers.Peer) {
	if len(r.Members) > 0 {
		return
	}
	for i := range ps {
		if !ps[i].Alive() && !ps[i].Down {
			ps[i].Down = f.IsDown(ctx, ps[i])
		}
	}
}
