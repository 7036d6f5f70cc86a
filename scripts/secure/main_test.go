package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"

	"github.com/hashicorp/consul/api"
)

// files returns what is in dir, by path.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	expect.Must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		all[strings.TrimPrefix(path, dir+"/")] = string(b)
		return err
	}))
	return all
}

func do(t *testing.T, args ...string) {
	t.Helper()
	if err := run(t.Context(), args); err != nil {
		t.Fatalf("%v: %v", args, err)
	}
}

// What others may not read they cannot: the directory is its owner's, and what no container gets is outside of theirs.
func TestFilesAreTheirOwners(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "secrets")
	do(t, "tls", dir, "rabbitmq1", "rabbitmq2")
	do(t, "make", dir, "rabbitmq1", "rabbitmq2")
	info, err := os.Stat(dir)
	expect.Must(t, err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("the directory is %s", info.Mode())
	}
	var store store
	all := files(t, dir)
	expect.Must(t, json.Unmarshal([]byte(all["secrets.json"]), &store))
	for name, text := range all {
		info, err := os.Stat(filepath.Join(dir, name))
		expect.Must(t, err)
		public := strings.HasSuffix(name, "ca.pem") || strings.HasSuffix(name, "cert.pem")
		if mode := info.Mode().Perm(); !public && mode != 0o600 {
			t.Errorf("%s is %s", name, mode)
		}
		// Of each secret, who has it.
		for secret, owners := range map[string]string{
			store.Cookie: "rabbitmq1/cookie rabbitmq2/cookie", store.Management: "consul/agent.json", store.Gossip: "consul/agent.json",
			store.Agent: "consul/agent.json", store.DNS: "consul/agent.json", store.Password: "password client/brokers rabbitmq1/user.conf rabbitmq2/user.conf",
			store.Nodes["rabbitmq1"]: "rabbitmq1/token", store.Nodes["rabbitmq2"]: "rabbitmq2/token",
		} {
			if len(secret) < 32 {
				t.Errorf("%s has a secret of %d characters", name, len(secret))
			}
			if name != "secrets.json" && strings.Contains(text, secret) && !strings.Contains(" "+owners+" ", " "+name+" ") {
				t.Errorf("%s holds what is for %s", name, owners)
			}
		}
	}
	for _, name := range []string{"rabbitmq1", "rabbitmq2", "consul", "haproxy"} {
		if entries, _ := filepath.Glob(filepath.Join(dir, name, "ca-key*")); len(entries) > 0 {
			t.Errorf("the container of %s has the CA's key", name)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "haproxy", "key.pem")); err == nil {
		t.Error("the balancer has a key")
	}
	for _, mode := range []fs.FileMode{0o755, 0o710, 0o701} {
		expect.Must(t, os.Chmod(dir, mode))
		for _, command := range []string{"tls", "make"} {
			if err := run(t.Context(), []string{command, dir, "rabbitmq1"}); err == nil || !strings.Contains(err.Error(), "chmod 700") {
				t.Errorf("%s with a directory of mode %o: %v", command, mode, err)
			}
		}
	}
}

// Again is the same: nothing is made anew that is there, and what is missing is made to fit.
func TestAgainIsTheSame(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "secrets")
	both := func(nodes ...string) map[string]string {
		t.Helper()
		do(t, append([]string{"tls", dir}, nodes...)...)
		do(t, append([]string{"make", dir}, nodes...)...)
		return files(t, dir)
	}
	was := both("rabbitmq1")
	is := both("rabbitmq1")
	for name := range is {
		if is[name] != was[name] {
			t.Errorf("%s is another one", name)
		}
	}
	more := both("rabbitmq1", "rabbitmq2")
	for name := range was {
		if more[name] != was[name] && name != "secrets.json" {
			t.Errorf("with a second node %s is another one", name)
		}
	}
	if more["rabbitmq2/cookie"] != was["rabbitmq1/cookie"] || more["rabbitmq2/token"] == was["rabbitmq1/token"] {
		t.Error("a second node has another cookie, or the same token")
	}
	expect.Must(t, os.Remove(filepath.Join(dir, "rabbitmq1", "cookie")))
	expect.Must(t, os.Remove(filepath.Join(dir, "rabbitmq1", "cert.pem")))
	last := both("rabbitmq1")
	if last["rabbitmq1/cookie"] != was["rabbitmq1/cookie"] || last["rabbitmq1/cert.pem"] == was["rabbitmq1/cert.pem"] || last["ca.pem"] != was["ca.pem"] {
		t.Error("what was lost is not made again as it was")
	}
	for _, half := range []string{"ca.pem", "ca-key.pem"} {
		expect.Must(t, os.Rename(filepath.Join(dir, half), filepath.Join(dir, "away")))
		if err := run(t.Context(), []string{"tls", dir, "rabbitmq1"}); err == nil {
			t.Errorf("without %s a second CA was made", half)
		}
		expect.Must(t, os.Rename(filepath.Join(dir, "away"), filepath.Join(dir, half)))
	}
	expect.Must(t, os.WriteFile(storeFile(dir), []byte(`{"cookie": "half a sec`), 0o600))
	if err := run(t.Context(), []string{"make", dir, "rabbitmq1"}); err == nil || strings.Contains(err.Error(), "half a sec") {
		t.Errorf("a damaged store: %v", err)
	}
}

