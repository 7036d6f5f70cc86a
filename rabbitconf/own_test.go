package rabbitconf

import (
	"os"
	"path/filepath"
	"testing"

	"rmq-entrypoint/tests/expect"
)

// What RabbitMQ reads as the user's is known by any of its names, before it is there, too.
func TestFilesRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, d := range []string{"conf.d/deep/er", "free"} {
		expect.Must(t, os.MkdirAll(in(d), 0o755))
	}
	for _, f := range []string{"advanced.config", "conf.d/10.conf"} {
		expect.Must(t, os.WriteFile(in(f), nil, 0o644))
	}
	for link, to := range map[string]string{"linked": "conf.d", "free/link": "../advanced.config", "adv.link": "advanced.config"} {
		expect.Must(t, os.Symlink(to, in(link)))
	}
	const conf, confs, advanced = "RABBITMQ_CONFIG_FILE", "RABBITMQ_CONFIG_FILES", "RABBITMQ_ADVANCED_CONFIG_FILE"
	for _, c := range []struct{ path, confD, want string }{
		{"rabbitmq.config", "", conf}, {"rabbitmq.conf", "", conf}, {"rabbitmq", "", conf}, {"free/../rabbitmq.config", "", conf}, {"rabbitmq.config.x", "", ""},
		{"advanced.config", "", advanced}, {"free/link", "", advanced}, {"adv.link", "", advanced}, {"free/advanced.config", "", ""},
		{"conf.d/10.conf", "conf.d", confs}, {"conf.d/new", "conf.d", confs}, {"linked/new", "conf.d", confs}, {"conf.d/new", "linked", confs},
		{"conf.d/new.conf", "conf.d/*.conf", confs}, {"conf.d/new.config", "conf.d/*.conf", ""}, {"conf.d/deep/new.conf", "conf.d/*.conf", ""}, {"conf.d/x.conf", "{conf.d,other}/{x,y}.conf", confs},
		{"conf.d/deep/er/x.conf", "conf.d/**/*.conf", confs}, {"conf.d/x.conf", "conf.d/**/*.conf", confs}, {"conf.d/deep/x", "conf.d/**", confs}, {"free/x.conf", "conf.d/**/*.conf", ""},
		{"conf.d/deep/er/x.conf", "conf.d/**/er/*.conf", confs}, {"conf.d/deep/x.conf", "conf.d/**/er/*.conf", ""}, {"conf.d/deep/x.conf", "*/deep/*.conf", confs}, {"none/x.conf", "none/*.conf", ""},
	} {
		f := Files{Conf: in("rabbitmq"), Advanced: in("advanced.config")}
		if c.confD != "" {
			f.ConfD = in(c.confD)
		}
		if by, err := f.Read(in(c.path)); err != nil || by != c.want {
			t.Errorf("%s, files %s: %q, %v; want %q", c.path, c.confD, by, err, c.want)
		}
	}
	if by, err := (Files{Conf: in("rabbitmq"), Advanced: in("adv.link")}).Read(in("advanced.config")); err != nil || by != advanced {
		t.Errorf("what the user's file links to: %q, %v", by, err)
	}
	if _, err := (Files{ConfD: in("{a")}).Read(in("x")); err == nil {
		t.Error("a pattern that RabbitMQ does not take is taken")
	}
}

func TestOurs(t *testing.T) {
	t.Parallel()
	rendered, err := Render(Options{Node: "rabbit@a"})
	expect.Must(t, err)
	path := filepath.Join(t.TempDir(), "x.config")
	if ours, err := Ours(path); err != nil || !ours {
		t.Errorf("what is not there: %t, %v", ours, err)
	}
	for text, want := range map[string]bool{"": true, string(rendered): true, "\x00\x00\x00": true, "[].\n": false, "%% Written by hand\n": false, "\n": false} {
		expect.Must(t, os.WriteFile(path, []byte(text), 0o644))
		if ours, err := Ours(path); err != nil || ours != want {
			t.Errorf("%.30q: %t, %v", text, ours, err)
		}
	}
	if ours, err := Ours(t.TempDir()); err == nil || ours {
		t.Errorf("a directory: %t, %v", ours, err)
	}
}
