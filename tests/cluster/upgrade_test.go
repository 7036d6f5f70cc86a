package cluster

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// A node that comes back from an image which RabbitMQ does not support on its volume, or beside the others, says so and
// changes nothing: one node at a time, all three after a full stop, a volume on which this program never ran, and a new
// node. From the image that it had the cluster is whole again, with all messages, and nobody else ever noticed.
func TestVersionJump(t *testing.T) {
	to := map[string][]version{v310.name: {v40, v43}, v40.name: {v43}, v43.name: {v40}}
	on(t, everywhere, func(c *cluster) {
		nodes := c.all(3)
		n1, n2, n3 := nodes[0], nodes[1], nodes[2]
		start(nodes...)
		id := c.one(nodes...)
		n1.declare("work", quorum)
		n1.publish("work", 100)
		n1.ctl("enable_feature_flag", "all")
		ran := versionOf(c, c.version)

		c.in("one node", func() {
			n3.stop()
			n3.rm()
			c.undisturbed(func() {
				for _, v := range to[c.version.name] {
					out := n3.refusesImage(v, "RabbitMQ "+ran, "ran on this volume last")
					for _, n := range []*node{n1, n2} {
						if !strings.Contains(out, n.name+" runs "+ran) {
							c.Errorf("it does not say what %s runs", n.host)
						}
					}
					c.says(out, c.version, v)
				}
			}, n1, n2)
			n3.start()
			c.same(id, c.one(nodes...))
		})
		c.in("all nodes", func() {
			stop(nodes...)
			for _, n := range nodes {
				n.rm()
				for _, v := range to[c.version.name] {
					out := n.refusesImage(v, "RabbitMQ "+ran, "ran on this volume last", "does not run, and had "+ran)
					c.says(out, c.version, v)
				}
			}
			start(nodes...)
			c.same(id, c.one(nodes...))
			n2.holds("work", 100)
		})
		c.in("a volume of the official image's", func() {
			n3.stop()
			n3.rm()
			n3.inVolume("mv", "/v/mnesia/"+n3.name+"-entrypoint", "/v/kept")
			c.undisturbed(func() {
				for _, v := range to[c.version.name] {
					c.says(n3.refusesImage(v, "RabbitMQ "+c.version.name, "or a later one ran on this volume last, as its feature flags say"), c.version, v)
				}
			}, n1, n2)
			n3.inVolume("mv", "/v/kept", "/v/mnesia/"+n3.name+"-entrypoint")
			n3.start()
			c.same(id, c.one(nodes...))
		})
		c.in("a new node", func() {
			n4 := c.node(4)
			was := c.record()
			c.undisturbed(func() {
				for _, v := range to[c.version.name] {
					n4.refusesImage(v, "cannot run in one cluster", "start this node from an image of RabbitMQ "+ran)
				}
			}, nodes...)
			if left := n4.inVolume("find", "/v", "-type", "f"); left != "" {
				c.Errorf("it left %s", left)
			}
			if is := c.record(); fmt.Sprint(is) != fmt.Sprint(was) {
				c.Errorf("the record was %v and is %v", was, is)
			}
			if checks := c.checks(); len(checks) != 3 {
				c.Errorf("Consul knows %v", checks)
			}
		})
		n3.emptied("work", 100)
	})
}

// says checks that the refusal names the way to go.
func (c *cluster) says(out string, from, to version) {
	c.Helper()
	want := map[string][]string{
		"3.10 4.0": {"the next version to go to is 3.11 (3.11.18 or later), then 3.12, then 3.13, then 4.0", "feature flags that are not enabled here", "stream_filtering"},
		"3.10 4.3": {"the next version to go to is 3.11 (3.11.18 or later), then 3.12, then 3.13, then 4.2, then 4.3", "khepri_db"},
		"4.0 4.3":  {"the next version to go to is 4.2, then 4.3", "rabbitmq_4.2.0", "rabbitmqctl enable_feature_flag khepri_db"},
		"4.3 4.0":  {"RabbitMQ supports no downgrade"},
	}[from.name+" "+to.name]
	for _, words := range append(want, "refusing to start, nothing was changed", "--allow-version-jump (RMQ_ALLOW_VERSION_JUMP=true)") {
		if !strings.Contains(out, words) {
			c.Errorf("from %s to %s it does not say %q", from.name, to.name, words)
		}
	}
}

