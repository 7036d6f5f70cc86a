package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/consul/api"
)

// What each token may do. Nodes write the record of their cluster and their own services; whoever asks the DNS sees
// the services; nobody else may do anything.
const (
	nodeRules = `
key_prefix "rmq-entrypoint/rabbitmq/" { policy = "write" }
session_prefix "consul" { policy = "write" }
service "rabbitmq" { policy = "write" }
service "rabbitmq-management" { policy = "write" }
service "rabbitmq-prometheus" { policy = "write" }
service_prefix "" { policy = "read" }
node_prefix "" { policy = "read" }
`
	dnsRules = `
service "rabbitmq" { policy = "read" }
service "rabbitmq-management" { policy = "read" }
service "rabbitmq-prometheus" { policy = "read" }
service "consul" { policy = "read" }
node_prefix "" { policy = "read" }
`
	agentRules = `
node_prefix "" { policy = "write" }
`
)

// consul returns a client of Consul at address, which is verified by the CA of dir where it speaks TLS, and gets no token
// before that.
func consul(dir, address string) (*api.Client, error) {
	s, err := readStore(dir)
	if err != nil {
		return nil, err
	}
	if s.Management == "" {
		return nil, fmt.Errorf("there are no secrets in %s: make them first", dir)
	}
	conf := api.Config{Address: address, Token: s.Management, Transport: &http.Transport{Proxy: nil}}
	if there(filepath.Join(dir, "ca.pem")) {
		conf.TLSConfig.CAFile = filepath.Join(dir, "ca.pem")
	}
	client, err := api.NewClient(&conf)
	if err != nil {
		return nil, fmt.Errorf("reach Consul at %s: %w", address, err)
	}
	conf.HttpClient.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse } // the token goes nowhere else
	return client, nil
}

func waitForLeader(ctx context.Context, client *api.Client) error {
	for {
		leader, err := client.Status().LeaderWithQueryOptions((&api.QueryOptions{}).WithContext(ctx))
		if err == nil && leader != "" {
			return nil
		}
		if err == nil {
			err = errors.New("it has no leader")
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for Consul: %w", err)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// giveACL gives Consul the policies and the tokens of dir's store. What is there as it should be stays.
func giveACL(ctx context.Context, client *api.Client, dir string) error {
	s, err := readStore(dir)
	if err != nil {
		return err
	}
	if err := waitForLeader(ctx, client); err != nil {
		return err
	}
	acl := client.ACL()
	ask, tell := (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx), (&api.WriteOptions{}).WithContext(ctx)
	for {
		// A server that has a leader may take a moment more to make the first token.
		if _, _, err = acl.TokenReadSelf(ask); err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("log in to Consul: %w: Consul's data was made with other secrets, or somebody else made its first token", err)
		case <-time.After(time.Second):
		}
	}
	tokens := []struct{ name, secret, rules string }{{"agent", s.Agent, agentRules}, {"dns", s.DNS, dnsRules}}
	for _, node := range slices.Sorted(maps.Keys(s.Nodes)) {
		tokens = append(tokens, struct{ name, secret, rules string }{"node-" + node, s.Nodes[node], nodeRules})
	}
	policies := map[string]string{agentRules: "agent", dnsRules: "dns", nodeRules: "node"}
	for rules, name := range policies {
		if err := policy(acl, "rmq-entrypoint-"+name, rules, ask, tell); err != nil {
			return err
		}
	}
	list, _, err := acl.TokenList(ask)
	if err != nil {
		return fmt.Errorf("list Consul's tokens: %w", err)
	}
	for _, t := range tokens {
		token := api.ACLToken{
			SecretID: t.secret, Description: "rmq-entrypoint " + t.name,
			Policies: []*api.ACLTokenPolicyLink{{Name: "rmq-entrypoint-" + policies[t.rules]}},
		}
		i := slices.IndexFunc(list, func(e *api.ACLTokenListEntry) bool { return e.SecretID == t.secret })
		if i >= 0 {
			err = rightsOf(acl, list[i], token, tell)
		} else {
			_, _, err = acl.TokenCreate(&token, tell)
		}
		if err != nil {
			return fmt.Errorf("make the token %q: %w", token.Description, err)
		}
	}
	return nil
}

// rightsOf gives a token the rights that it should have, and no others, where it has not, and says what it had.
func rightsOf(acl *api.ACL, had *api.ACLTokenListEntry, token api.ACLToken, tell *api.WriteOptions) error {
	var rights []string
	for _, p := range had.Policies {
		rights = append(rights, p.Name)
	}
	for _, r := range had.Roles {
		rights = append(rights, "role "+r.Name)
	}
	for _, s := range had.ServiceIdentities {
		rights = append(rights, "service "+s.ServiceName)
	}
	for _, n := range had.NodeIdentities {
		rights = append(rights, "node "+n.NodeName)
	}
	for _, t := range had.TemplatedPolicies {
		rights = append(rights, "template "+t.TemplateName)
	}
	if len(rights) == 1 && rights[0] == token.Policies[0].Name {
		return nil
	}
	token.AccessorID = had.AccessorID
	if _, _, err := acl.TokenUpdate(&token, tell); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "secure: the token %q had the rights %q: it has %s alone again\n", token.Description, rights, token.Policies[0].Name)
	return nil
}

// policy makes a policy, or makes it what it should be.
func policy(acl *api.ACL, name, rules string, ask *api.QueryOptions, tell *api.WriteOptions) error {
	had, _, err := acl.PolicyReadByName(name, ask)
	switch {
	case err != nil:
	case had == nil:
		_, _, err = acl.PolicyCreate(&api.ACLPolicy{Name: name, Rules: rules}, tell)
	case had.Rules != rules:
		_, _, err = acl.PolicyUpdate(&api.ACLPolicy{ID: had.ID, Name: name, Rules: rules}, tell)
	}
	if err != nil {
		return fmt.Errorf("make the policy %q: %w", name, err)
	}
	return nil
}
