package rabbitconf_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"rmq-entrypoint/rabbitconf"
)

func v(t *testing.T, text string) rabbitconf.Version {
	t.Helper()
	if text == "" {
		return rabbitconf.Version{}
	}
	version, err := rabbitconf.ParseVersion(text)
	if err != nil {
		t.Fatal(err)
	}
	return version
}

func TestUpgrade(t *testing.T) {
	for _, test := range []struct {
		from, to     string
		upgrade, mix rabbitconf.Verdict
		path         string
	}{
		{"4.0.5", "4.0.5", rabbitconf.Supported, rabbitconf.Supported, "4.0.5"},
		{"4.0.5", "4.0.7", rabbitconf.Supported, rabbitconf.Supported, "4.0.7"},
		{"4.0.7", "4.0.5", rabbitconf.Unsupported, rabbitconf.Supported, "4.0.5"},
		{"4.3.0-rc.1", "4.3.0", rabbitconf.Supported, rabbitconf.Supported, "4.3.0"},
		{"4.3.0", "4.3.0-rc.1", rabbitconf.Supported, rabbitconf.Supported, "4.3.0"},
		{"4.2.3", "4.3.0-rc.1", rabbitconf.Supported, rabbitconf.Supported, "4.3.0"},
		{"4.2.3", "4.3.6", rabbitconf.Supported, rabbitconf.Supported, "4.3.6"},
		{"4.1.8", "4.3.6", rabbitconf.Unsupported, rabbitconf.Unsupported, "4.2.0 4.3.6"},
		{"4.0.5", "4.3.6", rabbitconf.Unsupported, rabbitconf.Unsupported, "4.2.0 4.3.6"},
		{"4.3.6", "4.0.5", rabbitconf.Unsupported, rabbitconf.Unsupported, ""},
		{"4.3.6", "4.2.9", rabbitconf.Unsupported, rabbitconf.Supported, ""},
		{"4.0.5", "4.2.0", rabbitconf.Supported, rabbitconf.Supported, "4.2.0"},
		{"4.0.5", "4.1.0", rabbitconf.Supported, rabbitconf.Supported, "4.1.0"},
		{"3.13.7", "4.0.5", rabbitconf.Supported, rabbitconf.Supported, "4.0.5"},
		{"3.13.7", "4.1.0", rabbitconf.Supported, rabbitconf.Supported, "4.1.0"},
		{"3.13.7", "4.2.0", rabbitconf.Supported, rabbitconf.Supported, "4.2.0"},
		{"3.13.7", "4.3.0", rabbitconf.Unsupported, rabbitconf.Unsupported, "4.2.0 4.3.0"},
		{"3.12.14", "4.0.5", rabbitconf.Unsupported, rabbitconf.Unsupported, "3.13.0 4.0.5"},
		{"3.12.14", "3.13.0", rabbitconf.Supported, rabbitconf.Supported, "3.13.0"},
		{"3.11.18", "3.12.0", rabbitconf.Supported, rabbitconf.Supported, "3.12.0"},
		{"3.11.28", "3.12.0", rabbitconf.Supported, rabbitconf.Supported, "3.12.0"},
		{"3.11.17", "3.12.0", rabbitconf.Unsupported, rabbitconf.Supported, "3.11.18 3.12.0"},
		{"3.11.16", "3.12.0", rabbitconf.Unsupported, rabbitconf.Unsupported, "3.11.18 3.12.0"},
		{"3.11.28", "3.13.0", rabbitconf.Unsupported, rabbitconf.Unsupported, "3.12.0 3.13.0"},
		{"3.10.8", "3.11.0", rabbitconf.Supported, rabbitconf.Supported, "3.11.0"},
		{"3.10.8", "3.12.0", rabbitconf.Unsupported, rabbitconf.Unsupported, "3.11.18 3.12.0"},
		{"3.10.8", "4.0.5", rabbitconf.Unsupported, rabbitconf.Unsupported, "3.11.18 3.12.0 3.13.0 4.0.5"},
		{"3.10.8", "4.3.6", rabbitconf.Unsupported, rabbitconf.Unsupported, "3.11.18 3.12.0 3.13.0 4.2.0 4.3.6"},
		{"3.8.9", "3.10.8", rabbitconf.Unsupported, rabbitconf.Unsupported, "3.9.0 3.10.8"},
		{"3.7.18", "3.8.9", rabbitconf.Supported, rabbitconf.Supported, "3.8.9"},
		{"3.7.17", "3.8.9", rabbitconf.Unsupported, rabbitconf.Unsupported, "3.7.18 3.8.9"},
		{"3.6.16", "3.8.9", rabbitconf.Unsupported, rabbitconf.Unsupported, ""},
		// Newer than the table: unknown, but for what could not even become the newest it knows.
		{"4.3.6", "4.4.0", rabbitconf.Unknown, rabbitconf.Unknown, ""},
		{"4.4.0", "5.0.0", rabbitconf.Unknown, rabbitconf.Unknown, ""},
		{"4.2.3", "4.4.0", rabbitconf.Unknown, rabbitconf.Unknown, ""},
		{"4.1.8", "4.4.0", rabbitconf.Unsupported, rabbitconf.Unsupported, ""},
		{"3.10.8", "5.0.0", rabbitconf.Unsupported, rabbitconf.Unsupported, ""},
		{"4.4.0", "4.3.6", rabbitconf.Unsupported, rabbitconf.Unknown, ""},
		{"3.6.0", "3.7.0", rabbitconf.Unknown, rabbitconf.Unknown, ""},
	} {
		from, to := v(t, test.from), v(t, test.to)
		if got := rabbitconf.Upgrade(from, to); got != test.upgrade {
			t.Errorf("%s → %s: %v, want %v", from, to, got, test.upgrade)
		}
		for _, pair := range [][2]rabbitconf.Version{{from, to}, {to, from}} {
			if got := rabbitconf.Mix(pair[0], pair[1]); got != test.mix {
				t.Errorf("%s beside %s: %v, want %v", pair[0], pair[1], got, test.mix)
			}
		}
		var path []string
		for _, step := range rabbitconf.Path(from, to) {
			path = append(path, step.String())
		}
		if got := strings.Join(path, " "); got != test.path && from.Compare(to) <= 0 {
			t.Errorf("the way from %s to %s: %q, want %q", from, to, got, test.path)
		}
	}
}

