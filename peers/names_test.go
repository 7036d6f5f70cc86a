package peers

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// nameServer answers for as long as the test lasts: each name with the addresses or the
// rcode that it has in names, and what is not there as it does for "".
func nameServer(t *testing.T, names map[string]string) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		question := q.Question[0]
		says, known := names[question.Name]
		if !known {
			says = names[""]
		}
		answer := new(dns.Msg).SetReply(q)
		switch rcode, ok := dns.StringToRcode[says]; {
		case ok:
			answer.Rcode = rcode
		case says == "silent":
			return
		case says == "NODATA":
		case strings.HasPrefix(says, "alias"):
			rr, _ := dns.NewRR(question.Name + " 60 IN CNAME elsewhere.example.")
			answer.Answer, answer.Rcode = append(answer.Answer, rr), dns.RcodeNameError
		case question.Qtype == dns.TypeA:
			rr, err := dns.NewRR(question.Name + " 60 IN A " + says)
			if err != nil {
				t.Error(err)
			}
			answer.Answer = append(answer.Answer, rr)
		}
		_ = w.WriteMsg(answer)
	})}
	go func() { _ = server.ActivateAndServe() }()
	t.Cleanup(func() { _ = server.Shutdown() })
	return conn.LocalAddr().String()
}

// That a host is gone is known only from name servers that positively say so, and that
// positively answer something else.
func TestNobody(t *testing.T) {
	const nx = "NXDOMAIN"
	fine := map[string]string{"": nx, "b.": "10.0.0.2", "a.lan.": nx}
	for name, test := range map[string]struct {
		servers []map[string]string
		search  []string
		others  []string
		says    string
		unsure  bool
	}{
		"gone":                          {servers: []map[string]string{fine}, says: "knows no such host, and does know b"},
		"gone, with a search domain":    {servers: []map[string]string{fine}, search: []string{"lan"}, says: "does know b"},
		"there in a search domain":      {servers: []map[string]string{{"": nx, "b.": "10.0.0.2", "a.lan.": "10.0.0.1"}}, search: []string{"lan"}, says: "no a.lan.: it answers NOERROR, addresses: 1", unsure: true},
		"no answer in a search domain":  {servers: []map[string]string{{"": nx, "b.": "10.0.0.2", "a.lan.": "SERVFAIL"}}, search: []string{"lan"}, says: "SERVFAIL", unsure: true},
		"it fails":                      {servers: []map[string]string{{"": "SERVFAIL", "b.": "10.0.0.2"}}, says: "it answers SERVFAIL", unsure: true},
		"it refuses":                    {servers: []map[string]string{{"": "REFUSED", "b.": "10.0.0.2"}}, says: "it answers REFUSED", unsure: true},
		"it is silent":                  {servers: []map[string]string{{"": "silent"}}, says: "does not answer", unsure: true},
		"silent about this one alone":   {servers: []map[string]string{{"": nx, "a.": "silent", "b.": "10.0.0.2"}}, says: "does not answer", unsure: true},
		"a name without an address":     {servers: []map[string]string{{"": nx, "a.": "NODATA", "b.": "10.0.0.2"}}, says: "no a.: it answers NOERROR, addresses: 0", unsure: true},
		"an alias of what is gone":      {servers: []map[string]string{{"": nx, "a.": "alias", "b.": "10.0.0.2"}}, says: "as an alias", unsure: true},
		"it knows nothing":              {servers: []map[string]string{{"": nx}}, says: "found none of b, c either", unsure: true},
		"it fails for all else":         {servers: []map[string]string{{"": "SERVFAIL", "a.": nx}}, says: "found none of b, c either", unsure: true},
		"it has no address of another":  {servers: []map[string]string{{"": nx, "b.": "NODATA"}}, says: "found none of", unsure: true},
		"the name itself is no witness": {servers: []map[string]string{{"": nx}}, others: []string{"a", "A."}, says: "found none of", unsure: true},
		"two agree":                     {servers: []map[string]string{fine, {"": nx, "c.": "10.0.0.3"}}, says: "does know c"},
		"the other one is silent":       {servers: []map[string]string{fine, {"": "silent"}}, says: "does not answer", unsure: true},
		"the other one knows it":        {servers: []map[string]string{fine, {"": nx, "b.": "10.0.0.2", "a.": "10.0.0.1"}}, says: "it answers NOERROR", unsure: true},
		"the other one knows nothing":   {servers: []map[string]string{fine, {"": nx}}, says: "found none of", unsure: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conf := dns.ClientConfig{Search: test.search, Ndots: 1}
			n := Names{List: conf.NameList, Patience: time.Second}
			for _, names := range test.servers {
				n.Servers = append(n.Servers, nameServer(t, names))
			}
			if test.others == nil {
				test.others = []string{"b", "c"}
			}
			proof, err := n.Nobody(t.Context(), "a", test.others)
			if says := proof + fmt.Sprint(err); (err != nil) != test.unsure || !strings.Contains(says, test.says) {
				t.Errorf("%q, %v; want %q, unsure %t", proof, err, test.says, test.unsure)
			}
		})
	}
	nobody := Names{List: new(dns.ClientConfig).NameList, Patience: time.Second, Servers: []string{"127.0.0.1:1"}}
	if proof, err := nobody.Nobody(t.Context(), "a", []string{"b"}); err == nil || !strings.Contains(err.Error(), "127.0.0.1:1 does not answer") {
		t.Errorf("no server at all: %q, %v", proof, err)
	}
}
