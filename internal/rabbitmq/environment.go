package rabbitmq

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rmq-entrypoint/rabbitconf"
)

// User is whom the server runs as in the official image.
const User = "rabbitmq"

// deprecated are the variables on which the official entrypoint gives up.
var deprecated = []string{
	"RABBITMQ_DEFAULT_PASS_FILE", "RABBITMQ_DEFAULT_USER_FILE",
	"RABBITMQ_MANAGEMENT_SSL_CACERTFILE", "RABBITMQ_MANAGEMENT_SSL_CERTFILE", "RABBITMQ_MANAGEMENT_SSL_DEPTH",
	"RABBITMQ_MANAGEMENT_SSL_FAIL_IF_NO_PEER_CERT", "RABBITMQ_MANAGEMENT_SSL_KEYFILE", "RABBITMQ_MANAGEMENT_SSL_VERIFY",
	"RABBITMQ_SSL_CACERTFILE", "RABBITMQ_SSL_CERTFILE", "RABBITMQ_SSL_DEPTH", "RABBITMQ_SSL_FAIL_IF_NO_PEER_CERT",
	"RABBITMQ_SSL_KEYFILE", "RABBITMQ_SSL_VERIFY", "RABBITMQ_VM_MEMORY_HIGH_WATERMARK",
}

func RefuseDeprecated(getenv func(string) string) error {
	set := slices.DeleteFunc(slices.Clone(deprecated), func(n string) bool { return getenv(n) == "" })
	if len(set) > 0 {
		return fmt.Errorf("%s: no longer supported by the RabbitMQ image: use a configuration file in /etc/rabbitmq/conf.d instead", strings.Join(set, ", "))
	}
	return nil
}

// RefuseCleanup refuses what would make RabbitMQ forget nodes that are down, beside every
// file: the variables of its peer discovery, and terms on the server's command line.
func RefuseCleanup(environ []string) error {
	set := byName(environ)
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if why := rabbitconf.CleanupVariable(name, value); why != "" {
			return fmt.Errorf("%s=%s: %s", name, value, why)
		}
		if hasFlags(name, set) {
			for _, key := range []string{"node_cleanup", "perform_registration"} {
				if strings.Contains(value, key) {
					return fmt.Errorf("%s sets %s of cluster_formation, by which RabbitMQ may forget nodes that are merely stopped, or which does nothing here: take it out", name, key)
				}
			}
		}
	}
	return nil
}

// DropTo gives up root for name: groups, gid, uid and HOME. Others keep theirs. Whoever it is
// then, neither this process nor what it starts gets other rights by what it executes, as by the
// setuid programs of an image.
func DropTo(name string) error {
	if os.Geteuid() != 0 {
		return noNewPrivileges()
	}
	u, err := user.Lookup(name)
	if err != nil {
		return fmt.Errorf("find the user to run as: %w", err)
	}
	uid, gid, groups, err := IDs(name)
	if err != nil {
		return err
	}
	err = syscall.Setgroups(groups)
	if err == nil {
		err = syscall.Setgid(gid)
	}
	if err == nil { // last: who has the user's id and root's groups has too much of both
		err = syscall.Setuid(uid)
	}
	if err != nil {
		return fmt.Errorf("become %s: %w: this takes CAP_SETUID and CAP_SETGID; without them run the container as that user (user: %s, --user)", name, err, name)
	}
	return errors.Join(noNewPrivileges(), os.Setenv("HOME", u.HomeDir))
}

// noNewPrivileges sets no_new_privs in all threads, since any of them may be the one that starts
// a program. A program that cgo is part of can only set it in one.
func noNewPrivileges() error {
	_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	if errno == syscall.ENOTSUP {
		errno = 0
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("set no_new_privs: %w", err)
		}
	}
	if errno != 0 {
		return fmt.Errorf("set no_new_privs: %w", errno)
	}
	return nil
}