// Each step of a way is an upgrade that RabbitMQ supports, and nodes can make it one by one.
func TestPathsAreSupported(t *testing.T) {
	all := strings.Fields("3.7.18 3.8.10 3.9.0 3.10.8 3.11.5 3.11.18 3.12.14 3.13.7 4.0.5 4.1.2 4.2.3 4.3.6")
	for i, a := range all {
		for _, b := range all[i+1:] {
			at := v(t, a)
			way := rabbitconf.Path(at, v(t, b))
			if len(way) == 0 {
				t.Errorf("no way from %s to %s", a, b)
			}
			for _, next := range way {
				if rabbitconf.Upgrade(at, next) != rabbitconf.Supported || rabbitconf.Mix(at, next) != rabbitconf.Supported {
					t.Errorf("%s → %s: the step from %s to %s is not supported", a, b, at, next)
				}
				at = next
			}
		}
	}
}

// testdata/feature_flags holds what real servers left on their first start.
func flagsOf(t *testing.T, version string) []string {
	t.Helper()
	flags, err := rabbitconf.ReadFlags(filepath.Join("testdata", "feature_flags", version))
	if err != nil {
		t.Fatal(err)
	}
	return flags
}

func TestFlagsTellTheVersion(t *testing.T) {
	for version, least := range map[string]string{"3.10.8": "3.10.0", "4.0.5": "4.0.0", "4.3.6": "4.3.1"} {
		flags := flagsOf(t, version)
		if got := rabbitconf.AtLeast(flags); got.String() != least {
			t.Errorf("the flags of %s are of %s at least, want %s", version, got, least)
		}
		if missing := rabbitconf.Missing(flags, v(t, version)); len(missing) > 0 {
			t.Errorf("%s requires %v, and does not enable them", version, missing)
		}
	}
	for _, test := range []struct{ flags, least string }{
		{"", "0.0.0"},
		{"somebody_elses", "0.0.0"},
		{"rabbitmq_5.1.0", "5.1.0"},
		{"rabbitmq_management_x", "0.0.0"},
		{"quorum_queue classic_queue_type_delivery_support", "3.10.9"},
	} {
		if got := rabbitconf.AtLeast(strings.Fields(test.flags)); got.String() != test.least {
			t.Errorf("%q is of %s at least, want %s", test.flags, got, test.least)
		}
	}
}

