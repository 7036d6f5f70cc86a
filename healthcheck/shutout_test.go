package healthcheck

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// lists says that RabbitMQ listens where s does.
func lists(s net.Listener, p Port) map[int]Port {
	return map[int]Port{s.Addr().(*net.TCPAddr).Port: p}
}

// move tells c of ports, and leaves it where it is.
func move(t *testing.T, c *Checker, ports map[int]Port) {
	t.Helper()
	if err := c.Move(c.urls, ports); err != nil {
		t.Fatal(err)
	}
}

// A listener that asks for a client's certificate says so: the node is alive, and the check
// names what to set.
func TestClientCertificateAsked(t *testing.T) {
	ca, server := certificates(t, "node1.example")
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		noLeaks(t)
		s := serve(t, &tls.Config{Certificates: []tls.Certificate{server}, ClientAuth: tls.RequireAnyClientCert, MaxVersion: version}, nil)
		url := "amqps://" + s.ln.Addr().String()
		c := checker(t, Options{URLs: []string{url}})
		for range 3 {
			want(t, look(t, c), Warning, "certificate", "RMQ_AMQP_URL=amqps://", "?certfile=", url)
		}
		cert, key := pemFiles(t, server)
		want(t, look(t, checker(t, Options{URLs: []string{url + "?certfile=" + cert + "&keyfile=" + key + "&cacertfile=" + ca}})), Passing)
	}
}

// What closes connections, answers otherwise than expected or keeps silent is alive only if
// RabbitMQ says that it listens there, and does not keep silent.
func TestShutOut(t *testing.T) {
	_, server := certificates(t, "node1.example")
	other, _ := certificates(t, "node2.example")
	closes := func(p *peer, _ call) bool { p.Close(); return true }
	says := func(code uint16, text string) func(*peer, call) bool {
		return func(p *peer, c call) bool {
			if c == open {
				p.Write(closing(0, code, text))
			}
			return c == open
		}
	}
	for _, tt := range []struct {
		name   string
		conf   *tls.Config
		scheme string
		query  string
		hook   func(*peer, call) bool
		port   Port
		word   string // of the warning; "": critical
	}{
		{"closes", nil, "amqp", "", closes, Port{}, "proxy_protocol"},
		{"an error of the server", nil, "amqp", "", says(541, "INTERNAL_ERROR"), Port{}, "541 INTERNAL_ERROR"},
		{"stops", nil, "amqp", "", says(320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'"), Port{}, ""},
		{"slow to log in", nil, "amqp", "", func(_ *peer, c call) bool { return c == startOk }, Port{}, "rabbitmq_auth_backend"},
		{"silent", nil, "amqp", "", func(*peer, call) bool { return true }, Port{}, ""},
		{"TLS on the plain port", nil, "amqps", "", nil, Port{}, "amqp://"},
		{"plain on the TLS port", nil, "amqp", "", closes, Port{TLS: true}, "amqps://"},
		{"another certificate", &tls.Config{Certificates: []tls.Certificate{server}}, "amqps", "?cacertfile=" + other, nil, Port{TLS: true}, "cacertfile"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			noLeaks(t)
			s := serve(t, tt.conf, tt.hook)
			c := checker(t, Options{URLs: []string{tt.scheme + "://" + secretUser + "@" + s.ln.Addr().String() + tt.query}, Timeout: 2 * time.Second})
			want(t, look(t, c), Critical)
			move(t, c, map[int]Port{1: {}})
			want(t, look(t, c), Critical)
			move(t, c, lists(s.ln, tt.port))
			r := look(t, c)
			if tt.word == "" {
				want(t, r, Critical)
			} else {
				want(t, r, Warning, "alive", "RMQ_AMQP_URL", tt.word)
			}
			s.stop()
			want(t, look(t, c), Critical, "refused")
		})
	}
}

// A URL that leads elsewhere, to another port or a balancer, says nothing of this node: it is alive
// as long as something takes connections where RabbitMQ says that it listens.
func TestAstray(t *testing.T) {
	noLeaks(t)
	nowhere, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nowhere.Close()
	s := serve(t, nil, nil)
	c := checker(t, Options{URLs: []string{"amqp://" + nowhere.Addr().String()}})
	want(t, look(t, c), Critical)
	move(t, c, lists(s.ln, Port{}))
	want(t, look(t, c), Warning, "alive", "RMQ_AMQP_URL", "at "+s.ln.Addr().String(), "refused")
	move(t, c, map[int]Port{s.ln.Addr().(*net.TCPAddr).Port: {Host: "127.0.0.9"}})
	want(t, look(t, c), Critical)
	move(t, c, lists(s.ln, Port{}))

	balancer := serve(t, nil, func(p *peer, _ call) bool { p.Close(); return true })
	if err := c.Move([]string{balancer.url()}, c.ports); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time while it pauses
		want(t, look(t, c), Warning, "at "+s.ln.Addr().String())
	}
	s.stop()
	want(t, look(t, c), Critical)
}

