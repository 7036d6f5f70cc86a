package fleet

import (
	"io"
	"net/http"
	"slices"
	"testing"

	"github.com/hashicorp/consul/api"
)

// A node counts as passing once, whatever is left of it with another server, and not by an entry with a dead one.
func TestJudge(t *testing.T) {
	var seen Seen
	seen.judge(api.HealthChecks{
		{Node: "consul-1", CheckID: "serfHealth", Status: "critical"},
		{Node: "consul-2", CheckID: "serfHealth", Status: "passing"},
		{Node: "consul-1", CheckID: "a-ttl", ServiceID: "a", Status: "passing"},
		{Node: "consul-2", CheckID: "a-ttl", ServiceID: "a", Status: "passing"},
		{Node: "consul-1", CheckID: "b-ttl", ServiceID: "b", Status: "passing"},
		{Node: "consul-2", CheckID: "c-ttl", ServiceID: "c", Status: "critical", Output: "TTL expired (last output before timeout follows): fit"},
		{Node: "consul-2", CheckID: "d-ttl", ServiceID: "d", Status: "passing"},
	}, []string{"a", "b", "c"})
	if seen.Passing != 1 || seen.Entries != 4 || !slices.Equal(seen.Lapsed, []string{"c-ttl"}) {
		t.Errorf("%+v", seen)
	}
}

func TestOK(t *testing.T) {
	for status, want := range map[int]bool{0: true, 200: true, 503: false} {
		if got := ok(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", "y")
			if status > 0 {
				w.WriteHeader(status)
			}
			_, _ = io.WriteString(w, "words")
		})); got != want {
			t.Errorf("status %d is ok: %t", status, got)
		}
	}
}

func TestEstablished(t *testing.T) {
	table := `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:2134 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0100007F:2134 0201C87F:D431 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 20 4 30 10 -1
   2: 0201C87F:D431 0100007F:2134 01 00000000:00000000 00:00000000 00000000     0        0 3 1 0 20 4 30 10 -1
   3: 0100007F:206C 0201C87F:D432 01 00000000:00000000 00:00000000 00000000     0        0 4 1 0 20 4 30 10 -1
`
	if got := established(table, []string{hexAddr("127.0.0.1", 8500)}); got != 1 {
		t.Errorf("%d connections, want the one that is established, from its server's end", got)
	}
}
