// Package consul is the one Consul agent in use, and this node's services there.
package consul

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/lock"
	"rmq-entrypoint/peers"
)

// Agents is one client, pinned to the first address of the list that answers:
// registrations and TTL checks belong to one agent. It moves on when that agent has
// failed, or has not taken what it was told, for longer than its patience.
type Agents struct {
	addrs    []string
	log      *slog.Logger
	Dial     func(addr string) (*api.Client, error)
	patience patience

	Current           *api.Client
	Addr              string
	notAnsweringSince time.Time // since when, zero: it answers
	notAcceptingSince time.Time // since when it answers, but takes no registration or beat
	LeftBehind        []Agent   // agents moved away from, where an old registration may be left

	none      error     // what the last round came to that found no agent
	noneUntil time.Time // it counts: for as long as the round took

	token rotating
}

type Agent struct {
	addr   string
	Client *api.Client
	slow   int       // how often, one after the other, it took too long to remove what is left there
	next   time.Time // when it is asked again
}

// Prefer puts addr, which another process of ours uses, first in the list.
// Should it have to be another one, this one is remembered: the node may be
// registered there.
func (c *Agents) Prefer(addr string) {
	if i := slices.Index(c.addrs, addr); i > 0 {
		c.addrs = append([]string{addr}, slices.Delete(slices.Clone(c.addrs), i, i+1)...)
	}
	c.token.is = tokenFile()
	if client, err := c.Dial(addr); err == nil && addr != "" {
		c.Current, c.Addr, c.notAnsweringSince = client, addr, time.Now().Add(-c.patience.now())
	}
}

// Moves has the next address tried as soon as one fails: nothing is registered by this client.
func (c *Agents) Moves() { c.patience.first = 0 }

// ErrSingle is why a lone broker has no client: nobody ever asks Consul for it.
var ErrSingle = errors.New("a lone broker does not ask Consul (--single, RMQ_SINGLE)")

func New(cfg config.Config, log *slog.Logger) *Agents {
	addrs := cfg.Consul
	if cfg.Single {
		addrs = nil
	}
	return &Agents{addrs: addrs, token: rotating{cfg: cfg}, log: log, patience: patience{first: cfg.TTL / 2}, Dial: DialConsul}
}

// DialConsul builds a client for one address; token, TLS and namespace come from
// Consul's own variables.
func DialConsul(addr string) (*api.Client, error) {
	client, _, err := dial(addr)
	return client, err
}

// DialOver does so over what way makes of the client's transport: one that counts, or that has an
// address of its own.
func DialOver(addr string, way func(*http.Transport) http.RoundTripper) (*api.Client, error) {
	client, conf, err := dial(addr)
	if err == nil {
		conf.HttpClient.Transport = bounded{way(conf.Transport)}
	}
	return client, err
}

// dial returns the settings of the client, too: its token is in them.
func dial(addr string) (*api.Client, *api.Config, error) {
	conf := api.DefaultConfig()
	conf.Address = addr
	if file := os.Getenv(api.HTTPTokenFileEnvName); file != "" {
		if _, err := os.ReadFile(file); err != nil {
			return nil, nil, fmt.Errorf("CONSUL_HTTP_TOKEN_FILE: %w", err)
		}
	}
	client, err := api.NewClient(conf)
	if err != nil {
		return nil, nil, fmt.Errorf("consul at %s: %w", addr, err)
	}
	conf.HttpClient.Transport = bounded{conf.HttpClient.Transport} // which is the client's, also on a socket
	conf.HttpClient.CheckRedirect = Stays
	return client, conf, nil
}

// Client returns the pinned client, choosing one if there is none or if the one
// there is has failed for too long. The error says what each address answered.
func (c *Agents) Client(ctx context.Context) (*api.Client, error) {
	c.refresh(ctx)
	if c.notAnsweringSince.IsZero() && c.notAcceptingSince.IsZero() {
		c.patience.rest()
	}
	tooLong := func(since time.Time) bool { return !since.IsZero() && time.Since(since) >= c.patience.now() }
	if c.Current != nil && !tooLong(c.notAnsweringSince) && !tooLong(c.notAcceptingSince) {
		if since := c.notAnsweringSince; since.IsZero() || time.Since(since) < c.patience.first || c.answersStill(ctx) {
			return c.Current, nil
		}
	}
	if len(c.addrs) == 0 {
		return nil, ErrSingle
	}
	addrs := slices.Clone(c.addrs)
	if tooLong(c.notAcceptingSince) && !tooLong(c.notAnsweringSince) { // it would answer again: the last choice
		addrs = append(slices.DeleteFunc(addrs, func(a string) bool { return a == c.Addr }), c.Addr)
	}
	began := time.Now()
	if began.Before(c.noneUntil) {
		return nil, c.none
	}
	c.token.is = tokenFile()
	client, addr, err := c.probe(ctx, addrs)
	if err != nil {
		if c.none = err; ctx.Err() == nil {
			c.noneUntil = time.Now().Add(time.Since(began))
		}
		return nil, err
	}
	if c.Addr != addr && c.Addr != "" {
		c.log.Warn("moving to another Consul agent", "from", c.Addr, "to", addr)
		c.LeftBehind = append(c.LeftBehind, Agent{addr: c.Addr, Client: c.Current})
		c.patience.spend()
	}
	c.LeftBehind = slices.DeleteFunc(c.LeftBehind, func(a Agent) bool { return a.addr == addr }) // what is registered there is ours again
	c.Current, c.Addr, c.notAnsweringSince, c.notAcceptingSince = client, addr, time.Time{}, time.Time{}
	return client, nil
}

