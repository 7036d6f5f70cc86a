package entrypoint

import (
	"os"
	"path/filepath"
	"testing"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/tests/expect"
)

// RabbitMQ's command line makes a cookie where it finds none. Asked for the version, it does not make the node's: that is
// the one that the settings have, and a node with another one is refused.
func TestVersionMakesNoCookie(t *testing.T) {
	bin, home, temporary := t.TempDir(), t.TempDir(), t.TempDir()
	const tool = "#!/bin/sh\n[ -e \"$HOME/.erlang.cookie\" ] || echo MADE >\"$HOME/.erlang.cookie\"\necho 3.10.8\n"
	expect.Must(t, os.WriteFile(filepath.Join(bin, "rabbitmqctl"), []byte(tool), 0o755))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	t.Setenv("HOME", home)
	t.Setenv("TMPDIR", temporary)
	none := func(string) string { return "" }
	cfg := config.Config{Node: "rabbit@localhost", Home: home}
	if v, err := serverVersion(t.Context(), cfg, none); err != nil || v.String() != "3.10.8" {
		t.Errorf("%v, %v", v, err)
	}
	for _, dir := range []string{home, temporary} {
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("it leaves %v, %v", left, err)
		}
	}
	t.Setenv("TMPDIR", filepath.Join(temporary, "none"))
	if _, err := serverVersion(t.Context(), cfg, none); err == nil {
		t.Error("there is nowhere to make a home, and it says nothing")
	} else {
		expect.Says(t, err.Error(), "RABBITMQ_VERSION", "none")
	}
}
