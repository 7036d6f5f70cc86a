package companion

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/expect"
)

// A token that only root could read is replaced in vain: Consul's no says what to do.
func TestDeniedWithTokenReadOnce(t *testing.T) {
	denied := error(&peers.DeniedError{Right: "key:read", Err: errors.New("ACL not found")})
	for _, c := range []struct {
		file   string
		missed error
		says   bool
	}{
		{"/run/secrets/token", denied, true},
		{"/run/secrets/token", errors.New("no leader"), false},
		{"", denied, false},
	} {
		t.Setenv(config.TokenReadOnce, c.file)
		var said bytes.Buffer
		s := services{log: slog.New(slog.NewTextHandler(&said, nil)), outage: outage{why: c.missed}}
		s.logOutage()
		if !c.says {
			if bytes.Contains(said.Bytes(), []byte("restart")) {
				t.Errorf("%q, %v: %s", c.file, c.missed, said.String())
			}
			continue
		}
		expect.Says(t, said.String(), "key:read", c.file, "CONSUL_HTTP_TOKEN_FILE", "restart the container")
	}
}
