package healthcheck

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/tests/rabbittest"
)

// A rabbit is a real RabbitMQ.
type rabbit struct {
	*rabbittest.RabbitMQ
	addr string // its address on Docker's bridge
}

func (m *rabbit) url(login, vhost string) string {
	return "amqp://" + login + "@" + m.addr + ":5672/" + vhost
}

// until checks until ok holds.
func until(t *testing.T, c *Checker, what string, ok func(Result) bool) (r Result) {
	t.Helper()
	rabbittest.Until(t, what, func() (any, bool) { r = look(t, c); return r, ok(r) })
	return r
}

func state(s State) func(Result) bool { return func(r Result) bool { return r.State == s } }

// heard waits for what Closed has to say of a command that ends the connection,
// which runs for as long as the node needs to get there.
func heard(t *testing.T, c *Checker, command func()) Reason {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); command() }()
	begin := time.Now()
	r := next(t, c.Closed(), time.Minute)
	at := time.Since(begin)
	t.Logf("checked at once: %+v", look(t, c))
	<-done
	t.Logf("told after %s, %s before the command returned: %d %s", at.Round(time.Millisecond), (time.Since(begin) - at).Round(time.Millisecond), r.Code, r.Text)
	return r
}

func TestRabbitMQ(t *testing.T) {
	noLeaks(t)
	m := &rabbit{RabbitMQ: rabbittest.Start(t)}
	m.addr = m.IP(t)
	c := checker(t, Options{URLs: []string{m.url("guest:guest", "")}, Timeout: 5 * time.Second})
	want(t, look(t, c), Critical, "connection refused")
	until(t, c, "passing", state(Passing))
	t.Log(m.Exec(t, "rabbitmqctl", "-q", "version"))

	t.Run("one named connection", func(t *testing.T) {
		for range 20 {
			want(t, look(t, c), Passing)
		}
		got := m.Exec(t, "rabbitmqctl", "-q", "list_connections", "--no-table-headers", "channels", "client_properties")
		if !strings.HasPrefix(got, "0\t") || strings.Count(got, Name) != 1 || strings.Contains(got, "\n") {
			t.Errorf("channels and properties of connections: %q", got)
		}
	})

	t.Run("nodes", func(t *testing.T) {
		n := nodes(t, m, "statistics", func(n Node) bool { return n.Known })
		if n.Name != "rabbit@node1" || !n.Running || len(n.Partitions) != 0 {
			t.Errorf("got %+v", n)
		}
		got, err := Nodes(t.Context(), "http://"+m.addr+":15672", "guest", secret)
		unknown(t, got, err)
	})

	// By now the statistics are newer than the first twenty checks.
	t.Run("nothing is counted as published or dropped", func(t *testing.T) {
		req, _ := http.NewRequestWithContext(t.Context(), "GET", "http://"+m.addr+":15672/api/overview?columns=message_stats,churn_rates.channel_created", nil)
		req.SetBasicAuth("guest", "guest")
		var stats struct {
			Messages map[string]any `json:"message_stats"`
			Churn    struct {
				Channels int `json:"channel_created"`
			} `json:"churn_rates"`
		}
		for end := time.Now().Add(time.Minute); stats.Churn.Channels < 20 && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			err = json.NewDecoder(resp.Body).Decode(&stats)
			resp.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("%+v", stats)
		for _, count := range []string{"publish", "drop_unroutable", "return_unroutable"} {
			if n, ok := stats.Messages[count].(float64); ok && n != 0 {
				t.Errorf("%s: %v", count, n)
			}
		}
		if stats.Churn.Channels < 20 {
			t.Error("the statistics never counted the checks' channels")
		}
	})

	t.Run("login refused", func(t *testing.T) {
		for _, url := range []string{m.url("guest:"+secret, ""), m.url("nobody:"+secret, "")} {
			begin := time.Now()
			want(t, look(t, checker(t, Options{URLs: []string{url}, Timeout: 5 * time.Second})), Warning, "login refused", "RABBITMQ_DEFAULT_USER", "RMQ_AMQP_URL")
			// A server that is not asked to say why sits still for three seconds.
			if took := time.Since(begin); took > 2*time.Second {
				t.Errorf("took %s", took)
			}
		}
		r := look(t, checker(t, Options{URLs: []string{m.url("guest:guest", "nope")}, Timeout: 5 * time.Second}))
		want(t, r, Warning, `virtual host "nope"`, "RABBITMQ_DEFAULT_VHOST", "not found")
		t.Log(r.Reason)
	})

	t.Run("no permissions", func(t *testing.T) {
		m.Exec(t, "rabbitmqctl", "add_user", "watcher", secret)
		watcher := checker(t, Options{URLs: []string{m.url("watcher:"+secret, "")}, Timeout: 5 * time.Second})
		r := look(t, watcher)
		want(t, r, Warning, `"watcher"`, "refused")
		t.Log(r.Reason)
		m.Exec(t, "rabbitmqctl", "set_permissions", "watcher", "^$", "^$", "^$")
		until(t, watcher, "let in, after the pause", state(Passing))
		for range 3 {
			want(t, look(t, watcher), Passing)
		}
	})

	t.Run("limits of connections", func(t *testing.T) {
		const ofNode = "of this node is reached"
		release := strings.TrimSpace(m.Exec(t, "rabbitmqctl", "version"))
		for _, l := range []struct {
			on, off []string
			say     string
		}{
			{[]string{"set_user_limits", "watcher", `{"max-connections": 0}`}, []string{"clear_user_limits", "watcher", "max-connections"}, `of user "watcher" is reached`},
			{[]string{"set_vhost_limits", "-p", "/", `{"max-connections": 0}`}, []string{"clear_vhost_limits", "-p", "/"}, `to virtual host "/" is reached`},
			{[]string{"eval", "application:set_env(rabbit, connection_max, 0)."}, []string{"eval", "application:unset_env(rabbit, connection_max)."}, ofNode},
		} {
			if strings.HasPrefix(release, "3.10.") && l.say == ofNode {
				continue // its listener counts: who is one too many waits for an answer, and is refused nothing
			}
			m.Exec(t, append([]string{"rabbitmqctl"}, l.on...)...)
			r := look(t, checker(t, Options{URLs: []string{m.url("watcher:"+secret, "")}, Timeout: 5 * time.Second}))
			m.Exec(t, append([]string{"rabbitmqctl"}, l.off...)...)
			want(t, r, Warning, "the limit of connections "+l.say)
			t.Log(r.Reason)
		}
	})

	for _, a := range []struct{ alarm, setting, on, off string }{
		{"low on memory", "set_vm_memory_high_watermark", "0.00000001", "0.4"},
		{"low on disk", "set_disk_free_limit", "999000GB", "50MB"},
	} {
		alarm := a.alarm
		t.Run(alarm, func(t *testing.T) {
			m.Exec(t, "rabbitmqctl", a.setting, a.on)
			r := until(t, c, "blocked", state(Warning))
			t.Log(r.Reason)
			if !strings.Contains(r.Alarm, alarm) {
				t.Errorf("got %+v", r)
			}
			for range 3 {
				begin := time.Now()
				want(t, look(t, c), Warning, alarm)
				if took := time.Since(begin); took > time.Second {
					t.Errorf("a check of a blocked node took %s", took)
				}
			}
			// One that connects during the alarm, and then leaves, sees the same.
			late := checker(t, Options{URLs: []string{m.url("guest:guest", "")}, Timeout: 5 * time.Second})
			want(t, look(t, late), Warning, alarm)
			late.Close()
			m.Exec(t, "rabbitmqctl", a.setting, a.off)
			until(t, c, "passing", state(Passing))
		})
	}

	t.Run("an alarm outlasts the heartbeats", func(t *testing.T) {
		m.Exec(t, "rabbitmqctl", "set_vm_memory_high_watermark", "0.00000001")
		until(t, c, "blocked", state(Warning))
		select {
		case r := <-c.Closed():
			t.Errorf("the connection was lost: %+v", r)
		case <-time.After(3 * heartbeat):
		}
		want(t, look(t, c), Warning, "low on memory")
		m.Exec(t, "rabbitmqctl", "set_vm_memory_high_watermark", "0.4")
		until(t, c, "passing", state(Passing))
	})

	t.Run("paused", func(t *testing.T) {
		quick := checker(t, Options{URLs: []string{m.url("guest:guest", "")}, Timeout: time.Second})
		want(t, look(t, quick), Passing)
		m.Docker(t, "pause")
		for range 2 {
			want(t, look(t, quick), Critical, "no answer within")
		}
		m.Docker(t, "unpause")
		until(t, quick, "passing", state(Passing))
		until(t, c, "passing", state(Passing))
	})

	t.Run("connections closed by an operator", func(t *testing.T) {
		drainClosed(c)
		r := heard(t, c, func() { m.Exec(t, "rabbitmqctl", "close_all_connections", "for fun") })
		if r.Code != 320 || r.Stopping || r.Draining {
			t.Errorf("got %+v", r)
		}
		want(t, look(t, c), Passing)
	})

	t.Run("stop_app", func(t *testing.T) {
		r := heard(t, c, func() { m.Exec(t, "rabbitmqctl", "stop_app") })
		if r.Code != 320 || !r.Stopping || r.Draining {
			t.Errorf("got %+v", r)
		}
		got := look(t, c)
		want(t, got, Critical, "shut down", "refused")
		if !got.Stopping {
			t.Errorf("got %+v", got)
		}
		m.Exec(t, "rabbitmqctl", "start_app")
		if r := until(t, c, "passing", state(Passing)); r.Stopping {
			t.Errorf("got %+v", r)
		}
	})

	t.Run("drain", func(t *testing.T) {
		if help := m.Exec(t, "rabbitmq-upgrade", "--help"); !strings.Contains(help, "drain") {
			t.Log("this version has no maintenance mode")
			return
		}
		r := heard(t, c, func() { m.Exec(t, "rabbitmq-upgrade", "drain") })
		if r.Code != 320 || r.Stopping || !r.Draining {
			t.Errorf("got %+v", r)
		}
		got := look(t, c)
		want(t, got, Critical, "maintenance mode", "refused")
		if !got.Draining {
			t.Errorf("got %+v", got)
		}
		m.Exec(t, "rabbitmq-upgrade", "revive")
		c.Resumed()
		if r := until(t, c, "passing", state(Passing)); r.Draining {
			t.Errorf("got %+v", r)
		}
	})

	t.Run("SIGTERM", func(t *testing.T) {
		r := heard(t, c, func() { m.Docker(t, "stop", "-t", "60") })
		if r.Code != 320 || !r.Stopping {
			t.Errorf("got %+v", r)
		}
		if r := look(t, c); r.State != Critical || !r.Stopping {
			t.Errorf("got %+v", r)
		}
	})

	t.Run("SIGKILL", func(t *testing.T) {
		m.Docker(t, "start")
		m.addr = m.IP(t)
		again := checker(t, Options{URLs: []string{m.url("guest:guest", "")}, Timeout: 5 * time.Second})
		until(t, again, "passing", state(Passing))
		if r := heard(t, again, func() { m.Docker(t, "kill") }); r.Code != 0 || r.Stopping || r.Draining {
			t.Errorf("got %+v", r)
		}
		if r := look(t, again); r.State != Critical || r.Stopping {
			t.Errorf("got %+v", r)
		}
	})
}

