package config

import (
	"fmt"
	"slices"
	"strings"
)

// ofClusters are the settings that say how a node finds its cluster, or how others find the node:
// who gives one means a node of a cluster.
var ofClusters = []string{
	"consul", "dns-server", "dns-domain", "advertise", "hosts", "tags", "meta", "key-prefix", "lock-delay",
	"wait-timeout", "join-timeout", "claim-timeout", "admin", "force-boot",
}

// judgeSingle refuses --single beside what is for a node of a cluster, however that was given: a
// lone broker in place of a member is found out when messages are missing.
func (cfg *Config) judgeSingle() error {
	if !cfg.Single {
		return nil
	}
	defer func() { cfg.Admin = "off" }() // a page of a whole cluster
	var beside []string
	for _, row := range Settings(new(Config)) {
		given, flag := cfg.Flags[row.Flag]
		text := cfg.Variables[row.Flag]
		if flag {
			text = given
		}
		if !slices.Contains(ofClusters, row.Flag) || text == "" || saysNo(row, text) {
			continue
		}
		name := "--" + row.Flag
		if !flag {
			name = strings.Join(row.Env, " or ")
		}
		beside = append(beside, name)
	}
	if len(beside) > 0 {
		return fmt.Errorf("--single (RMQ_SINGLE) is for a lone broker without Consul, and what is set beside it is for a node of a cluster: %s. Take --single out, or those (a variable that an image sets is taken out by setting it to nothing, as -e %s=)",
			strings.Join(beside, ", "), cfg.example(beside))
	}
	return nil
}

// saysNo reports whether a setting was given as what does nothing.
func saysNo(row Setting, text string) bool {
	switch row.Flag {
	case "hosts", "admin":
		return text == "off"
	case "force-boot":
		return !Yes(text)
	}
	return false
}

// example is a variable among those that were set, or any.
func (cfg *Config) example(beside []string) string {
	for _, name := range beside {
		if first, _, _ := strings.Cut(name, " "); !strings.HasPrefix(first, "--") {
			return first
		}
	}
	return "CONSUL_HTTP_ADDR"
}
