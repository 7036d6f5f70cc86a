package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/lock"
	"rmq-entrypoint/peers"
)

// consul is one client, pinned to the first address of the list that answers:
// registrations and TTL checks belong to one agent. It moves on when that agent has
// failed, or has not taken what it was told, for longer than patience.
type consul struct {
	addrs    []string
	log      *slog.Logger
	build    func(addr string) (*api.Client, error)
	patience time.Duration

	client *api.Client
	addr   string
	failed time.Time // since when, zero: it answers
	deaf   time.Time // since when it answers, but takes no registration or beat
	left   []agent   // agents moved away from, where an old registration may be left
}

type agent struct {
	addr   string
	client *api.Client
}

// prefer puts addr, which another process of ours uses, first in the list.
// Should it have to be another one, this one is remembered: the node may be
// registered there.
func (c *consul) prefer(addr string) {
	if i := slices.Index(c.addrs, addr); i > 0 {
		c.addrs = append([]string{addr}, slices.Delete(slices.Clone(c.addrs), i, i+1)...)
	}
	if client, err := c.build(addr); err == nil && addr != "" {
		c.client, c.addr, c.failed = client, addr, time.Now().Add(-c.patience)
	}
}

func newConsul(cfg config, log *slog.Logger) *consul {
	return &consul{addrs: cfg.Consul, log: log, patience: cfg.TTL / 2, build: dialConsul}
}

// dialConsul builds a client for one address; token, TLS and namespace come from
// Consul's own variables.
func dialConsul(addr string) (*api.Client, error) {
	conf := api.DefaultConfig()
	conf.Address = addr
	if file := os.Getenv(api.HTTPTokenFileEnvName); file != "" {
		if _, err := os.ReadFile(file); err != nil {
			return nil, fmt.Errorf("CONSUL_HTTP_TOKEN_FILE: %w", err)
		}
	}
	client, err := api.NewClient(conf)
	if err != nil {
		return nil, fmt.Errorf("consul at %s: %w", addr, err)
	}
	return client, nil
}

// use returns the pinned client, choosing one if there is none or if the one
// there is has failed for too long. The error says what each address answered.
func (c *consul) use(ctx context.Context) (*api.Client, error) {
	tooLong := func(since time.Time) bool { return !since.IsZero() && time.Since(since) >= c.patience }
	if c.client != nil && !tooLong(c.failed) && !tooLong(c.deaf) {
		return c.client, nil
	}
	addrs := slices.Clone(c.addrs)
	if tooLong(c.deaf) && !tooLong(c.failed) { // it would answer again: the last choice
		addrs = append(slices.DeleteFunc(addrs, func(a string) bool { return a == c.addr }), c.addr)
	}
	var said []string
	for _, addr := range addrs {
		client, err := c.build(addr)
		if err == nil {
			err = answers(ctx, client)
		}
		if err != nil {
			said = append(said, fmt.Sprintf("%s: %v", addr, err))
			continue
		}
		if c.addr != addr && c.addr != "" {
			c.log.Warn("moving to another Consul agent", "from", c.addr, "to", addr)
			c.left = append(c.left, agent{c.addr, c.client})
		}
		c.left = slices.DeleteFunc(c.left, func(a agent) bool { return a.addr == addr }) // what is registered there is ours again
		c.client, c.addr, c.failed, c.deaf = client, addr, time.Time{}, time.Time{}
		return client, nil
	}
	return nil, fmt.Errorf("no Consul answers (--consul, CONSUL_HTTP_ADDR): %s", strings.Join(said, "; "))
}

// saw notes whether the pinned agent answered.
func (c *consul) saw(err error) {
	switch {
	case err == nil || denied(err): // an agent that refuses answers
		c.failed = time.Time{}
	case c.failed.IsZero():
		c.failed = time.Now()
	}
}

// took notes whether the pinned agent took what it was told. One that was recreated
// without its data under the name of its predecessor answers every question, and
// takes no registration, or takes it and never brings it into the catalog (measured
// on 1.22).
func (c *consul) took(err error) {
	switch {
	case err == nil || denied(err):
		c.deaf = time.Time{}
	case c.deaf.IsZero():
		c.deaf = time.Now()
	}
}

// denied reports whether Consul refused for want of a right: no use to try again.
func denied(err error) bool {
	return lock.Fatal(err) || errors.As(err, new(*peers.DeniedError))
}

// answers asks for a leader: an agent without one takes registrations that
// nobody ever sees.
func answers(ctx context.Context, client *api.Client) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	leader, err := client.Status().LeaderWithQueryOptions(new(api.QueryOptions).WithContext(ctx))
	if err != nil {
		return err
	}
	if leader == "" {
		return errors.New("it has no leader")
	}
	return nil
}
