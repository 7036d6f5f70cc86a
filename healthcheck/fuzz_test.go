package healthcheck

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// A password in the URL of a listener is in no error and not in what names it to people.
func FuzzURL(f *testing.F) {
	for _, rest := range []string{"host:5672/", "host:x", "[::1", "host/%zz", "", "a b", "host?auth_mechanism=x", "h?cacertfile=/nowhere", "\x7f", "host:99999/#", "h?heartbeat=x&connection_timeout=-1"} {
		for _, scheme := range []string{"amqp://user:", "amqps://u:", "http://user:", "amqp://:"} {
			f.Add(scheme, "p%40ss", rest)
			f.Add(scheme, "p%zz/?#[", rest)
		}
	}
	f.Fuzz(func(t *testing.T, before, inside, rest string) {
		const secret = "q7Zk9"
		_, userinfo, _ := strings.Cut(before, "://")
		if strings.Contains(before+rest, secret) || strings.ContainsAny(userinfo, "@/?#") || !strings.Contains(userinfo, ":") {
			return
		}
		raw := before + secret + inside + "@" + rest
		is, err := parse(raw)
		if err != nil {
			if strings.Contains(err.Error(), secret) {
				t.Fatalf("%q: %v", raw, err)
			}
			return
		}
		if !strings.ContainsAny(inside, "/?#") && strings.Contains(is.label+is.addr, secret) || len(is.sasl) == 0 || (is.tls != nil) != (is.uri.Scheme == "amqps") {
			t.Fatalf("%q is %+v", raw, is)
		}
	})
}

// Whatever listens on the management port: it says who the members are, each by a name, or that
// is unknown.
func FuzzNodes(f *testing.F) {
	for _, body := range []string{
		"", "[]", "null", "[null]", "{}", `[{"name":"rabbit@a","running":true,"partitions":[],"mem_alarm":false},{"name":"rabbit@b"}]`, `[{"name":""}]`, `[{"name":5}]`,
		`[{"name":"rabbit@a","partitions":[null]}]`, strings.Repeat("[", 12000), `[{"name":"rabbit@a"}] x`, "[" + strings.Repeat(" ", 1<<20) + "]",
	} {
		f.Add(uint16(200), []byte(body))
		f.Add(uint16(401), []byte(body))
	}
	var status int
	var answer []byte
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "http://203.0.113.1/")
		w.WriteHeader(status)
		_, _ = w.Write(answer)
	}))
	f.Cleanup(server.Close)
	f.Fuzz(func(t *testing.T, code uint16, body []byte) {
		status, answer = 200+int(code)%400, body
		nodes, err := Nodes(t.Context(), server.URL, "user", "q7Zk9")
		if err != nil {
			if !errors.Is(err, ErrUnknown) || nodes != nil || strings.Contains(err.Error(), "q7Zk9") {
				t.Fatalf("%+v, %v", nodes, err)
			}
			return
		}
		if status != 200 || len(nodes) == 0 || slices.ContainsFunc(nodes, func(n Node) bool { return n.Name == "" }) {
			t.Fatalf("status %d: %+v", status, nodes)
		}
	})
}
