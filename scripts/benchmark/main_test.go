package main

import (
	"slices"
	"strings"
	"testing"

	"rmq-entrypoint/tests/expect"
)

func TestParse(t *testing.T) {
	p, err := parse(nil)
	expect.Must(t, err)
	if p.rounds != 5 || !slices.Equal(p.nodes, []int{3, 5}) || !slices.Equal(p.fleets, []int{100, 300, 1000}) || !slices.Equal(p.only, names) || p.write || p.mounts != nil {
		t.Errorf("by default %+v", p)
	}
	dir := t.TempDir()
	p, err = parse([]string{"-rounds", "2", "-nodes", "2,9", "-only", "join,consul", "-mount", dir + ":/a", "--mount", dir + ":/b:ro", "-write"})
	expect.Must(t, err)
	if p.rounds != 2 || !slices.Equal(p.nodes, []int{2, 9}) || !p.write || !slices.Equal(p.mounts, []string{dir + ":/a", dir + ":/b:ro"}) {
		t.Errorf("all flags: %+v", p)
	}
	if !p.asked("join") || p.asked("cold") || !p.asked("companion", "consul") {
		t.Errorf("asked for %v", p.only)
	}
	if !p.compares() {
		t.Errorf("%v compares nothing", p.only)
	}
	p, err = parse(strings.Fields("-only scale -fleets 5,5000"))
	expect.Must(t, err)
	if p.compares() || !slices.Equal(p.fleets, []int{5, 5000}) {
		t.Errorf("a fleet alone: %+v", p)
	}
	for args, want := range map[string]string{
		"-fleets 0": "multiple of 5", "-fleets 12": "-fleets 12", "-fleets 5005": "up to 5000", "-fleets 5,5": "twice", "-fleets -5": "multiple", "-fleets x": `"x"`,
		"-rounds 0": "-rounds", "-rounds 101": "1 to 100", "-nodes 0": "-nodes", "-nodes 10": "1 to 9", "-nodes 3,3": "twice", "-nodes 3,": "1 to 9", "-only all": "cold, join",
		"-only join,join": "twice", "-mount a:/b": "absolute", "-mount /a:b": "absolute", "-mount /nowhere/at/all:/b": "/nowhere/at/all", "more": "unknown argument more", "-round 3": "--help",
	} {
		if _, err := parse(strings.Fields(args)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want something with %q", args, err, want)
		}
	}
}

// What is told to RabbitMQ of the others is what it reads.
func TestDiscovery(t *testing.T) {
	l := &lab{address: "172.18.0.2"}
	for _, c := range []struct {
		kind  kind
		peers []int
		want  string
	}{
		{bare, nil, ""},
		{bare, []int{1, 2}, "classic_config\n…nodes.1 = rabbit@rabbit1\n…nodes.2 = rabbit@rabbit2\n…nodes.3 = rabbit@rabbit3\n"},
		{plugin, nil, "= consul\n…consul.host = 172.18.0.2\n"},
	} {
		got, rest := l.discovery(c.kind, 3, c.peers), 0
		for part := range strings.SplitSeq(c.want, "…") {
			i := strings.Index(got[rest:], part)
			if i < 0 {
				t.Fatalf("%s with %v: %q lacks %q", c.kind, c.peers, got, part)
			}
			rest += i
		}
		if c.want == "" && got != "" {
			t.Errorf("%s with %v: %q", c.kind, c.peers, got)
		}
	}
}
