package fleet

import (
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Kind of request is what a node wants of Consul by it.
type Kind string

const (
	Report Kind = "report" // the TTL check of the node's own entry is told how it is
	News   Kind = "news"   // a blocking query, which any server answers
	Leader Kind = "leader" // a consistent read, which the leader answers
	Other  Kind = "other"
)

// A Request is one that a node sent to Consul.
type Request struct {
	Node         int
	Kind         Kind
	Began, Ended time.Time // Ended is zero while there is no answer
	Status       int       // 0: no answer came
}

// Took reports whether Consul did what was asked.
func (r Request) Took() bool { return r.Status >= 200 && r.Status < 300 }

// A Look is a node that begins to look at itself: with that a heartbeat begins.
type Look struct {
	Node int
	At   time.Time
}

// Traffic is all that nodes asked Consul.
type Traffic struct {
	mu       sync.Mutex
	requests []Request
	looks    []Look
}

// way is that of a node to Consul, from an address of its own.
func (t *Traffic) way(number int, transport *http.Transport) http.RoundTripper {
	dial := net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(source(number))}} // as cleanhttp has it
	transport.DialContext = dial.DialContext
	return counted{t, number, transport}
}

type counted struct {
	traffic *Traffic
	node    int
	way     http.RoundTripper
}

func (c counted) RoundTrip(r *http.Request) (*http.Response, error) {
	at := c.traffic.begin(Request{Node: c.node, Kind: kind(r), Began: time.Now()})
	answer, err := c.way.RoundTrip(r)
	status := 0
	if err == nil {
		status = answer.StatusCode
	}
	c.traffic.end(at, status)
	return answer, err
}

func kind(r *http.Request) Kind {
	query := r.URL.Query()
	switch {
	case query.Has("index"):
		return News
	case query.Has("consistent"):
		return Leader
	case strings.HasPrefix(r.URL.Path, "/v1/agent/check/update/") && !strings.Contains(r.URL.Path, "-management-") && !strings.Contains(r.URL.Path, "-prometheus-"):
		return Report
	}
	return Other
}

func (t *Traffic) begin(r Request) (at int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.requests = append(t.requests, r)
	return len(t.requests) - 1
}

func (t *Traffic) end(at, status int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.requests[at].Ended, t.requests[at].Status = time.Now(), status
}

func (t *Traffic) look(number int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.looks = append(t.looks, Look{number, time.Now()})
}

// Between returns what began from one moment until another.
func (t *Traffic) Between(from, until time.Time) (requests []Request, looks []Look) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.requests {
		if !r.Began.Before(from) && r.Began.Before(until) {
			requests = append(requests, r)
		}
	}
	for _, l := range t.looks {
		if !l.At.Before(from) && l.At.Before(until) {
			looks = append(looks, l)
		}
	}
	return requests, looks
}

// Answered counts the requests whose answer came from one moment until another.
func (t *Traffic) Answered(from, until time.Time) (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.requests {
		if r.Status > 0 && !r.Ended.Before(from) && r.Ended.Before(until) {
			n++
		}
	}
	return n
}

// Count says how many requests are of each kind.
func Count(requests []Request) map[Kind]int {
	count := map[Kind]int{}
	for _, r := range requests {
		count[r.Kind]++
	}
	return count
}

// Peak is the most requests that began within a second: any second, not that of a clock.
func Peak(requests []Request) int {
	var began []time.Time
	for _, r := range requests {
		began = append(began, r.Began)
	}
	slices.SortFunc(began, time.Time.Compare)
	most, first := 0, 0
	for i, at := range began {
		for at.Sub(began[first]) >= time.Second {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

// Refused counts the requests that Consul answered, and did not take.
func Refused(requests []Request) (n int) {
	for _, r := range requests {
		if r.Status >= 400 && r.Status != http.StatusNotFound {
			n++
		}
	}
	return n
}

// Heartbeats returns how long each heartbeat took in which Consul was told or asked something: from the look at the node
// until the last answer. What is still on its way is not counted.
func Heartbeats(requests []Request, looks []Look) (took []time.Duration) {
	began := map[int][]time.Time{}
	for _, l := range looks {
		began[l.Node] = append(began[l.Node], l.At)
	}
	last := map[int]map[int]time.Time{} // by node and look
	for _, r := range requests {
		if r.Kind == News || r.Ended.IsZero() {
			continue
		}
		i, same := slices.BinarySearchFunc(began[r.Node], r.Began, time.Time.Compare)
		if !same {
			i--
		}
		if i < 0 { // of a heartbeat that began before
			continue
		}
		if last[r.Node] == nil {
			last[r.Node] = map[int]time.Time{}
		}
		if r.Ended.After(last[r.Node][i]) {
			last[r.Node][i] = r.Ended
		}
	}
	for node, ends := range last {
		for i, end := range ends {
			took = append(took, end.Sub(began[node][i]))
		}
	}
	slices.Sort(took)
	return took
}

// Told returns when the last of n nodes had its report taken that began after that moment, and the nodes of which none was.
func Told(requests []Request, n int, after time.Time) (at time.Time, untold []string) {
	first := map[int]time.Time{}
	for _, r := range requests {
		if r.Kind != Report || !r.Took() || r.Began.Before(after) {
			continue
		}
		if was, told := first[r.Node]; !told || r.Ended.Before(was) {
			first[r.Node] = r.Ended
		}
	}
	for number := range n {
		one, told := first[number]
		if !told {
			untold = append(untold, name(number))
		} else if one.After(at) {
			at = one
		}
	}
	return at, untold
}
