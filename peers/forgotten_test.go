package peers_test

import (
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/peers"
)

// What RabbitMQ was made to forget is told so, does not come back on any earlier volume, and joins on a blank one.
func TestForgottenByHand(t *testing.T) {
	t.Parallel()
	was := peers.Record{State: peers.Formed, ClusterID: "id", Members: map[string]string{a: "va", b: "vb"}}
	r := was.ForgottenByHand(b, time.Now()).By(b, a)
	why := r.Refuses(b, "vb", "id")
	if len(r.Members) != 1 || len(was.Members) != 2 || r.Returns(b, "vb") || !r.Gone[b].Another(b) || !strings.Contains(why, "RabbitMQ was made to forget it, by hand") || !strings.Contains(why, "goes on with "+a) {
		t.Errorf("%+v: %q", r, why)
	}
	r = r.Joins(b, "vx", time.Now())
	if r.Members[b] != "vx" || !r.NeverVerified(b) || r.Refuses(b, "vx", "id") != "" || r.Refuses(b, "vb", "id") == "" {
		t.Errorf("%+v", r)
	}
}
