package config

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// usualHome is where the official image has RabbitMQ's data, and RabbitMQ itself what nothing else
// says.
const usualHome = "/var/lib/rabbitmq"

// directories takes over where RabbitMQ keeps its data, by the variables that RabbitMQ reads.
// RabbitMQ takes slashes at the end off (measured on 3.10.8, 4.0.5 and 4.3.6).
func (cfg *Config) directories(getenv func(string) string) error {
	home, base, dir := getenv("RABBITMQ_DATA_DIR"), RabbitMQs(getenv, "RABBITMQ_MNESIA_BASE"), RabbitMQs(getenv, "RABBITMQ_MNESIA_DIR")
	if err := errors.Join(WholePath("RABBITMQ_DATA_DIR", home), WholePath("RABBITMQ_MNESIA_BASE", base), WholePath("RABBITMQ_MNESIA_DIR", dir)); err != nil {
		return err
	}
	cfg.Home = filepath.Clean(cmp.Or(home, usualHome)) // as the official image names it
	cfg.Data = filepath.Clean(cmp.Or(dir, filepath.Join(cmp.Or(base, filepath.Join(cfg.Home, "mnesia")), cfg.Node)))
	cfg.StateDir = filepath.Clean(cmp.Or(cfg.StateDir, cfg.Place()))
	cfg.ConfigFile = cmp.Or(cfg.ConfigFile, filepath.Join(cfg.StateDir, "rabbitmq.config"))
	return nil
}

// Base is where RabbitMQ keeps what lies beside its data, as its feature flags. Where the data are
// named alone, it is what RabbitMQ itself takes.
func (cfg Config) Base(getenv func(string) string) string {
	base := filepath.Join(cfg.Home, "mnesia")
	if RabbitMQs(getenv, "RABBITMQ_MNESIA_DIR") != "" {
		base = filepath.Join(usualHome, "mnesia")
	}
	return filepath.Clean(cmp.Or(RabbitMQs(getenv, "RABBITMQ_MNESIA_BASE"), base))
}

// TellBase returns what RabbitMQ is to be told as RABBITMQ_MNESIA_BASE, or it would keep its data at
// its usual place: it does not read RABBITMQ_DATA_DIR (measured on 3.10.8, 4.0.5 and 4.3.6). "" is
// nothing: the data are there, or its own variables say where.
func (cfg Config) TellBase(getenv func(string) string) string {
	if cfg.Home == usualHome || RabbitMQs(getenv, "RABBITMQ_MNESIA_BASE") != "" || RabbitMQs(getenv, "RABBITMQ_MNESIA_DIR") != "" {
		return ""
	}
	return cfg.Base(getenv)
}

// UsualData is where RabbitMQ keeps this node's data that was told nothing.
func (cfg Config) UsualData() string { return filepath.Join(usualHome, "mnesia", cfg.Node) }

// WholePath refuses a directory of RabbitMQ's whose place depends on where RabbitMQ is started, or
// on what a link above it leads to.
func WholePath(name, path string) error {
	if path != "" && (!filepath.IsAbs(path) || slices.Contains(strings.Split(path, "/"), "..")) {
		return fmt.Errorf("%s=%q: give the whole path, from / on and without ..: RabbitMQ would look for it from where it is started", name, path)
	}
	return nil
}
