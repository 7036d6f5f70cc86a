package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

// RoundTrip carries one request to Consul, with what may happen on the way.
func (p *Process) RoundTrip(req *http.Request) (*http.Response, error) {
	w, n := p.Box.Node.w, p.Box.Node
	ctx := req.Context()
	var body []byte
	if req.Body != nil {
		body, _ = io.ReadAll(req.Body)
		req.Body.Close()
	}
	what := kind(req)
	if !p.await(ctx, what) {
		return nil, errors.New("the process is dead")
	}
	w.mu.Lock()
	cut, refused := n.cut.After(time.Now()), n.refuse
	w.mu.Unlock()
	if cut && refused {
		return nil, errors.New("connection refused")
	}
	if cut {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-p.ctx.Done():
			return nil, errors.New("the process is dead")
		}
	}
	if ctx.Err() != nil {
		if req.Method != http.MethodGet && p.chance("late "+what, w.rates.late) {
			w.Log(n.Who, "** "+what+" was given up and arrives late")
			extra := time.Duration(w.draw(p.Name(), "later") * 5e9)
			go func() {
				w.sleep(w.ctx, extra)
				w.consul.serve(w.ctx, p, req, body)
			}()
		}
		return nil, ctx.Err()
	}
	// From here on the request is carried out, and its answer may be lost.
	answer := w.consul.serve(ctx, p, req, body)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if p.ctx.Err() != nil {
		return nil, errors.New("the process is dead")
	}
	if p.chance("lose "+what, w.rates.lose) {
		w.Log(n.Who, "** the answer to "+what+" is lost")
		return nil, io.ErrUnexpectedEOF
	}
	if p.chance("die "+what, w.rates.crash) {
		w.mu.Lock()
		w.tell(n.Who, fmt.Sprintf("** killed after %s of the %s", what, p.name))
		p.Box.die()
		w.mu.Unlock()
		return nil, errors.New("the process is dead")
	}
	h := http.Header{"X-Consul-Index": {strconv.FormatUint(answer.index, 10)}, "X-Consul-Knownleader": {"true"}, "X-Consul-Lastcontact": {"0"}}
	if answer.filtered {
		h.Set("X-Consul-Results-Filtered-By-ACLs", "true")
	}
	return &http.Response{
		StatusCode: answer.code, Status: strconv.Itoa(answer.code), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: h, Body: io.NopCloser(bytes.NewReader(answer.body)), ContentLength: int64(len(answer.body)), Request: req,
	}, nil
}

// reply is what Consul answers.
type reply struct {
	code     int
	index    uint64
	body     []byte
	filtered bool // by the rights of the token, and it says so
}

// kind names a request for the story and for drawing.
func kind(r *http.Request) string {
	f := strings.SplitN(strings.TrimPrefix(r.URL.Path, "/v1/"), "/", 3)
	k := r.Method + " " + strings.Join(f[:min(2, len(f))], "/")
	if strings.HasPrefix(r.URL.Path, "/v1/kv/") {
		k = r.Method + " " + r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	}
	return k
}

func (c *consul) serve(ctx context.Context, p *Process, req *http.Request, body []byte) reply {
	w, n, path := c.w, p.Box.Node, req.URL.Path
	q := req.URL.Query()
	wait, _ := time.ParseDuration(q.Get("wait"))
	after, _ := strconv.ParseUint(q.Get("index"), 10, 64)
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.away.After(time.Now()) {
		return reply{code: 500, body: []byte("rpc error: No cluster leader")}
	}
	if code, why := c.refuses(n, req.Method, path); code != 0 {
		return reply{code: code, body: why}
	}
	if req.Method != http.MethodGet {
		code, answer := c.write(n, req, q.Get("acquire"), q.Get("release"), body)
		return reply{code: code, index: c.index, body: answer}
	}
	waits := after > 0 && wait > 0
	read := func() (a reply) {
		a.code, a.index, a.body = c.read(path, q.Get("filter"), n.skew)
		return n.filtered(path, waits, a)
	}
	if !waits {
		return read()
	}
	until, began := time.NewTimer(wait), c.began
	defer until.Stop()
	for {
		if n.lacks(itself) && !strings.HasPrefix(path, "/v1/kv/") { // one for a key stands as it began
			code, why := c.refuses(n, req.Method, path)
			return reply{code: code, body: why}
		}
		a := read()
		if a.index > after || c.away.After(time.Now()) {
			return a
		}
		changed := c.changed
		w.mu.Unlock()
		done := false
		select {
		case <-changed:
		case <-until.C:
			done = true
		case <-ctx.Done():
			done = true
		case <-p.ctx.Done():
			done = true
		}
		w.mu.Lock()
		switch {
		case c.began != began:
			return reply{code: 500, body: []byte("rpc error: EOF")}
		case done:
			return a
		}
	}
}

