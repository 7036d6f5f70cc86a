package fleet

import (
	"maps"
	"net/http"
	"slices"
	"testing"
	"time"

	"rmq-entrypoint/tests/expect"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func at(ms int) time.Time { return noon.Add(time.Duration(ms) * time.Millisecond) }

func TestKinds(t *testing.T) {
	for url, want := range map[string]Kind{
		"/v1/agent/check/update/fleet-0000-rabbit-n0000-ttl-boot":            Report,
		"/v1/agent/check/update/fleet-0000-management-rabbit-n0000-ttl-boot": Other,
		"/v1/agent/check/update/fleet-0000-prometheus-rabbit-n0000-ttl-boot": Other,
		"/v1/health/service/fleet-0000?consistent=":                          Leader,
		"/v1/health/service/fleet-0000?index=7&stale=&wait=300000ms":         News,
		"/v1/kv/rmq-entrypoint/fleet-0000/cluster?consistent=":               Leader,
		"/v1/agent/service/register":                                         Other,
	} {
		r, err := http.NewRequest(http.MethodGet, "http://consul"+url, nil)
		expect.Must(t, err)
		if got := kind(r); got != want {
			t.Errorf("%s is of kind %s, want %s", url, got, want)
		}
	}
}

// A second is any second: two bursts on both sides of a clock's tick are one.
func TestPeak(t *testing.T) {
	var all []Request
	for _, ms := range []int{0, 900, 950, 1010, 1899, 1900, 5000} {
		all = append(all, Request{Began: at(ms)})
	}
	if got := Peak(all); got != 4 {
		t.Errorf("peak %d, want the 4 from 0.9 s on, of which the one at 1.9 s is not", got)
	}
	slices.Reverse(all)
	if got := Peak(all); got != 4 {
		t.Errorf("peak %d in another order", got)
	}
	if got := Peak(nil); got != 0 {
		t.Errorf("peak %d of nothing", got)
	}
}

func TestRefused(t *testing.T) {
	all := []Request{{Status: 200}, {Status: 0}, {Status: 404}, {Status: 429}, {Status: 500}}
	if got := Refused(all); got != 2 {
		t.Errorf("%d refused, want 2: no answer is none, and an entry that is not there no refusal", got)
	}
	if got := Count([]Request{{Kind: News}, {Kind: News}, {Kind: Report}}); !maps.Equal(got, map[Kind]int{News: 2, Report: 1}) {
		t.Errorf("counted %v", got)
	}
}

func TestHeartbeats(t *testing.T) {
	looks := []Look{{1, at(0)}, {2, at(10)}, {1, at(5000)}, {1, at(10000)}}
	all := []Request{
		{Node: 1, Kind: Report, Began: at(1), Ended: at(4)},
		{Node: 1, Kind: Leader, Began: at(4), Ended: at(30)},
		{Node: 1, Kind: News, Began: at(31), Ended: at(4000)},     // waits
		{Node: 1, Kind: Report, Began: at(5000), Ended: at(5007)}, // at the very moment
		{Node: 2, Kind: Report, Began: at(5), Ended: at(9)},       // of a heartbeat before
		{Node: 2, Kind: Other, Began: at(11), Ended: at(12)},
		{Node: 1, Kind: Report, Began: at(10001)}, // on its way
	}
	want := []time.Duration{2 * time.Millisecond, 7 * time.Millisecond, 30 * time.Millisecond}
	if got := Heartbeats(all, looks); !slices.Equal(got, want) {
		t.Errorf("heartbeats took %v, want %v", got, want)
	}
}

func TestTold(t *testing.T) {
	all := []Request{
		{Node: 0, Kind: Report, Began: at(-5), Ended: at(100), Status: 200}, // before
		{Node: 0, Kind: Report, Began: at(5), Ended: at(200), Status: 200},
		{Node: 0, Kind: Report, Began: at(5000), Ended: at(5001), Status: 200},
		{Node: 1, Kind: Report, Began: at(6), Ended: at(50), Status: 500},
		{Node: 1, Kind: Other, Began: at(7), Ended: at(60), Status: 200},
	}
	if _, untold := Told(all, 2, noon); !slices.Equal(untold, []string{"rabbit@n0001"}) {
		t.Errorf("of node 1 nothing was taken, and not told are %v", untold)
	}
	all = append(all, Request{Node: 1, Kind: Report, Began: at(300), Ended: at(310), Status: 200})
	if got, untold := Told(all, 2, noon); len(untold) > 0 || !got.Equal(at(310)) {
		t.Errorf("told at %s, not %v, want 310 ms", got, untold)
	}
}

func TestBetween(t *testing.T) {
	tr := Traffic{requests: []Request{{Began: at(0), Ended: at(20), Status: 200}, {Began: at(10), Ended: at(19)}, {Began: at(20), Ended: at(30), Status: 500}}, looks: []Look{{At: at(0)}, {At: at(20)}}}
	requests, looks := tr.Between(at(0), at(20))
	if len(requests) != 2 || len(looks) != 1 {
		t.Errorf("%v, %v", requests, looks)
	}
	if got := tr.Answered(at(19), at(30)); got != 1 {
		t.Errorf("%d answers came, want the one at 20 ms", got)
	}
}
