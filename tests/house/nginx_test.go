package house

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/template"
)

// A served is what consul-template gives a template of an instance of a service.
type served struct {
	Address string
	Port    int
}

// render fills the template of nginx's configuration as consul-template does, which is Go's with functions of its own.
func render(t *testing.T, nodes ...served) string {
	t.Helper()
	tmpl, err := template.New("nodes.ctmpl").Funcs(template.FuncMap{
		"service":    func(string) []served { return nodes },
		"regexMatch": func(re, s string) (bool, error) { return regexp.MatchString(re, s) },
	}).ParseFiles("../../compose/nginx/nodes.ctmpl")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := tmpl.Execute(&b, nodes); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// Whoever may register a service chooses its address and port: what is none never becomes configuration of nginx.
func TestNginxTemplate(t *testing.T) {
	var servers = regexp.MustCompile(`(?m)^    server (.*) max_fails=1 fail_timeout=5s;$`)
	nobody := render(t)
	for _, address := range []string{
		"", " ", "-", ".", "localhost", "rabbitmq1", "evil.example", "unix:/run/x.sock", "1.2.3", "1.2.3.4.", ".1.2.3.4", "1.2.3.4.5", "256.1.1.1", "1.2.3.400",
		"01.2.3.4", "1.2.3.4 backup", "1.2.3.4;", "1.2.3.4\n", "\n1.2.3.4", "1.2.3.4\n5.6.7.8", "1.2.3.4:80", "1.2.3.4/24", "$host", "${x}", "1.2.3.4#", "0x7f.0.0.1", "١.٢.٣.٤",
		`127.0.0.1:1; } access_log /x; server { listen 6666; proxy_pass z; } upstream z { server 127.0.0.1`,
		":", ":::", "1::2::3", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "12345::", "fe80::1%eth0", "[::1]", "::1]:1; }", "::1\n", "g::",
	} {
		if got := render(t, served{address, 5672}); got != nobody {
			t.Errorf("the address %q becomes\n%s", address, got)
		}
	}
	for _, port := range []int{0, -1, 65536, 1 << 40} {
		if got := servers.FindAllStringSubmatch(render(t, served{"10.0.0.1", port}), -1); len(got) != 1 || got[0][1] != "10.0.0.1:15672" {
			t.Errorf("the port %d becomes %q", port, got)
		}
	}
	var nodes []served
	var want, got []netip.AddrPort
	for _, address := range []string{
		"10.0.0.1", "0.0.0.0", "255.249.199.99", "172.20.0.131", "::1", "fd00::", "1:2:3:4:5:6:7:8", "1::8", "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8", "2001:DB8::a:b", "1:2:3::6:7:8",
	} {
		nodes = append(nodes, served{address, 5673})
		want = append(want, netip.AddrPortFrom(netip.MustParseAddr(address), 5673))
	}
	text := render(t, append([]served{{"x; }", 1}}, nodes...)...)
	for _, m := range servers.FindAllStringSubmatch(text, -1) {
		got = append(got, netip.MustParseAddrPort(m[1]))
	}
	for _, node := range want { // management, where it listens by default
		want = append(want, netip.AddrPortFrom(node.Addr(), 15672))
	}
	if !slices.Equal(got, want) {
		t.Errorf("nodes %v become\n%s", nodes, text)
	}
}
