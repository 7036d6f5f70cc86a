package rabbitmq

import (
	"context"
	"errors"
	"rmq-entrypoint/rabbitconf"
	"rmq-entrypoint/tests/expect"
	"slices"
	"strings"
	"testing"
)

// Carrying on, a version with mirrors takes the queues over whose home is lost,
// before the boot goes on and throws this copy away.
func TestForceBoot(t *testing.T) {
	for _, c := range []struct {
		version string
		paused  bool
		want    []string // in this order in the one call; none: no call
		not     string
	}{
		{version: "3.10.8", want: []string{"['b@h','c@h']", "set_pid", "rabbit_table:force_load()"}},
		{version: "3.13.7", want: []string{"['b@h','c@h']", "set_pid", "rabbit_table:force_load()"}},
		{version: "3.10.8", paused: true, want: []string{"mnesia:start()", "['b@h','c@h']", "set_pid", "mnesia:stop()"}, not: "rabbit_table:force_load()"},
		{version: "4.0.5", want: []string{"rabbit_table:force_load()"}, not: "set_pid"},
		{version: "4.0.5", paused: true},
		{version: "4.3.6", want: []string{"force_standalone_khepri_boot"}, not: "set_pid"},
	} {
		var calls []string
		run := func(_ context.Context, argv ...string) (string, error) {
			calls = append(calls, strings.Join(argv, " "))
			return "", nil
		}
		v, err := rabbitconf.ParseVersion(c.version)
		expect.Must(t, err)
		b := CLI{Node: "a@h", Run: run}
		how := Boot{Lost: []string{"b@h", "c@h"}, Khepri: v.AtLeast(4, 3), Mirrors: !v.AtLeast(4, 0), Paused: c.paused}
		expect.Must(t, b.ForceBoot(t.Context(), how))
		said := strings.Join(calls, "\n")
		if len(calls) > 1 || (said == "") != (c.want == nil) || c.not != "" && strings.Contains(said, c.not) {
			t.Errorf("%+v: %q", c, calls)
		}
		for _, w := range c.want {
			_, rest, ok := strings.Cut(said, w)
			if !ok {
				t.Errorf("%+v: %s is missing or out of order: %q", c, w, calls)
			}
			said = rest
		}
		calls = nil
		how.Lost = []string{"b@h']), halt(), (['"}
		err = b.ForceBoot(t.Context(), how)
		if over := strings.HasPrefix(c.version, "3."); (err != nil) != over || over && calls != nil {
			t.Errorf("%+v with a name that is none: %v, %q", c, err, calls)
		}
	}
}

// A node that is not to join any more, once it has stopped, is as it was.
func TestJoinIsAskedOnceMore(t *testing.T) {
	for _, may := range []error{nil, errors.New("another volume has the name")} {
		var calls []string
		b := CLI{Node: "a@h", Run: func(_ context.Context, argv ...string) (string, error) {
			calls = append(calls, argv[len(argv)-1])
			if argv[len(argv)-2] == "eval" {
				return "queues|0|\n", nil
			}
			return "", nil
		}}
		err := b.Join(t.Context(), "b@h", func(context.Context) error {
			calls = append(calls, "may it?")
			return may
		})
		want := []string{"stop_app", "may it?", "b@h", "start_app"}
		if may != nil {
			want = []string{"stop_app", "may it?", "start_app"}
		}
		if !errors.Is(err, may) || !slices.Equal(calls[1:], want) {
			t.Errorf("%v: %v, %q", may, err, calls)
		}
	}
}

// Whatever the catalog or the record says, only a node's name gets on a command line.
func TestNamesOnTheCommandLine(t *testing.T) {
	b := CLI{Node: "a@h", Run: func(_ context.Context, argv ...string) (string, error) {
		t.Errorf("run: %q", argv)
		return "", nil
	}}
	for _, name := range []string{"", "rabbit", "--offline@x", "-n@x", "b@h;reboot", "b@h\n", "b@h --offline", "b@../etc"} {
		if _, err := b.View(t.Context(), name); err == nil {
			t.Errorf("%q was asked", name)
		}
		if err := b.Forget(t.Context(), name, "c@h"); err == nil {
			t.Errorf("%q was told", name)
		}
		if err := b.Forget(t.Context(), "c@h", name); err == nil {
			t.Errorf("%q was forgotten", name)
		}
		if err := b.ForgetLost(t.Context(), name); err == nil {
			t.Errorf("%q was forgotten here", name)
		}
	}
}
