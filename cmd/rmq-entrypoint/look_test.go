package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"rmq-entrypoint/internal/overview"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/tests/expect"
)

// lists is what `list --json` says, whose exit status is to be code.
func (n *node) lists(code int, args ...string) (d overview.Document, err error) {
	n.t.Helper()
	out, got := n.run(append([]string{"list", "--json"}, args...)...)
	if err := json.Unmarshal([]byte(out), &d); err != nil {
		return d, fmt.Errorf("exit status %d: %w: %s", got, err, out)
	}
	if got != code {
		return d, fmt.Errorf("exit status %d, want %d: %s", got, code, out)
	}
	return d, nil
}

// page is what the companion answers operators.
func (n *node) page(path string) string {
	n.t.Helper()
	resp, err := http.Get("http://" + n.ip + ":15689" + path)
	expect.Must(n.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	expect.Must(n.t, err)
	return string(body)
}

// state is that of a node in the document; "": it is not there.
func state(d overview.Document, name string) string {
	for _, n := range d.Nodes {
		if n.Node == name {
			return string(n.State) + ": " + n.Why
		}
	}
	return ""
}

// The whole cluster in one look: by a command in a node's container, by one outside, and by a
// browser and a Prometheus. A node that waits is in it for as long as it does.
func testOneLook(t *testing.T, w *world) {
	n := w.node("rabbit@localhost")
	n.env = append(n.env, "RMQ_ADMIN="+n.ip+":15689")
	n.serves()
	d, err := n.lists(0)
	expect.Must(t, err)
	if d.Asked != n.name || d.Cluster.One != overview.Yes || d.Cluster.ID != "id-of-"+w.service || d.Stop.May != overview.No || len(d.Nodes) != 1 || d.Nodes[0].State != overview.Serves || d.Nodes[0].Beats != overview.Yes {
		t.Errorf("it says %+v", d)
	}
	outside := w.node("somewhere@else")
	if d, err = outside.lists(0, "--consul", w.consul.Addr); err != nil || d.Asked != "" || d.Cluster.ID != "id-of-"+w.service || d.Stop.May != overview.Unknown {
		t.Errorf("from outside: %+v, %v", d, err)
	}
	if d, err = n.lists(2, "--consul", "127.0.0.1:"+closed(t)); err != nil || d.Cluster.One != overview.Unknown {
		t.Errorf("where no Consul answers: %+v, %v", d, err)
	}

	session, err := holdLock(t, w)
	expect.Must(t, err)
	b := w.node("b@localhost")
	b.start()
	expect.Eventually(t, soon, "b is seen to wait", func() error {
		d, err := n.lists(1)
		if err == nil && (!strings.HasPrefix(state(d, b.name), "waits: ") || d.Lock.Held != overview.Yes) {
			err = fmt.Errorf("it says %q, %+v", state(d, b.name), d.Lock)
		}
		return err
	})
	expect.Says(t, n.page("/"), "b@localhost", "<b class=\"waits\">waits</b>", "id-of-"+w.service)
	expect.Says(t, n.page("/cluster"), `"node": "b@localhost"`)
	expect.Says(t, n.page("/metrics"), "\nrmq_entrypoint_nodes{state=\"waits\"} 1\n", "\nrmq_entrypoint_verified 1\n", "\nrmq_entrypoint_members{as=\"on_record\"} 1\n", "\nrmq_entrypoint_lock_held 1\n")
	out, code := n.run("list")
	if code != 1 {
		t.Errorf("list: exit status %d", code)
	}
	expect.Says(t, out, "one cluster: ", "1 of 2 nodes serve", "problem: b@localhost waits: ")

	expect.Must(t, b.cmd.Process.Signal(syscall.SIGTERM))
	b.exit(soon)
	expect.Eventually(t, soon, "b is gone", func() error {
		d, err := n.lists(0)
		if err == nil && len(d.Nodes) != 1 {
			err = fmt.Errorf("%+v", d.Nodes)
		}
		return err
	})
	_, err = w.consul.Client.Session().Destroy(session, nil)
	expect.Must(t, err)
}

// A start that was refused is seen by others, with the reason, until a later one is let through.
func testLookAtRefused(t *testing.T, w *world) {
	w.putRecord(formed("id-2", map[string]string{"b@localhost": "vb"}))
	n, outside := w.node("a@localhost"), w.node("somewhere@else")
	n.hasData(&statedir.Marker{ClusterID: "id-1", Volume: "v1", Members: []string{"a@localhost"}})
	for range 2 {
		n.start()
		n.refusedForGood(soon, "refusing to start beside the cluster")
		d, err := outside.lists(1, "--consul", w.consul.Addr)
		if err != nil || len(d.Nodes) != 2 || !strings.HasPrefix(state(d, n.name), "refused: refusing to start beside the cluster") || !strings.HasPrefix(state(d, "b@localhost"), "down: ") {
			t.Errorf("it says %+v, %v", d.Nodes, err)
		}
	}
	w.putRecord(formed("id-1", map[string]string{"a@localhost": "v1"}))
	n.start()
	n.server(soon)
	n.registered(soon, "critical")
	d, err := outside.lists(1, "--consul", w.consul.Addr)
	if err != nil || len(d.Nodes) != 1 || strings.HasPrefix(state(d, n.name), "refused") {
		t.Errorf("after it was let through: %+v, %v", d.Nodes, err)
	}
}
