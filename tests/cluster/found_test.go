package cluster

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
)

// Nobody passes in Consul, and all nodes run. Giving the cluster up is refused from wherever that is not seen, by what
// is seen there; given up all the same, it is taken back by the members, which serve on. Stopped, it can be given up.
func TestFoundNeverEndsWhatRuns(t *testing.T) {
	on(t, []version{v43, v310}, func(c *cluster) {
		n1, n2 := c.node(1), c.node(2)
		n1.flags, n2.flags = []string{"--no-healthcheck"}, []string{"--no-healthcheck"} // nothing replaces a companion that hangs
		start(n1, n2)
		id := c.one(n1, n2)
		operator := c.node(9)
		operator.host = "operator"
		// run runs found once in a container of its own, to which the cookie is known as to a node that waits.
		run := func(flags []string, args ...string) (status int, out string) {
			c.Helper()
			operator.flags = append([]string{"--entrypoint", "sh"}, flags...)
			operator.command = []string{"-c", `umask 077; printf %s "$RABBITMQ_ERLANG_COOKIE" >"$HOME/.erlang.cookie"; chown rabbitmq "$HOME/.erlang.cookie"; exec rmq-entrypoint forget-cluster --cluster-id "$0" "$@"`, id}
			operator.command = append(operator.command, args...)
			return operator.attempt()
		}
		mute := c.subnet + ".66" // takes each question and answers none
		c.docker("run", "-d", "--name", c.name("mute"), "--label", label, "--network", c.name("net"), "--ip", mute, "--user", "root",
			"--entrypoint", "erl", c.version.image, "-noinput", "-eval", "{ok, _} = gen_udp:open(53), receive never -> ok end.")
		c.Cleanup(func() { _, _ = try("rm", "-fv", c.name("mute")) })
		resolv := filepath.Join(c.TempDir(), "resolv.conf")
		if err := os.WriteFile(resolv, []byte("nameserver "+mute+"\noptions timeout:1 attempts:1\n"), 0o644); err != nil {
			c.Fatal(err)
		}
		if err := os.Chmod(filepath.Dir(resolv), 0o755); err != nil {
			c.Fatal(err)
		}
		found := func(words string, flags ...string) {
			c.Helper()
			operator.blankVolume() // the cookie of the last one is not to be written to
			status, out := run(flags)
			if status != 1 || !strings.Contains(out, words) {
				c.Errorf("forget-cluster: exit %d, want 1 and %q:\n%s", status, words, out)
			}
			if r := c.record(); len(r.Members) != 2 {
				c.Fatalf("it was refused and changed the record: %+v", r)
			}
			c.Logf("forget-cluster: %s", out)
		}

		c.in("nobody passes", func() {
			for _, n := range []*node{n1, n2} {
				for _, pid := range n.companions() {
					n.exec("kill", "-STOP", pid)
				}
			}
			c.eventually(4*ttl, "nobody passes", func() error {
				for name, s := range c.checks() {
					if s == "passing" {
						return fmt.Errorf("%s does", name)
					}
				}
				return nil
			})
		})
		c.in("it is refused", func() {
			found(n1.name + " answers: a cluster that runs is not given up")
			found("its host's name cannot be looked up", "-v", resolv+":/etc/resolv.conf:ro")
			found("it does not let this one in", "-e", "RABBITMQ_ERLANG_COOKIE=another")
			// The name leads elsewhere: to Consul's host, where no epmd listens.
			found("no epmd listens at "+c.subnet+".10:4369", "--add-host", n1.host+":"+c.subnet+".10", "--add-host", n2.host+":"+c.subnet+".10")
			// Nobody is there.
			found("does not say whether it runs", "--add-host", n1.host+":"+c.subnet+".99", "--add-host", n2.host+":"+c.subnet+".99")
		})
		c.in("what runs takes it back, and passes", func() {
			operator.blankVolume()
			if status, out := run([]string{"-v", resolv + ":/etc/resolv.conf:ro"}, "--force"); status != 0 {
				c.Fatalf("forget-cluster --force: exit %d:\n%s", status, out)
			}
			if r := c.record(); len(r.Members) != 0 || len(r.Gone) != 2 {
				c.Fatalf("not given up: %+v", r)
			}
			for _, n := range []*node{n1, n2} {
				for _, pid := range n.companions() {
					n.exec("kill", "-CONT", pid)
				}
			}
			c.same(id, c.one(n1, n2))
		})
		c.in("given up by hand, nobody stops", func() {
			pair, _, err := c.consul.KV().Get("rmq-entrypoint/rabbitmq/cluster", &api.QueryOptions{RequireConsistent: true})
			if err != nil {
				c.Fatal(err)
			}
			var r map[string]any
			if err := json.Unmarshal(pair.Value, &r); err != nil {
				c.Fatal(err)
			}
			gone := map[string]any{}
			for name, volume := range r["members"].(map[string]any) {
				gone[name] = map[string]any{"volume": volume, "at": time.Now().UTC(), "why": "given up by an operator (rmq-entrypoint forget-cluster)"}
			}
			r["members"], r["gone"] = map[string]any{}, gone
			value, err := json.Marshal(r)
			if err == nil {
				_, err = c.consul.KV().Put(&api.KVPair{Key: pair.Key, Value: value}, nil)
			}
			if err != nil {
				c.Fatal(err)
			}
			c.same(id, c.one(n1, n2))
			for _, n := range []*node{n1, n2} {
				if strings.Contains(n.log(), "stopping the server") {
					c.Errorf("%s was told to stop", n.host)
				}
			}
			if !strings.Contains(n1.log()+n2.log(), "taken off the record all the same") {
				c.Error("nobody says that it was taken off the record")
			}
			n1.declare("after", quorum)
			n1.publish("after", 5)
			n2.holds("after", 5)
		})
		c.in("stopped, it is down, and its volumes are refused", func() {
			stop(n1, n2)
			n1.rm()
			n2.rm()
			operator.blankVolume()
			status, out := run(nil)
			if status != 0 || !strings.Contains(out, n1.name+" is down: name server") {
				c.Fatalf("forget-cluster: exit %d:\n%s", status, out)
			}
			c.Logf("forget-cluster: %s", out)
			status, out = n1.attempt()
			if status != 78 || !strings.Contains(out, n1.name+" was taken off cluster "+id) || !strings.Contains(out, "by rmq-entrypoint forget-cluster on host operator") {
				c.Errorf("the volume that was given up: exit %d:\n%s", status, out)
			}
		})
	})
}
