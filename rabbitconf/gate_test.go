package rabbitconf

import (
	"strings"
	"testing"

	"rmq-entrypoint/tests/expect"
)

// The gate is on the node's own host, and its place in the file is taken by the peers, once they
// are known. A file of another start, and names that are none, leave it as it is.
func TestGate(t *testing.T) {
	for node, gate := range map[string]string{"rabbit@a": "gate-rabbit@a", "x@a-b.c.example": "gate-x@a-b.c.example"} {
		if got := Gate(node); got != gate || ValidNode(got) != nil {
			t.Errorf("the gate of %s is %s", node, got)
		}
		conf, err := Render(Options{Version: Version{4, 3, 6}, Node: node, Peers: []string{gate}, Joining: true})
		expect.Must(t, err)
		joins, err := Render(Options{Version: Version{4, 3, 6}, Node: node, Peers: []string{"rabbit@b", "rabbit@c"}, Joining: true})
		expect.Must(t, err)
		opened, err := Opened(conf, node, []string{"rabbit@b", "rabbit@c"})
		soon := strings.Replace(string(joins), "{discovery_retry_interval,500}", "{discovery_retry_interval,200}", 1)
		if err != nil || string(opened) != soon {
			t.Errorf("%v\n%s\nwant\n%s", err, opened, soon)
		}
		founds, err := Opened(conf, node, nil)
		if want := "{cluster_nodes,{['" + node + "'],disc}}"; err != nil || !strings.Contains(strings.ReplaceAll(string(founds), " ", ""), want) {
			t.Errorf("%v\n%s\nhas no %s", err, founds, want)
		}
		for name, again := range map[string]struct {
			conf  string
			peers []string
		}{
			"opened already": {string(opened), []string{"rabbit@b"}},
			"empty":          {"", []string{"rabbit@b"}},
			"twice":          {string(conf) + string(conf), []string{"rabbit@b"}},
			"no name":        {string(conf), []string{"rabbit@b'],disc}}"}},
		} {
			if out, err := Opened([]byte(again.conf), node, again.peers); err == nil {
				t.Errorf("%s: %s", name, out)
			}
		}
	}
}

// What the gate rests on was measured on 4.3 and read in 4.2.
func TestHoldsBack(t *testing.T) {
	for v, want := range map[Version]bool{{}: false, {3, 13, 7}: false, {4, 0, 5}: false, {4, 1, 9}: false, {4, 2, 0}: true, {4, 3, 6}: true, {5, 0, 0}: true} {
		if v.HoldsBack() != want {
			t.Errorf("%s: %t", v, !want)
		}
	}
}
