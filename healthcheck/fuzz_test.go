package healthcheck

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
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

// Whatever answers at the AMQP port, from any step of the handshake and of the check on, whether it hangs up or stays: the
// check ends in time, and its reason is one line of what can be printed, without the password.
func FuzzAMQPServer(f *testing.F) {
	for right, all := range [][][]byte{ // in place of what comes after so many right answers
		{nil, []byte("HTTP/1.1 400 Bad Request\r\n\r\n"), []byte("AMQP\x00\x00\x09\x01"), method(0, 10, 10, "\x00\x09\xff\xff\xff\xff"), method(0, 10, 10, "\x00\x09"+long("\x01aF"+long("\x01bA\x7f\xff\xff\xff"))+long("PLAIN")+long(""))},
		{closing(0, 403, "ACCESS_REFUSED - \x1b[2J\x00\xff\u202e"), method(0, 10, 30, "\x00\x01\x00\x00\x00\x01\x00\x00"), {1, 0, 0, 0xff, 0xff, 0xff, 0xff, 0}},
		{closing(0, 530, "line\r\nline"), {8, 0, 0, 0, 0, 0, 0, 0xCE}, answers[open]},
		{blocked("\x07"), append(blocked("low on memory"), answers[chOpen]...), {3, 0, 1, 0, 0, 0, 1, 'x', 0xCE}},
		{closing(1, 506, "\x1b]0;title\x07"), append(unblocked(), answers[txSelect]...), {2, 0, 1, 0, 0, 0, 0, 0xCE}},
		{answers[txRollback], closing(0, 320, "CONNECTION_FORCED - broker forced connection closure"), {1, 0, 1, 0, 0, 0, 0, 0xCE}},
	} {
		for i, said := range all {
			f.Add(uint8(right), said, i == 0)
		}
	}
	f.Fuzz(func(t *testing.T, right uint8, said []byte, stays bool) {
		if strings.Contains(string(said), secret) {
			return
		}
		s := serve(t, nil, func(p *peer, c call) bool {
			at := 0 // how many calls before this one had an answer
			for _, before := range p.calls {
				if answers[before] != nil {
					at++
				}
			}
			if until := int(right) % (rightAnswers + 1); answers[c] == nil || at < until {
				return false
			} else if at == until {
				_, _ = p.Write(said)
			}
			if !stays {
				_ = p.Close()
			}
			return true
		})
		c := checker(t, Options{URLs: []string{s.url()}, Timeout: 60 * time.Millisecond})
		for range 2 { // on a new connection, and on the one that may be left
			if r := lookWithin(t, c, heartbeat); strings.ContainsFunc(r.Reason, func(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) }) {
				t.Errorf("the reason cannot be printed: %q", r.Reason)
			}
		}
	})
}

// rightAnswers are those of a whole check on a new connection, but the last ones.
const rightAnswers = 5
