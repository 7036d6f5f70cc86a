package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
)

// A Registrator on the host, which registers every container with a port, registers no node a second
// time and takes none of their entries out, while it looks again and cleans up. What it registers
// under the cluster's name, once told to, is named and counts for nothing.
func TestRegistrator(t *testing.T) {
	program := os.Getenv("RMQ_TEST_REGISTRATOR")
	if program == "" {
		t.Skip("RMQ_TEST_REGISTRATOR names no program")
	}
	on(t, newest, func(c *cluster) {
		nodes := c.all(2)
		says := c.registrator(program)
		seen := c.name("consul") + ":8500"
		c.eventually(30*time.Second, "Registrator registers other containers", func() error {
			if all := c.registered(); !strings.Contains(fmt.Sprint(all), seen) {
				return fmt.Errorf("Consul has %v", all)
			}
			return nil
		})
		start(nodes...)
		id := c.one(nodes...)

		c.in("it leaves the nodes alone", func() {
			for range 3 {
				looks := strings.Count(says(), "Cleaning up dangling services")
				c.eventually(30*time.Second, "it looks again", func() error {
					if is := strings.Count(says(), "Cleaning up dangling services"); is < looks+2 {
						return fmt.Errorf("it looked %d times, and did %d times before", is, looks)
					}
					return nil
				})
				c.same(id, c.one(nodes...))
			}
			for name, ids := range c.registered() {
				for _, entry := range ids {
					if strings.Contains(entry, nodes[0].container) || strings.Contains(entry, nodes[1].container) {
						c.Errorf("it registered %s as %s", entry, name)
					}
				}
			}
			if all := c.registered(); len(all["rabbitmq"]) != 2 {
				c.Errorf("Consul has %v", all)
			}
		})
		c.in("a node that it is told to register is one, once", func() {
			n3 := c.node(3)
			n3.flags = append(n3.flags, "--label", "SERVICE_IGNORE=", "--label", "SERVICE_5672_NAME=rabbitmq")
			n3.start()
			entry := n3.container + ":5672"
			c.eventually(30*time.Second, "it is registered twice", func() error {
				if all := c.registered(); !strings.Contains(strings.Join(all["rabbitmq"], " "), entry) {
					return fmt.Errorf("Consul has %v", all)
				}
				return nil
			})
			n3.said(150*time.Second, "verified: this node is a member")
			if members := c.record().Members; len(members) != 3 {
				c.Errorf("the record has %v", members)
			}
			n3.said(30*time.Second, "counts for nothing.*"+entry)
			for _, n := range c.nodes {
				if out := n.exec("rmq-entrypoint", "status"); !regexp.MustCompile("counts for nothing.*consul services deregister -id=.*" + entry).MatchString(out) {
					c.Errorf("status of %s does not name it:\n%s", n.host, out)
				}
			}
		})
	})
}

// registrator starts the program against this cluster's Consul until the scenario ends, and returns what tells its log.
func (c *cluster) registrator(program string) (says func() string) {
	c.Helper()
	path := filepath.Join(c.TempDir(), "log")
	log, err := os.Create(path)
	if err != nil {
		c.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(program, "-internal", "-cleanup", "-resync", "2", "consul://"+c.consulAddr())
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+env("DOCKER_HOST", "unix:///var/run/docker.sock")) // it would look in /tmp
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		c.Fatal(err)
	}
	says = func() string { b, _ := os.ReadFile(path); return string(b) }
	t := c.T
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("Registrator said\n%s", says())
		}
	})
	return says
}

// registered returns the ids of all services in Consul, by service.
func (c *cluster) registered() map[string][]string {
	c.Helper()
	ids := map[string][]string{}
	names, _, err := c.consul.Catalog().Services(&api.QueryOptions{RequireConsistent: true})
	if err != nil {
		c.Fatal(err)
	}
	for name := range names {
		entries, _, err := c.consul.Catalog().Service(name, "", &api.QueryOptions{RequireConsistent: true})
		if err != nil {
			c.Fatal(err)
		}
		for _, e := range entries {
			ids[name] = append(ids[name], e.ServiceID)
		}
	}
	return ids
}
