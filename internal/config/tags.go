package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// Plugins are those of RabbitMQ's plugins whose ports are services of their own in Consul, each
// called SERVICE-PLUGIN.
var Plugins = []string{"management", "prometheus"}

// services are the names of all this node's services in Consul.
func (c Config) services() []string {
	names := []string{c.Service}
	for _, plugin := range Plugins {
		names = append(names, c.Service+"-"+plugin)
	}
	return names
}

// TagsOf returns the tags of one of this node's services: those of all, and then its own. A tag is
// one service's where that service's name and a = stand before it.
func (c Config) TagsOf(service string) (tags []string) {
	var own []string
	for _, tag := range c.Tags {
		switch name, of, ok := strings.Cut(tag, "="); {
		case !ok || !slices.Contains(c.services(), name):
			tags = append(tags, tag)
		case name == service:
			own = append(own, of)
		}
	}
	return append(tags, own...)
}

// judgeTags judges each tag, and whose it is.
func (cfg *Config) judgeTags() error {
	for i, tag := range cfg.Tags {
		if cfg.Tags[i] = strings.TrimSpace(tag); cfg.Tags[i] == "" {
			return errors.New(`--tags (RMQ_TAGS): an empty tag; give them as production,ssd, and one with a comma in it in quotes, as "a,b",ssd`)
		}
		if strings.ContainsFunc(cfg.Tags[i], unicode.IsControl) {
			return fmt.Errorf("--tags (RMQ_TAGS) %q: a line break, or another control character, in a tag; commas go between them", cfg.Tags[i])
		}
		name, own, ok := strings.Cut(cfg.Tags[i], "=")
		name, own = strings.TrimSpace(name), strings.TrimSpace(own)
		switch {
		case !ok:
		case slices.Contains(cfg.services(), name) && own == "":
			return fmt.Errorf("--tags (RMQ_TAGS) %q: an empty tag of service %s; give it as %s=production", cfg.Tags[i], name, name)
		case slices.Contains(cfg.services(), name):
			cfg.Tags[i] = name + "=" + own
		case strings.HasPrefix(name, cfg.Service+"-"):
			return fmt.Errorf("--tags (RMQ_TAGS) %q: this node has no service %s in Consul, but %s", cfg.Tags[i], name, strings.Join(cfg.services(), ", "))
		}
	}
	return nil
}