// A patience is for how long an agent may fail until another one is chosen. It doubles with each move,
// up to mostPatience times the first, and is the first again once an agent has worked for four times
// as long. A move is dear: what was registered is registered anew, and removed where it was. Agents
// that are slow because they have too much to do stay slow while hundreds of nodes move to and fro.
type patience struct {
	first time.Duration
	moves int
	moved time.Time // last
}

const mostPatience = 8 // times the first

func (p *patience) now() time.Duration {
	return p.first * min(1<<min(p.moves, 10), time.Duration(mostPatience))
}

func (p *patience) spend() { p.moves, p.moved = p.moves+1, time.Now() }

// rest is for an agent that works.
func (p *patience) rest() {
	if p.moves > 0 && time.Since(p.moved) >= 4*p.now() {
		p.moves = 0
	}
}

// probe asks all addresses at once and returns the first of the list that answers. However
// many are black holes, it takes no longer than one of them.
func (c *Agents) probe(ctx context.Context, addrs []string) (*api.Client, string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	clients, answer := make([]*api.Client, len(addrs)), make([]chan error, len(addrs))
	for i, addr := range addrs {
		client, err := c.Dial(addr)
		clients[i], answer[i] = client, make(chan error, 1)
		if err != nil {
			answer[i] <- err
			continue
		}
		asking.Go(func() { answer[i] <- answers(ctx, client) })
	}
	var said []string
	for i, addr := range addrs {
		err := <-answer[i]
		if err == nil {
			return clients[i], addr, nil
		}
		said = append(said, fmt.Sprintf("%s: %v", addr, err))
	}
	return nil, "", fmt.Errorf("no Consul answers (--consul, CONSUL_HTTP_ADDR): %s", strings.Join(said, "; "))
}

// Leave removes this node's entries left with agents that it moved away from. One that takes long
// goes on with what nobody waits for any more, and has the more to do the more often it is asked: it
// is asked less and less, and what is left there lapses by itself.
func (c *Agents) Leave(ctx context.Context, rt statedir.Runtime) {
	var left []Agent
	for _, a := range c.LeftBehind {
		if time.Now().Before(a.next) || !a.leave(ctx, rt) {
			left = append(left, a)
		}
	}
	c.LeftBehind = left
}

const (
	leaveWithin = time.Second
	leaveAgain  = 10 * time.Second // after it took too long for the first time; then twice as long
	mostAgain   = time.Minute      // as an entry that is left, and critical, has others ask more often
)

func (a *Agent) leave(ctx context.Context, rt statedir.Runtime) bool {
	ctx, cancel := context.WithTimeout(ctx, leaveWithin)
	defer cancel()
	err := Withdraw(ctx, a.Client, rt)
	if ctx.Err() == nil { // it answered, or nothing is there
		a.slow = 0
		return err == nil
	}
	wait := min(leaveAgain<<min(a.slow, 10), mostAgain)
	a.slow, a.next = a.slow+1, time.Now().Add(wait-rand.N(wait/4)) // #nosec G404 -- that not all nodes come at once
	return err == nil
}

// Answered notes whether the pinned agent answered.
func (c *Agents) Answered(err error) {
	switch {
	case err == nil || Denied(err): // an agent that refuses answers
		c.notAnsweringSince = time.Time{}
	case c.notAnsweringSince.IsZero():
		c.notAnsweringSince = time.Now()
	}
}

// Accepted notes whether the pinned agent took what it was told. One that was recreated
// without its data under the name of its predecessor answers every question, and
// takes no registration, or takes it and never brings it into the catalog (measured
// on 1.22).
func (c *Agents) Accepted(err error) {
	if !c.token.registers { // what an earlier process registered has the token of then
		c.token.registers, c.token.entriesHaveOld = true, c.token.is != ""
	}
	switch {
	case err == nil || Denied(err):
		c.notAcceptingSince = time.Time{}
	case c.notAcceptingSince.IsZero():
		c.notAcceptingSince = time.Now()
	}
}

// Denied reports whether Consul refused for want of a right: no use to try again.
func Denied(err error) bool {
	return lock.Fatal(err) || errors.As(err, new(*peers.DeniedError))
}

// answers asks for a leader: an agent without one takes registrations that
// nobody ever sees.
func answers(ctx context.Context, client *api.Client) error {
	leader, err := client.Status().LeaderWithQueryOptions(new(api.QueryOptions).WithContext(ctx))
	if err != nil {
		return err
	}
	if leader == "" {
		return errors.New("it has no leader")
	}
	return nil
}

func NameTaken(err error) bool { return errors.As(err, new(*peers.NameTakenError)) }

func LockOptions(c config.Config, log *slog.Logger) lock.Options {
	host, _ := os.Hostname()
	return lock.Options{Key: c.LockKey(), Owner: lock.Owner{Node: c.Node, Host: host}, TTL: c.TTL, Delay: c.LockDelay, Log: log}
}

// answersStill reports whether the pinned agent is slow alone: one that is gone is left at once.
func (c *Agents) answersStill(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return answers(ctx, c.Current) == nil
}
