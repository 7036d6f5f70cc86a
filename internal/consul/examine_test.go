package consul

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

func asked(addrs ...string) config.Config {
	return config.Config{Consul: addrs, KeyPrefix: "rmq-entrypoint", Service: "rabbitmq", Node: "rabbit@a"}
}

// Each right is missed by its rule, with real Consul, and nothing else is.
func TestExamineRights(t *testing.T) {
	c := consultest.Start(t, consultest.ACL())
	agent, err := c.Client.Agent().NodeName()
	expect.Must(t, err)
	rules := map[string]string{
		`key:read on "rmq-entrypoint/rabbitmq/"`:  "",
		`key:write on "rmq-entrypoint/rabbitmq/"`: `key_prefix "rmq-entrypoint/rabbitmq/" { policy = "write" }`,
		`service:read on "rabbitmq"`:              "",
		`service:write on "rabbitmq"`:             `service "rabbitmq" { policy = "write" }`,
		`service:write on "rabbitmq-management"`:  `service "rabbitmq-management" { policy = "write" }`,
		`service:write on "rabbitmq-prometheus"`:  `service "rabbitmq-prometheus" { policy = "write" }`,
		fmt.Sprintf("node:read on %q", agent):     `node_prefix "" { policy = "read" }`,
		fmt.Sprintf("session:write on %q", agent): `session_prefix "" { policy = "write" }`,
	}
	without := func(left string) string {
		var all []string
		for right, rule := range rules {
			if right != left {
				all = append(all, rule)
			}
		}
		slices.Sort(all)
		return strings.Join(all, "\n")
	}
	lacks := map[string][]string{"": nil}
	for right, rule := range rules {
		if rule != "" {
			lacks[right] = []string{right}
		}
	}
	lacks[`key:write on "rmq-entrypoint/rabbitmq/"`] = []string{`key:read on "rmq-entrypoint/rabbitmq/"`, `key:write on "rmq-entrypoint/rabbitmq/"`}
	lacks[`service:write on "rabbitmq"`] = []string{`service:read on "rabbitmq"`, `service:write on "rabbitmq"`}
	i := 0
	for left, want := range lacks {
		i++
		policy, _, err := c.Client.ACL().PolicyCreate(&api.ACLPolicy{Name: fmt.Sprintf("p%d", i), Rules: without(left)}, nil)
		expect.Must(t, err)
		token, _, err := c.Client.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{ID: policy.ID}}}, nil)
		expect.Must(t, err)
		t.Setenv("CONSUL_HTTP_TOKEN", token.SecretID)
		e := Examine(t.Context(), asked(c.Addr))[0]
		slices.Sort(e.Lacks)
		slices.Sort(want)
		if node := strings.HasPrefix(left, "node:read"); node { // then it is not known how the agent is called
			if e.Err != nil || e.Agent != "" || e.Unasked == nil || !strings.Contains(e.Unasked.Error(), "node:read") {
				t.Errorf("without %s: %+v", left, e)
			}
			continue
		}
		if e.Err != nil || !e.ACL || e.Unasked != nil || e.Unsynced != "" || !slices.Equal(e.Lacks, want) {
			t.Errorf("without %s: %+v, want %q", left, e, want)
		}
	}
	// With --hosts consul a node writes its own address, too.
	policy, _, err := c.Client.ACL().PolicyCreate(&api.ACLPolicy{Name: "addresses", Rules: without("") + "\n" + `key_prefix "rmq-entrypoint/rabbitmq/addresses/" { policy = "read" }`}, nil)
	expect.Must(t, err)
	token, _, err := c.Client.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{ID: policy.ID}}}, nil)
	expect.Must(t, err)
	t.Setenv("CONSUL_HTTP_TOKEN", token.SecretID)
	for hosts, want := range map[string][]string{"off": nil, "consul": {`key:write on "rmq-entrypoint/rabbitmq/"`}} {
		cfg := asked(c.Addr)
		cfg.Hosts = hosts
		if e := Examine(t.Context(), cfg)[0]; e.Err != nil || !slices.Equal(e.Lacks, want) {
			t.Errorf("--hosts %s: %+v, want %q", hosts, e, want)
		}
	}
	t.Setenv("CONSUL_HTTP_TOKEN", "11111111-2222-3333-4444-555555555555")
	if e := Examine(t.Context(), asked(c.Addr))[0]; e.Err != nil || len(e.Lacks) != 1 || !strings.Contains(e.Lacks[0], "does not know it") {
		t.Errorf("a token that is none: %+v", e)
	}
}