// A certificate is taken by who trusts the CA, under the names that it is for, as server and as client; by nobody else.
func TestCertificates(t *testing.T) {
	dir, other := filepath.Join(t.TempDir(), "secrets"), filepath.Join(t.TempDir(), "secrets")
	do(t, "tls", dir, "rabbitmq1", "rabbitmq2", "--", "mq.example", "192.0.2.7")
	do(t, "tls", other, "rabbitmq1")
	pair := func(dir, service string) tls.Certificate {
		t.Helper()
		c, err := tls.LoadX509KeyPair(filepath.Join(dir, service, "cert.pem"), filepath.Join(dir, service, "key.pem"))
		expect.Must(t, err)
		return c
	}
	pool := x509.NewCertPool()
	ca, err := os.ReadFile(filepath.Join(dir, "haproxy", "ca.pem"))
	expect.Must(t, err)
	pool.AppendCertsFromPEM(ca)
	shake := func(server, client tls.Certificate, name string) error {
		l := expect.Listen0(t)
		served := make(chan error, 1)
		go func() {
			conn, err := l.Accept()
			if err == nil {
				defer conn.Close()
				err = tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{server}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}).HandshakeContext(t.Context())
			}
			served <- err
		}()
		conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{RootCAs: pool, ServerName: name, Certificates: []tls.Certificate{client}})
		if err == nil {
			defer conn.Close()
		}
		if theirs := <-served; err == nil {
			err = theirs
		}
		return err
	}
	one, two, consul, stranger := pair(dir, "rabbitmq1"), pair(dir, "rabbitmq2"), pair(dir, "consul"), pair(other, "rabbitmq1")
	for _, name := range []string{"rabbitmq1", "haproxy", "rabbitmq.service.consul", "localhost", "127.0.0.1", "::1", "mq.example", "192.0.2.7"} {
		if err := shake(one, two, name); err != nil {
			t.Errorf("rabbitmq1 as %s: %v", name, err)
		}
	}
	for _, name := range []string{"consul", "localhost", "server.dc1.consul"} {
		if err := shake(consul, one, name); err != nil {
			t.Errorf("Consul as %s: %v", name, err)
		}
	}
	for _, bad := range []struct {
		what           string
		server, client tls.Certificate
		name           string
	}{
		{"rabbitmq1 as rabbitmq2", one, two, "rabbitmq2"}, {"Consul as a node", consul, one, "rabbitmq.service.consul"},
		{"a node as Consul", one, two, "server.dc1.consul"}, {"a server of another CA", stranger, one, "rabbitmq1"},
		{"a client of another CA", one, stranger, "rabbitmq1"}, {"a client without any", one, tls.Certificate{}, "rabbitmq1"},
	} {
		if err := shake(bad.server, bad.client, bad.name); err == nil {
			t.Errorf("%s: the handshake succeeded", bad.what)
		}
	}
}