// Certificates that others replace are those of the next connection.
func TestCertificateReplaced(t *testing.T) {
	noLeaks(t)
	_, server := certificates(t, "node1.example")
	cert, key := pemFiles(t, server)
	ca, fresh := certificates(t, "node1.example")
	pool := x509.NewCertPool()
	if pem, err := os.ReadFile(ca); err != nil || !pool.AppendCertsFromPEM(pem) {
		t.Fatal(err)
	}
	s := serve(t, &tls.Config{Certificates: []tls.Certificate{server}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}, nil)
	c := checker(t, Options{URLs: []string{"amqps://" + s.ln.Addr().String() + "?certfile=" + cert + "&keyfile=" + key}})
	want(t, look(t, c), Warning, "certificate")
	if err := os.WriteFile(cert, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Ready()
	want(t, look(t, c), Warning, "certificate")
	newCert, newKey := pemFiles(t, fresh)
	for from, to := range map[string]string{newCert: cert, newKey: key} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	c.Ready()
	want(t, look(t, c), Passing)
}

// Where a check has got in, one that does not is what clients see.
func TestShutOutLater(t *testing.T) {
	noLeaks(t)
	s := serve(t, nil, nil)
	c := checker(t, Options{URLs: []string{s.url()}})
	move(t, c, lists(s.ln, Port{}))
	want(t, look(t, c), Passing)
	addr := s.ln.Addr().String()
	s.stop()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	want(t, look(t, c), Critical)
	c.Ready()
	want(t, look(t, c), Warning, "proxy_protocol")
}

// An unwrapper takes connections by the PROXY protocol.
type unwrapper struct {
	net.Listener
	heads chan string
}

type unwrapped struct {
	net.Conn
	r *bufio.Reader
}

func (u unwrapped) Read(p []byte) (int, error) { return u.r.Read(p) }

func (u unwrapper) Accept() (net.Conn, error) {
	conn, err := u.Listener.Accept()
	if err != nil {
		return nil, err
	}
	r := bufio.NewReader(conn)
	line, err := r.ReadString('\n')
	if err != nil {
		return nil, io.EOF
	}
	u.heads <- line
	return unwrapped{conn, r}, nil
}

// Where RabbitMQ says that it takes connections by the PROXY protocol, the check speaks it.
func TestProxyProtocol(t *testing.T) {
	noLeaks(t)
	heads := make(chan string, 1)
	s := serveOn(t, func(ln net.Listener) net.Listener { return unwrapper{ln, heads} }, nil)
	c := checker(t, Options{URLs: []string{s.url()}})
	move(t, c, lists(s.ln, Port{Proxy: true}))
	want(t, look(t, c), Passing)
	head := <-heads
	_, port, _ := net.SplitHostPort(s.ln.Addr().String())
	if f := strings.Fields(head); len(f) != 6 || f[0] != "PROXY" || f[1] != "TCP4" || f[2] != "127.0.0.1" || f[3] != "127.0.0.1" || f[5] != port || !strings.HasSuffix(head, "\r\n") {
		t.Errorf("%q", head)
	}
}