// An address says of itself what is wrong with it, however the others are; a black hole costs its time alone.
func TestExamine(t *testing.T) {
	c := consultest.Start(t)
	cold := consultest.StartCluster(t, 3)
	cold[1].Kill()
	cold[2].Kill()
	expect.Eventually(t, expect.Soon, "there is no leader", func() error {
		leader, err := cold[0].Client.Status().Leader()
		if err == nil && leader != "" {
			return fmt.Errorf("it is %s", leader)
		}
		return nil
	})
	hole, err := net.Listen("tcp", "127.0.0.1:0")
	expect.Must(t, err)
	defer hole.Close()
	fast := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
		_, _ = w.Write([]byte(`"127.0.0.1:8300"`))
	}))
	defer fast.Close()
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }))
	defer other.Close()
	tls := httptest.NewTLSServer(other.Config.Handler)
	defer tls.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	began := time.Now()
	all := Examine(ctx, asked(c.Addr, cold[0].Addr, hole.Addr().String(), "127.0.0.1:1", fast.Listener.Addr().String(), other.Listener.Addr().String(), tls.URL))
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	if e := all[0]; e.Err != nil || e.ACL || len(e.Lacks) > 0 || e.Agent != c.Node || e.Unsynced != "" || !e.Timed || e.Ahead.Abs() > 3*time.Second {
		t.Errorf("%+v", e)
	}
	for i, want := range map[int]string{1: "leader", 2: "no answer in time", 3: "refused", 5: "as no Consul does", 6: "certificate"} {
		if e := all[i]; e.Err == nil || !strings.Contains(e.Err.Error(), want) {
			t.Errorf("%d: %+v, want %s", i, e.Err, want)
		}
	}
	if e := all[4]; !e.Timed || (e.Ahead-time.Hour).Abs() > 3*time.Second {
		t.Errorf("its clock is %s ahead", e.Ahead)
	}
}

// An agent that was recreated without its data takes what it is told and brings nothing into the catalog.
func TestExamineUnsynced(t *testing.T) {
	servers := consultest.StartCluster(t, 1)
	agent := consultest.StartAgent(t, servers)
	expect.Eventually(t, expect.Soon, "the agent is in the catalog", func() error {
		if e := Examine(t.Context(), asked(agent.Addr))[0]; e.Err != nil || e.Unsynced != "" || e.Agent != agent.Node {
			return fmt.Errorf("%+v", e)
		}
		return nil
	})
	agent.Recreate()
	expect.Must(t, agent.Client.Agent().ServiceRegister(&api.AgentServiceRegistration{ID: "rabbitmq-rabbit-a", Name: "rabbitmq"}))
	e := Examine(t.Context(), asked(agent.Addr))[0]
	if e.Err != nil || !strings.Contains(e.Unsynced, "rabbitmq-rabbit-a") && !strings.Contains(e.Unsynced, "has no Consul node") {
		t.Errorf("%+v", e)
	}
}

// What an agent does not say of its entries, or of the catalog, is not known.
func TestExamineUnseen(t *testing.T) {
	t.Parallel()
	says := map[string]string{
		"/v1/status/leader": `"127.0.0.1:8300"`, "/v1/agent/self": `{"Config": {"NodeName": "n"}}`,
		"/v1/catalog/node/n": `{"Node": {"Node": "n"}, "Services": {"x": {"ID": "x"}}}`, "/v1/agent/services": `{"x": {"ID": "x"}}`,
	}
	for silent, want := range map[string]string{
		"": "", "/v1/catalog/node/n": "read Consul node n in the catalog", "/v1/agent/services": "read which entries agent n has", "/v1/agent/self": "does not say its name",
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch said := says[r.URL.Path]; {
			case r.URL.Path == "/v1/internal/acl/authorize":
				w.WriteHeader(http.StatusUnauthorized)
				_, _ = w.Write([]byte("ACL support disabled"))
			case said == "" || r.URL.Path == silent:
				w.WriteHeader(http.StatusInternalServerError)
			default:
				_, _ = w.Write([]byte(said))
			}
		}))
		e := Examine(t.Context(), asked(s.URL))[0]
		if e.Err != nil || e.Unsynced != "" || (e.Unseen == nil) != (want == "") || want != "" && !strings.Contains(e.Unseen.Error(), want) {
			t.Errorf("without %s: %+v, want %q", silent, e, want)
		}
		s.Close()
	}
}
