package main

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rmq-entrypoint/internal/workload"
	"rmq-entrypoint/tests/expect"
)

// What produce and consume refuse before they look at anything.
func TestBadClientSettings(t *testing.T) {
	exists := filepath.Join(t.TempDir(), "ledger")
	expect.Must(t, os.WriteFile(exists, nil, 0o644))
	for _, c := range []struct {
		args, env string
		say       []string
	}{
		{args: "produce", say: []string{"nothing to send", "--count", "--rate"}},
		{args: "produce hello --count 1", say: []string{"--count", "not both"}},
		{args: "produce --rate 1 hello", say: []string{"--rate", "not both"}},
		{args: "produce --ratte 1", say: []string{"produce", "--ratte", "--help"}},
		{args: "produce --idle 1s", say: []string{"produce", "--idle", "--help"}},
		{args: "produce --count -1", say: []string{"--count"}},
		{args: "produce --rate=-1", say: []string{"--rate", "-1", "0.001"}},
		{args: "produce --rate nan", say: []string{"--rate", "0.001"}},
		{args: "produce --rate 1e-9", say: []string{"--rate", "0.001"}},
		{args: "produce --rate 1e7", say: []string{"--rate", "1000000"}},
		{args: "produce --duration 5", say: []string{"--duration", "unit"}},
		{args: "produce --count 1 --settle=-1s", say: []string{"--settle"}},
		{args: "produce --count 1 --ledger " + exists, say: []string{"--ledger", exists, "never overwritten"}},
		{args: "consume --ledger " + exists, say: []string{"--ledger", exists, "never overwritten"}},
		{args: "consume hello", say: []string{"consume", "hello", "no argument"}},
		{args: "consume --rate 1", say: []string{"consume", "--rate", "--help"}},
		{args: "consume --prefetch 0", say: []string{"--prefetch", "65535"}},
		{args: "consume --prefetch 65536", say: []string{"--prefetch", "65535"}},
		{args: "consume --queue=", say: []string{"--queue"}},
		{args: "consume --queue-type lazy", say: []string{"--queue-type", "lazy", "classic", "quorum"}},
		{args: "consume --give-up 0s", say: []string{"--give-up"}},
		{args: "consume --brokers=", say: []string{"--brokers", "RMQ_BROKERS", "empty"}},
		{args: "consume --brokers a,,b", say: []string{"--brokers", "RMQ_BROKERS", "entry 2", "empty"}},
		{args: "consume --brokers http://a", say: []string{"--brokers", "RMQ_BROKERS", "entry 1", "amqp"}},
		{args: "consume --brokers a:0", say: []string{"--brokers", "entry 1", "65535"}},
		{args: "consume --brokers amqp://alice:pa55word@a", say: []string{"--brokers", "RMQ_BROKERS", "RMQ_BROKERS_FILE", "password"}},
		{args: "consume --brokers alice:pa55word@a", say: []string{"--brokers", "RMQ_BROKERS_FILE", "password"}},
		{args: "consume", env: "RMQ_BROKERS=amqp://alice:pa55%zzword@a", say: []string{"RMQ_BROKERS", "entry 1", "percent"}},
		{args: "consume", env: "RMQ_BROKERS=b,ftp://alice:pa55word@a", say: []string{"RMQ_BROKERS", "entry 2", "amqp"}},
		{args: "consume", env: "RMQ_BROKERS=amqp://alice:pa55word@a?heartbeat=x", say: []string{"RMQ_BROKERS", "entry 1", "question mark"}},
		{args: "consume", env: "RMQ_BROKERS=a;RMQ_BROKERS_FILE=b", say: []string{"RMQ_BROKERS_FILE", "both"}},
		{args: "compare", say: []string{"compare", "FILE"}},
		{args: "compare --count 1 a", say: []string{"compare", "--count"}},
		{args: "--ttl 20s produce hello", say: []string{"produce", "follow"}},
	} {
		args := strings.Fields(c.args)
		getenv := expect.Environ(strings.Split(c.env, ";")...)
		cfg, cmd, err := parse(args, getenv)
		if err == nil {
			var out bytes.Buffer
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // one that is taken ends at once
			switch cmd.name {
			case "produce":
				err = workload.Produce(ctx, *cmd.client, cfg.Args, slog.New(slog.DiscardHandler), &out)
			case "consume":
				err = workload.Consume(ctx, *cmd.client, slog.New(slog.DiscardHandler), &out)
			case "compare":
				err = workload.Compare(*cmd.client, cfg.Args, &out)
			}
		}
		if err == nil {
			t.Errorf("%s %s: taken", c.args, c.env)
			continue
		}
		for _, w := range c.say {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s %s: it does not say %q: %v", c.args, c.env, w, err)
			}
		}
		if text := err.Error(); strings.Contains(text, "pa55") || strings.Contains(text, "\n") {
			t.Errorf("%s %s: %q", c.args, c.env, text)
		}
	}
	if b, err := os.ReadFile(exists); err != nil || len(b) != 0 {
		t.Errorf("the ledger that existed: %q, %v", b, err)
	}
}

// The clients ask for help as the program does, whatever else is wrong.
func TestClientsHelp(t *testing.T) {
	for args, long := range map[string]string{
		"produce --help": explanation("produce"), "consume -h": explanation("consume"), "compare --help": explanation("compare"), "--help produce": explanation("produce"),
		"produce --count 1 --help hello": explanation("produce"), "--ttl 20s --help consume": explanation("consume"), "help compare": explanation("compare"),
	} {
		var out bytes.Buffer
		if err := run(t.Context(), strings.Fields(args), &out); err != nil || !strings.HasPrefix(out.String(), long) {
			t.Errorf("%s: %v, %.60q", args, err, out.String())
		}
	}
}

// The table in docs/settings.md of the clients' flags is the program's.
func TestREADMEsClientFlags(t *testing.T) {
	_, got := readmesFlags(t, "The clients' flags")
	var want [][]string
	for _, s := range workload.Settings(new(workload.Options)) {
		want = append(want, []string{"`--" + s.Flag + "`", s.Of, s.DefaultText(), s.Help})
	}
	sameRows(t, got, want)
}
