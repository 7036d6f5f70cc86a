package fleet

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// A Tally is what a server has counted since its start.
type Tally struct {
	HTTP   float64 // requests to its HTTP API that it has answered, of nodes and of whoever else asks
	Leader float64 // calls that it answered as the leader, and no other server could have
}

// Tally reads what that server has counted.
func (s *Servers) Tally(ctx context.Context, i int) (t Tally, err error) {
	ctx, done := context.WithTimeout(ctx, 10*time.Second)
	defer done()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.all[i].addr()+"/v1/agent/metrics?format=prometheus", nil)
	if err != nil {
		return t, err
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	answer, err := client.Do(request)
	if err != nil {
		return t, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 64<<20))
	if err != nil {
		return t, err
	}
	if answer.StatusCode != http.StatusOK {
		return t, fmt.Errorf("%s: %s: %.200s", request.URL, answer.Status, text)
	}
	return tally(string(text))
}

var counter = regexp.MustCompile(`^consul_(api_http|rpc_server_call)_count\{(.*)\} ([0-9.e+]+)$`)

// tally reads Prometheus's text format. rpc_server_call counts what a server did itself, with the leader's word on whether
// it was the leader: what may be answered by any server has allow_stale, and what servers ask each other for themselves is
// of Status and Operator.
func tally(text string) (t Tally, err error) {
	found := map[string]bool{}
	for line := range strings.Lines(text) {
		m := counter.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		n, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			return t, fmt.Errorf("read %q: %w", line, err)
		}
		found[m[1]] = true
		is := func(label string) bool { return strings.Contains(m[2], label) }
		switch {
		case m[1] == "api_http":
			t.HTTP += n
		case is(`leader="true"`) && !is(`allow_stale="true"`) && !is(`rpc_type="internal"`) && !is(`method="Status.`) && !is(`method="Operator.`):
			t.Leader += n
		}
	}
	for _, name := range []string{"api_http", "rpc_server_call"} {
		if !found[name] {
			return t, fmt.Errorf("no consul_%s among what Consul counts: is it older than 1.12?", name)
		}
	}
	return t, nil
}
