package config

import (
	"encoding/json"
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/rabbitconf"
	"rmq-entrypoint/tests/expect"
)

// Settings are taken or refused, in a printable line. What is taken is within its bounds, is the
// same after the runtime file, and differs in nothing from itself.
func FuzzSettings(f *testing.F) {
	var cfg Config
	rows := Settings(&cfg)
	texts := []string{"", "x", "1", "true", "20s", "-1s", "9999h", "9223372036854775807ns", "127.0.0.1:8500", ":0", "[::1]:99999", "a=b,c=d", "rabbit@a-1", "consul", "a\x00b", "\u202e", "%zz", "a,\"b", "é"}
	for i := range rows {
		for j := range 4 {
			f.Add(uint8(i), texts[(i+5*j)%len(texts)], uint8(i+1), "\u202e")
		}
	}
	f.Add(uint8(10), "24h", uint8(15), "73h")
	f.Add(uint8(10), "10s", uint8(11), "3s")
	f.Add(uint8(4), "--offline@b", uint8(5), "yes")
	f.Fuzz(func(t *testing.T, i uint8, one string, j uint8, other string) {
		env := func(i uint8) string { row := rows[int(i)%len(rows)]; return row.Env[int(i)/len(rows)%len(row.Env)] }
		given := map[string]string{"RABBITMQ_NODENAME": "rabbit@a"}
		given[env(j)] = other
		given[env(i)] = one
		cfg, err := FromEnvironment(func(name string) string { return given[name] })
		if err != nil {
			if expect.Unprintable(err.Error()) {
				t.Fatalf("%q", err)
			}
			return
		}
		if err := bounded(cfg); err != nil {
			t.Fatalf("%q: %v: %+v", given, err, cfg)
		}
		text, err := json.Marshal(cfg)
		expect.Must(t, err)
		var again Config
		if err := json.Unmarshal(text, &again); err != nil {
			t.Fatal(err)
		}
		valid := func(s string) bool { return strings.ToValidUTF8(s, "") == s }
		if valid(one) && valid(other) && !reflect.DeepEqual(again, cfg) {
			t.Fatalf("%+v\nwas read as %+v", cfg, again)
		}
		if merged, differs := cfg.Of(cfg); len(differs) > 0 || !reflect.DeepEqual(merged, cfg) {
			t.Fatalf("it differs from itself: %q", differs)
		}
	})
}

// bounded says which setting is out of the bounds that are promised.
func bounded(c Config) error {
	switch {
	case rabbitconf.ValidNode(c.Node) != nil:
		return fmt.Errorf("node %q", c.Node)
	case len(c.Consul) == 0 || slices.Contains(c.Consul, ""):
		return fmt.Errorf("consul %q", c.Consul)
	case c.TTL < 10*time.Second || c.TTL > 24*time.Hour || c.Interval < time.Second || c.Interval > min(c.TTL/3, time.Minute):
		return fmt.Errorf("ttl %s, interval %s", c.TTL, c.Interval)
	case c.LockDelay < time.Millisecond || c.LockDelay > time.Minute || c.ClaimTimeout <= 2*c.TTL || c.JoinTimeout < c.TTL:
		return fmt.Errorf("lock delay %s, claim timeout %s, join timeout %s", c.LockDelay, c.ClaimTimeout, c.JoinTimeout)
	case c.WaitTimeout-max(c.ClaimTimeout, c.LockDelay) < 3*c.Interval:
		return fmt.Errorf("wait timeout %s, claim timeout %s", c.WaitTimeout, c.ClaimTimeout)
	case c.Port < 1 || c.Port > 65535 || hostPort(c.HTTP) != nil || c.DNSServer != "" && hostPort(c.DNSServer) != nil:
		return fmt.Errorf("ports: %d, %q, %q", c.Port, c.HTTP, c.DNSServer)
	case c.Service == "" || c.KeyPrefix == "" || c.StateDir == "" || c.ConfigFile == "" || HasPassword(c.AMQPURL):
		return fmt.Errorf("service %q, key prefix %q, state %q, config %q, url %q", c.Service, c.KeyPrefix, c.StateDir, c.ConfigFile, c.AMQPURL)
	}
	return nil
}

// A password in a URL is in no error, and not in what is kept of it: neither as it was written,
// nor decoded.
func FuzzURLs(f *testing.F) {
	for _, rest := range []string{"host:5672/", "host:x", "[::1", "host/%zz", "host:8500", "", "a b", "host?x=%", "\x7f", "host:99999/#"} {
		for _, scheme := range []string{"amqp://user:", "amqps://", "http://user:", "https://:", "unix://user:", "unix:///", "user:", ""} {
			f.Add(scheme, "p%40ss", rest)
			f.Add(scheme, "p%zz/?#[", rest)
		}
	}
	f.Fuzz(func(t *testing.T, before, inside, rest string) {
		const secret = "q7Zk9"
		if strings.Contains(before+rest, secret) || strings.Contains(before, "@") {
			return
		}
		raw := before + secret + inside + "@" + rest
		silent := func(what, text string) {
			if strings.Contains(text, secret) {
				t.Fatalf("%s of %q: %s", what, raw, text)
			}
		}
		if u, err := ParseAMQP(raw); err != nil {
			silent("an error", err.Error())
		} else if n, perr := strconv.Atoi(u.Port()); u.Hostname() == "" || u.Port() != "" && (perr != nil || n < 1 || n > 65535) {
			t.Fatalf("%q is %+v", raw, u)
		}
		path := strings.Contains(raw, "unix:///") // holds no password
		if c, err := FromEnvironment(expect.Environ("RABBITMQ_NODENAME=rabbit@a", "CONSUL_HTTP_ADDR="+raw)); err != nil && !path {
			silent("an error", err.Error())
		} else if !path {
			silent("what is kept", strings.Join(c.Consul, ","))
		}
		if _, userinfo, _ := strings.Cut(before, "://"); !strings.Contains(userinfo, ":") { // it is a user's name
			return
		}
		cfg, err := FromEnvironment(expect.Environ("RABBITMQ_NODENAME=rabbit@a", "RMQ_AMQP_URL="+raw))
		if err != nil {
			silent("an error", err.Error())
			return
		}
		if u, err := url.Parse(cfg.AMQPURL); err != nil || u.Hostname() == "" {
			t.Fatalf("%q is kept as %q", raw, cfg.AMQPURL)
		}
		if u, err := url.Parse(raw); err == nil && u.User != nil { // else it is a piece of a path
			if _, has := u.User.Password(); has && !strings.Contains(u.User.Username(), secret) {
				silent("what is kept", cfg.AMQPURL)
			}
		}
	})
}

// The name that a hosts file gives a host is a word of the line that has it, or the host itself.
func FuzzCanonical(f *testing.F) {
	f.Add("127.0.0.1 localhost\n10.0.0.1 a.example.org a # b\n", "a")
	f.Add("10.0.0.1 a", "a")
	f.Add("# 10.0.0.1 x a", "a")
	f.Add("10.0.0.1\ta\u00a0b\r\n\n", "b")
	f.Fuzz(func(t *testing.T, table, host string) {
		name := canonical(table, host)
		if name == host {
			return
		}
		for line := range strings.Lines(table) {
			line, _, _ = strings.Cut(line, "#")
			if names := strings.Fields(line); slices.Contains(names, host) && slices.Contains(names, name) {
				return
			}
		}
		t.Fatalf("%q of %q in\n%s", name, host, table)
	})
}
