package cluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// What a person does to RabbitMQ itself, past the program, is followed: the record says what RabbitMQ says.
func TestDoneByHand(t *testing.T) {
	on(t, newest, func(c *cluster) {
		n1, n2, n3 := c.node(1), c.node(2), c.node(3)
		n2.mount("/tmp/definitions.json", `{"users": [], "vhosts": [], "global_parameters": [{"name": "internal_cluster_id", "value": "rabbitmq-cluster-id-of-another"}]}`)
		start(n1, n2, n3)
		id := c.one(n1, n2, n3)
		c.in("another cluster's definitions bring its cluster id: record, volumes and entries follow, and it is no split", func() {
			n2.ctl("import_definitions", "/tmp/definitions.json")
			n3.stop() // or they look again within five minutes
			n3.start()
			var now string
			c.eventually(60*time.Second, "the record follows", func() error {
				if now = c.record().ClusterID; now == id {
					return fmt.Errorf("it is %s", now)
				}
				return nil
			})
			if now != "rabbitmq-cluster-id-of-another" {
				c.Fatalf("the record is of %s", now)
			}
			id = now
			c.same(id, c.one(n1, n2, n3))
			for _, n := range []*node{n1, n2, n3} {
				if strings.Contains(n.log(), "SPLIT") {
					c.Errorf("%s took it for a split", n.host)
				}
			}
		})
		c.in("a member that rabbitmqctl forgot goes off the record, and is refused with its old data", func() {
			n3.kill()
			c.eventually(60*time.Second, "RabbitMQ forgets it", func() error {
				_, err := n1.tryExec("rabbitmqctl", "-q", "forget_cluster_node", n3.name)
				return err
			})
			c.eventually(120*time.Second, "the record follows", func() error {
				r, err := c.tryRecord()
				if _, gone := r.Gone[n3.name]; err == nil && (r.Members[n3.name] != "" || !gone) {
					err = fmt.Errorf("the members are %v, gone are %v", r.Members, r.Gone)
				}
				return err
			})
			n3.start()
			n3.said(60*time.Second, "refusing to start.*"+id)
			if _, on := c.record().Members[n3.name]; on {
				c.Errorf("%s is on record again", n3.host)
			}
			n3.rm()
			n3.blankVolume()
			n3.start()
			c.same(id, c.one(n1, n2, n3))
		})
		if s, err := n1.status(); err != nil || len(s.running) != 3 || !slices.Equal(s.running, s.disk) {
			c.Errorf("%+v, %v", s, err)
		}
	})
}
