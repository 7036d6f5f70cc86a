package docs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

const kubernetes = "docs/kubernetes/rabbitmq.yaml"

// A set is what the example for Kubernetes has that command lines name. tests/kubernetes reads all of it, strictly.
type set struct {
	name, claim, secret string
	keys                []string // of the secret
}

func readSet() (found set, err error) {
	b, err := os.ReadFile(filepath.Join(root, kubernetes))
	if err != nil {
		return found, err
	}
	d := yaml.NewDecoder(strings.NewReader(string(b)))
	for {
		var o struct {
			Kind     string
			Metadata struct{ Name string }
			Spec     struct {
				Template struct {
					Spec struct {
						Volumes []struct {
							Secret struct {
								SecretName string `yaml:"secretName"`
								Items      []struct{ Key string }
							}
						}
					}
				}
				Claims []struct{ Metadata struct{ Name string } } `yaml:"volumeClaimTemplates"`
			}
		}
		if err := d.Decode(&o); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return found, err
		}
		if o.Kind != "StatefulSet" {
			continue
		}
		found.name, found.claim = o.Metadata.Name, o.Spec.Claims[0].Metadata.Name
		for _, v := range o.Spec.Template.Spec.Volumes {
			for _, item := range v.Secret.Items {
				found.secret, found.keys = v.Secret.SecretName, append(found.keys, item.Key)
			}
		}
	}
	if found.name == "" || len(found.keys) == 0 {
		return found, fmt.Errorf("%s has no StatefulSet with secrets", kubernetes)
	}
	return found, nil
}

// pod refuses what is no pod of the set's.
func (s set) pod(name string) error {
	if !regexp.MustCompile(`^` + s.name + `-\d$`).MatchString(name) {
		return fmt.Errorf("%s is no pod of %s", name, s.name)
	}
	return nil
}

// kubectl checks that what a line names is in the example.
func (at *place) kubectl(words []string) error {
	s, err := readSet()
	if err != nil || len(words) < 2 {
		return fmt.Errorf("kubectl %q: %w", words, err)
	}
	kind, rest := words[0], words[1:]
	switch {
	case kind == "apply" && rest[0] == "-f" && len(rest) == 2:
		_, err := os.Stat(filepath.Join(root, at.dir, rest[1]))
		return err
	case kind == "rollout" && slices.Equal(rest, []string{"status", "statefulset/" + s.name}):
		return nil
	case kind == "scale" && len(rest) == 3 && rest[0] == "statefulset" && rest[1] == s.name && regexp.MustCompile(`^--replicas=\d+$`).MatchString(rest[2]):
		return nil
	case kind == "delete" && rest[0] == "pvc" && len(rest) == 2:
		return s.pod(strings.TrimPrefix(rest[1], s.claim+"-"))
	case kind == "exec" && len(rest) > 2 && rest[1] == "--":
		if err := s.pod(rest[0]); err != nil {
			return err
		}
		return at.inContainer(rest[2:])
	case kind == "create" && len(rest) > 3 && slices.Equal(rest[:3], []string{"secret", "generic", s.secret}):
		var given []string
		for _, from := range rest[3:] {
			given = append(given, strings.TrimPrefix(from, "--from-file="))
		}
		if slices.Sort(given); !slices.Equal(given, slices.Compact(slices.Sorted(slices.Values(s.keys)))) {
			return fmt.Errorf("the secret is made of %q, and the pods take %q", given, s.keys)
		}
		return nil
	}
	return fmt.Errorf("no rule knows kubectl %s, or it names what %s does not have", strings.Join(words, " "), kubernetes)
}
