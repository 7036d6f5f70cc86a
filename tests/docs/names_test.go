package docs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/workload"
	"rmq-entrypoint/tests/expect"
)

// settings are the variables that the program reads, each with its file.
func settings() map[string]bool {
	names := map[string]bool{}
	for _, s := range config.Settings(new(config.Config)) {
		for _, name := range s.Env {
			names[name] = true
		}
	}
	for _, s := range config.Secrets {
		names[s.Env], names[s.Env+"_FILE"] = true, true
	}
	for _, s := range workload.Settings(new(workload.Options)) {
		for _, name := range s.Env {
			names[name], names[name+"_FILE"] = true, true
		}
	}
	return names
}

// variables checks NAME=VALUE: a setting of the program has a value that it takes.
func variables(pairs []string) error {
	for _, pair := range pairs {
		name, value, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, "RMQ_") || !settings()[name] || strings.HasPrefix(name, "RMQ_BROKERS") {
			continue
		}
		var cfg config.Config
		err := cfg.Complete(config.Settings(&cfg), func(string) bool { return false }, expect.Environ(name+"="+value, "RABBITMQ_NODENAME=rabbit@rabbitmq1"))
		if err != nil {
			return err
		}
	}
	return nil
}

var (
	variable = regexp.MustCompile(`^[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+(?:=.*)?$`)
	ofOurs   = regexp.MustCompile(`\bRMQ_[A-Z0-9_]*[A-Z0-9]`)
	inRepo   = regexp.MustCompile(`^(?:cmd|lock|peers|rabbitconf|healthcheck|docker|compose|scripts|tests|internal|docs|\.ci)/[\w./-]+$`)
	flag     = regexp.MustCompile(`^--?[a-z][a-z-]+(?: .*)?$`)
	jsonList = regexp.MustCompile(`\["rmq-entrypoint"[^\]]*\]`)
)

// made is what the scripts make, and who uses the repository.
var made = []string{"compose/.env", "compose/secrets", "compose/stack-secrets", ".cache/release"}

// othersFlags are of other programs than ours, which the prose around them names.
var othersFlags = map[string]string{
	"--build-arg NGINX=…":                "docker build; compose/nginx/Dockerfile has the argument",
	"--build-arg GOLANG=golang@sha256:…": "docker build; docker/Dockerfile has the argument",
	"--build-arg DEBIAN=debian@sha256:…": "docker build; docker/consul/Dockerfile and others have the argument",
	"--user rabbitmq":                    "docker run",
	"--user":                             "docker run",
	"--full":                             "scripts/test",
	"--ci":                               "scripts/test",
	"-short":                             "scripts/test",
	"-only":                              "scripts/bench",
	"-mount":                             "scripts/bench",
	"-write":                             "scripts/bench",
	"-detached":                          "rabbitmq-server",
}

// Each variable that a document names is one that something here reads, each file is there, and each flag is one of the
// program's. A setting that is shown with a value has one that the program takes.
func TestNames(t *testing.T) {
	known, all := settings(), knownText(t)
	flags := map[string]bool{"--help": true, "--force": true, "--wait": true, "--json": true, "--watch": true, "--cluster-id": true, "--started": true, "--ready": true}
	for _, s := range config.Settings(new(config.Config)) {
		flags["--"+s.Flag] = true
	}
	for _, s := range workload.Settings(new(workload.Options)) {
		flags["--"+s.Flag] = true
	}
	used := map[string]bool{}
	for _, p := range pages(t) {
		for _, s := range p.spans {
			name, value, given := strings.Cut(s.text, "=")
			first, _, _ := strings.Cut(s.text, " ")
			switch {
			case variable.MatchString(s.text):
				if !known[name] && !all.has(name) && name != "DAC_OVERRIDE" { // a capability
					t.Errorf("%s:%d: nothing here reads %s", s.file, s.number, name)
				}
				if given {
					if strings.HasPrefix(value, `"`) && strings.HasSuffix(value, `"`) && strings.Count(value, `"`) == 2 { // the reader's shell takes them off
						value = value[1 : len(value)-1]
					}
					if err := variables([]string{name + "=" + value}); err != nil {
						t.Errorf("%s:%d: %s: %v", s.file, s.number, s.text, err)
					}
				}
			case inRepo.MatchString(s.text):
				if _, err := os.Stat(filepath.Join(root, s.text)); err != nil && !slices.Contains(made, s.text) {
					t.Errorf("%s:%d: there is no %s", s.file, s.number, s.text)
				}
			case flag.MatchString(s.text) && !flags[first]:
				if used[s.text] = true; othersFlags[s.text] == "" {
					t.Errorf("%s:%d: the program has no %s", s.file, s.number, s.text)
				}
			}
		}
		for _, name := range ofOurs.FindAllString(text(t, p.file), -1) {
			if !known[name] && !all.has(name) {
				t.Errorf("%s: nothing here reads %s", p.file, name)
			}
		}
	}
	for name := range othersFlags {
		if !used[name] {
			t.Errorf("%s is listed as another program's, and no document has it", name)
		}
	}
}

