package cluster

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// compositions are the files of compose/ that are given to Compose together.
var compositions = [][]string{
	{"docker-compose.yml"},
	{"docker-compose.yml", "nginx/compose.yml"},
	{"docker-compose.yml", "prometheus.yml"},
	{"scale.yml"},
	{"secure.yml"},
	{"stack.yml"},
}

// compose2 returns the environment in which docker compose is Compose 2, beside a docker-compose that is 1.29.
func compose2(t *testing.T) (environment []string) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs Docker's command line")
	}
	dir := env("RMQ_TEST_COMPOSE_2", "../../.cache/docker")
	if dir == "no" {
		t.Skip("without Compose 2: RMQ_TEST_COMPOSE_2=no")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	environment = append(os.Environ(), "DOCKER_CONFIG="+dir)
	for _, want := range []struct{ version, program string }{{"1.29", "docker-compose"}, {"2.", "docker compose"}} {
		argv := append(strings.Fields(want.program), "version", "--short")
		out, err := command(environment, argv...)
		if version := strings.TrimPrefix(strings.TrimSpace(out), "v"); err != nil || !strings.HasPrefix(version, want.version) {
			t.Fatalf("%s is %q (%v), not Compose %s: scripts/test gets Compose 2, for RMQ_TEST_COMPOSE_2=%s", want.program, version, err, want.version, dir)
		}
	}
	return environment
}

// command runs a program in compose/, and returns its output.
func command(environment []string, argv ...string) (string, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = "../../compose", environment
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		out = append(out, stderr.String()...)
	}
	return string(out), err
}

// Both Composes read the same out of each of the files.
func TestCompose2ReadsTheSame(t *testing.T) {
	environment := append(compose2(t), "COMPOSE_PROJECT_NAME="+label, "COMPOSE_FILE=", "COMPOSE_PROFILES=more,clients", "RMQ_SECRETS="+t.TempDir(),
		"RABBITMQ_ERLANG_COOKIE=cookie", "RABBITMQ_DEFAULT_USER=operator", "RABBITMQ_DEFAULT_PASS=password")
	read := func(argv ...string) any {
		t.Helper()
		out, err := command(environment, append(argv, "config", "--format", "json")...)
		if err != nil {
			t.Fatalf("%v: %v\n%s", argv, err, out)
		}
		var config any
		if err := json.Unmarshal([]byte(out), &config); err != nil {
			t.Fatalf("%v: %v", argv, err)
		}
		return plain(config)
	}
	covered := []string{"drain.yml"} // Compose 1.29 does not take it
	for _, files := range compositions {
		covered = append(covered, files...)
		var flags []string
		for _, file := range files {
			flags = append(flags, "-f", file)
		}
		// What 1.29 read is read by 2 once more, so that both are in one form.
		first, err := command(environment, slices.Concat([]string{"docker-compose"}, flags, []string{"config"})...)
		if err != nil {
			t.Fatalf("docker-compose %v config: %v\n%s", flags, err, first)
		}
		file := filepath.Join(t.TempDir(), "first.yml")
		if err := os.WriteFile(file, []byte(first), 0o600); err != nil {
			t.Fatal(err)
		}
		one := read("docker", "compose", "--project-directory", ".", "-f", file)
		two := read(slices.Concat([]string{"docker", "compose"}, flags)...)
		if services, _ := two.(map[string]any)["services"].(map[string]any); len(services) < 3 {
			t.Errorf("%v has the services %v", files, services)
		}
		for _, difference := range differences("", one, two) {
			t.Errorf("%v: %s", files, difference)
		}
	}
	for _, pattern := range []string{"*.yml", "*/compose.yml"} {
		files, err := filepath.Glob("../../compose/" + pattern)
		if err != nil || len(files) == 0 {
			t.Fatal(pattern, files, err)
		}
		for _, file := range files {
			if name, _ := filepath.Rel("../../compose", file); !slices.Contains(covered, name) {
				t.Errorf("compose/%s is in no composition of this test", name)
			}
		}
	}

	drain := read("docker", "compose", "-f", "docker-compose.yml", "-f", "drain.yml").(map[string]any)["services"].(map[string]any)
	for _, node := range demoNodes {
		if hook, _ := json.Marshal(drain[node].(map[string]any)["pre_stop"]); !strings.Contains(string(hook), "rmq-entrypoint drain") {
			t.Errorf("%s is to run %s before it is stopped", node, hook)
		}
	}
}