// What ends soon, and what lacks a name, is made again; the CA is not.
func TestRenewal(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "secrets")
	expect.Must(t, open(dir))
	at := func(days int, names ...string) map[string]string {
		t.Helper()
		expect.Must(t, makeTLS(dir, []string{"rabbitmq1"}, names, time.Now().Add(time.Duration(days)*24*time.Hour)))
		return files(t, dir)
	}
	first, later := at(0), at(300)
	if first["rabbitmq1/cert.pem"] != later["rabbitmq1/cert.pem"] {
		t.Error("a certificate with three months left was replaced")
	}
	renewed := at(350)
	for _, name := range []string{"rabbitmq1/cert.pem", "rabbitmq1/key.pem", "consul/cert.pem"} {
		if renewed[name] == first[name] {
			t.Errorf("%s was not renewed", name)
		}
	}
	named := at(350, "mq.example")
	if named["rabbitmq1/cert.pem"] == renewed["rabbitmq1/cert.pem"] || named["consul/cert.pem"] != renewed["consul/cert.pem"] || named["ca.pem"] != first["ca.pem"] {
		t.Error("a further name changes the certificates of the nodes, and nothing else")
	}
	if err := makeTLS(dir, []string{"rabbitmq1"}, nil, time.Now().Add(caLife-certLife+time.Hour)); err == nil || !strings.Contains(err.Error(), "the CA") {
		t.Errorf("a CA that ends before its certificates would: %v", err)
	}
}

func TestNames(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "secrets")
	for _, name := range []string{"", "../x", "a/b", "a b", "-x", "x-", "a\nb", "$x", strings.Repeat("a", 300)} {
		for _, command := range []string{"tls", "make"} {
			if err := run(t.Context(), []string{command, dir, name}); err == nil {
				t.Errorf("%s takes %q", command, name)
			}
		}
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a refusal left a directory")
	}
}

// A Consul that got the policies: its nodes may do what nodes do, DNS sees the services, and a token to register the
// service, or none, opens nothing else.
func TestACL(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "secrets")
	do(t, "make", dir, "rabbitmq1", "rabbitmq2")
	s, err := readStore(dir)
	expect.Must(t, err)
	conf, err := agentConf(s)
	expect.Must(t, err)
	c := consultest.Start(t, consultest.HCL(conf), consultest.Cold())
	do(t, "acl", dir, c.Addr)

	as := func(token string) *api.Client {
		t.Helper()
		client, err := api.NewClient(&api.Config{Address: c.Addr, Token: token})
		expect.Must(t, err)
		return client
	}
	root := as(s.Management)
	lost := unsettle(t, root.ACL(), s)
	do(t, "acl", dir, c.Addr)
	list, _, err := root.ACL().TokenList(nil)
	expect.Must(t, err)
	var named []string
	for _, token := range list {
		if strings.HasPrefix(token.Description, "rmq-entrypoint ") {
			named = append(named, token.Description)
		}
	}
	for _, token := range list {
		if len(token.Policies) != 1 || len(token.Roles)+len(token.ServiceIdentities) > 0 {
			if token.Description != "Anonymous Token" {
				t.Errorf("%s has the policies %v, the roles %v and the services %v", token.Description, token.Policies, token.Roles, token.ServiceIdentities)
			}
		}
	}
	for secret, accessor := range lost { // the node's token is the same one
		if !slices.ContainsFunc(list, func(e *api.ACLTokenListEntry) bool { return e.SecretID == secret && e.AccessorID == accessor }) {
			t.Error("a token was made anew")
		}
	}
	if len(named) != 4 || len(list) != 6 { // and Consul's own: the first one and the anonymous one
		t.Errorf("the tokens are %q of %d", named, len(list))
	}

	_, _, err = root.ACL().PolicyCreate(&api.ACLPolicy{Name: "stranger", Rules: `service "rabbitmq" { policy = "write" }`}, nil)
	expect.Must(t, err)
	stranger, _, err := root.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{Name: "stranger"}}}, nil)
	expect.Must(t, err)

	const key = "rmq-entrypoint/rabbitmq/cluster"
	put := func(key string) func(*api.Client) error {
		return func(client *api.Client) error {
			_, err := client.KV().Put(&api.KVPair{Key: key, Value: []byte("x")}, nil)
			return err
		}
	}
	may := map[string]func(*api.Client) error{
		"write the record":  put(key),
		"write another key": put("other"),
		"write another's":   put("rmq-entrypoint/other/cluster"),
		"read the record":   func(client *api.Client) error { _, _, err := client.KV().Get(key, nil); return err },
		"open a session": func(client *api.Client) error {
			_, _, err := client.Session().Create(&api.SessionEntry{TTL: "10s"}, nil)
			return err
		},
		"register the node": func(client *api.Client) error {
			return client.Agent().ServiceRegister(&api.AgentServiceRegistration{Name: "rabbitmq"})
		},
		"register another": func(client *api.Client) error {
			return client.Agent().ServiceRegister(&api.AgentServiceRegistration{Name: "other"})
		},
		"make tokens": func(client *api.Client) error {
			_, _, err := client.ACL().TokenCreate(&api.ACLToken{}, nil)
			return err
		},
		"bootstrap":      func(client *api.Client) error { _, _, err := client.ACL().Bootstrap(); return err },
		"read the agent": func(client *api.Client) error { _, err := client.Agent().Self(); return err },
		"run a command": func(client *api.Client) error {
			_, _, err := client.Event().Fire(&api.UserEvent{Name: "x"}, nil)
			return err
		},
		"leave": func(client *api.Client) error { return client.Agent().ForceLeave("nobody") },
		"take a snapshot": func(client *api.Client) error {
			r, _, err := client.Snapshot().Save(nil)
			if err == nil {
				err = r.Close()
			}
			return err
		},
		"read the services": func(client *api.Client) error { return seen(client) },
	}
	expect.Must(t, may["register the node"](as(s.Nodes["rabbitmq2"]))) // for who sees it
	for who, token := range map[string]string{"node": s.Nodes["rabbitmq1"], "DNS": s.DNS, "a stranger with service:write": stranger.SecretID, "nobody": "", "a guess": uuid()} {
		able := map[string]bool{}
		switch who {
		case "node":
			able = map[string]bool{"write the record": true, "read the record": true, "open a session": true, "register the node": true, "read the services": true}
		case "DNS":
			able = map[string]bool{"read the services": true}
		case "a stranger with service:write":
			able = map[string]bool{"register the node": true}
		}
		for what, try := range may {
			if err := try(as(token)); (err == nil) != able[what] {
				t.Errorf("%s, %s: %v", who, what, err)
			}
		}
	}

	// Secrets of another directory are no way in, and say so.
	other := filepath.Join(t.TempDir(), "secrets")
	do(t, "make", other, "rabbitmq1")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if err := run(ctx, []string{"acl", other, c.Addr}); err == nil || !strings.Contains(err.Error(), "other secrets") {
		t.Errorf("with other secrets: %v", err)
	}
}

