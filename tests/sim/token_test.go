package sim_test

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"rmq-entrypoint/tests/sim"
)

// Tests of the test: who takes a no of Consul's for something else must be seen.

// A wire is a way to Consul on which answers become others.
type wire func(http.RoundTripper) http.RoundTripper

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// A program that takes what it may not read for what is not there gives up what it is about to found.
func TestSimulationFindsTheRefusalTakenForAbsence(t *testing.T) {
	absent := func(way http.RoundTripper) http.RoundTripper {
		return roundTrip(func(req *http.Request) (*http.Response, error) {
			resp, err := way.RoundTrip(req)
			if err != nil || req.Method != http.MethodGet {
				return resp, err
			}
			resp.Header.Del("X-Consul-Results-Filtered-By-ACLs")
			if resp.StatusCode == http.StatusForbidden {
				code, nothing := http.StatusOK, "[]"
				switch {
				case strings.HasPrefix(req.URL.Path, "/v1/kv/"):
					code, nothing = http.StatusNotFound, ""
				case strings.HasPrefix(req.URL.Path, "/v1/agent/"):
					nothing = "{}"
				}
				resp.StatusCode, resp.Status, resp.Body = code, strconv.Itoa(code), io.NopCloser(strings.NewReader(nothing))
			}
			return resp, nil
		})
	}
	finds(t, story{wire: absent}, func(v sim.Verdict) string {
		if strings.Contains(v.Broken, "while its claim to found a cluster stands") {
			return v.Broken
		}
		return ""
	})
}
