package statedir

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/rabbitconf"
	"rmq-entrypoint/tests/expect"
)

func TestErlangAt(t *testing.T) {
	root := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, "releases", name)
		expect.Must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		expect.Must(t, os.WriteFile(path, []byte(text), 0o600))
	}
	want := func(version string) {
		t.Helper()
		if got := erlangAt(root); got != version {
			t.Errorf("Erlang %q, want %q", got, version)
		}
	}
	want("")
	put("start_erl.data", "15.2.7 27")
	want("27")
	put("26/OTP_VERSION", "26.2.5\n")
	put("27/OTP_VERSION", "27.3.4.1\n")
	want("27.3.4.1")
	put("27/OTP_VERSION", "27.3.4.1**\n")
	want("27.3.4.1")
	put("start_erl.data", "")
	want("")
	if erlangJump("27.3", "25.2.3") == "" || erlangJump("27.3", "27.1") != "" || erlangJump("", "25") != "" || erlangJump("25", "") != "" {
		t.Error("an older Erlang is told by its major version alone")
	}
}

// Where rabbit_env:get_context/0 of 3.10.8, 4.0.5 and 4.3.6 has the feature flags, told where the
// data are.
func TestFlagsFile(t *testing.T) {
	for _, c := range []struct {
		env  []string
		want string
	}{
		{nil, "/var/lib/rabbitmq/mnesia/a@b-feature_flags"},
		{[]string{"RABBITMQ_DATA_DIR=/d"}, "/d/mnesia/a@b-feature_flags"},
		{[]string{"RABBITMQ_DATA_DIR=/d", "MNESIA_BASE=/m/"}, "/m/a@b-feature_flags"},
		{[]string{"RABBITMQ_DATA_DIR=/d", "RABBITMQ_MNESIA_DIR=/x/y"}, "/var/lib/rabbitmq/mnesia/a@b-feature_flags"},
		{[]string{"RABBITMQ_MNESIA_BASE=/m", "RABBITMQ_FEATURE_FLAGS_FILE=/ff"}, "/ff"},
		{[]string{"FEATURE_FLAGS_FILE=/ff"}, "/var/lib/rabbitmq/mnesia/a@b-feature_flags"},
	} {
		getenv := expect.Environ(append(c.env, "RABBITMQ_NODENAME=a@b")...)
		cfg, err := config.FromEnvironment(getenv)
		expect.Must(t, err)
		if got := flagsFile(cfg, getenv); got != c.want {
			t.Errorf("%v: %s, want %s", c.env, got, c.want)
		}
	}
}

// Witnesses that disagree: the highest counts.
func TestRanLast(t *testing.T) {
	dir := t.TempDir()
	vol := Dir{filepath.Join(dir, "data"), dir}
	if got := vol.LastRan(); got != (Versions{}) {
		t.Errorf("nothing: %v", got)
	}
	expect.Must(t, writeJSON(vol.file("member"), Marker{ClusterID: "id", Volume: "v", RabbitMQ: "4.0.5", Erlang: "27"}))
	four := rabbitconf.Version{Major: 4, Minor: 0, Patch: 5}
	if got := vol.LastRan(); got != (Versions{four, "27"}) {
		t.Errorf("marker: %v", got)
	}
	expect.Must(t, vol.Stamp(rabbitconf.Version{Major: 4, Minor: 2}, "28", time.Now()))
	if got := vol.LastRan(); got.String() != "RabbitMQ 4.2.0 (Erlang 28)" {
		t.Errorf("stamp: %v", got)
	}
	expect.Must(t, vol.Stamp(rabbitconf.Version{Major: 3, Minor: 13}, "26", time.Now()))
	if got := vol.LastRan(); got != (Versions{four, "27"}) {
		t.Errorf("a jump down that was let through and has not served: %v", got)
	}
	expect.Must(t, os.WriteFile(vol.file("version"), []byte("{"), 0o600))
	if got := vol.LastRan(); got != (Versions{four, "27"}) {
		t.Errorf("a stamp that is damaged: %v", got)
	}
	expect.Must(t, os.WriteFile(vol.file("version"), []byte(`{"rabbitmq":"of mine"}`), 0o600))
	if got := vol.LastRan(); !slices.Contains([]Versions{{four, "27"}}, got) {
		t.Errorf("a stamp of no version: %v", got)
	}
}
