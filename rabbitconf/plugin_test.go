package rabbitconf

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The page for people who come from RabbitMQ's Consul plugin has each option, in the words of the
// start that names it, and each key that stays.
func TestPluginsOptions(t *testing.T) {
	b, err := os.ReadFile("../docs/from-the-plugin.md")
	if err != nil {
		t.Fatal(err)
	}
	table, rest, _ := strings.Cut(string(b), "\n## Keys that stay\n")
	var got []PluginOption
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if !strings.HasPrefix(line, "| `") || len(cells) != 3 {
			continue
		}
		for i := range cells {
			cells[i] = strings.Trim(strings.TrimSpace(cells[i]), "`")
		}
		got = append(got, PluginOption{cells[0], cells[1], cells[2]})
	}
	if !slices.Equal(got, PluginOptions) {
		t.Errorf("docs/from-the-plugin.md and PluginOptions differ: %d rows and %d", len(got), len(PluginOptions))
		for i := range min(len(got), len(PluginOptions)) {
			if got[i] != PluginOptions[i] {
				t.Errorf("the page has %+v, the program %+v", got[i], PluginOptions[i])
			}
		}
	}
	stays := []string{"node_type", "randomized_startup_delay_range.max", "randomized_startup_delay_range.min"}
	for key := range maps.Keys(formationKeys) {
		if instead(key) == "" {
			stays = append(stays, key)
		}
	}
	var said []string
	for _, m := range regexp.MustCompile("(?m)^- `cluster_formation\\.([a-z_.]+)`").FindAllStringSubmatch(rest, -1) {
		said = append(said, m[1])
	}
	if slices.Sort(stays); !slices.Equal(stays, slices.Sorted(slices.Values(said))) {
		t.Errorf("keys that stay: the page has %q, the program %q", said, stays)
	}
}

// No option of the plugin's is taken silently from a file: each is refused, or named.
func TestNoPluginsOptionIsSilent(t *testing.T) {
	for _, o := range PluginOptions {
		key, value := o.Key, "1"
		switch {
		case key == "peer_discovery_backend":
			value = "consul"
		case key == "registration.enabled", key == "node_cleanup.only_log_warning":
			value = "false"
		case strings.HasSuffix(key, "_tags"), strings.HasSuffix(key, "_meta"), strings.HasSuffix(key, "_exclusions"):
			key += ".1"
		case strings.HasSuffix(key, "ssl_options"):
			key += ".verify"
		}
		u, err := read(t, "cluster_formation."+key+" = "+value+"\n", "", "")
		switch at := "rabbitmq.conf:1: cluster_formation." + key; {
		case strings.HasPrefix(key, "proxy."):
			if err != nil || !strings.Contains(strings.Join(u.Ignored(), ","), at) {
				t.Errorf("%s: %v, named %q", key, err, u.Ignored())
			}
		case err == nil || !strings.Contains(err.Error(), at):
			t.Errorf("%s: %v", key, err)
		case strings.HasPrefix(key, "consul.") && !strings.Contains(err.Error(), o.Here):
			t.Errorf("%s does not say what to set instead: %v", key, err)
		}
		if o.Variable == "" {
			continue
		}
		for _, name := range []string{o.Variable, "RABBITMQ_" + o.Variable} {
			set := PluginVariables(func(n string) string {
				if n == name {
					return "false"
				}
				return ""
			})
			named := len(set) == 1 && strings.HasPrefix(set[0], name+" (here "+o.Here)
			if refused := CleanupVariable(name, "false") != ""; !named && !refused && o.Variable+", as environment variable" != o.Here {
				t.Errorf("%s is neither named nor refused: %q", name, set)
			}
		}
	}
}