func TestReadFlags(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flags")
	if _, err := rabbitconf.ReadFlags(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	for text, want := range map[string][]string{"[].\n": {}, "['rabbitmq_4.0.0',\n quorum_queue].": {"rabbitmq_4.0.0", "quorum_queue"}} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := rabbitconf.ReadFlags(path); err != nil || got == nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "[a", "a.", "[a]. [b].", `["a"].`, "[{a,b}]."} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := rabbitconf.ReadFlags(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

func TestJudge(t *testing.T) {
	of310, of40, of43 := flagsOf(t, "3.10.8"), flagsOf(t, "4.0.5"), flagsOf(t, "4.3.6")
	without := func(flags []string, which ...string) []string {
		return slices.DeleteFunc(slices.Clone(flags), func(f string) bool { return slices.Contains(which, f) })
	}
	of42 := without(of43, "rabbitmq_4.3.0", "track_qq_members_uids", "tie_binding_to_dest_with_keep_while_cond", "topic_binding_projection_v4", "topic_binding_projection_v5")
	for _, test := range []struct {
		name    string
		last    string
		flags   []string
		to      string
		verdict rabbitconf.Verdict
		says    string // of the jump
	}{
		{"the same", "4.0.5", of40, "4.0.5", rabbitconf.Supported, ""},
		{"nothing known", "", nil, "4.3.6", rabbitconf.Unknown, ""},
		{"nothing enabled", "", []string{}, "4.3.6", rabbitconf.Unknown, ""},
		{"no file of flags", "4.2.3", nil, "4.3.6", rabbitconf.Supported, ""},
		{"3.10 to 4.0", "3.10.8", of310, "4.0.5", rabbitconf.Unsupported, "from 3.10.8"},
		{"3.10 to 4.0, adopted", "", of310, "4.0.5", rabbitconf.Unsupported, "from 3.10.0 or later, missing 11"},
		{"3.10 to 3.11, adopted", "", of310, "3.11.5", rabbitconf.Unknown, "from 3.10.0 or later"},
		{"4.0 to 4.3", "4.0.5", of40, "4.3.6", rabbitconf.Unsupported, "missing 3"},
		{"4.0 to 4.3, adopted", "", of40, "4.3.6", rabbitconf.Unsupported, "or later, missing 3"},
		{"4.0 to 4.3 by way of 4.2, adopted", "", of42, "4.3.6", rabbitconf.Unknown, "from 4.2.0 or later"},
		{"4.2 to 4.3", "4.2.3", of42, "4.3.6", rabbitconf.Supported, "from 4.2.3"},
		{"4.2 to 4.3 without Khepri", "4.2.3", without(of42, "khepri_db"), "4.3.6", rabbitconf.Unsupported, "missing 1"},
		{"4.2 to 4.4 without Khepri", "4.2.3", without(of42, "khepri_db"), "4.4.0", rabbitconf.Unsupported, "missing 1"},
		{"4.0 to 4.2", "4.0.5", of40, "4.2.3", rabbitconf.Supported, ""},
		{"4.0 on Khepri to 4.2", "4.0.5", append(slices.Clone(of40), "khepri_db"), "4.2.3", rabbitconf.Supported, ""},
		{"4.0 on Khepri to 4.3", "4.0.5", append(slices.Clone(of40), "khepri_db"), "4.3.6", rabbitconf.Unsupported, "missing 2"},
		{"3.13 to 4.2", "3.13.7", without(of40, "rabbitmq_4.0.0", "rabbit_exchange_type_local_random"), "4.2.3", rabbitconf.Supported, ""},
		{"3.13 on Khepri to 4.2", "3.13.7", append(without(of40, "rabbitmq_4.0.0", "rabbit_exchange_type_local_random"), "khepri_db"), "4.2.3", rabbitconf.Unsupported, "store"},
		{"3.13 to 4.0 with a flag disabled", "3.13.7", without(of40, "rabbitmq_4.0.0", "message_containers"), "4.0.5", rabbitconf.Unsupported, "missing 1"},
		{"back", "4.3.6", of43, "4.0.5", rabbitconf.Unsupported, "down"},
		{"back, adopted", "", of43, "4.0.5", rabbitconf.Unsupported, "down"},
		{"back, patch", "4.0.7", of40, "4.0.5", rabbitconf.Unsupported, "down"},
		{"back, flags not enabled yet", "4.3.6", of42, "4.2.3", rabbitconf.Unsupported, "down"},
		{"the official image ran a later one in between", "4.0.5", of42, "4.3.6", rabbitconf.Unknown, "from 4.2.0 or later"},
		{"and this one is not to follow", "4.0.5", of43, "4.2.3", rabbitconf.Unsupported, "down"},
		{"a later one ran, its flags are not enabled", "4.2.3", of40, "4.3.6", rabbitconf.Unsupported, "from 4.2.3, missing 3"},
		{"unknown series", "4.3.6", of43, "4.4.0", rabbitconf.Unknown, ""},
		{"back from an unknown series", "", []string{"rabbitmq_4.4.0"}, "4.3.6", rabbitconf.Unsupported, "down"},
	} {
		j := rabbitconf.Judge(v(t, test.last), test.flags, v(t, test.to))
		said := "from " + j.From.String()
		if j.Bound {
			said += " or later"
		}
		if j.Down {
			said += ", down"
		}
		if j.Store {
			said += ", store"
		}
		if len(j.Missing) > 0 {
			said += fmt.Sprintf(", missing %d", len(j.Missing))
		}
		if j.Verdict != test.verdict || !strings.Contains(said, test.says) {
			t.Errorf("%s: verdict %v (%s), want %v (%s)", test.name, j.Verdict, said, test.verdict, test.says)
		}
	}
}