// unsettle takes the rights of a token away, and gives others more, and returns their accessors by their secrets.
func unsettle(t *testing.T, acl *api.ACL, s store) map[string]string {
	t.Helper()
	role, _, err := acl.RoleCreate(&api.ACLRole{Name: "more", Policies: []*api.ACLTokenPolicyLink{{Name: "rmq-entrypoint-agent"}}}, nil)
	expect.Must(t, err)
	accessors := map[string]string{}
	for secret, change := range map[string]func(*api.ACLToken){
		s.Nodes["rabbitmq1"]: func(token *api.ACLToken) { token.Policies = nil },
		s.Nodes["rabbitmq2"]: func(token *api.ACLToken) { token.Roles = []*api.ACLTokenRoleLink{{ID: role.ID}} },
		s.DNS: func(token *api.ACLToken) {
			token.Policies = append(token.Policies, &api.ACLTokenPolicyLink{Name: "global-management"})
		},
		s.Agent: func(token *api.ACLToken) {
			token.ServiceIdentities = []*api.ACLServiceIdentity{{ServiceName: "other"}}
		},
	} {
		list, _, err := acl.TokenList(nil)
		expect.Must(t, err)
		i := slices.IndexFunc(list, func(e *api.ACLTokenListEntry) bool { return e.SecretID == secret })
		token, _, err := acl.TokenRead(list[i].AccessorID, nil)
		expect.Must(t, err)
		change(token)
		_, _, err = acl.TokenUpdate(token, nil)
		expect.Must(t, err)
		accessors[secret] = token.AccessorID
	}
	return accessors
}

// seen fails unless the node that is registered is seen, with its address.
func seen(client *api.Client) error {
	entries, _, err := client.Health().Service("rabbitmq", "", false, nil)
	if err == nil && len(entries) == 0 {
		err = fmt.Errorf("none is seen")
	}
	return err
}
