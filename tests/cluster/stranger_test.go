package cluster

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

// answer is what comes back for some bytes, or nothing.
func answer(address string, bytes string) (string, error) {
	conn, err := net.DialTimeout("tcp", address, slow(3*time.Second))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(slow(3 * time.Second)))
	if _, err := io.WriteString(conn, bytes); err != nil {
		return "", nil
	}
	got := make([]byte, 512)
	n, _ := io.ReadAtLeast(conn, got, 1)
	return string(got[:n]), nil
}

// plainText fails if a port of a node or of Consul speaks it with the network, but for those that have nothing to hide.
func (s *secured) plainText() {
	const amqpHeader, get = "AMQP\x00\x00\x09\x01", "GET /v1/catalog/services HTTP/1.0\r\n\r\n"
	node, consul := s.address("rabbitmq1"), s.subnet+".10"
	for _, closed := range []string{node + ":5672", node + ":15672", node + ":15692", consul + ":8500", consul + ":8502", consul + ":8503"} {
		if got, err := answer(closed, get); err == nil {
			s.Errorf("%s takes connections, and answers %q", closed, got)
		}
	}
	balancer := fmt.Sprintf("127.0.0.1:%d", s.ports["HAPROXY"])
	for address, text := range map[string]string{
		node + ":5671": amqpHeader, node + ":15671": get, node + ":15691": get, consul + ":8501": get, balancer: amqpHeader,
		// The first word of Erlang between nodes: name, version, flags.
		node + ":25672": "\x00\x14N\x00\x00\x00\x0d\x07\xdf\x7f\xbd\x00\x00\x00\x01\x00\x05x@abc",
		// Consul's RPC: a stream of Raft, and one of requests.
		consul + ":8300": "\x00" + get,
	} {
		got, err := answer(address, text)
		if err != nil {
			s.Errorf("%s: %v", address, err)
		}
		// An alert of TLS, a refusal of plain text, or nothing.
		if got != "" && got[0] != 0x15 && !strings.Contains(got, "400 Bad Request") {
			s.Errorf("%s answers plain text with %q", address, got)
		}
	}
	for address, names := range map[string][]string{
		node + ":5671": {"rabbitmq1", "rabbitmq.service.consul", "mq.example"}, node + ":15671": {"rabbitmq1"}, node + ":15691": {"rabbitmq1"},
		consul + ":8501": {"consul"}, balancer: {"localhost", "mq.example"},
	} {
		for _, name := range names {
			conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: s.roots, ServerName: name})
			if err != nil {
				s.Errorf("%s as %s: %v", address, name, err)
				continue
			}
			_ = conn.Close()
		}
	}
	for _, user := range []string{"guest:guest", "admin:" + s.password} {
		client := http.Client{Timeout: slow(10 * time.Second), Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: s.roots}}}
		resp, err := client.Get(fmt.Sprintf("https://%s@127.0.0.1:%d/api/whoami", user, s.ports["HAPROXY_MANAGEMENT"]))
		if err != nil {
			s.Error(err)
			continue
		}
		_ = resp.Body.Close()
		if guest := strings.HasPrefix(user, "guest"); guest != (resp.StatusCode == http.StatusUnauthorized) {
			s.Errorf("%.5s… gets %s", user, resp.Status)
		}
	}
}

// noCertificate fails if the port between nodes takes somebody who shows no certificate of the CA; the cookie is right.
func (s *secured) noCertificate() {
	n := s.node("rabbitmq2")
	// What its own arguments begin with tells the command line of RabbitMQ 3.10 where Erlang's TLS is.
	const plain, trusting = "", "${RABBITMQ_CTL_ERL_ARGS%%-proto_dist*} -proto_dist inet_tls -ssl_dist_opt client_verify verify_none"
	for _, args := range []string{plain, trusting} {
		out, err := n.tryExec("sh", "-c", `RABBITMQ_CTL_ERL_ARGS="`+args+`" exec rabbitmqctl -t 10 -n rabbit@rabbitmq1 eval "node()."`)
		if err == nil {
			s.Errorf("with %q rabbitmqctl gets %s", args, out)
		}
	}
	if out, err := n.tryExec("rabbitmqctl", "-n", "rabbit@rabbitmq1", "eval", "node()."); err != nil || !strings.Contains(out, "rabbit@rabbitmq1") {
		s.Errorf("with a certificate rabbitmqctl gets %s, %v", out, err)
	}
}

// ownSecrets fails if a secret can be read by another user of a container, or is where its container does not need it.
func (s *secured) ownSecrets() {
	n := s.node("rabbitmq1")
	for _, file := range []string{"key.pem", "cookie", "token", "user.conf"} {
		if _, err := n.tryExec("cat", "/secrets/"+file); err != nil {
			s.Errorf("the server's user cannot read %s: %v", file, err)
		}
		if out, err := try("exec", "--user", "nobody", n.container, "cat", "/secrets/"+file); err == nil {
			s.Errorf("nobody reads %s, of %d characters", file, len(out))
		}
	}
	for _, service := range []string{"consul", "haproxy", "rabbitmq1"} {
		container := s.node(service).container
		if out := s.docker("exec", container, "ls", "/secrets"); strings.Contains(out, "ca-key") || strings.Contains(out, "secrets.json") {
			s.Errorf("%s has %s", service, out)
		}
		for _, line := range strings.Split(s.docker("exec", container, "cat", "/proc/1/status"), "\n") {
			if name, value, _ := strings.Cut(line, ":"); name == "Uid" && strings.HasPrefix(strings.TrimSpace(value), "0") ||
				strings.HasPrefix(name, "Cap") && strings.Trim(value, "\t 0") != "" || name == "NoNewPrivs" && strings.TrimSpace(value) != "1" {
				s.Errorf("%s runs with %s", service, line)
			}
		}
		env := s.docker("inspect", "-f", "{{.Config.Env}} {{.Config.Cmd}}", container)
		for _, secret := range s.secrets {
			if strings.Contains(env, secret) {
				s.Errorf("the environment of %s holds a secret", service)
			}
		}
	}
}

