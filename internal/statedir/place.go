package statedir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"rmq-entrypoint/internal/config"
)

// elsewhere is the file at the default place of a state directory that names the one a node has
// instead. A health check, or a person's command, was not always given what the server was.
const elsewhere = "elsewhere"

// LeaveWord leaves word of where the state directory is, if that is not its default place.
func LeaveWord(cfg config.Config) error {
	place := Dir{Data: cfg.Data, State: cfg.Place()}
	if cfg.StateDir == place.State {
		return place.Remove(elsewhere)
	}
	if err := place.Make(); err != nil {
		return err
	}
	return writeJSON(place.file(elsewhere), cfg.StateDir)
}

// OfServer returns the runtime file of the server that settings are about: of the one that runs,
// or ran last; nil: none was ever started there. Where they do not say which node is meant, the one
// that runs beside counts, if there is one alone: its name may have been a flag of its command line.
func OfServer(cfg config.Config) (*Runtime, error) {
	_, node := cfg.Flags["node"]
	_, state := cfg.Flags["state-dir"]
	if state {
		return ReadRuntime(cfg.StateDir)
	}
	rt, err := ofNode(cfg.StateDir, cfg.Place())
	if rt != nil || err != nil || node {
		return rt, err
	}
	running, err := Running(cfg)
	running = slices.DeleteFunc(running, func(rt *Runtime) bool { // a variable that the server had, too, was overruled there by a flag
		other := func(name string) bool {
			asked := cfg.Variables[name]
			return asked != "" && asked != rt.Config.Variables[name]
		}
		return other("node") || other("state-dir")
	})
	switch {
	case len(running) > 1:
		return nil, fmt.Errorf("servers of several nodes run here, %s: say which one is meant, with --node or RABBITMQ_NODENAME", Names(running))
	case len(running) == 1:
		return running[0], nil
	}
	return nil, err
}

// Running returns the runtime files of all servers that run with their data where settings have
// this node's.
func Running(cfg config.Config) (running []*Runtime, err error) {
	base := filepath.Dir(cfg.Data)
	entries, err := os.ReadDir(base)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), "-entrypoint") {
			continue
		}
		rt, rerr := ofNode(filepath.Join(base, e.Name()))
		switch {
		case rerr != nil:
			err = errors.Join(err, rerr)
		case rt != nil && rt.Alive() && !slices.ContainsFunc(running, func(r *Runtime) bool { return r.PID == rt.PID }):
			running = append(running, rt)
		}
	}
	return running, err
}

// Names are the nodes of runtime files, for people.
func Names(all []*Runtime) string {
	var names []string
	for _, rt := range all {
		names = append(names, rt.Config.Node)
	}
	return strings.Join(names, " and ")
}

// ofNode returns the runtime file of one node, which is in one of these directories, or where word
// was left there of another: that of the server which runs, or else of the last one.
func ofNode(dirs ...string) (last *Runtime, err error) {
	for _, dir := range dirs {
		led, lerr := readJSON[string](filepath.Join(dir, elsewhere))
		err = errors.Join(err, lerr)
		if led != nil {
			dirs = append(dirs, *led)
		}
	}
	for _, dir := range dirs {
		rt, rerr := ReadRuntime(dir)
		switch {
		case rerr != nil:
			err = errors.Join(err, rerr)
		case rt == nil:
		case rt.Alive():
			return rt, nil
		case last == nil || rt.Since.After(last.Since):
			last = rt
		}
	}
	return last, err
}
