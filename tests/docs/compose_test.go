package docs

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// A stack is what some files of Compose or Swarm have together.
type stack struct {
	services map[string]service
	project  string // of compose/.env
}

type service struct {
	Entrypoint []string `yaml:"entrypoint"`
	Profiles   []string `yaml:"profiles"`
}

// readStack merges files as Compose does, as far as it matters here.
func readStack(names ...string) (stack, error) {
	s := stack{services: map[string]service{}, project: "rmq-entrypoint"}
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return s, err
		}
		var file struct {
			Services map[string]service `yaml:"services"`
		}
		if err := yaml.Unmarshal(b, &file); err != nil {
			return s, fmt.Errorf("%s: %w", name, err)
		}
		for name, service := range file.Services {
			if was, ok := s.services[name]; ok && len(service.Entrypoint) == 0 {
				service = was
			}
			s.services[name] = service
		}
	}
	if len(s.services) == 0 {
		return s, fmt.Errorf("%s have no services", strings.Join(names, ", "))
	}
	return s, nil
}

// has refuses what is no service.
func (s stack) has(names ...string) error {
	for _, name := range names {
		if _, ok := s.services[name]; !ok {
			return fmt.Errorf("there is no service %s, only %s", name, strings.Join(slices.Sorted(maps.Keys(s.services)), ", "))
		}
	}
	return nil
}

// container refuses what is the name of no container of the stack's: that of the first one of a service, as one of the two
// Composes names it.
func (s stack) container(name string) error {
	for service := range s.services {
		if name == s.project+"_"+service+"_1" || name == s.project+"-"+service+"-1" {
			return nil
		}
	}
	return fmt.Errorf("no container has the name %s: in the example it is as %s_rabbitmq1_1", name, s.project)
}

// What docker-compose takes, as far as a document names it. The value says whether an option has an argument.
var composeOptions = map[string]map[string]bool{
	"":     {"-f": true},
	"up":   {"-d": false, "--build": false, "--no-deps": false, "--scale": true},
	"down": {"--volumes": false},
	"stop": {},
	"run":  {"--rm": false},
	"exec": {"--index": true},
}

// compose checks docker-compose, or docker compose, in a directory. Prose means one of the examples.
func (at *place) compose(words []string, prose bool) error {
	if prose && at.file == "" {
		err := at.composeOf("docker-compose.yml", words)
		if err != nil && at.composeOf("scale.yml", words) == nil {
			err = nil
		}
		return err
	}
	return at.composeOf(cmp.Or(at.file, "docker-compose.yml"), words)
}

// composeOf checks it where that file is Compose's own choice.
func (at *place) composeOf(file string, words []string) error {
	words, options, err := optionsOf(words, composeOptions[""])
	if err != nil {
		return err
	}
	named := options["-f"]
	if len(named) == 0 {
		named = []string{file}
	}
	var paths []string
	for _, name := range named {
		paths = append(paths, filepath.Join(at.dir, name))
	}
	s, err := readStack(paths...)
	if err != nil || len(words) == 0 {
		return err
	}
	known, ok := composeOptions[words[0]]
	if !ok {
		return fmt.Errorf("no rule knows docker-compose %s", words[0])
	}
	sub := words[0]
	words, options, err = optionsOf(words[1:], known)
	if err != nil {
		return err
	}
	for _, scaled := range options["--scale"] {
		name, number, _ := strings.Cut(scaled, "=")
		if err := s.has(name); err != nil {
			return err
		}
		if _, err := strconv.ParseUint(number, 10, 8); err != nil {
			return fmt.Errorf("--scale %s: %w", scaled, err)
		}
	}
	switch {
	case sub == "down":
		return nothing(words)
	case sub == "up" || sub == "stop":
		return s.has(words...)
	case len(words) == 0:
		return fmt.Errorf("docker-compose %s needs a service", sub)
	}
	if err := s.has(words[0]); err != nil {
		return err
	}
	if sub == "run" {
		words = append(slices.Clone(s.services[words[0]].Entrypoint), words[1:]...)
	} else {
		words = words[1:]
	}
	return at.inContainer(words)
}

// optionsOf takes the options from the front of words.
func optionsOf(words []string, known map[string]bool) (rest []string, given map[string][]string, err error) {
	given = map[string][]string{}
	for len(words) > 0 && strings.HasPrefix(words[0], "-") {
		name, value, joined := strings.Cut(words[0], "=")
		takes, ok := known[name]
		switch {
		case !ok:
			return nil, nil, fmt.Errorf("no rule knows the option %s here", name)
		case takes && !joined:
			if len(words) < 2 {
				return nil, nil, fmt.Errorf("%s needs an argument", name)
			}
			value, words = words[1], words[1:]
		}
		given[name] = append(given[name], value)
		words = words[1:]
	}
	return words, given, nil
}

func nothing(words []string) error {
	if len(words) > 0 {
		return fmt.Errorf("%q is too much", words)
	}
	return nil
}

var required = regexp.MustCompile(`\$\{\w+:?\?([^}]*)\}`)

// docker stack deploy takes the first hyphen in ${NAME:?message} for that of ${NAME-default}: what is behind it would be the
// value, whether NAME is set or not (measured with Docker's command line 28).
func TestMessagesOfExamples(t *testing.T) {
	t.Parallel()
	found := 0
	for _, name := range files(t, "compose/*.yml") {
		for _, m := range required.FindAllStringSubmatch(text(t, name), -1) {
			if found++; strings.Contains(m[1], "-") {
				t.Errorf("%s: docker stack deploy takes %q for a default: say it without a hyphen", name, m[0])
			}
		}
	}
	if found < 5 {
		t.Errorf("%d messages were found", found)
	}
}
