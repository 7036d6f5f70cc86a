package house

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

var (
	fromLine = regexp.MustCompile(`(?m)^FROM +(?:--\S+ +)?(\S+)(?: +AS +(\S+))?\s*$`)
	argLine  = regexp.MustCompile(`(?m)^ARG +([A-Z_]+)(?:=(\S+))?\s*$`)
	pinned   = regexp.MustCompile(`^[a-z0-9./-]+(?::[0-9]+\.[0-9]+[A-Za-z0-9._-]*)?(?:@sha256:[0-9a-f]{64})?$`)
)

// Every image that a Dockerfile begins with is an argument, so that whoever builds names a digest;
// its default, if it has one, is a version or a digest, and no tag that moves from version to
// version.
func TestBaseImagesArePinned(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	names := tracked(t, root, "*Dockerfile", "*Dockerfile.*")
	if len(names) < 5 {
		t.Fatalf("Dockerfiles: %q", names)
	}
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, why := range unpinned(string(text)) {
			t.Errorf("%s: %s", name, why)
		}
	}
}

// Whoever pins images finds each argument in docs/operations.md.
func TestPinsAreTold(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(strings.Join(read(t, root, "docs/operations.md").lines, "\n"), "\n### Pin what you run\n")
	section, _, _ = strings.Cut(section, "\n#")
	for _, name := range tracked(t, root, "*Dockerfile", "*Dockerfile.*") {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range fromLine.FindAllStringSubmatch(string(text), -1) {
			if arg, ok := strings.CutPrefix(strings.TrimSuffix(m[1], "}"), "${"); ok && !strings.Contains(section, arg+"=") {
				t.Errorf("%s takes %s, and docs/operations.md, Pin what you run, does not say so", name, arg)
			}
		}
	}
}

func unpinned(text string) (why []string) {
	args, stages := map[string]string{}, map[string]bool{"scratch": true}
	for _, m := range argLine.FindAllStringSubmatch(text, -1) {
		args[m[1]] = m[2]
	}
	for _, m := range fromLine.FindAllStringSubmatch(text, -1) {
		stage := stages[m[1]]
		if m[2] != "" {
			stages[m[2]] = true
		}
		if stage {
			continue
		}
		arg, ok := strings.CutPrefix(strings.TrimSuffix(m[1], "}"), "${")
		byDefault, declared := args[arg]
		switch {
		case !ok || !declared:
			why = append(why, "FROM "+m[1]+" is no argument: ARG NAME=image:version, and FROM ${NAME}")
		case byDefault != "" && (!pinned.MatchString(byDefault) || !strings.ContainsAny(byDefault, ":@")):
			why = append(why, "ARG "+arg+"="+byDefault+" is neither a version nor a digest")
		}
	}
	return why
}

func TestUnpinned(t *testing.T) {
	digest := "@sha256:" + strings.Repeat("a", 64)
	for text, want := range map[string]int{
		"FROM nginx": 1, "FROM nginx:1.28": 1, "ARG A=nginx\nFROM ${A}": 1, "ARG A=nginx:latest\nFROM ${A}": 1, "ARG A=nginx:1\nFROM ${A}": 1, "FROM ${B}": 1, "ARG A=nginx@sha256:abc\nFROM ${A}": 1,
		"ARG A\nFROM ${A}": 0, "ARG A=nginx:1.28-alpine\nFROM ${A} AS b\nFROM b": 0, "ARG A=rabbitmq:4.3-management" + digest + "\nFROM --platform=linux/arm64 ${A}": 0,
		"ARG A=nginx" + digest + "\nFROM ${A}": 0, "FROM scratch": 0, "ARG A=nginx:1.28\nFROM ${A} AS b\nFROM debian": 1,
	} {
		if why := unpinned(text); len(why) != want {
			t.Errorf("%q: %q", text, why)
		}
	}
}

// Where there is Docker alone, Compose builds what is not there from official images, or from those of a mirror: the
// stand-ins are there only where scripts/images made them.
func TestComposeBuildsFromOfficialImages(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	bases := 0
	for _, name := range tracked(t, root, "compose/*.yml") {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, mirror := range []string{"", "mirror.example/"} {
			args := buildArguments(t, text, mirror)
			bases += len(args)
			for _, base := range args {
				if own, mirrored := strings.CutPrefix(base, mirror); !mirrored || strings.HasPrefix(own, "rmq-entrypoint") || !strings.Contains(own, ":") {
					t.Errorf("%s, with REGISTRY=%s: %s is no version of an official image there", name, mirror, base)
				}
			}
		}
	}
	if bases < 2*9 {
		t.Errorf("the files name %d images to build from, twice", bases/2)
	}
}

// buildArguments returns what the services of a file for Compose are built with, where no variable but REGISTRY is set.
func buildArguments(t *testing.T, text []byte, mirror string) (values []string) {
	t.Helper()
	var file struct {
		Services map[string]struct {
			Build struct {
				Args map[string]string `yaml:"args"`
			} `yaml:"build"`
		} `yaml:"services"`
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	variable := regexp.MustCompile(`\$\{(\w+):-([^}]*)\}`)
	for _, service := range file.Services {
		for _, value := range service.Build.Args {
			values = append(values, variable.ReplaceAllStringFunc(value, func(s string) string {
				m := variable.FindStringSubmatch(s)
				if m[1] == "REGISTRY" && mirror != "" {
					return mirror
				}
				return m[2]
			}))
		}
	}
	return values
}
