package companion

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/rabbitconf"
	"rmq-entrypoint/tests/expect"
)

// refuses is a broker that refuses every login, and remembers whose.
type refuses struct {
	mu    sync.Mutex
	users []string
}

func (b *refuses) serve(conn net.Conn) {
	defer conn.Close()
	frame := func(payload string) {
		f := append([]byte{1, 0, 0}, binary.BigEndian.AppendUint32(nil, uint32(len(payload)))...)
		_, _ = conn.Write(append(append(f, payload...), 0xCE))
	}
	long := func(s string) string { return string(binary.BigEndian.AppendUint32(nil, uint32(len(s)))) + s }
	head := make([]byte, 8)
	if _, err := io.ReadFull(conn, head); err != nil {
		return
	}
	frame("\x00\x0a\x00\x0a\x00\x09" + long("") + long("PLAIN") + long("en_US")) // connection.start
	if _, err := io.ReadFull(conn, head[:7]); err != nil {
		return
	}
	body := make([]byte, binary.BigEndian.Uint32(head[3:7])+1)
	if _, err := io.ReadFull(conn, body); err != nil {
		return
	}
	b.mu.Lock()
	for _, user := range []string{"alice:one", "bob:two", "guest:guest"} {
		if bytes.Contains(body, []byte("\x00"+strings.Replace(user, ":", "\x00", 1))) {
			b.users = append(b.users, user)
		}
	}
	b.mu.Unlock()
	const word = "ACCESS_REFUSED"
	frame("\x00\x0a\x00\x32\x01\x93" + string(rune(len(word))) + word + "\x00\x00\x00\x00") // connection.close, 403
	_, _ = conn.Read(head)
}

// A login that is refused has the files read again: what others put there since is tried at once,
// by another user's name, too, and once only.
func TestLoginIsReadAgain(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	expect.Must(t, err)
	broker := &refuses{}
	var work sync.WaitGroup
	defer work.Wait()
	defer ln.Close()
	work.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			work.Go(func() { broker.serve(conn) })
		}
	})
	file := filepath.Join(t.TempDir(), "url")
	write := func(text string) { expect.Must(t, os.WriteFile(file, []byte(text), 0o600)) }
	url := func(user string) string { return fmt.Sprintf("amqp://%s@%s\n", user, ln.Addr()) }
	write(url("alice:one"))
	t.Setenv("RMQ_AMQP_URL_FILE", file)
	cfg, err := config.FromEnvironment(os.Getenv)
	expect.Must(t, err)
	expect.Must(t, cfg.ReadURL(os.Getenv))
	var log bytes.Buffer
	in := &login{log: slog.New(slog.NewTextHandler(&log, nil))}
	expect.Must(t, in.begin(t.Context(), cfg))
	defer in.checker.Close()
	seen := func() string {
		broker.mu.Lock()
		defer broker.mu.Unlock()
		return strings.Join(broker.users, " ")
	}
	for _, step := range []struct{ file, want string }{
		{url("alice:one"), "alice:one"},
		{url("alice:one"), "alice:one"}, // between two tries
		{"amqp://bo", "alice:one"},      // half written
		{url("bob:two"), "alice:one bob:two"},
		{url("bob:two"), "alice:one bob:two"},
	} {
		write(step.file)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		r := in.check(ctx, true)
		cancel()
		if r.State != healthcheck.Warning || !r.Refused || seen() != step.want {
			t.Fatalf("%q: %+v; logged in: %s, want %s", step.file, r, seen(), step.want)
		}
	}
	if text := log.String(); strings.Count(text, "has changed: using the new one") != 1 || strings.Count(text, "cannot be used") != 1 || strings.Contains(text, "two") {
		t.Errorf("the log says %s", text)
	}
	if !slices.Equal(in.urls, []string{strings.TrimSpace(url("bob:two"))}) {
		t.Errorf("it goes to %s", in.urls)
	}
}

// The login is in the files that RabbitMQ reads, also where rabbitmq-env.conf alone names them and
// holds the password. Files that cannot be read take no login away.
func TestLoginOfRabbitMQsFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		expect.Must(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	write("mine.conf", "default_user = walter\ndefault_pass = $(MY_PASSWORD)\n")
	t.Setenv("RABBITMQ_CONF_ENV_FILE", write("env.conf", "CONFIG_FILE="+dir+"/mine\nexport MY_PASSWORD=w4lt3r\nexport RABBITMQ_DEFAULT_VHOST=own\n"))
	t.Setenv("RABBITMQ_CONFIG_FILES", filepath.Join(dir, "none"))
	t.Setenv("RABBITMQ_ADVANCED_CONFIG_FILE", filepath.Join(dir, "none.config"))
	var log bytes.Buffer
	in := &login{log: slog.New(slog.NewTextHandler(&log, nil))}
	cfg := config.Config{Node: "rabbit@a", Home: dir, Listeners: []rabbitconf.Listener{{Port: 5672}}, TTL: 15 * time.Second}
	expect.Must(t, in.begin(t.Context(), cfg))
	defer in.checker.Close()
	goes := func(user string) {
		t.Helper()
		if want := []string{"amqp://" + user + "@127.0.0.1:5672/own"}; !slices.Equal(in.urls, want) || in.user().String() != user {
			t.Errorf("it goes to %s, as %s to the management port; want %s", in.urls, in.user(), want)
		}
	}
	goes("walter:w4lt3r")
	write("mine.conf", "default_user = wal")
	write("none.config", "[{rabbit,")
	expect.Must(t, in.ready(cfg))
	goes("walter:w4lt3r")
	expect.Must(t, os.Remove(filepath.Join(dir, "none.config")))
	write("mine.conf", "default_user = bob\ndefault_pass = two\n")
	expect.Must(t, in.ready(cfg))
	goes("bob:two")
	if text := log.String(); !strings.Contains(text, "keeps the login it had") || strings.Contains(text, "w4lt3r") {
		t.Errorf("the log says %s", text)
	}
}