// plain leaves out what says nothing: empty values, extensions, the order of a list of mappings, and which of two ways
// a health check is disabled.
func plain(v any) any {
	switch v := v.(type) {
	case map[string]any:
		if v["disable"] == true {
			return map[string]any{"test": []any{"NONE"}}
		}
		m := map[string]any{}
		for key, value := range v {
			if value = plain(value); value != nil && !strings.HasPrefix(key, "x-") {
				m[key] = value
			}
		}
		if len(m) > 0 {
			return m
		}
	case []any:
		var list []any
		for _, value := range v {
			list = append(list, plain(value))
		}
		if len(list) == 0 {
			return nil
		}
		if _, ok := list[0].(map[string]any); ok {
			slices.SortFunc(list, func(a, b any) int {
				first, _ := json.Marshal(a)
				second, _ := json.Marshal(b)
				return strings.Compare(string(first), string(second))
			})
		}
		return list
	default:
		return v
	}
	return nil
}

// differences names each place where the two configurations differ.
func differences(at string, one, two any) (all []string) {
	a, ok := one.(map[string]any)
	b, both := two.(map[string]any)
	if !ok || !both {
		if !reflect.DeepEqual(one, two) {
			first, _ := json.Marshal(one)
			second, _ := json.Marshal(two)
			all = append(all, at+": 1.29 reads "+string(first)+", 2 reads "+string(second))
		}
		return all
	}
	for key, value := range a {
		all = append(all, differences(at+"/"+key, value, b[key])...)
	}
	for key, value := range b {
		if _, ok := a[key]; !ok {
			all = append(all, differences(at+"/"+key, nil, value)...)
		}
	}
	slices.Sort(all)
	return all
}

// The scripts and the plain example work with Compose 2, from up to down, and its hook drains a node that it stops.
func TestCompose2(t *testing.T) {
	environment := compose2(t)
	parallel(t)
	d := newDemo(t, "compose2")
	d.env = append(d.env, environment[len(environment)-1], "COMPOSE_FILE=docker-compose.yml:drain.yml:"+labelled(t, "consul", "dnsmasq", "haproxy"))
	d.in("one node is up", func() {
		if out := d.script("up", "1"); !strings.Contains(out, "rabbit@rabbitmq1   ready") {
			d.Errorf("scripts/up 1 said:\n%s", out)
		}
		by := d.docker("inspect", "-f", `{{index .Config.Labels "com.docker.compose.version"}}`, d.node("rabbitmq1").container)
		if !strings.HasPrefix(by, "2.") {
			d.Errorf("Compose %s made it", by)
		}
	})
	d.in("by hand it is drained, stopped and started", func() {
		was, n := d.containers(), d.node("rabbitmq1")
		d.compose("stop", "rabbitmq1")
		if log := n.log(); !strings.Contains(log, "maintenance (drain) mode") {
			d.Errorf("it was not drained:\n%s", log[max(0, len(log)-4000):])
		}
		d.compose("up", "-d", "rabbitmq1")
		if is := d.containers(); ids(is) != ids(was) {
			d.Errorf("the containers were\n%s\nand are\n%s", was, is)
		}
		d.eventually(150*time.Second, "the node is fit to serve", func() error {
			_, err := d.node("rabbitmq1").tryExec("rmq-entrypoint", "healthcheck", "--ready")
			return err
		})
	})
	d.in("scripts/down --volumes leaves nothing", func() {
		d.script("down", "--volumes")
		if left := d.left(); left != "" {
			d.Errorf("it left %s", left)
		}
	})
}