func (c *consul) read(path, filter string, skew time.Duration) (code int, index uint64, answer []byte) {
	switch {
	case strings.HasPrefix(filter, "ServiceName"):
		all := map[string]any{}
		for id, s := range c.agent {
			all[id] = map[string]any{"Node": "consul", "CheckID": s.Check.CheckID, "ServiceID": s.ID, "Status": s.status, "Output": s.output()}
		}
		return 200, c.index, render(all)
	case path == "/v1/agent/services", path == "/v1/agent/checks":
		_, id, _ := strings.Cut(filter, "== ")
		id, _ = strconv.Unquote(id)
		s := c.agent[id]
		switch {
		case s == nil:
			return 200, c.index, []byte("{}")
		case path == "/v1/agent/services":
			return 200, c.index, render(map[string]any{s.ID: map[string]any{"ID": s.ID, "Service": s.Name, "Address": s.Address, "Port": s.Port, "Meta": s.Meta}})
		}
		return 200, c.index, render(map[string]any{s.Check.CheckID: map[string]any{"CheckID": s.Check.CheckID, "ServiceID": s.ID, "Status": s.status, "Output": s.output()}})
	case path == "/v1/status/leader":
		return 200, c.index, []byte(`"10.0.0.100:8300"`)
	case strings.HasPrefix(path, "/v1/kv/"):
		pair := c.kv[strings.TrimPrefix(path, "/v1/kv/")]
		if pair == nil {
			return 404, c.index, nil
		}
		told := *pair
		told.Value = dated(pair.Value, -skew)
		return 200, pair.ModifyIndex, render([]*api.KVPair{&told})
	case strings.HasPrefix(path, "/v1/health/service/"):
		if c.rendered == nil {
			c.rendered = c.render()
		}
		return 200, c.at, c.rendered
	case path == "/v1/session/list":
		list := []api.SessionEntry{}
		for _, id := range sorted(c.sessions) {
			list = append(list, c.sessions[id].SessionEntry)
		}
		return 200, c.index, render(list)
	case strings.HasPrefix(path, "/v1/session/info/"):
		list := []api.SessionEntry{}
		if s := c.sessions[strings.TrimPrefix(path, "/v1/session/info/")]; s != nil {
			list = append(list, s.SessionEntry)
		}
		return 200, c.index, render(list)
	}
	panic("no such path: " + path)
}

