package sim

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"
)

// A lack is what a node's token is short of, until somebody puts it right. What Consul answers then
// was read off 1.22, whose lists say that they are filtered; those of before 1.11 do not.
type lack struct {
	of     lost
	until  time.Time
	silent bool // a filtered list does not say so
}

type lost string

const (
	itself lost = "is deleted"                  // all requests are refused, those to the agent too
	rights lost = "has no rights any more"      // what is no list is refused, and lists are empty
	sight  lost = "may not read nodes any more" // so the catalog is empty, and all else goes on
)

// revoke is a token that is worth less for a while. It is drawn by itself, so that the many stories
// without one are the same as if there were no such fault.
func (w *World) revoke(length time.Duration, after func(time.Duration, func())) (faults int) {
	r := rand.New(rand.NewPCG(w.opts.Seed, 0x746f6b656e))
	if r.IntN(8) > 0 {
		return 0
	}
	seconds := func(least, most float64) time.Duration {
		return time.Duration((least + (most-least)*r.Float64()) * 1e9)
	}
	n, at, soon, d := w.Nodes[r.IntN(len(w.Nodes))], seconds(1, length.Seconds()), seconds(0, 12), seconds(5, 120)
	l := lack{of: []lost{itself, itself, rights, rights, sight}[r.IntN(5)]}
	l.silent = l.of == rights && r.IntN(3) == 0
	deal := func(n *Node) {
		if w.quiet {
			return
		}
		w.tell(n.Who, fmt.Sprintf("** its token %s, for %s", l.of, d))
		w.did[Revoked]++
		l.until = time.Now().Add(d)
		n.token = l
		w.consul.change() // a query for news of who is there is refused at once
		if l.of != sight {
			w.deaf(n)
		}
	}
	if r.IntN(2) == 0 { // to who founds a cluster, meanwhile
		w.onClaim = func(seed string) {
			time.AfterFunc(soon, func() {
				w.mu.Lock()
				defer w.mu.Unlock()
				deal(w.node(seed))
			})
		}
	} else {
		after(at, func() { deal(n) })
	}
	return 1
}

// lacks reports whether the node's token is short of that now.
func (n *Node) lacks(of ...lost) bool {
	for _, what := range of {
		if n.token.of == what && n.token.until.After(time.Now()) {
			return true
		}
	}
	return false
}

// refuses is Consul's no to a request with the node's token; 0: there is none.
func (c *consul) refuses(n *Node, method, path string) (code int, why []byte) {
	switch {
	case path == "/v1/status/leader": // which takes no token
	case n.lacks(itself):
		return http.StatusForbidden, []byte("ACL not found")
	case !n.lacks(rights):
	case path == "/v1/txn":
		return http.StatusConflict, []byte(`{"Results":null,"Errors":[{"OpIndex":0,"What":"` + denied + `"}]}`)
	case method == http.MethodGet && !strings.HasPrefix(path, "/v1/kv/"): // a list
	case c.unknown(path): // what is not there nobody is refused
	default:
		return http.StatusForbidden, []byte(denied)
	}
	return 0, nil
}

const denied = "Permission denied: token with AccessorID 'x' lacks permission"

// unknown reports whether the path names a session, an entry or a check that is not there.
func (c *consul) unknown(path string) bool {
	id := path[strings.LastIndexByte(path, '/')+1:]
	of, _, _ := strings.Cut(id, "-ttl")
	switch what := strings.TrimSuffix(path, id); what {
	case "/v1/session/renew/", "/v1/session/destroy/":
		return c.sessions[id] == nil
	case "/v1/agent/service/deregister/", "/v1/agent/check/update/":
		return c.agent[of] == nil || what == "/v1/agent/check/update/" && c.agent[of].Check.CheckID != id
	}
	return false
}

// filtered is an answer as the node's token may read it. A query that waits for news does not say
// that its list is filtered, not on 1.22 either.
func (n *Node) filtered(path string, waits bool, a reply) reply {
	catalog := strings.HasPrefix(path, "/v1/health/service/")
	switch {
	case a.code != http.StatusOK || len(a.body) <= len("[]"):
	case catalog && n.lacks(rights, sight), n.lacks(rights) && !strings.HasPrefix(path, "/v1/kv/") && path != "/v1/status/leader":
		empty := "[]"
		if a.body[0] == '{' {
			empty = "{}"
		}
		a.body, a.filtered = []byte(empty), !waits && !n.token.silent
	}
	return a
}

// blocked reports whether the agent may not bring the entry into the catalog: it does that with the
// token that the entry was registered with. The catalog keeps its last word meanwhile.
func (c *consul) blocked(id string) bool {
	s := cmp.Or(c.agent[id], c.catalog[id])
	return s != nil && s.by != nil && s.by.lacks(itself, rights)
}
