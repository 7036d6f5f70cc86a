package consul

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"rmq-entrypoint/tests/expect"
)

// An agent at a socket or an address of this host is asked without the proxy that the environment
// names. It is looked up once in a process: so the test is a process of its own.
func TestOwnHostHasNoProxy(t *testing.T) {
	const child = "RMQ_TEST_CHILD"
	if os.Getenv(child) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestOwnHostHasNoProxy$", "-test.count=1")
		cmd.Env = append(os.Environ(), child+"=1", "HTTP_PROXY=http://127.0.0.1:1", "http_proxy=http://127.0.0.1:1", "NO_PROXY=", "no_proxy=")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	dir, err := os.MkdirTemp("", "rmq")
	expect.Must(t, err)
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "consul.sock")
	socket, err := net.Listen("unix", path)
	expect.Must(t, err)
	for addr, l := range map[string]net.Listener{"unix://" + path: socket, "": nil} {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.RequestURI != "/v1/status/leader" {
				t.Errorf("asked as a proxy: %q", r.RequestURI)
			}
			_, _ = w.Write([]byte(`"10.0.0.1:8300"`))
		}))
		if l != nil {
			s.Listener = l
		}
		s.Start()
		if addr == "" {
			addr = s.URL
		}
		client, err := DialConsul(addr)
		expect.Must(t, err)
		if leader, err := client.Status().Leader(); err != nil || leader != "10.0.0.1:8300" {
			t.Errorf("%s: %q, %v", addr, leader, err)
		}
		s.Close()
	}
}