func (c *consul) write(n *Node, req *http.Request, acquire, release string, body []byte) (code int, answer []byte) {
	path := req.URL.Path
	truth := func(ok bool) (int, []byte) { return 200, []byte(strconv.FormatBool(ok)) }
	_, last, _ := strings.Cut(path[4:], "/")
	if i := strings.LastIndexByte(path, '/'); !strings.HasPrefix(path, "/v1/kv/") {
		last = path[i+1:]
	}
	switch {
	case path == "/v1/txn":
		return c.txn(body, n.skew)
	case acquire != "":
		s := c.sessions[acquire]
		if s == nil {
			return 500, []byte(`rpc error: invalid session "` + acquire + `"`)
		}
		pair := c.kv[last]
		if c.shut[last].After(time.Now()) || pair != nil && pair.Session != "" && pair.Session != acquire {
			return truth(false)
		}
		c.kv[last] = &api.KVPair{Key: last, Value: body, Session: acquire, ModifyIndex: c.change()}
		c.w.tell("consul", fmt.Sprintf("%s is held by %.60s", last, body))
		return truth(true)
	case release != "":
		pair := c.kv[last]
		if pair == nil || pair.Session != release {
			return truth(false)
		}
		c.kv[last] = &api.KVPair{Key: last, Value: body, ModifyIndex: c.change()}
		c.w.tell("consul", last+" is released")
		return truth(true)
	case path == "/v1/session/create":
		var in struct{ Name, TTL, LockDelay string }
		must(json.Unmarshal(body, &in))
		c.opened++
		s := &session{SessionEntry: api.SessionEntry{ID: fmt.Sprintf("session-%d", c.opened), Name: in.Name}}
		s.ttl, _ = time.ParseDuration(in.TTL)
		s.LockDelay, _ = time.ParseDuration(in.LockDelay)
		c.sessions[s.ID] = s
		s.expire = time.AfterFunc(c.life(s), func() { c.expired(s) })
		return 200, render(map[string]string{"ID": s.ID})
	case strings.HasPrefix(path, "/v1/session/renew/"):
		s := c.sessions[last]
		if s == nil {
			return 404, nil
		}
		s.expire.Reset(c.life(s))
		return 200, render([]api.SessionEntry{s.SessionEntry})
	case strings.HasPrefix(path, "/v1/session/destroy/"):
		c.destroy(last)
		return truth(true)
	case path == "/v1/agent/service/register":
		s := &service{status: "critical", by: n}
		must(json.Unmarshal(body, &s.AgentServiceRegistration))
		if old := c.agent[s.ID]; old != nil {
			s.status = old.status // measured: registering over an entry keeps its status
			old.ttl.Stop()
		}
		ttl, err := time.ParseDuration(s.Check.TTL)
		must(err)
		s.ttl = time.AfterFunc(ttl, func() { c.lapsed(s) })
		c.agent[s.ID] = s
		c.sync(s.ID)
		return 200, nil
	case strings.HasPrefix(path, "/v1/agent/service/deregister/"):
		s := c.agent[last]
		if s == nil {
			return 404, []byte(`Unknown service ID "` + last + `"`)
		}
		s.ttl.Stop()
		delete(c.agent, last)
		c.sync(last)
		return 200, nil
	case strings.HasPrefix(path, "/v1/agent/check/update/"):
		var in struct{ Status, Output string }
		must(json.Unmarshal(body, &in))
		id, _, _ := strings.Cut(last, "-ttl")
		s := c.agent[id]
		if s == nil || s.Check.CheckID != last {
			return 404, []byte(`Unknown check "` + last + `"`)
		}
		ttl, _ := time.ParseDuration(s.Check.TTL)
		s.ttl.Reset(ttl)
		s.silent = false
		for _, n := range c.w.Nodes {
			if n.Name == s.Meta["node"] && n.Addr == s.Address {
				c.w.heard(n)
			}
		}
		if s.status != in.Status {
			s.status = in.Status
			c.w.tell("consul", fmt.Sprintf("%s reports %s: %.150s", s.ID, in.Status, in.Output))
			c.sync(s.ID)
		}
		return 200, nil
	}
	panic("no such path: " + req.Method + " " + path)
}

func (c *consul) txn(body []byte, skew time.Duration) (int, []byte) {
	var ops api.TxnOps
	must(json.Unmarshal(body, &ops))
	for _, op := range ops {
		pair := c.kv[op.KV.Key]
		held, index := "", uint64(0)
		if pair != nil {
			held, index = pair.Session, pair.ModifyIndex
		}
		if op.KV.Verb == api.KVCheckSession && (held == "" || held != op.KV.Session) || op.KV.Verb == api.KVCAS && index != op.KV.Index {
			c.w.tell("consul", fmt.Sprintf("refused %s of %s (index %d, at %d)", op.KV.Verb, op.KV.Key, op.KV.Index, index))
			return 409, []byte(`{"Errors":[{"OpIndex":0,"What":"failed"}]}`)
		}
	}
	for _, op := range ops {
		if op.KV.Verb != api.KVCAS {
			continue
		}
		if op.KV.Key == c.w.opts.RecordKey && c.w.spoiled != nil {
			c.w.violation("a record that nobody of the program wrote was replaced by %s", op.KV.Value)
		}
		held, was := "", c.w.record()
		if pair := c.kv[op.KV.Key]; pair != nil {
			held = pair.Session
		}
		c.kv[op.KV.Key] = &api.KVPair{Key: op.KV.Key, Value: dated(op.KV.Value, skew), Session: held, ModifyIndex: c.change()}
		if op.KV.Key == c.w.opts.RecordKey {
			c.w.tell("consul", fmt.Sprintf("record: %s", c.kv[op.KV.Key].Value))
			c.w.written(was, c.w.record())
		}
	}
	return 200, []byte(`{"Results":[{"KV":{}}],"Errors":null}`)
}

// dated moves the times in a key's value from a node's clock to one that is ahead of
// it by d. The processes of all nodes have one clock; it is on their way to Consul
// and back that what they write becomes what their own, which is skewed, would say.
func dated(value []byte, d time.Duration) []byte {
	if d == 0 {
		return value
	}
	return times.ReplaceAllFunc(value, func(b []byte) []byte {
		t, err := time.Parse(`"`+time.RFC3339Nano+`"`, string(b))
		must(err)
		if t.IsZero() {
			return b
		}
		return t.Add(d).AppendFormat(nil, `"`+time.RFC3339Nano+`"`)
	})
}

var times = regexp.MustCompile(`"\d{4}-\d\d-\d\dT[0-9:.]+Z"`)