// An impostor answers as a node that is ready, and keeps all else that it is told.
type impostor struct {
	mutex sync.Mutex
	heard bytes.Buffer
}

func (i *impostor) Write(p []byte) (int, error) {
	i.mutex.Lock()
	defer i.mutex.Unlock()
	return i.heard.Write(p)
}

// serve takes connections at an address, until the test ends.
func (s *secured) serve(address string, handle func(net.Conn)) {
	s.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
				handle(conn)
			}()
		}
	}()
}

// stranger registers a server of its own with a token that may do that alone, and with none.
func (s *secured) stranger() {
	record, _, err := s.tokens.KV().Get("rmq-entrypoint/rabbitmq/cluster", nil)
	if err != nil || record == nil {
		s.Fatalf("the record: %v, %v", record, err)
	}
	if _, _, err := s.tokens.ACL().PolicyCreate(&api.ACLPolicy{Name: "stranger", Rules: `service "rabbitmq" { policy = "write" }`}, nil); err != nil {
		s.Fatal(err)
	}
	token, _, err := s.tokens.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{Name: "stranger"}}}, nil)
	if err != nil {
		s.Fatal(err)
	}
	evil, nobody := s.as(token.SecretID), s.as("")
	for who, client := range map[string]*api.Client{"a token to register services": evil, "nobody": nobody} {
		if _, _, err := client.KV().Get(record.Key, nil); err == nil {
			s.Errorf("%s reads the record", who)
		}
		if _, err := client.KV().Put(&api.KVPair{Key: record.Key, Value: []byte("{}")}, nil); err == nil {
			s.Errorf("%s writes the record", who)
		}
		if _, _, err := client.Session().Create(&api.SessionEntry{TTL: "10s"}, nil); err == nil {
			s.Errorf("%s opens a session", who)
		}
		if _, _, err := client.ACL().Bootstrap(); err == nil {
			s.Errorf("%s makes itself a token", who)
		}
	}

	// The host's address in the network is the stranger's. It has a certificate of a CA of its own.
	host, i := s.subnet+".1", &impostor{}
	own := filepath.Join(s.TempDir(), "secrets")
	if out, err := s.demo.with("RMQ_SECRETS="+own).run("scripts", "./tls"); err != nil {
		s.Fatalf("scripts/tls: %v: %s", err, out)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(own, "rabbitmq1", "cert.pem"), filepath.Join(own, "rabbitmq1", "key.pem"))
	if err != nil {
		s.Fatal(err)
	}
	s.serve(host+":15690", func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 1024))
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
	})
	found := map[string]chan bool{"5671": make(chan bool, 1), "15671": make(chan bool, 1)} // by the balancer, for AMQP and for management
	for port, is := range found {
		s.serve(host+":"+port, func(conn net.Conn) {
			select {
			case is <- true:
			default:
			}
			secure := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{pair}})
			_, _ = io.Copy(i, secure)
		})
	}
	meta := map[string]string{"node": "rabbit@stranger", "cluster_id": s.clusterID()}
	entry := &api.AgentServiceRegistration{ID: "stranger", Name: "rabbitmq", Address: host, Port: 5671, Meta: meta}
	if err := nobody.Agent().ServiceRegister(entry); err == nil {
		s.Error("nobody registers a server")
	}
	if err := evil.Agent().ServiceRegister(entry); err != nil {
		s.Fatal(err)
	}
	for port, is := range found { // each by a question of its own to DNS
		select {
		case <-is:
		case <-time.After(slow(30 * time.Second)):
			s.Errorf("the balancer never looks at port %s of the stranger: this shows nothing", port)
		}
	}
	// HAProxy calls a server up that it has just found, until its checks have failed: two, a second apart.
	s.eventually(20*time.Second, "the balancer leaves the stranger out", func() error { return s.up(3) })
	s.throughout(10*time.Second, "the balancer takes the nodes, and not the stranger", func() error { return s.up(3) })
	for range 20 {
		s.publish("not for a stranger")
	}
	s.consume(20)
	i.mutex.Lock()
	heard := i.heard.String()
	i.mutex.Unlock()
	if heard != "" {
		s.Errorf("the stranger heard %d bytes", len(heard))
	}
	now, _, err := s.tokens.KV().Get(record.Key, nil)
	if err != nil || now == nil || !bytes.Equal(now.Value, record.Value) {
		s.Errorf("the record was %s and is %v (%v)", record.Value, now, err)
	}
	if err := evil.Agent().ServiceDeregister("stranger"); err != nil {
		s.Error(err)
	}
	s.whole(1, 2, 3)
}