// IDs returns who name is, and all groups that [DropTo] gives him.
func IDs(name string) (uid, gid int, groups []int, err error) {
	u, err := user.Lookup(name)
	if err != nil {
		return 0, 0, nil, fmt.Errorf("find the user to run as: %w", err)
	}
	ids, err := u.GroupIds()
	if err != nil {
		return 0, 0, nil, fmt.Errorf("find the groups of %s: %w", name, err)
	}
	for _, id := range ids {
		if n, err := strconv.Atoi(id); err == nil {
			groups = append(groups, n)
		}
	}
	uid, uerr := strconv.Atoi(u.Uid)
	gid, gerr := strconv.Atoi(u.Gid)
	return uid, gid, groups, errors.Join(uerr, gerr)
}

// noDotErlang starts Erlang without .erlang. That is a file of commands in the home directory of
// whoever starts Erlang, which runs them as that user. In RabbitMQ's image everybody may put files
// there. Of several -boot the first counts (measured on OTP 25, 27 and 29), so this one is put
// before all others. What start_sasl starts besides, RabbitMQ starts by itself.
const noDotErlang = "-boot no_dot_erlang"

// WithoutDotErlang is env, in which no Erlang runs a .erlang, where that Erlang has the boot
// file for it.
func WithoutDotErlang(env []string) []string {
	if !bootsWithoutDotErlang() {
		return env
	}
	return withFlags(env, "ERL_AFLAGS", noDotErlang, func(users string) string { // or ours, seen again
		return strings.TrimSpace(noDotErlang + " " + strings.TrimSpace(strings.TrimPrefix(users, noDotErlang)))
	})
}

// withFlags is env, in which a variable of Erlang's flags has ours, or with the user's what both make.
func withFlags(env []string, variable, ours string, both func(users string) string) []string {
	flags := ours
	rest := slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		value, found := strings.CutPrefix(kv, variable+"=")
		if value = strings.TrimSpace(value); found && value != "" {
			flags = both(value)
		}
		return found
	})
	return append(rest, variable+"="+flags)
}

// WithStopTimeout is env, in which an Erlang that was told to stop ends once that has taken d,
// whatever still stops then: by itself it waits for ever. Nor does it wait for what it could not
// send to another node: a halt has no end before that is sent or the kernel gives the connection up,
// minutes after a cut, and nothing in Erlang ends it then. RabbitMQ has clients' connections so
// by itself. What the user gave counts: of two the first does. Measured on OTP 25, 27 and 29.
func WithStopTimeout(env []string, d time.Duration) []string {
	const unsent = "[{linger,{true,0}}]"
	ours := fmt.Sprintf("-shutdown_time %d -kernel inet_dist_connect_options %s -kernel inet_dist_listen_options %s", d.Milliseconds(), unsent, unsent)
	return withFlags(env, "ERL_ZFLAGS", ours, func(users string) string { return users + " " + ours })
}

// bootsWithoutDotErlang reports whether the Erlang on PATH has the boot file: it lies beside
// the program itself.
func bootsWithoutDotErlang() bool {
	erl, err := exec.LookPath("erl")
	if err == nil {
		erl, err = filepath.EvalSymlinks(erl)
	}
	if err == nil {
		_, err = os.Stat(filepath.Join(filepath.Dir(erl), "no_dot_erlang.boot"))
	}
	return err == nil
}

// ServerEnv is env without what the server must not see, and with set, each
// variable once: of two, a shell takes the last and a C program the first. No Erlang that gets
// it runs a .erlang.
func ServerEnv(env []string, set ...string) []string {
	out := slices.Clone(set)
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		if slices.ContainsFunc(set, func(s string) bool { return strings.HasPrefix(s, name+"=") }) {
			continue
		}
		switch name {
		case "CONSUL_HTTP_TOKEN", "CONSUL_HTTP_TOKEN_FILE", "RABBITMQ_ERLANG_COOKIE", "RABBITMQ_ERLANG_COOKIE_FILE",
			"CONSUL_HTTP_AUTH", "RMQ_AMQP_URL", "RMQ_AMQP_URL_FILE", "RMQ_BROKERS", "NOTIFY_SOCKET", "RMQ_ENTRYPOINT_SESSION",
			"RMQ_ENTRYPOINT_TOKEN_READ_ONCE":
		default:
			out = append(out, kv)
		}
	}
	return WithoutDotErlang(out)
}
