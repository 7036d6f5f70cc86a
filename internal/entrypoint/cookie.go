package entrypoint

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/rabbitconf"
)

var errNoCookie = errors.New("no shared cookie: every node would make its own and none could join another; set RABBITMQ_ERLANG_COOKIE (or RABBITMQ_ERLANG_COOKIE_FILE) to the same secret on every node")

// cookie makes sure that there is a shared one, readable by its owner alone, and warns of one that
// can be guessed.
func cookie(log *slog.Logger, home string) error {
	path := filepath.Join(home, ".erlang.cookie")
	if err := establish(log, path); err != nil {
		return err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the cookie file: %w", err)
	}
	if why := guessable(strings.TrimSpace(string(b))); why != "" {
		log.Warn("THE ERLANG COOKIE CAN BE GUESSED, and who has it controls every node: stop all nodes, remove the file on each, and set RABBITMQ_ERLANG_COOKIE to another one, as openssl rand -hex 24 makes", "why", why, "file", path)
	}
	return nil
}

// leastCookie is how long a cookie is at least that nobody tries out: Erlang's own have 20 capital
// letters. One node's answer to a handshake is enough to try as many as one likes.
const leastCookie = 20

// guessable returns why a cookie is no secret, without repeating it, or "".
func guessable(c string) string {
	lower := strings.ToLower(c)
	switch {
	case strings.HasPrefix(lower, "example"), strings.Contains(lower, "change-me"), strings.Contains(lower, "changeme"), strings.Contains(lower, "change_me"):
		return "it is an example's"
	case len(c) < leastCookie:
		return fmt.Sprintf("it has %d characters, and should have %d or more", len(c), leastCookie)
	case len(strings.Trim(c, c[:1])) == 0:
		return "it is one character over and over"
	}
	return ""
}

// establish sees to the cookie's file. One that is empty, or holds the beginning of the cookie, was
// left by a writer that was cut off.
func establish(log *slog.Logger, path string) error {
	_, write, err := judgeCookie(log, path)
	switch {
	case err != nil:
		return err
	case write == "":
		return closeCookie(log, path)
	}
	if err := rabbitconf.WriteMode(path, []byte(write), 0o400); err != nil {
		return fmt.Errorf("write the cookie file: %w", err)
	}
	return nil
}

// SeenCookie judges the cookie of this node and its file in home as a start would, and changes
// nothing. Weak says why the cookie can be guessed, or is "".
func SeenCookie(cfg config.Config) (weak string, err error) {
	path := filepath.Join(cfg.Home, ".erlang.cookie")
	is, write, err := judgeCookie(slog.New(slog.DiscardHandler), path)
	if cfg.Single && errors.Is(err, errNoCookie) { // it makes one
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if info, err := os.Stat(path); write == "" && err == nil && info.Mode().Perm()&0o077 != 0 {
		return "", openCookie(path, info.Mode().Perm())
	}
	return guessable(is), nil
}

func openCookie(path string, mode fs.FileMode) error {
	return fmt.Errorf("cookie file %s can be read by others (mode %04o), and Erlang refuses that: chmod 400 %s", path, mode, path)
}

// judgeCookie returns the cookie, and what is to be written into its file; "": it is there already.
func judgeCookie(log *slog.Logger, path string) (is, write string, err error) {
	given, err := config.Secret(os.Getenv, "RABBITMQ_ERLANG_COOKIE")
	if err != nil {
		return "", "", err
	}
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", "", fmt.Errorf("read the cookie file: %w: it must belong to uid %d, which RabbitMQ runs as; or give it as RABBITMQ_ERLANG_COOKIE_FILE from another place, from where it is copied", err, os.Geteuid())
	}
	have, given := strings.TrimRight(string(b), "\r\n"), strings.TrimRight(given, "\r\n") // of the file's end, as Erlang reads it
	want := strings.TrimSpace(given)
	switch there := err == nil; {
	case want != "":
		if err := validCookie(want); err != nil {
			return "", "", fmt.Errorf("RABBITMQ_ERLANG_COOKIE (or RABBITMQ_ERLANG_COOKIE_FILE): %w", err)
		}
	case strings.TrimSpace(have) != "":
		if err := validCookie(have); err != nil {
			return "", "", fmt.Errorf("cookie file %s: %w", path, err)
		}
		return have, "", nil
	case there:
		return "", "", fmt.Errorf("cookie file %s is empty: remove it, and set RABBITMQ_ERLANG_COOKIE (or RABBITMQ_ERLANG_COOKIE_FILE) to the same secret on every node", path)
	default:
		return "", "", errNoCookie
	}
	switch {
	case have == want:
		return have, "", nil
	case have == given && validCookie(have) == nil:
		// The official image's: with the space it is another cookie, and that of its cluster.
		log.Warn("the cookie ends or begins with a space, in its file and in RABBITMQ_ERLANG_COOKIE: a node on an empty volume leaves that out, and cannot join this one: take it out of the variable, and remove the file on each node while all are stopped", "file", path)
		return have, "", nil
	case strings.TrimSpace(have) != want && !strings.HasPrefix(want, strings.TrimSpace(have)):
		return "", "", fmt.Errorf("cookie file %s on the volume differs from RABBITMQ_ERLANG_COOKIE: set the variable to what the cluster uses, or remove the file if the variable is right on every node", path)
	}
	return want, want, nil
}

// validCookie judges a cookie as Erlang does when it reads its file (measured on OTP 25 and
// 28). Its errors repeat nothing of it.
func validCookie(c string) error {
	if len(c) > 255 {
		return fmt.Errorf("a cookie of %d characters: Erlang takes up to 255", len(c))
	}
	for i, r := range c {
		if r < ' ' || r > '~' {
			return fmt.Errorf("character %d of the cookie is a tab, a line break, a control character or outside ASCII: Erlang takes printable ASCII characters", i+1)
		}
	}
	return nil
}

// closeCookie keeps others from reading a cookie file that is ours. Kubernetes gives all
// files of a volume with an fsGroup to the group, before each start.
func closeCookie(log *slog.Logger, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	mode := info.Mode().Perm()
	if mode&0o077 == 0 {
		return nil
	}
	refused := openCookie(path, mode)
	if mode&0o007 != 0 { // by everybody: no kubelet does that, and who else read it is not known
		return refused
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() {
		return refused
	}
	if err := os.Chmod(path, 0o400); err != nil {
		return fmt.Errorf("%w (%w)", refused, err)
	}
	if info, err = os.Stat(path); err != nil || info.Mode().Perm()&0o077 != 0 { // CIFS, for one, takes no modes
		return fmt.Errorf("%w; the file system keeps no modes: put the volume on one that does", refused)
	}
	log.Info("the cookie file was readable by its group, as a Kubernetes volume with an fsGroup makes it: closed it", "file", path, "was", fmt.Sprintf("%04o", mode))
	return nil
}
