package entrypoint

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rmq-entrypoint/tests/expect"
)

// The cookie file is the server's alone, and keeps what the variable said.
func TestCookieFile(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for _, c := range []struct{ env, file string }{{"RABBITMQ_ERLANG_COOKIE", "crumbs"}, {"RABBITMQ_ERLANG_COOKIE_FILE", "from a file"}} {
		home := t.TempDir()
		value := c.file
		if c.env == "RABBITMQ_ERLANG_COOKIE_FILE" {
			value = filepath.Join(t.TempDir(), "secret")
			expect.Must(t, os.WriteFile(value, []byte(c.file+"\n"), 0o600))
		}
		t.Setenv("RABBITMQ_ERLANG_COOKIE", "")
		t.Setenv(c.env, value)
		for range 2 { // a restart finds its own
			expect.Must(t, cookie(log, home))
		}
		path := filepath.Join(home, ".erlang.cookie")
		b, err := os.ReadFile(path)
		expect.Must(t, err)
		info, err := os.Stat(path)
		if err != nil || string(b) != c.file || info.Mode().Perm() != 0o400 {
			t.Errorf("%s: %q, %v, %v", c.env, b, info.Mode(), err)
		}
		t.Setenv(c.env, "")
		expect.Must(t, cookie(log, home)) // without the variable the file is the cookie
	}
}

// What people and kubelets do to a cookie's variable and file: started twice each, it is one
// cookie that Erlang takes, or refused with the words.
func TestCookieAsItComes(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	const none = "-"
	for _, c := range []struct {
		given, file string // none: no file
		mode        os.FileMode
		want        string // in the file
		say         string
	}{
		{given: "abc\n", file: none, want: "abc"}, {given: "abc\r\n", file: none, want: "abc"}, {given: "abc ", file: none, want: "abc"}, {given: " abc\t\n", file: none, want: "abc"},
		{given: "a b", file: none, want: "a b"},
		{given: "abc", file: "", mode: 0o400, want: "abc"}, {given: "abc", file: "\n", mode: 0o600, want: "abc"}, {given: "abc", file: "ab", mode: 0o400, want: "abc"},
		{given: "abc", file: "abc\n", mode: 0o400, want: "abc\n"}, {given: "abc\n", file: "abc \n", mode: 0o400, want: "abc"}, {given: "abc\n", file: "abc\t", mode: 0o400, want: "abc"},
		{given: "abc ", file: "abc \n", mode: 0o400, want: "abc \n"}, // the official image's
		{given: "abc\t", file: "abc\t", mode: 0o400, want: "abc"},
		{given: "", file: "abc \n", mode: 0o400, want: "abc \n"},
		{given: "abc", file: "abcd", mode: 0o400, say: "differs from RABBITMQ_ERLANG_COOKIE"}, {given: "abc", file: "bc", mode: 0o400, say: "differs from RABBITMQ_ERLANG_COOKIE"},
		{given: "", file: " \n", mode: 0o400, say: ".erlang.cookie is empty"}, {given: " \n", file: none, say: "no shared cookie"}, {given: "", file: none, say: "no shared cookie"},
		{given: strings.Repeat("x", 255), file: none, want: strings.Repeat("x", 255)}, {given: strings.Repeat("x", 256), file: none, say: "RABBITMQ_ERLANG_COOKIE (or RABBITMQ_ERLANG_COOKIE_FILE): a cookie of 256 characters"},
		{given: "a\tb", file: none, say: "character 2"}, {given: "sekreté", file: none, say: "character 7"}, {given: "", file: "a\nb", mode: 0o400, say: ".erlang.cookie: character 2"},
		{given: "abc", file: "abc", mode: 0o460, want: "abc"}, {given: "", file: "abc", mode: 0o660, want: "abc"}, {given: "abc", file: "abc", mode: 0o440, want: "abc"},
		{given: "abc", file: "abc", mode: 0o644, say: "mode 0644"}, {given: "abc", file: "abc", mode: 0o444, say: "chmod 400"},
	} {
		path := filepath.Join(t.TempDir(), ".erlang.cookie")
		if c.file != none {
			expect.Must(t, os.WriteFile(path, []byte(c.file), 0o600))
			expect.Must(t, os.Chmod(path, c.mode))
		}
		t.Setenv("RABBITMQ_ERLANG_COOKIE", c.given)
		err := cookie(log, filepath.Dir(path))
		if c.say != "" {
			if err == nil || !strings.Contains(err.Error(), c.say) || strings.Contains(err.Error(), "sekret") {
				t.Errorf("%q beside %q, mode %o: %v; want %q", c.given, c.file, c.mode, err, c.say)
			}
			continue
		}
		if err == nil {
			err = cookie(log, filepath.Dir(path))
		}
		b, rerr := os.ReadFile(path)
		if err != nil || rerr != nil || string(b) != c.want {
			t.Errorf("%q beside %q, mode %o: %v, %q, %v", c.given, c.file, c.mode, err, b, rerr)
			continue
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%q beside %q, mode %o: %v, %v", c.given, c.file, c.mode, info.Mode(), err)
		}
	}
}

// A cookie that can be guessed is taken, as it may be a cluster's, and told of at each start; the
// line repeats nothing of it.
func TestCookieThatCanBeGuessed(t *testing.T) {
	for _, c := range []struct {
		given, why string
	}{
		{"example-cookie-change-me", "an example's"}, {"EXAMPLE-of-a-cookie-for-you", "an example's"}, {"please-Change-Me-before-use", "an example's"}, {"rabbitmq_changeme_cookie_", "an example's"},
		{"KWQXNTFDSBVMZPLRYCH", "it has 19 characters"}, {"c", "it has 1 characters"}, {"  KWQXNTFDSBVMZPLRYC  ", "it has 18 characters"},
		{"xxxxxxxxxxxxxxxxxxxxxxxxx", "one character"},
		{"KWQXNTFDSBVMZPLRYCHG", ""}, {"b0d5a1f3c07e44f29b6c9f3a0f6a7c1d2e3f4a5b6c7d8e9f", ""}, {"x y~!$%^&*()_+ of an exam", ""},
	} {
		for _, variable := range []bool{true, false} { // or the file alone
			var log strings.Builder
			home := t.TempDir()
			t.Setenv("RABBITMQ_ERLANG_COOKIE", "")
			if variable {
				t.Setenv("RABBITMQ_ERLANG_COOKIE", c.given)
			} else {
				expect.Must(t, os.WriteFile(filepath.Join(home, ".erlang.cookie"), []byte(c.given), 0o400))
			}
			for i := range 2 {
				log.Reset()
				expect.Must(t, cookie(slog.New(slog.NewTextHandler(&log, nil)), home))
				text := log.String()
				if strings.Count(text, "CAN BE GUESSED") != min(1, len(c.why)) || !strings.Contains(text, c.why) || strings.Contains(text, strings.TrimSpace(c.given)) && len(c.given) > 1 {
					t.Errorf("%q, start %d: the log has %q, want %q", c.given, i, text, c.why)
				}
			}
		}
	}
}
