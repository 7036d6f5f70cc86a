package consul

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/config"
)

// Examined is what one address of Consul's came to when it was asked for all that a node needs.
type Examined struct {
	Addr   string
	Client *api.Client // nil: it cannot even be dialled
	Err    error       // it does not answer as Consul does, or has no leader

	Ahead time.Duration // its clock before ours, to a second
	Timed bool          // it said what time it has

	ACL     bool     // it asks for a token
	Lacks   []string // rights that the token lacks, by their rules
	Unasked error    // it does not say which rights the token has; nil: it does

	Agent    string // the name of its Consul node; empty: not known
	Unsynced string // what shows that what it takes does not reach the catalog
	Unseen   error  // why that cannot be told; nil: it was looked at
}

// Examine asks each address, all at once. What takes longer than ctx allows is an error of that
// address.
func Examine(ctx context.Context, cfg config.Config) []Examined {
	all := make([]Examined, len(cfg.Consul))
	var asking sync.WaitGroup
	for i, addr := range cfg.Consul {
		asking.Go(func() { all[i] = examine(ctx, cfg, addr) })
	}
	asking.Wait()
	return all
}

func examine(ctx context.Context, cfg config.Config, addr string) Examined {
	e := Examined{Addr: addr}
	client, conf, err := dial(addr)
	if err != nil {
		e.Err = err
		return e
	}
	e.Client = client
	asked := asker{ctx, conf}
	before := time.Now()
	body, header, err := asked.ask(http.MethodGet, "/v1/status/leader", nil)
	took := time.Since(before)
	e.Ahead, e.Timed = Ahead(header, before, took)
	var leader string
	switch {
	case errors.As(err, new(api.StatusError)):
		e.Err = fmt.Errorf("it is no Consul, or one that is ill: %w", err)
	case err != nil:
		e.Err = err
	case json.Unmarshal(body, &leader) != nil:
		e.Err = fmt.Errorf("it answers %.60q, as no Consul does", body)
	case leader == "":
		e.Err = errors.New("it has no leader")
	}
	if e.Err != nil {
		return e
	}
	e.Agent = agentName(ctx, client)
	e.ACL, e.Lacks, e.Unasked = asked.rights(cfg, e.Agent)
	e.Unsynced, e.Unseen = unsynced(ctx, cfg, client, e.Agent)
	return e
}

// Ahead returns how much the clock of who sent that header is before this host's, to a second; it was
// asked at that time, and that is how long it took.
func Ahead(header http.Header, asked time.Time, took time.Duration) (ahead time.Duration, timed bool) {
	at, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		return 0, false
	}
	return at.Add(time.Second / 2).Sub(asked.Add(took / 2)).Round(time.Second / 2), true // it is cut to the second
}

// An asker asks what Consul's own client has no call for, as that client would.
type asker struct {
	ctx  context.Context
	conf *api.Config
}

