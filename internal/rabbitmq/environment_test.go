package rabbitmq

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"rmq-entrypoint/tests/expect"
)

// erlangOnPath puts an erl of its own on PATH, as a link as distributions have it, with the boot file beside it or not.
func erlangOnPath(t *testing.T, boots bool) {
	t.Helper()
	dir := t.TempDir()
	lib, bin := filepath.Join(dir, "lib"), filepath.Join(dir, "bin")
	for _, d := range []string{lib, bin} {
		expect.Must(t, os.Mkdir(d, 0o755))
	}
	expect.Must(t, os.WriteFile(filepath.Join(lib, "erl"), nil, 0o755))
	expect.Must(t, os.Symlink("../lib/erl", filepath.Join(bin, "erl")))
	if boots {
		expect.Must(t, os.WriteFile(filepath.Join(lib, "no_dot_erlang.boot"), nil, 0o644))
	}
	t.Setenv("PATH", bin)
}

// No Erlang of ours runs a .erlang, whatever flags the user has for Erlang; where there is no boot file for that, Erlang
// starts all the same.
func TestWithoutDotErlang(t *testing.T) {
	for _, test := range []struct {
		boots     bool
		env, want []string
	}{
		{true, nil, []string{"ERL_AFLAGS=-boot no_dot_erlang"}},
		{true, []string{"ERL_AFLAGS=", "A=1"}, []string{"A=1", "ERL_AFLAGS=-boot no_dot_erlang"}},
		{true, []string{"ERL_AFLAGS=+S 2 -boot mine"}, []string{"ERL_AFLAGS=-boot no_dot_erlang +S 2 -boot mine"}},
		{true, []string{"ERL_AFLAGS=-boot no_dot_erlang +S 2"}, []string{"ERL_AFLAGS=-boot no_dot_erlang +S 2"}}, // ours, seen again
		{true, []string{"ERL_FLAGS=-boot start_sasl"}, []string{"ERL_FLAGS=-boot start_sasl", "ERL_AFLAGS=-boot no_dot_erlang"}},
		{false, []string{"ERL_AFLAGS=+S 2"}, []string{"ERL_AFLAGS=+S 2"}},
	} {
		erlangOnPath(t, test.boots)
		given := slices.Clone(test.env)
		if got := ServerEnv(test.env); !slices.Equal(got, test.want) || !slices.Equal(test.env, given) {
			t.Errorf("boot file %t, %q: %q, want %q", test.boots, test.env, got, test.want)
		}
	}
}

// What the server gets: each variable once, and no secret that is not its own.
func TestServerEnvironment(t *testing.T) {
	erlangOnPath(t, false)
	got := ServerEnv([]string{
		"PATH=/bin", "CONSUL_HTTP_TOKEN=x", "CONSUL_HTTP_TOKEN_FILE=x", "CONSUL_HTTP_AUTH=x", "RMQ_ENTRYPOINT_TOKEN_READ_ONCE=x", "RABBITMQ_ERLANG_COOKIE=x", "RABBITMQ_ERLANG_COOKIE_FILE=x",
		"RMQ_AMQP_URL=x", "RMQ_AMQP_URL_FILE=x", "RMQ_BROKERS=x", "NOTIFY_SOCKET=x", "RMQ_ENTRYPOINT_SESSION=x", "RABBITMQ_DEFAULT_PASS=kept", "EMPTY=", "RMQ_SERVICE=a=b",
	})
	if want := []string{"PATH=/bin", "RABBITMQ_DEFAULT_PASS=kept", "EMPTY=", "RMQ_SERVICE=a=b"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// Once it stepped down, also as the user that it was from the start, nothing that it executes gains other rights.
func TestNoNewPrivileges(t *testing.T) {
	const child = "RMQ_TEST_NO_NEW_PRIVS"
	if os.Getenv(child) != "" {
		runtime.LockOSThread() // with cgo it is so in this thread alone
		fmt.Println(DropTo("rabbitmq"))
		out, err := exec.Command("grep", "NoNewPrivs", "/proc/self/status").Output()
		fmt.Printf("%s%v\n", out, err)
		os.Exit(0)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestNoNewPrivileges$")
	cmd.Env = append(os.Environ(), child+"=1", "GOCOVERDIR="+t.TempDir())
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		self, err := os.ReadFile(os.Args[0]) // it lies in a directory of root's alone
		expect.Must(t, err)
		dir, err := os.MkdirTemp("", "privs")
		expect.Must(t, err)
		defer os.RemoveAll(dir)
		cmd.Path = filepath.Join(dir, "test")
		expect.Must(t, errors.Join(os.Chmod(dir, 0o755), os.WriteFile(cmd.Path, self, 0o755)))
	}
	out, err := cmd.CombinedOutput()
	if want := "<nil>\nNoNewPrivs:\t1\n<nil>\n"; err != nil || string(out) != want {
		t.Errorf("%v, %q, want %q", err, out, want)
	}
}

// A stop has a bound of Erlang's own, unless the user gave it one: of two flags the first counts.
func TestWithStopTimeout(t *testing.T) {
	const ours = "-shutdown_time 14000 -kernel inet_dist_connect_options [{linger,{true,0}}] -kernel inet_dist_listen_options [{linger,{true,0}}]"
	for _, c := range []struct{ env, want []string }{
		{nil, []string{"ERL_ZFLAGS=" + ours}},
		{[]string{"A=1", "ERL_ZFLAGS= "}, []string{"A=1", "ERL_ZFLAGS=" + ours}},
		{[]string{"ERL_ZFLAGS=-shutdown_time 5 +S 2", "A=1"}, []string{"A=1", "ERL_ZFLAGS=-shutdown_time 5 +S 2 " + ours}},
	} {
		if got := WithStopTimeout(c.env, 14*time.Second); !slices.Equal(got, c.want) {
			t.Errorf("%q: %q, want %q", c.env, got, c.want)
		}
	}
}
