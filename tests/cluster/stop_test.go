package cluster

import (
	"fmt"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// neverStops gives RabbitMQ a part that does not come to the end of its stop.
const neverStops = `{ok, _} = supervisor:start_child(rabbit_sup, #{id => never, shutdown => infinity, start => {erlang, apply, [fun() ->
	{ok, spawn_link(fun() -> process_flag(trap_exit, true), receive never -> ok end end)} end, []]}}), ok.`

// A stop ends by itself, in whatever state the others are: also when nodes stop together and lose their majority on the
// way, or when it is lost already, or when a part of RabbitMQ never stops. What was confirmed is there afterwards.
func TestStopEnds(t *testing.T) {
	on(t, []version{v43, v310}, func(c *cluster) {
		nodes := c.all(3)
		n1, n2, n3 := nodes[0], nodes[1], nodes[2]
		start(nodes...)
		id := c.one(nodes...)
		n1.declare("kept", quorum)
		c.replicated("kept", nodes...)
		n1.publish("kept", 100)
		busy := func(ns ...*node) {
			for _, n := range ns {
				n.keepsBusy()
			}
		}
		ends := func(ns ...*node) {
			c.Helper()
			began := time.Now()
			stop(ns...)
			c.Logf("stopped after %s", time.Since(began).Round(time.Second))
			for _, n := range ns {
				state := c.docker("inspect", "-f", "{{.State.ExitCode}} {{.State.OOMKilled}} {{.State.FinishedAt}}", n.container)
				f := strings.Fields(state)
				at, err := time.Parse(time.RFC3339Nano, f[2])
				if err != nil {
					c.Fatal(err)
				}
				if took := at.Sub(began); f[0] != "0" || took > slow(20*time.Second) {
					c.Errorf("%s: exit status %s after %s, want 0 within %s", n.host, f[0], took.Round(time.Second), slow(20*time.Second))
				}
			}
		}
		c.in("all at once", func() {
			busy(nodes...)
			ends(nodes...)
			start(nodes...)
			c.same(id, c.one(nodes...))
		})
		c.in("after a cut that healed, with one that is drained", func() {
			n1.cut()
			time.Sleep(80 * time.Second) // longer than Erlang takes to give the others up
			n1.join()
			c.same(id, c.one(nodes...))
			n3.exec("rmq-entrypoint", "drain")
			busy(n1, n2)
			ends(nodes...)
			start(nodes...)
			c.same(id, c.one(nodes...))
		})
		c.in("its majority is gone", func() {
			busy(n1)
			kill(n2, n3)
			n1.eventually(60*time.Second, "it has lost its majority", func() error {
				if r := n1.ready(); r == 200 {
					return fmt.Errorf("/ready says %d", r)
				}
				return nil
			})
			ends(n1)
			start(nodes...)
			c.same(id, c.one(nodes...))
		})
		c.in("what it could not send to one that is cut off", func() {
			n3.cut()
			n1.ctl("eval", fmt.Sprintf(`spawn(fun() -> B = binary:copy(<<1>>, 1000000), [erlang:send({nobody, '%[1]s'}, B) || _ <- lists:seq(1, 80)] end),
				timer:sleep(4000), spawn(fun() -> erlang:disconnect_node('%[1]s') end), ok.`, n3.name))
			time.Sleep(2 * time.Second)
			ends(n1)
			n3.join()
			n1.start()
			c.same(id, c.one(nodes...))
		})
		c.in("a part of RabbitMQ that never stops", func() {
			n2.ctl("eval", neverStops)
			ends(n2)
			n2.said(10*time.Second, "did not come to the end of its stop|shutdown_timeout") // its own Erlang's, where the companion is slow
			n2.start()
			c.same(id, c.one(nodes...))
		})
		c.in("and which answers nobody any more", func() {
			n2.ctl("eval", neverStops)
			n2.ctl("eval", "spawn(fun() -> timer:sleep(1000), sys:suspend(net_kernel) end), ok.")
			time.Sleep(2 * time.Second)
			ends(n2)
			n2.said(10*time.Second, "shutdown_timeout")
			n2.start()
			c.same(id, c.one(nodes...))
		})
		c.in("its application alone was stopped", func() { // that is no stop, and it is not ended
			n3.ctl("stop_app")
			time.Sleep(slow(20 * time.Second))
			if out := n3.ctl("eval", "1 + 1."); out != "2" {
				c.Errorf("its Erlang VM says %q", out)
			}
			n3.ctl("start_app")
			c.same(id, c.one(nodes...))
		})
		n2.emptied("kept", 100)
	})
}

// keepsBusy opens connections at the node that have what a stop has to tidy up: exclusive queues, consumers, and messages
// that were not acknowledged.
func (n *node) keepsBusy() {
	n.Helper()
	for i := range 5 {
		conn, err := n.dial()
		if err != nil {
			n.Fatal(err)
		}
		n.Cleanup(func() { _ = conn.CloseDeadline(time.Now()) })
		ch, err := conn.Channel()
		if err != nil {
			n.Fatal(err)
		}
		q, err := ch.QueueDeclare("", false, true, true, false, nil)
		if err == nil {
			err = ch.Publish("", q.Name, false, false, amqp.Publishing{Body: fmt.Append(nil, i)})
		}
		if err == nil {
			_, err = ch.Consume(q.Name, "", false, true, false, false, nil)
		}
		if err == nil {
			_, err = ch.Consume("kept", "", false, false, false, false, nil)
		}
		if err != nil {
			n.Fatal(err)
		}
	}
}
