package cluster

import (
	"fmt"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A cluster of the official entrypoint's keeps what its queues are by default: its clients declare theirs again as they
// did, at the node that was moved here, after its restart without Consul, and at nodes that join, a wiped one too.
func TestAdoptedQueueTypes(t *testing.T) {
	on(t, []version{v43, v40}, func(c *cluster) {
		n1, n2 := c.node(1), c.node(2)
		n1.image, n1.flags = c.version.base, []string{"--no-healthcheck"}
		n1.start()
		n1.declare("celery", nil)
		n1.declare("tasks", amqp.Table{"x-max-priority": int32(5)})
		n1.publish("celery", 10)
		n1.stop()
		n1.rm()
		n1.image, n1.flags = c.version.image, nil
		n1.start()
		c.one(n1)
		again := func(when string, nodes ...*node) {
			c.Helper()
			for _, n := range nodes {
				c.in(when+", "+n.host, func() {
					n.declare("celery", nil)
					n.declare("tasks", amqp.Table{"x-max-priority": int32(5)})
					n.declare("new", nil)
					n.ctl("add_vhost", "more-"+n.host)
					if got := n.ctl("eval", "rabbit_queue_type:default()."); got != "rabbit_classic_queue" {
						c.Errorf("queues are %s by default", got)
					}
				})
			}
			if out := nodes[0].ctl("list_queues", "name", "type"); strings.Contains(out, "quorum") {
				c.Errorf("%s: %s", when, out)
			}
			if out := nodes[0].ctl("list_vhosts", "name", "default_queue_type"); strings.Contains(out, "quorum") {
				c.Errorf("%s: %s", when, out)
			}
			if out := nodes[0].ctl("list_operator_policies", "-p", "more-"+nodes[0].host); strings.Contains(out, "rmq-entrypoint") {
				c.Errorf("%s: %s", when, out)
			}
		}
		again("moved here", n1)
		n1.holds("celery", 10)
		n2.start()
		c.one(n1, n2)
		again("joined", n2, n1)
		n3 := c.node(3)
		n3.start()
		c.one(n1, n2, n3)
		again("joined as the third", n3)
		wipe(n2)
		n2.start()
		c.one(n1, n2, n3)
		again("joined again, wiped", n2)
		c.stopConsul()
		stop(n1)
		n1.start()
		n1.declare("celery", nil)
		again("started without Consul", n1)
	})
}

// Where queues are quorum queues by default, no number of deliveries drops what was confirmed, whatever else a policy of
// the user's says; a limit of the user's holds.
func TestDeliveriesDropNothing(t *testing.T) {
	on(t, []version{v43, v40}, func(c *cluster) {
		n := c.node(1)
		n.start()
		c.one(n)
		n.ctl("set_policy", "long", "^long", `{"max-length": 1000}`)
		n.ctl("set_policy", "few", "^few", `{"delivery-limit": 3}`)
		for queue, args := range map[string]amqp.Table{"plain": nil, "long": nil, "few": nil, "few of its own": {"x-delivery-limit": int32(3)}} {
			n.declare(queue, args)
			n.publish(queue, 1)
			taken := 0
			for range 25 {
				got := n.take(queue)
				if !got {
					break
				}
				taken++
			}
			few := strings.HasPrefix(queue, "few")
			left := n.length(queue) == 1
			for began := time.Now(); !few && !left && time.Since(began) < slow(10*time.Second); left = n.length(queue) == 1 {
				time.Sleep(200 * time.Millisecond) // RabbitMQ takes back what a consumer held that went away
			}
			if left == few || few && taken > 4 || !few && taken != 25 {
				c.Errorf("%s: taken %d times, still there: %v", queue, taken, left)
			}
		}
		n.ctl("add_vhost", "more")
		if out := n.ctl("list_operator_policies", "-p", "more"); !strings.Contains(out, `{"delivery-limit":-1}`) {
			c.Errorf("a virtual host that is made later: %s", out)
		}
	})
}

// length is how many messages the queue has that nobody holds.
func (n *node) length(queue string) (messages int) {
	n.Helper()
	n.with("inspect "+queue, func(ch *amqp.Channel) error {
		q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		messages = q.Messages
		return err
	})
	return messages
}

// take receives a message and goes away without a word for it, as a consumer that crashes.
func (n *node) take(queue string) (got bool) {
	n.Helper()
	n.with("take a message of "+queue, func(ch *amqp.Channel) error {
		messages, err := ch.Consume(queue, "", false, false, false, false, nil)
		if err != nil {
			return err
		}
		select {
		case _, got = <-messages:
			if !got {
				return fmt.Errorf("the channel was closed")
			}
		case <-time.After(slow(3 * time.Second)):
		}
		return nil
	})
	return got
}
