package main

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// A store is all that is made by chance, in secrets.json, which no container gets. What the containers get is written
// from it.
type store struct {
	Cookie     string            `json:"cookie"`
	User       string            `json:"user"`
	Password   string            `json:"password"`
	Gossip     string            `json:"gossip"`     // among Consul's servers
	Management string            `json:"management"` // Consul's token that may do everything
	Agent      string            `json:"agent"`      // Consul's own
	DNS        string            `json:"dns"`        // for whoever asks Consul's DNS, who has no token
	Nodes      map[string]string `json:"nodes"`      // a token each
}

func storeFile(dir string) string { return filepath.Join(dir, "secrets.json") }

// readStore returns what dir has, or an empty store.
func readStore(dir string) (store, error) {
	s := store{Nodes: map[string]string{}}
	text, err := os.ReadFile(storeFile(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("read the secrets: %w", err)
	}
	if err := json.Unmarshal(text, &s); err != nil {
		// The error may repeat some of it.
		return s, fmt.Errorf("read the secrets: %s is not the JSON that this program wrote: put it back, or remove the directory and all data", storeFile(dir))
	}
	if s.Nodes == nil {
		s.Nodes = map[string]string{}
	}
	return s, nil
}

// makeSecrets makes what is missing, and never makes anything anew: a second cookie would part the nodes.
func makeSecrets(dir string, nodes []string) error {
	s, err := readStore(dir)
	if err != nil {
		return err
	}
	changed := s.User == ""
	if s.User == "" {
		s.User = "admin"
	}
	for _, secret := range []struct {
		at   *string
		make func() string
	}{
		{&s.Cookie, random}, {&s.Password, random}, {&s.Gossip, gossipKey}, {&s.Management, uuid}, {&s.Agent, uuid}, {&s.DNS, uuid},
	} {
		if *secret.at == "" {
			*secret.at, changed = secret.make(), true
		}
	}
	for _, node := range nodes {
		if s.Nodes[node] == "" {
			s.Nodes[node], changed = uuid(), true
		}
	}
	if changed {
		text, err := json.MarshalIndent(s, "", "  ") // #nosec G117 -- the file of secrets is what this makes
		if err != nil {
			return fmt.Errorf("write the secrets: %w", err)
		}
		if err := write(storeFile(dir), append(text, '\n'), 0o600); err != nil {
			return err
		}
	}
	conf, err := agentConf(s)
	if err != nil {
		return err
	}
	files := map[string]string{
		"consul/agent.json": conf, "user": s.User + "\n", "password": s.Password + "\n",
		"client/brokers": fmt.Sprintf("amqps://%s:%s@haproxy:5670?cacertfile=/secrets/ca.pem\n", s.User, s.Password),
	}
	for _, node := range nodes {
		files[node+"/cookie"] = s.Cookie + "\n"
		files[node+"/token"] = s.Nodes[node] + "\n"
		files[node+"/user.conf"] = fmt.Sprintf("# Made once, on a blank volume: rabbitmqctl change_password changes it there.\ndefault_user = %s\ndefault_pass = %s\n", s.User, s.Password)
	}
	for name, text := range files {
		// Files of containers were given to the container's user since, and may not be readable: what is newer than the
		// store is as it was written.
		if path := filepath.Join(dir, name); !there(path, storeFile(dir)) {
			if err := write(path, []byte(text), 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}

// agentConf is what a Consul server is told of ACLs and gossip.
func agentConf(s store) (string, error) {
	type object = map[string]any
	text, err := json.MarshalIndent(object{
		"encrypt": s.Gossip,
		"acl": object{
			"enabled": true, "default_policy": "deny",
			"tokens": object{"initial_management": s.Management, "agent": s.Agent, "dns": s.DNS},
		},
	}, "", "  ")
	if err != nil {
		return "", fmt.Errorf("write Consul's configuration: %w", err)
	}
	return string(text) + "\n", nil
}

// random is 192 bits in letters and digits, which need no quotes anywhere.
func random() string { return hex.EncodeToString(bytes(24)) }

func gossipKey() string { return base64.StdEncoding.EncodeToString(bytes(32)) }

// uuid is one of version 4, which is what Consul takes as a token.
func uuid() string {
	b := bytes(16)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func bytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // it never fails: crypto/rand ends the program instead
	return slices.Clip(b)
}