// A corpus is what of the repository runs: programs, scripts, examples.
type corpus map[string]bool

var identifier = regexp.MustCompile(`[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*`)

func knownText(t *testing.T) corpus {
	t.Helper()
	words := corpus{}
	for _, name := range files(t, "*.go", "compose", "docker", "scripts", ".ci") {
		if strings.HasSuffix(name, ".md") || strings.HasPrefix(name, "tests/docs/") {
			continue
		}
		for _, w := range identifier.FindAllString(text(t, name), -1) {
			words[w] = true
		}
	}
	return words
}

func (c corpus) has(name string) bool { return c[name] || c[strings.TrimSuffix(name, "_FILE")] }

// What a block of YAML or of a Dockerfile has a container run is a command line of ours, and so is what the examples have.
func TestBlocks(t *testing.T) {
	at := place{program: built(t), scratch: t.TempDir()}
	n, given := 0, 0
	check := func(where string, words []string) {
		n++
		if err := at.ours(words[1:]); err != nil {
			t.Errorf("%s: %q: %v", where, words, err)
		}
	}
	for _, p := range pages(t) {
		for _, f := range p.fences {
			where := fmt.Sprintf("%s:%d", f.file, f.number)
			switch f.language {
			case "yaml":
				var node yaml.Node
				if err := yaml.Unmarshal([]byte(f.text), &node); err != nil {
					t.Errorf("%s: %v", where, err)
				}
				runs(&node, func(words []string) { check(where, words) })
			case "dockerfile":
				for _, list := range jsonList.FindAllString(f.text, -1) {
					var words []string
					if err := json.Unmarshal([]byte(list), &words); err != nil {
						t.Errorf("%s: %s: %v", where, list, err)
						continue
					}
					check(where, words)
				}
			case "":
				for l := range strings.Lines(f.text) {
					if name, _, ok := strings.Cut(l, "="); ok && variable.MatchString(name) {
						given++
						if err := variables([]string{strings.TrimSpace(l)}); err != nil || !settings()[name] {
							t.Errorf("%s: %s is no setting, or has not that value: %v", where, l, err)
						}
					}
					if isCommand(strings.TrimSpace(l)) && !strings.HasPrefix(l, " ") && !strings.Contains(l, "   ") { // a drawing has
						t.Errorf("%s: %s: what is typed belongs into a block of the language console, behind a prompt", where, l)
					}
				}
			default:
				t.Errorf("%s: no rule knows blocks of the language %s", where, f.language)
			}
		}
	}
	for _, name := range files(t, "compose/*.yml", "docs/*.yaml") {
		d := yaml.NewDecoder(strings.NewReader(text(t, name)))
		for {
			var node yaml.Node
			if err := d.Decode(&node); err != nil {
				if !errors.Is(err, io.EOF) {
					t.Errorf("%s: %v", name, err)
				}
				break
			}
			runs(&node, func(words []string) { check(name, words) })
			sets(&node, func(pair string) {
				given++
				if err := variables([]string{pair}); err != nil {
					t.Errorf("%s: %s: %v", name, pair, err)
				}
			})
		}
	}
	if given < 3 {
		t.Errorf("only %d settings were found", given)
	}
	if n < 10 {
		t.Errorf("only %d were found", n)
	}
}

// runs hands over each list that begins with the program's name.
func runs(node *yaml.Node, found func(words []string)) {
	if node.Kind == yaml.SequenceNode {
		var words []string
		for _, n := range node.Content {
			words = append(words, n.Value)
		}
		if len(words) > 0 && words[0] == "CMD" {
			words = words[1:]
		}
		if len(words) > 0 && words[0] == "rmq-entrypoint" {
			found(words)
		}
	}
	for _, n := range node.Content {
		runs(n, found)
	}
}

// sets hands over each setting that is given a value: NAME: value, and name: NAME with a value beside it. What is filled in
// elsewhere, with $ or {{, is nothing to judge.
func sets(node *yaml.Node, found func(pair string)) {
	if node.Kind == yaml.MappingNode {
		fields := map[string]string{}
		for i := 0; i+1 < len(node.Content); i += 2 {
			fields[node.Content[i].Value] = node.Content[i+1].Value
		}
		fields[fields["name"]] = fields["value"]
		for name, value := range fields {
			if strings.HasPrefix(name, "RMQ_") && value != "" && !strings.ContainsAny(value, "${") {
				found(name + "=" + value)
			}
		}
	}
	for _, n := range node.Content {
		sets(n, found)
	}
}