func versionOf(c *cluster, v version) string {
	c.Helper()
	out := c.docker("image", "inspect", "-f", "{{range .Config.Env}}{{println .}}{{end}}", v.image)
	m := regexp.MustCompile(`(?m)^RABBITMQ_VERSION=(.+)$`).FindStringSubmatch(out)
	if m == nil {
		c.Fatalf("%s does not say which RabbitMQ it has", v.image)
	}
	return m[1]
}

// refusesImage starts the node once from the image of that version, which must end with 1, say the words, and leave the
// volume byte for byte as it was. It returns what it said.
func (n *node) refusesImage(v version, words ...string) string {
	n.Helper()
	was := n.image
	defer func() { n.image = was }()
	n.image = v.image
	n.docker("volume", "create", "--label", label, n.volume)
	before := n.tree()
	began := time.Now()
	n.docker(append([]string{"run", "-d", "--name", n.container}, n.args()...)...)
	defer n.rm()
	want := "1" // the others may come to another version
	if slices.ContainsFunc(words, func(w string) bool { return strings.Contains(w, "ran on this volume last") }) {
		want = "78"
	}
	if status := n.docker("wait", n.container); status != want {
		n.Errorf("%s from %s: exit status %s, want %s", n.host, v.name, status, want)
	}
	n.Logf("%s refused the image of %s %s after docker run", n.host, v.name, time.Since(began).Round(time.Millisecond))
	out := n.log()
	for _, w := range words {
		if !strings.Contains(out, w) {
			n.Errorf("%s from %s does not say %q", n.host, v.name, w)
		}
	}
	if n.Failed() {
		n.Logf("it said %s", out)
	}
	if after := n.tree(); !slices.Equal(before, after) && len(before) > 1 { // an empty one gets the image's owner from Docker
		n.Errorf("it changed the volume: %q", slices.DeleteFunc(after, func(line string) bool { return slices.Contains(before, line) }))
	}
	return out
}

// tree is everything in the node's volume: names, kinds, sizes, times, rights, owners and contents.
func (n *node) tree() []string {
	n.Helper()
	return strings.Split(n.inVolume("sh", "-c",
		`cd /v && find . -printf '%p %y %s %T@ %C@ %m %U:%G\n' | sort && find . -type f -print0 | sort -z | xargs -0r sha256sum`), "\n")
}

// inVolume runs a command beside the node, on its volume in /v.
func (n *node) inVolume(argv ...string) string {
	n.Helper()
	return n.docker(append([]string{"run", "--rm", "--label", label, "--network", "none", "-v", n.volume + ":/v", "--entrypoint", argv[0], n.version.base}, argv[1:]...)...)
}

// undisturbed runs f, during which every one of the nodes must pass, and serve who asks.
func (c *cluster) undisturbed(f func(), nodes ...*node) {
	c.Helper()
	stop, ended := make(chan struct{}), make(chan error)
	go func() {
		var wrong error
		for {
			checks, err := c.tryChecks()
			for _, n := range nodes {
				if err == nil && checks[n.name] != "passing" {
					v, _ := n.view()
					err = fmt.Errorf("%s is %q: %s", n.host, checks[n.name], v.Reason)
				}
				if err == nil {
					conn, derr := n.dial()
					if err = derr; err == nil {
						_ = conn.Close()
					}
				}
			}
			if wrong == nil {
				wrong = err
			}
			select {
			case <-stop:
				ended <- wrong
				return
			case <-time.After(200 * time.Millisecond):
			}
		}
	}()
	f()
	time.Sleep(2 * time.Second) // what it did to others would show within a beat
	close(stop)
	if err := <-ended; err != nil {
		c.Errorf("the others were disturbed: %v", err)
	}
}
