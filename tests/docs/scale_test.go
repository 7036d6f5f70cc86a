package docs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"rmq-entrypoint/tests/expect"
)

// Of a service that is scaled, no two containers share what only one can have, and a container that is made anew is the
// node whose volume it gets.
func TestScale(t *testing.T) {
	var file struct {
		Services map[string]struct {
			Hostname string
			Name     string `yaml:"container_name"`
			Ports    []string
			Volumes  []string
			Command  []string
		}
		Volumes map[string]any
	}
	expect.Must(t, yaml.Unmarshal([]byte(text(t, "compose/scale.yml")), &file))
	node := file.Services["rabbitmq"]
	if node.Hostname != "" || node.Name != "" || len(node.Ports) > 0 {
		t.Errorf("only one container can have %q, %q, %q", node.Hostname, node.Name, node.Ports)
	}
	anonymous := map[string]bool{}
	for _, s := range file.Services {
		for _, v := range s.Volumes {
			anonymous[v] = true
		}
	}
	if !anonymous["/var/lib/rabbitmq"] || !anonymous["/consul/data"] || len(file.Volumes) > 0 {
		t.Errorf("data is in %v and %v, which docker-compose down ends in part", anonymous, file.Volumes)
	}

	home, bin := t.TempDir(), t.TempDir()
	expect.Must(t, os.WriteFile(filepath.Join(bin, "rmq-entrypoint"), []byte("#!/bin/sh\necho \"$RABBITMQ_NODENAME $*\"\n"), 0o755))
	here := func(s string) string {
		return strings.ReplaceAll(strings.ReplaceAll(s, "/var/lib/rabbitmq", home), "$$", "$")
	}
	if len(node.Command) != 3 || node.Command[0] != "bash" {
		t.Fatalf("the command is %q", node.Command)
	}
	conf := filepath.Join(home, "rabbitmq-env.conf")
	expect.Must(t, os.WriteFile(conf, []byte(here(text(t, "compose/scale/rabbitmq-env.conf"))), 0o600))
	for _, host := range []string{"0f3a9c01b2d4", "aaaaaaaaaaaa"} { // of the first container, and of the one that Compose makes anew
		out, err := ran(home, []string{"PATH=" + bin + ":/usr/bin:/bin"}, "bash", node.Command[1], "HOSTNAME="+host+"\n"+here(node.Command[2]))
		if err != nil || out != "rabbit@0f3a9c01b2d4 rabbitmq-server\n" {
			t.Errorf("on host %s it runs %q, %v", host, out, err)
		}
		if out, err = ran(home, nil, "sh", "-c", ". "+conf+"; echo $NODENAME"); err != nil || out != "rabbit@0f3a9c01b2d4\n" {
			t.Errorf("docker exec has %q, %v", out, err)
		}
	}
}
