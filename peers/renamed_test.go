package peers_test

import (
	"fmt"
	"slices"
	"testing"

	"rmq-entrypoint/peers"
)

// RabbitMQ's id of a cluster may change: the former ones are the same cluster, for the volumes on record alone.
func TestRenamed(t *testing.T) {
	t.Parallel()
	was := peers.Record{State: peers.Formed, ClusterID: "id-0", Members: map[string]string{a: "va", b: ""}, Previous: []peers.Previous{{ClusterID: "id-1"}, {ClusterID: "old"}}}
	r := was
	for i := range 12 {
		r = r.Renamed(fmt.Sprintf("id-%d", i+1))
	}
	if r.ClusterID != "id-12" || len(r.Formerly) != 8 || r.Formerly[0] != "id-11" || r.Formerly[7] != "id-4" || len(was.Formerly) > 0 {
		t.Errorf("%+v", r)
	}
	if r = r.Renamed("id-11"); r.ClusterID != "id-11" || r.Formerly[0] != "id-12" || slices.Contains(r.Formerly, "id-11") {
		t.Errorf("back again: %+v", r)
	}
	again := was.Renamed("id-1") // the id of a cluster that this one replaced
	for _, c := range []struct {
		node, volume, cluster string
		refused               bool
	}{
		{a, "va", "id-1", false}, {a, "va", "id-0", false}, {a, "other", "id-0", true}, {a, "other", "id-1", true}, {b, "vb", "id-0", false},
		{a, "va", "old", true}, {a, "va", "id-2", true}, {"rabbit@c", "vc", "id-0", true}, {a, "va", "", false},
	} {
		if why := again.Refuses(c.node, c.volume, c.cluster); (why != "") != c.refused {
			t.Errorf("%+v: %q", c, why)
		}
	}
	if !again.Is("id-0") || !again.Is("id-1") || again.Is("old") || again.Is("") || (peers.Record{}).Is("") {
		t.Error("which clusters it is")
	}
}
