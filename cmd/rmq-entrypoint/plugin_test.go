package main

import (
	"regexp"
	"slices"
	"testing"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/rabbitconf"
)

// What people are told to set instead of the options of RabbitMQ's own plugin is there.
func TestPluginsOptionsAreSettings(t *testing.T) {
	variables := map[string]string{} // by flag
	for _, s := range config.Settings(new(config.Config)) {
		variables[s.Flag] = s.Env[0]
	}
	pair, flag := regexp.MustCompile(`([A-Z_]+) \(--([a-z-]+)\)`), regexp.MustCompile(`--[a-z]`)
	named := 0
	for _, o := range rabbitconf.PluginOptions {
		found := pair.FindAllStringSubmatch(o.Here, -1)
		if len(found) != len(flag.FindAllString(o.Here, -1)) {
			t.Errorf("%s: a flag without its variable in %q", o.Key, o.Here)
		}
		for _, m := range found {
			if named++; variables[m[2]] != m[1] {
				t.Errorf("%s: %q: the variable of --%s is %q", o.Key, o.Here, m[2], variables[m[2]])
			}
		}
		for _, name := range regexp.MustCompile(`\bRMQ_[A-Z_]+`).FindAllString(o.Here, -1) {
			if !slices.ContainsFunc(found, func(m []string) bool { return m[1] == name }) {
				t.Errorf("%s: %q names no flag beside %s", o.Key, o.Here, name)
			}
		}
	}
	if named < 15 {
		t.Errorf("%d settings are named", named)
	}
}
