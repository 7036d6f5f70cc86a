package consul

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
)

// A rotating token is one that others replace in its file.
type rotating struct {
	cfg            config.Config
	is             string // what the client was built with; "": it came from no file
	registers      bool   // this process tells Consul of the node
	entriesHaveOld bool   // and the node's entries may have been made with another token
}

// tokenFile returns what CONSUL_HTTP_TOKEN_FILE holds now, "" where there is none.
func tokenFile() string {
	file := os.Getenv(api.HTTPTokenFileEnvName)
	if file == "" {
		return ""
	}
	b, _ := os.ReadFile(file) // what cannot be read now is no new token
	return strings.TrimSpace(string(b))
}

// WayOut adds to Consul's no what there is to do where the token is one that is not read again.
func WayOut(err error) error {
	if file := os.Getenv(config.TokenReadOnce); file != "" && Denied(err) {
		return fmt.Errorf("%w; the token was read once, from %s, which only root may read (CONSUL_HTTP_TOKEN_FILE): if another one is there, restart the container", err, file)
	}
	return err
}

// refresh builds the client anew when the file of the token has changed, as Vault and Nomad
// change it before or after the old token ends. The agent brings an entry into the catalog
// with the token that it was registered with: so this node's entries are registered anew.
func (c *Agents) refresh(ctx context.Context) {
	if now := tokenFile(); c.Current != nil && now != "" && now != c.token.is {
		client, err := c.Dial(c.Addr)
		if err != nil {
			c.log.Warn("CONSUL_HTTP_TOKEN_FILE has changed, and cannot be used", "err", err)
			return
		}
		c.log.Info("CONSUL_HTTP_TOKEN_FILE has changed: using the new token", "agent", c.Addr)
		c.Current, c.token.is, c.token.entriesHaveOld = client, now, c.token.registers
		for i, a := range c.LeftBehind {
			if client, err := c.Dial(a.addr); err == nil {
				c.LeftBehind[i].Client = client
			}
		}
	}
	if !c.token.entriesHaveOld {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := reenter(ctx, c.Current, c.token.cfg); err != nil {
		c.log.Debug("cannot register this node's entries with the new token yet", "err", err)
		return
	}
	c.token.entriesHaveOld = false
}

// reenter registers what the agent has of this start over itself, as it is: from there on it
// has the token of the client.
func reenter(ctx context.Context, client *api.Client, cfg config.Config) error {
	rt, err := statedir.ReadRuntime(cfg.StateDir)
	if rt == nil || err != nil {
		return err
	}
	entries := []peers.Registration{Registration(*rt)}
	for _, e := range PluginServices(*rt) {
		entries = append(entries, e.Registration)
	}
	for _, r := range entries {
		err = errors.Join(err, peers.Reregister(ctx, client, r))
	}
	return err
}
