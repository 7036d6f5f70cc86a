package main

import (
	"os"
	"testing"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/expect"
)

// A file that is not this program's is not replaced, nor is one made that RabbitMQ would read in the
// place of the user's.
func testConfigIsSomebodyElses(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.put(n.path("advanced.config"), "[{rabbit,[{heartbeat,7}]}].\n")
	n.put(n.path("rabbitmq.conf"), "heartbeat = 8\n")
	n.put(n.path("conf.d/10.conf"), "heartbeat = 9\n")
	n.put(n.path("notes"), "mine\n")
	expect.Must(t, os.Symlink("advanced.config", n.path("link.config")))
	n.own()
	for file, words := range map[string]string{
		"advanced.config": "RABBITMQ_ADVANCED_CONFIG_FILE", "link.config": "RABBITMQ_ADVANCED_CONFIG_FILE",
		"rabbitmq.conf": "(RABBITMQ_CONFIG_FILE)", "rabbitmq.config": "(RABBITMQ_CONFIG_FILE)",
		"conf.d/10.conf": "RABBITMQ_CONFIG_FILES", "conf.d/99.conf": "RABBITMQ_CONFIG_FILES", "notes": "did not write it",
	} {
		expect.Must(t, os.WriteFile(n.path("log"), nil, 0o644))
		before := expect.Tree(t, n.dir)
		n.start("--config", n.path(file))
		n.refused(soon, "--config (RMQ_CONFIG_FILE) "+n.path(file), words, "leave it out")
		after := expect.Tree(t, n.dir)
		after[n.path("log")] = ""
		if !sameTree(before, after) {
			t.Errorf("--config %s changed files: %q, was %q", file, after, before)
		}
		if r := w.record(); r.State != peers.Absent {
			t.Errorf("--config %s: it claimed the founding: %+v", file, r)
		}
	}
	n.registered(0, "")
}