// A listener that takes nobody without a client certificate, and none but by the PROXY protocol:
// the node is alive, and the check says what to set, or gets in.
func TestRabbitMQShutsOut(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a container")
	}
	ca, server := certificates(t, "node1.example")
	cert, key := pemFiles(t, server)
	conf := filepath.Join(t.TempDir(), "rabbitmq.conf")
	if err := os.WriteFile(conf, []byte(`proxy_protocol = true
listeners.ssl.default = 5671
ssl_options.certfile = /tls/cert.pem
ssl_options.keyfile = /tls/key.pem
ssl_options.cacertfile = /tls/ca.pem
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
`), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{ca, cert, key, conf} {
		if err := errors.Join(os.Chmod(name, 0o644), os.Chmod(filepath.Dir(name), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	m := rabbittest.Start(t, "-v", conf+":/etc/rabbitmq/rabbitmq.conf:ro", "-v", cert+":/tls/cert.pem:ro", "-v", key+":/tls/key.pem:ro", "-v", ca+":/tls/ca.pem:ro",
		"-p", "127.0.0.1::5671", "-p", "127.0.0.1::5672")
	ports := map[string]int{}
	for line := range strings.Lines(m.Docker(t, "port")) { // 5672/tcp -> 127.0.0.1:32768
		inside, outside, _ := strings.Cut(strings.TrimSpace(line), "/tcp -> 127.0.0.1:")
		ports[inside], _ = strconv.Atoi(outside)
	}
	plain, secure := fmt.Sprint("amqp://guest:guest@127.0.0.1:", ports["5672"]), fmt.Sprint("amqps://guest:guest@127.0.0.1:", ports["5671"])
	withCert := secure + "?certfile=" + cert + "&keyfile=" + key + "&cacertfile=" + ca
	first := checker(t, Options{URLs: []string{withCert}, Timeout: 5 * time.Second}) // the last to listen
	move(t, first, map[int]Port{ports["5671"]: {TLS: true, Proxy: true}})
	until(t, first, "passing", state(Passing))
	for _, c := range []struct {
		url   string
		ports map[int]Port
		state State
		says  string
	}{
		{plain, nil, Critical, ""},
		{plain, map[int]Port{ports["5672"]: {}}, Warning, "proxy_protocol"},
		{plain, map[int]Port{ports["5672"]: {Proxy: true}}, Passing, "answers"},
		{secure, map[int]Port{ports["5671"]: {TLS: true, Proxy: true}}, Warning, "certfile="},
		{withCert, map[int]Port{ports["5671"]: {TLS: true, Proxy: true}}, Passing, "answers"},
		{strings.Replace(plain, "amqp:", "amqps:", 1), map[int]Port{ports["5672"]: {Proxy: true}}, Warning, "write amqp://"},
		{strings.Replace(secure, "amqps:", "amqp:", 1), map[int]Port{ports["5671"]: {TLS: true, Proxy: true}}, Warning, "write amqps://"},
	} {
		k := checker(t, Options{URLs: []string{c.url}, Timeout: 5 * time.Second})
		move(t, k, c.ports)
		r := look(t, k)
		want(t, r, c.state, c.says)
		t.Log(r.State, r.Reason)
	}
}

// nodes asks the management port until ok holds for the only node.
func nodes(t *testing.T, m *rabbit, what string, ok func(Node) bool) Node {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); ; <-tick.C {
		got, err := Nodes(t.Context(), "http://"+m.addr+":15672", "guest", "guest")
		if err == nil && len(got) == 1 && ok(got[0]) {
			return got[0]
		}
		if time.Now().After(end) {
			t.Fatalf("no %s within a minute: %+v, %v", what, got, err)
		}
	}
}

// drainClosed forgets what Closed said before.
func drainClosed(c *Checker) {
	for {
		select {
		case <-c.Closed():
		default:
			return
		}
	}
}
