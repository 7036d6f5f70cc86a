package statedir

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/tests/expect"
)

// A command finds the server that runs by what it was given itself, however that server was given
// its name and its state directory, and says so where several could be meant.
func TestOfServer(t *testing.T) {
	t.Parallel()
	self, err := Self()
	expect.Must(t, err)
	other := exec.Command("sleep", "600") // another server
	expect.Must(t, other.Start())
	t.Cleanup(func() { _ = other.Process.Kill(); _ = other.Wait() })
	started, err := StartTime(other.Process.Pid)
	expect.Must(t, err)
	processes := map[string]Process{"a": self, "b": {PID: other.Process.Pid, Started: started}, "gone": {PID: self.PID, Started: 1}}

	type given map[string]string
	type server struct {
		node, state, runs string
		variables         given
		at                int
	}
	for name, c := range map[string]struct {
		servers          []server
		node             string // of the command
		state            string
		flags, variables given
		want             string // whose process; "": none was ever started
		says             string
	}{
		"nothing was started":                             {},
		"at its place":                                    {servers: []server{{runs: "a"}}, want: "a"},
		"with a flag":                                     {servers: []server{{runs: "a", state: "state"}}, want: "a"},
		"with a flag, in another directory":               {servers: []server{{runs: "a", state: "deep/er/state"}}, want: "a"},
		"with flags for both":                             {servers: []server{{runs: "a", node: "m@a", state: "state"}}, want: "a"},
		"with a variable that a flag overruled":           {servers: []server{{runs: "a", state: "state", variables: given{"state-dir": "BASE/else"}}}, state: "else", variables: given{"state-dir": "BASE/else"}, want: "a"},
		"the last one had its place":                      {servers: []server{{runs: "gone", at: 1}, {runs: "a", state: "state"}}, want: "a"},
		"the last one had a flag":                         {servers: []server{{runs: "gone", state: "state", at: 1}, {runs: "a"}}, want: "a"},
		"both are gone":                                   {servers: []server{{runs: "gone"}, {runs: "gone", node: "rabbit@a", state: "state", at: 2}}, want: "gone"},
		"another directory is meant":                      {servers: []server{{runs: "a", state: "state"}}, state: "else", flags: given{"state-dir": "BASE/else"}},
		"another directory is meant, by a variable":       {servers: []server{{runs: "a", node: "m@a", state: "state"}}, state: "else", variables: given{"state-dir": "BASE/else"}},
		"another node is meant":                           {servers: []server{{runs: "a", node: "m@a"}}, flags: given{"node": "rabbit@a"}},
		"another node is meant, by a variable":            {servers: []server{{runs: "a", node: "m@a"}}, variables: given{"node": "rabbit@a"}},
		"two nodes":                                       {servers: []server{{runs: "a", node: "m@a", state: "state"}, {runs: "b", node: "n@a"}}, says: "m@a and n@a: say which one is meant, with --node"},
		"two nodes, one is named":                         {servers: []server{{runs: "a", node: "m@a", state: "state"}, {runs: "b", node: "n@a"}}, node: "m@a", flags: given{"node": "m@a"}, want: "a"},
		"two nodes, one is named by a variable":           {servers: []server{{runs: "a", node: "m@a", state: "state"}, {runs: "b", node: "n@a"}}, node: "n@a", variables: given{"node": "n@a"}, want: "b"},
		"two nodes, one is gone":                          {servers: []server{{runs: "gone", node: "m@a", state: "state"}, {runs: "b", node: "n@a"}}, want: "b"},
		"this one is gone, and another is not its server": {servers: []server{{runs: "gone"}, {runs: "b", node: "n@a"}}, want: "gone"},
	} {
		base := t.TempDir()
		settings := func(node, state string, flags, variables given) config.Config {
			if node == "" {
				node = "rabbit@a"
			}
			cfg := config.Config{Node: node, Data: filepath.Join(base, "mnesia", node), Flags: flags, Variables: given{}}
			for k, v := range variables {
				cfg.Variables[k] = strings.ReplaceAll(v, "BASE", base)
			}
			if cfg.StateDir = cfg.Place(); state != "" {
				cfg.StateDir = filepath.Join(base, state)
			}
			return cfg
		}
		for _, s := range c.servers {
			rt := Runtime{Config: settings(s.node, s.state, nil, s.variables), PID: processes[s.runs].PID, Started: processes[s.runs].Started, Since: time.Unix(int64(s.at), 0)}
			expect.Must(t, Of(rt.Config).Make())
			expect.Must(t, LeaveWord(rt.Config))
			expect.Must(t, rt.Write())
		}
		rt, err := OfServer(settings(c.node, c.state, c.flags, c.variables))
		got := ""
		for name, p := range processes {
			if rt != nil && rt.PID == p.PID && rt.Started == p.Started {
				got = name
			}
		}
		if got != c.want || (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %q and %v, want %q and %q", name, got, err, c.want, c.says)
		}
	}
}

// What cannot be read is no server that was never started.
func TestOfServerUnknown(t *testing.T) {
	t.Parallel()
	v := testVolume(t)
	cfg := config.Config{Data: v.Data, StateDir: v.State}
	expect.Must(t, os.WriteFile(v.file(elsewhere), []byte("{"), 0o644))
	if rt, err := OfServer(cfg); rt != nil || err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("%v, %v", rt, err)
	}
}
