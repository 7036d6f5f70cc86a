package walk

import (
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"rmq-entrypoint/peers"
)

// lack is what a node's token is short of, until somebody puts it right. Consul says from 1.11 on
// that it filtered a list; before that, silently, it does not.
type lack struct {
	of     lost
	until  time.Duration
	silent bool
}

type lost string

const (
	itself lost = "is deleted"                  // all requests are refused, those to the agent too
	rights lost = "has no rights any more"      // what is no list is refused, and lists are empty
	sight  lost = "may not read nodes any more" // so the catalog is empty, and all else goes on
)

// errDenied is Consul's no for want of a right.
var errDenied = &peers.DeniedError{Right: "what it was asked for", Err: errors.New("refused, or filtered")}

func denied(err error) bool { return errors.As(err, new(*peers.DeniedError)) }

// lists are the questions that a token without rights gets a filtered answer to.
var lists = []string{"reading the catalog", "reading the agent", "reading the agent's checks", "reading a session"}

// revoke makes a token worth less for a while, in few worlds. It is drawn by itself, so that the many
// worlds without are the same as if there were no such fault.
func (w *World) revoke(length time.Duration) {
	r := rand.New(rand.NewPCG(w.seed, 0x746f6b656e))
	if r.IntN(8) > 0 {
		return
	}
	seconds := func(least, most float64) time.Duration {
		return time.Duration((least + (most-least)*r.Float64()) * 1e9)
	}
	n, at, soon, d := w.nodes[r.IntN(len(w.nodes))], seconds(1, length.Seconds()), seconds(0, 12), seconds(5, 120)
	l := lack{of: []lost{itself, itself, rights, rights, sight}[r.IntN(5)]}
	l.silent = l.of == rights && r.IntN(3) == 0
	deal := func(n *node) {
		if w.quiet {
			return
		}
		w.say(n.who, "** its token %s, for %s", l.of, d)
		l.until = w.clock.now + d
		if n.token = l; l.of != sight {
			w.law.deaf(n)
		}
	}
	if r.IntN(2) == 0 { // to who founds a cluster, meanwhile
		w.law.onClaim = func(by *node) { w.after(soon, func() { deal(by) }) }
	} else {
		w.after(at, func() { deal(n) })
	}
}

// lacks reports whether the node's token is short of that now.
func (n *node) lacks(of ...lost) bool {
	return n.token.until > n.w.clock.now && slices.Contains(of, n.token.of)
}

// refused reports whether Consul refuses that to the node's token.
func (n *node) refused(what string) bool {
	return n.lacks(itself) || n.lacks(rights) && !slices.Contains(lists, what)
}

// filtered is an answer that is a list, as the node's token may read it: nothing of it.
func filtered[T any](n *node, all []T, of ...lost) ([]T, error) {
	var none []T
	switch {
	case !n.lacks(of...), len(all) == 0:
		return all, nil
	case n.token.silent:
		return none, nil
	}
	n.w.law.does("was told a filtered list")
	return none, errDenied
}

// blocked reports whether the agent may not bring the entry into the catalog: it does that with the
// token that it was registered with. The catalog keeps its last word meanwhile.
func (w *World) blocked(a *agent, name string) bool {
	for _, e := range []*entry{find(a.has, name), find(a.listed, name)} {
		if e != nil {
			return w.at(e.reg.Address).lacks(itself, rights)
		}
	}
	return false
}