// ask returns the answer; one that is no 200 is an error.
func (a asker) ask(method, path string, body []byte) ([]byte, http.Header, error) {
	host := a.conf.Address
	if strings.HasPrefix(host, "/") { // a socket: it is dialled whatever the name
		host = "consul"
	}
	req, err := http.NewRequestWithContext(a.ctx, method, a.conf.Scheme+"://"+host+path, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	if a.conf.Token != "" {
		req.Header.Set("X-Consul-Token", a.conf.Token)
	}
	if auth := a.conf.HttpAuth; auth != nil {
		req.SetBasicAuth(auth.Username, auth.Password)
	}
	resp, err := a.conf.HttpClient.Do(req)
	var asked *url.Error
	switch {
	case errors.As(err, &asked) && asked.Timeout():
		return nil, nil, errors.New("no answer in time")
	case errors.As(err, &asked): // the address is told anyway
		return nil, nil, asked.Err
	case err != nil:
		return nil, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = api.StatusError{Code: resp.StatusCode, Body: string(b[:min(len(b), 200)])}
	}
	return b, resp.Header, err
}

// A right is what Consul is asked for at /v1/internal/acl/authorize, as its own user interface
// does: nothing is written by it (measured on 1.22).
type right struct {
	Resource, Access, Segment string
	Allow                     bool `json:",omitempty"`
}

// rights returns which of the rights in docs/settings.md the token lacks.
func (a asker) rights(cfg config.Config, agent string) (acl bool, lacks []string, err error) {
	keys := cfg.KeyPrefix + "/" + cfg.Service + "/"
	need := []right{
		{Resource: "key", Access: "read", Segment: cfg.RecordKey()}, {Resource: "key", Access: "write", Segment: cfg.RecordKey()},
		{Resource: "key", Access: "read", Segment: cfg.LockKey()}, {Resource: "key", Access: "write", Segment: cfg.LockKey()},
		{Resource: "service", Access: "read", Segment: cfg.Service}, {Resource: "service", Access: "write", Segment: cfg.Service},
		{Resource: "service", Access: "write", Segment: cfg.Service + "-management"}, {Resource: "service", Access: "write", Segment: cfg.Service + "-prometheus"},
	}
	if cfg.Hosts == "consul" {
		key := cfg.Places().Prefix + cfg.Node
		need = append(need, right{Resource: "key", Access: "read", Segment: key}, right{Resource: "key", Access: "write", Segment: key})
	}
	if agent != "" {
		need = append(need, right{Resource: "node", Access: "read", Segment: agent}, right{Resource: "session", Access: "write", Segment: agent})
	}
	question, err := json.Marshal(need)
	if err != nil {
		return false, nil, err
	}
	body, _, err := a.ask(http.MethodPost, "/v1/internal/acl/authorize", question)
	var status api.StatusError
	switch {
	case errors.As(err, &status) && strings.Contains(status.Body, "ACL support disabled"):
		return false, nil, nil
	case errors.As(err, &status) && (strings.Contains(status.Body, "ACL not found") || status.Code == http.StatusForbidden):
		return true, []string{"every right: Consul does not know it (" + strings.TrimSpace(status.Body) + ")"}, nil
	case err != nil:
		return true, nil, err
	}
	var said []right
	if err := json.Unmarshal(body, &said); err != nil || len(said) != len(need) {
		return true, nil, fmt.Errorf("it answers %.60q when asked for the token's rights", body)
	}
	for _, r := range said {
		rule := fmt.Sprintf("%s:%s on %q", r.Resource, r.Access, r.Segment)
		if r.Resource == "key" {
			rule = fmt.Sprintf("key:%s on %q", r.Access, keys)
		}
		if !r.Allow && !slices.Contains(lacks, rule) {
			lacks = append(lacks, rule)
		}
	}
	if agent == "" && len(lacks) == 0 {
		err = errors.New("node:read and session:write, since the agent does not say its name")
	}
	return true, lacks, err
}

// agentName returns how the agent's Consul node is called; "": it does not say. Without agent:read,
// which a node does not need, the catalog says it: the nearest node is the agent's own.
func agentName(ctx context.Context, client *api.Client) string {
	var self struct{ Config struct{ NodeName string } }
	if _, err := client.Raw().Query("/v1/agent/self", &self, new(api.QueryOptions).WithContext(ctx)); err == nil {
		return self.Config.NodeName
	}
	near := (&api.QueryOptions{Near: "_agent"}).WithContext(ctx)
	nodes, _, err := client.Catalog().Nodes(near)
	if err != nil || len(nodes) == 0 || nodes[0] == nil {
		return ""
	}
	return nodes[0].Node
}

// unsynced says what shows that the agent does not bring into the catalog what it takes, as one
// that was recreated without its data under its name (measured on 1.22), or "". The error means
// unknown.
func unsynced(ctx context.Context, cfg config.Config, client *api.Client, agent string) (string, error) {
	if agent == "" {
		return "", errors.New("the agent does not say its name")
	}
	q := &api.QueryOptions{RequireConsistent: true}
	there, _, err := client.Catalog().Node(agent, q.WithContext(ctx))
	if err != nil {
		return "", fmt.Errorf("read Consul node %s in the catalog: %w", agent, err)
	}
	if there == nil || there.Node == nil {
		return fmt.Sprintf("the catalog has no Consul node %s", agent), nil
	}
	has, err := client.Agent().ServicesWithFilterOpts(fmt.Sprintf("Service == %q", cfg.Service), new(api.QueryOptions).WithContext(ctx))
	if err != nil {
		return "", fmt.Errorf("read which entries agent %s has: %w", agent, err)
	}
	for id := range has {
		if there.Services[id] == nil {
			return fmt.Sprintf("the agent has the entry %s, and the catalog has not", id), nil
		}
	}
	return "", nil
}
